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
#define ES_PARKED_SKIPPED	"skipped"	/* external: it is done, though the checkpoint is not there */

/* The streams that a partition must not handle new events of; opaque. */
typedef struct EsHeldStreams
{
	HTAB	   *streams;		/* by name; NULL: none */
	bool		replay;			/* some events are to be replayed */
	bool		skipped;		/* some events are skipped */
} EsHeldStreams;

/* All of these: connected to SPI, under the lock of the partition. */

/* The streams held back, in the current context. */
extern void es_parked_held_streams(EsStore *store, EsSubscription *subscription, int partition,
								   EsHeldStreams *held);
extern bool es_parked_is_held(const EsHeldStreams *held, const text *stream);
extern void es_parked_hold(EsHeldStreams *held, const text *stream);

/* Put an event aside; no harm when it is already. */
extern void es_parked_add(EsStore *store, EsSubscription *subscription, int partition,
						  const EsEvent *event, const char *state, const char *reason,
						  int attempts);

#endif							/* ES_PARKED_EVENT_H */
