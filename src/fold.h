/*-------------------------------------------------------------------------
 *
 * fold.h
 *		Folding a stream: initial state, and one apply function per event.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_FOLD_H
#define ES_FOLD_H

#include "aggregate.h"
#include "apply.h"
#include "composite.h"
#include "event.h"
#include "fold_state.h"
#include "stream.h"

typedef struct EsFold EsFold;

/* Called after each event; the fold's state is that after it. */
typedef void (*EsFoldVisit)(EsFold *fold, const EsEvent *event, void *arg);

struct EsFold
{
	EsStore    *store;
	EsAggregate *aggregate;
	text	   *stream;
	EsStreamHead head;			/* what the state is folded to */
	EsFoldState state;
	bool		filtered;		/* by policies, perhaps: for this caller alone */
	EsFoldVisit visit;			/* NULL: none */
	void	   *visit_arg;

	MemoryContext context;		/* holds the fold */
	MemoryContext event_context;	/* emptied after each event */

	TupleTableSlot *row;		/* of an event that is read no further than its data; NULL: none */

	/* the event applied last: the next one is often of its type */
	EsOverload *apply;			/* NULL: none */
	EsComposite *composite;		/* of its event; NULL: the envelope */
	EsFieldCall *field_call;	/* that is known to fit state and event; NULL: none */
};

/*
 * Begin with the initial state, at version 0.  All of the fold lives in a
 * context below the current one; es_fold_end() frees it.
 */
extern EsFold *es_fold_begin(EsStore *store, EsAggregate *aggregate, text *stream);
extern void es_fold_end(EsFold *fold);

/* Go on from a state that was folded to a version before (copied), or from the start again. */
extern void es_fold_start_from(EsFold *fold, EsStreamHead head, Datum state);
extern void es_fold_restart(EsFold *fold);

/*
 * Read the stream behind the fold's version up to and with another one, with
 * the active snapshot, and apply its events one by one, in constant memory.
 * Returns false, with nothing applied, when the log does not have the fold's
 * version at the fold's position: then start again.  Connected to SPI.
 */
extern bool es_fold_read(EsFold *fold, int64 to_version);

/*
 * Apply one event.  If it is at hand as a composite value, that and its type
 * may spare reading it from JSON: only where it would come back the same, so
 * that this session's state is everybody's.  SE005 without an apply function for it.
 */
extern void es_fold_apply(EsFold *fold, EsEvent *event, Oid record_type, Datum record);

/* The state as a flat value, in the current context. */
extern Datum es_fold_state(EsFold *fold);

#endif							/* ES_FOLD_H */
