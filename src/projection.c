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

#include "commands/trigger.h"
#include "event.h"
#include "extension.h"
#include "fmgr.h"
#include "handling.h"
#include "lock_tag.h"
#include "projection.h"
#include "projection_definition.h"
#include "rebuild.h"
#include "routine.h"
#include "spi_plan.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"

/* What an error in a handler is reported with. */
typedef struct ProjectContext
{
	EsProjection *projection;
	const EsEvent *event;		/* NULL: a set of events */
} ProjectContext;

/* A statement of a set-based projection, about rows or about a range of the log. */
typedef struct Statement
{
	SPIPlanPtr (*plan)(EsStore *store, EsProjection *projection);
	Tuplestorestate *rows;		/* NULL: the range */
	int64		range[2];		/* behind the first position, up to the second */
	int64		count;			/* of events, where that is what it asks for */
	int64		lowest;
} Statement;

static EsProjectionRun *innermost = NULL;

static void run_handlers(EsStore *store, const EsEvent *event);
static void collect_event(EsProjectionRun *run, const EsEvent *event);
static Tuplestorestate *select_rows(EsProjection *projection, Tuplestorestate *rows);
static bool wants_event(EsProjection *projection, const EsEvent *event);
static bool runs_inline(const EsProjection *projection);
static void run_statement(EsStore *store, EsProjection *projection, Statement *statement);
static SPIPlanPtr rows_plan(EsStore *store, EsProjection *projection);
static void project_context(void *arg);

PG_FUNCTION_INFO_V1(es_project);

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
				es_projection_lock(run->store, projection, ShareLock);
				es_projection_query(projection, selected);
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

void
es_projection_handle(EsProjection *projection, const EsEvent *event)
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

void
es_projection_query(EsProjection *projection, Tuplestorestate *rows)
{
	Statement statement = {.rows = rows, .plan = rows_plan};

	run_statement(NULL, projection, &statement);
}

void
es_projection_query_log(EsStore *store, EsProjection *projection, int64 after, int64 upto)
{
	Statement statement = {.plan = es_projection_log_plan, .range = {after, upto}};

	run_statement(store, projection, &statement);
}

int64
es_projection_count_log(EsStore *store, EsProjection *projection, int64 after, int64 upto,
						int64 *lowest)
{
	Statement statement = {.plan = es_projection_count_plan, .range = {after, upto}};

	run_statement(store, projection, &statement);
	*lowest = statement.lowest;
	return statement.count;
}

void
es_projection_lock(EsStore *store, EsProjection *projection, LOCKMODE mode)
{
	LOCKTAG		tag;

	es_lock_tag_key(&tag, ES_LOCK_CLASS_PROJECTION,
					((uint64) store->event << 32) | (uint32) projection->id);
	(void) LockAcquire(&tag, mode, false, false);
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
		es_projection_lock(store, projection, ShareLock);
		caller = MemoryContextSwitchTo(context);
		es_projection_handle(projection, event);
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

/* Run a statement of a set-based projection. */
static void
run_statement(EsStore *store, EsProjection *projection, Statement *statement)
{
	ErrorContextCallback context;
	ProjectContext context_arg = {projection, NULL};
	Datum		values[] = {Int64GetDatum(statement->range[0]), Int64GetDatum(statement->range[1])};
	int			nestlevel;
	int			result;

	context.callback = project_context;
	context.arg = &context_arg;
	context.previous = error_context_stack;
	error_context_stack = &context;
	nestlevel = es_search_path_enter(projection->path);
	SPI_connect();

	if (statement->rows)
		es_projection_register_rows("es_new_events", es_extension()->event.tupdesc,
									statement->rows);
	result = SPI_execute_plan(statement->plan(store, projection), values, NULL, false, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute_plan failed: %s", SPI_result_code_string(result));
	if (statement->plan == es_projection_count_plan)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		bool		isnull;

		statement->count = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		statement->lowest = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2, &isnull));
	}

	SPI_finish();
	es_search_path_leave(nestlevel);
	error_context_stack = context.previous;
}

static SPIPlanPtr
rows_plan(EsStore *store, EsProjection *projection)
{
	return es_projection_plan(projection);
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
