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
#include "compat.h"
#include "errors.h"
#include "utils/builtins.h"

pg_noreturn static void unknown_event(EsAggregate *aggregate, const char *type);

EsOverload *
es_apply(EsAggregate *aggregate, const text *type)
{
	EsOverloads *applies = &aggregate->applies;
	EsOverload *apply;

	if (applies->context == NULL)
	{
		applies->context = aggregate->context;
		applies->name = aggregate->apply_function;
		applies->scope = aggregate->apply;
		applies->state_type = aggregate->state_type;
	}
	apply = es_overload(applies, type);
	if (apply == NULL)
		unknown_event(aggregate, text_to_cstring(type));
	if (es_routine_returns_set(apply->routine) ||
		es_routine_result_type(apply->routine) != aggregate->state_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s must return %s", es_routine_name(apply->routine),
						format_type_be(aggregate->state_type)),
				 errdetail("It is an apply function of aggregate \"%s\" and returns the next state.",
						   aggregate->name)));
	return apply;
}

static void
unknown_event(EsAggregate *aggregate, const char *type)
{
	ereport(ERROR,
			(errcode(ERRCODE_ES_UNKNOWN_EVENT),
			 errmsg("aggregate \"%s\" cannot apply event \"%s\"", aggregate->name, type),
			 errdetail("It has no apply function for it."),
			 aggregate->state_type == JSONBOID ?
				 errhint("Create function %s(jsonb, es_event).", aggregate->apply->name) :
				 errhint("Create function %s(%s, %s).", aggregate->apply->name,
						 format_type_be(aggregate->state_type), quote_identifier(type))));
}
