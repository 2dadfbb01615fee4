/*-------------------------------------------------------------------------
 *
 * subscription.h
 *		Subscriptions: a name, a filter, and checkpoints.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_SUBSCRIPTION_H
#define ES_SUBSCRIPTION_H

#include "filter.h"
#include "fmgr.h"
#include "overload.h"
#include "projection_definition.h"
#include "routine.h"
#include "store.h"
#include "utils/timestamp.h"

typedef enum EsSubscriptionKind
{
	ES_SUBSCRIPTION_EXTERNAL,	/* pulled by consumers */
	ES_SUBSCRIPTION_PROJECTION, /* the async projection of the same name */
	ES_SUBSCRIPTION_HANDLER,
	ES_SUBSCRIPTION_PROCESS_MANAGER
} EsSubscriptionKind;

/* What is done about an event that fails again after max_retries. */
typedef enum EsOnError
{
	ES_ON_ERROR_PARK,			/* put its stream aside */
	ES_ON_ERROR_SKIP,			/* forget it */
	ES_ON_ERROR_STOP			/* stop the partition */
} EsOnError;

#define ES_MAX_PARTITIONS 1024

struct EsProcessManager;

/* A subscription as a session has loaded it; usable to the end of the transaction. */
typedef struct EsSubscription
{
	MemoryContext context;
	char	   *name;
	int64		id;
	EsSubscriptionKind kind;
	EsFilter	filter;
	int64		from_position;	/* where a partition without a checkpoint begins */
	int			partitions;
	int			max_retries;
	EsOnError	on_error;
	Interval   *lease;			/* external: how long a consumer may take */
	bool		paused;
	int64		resets;			/* rises whenever checkpoints were moved by hand */
	char	   *owner;			/* the role that its handlers run as */
	EsSearchPath *path;			/* under which they run */

	EsOverloads handlers;		/* a handler's, or a process manager's route functions */
	struct EsProcessManager *process_manager;	/* process_manager.c */

	/* names of a process manager, as they are stored */
	char	   *state_type;
	char	   *handle_function;
	char	   *apply_function;
	char	   *refused_function;
	char	   *initial_state;
} EsSubscription;

/* All subscriptions of a store (EsSubscription *), in the order of their ids. */
extern List *es_subscriptions(EsStore *store);

/* Find one by its name; 42704 when there is none, unless missing_ok: then NULL. */
extern EsSubscription *es_subscription_by_name(EsStore *store, const char *name, bool missing_ok);

/*
 * Whether two of them, read at different times, are the same subscription in the same
 * state: no definition changes under its id, but it may be reset, paused and resumed.
 */
extern bool es_subscription_is_same(const EsSubscription *a, const EsSubscription *b);

/* The kind in words, as it is stored and shown. */
extern const char *es_subscription_kind(const EsSubscription *subscription);

/* The partition of a stream: the same for ever. */
extern int	es_subscription_partition(const EsSubscription *subscription, const text *stream);

/*
 * Whether a partition of it gets an event of this type and stream, and whether it
 * gets any of this type, or any of this type in this stream's category.  The
 * projection is that of a projection's subscription, else NULL.  They raise nothing.
 */
extern bool es_subscription_wants(EsSubscription *subscription, EsProjection *projection,
								  int partition, const text *type, const text *stream);
extern bool es_subscription_wants_type(EsSubscription *subscription, EsProjection *projection,
									   const text *type);
extern bool es_subscription_wants_kind(EsSubscription *subscription, EsProjection *projection,
									   const text *type, const text *stream);

/* Rises with every change of any definition: what was got before is outdated. */
extern uint64 es_subscriptions_serial(EsStore *store);

/* What is stored of a new subscription; what is left 0 is NULL or a default. */
typedef struct EsNewSubscription
{
	const char *name;
	EsSubscriptionKind kind;
	Datum		categories;		/* text[] */
	Datum		types;			/* text[] */
	const text *stream;
	int64		from_position;
	int			partitions;
	int			max_retries;
	EsOnError	on_error;
	Datum		lease;			/* interval */
	const char *handler;
	const char *state_type;
	const char *handle_function;
	const char *apply_function;
	const char *refused_function;
	const char *initial_state;
	ArrayType  *path_names;
} EsNewSubscription;

/*
 * Store a subscription that runs as the current user; 42710 when the name is
 * taken, by a projection too.  Connected to SPI.
 */
extern void es_subscription_insert(EsStore *store, const EsNewSubscription *subscription);

/*
 * Wait until nobody works on it, and keep others away to the end of the
 * transaction, which must be in READ COMMITTED (else 55000).
 */
extern void es_subscription_lock(EsStore *store, EsSubscription *subscription);

/* 55000 in a handler of it: its locks are ours, and keep nobody away. */
extern void es_subscription_forbid_in_own_handler(const EsSubscription *subscription);

/* Forget one with its checkpoints and all that goes with them.  Connected to SPI. */
extern void es_subscription_delete(EsStore *store, EsSubscription *subscription);

/* Pause it or let it go on; waits for what is running.  Connected to SPI. */
extern void es_subscription_set_paused(EsStore *store, EsSubscription *subscription, bool paused);

/* Move all its checkpoints, forgetting failures, leases and parked events.  Connected to SPI. */
extern void es_subscription_reset(EsStore *store, EsSubscription *subscription, int64 position);

/* Arguments that several kinds have in common; 22004 and 22023 for what is wrong with them. */
extern int64 es_subscription_position_argument(FunctionCallInfo fcinfo, int arg, const char *name);
extern EsOnError es_subscription_on_error_argument(FunctionCallInfo fcinfo, int arg);

#endif							/* ES_SUBSCRIPTION_H */
