/*-------------------------------------------------------------------------
 *
 * stream.c
 *		Streams: names, locks, versions.
 *
 * A writer takes the stream's lock first and only then looks, with a snapshot
 * taken under the lock: what it sees is the stream's end until its
 * transaction is over.  Lock order: the log's RowExclusiveLock, then streams.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <sched.h>

#include "access/xact.h"
#include "common/hashfn.h"
#include "compat.h"
#include "errors.h"
#include "event_set.h"
#include "fmgr.h"
#include "lock_tag.h"
#include "log.h"
#include "portability/instr_time.h"
#include "storage/lmgr.h"
#include "stream.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/*
 * A transaction that writes more streams than this locks the whole log
 * instead, so that an import cannot fill the server's lock table.
 */
#define MAX_STREAM_LOCKS 256

/* How long a writer waits for a stream without going to sleep, in microseconds. */
#define STAY_AWAKE_US 100

/* Stream locks taken by a subtransaction that is under way, or by the transaction. */
typedef struct LockCount
{
	SubTransactionId subid;
	int			count;
} LockCount;

/*
 * Where streams ended when this session saw them last.  Nobody relies on it: it
 * tells where to look first, so an abort, a restore or another stream in the
 * same place need not be noticed.
 */
typedef struct LastEnd
{
	uint64		stream;			/* hash of store and name */
	int64		version;
} LastEnd;

#define MAX_LAST_ENDS 256

static LastEnd last_ends[MAX_LAST_ENDS];

static int	stream_locks = 0;	/* held by this transaction */
static List *lock_counts = NIL; /* the same by subtransaction, innermost last; LockCount * */

static uint64 hash_stream(EsStore *store, const text *stream);
static LockAcquireResult acquire_stream(const LOCKTAG *tag);
static void count_stream_lock(void);
static void forget_stream_locks(XactEvent event, void *arg);
static void hand_up_stream_locks(SubXactEvent event, SubTransactionId mysubid,
								 SubTransactionId parentsubid, void *arg);

PG_FUNCTION_INFO_V1(es_stream_version);
PG_FUNCTION_INFO_V1(es_read_stream);

void
es_stream_init(void)
{
	RegisterXactCallback(forget_stream_locks, NULL);
	RegisterSubXactCallback(hand_up_stream_locks, NULL);
}

void
es_stream_check_name(const text *stream)
{
	int			length;

	if (stream == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the stream name must not be NULL")));
	length = VARSIZE_ANY_EXHDR(stream);
	if (length == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the stream name must not be empty")));
	if (length > ES_STREAM_NAME_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the stream name is too long"),
				 errdetail("It has %d bytes; at most %d are allowed.",
						   length, ES_STREAM_NAME_MAX)));
	if (VARDATA_ANY(stream)[0] == '$')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("stream name \"%s\" is reserved", text_to_cstring(stream)),
				 errdetail("Names that begin with \"$\" are the store's own.")));
}

int
es_stream_category_length(const text *stream)
{
	const char *name = VARDATA_ANY(stream);
	int			length = VARSIZE_ANY_EXHDR(stream);
	const char *dash = memchr(name, '-', length);

	return dash ? (int) (dash - name) : length;
}

void
es_stream_lock(EsStore *store, const text *stream)
{
	LOCKTAG		tag;

	LockRelationOid(store->event, RowExclusiveLock);

	if (stream_locks >= MAX_STREAM_LOCKS)
	{
		LockRelationOid(store->event, ShareRowExclusiveLock);
		return;
	}

	es_lock_tag_key(&tag, ES_LOCK_CLASS_STREAM, hash_stream(store, stream));
	if (acquire_stream(&tag) != LOCKACQUIRE_ALREADY_HELD)
		count_stream_lock();
}

EsStreamHead
es_stream_read_head(EsStore *store, text *stream, int64 believed)
{
	uint64		hash = hash_stream(store, stream);
	LastEnd    *last = &last_ends[hash % MAX_LAST_ENDS];
	EsStreamHead head;

	if (believed <= 0 && last->stream == hash)
		believed = last->version;
	head = es_log_read_head(store, stream, believed, GetLatestSnapshot(), RowExclusiveLock);
	if (IsolationUsesXactSnapshot() &&
		es_log_read_head(store, stream, head.version, GetTransactionSnapshot(),
						 RowExclusiveLock)
				.version != head.version)
		es_stream_serialization_failure(stream);
	return head;
}

void
es_stream_remember(EsStore *store, const text *stream, int64 version)
{
	uint64		hash = hash_stream(store, stream);
	LastEnd    *last = &last_ends[hash % MAX_LAST_ENDS];

	last->stream = hash;
	last->version = version;
}

void
es_stream_serialization_failure(const text *stream)
{
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("could not serialize access due to concurrent append to stream \"%s\"",
					text_to_cstring(stream)),
			 errhint("The transaction might succeed if retried.")));
}

/* es_stream_version(stream text) returns bigint */
Datum
es_stream_version(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	EsStreamHead head;

	es_stream_check_name(stream);
	head = es_log_read_head(es_store_current(), stream, 0, GetActiveSnapshot(), AccessShareLock);
	PG_RETURN_INT64(head.version);
}

/* es_read_stream(stream text, from_version bigint, max_count bigint, backward boolean) */
Datum
es_read_stream(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	bool		backward = PG_ARGISNULL(3) ? false : PG_GETARG_BOOL(3);
	EsLogRange	range = {0, PG_INT64_MAX, PG_INT64_MAX, backward};
	DestReceiver *dest;

	es_stream_check_name(stream);

	/* without it: at the beginning, or backward at the end */
	if (!PG_ARGISNULL(1) && PG_GETARG_INT64(1) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_version must not be negative")));
	if (!PG_ARGISNULL(1))
		*(backward ? &range.last : &range.first) = PG_GETARG_INT64(1);
	es_event_set_check_count(PG_ARGISNULL(2), PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2));
	if (!PG_ARGISNULL(2))
		range.max_count = PG_GETARG_INT64(2);

	dest = es_event_set_begin(fcinfo);
	es_log_read_stream(es_store_current(), stream, &range, dest);
	return (Datum) 0;
}

static uint64
hash_stream(EsStore *store, const text *stream)
{
	return hash_bytes_extended((const unsigned char *) VARDATA_ANY(stream),
							   VARSIZE_ANY_EXHDR(stream), store->event);
}

/*
 * A released lock goes to the process that has waited longest, which must first
 * be woken: on a stream that everybody writes to, that takes longer than an
 * append whose commit does not wait for the disk.  So then only the first in
 * the queue looks for the lock's release, awake for as long as some appends
 * take, while the next one is being woken.
 */
static LockAcquireResult
acquire_stream(const LOCKTAG *tag)
{
	LOCKTAG		queue = *tag;
	LockAcquireResult result;
	instr_time	start;
	instr_time	waited;

	if (synchronous_commit != SYNCHRONOUS_COMMIT_OFF)
		return LockAcquire(tag, ExclusiveLock, false, false);
	result = LockAcquire(tag, ExclusiveLock, false, true);
	if (result != LOCKACQUIRE_NOT_AVAIL)
		return result;

	queue.locktag_field4 = ES_LOCK_CLASS_STREAM_QUEUE;
	(void) LockAcquire(&queue, ExclusiveLock, false, false);
	INSTR_TIME_SET_CURRENT(start);
	do
	{
		CHECK_FOR_INTERRUPTS();
		(void) sched_yield();
		result = LockAcquire(tag, ExclusiveLock, false, true);
		INSTR_TIME_SET_CURRENT(waited);
		INSTR_TIME_SUBTRACT(waited, start);
	} while (result == LOCKACQUIRE_NOT_AVAIL && INSTR_TIME_GET_MICROSEC(waited) < STAY_AWAKE_US);
	if (result == LOCKACQUIRE_NOT_AVAIL)
		result = LockAcquire(tag, ExclusiveLock, false, false);
	(void) LockRelease(&queue, ExclusiveLock, false);
	return result;
}

static void
count_stream_lock(void)
{
	SubTransactionId subid = GetCurrentSubTransactionId();
	LockCount  *innermost = lock_counts ? llast(lock_counts) : NULL;

	if (innermost == NULL || innermost->subid != subid)
	{
		MemoryContext caller = MemoryContextSwitchTo(TopTransactionContext);

		innermost = palloc0(sizeof(LockCount));
		innermost->subid = subid;
		lock_counts = lappend(lock_counts, innermost);
		MemoryContextSwitchTo(caller);
	}
	innermost->count++;
	stream_locks++;
}

static void
forget_stream_locks(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			stream_locks = 0;
			lock_counts = NIL;	/* its memory goes with the transaction */
			break;
		default:
			break;
	}
}

/* A savepoint's rollback releases the locks taken since; its release hands them up. */
static void
hand_up_stream_locks(SubXactEvent event, SubTransactionId mysubid, SubTransactionId parentsubid,
					 void *arg)
{
	LockCount  *innermost = lock_counts ? llast(lock_counts) : NULL;

	if (innermost == NULL || innermost->subid != mysubid)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		stream_locks -= innermost->count;
		lock_counts = list_delete_last(lock_counts);
	}
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		LockCount  *outer = list_length(lock_counts) > 1 ?
			list_nth(lock_counts, list_length(lock_counts) - 2) :
			NULL;

		if (outer && outer->subid == parentsubid)
		{
			outer->count += innermost->count;
			lock_counts = list_delete_last(lock_counts);
		}
		else
			innermost->subid = parentsubid;
	}
}
