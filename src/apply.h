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

/*
 * The aggregate's function for a type of event, looked up once per session.
 * SE005 without one; 42804 when it does not return the state's type.
 */
extern EsOverload *es_apply(EsAggregate *aggregate, const text *type);

#endif							/* ES_APPLY_H */
