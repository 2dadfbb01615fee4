/*-------------------------------------------------------------------------
 *
 * replica.c
 *		A replica: a store whose event log is filled by logical replication.
 *
 * Nobody marks it: it is one as long as a subscription has its log, and is
 * released when that subscription is dropped.  A disabled subscription counts,
 * too.  It may go on at any time, or has been disabled by an error, and would
 * then bring other events under the versions and positions drawn here.
 *
 * Events arrive in the order of the publisher's commits.  In each stream that is
 * the order of versions, so inline projections get what they get at the
 * publisher.  Across streams it is not the order of positions: below the last
 * one, others may still arrive.  So there is no high-water mark, and no position
 * of which a projection could say that it has seen all before it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_subscription.h"
#include "catalog/pg_subscription_rel.h"
#include "replica.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

static char *subscription_of_store(EsStore *store);
static char *subscription_of_table(Oid table);

bool
es_replica_is(EsStore *store)
{
	return subscription_of_store(store) != NULL;
}

void
es_replica_forbid(EsStore *store, const char *action)
{
	char	   *subscription = subscription_of_store(store);

	if (subscription == NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("cannot %s store %s, which is a replica", action, store->name),
			 errdetail("Its event log is filled by logical replication, subscription \"%s\".",
					   subscription),
			 errhint("Do it at the publisher, or drop the subscription and call es_upgrade_store().")));
}

/* A name of a subscription that has the log or a part of it; NULL when none has. */
static char *
subscription_of_store(EsStore *store)
{
	char	   *name = subscription_of_table(store->event);
	ListCell   *cell;

	if (name || get_rel_relkind(store->event) != RELKIND_PARTITIONED_TABLE)
		return name;
	foreach(cell, find_all_inheritors(store->event, NoLock, NULL))
		if ((name = subscription_of_table(lfirst_oid(cell))) != NULL)
			break;
	return name;
}

static char *
subscription_of_table(Oid table)
{
	CatCList   *tables = SearchSysCacheList1(SUBSCRIPTIONRELMAP, ObjectIdGetDatum(table));
	char	   *name = NULL;

	for (int i = 0; i < tables->n_members && name == NULL; i++)
	{
		HeapTuple	tuple = &tables->members[i]->tuple;

		/* NULL: it is being dropped */
		name = get_subscription_name(((Form_pg_subscription_rel) GETSTRUCT(tuple))->srsubid, true);
	}
	ReleaseSysCacheList(tables);
	return name;
}
