/*-------------------------------------------------------------------------
 *
 * filter.c
 *		Filters: which events somebody wants, by type, category and stream.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "filter.h"
#include "stream.h"
#include "utils/array.h"

static bool has_name(List *names, const char *name, int length);

bool
es_filter_selects_all(const EsFilter *filter)
{
	return filter->types == NIL && filter->categories == NIL && filter->stream == NULL;
}

bool
es_filter_selects(const EsFilter *filter, const text *type, const text *stream)
{
	return es_filter_selects_type(filter, type) && es_filter_selects_stream(filter, stream);
}

bool
es_filter_selects_type(const EsFilter *filter, const text *type)
{
	return filter->types == NIL ||
		has_name(filter->types, VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type));
}

bool
es_filter_selects_stream(const EsFilter *filter, const text *stream)
{
	const char *name = VARDATA_ANY(stream);
	int			length = VARSIZE_ANY_EXHDR(stream);

	if (filter->stream &&
		(strncmp(filter->stream, name, length) != 0 || filter->stream[length] != '\0'))
		return false;
	return filter->categories == NIL ||
		has_name(filter->categories, name, es_stream_category_length(stream));
}

bool
es_filter_selects_category(const EsFilter *filter, const text *stream)
{
	const char *name = VARDATA_ANY(stream);
	int			length = es_stream_category_length(stream);

	if (filter->stream &&
		(strncmp(filter->stream, name, length) != 0 ||
		 (filter->stream[length] != '\0' && filter->stream[length] != '-')))
		return false;
	return filter->categories == NIL || has_name(filter->categories, name, length);
}

Datum
es_filter_argument(FunctionCallInfo fcinfo, int arg, const char *what)
{
	if (PG_ARGISNULL(arg))
		return (Datum) 0;
	if (array_contains_nulls(PG_GETARG_ARRAYTYPE_P(arg)))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain NULL", what)));
	if (ARR_NDIM(PG_GETARG_ARRAYTYPE_P(arg)) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a one-dimensional array that is not empty", what),
				 errhint("Leave it out to select all.")));
	return PointerGetDatum(PG_GETARG_ARRAYTYPE_P(arg));
}

static bool
has_name(List *names, const char *name, int length)
{
	ListCell   *cell;

	foreach(cell, names)
	{
		const char *other = lfirst(cell);

		if (strncmp(other, name, length) == 0 && other[length] == '\0')
			return true;
	}
	return false;
}
