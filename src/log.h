/*-------------------------------------------------------------------------
 *
 * log.h
 *		The log: reading and writing the rows of a store's table event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_LOG_H
#define ES_LOG_H

#include "event.h"
#include "storage/lockdefs.h"
#include "store.h"
#include "stream.h"
#include "tcop/dest.h"
#include "utils/array.h"
#include "utils/snapshot.h"

/* Which events, by their versions or positions, and in which order. */
typedef struct EsLogRange
{
	int64		first;			/* the lowest */
	int64		last;			/* the highest */
	int64		max_count;		/* PG_INT64_MAX: all of them */
	bool		backward;		/* the highest comes first */
} EsLogRange;

/* Everything below does the work of a statement that the caller runs: with its rights. */

extern void es_log_init(void);

/*
 * The end of a stream, as a snapshot shows it.  A version at which the stream is
 * believed to end (0: none) makes it cheaper to find, if it is there or not far
 * behind; else it does no harm.  The lock is AccessShareLock, or
 * RowExclusiveLock for a writer, who needs it anyway.
 */
extern EsStreamHead es_log_read_head(EsStore *store, text *stream, int64 believed,
									 Snapshot snapshot, LOCKMODE mode);

/* Whether a stream reaches a version, as a snapshot shows it; under AccessShareLock. */
extern bool es_log_reaches(EsStore *store, text *stream, int64 version, Snapshot snapshot);

/* The last position in the log, as a snapshot shows it; 0 when it is empty. */
extern int64 es_log_last_position(EsStore *store, Snapshot snapshot);

/* The same among those up to a position. */
extern int64 es_log_position_at_or_before(EsStore *store, int64 position, Snapshot snapshot);

/*
 * Stream events to a receiver, as the active snapshot shows them: those of a
 * stream by their versions, or those of all streams by their positions, of
 * which categories and types, where they are not NULL, select some.  A row has
 * the columns of es_event.  The receiver may run user code and may end the
 * reading.
 */
extern void es_log_read_stream(EsStore *store, text *stream, const EsLogRange *range,
							   DestReceiver *dest);
extern void es_log_read_feed(EsStore *store, const EsLogRange *range, ArrayType *categories,
							 ArrayType *types, DestReceiver *dest);

/*
 * Insert events of one stream as one command, and run the row triggers.  They
 * have stream, correlation_id and causation_id in common.  The caller holds the
 * stream's lock.  23505 where a version or position is taken.
 */
extern void es_log_insert(EsStore *store, EsEvent *events, int nevents);

#endif							/* ES_LOG_H */
