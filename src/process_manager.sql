-- Process managers

CREATE TYPE es_route AS (
	action text,
	id text
);
COMMENT ON TYPE es_route IS 'what a process manager does with an event: start, start!, continue, continue! or stop the instance id';

CREATE TYPE es_failure AS (
	sqlstate text,
	message text,
	detail text,
	hint text
);
COMMENT ON TYPE es_failure IS 'why a command of a process manager was refused';

CREATE FUNCTION es_create_process_manager(state_type regtype, name text DEFAULT NULL,
										  route_function text DEFAULT 'route',
										  handle_function text DEFAULT 'handle',
										  apply_function text DEFAULT 'apply',
										  refused_function text DEFAULT 'refused',
										  initial_state text DEFAULT NULL,
										  categories text[] DEFAULT NULL, types text[] DEFAULT NULL,
										  from_position bigint DEFAULT 0, max_retries int DEFAULT 5,
										  on_error text DEFAULT 'park')
	RETURNS void
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_create_process_manager';
COMMENT ON FUNCTION es_create_process_manager(regtype, text, text, text, text, text, text, text[], text[], bigint, int, text) IS 'define a process manager: a state type whose functions route events, turn them into commands and apply them';

REVOKE ALL ON FUNCTION es_create_process_manager(regtype, text, text, text, text, text, text, text[], text[], bigint, int, text) FROM PUBLIC;
