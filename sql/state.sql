-- State.  es_state() folds a stream into the state of its aggregate: now, at a
-- version, or at a time; es_history() shows the state after every event.
-- However apply functions are written, and whether the state comes from the
-- start of the stream, from the session's cache or from a state snapshot, the
-- answer is the same.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('state_test');
SET event_sourcing.store = 'state_test';
CREATE SCHEMA state_app;
SET search_path = state_app, public;

CREATE TYPE account AS (id text, balance numeric, entries int);
CREATE TYPE deposited AS (amount numeric);
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.balance, 0) + e.amount, COALESCE(s.entries, 0) + 1)::account;
SELECT es_create_aggregate('account');

-- There is no state of a stream that does not exist.
SELECT es_state(NULL::account, '1') IS NULL AS typed, es_state('account', '1') IS NULL AS json;
SELECT count(*) FROM es_history('account', '1');

SELECT version FROM es_append('account-1', ARRAY[
	es_new_event(ROW(10.50)::deposited, recorded_at => '2020-01-01 00:00 UTC'),
	es_new_event(ROW(20)::deposited, recorded_at => '2020-01-02 00:00 UTC'),
	es_new_event(ROW(-5.25)::deposited, recorded_at => '2020-01-03 00:00 UTC')]);

-- Typed and as JSON.
SELECT * FROM es_state(NULL::account, '1');
SELECT (es_state(NULL::account, '1')).balance;
SELECT es_state('account', '1');

-- At each version; at 0 there is nothing yet; beyond the end is an error.
SELECT v, es_state(NULL::account, '1', at_version => v), es_state('account', '1', v)
FROM generate_series(0, 3) v ORDER BY v;
SELECT es_state(NULL::account, '1', 4);
\echo :LAST_ERROR_SQLSTATE
SELECT es_state(NULL::account, '1', -1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_state(NULL::account, 'nobody', 4) IS NULL AS nothing;

-- At a time: the last version that was recorded at or before it.
SELECT t, es_state('account', '1', at_time => t::timestamptz)
FROM unnest('{2019-12-31 UTC,2020-01-01 UTC,2020-01-02 12:00 UTC,infinity,-infinity}'::text[]) WITH ORDINALITY u(t, i)
ORDER BY i;
SELECT es_state('account', '1', 1, now());
\echo :LAST_ERROR_SQLSTATE

-- The history.
SELECT version, type, recorded_at AT TIME ZONE 'UTC' AS recorded_at, data, state
FROM es_history('account', '1') ORDER BY version;

-- What is asked for must be there.
SELECT es_state('acount', '1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_state(NULL::deposited, '1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_state(NULL::account, NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_state('account', '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_state(NULL::text, '1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_history('acount', '1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_history(NULL, '1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_history('account', NULL);
\echo :LAST_ERROR_SQLSTATE

-- An event that was recorded and has no apply function.
SELECT version FROM es_append('account-odd', 'vanished', '{}');
SELECT es_state('account', 'odd');
\echo :LAST_ERROR_SQLSTATE
-- Named like no type could be.
SELECT version FROM es_append('account-odd2', repeat('long', 20), '{}');
SELECT es_state('account', 'odd2');
\echo :LAST_ERROR_SQLSTATE

-- Every kind of apply function, on one state.  Each adds a letter to the log,
-- so that the state shows what it was made of.
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE spot AS (x int, y int);
CREATE TYPE thing AS (id text, n int, log text, tags text[], at spot, size positive, doomed int, extra jsonb);
ALTER TYPE thing DROP ATTRIBUTE doomed;
CREATE TYPE by_inline AS (n int);
CREATE TYPE by_helper AS (n int);
CREATE TYPE by_query AS (n int);
CREATE TYPE by_field AS (n int);
CREATE TYPE by_row AS (n int);
CREATE TYPE by_same AS (n int);
CREATE TYPE by_copy AS (n int);
CREATE TYPE by_third AS (n int);
CREATE TYPE by_error AS (n int);
CREATE TYPE by_null AS (n int);
-- sql, inlined
CREATE FUNCTION apply(s thing, e by_inline) RETURNS thing LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.n, 0) + e.n, COALESCE(s.log, '') || 'i', s.tags || 'i'::text,
			   ROW(e.n, (s.at).x)::spot, COALESCE(s.size, 1), s.extra)::thing;
-- sql, inlined, handing its state to a function that changes its argument in
-- place, which must not be seen here
CREATE FUNCTION scribble(s thing) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.log := s.log || '#';
	s.n := s.n + 1000;
	RETURN s;
END $$;
CREATE FUNCTION apply(s thing, e by_helper) RETURNS thing LANGUAGE sql IMMUTABLE
	AS $$ SELECT ROW((scribble(s)).id, (scribble(s)).n - 1000 + s.n - s.n + e.n, s.log || 'h', s.tags, s.at, s.size, s.extra)::thing $$;
-- sql, not inlined
CREATE FUNCTION apply(s thing, e by_query) RETURNS thing LANGUAGE sql STABLE AS $$
	SELECT s.id, s.n + max(v), s.log || 'q', array_agg(v::text), s.at, s.size, jsonb_build_object('q', e.n)
	FROM generate_series(1, e.n) v $$;
-- PL/pgSQL, in place
CREATE FUNCTION apply(s thing, e by_field) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.id := 'me';
	s.n := COALESCE(s.n, 0) + e.n;
	s.log := COALESCE(s.log, '') || 'f';
	s.tags := s.tags || repeat('f', e.n);
	s.at.y := e.n;
	s.size := e.n;
	RETURN s;
END $$;
-- PL/pgSQL, a new row
CREATE FUNCTION apply(s thing, e by_row) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(s.id, s.n + e.n, s.log || 'r', s.tags[2:], s.at, s.size, '{"r": [1, null, "x"]}'::jsonb);
END $$;
-- PL/pgSQL, nothing at all
CREATE FUNCTION apply(s thing, e by_same) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN s;
END $$;
-- PL/pgSQL, another variable; what it did to its argument is lost
CREATE FUNCTION apply(s thing, e by_copy) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	t thing := s;
BEGIN
	s.log := 'never seen';
	t.n := t.n + e.n;
	t.log := t.log || 'c';
	RETURN t;
END $$;
-- with the envelope as a third argument
CREATE FUNCTION apply(s thing, e by_third, m es_event) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.n := s.n + e.n;
	s.log := s.log || 't' || m.version || m.stream || (m.data ->> 'n');
	RETURN s;
END $$;
-- for all other events
CREATE FUNCTION apply(s thing, e es_event) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.log := s.log || 'g(' || e.type || ')';
	RETURN s;
END $$;
-- raising, having changed the state
CREATE FUNCTION apply(s thing, e by_error) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.log := s.log || 'e';
	s.n := s.n / e.n;
	RETURN s;
END $$;
CREATE FUNCTION apply(s thing, e by_null) RETURNS thing LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN NULL; END';
SELECT es_create_aggregate('thing');
-- Each event after each other, so that every kind gets what every kind gave.
CREATE TABLE kind (n int, type text);
INSERT INTO kind SELECT i, t
FROM unnest('{by_field,by_helper,by_inline,by_query,by_row,by_same,by_copy,by_third,unheard,by_error}'::text[])
	 WITH ORDINALITY a(t, i);
SELECT version FROM es_append('thing-1', ARRAY(
	SELECT es_new_event(CASE side WHEN 1 THEN a.type ELSE b.type END, '{"n": 2}')
	FROM kind a, kind b, generate_series(1, 2) side ORDER BY a.n, b.n, side));
SELECT version, type, state ->> 'n' AS n, right(state ->> 'log', 24) AS log, state ->> 'tags' AS tags,
	   state ->> 'at' AS at, state ->> 'size' AS size, state ->> 'extra' AS extra
FROM es_history('thing', '1') WHERE version <= 40 ORDER BY version;

-- Oracle: the same fold written out in PL/pgSQL, each function called by a
-- query of its own.
CREATE FUNCTION fold(thing text) RETURNS TABLE (version bigint, state jsonb) LANGUAGE plpgsql AS $$
DECLARE
	s thing;
	e es_event;
BEGIN
	s := ROW(NULL, NULL, NULL, NULL, NULL, NULL, NULL);
	FOR e IN SELECT * FROM es_read_stream('thing-' || thing) LOOP
		IF to_regtype(e.type) IS NULL THEN
			EXECUTE 'SELECT (apply($1, $2)).*' INTO s USING s, e;
		ELSIF e.type = 'by_third' THEN
			EXECUTE 'SELECT (apply($1, jsonb_populate_record(NULL::by_third, $2.data), $2)).*' INTO s USING s, e;
		ELSE
			EXECUTE format('SELECT (apply($1, jsonb_populate_record(NULL::%I, $2))).*', e.type) INTO s USING s, e.data;
		END IF;
		version := e.version;
		state := to_json(s)::jsonb;
		RETURN NEXT;
	END LOOP;
END $$;
(SELECT * FROM fold('1') EXCEPT ALL SELECT version, state FROM es_history('thing', '1')) ORDER BY 1 LIMIT 3;
(SELECT version, state FROM es_history('thing', '1') EXCEPT ALL SELECT * FROM fold('1')) ORDER BY 1 LIMIT 3;

-- Oracle: at every version, the state folded from zero (the history), the state
-- at that version, typed, as JSON, from the cache and without one, are equal.
CREATE FUNCTION differing(aggregate text, ids text[]) RETURNS TABLE (id text, versions bigint, wrong bigint)
	LANGUAGE sql AS $$
	SELECT i, count(*), count(*) FILTER (WHERE h.state IS DISTINCT FROM es_state(aggregate, i, at_version => h.version))
	FROM unnest(ids) i, es_history(aggregate, i) h
	GROUP BY i ORDER BY i $$;
SELECT * FROM differing('account', '{1}') UNION ALL SELECT * FROM differing('thing', '{1}');
-- Growing by one event at a time, each from the state kept of the last.
CREATE TABLE kept (version bigint, state jsonb);
DO $$
DECLARE
	h record;
BEGIN
	FOR h IN SELECT type, data FROM es_history('thing', '1') ORDER BY version LOOP
		INSERT INTO kept SELECT (es_append('thing-2', h.type, h.data)).version;
		UPDATE kept SET state = es_state('thing', '2') WHERE state IS NULL;
	END LOOP;
END $$;
(SELECT version, state - 'log' FROM kept EXCEPT ALL SELECT version, state - 'log' FROM es_history('thing', '1'));
(SELECT version, state - 'log' FROM es_history('thing', '1') EXCEPT ALL SELECT version, state - 'log' FROM kept);
(SELECT version, state FROM kept EXCEPT ALL SELECT version, state FROM es_history('thing', '2'));
SELECT es_state('thing', '2') = to_json(es_state(NULL::thing, '2'))::jsonb AS same;
SET event_sourcing.cache_size = 0;
SELECT * FROM differing('thing', '{1,2}');
SELECT es_state('thing', '2') = to_json(es_state(NULL::thing, '2'))::jsonb AS same;
RESET event_sourcing.cache_size;

-- An apply function fails: the error has its context, and the kept state is
-- as it was.
BEGIN;
SELECT version FROM es_append('thing-1', 'by_error', '{"n": 0}');
SAVEPOINT s;
DO $$
DECLARE
	told text;
BEGIN
	FOR i IN 1 .. 3 LOOP
		BEGIN
			PERFORM es_state(NULL::thing, '1');
		EXCEPTION WHEN division_by_zero THEN
			GET STACKED DIAGNOSTICS told = PG_EXCEPTION_CONTEXT;
			RAISE NOTICE 'state: % (%)', SQLERRM, substring(told FROM 'applying event[^\n]*');
		END;
		RAISE NOTICE 'before: %', es_state('thing', '1', at_version => 200) ->> 'n';
	END LOOP;
END $$;
ROLLBACK;
SELECT version FROM es_append('thing-null', 'by_inline', '{"n": 1}');
SELECT version FROM es_append('thing-null', 'by_null', '{"n": 1}');
SELECT es_state('thing', 'null');
\echo :LAST_ERROR_SQLSTATE
-- A domain's constraint holds in a state, too.
SELECT version FROM es_append('thing-small', 'by_field', '{"n": -1}');
SELECT es_state('thing', 'small');
\echo :LAST_ERROR_SQLSTATE
-- A function that does not return the state.
CREATE TYPE by_wrong AS (n int);
CREATE FUNCTION apply(s thing, e by_wrong) RETURNS spot LANGUAGE sql IMMUTABLE RETURN s.at;
SELECT version FROM es_append('thing-wrong', 'by_wrong', '{"n": 1}');
SELECT es_state('thing', 'wrong');
\echo :LAST_ERROR_SQLSTATE
DROP FUNCTION apply(thing, by_wrong);
CREATE FUNCTION apply(s thing, e by_wrong) RETURNS SETOF thing LANGUAGE sql IMMUTABLE AS 'SELECT s';
SELECT es_state('thing', 'wrong');
\echo :LAST_ERROR_SQLSTATE

-- A schemaless state.
CREATE FUNCTION doc_apply(s jsonb, e es_event) RETURNS jsonb
	LANGUAGE sql IMMUTABLE RETURN s || e.data || jsonb_build_object('v', e.version);
SELECT es_create_aggregate('jsonb', name => 'doc', apply_function => 'doc_apply', initial_state => '{"new": true}');
SELECT version FROM es_append('doc-1', ARRAY[es_new_event('a', '{"a": [1, {"b": null}]}'),
											 es_new_event('b', jsonb_build_object('long', repeat('x', 3000))),
											 es_new_event('c', '{"long": "short", "new": false}')]);
SELECT version, length(state ->> 'long') AS long, state - 'long' AS state FROM es_history('doc', '1') ORDER BY version;
SELECT es_state('doc', '1'), es_state(NULL::jsonb, '1') = es_state('doc', '1') AS same;
SELECT * FROM differing('doc', '{1}');

-- What is kept for the session follows every change at once.  First a function.
SELECT es_state('account', '1');
CREATE OR REPLACE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.balance, 0) + 2 * e.amount, COALESCE(s.entries, 0) + 1)::account;
SELECT es_state('account', '1');
-- Then one that the function calls.
CREATE FUNCTION rate() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 3';
CREATE OR REPLACE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	RETURN ROW(s.id, COALESCE(s.balance, 0) + rate() * e.amount, COALESCE(s.entries, 0) + 1)::account;
END $$;
SELECT es_state('account', '1');
CREATE OR REPLACE FUNCTION rate() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 4';
SELECT es_state('account', '1');
BEGIN;
CREATE OR REPLACE FUNCTION rate() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 5';
SELECT es_state('account', '1');
ROLLBACK;
SELECT es_state('account', '1');
-- Then the types: of the state, of an event, of what is nested in them.
ALTER TYPE account ADD ATTRIBUTE note text;
SELECT es_state(NULL::account, '1');
ALTER TYPE account ALTER ATTRIBUTE entries TYPE text;
SELECT es_state('account', '1');
\echo :LAST_ERROR_SQLSTATE
CREATE OR REPLACE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.balance := COALESCE(s.balance, 0) + e.amount;
	s.entries := COALESCE(s.entries, '') || '+';
	RETURN s;
END $$;
SELECT es_state('account', '1');
ALTER TYPE account DROP ATTRIBUTE note;
ALTER TYPE account ADD ATTRIBUTE last numeric;
ALTER TYPE deposited ADD ATTRIBUTE reason text;
SELECT es_state(NULL::account, '1'), es_state('account', '1');
ALTER TYPE deposited ALTER ATTRIBUTE amount TYPE int;
SELECT es_state('account', '1', at_version => 2);
\echo :LAST_ERROR_SQLSTATE
ALTER TYPE deposited ALTER ATTRIBUTE amount TYPE text;
CREATE OR REPLACE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.reason, s.balance, s.entries, e.amount::numeric)::account;
SELECT es_state(NULL::account, '1'), es_state('account', '1');
SELECT (es_state('thing', '2') -> 'at');
ALTER TYPE spot ADD ATTRIBUTE z int;
CREATE OR REPLACE FUNCTION apply(s thing, e by_inline) RETURNS thing LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.n, 0) + e.n, COALESCE(s.log, '') || 'i', s.tags || 'i'::text,
			   ROW(e.n, (s.at).x, 9)::spot, COALESCE(s.size, 1), s.extra)::thing;
SELECT es_state('thing', '2') -> 'at', (es_state(NULL::thing, '2')).at;
SELECT * FROM differing('thing', '{1,2}') UNION ALL SELECT * FROM differing('account', '{1}');

-- A cache that is much too small for what is used is slower and never wrong.
SELECT count(*) FROM generate_series(1, 60) i, es_append('thing-many' || i, 'by_field', jsonb_build_object('n', i));
SET event_sourcing.cache_size = '2kB';
CREATE FUNCTION many_wrong() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*) FROM generate_series(1, 3) round, generate_series(1, 60) i
	WHERE (es_state(NULL::thing, 'many' || i)).tags[1] IS DISTINCT FROM repeat('f', i) $$;
SELECT many_wrong();
SELECT count(*) FROM generate_series(1, 60) i, es_append('thing-many' || i, 'by_row', '{"n": 1}');
SELECT sum((es_state(NULL::thing, 'many' || i)).n) FROM generate_series(1, 60) i;
SET event_sourcing.cache_size = 0;
SELECT sum((es_state(NULL::thing, 'many' || i)).n) FROM generate_series(1, 60) i;
RESET event_sourcing.cache_size;
SELECT sum((es_state(NULL::thing, 'many' || i)).n) FROM generate_series(1, 60) i;
SELECT sum((es_state(NULL::thing, 'many' || i)).n) FROM generate_series(1, 60) i;

SET client_min_messages = warning;
DROP SCHEMA state_app, state_test CASCADE;
