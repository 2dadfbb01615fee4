/*-------------------------------------------------------------------------
 *
 * argument.c
 *		Arguments of SQL functions that are checked everywhere alike.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "argument.h"
#include "utils/builtins.h"

char *
es_argument_text(FunctionCallInfo fcinfo, int arg, const char *name, bool required)
{
	char	   *value;

	if (PG_ARGISNULL(arg))
	{
		if (required)
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be NULL", name)));
		return NULL;
	}
	value = text_to_cstring(PG_GETARG_TEXT_PP(arg));
	if (value[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", name)));
	return value;
}

int
es_argument_count(FunctionCallInfo fcinfo, int arg, const char *name, int lowest,
				  int highest)
{
	int			value;

	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be NULL", name)));
	value = PG_GETARG_INT32(arg);
	if (value < lowest)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be at least %d", name, lowest)));
	if (value > highest)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be at most %d", name, highest)));
	return value;
}
