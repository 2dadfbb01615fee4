/*-------------------------------------------------------------------------
 *
 * process_manager.h
 *		Process managers: events in, commands out, with a state of their own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_PROCESS_MANAGER_H
#define ES_PROCESS_MANAGER_H

#include "event.h"
#include "subscription.h"

typedef struct EsProcessManager EsProcessManager;

/*
 * What a subscription of that kind resolves to, once per session and definition:
 * its state's type and functions.  42704 and 42883 for what is not there any more.
 */
extern EsProcessManager *es_process_manager(EsSubscription *subscription);

/*
 * Handle an event: route it, and for each instance that it is for, let the
 * functions decide, dispatch their commands and keep the new state.  As the
 * definition's owner, under its search_path, in a context for this event.
 */
extern void es_process_manager_handle(EsStore *store, EsSubscription *subscription,
									  const EsEvent *event);

#endif							/* ES_PROCESS_MANAGER_H */
