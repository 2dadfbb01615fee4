/*-------------------------------------------------------------------------
 *
 * store.c
 *		A store: the schema that holds one event log with its definitions,
 *		receipts and state snapshots.
 *
 * The tables are the user's, never members of the extension, and use no type
 * of the extension: DROP EXTENSION takes the triggers along and leaves every
 * event, and es_upgrade_store() puts the triggers back.
 *
 * A session keeps an EsStore for each schema it has worked on.  Callbacks only
 * flip flags in it; es_store_current() compares it with the catalogs again and
 * replaces it when the schema or the log is another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "definition.h"
#include "extension.h"
#include "fmgr.h"
#include "guc.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "projection.h"
#include "retired.h"
#include "run_as.h"
#include "spi_plan.h"
#include "store.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "wake.h"

const char *const es_definition_table_names[ES_DEFINITION_KINDS] = {"aggregate", "projection",
																	"subscription"};

/* An entry outlives the EsStore that it points to. */
typedef struct StoreEntry
{
	Oid			schema;			/* hash key */
	uint32		schema_hash;	/* of NAMESPACEOID, to match invalidations */
	EsStore    *store;			/* NULL: build it anew */
	bool		renamed;		/* the schema changed: build it anew */
	bool		verified;		/* the store's relations are still the catalog's */
} StoreEntry;

/* Everything that a store has; the log first. */
static const char *const store_relations[] = {
	"event",
	"event_position",
	"aggregate",
	"snapshot",
	"receipt",
	"projection",
	"subscription",
	"checkpoint",
	"parked_event",
	"consumer",
	"process",
	"schedule",
};

static HTAB *stores = NULL;		/* in TopMemoryContext */
static LocalTransactionId used_in = InvalidLocalTransactionId;	/* the newest use of a store */
static Oid	permitted_insert = InvalidOid;	/* a log that may get one INSERT now */

static const char store_tables[] =
	"CREATE TABLE IF NOT EXISTS @store@.event ("
	"	position bigint NOT NULL,"
	"	stream text COLLATE \"C\" NOT NULL,"
	"	version bigint NOT NULL,"
	"	type text COLLATE \"C\" NOT NULL,"
	"	data jsonb NOT NULL,"
	"	metadata jsonb,"
	"	event_id uuid NOT NULL,"
	"	correlation_id uuid,"
	"	causation_id uuid,"
	"	recorded_at timestamptz NOT NULL,"
	"	CONSTRAINT event_pkey PRIMARY KEY (stream, version),"
	"	CONSTRAINT event_position_key UNIQUE (position));"
	"COMMENT ON TABLE @store@.event IS 'the event log: append-only, written by es_append() and es_dispatch()';"

	/* 2^48 - 1: the bits of a position that fit into the tag of a lock (feed.c) */
	"CREATE SEQUENCE IF NOT EXISTS @store@.event_position AS bigint"
	"	MAXVALUE 281474976710655 NO CYCLE CACHE 1 OWNED BY @store@.event.position;"
	"ALTER SEQUENCE @store@.event_position INCREMENT 1 NO CYCLE CACHE 1;"
	"COMMENT ON SEQUENCE @store@.event_position IS 'the last position drawn';"

	"CREATE TABLE IF NOT EXISTS @store@.aggregate ("
	"	name text COLLATE \"C\" PRIMARY KEY,"
	"	state_type text NOT NULL,"
	"	identity text NOT NULL,"
	"	stream_prefix text NOT NULL,"
	"	execute_function text NOT NULL,"
	"	apply_function text NOT NULL,"
	"	initial_state text,"
	"	commands text[],"
	"	snapshot_every int NOT NULL,"
	"	search_path text[] NOT NULL);"
	"COMMENT ON TABLE @store@.aggregate IS 'aggregates, defined by es_create_aggregate()';"

	"CREATE TABLE IF NOT EXISTS @store@.snapshot ("
	"	stream text COLLATE \"C\" NOT NULL,"
	"	aggregate text COLLATE \"C\" NOT NULL,"
	"	version bigint NOT NULL,"
	"	position bigint NOT NULL,"
	"	fingerprint text NOT NULL,"
	"	state jsonb NOT NULL,"
	"	recorded_at timestamptz NOT NULL,"
	"	PRIMARY KEY (stream, aggregate));"
	"COMMENT ON TABLE @store@.snapshot IS 'state snapshots: folded states that save reading a stream from its start; may be emptied at any time';"

	"CREATE TABLE IF NOT EXISTS @store@.receipt ("
	"	command_id uuid PRIMARY KEY,"
	"	command_type text NOT NULL,"
	"	stream text NOT NULL,"
	"	version bigint NOT NULL,"
	"	position bigint,"
	"	event_count bigint NOT NULL,"
	"	recorded_at timestamptz NOT NULL);"
	"CREATE INDEX IF NOT EXISTS receipt_recorded_at ON @store@.receipt USING brin (recorded_at);"
	"COMMENT ON TABLE @store@.receipt IS 'results of commands that were dispatched with a command_id';"

	"CREATE TABLE IF NOT EXISTS @store@.projection ("
	"	name text COLLATE \"C\" PRIMARY KEY,"
	"	id bigint GENERATED ALWAYS AS IDENTITY,"
	"	handler text,"
	"	query text,"
	"	mode text NOT NULL,"
	"	targets text[],"
	"	types text[],"
	"	categories text[],"
	"	paused_at bigint,"
	"	search_path text[] NOT NULL,"
	"	owner text NOT NULL DEFAULT current_user);"
	"ALTER TABLE @store@.projection ADD COLUMN IF NOT EXISTS owner text NOT NULL DEFAULT current_user;"
	"COMMENT ON TABLE @store@.projection IS 'projections, defined by es_create_projection()';"
	"COMMENT ON COLUMN @store@.projection.paused_at IS 'NULL: running; else the position of the last event that it has seen';"
	"COMMENT ON COLUMN @store@.projection.owner IS 'the role that an async projection runs as';"

	/* definitions, which change seldom; what changes with every batch is in checkpoint */
	"CREATE TABLE IF NOT EXISTS @store@.subscription ("
	"	name text COLLATE \"C\" PRIMARY KEY,"
	"	id bigint GENERATED ALWAYS AS IDENTITY,"
	"	kind text NOT NULL,"
	"	categories text[],"
	"	types text[],"
	"	stream text COLLATE \"C\","
	"	from_position bigint NOT NULL,"
	"	partitions int NOT NULL,"
	"	max_retries int NOT NULL,"
	"	on_error text NOT NULL,"
	"	lease interval,"
	"	handler text,"
	"	state_type text,"
	"	handle_function text,"
	"	apply_function text,"
	"	refused_function text,"
	"	initial_state text,"
	"	paused boolean NOT NULL DEFAULT false,"
	"	resets bigint NOT NULL DEFAULT 0,"
	"	search_path text[] NOT NULL,"
	"	owner text NOT NULL DEFAULT current_user);"
	"COMMENT ON TABLE @store@.subscription IS 'subscriptions: async projections, event handlers, process managers, and those that consumers pull';"
	"COMMENT ON COLUMN @store@.subscription.owner IS 'the role that its handlers run as';"

	"CREATE TABLE IF NOT EXISTS @store@.checkpoint ("
	"	subscription text COLLATE \"C\" NOT NULL,"
	"	partition int NOT NULL,"
	"	position bigint NOT NULL,"
	"	stopped boolean NOT NULL DEFAULT false,"
	"	failed_position bigint,"
	"	attempts int NOT NULL DEFAULT 0,"
	"	retry_at timestamptz,"
	"	last_error text,"
	"	last_error_at timestamptz,"
	"	consumer text COLLATE \"C\","
	"	leased_until timestamptz,"
	"	leased_to bigint,"
	"	updated_at timestamptz NOT NULL,"
	"	PRIMARY KEY (subscription, partition)) WITH (fillfactor = 50);"
	"COMMENT ON TABLE @store@.checkpoint IS 'how far each partition of a subscription is: the position of the last event that is done';"

	"CREATE TABLE IF NOT EXISTS @store@.parked_event ("
	"	subscription text COLLATE \"C\" NOT NULL,"
	"	position bigint NOT NULL,"
	"	partition int NOT NULL,"
	"	stream text COLLATE \"C\" NOT NULL,"
	"	version bigint NOT NULL,"
	"	type text COLLATE \"C\" NOT NULL,"
	"	state text NOT NULL,"
	"	reason text,"
	"	attempts int NOT NULL,"
	"	consumer text COLLATE \"C\","
	"	parked_at timestamptz NOT NULL,"
	"	PRIMARY KEY (subscription, position));"
	"COMMENT ON TABLE @store@.parked_event IS 'events that a subscription has put aside, and those of the same streams that wait behind them';"

	"CREATE TABLE IF NOT EXISTS @store@.consumer ("
	"	subscription text COLLATE \"C\" NOT NULL,"
	"	name text COLLATE \"C\" NOT NULL,"
	"	seen_at timestamptz NOT NULL,"
	"	lost boolean NOT NULL DEFAULT false,"
	"	PRIMARY KEY (subscription, name)) WITH (fillfactor = 50);"
	"COMMENT ON COLUMN @store@.consumer.lost IS 'somebody else has taken over events that it was handed, and it has not fetched since';"
	"COMMENT ON TABLE @store@.consumer IS 'who pulls a subscription, and when last';"

	"CREATE TABLE IF NOT EXISTS @store@.process ("
	"	process_manager text COLLATE \"C\" NOT NULL,"
	"	id text COLLATE \"C\" NOT NULL,"
	"	state jsonb NOT NULL,"
	"	position bigint NOT NULL,"
	"	started_at timestamptz NOT NULL,"
	"	updated_at timestamptz NOT NULL,"
	"	PRIMARY KEY (process_manager, id));"
	"COMMENT ON TABLE @store@.process IS 'instances of process managers that are under way';"

	"CREATE TABLE IF NOT EXISTS @store@.schedule ("
	"	schedule_id uuid PRIMARY KEY,"
	"	due_at timestamptz NOT NULL,"
	"	every interval,"
	"	first_at timestamptz,"
	"	turns bigint NOT NULL DEFAULT 0,"
	"	command_type text NOT NULL,"
	"	data jsonb NOT NULL,"
	"	metadata jsonb,"
	"	correlation_id uuid,"
	"	causation_id uuid,"
	"	attempts int NOT NULL DEFAULT 0,"
	"	retry_at timestamptz,"
	"	last_error text,"
	"	last_error_at timestamptz,"
	"	failed_at timestamptz,"
	"	owner text NOT NULL DEFAULT current_user);"
	"CREATE INDEX IF NOT EXISTS schedule_due_at ON @store@.schedule (due_at) WHERE failed_at IS NULL;"
	"COMMENT ON TABLE @store@.schedule IS 'commands that will be dispatched when they are due';"
	"COMMENT ON COLUMN @store@.schedule.turns IS 'due_at is first_at and so many times every: a month after a month, not 28 days after February';"
	"COMMENT ON COLUMN @store@.schedule.failed_at IS 'when it was given up; NULL: it will be tried at due_at';";

/*
 * The guard of inserts fires for local statements only, so that logical
 * replication and a restore with triggers disabled can fill the log.  The
 * guard of changes fires for everybody.
 */
static const char store_triggers[] =
	"CREATE OR REPLACE TRIGGER event_guard_insert BEFORE INSERT ON @store@.event"
	"	FOR EACH STATEMENT EXECUTE FUNCTION @extension@.es_event_guard();"
	"CREATE OR REPLACE TRIGGER event_guard_change BEFORE UPDATE OR DELETE OR TRUNCATE ON @store@.event"
	"	FOR EACH STATEMENT EXECUTE FUNCTION @extension@.es_event_guard();"
	"ALTER TABLE @store@.event ENABLE ALWAYS TRIGGER event_guard_change;"
	"CREATE OR REPLACE TRIGGER definition_changed AFTER INSERT OR UPDATE OR DELETE ON @store@.aggregate"
	"	FOR EACH ROW EXECUTE FUNCTION @extension@.es_definition_changed();"
	"ALTER TABLE @store@.aggregate ENABLE ALWAYS TRIGGER definition_changed;"
	"CREATE OR REPLACE TRIGGER definition_changed AFTER INSERT OR UPDATE OR DELETE ON @store@.projection"
	"	FOR EACH ROW EXECUTE FUNCTION @extension@.es_definition_changed();"
	"ALTER TABLE @store@.projection ENABLE ALWAYS TRIGGER definition_changed;"
	"CREATE OR REPLACE TRIGGER definition_changed AFTER INSERT OR UPDATE OR DELETE ON @store@.subscription"
	"	FOR EACH ROW EXECUTE FUNCTION @extension@.es_definition_changed();"
	"ALTER TABLE @store@.subscription ENABLE ALWAYS TRIGGER definition_changed;"
	"CREATE OR REPLACE TRIGGER owner_guard BEFORE INSERT OR UPDATE OR DELETE ON @store@.projection"
	"	FOR EACH ROW EXECUTE FUNCTION @extension@.es_owner_guard();"
	"CREATE OR REPLACE TRIGGER owner_guard BEFORE INSERT OR UPDATE OR DELETE ON @store@.subscription"
	"	FOR EACH ROW EXECUTE FUNCTION @extension@.es_owner_guard();"
	"CREATE OR REPLACE TRIGGER owner_guard BEFORE INSERT OR UPDATE OR DELETE ON @store@.schedule"
	"	FOR EACH ROW EXECUTE FUNCTION @extension@.es_owner_guard();";

static void require_free_names(Oid schema, const char *schema_name);
static void require_one_owner(Oid schema);
static void require_plain_columns(Relation relation, bool is_log);
static bool is_whole(Oid schema);
static bool has_fitting_kind(Form_pg_class relation);
static EsStore *find_store(Oid schema, const char *schema_name);
static EsStore *build_store(StoreEntry *entry, const char *schema_name);
static void verify_store(StoreEntry *entry, const char *schema_name);
static void look_at_store(StoreEntry *entry, const char *schema_name);
static void drop_store(StoreEntry *entry);
pg_noreturn static void no_store(const char *schema_name);
static void invalidate_schema(Datum arg, int cacheid, uint32 hashvalue);
static void invalidate_definitions(Datum arg, int cacheid, uint32 hashvalue);
static void invalidate_subscribed(Datum arg, int cacheid, uint32 hashvalue);
static void invalidate_relation(Datum arg, Oid relid);
static void forbid_at_abort(XactEvent event, void *arg);
static void forbid_at_subabort(SubXactEvent event, SubTransactionId mysubid,
							   SubTransactionId parentsubid, void *arg);
static void upgrade_as_owner(const char *schema_name, Oid schema);
static char *grants_of_missing_relations(const char *schema_name);
static void make_store(const char *schema_name);
static void catch_up_sequence(const char *store_name, Oid schema);

PG_FUNCTION_INFO_V1(es_create_store);
PG_FUNCTION_INFO_V1(es_upgrade_store);
PG_FUNCTION_INFO_V1(es_current_store);
PG_FUNCTION_INFO_V1(es_inspected_store);
PG_FUNCTION_INFO_V1(es_event_guard);
PG_FUNCTION_INFO_V1(es_definition_changed);

void
es_store_init(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(StoreEntry);
	stores = hash_create("event_sourcing stores", 8, &ctl, HASH_ELEM | HASH_BLOBS);

	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_schema, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, invalidate_definitions, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_definitions, (Datum) 0);
	CacheRegisterSyscacheCallback(SUBSCRIPTIONRELMAP, invalidate_subscribed, (Datum) 0);
	CacheRegisterRelcacheCallback(invalidate_relation, (Datum) 0);
	RegisterXactCallback(forbid_at_abort, NULL);
	RegisterSubXactCallback(forbid_at_subabort, NULL);
}

EsStore *
es_store_current(void)
{
	Oid			schema = get_namespace_oid(es_store_setting, true);

	if (!OidIsValid(schema))
		no_store(es_store_setting);
	return find_store(schema, es_store_setting);
}

EsStore *
es_store_of_schema(Oid schema)
{
	return find_store(schema, get_namespace_name(schema));
}

List *
es_store_schemas(void)
{
	/* any name will do; a schema may have but one relation of it */
	CatCList   *relations = SearchSysCacheList1(RELNAMENSP,
											  CStringGetDatum(store_relations[0]));
	List	   *schemas = NIL;

	for (int i = 0; i < relations->n_members; i++)
	{
		Form_pg_class relation = (Form_pg_class) GETSTRUCT(&relations->members[i]->tuple);

		if (is_whole(relation->relnamespace))
			schemas = lappend_oid(schemas, relation->relnamespace);
	}
	ReleaseSysCacheList(relations);
	list_sort(schemas, list_oid_cmp);
	return schemas;
}

bool
es_store_has_row_security(EsStore *store)
{
	return check_enable_rls(store->event, InvalidOid, true) == RLS_ENABLED;
}

void
es_store_permit_insert(EsStore *store)
{
	permitted_insert = store->event;
}

void
es_store_forbid_insert(void)
{
	permitted_insert = InvalidOid;
}

char *
es_store_sql(const char *statement, const char *store_name)
{
	const char *const marks[] = {"@store@", "@extension@"};
	const char *const names[] = {store_name, es_extension()->schema_name};
	StringInfoData out;

	initStringInfo(&out);
	while (*statement)
	{
		bool		replaced = false;

		for (int i = 0; i < lengthof(marks) && !replaced; i++)
		{
			size_t		len = strlen(marks[i]);

			if (strncmp(statement, marks[i], len) == 0)
			{
				appendStringInfoString(&out, names[i]);
				statement += len;
				replaced = true;
			}
		}
		if (!replaced)
			appendStringInfoChar(&out, *statement++);
	}
	return out.data;
}

void
es_store_execute(const char *statements, const char *store_name)
{
	char	   *sql = es_store_sql(statements, store_name);
	int			nestlevel = NewGUCNestLevel();
	int			result;

	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("client_min_messages", "warning", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	result = SPI_execute(sql, false, 0);
	if (result < 0)
		elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(result));
	AtEOXact_GUC(true, nestlevel);
	pfree(sql);
}

/* es_create_store(store name) returns void */
Datum
es_create_store(PG_FUNCTION_ARGS)
{
	const char *schema_name;
	Oid			schema;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the store's name must not be NULL")));
	schema_name = NameStr(*PG_GETARG_NAME(0));
	if (schema_name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the store's name must not be empty")));

	SPI_connect();
	schema = get_namespace_oid(schema_name, true);
	if (!OidIsValid(schema))
		es_store_execute("CREATE SCHEMA @store@", quote_identifier(schema_name));
	else
		require_free_names(schema, schema_name);
	make_store(schema_name);
	SPI_finish();

	PG_RETURN_VOID();
}

/* es_upgrade_store(store name) returns void */
Datum
es_upgrade_store(PG_FUNCTION_ARGS)
{
	const char *schema_name = PG_ARGISNULL(0) ? es_store_setting : NameStr(*PG_GETARG_NAME(0));
	Oid			schema = get_namespace_oid(schema_name, true);

	if (!OidIsValid(schema) || !OidIsValid(get_relname_relid("event", schema)))
		no_store(schema_name);

	SPI_connect();
	upgrade_as_owner(schema_name, schema);
	SPI_finish();

	PG_RETURN_VOID();
}

/*
 * The tables may have come to have triggers, or types with casts, of their owner's:
 * a superuser who upgrades does not lend his rights to them.  And what is missing
 * of an older store will have the same owner as the rest.
 */
static void
upgrade_as_owner(const char *schema_name, Oid schema)
{
	Oid			event = get_relname_relid(store_relations[0], schema);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(event));
	Oid			owner;
	char	   *grants;
	EsRunAs		run_as;

	if (!HeapTupleIsValid(tuple))
		no_store(schema_name);
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	if (!has_privs_of_role(GetUserId(), owner))
		aclcheck_error(ACLCHECK_NOT_OWNER, OBJECT_TABLE, store_relations[0]);
	es_run_as_begin(&run_as, owner);
	grants = grants_of_missing_relations(schema_name);
	make_store(schema_name);
	if (grants && SPI_execute(grants, false, 0) < 0)
		elog(ERROR, "could not grant privileges on new tables");
	es_run_as_end(&run_as);
}

/* es_current_store() returns name */
Datum
es_current_store(PG_FUNCTION_ARGS)
{
	(void) es_store_current();	/* or raise */
	return DirectFunctionCall1(namein, CStringGetDatum(es_store_setting));
}

/*
 * es_inspected_store() returns name
 *
 * The current store, for statements that a superuser runs on any store to see how
 * it is.  A view in the place of a table would run its owner's functions with the
 * superuser's rights, and so would the cast of a column that is of a type of the
 * owner's.
 */
Datum
es_inspected_store(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();

	for (int i = 0; i < lengthof(store_relations); i++)
	{
		Oid			oid = get_relname_relid(store_relations[i], store->schema);
		Relation	relation = OidIsValid(oid) ? try_relation_open(oid, AccessShareLock) : NULL;

		if (relation == NULL)
			continue;			/* a statement that reads it will say so */
		require_plain_columns(relation, i == 0);
		relation_close(relation, AccessShareLock);
	}
	return DirectFunctionCall1(namein, CStringGetDatum(es_store_setting));
}

/* The log may have more columns than ours: nobody looks at these. */
static void
require_plain_columns(Relation relation, bool is_log)
{
	TupleDesc	tupdesc = RelationGetDescr(relation);

	if (!has_fitting_kind(relation->rd_rel))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s.%s\" is not a table",
						get_namespace_name(RelationGetNamespace(relation)),
						RelationGetRelationName(relation)),
				 errdetail("Looking at an event store must not run anybody's code.")));
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(tupdesc, i);

		if (column->attisdropped || getBaseType(column->atttypid) < FirstNormalObjectId ||
			(is_log && SPI_fnumber(es_extension()->event.tupdesc, NameStr(column->attname)) <= 0))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("column \"%s\" of \"%s.%s\" is of type %s, which is not PostgreSQL's own",
						NameStr(column->attname),
						get_namespace_name(RelationGetNamespace(relation)),
						RelationGetRelationName(relation), format_type_be(column->atttypid)),
				 errdetail("Looking at an event store must not run anybody's code.")));
	}
}

/*
 * Trigger on the log: the only way in is es_append(), and there is no way to
 * change what is in.
 */
Datum
es_event_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	const char *table;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"es_event_guard\" must be called as a trigger")));

	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
	{
		if (permitted_insert == RelationGetRelid(trigger->tg_relation))
		{
			permitted_insert = InvalidOid;
			return PointerGetDatum(NULL);
		}
		table = RelationGetRelationName(trigger->tg_relation);
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot insert into event log \"%s.%s\" directly",
						get_namespace_name(RelationGetNamespace(trigger->tg_relation)), table),
				 errhint("Append events with es_append() or dispatch a command with es_dispatch().")));
	}

	table = RelationGetRelationName(trigger->tg_relation);
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot change event log \"%s.%s\"",
					get_namespace_name(RelationGetNamespace(trigger->tg_relation)), table),
			 errdetail("Events are immutable."),
			 errhint("Append an event that corrects the earlier one, with es_append() or es_dispatch().")));
	return PointerGetDatum(NULL);
}

/* Trigger on a definition table: tell every session. */
Datum
es_definition_changed(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"es_definition_changed\" must be called as a trigger")));
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	es_wake_workers_at_end();
	return PointerGetDatum(NULL);
}

/* A store is not built around what somebody else may have put there. */
static void
require_free_names(Oid schema, const char *schema_name)
{
	if (OidIsValid(get_relname_relid("event", schema)) &&
		OidIsValid(get_relname_relid("event_position", schema)))
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_OBJECT),
				 errmsg("event store \"%s\" already exists", schema_name),
				 errhint("Use es_upgrade_store() to bring it up to date.")));
	for (int i = 0; i < lengthof(store_relations); i++)
		if (OidIsValid(get_relname_relid(store_relations[i], schema)))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_OBJECT),
					 errmsg("schema \"%s\" already has a relation \"%s\"", schema_name,
							store_relations[i]),
					 errhint("Create the store in a schema of its own.")));
}

/* Whoever owns one of the tables could run code as whoever uses the store. */
static void
require_one_owner(Oid schema)
{
	Oid			owner = InvalidOid;

	for (int i = 0; i < lengthof(store_relations); i++)
	{
		HeapTuple	tuple = SearchSysCache2(RELNAMENSP, CStringGetDatum(store_relations[i]),
										  ObjectIdGetDatum(schema));
		Form_pg_class relation;

		if (!HeapTupleIsValid(tuple))
			continue;			/* an older store: it will be made */
		relation = (Form_pg_class) GETSTRUCT(tuple);
		if (!OidIsValid(owner))
			owner = relation->relowner;
		if (relation->relowner != owner || !has_fitting_kind(relation))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("relation \"%s\" is not the store's own", store_relations[i]),
					 errdetail("All tables of a store have one owner.")));
		ReleaseSysCache(tuple);
	}
}

/* Whether all relations of a store are there, and of one owner. */
static bool
is_whole(Oid schema)
{
	Oid			owner = InvalidOid;

	for (int i = 0; i < lengthof(store_relations); i++)
	{
		HeapTuple	tuple = SearchSysCache2(RELNAMENSP, CStringGetDatum(store_relations[i]),
										  ObjectIdGetDatum(schema));
		Form_pg_class relation;
		bool		fits;

		if (!HeapTupleIsValid(tuple))
			return false;
		relation = (Form_pg_class) GETSTRUCT(tuple);
		if (i == 0)
			owner = relation->relowner;
		fits = relation->relowner == owner && has_fitting_kind(relation);
		ReleaseSysCache(tuple);
		if (!fits)
			return false;
	}
	return true;
}

static bool
has_fitting_kind(Form_pg_class relation)
{
	return relation->relkind == RELKIND_RELATION || relation->relkind == RELKIND_SEQUENCE ||
		relation->relkind == RELKIND_PARTITIONED_TABLE;
}

static EsStore *
find_store(Oid schema, const char *schema_name)
{
	HASH_SEQ_STATUS scan;
	StoreEntry *entry;

	/* at a transaction's first use nothing of ours is running */
	if (used_in != es_my_lxid())
	{
		used_in = es_my_lxid();
		es_retired_free();
		hash_seq_init(&scan, stores);
		while ((entry = hash_seq_search(&scan)) != NULL)
			if (entry->store)
				es_definitions_free_outdated(entry->store);
	}

	entry = hash_search(stores, &schema, HASH_FIND, NULL);
	if (entry == NULL)
	{
		uint32		hash = GetSysCacheHashValue1(NAMESPACEOID, ObjectIdGetDatum(schema));

		entry = hash_search(stores, &schema, HASH_ENTER, NULL);
		entry->store = NULL;
		entry->renamed = false;
		entry->verified = false;
		entry->schema_hash = hash;
	}
	if (entry->store == NULL || !entry->verified)
		verify_store(entry, schema_name);
	return entry->store;
}

/* Make entry->store the one that the catalogs show, or raise 3F000. */
static void
verify_store(StoreEntry *entry, const char *schema_name)
{
	/* set first: what arrives while we look makes the next call look again */
	entry->verified = true;
	PG_TRY();
	{
		look_at_store(entry, schema_name);
	}
	PG_CATCH();
	{
		entry->verified = false;
		PG_RE_THROW();
	}
	PG_END_TRY();
}

static void
look_at_store(StoreEntry *entry, const char *schema_name)
{
	EsStore    *old = entry->store;
	Oid			event;

	if (old)
		old->append_checked = false;
	event = get_relname_relid("event", entry->schema);
	if (!OidIsValid(event) || !OidIsValid(get_relname_relid("event_position", entry->schema)))
		no_store(schema_name);
	if (old && !entry->renamed && old->event == event &&
		old->event_position == get_relname_relid("event_position", entry->schema))
	{
		for (int i = 0; i < ES_DEFINITION_KINDS; i++)
			old->definition_tables[i] = get_relname_relid(es_definition_table_names[i],
														  entry->schema);
		return;
	}

	drop_store(entry);
	entry->renamed = false;
	entry->store = build_store(entry, schema_name);
	/* renamed by a transaction that has appended: it is registered already */
	if (old && old->event_position == entry->store->event_position)
	{
		entry->store->inflight_bound = old->inflight_bound;
		entry->store->inflight_bound_set = old->inflight_bound_set;
	}
}

static EsStore *
build_store(StoreEntry *entry, const char *schema_name)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing store",
												  ALLOCSET_DEFAULT_SIZES);
	EsStore    *store = MemoryContextAllocZero(context, sizeof(EsStore));

	store->schema = entry->schema;
	store->context = context;
	store->name = MemoryContextStrdup(context, quote_identifier(schema_name));
	store->event = get_relname_relid("event", entry->schema);
	store->event_position = get_relname_relid("event_position", entry->schema);
	for (int i = 0; i < ES_DEFINITION_KINDS; i++)
		store->definition_tables[i] = get_relname_relid(es_definition_table_names[i],
														entry->schema);

	/* complete: from here on it belongs to the session */
	MemoryContextSetParent(context, CacheMemoryContext);
	return store;
}

static void
drop_store(StoreEntry *entry)
{
	EsStore    *store = entry->store;

	if (store == NULL)
		return;
	entry->store = NULL;
	store->replaced = true;
	es_spi_plans_retire(store);
	es_retire_context(store->context);
}

static void
no_store(const char *schema_name)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_SCHEMA_NAME),
			 errmsg("there is no event store in schema \"%s\"", schema_name),
			 errhint("Create it with es_create_store(), or name another schema in the setting event_sourcing.store.")));
}

static void
invalidate_schema(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	StoreEntry *entry;

	es_wake_distrust_workers();
	hash_seq_init(&scan, stores);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (hashvalue == 0 || hashvalue == entry->schema_hash)
		{
			entry->verified = false;
			entry->renamed = true;
		}
		else if (entry->store)
		{
			/* another schema: functions may be found elsewhere now */
			for (int i = 0; i < ES_DEFINITION_KINDS; i++)
				entry->store->definitions_valid[i] = false;
		}
}

/* Any function or type: what the definitions resolved to may be another one. */
static void
invalidate_definitions(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	StoreEntry *entry;

	es_wake_distrust_workers();
	hash_seq_init(&scan, stores);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->store)
			for (int i = 0; i < ES_DEFINITION_KINDS; i++)
				entry->store->definitions_valid[i] = false;
}

/* Logical replication: a log may have become a replica. */
static void
invalidate_subscribed(Datum arg, int cacheid, uint32 hashvalue)
{
	HASH_SEQ_STATUS scan;
	StoreEntry *entry;

	hash_seq_init(&scan, stores);
	while ((entry = hash_seq_search(&scan)) != NULL)
		if (entry->store)
			entry->store->append_checked = false;
}

static void
invalidate_relation(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS scan;
	StoreEntry *entry;

	hash_seq_init(&scan, stores);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		EsStore    *store = entry->store;

		if (store == NULL)
			continue;
		if (!OidIsValid(relid) || relid == store->event || relid == store->event_position)
			entry->verified = false;
		if (!OidIsValid(relid) || relid == store->event)
			store->log_valid = false;
		for (int i = 0; i < ES_DEFINITION_KINDS; i++)
			if (!OidIsValid(relid) || relid == store->definition_tables[i])
			{
				store->definitions_valid[i] = false;
				entry->verified = false;	/* the table may be another one now */
			}
	}
}

/* An error between a permit and its insert must not leave the permit behind. */
static void
forbid_at_abort(XactEvent event, void *arg)
{
	permitted_insert = InvalidOid;
}

static void
forbid_at_subabort(SubXactEvent event, SubTransactionId mysubid,
				   SubTransactionId parentsubid, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		permitted_insert = InvalidOid;
}

/*
 * What makes the privileges of es_grant() hold for the tables that an older
 * store has not yet, or NULL.  Before they are made: then a role that lacks
 * nothing but these still has its privilege.
 */
static char *
grants_of_missing_relations(const char *schema_name)
{
	char	   *sql = es_store_sql("SELECT pg_catalog.string_agg(DISTINCT"
							 "	pg_catalog.format('GRANT %s TO %I', p.what, r.rolname), ';')"
							 " FROM pg_catalog.pg_roles r"
							 " CROSS JOIN LATERAL pg_catalog.unnest(@extension@.es_privileges($1, r.oid)) AS h (privilege)"
							 " JOIN @extension@.es_privilege_part($1) p ON p.privilege OPERATOR(pg_catalog.=) h.privilege"
							 " WHERE r.oid OPERATOR(pg_catalog.=) ANY"
							 "	(SELECT a.grantee FROM pg_catalog.pg_namespace n"
							 "	 CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a"
							 "	 WHERE n.nspname OPERATOR(pg_catalog.=) $1)"
							 " AND p.kind OPERATOR(pg_catalog.=) ANY ('{table,sequence}') AND NOT EXISTS"
							 "	(SELECT FROM pg_catalog.pg_class c"
							 "	 JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace"
							 "	 WHERE n.nspname OPERATOR(pg_catalog.=) $1"
							 "	 AND c.relname OPERATOR(pg_catalog.=) p.object)",
							 NULL);
	Oid			argtypes[] = {NAMEOID};
	Datum		values[] = {DirectFunctionCall1(namein, CStringGetDatum(schema_name))};

	if (SPI_execute_with_args(sql, 1, argtypes, values, NULL, true, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not read the privileges of store %s", schema_name);
	return SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
}

/* Bring the store in this schema to the version at hand, from nothing or from any older one. */
static void
make_store(const char *schema_name)
{
	const char *store_name = quote_identifier(schema_name);
	Oid			schema = get_namespace_oid(schema_name, false);

	/* before they are touched, and again for what came in between */
	require_one_owner(schema);
	es_store_execute(store_tables, store_name);
	require_one_owner(schema);
	es_store_execute(store_triggers, store_name);
	es_projection_upgrade(store_name);
	catch_up_sequence(store_name, schema);
	es_wake_workers_at_end();	/* it may have been filled by other means */
}

/*
 * A log that was filled by other means than es_append(), such as a restore of
 * the table alone or logical replication, is ahead of its sequence.  The
 * triggers' ShareRowExclusiveLock keeps appends away.
 */
static void
catch_up_sequence(const char *store_name, Oid schema)
{
	char	   *sql = es_store_sql("SELECT pg_catalog.setval($1, m.position)"
							 "	FROM (SELECT pg_catalog.max(position) AS position FROM @store@.event) m"
							 "	WHERE m.position OPERATOR(pg_catalog.>)"
							 "		COALESCE(pg_catalog.pg_sequence_last_value($1), 0)",
							 store_name);
	Oid			argtypes[] = {REGCLASSOID};
	Datum		values[] = {ObjectIdGetDatum(get_relname_relid("event_position", schema))};

	if (SPI_execute_with_args(sql, 1, argtypes, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not read the last position");
}
