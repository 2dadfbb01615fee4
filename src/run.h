/*-------------------------------------------------------------------------
 *
 * run.h
 *		Running what a store has to do: subscriptions and schedules.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_RUN_H
#define ES_RUN_H

#include "datatype/timestamp.h"
#include "subscription.h"

/* What a runner remembers of a store from step to step; opaque. */
typedef struct EsRunner EsRunner;

/*
 * A runner for a store, in a context of its own below the given one, which frees
 * it.  foreground: for the caller of es_run(), whom a cancellation is meant for.
 */
extern EsRunner *es_runner(MemoryContext context, Oid schema, bool foreground);

/* What a step came to. */
typedef struct EsRunStep
{
	bool		worked;			/* it did something: call it again soon */
	bool		more;			/* and there is work besides, for another worker */
	int64		events;			/* that were handled, commands that were dispatched */
	TimestampTz next_time;		/* not worked: when there is something; 0: when events come */
	bool		settled;		/* all that was committed before the alert was looked at */
} EsRunStep;

/*
 * Do one piece of work: a batch of one partition of one subscription, or one
 * scheduled command.  In a transaction of the caller's, in READ COMMITTED, with
 * event_sourcing.store naming the store; what fails is rolled back and kept in
 * mind without ending that transaction.  max_events: no more than that; 0: as
 * many as there are.
 */
extern void es_runner_step(EsRunner *runner, int64 max_events, EsRunStep *step);

/*
 * What is committed from now on, and that somebody may want, will be told by waking
 * this worker; what was before may lie beyond the high-water mark for a while.
 */
extern void es_runner_alert(EsRunner *runner);

/*
 * Replay the parked events of a subscription that the store runs itself, as far
 * as they are marked for it.  Under the locks of all its partitions; connected
 * to SPI.
 */
extern void es_run_replay(EsStore *store, EsSubscription *subscription);

/* Whether we are in a handler of this subscription: its locks are ours and keep nobody away. */
extern bool es_run_is_at(const EsSubscription *subscription);

/*
 * Write down what is known of partitions that found nothing for them: the last
 * event that they looked at.  In a transaction.  Returns whether there was any.
 */
extern bool es_runner_flush(EsRunner *runner);
extern bool es_runner_is_dirty(EsRunner *runner);

#endif							/* ES_RUN_H */
