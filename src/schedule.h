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
 */
extern bool es_schedule_run_due(EsStore *store, bool foreground, bool *dispatched,
								TimestampTz *next_time);

#endif							/* ES_SCHEDULE_H */
