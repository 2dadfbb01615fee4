/*-------------------------------------------------------------------------
 *
 * field_call.h
 *		Inlined functions over the fields of composite values.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_FIELD_CALL_H
#define ES_FIELD_CALL_H

#include "executor/tuptable.h"
#include "nodes/primnodes.h"

#define ES_FIELD_CALL_MAX_ARGS 3

/*
 * A function that was inlined into one expression per field of its result,
 * over single fields of its arguments.  Nobody needs to form a composite value
 * to call it, or to take one apart.  What is not composite counts as one field.
 *
 * To call it, fill the arguments, run it, and take the result before anything
 * else runs.
 */
typedef struct EsFieldCall
{
	TupleTableSlot *args[ES_FIELD_CALL_MAX_ARGS];	/* virtual; fill tts_values and tts_isnull */
	int		   *uses[ES_FIELD_CALL_MAX_ARGS];	/* how often each field is looked at */
	TupleTableSlot *result;
	void	   *owner;			/* of whoever made it */
	struct ProjectionInfo *projection;
	struct ExprContext *econtext;
} EsFieldCall;

/*
 * Compile an expression that expression_planner() made of a call over the
 * parameters 1 to nargs.  Lives as long as the current context.  NULL when it
 * needs an argument as a whole or does not give the result by fields.
 */
extern EsFieldCall *es_field_call(Expr *expression, int nargs, const Oid *argtypes,
								  Oid result_type);

/* Results by reference are in the current context or in an argument's memory. */
extern void es_field_call_run(EsFieldCall *call);

#endif							/* ES_FIELD_CALL_H */
