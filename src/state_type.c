/*-------------------------------------------------------------------------
 *
 * state_type.c
 *		State types: a composite type or jsonb, of aggregates and process
 *		managers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "composite.h"
#include "fmgr.h"
#include "state_type.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/varlena.h"

void
es_state_type_check(Oid type, const char *owner)
{
	Oid			schema;

	if (!OidIsValid(type))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("state_type must not be NULL")));
	/* a number can be cast to regtype */
	if (!SearchSysCacheExists1(TYPEOID, ObjectIdGetDatum(type)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("type with OID %u does not exist", type)));
	if (type != JSONBOID && (!type_is_rowtype(type) || type == RECORDOID))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("state type %s is neither a composite type nor jsonb",
						format_type_be(type))));
	schema = es_state_type_schema(type);
	if (OidIsValid(schema) && isAnyTempNamespace(schema))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("state type %s is temporary", format_type_be(type)),
				 errdetail("Other sessions could not use the %s.", owner)));
}

const char *
es_state_type_name(Oid type)
{
	if (type == JSONBOID)
		return "jsonb";
	return quote_qualified_identifier(get_namespace_name(es_state_type_schema(type)),
									  es_composite_name(es_composite(type)));
}

void
es_state_type_read_name(const char *name, char **schema_name, char **bare_name)
{
	List	   *names = es_qualified_name_list(name);

	*schema_name = NULL;
	*bare_name = pstrdup(name);
	if (list_length(names) == 2)
		DeconstructQualifiedName(names, schema_name, bare_name);
}

Oid
es_state_type_find(const char *schema_name, const char *bare_name)
{
	Oid			schema;

	if (schema_name == NULL)
		return strcmp(bare_name, "jsonb") == 0 ? JSONBOID : InvalidOid;
	schema = get_namespace_oid(schema_name, true);
	if (!OidIsValid(schema))
		return InvalidOid;
	return GetSysCacheOid2(TYPENAMENSP, Anum_pg_type_oid, CStringGetDatum(bare_name),
						   ObjectIdGetDatum(schema));
}

Oid
es_state_type_schema(Oid type)
{
	return type == JSONBOID ? InvalidOid : get_rel_namespace(get_typ_typrelid(type));
}

Datum
es_state_type_initial(Oid type, const char *literal)
{
	Oid			input;
	Oid			param;

	if (literal == NULL && type != JSONBOID)
		return es_composite_empty(es_composite(type));
	getTypeInputInfo(type, &input, &param);
	return OidInputFunctionCall(input, literal ? pstrdup(literal) : pstrdup("{}"), param, -1);
}
