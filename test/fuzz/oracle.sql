-- How fuzz.pl makes many calls at once, and what must hold when all is over.

CREATE SCHEMA fuzz;
GRANT USAGE ON SCHEMA fuzz TO PUBLIC;

-- How a call has failed.  What no call may raise is told at once, with the statement.
CREATE FUNCTION fuzz.check(state text, message text, statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	-- Concurrent DDL of one object, not the extension's: CREATE OR REPLACE FUNCTION takes no lock.
	IF message ~ '^tuple concurrently (updated|deleted)$' THEN
		RETURN state;
	END IF;
	IF state LIKE 'XX%' OR message ~ 'cache lookup failed|could not open relation with OID|unrecognized node' THEN
		RAISE WARNING 'fault leaked through: % % in %', state, message, statement USING ERRCODE = 'XX000';
	END IF;
	RETURN state;
END $$;

-- Run each statement in a subtransaction; returns "tried: " and what each came to,
-- by SQLSTATE.  A timeout and a crash are not caught: not to be taken for a call that
-- hangs, and not to hold locks for too long, it ends after some seconds.
CREATE FUNCTION fuzz.try(statements text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	statement text;
	states text[] := '{}';
BEGIN
	FOREACH statement IN ARRAY statements LOOP
		EXIT WHEN clock_timestamp() > statement_timestamp() + interval '3 s';
		BEGIN
			EXECUTE statement;
			states := states || '00000'::text;
		EXCEPTION WHEN OTHERS THEN
			states := states || fuzz.check(SQLSTATE, SQLERRM, statement);
		END;
	END LOOP;
	RETURN 'tried: ' || fuzz.tally(states);
END $$;

-- The same after a loop of calls with arguments from lists, see burst() of fuzz.pl.
CREATE FUNCTION fuzz.tally(states text[]) RETURNS text LANGUAGE sql AS $$
	SELECT pg_catalog.string_agg(state || '*' || n, ' ')
	FROM (SELECT state, pg_catalog.count(*) AS n FROM pg_catalog.unnest(states) AS state GROUP BY state) s
$$;

-- What a function comes to: its result, or how it fails.
CREATE FUNCTION fuzz.outcome(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE query INTO result;
	RETURN result;
EXCEPTION WHEN OTHERS THEN
	RETURN 'fails with ' || SQLSTATE;
END $$;

\ir ../oracle.sql

-- A state is the same wherever the fold starts; where an event can no longer be
-- applied, since its function or type has gone, it fails everywhere.
CREATE FUNCTION fuzz.fold_problems() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('aggregate %s %s: state at version %s: %s, folded from zero: %s', aggregate, id, version, state, folded)
	FROM (
		SELECT i.*, v.version,
			   fuzz.outcome(format('SELECT es_state(%L, %L, %s)', i.aggregate, i.id, v.version)) AS state,
			   fuzz.outcome(format('SELECT state FROM es_history(%L, %L) WHERE version = %s', i.aggregate, i.id, v.version)) AS folded
		FROM (
			SELECT a.name AS aggregate, substr(e.stream, length(a.stream_prefix) + 1) AS id, max(e.version) AS last
			FROM es.aggregate a
			JOIN es.event e ON e.stream ^@ a.stream_prefix AND length(e.stream) > length(a.stream_prefix)
			WHERE a.name <> 'chaos'
			GROUP BY 1, 2
			ORDER BY count(*) DESC LIMIT 40) i
		CROSS JOIN LATERAL (VALUES (i.last), (i.last / 2 + 1)) AS v(version)) f
	-- es_history() fails as a whole, for what is after the version as well
	WHERE state IS DISTINCT FROM folded AND (version = last OR folded NOT LIKE 'fails with %')
$$;

-- A receipt tells of events that are there, one after the other.
CREATE FUNCTION fuzz.receipt_problems() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('receipt %s: %s events to version %s at position %s of stream %s, found %s to position %s',
				  r.command_id, r.event_count, r.version, r.position, r.stream, count(e.*), max(e.position))
	FROM es.receipt r
	LEFT JOIN es.event e ON e.stream = r.stream AND e.version > r.version - r.event_count AND e.version <= r.version
	GROUP BY r.command_id
	HAVING count(e.*) <> r.event_count OR r.event_count > 0 AND max(e.position) <> r.position
$$;

-- The feed is the log.
CREATE FUNCTION fuzz.feed_problems() RETURNS SETOF text LANGUAGE sql AS $$
	SELECT format('position %s is in the log or in the feed alone', position)
	FROM (SELECT position FROM es.event) log
	FULL JOIN (SELECT position FROM es_read_all(0, NULL)) feed USING (position)
	WHERE log.* IS NULL OR feed.* IS NULL
$$;

-- The projections that nobody has changed are what history says, once they have caught up.
CREATE FUNCTION fuzz.projection_problems() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	kept text;
	rows bigint;
BEGIN
	FOR kept IN SELECT name FROM es.projection WHERE name LIKE 'kept%' LOOP
		PERFORM es_resume(kept);
	END LOOP;
	DELETE FROM es.subscription WHERE name <> 'kept async';
	PERFORM es_run();
	FOR kept IN SELECT name FROM es.projection WHERE name LIKE 'kept%' LOOP
		rows := es_verify_projection(kept);
		IF rows <> 0 THEN
			RETURN NEXT format('projection %s: %s rows differ', kept, rows);
		END IF;
	END LOOP;
	IF (SELECT count(*) FROM es.projection WHERE name LIKE 'kept%') <> 3 OR NOT EXISTS (SELECT FROM app.kept_inline)
		OR (SELECT sum(n) FROM app.kept_async) <> (SELECT count(*) FROM es.event)
	THEN
		RETURN NEXT 'a projection is gone, empty or behind';
	END IF;
END $$;

CREATE FUNCTION fuzz.problems() RETURNS SETOF text LANGUAGE sql SET search_path = app, public SET statement_timeout = 0 AS $$
	SELECT * FROM oracle.log_problems()
	UNION ALL SELECT * FROM oracle.sequence_problems()
	UNION ALL SELECT * FROM fuzz.fold_problems()
	UNION ALL SELECT * FROM fuzz.receipt_problems()
	UNION ALL SELECT * FROM fuzz.feed_problems()
	UNION ALL SELECT * FROM fuzz.projection_problems()
$$;
