/*-------------------------------------------------------------------------
 *
 * row_receiver.h
 *		Receivers of rows that only take each row.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_ROW_RECEIVER_H
#define ES_ROW_RECEIVER_H

#include "tcop/dest.h"

/* Takes a row; false ends the reading. */
typedef bool (*EsTakeRow)(TupleTableSlot *slot, DestReceiver *self);

/* Fill in a receiver, which begins a struct of the caller's. */
extern void es_row_receiver_init(DestReceiver *receiver, EsTakeRow take);

#endif							/* ES_ROW_RECEIVER_H */
