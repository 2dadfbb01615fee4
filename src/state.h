/*-------------------------------------------------------------------------
 *
 * state.h
 *		The state of an aggregate's instance.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_STATE_H
#define ES_STATE_H

#include "fold.h"

/*
 * Fold a stream up to a version (PG_INT64_MAX: its end) as the active snapshot
 * shows it, from the cache, else from a state snapshot, else from the start.
 * Connected to SPI; end it with es_fold_end().
 */
extern EsFold *es_state_load(EsStore *store, EsAggregate *aggregate, text *stream,
							 int64 to_version);

/* Keep the fold's state for the next command or question. */
extern void es_state_keep(EsFold *fold);

#endif							/* ES_STATE_H */
