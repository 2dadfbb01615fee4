/*-------------------------------------------------------------------------
 *
 * receipt.h
 *		Receipts: results of commands that carry an id, for their retries.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_RECEIPT_H
#define ES_RECEIPT_H

#include "store.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

typedef struct EsReceipt
{
	const pg_uuid_t *command_id;
	const char *command_type;
	text	   *stream;
	int64		version;		/* the stream's after the command */
	int64		position;		/* of its last event; meaningless without events */
	int64		event_count;
} EsReceipt;

/*
 * Has a command been executed?  The caller holds the lock of the command's
 * stream, which every dispatch of the same command takes.  On true the
 * receipt's result is filled in.  SE007 when the id was another command's.
 * Connected to SPI.
 */
extern bool es_receipt_find(EsStore *store, EsReceipt *receipt);

/* Store the result.  SE007 when another command with this id was faster. */
extern void es_receipt_write(EsStore *store, const EsReceipt *receipt, TimestampTz now);

#endif							/* ES_RECEIPT_H */
