/*-------------------------------------------------------------------------
 *
 * projection_mode.c
 *		Modes of projections: inline or async, running or paused.
 *
 * Every change of mode happens at a position: what comes before it was seen in
 * the old mode, what comes after it will be in the new one.  An inline
 * projection is left and entered under the log's ShareRowExclusiveLock, when no
 * append is under way; an async one under the locks of its subscription, which
 * come before the log's in the order of locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "argument.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "feed.h"
#include "fmgr.h"
#include "log.h"
#include "projection_definition.h"
#include "projection_mode.h"
#include "rebuild.h"
#include "replica.h"
#include "run_as.h"
#include "spi_plan.h"
#include "storage/lmgr.h"
#include "subscription.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#define DEFAULT_MAX_RETRIES 5

static const EsPlanSpec pause_plan = {
	"UPDATE @store@.projection SET paused_at = $2 WHERE name OPERATOR(pg_catalog.=) $1",
	2,
	{TEXTOID, INT8OID},
};

static const EsPlanSpec mode_plan = {
	"UPDATE @store@.projection SET mode = $2, paused_at = $3 WHERE name OPERATOR(pg_catalog.=) $1",
	3,
	{TEXTOID, TEXTOID, INT8OID},
};

static const EsPlanSpec path_plan = {
	"SELECT search_path::pg_catalog.text[] FROM @store@.projection"
	" WHERE name OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
};

static const EsPlanSpec parked_plan = {
	"SELECT 1 FROM @store@.parked_event WHERE subscription OPERATOR(pg_catalog.=) $1 LIMIT 1",
	1,
	{TEXTOID},
};

static void make_async(EsStore *store, EsProjection *projection);
static void make_inline(EsStore *store, EsProjection *projection);
static void write_mode(EsStore *store, const char *name, const char *mode, bool paused,
					   int64 paused_at);
static void set_paused(EsStore *store, const char *name, bool paused, int64 paused_at);
static ArrayType *stored_path(EsStore *store, const char *name);
static void require_nothing_parked(EsStore *store, const char *name);
static EsSubscription *subscription_to_pause(EsStore *store, const char *name);

PG_FUNCTION_INFO_V1(es_alter_projection);
PG_FUNCTION_INFO_V1(es_pause);
PG_FUNCTION_INFO_V1(es_resume);

/* es_alter_projection(name text, mode text) returns void */
Datum
es_alter_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the projection's name", true);
	bool		async = es_projection_mode_is_async(PG_ARGISNULL(1) ?
												 NULL :
												 text_to_cstring(PG_GETARG_TEXT_PP(1)));
	EsProjection *projection = es_projection_by_name(store, name);

	es_replica_forbid(store, "change the mode of a projection of");
	SPI_connect();
	if (async && !projection->async)
		make_async(store, projection);
	else if (!async && projection->async)
		make_inline(store, projection);
	SPI_finish();
	PG_RETURN_VOID();
}

/* es_pause(name text) returns void */
Datum
es_pause(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the projection's name", true);
	EsSubscription *subscription = subscription_to_pause(store, name);

	if (subscription == NULL)
		es_replica_forbid(store, "pause an inline projection of");
	SPI_connect();
	if (subscription)
	{
		if (!subscription->paused)
			es_subscription_set_paused(store, subscription, true);
	}
	else
	{
		/* with no append under way, the last event is the last one it has seen */
		LockRelationOid(store->event, ShareRowExclusiveLock);
		if (!es_projection_by_name(store, name)->paused)
			set_paused(store, name, true, es_log_last_position(store, GetLatestSnapshot()));
	}
	SPI_finish();
	PG_RETURN_VOID();
}

/* es_resume(name text) returns void */
Datum
es_resume(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the projection's name", true);
	EsSubscription *subscription = subscription_to_pause(store, name);

	SPI_connect();
	if (subscription)
		es_subscription_set_paused(store, subscription, false);
	else
	{
		EsProjection *projection;

		LockRelationOid(store->event, ShareRowExclusiveLock);
		projection = es_rebuild_lock(store, name);
		if (projection->paused)
		{
			int64		paused_at = projection->paused_at;

			(void) es_rebuild_replay(store, projection, paused_at, PG_INT64_MAX);
			set_paused(store, name, false, 0);
		}
	}
	SPI_finish();
	PG_RETURN_VOID();
}

bool
es_projection_mode_is_async(const char *mode)
{
	if (mode && strcmp(mode, "async") == 0)
		return true;
	if (mode == NULL || strcmp(mode, "inline") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid mode \"%s\" of a projection", mode ? mode : "NULL"),
				 errhint("Use \"inline\" or \"async\".")));
	return false;
}

void
es_projection_subscribe(EsStore *store, const char *name, int64 position, ArrayType *path_names)
{
	EsNewSubscription subscription = {0};

	subscription.name = name;
	subscription.kind = ES_SUBSCRIPTION_PROJECTION;
	subscription.from_position = position;
	subscription.partitions = 1;
	subscription.max_retries = DEFAULT_MAX_RETRIES;
	subscription.on_error = ES_ON_ERROR_PARK;
	subscription.path_names = path_names;
	es_subscription_insert(store, &subscription);
}

/* What the appends so far have projected, no batch will see again. */
static void
make_async(EsStore *store, EsProjection *projection)
{
	char	   *name = pstrdup(projection->name);
	int64		position;
	bool		paused;

	LockRelationOid(store->event, ShareRowExclusiveLock);
	projection = es_rebuild_lock(store, name);
	paused = projection->paused;
	position = paused ? projection->paused_at : es_log_last_position(store, GetLatestSnapshot());
	es_projection_subscribe(store, name, position, stored_path(store, name));
	if (paused)
		es_subscription_set_paused(store, es_subscription_by_name(store, name, false), true);
	write_mode(store, name, "async", false, 0);
}

/*
 * The batches that are missing are caught up with here: most of them beside
 * writers, the rest when no append is under way.
 */
static void
make_inline(EsStore *store, EsProjection *projection)
{
	char	   *name = pstrdup(projection->name);
	EsSubscription *subscription = es_subscription_by_name(store, name, false);
	EsCheckpoint checkpoint;
	EsRunAs		run_as;
	int64		mark;

	/* the projection's own lock first, as in a rebuild */
	projection = es_rebuild_lock(store, name);
	es_subscription_lock(store, subscription);
	require_nothing_parked(store, name);
	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	es_checkpoint_read(store, subscription, 0, &checkpoint);
	mark = es_feed_high_water(store);
	es_run_as_end(&run_as);
	if (!subscription->paused)
		(void) es_rebuild_replay(store, projection, checkpoint.position, mark);
	es_projection_put_trigger(store);
	if (!subscription->paused)
		(void) es_rebuild_replay(store, projection, Max(checkpoint.position, mark), PG_INT64_MAX);
	write_mode(store, name, "inline", subscription->paused, checkpoint.position);
	es_subscription_delete(store, subscription);
}

static void
write_mode(EsStore *store, const char *name, const char *mode, bool paused, int64 paused_at)
{
	Datum		values[] = {CStringGetTextDatum(name), CStringGetTextDatum(mode),
					  Int64GetDatum(paused_at)};

	(void) es_spi_write(store, &mode_plan, values, paused ? NULL : "  n");
}

static void
set_paused(EsStore *store, const char *name, bool paused, int64 paused_at)
{
	Datum		values[] = {CStringGetTextDatum(name), Int64GetDatum(paused_at)};

	(void) es_spi_write(store, &pause_plan, values, paused ? NULL : " n");
}

static ArrayType *
stored_path(EsStore *store, const char *name)
{
	Datum		values[] = {CStringGetTextDatum(name)};
	bool		isnull;

	es_spi_read(store, &path_plan, values, NULL, GetLatestSnapshot(), 1);
	return DatumGetArrayTypePCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
												&isnull));
}

static void
require_nothing_parked(EsStore *store, const char *name)
{
	Datum		values[] = {CStringGetTextDatum(name)};
	EsRunAs		run_as;
	bool		parked;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	es_spi_read(store, &parked_plan, values, NULL, GetLatestSnapshot(), 1);
	parked = SPI_processed > 0;
	es_run_as_end(&run_as);
	if (parked)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has parked events", name),
				 errhint("Replay them with es_replay_parked(), or give them up with es_skip_parked().")));
}

/* The subscription of that name; NULL for an inline projection.  42704 when there is neither. */
static EsSubscription *
subscription_to_pause(EsStore *store, const char *name)
{
	EsSubscription *subscription = es_subscription_by_name(store, name, true);

	if (subscription == NULL && es_projection_find(store, name) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no projection or subscription \"%s\"", name)));
	return subscription;
}
