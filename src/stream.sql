-- Streams

CREATE FUNCTION es_stream_version(stream text) RETURNS bigint
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_stream_version';
COMMENT ON FUNCTION es_stream_version(text) IS 'current version of a stream, 0 if there is none';

CREATE FUNCTION es_read_stream(stream text, from_version bigint DEFAULT NULL,
							   max_count bigint DEFAULT NULL, backward boolean DEFAULT false)
	RETURNS SETOF es_event
	LANGUAGE C STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'es_read_stream';
COMMENT ON FUNCTION es_read_stream(text, bigint, bigint, boolean) IS 'events of a stream, in the order of their versions';
