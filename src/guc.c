/*-------------------------------------------------------------------------
 *
 * guc.c
 *		Every setting of the extension.
 *
 * Those of a session are fit for ALTER DATABASE, ALTER ROLE and SET LOCAL: none
 * is state that a connection pool could mix up.  Which workers run is the
 * server's business, and follows a reload.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "guc.h"
#include "utils/guc.h"
#include "utils/varlena.h"
#include "worker_slot.h"

char	   *es_store_setting = NULL;
char	   *es_metadata_setting = NULL;
int			es_cache_size_kb = 16 * 1024;
int			es_max_dispatch_depth = 16;
bool		es_direct_log = true;
char	   *es_databases = NULL;
int			es_workers = 2;
int			es_handler_timeout_ms = 60 * 1000;
int			es_retry_delay_ms = 250;

static bool check_store(char **newval, void **extra, GucSource source);
static bool check_databases(char **newval, void **extra, GucSource source);

void
es_guc_init(void)
{
	DefineCustomStringVariable("event_sourcing.store",
							   "Schema of the event store that the functions work on.",
							   NULL,
							   &es_store_setting,
							   "es",
							   PGC_USERSET, 0,
							   check_store, NULL, NULL);

	DefineCustomStringVariable("event_sourcing.metadata",
							   "JSON object that is merged under the metadata of every event.",
							   "The metadata given with a command or an event wins.  The text is read when it is used.",
							   &es_metadata_setting,
							   "",
							   PGC_USERSET, 0,
							   NULL, NULL, NULL);

	DefineCustomIntVariable("event_sourcing.cache_size",
							"Memory for folded aggregate states in each session.",
							"0 keeps no state between two commands.",
							&es_cache_size_kb,
							16 * 1024, 0, MAX_KILOBYTES,
							PGC_USERSET, GUC_UNIT_KB,
							NULL, NULL, NULL);

	DefineCustomIntVariable("event_sourcing.max_dispatch_depth",
							"How deep command handlers and projections may dispatch further commands.",
							NULL,
							&es_max_dispatch_depth,
							16, 1, 1000,
							PGC_USERSET, 0,
							NULL, NULL, NULL);

	DefineCustomBoolVariable("event_sourcing.direct_log",
							 "Reads and writes the table of the log without SQL where that makes no difference.",
							 "For developers: off runs a statement each time, as is done for a log that was altered.",
							 &es_direct_log,
							 true,
							 PGC_USERSET, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);

	DefineCustomStringVariable("event_sourcing.databases",
							   "Databases in which workers run, as a comma-separated list.",
							   "Only where shared_preload_libraries has the extension.",
							   &es_databases,
							   "",
							   PGC_SIGHUP, GUC_LIST_INPUT,
							   check_databases, NULL, NULL);

	DefineCustomIntVariable("event_sourcing.workers",
							"Workers for each database.",
							"With two, a handler that does not return holds no other back.",
							&es_workers,
							2, 1, ES_WORKERS_PER_DATABASE,
							PGC_SIGHUP, 0,
							NULL, NULL, NULL);

	DefineCustomIntVariable("event_sourcing.handler_timeout",
							"Longest time that a handler run by a worker or es_run() may take.",
							"0 lets it run for ever.",
							&es_handler_timeout_ms,
							60 * 1000, 0, INT_MAX,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	DefineCustomIntVariable("event_sourcing.retry_delay",
							"Delay before an event that failed is tried again.",
							"It doubles with every attempt, up to five minutes.",
							&es_retry_delay_ms,
							250, 0, 60 * 60 * 1000,
							PGC_USERSET, GUC_UNIT_MS,
							NULL, NULL, NULL);

	MarkGUCPrefixReserved("event_sourcing");
}

/*
 * Whether the schema exists is asked when it is used: a setting of a role or
 * a database is checked long before.
 */
static bool
check_store(char **newval, void **extra, GucSource source)
{
	if ((*newval)[0] == '\0' || strlen(*newval) >= NAMEDATALEN)
	{
		GUC_check_errdetail("A schema name has 1 to %d bytes.", NAMEDATALEN - 1);
		return false;
	}
	return true;
}

/* Names keep their case, as in postgresql.conf everywhere else but in identifiers. */
static bool
check_databases(char **newval, void **extra, GucSource source)
{
	char	   *copy = pstrdup(*newval);
	List	   *names;

	if (!SplitGUCList(copy, ',', &names))
	{
		GUC_check_errdetail("List syntax is invalid.");
		return false;
	}
	list_free(names);
	pfree(copy);
	return true;
}
