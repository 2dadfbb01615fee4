/*-------------------------------------------------------------------------
 *
 * wait.c
 *		Waiting until a subscription has passed a position.
 *
 * A subscription has passed a position when there is no event at or below it,
 * nor will ever be, that it has not done.  Its checkpoint alone need not tell:
 * it is the position of an event, and the position asked for may lie in a gap
 * after it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "executor/spi.h"
#include "feed.h"
#include "fmgr.h"
#include "log.h"
#include "projection_definition.h"
#include "replica.h"
#include "spi_plan.h"
#include "subscription.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "wake.h"

/* Nobody waits for longer; a sum of times that has no bound might overflow. */
#define LONGEST_WAIT_MS (365.0 * 86400 * 1000)

static int64 timeout_argument(FunctionCallInfo fcinfo, int arg);
static bool has_passed(const char *name, int64 position);
static bool checkpoint_passed(EsStore *store, EsSubscription *subscription, int64 position);
static bool wait_until_passed(const char *name, int64 position, int64 timeout_ms);

PG_FUNCTION_INFO_V1(es_wait);
PG_FUNCTION_INFO_V1(es_wait_check);
PG_FUNCTION_INFO_V1(es_async_projections);

/* es_wait(name text, position bigint, timeout interval) returns boolean */
Datum
es_wait(PG_FUNCTION_ARGS)
{
	char	   *name;
	int64		position;
	int64		timeout_ms;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", PG_ARGISNULL(0) ? "name" : "position")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	position = PG_GETARG_INT64(1);
	if (position < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("position must not be negative")));
	timeout_ms = timeout_argument(fcinfo, 2);

	if (has_passed(name, position))
		PG_RETURN_BOOL(true);
	if (timeout_ms == 0)
		PG_RETURN_BOOL(false);
	if (es_feed_registered_before(es_store_current(), position))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot wait for events of a transaction that is not over"),
				 errdetail("This transaction has appended events, and nobody sees position %lld before it commits.",
						   (long long) position),
				 errhint("Commit first, or CALL es_dispatch_and_wait().")));
	PG_RETURN_BOOL(wait_until_passed(name, position, timeout_ms));
}

/*
 * es_wait_check(subscriptions text[], timeout interval) returns void
 *
 * Raise now what es_wait() would raise for one of them later.
 */
Datum
es_wait_check(PG_FUNCTION_ARGS)
{
	Datum	   *names;
	bool	   *nulls;
	int			nnames;

	(void) timeout_argument(fcinfo, 1);
	if (PG_ARGISNULL(0))
		PG_RETURN_VOID();
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(0), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &nnames);
	for (int i = 0; i < nnames; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("subscriptions must not contain NULL")));
		(void) has_passed(TextDatumGetCString(names[i]), 0);
	}
	PG_RETURN_VOID();
}

/* es_async_projections(stream text, types text[]) returns text[]; STRICT */
Datum
es_async_projections(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_GETARG_TEXT_PP(0);
	EsStore    *store = es_store_current();
	ArrayBuildState *names = initArrayResult(TEXTOID, CurrentMemoryContext, false);
	Datum	   *types;
	int			ntypes;
	ListCell   *cell;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT, &types, NULL,
					  &ntypes);
	foreach(cell, es_subscriptions(store))
	{
		EsSubscription *subscription = lfirst(cell);
		int			partition;
		bool		wants = false;

		if (subscription->kind != ES_SUBSCRIPTION_PROJECTION)
			continue;
		partition = es_subscription_partition(subscription, stream);
		for (int i = 0; i < ntypes && !wants; i++)
			wants = es_subscription_wants(subscription,
										  es_projection_find(store, subscription->name), partition,
										  DatumGetTextPP(types[i]), stream);
		if (wants)
			(void) accumArrayResult(names, CStringGetTextDatum(subscription->name), false,
									TEXTOID, CurrentMemoryContext);
	}
	PG_RETURN_DATUM(makeArrayResult(names, CurrentMemoryContext));
}

/* An interval in milliseconds; a month has 30 days, as everywhere. */
static int64
timeout_argument(FunctionCallInfo fcinfo, int arg)
{
	Interval   *timeout;
	double		ms;

	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("timeout must not be NULL")));
	timeout = PG_GETARG_INTERVAL_P(arg);
	ms = timeout->time / 1000.0 +
		((double) timeout->month * DAYS_PER_MONTH + timeout->day) * SECS_PER_DAY * 1000.0;
	if (ms < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout must not be negative")));
	return (int64) ceil(Min(ms, LONGEST_WAIT_MS));
}

/* Look again and again.  No snapshot of ours is held while sleeping. */
static bool
wait_until_passed(const char *name, int64 position, int64 timeout_ms)
{
	TimestampTz deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing wait",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	volatile bool passed = false;

	es_wait_begin(ES_WAIT_FOR_CHECKPOINTS);
	PG_TRY();
	{
		for (;;)
		{
			long		left_ms;

			MemoryContextReset(context);
			passed = has_passed(name, position);
			left_ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), deadline);
			if (passed || left_ms == 0)
				break;
			es_wait_sleep(ES_WAIT_FOR_CHECKPOINTS, left_ms);
		}
	}
	PG_FINALLY();
	{
		es_wait_end();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return passed;
}

/* As things are now, whatever the transaction's snapshot is; 42704 for an unknown name. */
static bool
has_passed(const char *name, int64 position)
{
	EsStore    *store = es_store_current();
	EsSubscription *subscription;
	EsProjection *projection;
	bool		passed;

	SPI_connect();
	subscription = es_subscription_by_name(store, name, true);
	if (subscription)
		passed = checkpoint_passed(store, subscription, position);
	else if ((projection = es_projection_find(store, name)) != NULL)
		passed = !projection->paused || projection->paused_at >= position;
	else
	{
		(void) es_subscription_by_name(store, name, false);
		pg_unreachable();
	}
	SPI_finish();
	return passed;
}

static bool
checkpoint_passed(EsStore *store, EsSubscription *subscription, int64 position)
{
	int64		lowest = es_checkpoint_lowest(store, subscription);

	if (lowest >= position)
		return true;
	/* neither a standby nor a replica can tell what may still come */
	if (RecoveryInProgress() || es_replica_is(store) || es_feed_high_water(store) < position)
		return false;
	return lowest >= es_log_position_at_or_before(store, position, GetLatestSnapshot());
}
