/*-------------------------------------------------------------------------
 *
 * event.c
 *		Events, recorded and new.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "common/pg_prng.h"
#include "composite.h"
#include "errors.h"
#include "event.h"
#include "extension.h"
#include "fmgr.h"
#include "funcapi.h"
#include "guc.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

/* Columns of es_new_event */
enum
{
	NEW_EVENT_TYPE,
	NEW_EVENT_DATA,
	NEW_EVENT_METADATA,
	NEW_EVENT_ID,
	NEW_EVENT_RECORDED_AT,
	NEW_EVENT_COLUMNS
};

static Jsonb *session_metadata(void);
static void session_metadata_context(void *arg);

PG_FUNCTION_INFO_V1(es_new_event_json);
PG_FUNCTION_INFO_V1(es_new_event_record);

Datum
es_event_to_datum(const EsEvent *event)
{
	HeapTuple	tuple = heap_form_tuple(es_extension()->event.tupdesc,
									  (Datum *) event->values, (bool *) event->nulls);

	return HeapTupleGetDatum(tuple);
}

bool
es_event_fits(TupleDesc tupdesc)
{
	static const Oid types[ES_EVENT_COLUMNS] = {
		INT8OID, TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID, UUIDOID, UUIDOID, UUIDOID,
		TIMESTAMPTZOID};

	if (tupdesc->natts < ES_EVENT_COLUMNS)
		return false;
	for (int i = 0; i < ES_EVENT_COLUMNS; i++)
		if (TupleDescAttr(tupdesc, i)->atttypid != types[i])
			return false;
	return true;
}

void
es_event_from_slot(EsEvent *event, TupleTableSlot *slot)
{
	es_event_start_from_slot(event, slot, ES_EVENT_COLUMNS);
}

void
es_event_start_from_slot(EsEvent *event, TupleTableSlot *slot, int ncolumns)
{
	slot_getsomeattrs(slot, ncolumns);
	memcpy(event->values, slot->tts_values, ncolumns * sizeof(Datum));
	memcpy(event->nulls, slot->tts_isnull, ncolumns * sizeof(bool));

	/* a store's own table has these NOT NULL, a forged one need not */
	for (int i = 0; i < ncolumns; i++)
		if (event->nulls[i] && i != ES_EVENT_METADATA && i != ES_EVENT_CORRELATION_ID &&
			i != ES_EVENT_CAUSATION_ID)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("the event log has an event with NULL in column %d", i + 1)));
}

void
es_new_event_from_datum(EsNewEvent *event, Datum value)
{
	Datum		values[NEW_EVENT_COLUMNS];
	bool		nulls[NEW_EVENT_COLUMNS];

	es_composite_deform(value, es_extension()->new_event.tupdesc, values, nulls);

	memset(event, 0, sizeof(EsNewEvent));
	if (!nulls[NEW_EVENT_TYPE])
		event->type = DatumGetTextPP(values[NEW_EVENT_TYPE]);
	if (!nulls[NEW_EVENT_DATA])
		event->data = DatumGetJsonbP(values[NEW_EVENT_DATA]);
	if (!nulls[NEW_EVENT_METADATA])
		event->metadata = DatumGetJsonbP(values[NEW_EVENT_METADATA]);
	if (!nulls[NEW_EVENT_ID])
		event->event_id = DatumGetUUIDP(values[NEW_EVENT_ID]);
	if (!nulls[NEW_EVENT_RECORDED_AT])
	{
		event->has_recorded_at = true;
		event->recorded_at = DatumGetTimestampTz(values[NEW_EVENT_RECORDED_AT]);
	}
	es_new_event_check(event);
}

void
es_new_event_from_record(EsNewEvent *event, Oid type, Datum record)
{
	EsComposite *composite;

	if (type == es_extension()->new_event.oid)
	{
		es_new_event_from_datum(event, record);
		return;
	}
	if (!type_is_rowtype(type))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("type %s cannot be an event", format_type_be(type)),
				 errdetail("An event is a value of a composite type, whose name is the event type."),
				 errhint("Cast the row to its type, as in ROW(...)::deposited.")));
	if (type == RECORDOID)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("an event must have a named composite type"),
				 errhint("Cast the row to its type, as in ROW(...)::deposited.")));

	memset(event, 0, sizeof(EsNewEvent));
	composite = es_composite(type);
	event->type = cstring_to_text(es_composite_name(composite));
	event->data = es_composite_to_jsonb(composite, record);
	event->record_type = type;
	event->record = record;
}

Jsonb *
es_event_metadata(Jsonb *metadata)
{
	return es_jsonb_merge(session_metadata(), metadata);
}

Jsonb *
es_jsonb_merge(Jsonb *under, Jsonb *over)
{
	if (under == NULL)
		return over;
	if (over == NULL)
		return under;
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(under),
											  JsonbPGetDatum(over)));
}

Datum
es_jsonb_from_text(text *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(text_to_cstring(json)));
}

char *
es_uuid_string(const pg_uuid_t *uuid)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(uuid)));
}

/*
 * 48 bits of milliseconds, 12 bits of the millisecond's fraction, 62 random
 * bits.  Within a session the first 60 bits never repeat or fall, so that its
 * ids sort in the order of their making.  An event id must be unique, not
 * secret: the session's generator is seeded once from strong random bits.
 */
void
es_uuid_v7(pg_uuid_t *uuid)
{
	static pg_prng_state prng;
	static int	seeded_pid = 0;
	static uint64 last = 0;
	struct timespec now;
	uint64		ticks;			/* milliseconds, then 12 bits of fraction */
	uint64		ms;
	uint64		bits;

	if (seeded_pid != MyProcPid)
	{
		if (!pg_prng_strong_seed(&prng))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));
		seeded_pid = MyProcPid;
	}

	clock_gettime(CLOCK_REALTIME, &now);
	ticks = ((uint64) now.tv_sec * 1000 + now.tv_nsec / 1000000) << 12;
	ticks |= ((uint64) (now.tv_nsec % 1000000) << 12) / 1000000;
	if (ticks <= last)
		ticks = last + 1;
	last = ticks;

	ms = pg_hton64((ticks >> 12) << 16);
	memcpy(&uuid->data[0], &ms, 6);
	uuid->data[6] = 0x70 | ((ticks >> 8) & 0x0f);
	uuid->data[7] = ticks & 0xff;
	bits = pg_prng_uint64(&prng);
	memcpy(&uuid->data[8], &bits, 8);
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

/* es_new_event(type text, data jsonb, metadata jsonb, event_id uuid, recorded_at timestamptz) */
Datum
es_new_event_json(PG_FUNCTION_ARGS)
{
	Datum		values[NEW_EVENT_COLUMNS];
	bool		nulls[NEW_EVENT_COLUMNS];
	EsNewEvent	event;
	Datum		result;

	for (int i = 0; i < NEW_EVENT_COLUMNS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i);
	}
	result = HeapTupleGetDatum(heap_form_tuple(es_extension()->new_event.tupdesc, values, nulls));
	es_new_event_from_datum(&event, result);	/* for its checks */
	PG_RETURN_DATUM(result);
}

/* es_new_event(event anyelement, metadata jsonb, event_id uuid, recorded_at timestamptz) */
Datum
es_new_event_record(PG_FUNCTION_ARGS)
{
	Datum		values[NEW_EVENT_COLUMNS];
	bool		nulls[NEW_EVENT_COLUMNS];
	EsNewEvent	event;
	Datum		result;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the event must not be NULL")));
	es_new_event_from_record(&event, get_fn_expr_argtype(fcinfo->flinfo, 0), PG_GETARG_DATUM(0));

	values[NEW_EVENT_TYPE] = PointerGetDatum(event.type);
	values[NEW_EVENT_DATA] = JsonbPGetDatum(event.data);

	/* given an es_new_event, what it has stays unless it is given again */
	values[NEW_EVENT_METADATA] = PointerGetDatum(event.metadata);
	values[NEW_EVENT_ID] = PointerGetDatum(event.event_id);
	values[NEW_EVENT_RECORDED_AT] = TimestampTzGetDatum(event.recorded_at);
	for (int i = 0; i < NEW_EVENT_COLUMNS; i++)
		nulls[i] = (i == NEW_EVENT_RECORDED_AT) ? !event.has_recorded_at :
												  DatumGetPointer(values[i]) == NULL;
	for (int i = 1; i < PG_NARGS(); i++)
		if (!PG_ARGISNULL(i))
		{
			values[NEW_EVENT_DATA + i] = PG_GETARG_DATUM(i);
			nulls[NEW_EVENT_DATA + i] = false;
		}
	result = HeapTupleGetDatum(heap_form_tuple(es_extension()->new_event.tupdesc, values, nulls));
	es_new_event_from_datum(&event, result);
	PG_RETURN_DATUM(result);
}

void
es_new_event_check(const EsNewEvent *event)
{
	if (event->type == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the event type must not be NULL")));
	if (VARSIZE_ANY_EXHDR(event->type) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the event type must not be empty")));
	if (VARSIZE_ANY_EXHDR(event->type) > 512)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the event type is too long"),
				 errdetail("It has %d bytes; at most 512 are allowed.",
						   (int) VARSIZE_ANY_EXHDR(event->type))));
	if (event->data == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the data of event \"%s\" must not be NULL",
						text_to_cstring(event->type))));
	if (event->metadata && !JB_ROOT_IS_OBJECT(event->metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the metadata of event \"%s\" must be a JSON object",
						text_to_cstring(event->type))));
	if (event->has_recorded_at && TIMESTAMP_NOT_FINITE(event->recorded_at))
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("recorded_at of event \"%s\" must be finite",
						text_to_cstring(event->type))));
}

/* event_sourcing.metadata as JSON, NULL when it is empty. */
static Jsonb *
session_metadata(void)
{
	ErrorContextCallback context;
	Jsonb	   *metadata;

	if (es_metadata_setting == NULL || es_metadata_setting[0] == '\0')
		return NULL;

	context.callback = session_metadata_context;
	context.arg = NULL;
	context.previous = error_context_stack;
	error_context_stack = &context;
	metadata = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(es_metadata_setting)));
	if (!JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object")));
	error_context_stack = context.previous;
	return metadata;
}

static void
session_metadata_context(void *arg)
{
	errcontext("setting \"event_sourcing.metadata\"");
}
