/*-------------------------------------------------------------------------
 *
 * fingerprint.c
 *		What folding depends on, as a number.
 *
 * A state snapshot must not outlive the functions that made it.  PostgreSQL
 * does not record which functions a PL/pgSQL body calls, so every function of
 * the user whose name stands before a parenthesis in the definition counts as
 * called, and so on from there.  That takes in some too many, which costs a
 * fold from the start and nothing else.  What it cannot see: functions behind
 * operators, casts and views, names put together at run time, and tables.
 *
 * The parts are added up, so that their order does not matter: OIDs change
 * with a restore.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/transam.h"
#include "common/hashfn.h"
#include "composite.h"
#include "fingerprint.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "parser/scansup.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

typedef struct Fingerprint
{
	EsAggregate *aggregate;
	uint64		sum;
	List	   *functions;		/* OIDs of those that are in it */
	List	   *types;			/* OIDs of composite types that are in it */
} Fingerprint;

static bool add_apply(Form_pg_proc function, void *arg);
static void add_function(Fingerprint *fingerprint, Oid function);
static void add_named_functions(Fingerprint *fingerprint, const char *definition);
static void add_functions_by_name(Fingerprint *fingerprint, const char *name);
static void add_type(Fingerprint *fingerprint, Oid type);
static void add_text(Fingerprint *fingerprint, const char *text);

const char *
es_fingerprint(EsAggregate *aggregate)
{
	Fingerprint fingerprint = {0};
	MemoryContext context;
	MemoryContext caller;

	if (aggregate->fingerprint)
		return aggregate->fingerprint;

	context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing fingerprint",
									ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	fingerprint.aggregate = aggregate;
	add_text(&fingerprint, aggregate->initial_literal ? aggregate->initial_literal : "");
	add_type(&fingerprint, aggregate->state_type);
	es_function_scan(aggregate->apply, add_apply, &fingerprint);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);

	aggregate->fingerprint =
		MemoryContextStrdup(aggregate->context,
							psprintf("%016llx", (unsigned long long) fingerprint.sum));
	return aggregate->fingerprint;
}

static bool
add_apply(Form_pg_proc function, void *arg)
{
	Fingerprint *fingerprint = arg;

	if (function->pronargs >= 2 &&
		function->proargtypes.values[0] == fingerprint->aggregate->state_type)
	{
		add_type(fingerprint, function->proargtypes.values[1]);
		add_function(fingerprint, function->oid);
	}
	return false;
}

static void
add_function(Fingerprint *fingerprint, Oid function)
{
	char	   *definition;

	if (list_member_oid(fingerprint->functions, function))
		return;
	fingerprint->functions = lappend_oid(fingerprint->functions, function);
	definition = TextDatumGetCString(DirectFunctionCall1(pg_get_functiondef,
														 ObjectIdGetDatum(function)));
	add_text(fingerprint, definition);
	add_named_functions(fingerprint, definition);
}

/* Every identifier, quoted or not, that stands before a parenthesis. */
static void
add_named_functions(Fingerprint *fingerprint, const char *definition)
{
	const char *at = definition;

	while (*at)
	{
		const char *start = at;
		char	   *name = NULL;

		if (*at == '"')
		{
			StringInfoData quoted;

			initStringInfo(&quoted);
			for (at++; *at && (*at != '"' || at[1] == '"'); at++)
			{
				appendStringInfoChar(&quoted, *at);
				if (*at == '"')
					at++;
			}
			if (*at)
				at++;
			name = quoted.data;
		}
		else if (isalpha((unsigned char) *at) || *at == '_' || IS_HIGHBIT_SET(*at))
		{
			while (isalnum((unsigned char) *at) || *at == '_' || *at == '$' || IS_HIGHBIT_SET(*at))
				at++;
			name = downcase_truncate_identifier(start, at - start, false);
		}
		else
		{
			at++;
			continue;
		}
		while (scanner_isspace(*at))
			at++;
		if (*at == '(' && strlen(name) < NAMEDATALEN)
			add_functions_by_name(fingerprint, name);
	}
}

/* The user's functions of a name, in whatever schema: not the server's own. */
static void
add_functions_by_name(Fingerprint *fingerprint, const char *name)
{
	CatCList   *functions = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	List	   *found = NIL;
	ListCell   *cell;

	for (int i = 0; i < functions->n_members; i++)
	{
		Form_pg_proc function = (Form_pg_proc) GETSTRUCT(&functions->members[i]->tuple);

		if (function->oid >= FirstNormalObjectId && function->prokind == PROKIND_FUNCTION)
			found = lappend_oid(found, function->oid);
	}
	ReleaseSysCacheList(functions);
	foreach(cell, found)
		add_function(fingerprint, lfirst_oid(cell));
}

/* The fields of a composite type by name and type, and of those nested in it. */
static void
add_type(Fingerprint *fingerprint, Oid type)
{
	Oid			element;
	TupleDesc	tupdesc;

	type = getBaseType(type);
	element = get_element_type(type);
	if (OidIsValid(element))
		type = getBaseType(element);
	if (!es_composite_is_named(type, NULL) || list_member_oid(fingerprint->types, type))
		return;
	fingerprint->types = lappend_oid(fingerprint->types, type);

	tupdesc = es_composite_tupdesc(es_composite(type));
	for (int i = 0; i < tupdesc->natts; i++)
	{
		Form_pg_attribute attr = TupleDescAttr(tupdesc, i);

		if (attr->attisdropped)
			continue;
		add_text(fingerprint, psprintf("%s.%s %s", format_type_be_qualified(type), NameStr(attr->attname), format_type_with_typemod(attr->atttypid, attr->atttypmod)));
		add_type(fingerprint, attr->atttypid);
	}
}

static void
add_text(Fingerprint *fingerprint, const char *text)
{
	fingerprint->sum += hash_bytes_extended((const unsigned char *) text, strlen(text), 0);
}
