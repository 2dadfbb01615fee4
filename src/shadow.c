/*-------------------------------------------------------------------------
 *
 * shadow.c
 *		Shadows: tables beside those of a projection, which are to take their
 *		place when they are filled.
 *
 * The shadows have the targets' names, in a schema of their own that lives as
 * long as the rebuild: with it in front of the projection's search_path, the
 * projection's code finds the shadows where it says a target's name.  Code that
 * does not look names up reaches the targets themselves, and it cannot do that
 * without a lock on them.  So nothing here keeps such a lock while that code
 * runs, and a lock that is held afterwards tells.
 *
 * At the end the tables' storage is exchanged, as CLUSTER and REFRESH
 * MATERIALIZED VIEW do it: a target stays the same table, with its OID, grants,
 * views, indexes and whatever else hangs on it.  What a swap would lose or leave
 * out is listed in cannot_swap().  As after those commands, a transaction that
 * has an older snapshot finds the table empty.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_publication.h"
#include "catalog/pg_trigger.h"
#include "commands/tablecmds.h"
#include "commands/tablespace.h"
#include "compat.h"
#include "lib/stringinfo.h"
#include "pgstat.h"
#include "run_as.h"
#include "shadow.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/regproc.h"
#include "utils/rel.h"
#include "utils/syscache.h"

typedef struct ShadowTable
{
	Oid			target;
	Oid			table;
} ShadowTable;

struct EsShadow
{
	Oid			owner;			/* of the projection */
	Oid			schema;			/* holds the shadows */
	EsProjection projection;	/* with plans of its own */
	int			ntables;
	ShadowTable *tables;		/* by the targets' OIDs, so that locks are taken in one order */
};

static char *find_targets(EsShadow *shadow, EsProjection *projection);
static int	compare_targets(const void *a, const void *b);
static char *misnamed(EsShadow *shadow, const EsProjection *projection, Oid target);
static char *cannot_swap(Relation target, Oid owner);
static char *cannot_swap_column(Form_pg_attribute column, const char *name);
static char *cannot_swap_trigger(const Trigger *trigger, const char *name);
static bool is_published(Relation target);
static void create_table(EsShadow *shadow, const char *schema_name, ShadowTable *table);
static void append_options(StringInfo sql, Oid target);
static void unlock_target(Oid target);
static bool is_locked_by_me(Oid table);
static bool have_same_columns(Relation target, Relation table);
static void swap_table(const ShadowTable *table);

EsShadow *
es_shadow_create(EsProjection *projection, Oid owner, char **reason)
{
	EsShadow   *shadow = palloc0(sizeof(EsShadow));
	char	   *schema_name = psprintf("es_rebuild_%u", GetCurrentTransactionId());
	EsSearchPath *path = palloc(sizeof(EsSearchPath));
	EsProjection *copy = &shadow->projection;

	shadow->owner = owner;
	*reason = find_targets(shadow, projection);
	if (*reason)
		return NULL;

	/* the owner need not be allowed to create schemas: nothing stays of this one */
	shadow->schema = NamespaceCreate(schema_name, owner, false);
	CommandCounterIncrement();
	for (int i = 0; i < shadow->ntables; i++)
		create_table(shadow, schema_name, &shadow->tables[i]);

	path->schemas = lcons_oid(shadow->schema, list_copy(projection->path->schemas));
	path->setting = psprintf("%s, %s", schema_name, projection->path->setting);
	*copy = *projection;
	copy->context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing shadow",
										  ALLOCSET_DEFAULT_SIZES);
	copy->path = path;
	copy->plan = NULL;
	copy->log_plan = NULL;
	copy->count_plan = NULL;
	copy->handlers.context = copy->context;
	copy->handlers.by_type = NULL;
	return shadow;
}

EsProjection *
es_shadow_projection(EsShadow *shadow)
{
	return &shadow->projection;
}

char *
es_shadow_missed(EsShadow *shadow)
{
	for (int i = 0; i < shadow->ntables; i++)
		if (is_locked_by_me(shadow->tables[i].target))
			return psprintf("The projection's code does not look up table \"%s\" by its search_path.",
							get_rel_name(shadow->tables[i].target));
	return NULL;
}

char *
es_shadow_swap(EsShadow *shadow)
{
	ObjectAddress schema = {NamespaceRelationId, shadow->schema, 0};

	for (int i = 0; i < shadow->ntables; i++)
	{
		Oid			oid = shadow->tables[i].target;
		Relation	target;
		Relation	table;
		char	   *reason;

		LockRelationOid(oid, AccessExclusiveLock);
		target = try_relation_open(oid, NoLock);
		if (target == NULL)
			return pstrdup("One of its tables was dropped meanwhile.");
		table = relation_open(shadow->tables[i].table, AccessExclusiveLock);
		CheckTableNotInUse(target, "es_rebuild_projection()");
		CheckTableNotInUse(table, "es_rebuild_projection()");
		reason = cannot_swap(target, shadow->owner);
		if (reason == NULL && !have_same_columns(target, table))
			reason = psprintf("Table \"%s\" was altered meanwhile.",
							  RelationGetRelationName(target));
		relation_close(table, NoLock);
		relation_close(target, NoLock);
		if (reason)
			return reason;
	}
	for (int i = 0; i < shadow->ntables; i++)
		swap_table(&shadow->tables[i]);
	performDeletion(&schema, DROP_CASCADE, PERFORM_DELETION_INTERNAL | PERFORM_DELETION_QUIETLY);
	CommandCounterIncrement();
	return NULL;
}

/* Look the targets up, and at each of them. */
static char *
find_targets(EsShadow *shadow, EsProjection *projection)
{
	ListCell   *cell;

	shadow->tables = palloc0(list_length(projection->targets) * sizeof(ShadowTable));
	foreach(cell, projection->targets)
	{
		RangeVar   *name = makeRangeVarFromNameList(es_qualified_name_list(lfirst(cell)));
		Oid			oid = RangeVarGetRelid(name, NoLock, true);
		Relation	target;
		char	   *reason;

		if (OidIsValid(oid) && is_locked_by_me(oid))
			return psprintf("This transaction has used table \"%s\" before.", name->relname);
		target = OidIsValid(oid) ? try_relation_open(oid, AccessShareLock) : NULL;
		if (target == NULL)
			return psprintf("There is no table \"%s\".", name->relname);
		reason = cannot_swap(target, shadow->owner);
		relation_close(target, AccessShareLock);
		if (reason == NULL)
			reason = misnamed(shadow, projection, oid);
		if (reason)
			return reason;

		for (int i = 0; i < shadow->ntables; i++)
			if (shadow->tables[i].target == oid)
				oid = InvalidOid;
		if (OidIsValid(oid))
			shadow->tables[shadow->ntables++].target = oid;
	}
	qsort(shadow->tables, shadow->ntables, sizeof(ShadowTable), compare_targets);
	return NULL;
}

static int
compare_targets(const void *a, const void *b)
{
	Oid			target_a = ((const ShadowTable *) a)->target;
	Oid			target_b = ((const ShadowTable *) b)->target;

	return target_a < target_b ? -1 : target_a > target_b;
}

/* A name that the projection's code does not use for the target must not lead to its shadow. */
static char *
misnamed(EsShadow *shadow, const EsProjection *projection, Oid target)
{
	char	   *name = get_rel_name(target);
	bool		found;
	EsRunAs		run_as;

	es_run_as_begin(&run_as, shadow->owner);
	(void) es_search_path_enter(projection->path);
	found = (name && RelnameGetRelid(name) == target);
	es_run_as_end(&run_as);
	return found ? NULL :
				   psprintf("The projection's search_path does not lead to table \"%s\".",
							name ? name : "?");
}

/*
 * Why the storage of a table must not be exchanged for that of another one that
 * was filled beside it, as a sentence; NULL when it may be.
 */
static char *
cannot_swap(Relation target, Oid owner)
{
	Form_pg_class form = target->rd_rel;
	char	   *name = RelationGetRelationName(target);
	TupleDesc	tupdesc = RelationGetDescr(target);
	char	   *reason = NULL;

	/* relhassubclass stays when the last child is gone */
	if (form->relkind != RELKIND_RELATION || form->relispartition || IsCatalogRelation(target) ||
		has_superclass(RelationGetRelid(target)) ||
		(form->relhassubclass &&
		 find_inheritance_children(RelationGetRelid(target), NoLock) != NIL) ||
		form->relpersistence != RELPERSISTENCE_PERMANENT || form->relam != HEAP_TABLE_AM_OID)
		return psprintf("\"%s\" is not a plain table.", name);
	if (!has_privs_of_role(owner, form->relowner))
		return psprintf("Table \"%s\" does not belong to the projection's owner.", name);
	if (form->relforcerowsecurity)
		return psprintf("Table \"%s\" forces row security on its owner.", name);
	if (target->rd_rules)
		return psprintf("Table \"%s\" has a rule.", name);
	if (is_published(target))
		return psprintf("Table \"%s\" is published.", name);
	for (int i = 0; i < tupdesc->natts && reason == NULL; i++)
		reason = cannot_swap_column(TupleDescAttr(tupdesc, i), name);
	for (int i = 0; target->trigdesc && i < target->trigdesc->numtriggers && reason == NULL; i++)
		reason = cannot_swap_trigger(&target->trigdesc->triggers[i], name);
	return reason;
}

static char *
cannot_swap_column(Form_pg_attribute column, const char *name)
{
	if (column->attisdropped)
		return psprintf("Table \"%s\" has a dropped column.", name);
	if (column->attidentity)
		return psprintf("Table \"%s\" has an identity column.", name);
	return NULL;
}

/* A trigger on the target would not have been fired by what was done to the shadow. */
static char *
cannot_swap_trigger(const Trigger *trigger, const char *name)
{
	if (trigger->tgisinternal)
		return psprintf("Table \"%s\" has a foreign key or a deferrable constraint.", name);
	if (trigger->tgenabled != TRIGGER_DISABLED)
		return psprintf("Table \"%s\" has a trigger, \"%s\".", name, trigger->tgname);
	return NULL;
}

/* Subscribers would get rows of a table that they do not have, and none of the target's. */
static bool
is_published(Relation target)
{
	return es_relation_publications(RelationGetRelid(target)) != NIL ||
		GetSchemaPublications(RelationGetNamespace(target)) != NIL ||
		GetAllTablesPublications() != NIL;
}

static void
create_table(EsShadow *shadow, const char *schema_name, ShadowTable *table)
{
	char	   *name = get_rel_name(table->target);
	char	   *target_schema = get_namespace_name(get_rel_namespace(table->target));
	char	   *target = quote_qualified_identifier(target_schema, name);
	StringInfoData sql;
	EsRunAs		run_as;

	initStringInfo(&sql);
	appendStringInfo(&sql, "CREATE TABLE %s (LIKE %s INCLUDING ALL) USING heap",
					 quote_qualified_identifier(schema_name, name), target);
	append_options(&sql, table->target);

	es_run_as_begin(&run_as, shadow->owner);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("default_tablespace", "", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not create the shadow of %s", target);
	es_run_as_end(&run_as);

	table->table = get_relname_relid(name, shadow->schema);
	if (!OidIsValid(table->table))
		elog(ERROR, "the shadow of %s is not there", target);
	unlock_target(table->target);
}

/* What decides how rows are stored: they are to stay as they are written now. */
static void
append_options(StringInfo sql, Oid target)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(target));
	Datum		options;
	bool		isnull;
	Oid			tablespace;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", target);
	options = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_reloptions, &isnull);
	if (!isnull)
	{
		Datum	   *elements;
		int			n;

		deconstruct_array(DatumGetArrayTypeP(options), TEXTOID, -1, false, TYPALIGN_INT, &elements,
						  NULL, &n);
		for (int i = 0; i < n; i++)
		{
			char	   *option = TextDatumGetCString(elements[i]);
			char	   *value = strchr(option, '=');

			*value++ = '\0';
			appendStringInfo(sql, "%s%s = %s", i == 0 ? " WITH (" : ", ",
							 quote_identifier(option), quote_literal_cstr(value));
		}
		if (n > 0)
			appendStringInfoChar(sql, ')');
	}
	tablespace = ((Form_pg_class) GETSTRUCT(tuple))->reltablespace;
	if (OidIsValid(tablespace))
		appendStringInfo(sql, " TABLESPACE %s", quote_identifier(get_tablespace_name(tablespace)));
	ReleaseSysCache(tuple);
}

/* The lock that was taken to look at the target, and that would be held to the end. */
static void
unlock_target(Oid target)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, target);
	while (es_lock_held_by_me(&tag, AccessShareLock))
		if (!LockRelease(&tag, AccessShareLock, false))
			break;
}

static bool
is_locked_by_me(Oid table)
{
	LOCKTAG		tag;

	SET_LOCKTAG_RELATION(tag, MyDatabaseId, table);
	for (LOCKMODE mode = AccessShareLock; mode <= AccessExclusiveLock; mode++)
		if (es_lock_held_by_me(&tag, mode))
			return true;
	return false;
}

/* Whether a row of one table is a row of the other. */
static bool
have_same_columns(Relation target, Relation table)
{
	TupleDesc	a = RelationGetDescr(target);
	TupleDesc	b = RelationGetDescr(table);

	if (a->natts != b->natts)
		return false;
	for (int i = 0; i < a->natts; i++)
	{
		Form_pg_attribute a_attr = TupleDescAttr(a, i);
		Form_pg_attribute b_attr = TupleDescAttr(b, i);

		if (b_attr->attisdropped || a_attr->atttypid != b_attr->atttypid ||
			a_attr->atttypmod != b_attr->atttypmod || a_attr->attlen != b_attr->attlen ||
			a_attr->attalign != b_attr->attalign || a_attr->attnotnull != b_attr->attnotnull ||
			a_attr->attgenerated != b_attr->attgenerated ||
			strcmp(NameStr(a_attr->attname), NameStr(b_attr->attname)) != 0)
			return false;
	}
	return true;
}

/* Exchange the storage; the shadow is dropped with the old one.  Both are locked. */
static void
swap_table(const ShadowTable *table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table->table));
	Form_pg_class form;
	TransactionId frozen_xid;
	MultiXactId min_multi;
	Relation	target;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for relation %u", table->table);
	form = (Form_pg_class) GETSTRUCT(tuple);
	frozen_xid = form->relfrozenxid;
	min_multi = form->relminmxid;
	ReleaseSysCache(tuple);
	es_finish_heap_swap(table->target, table->table, frozen_xid, min_multi,
						RELPERSISTENCE_PERMANENT);

	/* so that autovacuum comes: superseded versions of rows could not go before the commit */
	CommandCounterIncrement();
	target = relation_open(table->target, NoLock);
	pgstat_count_truncate(target);
	if (target->rd_rel->reltuples > 0)
		pgstat_count_heap_insert(target, (int64) target->rd_rel->reltuples);
	relation_close(target, NoLock);
}
