/*-------------------------------------------------------------------------
 *
 * composite.h
 *		Composite values from and to JSON.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_COMPOSITE_H
#define ES_COMPOSITE_H

#include "access/tupdesc.h"
#include "utils/jsonb.h"

typedef struct EsComposite EsComposite;

/*
 * What a session knows of a composite type.  Usable to the end of the
 * transaction.  42809 when the type is not composite.
 */
extern EsComposite *es_composite(Oid type);

/*
 * A number that changes when a composite type in use, or one inside of it, or
 * any type's definition does.
 */
extern uint64 es_composite_shapes(void);

/* Whether a type is composite and has this bare name (NULL: any). */
extern bool es_composite_is_named(Oid type, const char *name);

extern const char *es_composite_name(EsComposite *composite);	/* the type's bare name */
extern TupleDesc es_composite_tupdesc(EsComposite *composite);

/*
 * The value of a JSON object, as jsonb_populate_record() gives it; keys that
 * the type does not have are ignored, missing ones are NULL.  22023 when the
 * JSON is not an object.  In the current context.
 */
extern Datum es_composite_from_jsonb(EsComposite *composite, Jsonb *json);

/*
 * The same taken apart: fills values and nulls (tupdesc->natts elements) of the
 * fields that uses counts at least once (NULL: all); a field that nobody looks
 * at is not converted.
 */
extern void es_composite_fields_from_jsonb(EsComposite *composite, Jsonb *json, const int *uses,
										   Datum *values, bool *nulls);

/*
 * Whether every value comes back from JSON as it was.  Others do not: arrays
 * with other bounds, JSON null in a jsonb field, -0 and the like.
 */
extern bool es_composite_is_exact(EsComposite *composite);

/* 22023 when the JSON object has a key that the type has not. */
extern void es_composite_check_keys(EsComposite *composite, Jsonb *json);

/* The value as to_jsonb() gives it; in the current context. */
extern Jsonb *es_composite_to_jsonb(EsComposite *composite, Datum value);

/* Take a value of a composite type apart; values and nulls have tupdesc->natts elements. */
extern void es_composite_deform(Datum value, TupleDesc tupdesc, Datum *values, bool *nulls);

/* A field by its number (from 1); palloc'd copy where it is by reference. */
extern Datum es_composite_field(EsComposite *composite, Datum value, int attnum, bool *isnull);

/* The number of a field by its name, 0 when there is none. */
extern int	es_composite_field_number(EsComposite *composite, const char *name);

/* A value with NULL in every field; in the current context. */
extern Datum es_composite_empty(EsComposite *composite);

#endif							/* ES_COMPOSITE_H */
