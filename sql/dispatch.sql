-- Dispatch.  es_dispatch() finds the function execute(state, command) by the
-- command's type, lets it decide on the current state, and records what it
-- returns.  Whatever the handler is written in and however it returns events,
-- the result is one row; whatever it raises reaches the caller unchanged, with
-- one line of context, and leaves nothing behind.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('dispatch_test');
SET event_sourcing.store = 'dispatch_test';
CREATE SCHEMA dispatch_app;
SET search_path = dispatch_app, public;

CREATE TYPE counter AS (id text, n int);
CREATE TYPE added AS (n int);
CREATE TYPE renamed AS (name text);
CREATE FUNCTION apply(s counter, e added) RETURNS counter
	LANGUAGE sql IMMUTABLE RETURN ROW(s.id, COALESCE(s.n, 0) + e.n)::counter;
CREATE FUNCTION apply(s counter, e renamed) RETURNS counter
	LANGUAGE sql IMMUTABLE RETURN ROW(e.name, s.n)::counter;
SELECT es_create_aggregate('counter');

-- What a dispatch did, without what differs from run to run.
CREATE FUNCTION told(r es_dispatch_result, OUT stream text, OUT version bigint,
					 OUT has_position boolean, OUT events text)
	LANGUAGE sql AS $$
	SELECT (r).stream, (r).version, (r).position IS NOT NULL,
		   (SELECT string_agg(e.version || ' ' || e.type || ' ' || e.data, ', ' ORDER BY e.version)
			FROM unnest((r).events) e)
$$;

-- A handler returns one event of a composite type.
CREATE TYPE add_one AS (id text, n int);
CREATE FUNCTION execute(s counter, c add_one) RETURNS added LANGUAGE sql RETURN ROW(c.n)::added;
SELECT t.* FROM es_dispatch(ROW('1', 5)::add_one) d, told(d) t;

-- NULL or void: nothing happens.  Always one row: the version, no position, no events.
CREATE TYPE add_null AS (id text);
CREATE FUNCTION execute(s counter, c add_null) RETURNS added LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
SELECT stream, version, position, events FROM es_dispatch(ROW('1')::add_null);
SELECT stream, version, position, events FROM es_dispatch(ROW('nobody')::add_null);
CREATE TYPE add_void AS (id text);
CREATE FUNCTION execute(s counter, c add_void) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
SELECT stream, version, position, events FROM es_dispatch(ROW('1')::add_void);

-- An array of events of one type; an empty array or NULL is none.
CREATE TYPE add_array AS (id text, n int[]);
CREATE FUNCTION execute(s counter, c add_array) RETURNS added[]
	LANGUAGE sql RETURN (SELECT array_agg(ROW(u)::added) FROM unnest(c.n) u);
SELECT t.* FROM es_dispatch(ROW('1', '{1,2}')::add_array) d, told(d) t;
SELECT t.* FROM es_dispatch(ROW('1', '{}')::add_array) d, told(d) t;
-- NULL in it is a mistake of the handler.
CREATE TYPE add_holes AS (id text);
CREATE FUNCTION execute(s counter, c add_holes) RETURNS added[]
	LANGUAGE sql RETURN ARRAY[ROW(1)::added, NULL];
SELECT es_dispatch(ROW('1')::add_holes);
\echo :LAST_ERROR_SQLSTATE

-- A set of events of one type, from SQL or PL/pgSQL, also empty.
CREATE TYPE add_set AS (id text, n int);
CREATE FUNCTION execute(s counter, c add_set) RETURNS SETOF added
	LANGUAGE sql BEGIN ATOMIC SELECT g FROM generate_series(1, c.n) g; END;
SELECT t.* FROM es_dispatch(ROW('1', 3)::add_set) d, told(d) t;
SELECT t.* FROM es_dispatch(ROW('1', 0)::add_set) d, told(d) t;
CREATE TYPE add_next AS (id text, n int);
CREATE FUNCTION execute(s counter, c add_next) RETURNS SETOF added LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT ROW(c.n)::added;
	RETURN QUERY SELECT c.n + 1;
END $$;
SELECT t.* FROM es_dispatch(ROW('1', 10)::add_next) d, told(d) t;

-- es_new_event, es_new_event[] and SETOF es_new_event: events of several types,
-- with metadata, ids and times of their own.
CREATE TYPE add_new AS (id text);
CREATE FUNCTION execute(s counter, c add_new) RETURNS es_new_event
	LANGUAGE sql RETURN es_new_event('added', '{"n": 7}', '{"by": "hand"}');
SELECT t.*, (d.events[1]).metadata FROM es_dispatch(ROW('1')::add_new) d, told(d) t;
CREATE TYPE add_news AS (id text, name text);
CREATE FUNCTION execute(s counter, c add_news) RETURNS es_new_event[]
	LANGUAGE sql RETURN ARRAY[es_new_event(ROW(1)::added), es_new_event(ROW(c.name)::renamed)];
SELECT t.* FROM es_dispatch(ROW('1', 'one')::add_news) d, told(d) t;
CREATE TYPE add_new_set AS (id text);
CREATE FUNCTION execute(s counter, c add_new_set) RETURNS SETOF es_new_event LANGUAGE plpgsql AS $$
BEGIN
	RETURN NEXT es_new_event(ROW(s.id || '!')::renamed);
	RETURN NEXT es_new_event('added', '{"n": 1}',
							 event_id => '00000000-0000-7000-8000-000000000001',
							 recorded_at => '2001-02-03 04:05:06 UTC');
END $$;
SELECT t.*, (d.events[2]).event_id, (d.events[2]).recorded_at = '2001-02-03 04:05:06 UTC' AS imported
FROM es_dispatch(ROW('1')::add_new_set) d, told(d) t;
CREATE TYPE add_no_type AS (id text);
CREATE FUNCTION execute(s counter, c add_no_type) RETURNS es_new_event
	LANGUAGE sql RETURN ROW(NULL, '{}', NULL, NULL, NULL)::es_new_event;
SELECT es_dispatch(ROW('1')::add_no_type);
\echo :LAST_ERROR_SQLSTATE

-- Other result types are refused before the handler runs.
CREATE TYPE add_int AS (id text);
CREATE FUNCTION execute(s counter, c add_int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN 1/0; END';
SELECT es_dispatch(ROW('1')::add_int);
\echo :LAST_ERROR_SQLSTATE
CREATE TYPE add_record AS (id text);
CREATE FUNCTION execute(s counter, c add_record) RETURNS record LANGUAGE sql RETURN ROW(1, 2);
SELECT es_dispatch(ROW('1')::add_record);
\echo :LAST_ERROR_SQLSTATE
CREATE TYPE add_ints AS (id text);
CREATE FUNCTION execute(s counter, c add_ints) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
SELECT es_dispatch(ROW('1')::add_ints);
\echo :LAST_ERROR_SQLSTATE

-- Handlers may have any volatility, be strict or not, run as their owner, or
-- with settings; old-style SQL bodies are as good as new ones.
CREATE TYPE strict_add AS (id text, n int);
CREATE FUNCTION execute(s counter, c strict_add) RETURNS added
	LANGUAGE sql STABLE STRICT AS 'SELECT ROW(c.n + s.n)::added';
SELECT t.* FROM es_dispatch(ROW('2', 1)::strict_add) d, told(d) t;
CREATE TYPE immutable_add AS (id text, n int);
CREATE FUNCTION execute(s counter, c immutable_add) RETURNS added
	LANGUAGE sql IMMUTABLE AS 'SELECT c.n';
SELECT t.* FROM es_dispatch(ROW('2', 1)::immutable_add) d, told(d) t;
CREATE TYPE definer_add AS (id text, n int);
CREATE FUNCTION execute(s counter, c definer_add) RETURNS added
	LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog SET work_mem = '77MB' AS $$
BEGIN RETURN ROW(c.n + (current_setting('work_mem') = '77MB')::int)::dispatch_app.added; END $$;
SELECT t.* FROM es_dispatch(ROW('2', 1)::definer_add) d, told(d) t;

-- A third argument gives the envelope: metadata and ids.
CREATE TYPE signed_add AS (id text, n int);
CREATE FUNCTION execute(s counter, c signed_add, m es_command) RETURNS es_new_event
	LANGUAGE sql RETURN es_new_event(ROW(c.n)::added,
									 metadata => jsonb_build_object('command', to_json(m)));
SELECT jsonb_pretty((events[1]).metadata)
FROM es_dispatch(ROW('2', 3)::signed_add, metadata => '{"user": "ann"}',
				 command_id => '00000000-0000-4000-8000-00000000000a',
				 causation_id => '00000000-0000-4000-8000-00000000000c');

-- Commands as JSON: the keys are the fields; a missing key is NULL.
SELECT t.* FROM es_dispatch('add_one', '{"id": "3", "n": 5}') d, told(d) t;
SELECT t.* FROM es_dispatch('dispatch_app.add_one', jsonb_build_object('id', 3, 'n', 5)) d, told(d) t;
SELECT t.* FROM es_dispatch('add_one', '{"id": "3"}') d, told(d) t;
-- An unknown key is an error that names it.
SELECT es_dispatch('add_one', '{"id": "3", "n": 5, "m": 6}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('add_one', '{"ID": "3"}');
\echo :LAST_ERROR_SQLSTATE
-- A wrong value fails as the type's input fails.
SELECT es_dispatch('add_one', '{"id": "3", "n": "five"}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('add_one', '{"id": "3", "n": 1.5}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('add_one', '{"id": "3", "n": "99999999999"}');
\echo :LAST_ERROR_SQLSTATE
-- Not an object, no JSON, NULL.
SELECT es_dispatch('add_one', '[1]');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('add_one', 'null');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('add_one', '{');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('add_one', NULL::jsonb);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(NULL, '{"id": "3"}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('', '{"id": "3"}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(NULL::add_one);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('3', 5));
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(5);
\echo :LAST_ERROR_SQLSTATE

-- A command as an es_command: type, data and metadata in one value; what the
-- call itself gives wins.
SELECT t.*, (d.events[1]).metadata
FROM es_dispatch(ROW('add_one', '{"id": "3", "n": 1}', '{"a": 1, "b": 1}', NULL, NULL, NULL)::es_command,
				 metadata => '{"b": 2}') d, told(d) t;

-- Two literals are a name and JSON, with everything that may follow.
SELECT t.*, (d.events[1]).metadata
FROM es_dispatch('add_one', '{"id": "3", "n": 1}', '{"m": 1}', 4) d, told(d) t;

-- The identity as text makes the stream: NULL and empty are errors, as is what
-- makes no stream name.  Its type is the command's affair.
SELECT es_dispatch(ROW(NULL, 1)::add_one);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('add_one', '{"n": 1}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('', 1)::add_one);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW(repeat('x', 505), 1)::add_one);
\echo :LAST_ERROR_SQLSTATE
SELECT length(stream), version FROM es_dispatch(ROW(repeat('x', 504), 1)::add_one);
CREATE TYPE add_by_number AS (id int);
CREATE FUNCTION execute(s counter, c add_by_number) RETURNS added LANGUAGE sql RETURN ROW(1)::added;
SELECT stream, version FROM es_dispatch(ROW(42)::add_by_number);
CREATE TYPE add_by_uuid AS (id uuid);
CREATE FUNCTION execute(s counter, c add_by_uuid) RETURNS added LANGUAGE sql RETURN ROW(1)::added;
SELECT stream, version FROM es_dispatch(ROW('00000000-0000-4000-8000-0000000000AB')::add_by_uuid);

-- expected_version: exact, 0 no stream, -1 any stream.
SELECT version FROM es_dispatch(ROW('4', 1)::add_one, expected_version => 0);
SELECT version FROM es_dispatch(ROW('4', 1)::add_one, expected_version => 1);
SELECT version FROM es_dispatch(ROW('4', 1)::add_one, expected_version => -1);
SELECT es_dispatch(ROW('4', 1)::add_one, expected_version => 1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('4', 1)::add_one, expected_version => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('5', 1)::add_one, expected_version => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('4', 1)::add_one, expected_version => -2);
\echo :LAST_ERROR_SQLSTATE
-- It is checked before the handler decides, and also when nothing happens.
SELECT es_dispatch(ROW('4')::add_void, expected_version => 9);
\echo :LAST_ERROR_SQLSTATE

-- Metadata: what the setting says lies under what the command and the event say.
SET event_sourcing.metadata = '{"user": "session", "app": "shop"}';
SELECT (events[1]).metadata FROM es_dispatch(ROW('1', 1)::add_one, metadata => '{"user": "ann"}');
SELECT (events[1]).metadata FROM es_dispatch(ROW('1')::add_new);
RESET event_sourcing.metadata;
SELECT es_dispatch(ROW('1', 1)::add_one, metadata => '"ann"');
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.metadata = '{"user": ';
SELECT es_dispatch(ROW('1', 1)::add_one);
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.metadata = '[]';
SELECT es_dispatch(ROW('1', 1)::add_one);
\echo :LAST_ERROR_SQLSTATE
RESET event_sourcing.metadata;

-- Correlation and causation: a command's id is the cause of its events, and the
-- correlation unless another is given.  What a handler dispatches follows its
-- own command: its correlation, and its command's id as the cause.
CREATE TYPE relay AS (id text, target text);
CREATE FUNCTION execute(s counter, c relay) RETURNS added LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_dispatch(ROW(c.target, 1)::add_one);
	RETURN ROW(100)::added;
END $$;
CREATE VIEW ids AS
	SELECT stream, version, right(correlation_id::text, 2) AS correlation,
		   right(causation_id::text, 2) AS causation
	FROM es_read_all();
SELECT version FROM es_dispatch(ROW('c1', 1)::add_one);
SELECT version FROM es_dispatch(ROW('c1', 1)::add_one, command_id => '00000000-0000-4000-8000-000000000011');
SELECT version FROM es_dispatch(ROW('c1', 1)::add_one, command_id => '00000000-0000-4000-8000-000000000012',
	correlation_id => '00000000-0000-4000-8000-000000000022', causation_id => '00000000-0000-4000-8000-000000000032');
SELECT version FROM es_dispatch(ROW('c2', 'c3')::relay, command_id => '00000000-0000-4000-8000-000000000014');
SELECT version FROM es_dispatch(ROW('c2', 'c3')::relay, command_id => '00000000-0000-4000-8000-000000000015',
	correlation_id => '00000000-0000-4000-8000-000000000025');
SELECT version FROM es_dispatch(ROW('c2', 'c3')::relay, correlation_id => '00000000-0000-4000-8000-000000000026',
	causation_id => '00000000-0000-4000-8000-000000000036');
SELECT * FROM ids WHERE stream LIKE 'counter-c_' ORDER BY stream, version;

-- A refusal reaches the caller as the handler raised it, with one line of context.
CREATE TYPE refuse AS (id text);
CREATE FUNCTION execute(s counter, c refuse) RETURNS added LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'counter % is full', s.id
		USING ERRCODE = 'CT001', DETAIL = 'It has ' || s.n || '.', HINT = 'Take another one.';
END $$;
SELECT es_dispatch(ROW('1')::refuse);
\echo :LAST_ERROR_SQLSTATE
-- Within a handler's own dispatch, each command adds its line.
SELECT version FROM es_dispatch(ROW('blocked', 1)::add_one);
CREATE TYPE relay_refuse AS (id text);
CREATE FUNCTION execute(s counter, c relay_refuse) RETURNS added LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_dispatch(ROW('blocked')::refuse);
	RETURN NULL;
END $$;
SELECT es_dispatch(ROW('1')::relay_refuse);
\echo :LAST_ERROR_SQLSTATE
-- A transaction may have any number of refusals: none leaves memory behind that it holds.
SELECT sum(total_bytes) AS before FROM pg_backend_memory_contexts \gset
DO $$
BEGIN
	FOR i IN 1..1000 LOOP
		BEGIN
			PERFORM es_dispatch(ROW('1')::refuse);
		EXCEPTION WHEN SQLSTATE 'CT001' THEN
			CONTINUE WHEN i < 1000;
			PERFORM set_config('dispatch_test.after', (SELECT sum(total_bytes) FROM pg_backend_memory_contexts)::text, false);
		END;
	END LOOP;
END $$;
SELECT current_setting('dispatch_test.after')::bigint - :before < 2000000 AS small;
-- A handler may catch it and go on: the rest of the refused command is undone.
CREATE TYPE try_relay AS (id text, target text);
CREATE FUNCTION execute(s counter, c try_relay) RETURNS SETOF es_new_event LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM es_dispatch(ROW(c.target, 1)::add_one);
		PERFORM es_dispatch(ROW(c.target)::refuse);
	EXCEPTION WHEN SQLSTATE 'CT001' THEN
		RETURN NEXT es_new_event(ROW('caught: ' || SQLERRM)::renamed);
	END;
	PERFORM es_dispatch(ROW(c.target, 10)::add_one);
	RETURN NEXT es_new_event(ROW(1)::added);
END $$;
SELECT t.* FROM es_dispatch(ROW('try', 'tried')::try_relay) d, told(d) t;
SELECT es_state('counter', 'try'), es_state('counter', 'tried'), es_stream_version('counter-tried');

-- A handler decides on its own stream by returning events, not by writing them.
CREATE TYPE meddle AS (id text);
CREATE FUNCTION execute(s counter, c meddle) RETURNS added LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_dispatch(ROW(c.id, 1)::add_one);
	RETURN ROW(2)::added;
END $$;
SELECT es_dispatch(ROW('1')::meddle);
\echo :LAST_ERROR_SQLSTATE
CREATE TYPE meddle_append AS (id text);
CREATE FUNCTION execute(s counter, c meddle_append) RETURNS added LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_append('counter-' || c.id, ROW(1)::added);
	RETURN NULL;
END $$;
SELECT es_dispatch(ROW('1')::meddle_append);
\echo :LAST_ERROR_SQLSTATE

-- A handler may dispatch its own kind of command to another stream, as deep as
-- event_sourcing.max_dispatch_depth allows.
CREATE TYPE countdown AS (id text, n int);
CREATE FUNCTION execute(s counter, c countdown) RETURNS added LANGUAGE plpgsql AS $$
DECLARE
	before int := c.n;
BEGIN
	IF c.n > 1 THEN
		PERFORM es_dispatch(ROW('down' || c.n - 1, c.n - 1)::countdown);
	END IF;
	IF c.n <> before THEN RAISE 'the inner call changed the outer'; END IF;
	RETURN ROW(c.n)::added;
END $$;
SELECT t.* FROM es_dispatch(ROW('down16', 16)::countdown) d, told(d) t;
SELECT count(*), sum((data ->> 'n')::int) FROM es_read_all() WHERE stream LIKE 'counter-down%';
\set SHOW_CONTEXT never
SELECT es_dispatch(ROW('down17', 17)::countdown);
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.max_dispatch_depth = 2;
SELECT es_dispatch(ROW('down3', 3)::countdown);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_dispatch(ROW('down2', 2)::countdown);
RESET event_sourcing.max_dispatch_depth;

-- The limit holds for commands that a projection dispatches, too.
CREATE TYPE chain AS (id text);
CREATE TYPE chained AS (id int);
CREATE FUNCTION execute(s counter, c chain) RETURNS chained LANGUAGE sql RETURN ROW(c.id::int)::chained;
CREATE FUNCTION apply(s counter, e chained) RETURNS counter LANGUAGE sql IMMUTABLE RETURN s;
CREATE FUNCTION follow(e chained) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_dispatch(ROW(e.id + 1)::chain);
END $$;
SELECT es_create_projection('follow', 'follow');
SELECT es_dispatch(ROW('1')::chain);
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('follow');
\set SHOW_CONTEXT errors

-- An event that the aggregate cannot apply is not recorded.
CREATE TYPE exotic AS (n int);
CREATE TYPE be_exotic AS (id text);
CREATE FUNCTION execute(s counter, c be_exotic) RETURNS exotic LANGUAGE sql RETURN ROW(1)::exotic;
SELECT es_dispatch(ROW('1')::be_exotic);
\echo :LAST_ERROR_SQLSTATE
-- Nor is another aggregate's event.
CREATE TYPE clock AS (id text);
CREATE TYPE ticked AS (n int);
CREATE FUNCTION apply(s clock, e ticked) RETURNS clock LANGUAGE sql IMMUTABLE RETURN s;
SELECT es_create_aggregate('clock');
CREATE TYPE tick AS (id text);
CREATE FUNCTION execute(s counter, c tick) RETURNS es_new_event[]
	LANGUAGE sql RETURN ARRAY[es_new_event(ROW(1)::added), es_new_event(ROW(1)::ticked)];
SELECT es_dispatch(ROW('exotic')::tick);
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('counter-exotic');

-- Every row of a query is a command of its own, in order.
SELECT es_state('counter', 'many');
SELECT g, (es_dispatch(ROW('many', g)::add_one)).version FROM generate_series(1, 4) g;
SELECT es_state('counter', 'many');

-- Limits are decided on what is there now, also after a savepoint is rolled
-- back: what a session keeps in memory dies with it.
CREATE TYPE add_upto AS (id text, n int);
CREATE FUNCTION execute(s counter, c add_upto) RETURNS added LANGUAGE plpgsql AS $$
BEGIN
	IF COALESCE(s.n, 0) + c.n > 10 THEN RAISE EXCEPTION 'over 10: % + %', s.n, c.n; END IF;
	RETURN ROW(c.n)::added;
END $$;
BEGIN;
SELECT version FROM es_dispatch(ROW('sp', 6)::add_upto);
SAVEPOINT a;
SELECT version FROM es_dispatch(ROW('sp', 4)::add_upto);
ROLLBACK TO a;
SELECT version FROM es_dispatch(ROW('sp', 3)::add_upto);
SAVEPOINT b;
SELECT es_dispatch(ROW('sp', 2)::add_upto);
ROLLBACK TO b;
SELECT version FROM es_dispatch(ROW('sp', 1)::add_upto);
RELEASE b;
COMMIT;
SELECT es_state('counter', 'sp');
BEGIN;
SELECT version FROM es_dispatch(ROW('sp', -10)::add_upto);
ROLLBACK;
SELECT es_dispatch(ROW('sp', 1)::add_upto);

-- Within one transaction of a higher isolation level, a session sees what it did.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT version FROM es_dispatch(ROW('rr', 6)::add_upto);
SELECT version FROM es_dispatch(ROW('rr', 4)::add_upto);
SELECT es_dispatch(ROW('rr', 1)::add_upto);
ROLLBACK;

-- Errors do no harm to what a session keeps of a handler: it fails, in SQL or
-- PL/pgSQL, in the middle of a set or of a nested call, is caught, and runs
-- again in the same transaction.
CREATE TYPE divide AS (id text, n int);
CREATE FUNCTION execute(s counter, c divide) RETURNS added
	LANGUAGE sql AS 'SELECT ROW(100 / c.n)::added FROM (VALUES (1)) v(x) WHERE x = 1';
CREATE TYPE divide_set AS (id text, n int);
CREATE FUNCTION execute(s counter, c divide_set) RETURNS SETOF added
	LANGUAGE sql AS 'SELECT 12 / g FROM generate_series(c.n, 4) g';
CREATE TYPE divide_deep AS (id text, n int);
CREATE FUNCTION execute(s counter, c divide_deep) RETURNS added LANGUAGE plpgsql AS $$
BEGIN
	IF c.n < 2 THEN PERFORM es_dispatch(ROW(c.id || 'x', c.n + 1)::divide_deep); END IF;
	RETURN ROW(1 / (s.n - s.n + c.n))::added;
END $$;
SELECT x, (es_dispatch(ROW('dv' || x, 1)::add_one)).version FROM (VALUES (''), ('x'), ('xx')) v(x) ORDER BY x;
CREATE FUNCTION attempt(c anyelement) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (es_dispatch(c)).version;
EXCEPTION WHEN division_by_zero THEN
	RETURN SQLERRM;
END $$;
BEGIN;
SELECT n, attempt(ROW('dv', n)::divide) FROM unnest('{5,0,2,0,0,1}'::int[]) n;
SELECT n, attempt(ROW('dv', n)::divide_set) FROM unnest('{3,0,2,-1,4}'::int[]) n;
SELECT n, attempt(ROW('dv', n)::divide_deep) FROM unnest('{2,0,1,0,2}'::int[]) n;
COMMIT;
SELECT es_state('counter', 'dv'), es_stream_version('counter-dvx') AS x, es_stream_version('counter-dvxx') AS xx;

-- A handler that is replaced, dropped or overloaded counts at once, in the same
-- transaction and within one call.
CREATE TYPE shift AS (id text);
CREATE FUNCTION execute(s counter, c shift) RETURNS renamed LANGUAGE sql RETURN ROW('first')::renamed;
SELECT (events[1]).data FROM es_dispatch(ROW('sh')::shift);
BEGIN;
CREATE OR REPLACE FUNCTION execute(s counter, c shift) RETURNS renamed LANGUAGE sql RETURN ROW('second')::renamed;
SELECT (events[1]).data FROM es_dispatch(ROW('sh')::shift);
ROLLBACK;
SELECT (events[1]).data FROM es_dispatch(ROW('sh')::shift);
CREATE TYPE shift_self AS (id text);
CREATE FUNCTION execute(s counter, c shift_self) RETURNS renamed LANGUAGE plpgsql AS $$
BEGIN
	CREATE OR REPLACE FUNCTION execute(s counter, c shift_self) RETURNS renamed
		LANGUAGE sql RETURN ROW('replaced')::renamed;
	CREATE OR REPLACE FUNCTION apply(s counter, e renamed) RETURNS counter
		LANGUAGE sql IMMUTABLE RETURN ROW(upper(e.name), s.n)::counter;
	PERFORM es_dispatch(ROW(c.id || '-inner')::shift_self);
	RETURN ROW('self')::renamed;
END $$;
SELECT (events[1]).data FROM es_dispatch(ROW('sh')::shift_self);
SELECT (events[1]).data FROM es_dispatch(ROW('sh')::shift_self);
SELECT es_state('counter', 'sh'), es_state('counter', 'sh-inner');

-- Oracle: every state is what its history says.
SELECT count(*) AS streams, count(*) FILTER (WHERE h.state IS DISTINCT FROM es_state('counter', h.id)) AS wrong
FROM (SELECT DISTINCT ON (i.id) i.id, h.state
	  FROM (SELECT DISTINCT substr(stream, 9) AS id FROM dispatch_test.event WHERE stream LIKE 'counter-%') i,
		   es_history('counter', i.id) h
	  ORDER BY i.id, h.version DESC) h;

SET client_min_messages = warning;
DROP SCHEMA dispatch_app, dispatch_test CASCADE;
