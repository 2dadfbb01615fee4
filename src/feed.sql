-- The feed

CREATE FUNCTION es_high_water() RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_high_water';
COMMENT ON FUNCTION es_high_water() IS 'the high-water mark: no event will ever appear at or below this position that is not there now';

CREATE FUNCTION es_read_all(after_position bigint DEFAULT 0, max_count bigint DEFAULT 1000,
							categories text[] DEFAULT NULL, types text[] DEFAULT NULL,
							backward boolean DEFAULT false)
	RETURNS SETOF es_event
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1000 AS 'MODULE_PATHNAME', 'es_read_all';
COMMENT ON FUNCTION es_read_all(bigint, bigint, text[], text[], boolean) IS 'events of the whole store in the order of their positions, up to the high-water mark';

CREATE FUNCTION es_category(stream text) RETURNS text
	LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
	RETURN pg_catalog.split_part(stream, '-', 1);
COMMENT ON FUNCTION es_category(text) IS 'category of a stream: its name up to the first "-"';

CREATE VIEW es_inflight AS
	SELECT l.pid, p.gid AS prepared, COALESCE(a.xact_start, p.prepared) AS since,
		   l.objid::bigint | ((l.objsubid::bigint & 65535::bigint) << 32) AS lower_bound
	FROM pg_catalog.pg_locks l
	LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
	LEFT JOIN pg_catalog.pg_locks x
		ON l.pid IS NULL AND x.pid IS NULL AND x.locktype = 'transactionid'
		AND x.virtualtransaction = l.virtualtransaction
	LEFT JOIN pg_catalog.pg_prepared_xacts p ON p.transaction = x.transactionid
	WHERE l.locktype = 'userlock'
		AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d
						  WHERE d.datname = pg_catalog.current_database())
		AND l.classid = (SELECT c.oid FROM pg_catalog.pg_class c
						 JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
						 WHERE c.relname = 'event_position'
							AND n.nspname = @extschema@.es_current_store());
COMMENT ON VIEW es_inflight IS 'transactions that have appended and are not over: each holds the high-water mark at its lower bound';
GRANT SELECT ON es_inflight TO PUBLIC;
