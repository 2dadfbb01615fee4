/*-------------------------------------------------------------------------
 *
 * feed.c
 *		The feed: all events in the order of their positions, of which a
 *		reader misses none.
 *
 * Positions come from a sequence, so that writers of different streams never
 * wait for each other; therefore they are committed in another order than
 * drawn, and a reader that simply takes what it sees would skip some for
 * good.  Two rules prevent that:
 *
 * A writer takes, before it draws its first position, a shared lock whose tag
 * is the sequence's last value: a lower bound of all that it can still draw.
 * The lock goes with the transaction, so that commit, abort, savepoint
 * rollback, PREPARE TRANSACTION and crash need no code here.
 *
 * A reader (1) reads the sequence's last value, (2) takes the smallest bound
 * of all locks held, (3) calls the smaller of the two the high-water mark, and
 * (4) only then takes its snapshot.  A position at or below the mark was drawn
 * by a transaction that was over at (2), so the snapshot sees it.  Any other
 * order of these steps loses events; the stress test shows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_sequence.h"
#include "commands/sequence.h"
#include "compat.h"
#include "event_set.h"
#include "feed.h"
#include "lock_tag.h"
#include "log.h"
#include "replica.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "wake.h"

static int64 high_water(EsStore *store, bool *by_prepared);
static void check_sequence(EsStore *store);
static void check_filter(FunctionCallInfo fcinfo, int arg, const char *name);

PG_FUNCTION_INFO_V1(es_high_water);
PG_FUNCTION_INFO_V1(es_read_all);

void
es_feed_register(EsStore *store)
{
	LOCKTAG		tag;

	/* a savepoint's rollback releases the lock, so ask the lock manager */
	if (store->inflight_bound_set)
	{
		es_lock_tag_inflight(&tag, store->event_position, store->inflight_bound);
		if (es_lock_held_by_me(&tag, ShareLock))
			return;
	}
	if (!store->append_checked)
	{
		/* once per session and change of the log, its sequence or a subscription */
		es_replica_forbid(store, "append to");
		check_sequence(store);
		store->append_checked = true;
	}

	store->inflight_bound = es_feed_last_drawn(store);
	store->inflight_bound_set = true;
	es_lock_tag_inflight(&tag, store->event_position, store->inflight_bound);
	(void) LockAcquire(&tag, ShareLock, false, false);
	es_wake_for_events_at_end();
}

bool
es_feed_registered_before(EsStore *store, int64 position)
{
	LOCKTAG		tag;

	if (!store->inflight_bound_set || store->inflight_bound >= position)
		return false;
	es_lock_tag_inflight(&tag, store->event_position, store->inflight_bound);
	return es_lock_held_by_me(&tag, ShareLock);
}

int64
es_feed_next_position(EsStore *store)
{
	return nextval_internal(store->event_position, true);
}

int64
es_feed_high_water(EsStore *store)
{
	bool		by_prepared;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot tell the high-water mark during recovery"),
				 errdetail("A standby does not see which transactions of the primary have positions in flight."),
				 errhint("Read the feed on the primary, or the table of the log up to a replicated checkpoint.")));
	es_replica_forbid(store, "tell the high-water mark of");

	return high_water(store, &by_prepared);
}

/* Needs no transaction id. */
int64
es_feed_last_drawn(EsStore *store)
{
	LOCAL_FCINFO(fcinfo, 1);
	FmgrInfo	flinfo = {0};
	Datum		last;

	/*
	 * Not "SELECT last_value": the relation's tuple is up to 32 values ahead
	 * in what it logs, and this function reads what nextval() really gave.
	 */
	InitFunctionCallInfoData(*fcinfo, &flinfo, 1, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = ObjectIdGetDatum(store->event_position);
	fcinfo->args[0].isnull = false;
	last = pg_sequence_last_value(fcinfo);
	if (!fcinfo->isnull)
		return DatumGetInt64(last);

	/* 18: NULL also for those who may not know */
	if (pg_class_aclcheck(store->event_position, GetUserId(), ACL_SELECT | ACL_USAGE) !=
		ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_SEQUENCE, get_rel_name(store->event_position));
	return 0;
}

bool
es_feed_is_held_by_prepared(EsStore *store)
{
	bool		by_prepared;

	(void) high_water(store, &by_prepared);
	return by_prepared;
}

/* es_high_water() returns bigint */
Datum
es_high_water(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(es_feed_high_water(es_store_current()));
}

/*
 * es_read_all(after_position bigint, max_count bigint, categories text[], types text[],
 * backward boolean) returns setof es_event
 *
 * The snapshot is one of our own, so that it is right in every isolation
 * level: the transaction's may be older than the mark.
 */
Datum
es_read_all(PG_FUNCTION_ARGS)
{
	int64		after_position = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	bool		backward = PG_ARGISNULL(4) ? false : PG_GETARG_BOOL(4);
	EsStore    *store;
	int64		mark;
	EsLogRange	range = {0, 0, PG_INT64_MAX, backward};
	DestReceiver *dest;

	if (after_position < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("after_position must not be negative")));
	es_event_set_check_count(PG_ARGISNULL(1), PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1));
	check_filter(fcinfo, 2, "categories");
	check_filter(fcinfo, 3, "types");

	dest = es_event_set_begin(fcinfo);
	store = es_store_current();
	mark = es_feed_high_water(store);

	range.last = mark;
	if (!PG_ARGISNULL(1))
		range.max_count = PG_GETARG_INT64(1);
	if (!backward)
	{
		if (after_position >= mark)
			return (Datum) 0;
		range.first = after_position + 1;
	}
	else if (after_position > 0)
		range.last = Min(mark, after_position - 1);

	PushActiveSnapshot(GetLatestSnapshot());
	es_log_read_feed(store, &range, PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2),
					 PG_ARGISNULL(3) ? NULL : PG_GETARG_ARRAYTYPE_P(3), dest);
	PopActiveSnapshot();
	return (Datum) 0;
}

/* The mark, and whether a prepared transaction is among those that hold it back. */
static int64
high_water(EsStore *store, bool *by_prepared)
{
	int64		mark = es_feed_last_drawn(store);	/* first this, then the locks */
	LockData   *locks = GetLockStatusData();

	*by_prepared = false;
	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];

		if (!es_lock_tag_is_inflight(&lock->locktag, store->event_position) ||
			lock->holdMask == 0 || lock->pid == MyProcPid)
			continue;
		mark = Min(mark, es_lock_tag_bound(&lock->locktag));
		if (lock->pid == 0)
			*by_prepared = true;
	}
	pfree(locks->locks);
	pfree(locks);
	return mark;
}

/*
 * Refuse to append where the sequence cannot give rising positions: when it is
 * behind the log, a consumer that is past those positions would never see the
 * events; when it hands out values in advance, a bound of them is none.
 */
static void
check_sequence(EsStore *store)
{
	HeapTuple	tuple = SearchSysCache1(SEQRELID, ObjectIdGetDatum(store->event_position));
	Form_pg_sequence sequence;
	int64		last;
	int64		drawn;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for sequence %u", store->event_position);
	sequence = (Form_pg_sequence) GETSTRUCT(tuple);
	if (sequence->seqincrement != 1 || sequence->seqcache != 1 || sequence->seqcycle)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the position sequence of store %s must count by one, without a cache",
						store->name),
				 errhint("Bring the store up to date with es_upgrade_store().")));
	ReleaseSysCache(tuple);

	last = es_log_last_position(store, GetLatestSnapshot());
	drawn = es_feed_last_drawn(store);	/* after the log: it can only have grown since */
	if (last > drawn)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the position sequence of store %s is behind its event log", store->name),
				 errdetail("The last event has position %lld, the sequence is at %lld.",
						   (long long) last, (long long) drawn),
				 errhint("Bring the store up to date with es_upgrade_store().")));
}

static void
check_filter(FunctionCallInfo fcinfo, int arg, const char *name)
{
	if (!PG_ARGISNULL(arg) && array_contains_nulls(PG_GETARG_ARRAYTYPE_P(arg)))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not contain NULL", name)));
}
