/*-------------------------------------------------------------------------
 *
 * event_set.h
 *		SETOF es_event as a function's result.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_EVENT_SET_H
#define ES_EVENT_SET_H

#include "fmgr.h"
#include "tcop/dest.h"

/* 22023 for a max_count below 0. */
extern void es_event_set_check_count(bool isnull, int64 max_count);

/*
 * Make the call's result a tuplestore and return a receiver that an executor
 * fills it through, without a copy in between.  Before SPI_connect().
 */
extern DestReceiver *es_event_set_begin(FunctionCallInfo fcinfo);

#endif							/* ES_EVENT_SET_H */
