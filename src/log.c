/*-------------------------------------------------------------------------
 *
 * log.c
 *		The log: reading and writing the rows of a store's table event.
 *
 * Everything here can be done by a statement, which runs as the caller, so
 * that the log may be whatever PostgreSQL has under the name of a table.  Most
 * logs are just what es_create_store() made.  For those there is a direct way:
 * scans of the two unique indexes, and an insert as logical replication does
 * it, without executor, plan cache and SPI.
 *
 * What a statement would have checked is checked here, in open_plain() alone.
 * Where the table has anything that it does not expect, or where the caller's
 * rights do not suffice, the statement is run, and it is the statement that
 * does the odd thing or raises the error.  So there is no difference to be seen
 * but the time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_index.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_opfamily.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "compat.h"
#include "executor/executor.h"
#include "extension.h"
#include "guc.h"
#include "log.h"
#include "spi_plan.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* What a store's log is like; in the store's context. */
typedef struct EsLogShape
{
	bool		known;			/* looked at to the end, and not ended by an error */
	bool		readable;		/* by index scans */
	bool		insertable;		/* without a statement */
	Oid			stream_index;	/* UNIQUE (stream, version) */
	Oid			position_index; /* UNIQUE (position) */

	/* the rights of the caller who asked last */
	Oid			user;
	uint64		rights;			/* role_changes when they were looked up */
	bool		may_read;
	bool		may_insert;
} EsLogShape;

/* A column that an index must have. */
typedef struct KeyColumn
{
	EsEventColumn column;
	Oid			opfamily;
	Oid			type;
	Oid			collation;
} KeyColumn;

/* From this many events behind a believed end on, the end is looked for from behind. */
#define FEW_EVENTS 32

/* What the table is opened for. */
typedef enum Use
{
	READ,
	INSERT
} Use;

/* A scan of one of the two indexes. */
typedef struct LogScan
{
	Relation	index;
	IndexScanDesc desc;
	TupleTableSlot *slot;
} LogScan;

static const KeyColumn stream_key[] = {
	{ES_EVENT_STREAM, TEXT_BTREE_FAM_OID, TEXTOID, C_COLLATION_OID},
	{ES_EVENT_VERSION, INTEGER_BTREE_FAM_OID, INT8OID, InvalidOid},
};
static const KeyColumn position_key[] = {
	{ES_EVENT_POSITION, INTEGER_BTREE_FAM_OID, INT8OID, InvalidOid},
};

static uint64 role_changes = 1;

static const EsPlanSpec head_plan = {
	"SELECT version::pg_catalog.int8, position::pg_catalog.int8 FROM @store@.event"
	" WHERE stream OPERATOR(pg_catalog.=) $1 ORDER BY version DESC LIMIT 1",
	1,
	{TEXTOID},
};

static const EsPlanSpec last_position_plan = {
	"SELECT position::pg_catalog.int8 FROM @store@.event WHERE position OPERATOR(pg_catalog.<=) $1"
	" ORDER BY position DESC LIMIT 1",
	1,
	{INT8OID}};

#define READ_STREAM_PLAN(order) \
	{ \
		"SELECT " ES_EVENT_SELECT_LIST " FROM @store@.event" \
		" WHERE stream OPERATOR(pg_catalog.=) $4" \
		" AND version OPERATOR(pg_catalog.>=) $1 AND version OPERATOR(pg_catalog.<=) $2" \
		" ORDER BY version " order " LIMIT $3", \
			4, \
		{ \
			INT8OID, INT8OID, INT8OID, TEXTOID \
		} \
	}

static const EsPlanSpec stream_plans[] = {
	READ_STREAM_PLAN("ASC"),
	READ_STREAM_PLAN("DESC"),
};

/* What a feed is read by, as bits of a plan's index. */
#define READ_BACKWARD	1
#define READ_CATEGORIES 2
#define READ_TYPES		4

#define READ_FEED_PLAN(categories, types, order) \
	{ \
		"SELECT " ES_EVENT_SELECT_LIST " FROM @store@.event" \
		" WHERE position OPERATOR(pg_catalog.>=) $1 AND position OPERATOR(pg_catalog.<=) $2" categories types \
		" ORDER BY position " order " LIMIT $3", \
			5, \
		{ \
			INT8OID, INT8OID, INT8OID, TEXTARRAYOID, TEXTARRAYOID \
		} \
	}
#define WITH_CATEGORIES \
	" AND pg_catalog.split_part(stream, '-', 1) OPERATOR(pg_catalog.=) ANY ($4)"
#define WITH_TYPES \
	" AND type OPERATOR(pg_catalog.=) ANY ($5)"

static const EsPlanSpec feed_plans[] = {
	READ_FEED_PLAN("", "", "ASC"),
	READ_FEED_PLAN("", "", "DESC"),
	READ_FEED_PLAN(WITH_CATEGORIES, "", "ASC"),
	READ_FEED_PLAN(WITH_CATEGORIES, "", "DESC"),
	READ_FEED_PLAN("", WITH_TYPES, "ASC"),
	READ_FEED_PLAN("", WITH_TYPES, "DESC"),
	READ_FEED_PLAN(WITH_CATEGORIES, WITH_TYPES, "ASC"),
	READ_FEED_PLAN(WITH_CATEGORIES, WITH_TYPES, "DESC"),
};

#define EVENT_COLUMN_LIST \
	"(position, stream, version, type, data, metadata," \
	" event_id, correlation_id, causation_id, recorded_at)"

static const EsPlanSpec insert_one_plan = {
	"INSERT INTO @store@.event " EVENT_COLUMN_LIST
	" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
	ES_EVENT_COLUMNS,
	{INT8OID, TEXTOID, INT8OID, TEXTOID, JSONBOID, JSONBOID, UUIDOID, UUIDOID, UUIDOID,
	 TIMESTAMPTZOID},
};

/* What all events of an append share is given once. */
static const EsPlanSpec insert_many_plan = {
	"INSERT INTO @store@.event " EVENT_COLUMN_LIST
	" SELECT u.position, $2, u.version, u.type, u.data, u.metadata, u.event_id, $8, $9, u.recorded_at"
	" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($3), pg_catalog.unnest($4),"
	" pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($10))"
	" AS u(position, version, type, data, metadata, event_id, recorded_at)",
	ES_EVENT_COLUMNS,
	{INT8ARRAYOID, TEXTOID, INT8ARRAYOID, TEXTARRAYOID, JSONBARRAYOID, JSONBARRAYOID, UUIDARRAYOID,
	 UUIDOID, UUIDOID, TIMESTAMPTZARRAYOID},
};

static Relation open_plain(EsStore *store, Use use, LOCKMODE mode);
static void look_at(EsLogShape *shape, Relation table);
static bool columns_are_ours(TupleDesc tupdesc);
static bool triggers_are_ours(Relation table);
static bool is_guard(Oid function);
static Oid	find_index(Relation table, const KeyColumn *columns, int ncolumns);
static bool is_index_on(Relation index, const KeyColumn *columns, int ncolumns);
static void look_up_rights(EsStore *store, EsLogShape *shape);
static void require_some_right(EsStore *store);
static void count_role_change(Datum arg, int cacheid, uint32 hashvalue);
static int	stream_scan_key(ScanKey keys, text *stream);
static int	range_scan_keys(ScanKey keys, AttrNumber column, const EsLogRange *range);
static void begin_scan(LogScan *scan, Relation table, Oid index, LOCKMODE mode,
					   Snapshot snapshot, ScanKey keys, int nkeys);
static bool next_row(LogScan *scan, bool backward);
static void end_scan(LogScan *scan);
static EsStreamHead head_of_row(TupleTableSlot *slot);
static bool find_head_from(EsStore *store, Relation table, text *stream, int64 believed,
						   Snapshot snapshot, LOCKMODE mode, EsStreamHead *head);
static void stream_rows(Relation table, Oid index, ScanKey keys, int nkeys,
						const EsLogRange *range, DestReceiver *dest);
static void insert_rows(Relation table, const EsEvent *events, int nevents);
static EsStreamHead select_head(EsStore *store, text *stream, Snapshot snapshot);
static int64 select_last_position(EsStore *store, int64 upto, Snapshot snapshot);
static void select_range(EsStore *store, const EsPlanSpec *plan, const EsLogRange *range,
						 const void *first, const void *second, DestReceiver *dest);
static void insert_by_statement(EsStore *store, EsEvent *events, int nevents);
static uint64 insert_many(EsStore *store, EsEvent *events, int nevents);

void
es_log_init(void)
{
	/* whatever may change what a role is allowed to do, apart from the table itself */
	CacheRegisterSyscacheCallback(AUTHOID, count_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, count_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(DATABASEOID, count_role_change, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, count_role_change, (Datum) 0);
}

EsStreamHead
es_log_read_head(EsStore *store, text *stream, int64 believed, Snapshot snapshot, LOCKMODE mode)
{
	Relation	table = open_plain(store, READ, mode);
	EsStreamHead head = {0, 0};

	if (table == NULL)
		return select_head(store, stream, snapshot);

	snapshot = RegisterSnapshot(snapshot);
	if (believed <= 0 || !find_head_from(store, table, stream, believed, snapshot, mode, &head))
	{
		ScanKeyData key;
		LogScan		scan;

		begin_scan(&scan, table, store->log->stream_index, mode, snapshot, &key,
				   stream_scan_key(&key, stream));
		if (next_row(&scan, true))
			head = head_of_row(scan.slot);
		end_scan(&scan);
	}
	relation_close(table, NoLock);
	UnregisterSnapshot(snapshot);
	return head;
}

bool
es_log_reaches(EsStore *store, text *stream, int64 version, Snapshot snapshot)
{
	Relation	table = open_plain(store, READ, AccessShareLock);
	EsLogRange	range = {version, PG_INT64_MAX, 1, false};
	ScanKeyData keys[3];
	int			nkeys;
	LogScan		scan;
	bool		found;

	if (table == NULL)
		return select_head(store, stream, snapshot).version >= version;

	snapshot = RegisterSnapshot(snapshot);
	nkeys = stream_scan_key(keys, stream);
	nkeys += range_scan_keys(keys + nkeys, 2, &range);
	begin_scan(&scan, table, store->log->stream_index, AccessShareLock, snapshot, keys, nkeys);
	found = next_row(&scan, false);
	end_scan(&scan);
	relation_close(table, NoLock);
	UnregisterSnapshot(snapshot);
	return found;
}

int64
es_log_last_position(EsStore *store, Snapshot snapshot)
{
	return es_log_position_at_or_before(store, PG_INT64_MAX, snapshot);
}

int64
es_log_position_at_or_before(EsStore *store, int64 position, Snapshot snapshot)
{
	Relation	table = open_plain(store, READ, AccessShareLock);
	EsLogRange	range = {PG_INT64_MIN, position, 1, true};
	int64		found = 0;
	ScanKeyData keys[2];
	int			nkeys;
	LogScan		scan;

	if (table == NULL)
		return select_last_position(store, position, snapshot);

	snapshot = RegisterSnapshot(snapshot);
	nkeys = range_scan_keys(keys, 1, &range);
	begin_scan(&scan, table, store->log->position_index, AccessShareLock, snapshot, keys, nkeys);
	if (next_row(&scan, true))
	{
		bool		isnull;

		found = DatumGetInt64(slot_getattr(scan.slot, ES_EVENT_POSITION + 1, &isnull));
	}
	end_scan(&scan);
	relation_close(table, NoLock);
	UnregisterSnapshot(snapshot);
	return found;
}

void
es_log_read_stream(EsStore *store, text *stream, const EsLogRange *range, DestReceiver *dest)
{
	Relation	table = open_plain(store, READ, AccessShareLock);
	ScanKeyData keys[3];
	int			nkeys;

	if (table == NULL)
	{
		select_range(store, &stream_plans[range->backward ? 1 : 0], range, stream, NULL, dest);
		return;
	}
	nkeys = stream_scan_key(keys, stream);
	nkeys += range_scan_keys(keys + nkeys, 2, range);
	stream_rows(table, store->log->stream_index, keys, nkeys, range, dest);
}

void
es_log_read_feed(EsStore *store, const EsLogRange *range, ArrayType *categories, ArrayType *types,
				 DestReceiver *dest)
{
	Relation	table = NULL;
	ScanKeyData keys[2];
	int			nkeys;

	if (categories == NULL && types == NULL)
		table = open_plain(store, READ, AccessShareLock);
	if (table == NULL)
	{
		int			plan = (range->backward ? READ_BACKWARD : 0) |
			(categories ? READ_CATEGORIES : 0) | (types ? READ_TYPES : 0);

		select_range(store, &feed_plans[plan], range, categories, types, dest);
		return;
	}
	nkeys = range_scan_keys(keys, 1, range);
	stream_rows(table, store->log->position_index, keys, nkeys, range, dest);
}

void
es_log_insert(EsStore *store, EsEvent *events, int nevents)
{
	Relation	table = open_plain(store, INSERT, RowExclusiveLock);

	if (table)
		insert_rows(table, events, nevents);
	else
		insert_by_statement(store, events, nevents);
}

/*
 * The log's table, opened with this lock, if the direct way does what a
 * statement of the caller would do; else NULL.  What it is like is in
 * store->log.  The lock is kept to the end of the transaction, as a statement
 * keeps it.
 */
static Relation
open_plain(EsStore *store, Use use, LOCKMODE mode)
{
	EsLogShape *shape;
	Relation	table;

	/* somebody watches whether statements may be run; a replaced store is told of no change */
	if (!es_direct_log || ExecutorCheckPerms_hook != NULL || store->replaced)
		return NULL;
	if (use == INSERT && (XactReadOnly || IsInParallelMode()))
		return NULL;
	table = try_relation_open(store->event, mode);
	if (table == NULL)
		return NULL;

	/* under the lock: what it rules out cannot change any more */
	if (store->log == NULL)
		store->log = MemoryContextAllocZero(store->context, sizeof(EsLogShape));
	shape = store->log;
	if (!store->log_valid || !shape->known)
	{
		/* set first: what arrives while we look makes the next call look again */
		store->log_valid = true;
		look_at(shape, table);
		shape->known = true;
	}
	if (shape->user != GetUserId() || shape->rights != role_changes)
		look_up_rights(store, shape);

	if (use == READ ? shape->readable && shape->may_read : shape->insertable && shape->may_insert)
		return table;
	relation_close(table, NoLock);
	if (!shape->may_read)
		require_some_right(store);
	return NULL;
}

/* Is the table what es_create_store() made, for as much as it matters here? */
static void
look_at(EsLogShape *shape, Relation table)
{
	Form_pg_class form = table->rd_rel;

	memset(shape, 0, sizeof(*shape));
	if (form->relkind != RELKIND_RELATION || form->relpersistence == RELPERSISTENCE_TEMP ||
		table->rd_tableam != GetHeapamTableAmRoutine() || form->relispartition ||
		form->relhassubclass || form->relrowsecurity || !columns_are_ours(RelationGetDescr(table)))
		return;
	shape->stream_index = find_index(table, stream_key, lengthof(stream_key));
	shape->position_index = find_index(table, position_key, lengthof(position_key));
	shape->readable = OidIsValid(shape->stream_index) && OidIsValid(shape->position_index);
	shape->insertable = shape->readable && !form->relhasrules && triggers_are_ours(table);
}

static bool
columns_are_ours(TupleDesc tupdesc)
{
	TupleDesc	ours = es_extension()->event.tupdesc;

	if (tupdesc->natts != ES_EVENT_COLUMNS)
		return false;
	for (int i = 0; i < ES_EVENT_COLUMNS; i++)
	{
		Form_pg_attribute column = TupleDescAttr(tupdesc, i);
		Form_pg_attribute our_column = TupleDescAttr(ours, i);

		if (column->attisdropped || column->atttypid != our_column->atttypid ||
			column->atttypmod != -1 || column->atthasmissing || column->attidentity != '\0' ||
			column->attgenerated != '\0' ||
			strcmp(NameStr(column->attname), NameStr(our_column->attname)) != 0)
			return false;
	}
	return true;
}

/*
 * Row triggers after the insert fire as after a statement, whosever they are.
 * Of all others that a statement would fire, only our own guard may be left out,
 * whose purpose is to tell a statement of the user from one of ours.
 */
static bool
triggers_are_ours(Relation table)
{
	/* a copy: the table's own may be replaced while we look at functions */
	TriggerDesc *triggers = CopyTriggerDesc(table->trigdesc);
	bool		ours = true;

	for (int i = 0; triggers && i < triggers->numtriggers && ours; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype))
			continue;
		if (TRIGGER_FOR_AFTER(trigger->tgtype))
			ours = TRIGGER_FOR_ROW(trigger->tgtype) && trigger->tgnewtable == NULL;
		else
			ours = !TRIGGER_FOR_ROW(trigger->tgtype) && is_guard(trigger->tgfoid);
	}
	FreeTriggerDesc(triggers);
	return ours;
}

static bool
is_guard(Oid function)
{
	char	   *name = get_func_name(function);

	return name && strcmp(name, "es_event_guard") == 0 &&
		get_func_namespace(function) == es_extension()->schema;
}

static Oid
find_index(Relation table, const KeyColumn *columns, int ncolumns)
{
	List	   *indexes = RelationGetIndexList(table);
	Oid			found = InvalidOid;
	ListCell   *cell;

	foreach(cell, indexes)
	{
		Relation	index = index_open(lfirst_oid(cell), AccessShareLock);

		if (is_index_on(index, columns, ncolumns))
			found = RelationGetRelid(index);
		index_close(index, NoLock);
		if (OidIsValid(found))
			break;
	}
	list_free(indexes);
	return found;
}

/* A usable btree, unique at once, on exactly these columns, of all rows. */
static bool
is_index_on(Relation index, const KeyColumn *columns, int ncolumns)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID || form->indnkeyatts != ncolumns ||
		!form->indisunique || !form->indimmediate || !form->indisvalid || !form->indisready ||
		form->indcheckxmin || !heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return false;
	for (int i = 0; i < ncolumns; i++)
		if (form->indkey.values[i] != columns[i].column + 1 ||
			index->rd_opfamily[i] != columns[i].opfamily ||
			index->rd_opcintype[i] != columns[i].type ||
			index->rd_indcollation[i] != columns[i].collation || index->rd_indoption[i] != 0)
			return false;
	return true;
}

/*
 * The rights on the table and its schema, as a statement needs them.  Whoever
 * may read single columns only is left to the statement; to insert into all
 * columns one by one is what es_grant() lets those do who dispatch and may not
 * append (append.c).  To insert asks for the right to read, too: an error's
 * detail then may show the row.
 */
static void
look_up_rights(EsStore *store, EsLogShape *shape)
{
	Oid			user = GetUserId();
	uint64		rights = role_changes;

	/* nobody's until all is known: an error in between must not lend somebody else's */
	shape->user = InvalidOid;
	shape->may_read = es_namespace_aclcheck(store->schema, user, ACL_USAGE) == ACLCHECK_OK &&
		pg_class_aclcheck(store->event, user, ACL_SELECT) == ACLCHECK_OK;
	shape->may_insert = shape->may_read &&
		(pg_class_aclcheck(store->event, user, ACL_INSERT) == ACLCHECK_OK ||
		 pg_attribute_aclcheck_all(store->event, user, ACL_INSERT, ACLMASK_ALL) == ACLCHECK_OK);
	shape->user = user;
	shape->rights = rights;
}

/*
 * Whoever may see nothing of the table hears that from us: a statement would
 * speak of the schema or of the table, whichever of them the plan cache comes to
 * first.
 */
static void
require_some_right(EsStore *store)
{
	if (pg_class_aclcheck(store->event, GetUserId(), ACL_SELECT) != ACLCHECK_OK &&
		pg_attribute_aclcheck_all(store->event, GetUserId(), ACL_SELECT, ACLMASK_ANY) !=
			ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE, get_rel_name(store->event));
}

static void
count_role_change(Datum arg, int cacheid, uint32 hashvalue)
{
	role_changes++;
}

static int
stream_scan_key(ScanKey keys, text *stream)
{
	ScanKeyEntryInitialize(&keys[0], 0, 1, BTEqualStrategyNumber, InvalidOid, C_COLLATION_OID,
						   F_TEXTEQ, PointerGetDatum(stream));
	return 1;
}

/* The bounds of a range on an index's column, of which there are no more than needed. */
static int
range_scan_keys(ScanKey keys, AttrNumber column, const EsLogRange *range)
{
	int			nkeys = 0;

	if (range->first > PG_INT64_MIN)
		ScanKeyInit(&keys[nkeys++], column, BTGreaterEqualStrategyNumber, F_INT8GE,
					Int64GetDatum(range->first));
	if (range->last < PG_INT64_MAX)
		ScanKeyInit(&keys[nkeys++], column, BTLessEqualStrategyNumber, F_INT8LE,
					Int64GetDatum(range->last));
	return nkeys;
}

static void
begin_scan(LogScan *scan, Relation table, Oid index, LOCKMODE mode, Snapshot snapshot,
		   ScanKey keys, int nkeys)
{
	scan->index = index_open(index, mode);
	scan->slot = table_slot_create(table, NULL);
	scan->desc = es_index_beginscan(table, scan->index, snapshot, nkeys);
	index_rescan(scan->desc, keys, nkeys, NULL, 0);
}

static bool
next_row(LogScan *scan, bool backward)
{
	return index_getnext_slot(scan->desc, backward ? BackwardScanDirection : ForwardScanDirection,
							  scan->slot);
}

/* The locks are kept, as a statement keeps them. */
static void
end_scan(LogScan *scan)
{
	index_endscan(scan->desc);
	ExecDropSingleTupleTableSlot(scan->slot);
	index_close(scan->index, NoLock);
}

static EsStreamHead
head_of_row(TupleTableSlot *slot)
{
	EsStreamHead head;
	bool		isnull;

	head.version = DatumGetInt64(slot_getattr(slot, ES_EVENT_VERSION + 1, &isnull));
	head.position = DatumGetInt64(slot_getattr(slot, ES_EVENT_POSITION + 1, &isnull));
	return head;
}

/*
 * Find a stream's end by going forward from a version that it may have.  A scan
 * backward from the end looks at all of the stream's entries on the index page
 * that it begins with, which for a long stream is a page full; this one only at
 * those behind the version.  Returns false where that is not so.
 */
static bool
find_head_from(EsStore *store, Relation table, text *stream, int64 believed, Snapshot snapshot,
			   LOCKMODE mode, EsStreamHead *head)
{
	EsLogRange	range = {believed, PG_INT64_MAX, PG_INT64_MAX, false};
	ScanKeyData keys[3];
	int			nkeys;
	LogScan		scan;
	int			count = 0;

	nkeys = stream_scan_key(keys, stream);
	nkeys += range_scan_keys(keys + nkeys, 2, &range);
	begin_scan(&scan, table, store->log->stream_index, mode, snapshot, keys, nkeys);
	while (count < FEW_EVENTS && next_row(&scan, false))
	{
		*head = head_of_row(scan.slot);
		count++;
	}
	end_scan(&scan);
	return count > 0 && count < FEW_EVENTS;
}

static void
stream_rows(Relation table, Oid index, ScanKey keys, int nkeys, const EsLogRange *range,
			DestReceiver *dest)
{
	Snapshot	snapshot = RegisterSnapshot(GetActiveSnapshot());
	LogScan		scan;

	begin_scan(&scan, table, index, AccessShareLock, snapshot, keys, nkeys);
	dest->rStartup(dest, CMD_SELECT, RelationGetDescr(table));
	for (int64 count = 0; count < range->max_count && next_row(&scan, range->backward); count++)
	{
		CHECK_FOR_INTERRUPTS();
		if (!dest->receiveSlot(scan.slot, dest))
			break;
	}
	dest->rShutdown(dest);
	end_scan(&scan);
	relation_close(table, NoLock);
	UnregisterSnapshot(snapshot);
}

/*
 * What an INSERT statement in SPI does: a command of its own, under a snapshot
 * of its own, which the triggers find as the active one.
 */
static void
insert_rows(Relation table, const EsEvent *events, int nevents)
{
	EState	   *estate = CreateExecutorState();
	MemoryContext caller = MemoryContextSwitchTo(estate->es_query_cxt);
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = table_slot_create(table, &estate->es_tupleTable);

	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	InitResultRelInfo(target, table, 0, NULL, 0);
	/* where the triggers look for it */
	estate->es_opened_result_relations = list_make1(target);
	estate->es_output_cid = GetCurrentCommandId(true);
	AfterTriggerBeginQuery();
	ExecOpenIndices(target, false);

	for (int i = 0; i < nevents; i++)
	{
		CHECK_FOR_INTERRUPTS();
		ExecClearTuple(slot);
		memcpy(slot->tts_values, events[i].values, sizeof(events[i].values));
		memcpy(slot->tts_isnull, events[i].nulls, sizeof(events[i].nulls));
		ExecStoreVirtualTuple(slot);
		slot->tts_tableOid = RelationGetRelid(table);
		ExecSimpleRelationInsert(target, estate, slot);
		ResetPerTupleExprContext(estate);
	}

	AfterTriggerEndQuery(estate);
	ExecCloseResultRelations(estate);
	ExecResetTupleTable(estate->es_tupleTable, false);
	MemoryContextSwitchTo(caller);
	FreeExecutorState(estate);
	relation_close(table, NoLock);
	PopActiveSnapshot();
	CommandCounterIncrement();
}

static EsStreamHead
select_head(EsStore *store, text *stream, Snapshot snapshot)
{
	EsStreamHead head = {0, 0};
	Datum		values[] = {PointerGetDatum(stream)};
	bool		isnull;

	SPI_connect();
	es_spi_read(store, &head_plan, values, NULL, snapshot, 1);
	if (SPI_processed > 0)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;

		head.version = DatumGetInt64(SPI_getbinval(row, tupdesc, 1, &isnull));
		head.position = DatumGetInt64(SPI_getbinval(row, tupdesc, 2, &isnull));
	}
	SPI_finish();
	return head;
}

static int64
select_last_position(EsStore *store, int64 upto, Snapshot snapshot)
{
	Datum		values[] = {Int64GetDatum(upto)};
	int64		position = 0;
	bool		isnull;

	SPI_connect();
	es_spi_read(store, &last_position_plan, values, NULL, snapshot, 1);
	if (SPI_processed > 0)
		position = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1,
											   &isnull));
	SPI_finish();
	return position;
}

/* Parameters: the range's first, last and count, and what more the plan has. */
static void
select_range(EsStore *store, const EsPlanSpec *plan, const EsLogRange *range, const void *first,
			 const void *second, DestReceiver *dest)
{
	Datum		values[] = {
		Int64GetDatum(range->first),
		Int64GetDatum(range->last),
		Int64GetDatum(range->max_count),
		PointerGetDatum(first),
		PointerGetDatum(second),
	};
	char		nulls[] = {' ', ' ', ' ', first ? ' ' : 'n', second ? ' ' : 'n'};

	SPI_connect();
	es_spi_stream(store, plan, values, nulls, dest);
	SPI_finish();
}

static void
insert_by_statement(EsStore *store, EsEvent *events, int nevents)
{
	uint64		inserted;

	SPI_connect();
	es_store_permit_insert(store);
	if (nevents == 1)
	{
		char		nulls[ES_EVENT_COLUMNS];

		for (int i = 0; i < ES_EVENT_COLUMNS; i++)
			nulls[i] = events->nulls[i] ? 'n' : ' ';
		inserted = es_spi_write(store, &insert_one_plan, events->values, nulls);
	}
	else
		inserted = insert_many(store, events, nevents);
	es_store_forbid_insert();
	SPI_finish();

	if (inserted != (uint64) nevents)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("only %llu of %d events were recorded",
						(unsigned long long) inserted, nevents),
				 errhint("Look for a trigger or rule on the event log that suppresses rows.")));
}

static uint64
insert_many(EsStore *store, EsEvent *events, int nevents)
{
	/* columns that differ from event to event, and their types */
	static const struct
	{
		EsEventColumn column;
		Oid			type;
		int			length;
		bool		byval;
		char		align;
	}			arrays[] = {
		{ES_EVENT_POSITION, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
		{ES_EVENT_VERSION, INT8OID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
		{ES_EVENT_TYPE, TEXTOID, -1, false, TYPALIGN_INT},
		{ES_EVENT_DATA, JSONBOID, -1, false, TYPALIGN_INT},
		{ES_EVENT_METADATA, JSONBOID, -1, false, TYPALIGN_INT},
		{ES_EVENT_ID, UUIDOID, UUID_LEN, false, TYPALIGN_CHAR},
		{ES_EVENT_RECORDED_AT, TIMESTAMPTZOID, 8, FLOAT8PASSBYVAL, TYPALIGN_DOUBLE},
	};
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "event_sourcing insert",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	Datum		values[ES_EVENT_COLUMNS];
	char		nulls[ES_EVENT_COLUMNS];
	Datum	   *elements = palloc(nevents * sizeof(Datum));
	bool	   *element_nulls = palloc(nevents * sizeof(bool));
	uint64		inserted;

	for (int i = 0; i < ES_EVENT_COLUMNS; i++)
	{
		values[i] = events->values[i];
		nulls[i] = events->nulls[i] ? 'n' : ' ';
	}
	for (int a = 0; a < lengthof(arrays); a++)
	{
		int			column = arrays[a].column;
		int			lower = 1;
		ArrayType  *array;

		for (int i = 0; i < nevents; i++)
		{
			elements[i] = events[i].values[column];
			element_nulls[i] = events[i].nulls[column];
		}
		array = construct_md_array(elements, element_nulls, 1, &nevents, &lower, arrays[a].type,
								   arrays[a].length, arrays[a].byval, arrays[a].align);
		values[column] = PointerGetDatum(array);
		nulls[column] = ' ';
	}
	inserted = es_spi_write(store, &insert_many_plan, values, nulls);
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(context);
	return inserted;
}
