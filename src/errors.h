/*-------------------------------------------------------------------------
 *
 * errors.h
 *		SQLSTATEs of the event store: private class SE.
 *
 * The SQL standard leaves classes that start with I-Z to implementations.
 * Whatever is not an error of the event store's own domain uses one of
 * PostgreSQL's codes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_ERRORS_H
#define ES_ERRORS_H

#include "utils/elog.h"

#define ERRCODE_ES_WRONG_EXPECTED_VERSION	MAKE_SQLSTATE('S', 'E', '0', '0', '1')
#define ERRCODE_ES_UNKNOWN_COMMAND			MAKE_SQLSTATE('S', 'E', '0', '0', '4')
#define ERRCODE_ES_UNKNOWN_EVENT			MAKE_SQLSTATE('S', 'E', '0', '0', '5')
#define ERRCODE_ES_EVENT_ID_CONFLICT		MAKE_SQLSTATE('S', 'E', '0', '0', '6')
#define ERRCODE_ES_COMMAND_ID_CONFLICT		MAKE_SQLSTATE('S', 'E', '0', '0', '7')
#define ERRCODE_ES_SUBSCRIPTION_LOST		MAKE_SQLSTATE('S', 'E', '0', '0', '8')

#endif							/* ES_ERRORS_H */
