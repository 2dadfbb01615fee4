/*-------------------------------------------------------------------------
 *
 * projection_definition.c
 *		Definitions of projections and the functions behind them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "argument.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "composite.h"
#include "definition.h"
#include "extension.h"
#include "lib/stringinfo.h"
#include "log.h"
#include "parser/parser.h"
#include "projection.h"
#include "projection_definition.h"
#include "projection_mode.h"
#include "spi_plan.h"
#include "subscription.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/queryenvironment.h"
#include "utils/regproc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static const EsPlanSpec insert_plan = {
	"INSERT INTO @store@.projection"
	" (name, handler, query, mode, targets, types, categories, search_path)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
	8,
	{TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID, TEXTARRAYOID},
};

static const EsPlanSpec delete_plan = {
	"DELETE FROM @store@.projection WHERE name OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
};

static const char projection_trigger[] =
	"CREATE OR REPLACE TRIGGER event_projection AFTER INSERT ON @store@.event"
	"	FOR EACH ROW EXECUTE FUNCTION @extension@.es_project();"
	"ALTER TABLE @store@.event ENABLE ALWAYS TRIGGER event_projection;";

static void *read_projection(const Datum *values, const bool *nulls);
static int	compare_ids(const ListCell *a, const ListCell *b);
static void check_query(const char *query, const EsSearchPath *path);
static void require_one_query(SPIPlanPtr plan);
static Datum target_names(ArrayType *targets);
static void find_handlers(EsProjection *projection);
static SPIPlanPtr keep_plan(EsProjection *projection, const char *query, int nargs);
static char *select_from_log(EsStore *store, EsProjection *projection);
static void append_name_filter(StringInfo sql, const char *expression, List *names);
static char *query_over_log(EsStore *store, EsProjection *projection);
static void free_plan(void *plan);

static const EsDefinitionTable projection_table = {
	.kind = ES_DEFINITION_PROJECTION,
	.set_size = sizeof(EsDefinitions),
	.read = read_projection,
	.compare = compare_ids,
	.ncolumns = 11,
	.columns = {
		{"name", TEXTOID, true},
		{"id", INT8OID, true},
		{"handler", TEXTOID, false},
		{"query", TEXTOID, false},
		{"targets", TEXTARRAYOID, false},
		{"types", TEXTARRAYOID, false},
		{"categories", TEXTARRAYOID, false},
		{"paused_at", INT8OID, false},
		{"search_path", TEXTARRAYOID, true},
		{"mode", TEXTOID, true},
		{"owner", TEXTOID, true},
	},
};

PG_FUNCTION_INFO_V1(es_create_projection);
PG_FUNCTION_INFO_V1(es_drop_projection);

/*
 * es_create_projection(name text, handler text, mode text, targets regclass[], query text,
 * types text[], categories text[])
 */
Datum
es_create_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the projection's name", true);
	char	   *handler = PG_ARGISNULL(1) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *mode = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	char	   *query = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));
	ArrayType  *path_names = es_search_path_current(InvalidOid);
	EsSearchPath *path = es_search_path_read(path_names);
	bool		async;
	Datum		values[8];
	char		nulls[9] = "        ";

	if ((handler == NULL) == (query == NULL))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a projection has either a handler or a query")));
	async = es_projection_mode_is_async(mode);

	values[0] = CStringGetTextDatum(name);
	values[1] = handler ? CStringGetTextDatum(handler) : (Datum) 0;
	values[2] = query ? CStringGetTextDatum(query) : (Datum) 0;
	values[3] = CStringGetTextDatum(mode);
	values[4] = PG_ARGISNULL(3) ? (Datum) 0 : target_names(PG_GETARG_ARRAYTYPE_P(3));
	values[5] = es_filter_argument(fcinfo, 5, "types");
	values[6] = es_filter_argument(fcinfo, 6, "categories");
	values[7] = PointerGetDatum(path_names);
	for (int i = 0; i < lengthof(values); i++)
		nulls[i] = DatumGetPointer(values[i]) == NULL ? 'n' : ' ';

	SPI_connect();
	if (handler)
	{
		EsProjection projection = {.context = CurrentMemoryContext, .name = name};

		projection.handler = handler;
		projection.path = path;
		find_handlers(&projection);
		es_overload_require(&projection.handlers);
	}
	else
		check_query(query, path);

	/* appends under way do not know of it: let them end first */
	if (!async)
		es_projection_put_trigger(store);
	if (es_spi_write(store, &insert_plan, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists", name)));
	if (es_subscription_by_name(store, name, true))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", name)));
	if (async)
		es_projection_subscribe(store, name, 0, path_names);
	else if (es_log_last_position(store, GetLatestSnapshot()) > 0)
		ereport(NOTICE,
				(errmsg("projection \"%s\" begins with the next event", name),
				 errhint("Fill it from history with es_rebuild_projection().")));
	SPI_finish();
	PG_RETURN_VOID();
}

/* es_drop_projection(name text) returns void */
Datum
es_drop_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the projection's name", true);
	EsSubscription *subscription = es_subscription_by_name(store, name, true);
	Datum		values[] = {CStringGetTextDatum(name)};

	SPI_connect();
	/* first: whoever runs it holds its lock */
	if (subscription && subscription->kind == ES_SUBSCRIPTION_PROJECTION)
		es_subscription_delete(store, subscription);
	if (es_spi_write(store, &delete_plan, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", name)));
	SPI_finish();
	PG_RETURN_VOID();
}

List *
es_projections(EsStore *store)
{
	return es_definitions(store, &projection_table)->list;
}

EsProjection *
es_projection_find(EsStore *store, const char *name)
{
	ListCell   *cell;

	foreach(cell, es_projections(store))
		if (strcmp(((EsProjection *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	return NULL;
}

EsProjection *
es_projection_by_name(EsStore *store, const char *name)
{
	EsProjection *projection = es_projection_find(store, name);

	if (projection == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("projection \"%s\" does not exist", name)));
	return projection;
}

bool
es_projection_wants(EsProjection *projection, const text *type, const text *stream)
{
	return es_filter_selects(&projection->filter, type, stream) &&
		(projection->query || es_overload(&projection->handlers, type) != NULL);
}

SPIPlanPtr
es_projection_plan(EsProjection *projection)
{
	if (projection->plan == NULL)
		projection->plan = keep_plan(projection, projection->query, 0);
	return projection->plan;
}

SPIPlanPtr
es_projection_log_plan(EsStore *store, EsProjection *projection)
{
	if (projection->log_plan == NULL)
		projection->log_plan = keep_plan(projection, query_over_log(store, projection), 2);
	return projection->log_plan;
}

SPIPlanPtr
es_projection_count_plan(EsStore *store, EsProjection *projection)
{
	if (projection->count_plan == NULL)
		projection->count_plan =
			keep_plan(projection,
					  psprintf("SELECT pg_catalog.count(*), pg_catalog.min(position) FROM (%s) e",
							   select_from_log(store, projection)),
					  2);
	return projection->count_plan;
}

void
es_projection_register_rows(const char *name, TupleDesc tupdesc, Tuplestorestate *rows)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	relation->md.name = pstrdup(name);
	relation->md.reliddesc = InvalidOid;
	relation->md.tupdesc = tupdesc;
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = rows ? tuplestore_tuple_count(rows) : 0;
	relation->reldata = rows;
	if (SPI_register_relation(relation) < 0)
		elog(ERROR, "could not register relation %s", name);
}

void
es_projection_put_trigger(EsStore *store)
{
	LockRelationOid(store->event, ShareRowExclusiveLock);
	if (!OidIsValid(get_trigger_oid(store->event, "event_projection", true)))
		es_store_execute(projection_trigger, store->name);
}

void
es_projection_upgrade(const char *store_name)
{
	char	   *sql = es_store_sql("SELECT 1 FROM @store@.projection LIMIT 1", store_name);

	if (SPI_execute(sql, false, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not read the projections");
	if (SPI_processed > 0)
		es_store_execute(projection_trigger, store_name);
}

static void *
read_projection(const Datum *values, const bool *nulls)
{
	EsProjection *projection;

	if (nulls[2] && nulls[3])
		return NULL;
	projection = palloc0(sizeof(EsProjection));
	projection->context = CurrentMemoryContext;
	projection->name = es_definition_string(values, nulls, 0);
	projection->id = DatumGetInt64(values[1]);
	projection->handler = es_definition_string(values, nulls, 2);
	projection->query = es_definition_string(values, nulls, 3);
	projection->targets = es_definition_list(values, nulls, 4);
	projection->filter.types = es_definition_list(values, nulls, 5);
	projection->filter.categories = es_definition_list(values, nulls, 6);
	projection->paused = !nulls[7];
	projection->paused_at = nulls[7] ? 0 : DatumGetInt64(values[7]);
	projection->path = es_search_path_read(DatumGetArrayTypeP(values[8]));
	projection->async = strcmp(es_definition_string(values, nulls, 9), "async") == 0;
	projection->owner = es_definition_string(values, nulls, 10);
	if (projection->handler)
		find_handlers(projection);
	return projection;
}

static void
find_handlers(EsProjection *projection)
{
	EsOverloads *handlers = &projection->handlers;

	handlers->context = projection->context;
	handlers->name = projection->handler;
	handlers->owner = psprintf("projection \"%s\"", projection->name);
	handlers->scope = es_function_scope(projection->handler, InvalidOid, projection->path);
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int64		a_id = ((const EsProjection *) lfirst(a))->id;
	int64		b_id = ((const EsProjection *) lfirst(b))->id;

	return a_id < b_id ? -1 : a_id > b_id;
}

/* Prepare a statement of the projection, which has so many parameters, all of them positions. */
static SPIPlanPtr
keep_plan(EsProjection *projection, const char *query, int nargs)
{
	Oid			argtypes[] = {INT8OID, INT8OID};
	MemoryContextCallback *release;
	SPIPlanPtr	plan;

	/* ranges differ too much for one plan */
	plan = SPI_prepare_cursor(query, nargs, argtypes, nargs > 0 ? CURSOR_OPT_CUSTOM_PLAN : 0);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	require_one_query(plan);
	release = MemoryContextAllocZero(projection->context, sizeof(MemoryContextCallback));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed");
	release->func = free_plan;
	release->arg = plan;
	MemoryContextRegisterResetCallback(projection->context, release);
	return plan;
}

/* The events of a range that the projection's filter lets through, with es_event's collations. */
static char *
select_from_log(EsStore *store, EsProjection *projection)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql,
					 "SELECT position, stream COLLATE pg_catalog.\"default\" AS stream, version,"
					 " type COLLATE pg_catalog.\"default\" AS type, data, metadata, event_id,"
					 " correlation_id, causation_id, recorded_at FROM %s.event"
					 " WHERE position OPERATOR(pg_catalog.>) $1"
					 " AND position OPERATOR(pg_catalog.<=) $2",
					 store->name);
	append_name_filter(&sql, "type", projection->filter.types);
	append_name_filter(&sql, "pg_catalog.split_part(stream, '-', 1)",
					   projection->filter.categories);
	return sql.data;
}

static void
append_name_filter(StringInfo sql, const char *expression, List *names)
{
	ListCell   *cell;

	if (names == NIL)
		return;
	appendStringInfo(sql, " AND %s OPERATOR(pg_catalog.=) ANY (ARRAY[", expression);
	foreach(cell, names)
		appendStringInfo(sql, "%s%s", foreach_current_index(cell) > 0 ? ", " : "",
						 quote_literal_cstr(lfirst(cell)));
	appendStringInfoString(sql, "]::pg_catalog.text[])");
}

/*
 * The projection's query with es_new_events as its first common table expression.
 * Its own ones, if it has any, follow.
 */
static char *
query_over_log(EsStore *store, EsProjection *projection)
{
	const char *query = projection->query;
	List	   *statements = raw_parser(query, RAW_PARSE_DEFAULT);
	Node	   *statement = linitial_node(RawStmt, statements)->stmt;
	WithClause *with = NULL;
	int			rest;

	switch (nodeTag(statement))
	{
		case T_InsertStmt:
			with = ((InsertStmt *) statement)->withClause;
			break;
		case T_UpdateStmt:
			with = ((UpdateStmt *) statement)->withClause;
			break;
		case T_DeleteStmt:
			with = ((DeleteStmt *) statement)->withClause;
			break;
		case T_MergeStmt:
			with = ((MergeStmt *) statement)->withClause;
			break;
		case T_SelectStmt:
			with = ((SelectStmt *) statement)->withClause;
			break;
		default:
			break;
	}
	rest = with ? linitial_node(CommonTableExpr, with->ctes)->location : 0;
	return psprintf("WITH %ses_new_events AS (%s)%s %s", with && with->recursive ? "RECURSIVE " : "",
					select_from_log(store, projection), with ? "," : "", query + rest);
}

/* When the definitions are freed, so is the plan. */
static void
free_plan(void *plan)
{
	SPI_freeplan(plan);
}

/* Parse the statement now, so that its author sees what is wrong with it. */
static void
check_query(const char *query, const EsSearchPath *path)
{
	int			nestlevel = es_search_path_enter(path);
	SPIPlanPtr	plan;

	SPI_connect();
	es_projection_register_rows("es_new_events", es_extension()->event.tupdesc, NULL);
	plan = SPI_prepare(query, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	require_one_query(plan);
	SPI_finish();
	es_search_path_leave(nestlevel);
}

/* One that can have es_new_events before it, and does not end the transaction. */
static void
require_one_query(SPIPlanPtr plan)
{
	List	   *sources = SPI_plan_get_plan_sources(plan);
	RawStmt    *raw;

	if (list_length(sources) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the query of a projection must be one statement")));
	raw = ((CachedPlanSource *) linitial(sources))->raw_parse_tree;
	switch (raw ? nodeTag(raw->stmt) : T_Invalid)
	{
		case T_InsertStmt:
		case T_UpdateStmt:
		case T_DeleteStmt:
		case T_MergeStmt:
		case T_SelectStmt:
			return;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the query of a projection must be a SELECT, INSERT, UPDATE, DELETE or MERGE")));
	}
}

/* Tables by their qualified names: dumps and upgrades keep these, and not OIDs. */
static Datum
target_names(ArrayType *targets)
{
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(targets, REGCLASSOID, sizeof(Oid), true, TYPALIGN_INT, &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		Oid			table = nulls[i] ? InvalidOid : DatumGetObjectId(elements[i]);
		char	   *name = OidIsValid(table) ? get_rel_name(table) : NULL;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("targets must not contain NULL")));
		if (name == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_TABLE),
					 errmsg("relation with OID %u does not exist", table)));
		if (get_rel_relkind(table) != RELKIND_RELATION &&
			get_rel_relkind(table) != RELKIND_PARTITIONED_TABLE)
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("\"%s\" is not a table", name)));
		name = quote_qualified_identifier(get_namespace_name(get_rel_namespace(table)), name);
		elements[i] = CStringGetTextDatum(name);
	}
	return PointerGetDatum(construct_array(elements, n, TEXTOID, -1, false, TYPALIGN_INT));
}
