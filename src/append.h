/*-------------------------------------------------------------------------
 *
 * append.h
 *		Appending events to a stream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_APPEND_H
#define ES_APPEND_H

#include "event.h"
#include "store.h"
#include "stream.h"

/* Special values of an expected version. */
#define ES_VERSION_NO_STREAM	0	/* the stream must not exist */
#define ES_VERSION_EXISTS		(-1)	/* the stream must exist */

typedef struct EsAppend
{
	EsStore    *store;
	text	   *stream;
	EsNewEvent *events;
	int			nevents;
	Jsonb	   *metadata;		/* under each event's own; NULL: none */
	const pg_uuid_t *correlation_id;	/* NULL: none */
	const pg_uuid_t *causation_id;	/* NULL: none */
} EsAppend;

/* 22023 for an expected version below -1. */
extern void es_append_check_expected(int64 expected_version);

/* SE001 unless the stream's version fits the expected one. */
extern void es_append_require_version(const text *stream, int64 expected_version,
									  int64 actual_version);

/*
 * Number the events behind the stream's end and draw their positions.  The
 * caller holds the stream's lock and has read the head under it.  Nothing is
 * written yet.  Returns append->nevents events, in the current context.
 */
extern EsEvent *es_append_record(const EsAppend *append, EsStreamHead head);

/*
 * Write recorded events to the log and run the inline projections.  Connected
 * to SPI.
 */
extern void es_append_write(EsStore *store, EsEvent *events, int nevents);

/*
 * Rises with every append of this session: tells a caller whether user code
 * that it ran has appended something.
 */
extern uint64 es_append_count(void);

#endif							/* ES_APPEND_H */
