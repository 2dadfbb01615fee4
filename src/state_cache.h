/*-------------------------------------------------------------------------
 *
 * state_cache.h
 *		The states that this session folded last.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_STATE_CACHE_H
#define ES_STATE_CACHE_H

#include "aggregate.h"
#include "stream.h"

extern void es_state_cache_init(void);

/*
 * The state kept for a stream and the end that it was folded to, which the
 * reader checks against the log.  The state stays where it is until the cache
 * is used again: copy it before running any user code.
 */
extern bool es_state_cache_get(EsAggregate *aggregate, const text *stream,
							   EsStreamHead *head, Datum *state);

/* Keep a state until an abort of the transaction or subtransaction. */
extern void es_state_cache_put(EsAggregate *aggregate, const text *stream,
							   EsStreamHead head, Datum state);

/* Forget a state that does not fit the log. */
extern void es_state_cache_remove(EsAggregate *aggregate, const text *stream);

#endif							/* ES_STATE_CACHE_H */
