-- Appending

CREATE FUNCTION es_append(stream text, events es_new_event[], expected_version bigint DEFAULT NULL,
						  correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append';
COMMENT ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid) IS 'append events to a stream, all or nothing';

CREATE FUNCTION es_append(stream text, type text, data jsonb, metadata jsonb DEFAULT NULL,
						  expected_version bigint DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_json';
COMMENT ON FUNCTION es_append(text, text, jsonb, jsonb, bigint) IS 'append one event to a stream, from its type and JSON';

-- Without this one, a call with nothing but literals would be ambiguous.
CREATE FUNCTION es_append(stream text, type text, data text, metadata text DEFAULT NULL,
						  expected_version bigint DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_literal';
COMMENT ON FUNCTION es_append(text, text, text, text, bigint) IS 'append one event to a stream, from its type and JSON text';

CREATE FUNCTION es_append(stream text, event anyelement, metadata jsonb DEFAULT NULL,
						  expected_version bigint DEFAULT NULL)
	RETURNS es_append_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_append_record_value';
COMMENT ON FUNCTION es_append(text, anyelement, jsonb, bigint) IS 'append one event to a stream, from a composite value; its type''s name is the event type';

REVOKE ALL ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid),
	es_append(text, text, jsonb, jsonb, bigint),
	es_append(text, text, text, text, bigint),
	es_append(text, anyelement, jsonb, bigint) FROM PUBLIC;
