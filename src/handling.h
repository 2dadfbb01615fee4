/*-------------------------------------------------------------------------
 *
 * handling.h
 *		What is being handled: the command or event on whose behalf user
 *		code runs, so that what it causes carries its ids.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_HANDLING_H
#define ES_HANDLING_H

#include "utils/uuid.h"

/* Lives on the C stack of whoever runs the handler. */
typedef struct EsHandling
{
	const pg_uuid_t *correlation_id;	/* NULL: none */
	const pg_uuid_t *causation_id;	/* NULL: none */
	struct EsHandling *outer;
} EsHandling;

/*
 * Begin and end running a handler.  The end must be reached on an error too:
 * wrap what is between in PG_TRY() and PG_FINALLY().
 */
extern void es_handling_begin(EsHandling *handling);
extern void es_handling_end(EsHandling *handling);

/* The innermost one; NULL outside of any handler. */
extern const EsHandling *es_handling_current(void);

#endif							/* ES_HANDLING_H */
