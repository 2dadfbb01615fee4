/*-------------------------------------------------------------------------
 *
 * field_call.c
 *		Inlined functions over the fields of composite values.
 *
 * An apply function such as
 *
 *		SELECT ROW(s.id, s.balance + e.amount)::account
 *
 * is a row of expressions over single fields.  Evaluated as it stands, state
 * and event are formed as composite values and taken apart again for every
 * event, which takes longer than the expressions themselves.  Here each
 * reference to an argument's field becomes a column of a virtual slot, as a
 * join's would be, and the row becomes a projection into another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/tupdesc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "field_call.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

/* Turns parameters into columns. */
typedef struct Spread
{
	EsFieldCall *call;
	int			nargs;
	bool		failed;			/* an argument is used as a whole */
} Spread;

/* The arguments' slots, as the executor calls them. */
static const int arg_varno[ES_FIELD_CALL_MAX_ARGS] = {INNER_VAR, OUTER_VAR, 1};

static TupleDesc fields_of_type(Oid type);
static List *result_expressions(Expr *expression, TupleDesc tupdesc, bool composite);
static Node *spread(Node *node, Spread *context);
static Node *column(Spread *context, int arg, int field, Oid type, int32 typmod, Oid collation);

EsFieldCall *
es_field_call(Expr *expression, int nargs, const Oid *argtypes, Oid result_type)
{
	EsFieldCall *call;
	TupleDesc	tupdesc;
	Spread		context = {0};
	List	   *expressions;
	List	   *columns = NIL;
	ListCell   *cell;

	if (result_type == VOIDOID || result_type == RECORDOID || nargs > ES_FIELD_CALL_MAX_ARGS)
		return NULL;
	tupdesc = fields_of_type(result_type);
	expressions = result_expressions(expression, tupdesc, type_is_rowtype(result_type));
	if (expressions == NIL)
		return NULL;

	call = palloc0(sizeof(EsFieldCall));
	for (int i = 0; i < nargs; i++)
	{
		TupleDesc	fields = fields_of_type(argtypes[i]);

		call->args[i] = MakeSingleTupleTableSlot(fields, &TTSOpsVirtual);
		call->uses[i] = palloc0(fields->natts * sizeof(int));
	}
	context.call = call;
	context.nargs = nargs;
	foreach(cell, expressions)
	{
		AttrNumber	number = list_length(columns) + 1;
		Expr	   *column = (Expr *) spread(lfirst(cell), &context);

		columns = lappend(columns, makeTargetEntry(column, number, NULL, false));
	}
	if (context.failed)
		return NULL;

	call->result = MakeSingleTupleTableSlot(tupdesc, &TTSOpsVirtual);
	call->econtext = CreateStandaloneExprContext();
	call->econtext->ecxt_innertuple = call->args[0];
	call->econtext->ecxt_outertuple = call->args[1];
	call->econtext->ecxt_scantuple = call->args[2];
	call->projection = ExecBuildProjectionInfo(columns, call->econtext, call->result, NULL, NULL);
	return call;
}

void
es_field_call_run(EsFieldCall *call)
{
	bool		isnull;

	for (int i = 0; i < ES_FIELD_CALL_MAX_ARGS; i++)
		if (call->args[i])
		{
			ExecClearTuple(call->args[i]);
			ExecStoreVirtualTuple(call->args[i]);
		}

	/* not ExecProject(), which would give memory of its own to the results */
	(void) ExecEvalExpr(&call->projection->pi_state, call->econtext, &isnull);
}

/* The fields of a composite type; of any other one, itself. */
static TupleDesc
fields_of_type(Oid type)
{
	TupleDesc	tupdesc;

	if (type_is_rowtype(type))
		return lookup_rowtype_tupdesc_copy(type, -1);
	tupdesc = CreateTemplateTupleDesc(1);
	TupleDescInitEntry(tupdesc, 1, "value", type, -1, 0);
	es_tupdesc_finalize(tupdesc);
	return tupdesc;
}

/* An expression for each field of the result; NIL when there is not. */
static List *
result_expressions(Expr *expression, TupleDesc tupdesc, bool composite)
{
	List	   *expressions;

	if (!composite)
		return list_make1(expression);
	if (!IsA(expression, RowExpr))
		return NIL;
	expressions = ((RowExpr *) expression)->args;
	if (list_length(expressions) != tupdesc->natts)
		return NIL;
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(tupdesc, i);

		if (!attr->attisdropped && exprType(list_nth(expressions, i)) != attr->atttypid)
			return NIL;
	}
	return expressions;
}

/* Copy an expression with columns in the place of parameters. */
static Node *
spread(Node *node, Spread *context)
{
	if (node == NULL || context->failed)
		return NULL;
	if (IsA(node, FieldSelect) && IsA(((FieldSelect *) node)->arg, Param))
	{
		FieldSelect *field = (FieldSelect *) node;
		Param	   *param = (Param *) field->arg;

		return column(context, param->paramid - 1, field->fieldnum, field->resulttype,
					  field->resulttypmod, field->resultcollid);
	}
	if (IsA(node, Param))
	{
		Param	   *param = (Param *) node;

		if (param->paramkind != PARAM_EXTERN || type_is_rowtype(param->paramtype))
		{
			context->failed = true;
			return NULL;
		}
		return column(context, param->paramid - 1, 1, param->paramtype, param->paramtypmod,
					  param->paramcollid);
	}
	return es_expression_tree_mutator(node, spread, context);
}

static Node *
column(Spread *context, int arg, int field, Oid type, int32 typmod, Oid collation)
{
	TupleDesc	fields;

	Assert(arg >= 0 && arg < context->nargs);
	fields = context->call->args[arg]->tts_tupleDescriptor;
	if (field > fields->natts || TupleDescAttr(fields, field - 1)->atttypid != type)
	{
		context->failed = true;
		return NULL;
	}
	context->call->uses[arg][field - 1]++;
	return (Node *) makeVar(arg_varno[arg], (AttrNumber) field, type, typmod, collation, 0);
}
