/*-------------------------------------------------------------------------
 *
 * sql_function.c
 *		The user's SQL functions, with plans that are kept.
 *
 * A SQL function that cannot be inlined (it reads or writes tables) is parsed
 * and planned anew in every transaction by servers before 18, which takes
 * longer than most handlers run.  Here its statements are cached plans, made
 * once per session and kept up to date by the server's plan cache, as those of
 * a PL/pgSQL function are.
 *
 * Names in a body given as a string are looked up under the search_path at
 * each (re)planning, as the server does.  A body that was parsed when the
 * function was created has no text; it is deparsed with every name qualified,
 * so that it means the same at any time.
 *
 * What a statement sees is what it would in the server's call: each one of a
 * volatile function what was there before it, those of others the caller's
 * snapshot.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "executor/executor.h"
#include "executor/functions.h"
#include "funcapi.h"
#include "nodes/nodeFuncs.h"
#include "row_receiver.h"
#include "sql_function.h"
#include "tcop/dest.h"
#include "tcop/tcopprot.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

struct EsSqlFunction
{
	char	   *name;
	bool		read_only;		/* not volatile */
	Oid			result_type;
	int16		result_typlen;
	bool		result_typbyval;
	TupleDesc	result_tupdesc; /* of a result that comes as columns; else NULL */
	List	   *sources;		/* CachedPlanSource *, one per statement */
	MemoryContextCallback drop; /* of the sources, with the context */
};

/* Receives the first row of the statement that gives the result. */
typedef struct ResultReceiver
{
	DestReceiver pub;
	EsSqlFunction *function;
	MemoryContext context;		/* for the result */
	bool		received;
	Datum		value;
	bool		isnull;
} ResultReceiver;

/* What an error in a body is reported with. */
typedef struct BodyContext
{
	const char *name;
	const char *source;
	int			statement;		/* from 1; 0: while it is prepared */
} BodyContext;

static bool can_keep(HeapTuple proc);
static EsSqlFunction *prepare(HeapTuple proc, BodyContext *body);
static List *body_statements(HeapTuple proc, const char **source);
static char *deparse_statement(Query *query);
static bool is_kept_statement(List *queries, bool read_only);
static bool fits_result(EsSqlFunction *function, Query *query);
static void drop_sources(void *arg);
static bool is_lazy(const PlannedStmt *statement);
static void run_statement(EsSqlFunction *function, PlannedStmt *statement, const char *source,
						  ParamListInfo params, DestReceiver *dest);
static bool receive_result(TupleTableSlot *slot, DestReceiver *self);
static void body_context(void *arg);

EsSqlFunction *
es_sql_function(Oid oid)
{
	HeapTuple	proc = SearchSysCache1(PROCOID, ObjectIdGetDatum(oid));
	EsSqlFunction *function = NULL;
	ErrorContextCallback context;
	BodyContext context_arg = {0};

	if (!HeapTupleIsValid(proc))
		elog(ERROR, "cache lookup failed for function %u", oid);
	if (can_keep(proc))
	{
		context_arg.name = NameStr(((Form_pg_proc) GETSTRUCT(proc))->proname);
		context.callback = body_context;
		context.arg = &context_arg;
		context.previous = error_context_stack;
		error_context_stack = &context;
		function = prepare(proc, &context_arg);
		error_context_stack = context.previous;
	}
	ReleaseSysCache(proc);
	return function;
}

bool
es_sql_function_is_valid(const EsSqlFunction *function)
{
	ListCell   *cell;

	foreach(cell, function->sources)
		if (!CachedPlanIsValid((CachedPlanSource *) lfirst(cell)))
			return false;
	return true;
}

Datum
es_sql_function_call(EsSqlFunction *function, ParamListInfo params, bool *isnull)
{
	ErrorContextCallback context;
	BodyContext context_arg = {function->name, NULL, 0};
	ResultReceiver receiver = {0};
	bool		pushed = false;
	ListCell   *cell;

	es_row_receiver_init(&receiver.pub, receive_result);
	receiver.function = function;
	receiver.context = CurrentMemoryContext;
	receiver.isnull = true;

	context.callback = body_context;
	context.arg = &context_arg;
	context.previous = error_context_stack;
	error_context_stack = &context;

	foreach(cell, function->sources)
	{
		CachedPlanSource *source = lfirst(cell);
		bool		is_last = (lnext(function->sources, cell) == NULL);
		CachedPlan *plan;
		ListCell   *planned;

		context_arg.source = source->query_string;
		context_arg.statement++;
		if (!function->read_only)
		{
			CommandCounterIncrement();
			if (!pushed)
				PushActiveSnapshot(GetTransactionSnapshot());
			else
				UpdateActiveSnapshotCommandId();
			pushed = true;
		}

		plan = GetCachedPlan(source, params, CurrentResourceOwner, NULL);
		foreach(planned, plan->stmt_list)
		{
			PlannedStmt *statement = lfirst_node(PlannedStmt, planned);
			bool		gives_result = is_last && statement->canSetTag &&
				function->result_type != VOIDOID;

			run_statement(function, statement, source->query_string, params,
						  gives_result ? &receiver.pub : None_Receiver);
		}
		ReleaseCachedPlan(plan, CurrentResourceOwner);
	}
	if (pushed)
		PopActiveSnapshot();
	error_context_stack = context.previous;

	*isnull = receiver.isnull;
	return receiver.value;
}

/* Whether a function is called as any other statement would run. */
static bool
can_keep(HeapTuple proc)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(proc);

	return form->prolang == SQLlanguageId && form->prokind == PROKIND_FUNCTION &&
		!form->prosecdef && !form->proretset && !form->proisstrict &&
		form->prorettype != RECORDOID && !IsPolymorphicType(form->prorettype) &&
		heap_attisnull(proc, Anum_pg_proc_proconfig, NULL);
}

static EsSqlFunction *
prepare(HeapTuple proc, BodyContext *body)
{
	Form_pg_proc form = (Form_pg_proc) GETSTRUCT(proc);
	EsSqlFunction *function = palloc0(sizeof(EsSqlFunction));
	SQLFunctionParseInfoPtr parse_info = prepare_sql_fn_parse_info(proc, NULL, InvalidOid);
	MemoryContext workspace = AllocSetContextCreate(CurrentMemoryContext,
													"event_sourcing SQL function",
													ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller;
	Query	   *last = NULL;
	bool		keep = true;
	List	   *statements;
	ListCell   *cell;

	function->name = pstrdup(NameStr(form->proname));
	function->read_only = (form->provolatile != PROVOLATILE_VOLATILE);
	function->result_type = form->prorettype;
	get_typlenbyval(form->prorettype, &function->result_typlen, &function->result_typbyval);
	function->drop.func = drop_sources;
	function->drop.arg = function;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &function->drop);

	/* a source that is not saved in the end goes with the workspace */
	caller = MemoryContextSwitchTo(workspace);
	statements = body_statements(proc, &body->source);
	foreach(cell, statements)
	{
		RawStmt    *raw = lfirst_node(RawStmt, cell);
		CachedPlanSource *source = CreateCachedPlan(raw, body->source,
													CreateCommandTag(raw->stmt));
		List	   *queries = pg_analyze_and_rewrite_withcb(raw, body->source,
													  (ParserSetupHook) sql_fn_parser_setup,
													  parse_info, NULL);

		keep = is_kept_statement(queries, function->read_only);
		if (!keep)
			break;
		last = linitial_node(Query, queries);
		CompleteCachedPlan(source, queries, NULL, parse_info->argtypes, parse_info->nargs,
						   (ParserSetupHook) sql_fn_parser_setup, parse_info,
						   CURSOR_OPT_GENERIC_PLAN | CURSOR_OPT_PARALLEL_OK, true);
		MemoryContextSwitchTo(caller);
		function->sources = lappend(function->sources, source);
		SaveCachedPlan(source);
		MemoryContextSwitchTo(workspace);
	}
	MemoryContextSwitchTo(caller);
	keep = keep && last && fits_result(function, last);
	MemoryContextDelete(workspace);
	return keep ? function : NULL;
}

/* The statements of a function's body, and the text that they stand in. */
static List *
body_statements(HeapTuple proc, const char **source)
{
	bool		isnull;
	Datum		body = SysCacheGetAttr(PROCOID, proc, Anum_pg_proc_prosqlbody, &isnull);
	StringInfoData deparsed;
	Node	   *stored;
	ListCell   *cell;

	if (isnull)
	{
		body = SysCacheGetAttr(PROCOID, proc, Anum_pg_proc_prosrc, &isnull);
		*source = TextDatumGetCString(body);
		return pg_parse_query(*source);
	}

	/* one query, or a list of queries in a list */
	stored = stringToNode(TextDatumGetCString(body));
	if (IsA(stored, List))
		stored = linitial(castNode(List, stored));
	else
		stored = (Node *) list_make1(stored);

	initStringInfo(&deparsed);
	foreach(cell, castNode(List, stored))
		appendStringInfo(&deparsed, "%s;\n", deparse_statement(lfirst_node(Query, cell)));
	*source = deparsed.data;
	return pg_parse_query(*source);
}

/* A parsed statement as text, every name in it qualified. */
static char *
deparse_statement(Query *query)
{
	int			nestlevel = NewGUCNestLevel();
	char	   *result;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	query->isReturn = false;	/* RETURN has a meaning in a body only */
	result = pg_get_querydef(query, false);
	AtEOXact_GUC(true, nestlevel);
	return result;
}

/* One statement that the executor runs, and that the function is free to run. */
static bool
is_kept_statement(List *queries, bool read_only)
{
	Query	   *query;

	if (list_length(queries) != 1)
		return false;
	query = linitial_node(Query, queries);
	if (query->commandType == CMD_UTILITY)
		return false;
	return !read_only ||
		(query->commandType == CMD_SELECT && query->rowMarks == NIL && !query->hasModifyingCTE);
}

/* Whether the last statement gives the function's result without a conversion. */
static bool
fits_result(EsSqlFunction *function, Query *query)
{
	List	   *columns = query->commandType == CMD_SELECT ? query->targetList :
													   query->returningList;
	Oid			first = InvalidOid;
	TupleDesc	tupdesc;
	int			n = 0;
	bool		same = true;
	ListCell   *cell;

	if (function->result_type == VOIDOID)
		return true;
	tupdesc = lookup_rowtype_tupdesc_noerror(function->result_type, -1, true);
	foreach(cell, columns)
	{
		TargetEntry *column = lfirst_node(TargetEntry, cell);
		Oid			type = exprType((Node *) column->expr);

		if (column->resjunk)
			continue;
		if (n == 0)
			first = type;
		if (tupdesc && n < tupdesc->natts)
		{
			Form_pg_attribute attr = TupleDescAttr(tupdesc, n);

			same = same && !attr->attisdropped && attr->atttypid == type &&
				(attr->atttypmod == -1 || attr->atttypmod == exprTypmod((Node *) column->expr));
		}
		n++;
	}
	if (n == 1 && first == function->result_type)
		same = true;
	else if (tupdesc && same && n == tupdesc->natts)
		function->result_tupdesc = BlessTupleDesc(CreateTupleDescCopy(tupdesc));
	else
		same = false;
	if (tupdesc)
		ReleaseTupleDesc(tupdesc);
	return same;
}

static void
drop_sources(void *arg)
{
	EsSqlFunction *function = arg;
	ListCell   *cell;

	foreach(cell, function->sources)
		DropCachedPlan((CachedPlanSource *) lfirst(cell));
}

/* Only one row is wanted, and nothing depends on the others. */
static bool
is_lazy(const PlannedStmt *statement)
{
	return statement->commandType == CMD_SELECT && !statement->hasModifyingCTE;
}

static void
run_statement(EsSqlFunction *function, PlannedStmt *statement, const char *source,
			  ParamListInfo params, DestReceiver *dest)
{
	bool		lazy = dest != None_Receiver && is_lazy(statement);
	QueryDesc  *query = CreateQueryDesc(statement, source, GetActiveSnapshot(), InvalidSnapshot,
									   dest, params, NULL, 0);

	ExecutorStart(query, lazy ? EXEC_FLAG_SKIP_TRIGGERS : 0);
	es_executor_run(query, ForwardScanDirection, lazy ? 1 : 0);
	ExecutorFinish(query);
	ExecutorEnd(query);
	FreeQueryDesc(query);
}

/* DestReceiver: the first row is the result. */
static bool
receive_result(TupleTableSlot *slot, DestReceiver *self)
{
	ResultReceiver *receiver = (ResultReceiver *) self;
	EsSqlFunction *function = receiver->function;
	MemoryContext caller;

	if (receiver->received)
		return true;
	receiver->received = true;
	caller = MemoryContextSwitchTo(receiver->context);
	if (function->result_tupdesc)
	{
		slot_getallattrs(slot);
		receiver->value = HeapTupleGetDatum(heap_form_tuple(function->result_tupdesc,
															slot->tts_values, slot->tts_isnull));
		receiver->isnull = false;
	}
	else
	{
		Datum		value = slot_getattr(slot, 1, &receiver->isnull);

		if (!receiver->isnull)
			receiver->value = datumCopy(value, function->result_typbyval, function->result_typlen);
	}
	MemoryContextSwitchTo(caller);
	return true;
}

/* The server's own words for an error in a SQL function. */
static void
body_context(void *arg)
{
	BodyContext *c = arg;
	int			position = geterrposition();

	if (position > 0 && c->source)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(c->source);
	}
	if (c->statement > 0)
		errcontext("SQL function \"%s\" statement %d", c->name, c->statement);
	else
		errcontext("SQL function \"%s\" during startup", c->name);
}
