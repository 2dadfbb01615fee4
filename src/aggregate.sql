-- Aggregates

CREATE FUNCTION es_create_aggregate(state_type regtype, identity text DEFAULT 'id', name text DEFAULT NULL,
									stream_prefix text DEFAULT NULL,
									execute_function text DEFAULT 'execute',
									apply_function text DEFAULT 'apply',
									initial_state text DEFAULT NULL, commands text[] DEFAULT NULL,
									snapshot_every int DEFAULT NULL)
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_aggregate';
COMMENT ON FUNCTION es_create_aggregate(regtype, text, text, text, text, text, text, text[], int) IS 'define an aggregate: a state type whose functions decide on commands and apply events';

CREATE FUNCTION es_drop_aggregate(name text) RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_drop_aggregate';
COMMENT ON FUNCTION es_drop_aggregate(text) IS 'forget the definition of an aggregate; its events stay';

REVOKE ALL ON FUNCTION es_create_aggregate(regtype, text, text, text, text, text, text, text[], int),
	es_drop_aggregate(text) FROM PUBLIC;
