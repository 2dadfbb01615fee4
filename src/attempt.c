/*-------------------------------------------------------------------------
 *
 * attempt.c
 *		Attempts: running what may fail, in a subtransaction and for a
 *		limited time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "attempt.h"
#include "miscadmin.h"
#include "run_as.h"
#include "storage/latch.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timeout.h"

static bool timeout_registered = false;
static TimeoutId timeout_id;
static volatile sig_atomic_t timed_out = false;

static void start_timer(int timeout_ms);
static void stop_timer(void);
static void on_timeout(void);
static bool is_transient(int sqlstate);

bool
es_attempt(EsAttempt *attempt, void (*body)(void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	bool		timed = attempt->timeout_ms > 0;
	EsRunAs		run_as;
	volatile bool done = false;
	bool		late;

	attempt->error = NULL;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		if (OidIsValid(attempt->role))
			es_run_as_begin(&run_as, attempt->role);
		if (timed)
			start_timer(attempt->timeout_ms);
		body(arg);
		es_attempt_check_time();
		if (timed)
			stop_timer();
		if (OidIsValid(attempt->role))
			es_run_as_end(&run_as);
		ReleaseCurrentSubTransaction();
		done = true;
	}
	PG_CATCH();
	{
		if (timed)
			stop_timer();
		MemoryContextSwitchTo(caller);
		attempt->error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;

	/* without a time of its own, an attempt within another may be late for that one */
	late = timed && timed_out;
	if (timed)
		timed_out = false;
	if (done)
		return true;

	attempt->canceled = attempt->error->sqlerrcode == ERRCODE_QUERY_CANCELED && !late;
	if (attempt->canceled && attempt->foreground)
		ReThrowError(attempt->error);
	attempt->transient = is_transient(attempt->error->sqlerrcode) && !late;
	if (late)
		attempt->error->message = psprintf("it took longer than event_sourcing.handler_timeout allows (%d ms)",
										   attempt->timeout_ms);
	return false;
}

void
es_attempt_check_time(void)
{
	if (timed_out)
		ereport(ERROR,
				(errcode(ERRCODE_QUERY_CANCELED),
				 errmsg("canceling statement due to event_sourcing.handler_timeout")));
}

static void
start_timer(int timeout_ms)
{
	timed_out = false;
	if (!timeout_registered)
	{
		timeout_id = RegisterTimeout(USER_TIMEOUT, on_timeout);
		timeout_registered = true;
	}
	enable_timeout_after(timeout_id, timeout_ms);
}

static void
stop_timer(void)
{
	disable_timeout(timeout_id, false);
	/* it may have gone off after all was done */
	if (timed_out)
		QueryCancelPending = false;
}

/* Signal handler: what runs is cancelled at its next check for interrupts. */
static void
on_timeout(void)
{
	timed_out = true;
	InterruptPending = true;
	QueryCancelPending = true;
	SetLatch(MyLatch);
}

static bool
is_transient(int sqlstate)
{
	switch (ERRCODE_TO_CATEGORY(sqlstate))
	{
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return sqlstate == ERRCODE_LOCK_NOT_AVAILABLE;
	}
}
