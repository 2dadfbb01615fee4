/*-------------------------------------------------------------------------
 *
 * composite.c
 *		Composite values from and to JSON.
 *
 * The results are those of jsonb_populate_record() and to_jsonb().  Fields of
 * the common types are converted here, with everything about the type looked
 * up once per session; whatever is not (domains, arrays, and a JSON value of
 * another kind than the field) goes through these very functions, so that
 * there is no second definition of what a value means.
 *
 * Composites inside of a value are read by jsonb_populate_record() and written
 * here: to_jsonb() uses the names of their fields after it has given back the
 * row type that they are part of, and writes whatever is in that memory when
 * the type cache has been invalidated meanwhile (PostgreSQL 15 to 19; seen with
 * debug_discard_caches = 1).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "composite.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "nodes/makefuncs.h"
#include "retired.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* How a field is converted. */
typedef enum FieldKind
{
	FIELD_DROPPED,
	FIELD_BOOL,
	FIELD_INT2,
	FIELD_INT4,
	FIELD_INT8,
	FIELD_NUMERIC,
	FIELD_TEXT,
	FIELD_JSONB,
	FIELD_SCALAR,				/* by its input and output functions */
	/* those from here on are read by jsonb_populate_record() */
	FIELD_COMPOSITE,			/* or a domain over one */
	FIELD_COMPOSITE_ARRAY,		/* or a domain over one, or of a domain */
	FIELD_OTHER					/* written by to_jsonb() */
} FieldKind;

typedef struct Field
{
	FieldKind	kind;
	const char *name;
	int			name_length;
	Oid			type;
	int32		typmod;
	Oid			nested;			/* FIELD_COMPOSITE, FIELD_COMPOSITE_ARRAY: that type */
	Oid			input_param;
	FmgrInfo	input;			/* FIELD_SCALAR */
	FmgrInfo	to_jsonb;		/* FIELD_SCALAR, FIELD_OTHER */
} Field;

struct EsComposite
{
	Oid			type;
	char	   *name;
	uint64		identifier;		/* of the type cache: another one, another shape */
	uint64		shapes;			/* shape_generation when it was built */
	TupleDesc	tupdesc;		/* blessed */
	MemoryContext context;
	bool		by_populate;	/* some field is read by jsonb_populate_record() only */
	bool		exact;			/* see es_composite_is_exact() */
	MemoryContext populate_context; /* holds what populate remembers */
	FmgrInfo	populate;		/* jsonb_populate_record() */
	bool		populate_ready;
	Field		fields[FLEXIBLE_ARRAY_MEMBER];
};

typedef struct CompositeEntry
{
	Oid			type;			/* hash key */
	EsComposite *composite;
} CompositeEntry;

static HTAB *composites = NULL;

/*
 * The type cache tells when a composite type itself changes, but nothing tells
 * whoever holds a value or remembers the shape of a type nested in it.
 */
static uint64 shape_generation = 1;

/* Relations of the composite types in use and of those nested in them. */
static HTAB *watched_relations = NULL;

static void init_composites(void);
static void invalidate_shapes(Datum arg, Oid relid);
static void invalidate_types(Datum arg, int cacheid, uint32 hashvalue);
static EsComposite *build_composite(Oid type, uint64 identifier);
static void watch_type(Oid type);
static void retire_composite(EsComposite *composite);
static void init_field(EsComposite *composite, Field *field, Form_pg_attribute attr);
static bool is_exact(const Field *field);
static FieldKind field_kind(Oid type, int32 typmod, Oid *nested);
static void require_object(EsComposite *composite, Jsonb *json);
static bool decode_fields(EsComposite *composite, Jsonb *json, const int *uses, Datum *values,
						  bool *nulls);
static bool decode_field(Field *field, JsonbValue *json, Datum *value, bool *isnull);
static bool small_integer(FieldKind kind, Numeric number, Datum *value);
static char *numeric_string(Numeric value);
static Datum populate_record(EsComposite *composite, Jsonb *json);
static void init_populate(EsComposite *composite);
static Node *call_expr(Oid function, Oid result_type, Oid argument_type, int32 argument_typmod);
static void push_field(EsJsonbState *state, Field *field, Datum value, bool isnull);
static void push_composite(EsJsonbState *state, JsonbIteratorToken token, Oid type, Datum value);
static void push_composite_array(EsJsonbState *state, Oid type, ArrayType *array);
static void push_dimension(EsJsonbState *state, Oid type, const int *lengths, int dimensions,
						   Datum **values, bool **nulls);
static void push_converted(EsJsonbState *state, Field *field, Datum value);
static void push_json(EsJsonbState *state, JsonbIteratorToken token, Jsonb *converted);

EsComposite *
es_composite(Oid type)
{
	CompositeEntry *entry;
	TypeCacheEntry *typcache;
	bool		found;

	if (composites == NULL)
		init_composites();

	typcache = lookup_type_cache(type, TYPECACHE_TUPDESC);
	if (typcache->tupDesc == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("type %s is not a composite type", format_type_be(type))));

	entry = hash_search(composites, &type, HASH_ENTER, &found);
	if (!found)
		entry->composite = NULL;
	if (entry->composite == NULL || entry->composite->shapes != shape_generation ||
		entry->composite->identifier != typcache->tupDesc_identifier)
	{
		EsComposite *composite = build_composite(type, typcache->tupDesc_identifier);

		entry = hash_search(composites, &type, HASH_ENTER, &found);
		if (found && entry->composite)
			retire_composite(entry->composite);
		entry->composite = composite;
	}
	return entry->composite;
}

uint64
es_composite_shapes(void)
{
	return shape_generation;
}

bool
es_composite_is_named(Oid type, const char *name)
{
	HeapTuple	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		Form_pg_type form = (Form_pg_type) GETSTRUCT(tuple);

		result = form->typtype == TYPTYPE_COMPOSITE &&
			(name == NULL || strcmp(NameStr(form->typname), name) == 0);
		ReleaseSysCache(tuple);
	}
	return result;
}

const char *
es_composite_name(EsComposite *composite)
{
	return composite->name;
}

TupleDesc
es_composite_tupdesc(EsComposite *composite)
{
	return composite->tupdesc;
}

Datum
es_composite_from_jsonb(EsComposite *composite, Jsonb *json)
{
	int			natts = composite->tupdesc->natts;
	Datum	   *values;
	bool	   *nulls;

	require_object(composite, json);
	if (composite->by_populate)
		return populate_record(composite, json);
	values = palloc(natts * sizeof(Datum));
	nulls = palloc(natts * sizeof(bool));
	if (!decode_fields(composite, json, NULL, values, nulls))
		return populate_record(composite, json);
	return HeapTupleGetDatum(heap_form_tuple(composite->tupdesc, values, nulls));
}

void
es_composite_fields_from_jsonb(EsComposite *composite, Jsonb *json, const int *uses,
							   Datum *values, bool *nulls)
{
	require_object(composite, json);
	if (!decode_fields(composite, json, uses, values, nulls))
		es_composite_deform(populate_record(composite, json), composite->tupdesc, values, nulls);
}

bool
es_composite_is_exact(EsComposite *composite)
{
	return composite->exact;
}

void
es_composite_check_keys(EsComposite *composite, Jsonb *json)
{
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbValue	key;
	JsonbIteratorToken token;

	require_object(composite, json);
	(void) JsonbIteratorNext(&it, &key, true);	/* the object's beginning */
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_END_OBJECT)
	{
		bool		known = false;

		if (token != WJB_KEY)
			continue;
		for (int i = 0; i < composite->tupdesc->natts && !known; i++)
		{
			Field	   *field = &composite->fields[i];

			known = field->kind != FIELD_DROPPED &&
				field->name_length == key.val.string.len &&
				memcmp(field->name, key.val.string.val, field->name_length) == 0;
		}
		if (!known)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("type \"%s\" has no field \"%.*s\"", composite->name,
							pg_mbcliplen(key.val.string.val, key.val.string.len, NAMEDATALEN - 1),
							key.val.string.val)));
	}
}

Jsonb *
es_composite_to_jsonb(EsComposite *composite, Datum value)
{
	int			natts = composite->tupdesc->natts;
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));
	EsJsonbState state = {0};

	es_composite_deform(value, composite->tupdesc, values, nulls);

	es_jsonb_push(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < natts; i++)
	{
		Field	   *field = &composite->fields[i];
		JsonbValue	key;

		if (field->kind == FIELD_DROPPED)
			continue;
		key.type = jbvString;
		key.val.string.val = (char *) field->name;
		key.val.string.len = field->name_length;
		es_jsonb_push(&state, WJB_KEY, &key);
		push_field(&state, field, values[i], nulls[i]);
	}
	es_jsonb_push(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

void
es_composite_deform(Datum value, TupleDesc tupdesc, Datum *values, bool *nulls)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(value);
	HeapTupleData tuple;

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = header;
	heap_deform_tuple(&tuple, tupdesc, values, nulls);
}

Datum
es_composite_field(EsComposite *composite, Datum value, int attnum, bool *isnull)
{
	int			natts = composite->tupdesc->natts;
	Form_pg_attribute attr = TupleDescAttr(composite->tupdesc, attnum - 1);
	Datum	   *values = palloc(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));

	es_composite_deform(value, composite->tupdesc, values, nulls);
	*isnull = nulls[attnum - 1];
	if (*isnull)
		return (Datum) 0;
	return datumCopy(values[attnum - 1], attr->attbyval, attr->attlen);
}

int
es_composite_field_number(EsComposite *composite, const char *name)
{
	for (int i = 0; i < composite->tupdesc->natts; i++)
		if (composite->fields[i].kind != FIELD_DROPPED &&
			strcmp(composite->fields[i].name, name) == 0)
			return i + 1;
	return 0;
}

Datum
es_composite_empty(EsComposite *composite)
{
	int			natts = composite->tupdesc->natts;
	Datum	   *values = palloc0(natts * sizeof(Datum));
	bool	   *nulls = palloc(natts * sizeof(bool));

	memset(nulls, true, natts);
	return HeapTupleGetDatum(heap_form_tuple(composite->tupdesc, values, nulls));
}

static void
init_composites(void)
{
	HASHCTL		ctl = {0};

	ctl.keysize = sizeof(Oid);
	ctl.entrysize = sizeof(CompositeEntry);
	composites = hash_create("event_sourcing composite types", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	ctl.entrysize = sizeof(Oid);
	watched_relations = hash_create("event_sourcing composite relations", 64, &ctl,
									HASH_ELEM | HASH_BLOBS);
	CacheRegisterRelcacheCallback(invalidate_shapes, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, invalidate_types, (Datum) 0);
}

static void
invalidate_shapes(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || hash_search(watched_relations, &relid, HASH_FIND, NULL) != NULL)
		shape_generation++;
}

static void
invalidate_types(Datum arg, int cacheid, uint32 hashvalue)
{
	shape_generation++;
}

static EsComposite *
build_composite(Oid type, uint64 identifier)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext,
												  "event_sourcing composite type",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	TupleDesc	tupdesc = lookup_rowtype_tupdesc_copy(type, -1);
	EsComposite *composite;
	HeapTuple	tuple;

	BlessTupleDesc(tupdesc);
	composite = palloc0(offsetof(EsComposite, fields) + tupdesc->natts * sizeof(Field));
	composite->type = type;
	composite->identifier = identifier;
	composite->shapes = shape_generation;
	composite->tupdesc = tupdesc;
	composite->context = context;
	composite->exact = true;

	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	composite->name = pstrdup(NameStr(((Form_pg_type) GETSTRUCT(tuple))->typname));
	ReleaseSysCache(tuple);

	for (int i = 0; i < tupdesc->natts; i++)
		init_field(composite, &composite->fields[i], TupleDescAttr(tupdesc, i));

	watch_type(type);

	/* complete: from here on it belongs to the cache */
	MemoryContextSetParent(context, CacheMemoryContext);
	MemoryContextSwitchTo(caller);
	return composite;
}

/* Watch the relations of a type and of all types nested in it. */
static void
watch_type(Oid type)
{
	Oid			element;
	Oid			relation;
	TupleDesc	tupdesc;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		type = getBaseType(element);
	relation = get_typ_typrelid(type);
	if (!OidIsValid(relation))
		return;
	(void) hash_search(watched_relations, &relation, HASH_ENTER, NULL);
	tupdesc = lookup_rowtype_tupdesc_copy(type, -1);
	for (int i = 0; i < tupdesc->natts; i++)
		if (!TupleDescAttr(tupdesc, i)->attisdropped)
			watch_type(TupleDescAttr(tupdesc, i)->atttypid);
	FreeTupleDesc(tupdesc);
}

static void
retire_composite(EsComposite *composite)
{
	if (composite->populate_context)
		es_retire_context(composite->populate_context);
	es_retire_context(composite->context);
}

static void
init_field(EsComposite *composite, Field *field, Form_pg_attribute attr)
{
	Oid			input;

	if (attr->attisdropped)
	{
		field->kind = FIELD_DROPPED;
		return;
	}
	field->name = NameStr(attr->attname);
	field->name_length = strlen(field->name);
	field->type = attr->atttypid;
	field->typmod = attr->atttypmod;
	field->kind = field_kind(field->type, field->typmod, &field->nested);
	if (field->kind >= FIELD_COMPOSITE)
		composite->by_populate = true;
	if (!is_exact(field))
		composite->exact = false;
	getTypeInputInfo(field->type, &input, &field->input_param);
	fmgr_info_cxt(input, &field->input, composite->context);
	fmgr_info_cxt(F_TO_JSONB, &field->to_jsonb, composite->context);
	fmgr_info_set_expr(call_expr(F_TO_JSONB, JSONBOID, field->type, field->typmod),
					   &field->to_jsonb);
}

static bool
is_exact(const Field *field)
{
	switch (field->kind)
	{
		case FIELD_BOOL:
		case FIELD_INT2:
		case FIELD_INT4:
		case FIELD_INT8:
		case FIELD_NUMERIC:
		case FIELD_TEXT:
			return true;
		case FIELD_SCALAR:
			return field->type == UUIDOID || field->type == DATEOID ||
				field->type == TIMESTAMPOID || field->type == TIMESTAMPTZOID ||
				get_typtype(field->type) == TYPTYPE_ENUM;
		default:
			return false;
	}
}

static FieldKind
field_kind(Oid type, int32 typmod, Oid *nested)
{
	char		typtype = get_typtype(type);
	Oid			base = getBaseType(type);
	Oid			element = get_element_type(base);

	*nested = OidIsValid(element) ? getBaseType(element) : base;
	if (type_is_rowtype(*nested))
		return OidIsValid(element) ? FIELD_COMPOSITE_ARRAY : FIELD_COMPOSITE;
	*nested = InvalidOid;

	if (typtype != TYPTYPE_BASE && typtype != TYPTYPE_ENUM && typtype != TYPTYPE_RANGE)
		return FIELD_OTHER;
	if (OidIsValid(element))
		return FIELD_OTHER;
	switch (type)
	{
		case BOOLOID:
			return FIELD_BOOL;
		case INT2OID:
			return FIELD_INT2;
		case INT4OID:
			return FIELD_INT4;
		case INT8OID:
			return FIELD_INT8;
		case NUMERICOID:
			return typmod < 0 ? FIELD_NUMERIC : FIELD_SCALAR;
		case TEXTOID:
			return FIELD_TEXT;
		case VARCHAROID:
			return typmod < 0 ? FIELD_TEXT : FIELD_SCALAR;
		case JSONBOID:
			return FIELD_JSONB;
		case JSONOID:
			return FIELD_OTHER;
		default:
			return FIELD_SCALAR;
	}
}

static void
require_object(EsComposite *composite, Jsonb *json)
{
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot read type \"%s\" from JSON that is not an object",
						composite->name)));
}

/* Convert the fields that are used, or return false to leave them to populate_record(). */
static bool
decode_fields(EsComposite *composite, Jsonb *json, const int *uses, Datum *values, bool *nulls)
{
	for (int i = 0; i < composite->tupdesc->natts; i++)
	{
		Field	   *field = &composite->fields[i];
		JsonbValue	found;

		values[i] = (Datum) 0;
		nulls[i] = true;
		if (field->kind == FIELD_DROPPED || (uses && uses[i] == 0))
			continue;
		if (getKeyJsonValueFromContainer(&json->root, field->name, field->name_length,
										 &found) == NULL)
			continue;
		if (!decode_field(field, &found, &values[i], &nulls[i]))
			return false;
	}
	return true;
}

/* Convert a field, or return false to leave the whole value to populate_record(). */
static bool
decode_field(Field *field, JsonbValue *json, Datum *value, bool *isnull)
{
	if (json->type == jbvNull && field->kind != FIELD_JSONB)
		return true;			/* stays NULL */

	switch (field->kind)
	{
		case FIELD_BOOL:
			if (json->type != jbvBool)
				return false;
			*value = BoolGetDatum(json->val.boolean);
			break;

		case FIELD_INT2:
		case FIELD_INT4:
		case FIELD_INT8:
			if (json->type != jbvNumeric)
				return false;
			if (!small_integer(field->kind, json->val.numeric, value))
				*value = InputFunctionCall(&field->input, numeric_string(json->val.numeric),
										   field->input_param, field->typmod);
			break;

		case FIELD_NUMERIC:
			if (json->type != jbvNumeric)
				return false;
			*value = NumericGetDatum(json->val.numeric);
			break;

		case FIELD_TEXT:
			if (json->type != jbvString)
				return false;
			*value = PointerGetDatum(cstring_to_text_with_len(json->val.string.val,
															  json->val.string.len));
			break;

		case FIELD_SCALAR:
			if (json->type != jbvString)
				return false;
			*value = InputFunctionCall(&field->input,
									   pnstrdup(json->val.string.val, json->val.string.len),
									   field->input_param, field->typmod);
			break;

		case FIELD_JSONB:
			if (json->type == jbvNull)
				return true;
			*value = PointerGetDatum(JsonbValueToJsonb(json));
			break;

		default:
			return false;
	}
	*isnull = false;
	return true;
}

/* Short for the input function, where it can only succeed: digits, no point, 32 bits. */
static bool
small_integer(FieldKind kind, Numeric number, Datum *value)
{
	bool		failed = false;
	int32		integer;

	if (DatumGetInt32(DirectFunctionCall1(numeric_scale, NumericGetDatum(number))) != 0)
		return false;
	integer = es_numeric_int4(number, &failed);
	if (failed || (kind == FIELD_INT2 && (integer < PG_INT16_MIN || integer > PG_INT16_MAX)))
		return false;
	if (kind == FIELD_INT2)
		*value = Int16GetDatum((int16) integer);
	else if (kind == FIELD_INT4)
		*value = Int32GetDatum(integer);
	else
		*value = Int64GetDatum((int64) integer);
	return true;
}

static char *
numeric_string(Numeric value)
{
	return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value)));
}

static Datum
populate_record(EsComposite *composite, Jsonb *json)
{
	LOCAL_FCINFO(fcinfo, 2);
	Datum		result;

	if (!composite->populate_ready)
		init_populate(composite);

	/* what the function remembers is not to be trusted after an error in it */
	composite->populate_ready = false;
	InitFunctionCallInfoData(*fcinfo, &composite->populate, 2, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = (Datum) 0;
	fcinfo->args[0].isnull = true;
	fcinfo->args[1].value = PointerGetDatum(json);
	fcinfo->args[1].isnull = false;
	result = FunctionCallInvoke(fcinfo);
	composite->populate_ready = true;
	if (fcinfo->isnull)			/* an object without a single key */
		return es_composite_empty(composite);
	return result;
}

static void
init_populate(EsComposite *composite)
{
	MemoryContext context = AllocSetContextCreate(CacheMemoryContext, "jsonb_populate_record",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);

	if (composite->populate_context)
		es_retire_context(composite->populate_context);
	composite->populate_context = context;
	composite->populate_ready = true;
	fmgr_info_cxt(F_JSONB_POPULATE_RECORD, &composite->populate, context);
	fmgr_info_set_expr(call_expr(F_JSONB_POPULATE_RECORD, composite->type, composite->type, -1),
					   &composite->populate);
	MemoryContextSwitchTo(caller);
}

/* A call with one argument, for functions that ask for their argument's type. */
static Node *
call_expr(Oid function, Oid result_type, Oid argument_type, int32 argument_typmod)
{
	Param	   *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = 1;
	param->paramtype = argument_type;
	param->paramtypmod = argument_typmod;
	param->location = -1;
	return (Node *) makeFuncExpr(function, result_type, list_make1(param), InvalidOid,
								 InvalidOid, COERCE_EXPLICIT_CALL);
}

static void
push_field(EsJsonbState *state, Field *field, Datum value, bool isnull)
{
	JsonbValue	json;

	if (isnull)
	{
		json.type = jbvNull;
		es_jsonb_push(state, WJB_VALUE, &json);
		return;
	}

	switch (field->kind)
	{
		case FIELD_BOOL:
			json.type = jbvBool;
			json.val.boolean = DatumGetBool(value);
			break;

		case FIELD_INT2:
			json.type = jbvNumeric;
			json.val.numeric = int64_to_numeric(DatumGetInt16(value));
			break;

		case FIELD_INT4:
			json.type = jbvNumeric;
			json.val.numeric = int64_to_numeric(DatumGetInt32(value));
			break;

		case FIELD_INT8:
			json.type = jbvNumeric;
			json.val.numeric = int64_to_numeric(DatumGetInt64(value));
			break;

		case FIELD_NUMERIC:
			json.type = jbvNumeric;
			json.val.numeric = DatumGetNumeric(value);
			if (numeric_is_nan(json.val.numeric) || numeric_is_inf(json.val.numeric))
			{
				push_converted(state, field, value);
				return;
			}
			break;

		case FIELD_TEXT:
		{
			text *string = DatumGetTextPP(value);

			json.type = jbvString;
			json.val.string.val = VARDATA_ANY(string);
			json.val.string.len = VARSIZE_ANY_EXHDR(string);
			break;
		}

		case FIELD_COMPOSITE:
			push_composite(state, WJB_VALUE, field->nested, value);
			return;

		case FIELD_COMPOSITE_ARRAY:
			push_composite_array(state, field->nested, DatumGetArrayTypeP(value));
			return;

		default:
			push_converted(state, field, value);
			return;
	}
	es_jsonb_push(state, WJB_VALUE, &json);
}

static void
push_composite(EsJsonbState *state, JsonbIteratorToken token, Oid type, Datum value)
{
	push_json(state, token, es_composite_to_jsonb(es_composite(type), value));
}

/* As to_jsonb() does: an array of arrays for several dimensions, one of none for none. */
static void
push_composite_array(EsJsonbState *state, Oid type, ArrayType *array)
{
	int			lengths[MAXDIM] = {0};
	Datum	   *values;
	bool	   *nulls;
	int			count;

	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_DOUBLE, &values, &nulls,
					  &count);
	memcpy(lengths, ARR_DIMS(array), ARR_NDIM(array) * sizeof(int));
	push_dimension(state, type, lengths, Max(ARR_NDIM(array), 1), &values, &nulls);
}

/* One array of the outermost of these dimensions, from the next elements. */
static void
push_dimension(EsJsonbState *state, Oid type, const int *lengths, int dimensions,
			   Datum **values, bool **nulls)
{
	JsonbValue	json = {.type = jbvNull};

	es_jsonb_push(state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < lengths[0]; i++)
	{
		if (dimensions > 1)
		{
			push_dimension(state, type, lengths + 1, dimensions - 1, values, nulls);
			continue;
		}
		if (**nulls)
			es_jsonb_push(state, WJB_ELEM, &json);
		else
			push_composite(state, WJB_ELEM, type, **values);
		++*values;
		++*nulls;
	}
	es_jsonb_push(state, WJB_END_ARRAY, NULL);
}

static void
push_converted(EsJsonbState *state, Field *field, Datum value)
{
	push_json(state, WJB_VALUE, DatumGetJsonbP(FunctionCall1(&field->to_jsonb, value)));
}

static void
push_json(EsJsonbState *state, JsonbIteratorToken token, Jsonb *converted)
{
	JsonbValue	json;

	if (JB_ROOT_IS_SCALAR(converted))
		(void) JsonbExtractScalar(&converted->root, &json);
	else
	{
		json.type = jbvBinary;
		json.val.binary.data = &converted->root;
		json.val.binary.len = VARSIZE(converted) - VARHDRSZ;
	}
	es_jsonb_push(state, token, &json);
}
