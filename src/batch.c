/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Batches: some events of the feed, handed to a subscription that the
 *		store runs itself.
 *
 * The owner of the definition reads the log: what he may not see, his handlers
 * do not get.  Handlers get events one by one, as they are read.  A set-based
 * projection's statement reads the log itself, by a range of positions; while
 * some streams are held back, it gets a set without these.
 *
 * A batch ends early after an event whose handler has appended something: it
 * holds stream locks then, and the high-water mark back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "append.h"
#include "attempt.h"
#include "batch.h"
#include "guc.h"
#include "handling.h"
#include "log.h"
#include "process_manager.h"
#include "projection.h"
#include "row_receiver.h"
#include "run_as.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* A batch of single events ends after this time, so that nobody waits for its locks. */
#define LONGEST_BATCH_US	500000

/* A batch has at most so many events, handled one by one or as a set, and reads so many. */
#define MAX_SINGLE_EVENTS	10000
#define MAX_SET_EVENTS		1000000
#define MAX_READ			100000

/* Receives the events of a batch. */
typedef struct BatchReceiver
{
	DestReceiver pub;
	EsBatch    *batch;
	EsProjection *projection;	/* NULL: it is something else */
	MemoryContext result_context;
	MemoryContext event_context;
	Tuplestorestate *rows;		/* of a set; NULL: events are handled one by one */
	int64		read;
	uint64		appends;
	TimestampTz deadline;
	ErrorContextCallback *error_context;	/* of the caller */
} BatchReceiver;

/* Receives the position of one event. */
typedef struct PositionReceiver
{
	DestReceiver pub;
	int64		position;
} PositionReceiver;

/* What an error in a handler is reported with. */
typedef struct HandlerContext
{
	EsSubscription *subscription;
	const EsEvent *event;
} HandlerContext;

static void run_body(void *arg);
static void run_set(EsBatch *batch, EsProjection *projection);
static int64 first_position(EsStore *store, int64 after, int64 upto);
static bool receive_position(TupleTableSlot *slot, DestReceiver *self);
static void run_events(EsBatch *batch, EsProjection *projection);
static bool receive_event(TupleTableSlot *slot, DestReceiver *self);
static bool wants(BatchReceiver *receiver, const EsEvent *event);
static void require_handlers(BatchReceiver *receiver);
static void handle_event(BatchReceiver *receiver, const EsEvent *event);
static void call_handler(EsBatch *batch, const EsEvent *event);
static void keep_waiting(BatchReceiver *receiver, const EsEvent *event);
static void handler_context(void *arg);

bool
es_batch_run(EsBatch *batch)
{
	EsAttempt	attempt = {0};
	bool		done;

	batch->events = 0;
	batch->last_read = batch->after;
	batch->more = false;
	batch->waiting = NIL;
	batch->failed_position = 0;
	batch->set_events = 0;
	batch->error = NULL;

	attempt.timeout_ms = es_handler_timeout_ms;
	attempt.foreground = batch->foreground;
	done = es_attempt(&attempt, run_body, batch);
	if (!done)
	{
		batch->error = attempt.error;
		batch->canceled = attempt.canceled;
		batch->transient = attempt.transient;
	}
	return done;
}

static void
run_body(void *arg)
{
	EsBatch    *batch = arg;
	EsSubscription *subscription = batch->subscription;
	EsProjection *projection = NULL;
	EsRunAs		run_as;
	int			nestlevel;

	/* in here, since it may fail: the role may be gone */
	es_run_as_begin(&run_as, es_run_as_definition_owner(batch->store, subscription->owner));
	if (subscription->kind == ES_SUBSCRIPTION_PROJECTION)
	{
		projection = es_projection_by_name(batch->store, subscription->name);
		if (strcmp(projection->owner, subscription->owner) != 0)
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("projection \"%s\" belongs to role \"%s\", its subscription to role \"%s\"",
							projection->name, projection->owner, subscription->owner),
					 errhint("Drop it and define it again.")));
	}

	/* once for all events: where it is in force already, entering it costs nothing */
	nestlevel = es_search_path_enter(projection ? projection->path : subscription->path);
	PushActiveSnapshot(GetLatestSnapshot());
	if (projection && projection->query && (batch->held == NULL || batch->held->streams == NULL))
		run_set(batch, projection);
	else
		run_events(batch, projection);
	PopActiveSnapshot();
	es_search_path_leave(nestlevel);
	es_run_as_end(&run_as);
}

/* Let a set-based projection's statement read a range of the log. */
static void
run_set(EsBatch *batch, EsProjection *projection)
{
	int64		first = first_position(batch->store, batch->after, batch->upto);
	int64		last = batch->upto;

	if (first == 0)
		return;
	if (last - first >= Min(batch->max_events, MAX_SET_EVENTS))
	{
		last = first + Min(batch->max_events, MAX_SET_EVENTS) - 1;
		batch->more = true;
	}
	last = es_log_position_at_or_before(batch->store, last, GetActiveSnapshot());
	batch->set_last = last;
	batch->set_events = es_projection_count_log(batch->store, projection, batch->after, last,
												&batch->set_first);
	if (batch->set_events == 1)
		batch->failed_position = batch->set_first;
	if (batch->set_events > 0)
		es_projection_query_log(batch->store, projection, batch->after, last);
	batch->failed_position = 0;
	batch->events = batch->set_events;
	batch->last_read = last;
}

/* The position of the first event of a range, 0 when it is empty. */
static int64
first_position(EsStore *store, int64 after, int64 upto)
{
	PositionReceiver receiver = {0};
	EsLogRange	range = {after + 1, upto, 1, false};

	es_row_receiver_init(&receiver.pub, receive_position);
	es_log_read_feed(store, &range, NULL, NULL, &receiver.pub);
	return receiver.position;
}

static bool
receive_position(TupleTableSlot *slot, DestReceiver *self)
{
	bool		isnull;

	((PositionReceiver *) self)->position =
		DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
	return false;
}

static void
run_events(EsBatch *batch, EsProjection *projection)
{
	BatchReceiver receiver = {0};
	EsLogRange	range = {batch->after + 1, batch->upto, PG_INT64_MAX, false};

	es_row_receiver_init(&receiver.pub, receive_event);
	receiver.batch = batch;
	receiver.projection = projection;
	receiver.result_context = CurrentMemoryContext;
	receiver.event_context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing batch",
												   ALLOCSET_DEFAULT_SIZES);
	receiver.appends = es_append_count();
	receiver.deadline = GetCurrentTimestamp() + LONGEST_BATCH_US;
	receiver.error_context = error_context_stack;
	if (projection && projection->query)
		receiver.rows = tuplestore_begin_heap(true, false, work_mem);

	es_log_read_feed(batch->store, &range, NULL, NULL, &receiver.pub);
	if (receiver.rows)
	{
		if (batch->set_events == 1)
			batch->failed_position = batch->set_first;
		if (batch->set_events > 0)
			es_projection_query(projection, receiver.rows);
		batch->failed_position = 0;
		batch->events = batch->set_events;
		tuplestore_end(receiver.rows);
	}
	MemoryContextDelete(receiver.event_context);
}

static bool
receive_event(TupleTableSlot *slot, DestReceiver *self)
{
	BatchReceiver *receiver = (BatchReceiver *) self;
	EsBatch    *batch = receiver->batch;
	MemoryContext caller;
	int64		position;
	EsEvent		event;

	es_event_start_from_slot(&event, slot, ES_EVENT_TYPE + 1);
	position = DatumGetInt64(event.values[ES_EVENT_POSITION]);
	if (batch->events + batch->set_events >= Min(batch->max_events, MAX_SINGLE_EVENTS) ||
		receiver->read >= MAX_READ)
	{
		batch->more = true;
		return false;
	}
	receiver->read++;

	caller = MemoryContextSwitchTo(receiver->event_context);
	if (!wants(receiver, &event))
		batch->last_read = position;
	else if (batch->held &&
			 es_parked_is_held(batch->held, DatumGetTextPP(event.values[ES_EVENT_STREAM])))
	{
		keep_waiting(receiver, &event);
		batch->last_read = position;
	}
	else if (receiver->rows)
	{
		if (batch->set_events++ == 0)
			batch->set_first = position;
		batch->set_last = position;
		batch->last_read = position;
		tuplestore_puttupleslot(receiver->rows, slot);
	}
	else
	{
		es_event_from_slot(&event, slot);
		require_handlers(receiver);
		batch->failed_position = position;
		handle_event(receiver, &event);
		batch->failed_position = 0;
		batch->events++;
		batch->last_read = position;
		if (es_append_count() != receiver->appends || GetCurrentTimestamp() > receiver->deadline)
			batch->more = true;
	}
	MemoryContextSwitchTo(caller);
	MemoryContextReset(receiver->event_context);
	return !batch->more;
}

static bool
wants(BatchReceiver *receiver, const EsEvent *event)
{
	EsBatch    *batch = receiver->batch;

	return es_subscription_wants(batch->subscription, receiver->projection, batch->partition,
								 DatumGetTextPP(event->values[ES_EVENT_TYPE]),
								 DatumGetTextPP(event->values[ES_EVENT_STREAM]));
}

/* That they are gone is no event's fault. */
static void
require_handlers(BatchReceiver *receiver)
{
	EsOverloads *handlers = receiver->projection ? &receiver->projection->handlers :
												   &receiver->batch->subscription->handlers;

	if (!es_overload_exists(handlers))
		es_overload_require(handlers);
}

static void
handle_event(BatchReceiver *receiver, const EsEvent *event)
{
	EsBatch    *batch = receiver->batch;
	ErrorContextCallback *context = error_context_stack;
	int			nestlevel = NewGUCNestLevel();

	/* that the log is being read says nothing to a user */
	error_context_stack = receiver->error_context;
	if (receiver->projection)
		es_projection_handle(receiver->projection, event);
	else
	{
		ErrorContextCallback callback;
		HandlerContext arg = {batch->subscription, event};

		callback.callback = handler_context;
		callback.arg = &arg;
		callback.previous = error_context_stack;
		error_context_stack = &callback;
		call_handler(batch, event);
	}
	error_context_stack = context;

	es_attempt_check_time();

	/* what a handler has set, even with a plain SET, is not for the next event's */
	AtEOXact_GUC(false, nestlevel);
}

/* An event handler's or a process manager's functions. */
static void
call_handler(EsBatch *batch, const EsEvent *event)
{
	EsSubscription *subscription = batch->subscription;
	int			nestlevel = es_search_path_enter(subscription->path);
	EsHandling	handling;
	EsOverload *handler;
	bool		isnull;

	/* what it causes is correlated with the event, and if nothing else is, by its id */
	handling.causation_id = DatumGetUUIDP(event->values[ES_EVENT_ID]);
	handling.correlation_id = event->nulls[ES_EVENT_CORRELATION_ID] ?
		handling.causation_id :
		DatumGetUUIDP(event->values[ES_EVENT_CORRELATION_ID]);
	es_handling_begin(&handling);
	PG_TRY();
	{
		if (subscription->kind == ES_SUBSCRIPTION_PROCESS_MANAGER)
			es_process_manager_handle(batch->store, subscription, event);
		else
		{
			handler = es_overload(&subscription->handlers,
								  DatumGetTextPP(event->values[ES_EVENT_TYPE]));
			(void) es_overload_call(handler, (Datum) 0, event, &isnull);
		}
	}
	PG_FINALLY();
	{
		es_handling_end(&handling);
	}
	PG_END_TRY();
	es_search_path_leave(nestlevel);
}

/* Remember an event that must wait, with what its row in parked_event says. */
static void
keep_waiting(BatchReceiver *receiver, const EsEvent *event)
{
	EsBatch    *batch = receiver->batch;
	MemoryContext caller = MemoryContextSwitchTo(receiver->result_context);
	EsEvent    *copy = palloc0(sizeof(EsEvent));

	copy->values[ES_EVENT_POSITION] = event->values[ES_EVENT_POSITION];
	copy->values[ES_EVENT_VERSION] = event->values[ES_EVENT_VERSION];
	copy->values[ES_EVENT_STREAM] =
		PointerGetDatum(DatumGetTextPCopy(event->values[ES_EVENT_STREAM]));
	copy->values[ES_EVENT_TYPE] = PointerGetDatum(DatumGetTextPCopy(event->values[ES_EVENT_TYPE]));
	batch->waiting = lappend(batch->waiting, copy);
	MemoryContextSwitchTo(caller);
}

static void
handler_context(void *arg)
{
	HandlerContext *context = arg;

	errcontext("handling event %lld (\"%s\") of stream \"%s\" in %s \"%s\"",
			   (long long) DatumGetInt64(context->event->values[ES_EVENT_VERSION]),
			   text_to_cstring(DatumGetTextPP(context->event->values[ES_EVENT_TYPE])),
			   text_to_cstring(DatumGetTextPP(context->event->values[ES_EVENT_STREAM])),
			   es_subscription_kind(context->subscription), context->subscription->name);
}
