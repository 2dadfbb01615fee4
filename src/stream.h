/*-------------------------------------------------------------------------
 *
 * stream.h
 *		Streams: names, locks, versions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_STREAM_H
#define ES_STREAM_H

#include "compat.h"
#include "store.h"
#include "utils/snapshot.h"

#define ES_STREAM_NAME_MAX 512	/* bytes */

/* The end of a stream. */
typedef struct EsStreamHead
{
	int64		version;		/* 0: the stream does not exist */
	int64		position;		/* of that version */
} EsStreamHead;

extern void es_stream_init(void);

/* 22004, 22023 when a name is NULL, empty, too long, or reserved. */
extern void es_stream_check_name(const text *stream);

/* The bytes of a stream's name that are its category: those before the first '-', or all. */
extern int	es_stream_category_length(const text *stream);

/*
 * Become the only writer of a stream until the transaction ends.  What other
 * writers committed before is visible to a snapshot that is taken afterwards.
 */
extern void es_stream_lock(EsStore *store, const text *stream);

/*
 * Read a stream's end, as it is now and not as the statement's snapshot has
 * it.  The caller holds the stream's lock.  If there is a version at which it is
 * believed to end, it may be found sooner; 0: none.  40001 when the transaction's
 * own snapshot is older than the stream's end.
 */
extern EsStreamHead es_stream_read_head(EsStore *store, text *stream, int64 believed);

/* Remember where a stream ends, which this session then finds sooner the next time. */
extern void es_stream_remember(EsStore *store, const text *stream, int64 version);

/* 40001: in this isolation level nothing may be decided on an older state. */
pg_noreturn extern void es_stream_serialization_failure(const text *stream);

#endif							/* ES_STREAM_H */
