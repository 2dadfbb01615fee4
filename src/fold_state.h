/*-------------------------------------------------------------------------
 *
 * fold_state.h
 *		The state of an aggregate while it is being folded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_FOLD_STATE_H
#define ES_FOLD_STATE_H

#include "access/tupdesc.h"
#include "field_call.h"

/* How the state is held at the moment. */
typedef enum EsFoldStateForm
{
	ES_STATE_FLAT,				/* one flat value */
	ES_STATE_EXPANDED,			/* one expanded record, read-write */
	ES_STATE_FIELDS				/* a value for each field */
} EsFoldStateForm;

/* Where a field's value is kept: it moves between two places. */
typedef struct EsFieldStore
{
	int			place;
	char	   *buffers[2];		/* flat */
	Size		sizes[2];
	MemoryContext objects[2];	/* expanded; NULL: not needed yet */
	bool		expanded;		/* the value is an expanded object, read-write */
} EsFieldStore;

typedef struct EsFoldState
{
	EsFoldStateForm form;
	MemoryContext context;		/* holds all of it */
	MemoryContext event_context;	/* where results come from; objects there are taken over */

	/* one value */
	Datum		value;
	int			place;			/* the value moves between two places */
	char	   *buffers[2];		/* flat */
	Size		buffer_sizes[2];
	MemoryContext object_contexts[2];	/* expanded */

	/* fields */
	TupleDesc	tupdesc;		/* of a composite state; NULL: the state is its only field */
	int			nfields;
	Datum	   *values;
	bool	   *nulls;
	EsFieldStore *stores;
} EsFoldState;

/*
 * Make room for a state of a type (tupdesc NULL: not composite) in the current
 * context.  What functions give is in event_context, which the caller empties.
 */
extern void es_fold_state_init(EsFoldState *state, TupleDesc tupdesc, MemoryContext event_context);

/* Set the state to a copy of a value. */
extern void es_fold_state_set(EsFoldState *state, Datum value);

/* The state as one value, which stays the state's own. */
extern Datum es_fold_state_value(EsFoldState *state);

/* The state as a flat value in the current context. */
extern Datum es_fold_state_copy(EsFoldState *state);

/* Make what a function returned the state. */
extern void es_fold_state_keep(EsFoldState *state, Datum value);

/* Give the state's fields to a call as its first argument, and make its result the state. */
extern void es_fold_state_to_call(EsFoldState *state, EsFieldCall *call);
extern void es_fold_state_from_call(EsFoldState *state, EsFieldCall *call);

#endif							/* ES_FOLD_STATE_H */
