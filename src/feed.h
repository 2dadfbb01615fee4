/*-------------------------------------------------------------------------
 *
 * feed.h
 *		The feed: all events in the order of their positions, of which a
 *		reader misses none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_FEED_H
#define ES_FEED_H

#include "store.h"

/*
 * Register this transaction in flight: whatever position it draws from now on
 * is above a bound that readers see.  Before every draw; connected to SPI.
 */
extern void es_feed_register(EsStore *store);

/* Draw the next position.  After es_feed_register(), under the stream's lock. */
extern int64 es_feed_next_position(EsStore *store);

/*
 * The high-water mark: every position up to it is committed, or will never be
 * seen.  A snapshot that is to show them all is taken after this call.
 * Positions of the calling transaction itself do not count as in flight.
 */
extern int64 es_feed_high_water(EsStore *store);

/* The last position that was drawn, by whomsoever; 0: none. */
extern int64 es_feed_last_drawn(EsStore *store);

/* Whether a prepared transaction is in flight: its end wakes nobody. */
extern bool es_feed_is_held_by_prepared(EsStore *store);

/* Whether this transaction itself keeps everybody from reading up to a position. */
extern bool es_feed_registered_before(EsStore *store, int64 position);

#endif							/* ES_FEED_H */
