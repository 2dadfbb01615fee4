/*-------------------------------------------------------------------------
 *
 * routine.h
 *		The user's functions: finding the overload, calling it fast.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_ROUTINE_H
#define ES_ROUTINE_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "catalog/pg_proc.h"
#include "field_call.h"
#include "utils/array.h"
#include "utils/tuplestore.h"

#define ES_ROUTINE_MAX_ARGS ES_FIELD_CALL_MAX_ARGS

/*
 * The search_path that was in force when something was defined.  User code
 * runs under it, whoever calls, so that what it computes does not depend on
 * the caller's.
 */
typedef struct EsSearchPath
{
	List	   *schemas;		/* OIDs of those that exist */
	char	   *setting;		/* the same as a value of search_path */
} EsSearchPath;

/* A function name and the schemas in which its overloads are looked for, best first. */
typedef struct EsFunctionScope
{
	char	   *name;			/* bare */
	List	   *schemas;		/* OIDs */
} EsFunctionScope;

/* A function that can be called; opaque. */
typedef struct EsRoutine EsRoutine;

extern void es_routine_init(void);

/* The schemas of the current search_path as names, without temporary ones. */
extern ArrayType *es_search_path_current(Oid also);

/* Read such an array; in the current context. */
extern EsSearchPath *es_search_path_read(ArrayType *names);

/*
 * Run what follows under a search_path; give the result to the second function
 * when it is done.  On an error the abort puts the old one back.
 */
extern int	es_search_path_enter(const EsSearchPath *path);
extern void es_search_path_leave(int nestlevel);

/*
 * Read a function name, bare or qualified, for which the given schema and then
 * the path are searched.  In the current context.  22023 when it is no name.
 */
extern EsFunctionScope *es_function_scope(const char *name, Oid first_schema,
										  const EsSearchPath *path);

/*
 * Call visit for every function of the name that lies in the scope, by the
 * order of the schemas.  A visit that returns true ends it.
 */
typedef bool (*EsFunctionVisit)(Form_pg_proc function, void *arg);
extern void es_function_scan(const EsFunctionScope *scope, EsFunctionVisit visit, void *arg);

/* Whether a function has exactly these argument types. */
extern bool es_function_has_args(Form_pg_proc function, int nargs, const Oid *argtypes);

/*
 * Make a function callable; lives as long as context.  42809 for what is not
 * a plain function, 42725 is the caller's business.
 */
extern EsRoutine *es_routine(MemoryContext context, Oid function);

extern Oid	es_routine_result_type(const EsRoutine *routine);
extern bool es_routine_returns_set(const EsRoutine *routine);
extern const char *es_routine_name(const EsRoutine *routine);	/* as regprocedure prints it */

/*
 * Call it as the current user, who needs EXECUTE.  The result is in the
 * current context or in an argument's memory.
 */
extern Datum es_routine_call(EsRoutine *routine, const Datum *args, const bool *nulls,
							 bool *isnull);

/*
 * Call one that returns a set of the composite type of tupdesc (blessed).  The
 * tuplestore lives in the current context.
 */
extern Tuplestorestate *es_routine_call_set(EsRoutine *routine, const Datum *args,
											const bool *nulls, TupleDesc tupdesc);

/*
 * The same by fields: begin it, fill the arguments, run it, end it, take the
 * result.  NULL when the function is not called that way, or not at the moment.
 */
extern EsFieldCall *es_routine_begin_fields(EsRoutine *routine);
extern void es_routine_end_fields(EsFieldCall *fields);

#endif							/* ES_ROUTINE_H */
