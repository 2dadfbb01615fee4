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

/*
 * Say that this worker is going to sleep (a full barrier: what it looks for
 * afterwards cannot have been missed), or not; and whether it still may.
 */
extern void es_worker_slot_set_idle(bool idle);
extern bool es_worker_slot_is_idle(void);

/*
 * Say that this worker looks for work again in a moment, or is about to (a full
 * barrier, as above); and whether one of a database does.
 */
extern void es_worker_slot_set_napping(bool napping);
extern bool es_worker_slot_is_napping(Oid database);

/* Wake an idle worker of a database; in signal handlers, too.  False when there is none. */
extern bool es_worker_slot_wake(Oid database);

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
