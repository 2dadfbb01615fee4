/*-------------------------------------------------------------------------
 *
 * projection_mode.h
 *		Modes of projections: inline or async, running or paused.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_PROJECTION_MODE_H
#define ES_PROJECTION_MODE_H

#include "store.h"
#include "utils/array.h"

/* Read a mode; 22023 for one that there is not, NULL included. */
extern bool es_projection_mode_is_async(const char *mode);

/* Store the subscription of an async projection, which has seen all up to a position. */
extern void es_projection_subscribe(EsStore *store, const char *name, int64 position,
									ArrayType *path_names);

#endif							/* ES_PROJECTION_MODE_H */
