/*-------------------------------------------------------------------------
 *
 * replica.h
 *		A replica: a store whose event log is filled by logical replication.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_REPLICA_H
#define ES_REPLICA_H

#include "store.h"

/*
 * Whether a subscription of logical replication has the store's log, be it
 * enabled or not.
 */
extern bool es_replica_is(EsStore *store);

/*
 * 55000 on a replica, for what needs to be the log's only writer or to know what
 * may still come: "cannot <action> store es, which is a replica".
 */
extern void es_replica_forbid(EsStore *store, const char *action);

#endif							/* ES_REPLICA_H */
