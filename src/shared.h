/*-------------------------------------------------------------------------
 *
 * shared.h
 *		What the extension keeps in shared memory: who works and who waits.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_SHARED_H
#define ES_SHARED_H

#include "port/atomics.h"
#include "storage/condition_variable.h"
#include "storage/latch.h"
#include "storage/spin.h"
#include "utils/timestamp.h"
#include "wake.h"

#define ES_SHARED_WORKERS	64	/* of all databases */
#define ES_SHARED_STOPPED	64
#define ES_SHARED_UNWANTED	128 /* kinds of events that a worker knows nobody to want */
#define ES_SHARED_WAITS		16	/* databases share these by their OIDs */

/*
 * A running worker.  Writers look at it without the lock: what they may find is
 * at worst the slot's next owner, who is woken in vain.  So latch always points
 * to a latch once it did.
 */
typedef struct EsWorkerSlot
{
	Oid			database;		/* InvalidOid: the slot is free */
	int			number;			/* among the workers of its database */
	pid_t		pid;
	Latch	   *latch;
	pg_atomic_uint32 state;		/* EsWorkerState */
	pg_atomic_uint32 unwanted[ES_SHARED_UNWANTED];	/* EsEventKind; 0: free */
	bool		by_launcher;	/* not by es_start_worker() */
	bool		stop;			/* it is asked to exit */
} EsWorkerSlot;

/* A database that no worker may be started for. */
typedef struct EsStoppedDatabase
{
	Oid			database;		/* InvalidOid: the entry is free */
	TimestampTz until;			/* DT_NOEND: it was stopped by hand */
} EsStoppedDatabase;

/* Those who wait for the same thing. */
typedef struct EsWaiters
{
	pg_atomic_uint32 count;
	ConditionVariable condition;
} EsWaiters;

typedef struct EsShared
{
	slock_t		mutex;			/* for all but what is atomic */
	int			nworkers;		/* slots in use are among the first so many */
	EsWorkerSlot workers[ES_SHARED_WORKERS];
	EsStoppedDatabase stopped[ES_SHARED_STOPPED];
	Latch	   *launcher;		/* NULL: there has been none */
	EsWaiters	waiters[ES_SHARED_WAITS][ES_WAIT_FOR_KINDS];
} EsShared;

/* The one in use; only es_shared() sets it. */
extern EsShared *es_shared_memory;

extern void es_shared_init(void);

/* NULL when there is no room for it, which is no error. */
extern EsShared *es_shared(void);

#endif							/* ES_SHARED_H */
