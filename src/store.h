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

#include "utils/hsearch.h"

/* Definition tables whose contents are kept in memory. */
typedef enum EsDefinitionKind
{
	ES_DEFINITION_AGGREGATE,
	ES_DEFINITION_PROJECTION,
	ES_DEFINITION_KINDS
} EsDefinitionKind;

struct EsPlanSpec;

/* What every kind's set of definitions begins with. */
typedef struct EsDefinitions
{
	MemoryContext context;		/* holds the set */
	uint64		shapes;			/* es_composite_shapes() when it was loaded */
} EsDefinitions;

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
	bool		position_checked;	/* the sequence is not behind the log */
	MemoryContext context;		/* holds this and all that hangs on it */
	HTAB	   *plans;			/* of spi_plan.c */

	EsDefinitions *definitions[ES_DEFINITION_KINDS];	/* NULL: not loaded yet */
	bool		definitions_valid[ES_DEFINITION_KINDS];

	/* feed.c: our registration in flight, see there */
	int64		inflight_bound;
	bool		inflight_bound_set;
} EsStore;

extern void es_store_init(void);

/* The store that event_sourcing.store names; 3F000 when there is none. */
extern EsStore *es_store_current(void);

/* The store in a schema, which has one. */
extern EsStore *es_store_of_schema(Oid schema);

/*
 * The definitions of a kind, as they are now and not as the transaction's
 * snapshot has them.  What was loaded before is loaded anew after any change
 * of a definition, function, type or schema.  The loader gets the rows of the
 * plan in SPI_tuptable and fills a zeroed set of the given size; the current
 * context is the set's.  Usable to the end of the transaction.
 */
typedef void (*EsDefinitionLoader)(EsDefinitions *set);
extern EsDefinitions *es_store_definitions(EsStore *store, EsDefinitionKind kind,
										   const struct EsPlanSpec *plan,
										   EsDefinitionLoader load, Size set_size);

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
