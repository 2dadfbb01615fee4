/*-------------------------------------------------------------------------
 *
 * event_kind.c
 *		Kinds of events: a store, a category and a type, as one number.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "compat.h"
#include "event_kind.h"
#include "stream.h"

static uint32 add_bytes(uint32 hash, const text *name, int length);

EsEventKind
es_event_kind(Oid schema, const text *type, const text *stream)
{
	uint32		hash = es_event_kind_any(schema);

	hash = add_bytes(hash, type, VARSIZE_ANY_EXHDR(type));
	hash = add_bytes(hash, stream, es_stream_category_length(stream));
	return hash == 0 ? 1 : hash;
}

EsEventKind
es_event_kind_any(Oid schema)
{
	uint32		hash = hash_bytes_uint32(schema);

	return hash == 0 ? 1 : hash;
}

/* The first bytes of a name. */
static uint32
add_bytes(uint32 hash, const text *name, int length)
{
	return hash_combine(hash, hash_bytes((const unsigned char *) VARDATA_ANY(name), length));
}
