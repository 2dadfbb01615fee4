/*-------------------------------------------------------------------------
 *
 * lease.c
 *		Leases: what a consumer has been handed, and what it says about it.
 *
 * A lease is a part of a partition's checkpoint: what comes after its position
 * and up to leased_to has been handed to the consumer, but for what the filter
 * or parked_event keeps from it.  It ends when nothing of that is left, and it
 * is lost when it has expired and somebody else has taken the partition.
 *
 * Whatever a consumer does needs these rights, and nothing else: SELECT on the
 * tables event and subscription, SELECT, INSERT and UPDATE on checkpoint and
 * consumer, SELECT, INSERT, UPDATE and DELETE on parked_event.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "catalog/pg_type.h"
#include "errors.h"
#include "feed.h"
#include "lease.h"
#include "log.h"
#include "miscadmin.h"
#include "row_receiver.h"
#include "spi_plan.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "wake.h"

#define CONSUMER_NAME_MAX	512	/* bytes */

/* What was written last about the lease of a session's only partition. */
typedef struct EsLeaseMemory
{
	Oid			user;			/* who may read what it is about; InvalidOid: nothing is known */
	int64		subscription;	/* its id */
	char		consumer[CONSUMER_NAME_MAX + 1];
	EsCheckpoint checkpoint;	/* whose consumer is that one */
} EsLeaseMemory;

typedef enum NackAction
{
	NACK_RETRY,
	NACK_SKIP,
	NACK_PARK
} NackAction;

/* One event of the log. */
typedef struct EventReader
{
	DestReceiver receiver;
	MemoryContext context;
	EsEvent    *event;			/* NULL: not there */
} EventReader;

/* A walk over what was handed to a consumer and is not done. */
typedef struct LeaseWalk
{
	DestReceiver receiver;
	EsConsumer *consumer;
	int			partition;
	EsPutAside	aside;
	MemoryContext context;
	int64		passed;			/* up to here everything is done or put aside */
	bool		undone;			/* and after that something is not */
	List	   *waiting;		/* EsEvent *: what must wait behind a parked event */
} LeaseWalk;

#define OF_PARTITION \
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2"
#define TO_REPLAY_BY \
	OF_PARTITION " AND state OPERATOR(pg_catalog.=) 'replay'" \
				 " AND consumer OPERATOR(pg_catalog.=) $3"

/* All that a call needs to know, in one statement: of the consumers only where that matters. */
#define LOOK(seen_at, others) \
	"SELECT " ES_CHECKPOINT_SELECT_LIST ", EXISTS (SELECT 1 FROM @store@.parked_event p" \
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1), " seen_at ", " others "," \
	" EXISTS (SELECT 1 FROM @store@.consumer l WHERE l.subscription OPERATOR(pg_catalog.=) $1" \
	" AND l.name OPERATOR(pg_catalog.=) $2 AND l.lost)" \
	" FROM (VALUES (1)) AS one (n) LEFT JOIN @store@.checkpoint c ON " ES_CHECKPOINT_IS_OF("$1")

static const EsPlanSpec look_plan = {
	LOOK("NULL::pg_catalog.timestamptz", "0::pg_catalog.int8"),
	3,
	{TEXTOID, TEXTOID, TIMESTAMPTZOID},
};

static const EsPlanSpec look_around_plan = {
	LOOK("(SELECT s.seen_at::pg_catalog.timestamptz FROM @store@.consumer s"
		 " WHERE s.subscription OPERATOR(pg_catalog.=) $1"
		 " AND s.name OPERATOR(pg_catalog.=) $2 LIMIT 1)",
		 "(SELECT pg_catalog.count(*) FROM @store@.consumer s"
		 " WHERE s.subscription OPERATOR(pg_catalog.=) $1"
		 " AND s.name OPERATOR(pg_catalog.<>) $2 AND s.seen_at OPERATOR(pg_catalog.>) $3)"),
	3,
	{TEXTOID, TEXTOID, TIMESTAMPTZOID},
};

static const EsPlanSpec skipped_plan = {
	"SELECT position::pg_catalog.int8 FROM @store@.parked_event" OF_PARTITION
	" AND state OPERATOR(pg_catalog.=) 'skipped' ORDER BY position",
	2,
	{TEXTOID, INT4OID},
};

static const EsPlanSpec forget_skipped_plan = {
	"DELETE FROM @store@.parked_event" OF_PARTITION
	" AND state OPERATOR(pg_catalog.=) 'skipped' AND position OPERATOR(pg_catalog.<=) $3",
	3,
	{TEXTOID, INT4OID, INT8OID},
};

static const EsPlanSpec finish_replays_plan = {
	"UPDATE @store@.parked_event SET state = 'skipped', consumer = NULL" TO_REPLAY_BY
	" AND position OPERATOR(pg_catalog.>=) $4 AND position OPERATOR(pg_catalog.<=) $5",
	5,
	{TEXTOID, INT4OID, TEXTOID, INT8OID, INT8OID},
};

static const EsPlanSpec drop_replays_plan = {
	"UPDATE @store@.parked_event SET consumer = NULL" TO_REPLAY_BY,
	3,
	{TEXTOID, INT4OID, TEXTOID},
};

static const EsPlanSpec first_replay_plan = {
	"SELECT position::pg_catalog.int8 FROM @store@.parked_event" TO_REPLAY_BY
	" ORDER BY position LIMIT 1",
	3,
	{TEXTOID, INT4OID, TEXTOID},
};

static const EsPlanSpec parked_state_plan = {
	"SELECT state::pg_catalog.text, consumer::pg_catalog.text FROM @store@.parked_event"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND position OPERATOR(pg_catalog.=) $2",
	2,
	{TEXTOID, INT8OID},
};

static NackAction action_argument(FunctionCallInfo fcinfo, int arg);
static int64 lease_us(const EsConsumer *consumer, TimestampTz now);
static int	lock_leases(EsConsumer *consumer, bool *locked);
static bool acknowledge(EsConsumer *consumer, EsCheckpoint *checkpoint, int64 position);
static bool was_acknowledged(EsConsumer *consumer, int64 position);
static void settle(EsConsumer *consumer, EsCheckpoint *checkpoint);
static bool walk_event(TupleTableSlot *slot, DestReceiver *self);
static void nack_new(EsConsumer *consumer, EsCheckpoint *checkpoint, const EsEvent *event,
					 NackAction action, const char *reason);
static void nack_replayed(EsConsumer *consumer, EsCheckpoint *checkpoint, int64 position,
						  NackAction action, const char *reason);
static void release(EsConsumer *consumer, int partition);
static int64 first_replay(EsConsumer *consumer, int partition, const char *holder);
static EsEvent *read_event(EsConsumer *consumer, int64 position);
static bool keep_event(TupleTableSlot *slot, DestReceiver *self);
static const char *parked_state(EsConsumer *consumer, int64 position, bool *handed_out);
pg_noreturn static void lost(const EsConsumer *consumer, int64 position);
pg_noreturn static void not_handed_out(const EsConsumer *consumer, int64 position);

PG_FUNCTION_INFO_V1(es_ack);
PG_FUNCTION_INFO_V1(es_nack);

/* es_ack(name text, consumer text, position bigint) returns void */
Datum
es_ack(PG_FUNCTION_ARGS)
{
	EsConsumer	consumer;
	int64		position;

	es_consumer_begin(fcinfo, &consumer);
	position = es_lease_position_argument(fcinfo, 2);

	SPI_connect();
	(void) es_consumer_subscription(&consumer);
	(void) es_lease_acknowledge(&consumer, position);
	SPI_finish();
	PG_RETURN_VOID();
}

/*
 * es_nack(name text, consumer text, position bigint, action text, reason text)
 * returns void
 */
Datum
es_nack(PG_FUNCTION_ARGS)
{
	EsConsumer	consumer;
	int64		position;
	NackAction	action;
	const char *reason;
	EsEvent    *event;
	EsCheckpoint *checkpoint;
	int			partition;
	const char *state = NULL;
	bool		replayed = false;

	es_consumer_begin(fcinfo, &consumer);
	position = es_lease_position_argument(fcinfo, 2);
	action = action_argument(fcinfo, 3);
	reason = PG_ARGISNULL(4) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(4));

	SPI_connect();
	(void) es_consumer_subscription(&consumer);
	event = read_event(&consumer, position);
	if (event == NULL)
		not_handed_out(&consumer, position);
	do
	{
		/* defined anew while we waited for the lock, it may have other partitions */
		partition = es_subscription_partition(consumer.subscription,
											  DatumGetTextPP(event->values[ES_EVENT_STREAM]));
		(void) es_checkpoint_lock(consumer.store, consumer.subscription, partition, true);
	} while (es_consumer_subscription(&consumer));
	es_consumer_look(&consumer, false);
	checkpoint = &consumer.checkpoints[partition];
	if (consumer.any_parked)
		state = parked_state(&consumer, position, &replayed);

	/* a call that is repeated, since nobody heard the answer, changes nothing */
	if (action != NACK_RETRY && !replayed &&
		(state ? strcmp(state, ES_PARKED_WAITING) != 0 : position <= checkpoint->position))
	{
		SPI_finish();
		PG_RETURN_VOID();
	}
	if (!es_consumer_holds(&consumer, checkpoint))
		lost(&consumer, position);
	if (replayed)
		nack_replayed(&consumer, checkpoint, position, action, reason);
	else if (state || position <= checkpoint->position || position > checkpoint->leased_to ||
			 !es_subscription_wants(consumer.subscription, NULL, partition,
									DatumGetTextPP(event->values[ES_EVENT_TYPE]),
									DatumGetTextPP(event->values[ES_EVENT_STREAM])))
		not_handed_out(&consumer, position);
	else
		nack_new(&consumer, checkpoint, event, action, reason);
	SPI_finish();
	PG_RETURN_VOID();
}

int64
es_lease_position_argument(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the position must not be NULL")));
	if (PG_GETARG_INT64(arg) < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the position must be at least 1")));
	return PG_GETARG_INT64(arg);
}

bool
es_lease_acknowledge(EsConsumer *consumer, int64 position)
{
	bool		locked[ES_MAX_PARTITIONS] = {false};
	bool		changed = false;

	/*
	 * After it has lost something it must fetch first: what it says may be about
	 * events that somebody else is handling now, or has handled.
	 */
	if ((lock_leases(consumer, locked) == 0 && !was_acknowledged(consumer, position)) ||
		consumer->lost)
		lost(consumer, position);
	for (int i = 0; i < consumer->subscription->partitions; i++)
		if (locked[i])
		{
			EsCheckpoint *checkpoint = &consumer->checkpoints[i];

			if (es_consumer_holds(consumer, checkpoint) &&
				acknowledge(consumer, checkpoint, position))
				changed = true;
			else
				es_checkpoint_unlock(consumer->store, consumer->subscription, i);
		}
	return changed;
}

void
es_consumer_begin(FunctionCallInfo fcinfo, EsConsumer *consumer)
{
	memset(consumer, 0, sizeof(*consumer));
	consumer->subscription_name = es_argument_text(fcinfo, 0,
												   "the subscription's name", true);
	consumer->name = es_argument_text(fcinfo, 1, "the consumer's name", true);
	if (strlen(consumer->name) > CONSUMER_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the consumer's name is too long"),
				 errdetail("It has %d bytes; at most %d are allowed.",
						   (int) strlen(consumer->name), CONSUMER_NAME_MAX)));
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot consume subscription \"%s\" in this isolation level",
						consumer->subscription_name),
				 errhint("Use a transaction in READ COMMITTED.")));
	consumer->store = es_store_current();
}

bool
es_consumer_subscription(EsConsumer *consumer)
{
	EsSubscription *before = consumer->subscription;

	/* whoever has changed it did so before he gave us the lock, perhaps */
	AcceptInvalidationMessages();
	consumer->subscription = es_subscription_by_name(consumer->store, consumer->subscription_name,
													 false);
	if (consumer->subscription->kind != ES_SUBSCRIPTION_EXTERNAL)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("subscription \"%s\" is not pulled by consumers",
						consumer->subscription_name),
				 errdetail("It is a %s, which the store runs itself.",
						   es_subscription_kind(consumer->subscription)),
				 errhint("Consumers pull what es_create_subscription() has made.")));
	return before == NULL || !es_subscription_is_same(consumer->subscription, before);
}

void
es_consumer_look(EsConsumer *consumer, bool around)
{
	EsSubscription *subscription = consumer->subscription;
	MemoryContext caller = CurrentMemoryContext;
	Datum		values[3];

	consumer->now = GetCurrentTimestamp();
	values[0] = CStringGetTextDatum(consumer->subscription_name);
	values[1] = CStringGetTextDatum(consumer->name);
	values[2] = TimestampTzGetDatum(consumer->now - lease_us(consumer, consumer->now));

	consumer->checkpoints = palloc0(subscription->partitions * sizeof(EsCheckpoint));
	for (int i = 0; i < subscription->partitions; i++)
	{
		consumer->checkpoints[i].partition = i;
		consumer->checkpoints[i].position = subscription->from_position;
	}

	es_spi_read(consumer->store, around ? &look_around_plan : &look_plan, values, NULL,
				GetLatestSnapshot(), 0);
	MemoryContextSwitchTo(caller);
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;
		Datum		value;
		bool		isnull;
		int			partition;

		value = SPI_getbinval(row, tupdesc, ES_CHECKPOINT_COLUMNS + 1, &isnull);
		consumer->any_parked = DatumGetBool(value);
		value = SPI_getbinval(row, tupdesc, ES_CHECKPOINT_COLUMNS + 2, &isnull);
		consumer->seen_at = isnull ? 0 : DatumGetTimestampTz(value);
		value = SPI_getbinval(row, tupdesc, ES_CHECKPOINT_COLUMNS + 3, &isnull);
		consumer->others = (int) Min(DatumGetInt64(value), ES_MAX_PARTITIONS);
		value = SPI_getbinval(row, tupdesc, ES_CHECKPOINT_COLUMNS + 4, &isnull);
		consumer->lost = DatumGetBool(value);
		partition = DatumGetInt32(SPI_getbinval(row, tupdesc, 1, &isnull));
		if (!isnull && partition >= 0 && partition < subscription->partitions)
			es_checkpoint_from_row(&consumer->checkpoints[partition], row, tupdesc);
	}
	SPI_freetuptable(SPI_tuptable);
}

void
es_lease_remember(const EsConsumer *consumer, const EsCheckpoint *checkpoint)
{
	EsStore    *store = consumer->store;

	if (store->lease == NULL)
		store->lease = MemoryContextAllocZero(store->context, sizeof(EsLeaseMemory));
	store->lease->user = GetUserId();
	store->lease->subscription = consumer->subscription->id;
	strlcpy(store->lease->consumer, consumer->name, sizeof(store->lease->consumer));
	store->lease->checkpoint = *checkpoint;
	store->lease->checkpoint.consumer = store->lease->consumer;
	store->lease->checkpoint.exists = true;
}

bool
es_lease_recall(EsConsumer *consumer)
{
	const EsLeaseMemory *memory = consumer->store->lease;

	consumer->now = GetCurrentTimestamp();
	if (memory == NULL || memory->user != GetUserId() ||
		memory->subscription != consumer->subscription->id ||
		strcmp(memory->consumer, consumer->name) != 0 ||
		memory->checkpoint.leased_until <= consumer->now)
		return false;
	consumer->checkpoints = palloc(sizeof(EsCheckpoint));
	consumer->checkpoints[0] = memory->checkpoint;
	consumer->any_parked = consumer->lost = false;
	consumer->seen_at = 0;
	consumer->others = 0;
	return true;
}

void
es_lease_forget(const EsConsumer *consumer)
{
	if (consumer->store->lease)
		consumer->store->lease->user = InvalidOid;
}

bool
es_consumer_holds(const EsConsumer *consumer, const EsCheckpoint *checkpoint)
{
	return checkpoint->consumer && strcmp(checkpoint->consumer, consumer->name) == 0;
}

TimestampTz
es_consumer_lease_end(const EsConsumer *consumer, TimestampTz now)
{
	return now + lease_us(consumer, now);
}

void
es_put_aside_load(EsConsumer *consumer, int partition, EsPutAside *aside)
{
	Datum		values[] = {CStringGetTextDatum(consumer->subscription_name),
					  Int32GetDatum(partition)};
	MemoryContext caller = CurrentMemoryContext;

	memset(aside, 0, sizeof(*aside));
	es_parked_held_streams(consumer->store, consumer->subscription, partition, &aside->held);
	if (!aside->held.skipped)
		return;
	es_spi_read(consumer->store, &skipped_plan, values, NULL, GetLatestSnapshot(), 0);
	MemoryContextSwitchTo(caller);
	aside->skipped = palloc((SPI_processed + 1) * sizeof(int64));
	for (uint64 i = 0; i < SPI_processed; i++)
	{
		bool		isnull;

		aside->skipped[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
														SPI_tuptable->tupdesc, 1, &isnull));
	}
	aside->nskipped = (int) SPI_processed;
	SPI_freetuptable(SPI_tuptable);
}

bool
es_put_aside_is_skipped(const EsPutAside *aside, int64 position)
{
	int			low = 0;
	int			high = aside->nskipped;

	while (low < high)
	{
		int			middle = (low + high) / 2;

		if (aside->skipped[middle] < position)
			low = middle + 1;
		else
			high = middle;
	}
	return low < aside->nskipped && aside->skipped[low] == position;
}

EsEvent *
es_put_aside_event(const EsEvent *event)
{
	EsEvent    *copy = palloc0(sizeof(EsEvent));

	copy->values[ES_EVENT_POSITION] = event->values[ES_EVENT_POSITION];
	copy->values[ES_EVENT_VERSION] = event->values[ES_EVENT_VERSION];
	copy->values[ES_EVENT_STREAM] =
		PointerGetDatum(DatumGetTextPCopy(event->values[ES_EVENT_STREAM]));
	copy->values[ES_EVENT_TYPE] =
		PointerGetDatum(DatumGetTextPCopy(event->values[ES_EVENT_TYPE]));
	return copy;
}

void
es_lease_drop_replays(EsConsumer *consumer, int partition, const char *holder)
{
	Datum		values[] = {CStringGetTextDatum(consumer->subscription_name),
					  Int32GetDatum(partition), CStringGetTextDatum(holder)};

	(void) es_spi_write(consumer->store, &drop_replays_plan, values, NULL);
}

bool
es_lease_fail_replays(EsConsumer *consumer, int partition, const char *holder,
					  const char *reason)
{
	int64		position = first_replay(consumer, partition, holder);

	if (position == 0)
		return false;
	es_parked_fail(consumer->store, consumer->subscription, position, reason);
	es_lease_drop_replays(consumer, partition, holder);
	return true;
}

void
es_lease_forget_skipped(EsConsumer *consumer, const EsCheckpoint *checkpoint)
{
	Datum		values[] = {CStringGetTextDatum(consumer->subscription_name),
					  Int32GetDatum(checkpoint->partition),
					  Int64GetDatum(checkpoint->position)};

	(void) es_spi_write(consumer->store, &forget_skipped_plan, values, NULL);
}

static NackAction
action_argument(FunctionCallInfo fcinfo, int arg)
{
	char	   *action = es_argument_text(fcinfo, arg, "the action", true);

	if (strcmp(action, "retry") == 0)
		return NACK_RETRY;
	if (strcmp(action, "skip") == 0)
		return NACK_SKIP;
	if (strcmp(action, "park") == 0)
		return NACK_PARK;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid action \"%s\"", action),
			 errhint("Use \"retry\", \"skip\" or \"park\".")));
}

static int64
lease_us(const EsConsumer *consumer, TimestampTz now)
{
	TimestampTz end = DatumGetTimestampTz(
		DirectFunctionCall2(timestamptz_pl_interval, TimestampTzGetDatum(now),
							IntervalPGetDatum(consumer->subscription->lease)));

	return Max(end - now, 1);
}

/*
 * Lock the partitions that the consumer holds and look at all of them; returns
 * how many that are.  Others may be in the way for as long as a call of theirs
 * takes.
 */
static int
lock_leases(EsConsumer *consumer, bool *locked)
{
	int			count = 0;

	/* defined anew while we waited for a lock, it may have other partitions */
	do
	{
		memset(locked, 0, ES_MAX_PARTITIONS * sizeof(bool));
		if (consumer->subscription->partitions == 1)
		{
			locked[0] = es_checkpoint_lock(consumer->store, consumer->subscription, 0, true);
			continue;
		}
		es_consumer_look(consumer, false);
		for (int i = 0; i < consumer->subscription->partitions; i++)
			if (es_consumer_holds(consumer, &consumer->checkpoints[i]))
				locked[i] = es_checkpoint_lock(consumer->store, consumer->subscription, i, true);
	} while (es_consumer_subscription(consumer));
	es_consumer_look(consumer, false);
	for (int i = 0; i < consumer->subscription->partitions; i++)
		if (locked[i] && es_consumer_holds(consumer, &consumer->checkpoints[i]))
			count++;
	return count;
}

/* All that it was handed up to a position is done. */
static bool
acknowledge(EsConsumer *consumer, EsCheckpoint *checkpoint, int64 position)
{
	int64		before = checkpoint->position;
	uint64		replayed = 0;

	checkpoint->position = Max(before, Min(position, checkpoint->leased_to));
	if (consumer->any_parked)
	{
		Datum		values[] = {CStringGetTextDatum(consumer->subscription_name),
						  Int32GetDatum(checkpoint->partition),
						  CStringGetTextDatum(consumer->name), Int64GetDatum(0),
						  Int64GetDatum(position)};

		replayed = es_spi_write(consumer->store, &finish_replays_plan, values, NULL);
	}
	if (checkpoint->position == before && replayed == 0)
		return false;
	settle(consumer, checkpoint);
	if (replayed > 0)
		release(consumer, checkpoint->partition);
	return true;
}

/*
 * Whether a consumer that holds nothing may believe that the event at this
 * position is done: its answer to the call that ended the lease was lost.
 */
static bool
was_acknowledged(EsConsumer *consumer, int64 position)
{
	EsEvent    *event = read_event(consumer, position);
	bool		handed_out;
	const char *state;
	int			partition;

	if (event == NULL)
		return false;
	partition = es_subscription_partition(consumer->subscription,
										  DatumGetTextPP(event->values[ES_EVENT_STREAM]));
	if (consumer->checkpoints == NULL || position > consumer->checkpoints[partition].position)
		return false;
	state = consumer->any_parked ? parked_state(consumer, position, &handed_out) : NULL;
	return state == NULL || strcmp(state, ES_PARKED_SKIPPED) == 0;
}

/*
 * Write a checkpoint whose position has moved or of whose events some are put
 * aside now: go over those, too, and end the lease when nothing is left of it.
 */
static void
settle(EsConsumer *consumer, EsCheckpoint *checkpoint)
{
	bool		replays = false;

	if (consumer->any_parked)
	{
		EsLogRange	range = {checkpoint->position + 1, checkpoint->leased_to, PG_INT64_MAX, false};
		LeaseWalk	walk = {.consumer = consumer,
						  .partition = checkpoint->partition,
						  .context = CurrentMemoryContext};
		ListCell   *cell;

		es_row_receiver_init(&walk.receiver, walk_event);
		es_put_aside_load(consumer, checkpoint->partition, &walk.aside);
		if (range.first <= range.last)
		{
			PushActiveSnapshot(GetLatestSnapshot());
			es_log_read_feed(consumer->store, &range, NULL, NULL, &walk.receiver);
			PopActiveSnapshot();
		}
		if (!walk.undone)
			walk.passed = checkpoint->leased_to;
		foreach(cell, walk.waiting)
			es_parked_add(consumer->store, consumer->subscription, checkpoint->partition,
						  lfirst(cell), ES_PARKED_WAITING, NULL, 0);
		checkpoint->position = Max(checkpoint->position, walk.passed);
		if (walk.aside.held.skipped)
			es_lease_forget_skipped(consumer, checkpoint);
		replays = first_replay(consumer, checkpoint->partition, consumer->name) > 0;
	}

	if (checkpoint->position >= checkpoint->failed_position)
	{
		checkpoint->failed_position = 0;
		checkpoint->attempts = 0;
		checkpoint->retry_at = 0;
	}
	if (checkpoint->position >= checkpoint->leased_to && !replays)
		checkpoint->consumer = NULL;
	else
		checkpoint->leased_until = es_consumer_lease_end(consumer, GetCurrentTimestamp());
	es_checkpoint_write(consumer->store, consumer->subscription, checkpoint);
}

static bool
walk_event(TupleTableSlot *slot, DestReceiver *self)
{
	LeaseWalk  *walk = (LeaseWalk *) self;
	EsConsumer *consumer = walk->consumer;
	EsEvent		event;
	int64		position;
	text	   *stream;

	es_event_start_from_slot(&event, slot, ES_EVENT_TYPE + 1);
	position = DatumGetInt64(event.values[ES_EVENT_POSITION]);
	stream = DatumGetTextPP(event.values[ES_EVENT_STREAM]);
	if (es_subscription_wants(consumer->subscription, NULL, walk->partition,
							  DatumGetTextPP(event.values[ES_EVENT_TYPE]), stream) &&
		!es_put_aside_is_skipped(&walk->aside, position))
	{
		if (es_parked_is_held(&walk->aside.held, stream))
		{
			MemoryContext caller = MemoryContextSwitchTo(walk->context);

			walk->waiting = lappend(walk->waiting, es_put_aside_event(&event));
			MemoryContextSwitchTo(caller);
		}
		else
			walk->undone = true;
	}
	if (!walk->undone)
		walk->passed = position;
	return true;
}

static void
nack_new(EsConsumer *consumer, EsCheckpoint *checkpoint, const EsEvent *event, NackAction action,
		 const char *reason)
{
	int64		position = DatumGetInt64(event->values[ES_EVENT_POSITION]);
	int			attempts = checkpoint->failed_position == position ? checkpoint->attempts : 0;
	const char *error = NULL;

	if (action == NACK_RETRY)
	{
		attempts++;
		error = reason ? reason : psprintf("consumer \"%s\" wants it again", consumer->name);
		if (attempts > consumer->subscription->max_retries)
			action = NACK_PARK;
	}
	if (action == NACK_RETRY)
	{
		checkpoint->failed_position = position;
		checkpoint->attempts = attempts;
		checkpoint->retry_at = GetCurrentTimestamp() + es_checkpoint_backoff_ms(attempts) * 1000;
		if (consumer->any_parked)
			es_lease_drop_replays(consumer, checkpoint->partition, consumer->name);
		checkpoint->consumer = NULL;
		es_checkpoint_write(consumer->store, consumer->subscription, checkpoint);
	}
	else
	{
		es_parked_add(consumer->store, consumer->subscription, checkpoint->partition, event,
					  action == NACK_PARK ? ES_PARKED_PARKED : ES_PARKED_SKIPPED,
					  error ? error : reason, attempts);
		consumer->any_parked = true;
		if (checkpoint->failed_position == position)
			checkpoint->failed_position = 0;
		settle(consumer, checkpoint);
	}
	if (error)
		es_checkpoint_write_error(consumer->store, consumer->subscription, checkpoint->partition,
								  error);
}

/* Somebody wanted this one to be tried again: it is not tried more than once. */
static void
nack_replayed(EsConsumer *consumer, EsCheckpoint *checkpoint, int64 position, NackAction action,
			  const char *reason)
{
	if (action == NACK_SKIP)
	{
		Datum		values[] = {CStringGetTextDatum(consumer->subscription_name),
						  Int32GetDatum(checkpoint->partition),
						  CStringGetTextDatum(consumer->name), Int64GetDatum(position),
						  Int64GetDatum(position)};

		(void) es_spi_write(consumer->store, &finish_replays_plan, values, NULL);
	}
	else
		es_parked_fail(consumer->store, consumer->subscription, position,
					   reason ? reason : psprintf("consumer \"%s\" refused it", consumer->name));
	settle(consumer, checkpoint);
	if (action == NACK_SKIP)
		release(consumer, checkpoint->partition);
}

/* What waits behind nothing any more is replayed by whoever fetches next. */
static void
release(EsConsumer *consumer, int partition)
{
	if (es_parked_release(consumer->store, consumer->subscription, partition))
		es_wake_workers_at_end();
}

/* The first event that somebody was handed to be replayed; 0: none. */
static int64
first_replay(EsConsumer *consumer, int partition, const char *holder)
{
	Datum		values[] = {CStringGetTextDatum(consumer->subscription_name),
					  Int32GetDatum(partition), CStringGetTextDatum(holder)};
	int64		position = 0;
	bool		isnull;

	es_spi_read(consumer->store, &first_replay_plan, values, NULL, GetLatestSnapshot(), 1);
	if (SPI_processed > 0)
		position = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											   &isnull));
	SPI_freetuptable(SPI_tuptable);
	return position;
}

/* The first columns of the event at a position; NULL when there is none. */
static EsEvent *
read_event(EsConsumer *consumer, int64 position)
{
	EsLogRange	range = {position, position, 1, false};
	EventReader reader = {.context = CurrentMemoryContext};

	es_row_receiver_init(&reader.receiver, keep_event);
	PushActiveSnapshot(GetLatestSnapshot());
	es_log_read_feed(consumer->store, &range, NULL, NULL, &reader.receiver);
	PopActiveSnapshot();
	return reader.event;
}

static bool
keep_event(TupleTableSlot *slot, DestReceiver *self)
{
	EventReader *reader = (EventReader *) self;
	MemoryContext caller = MemoryContextSwitchTo(reader->context);
	EsEvent		event;

	es_event_start_from_slot(&event, slot, ES_EVENT_TYPE + 1);
	reader->event = es_put_aside_event(&event);
	MemoryContextSwitchTo(caller);
	return true;
}

/*
 * The state of the event at a position in parked_event; NULL when it is not
 * there.  handed_out: it was handed to this consumer to be replayed.
 */
static const char *
parked_state(EsConsumer *consumer, int64 position, bool *handed_out)
{
	Datum		values[] = {CStringGetTextDatum(consumer->subscription_name),
					  Int64GetDatum(position)};
	char	   *state = NULL;

	*handed_out = false;
	es_spi_read(consumer->store, &parked_state_plan, values, NULL, GetLatestSnapshot(), 1);
	if (SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		char	   *holder = SPI_getvalue(row, SPI_tuptable->tupdesc, 2);

		state = SPI_getvalue(row, SPI_tuptable->tupdesc, 1);
		*handed_out = strcmp(state, ES_PARKED_REPLAY) == 0 && holder &&
			strcmp(holder, consumer->name) == 0;
	}
	SPI_freetuptable(SPI_tuptable);
	return state;
}

static void
lost(const EsConsumer *consumer, int64 position)
{
	ereport(ERROR,
			(errcode(ERRCODE_ES_SUBSCRIPTION_LOST),
			 consumer->lost ?
				 errmsg("consumer \"%s\" of subscription \"%s\" has lost a lease", consumer->name,
						consumer->subscription_name) :
				 errmsg("consumer \"%s\" holds no lease of subscription \"%s\"", consumer->name,
						consumer->subscription_name),
			 errdetail("subscription \"%s\" consumer \"%s\" position %lld",
					   consumer->subscription_name, consumer->name, (long long) position),
			 errhint("Fetch again: what is not acknowledged comes again, to whoever fetches it.")));
}

static void
not_handed_out(const EsConsumer *consumer, int64 position)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("consumer \"%s\" of subscription \"%s\" has no event at position %lld to refuse",
					consumer->name, consumer->subscription_name, (long long) position),
			 errhint("Refuse an event that was fetched and is not acknowledged.")));
}
