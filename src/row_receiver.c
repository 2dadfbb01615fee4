/*-------------------------------------------------------------------------
 *
 * row_receiver.c
 *		Receivers of rows that only take each row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "row_receiver.h"

static void start(DestReceiver *self, int operation, TupleDesc tupdesc);
static void end(DestReceiver *self);

void
es_row_receiver_init(DestReceiver *receiver, EsTakeRow take)
{
	receiver->receiveSlot = take;
	receiver->rStartup = start;
	receiver->rShutdown = end;
	receiver->rDestroy = end;
	receiver->mydest = DestNone;
}

static void
start(DestReceiver *self, int operation, TupleDesc tupdesc)
{
}

static void
end(DestReceiver *self)
{
}
