/*-------------------------------------------------------------------------
 *
 * aggregate.h
 *		Aggregates: their definitions and the functions behind them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_AGGREGATE_H
#define ES_AGGREGATE_H

#include "overload.h"
#include "routine.h"
#include "store.h"

/* An aggregate as a session has loaded it; usable to the end of the transaction. */
typedef struct EsAggregate
{
	MemoryContext context;
	uint64		serial;			/* no other aggregate, store or later load has it */
	char	   *name;
	char	   *identity;		/* a command's field */
	char	   *stream_prefix;
	List	   *commands;		/* names (char *) of a schemaless aggregate's commands */
	int			snapshot_every; /* 0: never */

	/* names as they are stored */
	char	   *state_schema;	/* NULL: jsonb */
	char	   *state_name;
	char	   *execute_function;
	char	   *apply_function;
	char	   *initial_literal;	/* NULL: a row of NULLs, or {} */
	ArrayType  *path_names;

	/* what they stand for, in an aggregate that was found */
	Oid			state_type;		/* a composite type or jsonb */
	EsFunctionScope *execute;
	EsFunctionScope *apply;
	EsSearchPath *path;			/* its functions run under it */
	Datum		initial_state;

	char	   *fingerprint;	/* of fingerprint.c */
	EsOverloads applies;		/* of apply.c */
} EsAggregate;

/* How an aggregate executes a type of command. */
typedef struct EsCommandHandler
{
	EsAggregate *aggregate;
	EsRoutine  *execute;
	Oid			command_type;	/* its composite type; InvalidOid: known by name alone */
	char	   *command_name;	/* the bare name */
	int			identity_attnum;	/* of command_type */
	bool		takes_envelope; /* execute(state, command, es_command) */
} EsCommandHandler;

/*
 * Find an aggregate; 42704 when there is none, 42725 when a state type belongs
 * to several.
 */
extern EsAggregate *es_aggregate_by_name(EsStore *store, const char *name);
extern EsAggregate *es_aggregate_by_state_type(EsStore *store, Oid state_type);

/*
 * Find what executes a command, given by its composite type or by its type's
 * name, bare or qualified.  SE004 when nothing does, or more than one.
 */
extern EsCommandHandler *es_command_handler(EsStore *store, Oid command_type);
extern EsCommandHandler *es_command_handler_by_name(EsStore *store, const char *command_name);

/* The stream of an instance; 22004, 22023 when the id is NULL, empty or too long. */
extern text *es_aggregate_stream(EsAggregate *aggregate, const text *id);

#endif							/* ES_AGGREGATE_H */
