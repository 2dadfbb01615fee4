/*-------------------------------------------------------------------------
 *
 * routine.c
 *		The user's functions: finding the overload, calling it fast.
 *
 * A call is an expression over parameters that went through the planner, which
 * inlines simple SQL functions; without a plan around it, it is never compiled
 * by JIT.  A SQL function that is not inlined runs by plans that are kept
 * (sql_function.c).  A call is kept for the session.  User code may come back to the same
 * function while it runs (a command handler that dispatches), and an error may
 * leave the expression's state in the middle: a call that is found busy is not
 * entered again, but another one is made.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "retired.h"
#include "routine.h"
#include "sql_function.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/expandeddatum.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

/* A call that is ready to run. */
typedef struct Call
{
	MemoryContext context;
	Expr	   *expression;
	ExprState  *state;
	EsSqlFunction *sql;			/* instead of the expression; NULL: none */
	EsFieldCall *fields;		/* the expression over fields; NULL: not possible */
	bool		fields_known;	/* whether that was found out */
	ExprContext *econtext;
	ParamListInfo params;
	Oid			user;			/* who was allowed to execute it */
	uint64		roles;			/* role_changes when that was checked */
	bool		inlined;		/* no call of the function is left: see set_params() */
	bool		busy;
	uint64		busy_since;		/* aborts seen when it was entered */
	bool		broken;			/* by an error, which it does not survive */
} Call;

struct EsRoutine
{
	MemoryContext context;		/* holds this and its call */
	Oid			function;
	Oid			result_type;
	bool		returns_set;
	int			nargs;
	Oid			argtypes[ES_ROUTINE_MAX_ARGS];
	char	   *name;
	Call	   *call;			/* NULL: none yet */
};

/* Aborts of transactions and subtransactions: after one, a busy call may be a dead one. */
static uint64 aborts = 0;

/* Changes of roles and memberships: who may execute what may be another one. */
static uint64 role_changes = 0;

static Call *current_call(EsRoutine *routine);
static void enter_call(Call *call);
static Call *make_call(EsRoutine *routine, MemoryContext parent);
static Expr *call_expression(const EsRoutine *routine);
static ExprContext *call_context(const EsRoutine *routine, ParamListInfo *params);
static void set_params(const EsRoutine *routine, ParamListInfo params, const Datum *args,
					   const bool *nulls, bool read_only);
static void count_role_change(Datum arg, int cacheid, uint32 hashvalue);
static void count_abort(XactEvent event, void *arg);
static void count_subabort(SubXactEvent event, SubTransactionId mysubid,
						   SubTransactionId parentsubid, void *arg);

void
es_routine_init(void)
{
	RegisterXactCallback(count_abort, NULL);
	RegisterSubXactCallback(count_subabort, NULL);
	CacheRegisterSyscacheCallback(AUTHOID, count_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, count_role_change, (Datum) 0);
}

ArrayType *
es_search_path_current(Oid also)
{
	List	   *schemas = fetch_search_path(false);
	Datum	   *names;
	int			n = 0;
	ListCell   *cell;

	if (OidIsValid(also))
		schemas = list_append_unique_oid(schemas, also);
	names = palloc((list_length(schemas) + 1) * sizeof(Datum));
	foreach(cell, schemas)
	{
		char	   *name = get_namespace_name(lfirst_oid(cell));

		if (name && !isAnyTempNamespace(lfirst_oid(cell)))
			names[n++] = CStringGetTextDatum(name);
	}
	return construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT);
}

EsSearchPath *
es_search_path_read(ArrayType *names)
{
	EsSearchPath *path = palloc0(sizeof(EsSearchPath));
	StringInfoData setting;
	Datum	   *elements;
	int			n;

	initStringInfo(&setting);
	deconstruct_array(names, TEXTOID, -1, false, TYPALIGN_INT, &elements, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *name = TextDatumGetCString(elements[i]);
		Oid			schema = get_namespace_oid(name, true);

		if (OidIsValid(schema))
			path->schemas = list_append_unique_oid(path->schemas, schema);
		appendStringInfo(&setting, "%s%s", i > 0 ? ", " : "", quote_identifier(name));
	}
	/* last, so that a session's temporary table hides no table of the application */
	appendStringInfo(&setting, "%spg_temp", n > 0 ? ", " : "");
	path->setting = setting.data;
	return path;
}

int
es_search_path_enter(const EsSearchPath *path)
{
	List	   *current;
	bool		same;
	int			nestlevel;

	/* temporary objects are found first, unless the path says otherwise */
	if (!OidIsValid(LookupExplicitNamespace("pg_temp", true)))
	{
		current = fetch_search_path(false);
		same = equal(current, path->schemas);
		list_free(current);
		if (same)
			return 0;
	}
	nestlevel = NewGUCNestLevel();
	(void) set_config_option("search_path", path->setting, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

void
es_search_path_leave(int nestlevel)
{
	if (nestlevel > 0)
		AtEOXact_GUC(true, nestlevel);
}

EsFunctionScope *
es_function_scope(const char *name, Oid first_schema, const EsSearchPath *path)
{
	EsFunctionScope *scope = palloc0(sizeof(EsFunctionScope));
	List	   *names = es_qualified_name_list(name);
	char	   *schema_name = NULL;

	if (list_length(names) > 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not a function name", name)));
	DeconstructQualifiedName(names, &schema_name, &scope->name);
	if (schema_name)
	{
		Oid			schema = get_namespace_oid(schema_name, true);

		if (OidIsValid(schema))
			scope->schemas = list_make1_oid(schema);
		return scope;
	}
	if (OidIsValid(first_schema))
		scope->schemas = list_make1_oid(first_schema);
	scope->schemas = list_concat_unique_oid(scope->schemas, path->schemas);
	return scope;
}

void
es_function_scan(const EsFunctionScope *scope, EsFunctionVisit visit, void *arg)
{
	CatCList   *functions = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(scope->name));
	bool		done = false;
	ListCell   *cell;

	foreach(cell, scope->schemas)
	{
		for (int i = 0; i < functions->n_members && !done; i++)
		{
			HeapTuple	tuple = &functions->members[i]->tuple;
			Form_pg_proc function = (Form_pg_proc) GETSTRUCT(tuple);

			if (function->pronamespace == lfirst_oid(cell) && function->prokind == PROKIND_FUNCTION)
				done = visit(function, arg);
		}
	}
	ReleaseSysCacheList(functions);
}

bool
es_function_has_args(Form_pg_proc function, int nargs, const Oid *argtypes)
{
	return function->pronargs == nargs &&
		memcmp(function->proargtypes.values, argtypes, nargs * sizeof(Oid)) == 0;
}

EsRoutine *
es_routine(MemoryContext context, Oid function)
{
	EsRoutine  *routine;
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(function));
	Form_pg_proc form;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function with OID %u does not exist", function)));
	form = (Form_pg_proc) GETSTRUCT(tuple);
	if (form->prokind != PROKIND_FUNCTION || form->pronargs > ES_ROUTINE_MAX_ARGS)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s is not a plain function", format_procedure(function))));

	routine = MemoryContextAllocZero(context, sizeof(EsRoutine));
	routine->context = context;
	routine->function = function;
	routine->result_type = form->prorettype;
	routine->returns_set = form->proretset;
	routine->nargs = form->pronargs;
	memcpy(routine->argtypes, form->proargtypes.values, form->pronargs * sizeof(Oid));
	routine->name = MemoryContextStrdup(context, format_procedure(function));
	ReleaseSysCache(tuple);
	return routine;
}

Oid
es_routine_result_type(const EsRoutine *routine)
{
	return routine->result_type;
}

bool
es_routine_returns_set(const EsRoutine *routine)
{
	return routine->returns_set;
}

const char *
es_routine_name(const EsRoutine *routine)
{
	return routine->name;
}

Datum
es_routine_call(EsRoutine *routine, const Datum *args, const bool *nulls, bool *isnull)
{
	Call	   *call = current_call(routine);
	Datum		result;

	/* a busy one goes on being the routine's, this one is for once */
	if (call == NULL)
		call = make_call(routine, CurrentMemoryContext);

	enter_call(call);
	set_params(routine, call->params, args, nulls, call->inlined || call->sql);
	PG_TRY();
	{
		if (call->sql)
			result = es_sql_function_call(call->sql, call->params, isnull);
		else
			result = ExecEvalExpr(call->state, call->econtext, isnull);
	}
	PG_CATCH();
	{
		/* nothing runs in it any more, but the error may still refer to what it holds */
		call->busy = false;
		call->broken = true;
		PG_RE_THROW();
	}
	PG_END_TRY();
	call->busy = false;
	return result;
}

EsFieldCall *
es_routine_begin_fields(EsRoutine *routine)
{
	Call	   *call = current_call(routine);

	if (call == NULL || !call->inlined)
		return NULL;
	if (!call->fields_known)
	{
		MemoryContext caller = MemoryContextSwitchTo(call->context);

		call->fields = es_field_call(call->expression, routine->nargs, routine->argtypes,
									 routine->result_type);
		if (call->fields)
			call->fields->owner = call;
		call->fields_known = true;
		MemoryContextSwitchTo(caller);
	}
	if (call->fields)
		enter_call(call);
	return call->fields;
}

void
es_routine_end_fields(EsFieldCall *fields)
{
	((Call *) fields->owner)->busy = false;
}

Tuplestorestate *
es_routine_call_set(EsRoutine *routine, const Datum *args, const bool *nulls, TupleDesc tupdesc)
{
	ParamListInfo params;
	ExprContext *econtext = call_context(routine, &params);
	SetExprState *state;

	set_params(routine, params, args, nulls, true);
	state = ExecInitTableFunctionResult(call_expression(routine), econtext, NULL);
	return ExecMakeTableFunctionResult(state, econtext,
									   AllocSetContextCreate(CurrentMemoryContext,
															 "event_sourcing arguments",
															 ALLOCSET_SMALL_SIZES),
									   tupdesc, false);
}

/* The routine's call, made anew where it must be; NULL while it is running. */
static Call *
current_call(EsRoutine *routine)
{
	Call	   *call = routine->call;

	if (call && call->user == GetUserId() && call->roles == role_changes && !call->busy &&
		!call->broken && (call->sql == NULL || es_sql_function_is_valid(call->sql)))
		return call;
	if (call && call->busy && call->busy_since == aborts)
		return NULL;

	/* it is not running any more: an error has ended it, or it is outdated */
	routine->call = NULL;
	if (call && call->broken)
		MemoryContextDelete(call->context);
	else if (call)
		es_retire_context(call->context);
	routine->call = make_call(routine, routine->context);
	return routine->call;
}

static void
enter_call(Call *call)
{
	call->busy = true;
	call->busy_since = aborts;
}

/*
 * The expression must not be freed before the routine is, or before it has
 * returned: whoever replaces it retires its context.
 */
static Call *
make_call(EsRoutine *routine, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing call",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Call	   *call = palloc0(sizeof(Call));
	Expr	   *expression = expression_planner(call_expression(routine));

	call->context = context;
	call->user = GetUserId();
	call->roles = role_changes;
	call->inlined = !IsA(expression, FuncExpr) ||
		((FuncExpr *) expression)->funcid != routine->function;
	call->econtext = call_context(routine, &call->params);
	call->expression = expression;
	call->state = ExecInitExprWithParams(expression, call->params);
	if (!call->inlined)
		call->sql = es_sql_function(routine->function);

	/* complete: give it the lifetime asked for */
	MemoryContextSetParent(context, parent);
	MemoryContextSwitchTo(caller);
	return call;
}

static Expr *
call_expression(const EsRoutine *routine)
{
	FuncExpr   *call;
	List	   *args = NIL;

	for (int i = 0; i < routine->nargs; i++)
	{
		Param	   *param = makeNode(Param);

		param->paramkind = PARAM_EXTERN;
		param->paramid = i + 1;
		param->paramtype = routine->argtypes[i];
		param->paramtypmod = -1;
		param->paramcollid = get_typcollation(param->paramtype);
		param->location = -1;
		args = lappend(args, param);
	}
	call = makeFuncExpr(routine->function, routine->result_type, args, InvalidOid, InvalidOid,
						COERCE_EXPLICIT_CALL);
	call->funcretset = routine->returns_set;
	return (Expr *) call;
}

static ExprContext *
call_context(const EsRoutine *routine, ParamListInfo *params)
{
	ExprContext *econtext = CreateStandaloneExprContext();

	*params = makeParamList(routine->nargs);
	for (int i = 0; i < routine->nargs; i++)
		(*params)->params[i].ptype = routine->argtypes[i];
	econtext->ecxt_param_list_info = *params;
	return econtext;
}

/*
 * Arguments are composite or jsonb.  A function that is handed a read-write
 * expanded object may take it for its own and free it; an inlined body may use
 * the parameter more than once, so it gets the object read-only.
 */
static void
set_params(const EsRoutine *routine, ParamListInfo params, const Datum *args, const bool *nulls,
		   bool read_only)
{
	for (int i = 0; i < routine->nargs; i++)
	{
		params->params[i].value =
			read_only ? MakeExpandedObjectReadOnly(args[i], nulls[i], -1) : args[i];
		params->params[i].isnull = nulls[i];
	}
}

static void
count_abort(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		aborts++;
}

static void
count_role_change(Datum arg, int cacheid, uint32 hashvalue)
{
	role_changes++;
}

static void
count_subabort(SubXactEvent event, SubTransactionId mysubid, SubTransactionId parentsubid,
			   void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		aborts++;
}
