/*-------------------------------------------------------------------------
 *
 * rebuild.h
 *		Rebuilding read models from history, and comparing them with it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_REBUILD_H
#define ES_REBUILD_H

#include "projection_definition.h"

/*
 * Get a projection that replays into its targets, with its lock held
 * exclusively, as it is defined under that lock.
 */
extern EsProjection *es_rebuild_lock(EsStore *store, const char *name);

/*
 * Hand the events between two positions (after the first, up to and with the
 * second) to a projection, as they are visible now; returns how many it got.
 * Connected to SPI, under a lock that keeps others from running it.
 */
extern int64 es_rebuild_replay(EsStore *store, EsProjection *projection, int64 after, int64 upto);

#endif							/* ES_REBUILD_H */
