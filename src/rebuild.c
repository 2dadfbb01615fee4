/*-------------------------------------------------------------------------
 *
 * rebuild.c
 *		Rebuilding read models from history, and comparing them with it.
 *
 * Whoever rebuilds or compares a projection holds its lock exclusively.  Those
 * who run an inline one hold it shared: so history is read under a snapshot
 * that is taken when the lock is held, and has each event that was projected.
 *
 * An async projection is run under the locks of its subscription's partitions.
 * History is replayed into tables beside the targets (shadow.c) without them,
 * while readers and batches go on with the old ones.  Only the last short part
 * is replayed under the locks, up to the checkpoint at least, and then the new
 * rows take the place of the old ones.  All of it is one transaction: there is
 * never half of a rebuild.  Where tables beside are no way, the targets are
 * emptied and filled in place under the locks: batches wait, and readers still
 * see the old rows until the end.
 *
 * A projection's code and targets are its owner's business, whoever called: a
 * superuser who rebuilds does not lend his rights to it.  For an async one the log
 * and the store's tables are read and written as the store's owner.
 *
 * Locks, in this order: the projection, the partitions, the targets.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "argument.h"
#include "catalog/pg_type.h"
#include "checkpoint.h"
#include "compat.h"
#include "errors.h"
#include "event.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "feed.h"
#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "lock_tag.h"
#include "log.h"
#include "projection.h"
#include "projection_definition.h"
#include "rebuild.h"
#include "row_receiver.h"
#include "run_as.h"
#include "shadow.h"
#include "spi_plan.h"
#include "subscription.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

/*
 * A set-based projection gets history in portions of this many events: large,
 * since a read model's row is written once in each, yet of a size that
 * maintenance_work_mem has room for.
 */
#define REPLAY_BATCH 100000

/* How far it is, is shown anew after this many events. */
#define SHOW_EVERY 10000

/* What is left to be replayed under the partitions' locks is about as short. */
#define FEW_EVENTS 1000

/* History on its way to one projection. */
typedef struct Replay
{
	DestReceiver pub;
	EsStore    *store;
	EsProjection *projection;	/* as it is run */
	Oid			reader;			/* who reads the log; InvalidOid: the current user */
	Oid			owner;			/* as whom the projection is run; InvalidOid: the current user */
	int64		position;		/* of the last event read */
	int64		read;			/* events read */
	int64		count;			/* events handed to the projection */

	/* a rebuild beside */
	EsShadow   *shadow;			/* NULL: none */
	char	   *missed;			/* why its shadows are worth nothing; NULL: they are */

	/* a comparison with what was done, for an async projection */
	EsSubscription *subscription;	/* NULL: all events count */
	const EsCheckpoint *checkpoints;	/* of its partitions: what is beyond was not done */
	const int64 *parked;		/* positions in order: these were not done either */
	int			nparked;

	/* set-based */
	Tuplestorestate *rows;		/* the portion collected; NULL: nothing yet */
	int64		collected;

	MemoryContext event_context;
	ErrorContextCallback *error_context;	/* of the caller */
	int64		shown;			/* position that others see; -1: none */
} Replay;

static const EsPlanSpec parked_plan = {
	"SELECT position::pg_catalog.int8 FROM @store@.parked_event"
	" WHERE subscription OPERATOR(pg_catalog.=) $1 ORDER BY position",
	1,
	{TEXTOID},
};

static const EsPlanSpec forget_parked_plan = {
	"DELETE FROM @store@.parked_event WHERE subscription OPERATOR(pg_catalog.=) $1"
	" AND position OPERATOR(pg_catalog.<=) $2",
	2,
	{TEXTOID, INT8OID},
};

/* Sessions that remember a checkpoint must read it again. */
static const EsPlanSpec reset_plan = {
	"UPDATE @store@.subscription SET resets = resets OPERATOR(pg_catalog.+) 1"
	" WHERE name OPERATOR(pg_catalog.=) $1",
	1,
	{TEXTOID},
};

static void rebuild_tag(LOCKTAG *tag, EsStore *store, const EsProjection *projection);
static int64 shown_position(const LockData *locks, EsStore *store, int pid);
static void require_targets(const EsProjection *projection);
static void empty_targets(const EsProjection *projection);
static void begin_replay(Replay *replay, EsStore *store, EsProjection *projection);
static Oid	code_owner(EsStore *store, const EsProjection *projection);
static void run_replay(Replay *replay, int64 upto);
static void end_replay(Replay *replay);
static bool receive_history(TupleTableSlot *slot, DestReceiver *self);
static void hand_over(Replay *replay, const EsEvent *event);
static bool was_done(const Replay *replay, const EsEvent *event);
static int	compare_positions(const void *a, const void *b);
static void flush_replay(Replay *replay);
static void show(Replay *replay, int64 position);
static bool rebuild_beside(EsStore *store, EsProjection *projection, int64 *count, char **reason);
static char *fill_and_swap(EsStore *store, EsProjection *projection, int64 *count);
static int64 rebuild_in_place(EsStore *store, EsProjection *projection);
static int64 high_water(EsStore *store);
static EsSubscription *lock_partitions(EsStore *store, EsProjection *projection,
									   EsCheckpoint **checkpoints);
static EsSubscription *find_subscription(EsStore *store, EsProjection *projection);
pg_noreturn static void redefined(const EsProjection *projection);
static EsSubscription *read_checkpoints(EsStore *store, EsProjection *projection,
										EsCheckpoint **checkpoints);
static int64 highest_checkpoint(const EsSubscription *subscription,
								const EsCheckpoint *checkpoints);
static void write_checkpoints(EsStore *store, EsSubscription *subscription,
							  EsCheckpoint *checkpoints, int64 position);
static int64 compare_rebuilt(EsStore *store, const char *name);
static int64 *parked_positions(EsStore *store, EsSubscription *subscription, int *n);
static Tuplestorestate *read_target(const char *target, TupleDesc tupdesc);
static int64 count_differences(const char *target, TupleDesc tupdesc, Tuplestorestate *maintained);
static TupleDesc row_text_tupdesc(void);
static void begin_as(EsRunAs *run_as, Oid role);
static void end_as(const EsRunAs *run_as, Oid role);

PG_FUNCTION_INFO_V1(es_rebuild_projection);
PG_FUNCTION_INFO_V1(es_verify_projection);
PG_FUNCTION_INFO_V1(es_rebuilds);

EsProjection *
es_rebuild_lock(EsStore *store, const char *name)
{
	EsSubscription *subscription = es_subscription_by_name(store, name, true);
	EsProjection *projection;

	if (subscription)
		es_subscription_forbid_in_own_handler(subscription);

	/* a snapshot that is older than the lock would miss what others projected */
	if (IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot replay events into projection \"%s\" in this isolation level", name),
				 errhint("Use a transaction in READ COMMITTED.")));
	es_projection_lock(store, es_projection_by_name(store, name), ExclusiveLock);
	AcceptInvalidationMessages();
	projection = es_projection_by_name(store, name);
	if (projection->handler)
		es_overload_require(&projection->handlers);
	return projection;
}

int64
es_rebuild_replay(EsStore *store, EsProjection *projection, int64 after, int64 upto)
{
	Replay		replay;

	begin_replay(&replay, store, projection);
	replay.position = after;
	run_replay(&replay, upto);
	end_replay(&replay);
	return replay.count;
}

/* es_rebuild_projection(name text) returns bigint */
Datum
es_rebuild_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the projection's name", true);
	EsProjection *projection = es_rebuild_lock(store, name);
	int64		count = 0;
	char	   *reason = NULL;

	require_targets(projection);
	if (projection->async)
	{
		if (rebuild_beside(store, projection, &count, &reason))
			PG_RETURN_INT64(count);
		ereport(NOTICE,
				(errmsg("rebuilding projection \"%s\" in place", projection->name),
				 errdetail("%s", reason),
				 errhint("Its batches wait until this transaction ends.")));
	}
	PG_RETURN_INT64(rebuild_in_place(store, projection));
}

/*
 * es_verify_projection(name text) returns bigint
 *
 * The rebuild happens in a subtransaction that is rolled back.
 */
Datum
es_verify_projection(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	char	   *name = es_argument_text(fcinfo, 0, "the projection's name", true);
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile int64 differences = 0;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		differences = compare_rebuilt(store, name);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;
		ReThrowError(error);
	}
	PG_END_TRY();
	PG_RETURN_INT64(differences);
}

/*
 * es_rebuilds() returns table (pid int, projection text, "position" bigint)
 *
 * Of the current store.  A session that rebuilds holds two locks, which only
 * show: which projection, and how far.
 */
Datum
es_rebuilds(PG_FUNCTION_ARGS)
{
	EsStore    *store = es_store_current();
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	LockData   *locks = GetLockStatusData();
	ListCell   *cell;

	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, es_projections(store))
	{
		EsProjection *projection = lfirst(cell);
		LOCKTAG		tag;

		rebuild_tag(&tag, store, projection);
		for (int i = 0; i < locks->nelements; i++)
		{
			LockInstanceData *lock = &locks->locks[i];
			Datum		values[3];
			bool		nulls[3] = {false, false, false};

			if (lock->holdMask == 0 || memcmp(&lock->locktag, &tag, sizeof(tag)) != 0)
				continue;
			values[0] = Int32GetDatum(lock->pid);
			values[1] = CStringGetTextDatum(projection->name);
			values[2] = Int64GetDatum(shown_position(locks, store, lock->pid));
			tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		}
	}
	return (Datum) 0;
}

static void
rebuild_tag(LOCKTAG *tag, EsStore *store, const EsProjection *projection)
{
	es_lock_tag_key(tag, ES_LOCK_CLASS_REBUILD,
					((uint64) store->event << 32) | (uint32) projection->id);
}

/* The position that a session shows; 0 when it has moved on between two of them. */
static int64
shown_position(const LockData *locks, EsStore *store, int pid)
{
	int64		position = 0;

	for (int i = 0; i < locks->nelements; i++)
	{
		const LockInstanceData *lock = &locks->locks[i];

		if (lock->pid == pid && es_lock_tag_is_progress(&lock->locktag, store->event))
			position = Max(position, es_lock_tag_bound(&lock->locktag));
	}
	return position;
}

static void
require_targets(const EsProjection *projection)
{
	if (projection->targets == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("projection \"%s\" has no targets", projection->name),
				 errdetail("Without them it is not known which tables to rebuild."),
				 errhint("Drop it and define it again with targets.")));
}

/* Connected to SPI, as the projection's owner. */
static void
empty_targets(const EsProjection *projection)
{
	StringInfoData sql;
	ListCell   *cell;

	require_targets(projection);

	/* one statement, so that foreign keys between them are checked at its end */
	initStringInfo(&sql);
	foreach(cell, projection->targets)
	{
		if (foreach_current_index(cell) > 0)
			appendStringInfo(&sql, "%s t%d AS (DELETE FROM %s)", sql.len == 0 ? "WITH" : ",",
							 foreach_current_index(cell), (char *) lfirst(cell));
	}
	appendStringInfo(&sql, " DELETE FROM %s", (char *) linitial(projection->targets));
	if (SPI_execute(sql.data, false, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not empty the targets of projection \"%s\"", projection->name);
}

/* Begin at the log's start, shown to others; in the current context. */
static void
begin_replay(Replay *replay, EsStore *store, EsProjection *projection)
{
	LOCKTAG		tag;

	memset(replay, 0, sizeof(*replay));
	es_row_receiver_init(&replay->pub, receive_history);
	replay->store = store;
	replay->projection = projection;
	if (projection->async)
		replay->reader = es_run_as_store_owner(store);
	replay->owner = code_owner(store, projection);
	replay->error_context = error_context_stack;
	replay->event_context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing replay",
												  ALLOCSET_DEFAULT_SIZES);
	replay->shown = -1;
	rebuild_tag(&tag, store, projection);
	(void) LockAcquire(&tag, ShareLock, false, false);
	show(replay, 0);
}

/*
 * As whom a projection's code is run and its targets are written.  An inline one
 * of one's own is run as an append runs it.
 */
static Oid
code_owner(EsStore *store, const EsProjection *projection)
{
	Oid			owner = es_run_as_definition_owner(store, projection->owner);

	return !projection->async && owner == GetUserId() ? InvalidOid : owner;
}

static void
end_replay(Replay *replay)
{
	LOCKTAG		tag;

	show(replay, -1);
	rebuild_tag(&tag, replay->store, replay->projection);
	(void) LockRelease(&tag, ShareLock, false);
	MemoryContextDelete(replay->event_context);
}

/*
 * Hand the events behind the last one read, up to and with another position, to
 * the projection, as they are visible now.
 */
static void
run_replay(Replay *replay, int64 upto)
{
	EsLogRange	range = {replay->position + 1, upto, PG_INT64_MAX, false};
	EsRunAs		run_as;

	if (range.first > range.last)
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	begin_as(&run_as, replay->reader);
	es_log_read_feed(replay->store, &range, NULL, NULL, &replay->pub);
	end_as(&run_as, replay->reader);
	PopActiveSnapshot();
	flush_replay(replay);
	if (replay->shadow && replay->missed == NULL)
		replay->missed = es_shadow_missed(replay->shadow);
}

static bool
receive_history(TupleTableSlot *slot, DestReceiver *self)
{
	Replay	   *replay = (Replay *) self;
	EsProjection *projection = replay->projection;
	ErrorContextCallback *context = error_context_stack;
	MemoryContext caller;
	EsEvent		event;

	es_event_start_from_slot(&event, slot,
							 projection->query ? ES_EVENT_TYPE + 1 : ES_EVENT_COLUMNS);
	replay->position = DatumGetInt64(event.values[ES_EVENT_POSITION]);
	if (++replay->read % SHOW_EVERY == 0)
		show(replay, replay->position);
	if (!es_projection_wants(projection, DatumGetTextPP(event.values[ES_EVENT_TYPE]),
							 DatumGetTextPP(event.values[ES_EVENT_STREAM])) ||
		!was_done(replay, &event))
		return true;

	replay->count++;
	error_context_stack = replay->error_context;
	caller = MemoryContextSwitchTo(replay->event_context);
	if (projection->query == NULL)
	{
		hand_over(replay, &event);
		MemoryContextReset(replay->event_context);
	}
	else
	{
		if (replay->rows == NULL)
			replay->rows = tuplestore_begin_heap(true, false, maintenance_work_mem);
		tuplestore_puttupleslot(replay->rows, slot);
		if (++replay->collected == REPLAY_BATCH)
			flush_replay(replay);
	}
	MemoryContextSwitchTo(caller);
	error_context_stack = context;

	/* early: after the first event, and then where it costs nothing */
	if (replay->shadow && (replay->count == 1 || replay->count % SHOW_EVERY == 0))
		replay->missed = es_shadow_missed(replay->shadow);
	return replay->missed == NULL;
}

/* Whether an event is among those that the projection has to have had. */
static bool
was_done(const Replay *replay, const EsEvent *event)
{
	int64		position = DatumGetInt64(event->values[ES_EVENT_POSITION]);
	int			partition;

	if (replay->subscription == NULL)
		return true;
	partition = es_subscription_partition(replay->subscription,
										  DatumGetTextPP(event->values[ES_EVENT_STREAM]));
	if (position > replay->checkpoints[partition].position)
		return false;
	return replay->nparked == 0 ||
		!bsearch(&position, replay->parked, replay->nparked, sizeof(int64), compare_positions);
}

static int
compare_positions(const void *a, const void *b)
{
	int64		position_a = *(const int64 *) a;
	int64		position_b = *(const int64 *) b;

	return position_a < position_b ? -1 : position_a > position_b;
}

static void
hand_over(Replay *replay, const EsEvent *event)
{
	EsRunAs		run_as;

	begin_as(&run_as, replay->owner);
	es_projection_handle(replay->projection, event);
	end_as(&run_as, replay->owner);
}

static void
flush_replay(Replay *replay)
{
	EsRunAs		run_as;

	if (replay->rows == NULL)
		return;
	begin_as(&run_as, replay->owner);
	es_projection_query(replay->projection, replay->rows);
	end_as(&run_as, replay->owner);
	tuplestore_end(replay->rows);
	MemoryContextReset(replay->event_context);
	replay->rows = NULL;
	replay->collected = 0;
}

/* Show others how far it is; -1: nothing any more. */
static void
show(Replay *replay, int64 position)
{
	LOCKTAG		tag;

	if (position >= 0)
	{
		es_lock_tag_progress(&tag, replay->store->event, position);
		(void) LockAcquire(&tag, ShareLock, false, false);
	}
	if (replay->shown >= 0)
	{
		es_lock_tag_progress(&tag, replay->store->event, replay->shown);
		(void) LockRelease(&tag, ShareLock, false);
	}
	replay->shown = position;
}

/*
 * Rebuild an async projection into other tables, and let them take the targets'
 * place.  False, with a sentence that says why, when that is no way for it: then
 * nothing has happened.
 */
static bool
rebuild_beside(EsStore *store, EsProjection *projection, int64 *count, char **reason)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		SPI_connect();
		*reason = fill_and_swap(store, projection, count);
		if (*reason)
			*reason = MemoryContextStrdup(context, *reason);
		SPI_finish();
		if (*reason == NULL)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(context);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(context);
		CurrentResourceOwner = owner;

		/* code that was written for the targets' own row types may not fit the shadows' */
		if (ERRCODE_TO_CATEGORY(error->sqlerrcode) != ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION)
			ReThrowError(error);
		*reason = psprintf("The projection's code fails with other tables than its own: %s.",
						   error->message);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return *reason == NULL;
}

/* NULL when it is done, else why it cannot be. */
static char *
fill_and_swap(EsStore *store, EsProjection *projection, int64 *count)
{
	Oid			owner = es_run_as_definition_owner(store, projection->owner);
	EsCheckpoint *checkpoints;
	EsSubscription *subscription = read_checkpoints(store, projection, &checkpoints);
	int64		limit = PG_INT64_MAX;
	char	   *reason;
	EsShadow   *shadow = es_shadow_create(projection, owner, &reason);
	Replay		replay;
	int64		round = PG_INT64_MAX;	/* events read in the last one */
	int64		longest;

	if (shadow == NULL)
		return reason;
	begin_replay(&replay, store, es_shadow_projection(shadow));
	replay.shadow = shadow;

	/* while the batches go on, in rounds, as long as they get shorter */
	if (subscription->paused)
		limit = highest_checkpoint(subscription, checkpoints);
	do
	{
		longest = round;
		round = -replay.read;
		run_replay(&replay, Min(limit, high_water(store)));
		round += replay.read;
		if (replay.missed)
			return replay.missed;
	} while (round > FEW_EVENTS && round < longest);

	subscription = lock_partitions(store, projection, &checkpoints);
	run_replay(&replay, highest_checkpoint(subscription, checkpoints));
	reason = replay.missed ? replay.missed : es_shadow_swap(shadow);
	if (reason)
		return reason;
	write_checkpoints(store, subscription, checkpoints, replay.position);
	end_replay(&replay);
	*count = replay.count;
	return NULL;
}

static int64
rebuild_in_place(EsStore *store, EsProjection *projection)
{
	EsSubscription *subscription = NULL;
	EsCheckpoint *checkpoints = NULL;
	int64		upto = projection->paused ? projection->paused_at : PG_INT64_MAX;
	Replay		replay;
	EsRunAs		run_as;

	SPI_connect();
	begin_replay(&replay, store, projection);
	if (projection->async)
		subscription = lock_partitions(store, projection, &checkpoints);
	if (subscription)
		upto = subscription->paused ? highest_checkpoint(subscription, checkpoints) :
									  high_water(store);
	begin_as(&run_as, replay.owner);
	empty_targets(projection);
	end_as(&run_as, replay.owner);
	run_replay(&replay, upto);
	if (subscription)
		write_checkpoints(store, subscription, checkpoints, replay.position);
	end_replay(&replay);
	SPI_finish();
	return replay.count;
}

/* As the store's owner: the caller need not have any rights on the store. */
static int64
high_water(EsStore *store)
{
	EsRunAs		run_as;
	int64		mark;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	mark = es_feed_high_water(store);
	es_run_as_end(&run_as);
	return mark;
}

/*
 * Keep everybody else from running an async projection, and read how far it is.
 * Nothing of it may have been replaced while we did without.
 */
static EsSubscription *
lock_partitions(EsStore *store, EsProjection *projection, EsCheckpoint **checkpoints)
{
	EsSubscription *subscription = find_subscription(store, projection);
	int64		id = subscription->id;

	for (int i = 0; i < subscription->partitions; i++)
		(void) es_checkpoint_lock(store, subscription, i, true);
	AcceptInvalidationMessages();
	if (find_subscription(store, projection)->id != id)
		redefined(projection);
	return read_checkpoints(store, projection, checkpoints);
}

static EsSubscription *
find_subscription(EsStore *store, EsProjection *projection)
{
	EsSubscription *subscription = es_subscription_by_name(store, projection->name, true);

	if (subscription == NULL || subscription->kind != ES_SUBSCRIPTION_PROJECTION)
		redefined(projection);
	return subscription;
}

static void
redefined(const EsProjection *projection)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("projection \"%s\" was dropped or defined anew meanwhile",
					projection->name)));
}

static EsSubscription *
read_checkpoints(EsStore *store, EsProjection *projection, EsCheckpoint **checkpoints)
{
	EsSubscription *subscription = find_subscription(store, projection);
	EsRunAs		run_as;

	*checkpoints = palloc0(subscription->partitions * sizeof(EsCheckpoint));
	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	for (int i = 0; i < subscription->partitions; i++)
		es_checkpoint_read(store, subscription, i, &(*checkpoints)[i]);
	es_run_as_end(&run_as);
	return subscription;
}

static int64
highest_checkpoint(const EsSubscription *subscription, const EsCheckpoint *checkpoints)
{
	int64		highest = 0;

	for (int i = 0; i < subscription->partitions; i++)
		highest = Max(highest, checkpoints[i].position);
	return highest;
}

/*
 * The projection has had all events up to a position, those that had failed or
 * were put aside included.  Under the partitions' locks.
 */
static void
write_checkpoints(EsStore *store, EsSubscription *subscription, EsCheckpoint *checkpoints,
				  int64 position)
{
	Datum		values[2];
	EsRunAs		run_as;

	position = Max(position, highest_checkpoint(subscription, checkpoints));
	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	for (int i = 0; i < subscription->partitions; i++)
	{
		EsCheckpoint *checkpoint = &checkpoints[i];

		checkpoint->position = position;
		if (checkpoint->failed_position <= position)
		{
			checkpoint->failed_position = 0;
			checkpoint->attempts = 0;
			checkpoint->retry_at = 0;
			checkpoint->stopped = false;
		}
		es_checkpoint_write(store, subscription, checkpoint);
	}
	values[0] = CStringGetTextDatum(subscription->name);
	values[1] = Int64GetDatum(position);
	(void) es_spi_write(store, &forget_parked_plan, values, NULL);
	(void) es_spi_write(store, &reset_plan, values, NULL);
	es_run_as_end(&run_as);
}

/* Rebuild a projection and count the rows that differ from what was there. */
static int64
compare_rebuilt(EsStore *store, const char *name)
{
	TupleDesc	tupdesc = row_text_tupdesc();
	EsProjection *projection = es_rebuild_lock(store, name);
	int64		upto = projection->paused ? projection->paused_at : PG_INT64_MAX;
	List	   *maintained = NIL;
	int64		differences = 0;
	EsCheckpoint *checkpoints;
	Replay		replay;
	EsRunAs		run_as;
	ListCell   *target;
	ListCell   *rows;

	SPI_connect();
	begin_replay(&replay, store, projection);
	if (projection->async)
	{
		replay.subscription = lock_partitions(store, projection, &checkpoints);
		replay.checkpoints = checkpoints;
		replay.parked = parked_positions(store, replay.subscription, &replay.nparked);
		upto = highest_checkpoint(replay.subscription, checkpoints);
	}
	begin_as(&run_as, replay.owner);
	foreach(target, projection->targets)
		maintained = lappend(maintained, read_target(lfirst(target), tupdesc));
	empty_targets(projection);
	end_as(&run_as, replay.owner);
	run_replay(&replay, upto);
	begin_as(&run_as, replay.owner);
	forboth(target, projection->targets, rows, maintained)
		differences += count_differences(lfirst(target), tupdesc, lfirst(rows));
	end_as(&run_as, replay.owner);
	end_replay(&replay);
	SPI_finish();
	return differences;
}

/* Events up to the checkpoint that were put aside: they are not in the targets. */
static int64 *
parked_positions(EsStore *store, EsSubscription *subscription, int *n)
{
	Datum		values[] = {CStringGetTextDatum(subscription->name)};
	MemoryContext caller = CurrentMemoryContext;
	int64	   *positions;
	EsRunAs		run_as;
	bool		isnull;

	es_run_as_begin(&run_as, es_run_as_store_owner(store));
	es_spi_read(store, &parked_plan, values, NULL, GetLatestSnapshot(), 0);
	es_run_as_end(&run_as);
	MemoryContextSwitchTo(caller);
	*n = (int) SPI_processed;
	positions = palloc((*n + 1) * sizeof(int64));
	for (int i = 0; i < *n; i++)
		positions[i] = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1,
												   &isnull));
	SPI_freetuptable(SPI_tuptable);
	return positions;
}

/* A table's rows, each as text: so that types without an equality can be compared, too. */
static Tuplestorestate *
read_target(const char *target, TupleDesc tupdesc)
{
	Tuplestorestate *rows = tuplestore_begin_heap(true, false, work_mem);
	DestReceiver *dest = CreateDestReceiver(DestTuplestore);
	SPIExecuteOptions options = {0};
	SPIPlanPtr	plan = SPI_prepare(psprintf("SELECT ROW(t.*)::pg_catalog.text FROM %s AS t",
										   target),
								  0, NULL);

	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SetTuplestoreDestReceiverParams(dest, rows, CurrentMemoryContext, false, NULL, NULL);
	options.dest = dest;
	if (SPI_execute_plan_extended(plan, &options) < 0)
		elog(ERROR, "could not read %s", target);
	return rows;
}

static int64
count_differences(const char *target, TupleDesc tupdesc, Tuplestorestate *maintained)
{
	char	   *rebuilt = psprintf("SELECT ROW(t.*)::pg_catalog.text FROM %s AS t", target);
	int64		differences;
	bool		isnull;

	es_projection_register_rows("es_maintained", tupdesc, maintained);
	if (SPI_execute(psprintf("SELECT pg_catalog.count(*) FROM ("
							 "(SELECT row_text FROM es_maintained EXCEPT ALL %s) UNION ALL "
							 "(%s EXCEPT ALL SELECT row_text FROM es_maintained)) d",
							 rebuilt, rebuilt),
					false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not compare %s", target);
	differences = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											  &isnull));
	SPI_unregister_relation("es_maintained");
	return differences;
}

static TupleDesc
row_text_tupdesc(void)
{
	TupleDesc	tupdesc = CreateTemplateTupleDesc(1);

	TupleDescInitEntry(tupdesc, 1, "row_text", TEXTOID, -1, 0);
	es_tupdesc_finalize(tupdesc);
	return tupdesc;
}

/* Go on as a role; InvalidOid: as the current user. */
static void
begin_as(EsRunAs *run_as, Oid role)
{
	if (OidIsValid(role))
		es_run_as_begin(run_as, role);
}

static void
end_as(const EsRunAs *run_as, Oid role)
{
	if (OidIsValid(role))
		es_run_as_end(run_as);
}
