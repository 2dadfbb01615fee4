/*-------------------------------------------------------------------------
 *
 * apply.c
 *		Apply functions: which one takes an event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "apply.h"
#include "catalog/pg_type.h"
#include "composite.h"
#include "errors.h"
#include "extension.h"
#include "utils/builtins.h"

/* Looking for an apply function. */
typedef struct ApplySearch
{
	EsAggregate *aggregate;
	const char *type;
	Oid			function;
	Oid			event_type;
	bool		takes_envelope;
	Oid			generic;		/* apply(state, es_event), the second choice */
} ApplySearch;

static EsApply *resolve_apply(EsAggregate *aggregate, const char *key, const char *type);
static bool visit_apply(Form_pg_proc function, void *arg);

EsApply *
es_apply(EsAggregate *aggregate, const text *type)
{
	char		key[NAMEDATALEN] = {0};
	int			length = VARSIZE_ANY_EXHDR(type);
	EsApply    *apply = NULL;

	/* a name that is too long for a type can only have the generic form: one key for all */
	if (length < NAMEDATALEN)
		memcpy(key, VARDATA_ANY(type), length);
	if (aggregate->applies)
		apply = hash_search(aggregate->applies, key, HASH_FIND, NULL);
	return apply ? apply : resolve_apply(aggregate, key, text_to_cstring(type));
}

/* The function for a type of event, which is kept under the key. */
static EsApply *
resolve_apply(EsAggregate *aggregate, const char *key, const char *type)
{
	ApplySearch search = {0};
	EsRoutine  *routine;
	EsApply    *apply;

	search.aggregate = aggregate;
	search.type = type;
	es_function_scan(aggregate->apply, visit_apply, &search);
	if (!OidIsValid(search.function) && OidIsValid(search.generic))
	{
		search.function = search.generic;
		search.event_type = es_extension()->event.oid;
	}
	if (!OidIsValid(search.function))
		ereport(ERROR,
				(errcode(ERRCODE_ES_UNKNOWN_EVENT),
				 errmsg("aggregate \"%s\" cannot apply event \"%s\"", aggregate->name, type),
				 errdetail("It has no apply function for it."),
				 aggregate->state_type == JSONBOID ?
					 errhint("Create function %s(jsonb, es_event).", aggregate->apply->name) :
					 errhint("Create function %s(%s, %s).", aggregate->apply->name,
							 format_type_be(aggregate->state_type), quote_identifier(type))));

	routine = es_routine(aggregate->context, search.function);
	if (es_routine_returns_set(routine) || es_routine_result_type(routine) != aggregate->state_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s must return %s", es_routine_name(routine),
						format_type_be(aggregate->state_type)),
				 errdetail("It is an apply function of aggregate \"%s\" and returns the next state.",
						   aggregate->name)));

	if (aggregate->applies == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(EsApply);
		ctl.hcxt = aggregate->context;
		aggregate->applies = hash_create("event_sourcing apply functions", 32, &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	apply = hash_search(aggregate->applies, key, HASH_ENTER, NULL);
	apply->routine = routine;
	apply->event_type = search.event_type;
	apply->takes_envelope = search.takes_envelope;
	return apply;
}

/* apply(state, event), apply(state, event, es_event), or apply(state, es_event) */
static bool
visit_apply(Form_pg_proc function, void *arg)
{
	ApplySearch *search = arg;
	Oid		   *argtypes = function->proargtypes.values;
	Oid			envelope = es_extension()->event.oid;

	if (function->pronargs < 2 || function->pronargs > 3 ||
		argtypes[0] != search->aggregate->state_type ||
		(function->pronargs == 3 && argtypes[2] != envelope))
		return false;
	if (argtypes[1] == envelope)
	{
		if (function->pronargs == 2 && !OidIsValid(search->generic))
			search->generic = function->oid;
		return false;
	}
	if (!es_composite_is_named(argtypes[1], search->type))
		return false;
	search->function = function->oid;
	search->event_type = argtypes[1];
	search->takes_envelope = (function->pronargs == 3);
	return true;
}
