/*-------------------------------------------------------------------------
 *
 * append.c
 *		Appending events to a stream.
 *
 * The order is the guarantee: lock the stream, read its end with a snapshot
 * taken under the lock, check the expected version, register in flight, draw
 * positions, insert.  Positions are drawn under the stream's lock so that they
 * rise with the version in every stream.  An abort at any point leaves gaps
 * in the positions and nothing else.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "append.h"
#include "catalog/pg_type.h"
#include "errors.h"
#include "extension.h"
#include "feed.h"
#include "fmgr.h"
#include "funcapi.h"
#include "handling.h"
#include "log.h"
#include "miscadmin.h"
#include "projection.h"
#include "spi_plan.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "wake.h"

/* One command inserts at most this many events, and about this many bytes. */
#define INSERT_MAX_EVENTS	1000
#define INSERT_MAX_BYTES	((Size) 32 * 1024 * 1024)

/* Events of a stream that have one of the ids, or all of a range of versions. */
static const EsPlanSpec find_ids_plan = {
	"SELECT version::pg_catalog.int8, position::pg_catalog.int8, event_id::pg_catalog.uuid FROM @store@.event"
	" WHERE stream OPERATOR(pg_catalog.=) $1 AND version OPERATOR(pg_catalog.>=) $2"
	" AND version OPERATOR(pg_catalog.<=) $3 AND event_id OPERATOR(pg_catalog.=) ANY ($4)"
	" ORDER BY version",
	4,
	{TEXTOID, INT8OID, INT8OID, UUIDARRAYOID},
};

static uint64 append_count = 0;

static Datum append_events(FunctionCallInfo fcinfo, text *stream, EsNewEvent *events, int nevents,
						   bool has_expected, int64 expected, const pg_uuid_t *correlation_id,
						   const pg_uuid_t *causation_id);
static void require_right_to_append(EsStore *store);
static bool already_appended(const EsAppend *append, bool has_expected, int64 expected,
							 EsStreamHead head, EsStreamHead *original);
static bool version_fits(int64 expected_version, int64 actual_version);
static void check_event_ids(const EsNewEvent *events, int nevents);
static int	compare_ids(const void *a, const void *b);
static EsNewEvent *read_event_array(ArrayType *array, int *nevents);
static bool is_same_type(const EsNewEvent *event, const EsNewEvent *other);
static void insert_batch(EsStore *store, EsEvent *events, int nevents);
static int	batch_size(const EsEvent *events, int nevents);
static Size event_size(const EsEvent *event);
static void rethrow_as_conflict(EsStore *store, EsEvent *event, MemoryContext context);

PG_FUNCTION_INFO_V1(es_append);
PG_FUNCTION_INFO_V1(es_append_json);
PG_FUNCTION_INFO_V1(es_append_literal);
PG_FUNCTION_INFO_V1(es_append_record_value);

/*
 * es_append(stream text, events es_new_event[], expected_version bigint, correlation_id uuid,
 * causation_id uuid)
 */
Datum
es_append(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	EsNewEvent *events;
	int			nevents;

	es_stream_check_name(stream);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the events must not be NULL"),
				 errhint("Give an empty array to check the version alone.")));
	events = read_event_array(PG_GETARG_ARRAYTYPE_P(1), &nevents);

	return append_events(fcinfo, stream, events, nevents,
						 !PG_ARGISNULL(2), PG_ARGISNULL(2) ? 0 : PG_GETARG_INT64(2),
						 PG_ARGISNULL(3) ? NULL : PG_GETARG_UUID_P(3),
						 PG_ARGISNULL(4) ? NULL : PG_GETARG_UUID_P(4));
}

/* es_append(stream text, type text, data jsonb, metadata jsonb, expected_version bigint) */
Datum
es_append_json(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	EsNewEvent	event = {0};

	es_stream_check_name(stream);
	event.type = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	event.data = PG_ARGISNULL(2) ? NULL : PG_GETARG_JSONB_P(2);
	event.metadata = PG_ARGISNULL(3) ? NULL : PG_GETARG_JSONB_P(3);
	es_new_event_check(&event);

	return append_events(fcinfo, stream, &event, 1,
						 !PG_ARGISNULL(4), PG_ARGISNULL(4) ? 0 : PG_GETARG_INT64(4), NULL, NULL);
}

/* es_append(stream text, type text, data text, metadata text, expected_version bigint) */
Datum
es_append_literal(PG_FUNCTION_ARGS)
{
	for (int i = 2; i <= 3; i++)
		if (!PG_ARGISNULL(i))
			fcinfo->args[i].value = es_jsonb_from_text(PG_GETARG_TEXT_PP(i));
	return es_append_json(fcinfo);
}

/* es_append(stream text, event anyelement, metadata jsonb, expected_version bigint) */
Datum
es_append_record_value(PG_FUNCTION_ARGS)
{
	text	   *stream = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	EsNewEvent	event;

	es_stream_check_name(stream);
	if (PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the event must not be NULL")));
	es_new_event_from_record(&event, get_fn_expr_argtype(fcinfo->flinfo, 1), PG_GETARG_DATUM(1));
	if (!PG_ARGISNULL(2))
		event.metadata = es_jsonb_merge(event.metadata, PG_GETARG_JSONB_P(2));
	es_new_event_check(&event);

	return append_events(fcinfo, stream, &event, 1,
						 !PG_ARGISNULL(3), PG_ARGISNULL(3) ? 0 : PG_GETARG_INT64(3), NULL, NULL);
}

void
es_append_check_expected(int64 expected_version)
{
	if (expected_version < ES_VERSION_EXISTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid expected version %lld", (long long) expected_version),
				 errhint("Give the exact version, 0 for a stream that must not exist, -1 for one that must exist, or NULL for any.")));
}

void
es_append_require_version(const text *stream, int64 expected_version, int64 actual_version)
{
	char	   *name;

	if (version_fits(expected_version, actual_version))
		return;
	name = text_to_cstring(stream);
	ereport(ERROR,
			(errcode(ERRCODE_ES_WRONG_EXPECTED_VERSION),
			 expected_version == ES_VERSION_NO_STREAM ?
				 errmsg("stream \"%s\" already exists, at version %lld", name, (long long) actual_version) :
				 actual_version == 0 ?
				 errmsg("stream \"%s\" does not exist", name) :
				 errmsg("stream \"%s\" is at version %lld, not %lld", name,
						(long long) actual_version, (long long) expected_version),
			 errdetail("stream \"%s\" expected version %lld actual version %lld", name,
					   (long long) expected_version, (long long) actual_version),
			 errhint("Read the stream again and decide again.")));
}

EsEvent *
es_append_record(const EsAppend *append, EsStreamHead head)
{
	EsEvent    *recorded = palloc0(append->nevents * sizeof(EsEvent));
	TimestampTz now = GetCurrentTimestamp();

	if (append->nevents == 0)
		return recorded;

	append_count++;
	es_feed_register(append->store);
	for (int i = 0; i < append->nevents; i++)
	{
		const EsNewEvent *new_event = &append->events[i];
		EsEvent    *event = &recorded[i];
		Jsonb	   *metadata = es_jsonb_merge(append->metadata, new_event->metadata);
		pg_uuid_t  *event_id = new_event->event_id;

		if (event_id == NULL)
		{
			event_id = palloc(sizeof(pg_uuid_t));
			es_uuid_v7(event_id);
		}
		event->values[ES_EVENT_POSITION] = Int64GetDatum(es_feed_next_position(append->store));
		event->values[ES_EVENT_STREAM] = PointerGetDatum(append->stream);
		event->values[ES_EVENT_VERSION] = Int64GetDatum(head.version + i + 1);
		event->values[ES_EVENT_TYPE] = PointerGetDatum(new_event->type);
		event->values[ES_EVENT_DATA] = JsonbPGetDatum(new_event->data);
		event->values[ES_EVENT_METADATA] = PointerGetDatum(metadata);
		event->nulls[ES_EVENT_METADATA] = (metadata == NULL);
		event->values[ES_EVENT_ID] = UUIDPGetDatum(event_id);
		event->values[ES_EVENT_CORRELATION_ID] = PointerGetDatum(append->correlation_id);
		event->nulls[ES_EVENT_CORRELATION_ID] = (append->correlation_id == NULL);
		event->values[ES_EVENT_CAUSATION_ID] = PointerGetDatum(append->causation_id);
		event->nulls[ES_EVENT_CAUSATION_ID] = (append->causation_id == NULL);
		event->values[ES_EVENT_RECORDED_AT] =
			TimestampTzGetDatum(new_event->has_recorded_at ? new_event->recorded_at : now);
		if (i == 0 || !is_same_type(new_event, &append->events[i - 1]))
			es_wake_for_event(es_event_kind(append->store->schema, new_event->type, append->stream),
							  es_event_kind_any(append->store->schema));
	}
	return recorded;
}

void
es_append_write(EsStore *store, EsEvent *events, int nevents)
{
	EsProjectionRun run;

	if (nevents == 0)
		return;

	es_projection_begin(&run, store);
	PG_TRY();
	{
		for (int done = 0, batch; done < nevents; done += batch)
		{
			batch = batch_size(events + done, nevents - done);
			insert_batch(store, events + done, batch);
		}
		es_projection_flush(&run);
	}
	PG_FINALLY();
	{
		es_projection_end(&run);
	}
	PG_END_TRY();
}

uint64
es_append_count(void)
{
	return append_count;
}

/* The body of the SQL functions: connect, lock, check, write, build the result. */
static Datum
append_events(FunctionCallInfo fcinfo, text *stream, EsNewEvent *events, int nevents,
			  bool has_expected, int64 expected, const pg_uuid_t *correlation_id,
			  const pg_uuid_t *causation_id)
{
	const EsHandling *handling = es_handling_current();
	EsAppend	append = {0};
	EsStreamHead head;
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	if (has_expected)
		es_append_check_expected(expected);
	check_event_ids(events, nevents);

	append.store = es_store_current();
	append.stream = stream;
	append.events = events;
	append.nevents = nevents;
	append.metadata = es_event_metadata(NULL);
	append.correlation_id = correlation_id;
	append.causation_id = causation_id;
	if (handling && correlation_id == NULL)
		append.correlation_id = handling->correlation_id;
	if (handling && causation_id == NULL)
		append.causation_id = handling->causation_id;

	SPI_connect();
	es_stream_lock(append.store, stream);
	head = es_stream_read_head(append.store, stream, has_expected ? expected : 0);
	if (!already_appended(&append, has_expected, expected, head, &head))
	{
		EsEvent    *recorded;

		if (has_expected)
			es_append_require_version(stream, expected, head.version);
		if (nevents > 0)
			require_right_to_append(append.store);
		recorded = es_append_record(&append, head);
		es_append_write(append.store, recorded, nevents);
		if (nevents > 0)
		{
			head.version = DatumGetInt64(recorded[nevents - 1].values[ES_EVENT_VERSION]);
			head.position = DatumGetInt64(recorded[nevents - 1].values[ES_EVENT_POSITION]);
			es_stream_remember(append.store, stream, head.version);
		}
	}
	SPI_finish();

	values[0] = PointerGetDatum(stream);
	values[1] = Int64GetDatum(head.version);
	values[2] = Int64GetDatum(head.position);
	nulls[2] = (head.version == 0);
	return HeapTupleGetDatum(heap_form_tuple(es_extension()->append_result.tupdesc, values, nulls));
}

/*
 * EXECUTE on es_append() holds in every store of the database.  What lets a role
 * append to this one is INSERT on its log as a whole: on its columns, all of
 * them, is for those who dispatch commands and may record nothing else.
 */
static void
require_right_to_append(EsStore *store)
{
	AclResult	result = pg_class_aclcheck(store->event, GetUserId(), ACL_INSERT);

	if (result != ACLCHECK_OK)
		aclcheck_error(result, OBJECT_TABLE, get_rel_name(store->event));
}

/*
 * Is this a retry of an append that was done?  Then its result goes to
 * *original.  With an exact expected version that fits, nothing is looked for:
 * what comes after that version was not there yet.  SE006 when some of the
 * ids are there, but not all, or not in this order.
 */
static bool
already_appended(const EsAppend *append, bool has_expected, int64 expected, EsStreamHead head,
				 EsStreamHead *original)
{
	bool		anywhere = !has_expected || expected == ES_VERSION_EXISTS;
	int			nids = 0;
	Datum	   *ids;
	Datum		values[4];
	uint64		nfound;
	bool		all;

	if (append->nevents == 0 || head.version == 0 ||
		(!anywhere && version_fits(expected, head.version)) ||
		(!anywhere && expected > head.version))
		return false;

	ids = palloc(append->nevents * sizeof(Datum));
	for (int i = 0; i < append->nevents; i++)
		if (append->events[i].event_id)
			ids[nids++] = UUIDPGetDatum(append->events[i].event_id);
	if (nids == 0 || (!anywhere && nids < append->nevents))
		return false;

	values[0] = PointerGetDatum(append->stream);
	values[1] = Int64GetDatum(anywhere ? 1 : expected + 1);
	values[2] = Int64GetDatum(anywhere ? head.version : expected + append->nevents);
	values[3] = PointerGetDatum(construct_array(ids, nids, UUIDOID, UUID_LEN, false,
												TYPALIGN_CHAR));
	es_spi_read(append->store, &find_ids_plan, values, NULL, GetLatestSnapshot(), 0);
	nfound = SPI_processed;

	all = (nfound == (uint64) append->nevents && nids == append->nevents);
	for (uint64 i = 0; i < nfound && all; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;
		bool		isnull;
		int64		version = DatumGetInt64(SPI_getbinval(row, tupdesc, 1, &isnull));
		pg_uuid_t  *id = DatumGetUUIDP(SPI_getbinval(row, tupdesc, 3, &isnull));

		if (i == 0 && !anywhere && version != expected + 1)
			all = false;
		if (i > 0 && version != original->version + 1)
			all = false;
		if (memcmp(id->data, append->events[i].event_id->data, UUID_LEN) != 0)
			all = false;
		original->version = version;
		original->position = DatumGetInt64(SPI_getbinval(row, tupdesc, 2, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);

	if (nfound > 0 && !all)
		ereport(ERROR,
				(errcode(ERRCODE_ES_EVENT_ID_CONFLICT),
				 errmsg("stream \"%s\" has some of these event ids, but not this append",
						text_to_cstring(append->stream)),
				 errdetail("stream \"%s\" event ids given %d found %llu",
						   text_to_cstring(append->stream), nids, (unsigned long long) nfound),
				 errhint("A retry must give the same events in the same order; new events need new ids.")));
	return all && nfound > 0;
}

static bool
version_fits(int64 expected_version, int64 actual_version)
{
	if (expected_version == ES_VERSION_EXISTS)
		return actual_version > 0;
	return expected_version == actual_version;
}

/* No id twice in one append. */
static void
check_event_ids(const EsNewEvent *events, int nevents)
{
	pg_uuid_t **ids = palloc((nevents + 1) * sizeof(pg_uuid_t *));
	int			nids = 0;

	for (int i = 0; i < nevents; i++)
		if (events[i].event_id)
			ids[nids++] = events[i].event_id;
	qsort(ids, nids, sizeof(pg_uuid_t *), compare_ids);
	for (int i = 1; i < nids; i++)
		if (compare_ids(&ids[i - 1], &ids[i]) == 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("event id %s is given twice", es_uuid_string(ids[i]))));
	pfree(ids);
}

static int
compare_ids(const void *a, const void *b)
{
	const pg_uuid_t *const *left = a;
	const pg_uuid_t *const *right = b;

	return memcmp((*left)->data, (*right)->data, UUID_LEN);
}

static EsNewEvent *
read_event_array(ArrayType *array, int *nevents)
{
	Datum	   *elements;
	bool	   *nulls;
	EsNewEvent *events;

	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("the events must be a one-dimensional array")));
	deconstruct_array(array, ARR_ELEMTYPE(array), -1, false, TYPALIGN_DOUBLE,
					  &elements, &nulls, nevents);
	events = palloc((*nevents + 1) * sizeof(EsNewEvent));
	for (int i = 0; i < *nevents; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("the events must not contain NULL"),
					 errdetail("Element %d is NULL.", i + 1)));
		es_new_event_from_datum(&events[i], elements[i]);
	}
	return events;
}

/* Insert the events as one command. */
static void
insert_batch(EsStore *store, EsEvent *events, int nevents)
{
	MemoryContext context = CurrentMemoryContext;

	PG_TRY();
	{
		es_log_insert(store, events, nevents);
	}
	PG_CATCH();
	{
		rethrow_as_conflict(store, events, context);
	}
	PG_END_TRY();
}

static bool
is_same_type(const EsNewEvent *event, const EsNewEvent *other)
{
	Size		length = VARSIZE_ANY_EXHDR(event->type);

	return length == VARSIZE_ANY_EXHDR(other->type) &&
		memcmp(VARDATA_ANY(event->type), VARDATA_ANY(other->type), length) == 0;
}

/* How many of the events one command should take. */
static int
batch_size(const EsEvent *events, int nevents)
{
	Size		bytes = 0;
	int			batch = 0;

	while (batch < nevents && batch < INSERT_MAX_EVENTS &&
		   (batch == 0 || bytes + event_size(&events[batch]) <= INSERT_MAX_BYTES))
		bytes += event_size(&events[batch++]);
	return batch;
}

static Size
event_size(const EsEvent *event)
{
	Size		size = VARSIZE_ANY(DatumGetPointer(event->values[ES_EVENT_DATA]));

	if (!event->nulls[ES_EVENT_METADATA])
		size += VARSIZE_ANY(DatumGetPointer(event->values[ES_EVENT_METADATA]));
	return size;
}

/*
 * The unique key (stream, version) is the last word.  It speaks up when events
 * came into the stream that the caller cannot see or that took no lock, by
 * row security or logical replication.
 */
static void
rethrow_as_conflict(EsStore *store, EsEvent *event, MemoryContext context)
{
	int64		version = DatumGetInt64(event->values[ES_EVENT_VERSION]);
	text	   *stream = DatumGetTextPP(event->values[ES_EVENT_STREAM]);
	char	   *name;
	ErrorData  *error;

	if (geterrcode() != ERRCODE_UNIQUE_VIOLATION)
		PG_RE_THROW();
	MemoryContextSwitchTo(context);
	error = CopyErrorData();
	if (error->constraint_name == NULL || strcmp(error->constraint_name, "event_pkey") != 0 ||
		error->schema_name == NULL ||
		strcmp(quote_identifier(error->schema_name), store->name) != 0)
		PG_RE_THROW();

	FlushErrorState();
	if (IsolationUsesXactSnapshot())
		es_stream_serialization_failure(stream);
	name = text_to_cstring(stream);
	ereport(ERROR,
			(errcode(ERRCODE_ES_WRONG_EXPECTED_VERSION),
			 errmsg("stream \"%s\" has events beyond version %lld that this session does not see",
					name, (long long) version - 1),
			 errdetail("stream \"%s\" expected version %lld actual version %lld", name,
					   (long long) version - 1, (long long) version),
			 errhint("Row security may hide events from this role.")));
}
