/*-------------------------------------------------------------------------
 *
 * projection.h
 *		Projections: read models that follow the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

#include "projection_definition.h"
#include "storage/lockdefs.h"
#include "store.h"
#include "utils/tuplestore.h"

/*
 * The events of one append, on their way through the inline projections.
 * Lives on the C stack of whoever appends.
 */
typedef struct EsProjectionRun
{
	EsStore    *store;
	MemoryContext context;		/* holds the rows; NULL: none collected */
	ErrorContextCallback *error_context;	/* that errors of user code are reported in */
	Tuplestorestate *rows;		/* events that set-based projections wait for */
	struct EsProjectionRun *outer;
} EsProjectionRun;

/*
 * Begin an append; flush when all of its events are inserted: that runs the
 * set-based projections.  The end must be reached on an error too.
 */
extern void es_projection_begin(EsProjectionRun *run, EsStore *store);
extern void es_projection_flush(EsProjectionRun *run);
extern void es_projection_end(EsProjectionRun *run);

/*
 * Run a projection for an event that it wants, or a set-based one for rows of
 * es_event that it wants.  As the current user, under the projection's path,
 * with a context for what goes wrong.  Whoever calls keeps others from running
 * it meanwhile, by its lock or its subscription's, and has an active snapshot.
 * An event is handled in the current context, which is to be reset after it.
 */
extern void es_projection_handle(EsProjection *projection, const EsEvent *event);
extern void es_projection_query(EsProjection *projection, Tuplestorestate *rows);

/*
 * The same for a set-based projection and the events of the log in a range of
 * positions (after the first, up to and with the second), which its statement
 * reads itself; and how many of them its filter lets through, with the lowest.
 */
extern void es_projection_query_log(EsStore *store, EsProjection *projection, int64 after,
									int64 upto);
extern int64 es_projection_count_log(EsStore *store, EsProjection *projection, int64 after,
									 int64 upto, int64 *lowest);

/*
 * Take the lock of a projection to the end of the transaction: ShareLock to run
 * it inline, ExclusiveLock to rebuild or compare it.
 */
extern void es_projection_lock(EsStore *store, EsProjection *projection, LOCKMODE mode);

/* Put the trigger back on the log of a store that has projections; connected to SPI. */
extern void es_projection_upgrade(const char *store_name);

#endif							/* ES_PROJECTION_H */
