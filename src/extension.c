/*-------------------------------------------------------------------------
 *
 * extension.c
 *		The extension's own objects: its schema and the OIDs of its types.
 *
 * They are found through pg_extension and never through search_path, where
 * anybody may have put a type of the same name.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "extension.h"
#include "funcapi.h"
#include "retired.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

static EsExtension *extension = NULL;
static MemoryContext extension_context = NULL;
static bool extension_valid = false;

static void invalidate_extension(Datum arg, int cacheid, uint32 hashvalue);
static Oid	extension_schema(void);
static void find_type(EsExtensionType *type, Oid schema, const char *name, int natts);

void
es_extension_init(void)
{
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_extension, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, invalidate_extension, (Datum) 0);
}

const EsExtension *
es_extension(void)
{
	MemoryContext context;
	MemoryContext outdated;
	MemoryContext caller;
	EsExtension *found;

	if (extension_valid)
		return extension;

	/* cleared only below: what arrives while we look makes us look again */
	extension_valid = true;
	PG_TRY();
	{
		context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing extension",
										ALLOCSET_SMALL_SIZES);
		caller = MemoryContextSwitchTo(context);
		found = palloc0(sizeof(EsExtension));
		found->schema = extension_schema();
		found->schema_name = pstrdup(quote_identifier(get_namespace_name(found->schema)));
		find_type(&found->event, found->schema, "es_event", 10);
		find_type(&found->new_event, found->schema, "es_new_event", 5);
		find_type(&found->command, found->schema, "es_command", 6);
		find_type(&found->append_result, found->schema, "es_append_result", 3);
		find_type(&found->dispatch_result, found->schema, "es_dispatch_result", 4);
		find_type(&found->route, found->schema, "es_route", 2);
		find_type(&found->failure, found->schema, "es_failure", 4);
		found->new_event_array = get_array_type(found->new_event.oid);

		/* complete: from here on it belongs to the session */
		MemoryContextSetParent(context, CacheMemoryContext);
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		extension_valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();

	/* exchanged first: an error in between must not leave the old one as the valid one */
	outdated = extension_context;
	extension_context = context;
	extension = found;
	if (outdated)
		es_retire_context(outdated);
	return found;
}

static void
invalidate_extension(Datum arg, int cacheid, uint32 hashvalue)
{
	extension_valid = false;
}

/* The schema that CREATE EXTENSION put the objects into. */
static Oid
extension_schema(void)
{
	Oid			oid = get_extension_oid("event_sourcing", false);
	Oid			schema = InvalidOid;
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_extension_oid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(oid));
	scan = systable_beginscan(rel, ExtensionOidIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		schema = ((Form_pg_extension) GETSTRUCT(tuple))->extnamespace;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!OidIsValid(schema))
		elog(ERROR, "extension event_sourcing vanished");
	return schema;
}

static void
find_type(EsExtensionType *type, Oid schema, const char *name, int natts)
{
	type->oid = GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid,
								CStringGetDatum(name), ObjectIdGetDatum(schema));
	if (!OidIsValid(type->oid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type \"%s\" of extension \"event_sourcing\" does not exist", name)));
	type->tupdesc = lookup_rowtype_tupdesc_copy(type->oid, -1);
	BlessTupleDesc(type->tupdesc);
	if (type->tupdesc->natts != natts)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("type \"%s\" of extension \"event_sourcing\" was altered", name)));
}
