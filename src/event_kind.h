/*-------------------------------------------------------------------------
 *
 * event_kind.h
 *		Kinds of events: a store, a category and a type, as one number.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_EVENT_KIND_H
#define ES_EVENT_KIND_H

#include "c.h"

/*
 * A hash, so two kinds may have the same, if hardly ever: only what is right
 * anyway after a moment may rely on it.  Never 0.
 */
typedef uint32 EsEventKind;

/* The kind of an event of a store, given by its schema; and that of all its events. */
extern EsEventKind es_event_kind(Oid schema, const text *type, const text *stream);
extern EsEventKind es_event_kind_any(Oid schema);

#endif							/* ES_EVENT_KIND_H */
