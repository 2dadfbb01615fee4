/*-------------------------------------------------------------------------
 *
 * wake.c
 *		Waking workers and those who wait, at commit and without polling.
 *
 * A transaction that is over is seen by a reader of the feed only when its
 * locks are released, which is after the callbacks of its commit.  Therefore
 * the waking is done when resources are released, after the locks.
 *
 * Nothing is missed: who is going to sleep says so first (an idle worker's
 * flag, a waiter's count), then looks for work, then sleeps; who makes work
 * commits first, then looks who sleeps.  A memory barrier stands between the
 * two steps on either side.
 *
 * A writer that finds nobody asleep reads a few words of memory, and an idle
 * worker is woken by one writer alone: the others find it awake.
 *
 * Who has appended only what nobody wants does not wake a worker that knows it
 * (worker_slot.c).  It knows of definitions, whose changes wake it; it does not
 * know of functions and types that came since it fell asleep.  A session that
 * hears of such a change therefore wakes workers in any case the next time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "compat.h"
#include "miscadmin.h"
#include "shared.h"
#include "storage/ipc.h"
#include "utils/resowner.h"
#include "wake.h"
#include "worker_slot.h"

/* How long to sleep where nobody will wake us, and where nearly always somebody will. */
#define POLL_MS			100
#define LOOK_AGAIN_MS	1000

/* A transaction remembers so many kinds of its events. */
#define MAX_NEWS		16

static bool workers_at_end = false;
static bool events_at_end = false;
static EsEventNews news[MAX_NEWS];	/* that this transaction brings */
static int	nnews = 0;
static bool workers_trusted = false;	/* what they knew when this session woke them last */
static bool waiters_at_commit = false;
static EsWaiters *waiting = NULL;	/* in whose count we are */
static bool wait_begun = false;

static void wake_after_locks(ResourceReleasePhase phase, bool is_commit, bool is_top_level,
							 void *arg);
static void wake_for_events(void);
static void wake_waiters(EsWaitFor what);
static EsWaiters *waiters_of_database(EsWaitFor what);
static void end_at_exit(int code, Datum arg);
static uint32 wait_event(void);

void
es_wake_init(void)
{
	RegisterResourceReleaseCallback(wake_after_locks, NULL);
}

void
es_wake_workers_at_end(void)
{
	(void) es_shared();			/* now: there is no room for surprises at the end */
	workers_at_end = true;
}

void
es_wake_for_events_at_end(void)
{
	(void) es_shared();
	events_at_end = true;
}

void
es_wake_for_event(EsEventKind kind, EsEventKind any)
{
	for (int i = nnews - 1; i >= 0; i--)
		if (news[i].kind == kind)
			return;
	if (nnews == MAX_NEWS)
	{
		workers_at_end = true;
		return;
	}
	news[nnews].kind = kind;
	news[nnews].any = any;
	nnews++;
}

void
es_wake_distrust_workers(void)
{
	workers_trusted = false;
}

void
es_wake_waiters_at_commit(void)
{
	(void) es_shared();
	waiters_at_commit = true;
}

void
es_wait_begin(EsWaitFor what)
{
	static bool exit_registered = false;

	if (wait_begun)
		elog(ERROR, "this session waits already");
	if (!exit_registered)
	{
		before_shmem_exit(end_at_exit, (Datum) 0);
		exit_registered = true;
	}
	wait_begun = true;
	if (es_shared() == NULL)
		return;
	waiting = waiters_of_database(what);
	pg_atomic_fetch_add_u32(&waiting->count, 1);	/* a full barrier */
	ConditionVariablePrepareToSleep(&waiting->condition);
	if (what == ES_WAIT_FOR_CHECKPOINTS)
		(void) es_worker_slot_end_rest(MyDatabaseId);	/* or they would be written late */
}

void
es_wait_sleep(EsWaitFor what, long timeout_ms)
{
	/* replay wakes nobody either */
	bool		polls = waiting == NULL || RecoveryInProgress();

	timeout_ms = Min(timeout_ms, polls ? POLL_MS : LOOK_AGAIN_MS);
	if (waiting)
		(void) ConditionVariableTimedSleep(&waiting->condition, timeout_ms, wait_event());
	else
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms,
						 wait_event());
		ResetLatch(MyLatch);
	}
	CHECK_FOR_INTERRUPTS();
}

void
es_wait_end(void)
{
	wait_begun = false;
	if (waiting == NULL)
		return;
	ConditionVariableCancelSleep();
	pg_atomic_fetch_sub_u32(&waiting->count, 1);
	waiting = NULL;
}

bool
es_wake_somebody_waits(void)
{
	return es_shared() != NULL &&
		pg_atomic_read_u32(&waiters_of_database(ES_WAIT_FOR_CHECKPOINTS)->count) > 0;
}

/*
 * Called for every resource owner of a transaction, of a savepoint, or of a
 * portal; those of a transaction that ends all have their locks released
 * before the first gets here.  PREPARE TRANSACTION looks like a commit: a
 * worker has to know that the mark is held from now on.
 */
static void
wake_after_locks(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	bool		for_events = workers_at_end || events_at_end;
	bool		for_checkpoints = waiters_at_commit;

	if (phase != RESOURCE_RELEASE_AFTER_LOCKS || (!for_events && !for_checkpoints))
		return;
	if (!is_top_level)
	{
		if (!is_commit && for_events)
			wake_for_events();
		return;
	}

	if (for_events)
		wake_for_events();
	workers_at_end = false;
	events_at_end = false;
	nnews = 0;
	waiters_at_commit = false;
	if (for_checkpoints && is_commit)
		wake_waiters(ES_WAIT_FOR_CHECKPOINTS);
}

static void
wake_for_events(void)
{
	if (es_worker_slot_is_mine())
		;						/* a worker looks again anyway */
	else if (workers_at_end || !workers_trusted)
	{
		workers_trusted = true;
		es_worker_slot_wake_for_anything(MyDatabaseId);
	}
	else
		es_worker_slot_wake_for(MyDatabaseId, news, nnews);
	wake_waiters(ES_WAIT_FOR_EVENTS);
}

static void
wake_waiters(EsWaitFor what)
{
	EsWaiters  *waiters;

	if (es_shared_memory == NULL)
		return;
	pg_memory_barrier();
	waiters = waiters_of_database(what);
	if (pg_atomic_read_u32(&waiters->count) > 0)
		ConditionVariableBroadcast(&waiters->condition);
}

static EsWaiters *
waiters_of_database(EsWaitFor what)
{
	return &es_shared_memory->waiters[MyDatabaseId % ES_SHARED_WAITS][what];
}

/* A session that is terminated does not come by the end of its wait. */
static void
end_at_exit(int code, Datum arg)
{
	es_wait_end();
}

static uint32
wait_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = es_new_wait_event("EventSourcingWait");
	return event;
}
