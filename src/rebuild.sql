-- Rebuilding

CREATE FUNCTION es_rebuild_projection(name text) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_rebuild_projection';
COMMENT ON FUNCTION es_rebuild_projection(text) IS 'fill the targets of a projection anew from history; returns the number of events';

CREATE FUNCTION es_verify_projection(name text) RETURNS bigint
	LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'es_verify_projection';
COMMENT ON FUNCTION es_verify_projection(text) IS 'rebuild a projection aside and compare; returns the number of differing rows';

REVOKE ALL ON FUNCTION es_rebuild_projection(text), es_verify_projection(text) FROM PUBLIC;

CREATE FUNCTION es_rebuilds() RETURNS TABLE (pid int, projection text, "position" bigint)
	LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 1 AS 'MODULE_PATHNAME', 'es_rebuilds';
COMMENT ON FUNCTION es_rebuilds() IS 'sessions that replay history into a projection, and how far they are';

CREATE VIEW es_rebuild_progress AS
	SELECT r.pid, r.projection, r."position", m.last_position,
		   CASE WHEN m.last_position > 0
				THEN LEAST(r."position"::double precision / m.last_position, 1) END AS fraction,
		   a.query_start AS since
	FROM @extschema@.es_rebuilds() r
	CROSS JOIN (SELECT @extschema@.es_high_water() AS last_position) m
	LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = r.pid;
COMMENT ON VIEW es_rebuild_progress IS 'projections that are being rebuilt, compared or resumed, and how far that is';
GRANT SELECT ON es_rebuild_progress TO PUBLIC;
