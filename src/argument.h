/*-------------------------------------------------------------------------
 *
 * argument.h
 *		Arguments of SQL functions that are checked everywhere alike.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_ARGUMENT_H
#define ES_ARGUMENT_H

#include "fmgr.h"

/* A text that is not empty (22023); NULL only where it is not required (22004). */
extern char *es_argument_text(FunctionCallInfo fcinfo, int arg, const char *name, bool required);

/* A number between two others (22023), not NULL (22004). */
extern int	es_argument_count(FunctionCallInfo fcinfo, int arg, const char *name, int lowest,
							 int highest);

#endif							/* ES_ARGUMENT_H */
