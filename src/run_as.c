/*-------------------------------------------------------------------------
 *
 * run_as.c
 *		Running as somebody else: the owner of a definition, or of a store.
 *
 * A worker is a superuser, and whoever calls es_run() may be anybody; neither's
 * rights must reach what others have defined.  So a store's tables, on which
 * their owner may have put triggers, are read and written as that owner, and a
 * handler runs as the owner of its definition.
 *
 * That owner is a name in a table, which the owner of the table can write.  So
 * it is believed no further than the table's owner could go by SET ROLE, and a
 * trigger keeps everybody else from writing a name that is not their own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "commands/trigger.h"
#include "compat.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "run_as.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

static void check_owner(Relation table, HeapTuple row);

PG_FUNCTION_INFO_V1(es_owner_guard);

void
es_run_as_begin(EsRunAs *run_as, Oid role)
{
	int			restricted = SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION;

	GetUserIdAndSecContext(&run_as->user, &run_as->security_context);
	run_as->nestlevel = NewGUCNestLevel();
	SetUserIdAndSecContext(role, run_as->security_context | restricted);
}

void
es_run_as_end(const EsRunAs *run_as)
{
	/* as after an abort: a plain SET is undone, too */
	AtEOXact_GUC(false, run_as->nestlevel);
	SetUserIdAndSecContext(run_as->user, run_as->security_context);
}

Oid
es_run_as_store_owner(EsStore *store)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(store->event));
	Oid			owner;

	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_SCHEMA_NAME),
				 errmsg("the event store %s was dropped", store->name)));
	owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);
	return owner;
}

Oid
es_run_as_definition_owner(EsStore *store, const char *owner)
{
	Oid			role = get_role_oid(owner, false);
	Oid			store_owner = es_run_as_store_owner(store);

	if (!es_may_become(store_owner, role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("event store %s cannot run code as role \"%s\"", store->name, owner),
				 errdetail("The store's owner, role \"%s\", may not act as that role.",
						   GetUserNameFromId(store_owner, false)),
				 errhint("GRANT %s TO %s.", quote_identifier(owner),
						 quote_identifier(GetUserNameFromId(store_owner, false)))));
	return role;
}

/* Trigger on tables of definitions, before each row: a definition is its owner's. */
Datum
es_owner_guard(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Relation	table;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BEFORE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"es_owner_guard\" must be called as a trigger before each row")));

	table = trigger->tg_relation;
	if (!has_privs_of_role(GetUserId(), table->rd_rel->relowner))
	{
		check_owner(table, trigger->tg_trigtuple);
		if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
			check_owner(table, trigger->tg_newtuple);
	}
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ? trigger->tg_newtuple :
																		trigger->tg_trigtuple);
}

static void
check_owner(Relation table, HeapTuple row)
{
	TupleDesc	tupdesc = RelationGetDescr(table);
	int			column = SPI_fnumber(tupdesc, "owner");
	char	   *owner = column > 0 ? SPI_getvalue(row, tupdesc, column) : NULL;
	Oid			role = owner ? get_role_oid(owner, true) : InvalidOid;

	if (!OidIsValid(role) || !has_privs_of_role(GetUserId(), role))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must have the privileges of role \"%s\" to change what it has defined",
						owner ? owner : "NULL")));
}
