/*-------------------------------------------------------------------------
 *
 * state.c
 *		The state of an aggregate's instance.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "composite.h"
#include "fmgr.h"
#include "funcapi.h"
#include "spi_plan.h"
#include "state.h"
#include "state_cache.h"
#include "state_snapshot.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

/* Where the history goes. */
typedef struct HistoryRows
{
	Tuplestorestate *rows;
	TupleDesc	tupdesc;
} HistoryRows;

/* The last version that was recorded at or before a time. */
static const EsPlanSpec version_at_plan = {
	"SELECT version::pg_catalog.int8 FROM @store@.event"
	" WHERE stream OPERATOR(pg_catalog.=) $1 AND recorded_at OPERATOR(pg_catalog.<=) $2"
	" ORDER BY version DESC LIMIT 1",
	2,
	{TEXTOID, TIMESTAMPTZOID},
};

static Datum answer(FunctionCallInfo fcinfo, EsStore *store, EsAggregate *aggregate, bool as_json);
static int64 version_at(EsStore *store, text *stream, Datum at_time);
static Datum state_as_json(EsFold *fold);
static void add_history(EsFold *fold, const EsEvent *event, void *arg);

PG_FUNCTION_INFO_V1(es_state_typed);
PG_FUNCTION_INFO_V1(es_state_json);
PG_FUNCTION_INFO_V1(es_history);

EsFold *
es_state_load(EsStore *store, EsAggregate *aggregate, text *stream, int64 to_version)
{
	EsFold	   *fold = es_fold_begin(store, aggregate, stream);
	EsStreamHead head;
	Datum		state;

	/* what one role may see is not what another may: fold it all */
	fold->filtered = es_store_has_row_security(store);
	if (!fold->filtered)
	{
		if (es_state_cache_get(aggregate, stream, &head, &state) && head.version <= to_version)
		{
			es_fold_start_from(fold, head, state);
			if (es_fold_read(fold, to_version))
				return fold;
			es_state_cache_remove(aggregate, stream);
			es_fold_restart(fold);
		}
		if (aggregate->snapshot_every > 0 && es_state_snapshot_use(fold, to_version))
		{
			if (es_fold_read(fold, to_version))
				return fold;
			es_fold_restart(fold);
		}
	}
	(void) es_fold_read(fold, to_version);
	return fold;
}

void
es_state_keep(EsFold *fold)
{
	/* a handler may have changed the role since */
	if (fold->head.version > 0 && !fold->filtered && !es_store_has_row_security(fold->store))
	{
		MemoryContext caller = MemoryContextSwitchTo(fold->event_context);

		es_state_cache_put(fold->aggregate, fold->stream, fold->head, es_fold_state(fold));
		MemoryContextSwitchTo(caller);
		MemoryContextReset(fold->event_context);
	}
}

/* es_state(aggregate anyelement, id text, at_version bigint, at_time timestamptz) */
Datum
es_state_typed(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);

	return answer(fcinfo, store, es_aggregate_by_state_type(store, type), false);
}

/* es_state(aggregate text, id text, at_version bigint, at_time timestamptz) */
Datum
es_state_json(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the aggregate's name must not be NULL")));
	return answer(fcinfo, store,
				  es_aggregate_by_name(store, text_to_cstring(PG_GETARG_TEXT_PP(0))), true);
}

/* es_history(aggregate text, id text) returns table (version, type, recorded_at, data, state) */
Datum
es_history(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	EsStore    *store = es_store_current();
	EsAggregate *aggregate;
	text	   *stream;
	HistoryRows rows;
	EsFold	   *fold;
	int			nestlevel;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the aggregate's name must not be NULL")));
	aggregate = es_aggregate_by_name(store, text_to_cstring(PG_GETARG_TEXT_PP(0)));
	stream = es_aggregate_stream(aggregate, PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));

	InitMaterializedSRF(fcinfo, 0);
	rows.rows = rsinfo->setResult;
	rows.tupdesc = rsinfo->setDesc;

	nestlevel = es_search_path_enter(aggregate->path);
	SPI_connect();
	fold = es_fold_begin(store, aggregate, stream);
	fold->visit = add_history;
	fold->visit_arg = &rows;
	(void) es_fold_read(fold, PG_INT64_MAX);
	es_fold_end(fold);
	SPI_finish();
	es_search_path_leave(nestlevel);
	return (Datum) 0;
}

static Datum
answer(FunctionCallInfo fcinfo, EsStore *store, EsAggregate *aggregate, bool as_json)
{
	MemoryContext caller = CurrentMemoryContext;
	text	   *stream = es_aggregate_stream(aggregate,
									   PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1));
	int64		to_version = PG_INT64_MAX;
	Datum		result = (Datum) 0;
	bool		found;
	EsFold	   *fold;
	int			nestlevel;

	if (!PG_ARGISNULL(2) && !PG_ARGISNULL(3))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at_version and at_time cannot both be given")));
	if (!PG_ARGISNULL(2) && PG_GETARG_INT64(2) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("at_version must not be negative")));

	nestlevel = es_search_path_enter(aggregate->path);
	SPI_connect();
	if (!PG_ARGISNULL(2))
		to_version = PG_GETARG_INT64(2);
	else if (!PG_ARGISNULL(3))
		to_version = version_at(store, stream, PG_GETARG_DATUM(3));

	fold = es_state_load(store, aggregate, stream, to_version);
	if (!PG_ARGISNULL(2) && fold->head.version > 0 && fold->head.version < to_version)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream \"%s\" has no version %lld", text_to_cstring(stream),
						(long long) to_version),
				 errdetail("Its last version is %lld.", (long long) fold->head.version)));
	found = (fold->head.version > 0);
	if (found)
	{
		MemoryContext inside = MemoryContextSwitchTo(caller);

		result = as_json ? state_as_json(fold) : es_fold_state(fold);
		MemoryContextSwitchTo(inside);
		if (to_version == PG_INT64_MAX)
			es_state_keep(fold);
	}
	es_fold_end(fold);
	SPI_finish();
	es_search_path_leave(nestlevel);

	if (!found)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

/* 0 when there was nothing yet. */
static int64
version_at(EsStore *store, text *stream, Datum at_time)
{
	Datum		values[] = {PointerGetDatum(stream), at_time};
	int64		version = 0;
	bool		isnull;

	es_spi_read(store, &version_at_plan, values, NULL, GetActiveSnapshot(), 1);
	if (SPI_processed > 0)
		version = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											  &isnull));
	SPI_freetuptable(SPI_tuptable);
	return version;
}

static Datum
state_as_json(EsFold *fold)
{
	Datum		state = es_fold_state(fold);

	if (fold->aggregate->state_type == JSONBOID)
		return state;
	return JsonbPGetDatum(es_composite_to_jsonb(es_composite(fold->aggregate->state_type), state));
}

static void
add_history(EsFold *fold, const EsEvent *event, void *arg)
{
	HistoryRows *rows = arg;
	MemoryContext caller = MemoryContextSwitchTo(fold->event_context);
	Datum		values[5];
	bool		nulls[5] = {false, false, false, false, false};

	values[0] = event->values[ES_EVENT_VERSION];
	values[1] = event->values[ES_EVENT_TYPE];
	values[2] = event->values[ES_EVENT_RECORDED_AT];
	values[3] = event->values[ES_EVENT_DATA];
	values[4] = state_as_json(fold);
	tuplestore_putvalues(rows->rows, rows->tupdesc, values, nulls);
	MemoryContextSwitchTo(caller);
	MemoryContextReset(fold->event_context);
}
