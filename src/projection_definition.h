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
#include "routine.h"
#include "store.h"
#include "utils/hsearch.h"

/* A projection as a session has loaded it; usable to the end of the transaction. */
typedef struct EsProjection
{
	MemoryContext context;
	char	   *name;
	int64		id;
	char	   *handler;		/* NULL: set-based */
	EsFunctionScope *scope;		/* of the handler */
	char	   *query;			/* NULL: by handler */
	SPIPlanPtr	plan;			/* of the query; NULL: not prepared yet */
	List	   *targets;		/* qualified names (char *) of its tables */
	List	   *types;			/* char *; NIL: all */
	List	   *categories;		/* char *; NIL: all */
	bool		paused;
	int64		paused_at;		/* position of the last event it has seen */
	EsSearchPath *path;			/* its code runs under it */
	HTAB	   *handlers;		/* by event type */
} EsProjection;

/* What handles a type of event. */
typedef struct EsProjectionHandler
{
	EsRoutine  *routine;
	Oid			event_type;		/* a composite type, or es_event */
	bool		takes_envelope; /* handler(event, es_event) */
} EsProjectionHandler;

/* All projections of a store (EsProjection *), in the order of their ids. */
extern List *es_projections(EsStore *store);

/* 42704 when there is none. */
extern EsProjection *es_projection_by_name(EsStore *store, const char *name);

/* The overload for a type of event, NULL when there is none. */
extern EsProjectionHandler *es_projection_handler(EsProjection *projection, const text *type);

/* 42883 when its handler has no overload at all any more. */
extern void es_projection_require_handler(EsProjection *projection);

/* Whether the projection's filters let an event through. */
extern bool es_projection_selects(EsProjection *projection, const text *type, const text *stream);

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
