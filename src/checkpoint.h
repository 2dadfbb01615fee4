/*-------------------------------------------------------------------------
 *
 * checkpoint.h
 *		Checkpoints: how far each partition of a subscription is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_CHECKPOINT_H
#define ES_CHECKPOINT_H

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
	int64		leased_to;		/* position of the last event that was read for it */
} EsCheckpoint;

/*
 * Become the only one to work on a partition until the transaction ends.  False
 * when somebody else does and wait is false.  Lock order: below streams'.
 */
extern bool es_checkpoint_lock(EsStore *store, EsSubscription *subscription, int partition,
							   bool wait);

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

/* Keep what went wrong with a partition, for es_subscription_status. */
extern void es_checkpoint_write_error(EsStore *store, EsSubscription *subscription,
									  int partition, const char *message);

/* How long to wait after so many failed attempts, in milliseconds. */
extern int64 es_checkpoint_backoff_ms(int attempts);

/* The position that all partitions have reached, as it is now.  Connected to SPI. */
extern int64 es_checkpoint_lowest(EsStore *store, EsSubscription *subscription);

#endif							/* ES_CHECKPOINT_H */
