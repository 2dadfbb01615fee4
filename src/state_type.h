/*-------------------------------------------------------------------------
 *
 * state_type.h
 *		State types: a composite type or jsonb, of aggregates and process
 *		managers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_STATE_TYPE_H
#define ES_STATE_TYPE_H

/*
 * 22004, 42809 or 42P17 for what cannot be a state type: NULL (InvalidOid), not
 * composite, temporary.  The owner is the kind of thing that it is the state of.
 */
extern void es_state_type_check(Oid type, const char *owner);

/* Its name as it is stored: OIDs would not survive a dump. */
extern const char *es_state_type_name(Oid type);

/* Such a name taken apart; jsonb, and what is no name of a type, has no schema. */
extern void es_state_type_read_name(const char *name, char **schema_name, char **bare_name);

/* The type that such a name stands for; InvalidOid when it is gone. */
extern Oid	es_state_type_find(const char *schema_name, const char *bare_name);

/* Where its functions are looked for first; jsonb has no such place. */
extern Oid	es_state_type_schema(Oid type);

/* Its initial state: the literal (NULL: a row of NULLs, or {}), in the current context. */
extern Datum es_state_type_initial(Oid type, const char *literal);

#endif							/* ES_STATE_TYPE_H */
