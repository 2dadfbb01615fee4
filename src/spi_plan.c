/*-------------------------------------------------------------------------
 *
 * spi_plan.c
 *		Saved plans of statements on a store.
 *
 * Plans run as the caller: privileges, row security and partitioning of the
 * store's tables work as on any table.  They are generic from the first call
 * on, since SPI's own choice plans each of the first five calls anew, which
 * costs a pooled session more than the statements themselves.
 *
 * A plan that was made while a store was still empty would scan the whole
 * table for the rest of the session.  So they are planned without sequential
 * and bitmap scans and without sorts where an index has the order, and
 * without JIT, whose compile time dwarfs every one of these statements.
 * Invalidated plans are therefore made anew here and not by the plan cache.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/hashfn.h"
#include "retired.h"
#include "spi_plan.h"
#include "tcop/dest.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"

/*
 * A plan belongs to the search_path that it was made under: the plan cache
 * makes it anew under any other, and without our settings.
 */
typedef struct PlanKey
{
	const EsPlanSpec *spec;
	uint64		path;			/* hash of the search_path */
} PlanKey;

typedef struct PlanEntry
{
	PlanKey		key;			/* hash key */
	SPIPlanPtr	plan;			/* NULL while it is being prepared */
} PlanEntry;

/* With more plans than this, of more and more paths, begin anew. */
#define MAX_PLANS 1024

static SPIPlanPtr prepare_plan(EsStore *store, const EsPlanSpec *spec);
static uint64 hash_search_path(void);
static void check_result(int result, const EsPlanSpec *spec);

SPIPlanPtr
es_spi_plan(EsStore *store, const EsPlanSpec *spec)
{
	PlanKey		key;
	PlanEntry  *entry;
	SPIPlanPtr	plan;
	SPIPlanPtr	outdated;
	bool		found;

	memset(&key, 0, sizeof(key));
	key.spec = spec;
	key.path = hash_search_path();
	if (store->plans == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(PlanKey);
		ctl.entrysize = sizeof(PlanEntry);
		ctl.hcxt = store->context;
		store->plans = hash_create("event_sourcing plans", 32, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}

	entry = hash_search(store->plans, &key, HASH_FIND, NULL);
	if (entry && entry->plan && SPI_plan_is_valid(entry->plan))
		return entry->plan;
	if (hash_get_num_entries(store->plans) >= MAX_PLANS)
		es_spi_plans_retire(store);

	plan = prepare_plan(store, spec);

	/* planning may have accepted invalidations and come back to this entry */
	entry = hash_search(store->plans, &key, HASH_ENTER, &found);
	outdated = found ? entry->plan : NULL;
	entry->plan = plan;
	if (outdated)
		es_retire_plan(outdated);
	return plan;
}

void
es_spi_read(EsStore *store, const EsPlanSpec *spec, Datum *values, const char *nulls,
			Snapshot snapshot, long max_rows)
{
	check_result(SPI_execute_snapshot(es_spi_plan(store, spec), values, nulls, snapshot,
									  InvalidSnapshot, true, false, max_rows),
				 spec);
}

void
es_spi_stream(EsStore *store, const EsPlanSpec *spec, Datum *values, const char *nulls,
			  DestReceiver *dest)
{
	SPIExecuteOptions options = {0};

	options.params = es_param_list(spec->nargs, spec->argtypes, values, nulls);
	options.read_only = true;
	options.dest = dest;
	check_result(SPI_execute_plan_extended(es_spi_plan(store, spec), &options), spec);
}

uint64
es_spi_write(EsStore *store, const EsPlanSpec *spec, Datum *values, const char *nulls)
{
	check_result(SPI_execute_plan(es_spi_plan(store, spec), values, nulls, false, 0), spec);
	CommandCounterIncrement();
	return SPI_processed;
}

void
es_spi_plans_retire(EsStore *store)
{
	HASH_SEQ_STATUS scan;
	PlanEntry  *entry;

	if (store->plans == NULL)
		return;
	hash_seq_init(&scan, store->plans);
	while ((entry = hash_seq_search(&scan)) != NULL)
	{
		if (entry->plan)
			es_retire_plan(entry->plan);
		hash_search(store->plans, &entry->key, HASH_REMOVE, NULL);
	}
}

ParamListInfo
es_param_list(int nargs, const Oid *types, const Datum *values, const char *nulls)
{
	ParamListInfo params = makeParamList(nargs);

	for (int i = 0; i < nargs; i++)
	{
		params->params[i].value = values[i];
		params->params[i].isnull = (nulls != NULL && nulls[i] == 'n');
		params->params[i].pflags = PARAM_FLAG_CONST;
		params->params[i].ptype = types[i];
	}
	return params;
}

static SPIPlanPtr
prepare_plan(EsStore *store, const EsPlanSpec *spec)
{
	char	   *sql = es_store_sql(spec->sql, store->name);
	int			nestlevel = NewGUCNestLevel();
	SPIPlanPtr	plan;

	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_bitmapscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("enable_sort", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);

	plan = SPI_prepare_cursor(sql, spec->nargs, (Oid *) spec->argtypes, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));

	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "SPI_keepplan failed");

	/*
	 * Plan now, under these settings, and not at the first execution.  A kept
	 * plan outlives the transaction, and nobody knows of this one yet.
	 */
	PG_TRY();
	{
		CachedPlan *cached = SPI_plan_get_cached_plan(plan);

		if (cached)
			ReleaseCachedPlan(cached, CurrentResourceOwner);
	}
	PG_CATCH();
	{
		SPI_freeplan(plan);
		PG_RE_THROW();
	}
	PG_END_TRY();
	AtEOXact_GUC(true, nestlevel);
	pfree(sql);
	return plan;
}

static uint64
hash_search_path(void)
{
	Oid			schemas[32];
	int			n = fetch_search_path_array(schemas, lengthof(schemas));

	return hash_bytes_extended((unsigned char *) schemas,
							   Min(n, lengthof(schemas)) * sizeof(Oid), n);
}

static void
check_result(int result, const EsPlanSpec *spec)
{
	if (result < 0)
		elog(ERROR, "SPI failed on \"%s\": %s", spec->sql, SPI_result_code_string(result));
}
