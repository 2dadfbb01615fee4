/*-------------------------------------------------------------------------
 *
 * worker_control.c
 *		Starting and stopping the workers of a database, by hand and for
 *		statements that need the database for themselves.
 *
 * DROP DATABASE, CREATE DATABASE ... TEMPLATE and some forms of ALTER DATABASE
 * fail while anybody is connected to the database.  Here they ask its workers
 * to leave first, in a session that has loaded this library, as every one has
 * where it is preloaded.  In any other, es_stop_worker() in that database or
 * DROP DATABASE ... WITH (FORCE) is needed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "compat.h"
#include "fmgr.h"
#include "guc.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "shared.h"
#include "storage/procarray.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "wake.h"
#include "worker.h"
#include "worker_control.h"
#include "worker_slot.h"

#define ASK_MS			5000	/* how long workers are asked before they are told */
#define KEEP_OUT_MS		10000	/* how long none may begin in a database that is dropped */
#define POLL_MS			10

/* Workers that were stopped, to be able to start them again. */
typedef struct StoppedWorkers
{
	Oid			database;
	Oid			tablespace;
	uint32		by_hand;		/* numbers of those that no launcher brings back */
} StoppedWorkers;

static ProcessUtility_hook_type next_process_utility = NULL;

static void wait_for_start(BackgroundWorkerHandle *handle, int number);
static int	stop_workers(Oid database, TimestampTz until);
static void poll(void);
static void process_utility(PlannedStmt *statement, const char *query_string, bool read_only_tree,
							ProcessUtilityContext context, ParamListInfo params,
							QueryEnvironment *query_env, DestReceiver *dest,
							QueryCompletion *completion);
static void next_utility(PlannedStmt *statement, const char *query_string, bool read_only_tree,
						 ProcessUtilityContext context, ParamListInfo params,
						 QueryEnvironment *query_env, DestReceiver *dest,
						 QueryCompletion *completion);
static Oid	database_needed(Node *statement);
static const char *option_value(List *options, const char *name);
static Oid	tablespace_of(Oid database);
static void start_again(const StoppedWorkers *stopped);

PG_FUNCTION_INFO_V1(es_start_worker);
PG_FUNCTION_INFO_V1(es_stop_worker);

void
es_worker_control_init(void)
{
	next_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
}

/* es_start_worker() returns int */
Datum
es_start_worker(PG_FUNCTION_ARGS)
{
	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot start a worker during recovery")));
	if (es_shared() == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("there is not enough shared memory for a worker"),
				 errhint("Add event_sourcing to shared_preload_libraries and restart the server.")));

	es_worker_slot_allow(MyDatabaseId);
	for (int number = 0; number < es_workers; number++)
	{
		BackgroundWorkerHandle *handle;

		if (es_worker_slot_pid(MyDatabaseId, number) != 0)
			continue;
		handle = es_worker_register(MyDatabaseId, MyDatabaseTableSpace, number, false);
		if (handle == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
					 errmsg("could not start worker %d of %d", number + 1, es_workers),
					 errdetail("All background workers are in use."),
					 errhint("Raise max_worker_processes, or lower event_sourcing.workers.")));
		wait_for_start(handle, number);
	}

	es_wake_workers_at_end();	/* they may need what this transaction has made */
	PG_RETURN_INT32(es_worker_slot_pid(MyDatabaseId, 0));
}

/* es_stop_worker() returns int */
Datum
es_stop_worker(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT32(stop_workers(MyDatabaseId, DT_NOEND));
}

static void
wait_for_start(BackgroundWorkerHandle *handle, int number)
{
	pid_t		pid;

	(void) WaitForBackgroundWorkerStartup(handle, &pid);
	for (;;)
	{
		BgwHandleStatus status = GetBackgroundWorkerPid(handle, &pid);

		/* in this order: it may have found that somebody else's has the number */
		if (es_worker_slot_pid(MyDatabaseId, number) != 0)
			return;
		if (status != BGWH_STARTED)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("worker %d did not start", number + 1),
					 errhint("The server's log may say why.")));
		poll();
	}
}

/* Stop the workers of a database and wait until they are gone; returns how many. */
static int
stop_workers(Oid database, TimestampTz until)
{
	TimestampTz begin = GetCurrentTimestamp();
	pid_t		pids[ES_WORKERS_PER_DATABASE];
	int			npids = es_worker_slot_stop(database, until, pids);
	bool		told = false;

	for (int i = 0; i < npids; i++)
		while (pids[i] != MyProcPid && BackendPidGetProc(pids[i]) != NULL)
		{
			poll();
			if (told || !TimestampDifferenceExceeds(begin, GetCurrentTimestamp(), ASK_MS))
				continue;
			told = true;
			for (int number = 0; number < ES_WORKERS_PER_DATABASE; number++)
			{
				pid_t		pid = es_worker_slot_pid(database, number);

				if (pid != 0 && pid != MyProcPid)
					(void) kill(pid, SIGTERM);
			}
		}
	return npids;
}

static void
poll(void)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, POLL_MS,
					 PG_WAIT_EXTENSION);
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static void
process_utility(PlannedStmt *statement, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *query_env,
				DestReceiver *dest, QueryCompletion *completion)
{
	Node	   *node = statement->utilityStmt;
	StoppedWorkers stopped;

	/* it frees the mark, and no lock of this session is released that would tell */
	if (IsA(node, TransactionStmt) &&
		(((TransactionStmt *) node)->kind == TRANS_STMT_COMMIT_PREPARED ||
		 ((TransactionStmt *) node)->kind == TRANS_STMT_ROLLBACK_PREPARED))
		es_wake_workers_at_end();

	stopped.database = database_needed(node);
	if (!OidIsValid(stopped.database))
	{
		next_utility(statement, query_string, read_only_tree, context, params, query_env, dest,
					 completion);
		return;
	}

	stopped.tablespace = tablespace_of(stopped.database);
	stopped.by_hand = es_worker_slot_started_by_hand(stopped.database);
	PG_TRY();
	{
		(void) stop_workers(stopped.database,
							TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KEEP_OUT_MS));
		next_utility(statement, query_string, read_only_tree, context, params, query_env, dest,
					 completion);
	}
	PG_CATCH();
	{
		start_again(&stopped);
		PG_RE_THROW();
	}
	PG_END_TRY();

	if (IsA(node, DropdbStmt))
		return;
	if (IsA(node, AlterDatabaseStmt))
	{
		CommandCounterIncrement();
		stopped.tablespace = tablespace_of(stopped.database);
	}
	start_again(&stopped);
}

static void
next_utility(PlannedStmt *statement, const char *query_string, bool read_only_tree,
			 ProcessUtilityContext context, ParamListInfo params, QueryEnvironment *query_env,
			 DestReceiver *dest, QueryCompletion *completion)
{
	if (next_process_utility)
		next_process_utility(statement, query_string, read_only_tree, context, params, query_env,
							 dest, completion);
	else
		standard_ProcessUtility(statement, query_string, read_only_tree, context, params,
								query_env, dest, completion);
}

/*
 * The database that a statement must have for itself, if the statement is not
 * refused anyway; else InvalidOid.
 */
static Oid
database_needed(Node *statement)
{
	const char *name = NULL;
	Oid			database;

	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			name = ((DropdbStmt *) statement)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) statement)->subname;
			break;
		case T_AlterDatabaseStmt:
			if (option_value(((AlterDatabaseStmt *) statement)->options, "tablespace"))
				name = ((AlterDatabaseStmt *) statement)->dbname;
			break;
		case T_CreatedbStmt:
			name = option_value(((CreatedbStmt *) statement)->options, "template");
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;

	database = get_database_oid(name, true);
	if (!OidIsValid(database) || es_shared() == NULL ||
		!es_database_ownercheck(database, GetUserId()))
		return InvalidOid;
	if (database == MyDatabaseId && !IsA(statement, CreatedbStmt))
		return InvalidOid;
	return database;
}

/* The value of an option in a statement's list; NULL when it is not there. */
static const char *
option_value(List *options, const char *name)
{
	ListCell   *cell;

	foreach(cell, options)
	{
		DefElem    *option = lfirst(cell);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

static Oid
tablespace_of(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	Oid			tablespace = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		tablespace = ((Form_pg_database) GETSTRUCT(tuple))->dattablespace;
		ReleaseSysCache(tuple);
	}
	return tablespace;
}

/*
 * Bring back the workers of a database that is there still.  One that begins
 * before our transaction is over waits for the lock on the database.
 */
static void
start_again(const StoppedWorkers *stopped)
{
	if (es_worker_slot_stopped_until(stopped->database) == DT_NOEND)
		return;					/* by hand, before or meanwhile */
	es_worker_slot_allow(stopped->database);
	for (int number = 0; number < ES_WORKERS_PER_DATABASE; number++)
		if (stopped->by_hand & ((uint32) 1 << number))
			(void) es_worker_register(stopped->database, stopped->tablespace, number, false);
}
