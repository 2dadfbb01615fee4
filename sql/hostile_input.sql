-- Bad input: JSON of any size and shape, numbers at the ends of their ranges, arrays of any
-- shape, times that are none, functions of the wrong kind, types that change under their
-- commands.  Each gives what it should or an error that says what is wrong; the session
-- goes on, and nothing is half done.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('hostile_input');
SET event_sourcing.store = 'hostile_input';
CREATE SCHEMA hostile_input_app;
SET search_path = hostile_input_app, public;
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on

-- ---------------------------------------------------------------------------
-- JSON
-- ---------------------------------------------------------------------------

-- PostgreSQL's own errors differ by version: their SQLSTATE is enough.
\set VERBOSITY sqlstate
-- 20,000 levels, and what jsonb cannot hold
SELECT version FROM es_append('n-1', 't', repeat('[', 20000) || repeat(']', 20000));
SELECT version FROM es_append('n-1', 't', '{"a": "\u0000"}');
SELECT version FROM es_append('n-1', 't', '{}', '{"a": "\u0000"}');
SELECT version FROM es_append('n-1', 't', '{"a": ');
\set VERBOSITY default
-- a number of 100,000 digits, 100,000 keys, keys that are repeated
SELECT version FROM es_append('n-1', 't', jsonb_build_object('n', repeat('9', 100000)::numeric));
SELECT version FROM es_append('n-1', 't', (SELECT jsonb_object_agg(i, i) FROM generate_series(1, 100000) AS i));
SELECT version FROM es_append('n-1', 't', '{"a": 1, "a": 2}', '{"b": 1, "b": 2}');
SELECT length(data ->> 'n'), (SELECT count(*) FROM jsonb_object_keys(data)), metadata FROM es_read_stream('n-1');

-- ... decoded into a command
CREATE TYPE account AS (id text, balance numeric, tags int[]);
CREATE TYPE deposit AS (id text, amount numeric, tags int[]);
CREATE TYPE deposited AS (amount numeric, tags int[]);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE sql RETURN ROW(c.amount, c.tags)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.balance, 0) + e.amount, e.tags)::account;
SELECT es_create_aggregate('account');
SELECT version FROM es_dispatch('deposit', jsonb_build_object('id', 'x', 'amount', repeat('9', 100000)::numeric));
SELECT length((es_state(NULL::account, 'x')).balance::text);
SELECT version FROM es_dispatch('deposit', '{"id": "x", "amount": 1, "amount": 2}');
SELECT version FROM es_dispatch('deposit', '{"id": "x", "amount": 1, "tags": [1, null]}');
SELECT version FROM es_dispatch('deposit', (SELECT jsonb_object_agg(i, i) FROM generate_series(1, 100000) AS i));
\set VERBOSITY sqlstate
SELECT version FROM es_dispatch('deposit', '{"id": "x", "amount": "many"}');
SELECT version FROM es_dispatch('deposit', '{"id": "x", "tags": [[1], [2, 3]]}');
SELECT version FROM es_dispatch('deposit', '{"id": "x", "tags": [2147483648]}');
SELECT version FROM es_dispatch('deposit', '[]');
SELECT version FROM es_dispatch('deposit', repeat('[', 20000) || repeat(']', 20000));
\set VERBOSITY default
SELECT es_stream_version('account-x');

-- ---------------------------------------------------------------------------
-- Numbers, arrays, times
-- ---------------------------------------------------------------------------

SELECT count(*) FROM es_read_stream('n-1', 9223372036854775807);
SELECT count(*) FROM es_read_stream('n-1', -9223372036854775808);
SELECT count(*) FROM es_read_stream('n-1', 1, 9223372036854775807);
SELECT count(*) FROM es_read_stream('n-1', 1, -9223372036854775808);
SELECT count(*) FROM es_read_stream('n-1', 9223372036854775807, 9223372036854775807, true);
SELECT count(*) FROM es_read_all(9223372036854775807);
SELECT count(*) FROM es_read_all(-9223372036854775808);
SELECT count(*) FROM es_read_all(9223372036854775807, 9223372036854775807, backward => true) WHERE stream = 'n-1';
SELECT es_append('n-1', 't', '{}', expected_version => 9223372036854775807);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('n-1', 't', '{}', expected_version => -9223372036854775808);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('n-1', ARRAY[NULL]::es_new_event[]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('n-1', ARRAY[[es_new_event('t')], [es_new_event('t')]]);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('n-1', array_fill(es_new_event('t'), ARRAY[2], ARRAY[-5]));
SELECT version FROM es_append('n-1', '{}'::es_new_event[]);
SELECT count(*) FROM es_read_all(categories => ARRAY[NULL]::text[]);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM es_read_all(categories => '{}');
SELECT count(*) FROM es_read_all(types => '[-3:-2]={t,x}');
SELECT es_append('n-2', ARRAY[es_new_event('t', recorded_at => 'infinity')]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('n-2', ARRAY[es_new_event('t', recorded_at => '-infinity')]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('x', 1, NULL)::deposit, 'infinity');
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('x', 1, NULL)::deposit, '2020-01-01', '178000000 years');
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('x', 1, NULL)::deposit, '2020-01-01', '1 day -1 microsecond');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM es_schedule_status;
SELECT (es_state(NULL::account, 'x', at_time => 'infinity')).balance IS NOT NULL, es_state(NULL::account, 'x', at_time => '-infinity') IS NULL;
\set VERBOSITY sqlstate
SELECT es_prune_receipts('178000000 years');
SELECT es_prune_receipts('-178000000 years');
\set VERBOSITY default

-- ---------------------------------------------------------------------------
-- Functions of the wrong kind
-- ---------------------------------------------------------------------------

-- What cannot be called with an event is no handler, and is refused when it is named.
CREATE FUNCTION h_poly(e anyelement) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION h_variadic(VARIADIC e deposited[]) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE h_procedure(e deposited) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION h_default(e deposited, i int DEFAULT 1) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION h_step(s int, e deposited) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE h_aggregate(deposited) (SFUNC = h_step, STYPE = int);
CREATE FUNCTION pg_temp.h_temporary(e deposited) RETURNS int LANGUAGE sql AS 'SELECT 1';
SELECT es_create_projection('p', handler => 'h_poly');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('p', handler => 'h_variadic');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('p', handler => 'h_procedure');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('p', handler => 'h_default');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('p', handler => 'h_aggregate');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('p', handler => 'h_temporary');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('p', handler => 'row_number');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('p', 'h_procedure');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM hostile_input.projection;

-- Those of an aggregate or a process manager may come later: one that cannot be called is as
-- if it were not there.
CREATE TYPE h_state AS (id text);
CREATE PROCEDURE h_procedure(s h_state, c deposit) LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION h_step(n int, s h_state, c deposit) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE h_aggregate(h_state, deposit) (SFUNC = h_step, STYPE = int);
CREATE FUNCTION h_window(h_state, deposit) RETURNS deposited LANGUAGE internal WINDOW AS 'window_row_number';
SELECT es_create_aggregate('h_state', execute_function => kind, name => kind, commands => '{deposit}')
FROM unnest(ARRAY['h_procedure', 'h_aggregate', 'h_window']) AS kind;
SELECT es_create_aggregate('h_state', execute_function => 'h_procedure', name => 'found');
SELECT stream, version FROM es_dispatch(ROW('kinds', 1, NULL)::deposit);
SELECT count(es_drop_aggregate(name)) FROM hostile_input.aggregate WHERE state_type LIKE '%h_state';
CREATE FUNCTION h_window(deposited) RETURNS es_route LANGUAGE internal WINDOW AS 'window_row_number';
CREATE FUNCTION h_route(e deposited) RETURNS es_route LANGUAGE sql AS $$ SELECT ROW('start', '1')::es_route $$;
SELECT es_create_process_manager('h_state', route_function => 'h_procedure');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('h_state', route_function => 'h_window');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('h_state', route_function => 'h_route', types => '{{a,b},{c,d}}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_subscription('s', categories => '{{a},{b}}');
\echo :LAST_ERROR_SQLSTATE

-- ---------------------------------------------------------------------------
-- Temporary objects with the same names
-- ---------------------------------------------------------------------------

-- pg_temp comes first on every search path, and nothing of it is taken for the store's or the
-- application's.
SELECT version FROM es_append('account-temp', ROW(5, NULL)::deposited);
CREATE TEMPORARY TABLE event AS SELECT * FROM hostile_input.event WITH NO DATA;
CREATE TEMPORARY TABLE checkpoint AS SELECT * FROM hostile_input.checkpoint WITH NO DATA;
CREATE TYPE pg_temp.account AS (id text, balance numeric, tags int[]);
CREATE TYPE pg_temp.deposit AS (id text, amount numeric, tags int[]);
CREATE TYPE pg_temp.deposited AS (amount numeric, tags int[]);
CREATE FUNCTION pg_temp.apply(s hostile_input_app.account, e hostile_input_app.deposited) RETURNS hostile_input_app.account
	LANGUAGE sql AS $$ SELECT ROW('taken', 0, NULL)::hostile_input_app.account $$;
CREATE FUNCTION pg_temp.execute(s hostile_input_app.account, c hostile_input_app.deposit) RETURNS hostile_input_app.deposited
	LANGUAGE sql AS $$ SELECT ROW(0, NULL)::hostile_input_app.deposited $$;
SELECT version FROM es_dispatch('deposit', '{"id": "temp", "amount": 2}');
SELECT version FROM es_dispatch(ROW('temp', 1, NULL)::hostile_input_app.deposit);
SELECT es_state('account', 'temp');
SELECT count(*) FROM es_read_stream('account-temp');
\c -
SET client_min_messages = warning;
SET event_sourcing.store = 'hostile_input';
SET search_path = hostile_input_app, public;
SELECT es_state('account', 'temp');

-- ---------------------------------------------------------------------------
-- Something else in the place of a store's table
-- ---------------------------------------------------------------------------

CREATE FOREIGN DATA WRAPPER hostile_input;
CREATE SERVER hostile_input FOREIGN DATA WRAPPER hostile_input;
SELECT es_create_subscription('elsewhere');
-- one without a handler fails when it is read, one with other columns when they are named
ALTER TABLE hostile_input.checkpoint RENAME TO kept;
CREATE FOREIGN TABLE hostile_input.checkpoint (subscription text) SERVER hostile_input;
\set VERBOSITY sqlstate
SELECT position FROM es_fetch('elsewhere', 'a');
DROP FOREIGN TABLE hostile_input.checkpoint;
SELECT position FROM es_fetch('elsewhere', 'a');
ALTER TABLE hostile_input.kept RENAME TO checkpoint;
SELECT count(*) FROM es_fetch('elsewhere', 'a', 1);
ALTER TABLE hostile_input.aggregate RENAME TO kept;
CREATE FOREIGN TABLE hostile_input.aggregate (name text, state_type text, identity text, stream_prefix text, execute_function text,
	apply_function text, initial_state text, commands text[], snapshot_every int, search_path text[]) SERVER hostile_input;
SELECT es_dispatch('deposit', '{"id": "temp", "amount": 2}');
DROP FOREIGN TABLE hostile_input.aggregate;
ALTER TABLE hostile_input.kept RENAME TO aggregate;
SELECT version FROM es_dispatch('deposit', '{"id": "temp", "amount": 2}');
ALTER TABLE hostile_input.event RENAME TO kept;
CREATE FOREIGN TABLE hostile_input.event (position bigint NOT NULL, stream text NOT NULL, version bigint NOT NULL) SERVER hostile_input;
SELECT es_dispatch('deposit', '{"id": "temp", "amount": 2}');
DROP FOREIGN TABLE hostile_input.event;
ALTER TABLE hostile_input.kept RENAME TO event;
SELECT version FROM es_dispatch('deposit', '{"id": "temp", "amount": 2}');
\set VERBOSITY default
SELECT es_drop_subscription('elsewhere');
DROP FOREIGN DATA WRAPPER hostile_input CASCADE;

-- ---------------------------------------------------------------------------
-- Types that change under their commands
-- ---------------------------------------------------------------------------

-- The same session dispatches before and after each change.
CREATE TYPE mark AS (id text, n int);
CREATE TYPE marked AS (n int);
CREATE TYPE board AS (id text, sum int);
CREATE FUNCTION execute(s board, c mark) RETURNS marked LANGUAGE plpgsql AS $$ BEGIN RETURN ROW(c.n)::marked; END $$;
CREATE FUNCTION apply(s board, e marked) RETURNS board LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.sum := COALESCE(s.sum, 0) + e.n;
	RETURN s;
END $$;
SELECT es_create_aggregate('board');
SELECT version FROM es_dispatch('mark', '{"id": "1", "n": 1}');
ALTER TYPE mark ADD ATTRIBUTE note text;
SELECT version FROM es_dispatch('mark', '{"id": "1", "n": 2, "note": "x"}');
ALTER TYPE mark RENAME TO tick;
SELECT version FROM es_dispatch('tick', '{"id": "1", "n": 4}');
SELECT version FROM es_dispatch('mark', '{"id": "1", "n": 8}');
\echo :LAST_ERROR_SQLSTATE
DROP TYPE tick CASCADE;
SELECT version FROM es_dispatch('tick', '{"id": "1", "n": 8}');
\echo :LAST_ERROR_SQLSTATE
CREATE TYPE tick AS (n int, id text);
CREATE FUNCTION execute(s board, c tick) RETURNS marked LANGUAGE plpgsql AS $$ BEGIN RETURN ROW(c.n)::marked; END $$;
SELECT version FROM es_dispatch('tick', '{"id": "1", "n": 8}');
SELECT version FROM es_dispatch(ROW(16, '1')::tick);
ALTER TYPE board ADD ATTRIBUTE owner text;
SELECT es_state('board', '1');

-- ---------------------------------------------------------------------------
-- The last position
-- ---------------------------------------------------------------------------

\set VERBOSITY sqlstate
SELECT setval('hostile_input.event_position', 9223372036854775807);
\set VERBOSITY default
SELECT setval('hostile_input.event_position', 281474976710655 - 2);
SELECT version, position FROM es_append('last-1', 't', '{}');
-- two do not fit: none is written, and the one left over may be used up by the attempt
\set VERBOSITY sqlstate
SELECT es_append('last-1', ARRAY[es_new_event('t'), es_new_event('t')]);
SELECT es_append('last-1', 't', '{}');
SELECT es_dispatch(ROW('x', 1, NULL)::deposit, command_id => '00000000-0000-7000-8000-000000000001');
\set VERBOSITY default
SELECT es_stream_version('last-1'), es_high_water() >= 281474976710654, (SELECT count(*) FROM hostile_input.receipt);

-- The oracle: every stream is without gaps, its positions rise, a state is what its events
-- give, and the feed has all of them.
SELECT count(*) FROM (SELECT version <> row_number() OVER w OR position <= lag(position, 1, 0::bigint) OVER w AS wrong
	FROM hostile_input.event WINDOW w AS (PARTITION BY stream ORDER BY version)) AS e WHERE wrong;
SELECT es_state('board', '1') ->> 'sum' = sum((data ->> 'n')::int)::text FROM hostile_input.event WHERE stream = 'board-1';
SELECT (SELECT count(*) FROM hostile_input.event) = (SELECT count(*) FROM es_read_all(max_count => NULL));

\pset format aligned
\pset tuples_only off
DROP SCHEMA hostile_input, hostile_input_app CASCADE;
RESET client_min_messages;
