/*-------------------------------------------------------------------------
 *
 * retired.c
 *		Cached things that were replaced, but may still be in use.
 *
 * An invalidation can arrive at any lock, while a command handler that was
 * found in the cache is running and has called back into the extension.  So
 * nothing cached is freed when it is replaced: it is retired here, and freed
 * in a later transaction, when no frame of the old one is left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "compat.h"
#include "nodes/pg_list.h"
#include "retired.h"
#include "utils/memutils.h"

static List *retired_contexts = NIL;	/* in TopMemoryContext */
static List *retired_plans = NIL;
static LocalTransactionId retired_in;	/* the newest retirement's transaction */

void
es_retired_init(void)
{
	retired_in = InvalidLocalTransactionId;
}

void
es_retire_context(MemoryContext context)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	retired_contexts = lappend(retired_contexts, context);
	/* or it would go together with its parent, and once more */
	MemoryContextSetParent(context, TopMemoryContext);
	retired_in = es_my_lxid();
	MemoryContextSwitchTo(caller);
}

void
es_retire_plan(SPIPlanPtr plan)
{
	MemoryContext caller = MemoryContextSwitchTo(TopMemoryContext);

	retired_plans = lappend(retired_plans, plan);
	retired_in = es_my_lxid();
	MemoryContextSwitchTo(caller);
}

void
es_retired_free(void)
{
	if ((retired_contexts == NIL && retired_plans == NIL) || retired_in == es_my_lxid())
		return;

	/* take each off its list first: an error in between must not free it twice */
	while (retired_plans != NIL)
	{
		SPIPlanPtr	plan = llast(retired_plans);

		retired_plans = list_delete_last(retired_plans);
		SPI_freeplan(plan);
	}
	while (retired_contexts != NIL)
	{
		MemoryContext context = llast(retired_contexts);

		retired_contexts = list_delete_last(retired_contexts);
		MemoryContextDelete(context);
	}
}
