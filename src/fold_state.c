/*-------------------------------------------------------------------------
 *
 * fold_state.c
 *		The state of an aggregate while it is being folded.
 *
 * A new state may be made of pieces of the old one and of the event, whose
 * memory is emptied after it.  So whatever a function returns is copied to
 * where the state is not at the moment: there are two places for a whole
 * value, and two for each field.
 *
 * An expanded object that a function returned is not copied but taken over,
 * and handed to the next call read-write: a PL/pgSQL function goes on with its
 * record, and a field that is an array grows in place, instead of being copied
 * with every event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "composite.h"
#include "fold_state.h"
#include "funcapi.h"
#include "utils/datum.h"
#include "utils/expandeddatum.h"
#include "utils/memutils.h"

static void copy_value(EsFoldState *state, struct varlena *value);
static void spread_fields(EsFoldState *state);
static void gather_fields(EsFoldState *state);
static Datum keep_field(EsFoldState *state, int field, Datum value);
static Datum copy_field(EsFoldState *state, EsFieldStore *store, Datum value, int16 length);
static void drop_objects(EsFoldState *state);
static char *room(MemoryContext context, char **buffer, Size *capacity, Size size);

void
es_fold_state_init(EsFoldState *state, TupleDesc tupdesc, MemoryContext event_context)
{
	memset(state, 0, sizeof(EsFoldState));
	state->context = CurrentMemoryContext;
	state->event_context = event_context;
	state->tupdesc = tupdesc;
	for (int i = 0; i < 2; i++)
		state->object_contexts[i] = AllocSetContextCreate(CurrentMemoryContext,
														  "event_sourcing state",
														  ALLOCSET_SMALL_SIZES);
}

void
es_fold_state_set(EsFoldState *state, Datum value)
{
	drop_objects(state);
	copy_value(state, (struct varlena *) DatumGetPointer(value));
}

Datum
es_fold_state_value(EsFoldState *state)
{
	if (state->form == ES_STATE_FIELDS)
		gather_fields(state);
	return state->value;
}

Datum
es_fold_state_copy(EsFoldState *state)
{
	if (state->form == ES_STATE_FIELDS && state->tupdesc)
		return HeapTupleGetDatum(heap_form_tuple(state->tupdesc, state->values, state->nulls));
	if (state->form == ES_STATE_FIELDS)
		return datumCopy(state->values[0], false, -1);
	return datumCopy(state->value, false, -1);
}

/*
 * An expanded object that was handed to a function read-write may be the
 * function's now, and gone with it; it is not to be looked at again.  Emptying
 * the context that it was in frees it where it is still there.
 */
void
es_fold_state_keep(EsFoldState *state, Datum value)
{
	if (state->form == ES_STATE_FLAT && value == state->value)
		return;					/* the event changed nothing */
	if (VARATT_IS_EXTERNAL_EXPANDED_RW(DatumGetPointer(value)))
	{
		int			next = 1 - state->place;

		state->value = TransferExpandedObject(value, state->object_contexts[next]);
		MemoryContextReset(state->object_contexts[state->place]);
		state->place = next;
		state->form = ES_STATE_EXPANDED;
		return;
	}
	copy_value(state, (struct varlena *) DatumGetPointer(value));
}

void
es_fold_state_to_call(EsFoldState *state, EsFieldCall *call)
{
	TupleTableSlot *slot = call->args[0];

	if (state->form != ES_STATE_FIELDS)
		spread_fields(state);
	for (int i = 0; i < state->nfields; i++)
	{
		slot->tts_values[i] = state->values[i];
		slot->tts_isnull[i] = state->nulls[i];

		/* who reads it twice must find it unchanged the second time */
		if (state->stores[i].expanded && call->uses[0][i] > 1)
			slot->tts_values[i] = MakeExpandedObjectReadOnlyInternal(state->values[i]);
	}
}

void
es_fold_state_from_call(EsFoldState *state, EsFieldCall *call)
{
	TupleTableSlot *slot = call->result;

	Assert(state->form == ES_STATE_FIELDS);
	for (int i = 0; i < state->nfields; i++)
	{
		if (slot->tts_isnull[i])
			state->stores[i].expanded = false;
		else
			state->values[i] = keep_field(state, i, slot->tts_values[i]);
		state->nulls[i] = slot->tts_isnull[i];
	}

	/* only now: other fields may have been made of pieces of them */
	for (int i = 0; i < state->nfields; i++)
	{
		EsFieldStore *store = &state->stores[i];

		for (int place = 0; place < 2; place++)
			if (store->objects[place] && !(store->expanded && place == store->place))
				MemoryContextReset(store->objects[place]);
	}
}

/* Copy a value, flat and untoasted, into the buffer that is not in use. */
static void
copy_value(EsFoldState *state, struct varlena *value)
{
	int			next = 1 - state->place;
	bool		expanded = VARATT_IS_EXTERNAL_EXPANDED(value);
	Size		size;
	char	   *buffer;

	if (!expanded && VARATT_IS_EXTENDED(value))
		value = detoast_attr(value);
	size = expanded ? EOH_get_flat_size(DatumGetEOHP(PointerGetDatum(value))) : VARSIZE(value);

	buffer = room(state->context, &state->buffers[next], &state->buffer_sizes[next], size);
	if (expanded)
		EOH_flatten_into(DatumGetEOHP(PointerGetDatum(value)), buffer, size);
	else
		memcpy(buffer, value, size);

	if (state->form == ES_STATE_EXPANDED)
		MemoryContextReset(state->object_contexts[state->place]);
	state->value = PointerGetDatum(buffer);
	state->place = next;
	state->form = ES_STATE_FLAT;
}

/* Take the value apart; the fields point into it. */
static void
spread_fields(EsFoldState *state)
{
	if (state->form == ES_STATE_EXPANDED)
		copy_value(state, (struct varlena *) DatumGetPointer(state->value));
	if (state->stores == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(state->context);

		state->nfields = state->tupdesc ? state->tupdesc->natts : 1;
		state->values = palloc0(state->nfields * sizeof(Datum));
		state->nulls = palloc0(state->nfields * sizeof(bool));
		state->stores = palloc0(state->nfields * sizeof(EsFieldStore));
		MemoryContextSwitchTo(caller);
	}
	if (state->tupdesc)
		es_composite_deform(state->value, state->tupdesc, state->values, state->nulls);
	else
	{
		state->values[0] = state->value;
		state->nulls[0] = false;
	}
	state->form = ES_STATE_FIELDS;
}

/* Make one value of the fields. */
static void
gather_fields(EsFoldState *state)
{
	MemoryContext caller = MemoryContextSwitchTo(state->event_context);
	Datum		value = es_fold_state_copy(state);

	copy_value(state, (struct varlena *) DatumGetPointer(value));
	drop_objects(state);
	MemoryContextSwitchTo(caller);
}

/*
 * Keep a field's new value, which is not NULL.  As with a whole state, an
 * object that was handed to a function read-write may be gone, and its place in
 * memory be another one's: only what it hangs on tells whose an object is.
 */
static Datum
keep_field(EsFoldState *state, int field, Datum value)
{
	EsFieldStore *store = &state->stores[field];
	Form_pg_attribute attr = state->tupdesc ? TupleDescAttr(state->tupdesc, field) : NULL;
	int16		length = attr ? attr->attlen : -1;
	struct varlena *varlena = (struct varlena *) DatumGetPointer(value);

	if (attr && attr->attbyval)
		return value;
	if (length == -1 && VARATT_IS_EXTERNAL_EXPANDED(varlena))
	{
		ExpandedObjectHeader *object = DatumGetEOHP(value);
		MemoryContext owner = MemoryContextGetParent(object->eoh_context);

		if (store->expanded && owner == store->objects[store->place])
			return EOHPGetRWDatum(object);	/* the field's own, perhaps grown */
		if (owner == state->event_context)
		{
			store->place = 1 - store->place;
			if (store->objects[store->place] == NULL)
				store->objects[store->place] = AllocSetContextCreate(state->context,
																	 "event_sourcing field",
																	 ALLOCSET_SMALL_SIZES);
			MemoryContextSetParent(object->eoh_context, store->objects[store->place]);
			store->expanded = true;
			return EOHPGetRWDatum(object);
		}
	}
	else if (!store->expanded && !state->nulls[field] && value == state->values[field])
		return value;			/* the event changed nothing */
	else if (length == -1 && (VARATT_IS_EXTERNAL(varlena) || VARATT_IS_COMPRESSED(varlena)))
		value = PointerGetDatum(detoast_attr(varlena));
	return copy_field(state, store, value, length);
}

/* Copy a value into the field's buffer that is not in use. */
static Datum
copy_field(EsFoldState *state, EsFieldStore *store, Datum value, int16 length)
{
	int			next = 1 - store->place;
	bool		expanded = length == -1 && VARATT_IS_EXTERNAL_EXPANDED(DatumGetPointer(value));
	Size		size = expanded ? EOH_get_flat_size(DatumGetEOHP(value)) :
						   datumGetSize(value, false, length);
	char	   *buffer = room(state->context, &store->buffers[next], &store->sizes[next], size);

	if (expanded)
		EOH_flatten_into(DatumGetEOHP(value), buffer, size);
	else
		memcpy(buffer, DatumGetPointer(value), size);
	store->place = next;
	store->expanded = false;
	return PointerGetDatum(buffer);
}

static void
drop_objects(EsFoldState *state)
{
	for (int i = 0; i < state->nfields; i++)
	{
		EsFieldStore *store = &state->stores[i];

		for (int place = 0; place < 2; place++)
			if (store->objects[place])
				MemoryContextReset(store->objects[place]);
		store->expanded = false;
	}
}

/* A buffer that has room for size bytes; what was in it is lost when it grows. */
static char *
room(MemoryContext context, char **buffer, Size *capacity, Size size)
{
	if (*capacity < size)
	{
		if (*buffer)
			pfree(*buffer);
		*buffer = NULL;
		*capacity = 0;
		*buffer = MemoryContextAllocHuge(context, size + size / 2);
		*capacity = size + size / 2;
	}
	return *buffer;
}
