/*-------------------------------------------------------------------------
 *
 * process_manager.c
 *		Process managers: events in, commands out, with a state of their own.
 *
 * route(event) says which instances an event is for; handle(state, event) what is
 * to be done; apply(state, event) what the instance is then.  The commands, all
 * that they cause, the new state and the checkpoint are one transaction, which
 * the batch began: after a crash all of it is there, or nothing and the event
 * comes again.
 *
 * A command that is refused fails the event, unless there is a function
 * refused(state, command) for it: then the command alone is undone, those behind
 * it are not dispatched, and the function's commands are, in their place.  It
 * gets the state that has the event in it.
 *
 * Instances are rows of the table process, which is read and written as the
 * store's owner; all functions run as the owner of the definition.  Only the
 * holder of the partition's lock comes here, and a process manager has one
 * partition: so nobody else is at its instances.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "aggregate.h"
#include "argument.h"
#include "attempt.h"
#include "catalog/pg_type.h"
#include "composite.h"
#include "dispatch.h"
#include "executor/tuptable.h"
#include "extension.h"
#include "fmgr.h"
#include "funcapi.h"
#include "process_manager.h"
#include "run_as.h"
#include "spi_plan.h"
#include "state_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/expandeddatum.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

struct EsProcessManager
{
	EsSubscription *subscription;
	Oid			state_type;
	EsComposite *composite;		/* of the state; NULL: jsonb */
	Datum		initial_state;	/* 0: not read yet */
	EsOverloads handle;
	EsOverloads apply;
	EsFunctionScope *refused;
};

/* What an event does with an instance. */
typedef enum RouteAction
{
	ROUTE_START,				/* begin, or go on with it */
	ROUTE_START_STRICT,			/* begin; an error if it is there */
	ROUTE_CONTINUE,				/* go on, or begin */
	ROUTE_CONTINUE_STRICT,		/* go on; an error if it is not there */
	ROUTE_STOP					/* forget it */
} RouteAction;

static const char *const action_names[] = {"start", "start!", "continue", "continue!", "stop"};

typedef struct Route
{
	RouteAction action;
	text	   *id;
} Route;

/* Values that a function returned: one, an array of them, or a set. */
typedef struct Values
{
	Oid			type;			/* of each */
	Datum	   *values;
	int			count;
} Values;

/* One command of an instance. */
typedef struct Command
{
	EsStore    *store;
	EsProcessManager *manager;
	Datum		state;
	Oid			type;
	Datum		value;
} Command;

/* What a refused() function takes after the state; the first is the best. */
typedef enum RefusedForm
{
	REFUSED_COMMAND,			/* the command, as its own type */
	REFUSED_ENVELOPE,			/* the command, as es_command */
	REFUSED_ANY					/* only why it was refused */
} RefusedForm;

/* Looking for a refused() function. */
typedef struct RefusedSearch
{
	EsProcessManager *manager;
	Oid			command_type;	/* InvalidOid: known by name alone */
	bool		takes_envelope; /* the command was given as es_command */
	Jsonb	   *data;			/* then, of it */
	Oid			function;
	RefusedForm form;
	bool		takes_failure;	/* refused(..., es_failure) */
} RefusedSearch;

static const EsPlanSpec find_plan = {
	"SELECT state::pg_catalog.jsonb FROM @store@.process"
	" WHERE process_manager OPERATOR(pg_catalog.=) $1 AND id OPERATOR(pg_catalog.=) $2",
	2,
	{TEXTOID, TEXTOID},
};

static const EsPlanSpec store_plan = {
	"INSERT INTO @store@.process (process_manager, id, state, position, started_at, updated_at)"
	" VALUES ($1, $2, $3, $4, pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp())"
	" ON CONFLICT (process_manager, id) DO UPDATE SET (state, position, updated_at)"
	" = ROW (excluded.state, excluded.position, excluded.updated_at)",
	4,
	{TEXTOID, TEXTOID, JSONBOID, INT8OID},
};

static const EsPlanSpec delete_plan = {
	"DELETE FROM @store@.process"
	" WHERE process_manager OPERATOR(pg_catalog.=) $1 AND id OPERATOR(pg_catalog.=) $2",
	2,
	{TEXTOID, TEXTOID},
};

static void find_overloads(EsProcessManager *manager, EsOverloads *overloads, const char *name,
						   Oid schema);
static Route *routes_of_event(EsSubscription *subscription, const EsEvent *event, int *nroutes);
static bool read_route(Datum value, Route *route);
static void handle_route(EsStore *store, EsProcessManager *manager, const Route *route,
						 const EsEvent *event);
static Datum apply_event(EsProcessManager *manager, EsOverload *apply, Datum state,
						 const EsEvent *event);
static bool find_instance(EsStore *store, EsProcessManager *manager, text *id, Datum *state);
static void store_instance(EsStore *store, EsProcessManager *manager, text *id, Datum state,
						   int64 position);
static void delete_instance(EsStore *store, EsProcessManager *manager, text *id);
static void call_for_values(EsRoutine *routine, const Datum *args, Values *values);
static void add_value(Values *values, Datum value);
static void check_command_type(const EsRoutine *routine, Oid type);
static void dispatch_commands(EsStore *store, EsProcessManager *manager, Datum state,
							  const Values *commands);
static bool dispatch_or_refuse(Command *command);
static void dispatch_body(void *arg);
static bool find_refused(Command *command, RefusedSearch *search);
static bool visit_refused(Form_pg_proc function, void *arg);
static Datum failure_datum(const ErrorData *error);

PG_FUNCTION_INFO_V1(es_create_process_manager);

/*
 * es_create_process_manager(state_type regtype, name text, route_function text,
 * handle_function text, apply_function text, refused_function text, initial_state text,
 * categories text[], types text[], from_position bigint, max_retries int, on_error text)
 */
Datum
es_create_process_manager(PG_FUNCTION_ARGS)
{
	Oid			state_type = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	EsNewSubscription subscription = {0};
	EsOverloads routes = {0};

	es_state_type_check(state_type, "process manager");
	subscription.name = es_argument_text(fcinfo, 1, "name", false);
	if (subscription.name == NULL && state_type == JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a process manager with state type jsonb needs a name")));
	if (subscription.name == NULL)
		subscription.name = pstrdup(es_composite_name(es_composite(state_type)));
	subscription.kind = ES_SUBSCRIPTION_PROCESS_MANAGER;
	subscription.state_type = es_state_type_name(state_type);
	subscription.handler = es_argument_text(fcinfo, 2, "route_function", true);
	subscription.handle_function = es_argument_text(fcinfo, 3, "handle_function", true);
	subscription.apply_function = es_argument_text(fcinfo, 4, "apply_function", true);
	subscription.refused_function = es_argument_text(fcinfo, 5, "refused_function",
													 true);
	subscription.initial_state = es_argument_text(fcinfo, 6, "initial_state", false);
	(void) es_state_type_initial(state_type, subscription.initial_state);	/* for its errors */
	subscription.categories = es_filter_argument(fcinfo, 7, "categories");
	subscription.types = es_filter_argument(fcinfo, 8, "types");
	subscription.from_position = es_subscription_position_argument(fcinfo, 9, "from_position");
	subscription.partitions = 1;
	subscription.max_retries = es_argument_count(fcinfo, 10, "max_retries", 0,
												 PG_INT32_MAX);
	subscription.on_error = es_subscription_on_error_argument(fcinfo, 11);
	subscription.path_names = es_search_path_current(es_state_type_schema(state_type));

	routes.name = subscription.handler;
	routes.scope = es_function_scope(subscription.handler, InvalidOid,
									 es_search_path_read(subscription.path_names));
	es_overload_require(&routes);

	SPI_connect();
	es_subscription_insert(es_store_current(), &subscription);
	SPI_finish();
	PG_RETURN_VOID();
}

EsProcessManager *
es_process_manager(EsSubscription *subscription)
{
	EsProcessManager *manager;
	MemoryContext caller;
	char	   *schema_name;
	char	   *bare_name;
	Oid			schema;

	if (subscription->process_manager)
		return subscription->process_manager;
	caller = MemoryContextSwitchTo(subscription->context);
	manager = palloc0(sizeof(EsProcessManager));
	manager->subscription = subscription;
	es_state_type_read_name(subscription->state_type, &schema_name, &bare_name);
	manager->state_type = es_state_type_find(schema_name, bare_name);
	if (!OidIsValid(manager->state_type))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the state type of process manager \"%s\" does not exist",
						subscription->name),
				 errhint("Create the type again, or drop the process manager with es_drop_subscription().")));
	if (manager->state_type != JSONBOID)
		manager->composite = es_composite(manager->state_type);
	schema = es_state_type_schema(manager->state_type);
	find_overloads(manager, &manager->handle, subscription->handle_function, schema);
	find_overloads(manager, &manager->apply, subscription->apply_function, schema);
	manager->refused = es_function_scope(subscription->refused_function, schema,
										 subscription->path);
	MemoryContextSwitchTo(caller);
	subscription->process_manager = manager;
	return manager;
}

void
es_process_manager_handle(EsStore *store, EsSubscription *subscription, const EsEvent *event)
{
	EsProcessManager *manager = es_process_manager(subscription);
	int			nroutes;
	Route	   *routes = routes_of_event(subscription, event, &nroutes);

	for (int i = 0; i < nroutes; i++)
		handle_route(store, manager, &routes[i], event);
}

/* In the subscription's context. */
static void
find_overloads(EsProcessManager *manager, EsOverloads *overloads, const char *name, Oid schema)
{
	EsSubscription *subscription = manager->subscription;

	overloads->context = subscription->context;
	overloads->name = name;
	overloads->owner = subscription->handlers.owner;
	overloads->state_type = manager->state_type;
	overloads->scope = es_function_scope(name, schema, subscription->path);
}

/* What route() says; NULLs in it say nothing. */
static Route *
routes_of_event(EsSubscription *subscription, const EsEvent *event, int *nroutes)
{
	EsOverload *overload = es_overload(&subscription->handlers,
									   DatumGetTextPP(event->values[ES_EVENT_TYPE]));
	Oid			type = es_routine_result_type(overload->routine);
	Datum		args[ES_ROUTINE_MAX_ARGS];
	Values		values;
	Route	   *routes;

	/* before it is called: a set is read as what it is said to be */
	if (type != es_extension()->route.oid && get_element_type(type) != es_extension()->route.oid)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s must return es_route", es_routine_name(overload->routine)),
				 errdetail("It is a route function of %s.", subscription->handlers.owner),
				 errhint("It may also return an array or a set of es_route.")));
	(void) es_overload_arguments(overload, (Datum) 0, event, args);
	call_for_values(overload->routine, args, &values);
	routes = palloc((values.count + 1) * sizeof(Route));
	*nroutes = 0;
	for (int i = 0; i < values.count; i++)
		if (read_route(values.values[i], &routes[*nroutes]))
			(*nroutes)++;
	return routes;
}

static bool
read_route(Datum value, Route *route)
{
	Datum		values[2];
	bool		nulls[2];
	char	   *action;

	es_composite_deform(value, es_extension()->route.tupdesc, values, nulls);
	if (nulls[0])
		return false;
	action = TextDatumGetCString(values[0]);
	if (nulls[1] || VARSIZE_ANY_EXHDR(DatumGetTextPP(values[1])) == 0)
		ereport(ERROR,
				(errcode(nulls[1] ? ERRCODE_NULL_VALUE_NOT_ALLOWED :
									ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a route to \"%s\" has no id", action)));
	route->id = DatumGetTextPP(values[1]);
	for (int i = 0; i < lengthof(action_names); i++)
		if (strcmp(action, action_names[i]) == 0)
		{
			route->action = (RouteAction) i;
			return true;
		}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid action \"%s\" of a route", action),
			 errhint("Use \"start\", \"start!\", \"continue\", \"continue!\" or \"stop\".")));
	return false;
}

/*
 * The state of a new instance.  Reading it may call functions, of a domain for
 * one: only where an event is handled is the current user the definition's owner.
 */
static Datum
initial_state(EsProcessManager *manager)
{
	MemoryContext caller;

	if (manager->initial_state == (Datum) 0)
	{
		caller = MemoryContextSwitchTo(manager->subscription->context);
		manager->initial_state = es_state_type_initial(manager->state_type,
													   manager->subscription->initial_state);
		MemoryContextSwitchTo(caller);
	}
	return manager->initial_state;
}

static void
handle_route(EsStore *store, EsProcessManager *manager, const Route *route, const EsEvent *event)
{
	const text *type = DatumGetTextPP(event->values[ES_EVENT_TYPE]);
	const char *name = manager->subscription->name;
	EsOverload *handle = es_overload(&manager->handle, type);
	EsOverload *apply = es_overload(&manager->apply, type);
	Datum		state = initial_state(manager);
	bool		exists = find_instance(store, manager, route->id, &state);
	Values		commands = {0};

	if (route->action == ROUTE_STOP)
	{
		delete_instance(store, manager, route->id);
		return;
	}
	if (exists && route->action == ROUTE_START_STRICT)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("process \"%s\" of process manager \"%s\" is already started",
						text_to_cstring(route->id), name)));
	if (!exists && route->action == ROUTE_CONTINUE_STRICT)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("process \"%s\" of process manager \"%s\" is not started",
						text_to_cstring(route->id), name)));

	if (handle)
	{
		Datum		args[ES_ROUTINE_MAX_ARGS];

		(void) es_overload_arguments(handle, MakeExpandedObjectReadOnly(state, false, -1), event,
									 args);
		call_for_values(handle->routine, args, &commands);
		if (commands.count > 0)
			check_command_type(handle->routine, commands.type);
	}
	if (apply)
		state = apply_event(manager, apply, state, event);
	dispatch_commands(store, manager, state, &commands);
	store_instance(store, manager, route->id, state,
				   DatumGetInt64(event->values[ES_EVENT_POSITION]));
}

static Datum
apply_event(EsProcessManager *manager, EsOverload *apply, Datum state, const EsEvent *event)
{
	bool		isnull;

	if (es_routine_result_type(apply->routine) != manager->state_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s must return %s", es_routine_name(apply->routine),
						format_type_be(manager->state_type)),
				 errdetail("It is an apply function of %s.", manager->apply.owner)));
	state = es_overload_call(apply, state, event, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("function %s returned NULL", es_routine_name(apply->routine)),
				 errdetail("It is an apply function of %s.", manager->apply.owner)));
	return state;
}

static bool
find_instance(EsStore *store, EsProcessManager *manager, text *id, Datum *state)
{
	Datum		values[] = {CStringGetTextDatum(manager->subscription->name), PointerGetDatum(id)};
	MemoryContext caller = CurrentMemoryContext;
	Jsonb	   *json = NULL;
	EsRunAs		run_as;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	SPI_connect();
	es_spi_read(store, &find_plan, values, NULL, GetLatestSnapshot(), 1);
	MemoryContextSwitchTo(caller);
	if (SPI_processed > 0)
	{
		bool		isnull;

		json = DatumGetJsonbPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
												&isnull));
	}
	SPI_finish();
	es_run_as_end(&run_as);
	if (json == NULL)
		return false;
	*state = manager->composite ? es_composite_from_jsonb(manager->composite, json) :
								  JsonbPGetDatum(json);
	return true;
}

static void
store_instance(EsStore *store, EsProcessManager *manager, text *id, Datum state, int64 position)
{
	Datum		values[] = {CStringGetTextDatum(manager->subscription->name), PointerGetDatum(id),
					  state, Int64GetDatum(position)};
	EsRunAs		run_as;

	if (manager->composite)
		values[2] = JsonbPGetDatum(es_composite_to_jsonb(manager->composite, state));
	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	SPI_connect();
	(void) es_spi_write(store, &store_plan, values, NULL);
	SPI_finish();
	es_run_as_end(&run_as);
}

static void
delete_instance(EsStore *store, EsProcessManager *manager, text *id)
{
	Datum		values[] = {CStringGetTextDatum(manager->subscription->name), PointerGetDatum(id)};
	EsRunAs		run_as;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	SPI_connect();
	(void) es_spi_write(store, &delete_plan, values, NULL);
	SPI_finish();
	es_run_as_end(&run_as);
}

/* Call a function that returns a value, an array of them, a set of composite ones, or nothing. */
static void
call_for_values(EsRoutine *routine, const Datum *args, Values *values)
{
	Oid			type = es_routine_result_type(routine);
	Oid			element_type = get_element_type(type);
	bool		nulls[ES_ROUTINE_MAX_ARGS] = {false, false, false};
	Datum		result;
	bool		isnull;

	values->type = OidIsValid(element_type) ? element_type : type;
	values->values = NULL;
	values->count = 0;
	if (es_routine_returns_set(routine))
	{
		TupleDesc	tupdesc;
		Tuplestorestate *rows;
		TupleTableSlot *slot;

		check_command_type(routine, type);
		tupdesc = es_composite_tupdesc(es_composite(type));
		rows = es_routine_call_set(routine, args, nulls, tupdesc);
		slot = MakeSingleTupleTableSlot(tupdesc, &TTSOpsMinimalTuple);
		while (tuplestore_gettupleslot(rows, true, false, slot))
			add_value(values, ExecFetchSlotHeapTupleDatum(slot));
		ExecDropSingleTupleTableSlot(slot);
		tuplestore_end(rows);
		return;
	}
	result = es_routine_call(routine, args, nulls, &isnull);
	if (isnull || type == VOIDOID)
		return;
	if (OidIsValid(element_type))
	{
		int16		length;
		bool		byval;
		char		align;
		Datum	   *elements;
		bool	   *element_nulls;
		int			count;

		get_typlenbyvalalign(element_type, &length, &byval, &align);
		deconstruct_array(DatumGetArrayTypeP(result), element_type, length, byval, align,
						  &elements, &element_nulls, &count);
		for (int i = 0; i < count; i++)
			if (!element_nulls[i])
				add_value(values, elements[i]);
	}
	else
		add_value(values, result);
}

static void
add_value(Values *values, Datum value)
{
	/* room for a power of two */
	if ((values->count & (values->count - 1)) == 0)
	{
		Size		size = Max(values->count, 1) * 2 * sizeof(Datum);

		values->values = values->values ? repalloc(values->values, size) : palloc(size);
	}
	values->values[values->count++] = value;
}

static void
check_command_type(const EsRoutine *routine, Oid type)
{
	if (!type_is_rowtype(type) || type == RECORDOID)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s does not return commands", es_routine_name(routine)),
				 errdetail("Its result type is %s.",
						   format_type_be(es_routine_result_type(routine))),
				 errhint("It returns a command's composite type, es_command, an array or set of one of these, or void.")));
}

/* Dispatch them in turn, up to the first that is refused. */
static void
dispatch_commands(EsStore *store, EsProcessManager *manager, Datum state, const Values *commands)
{
	bool		refused = false;

	for (int i = 0; i < commands->count && !refused; i++)
	{
		Command		command = {store, manager, state, commands->type, commands->values[i]};

		refused = !dispatch_or_refuse(&command);
	}
}

/* Dispatch a command; if it is refused, dispatch what refused() returns, and return false. */
static bool
dispatch_or_refuse(Command *command)
{
	EsProcessManager *manager = command->manager;
	RefusedSearch search = {.manager = manager};
	EsAttempt	attempt = {.foreground = true};
	Datum		args[ES_ROUTINE_MAX_ARGS];
	int			nargs = 0;
	EsRoutine  *refused;
	Values		instead;

	if (!find_refused(command, &search))
	{
		es_dispatch_value(command->type, command->value);
		return true;
	}
	if (es_attempt(&attempt, dispatch_body, command))
		return true;

	/* what may go well the next time was not refused */
	if (attempt.transient || attempt.canceled)
		ReThrowError(attempt.error);
	args[nargs++] = MakeExpandedObjectReadOnly(command->state, false, -1);
	if (search.form == REFUSED_COMMAND && search.takes_envelope)
		args[nargs++] = es_composite_from_jsonb(es_composite(search.command_type), search.data);
	else if (search.form != REFUSED_ANY)
		args[nargs++] = command->value;
	if (search.takes_failure)
		args[nargs++] = failure_datum(attempt.error);
	refused = es_routine(CurrentMemoryContext, search.function);
	call_for_values(refused, args, &instead);
	if (instead.count > 0)
		check_command_type(refused, instead.type);
	for (int i = 0; i < instead.count; i++)
		es_dispatch_value(instead.type, instead.values[i]);
	return false;
}

static void
dispatch_body(void *arg)
{
	Command    *command = arg;

	es_dispatch_value(command->type, command->value);
}

/* A command that is JSON under a name is looked for by the type that it stands for, too. */
static bool
find_refused(Command *command, RefusedSearch *search)
{
	if (command->type != es_extension()->command.oid)
		search->command_type = command->type;
	else
	{
		char	   *name;

		es_dispatch_describe(command->type, command->value, &name, &search->data);
		if (name == NULL || search->data == NULL)
			return false;
		search->takes_envelope = true;
		search->command_type = es_command_handler_by_name(command->store, name)->command_type;
	}
	es_function_scan(search->manager->refused, visit_refused, search);
	return OidIsValid(search->function);
}

/*
 * The best is refused(state, command[, es_failure]) for the command's own type,
 * then with es_command, if it is one, then refused(state, es_failure) for any.
 */
static bool
visit_refused(Form_pg_proc function, void *arg)
{
	RefusedSearch *search = arg;
	Oid		   *argtypes = function->proargtypes.values;
	Oid			failure = es_extension()->failure.oid;
	Oid			envelope = es_extension()->command.oid;
	int			nargs = function->pronargs;
	RefusedForm form;

	if (nargs < 2 || nargs > 3 || argtypes[0] != search->manager->state_type ||
		(nargs == 3 && argtypes[2] != failure))
		return false;
	if (OidIsValid(search->command_type) && argtypes[1] == search->command_type)
		form = REFUSED_COMMAND;
	else if (search->takes_envelope && argtypes[1] == envelope)
		form = REFUSED_ENVELOPE;
	else if (nargs == 2 && argtypes[1] == failure)
		form = REFUSED_ANY;
	else
		return false;
	if (OidIsValid(search->function) && form >= search->form)
		return false;
	search->function = function->oid;
	search->form = form;
	search->takes_failure = (nargs == 3 || form == REFUSED_ANY);
	return form == REFUSED_COMMAND;
}

static Datum
failure_datum(const ErrorData *error)
{
	Datum		values[4];
	bool		nulls[4];

	values[0] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[1] = error->message ? CStringGetTextDatum(error->message) : (Datum) 0;
	values[2] = error->detail ? CStringGetTextDatum(error->detail) : (Datum) 0;
	values[3] = error->hint ? CStringGetTextDatum(error->hint) : (Datum) 0;
	for (int i = 0; i < lengthof(values); i++)
		nulls[i] = (DatumGetPointer(values[i]) == NULL);
	return HeapTupleGetDatum(heap_form_tuple(es_extension()->failure.tupdesc, values, nulls));
}
