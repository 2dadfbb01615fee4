/*-------------------------------------------------------------------------
 *
 * state_snapshot.h
 *		State snapshots: folded states kept in the store, so that a long
 *		stream is not read from its start.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_STATE_SNAPSHOT_H
#define ES_STATE_SNAPSHOT_H

#include "fold.h"

/*
 * Let the fold go on from the stream's state snapshot, if there is one that is
 * not beyond a version and was made by the same functions.  Connected to SPI.
 */
extern bool es_state_snapshot_use(EsFold *fold, int64 to_version);

/*
 * Write the fold's state as the stream's state snapshot if the fold has passed
 * a multiple of the aggregate's snapshot_every since a version.  Written as the
 * store's owner, so only for a caller to whom no policies of the log apply.
 * Connected to SPI.
 */
extern void es_state_snapshot_write(EsFold *fold, int64 since_version, TimestampTz now);

#endif							/* ES_STATE_SNAPSHOT_H */
