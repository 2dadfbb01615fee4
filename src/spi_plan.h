/*-------------------------------------------------------------------------
 *
 * spi_plan.h
 *		Saved plans of statements on a store.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_SPI_PLAN_H
#define ES_SPI_PLAN_H

#include "executor/spi.h"
#include "store.h"

#define ES_PLAN_MAX_ARGS	20

/*
 * A statement, declared static const by the file that runs it; its address is
 * its key.  "@store@" in the text stands for the store's quoted schema.
 * Everything in it is qualified, operators too: the caller's search_path
 * decides nothing.
 */
typedef struct EsPlanSpec
{
	const char *sql;
	int			nargs;
	Oid			argtypes[ES_PLAN_MAX_ARGS];
} EsPlanSpec;

/*
 * The statement's saved plan for a store, prepared once per session with a
 * generic plan that keeps to the indexes.  The caller is connected to SPI.
 * The plan stays usable to the end of the transaction.
 */
extern SPIPlanPtr es_spi_plan(EsStore *store, const EsPlanSpec *spec);

/*
 * Run a reading statement with exactly this snapshot; rows in SPI_tuptable.
 * max_rows 0: all.
 */
extern void es_spi_read(EsStore *store, const EsPlanSpec *spec, Datum *values, const char *nulls,
						Snapshot snapshot, long max_rows);

/* Run a reading statement with the active snapshot, its rows streamed to dest. */
extern void es_spi_stream(EsStore *store, const EsPlanSpec *spec, Datum *values,
						  const char *nulls, DestReceiver *dest);

/* Run a writing statement; returns the number of rows processed. */
extern uint64 es_spi_write(EsStore *store, const EsPlanSpec *spec, Datum *values,
						   const char *nulls);

/* Give up all plans of a store that is being replaced. */
extern void es_spi_plans_retire(EsStore *store);

/* Build a parameter list for a plan, in the current context. */
extern ParamListInfo es_param_list(int nargs, const Oid *types, const Datum *values,
								   const char *nulls);

#endif							/* ES_SPI_PLAN_H */
