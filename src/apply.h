/*-------------------------------------------------------------------------
 *
 * apply.h
 *		Apply functions: which one takes an event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_APPLY_H
#define ES_APPLY_H

#include "aggregate.h"

/* How an aggregate applies a type of event. */
typedef struct EsApply
{
	char		type[NAMEDATALEN];	/* hash key: the event type; empty when it is too long */
	EsRoutine  *routine;
	Oid			event_type;		/* a composite type, or es_event */
	bool		takes_envelope; /* apply(state, event, es_event) */
} EsApply;

/*
 * The aggregate's function for a type of event, looked up once per session.
 * SE005 without one; 42804 when it does not return the state's type.
 */
extern EsApply *es_apply(EsAggregate *aggregate, const text *type);

#endif							/* ES_APPLY_H */
