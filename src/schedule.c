/*-------------------------------------------------------------------------
 *
 * schedule.c
 *		Scheduled commands.
 *
 * A row of the table schedule is a command that waits for its time.  Whoever
 * runs the store locks the row, dispatches the command as the role that
 * scheduled it, and deletes the row or moves its time, all in one transaction:
 * so it is dispatched once, whoever crashes when.  What was due while nobody was
 * there is dispatched once then, however often it would have been its turn.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "attempt.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "common/int.h"
#include "dispatch.h"
#include "event.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guc.h"
#include "handling.h"
#include "miscadmin.h"
#include "run_as.h"
#include "schedule.h"
#include "spi_plan.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "wake.h"

/* A schedule is given up after this many failures, unless it has a next time. */
#define MAX_ATTEMPTS	6

/* What a call of es_schedule() gives. */
typedef struct NewSchedule
{
	char	   *command_type;
	Jsonb	   *data;
	TimestampTz at;
	Interval   *every;			/* NULL: once */
	Jsonb	   *metadata;
	const pg_uuid_t *schedule_id;
	const pg_uuid_t *correlation_id;
	const pg_uuid_t *causation_id;
} NewSchedule;

/* A schedule that is due. */
typedef struct Schedule
{
	EsStore    *store;
	pg_uuid_t  *id;
	TimestampTz due_at;
	Interval   *every;			/* NULL: once */
	TimestampTz first_at;		/* recurring: due_at is that and turns times every */
	int64		turns;
	char	   *command_type;
	Jsonb	   *data;
	Jsonb	   *metadata;
	pg_uuid_t  *correlation_id;
	pg_uuid_t  *causation_id;
	int			attempts;
	char	   *owner;
} Schedule;

static const EsPlanSpec insert_plan = {
	"INSERT INTO @store@.schedule AS s"
	" (schedule_id, due_at, first_at, every, command_type, data, metadata, correlation_id, causation_id)"
	" VALUES ($1, $2, $2, $3, $4, $5, $6, $7, $8)"
	" ON CONFLICT (schedule_id) DO UPDATE SET (due_at, first_at, turns, every, command_type, data,"
	" metadata, correlation_id, causation_id, attempts, retry_at, last_error, last_error_at,"
	" failed_at, owner) = ROW (excluded.due_at, excluded.first_at, 0, excluded.every,"
	" excluded.command_type, excluded.data, excluded.metadata, excluded.correlation_id,"
	" excluded.causation_id, 0, NULL, NULL, NULL, NULL, excluded.owner)",
	8,
	{UUIDOID, TIMESTAMPTZOID, INTERVALOID, TEXTOID, JSONBOID, JSONBOID, UUIDOID, UUIDOID},
};

static const EsPlanSpec delete_plan = {
	"DELETE FROM @store@.schedule WHERE schedule_id OPERATOR(pg_catalog.=) $1",
	1,
	{UUIDOID},
};

/* A command that has put itself off, or taken itself back, has had its way. */
static const EsPlanSpec done_plan = {
	"DELETE FROM @store@.schedule WHERE schedule_id OPERATOR(pg_catalog.=) $1"
	" AND due_at OPERATOR(pg_catalog.=) $2",
	2,
	{UUIDOID, TIMESTAMPTZOID},
};

/* One that somebody else is at is skipped: he will have dispatched it. */
static const EsPlanSpec due_plan = {
	"SELECT schedule_id::pg_catalog.uuid, due_at::pg_catalog.timestamptz,"
	" every::pg_catalog.interval, command_type::pg_catalog.text, data::pg_catalog.jsonb,"
	" metadata::pg_catalog.jsonb, correlation_id::pg_catalog.uuid,"
	" causation_id::pg_catalog.uuid, attempts::pg_catalog.int4, owner::pg_catalog.text,"
	" COALESCE(first_at, due_at)::pg_catalog.timestamptz, turns::pg_catalog.int8"
	" FROM @store@.schedule WHERE failed_at IS NULL AND due_at OPERATOR(pg_catalog.<=) $1"
	" AND (retry_at IS NULL OR retry_at OPERATOR(pg_catalog.<=) $1)"
	" AND (every IS NULL OR due_at OPERATOR(pg_catalog.<=) $2)"
	" AND (schedule_id, due_at, turns, command_type, data, attempts, owner) IS NOT NULL"
	" ORDER BY due_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED",
	2,
	{TIMESTAMPTZOID, TIMESTAMPTZOID},
};

static const EsPlanSpec next_plan = {
	"SELECT pg_catalog.min(GREATEST(due_at, retry_at))::pg_catalog.timestamptz"
	" FROM (SELECT due_at, retry_at FROM @store@.schedule WHERE failed_at IS NULL"
	" ORDER BY due_at LIMIT 100) s WHERE GREATEST(due_at, retry_at) OPERATOR(pg_catalog.>) $1",
	1,
	{TIMESTAMPTZOID},
};

static const EsPlanSpec move_plan = {
	"UPDATE @store@.schedule SET due_at = $2, attempts = $3, retry_at = $4, failed_at = $5,"
	" turns = $8, last_error = $6, last_error_at = CASE WHEN $6 IS NULL THEN last_error_at"
	" ELSE pg_catalog.clock_timestamp() END"
	" WHERE schedule_id OPERATOR(pg_catalog.=) $1 AND due_at OPERATOR(pg_catalog.=) $7",
	8,
	{UUIDOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID,
	 INT8OID},
};

static Datum schedule_command(NewSchedule *schedule);
static void common_arguments(FunctionCallInfo fcinfo, int first, NewSchedule *schedule);
static bool has_next_turn(TimestampTz from, const Interval *every);
static bool find_due(EsStore *store, TimestampTz now, TimestampTz recur_until, Schedule *schedule);
static TimestampTz find_next(EsStore *store, TimestampTz now);
static void dispatch_body(void *arg);
static void note_success(Schedule *schedule, TimestampTz now);
static void note_failure(Schedule *schedule, const EsAttempt *attempt, TimestampTz now);
static TimestampTz next_turn(Schedule *schedule, TimestampTz now);
static void move(Schedule *schedule, TimestampTz due_at, int attempts, TimestampTz retry_at,
				 TimestampTz failed_at, const char *message);

PG_FUNCTION_INFO_V1(es_schedule_record);
PG_FUNCTION_INFO_V1(es_schedule_json);
PG_FUNCTION_INFO_V1(es_schedule_literal);
PG_FUNCTION_INFO_V1(es_unschedule);

/*
 * es_schedule(command anyelement, at timestamptz, every interval, metadata jsonb,
 * schedule_id uuid, correlation_id uuid, causation_id uuid) returns uuid
 */
Datum
es_schedule_record(PG_FUNCTION_ARGS)
{
	NewSchedule schedule = {0};

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the command must not be NULL")));
	es_dispatch_describe(get_fn_expr_argtype(fcinfo->flinfo, 0), PG_GETARG_DATUM(0),
						 &schedule.command_type, &schedule.data);
	common_arguments(fcinfo, 1, &schedule);
	return schedule_command(&schedule);
}

/* es_schedule(command_type text, data jsonb, at timestamptz, ...), as above */
Datum
es_schedule_json(PG_FUNCTION_ARGS)
{
	NewSchedule schedule = {0};

	if (!PG_ARGISNULL(0))
		schedule.command_type = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
		schedule.data = PG_GETARG_JSONB_P(1);
	common_arguments(fcinfo, 2, &schedule);
	return schedule_command(&schedule);
}

/* es_schedule(command_type text, data text, at text, every text, metadata text, ...), as above */
Datum
es_schedule_literal(PG_FUNCTION_ARGS)
{
	for (int i = 1; i <= 4; i++)
	{
		text	   *literal = PG_ARGISNULL(i) ? NULL : PG_GETARG_TEXT_PP(i);

		if (literal == NULL)
			continue;
		if (i == 2 || i == 3)
			fcinfo->args[i].value = DirectFunctionCall3(i == 2 ? timestamptz_in : interval_in,
														CStringGetDatum(text_to_cstring(literal)),
														ObjectIdGetDatum(InvalidOid),
														Int32GetDatum(-1));
		else
			fcinfo->args[i].value = es_jsonb_from_text(literal);
	}
	return es_schedule_json(fcinfo);
}

/* es_unschedule(schedule_id uuid) returns boolean */
Datum
es_unschedule(PG_FUNCTION_ARGS)
{
	Datum		values[1];
	uint64		count;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("schedule_id must not be NULL")));
	values[0] = PG_GETARG_DATUM(0);
	SPI_connect();
	count = es_spi_write(es_store_current(), &delete_plan, values, NULL);
	SPI_finish();
	PG_RETURN_BOOL(count > 0);
}

bool
es_schedule_run_due(EsStore *store, bool foreground, TimestampTz recur_until, bool *dispatched,
					TimestampTz *next_time)
{
	TimestampTz now = GetCurrentTimestamp();
	Schedule	schedule = {.store = store};
	EsAttempt	attempt = {.foreground = foreground};
	EsRunAs		run_as;
	bool		due;

	*dispatched = false;
	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	due = find_due(store, now, recur_until, &schedule);
	*next_time = due ? 0 : find_next(store, now);
	es_run_as_end(&run_as);
	if (!due)
		return false;

	attempt.timeout_ms = es_handler_timeout_ms;
	*dispatched = es_attempt(&attempt, dispatch_body, &schedule);
	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	if (*dispatched)
		note_success(&schedule, now);
	else
		note_failure(&schedule, &attempt, now);
	es_run_as_end(&run_as);
	return true;
}

/* at, every, metadata, schedule_id, correlation_id, causation_id */
static void
common_arguments(FunctionCallInfo fcinfo, int first, NewSchedule *schedule)
{
	if (PG_ARGISNULL(first))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the time of a scheduled command must not be NULL")));
	schedule->at = PG_GETARG_TIMESTAMPTZ(first);
	if (TIMESTAMP_NOT_FINITE(schedule->at))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the time of a scheduled command must be finite")));
	if (!PG_ARGISNULL(first + 1))
	{
		schedule->every = PG_GETARG_INTERVAL_P(first + 1);
		if (!has_next_turn(Max(schedule->at, GetCurrentTimestamp()), schedule->every))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid interval of a scheduled command"),
					 errhint("It must be longer than nothing, with no negative part, and end within the range of timestamps.")));
	}
	if (!PG_ARGISNULL(first + 2))
		schedule->metadata = PG_GETARG_JSONB_P(first + 2);
	if (!PG_ARGISNULL(first + 3))
		schedule->schedule_id = PG_GETARG_UUID_P(first + 3);
	if (!PG_ARGISNULL(first + 4))
		schedule->correlation_id = PG_GETARG_UUID_P(first + 4);
	if (!PG_ARGISNULL(first + 5))
		schedule->causation_id = PG_GETARG_UUID_P(first + 5);
}

/*
 * Whether a time and an interval give a later time.  Months and days are taken
 * for their longest: what this lets through never fails, and always goes forward.
 */
static bool
has_next_turn(TimestampTz from, const Interval *every)
{
	int64		days = (int64) every->month * 31 + every->day;
	int64		length;
	TimestampTz next;

	return every->month >= 0 && every->day >= 0 && every->time >= 0 &&
		!pg_mul_s64_overflow(days, USECS_PER_DAY, &length) &&
		!pg_add_s64_overflow(length, every->time, &length) && length > 0 &&
		!pg_add_s64_overflow(from, length, &next) && IS_VALID_TIMESTAMP(next);
}

static Datum
schedule_command(NewSchedule *schedule)
{
	EsStore    *store = es_store_current();
	const EsHandling *handling = es_handling_current();
	pg_uuid_t  *id = palloc(sizeof(pg_uuid_t));
	Datum		values[8];
	char		nulls[] = "        ";

	if (schedule->command_type == NULL || schedule->data == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the type and the data of a scheduled command must not be NULL")));
	if (schedule->metadata && !JB_ROOT_IS_OBJECT(schedule->metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the metadata of a command must be a JSON object")));
	/* what could never be dispatched is refused now */
	es_dispatch_check(store, schedule->command_type, schedule->data);
	(void) es_run_as_definition_owner(store, GetUserNameFromId(GetUserId(), false));

	if (schedule->schedule_id)
		*id = *schedule->schedule_id;
	else
		es_uuid_v7(id);
	if (handling && schedule->correlation_id == NULL)
		schedule->correlation_id = handling->correlation_id;
	if (handling && schedule->causation_id == NULL)
		schedule->causation_id = handling->causation_id;

	values[0] = UUIDPGetDatum(id);
	values[1] = TimestampTzGetDatum(schedule->at);
	values[2] = PointerGetDatum(schedule->every);
	values[3] = CStringGetTextDatum(schedule->command_type);
	values[4] = JsonbPGetDatum(schedule->data);
	values[5] = PointerGetDatum(es_event_metadata(schedule->metadata));
	values[6] = PointerGetDatum(schedule->correlation_id);
	values[7] = PointerGetDatum(schedule->causation_id);
	for (int i = 2; i < lengthof(values); i++)
		nulls[i] = DatumGetPointer(values[i]) == NULL ? 'n' : ' ';

	SPI_connect();
	(void) es_spi_write(store, &insert_plan, values, nulls);
	SPI_finish();
	es_wake_workers_at_end();
	PG_RETURN_UUID_P(id);
}

/* The schedule that has been due longest, its row locked; in the current context. */
static bool
find_due(EsStore *store, TimestampTz now, TimestampTz recur_until, Schedule *schedule)
{
	Datum		values[] = {TimestampTzGetDatum(now), TimestampTzGetDatum(recur_until)};
	MemoryContext caller = CurrentMemoryContext;
	HeapTuple	row;
	TupleDesc	tupdesc;
	Datum		column[12];
	bool		isnull[12];

	/* it locks a row, so it is a writing statement */
	if (es_spi_write(store, &due_plan, values, NULL) == 0)
		return false;
	MemoryContextSwitchTo(caller);
	row = SPI_tuptable->vals[0];
	tupdesc = SPI_tuptable->tupdesc;
	for (int i = 0; i < lengthof(column); i++)
		column[i] = SPI_getbinval(row, tupdesc, i + 1, &isnull[i]);
	/* the rows live as long as our SPI connection */
	schedule->id = DatumGetUUIDP(column[0]);
	schedule->due_at = DatumGetTimestampTz(column[1]);
	schedule->every = isnull[2] ? NULL : DatumGetIntervalP(column[2]);
	if (schedule->every && !has_next_turn(now, schedule->every))
		schedule->every = NULL; /* es_schedule() did not write that */
	schedule->command_type = TextDatumGetCString(column[3]);
	schedule->data = DatumGetJsonbPCopy(column[4]);
	schedule->metadata = isnull[5] ? NULL : DatumGetJsonbPCopy(column[5]);
	schedule->correlation_id = isnull[6] ? NULL : DatumGetUUIDP(column[6]);
	schedule->causation_id = isnull[7] ? NULL : DatumGetUUIDP(column[7]);
	schedule->attempts = DatumGetInt32(column[8]);
	schedule->owner = TextDatumGetCString(column[9]);
	schedule->first_at = DatumGetTimestampTz(column[10]);
	schedule->turns = DatumGetInt64(column[11]);
	return true;
}

/* When the next schedule will be due; 0 when there is none. */
static TimestampTz
find_next(EsStore *store, TimestampTz now)
{
	Datum		values[] = {TimestampTzGetDatum(now)};
	Datum		next;
	bool		isnull;

	es_spi_read(store, &next_plan, values, NULL, GetLatestSnapshot(), 1);
	next = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	SPI_freetuptable(SPI_tuptable);
	return isnull ? 0 : DatumGetTimestampTz(next);
}

static void
dispatch_body(void *arg)
{
	Schedule   *schedule = arg;
	EsRunAs		run_as;

	es_run_as_begin(&run_as, es_run_as_definition_owner(schedule->store, schedule->owner));
	es_dispatch_named(schedule->command_type, schedule->data, schedule->metadata,
					  schedule->correlation_id ? schedule->correlation_id : schedule->id,
					  schedule->causation_id ? schedule->causation_id : schedule->id);
	es_run_as_end(&run_as);
}

static void
note_success(Schedule *schedule, TimestampTz now)
{
	Datum		values[] = {UUIDPGetDatum(schedule->id), TimestampTzGetDatum(schedule->due_at)};

	if (schedule->every)
		move(schedule, next_turn(schedule, now), 0, 0, 0, NULL);
	else
		(void) es_spi_write(schedule->store, &done_plan, values, NULL);
}

static void
note_failure(Schedule *schedule, const EsAttempt *attempt, TimestampTz now)
{
	int			attempts = schedule->attempts + (attempt->canceled ? 0 : 1);
	TimestampTz retry_at = GetCurrentTimestamp() +
		es_checkpoint_backoff_ms(Max(attempts, 1)) * INT64CONST(1000);
	bool		given_up = attempts >= MAX_ATTEMPTS;

	if (attempts == 1 || given_up)
		ereport(LOG,
				(errmsg(given_up ? "scheduled command %s of event store %s is given up" :
								   "scheduled command %s of event store %s failed, and will be tried again",
						es_uuid_string(schedule->id), schedule->store->name),
				 errdetail_log("%s: %s", schedule->command_type, attempt->error->message)));
	if (!given_up)
		move(schedule, schedule->due_at, attempts, retry_at, 0, attempt->error->message);
	else if (schedule->every)
		move(schedule, next_turn(schedule, now), 0, 0, 0, attempt->error->message);
	else
		move(schedule, schedule->due_at, attempts, 0, now, attempt->error->message);
}

/* The next time of a recurring schedule that lies ahead. */
static TimestampTz
next_turn(Schedule *schedule, TimestampTz now)
{
	TimestampTz next = schedule->due_at;

	/* years of seconds that were missed are not counted one by one */
	if (schedule->every->month == 0 && schedule->every->day == 0 && now > schedule->first_at)
		schedule->turns = Max(schedule->turns, (now - schedule->first_at) / schedule->every->time);
	while (next <= now)
	{
		Datum		after = DirectFunctionCall2(interval_mul, IntervalPGetDatum(schedule->every),
										  Float8GetDatum((double) ++schedule->turns));

		next = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(schedule->first_at),
													   after));
	}
	return next;
}

/* 0 for a time that there is not. */
static void
move(Schedule *schedule, TimestampTz due_at, int attempts, TimestampTz retry_at,
	 TimestampTz failed_at, const char *message)
{
	Datum		values[8];
	char		nulls[] = "        ";

	values[0] = UUIDPGetDatum(schedule->id);
	values[1] = TimestampTzGetDatum(due_at);
	values[2] = Int32GetDatum(attempts);
	values[3] = TimestampTzGetDatum(retry_at);
	nulls[3] = retry_at ? ' ' : 'n';
	values[4] = TimestampTzGetDatum(failed_at);
	nulls[4] = failed_at ? ' ' : 'n';
	values[5] = message ? CStringGetTextDatum(message) : (Datum) 0;
	nulls[5] = message ? ' ' : 'n';
	values[6] = TimestampTzGetDatum(schedule->due_at);
	values[7] = Int64GetDatum(schedule->turns);
	(void) es_spi_write(schedule->store, &move_plan, values, nulls);
}
