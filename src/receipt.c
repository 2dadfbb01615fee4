/*-------------------------------------------------------------------------
 *
 * receipt.c
 *		Receipts: results of commands that carry an id, for their retries.
 *
 * Two dispatches of one command meet at the lock of its stream: the second
 * looks for the receipt under the lock, with a fresh snapshot, and finds the
 * first one's.  Two different commands with the same id may be on different
 * streams; then the table's key tells the slower one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "errors.h"
#include "event.h"
#include "fmgr.h"
#include "receipt.h"
#include "spi_plan.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

static const EsPlanSpec find_plan = {
	"SELECT command_type::pg_catalog.text, stream::pg_catalog.text, version::pg_catalog.int8,"
	" position::pg_catalog.int8, event_count::pg_catalog.int8 FROM @store@.receipt"
	" WHERE command_id OPERATOR(pg_catalog.=) $1"
	" AND (command_type, stream, version, event_count) IS NOT NULL",
	1,
	{UUIDOID},
};

static const EsPlanSpec write_plan = {
	"INSERT INTO @store@.receipt"
	" (command_id, command_type, stream, version, position, event_count, recorded_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
	7,
	{UUIDOID, TEXTOID, TEXTOID, INT8OID, INT8OID, INT8OID, TIMESTAMPTZOID},
};

static const EsPlanSpec prune_plan = {
	"DELETE FROM @store@.receipt"
	" WHERE recorded_at OPERATOR(pg_catalog.<) $1",
	1,
	{TIMESTAMPTZOID},
};

pg_noreturn static void other_command(const EsReceipt *receipt, const char *type,
									  const char *stream);

PG_FUNCTION_INFO_V1(es_prune_receipts);

bool
es_receipt_find(EsStore *store, EsReceipt *receipt)
{
	Datum		values[] = {UUIDPGetDatum(receipt->command_id)};
	HeapTuple	row;
	TupleDesc	tupdesc;
	char	   *type;
	char	   *stream;
	bool		isnull;

	es_spi_read(store, &find_plan, values, NULL, GetLatestSnapshot(), 1);
	if (SPI_processed == 0)
	{
		SPI_freetuptable(SPI_tuptable);
		return false;
	}
	row = SPI_tuptable->vals[0];
	tupdesc = SPI_tuptable->tupdesc;
	type = TextDatumGetCString(SPI_getbinval(row, tupdesc, 1, &isnull));
	stream = TextDatumGetCString(SPI_getbinval(row, tupdesc, 2, &isnull));
	if (strcmp(type, receipt->command_type) != 0 ||
		strcmp(stream, text_to_cstring(receipt->stream)) != 0)
		other_command(receipt, type, stream);

	receipt->version = DatumGetInt64(SPI_getbinval(row, tupdesc, 3, &isnull));
	receipt->position = DatumGetInt64(SPI_getbinval(row, tupdesc, 4, &isnull));
	receipt->event_count = DatumGetInt64(SPI_getbinval(row, tupdesc, 5, &isnull));
	SPI_freetuptable(SPI_tuptable);
	return true;
}

void
es_receipt_write(EsStore *store, const EsReceipt *receipt, TimestampTz now)
{
	Datum		values[7];
	char		nulls[8] = "       ";

	values[0] = UUIDPGetDatum(receipt->command_id);
	values[1] = CStringGetTextDatum(receipt->command_type);
	values[2] = PointerGetDatum(receipt->stream);
	values[3] = Int64GetDatum(receipt->version);
	values[4] = Int64GetDatum(receipt->position);
	nulls[4] = receipt->event_count == 0 ? 'n' : ' ';
	values[5] = Int64GetDatum(receipt->event_count);
	values[6] = TimestampTzGetDatum(now);
	if (es_spi_write(store, &write_plan, values, nulls) == 0)
		other_command(receipt, NULL, NULL);
}

/* es_prune_receipts(older_than interval) returns bigint */
Datum
es_prune_receipts(PG_FUNCTION_ARGS)
{
	Datum		values[1];
	uint64		count;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("older_than must not be NULL")));
	values[0] = DirectFunctionCall2(timestamptz_mi_interval,
									TimestampTzGetDatum(GetCurrentTransactionStartTimestamp()),
									PG_GETARG_DATUM(0));
	SPI_connect();
	count = es_spi_write(es_store_current(), &prune_plan, values, NULL);
	SPI_finish();
	PG_RETURN_INT64((int64) count);
}

/* The type and stream are NULL where the other command is not visible. */
static void
other_command(const EsReceipt *receipt, const char *type, const char *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_ES_COMMAND_ID_CONFLICT),
			 errmsg("command id %s belongs to another command",
					es_uuid_string(receipt->command_id)),
			 type ?
				 errdetail("command \"%s\" stream \"%s\" recorded command \"%s\" stream \"%s\"",
						   receipt->command_type, text_to_cstring(receipt->stream), type, stream) :
				 errdetail("command \"%s\" stream \"%s\" recorded by a concurrent transaction",
						   receipt->command_type, text_to_cstring(receipt->stream)),
			 errhint("A retry must give the same command; a new command needs a new id.")));
}
