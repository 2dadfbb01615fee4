/*-------------------------------------------------------------------------
 *
 * definition.c
 *		What a store's definition tables say, kept for the session.
 *
 * Every connection reads them before its first command, so it matters how: a
 * table that is as es_create_store() made it, and that the caller may read, is
 * scanned as the server scans its catalogs.  Any other one is read by a
 * statement of the caller, which does what is to be done or raises the error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "composite.h"
#include "definition.h"
#include "executor/tuptable.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "retired.h"
#include "run_as.h"
#include "spi_plan.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

static uint64 last_serial = 0;	/* of the sets loaded by this session */

static bool is_current(EsStore *store, EsDefinitionKind kind);
static bool may_use(EsStore *store, EsDefinitions *set, EsDefinitionKind kind);
static bool may_read(Oid schema, Oid table);
static EsDefinitions *load(EsStore *store, const EsDefinitionTable *table);
static bool scan_table(EsStore *store, const EsDefinitionTable *table, EsDefinitions *set);
static bool find_columns(Relation relation, const EsDefinitionTable *table, int *attnums);
static void select_table(EsStore *store, const EsDefinitionTable *table, EsDefinitions *set);
static const EsPlanSpec *select_plan(const EsDefinitionTable *table);
static void add_definition(const EsDefinitionTable *table, EsDefinitions *set,
						   const Datum *values, const bool *nulls);

EsDefinitions *
es_definitions(EsStore *store, const EsDefinitionTable *table)
{
	EsDefinitionKind kind = table->kind;
	EsDefinitions *outdated;
	EsDefinitions *set;

	if (store->definitions[kind] && is_current(store, kind) &&
		may_use(store, store->definitions[kind], kind))
		return store->definitions[kind];

	/* set first: what arrives while we load makes the next call load again */
	store->definitions_valid[kind] = true;
	PG_TRY();
	{
		set = load(store, table);
	}
	PG_CATCH();
	{
		store->definitions_valid[kind] = false;
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* exchanged first: an error in between must not leave the old ones as valid ones */
	outdated = store->definitions[kind];
	store->definitions[kind] = set;
	if (outdated)
		es_retire_context(outdated->context);
	return set;
}

char *
es_definition_string(const Datum *values, const bool *nulls, int column)
{
	return nulls[column] ? NULL : TextDatumGetCString(values[column]);
}

List *
es_definition_list(const Datum *values, const bool *nulls, int column)
{
	List	   *result = NIL;
	Datum	   *elements;
	int			n;

	if (nulls[column])
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(values[column]), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &n);
	for (int i = 0; i < n; i++)
		result = lappend(result, TextDatumGetCString(elements[i]));
	return result;
}

/*
 * 18 keeps a replaced SQL function for as long as somebody who called it is
 * there when the new one is compiled, and then never frees it: so this comes
 * before anything is called.
 */
void
es_definitions_free_outdated(EsStore *store)
{
	for (int i = 0; i < ES_DEFINITION_KINDS; i++)
	{
		EsDefinitions *set = store->definitions[i];

		if (set == NULL || is_current(store, i))
			continue;
		store->definitions[i] = NULL;
		MemoryContextDelete(set->context);
	}
}

static bool
is_current(EsStore *store, EsDefinitionKind kind)
{
	return store->definitions_valid[kind] &&
		store->definitions[kind]->shapes == es_composite_shapes();
}

/*
 * What one role has loaded is another's only if that one may read it, and sees
 * the same.  Policies are taken to depend on the role: a setting that they look
 * at counts as of the load.
 */
static bool
may_use(EsStore *store, EsDefinitions *set, EsDefinitionKind kind)
{
	Oid			user = GetUserId();

	if (set->reader == user)
		return true;
	if (set->filtered || !may_read(store->schema, store->definition_tables[kind]))
		return false;
	set->reader = user;
	return true;
}

static bool
may_read(Oid schema, Oid table)
{
	return es_namespace_aclcheck(schema, GetUserId(), ACL_USAGE) == ACLCHECK_OK &&
		pg_class_aclcheck(table, GetUserId(), ACL_SELECT) == ACLCHECK_OK;
}

static EsDefinitions *
load(EsStore *store, const EsDefinitionTable *table)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "event_sourcing definitions",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	EsDefinitions *set = palloc0(table->set_size);

	set->context = context;
	set->serial = ++last_serial;
	set->shapes = es_composite_shapes();
	set->reader = GetUserId();
	if (table->begin)
		table->begin(set);
	if (!scan_table(store, table, set))
	{
		/* a statement of this role: what it gives may be for this role alone */
		set->filtered = true;
		select_table(store, table, set);
	}
	list_sort(set->list, table->compare);

	/* complete: from here on it belongs to the store */
	MemoryContextSetParent(context, store->context);
	MemoryContextSwitchTo(caller);
	return set;
}

/* Read the table as it is, or return false to have it read by a statement. */
static bool
scan_table(EsStore *store, const EsDefinitionTable *table, EsDefinitions *set)
{
	Relation	relation = try_relation_open(store->definition_tables[table->kind],
										  AccessShareLock);
	int			attnums[ES_DEFINITION_MAX_COLUMNS];
	TupleTableSlot *slot;
	Snapshot	snapshot;
	TableScanDesc scan;

	if (relation == NULL)
		return false;
	if (!find_columns(relation, table, attnums))
	{
		relation_close(relation, NoLock);
		return false;
	}

	slot = table_slot_create(relation, NULL);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = es_table_beginscan(relation, snapshot);
	while (table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		Datum		values[ES_DEFINITION_MAX_COLUMNS];
		bool		nulls[ES_DEFINITION_MAX_COLUMNS];

		for (int i = 0; i < table->ncolumns; i++)
			values[i] = slot_getattr(slot, attnums[i], &nulls[i]);
		add_definition(table, set, values, nulls);
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	relation_close(relation, NoLock);
	return true;
}

/* Where the columns are in a table that nothing but its rows decides what is read from. */
static bool
find_columns(Relation relation, const EsDefinitionTable *table, int *attnums)
{
	Form_pg_class form = relation->rd_rel;
	TupleDesc	tupdesc = RelationGetDescr(relation);

	if (form->relkind != RELKIND_RELATION || form->relispartition || form->relhassubclass ||
		form->relrowsecurity || !may_read(form->relnamespace, RelationGetRelid(relation)))
		return false;
	for (int i = 0; i < table->ncolumns; i++)
	{
		attnums[i] = 0;
		for (int a = 0; a < tupdesc->natts; a++)
		{
			Form_pg_attribute attr = TupleDescAttr(tupdesc, a);

			if (!attr->attisdropped && attr->atttypid == table->columns[i].type &&
				strcmp(NameStr(attr->attname), table->columns[i].name) == 0)
				attnums[i] = a + 1;
		}
		if (attnums[i] == 0)
			return false;
	}
	return true;
}

/*
 * A table that is not as we made it may have anything behind its name, such as a
 * column whose type comes with a cast function.  It does not get the rights of a
 * worker or of a superuser: whoever has those of the store's owner reads as the
 * store's owner.
 */
static void
select_table(EsStore *store, const EsDefinitionTable *table, EsDefinitions *set)
{
	MemoryContext caller = CurrentMemoryContext;
	Oid			owner = es_run_as_store_owner(store);
	bool		as_owner = owner != GetUserId() && has_privs_of_role(GetUserId(), owner);
	EsRunAs		run_as;

	SPI_connect();
	if (as_owner)
		es_run_as_begin(&run_as, owner);
	es_spi_read(store, select_plan(table), NULL, NULL, GetLatestSnapshot(), 0);
	if (as_owner)
		es_run_as_end(&run_as);
	MemoryContextSwitchTo(caller);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		Datum		values[ES_DEFINITION_MAX_COLUMNS];
		bool		nulls[ES_DEFINITION_MAX_COLUMNS];

		for (int i = 0; i < table->ncolumns; i++)
			values[i] = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, i + 1,
									  &nulls[i]);
		add_definition(table, set, values, nulls);
	}
	SPI_finish();
}

/* SELECT the columns as their types FROM the table; made once for each kind. */
static const EsPlanSpec *
select_plan(const EsDefinitionTable *table)
{
	static EsPlanSpec plans[ES_DEFINITION_KINDS];
	EsPlanSpec *plan = &plans[table->kind];
	StringInfoData sql;

	if (plan->sql)
		return plan;
	initStringInfo(&sql);
	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(&sql, "%s %s::%s", i == 0 ? "SELECT" : ",", table->columns[i].name,
						 format_type_be_qualified(table->columns[i].type));
	appendStringInfo(&sql, " FROM @store@.%s", es_definition_table_names[table->kind]);
	plan->sql = MemoryContextStrdup(TopMemoryContext, sql.data);
	return plan;
}

/* In the set's context. */
static void
add_definition(const EsDefinitionTable *table, EsDefinitions *set, const Datum *values,
			   const bool *nulls)
{
	void	   *definition;

	for (int i = 0; i < table->ncolumns; i++)
		if (nulls[i] && table->columns[i].required)
			return;
	definition = table->read(values, nulls);
	if (definition)
		set->list = lappend(set->list, definition);
}
