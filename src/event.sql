-- Events

CREATE FUNCTION es_new_event(type text, data jsonb DEFAULT '{}', metadata jsonb DEFAULT NULL,
							 event_id uuid DEFAULT NULL, recorded_at timestamptz DEFAULT NULL)
	RETURNS es_new_event
	LANGUAGE C IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_new_event_json';
COMMENT ON FUNCTION es_new_event(text, jsonb, jsonb, uuid, timestamptz) IS 'an event to be appended, from its type and JSON';

CREATE FUNCTION es_new_event(event anyelement, metadata jsonb DEFAULT NULL,
							 event_id uuid DEFAULT NULL, recorded_at timestamptz DEFAULT NULL)
	RETURNS es_new_event
	LANGUAGE C STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'es_new_event_record';
COMMENT ON FUNCTION es_new_event(anyelement, jsonb, uuid, timestamptz) IS 'an event to be appended, from a composite value; its type''s name is the event type';
