/*-------------------------------------------------------------------------
 *
 * schedule.h
 *		Scheduled commands.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_SCHEDULE_H
#define ES_SCHEDULE_H

#include "datatype/timestamp.h"
#include "store.h"

/*
 * Dispatch one scheduled command that is due and that nobody else is at.  Returns
 * whether there was one, and whether it went well; without one, when the next one
 * will be due (0: none).  A recurring one that is due after recur_until is left: who
 * goes on until nothing is due would never end if it is due again by then.  What
 * fails is rolled back and written down.  Connected to SPI.
 */
extern bool es_schedule_run_due(EsStore *store, bool foreground, TimestampTz recur_until,
								bool *dispatched, TimestampTz *next_time);

#endif							/* ES_SCHEDULE_H */
