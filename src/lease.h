/*-------------------------------------------------------------------------
 *
 * lease.h
 *		Leases: what a consumer has been handed, and what it says about it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_LEASE_H
#define ES_LEASE_H

#include "checkpoint.h"
#include "fmgr.h"
#include "parked_event.h"

/* Who calls, and about what: the first arguments of all functions for consumers. */
typedef struct EsConsumer
{
	EsStore    *store;
	char	   *subscription_name;
	EsSubscription *subscription;	/* as es_consumer_subscription() found it last */
	char	   *name;

	/* as es_consumer_look() saw it last */
	EsCheckpoint *checkpoints;	/* of each partition */
	bool		any_parked;		/* the subscription has put something aside */
	TimestampTz seen_at;		/* when this consumer wrote down that it is there; 0: never */
	bool		lost;			/* a lease that it held, and has not fetched since */
	int			others;			/* consumers that were there within one lease time */
	TimestampTz now;
} EsConsumer;

/* What a partition has put aside. */
typedef struct EsPutAside
{
	EsHeldStreams held;
	int			nskipped;
	int64	   *skipped;		/* positions, rising */
} EsPutAside;

/*
 * Take the arguments; 22004, 22023 for what is wrong with them, 55000 in an
 * isolation level in which what others commit meanwhile is not seen.
 */
extern void es_consumer_begin(FunctionCallInfo fcinfo, EsConsumer *consumer);

/*
 * Find the subscription as it is now; true when it is another one than before.
 * 42704, 42809.
 */
extern bool es_consumer_subscription(EsConsumer *consumer);

/*
 * Read what is written about all partitions, as it is now; around: and about this
 * and other consumers.  Connected to SPI.
 */
extern void es_consumer_look(EsConsumer *consumer, bool around);

/*
 * A consumer that fetches again and again is the only one to write the checkpoint
 * of its subscription's only partition.  So the session remembers the lease that
 * it wrote last, if nothing is put aside and nothing was lost; es_checkpoint_renew()
 * finds out whether all that still holds: whoever changes any of it writes the
 * checkpoint, too.
 *
 * Take what was remembered of this consumer, under the partition's lock, for what
 * es_consumer_look() would see; false when there is nothing, or it has expired.
 * In the current context.
 */
extern void es_lease_remember(const EsConsumer *consumer, const EsCheckpoint *checkpoint);
extern bool es_lease_recall(EsConsumer *consumer);
extern void es_lease_forget(const EsConsumer *consumer);

/* Whether it holds a partition's lease, were it expired. */
extern bool es_consumer_holds(const EsConsumer *consumer, const EsCheckpoint *checkpoint);

/* When a lease that begins at that time ends. */
extern TimestampTz es_consumer_lease_end(const EsConsumer *consumer, TimestampTz now);

/* Under the lock of the partition, connected to SPI, in the current context. */
extern void es_put_aside_load(EsConsumer *consumer, int partition, EsPutAside *aside);
extern bool es_put_aside_is_skipped(const EsPutAside *aside, int64 position);

/* What it takes to put an event aside, copied to the current context. */
extern EsEvent *es_put_aside_event(const EsEvent *event);

/* Take the marks off events that a consumer was handed to be replayed. */
extern void es_lease_drop_replays(EsConsumer *consumer, int partition, const char *holder);

/*
 * The same for a lease that has expired, the first of them being what it failed
 * at; false when there is none.
 */
extern bool es_lease_fail_replays(EsConsumer *consumer, int partition, const char *holder,
								  const char *reason);

/*
 * What a consumer says with es_ack(): all that it was handed up to a position is
 * done.  Returns whether that changed anything; if not, no lock is kept.  SE008.
 * After es_consumer_subscription(); connected to SPI.
 */
extern bool es_lease_acknowledge(EsConsumer *consumer, int64 position);

/* A position among the arguments; 22004, 22023. */
extern int64 es_lease_position_argument(FunctionCallInfo fcinfo, int arg);

/* Forget skipped events that the checkpoint has passed. */
extern void es_lease_forget_skipped(EsConsumer *consumer, const EsCheckpoint *checkpoint);

#endif							/* ES_LEASE_H */
