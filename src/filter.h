/*-------------------------------------------------------------------------
 *
 * filter.h
 *		Filters: which events somebody wants, by type, category and stream.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_FILTER_H
#define ES_FILTER_H

#include "fmgr.h"
#include "nodes/pg_list.h"

typedef struct EsFilter
{
	List	   *types;			/* char *; NIL: all */
	List	   *categories;		/* char *; NIL: all */
	char	   *stream;			/* NULL: all */
} EsFilter;

extern bool es_filter_selects_all(const EsFilter *filter);
extern bool es_filter_selects(const EsFilter *filter, const text *type, const text *stream);

/* The two halves of that. */
extern bool es_filter_selects_type(const EsFilter *filter, const text *type);
extern bool es_filter_selects_stream(const EsFilter *filter, const text *stream);

/* Whether it selects any stream of the category of this one. */
extern bool es_filter_selects_category(const EsFilter *filter, const text *stream);

/*
 * An argument that is an array of types or categories, as a Datum; 0 for NULL.
 * 22004, 22023 for one that holds NULL or nothing.
 */
extern Datum es_filter_argument(FunctionCallInfo fcinfo, int arg, const char *what);

#endif							/* ES_FILTER_H */
