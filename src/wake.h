/*-------------------------------------------------------------------------
 *
 * wake.h
 *		Waking workers and those who wait, at commit and without polling.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_WAKE_H
#define ES_WAKE_H

#include "event_kind.h"

extern void es_wake_init(void);

/*
 * This transaction changes what there is to do: when it is over, by commit or
 * abort, a worker of the database and all who wait for events are woken.
 */
extern void es_wake_workers_at_end(void);

/*
 * This transaction has drawn positions in a store, given by its schema.  The same,
 * but a worker that knows nobody to want its events need not be woken.  Also when
 * a savepoint's rollback takes it back, since others may have been held back by it.
 */
extern void es_wake_for_events_at_end(void);

/* Such an event. */
extern void es_wake_for_event(EsEventKind kind, EsEventKind any);

/* Functions or types have changed, by whomsoever: what workers know may be outdated. */
extern void es_wake_distrust_workers(void);

/* This transaction moves a checkpoint: at its commit all who wait for that are woken. */
extern void es_wake_waiters_at_commit(void);

/* What somebody waits for. */
typedef enum EsWaitFor
{
	ES_WAIT_FOR_EVENTS,			/* to be committed */
	ES_WAIT_FOR_CHECKPOINTS,	/* to be moved */
	ES_WAIT_FOR_KINDS
} EsWaitFor;

/*
 * Wait for it in this database: begin, then look whether there is anything, then
 * sleep for up to timeout_ms, and look again as often as needed, then end; the
 * end must be reached on an error, too.  What happens after the begin ends the
 * next sleep at once, so nothing is missed in between.  Sleeping handles
 * interrupts; it may end early, and does now and then, because not everything
 * that makes an event readable can wake (COMMIT PREPARED in a session without
 * this library).  One wait at a time.
 */
extern void es_wait_begin(EsWaitFor what);
extern void es_wait_sleep(EsWaitFor what, long timeout_ms);
extern void es_wait_end(void);

/* Whether anybody in this database waits for checkpoints: then they are not written late. */
extern bool es_wake_somebody_waits(void);

#endif							/* ES_WAKE_H */
