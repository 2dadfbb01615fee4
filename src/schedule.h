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
 * will be due (0: none).  What fails is rolled back and written down.  Connected
 * to SPI.
 *
 * due_by: what was due then counts.  Where it stays the same from call to call, the
 * calls come to an end, however short the interval of a recurring schedule is.
 */
extern bool es_schedule_run_due(EsStore *store, TimestampTz due_by, bool foreground,
								bool *dispatched, TimestampTz *next_time);

#endif							/* ES_SCHEDULE_H */
