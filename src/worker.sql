-- Workers

CREATE FUNCTION es_start_worker() RETURNS int
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_start_worker';
COMMENT ON FUNCTION es_start_worker() IS 'start the workers of this database that are missing of event_sourcing.workers; returns the process id of the first';

CREATE FUNCTION es_stop_worker() RETURNS int
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_stop_worker';
COMMENT ON FUNCTION es_stop_worker() IS 'stop the workers of this database until es_start_worker(), and wait until they are gone; returns how many';

REVOKE ALL ON FUNCTION es_start_worker(), es_stop_worker() FROM PUBLIC;
