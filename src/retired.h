/*-------------------------------------------------------------------------
 *
 * retired.h
 *		Cached things that were replaced, but may still be in use further
 *		up the call stack.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_RETIRED_H
#define ES_RETIRED_H

#include "executor/spi.h"

extern void es_retired_init(void);

/*
 * Delete a memory context, or a saved plan, once nobody can use it any more:
 * in a later transaction than this one.
 */
extern void es_retire_context(MemoryContext context);
extern void es_retire_plan(SPIPlanPtr plan);

/* Free what earlier transactions retired.  Called where a store is looked up. */
extern void es_retired_free(void);

#endif							/* ES_RETIRED_H */
