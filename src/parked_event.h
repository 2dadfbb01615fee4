/*-------------------------------------------------------------------------
 *
 * parked_event.h
 *		Parked events: what a subscription has put aside.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_PARKED_EVENT_H
#define ES_PARKED_EVENT_H

#include "event.h"
#include "subscription.h"

/* States of a parked event, as they are stored. */
#define ES_PARKED_PARKED	"parked"	/* it failed too often, or somebody said so */
#define ES_PARKED_WAITING	"waiting"	/* an earlier one of its stream is parked */
#define ES_PARKED_REPLAY	"replay"	/* it is to be handled now, before new ones */
#define ES_PARKED_SKIPPED	"skipped"	/* external: done, though the checkpoint is not there yet */

/* What a partition has put aside. */
typedef struct EsHeldStreams
{
	HTAB	   *streams;		/* names of the streams whose new events must wait; NULL: none */
	bool		replay;			/* some events are to be replayed */
	bool		skipped;		/* some events are skipped */
} EsHeldStreams;

/*
 * All of these: connected to SPI, under the lock of the partition, as whoever
 * may write the store's tables.
 */

/* What is put aside; in the current context. */
extern void es_parked_held_streams(EsStore *store, EsSubscription *subscription, int partition,
								   EsHeldStreams *held);
extern bool es_parked_is_held(const EsHeldStreams *held, const text *stream);
extern void es_parked_hold(EsHeldStreams *held, const text *stream);

/* Put an event aside; no harm when it is already. */
extern void es_parked_add(EsStore *store, EsSubscription *subscription, int partition,
						  const EsEvent *event, const char *state, const char *reason,
						  int attempts);

/* Positions of the first events to be replayed, at most max_count; in the current context. */
extern int	es_parked_to_replay(EsStore *store, EsSubscription *subscription, int partition,
							   int max_count, int64 **positions);

/* Replayed: forget it.  Failed again: park it, and those behind it wait again. */
extern void es_parked_remove(EsStore *store, EsSubscription *subscription, int64 position);
extern void es_parked_fail(EsStore *store, EsSubscription *subscription, int64 position,
						   const char *reason);

/* Let those be replayed that wait behind no parked event any more; are there any? */
extern bool es_parked_release(EsStore *store, EsSubscription *subscription, int partition);

#endif							/* ES_PARKED_EVENT_H */
