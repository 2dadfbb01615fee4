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

/* The same as a list for SELECT. */
#define ES_EVENT_SELECT_LIST \
	"position, stream, version, type, data, metadata," \
	" event_id, correlation_id, causation_id, recorded_at"

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

/* Take a row with the columns of es_event apart; the row's memory stays in use. */
extern void es_event_from_slot(EsEvent *event, TupleTableSlot *slot);

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

/* A new time-ordered UUID, version 7 (RFC 9562, section 5.7). */
extern void es_uuid_v7(pg_uuid_t *uuid);

#endif							/* ES_EVENT_H */
