-- Dispatching

CREATE FUNCTION es_dispatch(command anyelement, metadata jsonb DEFAULT NULL,
							expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_dispatch_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_dispatch_record';
COMMENT ON FUNCTION es_dispatch(anyelement, jsonb, bigint, uuid, uuid, uuid) IS 'dispatch a command, given as a composite value, to the aggregate that executes it';

CREATE FUNCTION es_dispatch(command_type text, data jsonb, metadata jsonb DEFAULT NULL,
							expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_dispatch_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_dispatch_json';
COMMENT ON FUNCTION es_dispatch(text, jsonb, jsonb, bigint, uuid, uuid, uuid) IS 'dispatch a command, given as its type and JSON, to the aggregate that executes it';

-- Without this one, a call with nothing but literals would be ambiguous.
CREATE FUNCTION es_dispatch(command_type text, data text, metadata text DEFAULT NULL,
							expected_version bigint DEFAULT NULL, command_id uuid DEFAULT NULL,
							correlation_id uuid DEFAULT NULL, causation_id uuid DEFAULT NULL)
	RETURNS es_dispatch_result
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_dispatch_literal';
COMMENT ON FUNCTION es_dispatch(text, text, text, bigint, uuid, uuid, uuid) IS 'dispatch a command, given as its type and JSON text, to the aggregate that executes it';

REVOKE ALL ON FUNCTION es_dispatch(anyelement, jsonb, bigint, uuid, uuid, uuid),
	es_dispatch(text, jsonb, jsonb, bigint, uuid, uuid, uuid),
	es_dispatch(text, text, text, bigint, uuid, uuid, uuid) FROM PUBLIC;
