/*-------------------------------------------------------------------------
 *
 * event_sourcing.c
 *		Module magic and the order in which the concepts start.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "dispatch.h"
#include "extension.h"
#include "guc.h"
#include "log.h"
#include "retired.h"
#include "routine.h"
#include "shared.h"
#include "state_cache.h"
#include "store.h"
#include "stream.h"
#include "wake.h"
#include "worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	es_guc_init();
	es_retired_init();
	es_extension_init();
	es_store_init();
	es_log_init();
	es_routine_init();
	es_stream_init();
	es_state_cache_init();
	es_dispatch_init();
	es_shared_init();
	es_wake_init();
	es_worker_init();
}
