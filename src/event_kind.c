/*-------------------------------------------------------------------------
 *
 * event_kind.c
 *		Kinds of events: a store, a category and a type, as one number.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "event_kind.h"
#include "stream.h"

EsEventKind
es_event_kind(Oid schema, const text *type, const text *stream)
{
	uint32		hash = es_event_kind_any(schema);

	hash = hash_combine(hash, hash_bytes((const unsigned char *) VARDATA_ANY(type), VARSIZE_ANY_EXHDR(type)));
	hash = hash_combine(hash, hash_bytes((const unsigned char *) VARDATA_ANY(stream), es_stream_category_length(stream)));
	return hash == 0 ? 1 : hash;
}

EsEventKind
es_event_kind_any(Oid schema)
{
	uint32		hash = hash_bytes_uint32(schema);

	return hash == 0 ? 1 : hash;
}
