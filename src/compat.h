/*-------------------------------------------------------------------------
 *
 * compat.h
 *		The newest server API under one name on every supported major.
 *
 * All conditions on PG_VERSION_NUM live here.  Each shim says which major
 * changed what.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_COMPAT_H
#define ES_COMPAT_H

#include "miscadmin.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/wait_event.h"

/* 16: VARDATA_ANY() and the like have a header of their own */
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* 16: stringToQualifiedNameList() can report errors softly */
#if PG_VERSION_NUM >= 160000
#define es_qualified_name_list(string)	stringToQualifiedNameList((string), NULL)
#else
#define es_qualified_name_list(string)	stringToQualifiedNameList(string)
#endif

/* 16: object_aclcheck() instead of a function for each kind of object */
#if PG_VERSION_NUM >= 160000
#define es_namespace_aclcheck(schema, role, mode) \
	object_aclcheck(NamespaceRelationId, (schema), (role), (mode))
#else
#define es_namespace_aclcheck(schema, role, mode) \
	pg_namespace_aclcheck((schema), (role), (mode))
#endif

#if PG_VERSION_NUM >= 160000
#define es_database_ownercheck(database, role) \
	object_ownercheck(DatabaseRelationId, (database), (role))
#else
#define es_database_ownercheck(database, role)	pg_database_ownercheck((database), (role))
#endif

/* 16: SET ROLE became a right of its own within a membership */
#if PG_VERSION_NUM >= 160000
#define es_may_become(member, role)		member_can_set_role((member), (role))
#else
#define es_may_become(member, role)		is_member_of_role((member), (role))
#endif

/*
 * 16: expression_tree_mutator() takes any callback.  Before it took one without
 * a prototype, and since C23 that is one without arguments.
 */
#if PG_VERSION_NUM >= 160000
#define es_expression_tree_mutator(node, mutator, context) \
	expression_tree_mutator((node), (mutator), (context))
#else
#define es_expression_tree_mutator(node, mutator, context) \
	expression_tree_mutator((node), (void *) (mutator), (context))
#endif

/* 17: LockHeldByMe() can also look for stronger modes */
#if PG_VERSION_NUM >= 170000
#define es_lock_held_by_me(tag, mode)	LockHeldByMe((tag), (mode), false)
#else
#define es_lock_held_by_me(tag, mode)	LockHeldByMe((tag), (mode))
#endif

/* 17: a PGPROC's and a lock instance's virtual transaction id became one field */
#if PG_VERSION_NUM >= 170000
#define es_my_lxid()					(MyProc->vxid.lxid)
#define es_lock_instance_lxid(instance)	((instance)->vxid.localTransactionId)
#else
#define es_my_lxid()					(MyProc->lxid)
#define es_lock_instance_lxid(instance)	((instance)->lxid)
#endif

/* 17: wait events of extensions have names */
#if PG_VERSION_NUM >= 170000
#define es_new_wait_event(name)			WaitEventExtensionNew(name)
#else
#define es_new_wait_event(name)			PG_WAIT_EXTENSION
#endif

/* 18: index_beginscan() can count for EXPLAIN; 19: scans have flags */
#if PG_VERSION_NUM >= 190000
#define es_index_beginscan(table, index, snapshot, nkeys) \
	index_beginscan((table), (index), (snapshot), NULL, (nkeys), 0, SO_NONE)
#elif PG_VERSION_NUM >= 180000
#define es_index_beginscan(table, index, snapshot, nkeys) \
	index_beginscan((table), (index), (snapshot), NULL, (nkeys), 0)
#else
#define es_index_beginscan(table, index, snapshot, nkeys) \
	index_beginscan((table), (index), (snapshot), (nkeys), 0)
#endif

/* 18: pg_noreturn, before the declaration, replaced pg_attribute_noreturn() */
#if PG_VERSION_NUM < 180000
#define pg_noreturn						pg_attribute_noreturn()
#endif

/* 18: ExecutorRun() lost its last argument, that it runs only once */
#if PG_VERSION_NUM >= 180000
#define es_executor_run(query, direction, count)	ExecutorRun((query), (direction), (count))
#else
#define es_executor_run(query, direction, count)	ExecutorRun((query), (direction), (count), true)
#endif

#if PG_VERSION_NUM >= 190000
#define es_table_beginscan(table, snapshot)	table_beginscan((table), (snapshot), 0, NULL, SO_NONE)
#else
#define es_table_beginscan(table, snapshot)	table_beginscan((table), (snapshot), 0, NULL)
#endif

/* 19: cluster.c became repack.c, and its swap of two tables need not rebuild the indexes */
#if PG_VERSION_NUM >= 190000
#include "commands/repack.h"
#define es_finish_heap_swap(old_table, new_table, frozen_xid, min_multi, persistence) \
	finish_heap_swap((old_table), (new_table), false, false, true, true, true, (frozen_xid), \
					 (min_multi), (persistence))
#else
#include "commands/cluster.h"
#define es_finish_heap_swap(old_table, new_table, frozen_xid, min_multi, persistence) \
	finish_heap_swap((old_table), (new_table), false, false, true, true, (frozen_xid), \
					 (min_multi), (persistence))
#endif

/* 19: pushJsonbValue() keeps its result in its state */
#if PG_VERSION_NUM >= 190000
typedef JsonbInState EsJsonbState;
#define es_jsonb_push(state, token, value)	pushJsonbValue((state), (token), (value))
#else
typedef struct EsJsonbState
{
	JsonbValue *result;			/* when it is complete */
	JsonbParseState *parse_state;
} EsJsonbState;
#define es_jsonb_push(state, token, value) \
	((state)->result = pushJsonbValue(&(state)->parse_state, (token), (value)))
#endif

/* 19: a publication can leave tables out */
#if PG_VERSION_NUM >= 190000
#define es_relation_publications(relation)	GetRelationIncludedPublications(relation)
#else
#define es_relation_publications(relation)	GetRelationPublications(relation)
#endif

/* 19: a row type must be finished before its first use */
#if PG_VERSION_NUM >= 190000
#define es_tupdesc_finalize(tupdesc)	TupleDescFinalize(tupdesc)
#else
#define es_tupdesc_finalize(tupdesc)	((void) 0)
#endif

/* 19: errors that are not raised go into a context for them */
#if PG_VERSION_NUM >= 190000
#include "nodes/miscnodes.h"
static inline int32
es_numeric_int4(Numeric number, bool *failed)
{
	ErrorSaveContext context = {.type = T_ErrorSaveContext};
	int32		result = numeric_int4_safe(number, (Node *) &context);

	*failed = context.error_occurred;
	return result;
}
#else
#define es_numeric_int4(number, failed)	numeric_int4_opt_error((number), (failed))
#endif

#endif							/* ES_COMPAT_H */
