/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *		Rebuilding read models from history, and comparing them with it.
 *
 * Whoever rebuilds or compares an inline projection holds its lock exclusively,
 * which those who run it hold shared.  So history is read under a snapshot that
 * is taken when the lock is held: it has each event that was projected.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "errors.h"
#include "event.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "log.h"
#include "projection.h"
#include "projection_definition.h"
#include "rebuild.h"
#include "row_receiver.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/*
 * A set-based projection gets history in portions of this many events: large,
 * since a read model's row is written once in each, yet of a size that
 * maintenance_work_mem has room for.
 */
#define REPLAY_BATCH 100000

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

static void empty_targets(EsProjection *projection);
static bool receive_history(TupleTableSlot *slot, DestReceiver *self);
static void flush_replay(ReplayReceiver *receiver);
static int64 compare_rebuilt(EsStore *store, const char *name);
static Tuplestorestate *read_target(const char *target, TupleDesc tupdesc);
static int64 count_differences(const char *target, TupleDesc tupdesc, Tuplestorestate *maintained);
static TupleDesc row_text_tupdesc(void);

PG_FUNCTION_INFO_V1(es_rebuild_projection);
PG_FUNCTION_INFO_V1(es_verify_projection);

EsProjection *
es_rebuild_lock(EsStore *store, const char *name)
{
	EsProjection *projection;

	/* a snapshot that is older than the lock would miss what others projected */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot replay events into projection \"%s\" in this isolation level", name),
				 errhint("Use a transaction in READ COMMITTED.")));
	es_projection_lock(store, es_projection_by_name(store, name), ExclusiveLock);
	AcceptInvalidationMessages();
	projection = es_projection_by_name(store, name);
	if (projection->handler)
		es_overload_require(&projection->handlers);
	return projection;
}

int64
es_rebuild_replay(EsStore *store, EsProjection *projection, int64 after, int64 upto)
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

/* es_rebuild_projection(name text) returns bigint */
Datum
es_rebuild_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_projection_name_argument(fcinfo);
	EsProjection *projection;
	int64		count;

	SPI_connect();
	projection = es_rebuild_lock(store, name);
	empty_targets(projection);
	count = es_rebuild_replay(store, projection, 0,
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
	if (!es_projection_wants(projection, DatumGetTextPP(event.values[ES_EVENT_TYPE]),
							 DatumGetTextPP(event.values[ES_EVENT_STREAM])))
		return true;
	receiver->count++;
	error_context_stack = receiver->error_context;
	caller = MemoryContextSwitchTo(receiver->event_context);
	if (projection->query == NULL)
	{
		es_projection_handle(projection, &event);
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
	es_projection_query(receiver->projection, receiver->rows);
	tuplestore_end(receiver->rows);
	MemoryContextReset(receiver->event_context);
	receiver->rows = NULL;
	receiver->collected = 0;
}

/* Rebuild a projection and count the rows that differ from what was there. */
static int64
compare_rebuilt(EsStore *store, const char *name)
{
	TupleDesc	tupdesc = row_text_tupdesc();
	List	   *maintained = NIL;
	int64		differences = 0;
	EsProjection *projection;
	ListCell   *target;
	ListCell   *rows;

	SPI_connect();
	projection = es_rebuild_lock(store, name);
	foreach(target, projection->targets)
		maintained = lappend(maintained, read_target(lfirst(target), tupdesc));
	empty_targets(projection);
	(void) es_rebuild_replay(store, projection, 0,
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
