/*-------------------------------------------------------------------------
 *
 * checkpoint.h
 *		Checkpoints: how far each partition of a subscription is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_CHECKPOINT_H
#define ES_CHECKPOINT_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "subscription.h"
#include "utils/timestamp.h"

/*
 * The row of a partition.  The position is always that of an event that was
 * read, never the bare high-water mark: positions that were drawn and not
 * flushed are drawn again after a crash.
 */
typedef struct EsCheckpoint
{
	int			partition;
	bool		exists;			/* false: nothing is stored yet, all below is as at the start */
	int64		position;		/* of the last event that is done */
	bool		stopped;		/* by an error, until es_resume() */

	/* the event that failed last, as long as it has not succeeded */
	int64		failed_position;	/* 0: none */
	int			attempts;		/* that failed */
	TimestampTz retry_at;		/* 0: at once */

	/* external: who works on it.  consumer NULL: nobody */
	char	   *consumer;
	TimestampTz leased_until;
	int64		leased_to;		/* position of the last event that it was handed */
} EsCheckpoint;

/* What es_checkpoint_from_row() takes, as a list for SELECT from checkpoint c. */
#define ES_CHECKPOINT_SELECT_LIST \
	"c.partition::pg_catalog.int4, c.position::pg_catalog.int8, c.stopped::pg_catalog.bool," \
	" c.failed_position::pg_catalog.int8, c.attempts::pg_catalog.int4," \
	" c.retry_at::pg_catalog.timestamptz, c.consumer::pg_catalog.text," \
	" c.leased_until::pg_catalog.timestamptz, c.leased_to::pg_catalog.int8"
#define ES_CHECKPOINT_COLUMNS	9

/* Whether a row is that of a subscription's partition; a forged table may have NULLs. */
#define ES_CHECKPOINT_IS_OF(name) \
	"c.subscription OPERATOR(pg_catalog.=) " name \
	" AND (c.partition, c.position, c.stopped, c.attempts) IS NOT NULL"

/*
 * Become the only one to work on a partition until the transaction ends.  False
 * when somebody else does and wait is false.  Lock order: below streams'.
 */
extern bool es_checkpoint_lock(EsStore *store, EsSubscription *subscription, int partition,
							   bool wait);

/* Let go of a partition's lock: nothing was written under it. */
extern void es_checkpoint_unlock(EsStore *store, EsSubscription *subscription, int partition);

/*
 * Read and write a checkpoint, under its lock.  As it is now, whatever the
 * transaction's snapshot is.  Connected to SPI, as whoever may do that: the
 * store's owner for what the store runs itself, the caller for a consumer.
 * In the current context.
 */
extern void es_checkpoint_read(EsStore *store, EsSubscription *subscription, int partition,
							   EsCheckpoint *checkpoint);
extern void es_checkpoint_write(EsStore *store, EsSubscription *subscription,
								const EsCheckpoint *checkpoint);

/*
 * Write the lease of a consumer that had one before, if the row is still as it was
 * then; false, and nothing is written, if it is not.
 */
extern bool es_checkpoint_renew(EsStore *store, EsSubscription *subscription,
								const EsCheckpoint *checkpoint, const EsCheckpoint *before);

/* Read one from a row of that list; in the current context. */
extern void es_checkpoint_from_row(EsCheckpoint *checkpoint, HeapTuple row, TupleDesc tupdesc);

/* Keep what went wrong with a partition, for es_subscription_status. */
extern void es_checkpoint_write_error(EsStore *store, EsSubscription *subscription,
									  int partition, const char *message);

/* How long to wait after so many failed attempts, in milliseconds. */
extern int64 es_checkpoint_backoff_ms(int attempts);

/* The position that all partitions have reached, as it is now.  Connected to SPI. */
extern int64 es_checkpoint_lowest(EsStore *store, EsSubscription *subscription);

#endif							/* ES_CHECKPOINT_H */
