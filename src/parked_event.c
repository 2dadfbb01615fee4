/*-------------------------------------------------------------------------
 *
 * parked_event.c
 *		Parked events: what a subscription has put aside.
 *
 * An event that fails again and again is put aside, and so are, from then on,
 * the later events of its stream: their order is kept, and everybody else goes
 * on.  The log itself is never changed: a row here names an event by its
 * position.  Whoever replays takes the rows in the order of their positions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "argument.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "parked_event.h"
#include "run.h"
#include "run_as.h"
#include "spi_plan.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "wake.h"

#define OF_PARTITION \
	" WHERE subscription OPERATOR(pg_catalog.=) $1 AND partition OPERATOR(pg_catalog.=) $2"
#define OF_SUBSCRIPTION \
	" WHERE subscription OPERATOR(pg_catalog.=) $1"

static const EsPlanSpec held_plan = {
	"SELECT DISTINCT stream::pg_catalog.text, state::pg_catalog.text FROM @store@.parked_event" OF_PARTITION,
	2,
	{TEXTOID, INT4OID},
};

static const EsPlanSpec add_plan = {
	"INSERT INTO @store@.parked_event AS p"
	" (subscription, position, partition, stream, version, type, state, reason, attempts, parked_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, pg_catalog.clock_timestamp())"
	" ON CONFLICT (subscription, position) DO NOTHING",
	9,
	{TEXTOID, INT8OID, INT4OID, TEXTOID, INT8OID, TEXTOID, TEXTOID, TEXTOID, INT4OID},
};

static const EsPlanSpec to_replay_plan = {
	"SELECT position::pg_catalog.int8 FROM @store@.parked_event" OF_PARTITION
	" AND state OPERATOR(pg_catalog.=) 'replay' ORDER BY position LIMIT $3",
	3,
	{TEXTOID, INT4OID, INT8OID},
};

static const EsPlanSpec remove_plan = {
	"DELETE FROM @store@.parked_event" OF_SUBSCRIPTION " AND position OPERATOR(pg_catalog.=) $2",
	2,
	{TEXTOID, INT8OID},
};

static const EsPlanSpec skip_plan = {
	"UPDATE @store@.parked_event SET state = 'skipped', consumer = NULL" OF_SUBSCRIPTION
	" AND position OPERATOR(pg_catalog.=) $2",
	2,
	{TEXTOID, INT8OID},
};

static const EsPlanSpec fail_plan = {
	"UPDATE @store@.parked_event SET state = 'parked', consumer = NULL, reason = $3,"
	" attempts = attempts OPERATOR(pg_catalog.+) 1, parked_at = pg_catalog.clock_timestamp()" OF_SUBSCRIPTION " AND position OPERATOR(pg_catalog.=) $2",
	3,
	{TEXTOID, INT8OID, TEXTOID},
};

static const EsPlanSpec wait_again_plan = {
	"UPDATE @store@.parked_event p SET state = 'waiting', consumer = NULL FROM @store@.parked_event f"
	" WHERE f.subscription OPERATOR(pg_catalog.=) $1 AND f.position OPERATOR(pg_catalog.=) $2"
	" AND p.subscription OPERATOR(pg_catalog.=) $1 AND p.stream OPERATOR(pg_catalog.=) f.stream"
	" AND p.position OPERATOR(pg_catalog.>) $2 AND p.state OPERATOR(pg_catalog.=) 'replay'",
	2,
	{TEXTOID, INT8OID},
};

static const EsPlanSpec release_plan = {
	"UPDATE @store@.parked_event p SET state = 'replay'"
	" WHERE p.subscription OPERATOR(pg_catalog.=) $1 AND p.partition OPERATOR(pg_catalog.=) $2"
	" AND p.state OPERATOR(pg_catalog.=) 'waiting' AND NOT EXISTS"
	" (SELECT 1 FROM @store@.parked_event f WHERE f.subscription OPERATOR(pg_catalog.=) $1"
	" AND f.stream OPERATOR(pg_catalog.=) p.stream"
	" AND f.position OPERATOR(pg_catalog.<) p.position"
	" AND f.state OPERATOR(pg_catalog.=) 'parked')",
	2,
	{TEXTOID, INT4OID},
};

static const EsPlanSpec replay_all_plan = {
	"UPDATE @store@.parked_event SET state = 'replay'" OF_SUBSCRIPTION
	" AND state OPERATOR(pg_catalog.=) ANY ('{parked,waiting}'::pg_catalog.text[])",
	1,
	{TEXTOID},
};

static const EsPlanSpec find_parked_plan = {
	"SELECT partition::pg_catalog.int4 FROM @store@.parked_event" OF_SUBSCRIPTION
	" AND position OPERATOR(pg_catalog.=) $2"
	" AND state OPERATOR(pg_catalog.<>) 'skipped'",
	2,
	{TEXTOID, INT8OID},
};

static void run_replay(EsStore *store, EsSubscription *subscription);

PG_FUNCTION_INFO_V1(es_replay_parked);
PG_FUNCTION_INFO_V1(es_skip_parked);

/*
 * es_replay_parked(name text) returns bigint
 *
 * What the store runs itself is replayed at once, what consumers pull comes with
 * their next fetch.
 */
Datum
es_replay_parked(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the subscription's name", true);
	Datum		values[] = {CStringGetTextDatum(name)};
	EsSubscription *subscription;
	uint64		count;

	SPI_connect();
	subscription = es_subscription_by_name(store, name, false);
	es_subscription_lock(store, subscription);
	count = es_spi_write(store, &replay_all_plan, values, NULL);
	if (count > 0)
		run_replay(store, subscription);
	SPI_finish();
	PG_RETURN_INT64((int64) count);
}

/* es_skip_parked(name text, position bigint) returns void */
Datum
es_skip_parked(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the subscription's name", true);
	EsSubscription *subscription;
	EsCheckpoint checkpoint;
	Datum		values[2];
	bool		isnull;
	int			partition;

	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the position must not be NULL")));
	values[0] = CStringGetTextDatum(name);
	values[1] = PG_GETARG_DATUM(1);

	SPI_connect();
	subscription = es_subscription_by_name(store, name, false);
	es_subscription_lock(store, subscription);
	es_spi_read(store, &find_parked_plan, values, NULL, GetLatestSnapshot(), 1);
	if (SPI_processed == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("subscription \"%s\" has parked no event at position %lld", name,
						(long long) PG_GETARG_INT64(1))));
	partition = DatumGetInt32(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											&isnull));
	es_checkpoint_read(store, subscription, partition, &checkpoint);
	if (checkpoint.position < PG_GETARG_INT64(1))
		(void) es_spi_write(store, &skip_plan, values, NULL);	/* or it would be handed out */
	else
		es_parked_remove(store, subscription, PG_GETARG_INT64(1));
	if (es_parked_release(store, subscription, partition))
		run_replay(store, subscription);
	SPI_finish();
	PG_RETURN_VOID();
}

void
es_parked_held_streams(EsStore *store, EsSubscription *subscription, int partition,
					   EsHeldStreams *held)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int32GetDatum(partition)};
	MemoryContext caller = CurrentMemoryContext;

	memset(held, 0, sizeof(*held));
	es_spi_read(store, &held_plan, values, NULL, GetLatestSnapshot(), 0);
	MemoryContextSwitchTo(caller);
	for (uint64 row = 0; row < SPI_processed; row++)
	{
		bool		isnull;
		text	   *stream = DatumGetTextPP(SPI_getbinval(SPI_tuptable->vals[row],
													SPI_tuptable->tupdesc, 1, &isnull));
		char	   *state = TextDatumGetCString(SPI_getbinval(SPI_tuptable->vals[row],
														SPI_tuptable->tupdesc, 2, &isnull));

		if (strcmp(state, ES_PARKED_SKIPPED) == 0)
		{
			held->skipped = true;
			continue;
		}
		if (strcmp(state, ES_PARKED_REPLAY) == 0)
			held->replay = true;
		es_parked_hold(held, stream);
	}
	SPI_freetuptable(SPI_tuptable);
}

bool
es_parked_is_held(const EsHeldStreams *held, const text *stream)
{
	char		name[ES_STREAM_NAME_MAX + 1];

	if (held->streams == NULL)
		return false;
	text_to_cstring_buffer(stream, name, sizeof(name));
	return hash_search(held->streams, name, HASH_FIND, NULL) != NULL;
}

void
es_parked_hold(EsHeldStreams *held, const text *stream)
{
	char		name[ES_STREAM_NAME_MAX + 1];

	if (held->streams == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(name);
		ctl.entrysize = sizeof(name);
		ctl.hcxt = CurrentMemoryContext;
		held->streams = hash_create("event_sourcing held streams", 64, &ctl,
									HASH_ELEM | HASH_STRINGS | HASH_CONTEXT);
	}
	text_to_cstring_buffer(stream, name, sizeof(name));
	(void) hash_search(held->streams, name, HASH_ENTER, NULL);
}

void
es_parked_add(EsStore *store, EsSubscription *subscription, int partition, const EsEvent *event,
			  const char *state, const char *reason, int attempts)
{
	Datum		values[9];
	char		nulls[10] = "         ";

	values[0] = CStringGetTextDatum(subscription->name);
	values[1] = event->values[ES_EVENT_POSITION];
	values[2] = Int32GetDatum(partition);
	values[3] = event->values[ES_EVENT_STREAM];
	values[4] = event->values[ES_EVENT_VERSION];
	values[5] = event->values[ES_EVENT_TYPE];
	values[6] = CStringGetTextDatum(state);
	values[7] = reason ? CStringGetTextDatum(reason) : (Datum) 0;
	nulls[7] = reason ? ' ' : 'n';
	values[8] = Int32GetDatum(attempts);
	(void) es_spi_write(store, &add_plan, values, nulls);
}

int
es_parked_to_replay(EsStore *store, EsSubscription *subscription, int partition, int max_count,
					int64 **positions)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int32GetDatum(partition),
					  Int64GetDatum(max_count)};
	MemoryContext caller = CurrentMemoryContext;
	int			count;

	es_spi_read(store, &to_replay_plan, values, NULL, GetLatestSnapshot(), 0);
	MemoryContextSwitchTo(caller);
	count = (int) SPI_processed;
	*positions = palloc((count + 1) * sizeof(int64));
	for (int i = 0; i < count; i++)
	{
		bool		isnull;

		(*positions)[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i],
													  SPI_tuptable->tupdesc, 1, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);
	return count;
}

void
es_parked_remove(EsStore *store, EsSubscription *subscription, int64 position)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int64GetDatum(position)};

	(void) es_spi_write(store, &remove_plan, values, NULL);
}

void
es_parked_fail(EsStore *store, EsSubscription *subscription, int64 position, const char *reason)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int64GetDatum(position),
					  CStringGetTextDatum(reason)};

	(void) es_spi_write(store, &fail_plan, values, NULL);
	(void) es_spi_write(store, &wait_again_plan, values, NULL);
}

bool
es_parked_release(EsStore *store, EsSubscription *subscription, int partition)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name), Int32GetDatum(partition)};

	return es_spi_write(store, &release_plan, values, NULL) > 0;
}

/* Replay what the store runs itself; a consumer is only told. */
static void
run_replay(EsStore *store, EsSubscription *subscription)
{
	if (subscription->kind == ES_SUBSCRIPTION_EXTERNAL)
		es_wake_workers_at_end();
	else
		es_run_replay(store, subscription);
}
