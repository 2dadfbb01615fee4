/*-------------------------------------------------------------------------
 *
 * shared.c
 *		What the extension keeps in shared memory: who works and who waits.
 *
 * It is one struct of some kilobytes.  A server that preloads the library
 * reserves it; in any other it is made at first use, of the slack that every
 * server has, as contrib/pg_prewarm does.  When that is used up, nobody is
 * woken and whoever waits looks again from time to time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "shared.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/shmem.h"
#include "worker_slot.h"

EsShared   *es_shared_memory = NULL;

static bool no_room = false;
static shmem_request_hook_type next_shmem_request = NULL;

static void request_memory(void);
static void initialize(EsShared *shared);

void
es_shared_init(void)
{
	if (!process_shared_preload_libraries_in_progress)
		return;
	next_shmem_request = shmem_request_hook;
	shmem_request_hook = request_memory;
}

EsShared *
es_shared(void)
{
	MemoryContext caller = CurrentMemoryContext;
	EsShared   *volatile shared = NULL;

	if (es_shared_memory || no_room)
		return es_shared_memory;

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);

	/*
	 * A writer must not fail for want of this memory.  The only error here is
	 * that there is none: nothing has been done by then that would have to be
	 * undone, so that it is safe to go on without an abort.
	 */
	PG_TRY();
	{
		bool		found;

		shared = ShmemInitStruct("event_sourcing", sizeof(EsShared), &found);
		if (!found)
			initialize(shared);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		HOLD_INTERRUPTS();		/* the error had them resumed; releasing the lock does, too */
		no_room = true;
	}
	PG_END_TRY();
	LWLockRelease(AddinShmemInitLock);

	es_shared_memory = shared;
	return shared;
}

static void
request_memory(void)
{
	if (next_shmem_request)
		next_shmem_request();
	RequestAddinShmemSpace(MAXALIGN(sizeof(EsShared)));
}

static void
initialize(EsShared *shared)
{
	memset(shared, 0, sizeof(EsShared));
	SpinLockInit(&shared->mutex);
	for (int i = 0; i < ES_SHARED_WORKERS; i++)
	{
		pg_atomic_init_u32(&shared->workers[i].state, ES_WORKER_BUSY);
		for (int j = 0; j < ES_SHARED_UNWANTED; j++)
			pg_atomic_init_u32(&shared->workers[i].unwanted[j], 0);
	}
	for (int i = 0; i < ES_SHARED_WAITS; i++)
		for (int kind = 0; kind < ES_WAIT_FOR_KINDS; kind++)
		{
			pg_atomic_init_u32(&shared->waiters[i][kind].count, 0);
			ConditionVariableInit(&shared->waiters[i][kind].condition);
		}
}
