/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The launcher: keeps workers running in the databases that
 *		event_sourcing.databases names.
 *
 * It runs where the library is preloaded, and begins when recovery is over, so
 * that a standby has workers from its promotion on.  It is told when a worker
 * exits, when a database may be worked on again and when the configuration is
 * reloaded, and sleeps otherwise, unless a worker is missing.  Which workers
 * run it reads from their slots, so that a launcher that was restarted finds
 * those of the one before.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "compat.h"
#include "guc.h"
#include "launcher.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/interrupt.h"
#include "shared.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "worker.h"
#include "worker_slot.h"

#define RESTART_S			5
#define LOOK_AGAIN_MS		(10 * 1000) /* for a database, or a place for a worker */
#define SHORTEST_PAUSE_MS	1000	/* before a worker is restarted */
#define LONGEST_PAUSE_MS	(30 * 1000)
#define LONG_LIFE_MS		(60 * 1000) /* a worker that lived so long was all right */

/* A worker that is to run. */
typedef struct LaunchedWorker
{
	BackgroundWorkerHandle *handle; /* NULL: this launcher has not started it */
	bool		running;		/* when last looked at */
	TimestampTz started_at;
	int			pause_ms;		/* before the next start */
	TimestampTz restart_at;
} LaunchedWorker;

/* A database of the setting. */
typedef struct LaunchedDatabase
{
	char	   *name;
	Oid			oid;			/* InvalidOid: there is none, or it lets nobody in */
	Oid			tablespace;
	bool		complained;		/* that it is not there */
	LaunchedWorker workers[ES_WORKERS_PER_DATABASE];
} LaunchedDatabase;

static MemoryContext databases_context = NULL;
static List *databases = NIL;	/* LaunchedDatabase *, in databases_context */
static bool complained_of_room = false;

PGDLLEXPORT void es_launcher_main(Datum main_arg);
static void read_setting(void);
static void forget_stops(void);
static void find_databases(void);
static void launch_workers(LaunchedDatabase *database, TimestampTz now, TimestampTz *look_at);
static void keep_running(LaunchedDatabase *database, int number, TimestampTz now,
						 TimestampTz *look_at);
static bool is_running(LaunchedDatabase *database, int number);
static void start(LaunchedDatabase *database, int number, TimestampTz now, TimestampTz *look_at);

void
es_launcher_register(void)
{
	BackgroundWorker worker = {0};

	snprintf(worker.bgw_name, BGW_MAXLEN, "event_sourcing launcher");
	snprintf(worker.bgw_type, BGW_MAXLEN, "event_sourcing launcher");
	snprintf(worker.bgw_library_name, BGW_MAXLEN, "event_sourcing");
	snprintf(worker.bgw_function_name, BGW_MAXLEN, "es_launcher_main");
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_S;
	RegisterBackgroundWorker(&worker);
}

/* Entry point. */
void
es_launcher_main(Datum main_arg)
{
	uint32		event;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);	/* shared catalogs alone */
	event = es_new_wait_event("EventSourcingLauncher");
	es_worker_slot_set_launcher(MyLatch);
	read_setting();

	for (;;)
	{
		TimestampTz now;
		TimestampTz look_at = DT_NOEND;
		ListCell   *cell;

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			read_setting();
			forget_stops();
		}

		find_databases();
		now = GetCurrentTimestamp();
		foreach(cell, databases)
			launch_workers(lfirst(cell), now, &look_at);

		if (look_at == DT_NOEND)
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH, -1, event);
		else
			(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							 TimestampDifferenceMilliseconds(now, look_at) + 1, event);
	}
}

/*
 * Take the list of databases from the setting.  What is known of those that
 * stay is forgotten: the slots tell who runs.
 */
static void
read_setting(void)
{
	List	   *names;
	ListCell   *cell;
	MemoryContext caller;

	databases = NIL;
	complained_of_room = false;
	if (databases_context)
		MemoryContextReset(databases_context);
	else
		databases_context = AllocSetContextCreate(TopMemoryContext, "event_sourcing databases",
												  ALLOCSET_SMALL_SIZES);

	caller = MemoryContextSwitchTo(databases_context);
	if (!SplitGUCList(pstrdup(es_databases), ',', &names))
		names = NIL;
	foreach(cell, names)
	{
		LaunchedDatabase *database = palloc0(sizeof(LaunchedDatabase));

		database->name = lfirst(cell);
		databases = lappend(databases, database);
	}
	MemoryContextSwitchTo(caller);
}

/* A stop by hand does not outlive a reload. */
static void
forget_stops(void)
{
	ListCell   *cell;

	find_databases();
	foreach(cell, databases)
	{
		LaunchedDatabase *database = lfirst(cell);

		if (es_worker_slot_stopped_until(database->oid) == DT_NOEND)
			es_worker_slot_allow(database->oid);
	}
}

/* Look the databases up in the catalog; by a scan, for want of a database to have caches of. */
static void
find_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	ListCell   *cell;

	if (databases == NIL)
		return;
	foreach(cell, databases)
		((LaunchedDatabase *) lfirst(cell))->oid = InvalidOid;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database row = (Form_pg_database) GETSTRUCT(tuple);

		foreach(cell, databases)
		{
			LaunchedDatabase *database = lfirst(cell);

			if (!row->datallowconn || strcmp(NameStr(row->datname), database->name) != 0)
				continue;
			database->oid = row->oid;
			database->tablespace = row->dattablespace;
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
}

/* See to the workers of a database; lower *look_at to when to look again. */
static void
launch_workers(LaunchedDatabase *database, TimestampTz now, TimestampTz *look_at)
{
	TimestampTz stopped_until;

	if (!OidIsValid(database->oid))
	{
		if (!database->complained)
			ereport(LOG,
					(errmsg("database \"%s\" of event_sourcing.databases cannot be connected to",
							database->name),
					 errdetail("It does not exist or allows no connections; it is looked for from time to time.")));
		database->complained = true;
		*look_at = Min(*look_at, TimestampTzPlusMilliseconds(now, LOOK_AGAIN_MS));
		return;
	}
	database->complained = false;

	stopped_until = es_worker_slot_stopped_until(database->oid);
	if (stopped_until != 0)
	{
		*look_at = Min(*look_at, stopped_until);
		return;
	}
	for (int number = 0; number < es_workers; number++)
		keep_running(database, number, now, look_at);
}

static void
keep_running(LaunchedDatabase *database, int number, TimestampTz now, TimestampTz *look_at)
{
	LaunchedWorker *worker = &database->workers[number];

	if (is_running(database, number))
	{
		worker->running = true;
		return;
	}
	if (worker->running)
	{
		/* it has just died */
		worker->running = false;
		if (worker->pause_ms == 0 ||
			TimestampDifferenceExceeds(worker->started_at, now, LONG_LIFE_MS))
			worker->pause_ms = SHORTEST_PAUSE_MS;
		else
			worker->pause_ms = Min(worker->pause_ms * 2, LONGEST_PAUSE_MS);
		worker->restart_at = TimestampTzPlusMilliseconds(now, worker->pause_ms);
	}
	if (worker->restart_at > now)
		*look_at = Min(*look_at, worker->restart_at);
	else
		start(database, number, now, look_at);
}

/* Whether there is such a worker, whoever started it, or it is on its way. */
static bool
is_running(LaunchedDatabase *database, int number)
{
	LaunchedWorker *worker = &database->workers[number];
	BgwHandleStatus status;
	pid_t		pid;

	if (es_worker_slot_pid(database->oid, number) != 0)
		return true;
	if (worker->handle == NULL)
		return false;
	status = GetBackgroundWorkerPid(worker->handle, &pid);
	return status == BGWH_STARTED || status == BGWH_NOT_YET_STARTED;
}

static void
start(LaunchedDatabase *database, int number, TimestampTz now, TimestampTz *look_at)
{
	LaunchedWorker *worker = &database->workers[number];
	MemoryContext caller = MemoryContextSwitchTo(databases_context);

	if (worker->handle)
		pfree(worker->handle);
	worker->handle = NULL;
	if (es_shared())
		worker->handle = es_worker_register(database->oid, database->tablespace, number, true);
	MemoryContextSwitchTo(caller);

	if (worker->handle)
	{
		worker->running = true;
		worker->started_at = now;
		complained_of_room = false;
		return;
	}
	if (!complained_of_room)
		ereport(LOG,
				(errmsg("could not start event_sourcing worker %d for database \"%s\"", number + 1,
						database->name),
				 errdetail("All background workers are in use."),
				 errhint("Raise max_worker_processes.")));
	complained_of_room = true;
	*look_at = Min(*look_at, TimestampTzPlusMilliseconds(now, LOOK_AGAIN_MS));
}
