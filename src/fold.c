/*-------------------------------------------------------------------------
 *
 * fold.c
 *		Folding a stream: initial state, and one apply function per event.
 *
 * The executor's rows stream into the fold through a DestReceiver, so that a
 * stream of any length needs constant memory.  Each event is decoded and
 * applied in a context of its own; the new state is copied into one of two
 * buffers before that context is emptied, since it may be made of pieces of
 * the old state and of the event.  A state that comes back as a read-write
 * expanded record (PL/pgSQL) is kept as such and handed to the next call.
 *
 * User code runs under the search_path of the aggregate's definition: the
 * caller enters it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_type.h"
#include "composite.h"
#include "errors.h"
#include "extension.h"
#include "fold.h"
#include "spi_plan.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

/* How an aggregate applies a type of event. */
typedef struct Apply
{
	char		type[NAMEDATALEN];	/* hash key: the event type */
	EsRoutine  *routine;
	Oid			event_type;		/* a composite type, or es_event */
	bool		takes_envelope; /* apply(state, event, es_event) */
} Apply;

/* Looking for an apply function. */
typedef struct ApplySearch
{
	EsAggregate *aggregate;
	const char *type;
	Oid			function;
	Oid			event_type;
	bool		takes_envelope;
	Oid			generic;		/* apply(state, es_event), the second choice */
} ApplySearch;

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

static const EsPlanSpec read_plan = {
	"SELECT " ES_EVENT_SELECT_LIST " FROM @store@.event"
	" WHERE stream OPERATOR(pg_catalog.=) $1 AND version OPERATOR(pg_catalog.>=) $2"
	" AND version OPERATOR(pg_catalog.<=) $3 ORDER BY version",
	3,
	{TEXTOID, INT8OID, INT8OID},
};

static void keep_state(EsFold *fold, Datum state);
static void copy_state(EsFold *fold, struct varlena *state);
static Apply *find_apply(EsAggregate *aggregate, const text *type);
static Apply *resolve_apply(EsAggregate *aggregate, const char *key, const char *type);
static bool visit_apply(Form_pg_proc function, void *arg);
static bool receive_row(TupleTableSlot *slot, DestReceiver *self);
static void start_rows(DestReceiver *self, int operation, TupleDesc tupdesc);
static void end_rows(DestReceiver *self);
static void apply_context(void *arg);

EsFold *
es_fold_begin(EsStore *store, EsAggregate *aggregate, text *stream)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing fold",
												  ALLOCSET_DEFAULT_SIZES);
	EsFold	   *fold = MemoryContextAllocZero(context, sizeof(EsFold));

	fold->store = store;
	fold->aggregate = aggregate;
	fold->stream = stream;
	fold->context = context;
	for (int i = 0; i < 2; i++)
		fold->object_contexts[i] = AllocSetContextCreate(context, "event_sourcing state",
														 ALLOCSET_SMALL_SIZES);
	fold->event_context = AllocSetContextCreate(context, "event_sourcing event",
												ALLOCSET_DEFAULT_SIZES);
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
	copy_state(fold, (struct varlena *) DatumGetPointer(state));
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
	Datum		values[3];

	receiver.pub.receiveSlot = receive_row;
	receiver.pub.rStartup = start_rows;
	receiver.pub.rShutdown = end_rows;
	receiver.pub.rDestroy = end_rows;
	receiver.pub.mydest = DestNone;
	receiver.fold = fold;
	receiver.verify = (fold->head.version > 0);
	receiver.context = error_context_stack;

	/* from the fold's own version on, to see that it is still there */
	values[0] = PointerGetDatum(fold->stream);
	values[1] = Int64GetDatum(Max(fold->head.version, 1));
	values[2] = Int64GetDatum(to_version);
	es_spi_stream(fold->store, &read_plan, values, NULL, &receiver.pub);

	/* no row at all: the log ends before it */
	return !receiver.mismatch && !receiver.verify;
}

void
es_fold_apply(EsFold *fold, const EsEvent *event, Oid record_type, Datum record)
{
	ErrorContextCallback context;
	ApplyContext context_arg = {fold, event};
	MemoryContext caller = MemoryContextSwitchTo(fold->event_context);
	Apply	   *apply;
	Datum		args[ES_ROUTINE_MAX_ARGS];
	bool		nulls[ES_ROUTINE_MAX_ARGS] = {false, false, false};
	Datum		state;
	bool		isnull;

	context.callback = apply_context;
	context.arg = &context_arg;
	context.previous = error_context_stack;
	error_context_stack = &context;

	apply = find_apply(fold->aggregate, DatumGetTextPP(event->values[ES_EVENT_TYPE]));
	args[0] = fold->state;
	if (apply->event_type == es_extension()->event.oid)
		args[1] = es_event_to_datum(event);
	else if (apply->event_type == record_type && es_composite_is_exact(es_composite(record_type)))
		args[1] = record;
	else
		args[1] = es_composite_from_jsonb(es_composite(apply->event_type),
										  DatumGetJsonbP(event->values[ES_EVENT_DATA]));
	if (apply->takes_envelope)
		args[2] = es_event_to_datum(event);

	state = es_routine_call(apply->routine, args, nulls, &isnull);
	if (isnull)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("function %s returned NULL instead of a state",
						es_routine_name(apply->routine)),
				 errhint("An apply function returns the next state, whatever the event has in it.")));
	keep_state(fold, state);
	fold->head.version = DatumGetInt64(event->values[ES_EVENT_VERSION]);
	fold->head.position = DatumGetInt64(event->values[ES_EVENT_POSITION]);

	error_context_stack = context.previous;
	MemoryContextSwitchTo(caller);
	MemoryContextReset(fold->event_context);
}

Datum
es_fold_state(EsFold *fold)
{
	return datumCopy(fold->state, false, -1);
}

/*
 * Make what an apply function returned the fold's state.
 *
 * An expanded object that was handed to a function read-write may be the
 * function's now, and gone with it; it is not to be looked at again.  Emptying
 * the context that it was in frees it where it is still there.
 */
static void
keep_state(EsFold *fold, Datum state)
{
	struct varlena *value = (struct varlena *) DatumGetPointer(state);

	if (!fold->expanded && state == fold->state)
		return;					/* the event changed nothing */
	if (VARATT_IS_EXTERNAL_EXPANDED_RW(value))
	{
		int			next = 1 - fold->place;

		fold->state = TransferExpandedObject(state, fold->object_contexts[next]);
		MemoryContextReset(fold->object_contexts[fold->place]);
		fold->place = next;
		fold->expanded = true;
		return;
	}
	copy_state(fold, value);
}

/* Copy a state, flat and untoasted, into the buffer that is not in use. */
static void
copy_state(EsFold *fold, struct varlena *state)
{
	int			next = 1 - fold->place;
	bool		expanded = VARATT_IS_EXTERNAL_EXPANDED(state);
	Size		size;

	if (!expanded && VARATT_IS_EXTENDED(state))
		state = detoast_attr(state);
	size = expanded ? EOH_get_flat_size(DatumGetEOHP(PointerGetDatum(state))) : VARSIZE(state);

	if (fold->buffer_sizes[next] < size)
	{
		if (fold->buffers[next])
			pfree(fold->buffers[next]);
		fold->buffer_sizes[next] = 0;
		fold->buffers[next] = MemoryContextAllocHuge(fold->context, size + size / 2);
		fold->buffer_sizes[next] = size + size / 2;
	}
	if (expanded)
		EOH_flatten_into(DatumGetEOHP(PointerGetDatum(state)), fold->buffers[next], size);
	else
		memcpy(fold->buffers[next], state, size);

	if (fold->expanded)
		MemoryContextReset(fold->object_contexts[fold->place]);
	fold->state = PointerGetDatum(fold->buffers[next]);
	fold->place = next;
	fold->expanded = false;
}

static Apply *
find_apply(EsAggregate *aggregate, const text *type)
{
	char		key[NAMEDATALEN] = {0};
	int			length = VARSIZE_ANY_EXHDR(type);
	Apply	   *apply = NULL;

	/* a name that is too long for a type can only have the generic form: one key for all */
	if (length < NAMEDATALEN)
		memcpy(key, VARDATA_ANY(type), length);
	if (aggregate->applies)
		apply = hash_search(aggregate->applies, key, HASH_FIND, NULL);
	return apply ? apply : resolve_apply(aggregate, key, text_to_cstring(type));
}

/* The function for a type of event, which is kept under the key. */
static Apply *
resolve_apply(EsAggregate *aggregate, const char *key, const char *type)
{
	ApplySearch search = {0};
	EsRoutine  *routine;
	Apply	   *apply;

	search.aggregate = aggregate;
	search.type = type;
	es_function_scan(aggregate->apply, visit_apply, &search);
	if (!OidIsValid(search.function) && OidIsValid(search.generic))
	{
		search.function = search.generic;
		search.event_type = es_extension()->event.oid;
	}
	if (!OidIsValid(search.function))
		ereport(ERROR,
				(errcode(ERRCODE_ES_UNKNOWN_EVENT),
				 errmsg("aggregate \"%s\" cannot apply event \"%s\"", aggregate->name, type),
				 errdetail("It has no apply function for it."),
				 aggregate->state_type == JSONBOID ?
					 errhint("Create function %s(jsonb, es_event).", aggregate->apply->name) :
					 errhint("Create function %s(%s, %s).", aggregate->apply->name,
							 format_type_be(aggregate->state_type), quote_identifier(type))));

	routine = es_routine(aggregate->context, search.function);
	if (es_routine_returns_set(routine) || es_routine_result_type(routine) != aggregate->state_type)
		ereport(ERROR,
				(errcode(ERRCODE_DATATYPE_MISMATCH),
				 errmsg("function %s must return %s", es_routine_name(routine),
						format_type_be(aggregate->state_type)),
				 errdetail("It is an apply function of aggregate \"%s\" and returns the next state.",
						   aggregate->name)));

	if (aggregate->applies == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = NAMEDATALEN;
		ctl.entrysize = sizeof(Apply);
		ctl.hcxt = aggregate->context;
		aggregate->applies = hash_create("event_sourcing apply functions", 32, &ctl,
										 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	apply = hash_search(aggregate->applies, key, HASH_ENTER, NULL);
	apply->routine = routine;
	apply->event_type = search.event_type;
	apply->takes_envelope = search.takes_envelope;
	return apply;
}

/* apply(state, event), apply(state, event, es_event), or apply(state, es_event) */
static bool
visit_apply(Form_pg_proc function, void *arg)
{
	ApplySearch *search = arg;
	Oid		   *argtypes = function->proargtypes.values;
	Oid			envelope = es_extension()->event.oid;

	if (function->pronargs < 2 || function->pronargs > 3 ||
		argtypes[0] != search->aggregate->state_type ||
		(function->pronargs == 3 && argtypes[2] != envelope))
		return false;
	if (argtypes[1] == envelope)
	{
		if (function->pronargs == 2 && !OidIsValid(search->generic))
			search->generic = function->oid;
		return false;
	}
	if (!es_composite_is_named(argtypes[1], search->type))
		return false;
	search->function = function->oid;
	search->event_type = argtypes[1];
	search->takes_envelope = (function->pronargs == 3);
	return true;
}

/* DestReceiver: one row of the stream. */
static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	FoldReceiver *receiver = (FoldReceiver *) self;
	EsFold	   *fold = receiver->fold;
	ErrorContextCallback *context = error_context_stack;
	EsEvent		event;

	es_event_from_slot(&event, slot);
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
	es_fold_apply(fold, &event, InvalidOid, (Datum) 0);
	if (fold->visit)
		fold->visit(fold, &event, fold->visit_arg);
	error_context_stack = context;
	return true;
}

static void
start_rows(DestReceiver *self, int operation, TupleDesc tupdesc)
{
}

static void
end_rows(DestReceiver *self)
{
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
