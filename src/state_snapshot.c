/*-------------------------------------------------------------------------
 *
 * state_snapshot.c
 *		State snapshots: folded states kept in the store.
 *
 * A state snapshot is a cache that outlives sessions: one row per stream and
 * aggregate, ignored when the apply functions' fingerprint differs, and checked
 * against the log like an entry of the fold cache.  A state is kept as JSON,
 * which is how its events are kept, too; one that does not come back from JSON
 * as it went in is not written.
 *
 * The table is the store's own, read and written as its owner.  Whoever could
 * write it could forge the states that commands are decided on, and whoever
 * could read it would see what policies on the log hide; so nobody else needs a
 * right to it.  What a caller gets out of it is what a fold of theirs would have
 * given: the fold goes on from it, by reading the log as the caller, and where
 * policies apply to the caller it is not used.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_namespace.h"
#include "catalog/pg_type.h"
#include "compat.h"
#include "composite.h"
#include "fingerprint.h"
#include "fmgr.h"
#include "spi_plan.h"
#include "log.h"
#include "run_as.h"
#include "state_snapshot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

static const EsPlanSpec read_plan = {
	"SELECT version::pg_catalog.int8, position::pg_catalog.int8, state::pg_catalog.jsonb FROM @store@.snapshot"
	" WHERE stream OPERATOR(pg_catalog.=) $1 AND aggregate OPERATOR(pg_catalog.=) $2"
	" AND version OPERATOR(pg_catalog.<=) $3 AND fingerprint OPERATOR(pg_catalog.=) $4"
	" AND (position, state) IS NOT NULL",
	4,
	{TEXTOID, TEXTOID, INT8OID, TEXTOID},
};

static const EsPlanSpec exists_plan = {
	"SELECT 1 FROM @store@.snapshot"
	" WHERE stream OPERATOR(pg_catalog.=) $1 AND aggregate OPERATOR(pg_catalog.=) $2",
	2,
	{TEXTOID, TEXTOID},
};

static const EsPlanSpec write_plan = {
	"INSERT INTO @store@.snapshot AS s"
	" (stream, aggregate, version, position, fingerprint, state, recorded_at)"
	" VALUES ($1, $2, $3, $4, $5, $6, $7)"
	" ON CONFLICT (stream, aggregate) DO UPDATE SET version = excluded.version,"
	" position = excluded.position, fingerprint = excluded.fingerprint,"
	" state = excluded.state, recorded_at = excluded.recorded_at",
	7,
	{TEXTOID, TEXTOID, INT8OID, INT8OID, TEXTOID, JSONBOID, TIMESTAMPTZOID},
};

static bool read_as_owner(EsStore *store, const EsPlanSpec *plan, Datum *values);
static bool begin_as_owner(EsRunAs *run_as, EsStore *store, AclMode privileges);
static bool survives(EsAggregate *aggregate, Datum state, Jsonb *json);

bool
es_state_snapshot_use(EsFold *fold, int64 to_version)
{
	EsAggregate *aggregate = fold->aggregate;
	Datum		values[4];
	bool		found;

	/* most streams are too short to have one; this reads the log as the caller */
	if (!es_log_reaches(fold->store, fold->stream, aggregate->snapshot_every,
						GetActiveSnapshot()))
		return false;

	/* many have none: do not compute a fingerprint for them */
	values[0] = PointerGetDatum(fold->stream);
	values[1] = CStringGetTextDatum(aggregate->name);
	if (!read_as_owner(fold->store, &exists_plan, values))
		return false;
	found = (SPI_processed > 0);
	SPI_freetuptable(SPI_tuptable);
	if (!found)
		return false;

	values[2] = Int64GetDatum(to_version);
	values[3] = CStringGetTextDatum(es_fingerprint(aggregate));
	if (!read_as_owner(fold->store, &read_plan, values))
		return false;
	found = (SPI_processed > 0);
	if (found)
	{
		HeapTuple	row = SPI_tuptable->vals[0];
		TupleDesc	tupdesc = SPI_tuptable->tupdesc;
		EsStreamHead head;
		bool		isnull;
		Jsonb	   *json;

		head.version = DatumGetInt64(SPI_getbinval(row, tupdesc, 1, &isnull));
		head.position = DatumGetInt64(SPI_getbinval(row, tupdesc, 2, &isnull));
		json = DatumGetJsonbP(SPI_getbinval(row, tupdesc, 3, &isnull));
		if (aggregate->state_type == JSONBOID)
			es_fold_start_from(fold, head, JsonbPGetDatum(json));
		else
			es_fold_start_from(fold, head,
							   es_composite_from_jsonb(es_composite(aggregate->state_type), json));
	}
	SPI_freetuptable(SPI_tuptable);
	return found;
}

void
es_state_snapshot_write(EsFold *fold, int64 since_version, TimestampTz now)
{
	EsAggregate *aggregate = fold->aggregate;
	int			every = aggregate->snapshot_every;
	Datum		state;
	Jsonb	   *json;
	Datum		values[7];
	EsRunAs		run_as;

	if (every == 0 || fold->head.version / every == since_version / every)
		return;

	state = es_fold_state(fold);
	if (aggregate->state_type == JSONBOID)
		json = DatumGetJsonbP(state);
	else
	{
		json = es_composite_to_jsonb(es_composite(aggregate->state_type), state);
		if (!survives(aggregate, state, json))
			return;
	}
	values[0] = PointerGetDatum(fold->stream);
	values[1] = CStringGetTextDatum(aggregate->name);
	values[2] = Int64GetDatum(fold->head.version);
	values[3] = Int64GetDatum(fold->head.position);
	values[4] = CStringGetTextDatum(es_fingerprint(aggregate));
	values[5] = JsonbPGetDatum(json);
	values[6] = TimestampTzGetDatum(now);
	if (begin_as_owner(&run_as, fold->store, ACL_SELECT | ACL_INSERT | ACL_UPDATE))
	{
		(void) es_spi_write(fold->store, &write_plan, values, NULL);
		es_run_as_end(&run_as);
	}
}

/* Only the reading: the input functions of the state's types are run by the caller. */
static bool
read_as_owner(EsStore *store, const EsPlanSpec *plan, Datum *values)
{
	EsRunAs		run_as;

	if (!begin_as_owner(&run_as, store, ACL_SELECT))
		return false;
	es_spi_read(store, plan, values, NULL, GetActiveSnapshot(), 1);
	es_run_as_end(&run_as);
	return true;
}

/*
 * Go on as the store's owner.  False, to do without state snapshots, where the
 * table is somebody else's, whose triggers would run with the owner's rights, or
 * where the owner has given up the right to it.
 */
static bool
begin_as_owner(EsRunAs *run_as, EsStore *store, AclMode privileges)
{
	Oid			owner = es_run_as_store_owner(store);
	Oid			table = get_relname_relid("snapshot", store->schema);
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table));
	bool		same_owner;

	if (!HeapTupleIsValid(tuple))
		return false;
	same_owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner == owner;
	ReleaseSysCache(tuple);
	if (!same_owner ||
		es_namespace_aclcheck(store->schema, owner, ACL_USAGE) != ACLCHECK_OK ||
		pg_class_aclmask(table, owner, privileges, ACLMASK_ALL) != privileges)
		return false;
	es_run_as_begin(run_as, owner);
	return true;
}

/* Does the state come back from JSON as it went in? */
static bool
survives(EsAggregate *aggregate, Datum state, Jsonb *json)
{
	EsComposite *composite = es_composite(aggregate->state_type);
	Datum		back = es_composite_from_jsonb(composite, json);
	char	   *texts[2];

	/* the text of a record has all of every field; its bytes may differ without meaning */
	for (int i = 0; i < 2; i++)
		texts[i] = OidOutputFunctionCall(F_RECORD_OUT, i == 0 ? state : back);
	return strcmp(texts[0], texts[1]) == 0;
}
