/*-------------------------------------------------------------------------
 *
 * aggregate.c
 *		Aggregates: their definitions and the functions behind them.
 *
 * A session loads all definitions of a store when it needs one, and resolves a
 * command's type to its function when that command comes for the first time.
 * Any change of a definition, function or type makes it load them again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "aggregate.h"
#include "argument.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "composite.h"
#include "definition.h"
#include "errors.h"
#include "extension.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "run_as.h"
#include "spi_plan.h"
#include "state_type.h"
#include "stream.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#define DEFAULT_SNAPSHOT_EVERY 1000

/* All aggregates of a store. */
typedef struct AggregateSet
{
	EsDefinitions base;			/* a list of EsAggregate * */
	HTAB	   *by_type;		/* CommandByType */
	HTAB	   *by_name;		/* CommandByName */
} AggregateSet;

typedef struct CommandByType
{
	Oid			type;			/* hash key */
	EsCommandHandler *handler;
} CommandByType;

/* A command's name as it was given, with its handler. */
typedef struct CommandByName
{
	char		name[2 * NAMEDATALEN + 8];	/* hash key */
	EsCommandHandler *handler;
} CommandByName;

/* Looking for what executes a command. */
typedef struct HandlerSearch
{
	EsAggregate *aggregate;
	Oid			command_type;	/* by type; InvalidOid: by name */
	const char *command_name;	/* bare */
	Oid			command_schema; /* InvalidOid: any */
	List	   *types;			/* by name: command types found */
	Oid			function;		/* by type: the function found */
	bool		takes_envelope;
} HandlerSearch;

static const EsPlanSpec insert_plan = {
	"INSERT INTO @store@.aggregate (name, state_type, identity, stream_prefix, execute_function,"
	" apply_function, initial_state, commands, snapshot_every, search_path)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
	10,
	{TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTARRAYOID, INT4OID,
	 TEXTARRAYOID},
};

static const EsPlanSpec delete_plan = {
	"DELETE FROM @store@.aggregate WHERE name OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
};

static const EsPlanSpec delete_snapshots_plan = {
	"DELETE FROM @store@.snapshot WHERE aggregate OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
};

static uint64 last_serial = 0;	/* of the aggregates loaded by this session */

static AggregateSet *aggregate_set(EsStore *store);
static void begin_set(EsDefinitions *definitions);
static void *read_aggregate(const Datum *values, const bool *nulls);
static int	compare_names(const ListCell *a, const ListCell *b);
static void find_functions(EsAggregate *aggregate);
static void resolve_aggregate(EsAggregate *aggregate);
static bool is_state_type(const EsAggregate *aggregate, Oid type);
static EsCommandHandler *resolve_type(EsStore *store, AggregateSet *set, Oid command_type);
static bool may_execute(const EsAggregate *aggregate, Oid command_type);
static bool visit_by_type(Form_pg_proc function, void *arg);
static bool visit_by_name(Form_pg_proc function, void *arg);
static EsCommandHandler *make_handler(AggregateSet *set, HandlerSearch *search,
									  const char *command_name);
static bool lists_command(EsAggregate *aggregate, const char *name);
static EsCommandHandler *listed_handler(AggregateSet *set, EsAggregate *aggregate,
										const char *name);
pg_noreturn static void unknown_command(AggregateSet *set, const char *command,
										const char *signature);
pg_noreturn static void ambiguous_command(const char *command, List *aggregates);
static ArrayType *check_commands(ArrayType *commands);

static const EsDefinitionTable aggregate_table = {
	.kind = ES_DEFINITION_AGGREGATE,
	.set_size = sizeof(AggregateSet),
	.begin = begin_set,
	.read = read_aggregate,
	.compare = compare_names,
	.ncolumns = 10,
	.columns = {
		{"name", TEXTOID, true},
		{"state_type", TEXTOID, true},
		{"identity", TEXTOID, true},
		{"stream_prefix", TEXTOID, true},
		{"execute_function", TEXTOID, true},
		{"apply_function", TEXTOID, true},
		{"initial_state", TEXTOID, false},
		{"commands", TEXTARRAYOID, false},
		{"snapshot_every", INT4OID, true},
		{"search_path", TEXTARRAYOID, true},
	},
};

PG_FUNCTION_INFO_V1(es_create_aggregate);
PG_FUNCTION_INFO_V1(es_drop_aggregate);

/*
 * es_create_aggregate(state_type regtype, identity text, name text, stream_prefix text,
 * execute_function text, apply_function text, initial_state text, commands text[],
 * snapshot_every int)
 */
Datum
es_create_aggregate(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	Oid			state_type;
	char	   *name;
	char	   *prefix;
	char	   *literal = es_argument_text(fcinfo, 6, "initial_state", false);
	int32		snapshot_every = PG_ARGISNULL(8) ? DEFAULT_SNAPSHOT_EVERY : PG_GETARG_INT32(8);
	Oid			schema;
	EsSearchPath *path;
	ArrayType  *path_names;
	Datum		values[10];
	char		nulls[11] = "          ";

	state_type = PG_ARGISNULL(0) ? InvalidOid : PG_GETARG_OID(0);
	es_state_type_check(state_type, "aggregate");

	name = es_argument_text(fcinfo, 2, "name", false);
	if (name == NULL && state_type == JSONBOID)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an aggregate with state type jsonb needs a name")));
	if (name == NULL)
		name = pstrdup(es_composite_name(es_composite(state_type)));
	prefix = es_argument_text(fcinfo, 3, "stream_prefix", false);
	if (prefix == NULL)
		prefix = psprintf("%s-", name);
	if (prefix[0] == '$' || strlen(prefix) >= ES_STREAM_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream_prefix \"%s\" cannot begin a stream name", prefix)));
	if (snapshot_every < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("snapshot_every must not be negative"),
				 errhint("0 writes no state snapshots.")));
	(void) es_state_type_initial(state_type, literal);	/* for its errors */

	schema = es_state_type_schema(state_type);
	path_names = es_search_path_current(schema);
	path = es_search_path_read(path_names);

	values[0] = CStringGetTextDatum(name);
	values[1] = CStringGetTextDatum(es_state_type_name(state_type));
	values[2] = CStringGetTextDatum(es_argument_text(fcinfo, 1, "identity", true));
	values[3] = CStringGetTextDatum(prefix);
	values[4] = CStringGetTextDatum(es_argument_text(fcinfo, 4, "execute_function", true));
	values[5] = CStringGetTextDatum(es_argument_text(fcinfo, 5, "apply_function", true));
	(void) es_function_scope(TextDatumGetCString(values[4]), schema, path);
	(void) es_function_scope(TextDatumGetCString(values[5]), schema, path);
	values[6] = literal ? CStringGetTextDatum(literal) : (Datum) 0;
	nulls[6] = literal ? ' ' : 'n';
	values[7] = PG_ARGISNULL(7) ? (Datum) 0 :
								  PointerGetDatum(check_commands(PG_GETARG_ARRAYTYPE_P(7)));
	nulls[7] = PG_ARGISNULL(7) ? 'n' : ' ';
	values[8] = Int32GetDatum(snapshot_every);
	values[9] = PointerGetDatum(path_names);

	SPI_connect();
	if (es_spi_write(store, &insert_plan, values, nulls) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("aggregate \"%s\" already exists", name)));
	SPI_finish();
	PG_RETURN_VOID();
}

/* es_drop_aggregate(name text) returns void */
Datum
es_drop_aggregate(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "name", true);
	Datum		values[] = {CStringGetTextDatum(name)};
	EsRunAs		run_as;

	SPI_connect();
	if (es_spi_write(store, &delete_plan, values, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("aggregate \"%s\" does not exist", name)));
	/* state snapshots are the store's own: whoever may delete the aggregate, deletes them */
	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	(void) es_spi_write(store, &delete_snapshots_plan, values, NULL);
	es_run_as_end(&run_as);
	SPI_finish();
	PG_RETURN_VOID();
}

EsAggregate *
es_aggregate_by_name(EsStore *store, const char *name)
{
	ListCell   *cell;

	foreach(cell, aggregate_set(store)->base.list)
	{
		EsAggregate *aggregate = lfirst(cell);

		if (strcmp(aggregate->name, name) == 0)
		{
			resolve_aggregate(aggregate);
			return aggregate;
		}
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("aggregate \"%s\" does not exist", name),
			 errhint("Define it with es_create_aggregate().")));
	return NULL;
}

EsAggregate *
es_aggregate_by_state_type(EsStore *store, Oid state_type)
{
	EsAggregate *found = NULL;
	ListCell   *cell;

	foreach(cell, aggregate_set(store)->base.list)
	{
		EsAggregate *aggregate = lfirst(cell);

		if (!is_state_type(aggregate, state_type))
			continue;
		if (found)
			ereport(ERROR,
					(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
					 errmsg("type %s is the state of several aggregates", format_type_be(state_type)),
					 errdetail("Two of them are \"%s\" and \"%s\".", found->name, aggregate->name),
					 errhint("Give the aggregate's name instead.")));
		found = aggregate;
	}
	if (found)
	{
		resolve_aggregate(found);
		return found;
	}
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("type %s is not the state of an aggregate", format_type_be(state_type)),
			 errhint("Define the aggregate with es_create_aggregate().")));
	return NULL;
}

EsCommandHandler *
es_command_handler(EsStore *store, Oid command_type)
{
	AggregateSet *set = aggregate_set(store);
	CommandByType *entry = hash_search(set->by_type, &command_type, HASH_FIND, NULL);
	EsCommandHandler *handler;

	if (entry)
		return entry->handler;
	handler = resolve_type(store, set, command_type);
	entry = hash_search(set->by_type, &command_type, HASH_ENTER, NULL);
	entry->handler = handler;
	return handler;
}

EsCommandHandler *
es_command_handler_by_name(EsStore *store, const char *command_name)
{
	AggregateSet *set = aggregate_set(store);
	bool		fits = strlen(command_name) < sizeof(((CommandByName *) NULL)->name);
	CommandByName *entry = fits ? hash_search(set->by_name, command_name, HASH_FIND, NULL) : NULL;
	HandlerSearch search = {0};
	List	   *names;
	char	   *schema_name = NULL;
	char	   *bare_name = NULL;
	List	   *listed = NIL;
	EsCommandHandler *handler;
	ListCell   *cell;

	if (entry)
		return entry->handler;

	/* a command that an aggregate lists may have any name at all */
	foreach(cell, set->base.list)
		if (lists_command(lfirst(cell), command_name))
			listed = lappend(listed, lfirst(cell));

	if (listed == NIL)
	{
		names = es_qualified_name_list(command_name);
		if (list_length(names) <= 2)
			DeconstructQualifiedName(names, &schema_name, &bare_name);
		if (schema_name)
			search.command_schema = get_namespace_oid(schema_name, true);
		if (bare_name && (schema_name == NULL || OidIsValid(search.command_schema)))
		{
			search.command_name = bare_name;
			foreach(cell, set->base.list)
			{
				search.aggregate = lfirst(cell);
				find_functions(search.aggregate);
				if (OidIsValid(search.aggregate->state_type))
					es_function_scan(search.aggregate->execute, visit_by_name, &search);
			}
		}
	}

	if (list_length(listed) > 1)
		ambiguous_command(command_name, listed);
	if (listed == NIL && search.types == NIL)
	{
		/* of what is longer than any name, the beginning tells enough */
		int			length = pg_mbcliplen(command_name, strlen(command_name), ES_STREAM_NAME_MAX);

		command_name = pnstrdup(command_name, length);
		unknown_command(set, command_name, command_name);
	}
	if (list_length(search.types) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ES_UNKNOWN_COMMAND),
				 errmsg("command \"%s\" may be several types", command_name),
				 errdetail("Two of them are %s and %s.",
						   format_type_be_qualified(linitial_oid(search.types)),
						   format_type_be_qualified(lsecond_oid(search.types))),
				 errhint("Qualify the type's name with its schema.")));

	if (listed)
		handler = listed_handler(set, linitial(listed), command_name);
	else
		handler = es_command_handler(store, linitial_oid(search.types));
	if (fits)
	{
		entry = hash_search(set->by_name, command_name, HASH_ENTER, NULL);
		entry->handler = handler;
	}
	return handler;
}

text *
es_aggregate_stream(EsAggregate *aggregate, const text *id)
{
	int			prefix_length = strlen(aggregate->stream_prefix);
	int			id_length = id ? VARSIZE_ANY_EXHDR(id) : 0;
	text	   *stream;

	if (id == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the identity of aggregate \"%s\" must not be NULL", aggregate->name)));
	if (id_length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the identity of aggregate \"%s\" must not be empty", aggregate->name)));

	stream = palloc(VARHDRSZ + prefix_length + id_length);
	SET_VARSIZE(stream, VARHDRSZ + prefix_length + id_length);
	memcpy(VARDATA(stream), aggregate->stream_prefix, prefix_length);
	memcpy(VARDATA(stream) + prefix_length, VARDATA_ANY(id), id_length);
	es_stream_check_name(stream);
	return stream;
}

static AggregateSet *
aggregate_set(EsStore *store)
{
	return (AggregateSet *) es_definitions(store, &aggregate_table);
}

static void
begin_set(EsDefinitions *definitions)
{
	AggregateSet *set = (AggregateSet *) definitions;
	HASHCTL		ctl = {0};

	ctl.hcxt = definitions->context;
	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(CommandByType);
	set->by_type = hash_create("event_sourcing commands", 64, &ctl,
							   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(((CommandByName *) NULL)->name);
	ctl.entrysize = sizeof(CommandByName);
	set->by_name = hash_create("event_sourcing command names", 64, &ctl,
							   HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
}

/* What needs no catalog look-up; the rest follows when the aggregate may be used. */
static void *
read_aggregate(const Datum *values, const bool *nulls)
{
	EsAggregate *aggregate = palloc0(sizeof(EsAggregate));

	aggregate->context = CurrentMemoryContext;
	aggregate->serial = ++last_serial;
	aggregate->name = es_definition_string(values, nulls, 0);
	es_state_type_read_name(es_definition_string(values, nulls, 1), &aggregate->state_schema,
							&aggregate->state_name);
	aggregate->identity = es_definition_string(values, nulls, 2);
	aggregate->stream_prefix = es_definition_string(values, nulls, 3);
	aggregate->execute_function = es_definition_string(values, nulls, 4);
	aggregate->apply_function = es_definition_string(values, nulls, 5);
	aggregate->initial_literal = es_definition_string(values, nulls, 6);
	aggregate->commands = es_definition_list(values, nulls, 7);
	aggregate->snapshot_every = DatumGetInt32(values[8]);
	aggregate->path_names = DatumGetArrayTypePCopy(values[9]);
	return aggregate;
}

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(((const EsAggregate *) lfirst(a))->name, ((const EsAggregate *) lfirst(b))->name);
}

/*
 * Look up what the definition names.  A type that was dropped leaves state_type
 * invalid: it must not make the store's other aggregates fail.
 */
static void
find_functions(EsAggregate *aggregate)
{
	MemoryContext caller;
	Oid			schema;

	if (aggregate->path)
		return;
	caller = MemoryContextSwitchTo(aggregate->context);
	aggregate->state_type = es_state_type_find(aggregate->state_schema, aggregate->state_name);
	if (OidIsValid(aggregate->state_type))
	{
		EsSearchPath *path = es_search_path_read(aggregate->path_names);

		schema = es_state_type_schema(aggregate->state_type);
		aggregate->execute = es_function_scope(aggregate->execute_function, schema, path);
		aggregate->apply = es_function_scope(aggregate->apply_function, schema, path);
		aggregate->path = path;
	}
	MemoryContextSwitchTo(caller);
}

/* The same as es_state_type_find() == type, which asks nothing about other types. */
static bool
is_state_type(const EsAggregate *aggregate, Oid type)
{
	char	   *schema_name;

	if (type == JSONBOID || aggregate->state_schema == NULL)
		return type == JSONBOID && es_state_type_find(NULL, aggregate->state_name) == JSONBOID;
	if (!es_composite_is_named(type, aggregate->state_name))
		return false;
	schema_name = get_namespace_name(es_state_type_schema(type));
	return schema_name && strcmp(schema_name, aggregate->state_schema) == 0;
}

/* What reading the definition left out because it can fail or takes time. */
static void
resolve_aggregate(EsAggregate *aggregate)
{
	MemoryContext caller;

	if (aggregate->initial_state != (Datum) 0)
		return;
	find_functions(aggregate);
	if (!OidIsValid(aggregate->state_type))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the state type of aggregate \"%s\" does not exist", aggregate->name),
				 errhint("Create the type again, or drop the aggregate with es_drop_aggregate().")));
	caller = MemoryContextSwitchTo(aggregate->context);
	aggregate->initial_state = es_state_type_initial(aggregate->state_type,
													 aggregate->initial_literal);
	MemoryContextSwitchTo(caller);
}

/* Which aggregate executes commands of this composite type? */
static EsCommandHandler *
resolve_type(EsStore *store, AggregateSet *set, Oid command_type)
{
	const char *name = es_composite_name(es_composite(command_type));
	List	   *found = NIL;
	HandlerSearch search = {0};
	Oid			function = InvalidOid;
	bool		takes_envelope = false;
	ListCell   *cell;

	search.command_type = command_type;
	foreach(cell, set->base.list)
	{
		search.aggregate = lfirst(cell);
		search.function = InvalidOid;
		if (!may_execute(search.aggregate, command_type))
			continue;
		find_functions(search.aggregate);
		if (OidIsValid(search.aggregate->state_type))
			es_function_scan(search.aggregate->execute, visit_by_type, &search);
		if (OidIsValid(search.function))
		{
			found = lappend(found, search.aggregate);
			function = search.function;
			takes_envelope = search.takes_envelope;
		}
	}
	if (list_length(found) > 1)
		ambiguous_command(name, found);
	if (list_length(found) == 1)
	{
		search.aggregate = linitial(found);
		search.function = function;
		search.takes_envelope = takes_envelope;
		return make_handler(set, &search, name);
	}

	/* an aggregate that gets its commands as JSON may list the type's name */
	foreach(cell, set->base.list)
		if (lists_command(lfirst(cell), name))
			found = lappend(found, lfirst(cell));
	if (list_length(found) > 1)
		ambiguous_command(name, found);
	if (found == NIL)
		unknown_command(set, name, format_type_be_qualified(command_type));
	return listed_handler(set, linitial(found), name);
}

/*
 * Whether a function of the right name takes this command and the aggregate's
 * state, wherever it is: there are many aggregates, and to look up the names in
 * a definition takes longer than this.
 */
static bool
may_execute(const EsAggregate *aggregate, Oid command_type)
{
	char	   *schema_name;
	char	   *function_name;
	CatCList   *functions;
	bool		found = false;

	DeconstructQualifiedName(es_qualified_name_list(aggregate->execute_function), &schema_name,
							 &function_name);
	functions = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(function_name));
	for (int i = 0; i < functions->n_members && !found; i++)
	{
		Form_pg_proc function = (Form_pg_proc) GETSTRUCT(&functions->members[i]->tuple);

		found = function->pronargs >= 2 && function->proargtypes.values[1] == command_type &&
			is_state_type(aggregate, function->proargtypes.values[0]);
	}
	ReleaseSysCacheList(functions);
	return found;
}

/* execute(state, command[, es_command]), of the best schema that has one */
static bool
visit_by_type(Form_pg_proc function, void *arg)
{
	HandlerSearch *search = arg;
	Oid			argtypes[] = {search->aggregate->state_type, search->command_type,
					  es_extension()->command.oid};

	for (int nargs = 2; nargs <= 3; nargs++)
		if (es_function_has_args(function, nargs, argtypes))
		{
			search->function = function->oid;
			search->takes_envelope = (nargs == 3);
			return true;
		}
	return false;
}

/* Collect the types of the name that the aggregate's function takes as commands. */
static bool
visit_by_name(Form_pg_proc function, void *arg)
{
	HandlerSearch *search = arg;
	Oid			type;

	if (function->pronargs < 2 || function->pronargs > 3 ||
		function->proargtypes.values[0] != search->aggregate->state_type)
		return false;
	type = function->proargtypes.values[1];
	if (es_composite_is_named(type, search->command_name) &&
		(!OidIsValid(search->command_schema) ||
		 get_rel_namespace(get_typ_typrelid(type)) == search->command_schema))
		search->types = list_append_unique_oid(search->types, type);
	return false;
}

static EsCommandHandler *
make_handler(AggregateSet *set, HandlerSearch *search, const char *command_name)
{
	MemoryContext caller;
	EsCommandHandler *handler;

	resolve_aggregate(search->aggregate);
	caller = MemoryContextSwitchTo(set->base.context);
	handler = palloc0(sizeof(EsCommandHandler));
	handler->aggregate = search->aggregate;
	handler->command_type = search->command_type;
	handler->command_name = pstrdup(command_name);
	handler->takes_envelope = search->takes_envelope;
	handler->execute = es_routine(set->base.context, search->function);
	MemoryContextSwitchTo(caller);

	if (OidIsValid(search->command_type))
	{
		EsComposite *composite = es_composite(search->command_type);

		handler->identity_attnum = es_composite_field_number(composite,
															 search->aggregate->identity);
		if (handler->identity_attnum == 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("command \"%s\" has no field \"%s\"", command_name,
							search->aggregate->identity),
					 errdetail("It is the identity of aggregate \"%s\".",
							   search->aggregate->name)));
	}
	return handler;
}

static bool
lists_command(EsAggregate *aggregate, const char *name)
{
	ListCell   *cell;

	foreach(cell, aggregate->commands)
		if (strcmp(lfirst(cell), name) == 0)
			return true;
	return false;
}

/* execute(state, es_command) */
static EsCommandHandler *
listed_handler(AggregateSet *set, EsAggregate *aggregate, const char *name)
{
	HandlerSearch search = {0};

	resolve_aggregate(aggregate);
	search.aggregate = aggregate;
	search.command_type = es_extension()->command.oid;
	es_function_scan(aggregate->execute, visit_by_type, &search);
	if (!OidIsValid(search.function))
		ereport(ERROR,
				(errcode(ERRCODE_ES_UNKNOWN_COMMAND),
				 errmsg("aggregate \"%s\" cannot execute command \"%s\"", aggregate->name, name),
				 errdetail("The aggregate lists the command, but its function does not exist."),
				 errhint("Create function %s(%s, es_command).", aggregate->execute->name,
						 format_type_be(aggregate->state_type))));
	search.command_type = InvalidOid;
	search.takes_envelope = false;
	return make_handler(set, &search, name);
}

static void
unknown_command(AggregateSet *set, const char *command, const char *signature)
{
	EsAggregate *only = list_length(set->base.list) == 1 ? linitial(set->base.list) : NULL;

	if (set->base.list == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_ES_UNKNOWN_COMMAND),
				 errmsg("no aggregate executes command \"%s\"", command),
				 errdetail("The store has no aggregate."),
				 errhint("Define one with es_create_aggregate().")));
	if (only)
		find_functions(only);
	ereport(ERROR,
			(errcode(ERRCODE_ES_UNKNOWN_COMMAND),
			 errmsg("no aggregate executes command \"%s\"", command),
			 only && only->execute ?
				 errhint("Create function %s(%s, %s), or define the aggregate with es_create_aggregate().",
						 only->execute->name, format_type_be(only->state_type), signature) :
				 errhint("Create function execute(<state type>, %s), or define the aggregate with es_create_aggregate().",
						 signature)));
}

static void
ambiguous_command(const char *command, List *aggregates)
{
	ereport(ERROR,
			(errcode(ERRCODE_ES_UNKNOWN_COMMAND),
			 errmsg("several aggregates execute command \"%s\"", command),
			 errdetail("Two of them are \"%s\" and \"%s\".",
					   ((EsAggregate *) linitial(aggregates))->name,
					   ((EsAggregate *) lsecond(aggregates))->name),
			 errhint("Give each aggregate an execute_function of its own, or commands of its own.")));
}

static ArrayType *
check_commands(ArrayType *commands)
{
	if (array_contains_nulls(commands))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("commands must not contain NULL")));
	if (ARR_NDIM(commands) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("commands must be a one-dimensional array")));
	return commands;
}
