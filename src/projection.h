/*-------------------------------------------------------------------------
 *
 * projection.h
 *		Projections: read models that follow the log.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_PROJECTION_H
#define ES_PROJECTION_H

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

/* Put the trigger back on the log of a store that has projections; connected to SPI. */
extern void es_projection_upgrade(const char *store_name);

#endif							/* ES_PROJECTION_H */
