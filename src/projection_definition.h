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

/* 42704 when there is none. */
extern EsProjection *es_projection_by_name(EsStore *store, const char *name);

/* Whether its filter lets an event through, and there is something to run for it. */
extern bool es_projection_wants(EsProjection *projection, const text *type, const text *stream);

/*
 * The saved plan of a set-based projection.  Connected to SPI, with the
 * relation es_new_events registered and the projection's path entered.
 */
extern SPIPlanPtr es_projection_plan(EsProjection *projection);

/* Make rows readable under a name in the current SPI connection. */
extern void es_projection_register_rows(const char *name, TupleDesc tupdesc,
										Tuplestorestate *rows);

/* Connected to SPI; the caller holds the log's ShareRowExclusiveLock. */
extern void es_projection_set_paused(EsStore *store, const char *name, bool paused,
									 int64 paused_at);

/* The first argument of a call as a projection's name; 22004 when it is NULL. */
extern char *es_projection_name_argument(FunctionCallInfo fcinfo);

#endif							/* ES_PROJECTION_DEFINITION_H */
