/*-------------------------------------------------------------------------
 *
 * worker_slot.c
 *		Slots of workers: which are running, and which must not.
 *
 * A worker is known by its database and its number there.  Whoever wants one to
 * run may start it: of two with the same number the second finds the slot taken
 * and exits.  So the launcher, es_start_worker() and the postmaster, who
 * restarts what has died, need not know of each other.
 *
 * A worker that rests sleeps through events that nobody wants.  It says which
 * kinds those are, in a table that writers look at without a lock; each worker has
 * its own, so that none can put in what another has learned to be wrong.  When a
 * definition changes, all that rest are woken, and forget.
 *
 * That a database is stopped is kept apart from the slots, because it must
 * stay true for workers that are just starting.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "shared.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "worker_slot.h"

/* A kind of events is looked for in so many places of the table. */
#define UNWANTED_NEIGHBOURS 8

static EsWorkerSlot *my_slot = NULL;

static EsWorkerSlot *find_free_slot(EsShared *shared, int number);
static EsWorkerSlot *find_slot(EsShared *shared, Oid database, int number);
static EsStoppedDatabase *find_stopped(EsShared *shared, Oid database);
static void release_slot(int code, Datum arg);
static bool wake(EsWorkerSlot *slot);
static bool knows_all_unwanted(EsWorkerSlot *slot, const EsEventNews *news, int nnews);
static bool knows_unwanted(EsWorkerSlot *slot, EsEventKind kind);
static pg_atomic_uint32 *unwanted_place(EsWorkerSlot *slot, EsEventKind kind);

bool
es_worker_slot_claim(int number, bool by_launcher)
{
	EsShared   *shared = es_shared();
	TimestampTz now = GetCurrentTimestamp();
	EsStoppedDatabase *stopped;
	EsWorkerSlot *slot = NULL;

	if (shared == NULL)
		return false;

	SpinLockAcquire(&shared->mutex);
	stopped = find_stopped(shared, MyDatabaseId);
	if (stopped == NULL || stopped->until <= now)
		slot = find_free_slot(shared, number);
	if (slot)
	{
		pg_atomic_write_u32(&slot->state, ES_WORKER_AWAKE);
		slot->database = MyDatabaseId;
		slot->number = number;
		slot->pid = MyProcPid;
		slot->latch = MyLatch;
		slot->by_launcher = by_launcher;
		slot->stop = false;
		shared->nworkers = Max(shared->nworkers, slot - shared->workers + 1);
	}
	SpinLockRelease(&shared->mutex);

	if (slot == NULL)
		return false;
	my_slot = slot;
	es_worker_slot_forget_unwanted();
	on_shmem_exit(release_slot, (Datum) 0);
	return true;
}

bool
es_worker_slot_is_mine(void)
{
	return my_slot != NULL;
}

bool
es_worker_slot_must_stop(void)
{
	return my_slot->stop;
}

void
es_worker_slot_set_state(EsWorkerState state)
{
	(void) pg_atomic_exchange_u32(&my_slot->state, state);
}

EsWorkerState
es_worker_slot_state(void)
{
	return (EsWorkerState) pg_atomic_read_u32(&my_slot->state);
}

void
es_worker_slot_make_busy(void)
{
	es_worker_slot_set_state(ES_WORKER_BUSY);
}

void
es_worker_slot_add_unwanted(EsEventKind kind)
{
	if (my_slot)
		pg_atomic_write_u32(unwanted_place(my_slot, kind), kind);
}

bool
es_worker_slot_knows_unwanted(EsEventKind kind)
{
	return my_slot && knows_unwanted(my_slot, kind);
}

void
es_worker_slot_forget_unwanted(void)
{
	if (my_slot == NULL)
		return;
	for (int i = 0; i < ES_SHARED_UNWANTED; i++)
		pg_atomic_write_u32(&my_slot->unwanted[i], 0);
	pg_memory_barrier();		/* what is looked for afterwards is not missed by who saw them */
}

void
es_worker_slot_wake_for(Oid database, const EsEventNews *news, int nnews)
{
	EsShared   *shared = es_shared_memory;
	EsWorkerSlot *sleeper = NULL;

	if (shared == NULL)
		return;
	pg_memory_barrier();
	for (int i = 0; i < shared->nworkers; i++)
	{
		EsWorkerSlot *slot = &shared->workers[i];

		if (slot->database != database)
			continue;
		switch ((EsWorkerState) pg_atomic_read_u32(&slot->state))
		{
			case ES_WORKER_BUSY:
				break;
			case ES_WORKER_AWAKE:
				return;
			case ES_WORKER_RESTING:
				if (knows_all_unwanted(slot, news, nnews))
					return;
				sleeper = slot;
				break;
			case ES_WORKER_IDLE:
				sleeper = slot;
				break;
		}
	}
	if (sleeper)
		(void) wake(sleeper);
}

void
es_worker_slot_wake_for_anything(Oid database)
{
	if (!es_worker_slot_end_rest(database))
		(void) es_worker_slot_wake_another(database);
}

bool
es_worker_slot_end_rest(Oid database)
{
	EsShared   *shared = es_shared_memory;
	bool		awake = false;

	if (shared == NULL)
		return false;
	pg_memory_barrier();
	for (int i = 0; i < shared->nworkers; i++)
	{
		EsWorkerSlot *slot = &shared->workers[i];
		uint32		state = pg_atomic_read_u32(&slot->state);

		if (slot->database != database)
			continue;
		if (state == ES_WORKER_AWAKE || (state == ES_WORKER_RESTING && wake(slot)))
			awake = true;
	}
	return awake;
}

bool
es_worker_slot_wake_another(Oid database)
{
	EsShared   *shared = es_shared_memory;

	if (shared == NULL)
		return false;
	pg_memory_barrier();
	for (int i = 0; i < shared->nworkers; i++)
		if (shared->workers[i].database == database && &shared->workers[i] != my_slot &&
			wake(&shared->workers[i]))
			return true;
	return false;
}

pid_t
es_worker_slot_pid(Oid database, int number)
{
	EsShared   *shared = es_shared();
	EsWorkerSlot *slot;
	pid_t		pid;

	if (shared == NULL)
		return 0;
	SpinLockAcquire(&shared->mutex);
	slot = find_slot(shared, database, number);
	pid = slot ? slot->pid : 0;
	SpinLockRelease(&shared->mutex);
	return pid;
}

uint32
es_worker_slot_started_by_hand(Oid database)
{
	EsShared   *shared = es_shared();
	uint32		numbers = 0;

	if (shared == NULL)
		return 0;
	SpinLockAcquire(&shared->mutex);
	for (int i = 0; i < shared->nworkers; i++)
		if (shared->workers[i].database == database && !shared->workers[i].by_launcher)
			numbers |= (uint32) 1 << shared->workers[i].number;
	SpinLockRelease(&shared->mutex);
	return numbers;
}

int
es_worker_slot_stop(Oid database, TimestampTz until, pid_t *pids)
{
	EsShared   *shared = es_shared();
	EsStoppedDatabase *stopped;
	int			npids = 0;

	if (shared == NULL)
		return 0;
	SpinLockAcquire(&shared->mutex);
	stopped = find_stopped(shared, database);
	if (stopped == NULL)
	{
		/* a free one, else the one that ends first */
		stopped = &shared->stopped[0];
		for (int i = 1; i < ES_SHARED_STOPPED && OidIsValid(stopped->database); i++)
			if (!OidIsValid(shared->stopped[i].database) ||
				shared->stopped[i].until < stopped->until)
				stopped = &shared->stopped[i];
		stopped->until = until;
	}
	stopped->database = database;
	stopped->until = Max(stopped->until, until);	/* by hand stays by hand */
	for (int i = 0; i < shared->nworkers; i++)
		if (shared->workers[i].database == database)
		{
			shared->workers[i].stop = true;
			pids[npids++] = shared->workers[i].pid;
		}
	SpinLockRelease(&shared->mutex);

	for (int i = 0; i < shared->nworkers; i++)
		if (shared->workers[i].database == database)
			SetLatch(shared->workers[i].latch);
	return npids;
}

void
es_worker_slot_allow(Oid database)
{
	EsShared   *shared = es_shared();
	EsStoppedDatabase *stopped;

	if (shared == NULL)
		return;
	SpinLockAcquire(&shared->mutex);
	stopped = find_stopped(shared, database);
	if (stopped)
		stopped->database = InvalidOid;
	SpinLockRelease(&shared->mutex);
	es_worker_slot_wake_launcher();
}

TimestampTz
es_worker_slot_stopped_until(Oid database)
{
	EsShared   *shared = es_shared();
	EsStoppedDatabase *stopped;
	TimestampTz until = 0;

	if (shared == NULL)
		return 0;
	SpinLockAcquire(&shared->mutex);
	stopped = find_stopped(shared, database);
	if (stopped)
		until = stopped->until;
	SpinLockRelease(&shared->mutex);
	return until > GetCurrentTimestamp() ? until : 0;
}

void
es_worker_slot_set_launcher(Latch *latch)
{
	EsShared   *shared = es_shared();

	if (shared)
		shared->launcher = latch;
}

void
es_worker_slot_wake_launcher(void)
{
	EsShared   *shared = es_shared();

	if (shared && shared->launcher)
		SetLatch(shared->launcher);
}

/* Under the lock; NULL when the number is taken or there is none. */
static EsWorkerSlot *
find_free_slot(EsShared *shared, int number)
{
	if (find_slot(shared, MyDatabaseId, number))
		return NULL;
	for (int i = 0; i < ES_SHARED_WORKERS; i++)
		if (!OidIsValid(shared->workers[i].database))
			return &shared->workers[i];
	return NULL;
}

/* Under the lock. */
static EsWorkerSlot *
find_slot(EsShared *shared, Oid database, int number)
{
	for (int i = 0; i < shared->nworkers; i++)
		if (shared->workers[i].database == database && shared->workers[i].number == number)
			return &shared->workers[i];
	return NULL;
}

/* Under the lock. */
static EsStoppedDatabase *
find_stopped(EsShared *shared, Oid database)
{
	for (int i = 0; i < ES_SHARED_STOPPED; i++)
		if (shared->stopped[i].database == database)
			return &shared->stopped[i];
	return NULL;
}

/* At exit, when the last transaction is over.  Who relied on this one may be lost otherwise. */
static void
release_slot(int code, Datum arg)
{
	EsShared   *shared = es_shared();

	SpinLockAcquire(&shared->mutex);
	my_slot->database = InvalidOid;
	pg_atomic_write_u32(&my_slot->state, ES_WORKER_BUSY);
	while (shared->nworkers > 0 && !OidIsValid(shared->workers[shared->nworkers - 1].database))
		shared->nworkers--;
	SpinLockRelease(&shared->mutex);
	my_slot = NULL;

	es_worker_slot_wake_for_anything(MyDatabaseId);
	es_worker_slot_wake_launcher();
}

/* Make a worker that sleeps look for work; false when it did not sleep any more. */
static bool
wake(EsWorkerSlot *slot)
{
	uint32		state = pg_atomic_read_u32(&slot->state);

	do
	{
		if (state != ES_WORKER_RESTING && state != ES_WORKER_IDLE)
			return false;
	} while (!pg_atomic_compare_exchange_u32(&slot->state, &state, ES_WORKER_AWAKE));
	SetLatch(slot->latch);
	return true;
}

static bool
knows_all_unwanted(EsWorkerSlot *slot, const EsEventNews *news, int nnews)
{
	for (int i = 0; i < nnews; i++)
		if (!knows_unwanted(slot, news[i].kind) && !knows_unwanted(slot, news[i].any))
			return false;
	return true;
}

static bool
knows_unwanted(EsWorkerSlot *slot, EsEventKind kind)
{
	return pg_atomic_read_u32(unwanted_place(slot, kind)) == kind;
}

/*
 * Where a kind is, or else a place where it may be put: a free one, or that of
 * the first of its neighbours.
 */
static pg_atomic_uint32 *
unwanted_place(EsWorkerSlot *slot, EsEventKind kind)
{
	pg_atomic_uint32 *free_place = NULL;

	for (int i = 0; i < UNWANTED_NEIGHBOURS; i++)
	{
		pg_atomic_uint32 *place = &slot->unwanted[(kind + i) % ES_SHARED_UNWANTED];
		EsEventKind there = pg_atomic_read_u32(place);

		if (there == kind)
			return place;
		if (there == 0 && free_place == NULL)
			free_place = place;
	}
	return free_place ? free_place : &slot->unwanted[kind % ES_SHARED_UNWANTED];
}
