/*-------------------------------------------------------------------------
 *
 * lock_tag.h
 *		Tags of the heavyweight locks of a store.
 *
 * All of them are transaction-scoped locks of the user lock method: they go
 * with commit, abort, savepoint rollback and crash, and PREPARE TRANSACTION
 * carries them over.  Advisory locks of SQL use the classes 1 and 2 of
 * LOCKTAG_ADVISORY, and nothing in PostgreSQL uses LOCKTAG_USERLOCK.
 *
 * Order of locks: a projection that is rebuilt or compared, partitions of a
 * subscription, the log (a relation lock), a stream, the registration in flight
 * (never waits), inline projections by their id.  A stream's queue is held only
 * while waiting for that stream.
 *
 */
#ifndef ES_LOCK_TAG_H
#define ES_LOCK_TAG_H

#include "miscadmin.h"
#include "storage/lock.h"

#define ES_LOCK_CLASS_STREAM		0xE501
#define ES_LOCK_CLASS_PROJECTION	0xE502
#define ES_LOCK_CLASS_STREAM_QUEUE	0xE503
#define ES_LOCK_CLASS_CHECKPOINT	0xE504
#define ES_LOCK_CLASS_REBUILD		0xE505	/* shared, and never waited for: it only shows */

/* A lock by a 64-bit key; two things with one key merely wait for each other. */
static inline void
es_lock_tag_key(LOCKTAG *tag, uint16 lock_class, uint64 key)
{
	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (key >> 32), (uint32) key, lock_class);
}

/* A registration in flight: the store's sequence and a bound of 48 bits. */
static inline void
es_lock_tag_inflight(LOCKTAG *tag, Oid sequence, uint64 bound)
{
	tag->locktag_field1 = MyDatabaseId;
	tag->locktag_field2 = sequence;
	tag->locktag_field3 = (uint32) bound;
	tag->locktag_field4 = (uint16) (bound >> 32);
	tag->locktag_type = LOCKTAG_USERLOCK;
	tag->locktag_lockmethodid = USER_LOCKMETHOD;
}

static inline bool
es_lock_tag_is_inflight(const LOCKTAG *tag, Oid sequence)
{
	return tag->locktag_type == LOCKTAG_USERLOCK &&
		tag->locktag_lockmethodid == USER_LOCKMETHOD &&
		tag->locktag_field1 == MyDatabaseId &&
		tag->locktag_field2 == sequence;
}

/* How far a rebuild is, the same way: the log instead of its sequence, and a position. */
static inline void
es_lock_tag_progress(LOCKTAG *tag, Oid log, uint64 position)
{
	es_lock_tag_inflight(tag, log, position);
}

static inline bool
es_lock_tag_is_progress(const LOCKTAG *tag, Oid log)
{
	return es_lock_tag_is_inflight(tag, log);
}

static inline int64
es_lock_tag_bound(const LOCKTAG *tag)
{
	return (int64) (((uint64) tag->locktag_field4 << 32) | tag->locktag_field3);
}

#endif							/* ES_LOCK_TAG_H */
