/*-------------------------------------------------------------------------
 *
 * worker.h
 *		Workers: background processes that run what the stores of a
 *		database have to do.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_WORKER_H
#define ES_WORKER_H

#include "postmaster/bgworker.h"

extern void es_worker_init(void);

/*
 * Have the postmaster start a worker; NULL when max_worker_processes are
 * running.  One that the launcher starts is restarted by it alone, any other by
 * the postmaster.
 */
extern BackgroundWorkerHandle *es_worker_register(Oid database, Oid tablespace, int number,
												  bool by_launcher);

/* Whether event_sourcing.databases names a database. */
extern bool es_worker_is_listed(const char *database_name);

#endif							/* ES_WORKER_H */
