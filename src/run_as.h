/*-------------------------------------------------------------------------
 *
 * run_as.h
 *		Running as somebody else: the owner of a definition, or of a store.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_RUN_AS_H
#define ES_RUN_AS_H

#include "store.h"

/* What to go back to. */
typedef struct EsRunAs
{
	Oid			user;
	int			security_context;
	int			nestlevel;		/* of settings */
} EsRunAs;

/*
 * Go on as a role, restricted as a security-restricted operation: it can neither
 * become somebody else nor leave anything behind for later.  Settings that are
 * changed before es_run_as_end() are as they were after it.  An abort of the
 * (sub)transaction ends it, too.
 */
extern void es_run_as_begin(EsRunAs *run_as, Oid role);
extern void es_run_as_end(const EsRunAs *run_as);

/* The role that owns a store's log, and does its bookkeeping. */
extern Oid	es_run_as_store_owner(EsStore *store);

/*
 * The role that owns a definition, by its name.  42704 when there is no such
 * role, 42501 when the owner of the store may not act as it.
 */
extern Oid	es_run_as_definition_owner(EsStore *store, const char *owner);

#endif							/* ES_RUN_AS_H */
