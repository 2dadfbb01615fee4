/*-------------------------------------------------------------------------
 *
 * overload.c
 *		Overloads: which of the functions of a name takes a type of event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "composite.h"
#include "extension.h"
#include "overload.h"
#include "utils/builtins.h"

typedef struct Entry
{
	char		type[NAMEDATALEN];	/* hash key: the event type */
	bool		exists;
	EsOverload	overload;
} Entry;

/* Looking for an overload. */
typedef struct Search
{
	const EsOverloads *overloads;
	const char *type;			/* NULL: any */
	Oid			function;
	Oid			event_type;
	bool		takes_envelope;
	Oid			generic;		/* f(es_event), the second choice */
} Search;

static bool visit(Form_pg_proc function, void *arg);

EsOverload *
es_overload(EsOverloads *overloads, const text *type)
{
	char		name[NAMEDATALEN] = {0};
	int			length = VARSIZE_ANY_EXHDR(type);
	Search		search = {overloads, name, InvalidOid, InvalidOid, false, InvalidOid};
	Entry	   *entry;
	EsRoutine  *routine = NULL;

	/* a name that is too long for a type is like any that has no overload */
	if (length < NAMEDATALEN)
		memcpy(name, VARDATA_ANY(type), length);
	if (overloads->by_type == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(Entry);
		ctl.hcxt = overloads->context;
		overloads->by_type = hash_create("event_sourcing overloads", 32, &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entry = hash_search(overloads->by_type, name, HASH_FIND, NULL);
	if (entry)
		return entry->exists ? &entry->overload : NULL;

	es_function_scan(overloads->scope, visit, &search);
	if (!OidIsValid(search.function) && OidIsValid(search.generic))
	{
		search.function = search.generic;
		search.event_type = es_extension()->event.oid;
	}

	/* nothing is entered before it is complete: an error must come again */
	if (OidIsValid(search.function))
		routine = es_routine(overloads->context, search.function);
	entry = hash_search(overloads->by_type, name, HASH_ENTER, NULL);
	entry->exists = (routine != NULL);
	memcpy(entry->overload.type, name, NAMEDATALEN);
	entry->overload.overloads = overloads;
	entry->overload.routine = routine;
	entry->overload.event_type = search.event_type;
	entry->overload.takes_envelope = search.takes_envelope;
	return entry->exists ? &entry->overload : NULL;
}

bool
es_overload_exists(EsOverloads *overloads)
{
	Search		search = {overloads, NULL, InvalidOid, InvalidOid, false, InvalidOid};

	if (!overloads->counted)
	{
		es_function_scan(overloads->scope, visit, &search);
		overloads->any = OidIsValid(search.function) || OidIsValid(search.generic);
		overloads->counted = true;
	}
	return overloads->any;
}

void
es_overload_require(const EsOverloads *overloads)
{
	Search		search = {overloads, NULL, InvalidOid, InvalidOid, false, InvalidOid};
	const char *name = overloads->name;
	char	   *state;

	es_function_scan(overloads->scope, visit, &search);
	if (OidIsValid(search.function) || OidIsValid(search.generic))
		return;
	state = OidIsValid(overloads->state_type) ?
		psprintf("%s, ", format_type_be(overloads->state_type)) :
		"";
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_FUNCTION),
			 errmsg("function \"%s\" handles no type of event", name),
			 errhint("Create function %s(%s<event type>), %s(%s<event type>, es_event), or %s(%ses_event).",
					 name, state, name, state, name, state)));
}

int
es_overload_arguments(EsOverload *overload, Datum state, const EsEvent *event, Datum *args)
{
	int			nargs = 0;

	if (DatumGetPointer(state) != NULL)
		args[nargs++] = state;
	if (overload->event_type == es_extension()->event.oid)
		args[nargs++] = es_event_to_datum(event);
	else
		args[nargs++] = es_composite_from_jsonb(es_composite(overload->event_type),
												DatumGetJsonbP(event->values[ES_EVENT_DATA]));
	if (overload->takes_envelope)
		args[nargs++] = es_event_to_datum(event);
	return nargs;
}

Datum
es_overload_call(EsOverload *overload, Datum state, const EsEvent *event, bool *isnull)
{
	Datum		args[ES_ROUTINE_MAX_ARGS];
	bool		nulls[ES_ROUTINE_MAX_ARGS] = {false, false, false};

	if (es_routine_returns_set(overload->routine))
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s must not return a set", es_routine_name(overload->routine)),
				 errdetail("It is a handler of %s.", overload->overloads->owner)));
	(void) es_overload_arguments(overload, state, event, args);
	return es_routine_call(overload->routine, args, nulls, isnull);
}

/* f(event), f(event, es_event), or f(es_event), each perhaps after a state */
static bool
visit(Form_pg_proc function, void *arg)
{
	Search	   *search = arg;
	Oid		   *argtypes = function->proargtypes.values;
	int			nargs = function->pronargs;
	Oid			envelope = es_extension()->event.oid;

	if (OidIsValid(search->overloads->state_type))
	{
		if (nargs < 1 || argtypes[0] != search->overloads->state_type)
			return false;
		argtypes++;
		nargs--;
	}
	if (nargs < 1 || nargs > 2 || (nargs == 2 && argtypes[1] != envelope))
		return false;
	if (argtypes[0] == envelope)
	{
		if (nargs == 1 && !OidIsValid(search->generic))
			search->generic = function->oid;
		return search->type == NULL && OidIsValid(search->generic);
	}
	if (!es_composite_is_named(argtypes[0], search->type))
		return false;
	search->function = function->oid;
	search->event_type = argtypes[0];
	search->takes_envelope = (nargs == 2);
	return true;
}
