/*-------------------------------------------------------------------------
 *
 * consumer.c
 *		Consumers: handing out the events of a subscription.
 *
 * A fetch is a scan of the feed from the lowest checkpoint on.  The first event
 * of a partition that nobody works on makes the consumer take the partition, as
 * long as it has no more than its fair share of them: the scan stops, the
 * partition's lock is taken and its checkpoint read under it, and the scan goes
 * on at that event.  So nothing is locked that there is no work for, and what
 * is oldest comes first.  Where there is one partition, it is locked before.
 *
 * What a consumer was handed and has not acknowledged is outstanding, and comes
 * again with every fetch.  An acknowledgement speaks of all that was handed out
 * up to a position, so two things must hold, whichever answers get lost:
 *
 * - A batch has in it all that is outstanding up to its last position.  Hence it
 *   ends before the first event of an own partition that cannot be locked.
 * - Nothing new is handed out below a position that is outstanding: it would be
 *   acknowledged by somebody who means what he got before.  Where there is such
 *   an event, or an event to be replayed, nothing new is handed out at all until
 *   the consumer has acknowledged what it has ("drain").
 *
 * Nothing is written before the scan is over, and locks under which nothing was
 * written are let go, so that a fetch can wait for events without being in
 * anybody's way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "catalog/pg_type.h"
#include "event_set.h"
#include "feed.h"
#include "funcapi.h"
#include "lease.h"
#include "log.h"
#include "miscadmin.h"
#include "row_receiver.h"
#include "spi_plan.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "wake.h"

/* After so many rows a batch is handed out though it is not full. */
#define MANY_ROWS	100000

/* So many rows on, a partition that found nothing among them is moved on. */
#define IDLE_ROWS	1000

/* How often to look when others are in the way, who wake nobody. */
#define LOOK_AGAIN_MS	1000

/* What a fetch may do with a partition. */
typedef enum PartitionUse
{
	NOT_OURS,					/* nothing: it is somebody else's, or has to wait */
	FREE,						/* take it when it has an event */
	OURS,						/* the same, and it must not be left out */
	OUT_OF_REACH,				/* ours, and locked by somebody */
	TAKEN						/* we hold its lock and know its checkpoint */
} PartitionUse;

typedef struct Partition
{
	EsCheckpoint *checkpoint;
	PartitionUse use;
	bool		locked;
	bool		written;		/* something was: the lock stays */
	bool		acked;			/* its checkpoint has moved and must be written */

	/* known from round to round */
	int64		position;		/* the checkpoint when this was known: */
	int64		nothing_to;		/* up to here there is no event for it */

	/* once it is taken */
	int64		outstanding_to; /* what we were handed before; 0: nothing */
	EsPutAside	aside;
	const char *expired;		/* whose lease we have taken over, until that is counted */
	const char *loser;			/* the same if it is not ourselves */
	bool		one_event;		/* an event is under suspicion: one at a time */
	bool		closed;			/* nothing of it comes into this batch any more */
	int64		passed;			/* up to here all was looked at and is done or put aside */
	int			count;			/* events handed out */
	int64		last;			/* the last of them */
	const char *error;			/* to be written */
} Partition;

/* An event that is put aside when the scan is over. */
typedef struct Aside
{
	EsEvent    *event;
	int			partition;
	const char *state;
	const char *reason;
	int			attempts;
} Aside;

typedef struct Fetch
{
	DestReceiver receiver;		/* of the scan */
	EsConsumer	consumer;
	MemoryContext lasting;		/* of the call */
	MemoryContext context;		/* of a round */
	EsSubscription *subscription;	/* as it is in this round */
	Tuplestorestate *result;
	int			max_count;
	int64		ack;			/* up to here it is done; 0: nothing, or it is written */
	bool		last_round;		/* there will be no other: write down what was found out */

	/* a round */
	int64		mark;
	Partition  *partitions;
	int			leases;			/* partitions that are ours */
	int			share;			/* as many may be */
	int64		outstanding_to; /* highest position that we were handed before; 0: none */
	bool		drain;			/* hand out nothing new */
	bool		by_name;		/* it matters of which stream and type an event is */
	bool		anew;			/* things are not what we took them for: begin anew */
	bool		recalled;		/* the checkpoint was not read: it is what the session remembers */
	EsCheckpoint memory;		/* if so, that */
	int			count;			/* events handed out */
	int			wanted;			/* the partition to take, -1: none */
	int64		wanted_at;		/* for this event */
	bool		full;			/* the scan ended before the mark */
	int64		last_read;
	int64		rows;
	List	   *asides;			/* Aside * */
	bool		wrote;
	TimestampTz next_time;		/* when there may be more; 0: not before events come */
} Fetch;

/* What it has lost, it knows of now, as far as we knew of it. */
static const EsPlanSpec register_plan = {
	"INSERT INTO @store@.consumer AS c (subscription, name, seen_at) VALUES ($1, $2, $3)"
	" ON CONFLICT (subscription, name) DO UPDATE"
	" SET seen_at = excluded.seen_at, lost = c.lost AND NOT $4",
	4,
	{TEXTOID, TEXTOID, TIMESTAMPTZOID, BOOLOID},
};

static const EsPlanSpec lose_plan = {
	"INSERT INTO @store@.consumer AS c (subscription, name, seen_at, lost)"
	" VALUES ($1, $2, '-infinity', true)"
	" ON CONFLICT (subscription, name) DO UPDATE SET lost = true WHERE NOT c.lost",
	2,
	{TEXTOID, TEXTOID},
};

static const EsPlanSpec replays_plan = {
	"SELECT position::pg_catalog.int8, partition::pg_catalog.int4,"
	" COALESCE(consumer OPERATOR(pg_catalog.=) $2, false)"
	" FROM @store@.parked_event WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND state OPERATOR(pg_catalog.=) 'replay'"
	" AND partition OPERATOR(pg_catalog.=) ANY ($3) ORDER BY 3 DESC, 1 LIMIT $4",
	4,
	{TEXTOID, TEXTOID, INT4ARRAYOID, INT8OID},
};

static const EsPlanSpec hand_out_plan = {
	"UPDATE @store@.parked_event SET consumer = $2"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND position OPERATOR(pg_catalog.=) ANY ($3)",
	3,
	{TEXTOID, TEXTOID, INT8ARRAYOID},
};

static TimestampTz wait_argument(FunctionCallInfo fcinfo, int arg);
static void fetch_or_wait(Fetch *fetch, TimestampTz deadline);
static void wait_and_fetch(Fetch *fetch, TimestampTz deadline);
static bool fetch_round(Fetch *fetch);
static bool begin_round(Fetch *fetch);
static bool acknowledge(Fetch *fetch, bool locked);
static void look_instead(Fetch *fetch);
static void classify(Fetch *fetch, Partition *partition);
static bool has_to_wait(Fetch *fetch, const EsCheckpoint *checkpoint);
static bool has_expired(const EsConsumer *consumer, const EsCheckpoint *checkpoint);
static bool is_candidate(const Fetch *fetch, const Partition *partition);
static void come_back(Fetch *fetch, TimestampTz time);
static void look_again_soon(Fetch *fetch);
static void out_of_reach(Fetch *fetch, Partition *partition);
static bool nothing_to_read(const Fetch *fetch, const Partition *partition);
static bool take(Fetch *fetch, int number);
static void hand_out_replays(Fetch *fetch);
static uint64 select_replays(Fetch *fetch);
static bool take_for_replays(Fetch *fetch);
static bool hand_out_replay(TupleTableSlot *slot, DestReceiver *self);
static void scan_feed(Fetch *fetch);
static bool scan_event(TupleTableSlot *slot, DestReceiver *self);
static bool consider(Fetch *fetch, int number, const EsEvent *event, TupleTableSlot *slot);
static bool count_expiry(Fetch *fetch, Partition *partition, const EsEvent *event);
static void put_aside(Fetch *fetch, int number, const EsEvent *event, const char *state,
					  const char *reason, int attempts);
static void hand_out(Fetch *fetch, Partition *partition, int64 position, TupleTableSlot *slot);
static void write_down(Fetch *fetch);
static void write_partition(Fetch *fetch, Partition *partition);
static void move_idle(Fetch *fetch);
static void end_round(Fetch *fetch);
static void write_lost(Fetch *fetch, const char *loser);
static void write_seen(Fetch *fetch);

PG_FUNCTION_INFO_V1(es_fetch);

/*
 * es_fetch(name text, consumer text, max_count int, wait interval, ack bigint)
 * returns setof es_event
 */
Datum
es_fetch(PG_FUNCTION_ARGS)
{
	Fetch		state = {0};
	TimestampTz deadline;
	int64		ack = 0;

	es_consumer_begin(fcinfo, &state.consumer);
	state.max_count = es_argument_count(fcinfo, 2, "max_count", 1, PG_INT32_MAX);
	deadline = wait_argument(fcinfo, 3);
	/* 0: nothing is done yet, as in the first call of a loop */
	if (!PG_ARGISNULL(4) && PG_GETARG_INT64(4) != 0)
		ack = es_lease_position_argument(fcinfo, 4);
	(void) es_event_set_begin(fcinfo);
	state.result = ((ReturnSetInfo *) fcinfo->resultinfo)->setResult;
	es_row_receiver_init(&state.receiver, scan_event);

	SPI_connect();
	state.lasting = CurrentMemoryContext;
	state.context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing fetch",
										  ALLOCSET_DEFAULT_SIZES);
	state.ack = ack;
	fetch_or_wait(&state, deadline);
	write_seen(&state);
	SPI_finish();
	return (Datum) 0;
}

/* Until when to wait for events; 0: not at all. */
static TimestampTz
wait_argument(FunctionCallInfo fcinfo, int arg)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz deadline;

	if (PG_ARGISNULL(arg))
		return 0;
	deadline = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
													   TimestampTzGetDatum(now),
													   PG_GETARG_DATUM(arg)));
	return deadline > now ? deadline : 0;
}

static void
fetch_or_wait(Fetch *fetch, TimestampTz deadline)
{
	fetch->last_round = (deadline == 0);
	if (fetch_round(fetch) || fetch->last_round)
		return;

	es_wait_begin(ES_WAIT_FOR_EVENTS);
	PG_TRY();
	{
		wait_and_fetch(fetch, deadline);
	}
	PG_FINALLY();
	{
		es_wait_end();
	}
	PG_END_TRY();
}

static void
wait_and_fetch(Fetch *fetch, TimestampTz deadline)
{
	for (;;)
	{
		TimestampTz until = deadline;

		if (fetch_round(fetch) || fetch->last_round)
			return;
		if (fetch->next_time != 0)
			until = Min(until, fetch->next_time);
		es_wait_sleep(ES_WAIT_FOR_EVENTS,
					  Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), until), 1));
		fetch->last_round = GetCurrentTimestamp() >= deadline;
	}
}

/* Returns whether it came to anything that has to be committed. */
static bool
fetch_round(Fetch *fetch)
{
	do
	{
		CHECK_FOR_INTERRUPTS();
		if (!begin_round(fetch))
			return false;
		PushActiveSnapshot(GetLatestSnapshot());
		if (fetch->consumer.any_parked && !fetch->anew)
			hand_out_replays(fetch);
		if (fetch->count == 0 && !fetch->anew)
			scan_feed(fetch);
		PopActiveSnapshot();
		if (fetch->recalled && fetch->count == 0)
			look_instead(fetch);
		if (!fetch->anew)
			write_down(fetch);
		end_round(fetch);
	} while (fetch->anew);
	fetch->ack = 0;
	return fetch->count > 0 || fetch->wrote;
}

/*
 * The mark, and only then the snapshot that the checkpoints are read with.  The
 * one partition that there is mostly is locked first, so that its checkpoint
 * need not be read again.  False when there is nothing to do.
 */
static bool
begin_round(Fetch *fetch)
{
	EsConsumer *consumer = &fetch->consumer;
	int			partitions;
	bool		locked = false;
	bool		acked = false;

	MemoryContextReset(fetch->context);
	tuplestore_clear(fetch->result);
	fetch->count = 0;
	fetch->leases = 0;
	fetch->outstanding_to = 0;
	fetch->anew = fetch->full = false;
	fetch->last_read = fetch->rows = 0;
	fetch->asides = NIL;
	fetch->next_time = 0;
	(void) es_consumer_subscription(consumer);
	partitions = consumer->subscription->partitions;
	if (fetch->subscription == NULL ||
		!es_subscription_is_same(consumer->subscription, fetch->subscription))
		fetch->partitions = MemoryContextAllocZero(fetch->lasting,
												   partitions * sizeof(Partition));
	fetch->subscription = consumer->subscription;
	if (fetch->subscription->paused)
	{
		look_again_soon(fetch);
		return false;
	}

	fetch->mark = es_feed_high_water(consumer->store);
	if (partitions == 1)
	{
		locked = es_checkpoint_lock(consumer->store, fetch->subscription, 0, false);
		fetch->anew = es_consumer_subscription(consumer);
	}
	MemoryContextSwitchTo(fetch->context);
	fetch->recalled = locked && fetch->ack != 0 && !fetch->anew && es_lease_recall(consumer);
	if (fetch->recalled)
		fetch->memory = consumer->checkpoints[0];
	else
		es_consumer_look(consumer, partitions > 1);
	if (fetch->ack != 0 && !fetch->anew)
		acked = acknowledge(fetch, locked);
	if (fetch->anew)
	{
		/* the checkpoints are those of another subscription */
		memset(fetch->partitions, 0, partitions * sizeof(Partition));
		fetch->partitions[0].locked = locked;
		return true;
	}
	fetch->share = (partitions + consumer->others) / (consumer->others + 1);
	for (int i = 0; i < partitions; i++)
	{
		Partition  *partition = &fetch->partitions[i];
		int64		position = consumer->checkpoints[i].position;
		int64		nothing_to = partition->position == position ? partition->nothing_to : 0;

		memset(partition, 0, sizeof(*partition));
		partition->checkpoint = &consumer->checkpoints[i];
		partition->position = position;
		partition->nothing_to = nothing_to;
		partition->locked = locked;
		partition->acked = acked;
		classify(fetch, partition);
		if (partitions == 1 && !locked && partition->use != NOT_OURS)
			out_of_reach(fetch, partition);
	}
	fetch->drain = fetch->leases > fetch->share;
	fetch->by_name = partitions > 1 || consumer->any_parked ||
		!es_filter_selects_all(&fetch->subscription->filter) ||
		has_expired(consumer, &consumer->checkpoints[0]);
	return true;
}

/*
 * Acknowledge what was fetched before.  Mostly there is one partition, which is
 * ours, and nothing put aside: then its checkpoint moves here, is written together
 * with the next lease, and true is returned.
 */
static bool
acknowledge(Fetch *fetch, bool locked)
{
	EsConsumer *consumer = &fetch->consumer;
	EsCheckpoint *checkpoint = &consumer->checkpoints[0];
	int64		ack = fetch->ack;
	int64		before = checkpoint->position;

	if (!locked || consumer->any_parked || consumer->lost ||
		!es_consumer_holds(consumer, checkpoint))
	{
		fetch->ack = 0;
		/* what is written must be committed, and not wait for events */
		if (es_lease_acknowledge(consumer, ack))
			fetch->last_round = true;
		/* it may have waited for a lock of whoever has defined it anew */
		fetch->anew = !es_subscription_is_same(consumer->subscription, fetch->subscription);
		MemoryContextSwitchTo(fetch->context);
		if (!fetch->anew)
			es_consumer_look(consumer, fetch->subscription->partitions > 1);
		return false;
	}
	checkpoint->position = Max(before, Min(ack, checkpoint->leased_to));
	if (checkpoint->position == before)
		return false;
	if (checkpoint->position >= checkpoint->leased_to)
		checkpoint->consumer = NULL;
	return true;
}

/* What the session remembers is not enough, or not so any more. */
static void
look_instead(Fetch *fetch)
{
	es_lease_forget(&fetch->consumer);
	fetch->anew = true;
}

static void
classify(Fetch *fetch, Partition *partition)
{
	const EsCheckpoint *checkpoint = partition->checkpoint;
	bool		ours = es_consumer_holds(&fetch->consumer, checkpoint);

	if (ours)
	{
		fetch->leases++;
		if (checkpoint->leased_to > checkpoint->position)
			fetch->outstanding_to = Max(fetch->outstanding_to, checkpoint->leased_to);
	}
	if (has_to_wait(fetch, checkpoint))
		partition->use = ours ? OUT_OF_REACH : NOT_OURS;
	else
		partition->use = ours ? OURS : FREE;
}

/* Whether it is somebody else's, stopped, or to be tried later. */
static bool
has_to_wait(Fetch *fetch, const EsCheckpoint *checkpoint)
{
	TimestampTz now = fetch->consumer.now;

	if (checkpoint->stopped)
		return true;
	if (checkpoint->retry_at > now)
	{
		come_back(fetch, checkpoint->retry_at);
		return true;
	}
	if (checkpoint->consumer && checkpoint->leased_until > now &&
		!es_consumer_holds(&fetch->consumer, checkpoint))
	{
		come_back(fetch, checkpoint->leased_until);
		look_again_soon(fetch); /* it may end sooner */
		return true;
	}
	return false;
}

static bool
has_expired(const EsConsumer *consumer, const EsCheckpoint *checkpoint)
{
	return checkpoint->consumer && checkpoint->leased_until <= consumer->now;
}

/* Whether its events are to be looked for. */
static bool
is_candidate(const Fetch *fetch, const Partition *partition)
{
	return partition->use == OURS || partition->use == TAKEN ||
		partition->use == OUT_OF_REACH ||
		(partition->use == FREE && fetch->leases < fetch->share);
}

static void
come_back(Fetch *fetch, TimestampTz time)
{
	if (fetch->next_time == 0 || time < fetch->next_time)
		fetch->next_time = time;
}

static void
look_again_soon(Fetch *fetch)
{
	come_back(fetch, GetCurrentTimestamp() + LOOK_AGAIN_MS * INT64CONST(1000));
}

static void
out_of_reach(Fetch *fetch, Partition *partition)
{
	partition->use = partition->use == OURS ? OUT_OF_REACH : NOT_OURS;
	look_again_soon(fetch);
}

/* Whether taking it needs no look at the store, and so can be done in the midst of a scan. */
static bool
nothing_to_read(const Fetch *fetch, const Partition *partition)
{
	return partition->locked && !fetch->consumer.any_parked;
}

/* Take a partition, of which we know how it was; false when it is not to be had. */
static bool
take(Fetch *fetch, int number)
{
	EsConsumer *consumer = &fetch->consumer;
	Partition  *partition = &fetch->partitions[number];
	EsCheckpoint *checkpoint = partition->checkpoint;
	bool		was_ours = (partition->use == OURS);
	bool		ours;

	if (!partition->locked)
	{
		if (!es_checkpoint_lock(consumer->store, fetch->subscription, number, false))
		{
			out_of_reach(fetch, partition);
			return false;
		}
		partition->locked = true;
		fetch->anew = es_consumer_subscription(consumer);
		if (fetch->anew)
			return false;
		MemoryContextSwitchTo(fetch->context);
		es_checkpoint_read(consumer->store, fetch->subscription, number, checkpoint);
		if (has_to_wait(fetch, checkpoint))
		{
			partition->use = NOT_OURS;
			return false;
		}
	}

	ours = es_consumer_holds(consumer, checkpoint);
	if (!was_ours)
		fetch->leases++;
	partition->use = TAKEN;
	partition->outstanding_to = ours ? checkpoint->leased_to : 0;
	partition->one_event = checkpoint->failed_position > checkpoint->position &&
		checkpoint->retry_at == 0;
	if (has_expired(consumer, checkpoint))
	{
		partition->expired = checkpoint->consumer;
		partition->loser = ours ? NULL : checkpoint->consumer;
	}
	if (consumer->any_parked)
	{
		if (partition->expired &&
			es_lease_fail_replays(consumer, number, partition->expired,
								  psprintf("the lease of consumer \"%s\" expired",
										   partition->expired)))
		{
			partition->expired = NULL;
			partition->written = true;
		}
		es_put_aside_load(consumer, number, &partition->aside);
	}
	return true;
}

/*
 * Events that are to be replayed come alone: first those that we were handed
 * before, else new ones, which are not mixed with anything outstanding.
 */
static void
hand_out_replays(Fetch *fetch)
{
	EsConsumer *consumer = &fetch->consumer;
	Datum	   *positions;
	uint64		nrows;
	SPITupleTable *rows;
	Datum		values[3];

	if (fetch->outstanding_to > 0)
	{
		fetch->drain |= select_replays(fetch) > 0;
		SPI_freetuptable(SPI_tuptable);
		return;
	}

	/* taking a partition may put something aside again */
	do
	{
		if (select_replays(fetch) == 0)
		{
			SPI_freetuptable(SPI_tuptable);
			return;
		}
	} while (take_for_replays(fetch) && !fetch->anew);
	if (fetch->anew)
		return;

	nrows = select_replays(fetch);
	rows = SPI_tuptable;
	positions = palloc(nrows * sizeof(Datum));
	fetch->receiver.receiveSlot = hand_out_replay;
	for (uint64 i = 0; i < nrows; i++)
	{
		bool		isnull;
		Datum		position = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull);
		int			number = DatumGetInt32(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull));
		bool		again = DatumGetBool(SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &isnull));
		EsLogRange	range = {DatumGetInt64(position), DatumGetInt64(position), 1, false};
		int			before = fetch->count;

		if (i > 0 && !again &&
			DatumGetBool(SPI_getbinval(rows->vals[0], rows->tupdesc, 3, &isnull)))
			break;
		if (again && fetch->partitions[number].use == OUT_OF_REACH)
			break;
		if (fetch->partitions[number].use != TAKEN)
			continue;
		fetch->wanted = number;
		es_log_read_feed(consumer->store, &range, NULL, NULL, &fetch->receiver);
		if (fetch->count > before)
			positions[before] = position;
		else
			es_parked_remove(consumer->store, fetch->subscription, range.first);
	}
	fetch->receiver.receiveSlot = scan_event;
	SPI_freetuptable(rows);
	if (fetch->count == 0)
		return;

	values[0] = CStringGetTextDatum(consumer->subscription_name);
	values[1] = CStringGetTextDatum(consumer->name);
	values[2] = PointerGetDatum(construct_array(positions, fetch->count, INT8OID, sizeof(int64),
												FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) es_spi_write(consumer->store, &hand_out_plan, values, NULL);
}

/* Positions and partitions of what there is to replay for us, and whether it comes again. */
static uint64
select_replays(Fetch *fetch)
{
	int			partitions = fetch->subscription->partitions;
	Datum	   *numbers = palloc(partitions * sizeof(Datum));
	int			n = 0;
	Datum		values[4];

	for (int i = 0; i < partitions; i++)
		if (is_candidate(fetch, &fetch->partitions[i]))
			numbers[n++] = Int32GetDatum(i);
	values[0] = CStringGetTextDatum(fetch->consumer.subscription_name);
	values[1] = CStringGetTextDatum(fetch->consumer.name);
	values[2] = PointerGetDatum(construct_array(numbers, n, INT4OID, sizeof(int32), true,
												TYPALIGN_INT));
	values[3] = Int64GetDatum(fetch->max_count);
	es_spi_read(fetch->consumer.store, &replays_plan, values, NULL, GetLatestSnapshot(), 0);
	MemoryContextSwitchTo(fetch->context);
	return SPI_processed;
}

/* Take the partitions of what was selected; returns whether that has to be done again. */
static bool
take_for_replays(Fetch *fetch)
{
	SPITupleTable *rows = SPI_tuptable;
	uint64		nrows = SPI_processed;
	bool		again = false;

	for (uint64 i = 0; i < nrows && !fetch->anew; i++)
	{
		bool		isnull;
		int			number = DatumGetInt32(SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isnull));
		Partition  *partition = &fetch->partitions[number];

		if (partition->use != TAKEN && partition->use != OUT_OF_REACH &&
			is_candidate(fetch, partition))
			again |= take(fetch, number) && partition->written;
	}
	SPI_freetuptable(rows);
	return again;
}

static bool
hand_out_replay(TupleTableSlot *slot, DestReceiver *self)
{
	Fetch	   *fetch = (Fetch *) self;
	Partition  *partition = &fetch->partitions[fetch->wanted];

	/* no more than the checkpoint, which does not wait for it, is leased */
	hand_out(fetch, partition, partition->checkpoint->position, slot);
	return true;
}

static void
scan_feed(Fetch *fetch)
{
	EsLogRange	range = {PG_INT64_MAX, fetch->mark, PG_INT64_MAX, false};

	for (int i = 0; i < fetch->subscription->partitions; i++)
	{
		const Partition *partition = &fetch->partitions[i];
		int64		known = Max(partition->checkpoint->position, partition->nothing_to);

		if (is_candidate(fetch, partition))
			range.first = Min(range.first, known + 1);
	}
	while (range.first <= range.last && !fetch->full && !fetch->anew)
	{
		fetch->wanted = -1;
		es_log_read_feed(fetch->consumer.store, &range, NULL, NULL, &fetch->receiver);
		if (fetch->wanted < 0)
			break;
		(void) take(fetch, fetch->wanted);
		range.first = fetch->wanted_at;
	}
}

static bool
scan_event(TupleTableSlot *slot, DestReceiver *self)
{
	Fetch	   *fetch = (Fetch *) self;
	EsSubscription *subscription = fetch->subscription;
	EsEvent		event;
	int64		position;
	text	   *stream;
	int			number;
	Partition  *partition;

	es_event_start_from_slot(&event, slot,
							 (fetch->by_name ? ES_EVENT_TYPE : ES_EVENT_POSITION) + 1);
	position = DatumGetInt64(event.values[ES_EVENT_POSITION]);
	stream = fetch->by_name ? DatumGetTextPP(event.values[ES_EVENT_STREAM]) : NULL;
	number = fetch->by_name ? es_subscription_partition(subscription, stream) : 0;
	partition = &fetch->partitions[number];
	if (partition->use != NOT_OURS && !partition->closed &&
		position > partition->checkpoint->position &&
		(!fetch->by_name ||
		 es_filter_selects(&subscription->filter, DatumGetTextPP(event.values[ES_EVENT_TYPE]),
						   stream)) &&
		!consider(fetch, number, &event, slot))
		return false;
	fetch->last_read = position;
	fetch->rows++;
	fetch->full = fetch->count >= fetch->max_count ||
		(fetch->count > 0 && fetch->rows >= MANY_ROWS);
	return !fetch->full;
}

/* Do with an event of the subscription what is to be done; false ends the scan before it. */
static bool
consider(Fetch *fetch, int number, const EsEvent *event, TupleTableSlot *slot)
{
	Partition  *partition = &fetch->partitions[number];
	int64		position = DatumGetInt64(event->values[ES_EVENT_POSITION]);
	bool		may_be_new = !fetch->drain && position > fetch->outstanding_to;

	if (partition->use == OUT_OF_REACH ||
		(fetch->drain && position > fetch->outstanding_to && fetch->count > 0))
	{
		fetch->full = true;
		return false;
	}
	if (partition->use == FREE && fetch->leases >= fetch->share)
	{
		partition->use = NOT_OURS;
		return true;
	}
	if (partition->use == FREE && !may_be_new)
	{
		fetch->drain = true;
		partition->use = NOT_OURS;
		return true;
	}
	if (partition->use != TAKEN)
	{
		if (!nothing_to_read(fetch, partition))
		{
			fetch->wanted = number;
			fetch->wanted_at = position;
			return false;
		}
		(void) take(fetch, number);
	}

	if (es_put_aside_is_skipped(&partition->aside, position))
		return true;
	if (fetch->by_name &&
		es_parked_is_held(&partition->aside.held, DatumGetTextPP(event->values[ES_EVENT_STREAM])))
	{
		put_aside(fetch, number, event, ES_PARKED_WAITING, NULL, 0);
		return true;
	}
	if (position > partition->outstanding_to && !may_be_new)
	{
		fetch->drain = partition->closed = true;
		partition->passed = fetch->last_read;
	}
	else if (partition->one_event && partition->count > 0)
		partition->closed = true;
	else if (!partition->expired || !count_expiry(fetch, partition, event))
		hand_out(fetch, partition, position, slot);
	return true;
}

/*
 * The first event of an expired lease that is not done may be the one that the
 * consumer died of.  From now on it comes alone; after too many attempts it is
 * parked, and true is returned.
 */
static bool
count_expiry(Fetch *fetch, Partition *partition, const EsEvent *event)
{
	EsCheckpoint *checkpoint = partition->checkpoint;
	int64		position = DatumGetInt64(event->values[ES_EVENT_POSITION]);
	MemoryContext caller;

	if (position > checkpoint->leased_to)
	{
		partition->expired = NULL;	/* it had nothing left to do */
		return false;
	}
	caller = MemoryContextSwitchTo(fetch->context);
	partition->error = psprintf("the lease of consumer \"%s\" expired", partition->expired);
	partition->expired = NULL;
	checkpoint->attempts = checkpoint->failed_position == position ? checkpoint->attempts + 1 : 1;
	checkpoint->failed_position = position;
	checkpoint->retry_at = 0;
	partition->one_event = true;
	if (checkpoint->attempts > fetch->subscription->max_retries)
	{
		put_aside(fetch, checkpoint->partition, event, ES_PARKED_PARKED, partition->error,
				  checkpoint->attempts);
		es_parked_hold(&partition->aside.held, DatumGetTextPP(event->values[ES_EVENT_STREAM]));
		checkpoint->attempts = 0;
		checkpoint->failed_position = 0;
		partition->one_event = false;
	}
	MemoryContextSwitchTo(caller);
	return checkpoint->failed_position == 0;
}

static void
put_aside(Fetch *fetch, int number, const EsEvent *event, const char *state, const char *reason,
		  int attempts)
{
	MemoryContext caller = MemoryContextSwitchTo(fetch->context);
	Aside	   *aside = palloc(sizeof(Aside));

	aside->event = es_put_aside_event(event);
	aside->partition = number;
	aside->state = state;
	aside->reason = reason;
	aside->attempts = attempts;
	fetch->asides = lappend(fetch->asides, aside);
	MemoryContextSwitchTo(caller);
}

static void
hand_out(Fetch *fetch, Partition *partition, int64 position, TupleTableSlot *slot)
{
	tuplestore_puttupleslot(fetch->result, slot);
	fetch->count++;
	partition->count++;
	partition->last = position;
}

static void
write_down(Fetch *fetch)
{
	EsConsumer *consumer = &fetch->consumer;
	int			partitions = fetch->subscription->partitions;
	ListCell   *cell;

	foreach(cell, fetch->asides)
	{
		const Aside *aside = lfirst(cell);

		es_parked_add(consumer->store, fetch->subscription, aside->partition, aside->event,
					  aside->state, aside->reason, aside->attempts);
		fetch->partitions[aside->partition].written = true;
	}
	for (int i = 0; i < partitions; i++)
	{
		Partition  *partition = &fetch->partitions[i];

		if (partition->use != TAKEN && !partition->acked)
			continue;
		if (partition->use != TAKEN)
			partition->passed = partition->checkpoint->position;
		else if (!partition->closed)
			partition->passed = fetch->last_read;
		write_partition(fetch, partition);
	}
	if ((fetch->last_round && fetch->count == 0) || fetch->rows >= IDLE_ROWS)
		move_idle(fetch);
	else if (fetch->count == 0 && !fetch->full)
		for (int i = 0; i < partitions; i++)
			if (fetch->partitions[i].use == FREE && is_candidate(fetch, &fetch->partitions[i]))
				fetch->partitions[i].nothing_to = Max(fetch->partitions[i].nothing_to,
													  fetch->last_read);
}

/*
 * The lease of what was handed out; or, if everything of the partition that was
 * read is done or put aside, the checkpoint after it.
 */
static void
write_partition(Fetch *fetch, Partition *partition)
{
	EsConsumer *consumer = &fetch->consumer;
	EsCheckpoint *checkpoint = partition->checkpoint;
	bool		lease = partition->count > 0;
	int64		before = checkpoint->position;

	if (!lease)
		checkpoint->position = Max(checkpoint->position, partition->passed);
	if (checkpoint->position >= checkpoint->failed_position)
	{
		checkpoint->failed_position = 0;
		checkpoint->attempts = 0;
		checkpoint->retry_at = 0;
	}
	if (lease || checkpoint->position < partition->outstanding_to)
	{
		/* one at a time: what was handed out before besides is not outstanding any more */
		checkpoint->leased_to = partition->last;
		if (!partition->one_event || !lease)
			checkpoint->leased_to = Max(partition->last, partition->outstanding_to);
		checkpoint->leased_until = es_consumer_lease_end(consumer, GetCurrentTimestamp());
		checkpoint->consumer = consumer->name;
	}
	else if (checkpoint->position == before && !partition->error && !partition->written &&
			 !partition->acked && (checkpoint->consumer == NULL || partition->expired))
		return;
	else
		checkpoint->consumer = NULL;
	if (!fetch->recalled)
		es_checkpoint_write(consumer->store, fetch->subscription, checkpoint);
	else if (!es_checkpoint_renew(consumer->store, fetch->subscription, checkpoint,
								  &fetch->memory))
	{
		look_instead(fetch);
		return;
	}
	if (fetch->subscription->partitions == 1 && lease && checkpoint->failed_position == 0 &&
		!consumer->any_parked && fetch->asides == NIL && !consumer->lost)
		es_lease_remember(consumer, checkpoint);
	if (partition->error)
		es_checkpoint_write_error(consumer->store, fetch->subscription, checkpoint->partition,
								  partition->error);
	if (partition->loser)
		write_lost(fetch, partition->loser);
	if (partition->aside.held.skipped && checkpoint->position > before)
		es_lease_forget_skipped(consumer, checkpoint);
	partition->written = true;
}

/*
 * Partitions for which nothing was found go on after the last event that was
 * read, so that it is not read again and again.
 */
static void
move_idle(Fetch *fetch)
{
	for (int i = 0; i < fetch->subscription->partitions; i++)
	{
		Partition  *partition = &fetch->partitions[i];
		int64		to = Max(fetch->last_read, partition->nothing_to);
		int			leases = fetch->leases;

		if ((partition->use != FREE && partition->use != OURS) || !is_candidate(fetch, partition) ||
			partition->checkpoint->position >= to)
			continue;
		if (!take(fetch, i))
		{
			if (!fetch->anew)
				continue;
			fetch->anew = false;	/* what is handed out stays so */
			return;
		}
		/* under the lock it is as we saw it, or it can wait */
		if (partition->checkpoint->position == partition->position &&
			(!partition->expired || partition->checkpoint->leased_to <= to))
		{
			partition->passed = to;
			write_partition(fetch, partition);
		}
		fetch->leases = leases; /* this is none */
	}
}

/* Locks under which something was written are kept to the end of the transaction. */
static void
end_round(Fetch *fetch)
{
	EsConsumer *consumer = &fetch->consumer;

	for (int i = 0; i < fetch->subscription->partitions; i++)
	{
		Partition  *partition = &fetch->partitions[i];

		fetch->wrote |= partition->written;
		if (partition->locked && !partition->written)
			es_checkpoint_unlock(consumer->store, fetch->subscription, i);
	}
}

/* Whoever held the lease must not say that its events are done: he has to fetch first. */
static void
write_lost(Fetch *fetch, const char *loser)
{
	Datum		values[] = {CStringGetTextDatum(fetch->consumer.subscription_name),
					  CStringGetTextDatum(loser)};

	(void) es_spi_write(fetch->consumer.store, &lose_plan, values, NULL);
}

/*
 * Write down that the consumer is there, from time to time.  With one partition
 * there is nothing to be shared, and nobody needs to know.
 */
static void
write_seen(Fetch *fetch)
{
	EsConsumer *consumer = &fetch->consumer;
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[4];

	/* paused: we have not even looked */
	if (consumer->checkpoints == NULL ||
		(!consumer->lost && fetch->subscription->partitions == 1) ||
		(!consumer->lost &&
		 now - consumer->seen_at < (es_consumer_lease_end(consumer, now) - now) / 3))
		return;
	values[0] = CStringGetTextDatum(consumer->subscription_name);
	values[1] = CStringGetTextDatum(consumer->name);
	values[2] = TimestampTzGetDatum(now);
	values[3] = BoolGetDatum(consumer->lost);
	(void) es_spi_write(consumer->store, &register_plan, values, NULL);
}
