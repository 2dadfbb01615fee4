/*-------------------------------------------------------------------------
 *
 * subscription.c
 *		Subscriptions: a name, a filter, and checkpoints.
 *
 * Async projections, event handlers and process managers are subscriptions
 * that the store runs itself (run.c); the others are pulled (consumer.c).
 *
 * The definition changes seldom, and every session keeps it; what moves with
 * every batch is a row of the table checkpoint for each partition (checkpoint.c),
 * which comes into being with the partition's first batch.
 *
 * Locks.  Who works on a partition holds its lock to the end of his
 * transaction.  Whoever moves checkpoints by hand, pauses or drops takes the
 * locks of all partitions, in their order, and only then changes anything.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "common/hashfn.h"
#include "definition.h"
#include "feed.h"
#include "log.h"
#include "run.h"
#include "run_as.h"
#include "spi_plan.h"
#include "stream.h"
#include "subscription.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

static const char *const kind_names[] = {"external", "projection", "handler", "process manager"};
static const char *const on_error_names[] = {"park", "skip", "stop"};

static const EsPlanSpec insert_plan = {
	"INSERT INTO @store@.subscription (name, kind, categories, types, stream, from_position,"
	" partitions, max_retries, on_error, lease, handler, state_type, handle_function,"
	" apply_function, refused_function, initial_state, search_path)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)"
	" ON CONFLICT DO NOTHING",
	17,
	{TEXTOID, TEXTOID, TEXTARRAYOID, TEXTARRAYOID, TEXTOID, INT8OID, INT4OID, INT4OID, TEXTOID,
	 INTERVALOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID},
};

static const EsPlanSpec delete_plan = {
	"DELETE FROM @store@.subscription WHERE name OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
};

static const EsPlanSpec pause_plan = {
	"UPDATE @store@.subscription SET paused = $2 WHERE name OPERATOR(pg_catalog.=) $1",
	2,
	{TEXTOID, BOOLOID},
};

static const EsPlanSpec go_on_plan = {
	"UPDATE @store@.checkpoint SET stopped = false, retry_at = NULL"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND (stopped OR retry_at IS NOT NULL)",
	1,
	{TEXTOID},
};

static const EsPlanSpec reset_plan = {
	"UPDATE @store@.subscription SET resets = resets OPERATOR(pg_catalog.+) 1, from_position = $2"
	" WHERE name OPERATOR(pg_catalog.=) $1",
	2,
	{TEXTOID, INT8OID},
};

/* What goes with a subscription, or with its checkpoints alone. */
static const EsPlanSpec forget_plans[] = {
	{"DELETE FROM @store@.checkpoint WHERE subscription OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}},
	{"DELETE FROM @store@.parked_event WHERE subscription OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}},
	{"DELETE FROM @store@.consumer WHERE subscription OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}},
	{"DELETE FROM @store@.process WHERE process_manager OPERATOR(pg_catalog.=) $1", 1, {TEXTOID}},
};
#define FORGET_CHECKPOINTS	3	/* the first of them */

/* Longer leases would end after the last timestamp there is. */
#define MAX_LEASE_YEARS	1000

static bool has_handler(EsOverloads *handlers, const text *type);
static void *read_subscription(const Datum *values, const bool *nulls);
static int	compare_ids(const ListCell *a, const ListCell *b);
static int	word_number(const char *word, const char *const *words, int nwords);
static void forget(EsStore *store, const char *name, int nplans);
static EsSubscription *named_argument(FunctionCallInfo fcinfo, EsStore *store);
static Datum store_text(const char *text, char *null);
static void require_no_projection(EsStore *store, const char *name);

static const EsDefinitionTable subscription_table = {
	.kind = ES_DEFINITION_SUBSCRIPTION,
	.set_size = sizeof(EsDefinitions),
	.read = read_subscription,
	.compare = compare_ids,
	.ncolumns = 21,
	.columns = {
		{"name", TEXTOID, true},
		{"id", INT8OID, true},
		{"kind", TEXTOID, true},
		{"categories", TEXTARRAYOID, false},
		{"types", TEXTARRAYOID, false},
		{"stream", TEXTOID, false},
		{"from_position", INT8OID, true},
		{"partitions", INT4OID, true},
		{"max_retries", INT4OID, true},
		{"on_error", TEXTOID, true},
		{"lease", INTERVALOID, false},
		{"handler", TEXTOID, false},
		{"state_type", TEXTOID, false},
		{"handle_function", TEXTOID, false},
		{"apply_function", TEXTOID, false},
		{"refused_function", TEXTOID, false},
		{"initial_state", TEXTOID, false},
		{"paused", BOOLOID, true},
		{"resets", INT8OID, true},
		{"search_path", TEXTARRAYOID, true},
		{"owner", TEXTOID, true},
	},
};

PG_FUNCTION_INFO_V1(es_create_subscription);
PG_FUNCTION_INFO_V1(es_create_handler);
PG_FUNCTION_INFO_V1(es_drop_subscription);
PG_FUNCTION_INFO_V1(es_reset_subscription);

/*
 * es_create_subscription(name text, categories text[], types text[], stream text,
 * from_position bigint, partitions int, max_retries int, lease interval)
 */
Datum
es_create_subscription(PG_FUNCTION_ARGS)
{
	EsNewSubscription subscription = {0};
	Interval	no_time = {0};
	Interval	most = {.month = MAX_LEASE_YEARS * MONTHS_PER_YEAR};

	subscription.name = es_argument_text(fcinfo, 0, "name", true);
	subscription.kind = ES_SUBSCRIPTION_EXTERNAL;
	subscription.categories = es_filter_argument(fcinfo, 1, "categories");
	subscription.types = es_filter_argument(fcinfo, 2, "types");
	subscription.stream = PG_ARGISNULL(3) ? NULL : PG_GETARG_TEXT_PP(3);
	subscription.from_position = es_subscription_position_argument(fcinfo, 4, "from_position");
	subscription.partitions = es_argument_count(fcinfo, 5, "partitions", 1,
												ES_MAX_PARTITIONS);
	subscription.max_retries = es_argument_count(fcinfo, 6, "max_retries", 0,
												 PG_INT32_MAX);
	subscription.lease = PG_ARGISNULL(7) ? (Datum) 0 : PG_GETARG_DATUM(7);
	if (PG_ARGISNULL(7) ||
		!DatumGetBool(DirectFunctionCall2(interval_gt, subscription.lease,
										  IntervalPGetDatum(&no_time))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the lease of a subscription must be longer than nothing")));
	if (DatumGetBool(
			DirectFunctionCall2(interval_gt, subscription.lease, IntervalPGetDatum(&most))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the lease of a subscription must be at most %d years", MAX_LEASE_YEARS)));
	subscription.path_names = es_search_path_current(InvalidOid);

	SPI_connect();
	es_subscription_insert(es_store_current(), &subscription);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * es_create_handler(name text, handler text, categories text[], types text[], stream text,
 * from_position bigint, partitions int, max_retries int, on_error text)
 */
Datum
es_create_handler(PG_FUNCTION_ARGS)
{
	EsNewSubscription subscription = {0};
	EsOverloads handlers = {0};

	subscription.name = es_argument_text(fcinfo, 0, "name", true);
	subscription.kind = ES_SUBSCRIPTION_HANDLER;
	subscription.handler = es_argument_text(fcinfo, 1, "handler", true);
	subscription.categories = es_filter_argument(fcinfo, 2, "categories");
	subscription.types = es_filter_argument(fcinfo, 3, "types");
	subscription.stream = PG_ARGISNULL(4) ? NULL : PG_GETARG_TEXT_PP(4);
	subscription.from_position = es_subscription_position_argument(fcinfo, 5, "from_position");
	subscription.partitions = es_argument_count(fcinfo, 6, "partitions", 1,
												ES_MAX_PARTITIONS);
	subscription.max_retries = es_argument_count(fcinfo, 7, "max_retries", 0,
												 PG_INT32_MAX);
	subscription.on_error = es_subscription_on_error_argument(fcinfo, 8);
	subscription.path_names = es_search_path_current(InvalidOid);

	handlers.name = subscription.handler;
	handlers.scope = es_function_scope(subscription.handler, InvalidOid,
									   es_search_path_read(subscription.path_names));
	es_overload_require(&handlers);

	SPI_connect();
	es_subscription_insert(es_store_current(), &subscription);
	SPI_finish();
	PG_RETURN_VOID();
}

/* es_drop_subscription(name text) returns void */
Datum
es_drop_subscription(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	EsSubscription *subscription;

	SPI_connect();
	subscription = named_argument(fcinfo, store);
	es_subscription_delete(store, subscription);
	SPI_finish();
	PG_RETURN_VOID();
}

/* es_reset_subscription(name text, position bigint) returns void */
Datum
es_reset_subscription(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	EsSubscription *subscription;

	SPI_connect();
	subscription = named_argument(fcinfo, store);
	es_subscription_reset(store, subscription,
						  es_subscription_position_argument(fcinfo, 1, "position"));
	SPI_finish();
	PG_RETURN_VOID();
}

List *
es_subscriptions(EsStore *store)
{
	return es_definitions(store, &subscription_table)->list;
}

EsSubscription *
es_subscription_by_name(EsStore *store, const char *name, bool missing_ok)
{
	ListCell   *cell;

	foreach(cell, es_subscriptions(store))
		if (strcmp(((EsSubscription *) lfirst(cell))->name, name) == 0)
			return lfirst(cell);
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" does not exist", name)));
	return NULL;
}

bool
es_subscription_is_same(const EsSubscription *a, const EsSubscription *b)
{
	return a->id == b->id && a->resets == b->resets && a->paused == b->paused;
}

const char *
es_subscription_kind(const EsSubscription *subscription)
{
	return kind_names[subscription->kind];
}

int
es_subscription_partition(const EsSubscription *subscription, const text *stream)
{
	if (subscription->partitions == 1)
		return 0;
	return (int) (hash_bytes((const unsigned char *) VARDATA_ANY(stream),
							 VARSIZE_ANY_EXHDR(stream)) %
				  (uint32) subscription->partitions);
}

bool
es_subscription_wants(EsSubscription *subscription, EsProjection *projection, int partition,
					  const text *type, const text *stream)
{
	return es_filter_selects_stream(&subscription->filter, stream) &&
		(projection == NULL || es_filter_selects_stream(&projection->filter, stream)) &&
		es_subscription_partition(subscription, stream) == partition &&
		es_subscription_wants_type(subscription, projection, type);
}

bool
es_subscription_wants_type(EsSubscription *subscription, EsProjection *projection,
						   const text *type)
{
	if (!es_filter_selects_type(&subscription->filter, type))
		return false;
	switch (subscription->kind)
	{
		case ES_SUBSCRIPTION_EXTERNAL:
			return true;
		case ES_SUBSCRIPTION_PROJECTION:
			return projection && es_filter_selects_type(&projection->filter, type) &&
				(projection->query || has_handler(&projection->handlers, type));
		case ES_SUBSCRIPTION_HANDLER:
		case ES_SUBSCRIPTION_PROCESS_MANAGER:
			return has_handler(&subscription->handlers, type);
	}
	return false;
}

bool
es_subscription_wants_kind(EsSubscription *subscription, EsProjection *projection,
						   const text *type, const text *stream)
{
	return es_filter_selects_category(&subscription->filter, stream) &&
		(projection == NULL || es_filter_selects_category(&projection->filter, stream)) &&
		es_subscription_wants_type(subscription, projection, type);
}

/*
 * With none at all it is not that nobody wants the event: the functions were
 * dropped, or are not found any more, and the event must wait for them.
 */
static bool
has_handler(EsOverloads *handlers, const text *type)
{
	return es_overload(handlers, type) != NULL || !es_overload_exists(handlers);
}

uint64
es_subscriptions_serial(EsStore *store)
{
	return es_definitions(store, &subscription_table)->serial;
}

void
es_subscription_insert(EsStore *store, const EsNewSubscription *subscription)
{
	Datum		values[17];
	char		nulls[18] = "                 ";
	int			n = 0;

	if (strlen(subscription->name) > ES_STREAM_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the subscription's name is too long")));
	if (subscription->kind != ES_SUBSCRIPTION_PROJECTION &&
		es_projection_find(store, subscription->name))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("projection \"%s\" already exists", subscription->name)));
	if (subscription->stream)
		es_stream_check_name(subscription->stream);
	/* or it could never run */
	if (subscription->kind != ES_SUBSCRIPTION_EXTERNAL)
		(void) es_run_as_definition_owner(store, GetUserNameFromId(GetUserId(), false));

	values[n++] = CStringGetTextDatum(subscription->name);
	values[n++] = CStringGetTextDatum(kind_names[subscription->kind]);
	nulls[n] = subscription->categories ? ' ' : 'n';
	values[n++] = subscription->categories;
	nulls[n] = subscription->types ? ' ' : 'n';
	values[n++] = subscription->types;
	nulls[n] = subscription->stream ? ' ' : 'n';
	values[n++] = PointerGetDatum(subscription->stream);
	values[n++] = Int64GetDatum(subscription->from_position);
	values[n++] = Int32GetDatum(subscription->partitions);
	values[n++] = Int32GetDatum(subscription->max_retries);
	values[n++] = CStringGetTextDatum(on_error_names[subscription->on_error]);
	nulls[n] = subscription->lease ? ' ' : 'n';
	values[n++] = subscription->lease;
	values[n] = store_text(subscription->handler, &nulls[n]);
	n++;
	values[n] = store_text(subscription->state_type, &nulls[n]);
	n++;
	values[n] = store_text(subscription->handle_function, &nulls[n]);
	n++;
	values[n] = store_text(subscription->apply_function, &nulls[n]);
	n++;
	values[n] = store_text(subscription->refused_function, &nulls[n]);
	n++;
	values[n] = store_text(subscription->initial_state, &nulls[n]);
	n++;
	values[n++] = PointerGetDatum(subscription->path_names);
	Assert(n == lengthof(values));

	if (es_spi_write(store, &insert_plan, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("subscription \"%s\" already exists", subscription->name)));
}

void
es_subscription_delete(EsStore *store, EsSubscription *subscription)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name)};
	char	   *name = pstrdup(subscription->name);

	es_subscription_lock(store, subscription);
	(void) es_spi_write(store, &delete_plan, values, NULL);
	forget(store, name, lengthof(forget_plans));
}

void
es_subscription_set_paused(EsStore *store, EsSubscription *subscription, bool paused)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), BoolGetDatum(paused)};
	EsRunAs		run_as;

	es_subscription_lock(store, subscription);
	(void) es_spi_write(store, &pause_plan, values, NULL);
	if (!paused)
	{
		es_run_as_begin(&run_as, es_run_as_store_owner(store));
		(void) es_spi_write(store, &go_on_plan, values, NULL);
		es_run_as_end(&run_as);
	}
}

void
es_subscription_reset(EsStore *store, EsSubscription *subscription, int64 position)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int64GetDatum(position)};
	char	   *name = pstrdup(subscription->name);

	es_subscription_lock(store, subscription);
	(void) es_spi_write(store, &reset_plan, values, NULL);
	/* from the start, a process manager's instances begin anew, too */
	forget(store, name, position == 0 ? lengthof(forget_plans) : FORGET_CHECKPOINTS);
}

void
es_subscription_lock(EsStore *store, EsSubscription *subscription)
{
	int			partitions = subscription->partitions;

	/* what was committed while we waited would be overwritten unseen */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change subscription \"%s\" in this isolation level",
						subscription->name),
				 errhint("Use a transaction in READ COMMITTED.")));
	es_subscription_forbid_in_own_handler(subscription);
	for (int i = 0; i < partitions; i++)
		(void) es_checkpoint_lock(store, subscription, i, true);
}

void
es_subscription_forbid_in_own_handler(const EsSubscription *subscription)
{
	if (es_run_is_at(subscription))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change subscription \"%s\" in its own handler",
						subscription->name)));
}

/*
 * NULL: from now on.  That is the last event at or below the high-water mark:
 * what is in flight comes after it, whatever its position.
 */
int64
es_subscription_position_argument(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (PG_ARGISNULL(arg))
	{
		EsStore    *store = es_store_current();
		int64		mark = es_feed_high_water(store);

		return es_log_position_at_or_before(store, mark, GetLatestSnapshot());
	}
	if (PG_GETARG_INT64(arg) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be negative", name)));
	return PG_GETARG_INT64(arg);
}

EsOnError
es_subscription_on_error_argument(FunctionCallInfo fcinfo, int arg)
{
	char	   *word = es_argument_text(fcinfo, arg, "on_error", true);
	int			number = word_number(word, on_error_names, lengthof(on_error_names));

	if (number < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value \"%s\" of on_error", word),
				 errhint("Use \"park\", \"skip\" or \"stop\".")));
	return (EsOnError) number;
}

static void *
read_subscription(const Datum *values, const bool *nulls)
{
	EsSubscription *subscription = palloc0(sizeof(EsSubscription));
	int			kind = word_number(es_definition_string(values, nulls, 2), kind_names,
						   lengthof(kind_names));
	int			on_error = word_number(es_definition_string(values, nulls, 9), on_error_names,
							   lengthof(on_error_names));

	if (kind < 0 || on_error < 0)
		return NULL;
	subscription->context = CurrentMemoryContext;
	subscription->name = es_definition_string(values, nulls, 0);
	subscription->id = DatumGetInt64(values[1]);
	subscription->kind = (EsSubscriptionKind) kind;
	subscription->filter.categories = es_definition_list(values, nulls, 3);
	subscription->filter.types = es_definition_list(values, nulls, 4);
	subscription->filter.stream = es_definition_string(values, nulls, 5);
	subscription->from_position = DatumGetInt64(values[6]);
	subscription->partitions = Min(Max(DatumGetInt32(values[7]), 1), ES_MAX_PARTITIONS);
	subscription->max_retries = DatumGetInt32(values[8]);
	subscription->on_error = (EsOnError) on_error;
	if (!nulls[10])
	{
		subscription->lease = palloc(sizeof(Interval));
		memcpy(subscription->lease, DatumGetIntervalP(values[10]), sizeof(Interval));
	}
	subscription->handlers.name = es_definition_string(values, nulls, 11);
	subscription->state_type = es_definition_string(values, nulls, 12);
	subscription->handle_function = es_definition_string(values, nulls, 13);
	subscription->apply_function = es_definition_string(values, nulls, 14);
	subscription->refused_function = es_definition_string(values, nulls, 15);
	subscription->initial_state = es_definition_string(values, nulls, 16);
	subscription->paused = DatumGetBool(values[17]);
	subscription->resets = DatumGetInt64(values[18]);
	subscription->path = es_search_path_read(DatumGetArrayTypeP(values[19]));
	subscription->owner = es_definition_string(values, nulls, 20);

	if (subscription->handlers.name)
	{
		EsOverloads *handlers = &subscription->handlers;

		handlers->context = subscription->context;
		handlers->owner = psprintf("%s \"%s\"", kind_names[kind], subscription->name);
		handlers->scope = es_function_scope(handlers->name, InvalidOid, subscription->path);
	}
	return subscription;
}

static int
compare_ids(const ListCell *a, const ListCell *b)
{
	int64		a_id = ((const EsSubscription *) lfirst(a))->id;
	int64		b_id = ((const EsSubscription *) lfirst(b))->id;

	return a_id < b_id ? -1 : a_id > b_id;
}

static int
word_number(const char *word, const char *const *words, int nwords)
{
	for (int i = 0; i < nwords; i++)
		if (strcmp(word, words[i]) == 0)
			return i;
	return -1;
}

/* The rows that go with a subscription are the store's own: whoever may delete it, deletes them. */
static void
forget(EsStore *store, const char *name, int nplans)
{
	Datum		values[] = {CStringGetTextDatum(name)};
	EsRunAs		run_as;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	for (int i = 0; i < nplans; i++)
		(void) es_spi_write(store, &forget_plans[i], values, NULL);
	es_run_as_end(&run_as);
}

/* The first argument as a subscription that is not a projection's. */
static EsSubscription *
named_argument(FunctionCallInfo fcinfo, EsStore *store)
{
	char	   *name = es_argument_text(fcinfo, 0, "the subscription's name", true);
	EsSubscription *subscription;

	require_no_projection(store, name);
	subscription = es_subscription_by_name(store, name, false);
	return subscription;
}

static Datum
store_text(const char *text, char *null)
{
	*null = text ? ' ' : 'n';
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

static void
require_no_projection(EsStore *store, const char *name)
{
	if (es_projection_find(store, name))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a projection", name),
				 errhint("Use es_create_projection(), es_rebuild_projection() and es_drop_projection() for projections.")));
}
