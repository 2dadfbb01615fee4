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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "compat.h"
#include "composite.h"
#include "fingerprint.h"
#include "fmgr.h"
#include "spi_plan.h"
#include "log.h"
#include "state_snapshot.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

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

static bool may(EsStore *store, AclMode privileges);
static bool survives(EsAggregate *aggregate, Datum state, Jsonb *json);

bool
es_state_snapshot_use(EsFold *fold, int64 to_version)
{
	EsAggregate *aggregate = fold->aggregate;
	Datum		values[4];
	bool		found;

	/* most streams are too short to have one */
	if (!es_log_reaches(fold->store, fold->stream, aggregate->snapshot_every,
						GetActiveSnapshot()) ||
		!may(fold->store, ACL_SELECT))
		return false;

	/* many have none: do not compute a fingerprint for them */
	values[0] = PointerGetDatum(fold->stream);
	values[1] = CStringGetTextDatum(aggregate->name);
	es_spi_read(fold->store, &exists_plan, values, NULL, GetActiveSnapshot(), 1);
	found = (SPI_processed > 0);
	SPI_freetuptable(SPI_tuptable);
	if (!found)
		return false;

	values[2] = Int64GetDatum(to_version);
	values[3] = CStringGetTextDatum(es_fingerprint(aggregate));
	es_spi_read(fold->store, &read_plan, values, NULL, GetActiveSnapshot(), 1);
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

	if (every == 0 || fold->head.version / every == since_version / every ||
		!may(fold->store, ACL_SELECT | ACL_INSERT | ACL_UPDATE))
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
	(void) es_spi_write(fold->store, &write_plan, values, NULL);
}

/* Whoever may read and append need not be allowed to use and keep state snapshots. */
static bool
may(EsStore *store, AclMode privileges)
{
	Oid			table = get_relname_relid("snapshot", store->schema);

	return OidIsValid(table) &&
		pg_class_aclmask(table, GetUserId(), privileges, ACLMASK_ALL) == privileges;
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
