/*-------------------------------------------------------------------------
 *
 * attempt.h
 *		Attempts: running what may fail, in a subtransaction and for a
 *		limited time.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_ATTEMPT_H
#define ES_ATTEMPT_H

#include "store.h"

typedef struct EsAttempt
{
	/* how */
	Oid			role;			/* run as this role, restricted; InvalidOid: as it is */
	int			timeout_ms;		/* 0: none */
	bool		foreground;		/* a cancellation is the caller's, and raised */

	/* what came of it, if it failed */
	ErrorData  *error;			/* in the context of the caller */
	bool		canceled;		/* by pg_cancel_backend(); says nothing about what was run */
	bool		transient;		/* a deadlock or the like: it may go well the next time */
} EsAttempt;

/*
 * Run body(arg) and return true, or false after an error, with all that it did
 * undone and the error in attempt->error.  The body gets the caller's memory
 * context; locks, settings and the role are as before afterwards.
 */
extern bool es_attempt(EsAttempt *attempt, void (*body)(void *arg), void *arg);

/*
 * An error when the attempt under way has taken too long: what runs in it may have
 * caught its cancellation.
 */
extern void es_attempt_check_time(void);

#endif							/* ES_ATTEMPT_H */
