/*-------------------------------------------------------------------------
 *
 * store.h
 *		A store: the schema that holds one event log with its definitions,
 *		receipts and state snapshots.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_STORE_H
#define ES_STORE_H

#include "nodes/pg_list.h"
#include "utils/hsearch.h"

/* Definition tables whose contents are kept in memory. */
typedef enum EsDefinitionKind
{
	ES_DEFINITION_AGGREGATE,
	ES_DEFINITION_PROJECTION,
	ES_DEFINITION_SUBSCRIPTION,
	ES_DEFINITION_KINDS
} EsDefinitionKind;

struct EsDefinitions;
struct EsLogShape;

extern const char *const es_definition_table_names[ES_DEFINITION_KINDS];

/*
 * What one session keeps of a store.  The struct stays usable to the end of
 * the transaction in which it was got.
 */
typedef struct EsStore
{
	Oid			schema;			/* hash key */
	char	   *name;			/* the schema's name, quoted where needed */
	Oid			event;			/* table event: the log */
	Oid			event_position; /* its sequence */
	Oid			definition_tables[ES_DEFINITION_KINDS];
	bool		append_checked; /* no replica, and the sequence is not behind the log */
	MemoryContext context;		/* holds this and all that hangs on it */
	HTAB	   *plans;			/* of spi_plan.c */
	struct EsLogShape *log;		/* of log.c */
	bool		log_valid;		/* nothing has changed about the log since */
	bool		replaced;		/* by another struct; no callback flips this one's flags */

	/* definition.c */
	struct EsDefinitions *definitions[ES_DEFINITION_KINDS]; /* NULL: not loaded yet */
	bool		definitions_valid[ES_DEFINITION_KINDS];

	struct EsLeaseMemory *lease;	/* of lease.c */

	/* feed.c: our registration in flight, see there */
	int64		inflight_bound;
	bool		inflight_bound_set;
} EsStore;

extern void es_store_init(void);

/* The store that event_sourcing.store names; 3F000 when there is none. */
extern EsStore *es_store_current(void);

/* The store in a schema, which has one. */
extern EsStore *es_store_of_schema(Oid schema);

/* The schemas (OIDs) of all stores of the database that are whole and up to date. */
extern List *es_store_schemas(void);

/*
 * Whether row security may hide events from the caller: then nothing folded
 * may be shared with other callers.
 */
extern bool es_store_has_row_security(EsStore *store);

/* Allow the next INSERT statement into the log; its guard takes the permit. */
extern void es_store_permit_insert(EsStore *store);

/* Take an unused permit back. */
extern void es_store_forbid_insert(void);

/*
 * A statement on a store: "@store@" replaced by the given quoted schema name,
 * "@extension@" by the extension's.  In the current context.
 */
extern char *es_store_sql(const char *statement, const char *store_name);

/*
 * Run DDL on a store, connected to SPI, with a search_path of pg_catalog
 * and without notices.
 */
extern void es_store_execute(const char *statements, const char *store_name);

#endif							/* ES_STORE_H */
