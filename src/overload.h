/*-------------------------------------------------------------------------
 *
 * overload.h
 *		Overloads: which of the functions of a name takes a type of event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_OVERLOAD_H
#define ES_OVERLOAD_H

#include "event.h"
#include "routine.h"
#include "utils/hsearch.h"

/*
 * The functions of a name: f(event), f(event, es_event) or f(es_event), or with
 * a state before that.  The owner fills it in, in a context that is its own.
 */
typedef struct EsOverloads
{
	MemoryContext context;		/* holds what is found */
	const char *name;			/* as it was given */
	const char *owner;			/* for errors, such as: projection "totals" */
	EsFunctionScope *scope;
	Oid			state_type;		/* of the first argument; InvalidOid: there is none */
	HTAB	   *by_type;
	bool		counted;		/* known: */
	bool		any;			/* there is one for some type */
} EsOverloads;

/* What takes a type of event. */
typedef struct EsOverload
{
	char		type[NAMEDATALEN];	/* that it was looked up for; empty when that is too long */
	const EsOverloads *overloads;	/* that it is one of */
	EsRoutine  *routine;
	Oid			event_type;		/* a composite type, or es_event */
	bool		takes_envelope; /* f(..., event, es_event) */
} EsOverload;

/* The overload for a type of event, looked up once; NULL when there is none. */
extern EsOverload *es_overload(EsOverloads *overloads, const text *type);

/* Whether there is an overload for any type, looked up once. */
extern bool es_overload_exists(EsOverloads *overloads);

/* 42883 when there is no overload for any type. */
extern void es_overload_require(const EsOverloads *overloads);

/*
 * Call it for an event, after a state where it takes one.  In a context for this
 * call; the result is in it.  42804 when it returns a set.
 */
extern Datum es_overload_call(EsOverload *overload, Datum state, const EsEvent *event,
							  bool *isnull);

/* The arguments of such a call; returns how many. */
extern int	es_overload_arguments(EsOverload *overload, Datum state, const EsEvent *event,
								 Datum *args);

#endif							/* ES_OVERLOAD_H */
