/*-------------------------------------------------------------------------
 *
 * projection.c
 *		Projections: read models that follow the log.
 *
 * Inline projections run in the append's own transaction, from a row trigger
 * on the log, which logical replication fires too.  Handlers get each event as
 * it comes; set-based projections get all events of an append at once, as the
 * relation es_new_events, when the append is complete.
 *
 * Locks.  Whoever runs a projection inline holds its lock shared to the end of
 * the transaction, and whoever rebuilds or compares it holds it exclusively.
 * So a rebuild sees each event either in the log, with all its effects in the
 * targets, or not at all: those who come later wait until the rebuild is done.
 * Defining, pausing and resuming take the log's ShareRowExclusiveLock, which
 * waits for all appends under way: each event is either before or after.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "append.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "composite.h"
#include "errors.h"
#include "event.h"
#include "executor/tstoreReceiver.h"
#include "extension.h"
#include "fmgr.h"
#include "handling.h"
#include "lib/stringinfo.h"
#include "lock_tag.h"
#include "log.h"
#include "projection.h"
#include "projection_definition.h"
#include "retired.h"
#include "routine.h"
#include "row_receiver.h"
#include "spi_plan.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/*
 * A set-based projection gets history in portions of this many events: large,
 * since a read model's row is written once in each, yet of a size that
 * maintenance_work_mem has room for.
 */
#define REPLAY_BATCH 100000

/* What an error in a handler is reported with. */
typedef struct ProjectContext
{
	EsProjection *projection;
	const EsEvent *event;		/* NULL: a set of events */
} ProjectContext;

/* Receives history for one projection. */
typedef struct ReplayReceiver
{
	DestReceiver pub;
	EsStore    *store;
	EsProjection *projection;
	MemoryContext event_context;
	Tuplestorestate *rows;		/* set-based: the portion collected */
	int64		collected;
	int64		count;			/* events handed to the projection */
	ErrorContextCallback *error_context;	/* of the caller */
} ReplayReceiver;

static EsProjectionRun *innermost = NULL;

static void run_handlers(EsStore *store, const EsEvent *event);
static void collect_event(EsProjectionRun *run, const EsEvent *event);
static void handle_event(EsProjection *projection, const EsEvent *event);
static void run_query(EsProjection *projection, Tuplestorestate *rows);
static Tuplestorestate *select_rows(EsProjection *projection, Tuplestorestate *rows);
static bool wants_event(EsProjection *projection, const EsEvent *event);
static bool runs_inline(const EsProjection *projection);
static void lock_projection(EsStore *store, EsProjection *projection, LOCKMODE mode);
static EsProjection *lock_for_rebuild(EsStore *store, char *name);
static void empty_targets(EsProjection *projection);
static int64 replay(EsStore *store, EsProjection *projection, int64 after, int64 upto);
static bool receive_history(TupleTableSlot *slot, DestReceiver *self);
static void flush_replay(ReplayReceiver *receiver);
static int64 compare_rebuilt(EsStore *store, char *name);
static Tuplestorestate *read_target(const char *target, TupleDesc tupdesc);
static int64 count_differences(const char *target, TupleDesc tupdesc, Tuplestorestate *maintained);
static TupleDesc row_text_tupdesc(void);
static void project_context(void *arg);

PG_FUNCTION_INFO_V1(es_project);
PG_FUNCTION_INFO_V1(es_resume);
PG_FUNCTION_INFO_V1(es_rebuild_projection);
PG_FUNCTION_INFO_V1(es_verify_projection);

void
es_projection_begin(EsProjectionRun *run, EsStore *store)
{
	run->store = store;
	run->context = NULL;
	run->rows = NULL;
	run->error_context = error_context_stack;
	run->outer = innermost;
	innermost = run;
}

void
es_projection_flush(EsProjectionRun *run)
{
	ListCell   *cell;

	if (run->rows == NULL)
		return;
	foreach(cell, es_projections(run->store))
	{
		EsProjection *projection = lfirst(cell);

		if (projection->query && runs_inline(projection))
		{
			MemoryContext caller = MemoryContextSwitchTo(run->context);
			Tuplestorestate *selected = select_rows(projection, run->rows);

			MemoryContextSwitchTo(caller);
			if (tuplestore_tuple_count(selected) > 0)
			{
				lock_projection(run->store, projection, ShareLock);
				run_query(projection, selected);
			}
			if (selected != run->rows)
				tuplestore_end(selected);
		}
	}
	tuplestore_end(run->rows);
	MemoryContextDelete(run->context);
	run->rows = NULL;
}

void
es_projection_end(EsProjectionRun *run)
{
	Assert(innermost == run);
	innermost = run->outer;
	/* what was collected before an error goes with the transaction */
}

/* Trigger on the log, after each row: run the inline projections. */
Datum
es_project(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	EsProjectionRun *run = innermost;
	EsEvent		event;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BY_INSERT(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_AFTER(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"es_project\" must be called as a trigger after insert for each row")));
	if (!es_event_fits(RelationGetDescr(trigger->tg_relation)))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("table \"%s\" is not an event log",
						RelationGetRelationName(trigger->tg_relation))));

	es_event_from_slot(&event, trigger->tg_trigslot);
	if (run && run->store->event == RelationGetRelid(trigger->tg_relation))
	{
		ErrorContextCallback *context = error_context_stack;

		/* that the log is written by an INSERT says nothing to a user */
		error_context_stack = run->error_context;
		run_handlers(run->store, &event);
		collect_event(run, &event);
		error_context_stack = context;
	}
	else
	{
		/* not an append of ours, but logical replication: each row by itself */
		EsProjectionRun single;

		es_projection_begin(&single,
							es_store_of_schema(RelationGetNamespace(trigger->tg_relation)));
		PG_TRY();
		{
			run_handlers(single.store, &event);
			collect_event(&single, &event);
			es_projection_flush(&single);
		}
		PG_FINALLY();
		{
			es_projection_end(&single);
		}
		PG_END_TRY();
	}
	return PointerGetDatum(NULL);
}

/* es_resume(name text) returns void */
Datum
es_resume(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_projection_name_argument(fcinfo);
	EsProjection *projection;

	SPI_connect();
	LockRelationOid(store->event, ShareRowExclusiveLock);
	projection = lock_for_rebuild(store, name);
	if (projection->paused)
	{
		int64		paused_at = projection->paused_at;

		(void) replay(store, projection, paused_at, PG_INT64_MAX);
		es_projection_set_paused(store, name, false, 0);
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/* es_rebuild_projection(name text) returns bigint */
Datum
es_rebuild_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_projection_name_argument(fcinfo);
	EsProjection *projection;
	int64		count;

	SPI_connect();
	projection = lock_for_rebuild(store, name);
	empty_targets(projection);
	count = replay(store, projection, 0,
				   projection->paused ? projection->paused_at : PG_INT64_MAX);
	SPI_finish();
	PG_RETURN_INT64(count);
}

/*
 * es_verify_projection(name text) returns bigint
 *
 * The rebuild happens in a subtransaction that is rolled back.
 */
Datum
es_verify_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_projection_name_argument(fcinfo);
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int64 differences = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		differences = compare_rebuilt(store, name);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	PG_RETURN_INT64(differences);
}

/* Hand an event to every inline projection that has a handler for it, by their ids. */
static void
run_handlers(EsStore *store, const EsEvent *event)
{
	MemoryContext context = NULL;
	ListCell   *cell;

	foreach(cell, es_projections(store))
	{
		EsProjection *projection = lfirst(cell);
		MemoryContext caller;

		if (projection->query || !runs_inline(projection) || !wants_event(projection, event))
			continue;
		if (context == NULL)
			context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing projection",
											ALLOCSET_DEFAULT_SIZES);
		lock_projection(store, projection, ShareLock);
		caller = MemoryContextSwitchTo(context);
		handle_event(projection, event);
		MemoryContextSwitchTo(caller);
		MemoryContextReset(context);
	}
	if (context)
		MemoryContextDelete(context);
}

/* Keep an event for the set-based projections, if there are any. */
static void
collect_event(EsProjectionRun *run, const EsEvent *event)
{
	bool		wanted = false;
	MemoryContext caller;
	ListCell   *cell;

	foreach(cell, es_projections(run->store))
	{
		EsProjection *projection = lfirst(cell);

		if (projection->query && runs_inline(projection) && wants_event(projection, event))
			wanted = true;
	}
	if (!wanted)
		return;
	if (run->rows == NULL)
	{
		/* a trigger's own context would not live until the flush */
		run->context = AllocSetContextCreate(CurTransactionContext, "event_sourcing new events",
											 ALLOCSET_DEFAULT_SIZES);
		caller = MemoryContextSwitchTo(run->context);
		run->rows = tuplestore_begin_heap(true, false, work_mem);
		MemoryContextSwitchTo(caller);
	}
	tuplestore_putvalues(run->rows, es_extension()->event.tupdesc, (Datum *) event->values,
						 (bool *) event->nulls);
}

/* Call the projection's handler for an event; in a context for this event. */
static void
handle_event(EsProjection *projection, const EsEvent *event)
{
	EsOverload *handler;
	ErrorContextCallback context;
	ProjectContext context_arg = {projection, event};
	EsHandling	handling;
	bool		isnull;
	int			nestlevel;

	context.callback = project_context;
	context.arg = &context_arg;
	context.previous = error_context_stack;
	error_context_stack = &context;
	nestlevel = es_search_path_enter(projection->path);

	handler = es_overload(&projection->handlers, DatumGetTextPP(event->values[ES_EVENT_TYPE]));
	handling.correlation_id = NULL;
	if (!event->nulls[ES_EVENT_CORRELATION_ID])
		handling.correlation_id = DatumGetUUIDP(event->values[ES_EVENT_CORRELATION_ID]);
	handling.causation_id = DatumGetUUIDP(event->values[ES_EVENT_ID]);
	es_handling_begin(&handling);
	PG_TRY();
	{
		(void) es_overload_call(handler, (Datum) 0, event, &isnull);
	}
	PG_FINALLY();
	{
		es_handling_end(&handling);
	}
	PG_END_TRY();

	es_search_path_leave(nestlevel);
	error_context_stack = context.previous;
}

/* Run a set-based projection's statement over events that it wants. */
static void
run_query(EsProjection *projection, Tuplestorestate *rows)
{
	ErrorContextCallback context;
	ProjectContext context_arg = {projection, NULL};
	int			nestlevel;
	int			result;

	context.callback = project_context;
	context.arg = &context_arg;
	context.previous = error_context_stack;
	error_context_stack = &context;
	nestlevel = es_search_path_enter(projection->path);
	SPI_connect();

	es_projection_register_rows("es_new_events", es_extension()->event.tupdesc, rows);
	result = SPI_execute_plan(es_projection_plan(projection), NULL, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));

	SPI_finish();
	es_search_path_leave(nestlevel);
	error_context_stack = context.previous;
}

/* The events that the projection's filters let through; all of them without a copy. */
static Tuplestorestate *
select_rows(EsProjection *projection, Tuplestorestate *rows)
{
	TupleDesc	tupdesc = es_extension()->event.tupdesc;
	Tuplestorestate *selected;
	TupleTableSlot *slot;

	if (projection->filter.types == NIL && projection->filter.categories == NIL)
		return rows;
	selected = tuplestore_begin_heap(true, false, work_mem);
	slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsMinimalTuple);
	tuplestore_rescan(rows);
	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		EsEvent		event;

		es_event_from_slot(&event, slot);
		if (wants_event(projection, &event))
			tuplestore_puttupleslot(selected, slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	return selected;
}

static bool
wants_event(EsProjection *projection, const EsEvent *event)
{
	return es_projection_wants(projection, DatumGetTextPP(event->values[ES_EVENT_TYPE]),
							   DatumGetTextPP(event->values[ES_EVENT_STREAM]));
}

static bool
runs_inline(const EsProjection *projection)
{
	return !projection->async && !projection->paused;
}

static void
lock_projection(EsStore *store, EsProjection *projection, LOCKMODE mode)
{
	LOCKTAG		tag;

	es_lock_tag_key(&tag, ES_LOCK_CLASS_PROJECTION,
					((uint64) store->event << 32) | (uint32) projection->id);
	(void) LockAcquire(&tag, mode, false, false);
}

/*
 * Get a projection that replays into its targets, with its lock held
 * exclusively, as it is defined under that lock.
 */
static EsProjection *
lock_for_rebuild(EsStore *store, char *name)
{
	EsProjection *projection;

	/* a snapshot that is older than the lock would miss what others projected */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot replay events into projection \"%s\" in this isolation level", name),
				 errhint("Use a transaction in READ COMMITTED.")));
	lock_projection(store, es_projection_by_name(store, name), ExclusiveLock);
	AcceptInvalidationMessages();
	projection = es_projection_by_name(store, name);
	if (projection->handler)
		es_overload_require(&projection->handlers);
	return projection;
}

static void
empty_targets(EsProjection *projection)
{
	StringInfoData sql;
	ListCell   *cell;

	if (projection->targets == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no targets", projection->name),
				 errdetail("Without them it is not known which tables to rebuild."),
				 errhint("Drop it and define it again with targets.")));

	/* one statement, so that foreign keys between them are checked at its end */
	initStringInfo(&sql);
	foreach(cell, projection->targets)
	{
		if (foreach_current_index(cell) > 0)
			appendStringInfo(&sql, "%s t%d AS (DELETE FROM %s)", sql.len == 0 ? "WITH" : ",",
							 foreach_current_index(cell), (char *) lfirst(cell));
	}
	appendStringInfo(&sql, " DELETE FROM %s", (char *) linitial(projection->targets));
	if (SPI_execute(sql.data, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not empty the targets of projection \"%s\"", projection->name);
}

/*
 * Hand the events between two positions to a projection, as they are visible
 * now; returns how many it got.  Connected to SPI.
 */
static int64
replay(EsStore *store, EsProjection *projection, int64 after, int64 upto)
{
	ReplayReceiver receiver = {0};
	EsLogRange	range = {after + 1, upto, PG_INT64_MAX, false};

	es_row_receiver_init(&receiver.pub, receive_history);
	receiver.store = store;
	receiver.projection = projection;
	receiver.error_context = error_context_stack;
	receiver.event_context = AllocSetContextCreate(CurrentMemoryContext,
												   "event_sourcing replay",
												   ALLOCSET_DEFAULT_SIZES);

	PushActiveSnapshot(GetLatestSnapshot());
	es_log_read_feed(store, &range, NULL, NULL, &receiver.pub);
	PopActiveSnapshot();
	flush_replay(&receiver);
	MemoryContextDelete(receiver.event_context);
	return receiver.count;
}

static bool
receive_history(TupleTableSlot *slot, DestReceiver *self)
{
	ReplayReceiver *receiver = (ReplayReceiver *) self;
	EsProjection *projection = receiver->projection;
	ErrorContextCallback *context = error_context_stack;
	MemoryContext caller;
	EsEvent		event;

	es_event_start_from_slot(&event, slot,
							 projection->query ? ES_EVENT_TYPE + 1 : ES_EVENT_COLUMNS);
	if (!wants_event(projection, &event))
		return true;
	receiver->count++;
	error_context_stack = receiver->error_context;
	caller = MemoryContextSwitchTo(receiver->event_context);
	if (projection->query == NULL)
	{
		handle_event(projection, &event);
		MemoryContextReset(receiver->event_context);
	}
	else
	{
		if (receiver->rows == NULL)
			receiver->rows = tuplestore_begin_heap(true, false, maintenance_work_mem);
		tuplestore_puttupleslot(receiver->rows, slot);
		if (++receiver->collected == REPLAY_BATCH)
			flush_replay(receiver);
	}
	MemoryContextSwitchTo(caller);
	error_context_stack = context;
	return true;
}

static void
flush_replay(ReplayReceiver *receiver)
{
	if (receiver->rows == NULL)
		return;
	run_query(receiver->projection, receiver->rows);
	tuplestore_end(receiver->rows);
	MemoryContextReset(receiver->event_context);
	receiver->rows = NULL;
	receiver->collected = 0;
}

/* Rebuild a projection and count the rows that differ from what was there. */
static int64
compare_rebuilt(EsStore *store, char *name)
{
	TupleDesc	tupdesc = row_text_tupdesc();
	List	   *maintained = NIL;
	int64		differences = 0;
	EsProjection *projection;
	ListCell   *target;
	ListCell   *rows;

	SPI_connect();
	projection = lock_for_rebuild(store, name);
	foreach(target, projection->targets)
		maintained = lappend(maintained, read_target(lfirst(target), tupdesc));
	empty_targets(projection);
	(void) replay(store, projection, 0,
				  projection->paused ? projection->paused_at : PG_INT64_MAX);
	forboth(target, projection->targets, rows, maintained)
		differences += count_differences(lfirst(target), tupdesc, lfirst(rows));
	SPI_finish();
	return differences;
}

/* A table's rows, each as text: so that types without an equality can be compared, too. */
static Tuplestorestate *
read_target(const char *target, TupleDesc tupdesc)
{
	Tuplestorestate *rows = tuplestore_begin_heap(true, false, work_mem);
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);
	SPIExecuteOptions options = {0};
	SPIPlanPtr	plan = SPI_prepare(psprintf("SELECT ROW(t.*)::pg_catalog.text FROM %s AS t",
										   target),
								  0, NULL);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SetTuplestoreDestReceiverParams(dest, rows, CurrentMemoryContext, false, NULL, NULL);
	options.dest = dest;
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "could not read %s", target);
	return rows;
}

static int64
count_differences(const char *target, TupleDesc tupdesc, Tuplestorestate *maintained)
{
	char	   *rebuilt = psprintf("SELECT ROW(t.*)::pg_catalog.text FROM %s AS t", target);
	int64		differences;
	bool		isnull;

	es_projection_register_rows("es_maintained", tupdesc, maintained);
	if (SPI_execute(psprintf("SELECT pg_catalog.count(*) FROM ("
							 "(SELECT row_text FROM es_maintained EXCEPT ALL %s) UNION ALL "
							 "(%s EXCEPT ALL SELECT row_text FROM es_maintained)) d",
							 rebuilt, rebuilt),
					false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not compare %s", target);
	differences = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											  &isnull));
	SPI_unregister_relation("es_maintained");
	return differences;
}

static TupleDesc
row_text_tupdesc(void)
{
	TupleDesc	tupdesc = CreateTemplateTupleDesc(1);

	TupleDescInitEntry(tupdesc, 1, "row_text", TEXTOID, -1, 0);
	return tupdesc;
}

static void
project_context(void *arg)
{
	ProjectContext *context = arg;

	if (context->event == NULL)
		errcontext("applying new events to projection \"%s\"", context->projection->name);
	else
		errcontext("applying event %lld (\"%s\") of stream \"%s\" to projection \"%s\"",
				   (long long) DatumGetInt64(context->event->values[ES_EVENT_VERSION]),
				   text_to_cstring(DatumGetTextPP(context->event->values[ES_EVENT_TYPE])),
				   text_to_cstring(DatumGetTextPP(context->event->values[ES_EVENT_STREAM])),
				   context->projection->name);
}
