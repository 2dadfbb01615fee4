/*-------------------------------------------------------------------------
 *
 * worker.c
 *		Workers: background processes that run what the stores of a
 *		database have to do.
 *
 * A worker goes through the stores of its database, one piece of work in each
 * transaction, until none of them has any.  Then it says that it is idle, looks
 * once more, and sleeps until a writer wakes it, or something is due.
 *
 * It is in nobody's way: after a piece of work it naps, so that busy writers
 * neither wake it at every commit nor are read event by event.  While only events
 * come that nobody wants it rests: writers know which those are (worker_slot.c),
 * and the first event of another kind ends the rest.  A worker that is awake
 * keeps the others asleep; before a piece of work that takes long lets events
 * wait, another one is woken.
 *
 * What goes wrong in a store stops that store for a while and no other.  run.c
 * deals with the errors of handlers; what arrives here is an error of our own
 * bookkeeping, or a cancel request between two pieces of work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sys/stat.h>

#include "access/twophase.h"
#include "access/xact.h"
#include "catalog/pg_namespace.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "common/relpath.h"
#include "compat.h"
#include "feed.h"
#include "guc.h"
#include "launcher.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "run.h"
#include "shared.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/sinval.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "wake.h"
#include "worker.h"
#include "worker_control.h"
#include "worker_slot.h"

#define NAP_AFTER_WORK_MS	2
#define NAP_WITHOUT_WORK_MS	10
#define REST_MS				250 /* checkpoints are behind by so much and FLUSH_AFTER_MS */
#define FLUSH_AFTER_MS		100 /* what is known of partitions is not written later */
#define PREPARED_POLL_MS	100 /* the end of a prepared transaction wakes nobody */
#define SLEEP_MS			(60 * 1000) /* events may come by restore or replication */
#define LONG_STEP_MS		50	/* then another worker takes over what is left */
#define FULL_STEP_EVENTS	64	/* after so many there are probably more */
#define STEPS_PER_PASS		100
#define RESTART_S			5
#define FIRST_PAUSE_MS		250 /* of a store after an error; doubled each time */
#define LONGEST_PAUSE_MS	(30 * 1000)

/* What a worker is told when it is started; fits into bgw_extra. */
typedef struct WorkerOrder
{
	Oid			database;
	Oid			tablespace;
	int			number;
	bool		by_launcher;
} WorkerOrder;

/* A store of the database; in a context of its own. */
typedef struct WorkerStore
{
	MemoryContext context;
	Oid			schema;
	char	   *name;			/* the schema's, as it was last seen */
	EsRunner   *runner;			/* NULL: none, or what it knew is not to be trusted */
	MemoryContext runner_context;
	TimestampTz dirty_since;	/* 0: all is written down */
	int			failures;		/* in a row */
	char	   *last_error;		/* its message; NULL: none */
	TimestampTz retry_at;		/* after a failure */
} WorkerStore;

/* What going through all stores came to. */
typedef struct Pass
{
	bool		worked;
	bool		full;			/* a store has probably more that can be done at once */
	bool		settled;		/* EsRunStep, of all stores */
	TimestampTz next_time;		/* when there will be something; DT_NOEND: not before events come */
} Pass;

static WorkerOrder order;
static char *database_name;
static MemoryContext worker_context;
static List *stores = NIL;		/* WorkerStore *, in worker_context */
static WorkerStore *running = NULL; /* that an error is to be blamed on */
static TimeoutId long_step_timeout;

PGDLLEXPORT void es_worker_main(Datum main_arg);
static void begin_session(void);
static bool database_exists(void);
pg_noreturn static void stop_worker(const char *reason);
static void work_until_error(void);
static void attend_to_requests(void);
static void run_pass(Pass *pass);
static void refresh_stores(void);
static void add_store(Oid schema);
static void run_store(WorkerStore *store, Pass *pass);
static void run_step(WorkerStore *store, EsRunStep *step);
static bool begin_in_store(WorkerStore *store);
static bool lock_schema(Oid schema);
static void end_in_store(void);
static void name_store_in_error(void *arg);
static void take_long(void);
static void begin_watch(void);
static void end_watch(void);
static void end_watch_at_exit(int code, Datum arg);
static bool flush_stores(bool at_once);
static bool some_store_is_dirty(void);
static bool rest(void);
static void sleep_idle(void);
static bool sleep_until(TimestampTz until);
static bool may_sleep_on(void);
static void alert_runners(void);
static bool held_by_prepared(void);
static void wait_for_latch(long timeout_ms);
static void recover_from_error(void);
static void pause_store(WorkerStore *store, const ErrorData *error);

void
es_worker_init(void)
{
	if (process_shared_preload_libraries_in_progress && !IsBinaryUpgrade)
		es_launcher_register();
	es_worker_control_init();
}

BackgroundWorkerHandle *
es_worker_register(Oid database, Oid tablespace, int number, bool by_launcher)
{
	WorkerOrder new_order = {database, tablespace, number, by_launcher};
	BackgroundWorker worker = {0};
	BackgroundWorkerHandle *handle;

	StaticAssertStmt(sizeof(WorkerOrder) <= BGW_EXTRALEN, "an order fits into bgw_extra");
	snprintf(worker.bgw_name, BGW_MAXLEN, "event_sourcing worker %d of database %u", number + 1,
			 database);
	snprintf(worker.bgw_type, BGW_MAXLEN, "event_sourcing worker");
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "event_sourcing");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "es_worker_main");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = by_launcher ? BGW_NEVER_RESTART : RESTART_S;
	worker.bgw_notify_pid = MyProcPid;
	memcpy(worker.bgw_extra, &new_order, sizeof(new_order));

	return RegisterDynamicBackgroundWorker(&worker, &handle) ? handle : NULL;
}

bool
es_worker_is_listed(const char *name)
{
	char	   *copy = pstrdup(es_databases);
	List	   *names;
	ListCell   *cell;
	bool		found = false;

	if (SplitGUCList(copy, ',', &names))
		foreach(cell, names)
			if (strcmp(lfirst(cell), name) == 0)
				found = true;
	list_free(names);
	pfree(copy);
	return found;
}

/* Entry point.  Exits with 0 where the postmaster must not start it again. */
void
es_worker_main(Datum main_arg)
{
	memcpy(&order, MyBgworkerEntry->bgw_extra, sizeof(order));
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);		/* stops user code, too */
	BackgroundWorkerUnblockSignals();

	if (!database_exists())
	{
		ereport(LOG,
				(errmsg("event_sourcing worker %d: database %u is gone", order.number + 1,
						order.database)));
		proc_exit(0);
	}
	BackgroundWorkerInitializeConnectionByOid(order.database, InvalidOid, 0);
	if (!es_worker_slot_claim(order.number, order.by_launcher))
		proc_exit(0);			/* somebody else does it, or nobody shall */
	begin_session();

	for (;;)
	{
		PG_TRY();
		{
			work_until_error();
		}
		PG_CATCH();
		{
			/* like the main loop of a session: the abort undoes everything */
			recover_from_error();
		}
		PG_END_TRY();
	}
}

static void
begin_session(void)
{
	/* event_sourcing.handler_timeout does it; the last of them would end the worker */
	static const char *const timeouts[] = {
		"statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout",
		"transaction_timeout"		/* since 17 */
	};
	char		name[NAMEDATALEN];

	worker_context = AllocSetContextCreate(TopMemoryContext, "event_sourcing worker",
										   ALLOCSET_DEFAULT_SIZES);

	/* what is set for the database is meant for sessions of people */
	for (int i = 0; i < lengthof(timeouts); i++)
		if (GetConfigOption(timeouts[i], true, false) != NULL)
			SetConfigOption(timeouts[i], "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET,
					PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("session_replication_role", "origin", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("search_path", "pg_catalog, pg_temp", PGC_SUSET, PGC_S_OVERRIDE);

	StartTransactionCommand();
	database_name = MemoryContextStrdup(worker_context, get_database_name(MyDatabaseId));
	CommitTransactionCommand();

	snprintf(name, sizeof(name), "event_sourcing worker %d", order.number + 1);
	pgstat_report_appname(name);
	long_step_timeout = RegisterTimeout(USER_TIMEOUT, take_long);
	before_shmem_exit(end_watch_at_exit, (Datum) 0);
	ereport(LOG,
			(errmsg("event_sourcing worker %d started in database \"%s\"", order.number + 1,
					database_name)));
}

/* Asked before connecting, which would fail and be tried again for ever. */
static bool
database_exists(void)
{
	char	   *path = GetDatabasePath(order.database, order.tablespace);
	struct stat buf;

	return stat(path, &buf) == 0;
}

static void
stop_worker(const char *reason)
{
	ereport(LOG,
			(errmsg("event_sourcing worker %d in database \"%s\" stops: %s", order.number + 1,
					database_name, reason)));
	proc_exit(0);
}

/* The main loop. */
static void
work_until_error(void)
{
	bool		woken = false;	/* from its sleep, and nothing has been done since */
	bool		napped = false; /* for that reason */

	for (;;)
	{
		Pass		pass;

		ResetLatch(MyLatch);	/* before looking, or a wake-up is lost */
		es_worker_slot_set_state(ES_WORKER_AWAKE);
		attend_to_requests();
		run_pass(&pass);
		if (pass.worked)
		{
			woken = napped = false;
			(void) flush_stores(es_wake_somebody_waits());
			if (!pass.full)
				wait_for_latch(NAP_AFTER_WORK_MS);
		}
		else if (woken)
		{
			/* somebody else was faster: let the writers be for a moment */
			woken = false;
			napped = true;
			wait_for_latch(NAP_WITHOUT_WORK_MS);
		}
		else if (flush_stores(es_wake_somebody_waits()) || some_store_is_dirty() || napped)
		{
			/* events come, if only for others */
			napped = false;
			woken = rest();
		}
		else
		{
			sleep_idle();
			woken = true;
		}
	}
}

static void
attend_to_requests(void)
{
	CHECK_FOR_INTERRUPTS();
	if (es_worker_slot_must_stop())
		stop_worker("it was asked to");
	if (!ConfigReloadPending)
		return;

	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (order.number >= es_workers)
		stop_worker("event_sourcing.workers was lowered");
	if (order.by_launcher && !es_worker_is_listed(database_name))
		stop_worker("event_sourcing.databases no longer has the database");
}

/* Go through all stores once. */
static void
run_pass(Pass *pass)
{
	TimestampTz now = GetCurrentTimestamp();
	ListCell   *cell;

	pass->worked = false;
	pass->full = false;
	pass->settled = true;
	pass->next_time = DT_NOEND;

	begin_watch();
	refresh_stores();
	foreach(cell, stores)
	{
		WorkerStore *store = lfirst(cell);

		if (store->retry_at > now)
			pass->next_time = Min(pass->next_time, store->retry_at);
		else
			run_store(store, pass);
	}
	end_watch();
	pgstat_report_stat(false);
}

/* Know the stores that there are, and none besides. */
static void
refresh_stores(void)
{
	List	   *schemas = NIL;
	ListCell   *cell;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (OidIsValid(get_extension_oid("event_sourcing", true)))
		schemas = es_store_schemas();

	foreach(cell, stores)
	{
		WorkerStore *store = lfirst(cell);

		if (!list_member_oid(schemas, store->schema))
		{
			stores = foreach_delete_current(stores, cell);
			MemoryContextDelete(store->context);
		}
	}
	foreach(cell, schemas)
		add_store(lfirst_oid(cell));
	CommitTransactionCommand();
}

static void
add_store(Oid schema)
{
	ListCell   *cell;
	MemoryContext caller;
	MemoryContext context;
	WorkerStore *store;

	foreach(cell, stores)
		if (((WorkerStore *) lfirst(cell))->schema == schema)
			return;

	context = AllocSetContextCreate(worker_context, "event_sourcing worker's store",
									ALLOCSET_SMALL_SIZES);
	store = MemoryContextAllocZero(context, sizeof(WorkerStore));
	store->context = context;
	store->schema = schema;
	caller = MemoryContextSwitchTo(worker_context);
	stores = lappend(stores, store);
	MemoryContextSwitchTo(caller);
}

/* Run a store until it has nothing more to do at once, or others had better have a turn. */
static void
run_store(WorkerStore *store, Pass *pass)
{
	EsRunStep	step;

	for (int i = 0; i < STEPS_PER_PASS; i++)
	{
		run_step(store, &step);
		if (!step.worked)
		{
			if (step.next_time != 0)
				pass->next_time = Min(pass->next_time, step.next_time);
			pass->settled &= step.settled;
			return;
		}
		pass->worked = true;
		if (step.more)
			(void) es_worker_slot_wake_another(MyDatabaseId);
		else if (step.events < FULL_STEP_EVENTS)
			return;
		attend_to_requests();
	}
	pass->full = true;
}

/* One piece of work, in a transaction. */
static void
run_step(WorkerStore *store, EsRunStep *step)
{
	memset(step, 0, sizeof(EsRunStep));
	if (!begin_in_store(store))
	{
		step->next_time = store->retry_at;
		return;
	}

	begin_watch();
	es_runner_step(store->runner, PG_INT64_MAX, step);
	end_in_store();
	if (es_worker_slot_state() == ES_WORKER_BUSY)
		es_worker_slot_set_state(ES_WORKER_AWAKE);
	LockReleaseSession(USER_LOCKMETHOD);	/* advisory locks that a handler left */

	if (!es_runner_is_dirty(store->runner))
		store->dirty_since = 0;
	else if (store->dirty_since == 0)
		store->dirty_since = GetCurrentTimestamp();
	if (store->failures > 0)
	{
		store->failures = 0;
		ereport(LOG,
				(errmsg("event_sourcing worker %d goes on with event store \"%s\"",
						order.number + 1, store->name)));
	}
}

/*
 * Begin a transaction as the SQL functions have it: with a snapshot and the
 * setting.  False when the store's schema is gone, or somebody is about to drop
 * it; then there is none.
 */
static bool
begin_in_store(WorkerStore *store)
{
	static ErrorContextCallback context;
	char	   *name;

	running = store;
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!lock_schema(store->schema))
	{
		store->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), FIRST_PAUSE_MS);
		CommitTransactionCommand();
		running = NULL;
		return false;
	}
	name = get_namespace_name(store->schema);
	if (name == NULL)
	{
		CommitTransactionCommand();
		running = NULL;
		return false;
	}
	if (store->name == NULL || strcmp(store->name, name) != 0)
		store->name = MemoryContextStrdup(store->context, name);
	context.callback = name_store_in_error;
	context.arg = store->name;
	context.previous = error_context_stack;
	error_context_stack = &context;

	pgstat_report_activity(STATE_RUNNING, "working on an event store");
	(void) set_config_option("event_sourcing.store", name, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
	PushActiveSnapshot(GetTransactionSnapshot());
	if (store->runner == NULL)
	{
		store->runner_context = AllocSetContextCreate(store->context,
													  "event_sourcing worker's runner",
													  ALLOCSET_SMALL_SIZES);
		store->runner = es_runner(store->runner_context, store->schema, false);
	}
	return true;
}

/*
 * Keep a schema from being dropped, unless somebody is waiting to do so.  DROP
 * SCHEMA takes this lock before those of the tables: otherwise it would have some
 * of them and wait for another while we do the opposite.
 */
static bool
lock_schema(Oid schema)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, NamespaceRelationId, schema, 0);
	if (LockAcquire(&tag, AccessShareLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return false;
	AcceptInvalidationMessages();
	return true;
}

static void
end_in_store(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	error_context_stack = error_context_stack->previous;
	running = NULL;
}

static void
name_store_in_error(void *arg)
{
	errcontext("event store \"%s\"", (const char *) arg);
}

/* In a signal handler, when a step takes long: others must not rely on us. */
static void
take_long(void)
{
	es_worker_slot_make_busy();
	(void) es_worker_slot_wake_another(MyDatabaseId);
}

/* From now on until the end of the watch, or the next begin, it is to take no longer. */
static void
begin_watch(void)
{
	enable_timeout_after(long_step_timeout, LONG_STEP_MS);
}

static void
end_watch(void)
{
	disable_timeout(long_step_timeout, false);
}

/* While the slot is still ours, and the shared memory there. */
static void
end_watch_at_exit(int code, Datum arg)
{
	end_watch();
}

/* Write down what the runners know, if it is time to.  Whether something was written. */
static bool
flush_stores(bool at_once)
{
	ListCell   *cell;
	bool		flushed = false;

	foreach(cell, stores)
	{
		WorkerStore *store = lfirst(cell);
		TimestampTz now = GetCurrentTimestamp();

		if (store->dirty_since == 0 || store->retry_at > now ||
			(!at_once && !TimestampDifferenceExceeds(store->dirty_since, now, FLUSH_AFTER_MS)))
			continue;
		store->dirty_since = 0;
		if (!begin_in_store(store))
			continue;
		begin_watch();
		flushed |= es_runner_flush(store->runner);
		end_watch();
		end_in_store();
	}
	return flushed;
}

static bool
some_store_is_dirty(void)
{
	ListCell   *cell;

	foreach(cell, stores)
		if (((WorkerStore *) lfirst(cell))->dirty_since != 0)
			return true;
	return false;
}

/*
 * Sleep for as long as events come that nobody wants, looking at them now and
 * then.  Returns whether a writer has ended that.
 *
 * What was committed before we rest may be held back by an event that comes
 * later and that nobody wants, so that nobody would wake us.  Until all that is
 * settled, and while somebody waits for checkpoints, we look often.
 */
static bool
rest(void)
{
	bool		slept = false;
	Pass		pass;

	es_worker_slot_set_state(ES_WORKER_RESTING);
	alert_runners();
	for (;;)
	{
		bool		waited_for = es_wake_somebody_waits();
		bool		come;
		int			pause_ms;
		TimestampTz until;

		run_pass(&pass);
		if (pass.worked)
			return false;
		come = flush_stores(waited_for) || some_store_is_dirty();
		if (slept && !come)
			return false;
		pause_ms = pass.settled && !waited_for ? REST_MS : NAP_WITHOUT_WORK_MS;
		until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), pause_ms);
		slept = true;
		if (!sleep_until(Min(until, pass.next_time)))
			return es_worker_slot_state() == ES_WORKER_AWAKE;
	}
}

/* Sleep until a writer wakes us or something is due; not at all if there is work. */
static void
sleep_idle(void)
{
	Pass		pass;

	es_worker_slot_set_state(ES_WORKER_IDLE);
	run_pass(&pass);			/* what came before is found, what comes after wakes us */
	if (!pass.worked && !some_store_is_dirty())
	{
		TimestampTz now = GetCurrentTimestamp();
		TimestampTz until = TimestampTzPlusMilliseconds(now, SLEEP_MS);

		until = Min(until, pass.next_time);
		if (held_by_prepared())
			until = Min(until, TimestampTzPlusMilliseconds(now, PREPARED_POLL_MS));
		pgstat_report_stat(true);
		(void) sleep_until(until);
	}
}

/*
 * False when something else than the time has ended the sleep.  The latch alone
 * tells little: a wait for a lock may have reset it, and the alarm of a timeout
 * that was disabled in time sets it.
 */
static bool
sleep_until(TimestampTz until)
{
	while (may_sleep_on())
	{
		long		timeout_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until);

		if (timeout_ms == 0)
			return true;
		wait_for_latch(timeout_ms);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (catchupInterruptPending)
			ProcessCatchupInterrupt();	/* others may not wait for us to read invalidations */
	}
	return false;
}

static bool
may_sleep_on(void)
{
	EsWorkerState state = es_worker_slot_state();

	return (state == ES_WORKER_RESTING || state == ES_WORKER_IDLE) &&
		!es_worker_slot_must_stop() && !ConfigReloadPending;
}

static void
alert_runners(void)
{
	ListCell   *cell;

	foreach(cell, stores)
	{
		WorkerStore *store = lfirst(cell);

		if (store->runner)
			es_runner_alert(store->runner);
	}
}

static bool
held_by_prepared(void)
{
	ListCell   *cell;
	bool		held = false;

	if (max_prepared_xacts == 0)
		return false;
	foreach(cell, stores)
	{
		WorkerStore *store = lfirst(cell);

		if (held || store->retry_at > GetCurrentTimestamp() || !begin_in_store(store))
			continue;
		held = es_feed_is_held_by_prepared(es_store_of_schema(store->schema));
		end_in_store();
	}
	return held;
}

static void
wait_for_latch(long timeout_ms)
{
	static uint32 event = 0;

	if (event == 0)
		event = es_new_wait_event("EventSourcingWorker");
	pgstat_report_activity(STATE_IDLE, NULL);
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, timeout_ms, event);
}

/* After an error that nobody caught: clean up as PostgresMain() does. */
static void
recover_from_error(void)
{
	WorkerStore *blamed = running;
	ErrorData  *error;

	HOLD_INTERRUPTS();
	disable_all_timeouts(false);
	QueryCancelPending = false;
	MemoryContextSwitchTo(worker_context);
	error = CopyErrorData();

	/* the same again and again is said once */
	if (blamed == NULL || blamed->failures == 0 || blamed->last_error == NULL ||
		error->message == NULL || strcmp(blamed->last_error, error->message) != 0)
		EmitErrorReport();
	AbortCurrentTransaction();
	LockReleaseSession(USER_LOCKMETHOD);
	FlushErrorState();
	running = NULL;
	es_worker_slot_set_state(ES_WORKER_BUSY);
	RESUME_INTERRUPTS();

	MemoryContextSwitchTo(worker_context);
	pgstat_report_activity(STATE_IDLE, NULL);
	if (blamed)
		pause_store(blamed, error);
	else if (error->sqlerrcode != ERRCODE_QUERY_CANCELED)
		wait_for_latch(FIRST_PAUSE_MS);
	FreeErrorData(error);
}

/* Begin anew with it, after a while; a cancel request is no reason to wait. */
static void
pause_store(WorkerStore *store, const ErrorData *error)
{
	int			pause_ms = FIRST_PAUSE_MS;

	if (store->runner)
		MemoryContextDelete(store->runner_context);
	store->runner = NULL;
	store->dirty_since = 0;
	if (error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		return;

	for (int i = 0; i < store->failures && pause_ms < LONGEST_PAUSE_MS; i++)
		pause_ms *= 2;
	store->failures++;
	store->retry_at = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  Min(pause_ms, LONGEST_PAUSE_MS));
	if (store->last_error)
		pfree(store->last_error);
	store->last_error = error->message ? MemoryContextStrdup(store->context, error->message) : NULL;
}
