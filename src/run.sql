-- Running

CREATE FUNCTION es_run(max_events bigint DEFAULT NULL) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_run';
COMMENT ON FUNCTION es_run(bigint) IS 'do what a worker would do in the current store, in this transaction; returns how many events were handled and commands dispatched';

REVOKE ALL ON FUNCTION es_run(bigint) FROM PUBLIC;
