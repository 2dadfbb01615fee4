/*-------------------------------------------------------------------------
 *
 * projection_definition.h
 *		Definitions of projections and the functions behind them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_PROJECTION_DEFINITION_H
#define ES_PROJECTION_DEFINITION_H

#include "executor/spi.h"
#include "fmgr.h"
#include "filter.h"
#include "overload.h"
#include "routine.h"
#include "store.h"

/* A projection as a session has loaded it; usable to the end of the transaction. */
typedef struct EsProjection
{
	MemoryContext context;
	char	   *name;
	int64		id;
	char	   *handler;		/* NULL: set-based */
	char	   *query;			/* NULL: by handler */
	SPIPlanPtr	plan;			/* of the query; NULL: not prepared yet */
	SPIPlanPtr	log_plan;		/* of the query over a range of the log */
	SPIPlanPtr	count_plan;		/* of that range's count */
	List	   *targets;		/* qualified names (char *) of its tables */
	EsFilter	filter;
	bool		async;			/* run by a subscription of its name, not by the append */
	bool		paused;			/* inline: */
	int64		paused_at;		/* position of the last event it has seen */
	char	   *owner;			/* async: the role that it runs as */
	EsSearchPath *path;			/* its code runs under it */
	EsOverloads handlers;
} EsProjection;

/* All projections of a store (EsProjection *), in the order of their ids. */
extern List *es_projections(EsStore *store);

/* Find one by its name; when there is none, 42704 from the first, NULL from the second. */
extern EsProjection *es_projection_by_name(EsStore *store, const char *name);
extern EsProjection *es_projection_find(EsStore *store, const char *name);

/* Whether its filter lets an event through, and there is something to run for it. */
extern bool es_projection_wants(EsProjection *projection, const text *type, const text *stream);

/*
 * The saved plan of a set-based projection.  Connected to SPI, with the
 * relation es_new_events registered and the projection's path entered.
 */
extern SPIPlanPtr es_projection_plan(EsProjection *projection);

/*
 * Saved plans of a set-based projection whose es_new_events are the events of the
 * log in a range of positions, $1 < position <= $2, and of the count of these and
 * the lowest position among them.  Connected to SPI, under the projection's path.
 */
extern SPIPlanPtr es_projection_log_plan(EsStore *store, EsProjection *projection);
extern SPIPlanPtr es_projection_count_plan(EsStore *store, EsProjection *projection);

/* Make rows readable under a name in the current SPI connection. */
extern void es_projection_register_rows(const char *name, TupleDesc tupdesc,
										Tuplestorestate *rows);

/*
 * Let all appends under way end, keep others waiting to the end of the
 * transaction, and have them run the inline projections.  Connected to SPI.
 */
extern void es_projection_put_trigger(EsStore *store);

#endif							/* ES_PROJECTION_DEFINITION_H */
