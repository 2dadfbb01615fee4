/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *		Dispatching commands.
 *
 * One transaction, in this order: find the handler, lock the stream, look for
 * a receipt, load the state, let the handler decide, append the events, run
 * the inline projections, store the receipt and perhaps a state snapshot, keep
 * the new state.  Everything that is read is read under the stream's lock with
 * a snapshot taken under it: the statement's own is older than the lock wait.
 *
 * User code runs in the middle: it may dispatch further commands, replace
 * functions, and raise.  What is kept for the session is therefore looked up
 * again after the lock wait, and everything else lives on the C stack.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "aggregate.h"
#include "append.h"
#include "catalog/pg_type.h"
#include "composite.h"
#include "dispatch.h"
#include "errors.h"
#include "executor/executor.h"
#include "extension.h"
#include "fmgr.h"
#include "fold.h"
#include "funcapi.h"
#include "guc.h"
#include "handling.h"
#include "receipt.h"
#include "spi_plan.h"
#include "state.h"
#include "state_type.h"
#include "state_snapshot.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

/* Columns of es_command */
enum
{
	COMMAND_TYPE,
	COMMAND_DATA,
	COMMAND_METADATA,
	COMMAND_ID,
	COMMAND_CORRELATION_ID,
	COMMAND_CAUSATION_ID,
	COMMAND_COLUMNS
};

/* A command on its way. */
typedef struct Dispatch
{
	EsStore    *store;

	/* the command: a composite value of a type, or JSON under a name */
	Oid			type;			/* InvalidOid: by name */
	Datum		record;
	const char *name;
	Jsonb	   *data;			/* NULL until somebody asks for it */

	Jsonb	   *metadata;		/* as given; then with the session's under it */
	bool		has_expected;
	int64		expected;
	const pg_uuid_t *command_id;
	const pg_uuid_t *correlation_id;
	const pg_uuid_t *causation_id;	/* of the command */

	EsCommandHandler *handler;
	text	   *stream;
	int64		version;		/* that the handler decides on */
} Dispatch;

static const EsPlanSpec read_events_plan = {
	"SELECT " ES_EVENT_SELECT_LIST " FROM @store@.event"
	" WHERE stream OPERATOR(pg_catalog.=) $1 AND version OPERATOR(pg_catalog.>) $2"
	" AND version OPERATOR(pg_catalog.<=) $3 ORDER BY version",
	3,
	{TEXTOID, INT8OID, INT8OID},
};

static int	depth = 0;			/* of dispatches within dispatches */

static void common_arguments(FunctionCallInfo fcinfo, int first, Dispatch *dispatch);
static void read_value(Dispatch *dispatch, Oid type, Datum value);
static void read_command(Dispatch *dispatch, Datum value);
static Datum dispatch_command(Dispatch *dispatch);
static void find_handler(Dispatch *dispatch);
static void prepare_command(Dispatch *dispatch);
static text *command_identity(Dispatch *dispatch);
static Datum execute_command(Dispatch *dispatch);
static EsNewEvent *decide(Dispatch *dispatch, EsFold *fold, int *nevents);
static EsNewEvent *call_handler(Dispatch *dispatch, Datum state, int *nevents);
static void check_result_type(const EsRoutine *execute, Oid type);
static EsNewEvent *events_of_array(Datum array, Oid element_type, int *nevents);
static EsNewEvent *events_of_set(EsRoutine *execute, const Datum *args, const bool *nulls,
								 int *nevents);
static Datum command_envelope(Dispatch *dispatch);
static Jsonb *command_data(Dispatch *dispatch);
static Datum first_result(Dispatch *dispatch, const EsReceipt *receipt);
static Datum make_result(text *stream, int64 version, int64 position, const EsEvent *events,
						 int nevents);
static void execute_context(void *arg);

PG_FUNCTION_INFO_V1(es_dispatch_record);
PG_FUNCTION_INFO_V1(es_dispatch_json);
PG_FUNCTION_INFO_V1(es_dispatch_literal);

void
es_dispatch_init(void)
{
	depth = 0;
}

/*
 * es_dispatch(command anyelement, metadata jsonb, expected_version bigint, command_id uuid,
 * correlation_id uuid, causation_id uuid)
 */
Datum
es_dispatch_record(PG_FUNCTION_ARGS)
{
	Dispatch	dispatch = {0};
	Oid			type = get_fn_expr_argtype(fcinfo->flinfo, 0);

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the command must not be NULL")));
	common_arguments(fcinfo, 1, &dispatch);
	read_value(&dispatch, type, PG_GETARG_DATUM(0));
	return dispatch_command(&dispatch);
}

/*
 * es_dispatch(command_type text, data jsonb, metadata jsonb, expected_version bigint,
 * command_id uuid, correlation_id uuid, causation_id uuid)
 */
Datum
es_dispatch_json(PG_FUNCTION_ARGS)
{
	Dispatch	dispatch = {0};

	common_arguments(fcinfo, 2, &dispatch);
	if (!PG_ARGISNULL(0))
		dispatch.name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	if (!PG_ARGISNULL(1))
		dispatch.data = PG_GETARG_JSONB_P(1);
	return dispatch_command(&dispatch);
}

/* es_dispatch(command_type text, data text, metadata text, ...), as above */
Datum
es_dispatch_literal(PG_FUNCTION_ARGS)
{
	for (int i = 1; i <= 2; i++)
		if (!PG_ARGISNULL(i))
			fcinfo->args[i].value = es_jsonb_from_text(PG_GETARG_TEXT_PP(i));
	return es_dispatch_json(fcinfo);
}

void
es_dispatch_value(Oid type, Datum value)
{
	Dispatch	dispatch = {0};

	read_value(&dispatch, type, value);
	(void) dispatch_command(&dispatch);
}

void
es_dispatch_named(const char *name, Jsonb *data, Jsonb *metadata,
				  const pg_uuid_t *correlation_id, const pg_uuid_t *causation_id)
{
	Dispatch	dispatch = {0};

	dispatch.name = name;
	dispatch.data = data;
	dispatch.metadata = metadata;
	dispatch.correlation_id = correlation_id;
	dispatch.causation_id = causation_id;
	(void) dispatch_command(&dispatch);
}

void
es_dispatch_describe(Oid type, Datum value, char **name, Jsonb **data)
{
	Dispatch	dispatch = {0};

	read_value(&dispatch, type, value);
	*name = OidIsValid(dispatch.type) ? pstrdup(es_state_type_name(dispatch.type)) :
										unconstify(char *, dispatch.name);
	*data = command_data(&dispatch);
}

void
es_dispatch_check(EsStore *store, const char *name, Jsonb *data)
{
	Dispatch	dispatch = {0};
	int			nestlevel;

	dispatch.store = store;
	dispatch.name = name;
	dispatch.data = data;
	dispatch.handler = es_command_handler_by_name(store, name);
	nestlevel = es_search_path_enter(dispatch.handler->aggregate->path);
	prepare_command(&dispatch);
	(void) es_aggregate_stream(dispatch.handler->aggregate, command_identity(&dispatch));
	es_search_path_leave(nestlevel);
}

/* metadata, expected_version, command_id, correlation_id, causation_id */
static void
common_arguments(FunctionCallInfo fcinfo, int first, Dispatch *dispatch)
{
	if (!PG_ARGISNULL(first))
		dispatch->metadata = PG_GETARG_JSONB_P(first);
	if (!PG_ARGISNULL(first + 1))
	{
		dispatch->has_expected = true;
		dispatch->expected = PG_GETARG_INT64(first + 1);
	}
	if (!PG_ARGISNULL(first + 2))
		dispatch->command_id = PG_GETARG_UUID_P(first + 2);
	if (!PG_ARGISNULL(first + 3))
		dispatch->correlation_id = PG_GETARG_UUID_P(first + 3);
	if (!PG_ARGISNULL(first + 4))
		dispatch->causation_id = PG_GETARG_UUID_P(first + 4);
}

/* A command given as a value. */
static void
read_value(Dispatch *dispatch, Oid type, Datum value)
{
	if (type == RECORDOID)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("a command must have a named composite type"),
				 errhint("Cast the row to its type, as in ROW(...)::deposit.")));
	if (type == es_extension()->command.oid)
		read_command(dispatch, value);
	else
	{
		dispatch->type = type;
		dispatch->record = value;
	}
}

/* A command given as es_command; the call's own arguments win. */
static void
read_command(Dispatch *dispatch, Datum value)
{
	Datum		values[COMMAND_COLUMNS];
	bool		nulls[COMMAND_COLUMNS];

	es_composite_deform(value, es_extension()->command.tupdesc, values, nulls);

	if (!nulls[COMMAND_TYPE])
		dispatch->name = TextDatumGetCString(values[COMMAND_TYPE]);
	if (!nulls[COMMAND_DATA])
		dispatch->data = DatumGetJsonbP(values[COMMAND_DATA]);
	if (!nulls[COMMAND_METADATA])
		dispatch->metadata = es_jsonb_merge(DatumGetJsonbP(values[COMMAND_METADATA]),
											dispatch->metadata);
	if (!nulls[COMMAND_ID] && dispatch->command_id == NULL)
		dispatch->command_id = DatumGetUUIDP(values[COMMAND_ID]);
	if (!nulls[COMMAND_CORRELATION_ID] && dispatch->correlation_id == NULL)
		dispatch->correlation_id = DatumGetUUIDP(values[COMMAND_CORRELATION_ID]);
	if (!nulls[COMMAND_CAUSATION_ID] && dispatch->causation_id == NULL)
		dispatch->causation_id = DatumGetUUIDP(values[COMMAND_CAUSATION_ID]);
}

static Datum
dispatch_command(Dispatch *dispatch)
{
	MemoryContext caller = CurrentMemoryContext;
	const EsHandling *outer = es_handling_current();
	volatile Datum result;
	int			nestlevel;

	if (dispatch->type == InvalidOid && dispatch->name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the command type must not be NULL")));
	if (dispatch->type == InvalidOid && dispatch->name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the command type must not be empty")));
	if (dispatch->metadata && !JB_ROOT_IS_OBJECT(dispatch->metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the metadata of a command must be a JSON object")));
	if (dispatch->has_expected)
		es_append_check_expected(dispatch->expected);
	if (depth >= es_max_dispatch_depth)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("commands are dispatched within commands more than %d deep",
						es_max_dispatch_depth),
				 errhint("Look for handlers that dispatch each other's commands, or raise event_sourcing.max_dispatch_depth.")));

	dispatch->metadata = es_event_metadata(dispatch->metadata);
	if (outer && dispatch->correlation_id == NULL)
		dispatch->correlation_id = outer->correlation_id;
	if (dispatch->correlation_id == NULL)
		dispatch->correlation_id = dispatch->command_id;

	dispatch->store = es_store_current();
	SPI_connect();
	find_handler(dispatch);
	nestlevel = es_search_path_enter(dispatch->handler->aggregate->path);
	PushActiveSnapshot(GetTransactionSnapshot());
	depth++;
	PG_TRY();
	{
		result = execute_command(dispatch);
	}
	PG_FINALLY();
	{
		depth--;
	}
	PG_END_TRY();
	PopActiveSnapshot();
	es_search_path_leave(nestlevel);

	MemoryContextSwitchTo(caller);
	result = datumCopy(result, false, -1);
	SPI_finish();
	return result;
}

/*
 * Find the handler and lock the stream.  While this waits for the lock, the
 * aggregate may be defined anew.
 */
static void
find_handler(Dispatch *dispatch)
{
	for (;;)
	{
		EsCommandHandler *handler = OidIsValid(dispatch->type) ?
			es_command_handler(dispatch->store, dispatch->type) :
			es_command_handler_by_name(dispatch->store, dispatch->name);
		text	   *stream;

		if (dispatch->handler && handler == dispatch->handler)
			return;
		dispatch->handler = handler;
		prepare_command(dispatch);
		stream = es_aggregate_stream(handler->aggregate, command_identity(dispatch));
		if (dispatch->stream && VARSIZE(stream) == VARSIZE(dispatch->stream) &&
			memcmp(stream, dispatch->stream, VARSIZE(stream)) == 0)
			return;
		dispatch->stream = stream;
		es_stream_lock(dispatch->store, stream);
		AcceptInvalidationMessages();
	}
}

/* Bring the command into the form that its handler takes. */
static void
prepare_command(Dispatch *dispatch)
{
	EsCommandHandler *handler = dispatch->handler;

	if (OidIsValid(handler->command_type))
	{
		EsComposite *composite = es_composite(handler->command_type);

		if (OidIsValid(dispatch->type))
			return;
		if (dispatch->data == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the data of command \"%s\" must not be NULL", handler->command_name)));
		es_composite_check_keys(composite, dispatch->data);
		dispatch->record = es_composite_from_jsonb(composite, dispatch->data);
	}
	else if (command_data(dispatch) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the data of command \"%s\" must not be NULL", handler->command_name)));
	else if (!JB_ROOT_IS_OBJECT(dispatch->data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the data of command \"%s\" must be a JSON object",
						handler->command_name)));
}

/* The identity field as text, NULL when it is NULL or missing. */
static text *
command_identity(Dispatch *dispatch)
{
	EsCommandHandler *handler = dispatch->handler;
	const char *identity = handler->aggregate->identity;
	JsonbValue	found;

	if (OidIsValid(handler->command_type))
	{
		EsComposite *composite = es_composite(handler->command_type);
		Oid			output;
		bool		is_varlena;
		bool		isnull;
		Datum		value = es_composite_field(composite, dispatch->record,
										 handler->identity_attnum, &isnull);

		if (isnull)
			return NULL;
		getTypeOutputInfo(TupleDescAttr(es_composite_tupdesc(composite),
										handler->identity_attnum - 1)
							  ->atttypid,
						  &output, &is_varlena);
		return cstring_to_text(OidOutputFunctionCall(output, value));
	}

	if (getKeyJsonValueFromContainer(&dispatch->data->root, identity, strlen(identity),
									 &found) == NULL ||
		found.type == jbvNull)
		return NULL;
	if (found.type == jbvString)
		return cstring_to_text_with_len(found.val.string.val, found.val.string.len);
	if (found.type == jbvNumeric)
	{
		Datum		number = NumericGetDatum(found.val.numeric);

		return cstring_to_text(DatumGetCString(DirectFunctionCall1(numeric_out, number)));
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("field \"%s\" of command \"%s\" must be a string or a number", identity,
					handler->command_name)));
	return NULL;
}

/* Under the stream's lock and a snapshot taken under it. */
static Datum
execute_command(Dispatch *dispatch)
{
	EsStore    *store = dispatch->store;
	const EsHandling *outer = es_handling_current();
	TimestampTz now = GetCurrentTimestamp();
	EsReceipt	receipt = {0};
	EsAppend	append = {0};
	EsStreamHead before;
	EsFold	   *fold;
	EsEvent    *events;
	int			nestlevel;

	if (dispatch->command_id)
	{
		receipt.command_id = dispatch->command_id;
		receipt.command_type = dispatch->handler->command_name;
		receipt.stream = dispatch->stream;
		if (es_receipt_find(store, &receipt))
			return first_result(dispatch, &receipt);
	}

	if (IsolationUsesXactSnapshot())
		(void) es_stream_read_head(store, dispatch->stream, 0);	/* or raise 40001 */
	fold = es_state_load(store, dispatch->handler->aggregate, dispatch->stream, PG_INT64_MAX);
	before = fold->head;
	if (dispatch->has_expected)
		es_append_require_version(dispatch->stream, dispatch->expected, before.version);

	append.events = decide(dispatch, fold, &append.nevents);

	/* whatever the handler did to the search_path: events are applied under the registered one */
	nestlevel = es_search_path_enter(dispatch->handler->aggregate->path);
	append.store = store;
	append.stream = dispatch->stream;
	append.metadata = dispatch->metadata;
	append.correlation_id = dispatch->correlation_id;
	append.causation_id = dispatch->causation_id ? dispatch->causation_id : dispatch->command_id;
	if (append.causation_id == NULL && outer)
		append.causation_id = outer->causation_id;

	/* apply first: what cannot be applied must not be recorded */
	events = es_append_record(&append, before);
	for (int i = 0; i < append.nevents; i++)
		es_fold_apply(fold, &events[i], append.events[i].record_type, append.events[i].record);
	es_search_path_leave(nestlevel);
	es_append_write(store, events, append.nevents);

	if (dispatch->command_id)
	{
		receipt.version = fold->head.version;
		receipt.position = fold->head.position;
		receipt.event_count = append.nevents;
		es_receipt_write(store, &receipt, now);
	}
	/* of what the fold began from, under the role that it began as: a handler may change it */
	if (!fold->filtered && !es_store_has_row_security(store))
		es_state_snapshot_write(fold, before.version, now);
	es_state_keep(fold);
	return make_result(dispatch->stream, fold->head.version, fold->head.position, events,
					   append.nevents);
}

/* Let the handler decide; user code. */
static EsNewEvent *
decide(Dispatch *dispatch, EsFold *fold, int *nevents)
{
	ErrorContextCallback context;
	EsHandling	handling;
	uint64		appends = es_append_count();
	EsNewEvent *volatile events = NULL;

	dispatch->version = fold->head.version;
	context.callback = execute_context;
	context.arg = dispatch;
	context.previous = error_context_stack;
	error_context_stack = &context;

	handling.correlation_id = dispatch->correlation_id;
	handling.causation_id = dispatch->command_id ? dispatch->command_id : dispatch->causation_id;
	es_handling_begin(&handling);
	PG_TRY();
	{
		events = call_handler(dispatch, es_fold_state_value(&fold->state), nevents);
	}
	PG_FINALLY();
	{
		es_handling_end(&handling);
	}
	PG_END_TRY();

	/* only this transaction can have written to the stream */
	if (appends != es_append_count() &&
		es_stream_read_head(dispatch->store, dispatch->stream, fold->head.version).version !=
			fold->head.version)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the handler of command \"%s\" wrote to the stream that it decides on",
						dispatch->handler->command_name),
				 errhint("Return the events instead of appending them.")));
	error_context_stack = context.previous;
	return events;
}

static EsNewEvent *
call_handler(Dispatch *dispatch, Datum state, int *nevents)
{
	EsCommandHandler *handler = dispatch->handler;
	EsRoutine  *execute = handler->execute;
	Oid			result_type = es_routine_result_type(execute);
	Oid			element_type = get_element_type(result_type);
	Datum		args[ES_ROUTINE_MAX_ARGS];
	bool		nulls[ES_ROUTINE_MAX_ARGS] = {false, false, false};
	EsNewEvent *event;
	Datum		result;
	bool		isnull;

	/* the state stays ours */
	args[0] = MakeExpandedObjectReadOnly(state, false, -1);
	if (!OidIsValid(handler->command_type))
		args[1] = command_envelope(dispatch);
	else
		args[1] = dispatch->record;
	if (handler->takes_envelope)
		args[2] = command_envelope(dispatch);

	*nevents = 0;
	if (es_routine_returns_set(execute))
	{
		check_result_type(execute, result_type);
		return events_of_set(execute, args, nulls, nevents);
	}
	if (result_type != VOIDOID)
		check_result_type(execute, OidIsValid(element_type) ? element_type : result_type);

	result = es_routine_call(execute, args, nulls, &isnull);
	if (isnull || result_type == VOIDOID)
		return NULL;
	if (OidIsValid(element_type))
		return events_of_array(result, element_type, nevents);
	event = palloc(sizeof(EsNewEvent));
	es_new_event_from_record(event, result_type, result);
	*nevents = 1;
	return event;
}

static void
check_result_type(const EsRoutine *execute, Oid type)
{
	if (!type_is_rowtype(type) || type == RECORDOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s does not return events", es_routine_name(execute)),
				 errdetail("Its result type is %s.",
						   format_type_be(es_routine_result_type(execute))),
				 errhint("A command handler returns a composite type, es_new_event, an array or set of one of these, or void.")));
}

static EsNewEvent *
events_of_array(Datum array, Oid element_type, int *nevents)
{
	ArrayType  *elements = DatumGetArrayTypeP(array);
	int16		length;
	bool		byval;
	char		align;
	Datum	   *values;
	bool	   *nulls;
	EsNewEvent *events;

	get_typlenbyvalalign(element_type, &length, &byval, &align);
	deconstruct_array(elements, element_type, length, byval, align, &values, &nulls, nevents);
	events = palloc((*nevents + 1) * sizeof(EsNewEvent));
	for (int i = 0; i < *nevents; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the handler's events must not contain NULL"),
					 errdetail("Element %d is NULL.", i + 1)));
		es_new_event_from_record(&events[i], element_type, values[i]);
	}
	return events;
}

static EsNewEvent *
events_of_set(EsRoutine *execute, const Datum *args, const bool *nulls, int *nevents)
{
	Oid			type = es_routine_result_type(execute);
	TupleDesc	tupdesc = es_composite_tupdesc(es_composite(type));
	Tuplestorestate *rows = es_routine_call_set(execute, args, nulls, tupdesc);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsMinimalTuple);
	int			capacity = 8;
	EsNewEvent *events = palloc(capacity * sizeof(EsNewEvent));

	while (tuplestore_gettupleslot(rows, true, false, slot))
	{
		if (*nevents == capacity)
		{
			capacity *= 2;
			events = repalloc_huge(events, capacity * sizeof(EsNewEvent));
		}
		es_new_event_from_record(&events[(*nevents)++], type,
								 ExecFetchSlotHeapTupleDatum(slot));
	}
	ExecDropSingleTupleTableSlot(slot);
	tuplestore_end(rows);
	return events;
}

static Datum
command_envelope(Dispatch *dispatch)
{
	Datum		values[COMMAND_COLUMNS];
	bool		nulls[COMMAND_COLUMNS];

	values[COMMAND_TYPE] = CStringGetTextDatum(dispatch->handler->command_name);
	values[COMMAND_DATA] = JsonbPGetDatum(command_data(dispatch));
	values[COMMAND_METADATA] = PointerGetDatum(dispatch->metadata);
	values[COMMAND_ID] = PointerGetDatum(dispatch->command_id);
	values[COMMAND_CORRELATION_ID] = PointerGetDatum(dispatch->correlation_id);
	values[COMMAND_CAUSATION_ID] = PointerGetDatum(dispatch->causation_id);
	for (int i = 0; i < COMMAND_COLUMNS; i++)
		nulls[i] = (DatumGetPointer(values[i]) == NULL);
	return HeapTupleGetDatum(heap_form_tuple(es_extension()->command.tupdesc, values, nulls));
}

/* The command as JSON; NULL when it was given by name without data. */
static Jsonb *
command_data(Dispatch *dispatch)
{
	if (dispatch->data == NULL && OidIsValid(dispatch->type))
		dispatch->data = es_composite_to_jsonb(es_composite(dispatch->type), dispatch->record);
	return dispatch->data;
}

/* The result of the dispatch that stored the receipt. */
static Datum
first_result(Dispatch *dispatch, const EsReceipt *receipt)
{
	Datum		values[3];
	EsEvent    *events;
	int			nevents;
	TupleTableSlot *slot;

	values[0] = PointerGetDatum(dispatch->stream);
	values[1] = Int64GetDatum(receipt->version - receipt->event_count);
	values[2] = Int64GetDatum(receipt->version);
	es_spi_read(dispatch->store, &read_events_plan, values, NULL, GetLatestSnapshot(), 0);
	nevents = (int) SPI_processed;
	if (nevents < receipt->event_count && es_store_has_row_security(dispatch->store))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for the result of command id %s",
						es_uuid_string(receipt->command_id)),
				 errdetail("Row security hides events of it from this role.")));
	events = palloc((nevents + 1) * sizeof(EsEvent));
	slot = MakeSingleTupleTableSlot(SPI_tuptable->tupdesc, &TTSOpsHeapTuple);
	for (int i = 0; i < nevents; i++)
	{
		ExecStoreHeapTuple(SPI_tuptable->vals[i], slot, false);
		es_event_from_slot(&events[i], slot);
	}
	ExecDropSingleTupleTableSlot(slot);
	return make_result(dispatch->stream, receipt->version, receipt->position, events, nevents);
}

static Datum
make_result(text *stream, int64 version, int64 position, const EsEvent *events, int nevents)
{
	const EsExtension *extension = es_extension();
	Datum	   *elements = palloc((nevents + 1) * sizeof(Datum));
	Datum		values[4];
	bool		nulls[4] = {false, false, false, false};

	for (int i = 0; i < nevents; i++)
		elements[i] = es_event_to_datum(&events[i]);
	values[0] = PointerGetDatum(stream);
	values[1] = Int64GetDatum(version);
	values[2] = Int64GetDatum(position);
	nulls[2] = (nevents == 0);
	values[3] = PointerGetDatum(construct_array(elements, nevents, extension->event.oid, -1, false,
												TYPALIGN_DOUBLE));
	return HeapTupleGetDatum(heap_form_tuple(extension->dispatch_result.tupdesc, values, nulls));
}

static void
execute_context(void *arg)
{
	Dispatch   *dispatch = arg;

	errcontext("executing command \"%s\" on aggregate \"%s\", stream \"%s\" at version %lld",
			   dispatch->handler->command_name, dispatch->handler->aggregate->name,
			   text_to_cstring(dispatch->stream), (long long) dispatch->version);
}
