/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *		Dispatching commands.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_DISPATCH_H
#define ES_DISPATCH_H

#include "store.h"
#include "utils/jsonb.h"
#include "utils/uuid.h"

extern void es_dispatch_init(void);

/*
 * Dispatch a command as es_dispatch() does, to the current store: a composite
 * value of a command's type or of es_command, or JSON under a type's name.  Its
 * correlation and causation are those given (NULL: of what is being handled).
 */
extern void es_dispatch_value(Oid type, Datum value);
extern void es_dispatch_named(const char *name, Jsonb *data, Jsonb *metadata,
							  const pg_uuid_t *correlation_id, const pg_uuid_t *causation_id);

/*
 * The same value as JSON under its type's qualified name; 42809 and 22004 for what
 * is no command.
 */
extern void es_dispatch_describe(Oid type, Datum value, char **name, Jsonb **data);

/* Raise what dispatching such a command would raise, before anything of it is done. */
extern void es_dispatch_check(EsStore *store, const char *name, Jsonb *data);

#endif							/* ES_DISPATCH_H */
