/*-------------------------------------------------------------------------
 *
 * extension.h
 *		The extension's own objects: its schema and the OIDs of its types.
 *
 *-------------------------------------------------------------------------
 */
#ifndef ES_EXTENSION_H
#define ES_EXTENSION_H

#include "access/tupdesc.h"

/* A composite type of the extension. */
typedef struct EsExtensionType
{
	Oid			oid;
	TupleDesc	tupdesc;		/* blessed; in a cache context */
} EsExtensionType;

typedef struct EsExtension
{
	Oid			schema;
	char	   *schema_name;	/* quoted where needed */
	EsExtensionType event;		/* es_event */
	EsExtensionType new_event;	/* es_new_event */
	EsExtensionType command;	/* es_command */
	EsExtensionType append_result;	/* es_append_result */
	EsExtensionType dispatch_result;	/* es_dispatch_result */
	EsExtensionType route;		/* es_route */
	EsExtensionType failure;	/* es_failure */
	Oid			new_event_array;	/* es_new_event[] */
} EsExtension;

extern void es_extension_init(void);

/*
 * The extension as it is installed now.  The result stays usable to the end
 * of the transaction, whatever is dropped or created meanwhile.
 */
extern const EsExtension *es_extension(void);

#endif							/* ES_EXTENSION_H */
