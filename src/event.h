/*-------------------------------------------------------------------------
 *
 * event.h
 *		Events, recorded and new.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_EVENT_H
#define ES_EVENT_H

#include "executor/tuptable.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* The columns of es_event and of a store's table event, in their order. */
typedef enum EsEventColumn
{
	ES_EVENT_POSITION,
	ES_EVENT_STREAM,
	ES_EVENT_VERSION,
	ES_EVENT_TYPE,
	ES_EVENT_DATA,
	ES_EVENT_METADATA,
	ES_EVENT_ID,
	ES_EVENT_CORRELATION_ID,
	ES_EVENT_CAUSATION_ID,
	ES_EVENT_RECORDED_AT,
	ES_EVENT_COLUMNS
} EsEventColumn;

/*
 * The same as a list for SELECT.  The casts cost nothing on a store's own
 * table, and keep a forged one from giving us values of other types.
 */
#define ES_EVENT_SELECT_LIST \
	"position::pg_catalog.int8, stream::pg_catalog.text, version::pg_catalog.int8," \
	" type::pg_catalog.text, data::pg_catalog.jsonb, metadata::pg_catalog.jsonb," \
	" event_id::pg_catalog.uuid, correlation_id::pg_catalog.uuid," \
	" causation_id::pg_catalog.uuid, recorded_at::pg_catalog.timestamptz"

/* A recorded event. */
typedef struct EsEvent
{
	Datum		values[ES_EVENT_COLUMNS];
	bool		nulls[ES_EVENT_COLUMNS];
} EsEvent;

/* An event that is to be appended. */
typedef struct EsNewEvent
{
	text	   *type;
	Jsonb	   *data;
	Jsonb	   *metadata;		/* NULL: none */
	pg_uuid_t  *event_id;		/* NULL: make one */
	TimestampTz recorded_at;
	bool		has_recorded_at;	/* false: now */

	/* The event as a composite value, where it came as one. */
	Oid			record_type;	/* InvalidOid: it came as JSON */
	Datum		record;
} EsNewEvent;

/* An es_event value of a recorded event, in the current context. */
extern Datum es_event_to_datum(const EsEvent *event);

/* Whether a relation's first columns are those of es_event. */
extern bool es_event_fits(TupleDesc tupdesc);

/* Take a row with the columns of es_event apart; the row's memory stays in use. */
extern void es_event_from_slot(EsEvent *event, TupleTableSlot *slot);

/* The same for the first columns alone: most readers need no more than the data. */
extern void es_event_start_from_slot(EsEvent *event, TupleTableSlot *slot, int ncolumns);

/* 22004, 22023 for what can be wrong with an event, whatever stream it goes to. */
extern void es_new_event_check(const EsNewEvent *event);

/*
 * Read a new event: from an es_new_event value, or from a composite value
 * whose type is the event's type.  Checked; in the current context.
 */
extern void es_new_event_from_datum(EsNewEvent *event, Datum value);
extern void es_new_event_from_record(EsNewEvent *event, Oid type, Datum record);

/* Metadata with the setting event_sourcing.metadata merged under it; may be NULL. */
extern Jsonb *es_event_metadata(Jsonb *metadata);

/* A text parsed as jsonb, as a cast does it. */
extern Datum es_jsonb_from_text(text *json);

/* Two JSON objects as one; the second wins.  Either may be NULL. */
extern Jsonb *es_jsonb_merge(Jsonb *under, Jsonb *over);

/* A UUID as text, in the current context. */
extern char *es_uuid_string(const pg_uuid_t *uuid);

/* A new time-ordered UUID, version 7 (RFC 9562, section 5.7). */
extern void es_uuid_v7(pg_uuid_t *uuid);

#endif							/* ES_EVENT_H */
