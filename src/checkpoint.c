/*-------------------------------------------------------------------------
 *
 * checkpoint.c
 *		Checkpoints: how far each partition of a subscription is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "guc.h"
#include "lock_tag.h"
#include "spi_plan.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "wake.h"

#define LONGEST_BACKOFF_MS (5 * 60 * 1000)

static const EsPlanSpec read_plan = {
	"SELECT " ES_CHECKPOINT_SELECT_LIST " FROM @store@.checkpoint c"
	" WHERE c.partition OPERATOR(pg_catalog.=) $2 AND " ES_CHECKPOINT_IS_OF("$1"),
	2,
	{TEXTOID, INT4OID},
};

#define CHECKPOINT_VALUES	10
#define UPDATE_CHECKPOINT \
	"UPDATE @store@.checkpoint SET position = $3, stopped = $4, failed_position = $5," \
	" attempts = $6, retry_at = $7, consumer = $8, leased_until = $9, leased_to = $10," \
	" updated_at = pg_catalog.clock_timestamp()" \
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2"

/* Most of the time there is a row, and an UPDATE is cheaper than an INSERT that finds it. */
static const EsPlanSpec update_plan = {
	UPDATE_CHECKPOINT,
	CHECKPOINT_VALUES,
	{TEXTOID, INT4OID, INT8OID, BOOLOID, INT8OID, INT4OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID,
	 INT8OID},
};

static const EsPlanSpec renew_plan = {
	UPDATE_CHECKPOINT " AND position OPERATOR(pg_catalog.=) $11"
					  " AND consumer OPERATOR(pg_catalog.=) $8"
					  " AND leased_until OPERATOR(pg_catalog.=) $12",
	CHECKPOINT_VALUES + 2,
	{TEXTOID, INT4OID, INT8OID, BOOLOID, INT8OID, INT4OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID,
	 INT8OID, INT8OID, TIMESTAMPTZOID},
};

static const EsPlanSpec insert_plan = {
	"INSERT INTO @store@.checkpoint AS c (subscription, partition, position, stopped,"
	" failed_position, attempts, retry_at, consumer, leased_until, leased_to, updated_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, pg_catalog.clock_timestamp())"
	" ON CONFLICT (subscription, partition) DO UPDATE"
	" SET (position, stopped, failed_position, attempts, retry_at, consumer, leased_until,"
	" leased_to, updated_at) = ROW (excluded.position, excluded.stopped, excluded.failed_position,"
	" excluded.attempts, excluded.retry_at, excluded.consumer, excluded.leased_until,"
	" excluded.leased_to, excluded.updated_at)",
	CHECKPOINT_VALUES,
	{TEXTOID, INT4OID, INT8OID, BOOLOID, INT8OID, INT4OID, TIMESTAMPTZOID, TEXTOID, TIMESTAMPTZOID,
	 INT8OID},
};

static const EsPlanSpec write_error_plan = {
	"UPDATE @store@.checkpoint SET last_error = $3, last_error_at = pg_catalog.clock_timestamp()"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2",
	3,
	{TEXTOID, INT4OID, TEXTOID},
};

static const EsPlanSpec lowest_plan = {
	"SELECT COALESCE(c.position, s.from_position)::pg_catalog.int8"
	" FROM @store@.subscription s"
	" CROSS JOIN LATERAL pg_catalog.generate_series(0, s.partitions OPERATOR(pg_catalog.-) 1) AS p(number)"
	" LEFT JOIN @store@.checkpoint c ON c.subscription OPERATOR(pg_catalog.=) s.name"
	" AND c.partition OPERATOR(pg_catalog.=) p.number"
	" WHERE s.name OPERATOR(pg_catalog.=) $1 ORDER BY 1 LIMIT 1",
	1,
	{TEXTOID},
};

static void partition_tag(LOCKTAG *tag, EsStore *store, EsSubscription *subscription,
						  int partition);
static void row_values(EsSubscription *subscription, const EsCheckpoint *checkpoint, Datum *values,
					   char *nulls);

bool
es_checkpoint_lock(EsStore *store, EsSubscription *subscription, int partition, bool wait)
{
	LOCKTAG		tag;

	partition_tag(&tag, store, subscription, partition);
	return LockAcquire(&tag, ExclusiveLock, false, !wait) != LOCKACQUIRE_NOT_AVAIL;
}

void
es_checkpoint_unlock(EsStore *store, EsSubscription *subscription, int partition)
{
	LOCKTAG		tag;

	partition_tag(&tag, store, subscription, partition);
	(void) LockRelease(&tag, ExclusiveLock, false);
}

/* Two subscriptions with one key merely wait for each other. */
static void
partition_tag(LOCKTAG *tag, EsStore *store, EsSubscription *subscription, int partition)
{
	es_lock_tag_key(tag, ES_LOCK_CLASS_CHECKPOINT,
					((uint64) store->event << 32) |
						(uint32) (subscription->id * ES_MAX_PARTITIONS + partition));
}

void
es_checkpoint_read(EsStore *store, EsSubscription *subscription, int partition,
				   EsCheckpoint *checkpoint)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int32GetDatum(partition)};
	MemoryContext caller = CurrentMemoryContext;

	memset(checkpoint, 0, sizeof(*checkpoint));
	checkpoint->partition = partition;
	checkpoint->position = subscription->from_position;
	es_spi_read(store, &read_plan, values, NULL, GetLatestSnapshot(), 1);
	MemoryContextSwitchTo(caller);
	if (SPI_processed > 0)
		es_checkpoint_from_row(checkpoint, SPI_tuptable->vals[0], SPI_tuptable->tupdesc);
	SPI_freetuptable(SPI_tuptable);
}

void
es_checkpoint_from_row(EsCheckpoint *checkpoint, HeapTuple row, TupleDesc tupdesc)
{
	Datum		value;
	bool		isnull;

	checkpoint->exists = true;
	checkpoint->partition = DatumGetInt32(SPI_getbinval(row, tupdesc, 1, &isnull));
	checkpoint->position = DatumGetInt64(SPI_getbinval(row, tupdesc, 2, &isnull));
	checkpoint->stopped = DatumGetBool(SPI_getbinval(row, tupdesc, 3, &isnull));
	value = SPI_getbinval(row, tupdesc, 4, &isnull);
	checkpoint->failed_position = isnull ? 0 : DatumGetInt64(value);
	checkpoint->attempts = DatumGetInt32(SPI_getbinval(row, tupdesc, 5, &isnull));
	value = SPI_getbinval(row, tupdesc, 6, &isnull);
	checkpoint->retry_at = isnull ? 0 : DatumGetTimestampTz(value);
	value = SPI_getbinval(row, tupdesc, 7, &isnull);
	checkpoint->consumer = isnull ? NULL : TextDatumGetCString(value);
	value = SPI_getbinval(row, tupdesc, 8, &isnull);
	checkpoint->leased_until = isnull ? 0 : DatumGetTimestampTz(value);
	value = SPI_getbinval(row, tupdesc, 9, &isnull);
	checkpoint->leased_to = isnull ? 0 : DatumGetInt64(value);
}

void
es_checkpoint_write(EsStore *store, EsSubscription *subscription, const EsCheckpoint *checkpoint)
{
	Datum		values[CHECKPOINT_VALUES];
	char		nulls[CHECKPOINT_VALUES + 1];

	row_values(subscription, checkpoint, values, nulls);
	if (!checkpoint->exists || es_spi_write(store, &update_plan, values, nulls) == 0)
		(void) es_spi_write(store, &insert_plan, values, nulls);
	es_wake_waiters_at_commit();
}

bool
es_checkpoint_renew(EsStore *store, EsSubscription *subscription, const EsCheckpoint *checkpoint,
					const EsCheckpoint *before)
{
	Datum		values[CHECKPOINT_VALUES + 2];
	char		nulls[CHECKPOINT_VALUES + 3];

	row_values(subscription, checkpoint, values, nulls);
	values[CHECKPOINT_VALUES] = Int64GetDatum(before->position);
	values[CHECKPOINT_VALUES + 1] = TimestampTzGetDatum(before->leased_until);
	nulls[CHECKPOINT_VALUES] = nulls[CHECKPOINT_VALUES + 1] = ' ';
	nulls[CHECKPOINT_VALUES + 2] = '\0';
	if (es_spi_write(store, &renew_plan, values, nulls) == 0)
		return false;
	es_wake_waiters_at_commit();
	return true;
}

/* The parameters of the statements that write one. */
static void
row_values(EsSubscription *subscription, const EsCheckpoint *checkpoint, Datum *values, char *nulls)
{
	memset(nulls, ' ', CHECKPOINT_VALUES);
	nulls[CHECKPOINT_VALUES] = '\0';
	values[0] = CStringGetTextDatum(subscription->name);
	values[1] = Int32GetDatum(checkpoint->partition);
	values[2] = Int64GetDatum(checkpoint->position);
	values[3] = BoolGetDatum(checkpoint->stopped);
	values[4] = Int64GetDatum(checkpoint->failed_position);
	nulls[4] = checkpoint->failed_position ? ' ' : 'n';
	values[5] = Int32GetDatum(checkpoint->attempts);
	values[6] = TimestampTzGetDatum(checkpoint->retry_at);
	nulls[6] = checkpoint->retry_at ? ' ' : 'n';
	values[7] = checkpoint->consumer ? CStringGetTextDatum(checkpoint->consumer) : (Datum) 0;
	values[8] = TimestampTzGetDatum(checkpoint->leased_until);
	values[9] = Int64GetDatum(checkpoint->leased_to);
	for (int i = 7; i <= 9; i++)
		nulls[i] = checkpoint->consumer ? ' ' : 'n';
}

void
es_checkpoint_write_error(EsStore *store, EsSubscription *subscription, int partition,
						  const char *message)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int32GetDatum(partition),
					  CStringGetTextDatum(message)};

	(void) es_spi_write(store, &write_error_plan, values, NULL);
}

int64
es_checkpoint_backoff_ms(int attempts)
{
	int64		delay_ms = es_retry_delay_ms;

	for (int i = 1; i < attempts && delay_ms < LONGEST_BACKOFF_MS; i++)
		delay_ms *= 2;
	return Min(delay_ms, Max(LONGEST_BACKOFF_MS, es_retry_delay_ms));
}

int64
es_checkpoint_lowest(EsStore *store, EsSubscription *subscription)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name)};
	int64		lowest = 0;
	bool		isnull;

	es_spi_read(store, &lowest_plan, values, NULL, GetLatestSnapshot(), 1);
	if (SPI_processed > 0)
		lowest = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											 &isnull));
	SPI_freetuptable(SPI_tuptable);
	return lowest;
}
