/*-------------------------------------------------------------------------
 *
 * sql_function.h
 *		The user's SQL functions, with plans that are kept.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_SQL_FUNCTION_H
#define ES_SQL_FUNCTION_H

#include "nodes/params.h"

typedef struct EsSqlFunction EsSqlFunction;

/*
 * Prepare the body of a function to be run again and again; lives as long as
 * the current context.  NULL when the function is not in SQL or has something
 * that only the server's own call does right: a set, SECURITY DEFINER, SET,
 * STRICT, utility commands, a result that must be converted.  Raises what is
 * wrong with the body.
 */
extern EsSqlFunction *es_sql_function(Oid function);

/* Whether the plans still fit the catalog; if not, prepare it anew. */
extern bool es_sql_function_is_valid(const EsSqlFunction *function);

/*
 * Run it as the current user, who was allowed to.  The result is in the
 * current context.  There is an active snapshot.
 */
extern Datum es_sql_function_call(EsSqlFunction *function, ParamListInfo params, bool *isnull);

#endif							/* ES_SQL_FUNCTION_H */
