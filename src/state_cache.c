/*-------------------------------------------------------------------------
 *
 * state_cache.c
 *		The states that this session folded last.
 *
 * An entry is (version, position of that version, state).  It is only ever a
 * start: whoever uses it reads the stream from its version on, and the first
 * row must have the position remembered.  So an entry that other sessions have
 * left behind is merely older, and one of a log that was restored or rolled
 * back is found out.
 *
 * What a transaction puts here may rest on its own uncommitted events: it dies
 * with the transaction or subtransaction that put it, and with PREPARE
 * TRANSACTION.  Any change of a function or type loads the definitions anew, and
 * what was folded by an older load is never found again, since an apply
 * function may call any other.  Bounded by event_sourcing.cache_size; the least
 * recently used entry goes first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/hashfn.h"
#include "guc.h"
#include "lib/ilist.h"
#include "state_cache.h"
#include "utils/memutils.h"

/* What an entry is found by; the name points into the entry's own memory. */
typedef struct StateKey
{
	uint64		aggregate;		/* serial number of the definition as loaded */
	int			stream_length;
	const char *stream;
} StateKey;

typedef struct StateEntry
{
	StateKey	key;			/* hash key */
	EsStreamHead head;
	Datum		state;			/* a flat varlena */
	Size		size;			/* of all that the entry holds */
	SubTransactionId pending;	/* dies with this one; invalid: committed */
	dlist_node	recency;		/* in by_recency, most recent first */
	dlist_node	pending_node;	/* in pending_entries */
} StateEntry;

static HTAB *entries = NULL;
static MemoryContext cache_context = NULL;
static dlist_head by_recency;
static dlist_head pending_entries;
static Size total_size = 0;

static void make_cache(void);
static StateKey make_key(EsAggregate *aggregate, const text *stream);
static void remove_entry(StateEntry *entry);
static uint32 hash_key(const void *key, Size keysize);
static int	match_keys(const void *key1, const void *key2, Size keysize);
static void end_of_transaction(XactEvent event, void *arg);
static void end_of_subtransaction(SubXactEvent event, SubTransactionId mysubid,
								  SubTransactionId parentsubid, void *arg);

void
es_state_cache_init(void)
{
	RegisterXactCallback(end_of_transaction, NULL);
	RegisterSubXactCallback(end_of_subtransaction, NULL);
}

bool
es_state_cache_get(EsAggregate *aggregate, const text *stream,
				   EsStreamHead *head, Datum *state)
{
	StateKey	key = make_key(aggregate, stream);
	StateEntry *entry;

	if (entries == NULL)
		return false;
	entry = hash_search(entries, &key, HASH_FIND, NULL);
	if (entry == NULL)
		return false;
	dlist_move_head(&by_recency, &entry->recency);
	*head = entry->head;
	*state = entry->state;
	return true;
}

void
es_state_cache_put(EsAggregate *aggregate, const text *stream,
				   EsStreamHead head, Datum state)
{
	StateKey	key = make_key(aggregate, stream);
	Size		limit = (Size) es_cache_size_kb * 1024;
	Size		state_size = VARSIZE_ANY(DatumGetPointer(state));
	Size		size = sizeof(StateEntry) + MAXALIGN(state_size) + key.stream_length;
	StateEntry *volatile entry = NULL;
	char	   *memory;

	es_state_cache_remove(aggregate, stream);
	if (size > limit)
		return;
	if (entries == NULL)
		make_cache();
	while (total_size + size > limit)
		remove_entry(dlist_tail_element(StateEntry, recency, &by_recency));

	memory = MemoryContextAlloc(cache_context, MAXALIGN(state_size) + key.stream_length);
	memcpy(memory, DatumGetPointer(state), state_size);
	memcpy(memory + MAXALIGN(state_size), key.stream, key.stream_length);
	key.stream = memory + MAXALIGN(state_size);

	PG_TRY();
	{
		entry = hash_search(entries, &key, HASH_ENTER, NULL);
	}
	PG_CATCH();
	{
		pfree(memory);			/* nobody else knows of it, and the cache stays */
		PG_RE_THROW();
	}
	PG_END_TRY();
	entry->head = head;
	entry->state = PointerGetDatum(memory);
	entry->size = size;
	entry->pending = GetCurrentSubTransactionId();
	total_size += size;
	dlist_push_head(&by_recency, &entry->recency);
	dlist_push_head(&pending_entries, &entry->pending_node);
}

void
es_state_cache_remove(EsAggregate *aggregate, const text *stream)
{
	StateKey	key = make_key(aggregate, stream);
	StateEntry *entry = entries ? hash_search(entries, &key, HASH_FIND, NULL) : NULL;

	if (entry)
		remove_entry(entry);
}

static void
make_cache(void)
{
	HASHCTL		ctl = {0};

	if (cache_context == NULL)	/* else an earlier call ran out of memory below */
		cache_context = AllocSetContextCreate(TopMemoryContext, "event_sourcing states",
											  ALLOCSET_DEFAULT_SIZES);
	ctl.keysize = sizeof(StateKey);
	ctl.entrysize = sizeof(StateEntry);
	ctl.hash = hash_key;
	ctl.match = match_keys;
	ctl.hcxt = cache_context;
	dlist_init(&by_recency);
	dlist_init(&pending_entries);
	total_size = 0;
	entries = hash_create("event_sourcing states", 256, &ctl,
						  HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
}

static StateKey
make_key(EsAggregate *aggregate, const text *stream)
{
	StateKey	key;

	key.aggregate = aggregate->serial;
	key.stream_length = VARSIZE_ANY_EXHDR(stream);
	key.stream = VARDATA_ANY(stream);
	return key;
}

static void
remove_entry(StateEntry *entry)
{
	void	   *memory = DatumGetPointer(entry->state);

	total_size -= entry->size;
	dlist_delete(&entry->recency);
	if (entry->pending != InvalidSubTransactionId)
		dlist_delete(&entry->pending_node);
	hash_search(entries, &entry->key, HASH_REMOVE, NULL);
	pfree(memory);
}

static uint32
hash_key(const void *key, Size keysize)
{
	const StateKey *k = key;
	uint32		hash = hash_bytes((const unsigned char *) k->stream, k->stream_length);

	return hash_combine(hash, (uint32) k->aggregate);
}

static int
match_keys(const void *key1, const void *key2, Size keysize)
{
	const StateKey *k1 = key1;
	const StateKey *k2 = key2;

	return !(k1->aggregate == k2->aggregate && k1->stream_length == k2->stream_length &&
			 memcmp(k1->stream, k2->stream, k1->stream_length) == 0);
}

static void
end_of_transaction(XactEvent event, void *arg)
{
	dlist_mutable_iter iter;
	bool		keep = (event == XACT_EVENT_COMMIT);

	if (entries == NULL ||
		(event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT && event != XACT_EVENT_PREPARE))
		return;
	dlist_foreach_modify(iter, &pending_entries)
	{
		StateEntry *entry = dlist_container(StateEntry, pending_node, iter.cur);

		if (keep)
		{
			dlist_delete(&entry->pending_node);
			entry->pending = InvalidSubTransactionId;
		}
		else
			remove_entry(entry);
	}
}

static void
end_of_subtransaction(SubXactEvent event, SubTransactionId mysubid,
					  SubTransactionId parentsubid, void *arg)
{
	dlist_mutable_iter iter;

	if (entries == NULL ||
		(event != SUBXACT_EVENT_COMMIT_SUB && event != SUBXACT_EVENT_ABORT_SUB))
		return;
	dlist_foreach_modify(iter, &pending_entries)
	{
		StateEntry *entry = dlist_container(StateEntry, pending_node, iter.cur);

		if (entry->pending != mysubid)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			entry->pending = parentsubid;
		else
			remove_entry(entry);
	}
}
