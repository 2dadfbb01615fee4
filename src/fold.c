/*-------------------------------------------------------------------------
 *
 * fold.c
 *		Folding a stream: initial state, and one apply function per event.
 *
 * The executor's rows stream into the fold through a DestReceiver, so that a
 * stream of any length needs constant memory.  Each event is decoded and
 * applied in a context of its own.  An apply function that was inlined is
 * evaluated over the fields of state and event (field_call.c), and only the
 * event's fields that it looks at are decoded; any other one gets both as
 * values.
 *
 * User code runs under the search_path of the aggregate's definition: the
 * caller enters it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "errors.h"
#include "extension.h"
#include "fold.h"
#include "log.h"
#include "row_receiver.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

/* What an error in an apply function is reported with. */
typedef struct ApplyContext
{
	EsFold	   *fold;
	const EsEvent *event;
} ApplyContext;

/* Receives the rows of a stream. */
typedef struct FoldReceiver
{
	DestReceiver pub;
	EsFold	   *fold;
	bool		verify;			/* the first row must be the fold's version */
	bool		mismatch;
	ErrorContextCallback *context;	/* of the caller: our own query says nothing to a user */
} FoldReceiver;

static void choose_apply(EsFold *fold, const text *type);
static bool is_last_apply(const EsFold *fold, const text *type);
static void apply_value(EsFold *fold, const EsEvent *event, Oid record_type, Datum record);
static EsFieldCall *begin_field_call(EsFold *fold);
static bool fits(TupleTableSlot *slot, TupleDesc tupdesc);
static void apply_fields(EsFold *fold, EsFieldCall *call, const EsEvent *event, Oid record_type,
						 Datum record);
static void give_envelope(TupleTableSlot *slot, const EsEvent *event);
pg_noreturn static void null_state(const EsOverload *apply);
static bool receive_row(TupleTableSlot *slot, DestReceiver *self);
static void apply_context(void *arg);

EsFold *
es_fold_begin(EsStore *store, EsAggregate *aggregate, text *stream)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing fold",
												  ALLOCSET_DEFAULT_SIZES);
	EsFold	   *fold = MemoryContextAllocZero(context, sizeof(EsFold));
	MemoryContext caller;

	fold->store = store;
	fold->aggregate = aggregate;
	fold->stream = stream;
	fold->context = context;
	fold->event_context = AllocSetContextCreate(context, "event_sourcing event",
												ALLOCSET_DEFAULT_SIZES);
	caller = MemoryContextSwitchTo(context);
	es_fold_state_init(&fold->state,
					   aggregate->state_type == JSONBOID ?
						   NULL :
						   es_composite_tupdesc(es_composite(aggregate->state_type)),
					   fold->event_context);
	MemoryContextSwitchTo(caller);
	es_fold_restart(fold);
	return fold;
}

void
es_fold_end(EsFold *fold)
{
	MemoryContextDelete(fold->context);
}

void
es_fold_start_from(EsFold *fold, EsStreamHead head, Datum state)
{
	es_fold_state_set(&fold->state, state);
	fold->head = head;
}

void
es_fold_restart(EsFold *fold)
{
	EsStreamHead start = {0, 0};

	es_fold_start_from(fold, start, fold->aggregate->initial_state);
}

bool
es_fold_read(EsFold *fold, int64 to_version)
{
	FoldReceiver receiver = {0};

	/* from the fold's own version on, to see that it is still there */
	EsLogRange	range = {Max(fold->head.version, 1), to_version, PG_INT64_MAX, false};

	es_row_receiver_init(&receiver.pub, receive_row);
	receiver.fold = fold;
	receiver.verify = (fold->head.version > 0);
	receiver.context = error_context_stack;

	es_log_read_stream(fold->store, fold->stream, &range, &receiver.pub);

	/* no row at all: the log ends before it */
	return !receiver.mismatch && !receiver.verify;
}

void
es_fold_apply(EsFold *fold, EsEvent *event, Oid record_type, Datum record)
{
	ErrorContextCallback context;
	ApplyContext context_arg = {fold, event};
	MemoryContext caller = MemoryContextSwitchTo(fold->event_context);
	EsFieldCall *call;

	context.callback = apply_context;
	context.arg = &context_arg;
	context.previous = error_context_stack;
	error_context_stack = &context;

	choose_apply(fold, DatumGetTextPP(event->values[ES_EVENT_TYPE]));
	if (fold->row && (fold->composite == NULL || fold->apply->takes_envelope))
		es_event_from_slot(event, fold->row);
	call = begin_field_call(fold);
	if (call)
		apply_fields(fold, call, event, record_type, record);
	else
		apply_value(fold, event, record_type, record);
	fold->head.version = DatumGetInt64(event->values[ES_EVENT_VERSION]);
	fold->head.position = DatumGetInt64(event->values[ES_EVENT_POSITION]);

	error_context_stack = context.previous;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(fold->event_context);
}

Datum
es_fold_state(EsFold *fold)
{
	return es_fold_state_copy(&fold->state);
}

/* Find what the event is applied with. */
static void
choose_apply(EsFold *fold, const text *type)
{
	if (fold->apply && is_last_apply(fold, type))
		return;
	fold->apply = es_apply(fold->aggregate, type);
	fold->composite = fold->apply->event_type == es_extension()->event.oid ?
		NULL :
		es_composite(fold->apply->event_type);
	fold->field_call = NULL;
}

static bool
is_last_apply(const EsFold *fold, const text *type)
{
	const char *last = fold->apply->type;
	int			length = VARSIZE_ANY_EXHDR(type);

	return length < NAMEDATALEN && last[length] == '\0' && last[0] != '\0' &&
		memcmp(last, VARDATA_ANY(type), length) == 0;
}

/* Call an apply function with state and event as values. */
static void
apply_value(EsFold *fold, const EsEvent *event, Oid record_type, Datum record)
{
	EsOverload *apply = fold->apply;
	Datum		args[ES_ROUTINE_MAX_ARGS];
	bool		nulls[ES_ROUTINE_MAX_ARGS] = {false, false, false};
	Datum		state;
	bool		isnull;

	args[0] = es_fold_state_value(&fold->state);
	if (fold->composite == NULL)
		args[1] = es_event_to_datum(event);
	else if (apply->event_type == record_type && es_composite_is_exact(fold->composite))
		args[1] = record;
	else
		args[1] = es_composite_from_jsonb(fold->composite,
										  DatumGetJsonbP(event->values[ES_EVENT_DATA]));
	if (apply->takes_envelope)
		args[2] = es_event_to_datum(event);

	state = es_routine_call(apply->routine, args, nulls, &isnull);
	if (isnull)
		null_state(apply);
	es_fold_state_keep(&fold->state, state);
}

/* Begin to call the apply function by fields; NULL when it is not called that way. */
static EsFieldCall *
begin_field_call(EsFold *fold)
{
	EsOverload *apply = fold->apply;
	EsFieldCall *call = es_routine_begin_fields(apply->routine);

	if (call == NULL || call == fold->field_call)
		return call;

	/* a type may have changed since the one or the other was made */
	if ((fold->state.tupdesc &&
		 !(fits(call->args[0], fold->state.tupdesc) && fits(call->result, fold->state.tupdesc))) ||
		(fold->composite && !fits(call->args[1], es_composite_tupdesc(fold->composite))))
	{
		es_routine_end_fields(call);
		return NULL;
	}
	fold->field_call = call;
	return call;
}

static bool
fits(TupleTableSlot *slot, TupleDesc tupdesc)
{
	TupleDesc	own = slot->tts_tupleDescriptor;

	if (own->natts != tupdesc->natts)
		return false;
	for (int i = 0; i < own->natts; i++)
		if (TupleDescAttr(own, i)->atttypid != TupleDescAttr(tupdesc, i)->atttypid)
			return false;
	return true;
}

/* Call an inlined apply function with the fields of state and event. */
static void
apply_fields(EsFold *fold, EsFieldCall *call, const EsEvent *event, Oid record_type, Datum record)
{
	EsOverload *apply = fold->apply;
	TupleTableSlot *slot = call->args[1];

	es_fold_state_to_call(&fold->state, call);
	if (fold->composite == NULL)
		give_envelope(slot, event);
	else if (apply->event_type == record_type && es_composite_is_exact(fold->composite))
		es_composite_deform(record, es_composite_tupdesc(fold->composite), slot->tts_values,
							slot->tts_isnull);
	else
		es_composite_fields_from_jsonb(fold->composite,
									   DatumGetJsonbP(event->values[ES_EVENT_DATA]),
									   call->uses[1], slot->tts_values, slot->tts_isnull);
	if (apply->takes_envelope)
		give_envelope(call->args[2], event);

	es_field_call_run(call);
	es_routine_end_fields(call);
	if (fold->state.tupdesc == NULL && call->result->tts_isnull[0])
		null_state(apply);
	es_fold_state_from_call(&fold->state, call);
}

static void
give_envelope(TupleTableSlot *slot, const EsEvent *event)
{
	memcpy(slot->tts_values, event->values, sizeof(event->values));
	memcpy(slot->tts_isnull, event->nulls, sizeof(event->nulls));
}

static void
null_state(const EsOverload *apply)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("function %s returned NULL instead of a state",
					es_routine_name(apply->routine)),
			 errhint("An apply function returns the next state, whatever the event has in it.")));
}

/* DestReceiver: one row of the stream. */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	FoldReceiver *receiver = (FoldReceiver *) self;
	EsFold	   *fold = receiver->fold;
	ErrorContextCallback *context = error_context_stack;
	EsEvent		event;

	/* type and data are all that most apply functions take */
	es_event_start_from_slot(&event, slot, fold->visit ? ES_EVENT_COLUMNS : ES_EVENT_DATA + 1);
	if (receiver->verify)
	{
		if (DatumGetInt64(event.values[ES_EVENT_VERSION]) != fold->head.version ||
			DatumGetInt64(event.values[ES_EVENT_POSITION]) != fold->head.position)
		{
			receiver->mismatch = true;
			return false;
		}
		receiver->verify = false;
		return true;
	}
	error_context_stack = receiver->context;
	fold->row = slot;
	es_fold_apply(fold, &event, InvalidOid, (Datum) 0);
	fold->row = NULL;
	if (fold->visit)
		fold->visit(fold, &event, fold->visit_arg);
	error_context_stack = context;
	return true;
}

static void
apply_context(void *arg)
{
	ApplyContext *a = arg;

	errcontext("applying event %lld (\"%s\") of stream \"%s\" to aggregate \"%s\"",
			   (long long) DatumGetInt64(a->event->values[ES_EVENT_VERSION]),
			   text_to_cstring(DatumGetTextPP(a->event->values[ES_EVENT_TYPE])),
			   text_to_cstring(a->fold->stream), a->fold->aggregate->name);
}
