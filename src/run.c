/*-------------------------------------------------------------------------
 *
 * run.c
 *		Running what a store has to do: subscriptions and schedules.
 *
 * Workers and es_run() do the same, step by step; a step is one batch of one
 * partition.  What a batch does, and the checkpoint that goes with it, are one
 * transaction: each event takes effect once.
 *
 * Failures.  A batch that fails is undone and made smaller, until it ends before
 * the culprit, which is then alone in the next one.  Its failures are counted in
 * the checkpoint; between two attempts the partition waits.  After max_retries
 * its stream is parked, or the event is skipped, or the partition is stopped, as
 * the definition says.
 *
 * Whoever runs a partition holds its lock to the end of the transaction, so that
 * any number of workers may look for work; what one is at, the others leave to
 * him.  The store's tables are read and written as their owner, the log is read
 * and handlers run as the owner of the definition (run_as.c, batch.c).
 *
 * Between two steps a runner remembers for each partition how far there is
 * nothing for it, so that events that nobody wants cost one look at their type
 * and stream for all subscriptions together, and no write.  That is written down
 * late (es_runner_flush()).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "batch.h"
#include "checkpoint.h"
#include "executor/spi.h"
#include "feed.h"
#include "log.h"
#include "parked_event.h"
#include "replica.h"
#include "row_receiver.h"
#include "run.h"
#include "run_as.h"
#include "schedule.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "worker_slot.h"

/* A partition that somebody else is at is looked at again after this time. */
#define LOOK_AGAIN_US	1000000

/* Schedules are looked for no more often than this, unless one is known to be due. */
#define SCHEDULE_LOOK_US	20000

/* One look for work reads at most this many events. */
#define MAX_SCAN		10000

/* Replays this many parked events in a step. */
#define MAX_REPLAY		100

/* A deadlock and the like is no event's fault: it is tried at least so often. */
#define TRANSIENT_RETRIES 10

/* What is no event's fault does not end by parking, so es_run() must not try it for ever. */
#define SHORTEST_DELAY_MS 100

typedef struct UnitKey
{
	int64		subscription;	/* id */
	int64		partition;
} UnitKey;

/* A partition of a subscription, as a runner knows it. */
typedef struct Unit
{
	UnitKey		key;			/* hash key */
	bool		defined;		/* still */
	bool		idle;			/* paused or stopped, until a definition changes */
	bool		has_work;		/* or it is not known */
	TimestampTz look_again;		/* not before; 0: at any time */
	uint64		busy_step;		/* the step that found somebody else at it */
	int64		scanned_to;		/* nothing for it from its checkpoint up to here */
	int64		written;		/* position in its checkpoint, as far as known */
	uint64		turn;			/* when it was run last */
	int64		resets;			/* of its subscription, as of what is known here */

	/* during a scan */
	EsSubscription *subscription;
	EsProjection *projection;
	bool		wants_type;		/* some events of the last one's type */
} Unit;

struct EsRunner
{
	MemoryContext context;
	Oid			schema;
	bool		foreground;
	TimestampTz started;
	bool		events_first;	/* the last step dispatched a scheduled command */
	uint64		serial;			/* of the definitions that units were made of */
	HTAB	   *units;
	uint64		turns;
	uint64		steps;
	TimestampTz next_schedule;	/* 0: there is none */
	TimestampTz schedule_looked;	/* when that was found out; 0: never */
	bool		events_come;	/* the last look for work has read some */
	bool		alert;			/* es_runner_alert() was called */
	int64		alert_position; /* nothing was drawn beyond this by then */
};

/* Looks which units want the events of a range. */
typedef struct ScanReceiver
{
	DestReceiver pub;
	Oid			schema;
	Unit	  **units;
	int			nunits;
	Unit	  **others;			/* that are not scanned for, but may want an event later */
	int			nothers;
	EsEventKind kind;			/* of the last event, in a worker */
	int64		read;
	int64		last_read;
	int			type_length;	/* of the last event */
	char		type[ES_STREAM_NAME_MAX];
	int			nwanting;		/* units that want events of it */
} ScanReceiver;

/* Receives one event. */
typedef struct OneReceiver
{
	DestReceiver pub;
	EsEvent    *event;
	bool		found;
	MemoryContext context;
} OneReceiver;

static void run_step(EsRunner *runner, int64 max_events, EsRunStep *step);
static void run_schedules(EsRunner *runner, EsStore *store, TimestampTz now, EsRunStep *step);
static void run_units(EsRunner *runner, EsStore *store, TimestampTz now, int64 max_events,
					  EsRunStep *step);
static void begin_running(void);
static void require_read_committed(void);
static void refresh_units(EsRunner *runner, EsStore *store);
static void refresh_unit(EsRunner *runner, EsSubscription *subscription, int partition);
static Unit *next_unit(EsRunner *runner, TimestampTz now, bool *more);
static void find_unit(EsStore *store, Unit *unit);
static bool lock_unit(EsRunner *runner, EsStore *store, Unit *unit);
static bool scan_for_work(EsRunner *runner, EsStore *store, bool *capped, bool *settled);
static bool receive_scan(TupleTableSlot *slot, DestReceiver *self);
static void tell_if_unwanted(ScanReceiver *receiver, const text *type, const text *stream);
static bool wants_kind(const Unit *unit, const text *type, const text *stream);
static bool is_last_type(const ScanReceiver *receiver, const text *type);
static void find_wanting(ScanReceiver *receiver, const text *type);
static bool is_broken(const Unit *unit);
static TimestampTz next_look(EsRunner *runner);
static bool run_unit(EsRunner *runner, EsStore *store, Unit *unit, int64 max_events,
					 EsRunStep *step);
static bool run_partition(EsRunner *runner, EsStore *store, EsSubscription *subscription,
						  Unit *unit, int64 max_events, EsRunStep *step);
static bool replay_some(EsStore *store, EsSubscription *subscription, int partition,
						bool foreground, int64 max_events, int64 *events);
static bool run_narrowed(EsBatch *batch);
static bool narrow(EsBatch *batch);
static bool has_waiting_before(const EsBatch *batch, int64 position);
static void park_waiting(EsBatch *batch);
static void note_failure(EsBatch *batch, EsCheckpoint *checkpoint);
static bool note_success(EsBatch *batch, EsCheckpoint *checkpoint);
static void put_aside(EsBatch *batch, EsCheckpoint *checkpoint, const char *message);
static bool read_one(EsStore *store, int64 position, EsEvent *event);
static bool receive_one(TupleTableSlot *slot, DestReceiver *self);
static char *failure_message(const ErrorData *error);

static bool running = false;	/* we are in es_runner_step() or es_run_replay() */
static const EsSubscription *running_subscription = NULL;	/* whose handlers run */

PG_FUNCTION_INFO_V1(es_run);

/* es_run(max_events bigint) returns bigint */
Datum
es_run(PG_FUNCTION_ARGS)
{
	int64		max_events = PG_ARGISNULL(0) ? PG_INT64_MAX : PG_GETARG_INT64(0);
	EsRunner   *runner;
	int64		events = 0;
	EsRunStep	step;

	if (max_events < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_events must not be negative")));
	require_read_committed();
	runner = es_runner(CurrentMemoryContext, es_store_current()->schema, true);
	while (events < max_events)
	{
		CHECK_FOR_INTERRUPTS();
		es_runner_step(runner, max_events - events, &step);
		if (!step.worked)
			break;
		events += step.events;
	}
	(void) es_runner_flush(runner);
	MemoryContextDelete(runner->context);
	PG_RETURN_INT64(events);
}

EsRunner *
es_runner(MemoryContext parent, Oid schema, bool foreground)
{
	MemoryContext context = AllocSetContextCreate(parent, "event_sourcing runner",
												  ALLOCSET_DEFAULT_SIZES);
	EsRunner   *runner = MemoryContextAllocZero(context, sizeof(EsRunner));
	HASHCTL		ctl = {0};

	runner->context = context;
	runner->schema = schema;
	runner->foreground = foreground;
	runner->started = GetCurrentTimestamp();
	runner->alert = true;
	ctl.keysize = sizeof(UnitKey);
	ctl.entrysize = sizeof(Unit);
	ctl.hcxt = context;
	runner->units = hash_create("event_sourcing units", 64, &ctl,
								HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	return runner;
}

void
es_runner_step(EsRunner *runner, int64 max_events, EsRunStep *step)
{
	begin_running();
	PG_TRY();
	{
		run_step(runner, max_events, step);
	}
	PG_FINALLY();
	{
		running = false;
		running_subscription = NULL;
	}
	PG_END_TRY();
}

static void
run_step(EsRunner *runner, int64 max_events, EsRunStep *step)
{
	EsStore    *store = es_store_of_schema(runner->schema);
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next_unit_time;
	bool		events_first = runner->events_first;

	memset(step, 0, sizeof(*step));
	runner->events_first = false;
	runner->steps++;
	if (max_events == 0)
		max_events = PG_INT64_MAX;
	require_read_committed();
	if (runner->foreground)
		es_replica_forbid(store, "run subscriptions of");
	else if (es_replica_is(store))
	{
		step->settled = true;	/* until es_upgrade_store() wakes us */
		return;
	}
	SPI_connect();
	refresh_units(runner, store);

	/* a command that is due again at once must not keep the events waiting */
	if (events_first)
		run_units(runner, store, now, max_events, step);
	if (!step->worked)
		run_schedules(runner, store, now, step);
	if (!step->worked && !events_first)
		run_units(runner, store, now, max_events, step);

	next_unit_time = next_look(runner);
	if (next_unit_time != 0 && (step->next_time == 0 || next_unit_time < step->next_time))
		step->next_time = next_unit_time;
	SPI_finish();
}

/* Dispatch a scheduled command that is due. */
static void
run_schedules(EsRunner *runner, EsStore *store, TimestampTz now, EsRunStep *step)
{
	TimestampTz recur_until = runner->foreground ? runner->started : DT_NOEND;
	bool		dispatched;

	/* while events come all the time, it is not asked about each time, but soon again */
	if (runner->events_come && !runner->foreground &&
		now < runner->schedule_looked + SCHEDULE_LOOK_US &&
		(runner->next_schedule == 0 || runner->next_schedule > now))
	{
		step->next_time = runner->schedule_looked + SCHEDULE_LOOK_US;
		return;
	}
	if (es_schedule_run_due(store, runner->foreground, recur_until, &dispatched,
							&runner->next_schedule))
	{
		step->worked = true;
		step->more = true;
		step->events = dispatched ? 1 : 0;
		runner->events_first = true;
		runner->schedule_looked = 0;
	}
	else
		runner->schedule_looked = now;
	step->next_time = runner->next_schedule;
}

/* Run a batch of a unit that has work. */
static void
run_units(EsRunner *runner, EsStore *store, TimestampTz now, int64 max_events, EsRunStep *step)
{
	Unit	   *unit;
	bool		capped;

	while (!step->worked)
	{
		while (!step->worked && (unit = next_unit(runner, now, &step->more)) != NULL)
			step->worked = run_unit(runner, store, unit, max_events, step);
		if (step->worked)
			break;
		if (!scan_for_work(runner, store, &capped, &step->settled))
		{
			step->worked = capped;
			break;
		}
	}
}

void
es_runner_alert(EsRunner *runner)
{
	runner->alert = true;
}

void
es_run_replay(EsStore *store, EsSubscription *subscription)
{
	int64		events = 0;

	begin_running();
	PG_TRY();
	{
		for (int i = 0; i < subscription->partitions; i++)
			while (replay_some(store, subscription, i, true, PG_INT64_MAX, &events))
				CHECK_FOR_INTERRUPTS();
	}
	PG_FINALLY();
	{
		running = false;
		running_subscription = NULL;
	}
	PG_END_TRY();
}

bool
es_run_is_at(const EsSubscription *subscription)
{
	return running_subscription && running_subscription->id == subscription->id &&
		strcmp(running_subscription->name, subscription->name) == 0;
}

bool
es_runner_is_dirty(EsRunner *runner)
{
	HASH_SEQ_STATUS scan;
	Unit	   *unit;
	bool		dirty = false;

	hash_seq_init(&scan, runner->units);
	while ((unit = hash_seq_search(&scan)) != NULL)
		if (unit->defined && !unit->idle && unit->scanned_to > unit->written)
			dirty = true;
	return dirty;
}

bool
es_runner_flush(EsRunner *runner)
{
	EsStore    *store = es_store_of_schema(runner->schema);
	HASH_SEQ_STATUS scan;
	EsRunAs		run_as;
	Unit	   *unit;
	List	   *units = NIL;
	ListCell   *cell;

	SPI_connect();
	refresh_units(runner, store);
	hash_seq_init(&scan, runner->units);
	while ((unit = hash_seq_search(&scan)) != NULL)
		if (unit->defined && !unit->idle && unit->scanned_to > unit->written)
			units = lappend(units, unit);

	foreach(cell, units)
	{
		EsCheckpoint checkpoint;

		unit = lfirst(cell);
		find_unit(store, unit);
		if (unit->subscription == NULL ||
			!lock_unit(runner, store, unit))
			continue;
		es_run_as_begin(&run_as, es_run_as_store_owner(store));
		es_checkpoint_read(store, unit->subscription, (int) unit->key.partition, &checkpoint);
		if (checkpoint.position < unit->scanned_to && !checkpoint.stopped &&
			checkpoint.failed_position == 0)
		{
			checkpoint.position = unit->scanned_to;
			es_checkpoint_write(store, unit->subscription, &checkpoint);
		}
		es_run_as_end(&run_as);
		unit->written = Max(checkpoint.position, unit->scanned_to);
	}
	SPI_finish();
	return units != NIL;
}

/* Within a run the locks and rows that keep others away are our own. */
static void
begin_running(void)
{
	if (running)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot run subscriptions within a handler"),
				 errhint("What a handler causes is handled after it, without its doing.")));
	running = true;
}

/* A checkpoint that somebody else moved meanwhile could not be moved any more. */
static void
require_read_committed(void)
{
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot run subscriptions in this isolation level"),
				 errhint("Use a transaction in READ COMMITTED.")));
}

/* Bring the units in line with the definitions; after any change all are looked at again. */
static void
refresh_units(EsRunner *runner, EsStore *store)
{
	uint64		serial = es_subscriptions_serial(store);
	HASH_SEQ_STATUS scan;
	Unit	   *unit;
	ListCell   *cell;

	if (serial == runner->serial)
		return;
	es_worker_slot_forget_unwanted();
	hash_seq_init(&scan, runner->units);
	while ((unit = hash_seq_search(&scan)) != NULL)
		unit->defined = false;
	foreach(cell, es_subscriptions(store))
	{
		EsSubscription *subscription = lfirst(cell);

		if (subscription->kind == ES_SUBSCRIPTION_EXTERNAL)
			continue;
		for (int i = 0; i < subscription->partitions; i++)
			refresh_unit(runner, subscription, i);
	}
	hash_seq_init(&scan, runner->units);
	while ((unit = hash_seq_search(&scan)) != NULL)
		if (!unit->defined)
			(void) hash_search(runner->units, &unit->key, HASH_REMOVE, NULL);
	runner->serial = serial;
}

static void
refresh_unit(EsRunner *runner, EsSubscription *subscription, int partition)
{
	Unit		fresh = {.key = {subscription->id, partition}, .defined = true};
	bool		found;
	Unit	   *unit = hash_search(runner->units, &fresh.key, HASH_ENTER, &found);

	/* were the definitions loaded again all the time, every unit would still get its turn */
	if (found)
	{
		fresh.turn = unit->turn;
		fresh.busy_step = unit->busy_step;
	}
	fresh.idle = subscription->paused;
	fresh.has_work = !subscription->paused;
	fresh.resets = subscription->resets;
	*unit = fresh;
}

/* The unit that has waited longest of those that have work now. */
static Unit *
next_unit(EsRunner *runner, TimestampTz now, bool *more)
{
	HASH_SEQ_STATUS scan;
	Unit	   *unit;
	Unit	   *next = NULL;

	*more = false;
	hash_seq_init(&scan, runner->units);
	while ((unit = hash_seq_search(&scan)) != NULL)
	{
		if (!unit->has_work || unit->look_again > now || unit->busy_step == runner->steps)
			continue;
		if (next)
			*more = true;
		if (next == NULL || unit->turn < next->turn)
			next = unit;
	}
	return next;
}

/* What the unit's definition is at the moment: its subscription is NULL when there is none. */
static void
find_unit(EsStore *store, Unit *unit)
{
	ListCell   *cell;

	unit->subscription = NULL;
	unit->projection = NULL;
	foreach(cell, es_subscriptions(store))
		if (((EsSubscription *) lfirst(cell))->id == unit->key.subscription)
			unit->subscription = lfirst(cell);
	if (unit->subscription && unit->subscription->kind == ES_SUBSCRIPTION_PROJECTION)
		unit->projection = es_projection_find(store, unit->subscription->name);
}

/*
 * Lock a unit's partition.  False when somebody else is at it, or when its
 * subscription is not what the unit was made of: whoever paused, reset or dropped
 * it had this lock before us.  When definitions were only loaded again, it is
 * locked, and what was known of its events is forgotten: a new handler may want them.
 */
static bool
lock_unit(EsRunner *runner, EsStore *store, Unit *unit)
{
	EsSubscription *subscription = unit->subscription;
	int			partition = (int) unit->key.partition;

	if (!es_checkpoint_lock(store, subscription, partition, false))
	{
		/* he will see to what there is now, but perhaps not to what comes next */
		unit->busy_step = runner->steps;
		return false;
	}
	AcceptInvalidationMessages();
	if (es_subscriptions_serial(store) == runner->serial)
		return true;
	find_unit(store, unit);
	if (unit->subscription && unit->subscription->resets == unit->resets &&
		!unit->subscription->paused)
	{
		unit->scanned_to = 0;
		unit->has_work = true;
		return true;
	}
	es_checkpoint_unlock(store, subscription, partition);
	return false;
}

/*
 * Look at the events behind the place up to which nobody wants anything.  True
 * when somebody wants one of them now.
 */
static bool
scan_for_work(EsRunner *runner, EsStore *store, bool *capped, bool *settled)
{
	ScanReceiver receiver = {.schema = runner->schema};
	EsLogRange	range = {PG_INT64_MAX, 0, PG_INT64_MAX, false};
	HASH_SEQ_STATUS scan;
	EsRunAs		run_as;
	Unit	   *unit;
	bool		found = false;

	*capped = false;
	*settled = true;
	runner->events_come = false;
	receiver.units = palloc(hash_get_num_entries(runner->units) * sizeof(Unit *));
	receiver.others = palloc(hash_get_num_entries(runner->units) * sizeof(Unit *));
	hash_seq_init(&scan, runner->units);
	while ((unit = hash_seq_search(&scan)) != NULL)
	{
		if (unit->idle)
			continue;
		if (unit->has_work)
			receiver.others[receiver.nothers++] = unit;
		else
		{
			receiver.units[receiver.nunits++] = unit;
			range.first = Min(range.first, unit->scanned_to + 1);
		}
	}
	if (receiver.nunits == 0)
	{
		if (receiver.nothers == 0)
			es_worker_slot_add_unwanted(es_event_kind_any(runner->schema));
		return false;
	}

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	if (runner->alert)
	{
		runner->alert_position = es_feed_last_drawn(store);
		runner->alert = false;
	}
	range.last = es_feed_high_water(store);
	*settled = range.last >= runner->alert_position;
	if (range.first <= range.last)
	{
		for (int i = 0; i < receiver.nunits; i++)
			find_unit(store, receiver.units[i]);
		for (int i = 0; i < receiver.nothers; i++)
			find_unit(store, receiver.others[i]);
		es_row_receiver_init(&receiver.pub, receive_scan);
		PushActiveSnapshot(GetLatestSnapshot());
		es_log_read_feed(store, &range, NULL, NULL, &receiver.pub);
		PopActiveSnapshot();
	}
	es_run_as_end(&run_as);

	for (int i = 0; i < receiver.nunits; i++)
	{
		unit = receiver.units[i];
		if (unit->has_work)
			found = true;
		else
			unit->scanned_to = Max(unit->scanned_to, receiver.last_read);
	}
	*capped = receiver.read >= MAX_SCAN;
	runner->events_come = receiver.read > 0;
	return found;
}

static bool
receive_scan(TupleTableSlot *slot, DestReceiver *self)
{
	ScanReceiver *receiver = (ScanReceiver *) self;
	int64		position;
	text	   *type;
	EsEvent		event;

	es_event_start_from_slot(&event, slot, ES_EVENT_TYPE + 1);
	position = DatumGetInt64(event.values[ES_EVENT_POSITION]);
	type = DatumGetTextPP(event.values[ES_EVENT_TYPE]);
	if (!is_last_type(receiver, type))
		find_wanting(receiver, type);
	if (es_worker_slot_is_mine())
		tell_if_unwanted(receiver, type, DatumGetTextPP(event.values[ES_EVENT_STREAM]));
	for (int i = 0; i < receiver->nunits && receiver->nwanting > 0; i++)
	{
		Unit	   *unit = receiver->units[i];

		if (!unit->wants_type || unit->has_work || position <= unit->scanned_to)
			continue;
		if (is_broken(unit) ||
			es_subscription_wants(unit->subscription, unit->projection,
								  (int) unit->key.partition, type,
								  DatumGetTextPP(event.values[ES_EVENT_STREAM])))
		{
			unit->has_work = true;
			unit->scanned_to = Max(unit->scanned_to, receiver->last_read);
		}
	}
	receiver->last_read = position;
	return ++receiver->read < MAX_SCAN;
}

/* Let writers know that nobody wants events of a kind. */
static void
tell_if_unwanted(ScanReceiver *receiver, const text *type, const text *stream)
{
	EsEventKind kind = es_event_kind(receiver->schema, type, stream);

	if (kind == receiver->kind)
		return;
	receiver->kind = kind;
	if (es_worker_slot_knows_unwanted(kind))
		return;
	for (int i = 0; i < receiver->nunits; i++)
		if (wants_kind(receiver->units[i], type, stream))
			return;
	for (int i = 0; i < receiver->nothers; i++)
		if (wants_kind(receiver->others[i], type, stream))
			return;
	es_worker_slot_add_unwanted(kind);
}

static bool
wants_kind(const Unit *unit, const text *type, const text *stream)
{
	return is_broken(unit) ||
		es_subscription_wants_kind(unit->subscription, unit->projection, type, stream);
}

/* Mostly the next event's type is that of the one before, or nobody wants it either. */
static bool
is_last_type(const ScanReceiver *receiver, const text *type)
{
	return receiver->read > 0 && VARSIZE_ANY_EXHDR(type) == receiver->type_length &&
		memcmp(receiver->type, VARDATA_ANY(type), receiver->type_length) == 0;
}

/* Which units want any events of a type? */
static void
find_wanting(ScanReceiver *receiver, const text *type)
{
	receiver->nwanting = 0;
	for (int i = 0; i < receiver->nunits; i++)
	{
		Unit	   *unit = receiver->units[i];

		unit->wants_type = is_broken(unit) ||
			es_subscription_wants_type(unit->subscription, unit->projection, type);
		if (unit->wants_type)
			receiver->nwanting++;
	}
	receiver->type_length = Min(VARSIZE_ANY_EXHDR(type), ES_STREAM_NAME_MAX);
	memcpy(receiver->type, VARDATA_ANY(type), receiver->type_length);
}

/* What is broken is run, so that it is said there. */
static bool
is_broken(const Unit *unit)
{
	return unit->subscription == NULL ||
		(unit->subscription->kind == ES_SUBSCRIPTION_PROJECTION && unit->projection == NULL);
}

/* When a unit must be looked at that cannot be run now; 0: none. */
static TimestampTz
next_look(EsRunner *runner)
{
	TimestampTz now = GetCurrentTimestamp();
	HASH_SEQ_STATUS scan;
	Unit	   *unit;
	TimestampTz next = 0;

	hash_seq_init(&scan, runner->units);
	while ((unit = hash_seq_search(&scan)) != NULL)
	{
		TimestampTz look_again = unit->busy_step == runner->steps ? now + LOOK_AGAIN_US :
																	unit->look_again;

		if (unit->has_work && look_again != 0 && (next == 0 || look_again < next))
			next = look_again;
	}
	return next;
}

/* Run a batch of a unit; false when there was nothing to do, or it must not be run now. */
static bool
run_unit(EsRunner *runner, EsStore *store, Unit *unit, int64 max_events, EsRunStep *step)
{
	int			partition = (int) unit->key.partition;
	bool		worked;

	unit->turn = ++runner->turns;
	unit->look_again = 0;
	find_unit(store, unit);
	if (unit->subscription == NULL)
	{
		unit->idle = true;
		unit->has_work = false;
		return false;
	}
	if (!lock_unit(runner, store, unit))
	{
		refresh_units(runner, store);
		return false;
	}
	worked = run_partition(runner, store, unit->subscription, unit, max_events, step);

	/* we may be long at another one in this transaction */
	if (!worked)
		es_checkpoint_unlock(store, unit->subscription, partition);
	return worked;
}

static bool
run_partition(EsRunner *runner, EsStore *store, EsSubscription *subscription, Unit *unit,
			  int64 max_events, EsRunStep *step)
{
	EsBatch batch = {.store = store, .subscription = subscription};
	EsCheckpoint checkpoint;
	EsHeldStreams held;
	EsRunAs		run_as;
	int64		mark;
	bool		done;
	bool		written = true;

	batch.partition = (int) unit->key.partition;
	batch.foreground = runner->foreground;
	batch.max_events = max_events;
	batch.held = &held;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	es_checkpoint_read(store, subscription, batch.partition, &checkpoint);
	es_parked_held_streams(store, subscription, batch.partition, &held);
	mark = es_feed_high_water(store);
	es_run_as_end(&run_as);
	unit->written = checkpoint.position;

	if (checkpoint.stopped)
	{
		unit->idle = true;
		unit->has_work = false;
		return false;
	}
	if (checkpoint.retry_at > GetCurrentTimestamp())
	{
		unit->look_again = checkpoint.retry_at;
		return false;
	}
	if (held.replay)
	{
		(void) replay_some(store, subscription, batch.partition, runner->foreground, max_events,
						   &step->events);
		return true;
	}

	/* a culprit is tried again by itself, not found anew */
	batch.after = Max(checkpoint.position, unit->scanned_to);
	batch.upto = checkpoint.failed_position > batch.after ? checkpoint.failed_position : mark;
	running_subscription = subscription;
	done = run_narrowed(&batch);
	running_subscription = NULL;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	if (done)
	{
		/* what its owner may not see is done as well: nobody will look at it again */
		if (!batch.more && batch.last_read < batch.upto)
			batch.last_read = Max(batch.last_read,
								  es_log_position_at_or_before(store, batch.upto,
															   GetLatestSnapshot()));
		park_waiting(&batch);
		written = note_success(&batch, &checkpoint);
		if (batch.upto < mark)
			batch.more = true;
		unit->scanned_to = batch.last_read;
		unit->has_work = batch.more;
	}
	else
	{
		note_failure(&batch, &checkpoint);
		unit->look_again = checkpoint.retry_at;
	}
	es_run_as_end(&run_as);

	if (checkpoint.stopped)
	{
		unit->idle = true;
		unit->has_work = false;
	}
	unit->written = checkpoint.position;
	if (done)
		step->events += batch.events;
	return written || batch.more;
}

/*
 * Replay events that are marked for it, one by one; returns whether there were
 * any.  One that fails again is parked again.
 */
static bool
replay_some(EsStore *store, EsSubscription *subscription, int partition, bool foreground,
			int64 max_events, int64 *events)
{
	int64	   *positions;
	int			count;
	bool		failed = false;
	EsRunAs		run_as;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	count = es_parked_to_replay(store, subscription, partition, (int) Min(MAX_REPLAY, max_events),
								&positions);
	es_run_as_end(&run_as);

	/* after a failure those behind it wait again: then look anew */
	for (int i = 0; i < count && !failed; i++)
	{
		EsBatch batch = {.store = store, .subscription = subscription};

		batch.partition = partition;
		batch.foreground = foreground;
		batch.max_events = 1;
		batch.after = positions[i] - 1;
		batch.upto = positions[i];
		running_subscription = subscription;
		failed = !es_batch_run(&batch);
		running_subscription = NULL;
		if (!failed)
			*events += batch.events;
		es_run_as_begin(&run_as, es_run_as_store_owner(store));
		if (failed)
			es_parked_fail(store, subscription, positions[i], failure_message(batch.error));
		else
			es_parked_remove(store, subscription, positions[i]);
		if (failed || i == count - 1)
			(void) es_parked_release(store, subscription, partition);
		es_run_as_end(&run_as);
	}
	pfree(positions);
	return count > 0;
}

/* Run a batch, made smaller until it ends before the event that it fails on. */
static bool
run_narrowed(EsBatch *batch)
{
	while (!es_batch_run(batch))
		if (!narrow(batch))
			return false;
	return true;
}

/* Make a batch that failed smaller; false when that is no way to go on. */
static bool
narrow(EsBatch *batch)
{
	int64		upto = batch->upto;

	if (batch->canceled)
		return false;
	if (batch->failed_position != 0)
	{
		/* whatever is before the culprit comes first, what only waits, too */
		if (batch->events == 0 && !has_waiting_before(batch, batch->failed_position))
			return false;
		batch->upto = batch->failed_position - 1;
		return true;
	}
	if (batch->set_events > 0)
	{
		batch->upto = batch->set_first + (batch->set_last - batch->set_first) / 2;
		return batch->upto < upto;
	}
	if (batch->events == 0 || batch->max_events == 1)
		return false;
	batch->max_events = Max(batch->events / 2, 1);
	return true;
}

static bool
has_waiting_before(const EsBatch *batch, int64 position)
{
	const EsEvent *first = batch->waiting == NIL ? NULL : linitial(batch->waiting);

	return first && DatumGetInt64(first->values[ES_EVENT_POSITION]) < position;
}

/* Events of held streams wait behind what is parked. */
static void
park_waiting(EsBatch *batch)
{
	ListCell   *cell;

	foreach(cell, batch->waiting)
		es_parked_add(batch->store, batch->subscription, batch->partition, lfirst(cell),
					  ES_PARKED_WAITING, NULL, 0);
}

/* Returns whether anything was written. */
static bool
note_success(EsBatch *batch, EsCheckpoint *checkpoint)
{
	bool		failed_before = checkpoint->attempts > 0 || checkpoint->retry_at != 0;

	/* nothing for it was read: that is written late, by es_runner_flush() */
	if (batch->events == 0 && batch->waiting == NIL && checkpoint->exists && !failed_before)
		return false;
	checkpoint->position = batch->last_read;
	/* it is behind us, or not there any more */
	if (failed_before &&
		(batch->last_read >= checkpoint->failed_position ||
		 (batch->upto >= checkpoint->failed_position && !batch->more)))
	{
		ereport(LOG,
				(errmsg("subscription \"%s\" of event store %s goes on",
						batch->subscription->name, batch->store->name),
				 errdetail("It took %d more attempts.", checkpoint->attempts)));
		checkpoint->attempts = 0;
		checkpoint->failed_position = 0;
		checkpoint->retry_at = 0;
	}
	es_checkpoint_write(batch->store, batch->subscription, checkpoint);
	return true;
}

/* A batch failed on its first event, or for a reason that is no event's. */
static void
note_failure(EsBatch *batch, EsCheckpoint *checkpoint)
{
	char	   *message = failure_message(batch->error);
	int			max_retries = batch->subscription->max_retries;
	int64		delay_ms;
	bool		again = checkpoint->attempts > 0 &&
		checkpoint->failed_position == batch->failed_position;

	if (batch->transient)
		max_retries = Max(max_retries, TRANSIENT_RETRIES);
	if (!again)
		checkpoint->attempts = 0;
	if (!batch->canceled)
		checkpoint->attempts++;
	checkpoint->failed_position = batch->failed_position;
	delay_ms = es_checkpoint_backoff_ms(Max(checkpoint->attempts, 1));
	if (batch->failed_position == 0)
		delay_ms = Max(delay_ms, SHORTEST_DELAY_MS);
	checkpoint->retry_at = GetCurrentTimestamp() + delay_ms * INT64CONST(1000);

	if (batch->failed_position != 0 && checkpoint->attempts > max_retries)
		put_aside(batch, checkpoint, message);
	else if (!again)
		ereport(LOG,
				(errmsg("subscription \"%s\" of event store %s failed, and will be tried again",
						batch->subscription->name, batch->store->name),
				 errdetail_log("%s", message),
				 batch->error->context ? (errcontext("%s", batch->error->context)) : 0));
	es_checkpoint_write(batch->store, batch->subscription, checkpoint);
	es_checkpoint_write_error(batch->store, batch->subscription, batch->partition, message);
}

/* An event has failed too often: do what the definition says. */
static void
put_aside(EsBatch *batch, EsCheckpoint *checkpoint, const char *message)
{
	EsSubscription *subscription = batch->subscription;
	EsEvent		event;

	if (subscription->on_error == ES_ON_ERROR_STOP ||
		!read_one(batch->store, batch->failed_position, &event))
	{
		checkpoint->stopped = true;
		checkpoint->retry_at = 0;
		ereport(LOG,
				(errmsg("subscription \"%s\" of event store %s is stopped", subscription->name,
						batch->store->name),
				 errdetail_log("It failed %d times at position %lld: %s", checkpoint->attempts,
							   (long long) batch->failed_position, message),
				 errhint("Mend it and call es_resume().")));
		return;
	}
	if (subscription->on_error == ES_ON_ERROR_PARK)
		es_parked_add(batch->store, subscription, batch->partition, &event, ES_PARKED_PARKED,
					  message, checkpoint->attempts);
	ereport(LOG,
			(errmsg("subscription \"%s\" of event store %s %s event %lld of stream \"%s\"",
					subscription->name, batch->store->name,
					subscription->on_error == ES_ON_ERROR_PARK ? "parks" : "skips",
					(long long) DatumGetInt64(event.values[ES_EVENT_VERSION]),
					TextDatumGetCString(event.values[ES_EVENT_STREAM])),
			 errdetail_log("It failed %d times at position %lld: %s", checkpoint->attempts,
						   (long long) batch->failed_position, message)));
	checkpoint->position = batch->failed_position;
	checkpoint->attempts = 0;
	checkpoint->failed_position = 0;
	checkpoint->retry_at = 0;
}

/* Position, stream, version and type of an event; in the current context. */
static bool
read_one(EsStore *store, int64 position, EsEvent *event)
{
	OneReceiver receiver = {0};
	EsLogRange	range = {position, position, 1, false};

	es_row_receiver_init(&receiver.pub, receive_one);
	receiver.event = event;
	receiver.context = CurrentMemoryContext;
	PushActiveSnapshot(GetLatestSnapshot());
	es_log_read_feed(store, &range, NULL, NULL, &receiver.pub);
	PopActiveSnapshot();
	return receiver.found;
}

static bool
receive_one(TupleTableSlot *slot, DestReceiver *self)
{
	OneReceiver *receiver = (OneReceiver *) self;
	MemoryContext caller = MemoryContextSwitchTo(receiver->context);
	EsEvent    *event = receiver->event;

	es_event_start_from_slot(event, slot, ES_EVENT_TYPE + 1);
	event->values[ES_EVENT_STREAM] =
		PointerGetDatum(DatumGetTextPCopy(event->values[ES_EVENT_STREAM]));
	event->values[ES_EVENT_TYPE] = PointerGetDatum(DatumGetTextPCopy(event->values[ES_EVENT_TYPE]));
	receiver->found = true;
	MemoryContextSwitchTo(caller);
	return false;
}

/* What went wrong, in one text. */
static char *
failure_message(const ErrorData *error)
{
	if (error->detail)
		return psprintf("%s (%s): %s", error->message, unpack_sql_state(error->sqlerrcode),
						error->detail);
	return psprintf("%s (%s)", error->message, unpack_sql_state(error->sqlerrcode));
}
