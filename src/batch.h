/*-------------------------------------------------------------------------
 *
 * batch.h
 *		Batches: some events of the feed, handed to a subscription that the
 *		store runs itself.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_BATCH_H
#define ES_BATCH_H

#include "parked_event.h"
#include "subscription.h"

typedef struct EsBatch
{
	EsStore    *store;
	EsSubscription *subscription;
	int			partition;
	bool		foreground;
	const EsHeldStreams *held;	/* streams whose events must wait; NULL: none */
	int64		after;			/* read behind this position, */
	int64		upto;			/* up to and with this one: not beyond the high-water mark */
	int64		max_events;		/* hand over no more than that */

	/* what came of it */
	int64		events;			/* handed over; after a failure: before it */
	int64		last_read;		/* position of the last event read; the same as after: none */
	bool		more;			/* there may be more up to upto */
	List	   *waiting;		/* EsEvent *: events of held streams that were read */

	/* after a failure */
	int64		failed_position;	/* of the event that failed; 0: not known, or not its fault */
	int64		set_events;		/* in the set that failed; 0: they were handed over one by one */
	int64		set_first;		/* positions between which these are */
	int64		set_last;
	ErrorData  *error;
	bool		canceled;		/* says nothing about the event */
	bool		transient;
} EsBatch;

/*
 * Run a batch as the owner of the definition, in a subtransaction; false when it
 * failed and left nothing behind.  Under the partition's lock.  Results are in the
 * current context.
 */
extern bool es_batch_run(EsBatch *batch);

#endif							/* ES_BATCH_H */
