-- State

CREATE FUNCTION es_state(aggregate anyelement, id text, at_version bigint DEFAULT NULL,
						 at_time timestamptz DEFAULT NULL)
	RETURNS anyelement
	LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_state_typed';
COMMENT ON FUNCTION es_state(anyelement, text, bigint, timestamptz) IS 'state of an aggregate''s instance, now, at a version or at a time; NULL when there is none';

CREATE FUNCTION es_state(aggregate text, id text, at_version bigint DEFAULT NULL,
						 at_time timestamptz DEFAULT NULL)
	RETURNS jsonb
	LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_state_json';
COMMENT ON FUNCTION es_state(text, text, bigint, timestamptz) IS 'state of an aggregate''s instance as JSON, now, at a version or at a time; NULL when there is none';

CREATE FUNCTION es_history(aggregate text, id text)
	RETURNS TABLE (version bigint, type text, recorded_at timestamptz, data jsonb, state jsonb)
	LANGUAGE C STABLE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_history';
COMMENT ON FUNCTION es_history(text, text) IS 'events of an aggregate''s instance, each with the state after it';
