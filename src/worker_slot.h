/*-------------------------------------------------------------------------
 *
 * worker_slot.h
 *		Slots of workers: which are running, and which must not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_WORKER_SLOT_H
#define ES_WORKER_SLOT_H

#include "datatype/timestamp.h"
#include "event_kind.h"
#include "storage/latch.h"

#define ES_WORKERS_PER_DATABASE 16

/*
 * Of this process as a worker.  False when another has this number, when the
 * database is stopped, or when there is no slot; until the process exits.
 */
extern bool es_worker_slot_claim(int number, bool by_launcher);
extern bool es_worker_slot_is_mine(void);

/* Whether this worker is asked to exit. */
extern bool es_worker_slot_must_stop(void);

/* What a worker does, as far as those who make work for it must know. */
typedef enum EsWorkerState
{
	ES_WORKER_BUSY,				/* with something that takes long */
	ES_WORKER_AWAKE,			/* it looks for work in a moment, and then again before it sleeps */
	ES_WORKER_RESTING,			/* it sleeps for a while; woken for what somebody may want */
	ES_WORKER_IDLE				/* it sleeps until it is woken */
} EsWorkerState;

/*
 * The state of this process as a worker.  Setting it is a full barrier: what it
 * looks for afterwards cannot have been missed.  Who wakes it makes it awake;
 * es_worker_slot_make_busy() may be called in signal handlers.
 */
extern void es_worker_slot_set_state(EsWorkerState state);
extern EsWorkerState es_worker_slot_state(void);
extern void es_worker_slot_make_busy(void);

/*
 * What this worker knows nobody in its database to want, as long as no definition
 * changes.  It may forget some.  Nothing happens in other processes.
 */
extern void es_worker_slot_add_unwanted(EsEventKind kind);
extern bool es_worker_slot_knows_unwanted(EsEventKind kind);
extern void es_worker_slot_forget_unwanted(void);

/* An event that somebody may want: its kind, and that of any event of its store. */
typedef struct EsEventNews
{
	EsEventKind any;
	EsEventKind kind;
} EsEventNews;

/*
 * Events of these kinds were committed: wake a worker of a database that sleeps,
 * unless one is awake, or rests and knows that nobody wants any of them.
 */
extern void es_worker_slot_wake_for(Oid database, const EsEventNews *news, int nnews);

/* Anything may have changed: the same, but whoever rests is woken in any case. */
extern void es_worker_slot_wake_for_anything(Oid database);

/* Wake all workers of a database that rest; false when none does, nor is awake. */
extern bool es_worker_slot_end_rest(Oid database);

/* Wake another worker of a database that sleeps; in signal handlers, too.  False: there is none. */
extern bool es_worker_slot_wake_another(Oid database);

/* The process that has a number; 0 when there is none. */
extern pid_t es_worker_slot_pid(Oid database, int number);

/* The numbers of those that es_start_worker() started, as bits. */
extern uint32 es_worker_slot_started_by_hand(Oid database);

/*
 * Ask all workers of a database to exit, and let none begin until a time;
 * DT_NOEND for ever.  Returns how many there were, and their processes in an
 * array of ES_WORKERS_PER_DATABASE.  Let them begin again.  Until when they are stopped; 0:
 * they are not.
 */
extern int	es_worker_slot_stop(Oid database, TimestampTz until, pid_t *pids);
extern void es_worker_slot_allow(Oid database);
extern TimestampTz es_worker_slot_stopped_until(Oid database);

/* The launcher: begin to be it, and let it look at all that again. */
extern void es_worker_slot_set_launcher(Latch *latch);
extern void es_worker_slot_wake_launcher(void);

#endif							/* ES_WORKER_SLOT_H */
