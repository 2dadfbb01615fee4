/*-------------------------------------------------------------------------
 *
 * event_set.c
 *		SETOF es_event as a function's result.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "event_set.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"

void
es_event_set_check_count(bool isnull, int64 max_count)
{
	if (!isnull && max_count < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_count must not be negative")));
}

DestReceiver *
es_event_set_begin(FunctionCallInfo fcinfo)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	DestReceiver *dest;

	InitMaterializedSRF(fcinfo, 0);
	dest = CreateDestReceiver(DestTuplestore);
	SetTuplestoreDestReceiverParams(dest, rsinfo->setResult,
									rsinfo->econtext->ecxt_per_query_memory, false, NULL, NULL);
	return dest;
}
