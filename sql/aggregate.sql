-- Aggregates.  es_create_aggregate() says which state type belongs to which
-- functions, identity and stream names; the functions themselves are found by
-- their argument types, in the schema of the state type and then through the
-- search_path of the definition, whatever the caller's search_path is.
-- Definitions are data: dropping one keeps the events, and a type or function
-- that is dropped and created again works again.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('aggregate_test');
SET event_sourcing.store = 'aggregate_test';
CREATE SCHEMA aggregate_app;
SET search_path = aggregate_app, public;

CREATE TYPE account AS (id text, balance int);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(s.id, COALESCE(s.balance, 0) + e.amount)::account;

-- Before there is an aggregate, no command is known: the hint says what to do.
SELECT es_dispatch(ROW('1', 10)::deposit);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('deposit', '{"id": "1", "amount": 10}');
\echo :LAST_ERROR_SQLSTATE

-- With nothing but the state type, everything has its default: the name of the
-- type, a stream for each "id", functions execute and apply, a state of NULLs.
SELECT es_create_aggregate('account');
SELECT stream, version, (events[1]).type, (events[1]).data FROM es_dispatch(ROW('1', 10)::deposit);
SELECT * FROM es_state(NULL::account, '1');

-- A name is given once.
SELECT es_create_aggregate('account');
\echo :LAST_ERROR_SQLSTATE

-- Every parameter: the identity is another field, streams have a prefix of
-- their own, functions have other names, the state begins with a value.
CREATE TYPE shelf AS (room int, books text[]);
CREATE TYPE put AS (shelf_no int, book text);
CREATE TYPE was_put AS (book text);
CREATE FUNCTION decide(s shelf, c put) RETURNS was_put
	LANGUAGE sql RETURN ROW(c.book || ' in room ' || s.room)::was_put;
CREATE FUNCTION evolve(s shelf, e was_put) RETURNS shelf
	LANGUAGE sql IMMUTABLE RETURN ROW(s.room, s.books || e.book)::shelf;
SELECT es_create_aggregate('shelf', identity => 'shelf_no', name => 'library', stream_prefix => 'lib/',
						   execute_function => 'decide', apply_function => 'evolve',
						   initial_state => '(7,{})', snapshot_every => 2);
SELECT stream, version FROM es_dispatch(ROW(12, 'Emma')::put);
SELECT stream, version FROM es_dispatch(ROW(12, 'Persuasion')::put);
SELECT es_state('library', '12');
-- The definition is a row of the store.
SELECT name, state_type, identity, stream_prefix, execute_function, apply_function, initial_state,
	   commands, snapshot_every
FROM aggregate_test.aggregate ORDER BY name;

-- A schemaless aggregate has jsonb for its state, handlers that take and give
-- JSON, and lists its commands.
CREATE FUNCTION cart_execute(s jsonb, c es_command) RETURNS es_new_event
	LANGUAGE sql RETURN es_new_event(c.type || ' done', c.data);
CREATE FUNCTION cart_apply(s jsonb, e es_event) RETURNS jsonb
	LANGUAGE sql IMMUTABLE RETURN s || jsonb_build_object(e.type, e.data -> 'item');
SELECT es_create_aggregate('jsonb', name => 'cart', execute_function => 'cart_execute',
						   apply_function => 'cart_apply', commands => '{add item,remove}');
SELECT stream, version FROM es_dispatch('add item', '{"id": 5, "item": "pen"}');
SELECT stream, version FROM es_dispatch(ROW('remove', '{"id": "5", "item": "ink"}', NULL, NULL, NULL, NULL)::es_command);
SELECT es_state('cart', '5');
-- What it does not list is unknown, though the function would take it.
SELECT es_dispatch('empty', '{"id": 5}');
\echo :LAST_ERROR_SQLSTATE

-- Bad input, each refused with its own message.
SELECT es_create_aggregate(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('int');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('4294967295');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('record');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('no_such_type');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('jsonb');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', name => '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', identity => NULL, name => 'bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', stream_prefix => '$internal-', name => 'bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', stream_prefix => repeat('x', 512), name => 'bad') IS NULL AS never;
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', execute_function => 'a.b.c', name => 'bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', apply_function => NULL, name => 'bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', initial_state => '(1,many)', name => 'bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', commands => '{pay,NULL}', name => 'bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', snapshot_every => -1, name => 'bad');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) AS made FROM aggregate_test.aggregate WHERE name = 'bad';

-- A temporary type is of no use to other sessions.
CREATE TYPE pg_temp.fleeting AS (id text);
SELECT es_create_aggregate('pg_temp.fleeting');
\echo :LAST_ERROR_SQLSTATE

-- A command must have the identity field; a schemaless one may lack the key.
CREATE TYPE close_account AS (account text);
CREATE FUNCTION execute(s account, c close_account) RETURNS void LANGUAGE sql RETURN NULL;
SELECT es_dispatch(ROW('1')::close_account);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('remove', '{"item": "ink"}');
\echo :LAST_ERROR_SQLSTATE
DROP FUNCTION execute(account, close_account);

-- A command that nothing executes: the hint is the missing signature.
SELECT es_dispatch(ROW('1')::close_account);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('close_account', '{"account": "1"}');
\echo :LAST_ERROR_SQLSTATE

-- A command that two aggregates execute is refused, whichever way it comes.
CREATE TYPE wallet AS (id text, coins int);
CREATE FUNCTION execute(s wallet, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.amount)::deposited;
SELECT es_create_aggregate('wallet');
SELECT es_dispatch(ROW('1', 10)::deposit);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('deposit', '{"id": "1", "amount": 10}');
\echo :LAST_ERROR_SQLSTATE
-- Dropping one of them settles it.
SELECT es_drop_aggregate('wallet');
SELECT stream, version FROM es_dispatch(ROW('1', 5)::deposit);
SELECT stream, version FROM es_dispatch('deposit', '{"id": "1", "amount": 5}');

-- Dropping an aggregate forgets the definition and keeps the events: defined
-- again, it is where it was.
SELECT es_drop_aggregate('account');
SELECT es_state('account', '1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_state(NULL::account, '1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('1', 5)::deposit);
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('account-1');
SELECT es_create_aggregate('account');
SELECT es_state('account', '1');
SELECT es_drop_aggregate('acount');
\echo :LAST_ERROR_SQLSTATE

-- A type with two aggregates has no state of its own: give the name.
SELECT es_create_aggregate('account', name => 'savings');
SELECT es_state(NULL::account, '1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_state('account', '1'), es_state('savings', '1');
SELECT es_drop_aggregate('savings');

-- The state type is dropped: a clear error, and only for this aggregate.
CREATE TYPE lamp AS (id text, lit boolean);
CREATE TYPE light AS (id text);
CREATE TYPE lit AS ();
CREATE FUNCTION execute(s lamp, c light) RETURNS lit LANGUAGE sql RETURN ROW()::lit;
CREATE FUNCTION apply(s lamp, e lit) RETURNS lamp LANGUAGE sql IMMUTABLE RETURN ROW(s.id, true)::lamp;
SELECT es_create_aggregate('lamp');
SELECT stream, version FROM es_dispatch(ROW('a')::light);
SET client_min_messages = warning;
DROP TYPE lamp CASCADE;
RESET client_min_messages;
SELECT es_state('lamp', 'a');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('a')::light);
\echo :LAST_ERROR_SQLSTATE
SELECT stream, version FROM es_dispatch(ROW('1', 5)::deposit);
SELECT stream, version FROM es_dispatch('deposit', '{"id": "1", "amount": 5}');
-- Created again, with its functions, it works again.
CREATE TYPE lamp AS (id text, lit boolean, since text);
CREATE FUNCTION execute(s lamp, c light) RETURNS lit LANGUAGE sql RETURN ROW()::lit;
SELECT es_state('lamp', 'a');
\echo :LAST_ERROR_SQLSTATE
CREATE FUNCTION apply(s lamp, e lit) RETURNS lamp
	LANGUAGE sql IMMUTABLE RETURN ROW(s.id, true, 'dawn')::lamp;
SELECT es_state('lamp', 'a');
SELECT stream, version FROM es_dispatch(ROW('a')::light);
-- So does a function that was dropped and created again.
DROP FUNCTION execute(lamp, light);
SELECT es_dispatch(ROW('a')::light);
\echo :LAST_ERROR_SQLSTATE
CREATE FUNCTION execute(s lamp, c light) RETURNS void LANGUAGE sql RETURN NULL;
SELECT stream, version, cardinality(events) FROM es_dispatch(ROW('a')::light);

-- Functions are looked for in the schema of the state type first, then through
-- the search_path of the definition.
CREATE SCHEMA aggregate_lib;
CREATE TYPE aggregate_lib.ping AS (id text);
CREATE TYPE aggregate_lib.pinged AS (author text);
CREATE TYPE node AS (id text, author text);
CREATE FUNCTION aggregate_lib.who() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'lib'::text $$;
CREATE FUNCTION aggregate_lib.execute(s node, c aggregate_lib.ping) RETURNS aggregate_lib.pinged
	LANGUAGE plpgsql AS $$ BEGIN RETURN ROW(who())::aggregate_lib.pinged; END $$;
CREATE FUNCTION aggregate_lib.apply(s node, e aggregate_lib.pinged) RETURNS node
	LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN ROW(s.id, e.author || '/' || who())::aggregate_app.node; END $$;
SET search_path = aggregate_lib, public;
SELECT es_create_aggregate('aggregate_app.node');
SET search_path = aggregate_app, public;

-- The caller's search_path is of no account: not an empty one, and not one with
-- functions of the same names.
CREATE SCHEMA aggregate_hostile;
CREATE FUNCTION aggregate_hostile.who() RETURNS text LANGUAGE sql AS $$ SELECT 'hostile'::text $$;
CREATE FUNCTION aggregate_hostile.execute(s node, c aggregate_lib.ping) RETURNS aggregate_lib.pinged
	LANGUAGE sql AS $$ SELECT ROW('hostile')::aggregate_lib.pinged $$;
CREATE FUNCTION aggregate_hostile.apply(s node, e aggregate_lib.pinged) RETURNS node
	LANGUAGE sql AS $$ SELECT ROW('hostile', 'hostile')::aggregate_app.node $$;
SELECT (events[1]).data FROM es_dispatch(ROW('1')::aggregate_lib.ping);
SET search_path = '';
SELECT (events[1]).data FROM public.es_dispatch(ROW('1')::aggregate_lib.ping);
SELECT public.es_state('node', '1');
SHOW search_path;
SET search_path = aggregate_hostile, public;
SELECT (events[1]).data FROM es_dispatch(ROW('1')::aggregate_lib.ping);
SELECT es_state('node', '1');
SELECT version, state FROM es_history('node', '1') ORDER BY version;
SHOW search_path;
SET search_path = aggregate_app, public;

-- A handler that sets the search_path changes nothing for what comes after it:
-- apply runs under the definition's.
CREATE TYPE aggregate_lib.wander AS (id text);
CREATE FUNCTION aggregate_lib.execute(s node, c aggregate_lib.wander) RETURNS aggregate_lib.pinged
	LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_catalog.set_config('search_path', 'aggregate_hostile', true);
	RETURN ROW('wanderer')::aggregate_lib.pinged;
END $$;
SELECT (events[1]).data FROM es_dispatch(ROW('2')::aggregate_lib.wander);
SELECT es_state('node', '2');

-- Function names may be qualified: then only that schema is looked at.
SELECT es_drop_aggregate('node');
SET search_path = aggregate_lib, public;
SELECT es_create_aggregate('aggregate_app.node', execute_function => 'aggregate_hostile.execute',
						   apply_function => 'aggregate_lib.apply');
SET search_path = aggregate_app, public;
SELECT (events[1]).data FROM es_dispatch(ROW('3')::aggregate_lib.ping);

-- Names need not be simple.
CREATE TYPE "Odd Type" AS ("Id" text, "a.b" int);
CREATE TYPE "Odd Command" AS ("Id" text);
CREATE TYPE "Odd Event" AS ("Id" text);
CREATE FUNCTION "Execute It"(s "Odd Type", c "Odd Command") RETURNS "Odd Event"
	LANGUAGE sql RETURN ROW(c."Id")::"Odd Event";
CREATE FUNCTION "Apply.It"(s "Odd Type", e "Odd Event") RETURNS "Odd Type"
	LANGUAGE sql IMMUTABLE RETURN ROW(e."Id", COALESCE(s."a.b", 0) + 1)::"Odd Type";
SELECT es_create_aggregate('"Odd Type"', identity => 'Id', execute_function => '"Execute It"',
						   apply_function => 'aggregate_app."Apply.It"');
SELECT stream, version FROM es_dispatch(ROW('x y')::"Odd Command");
SELECT stream, version FROM es_dispatch('"Odd Command"', '{"Id": "x y"}');
SELECT stream, version FROM es_dispatch('aggregate_app."Odd Command"', '{"Id": "x y"}');
SELECT es_state('Odd Type', 'x y');

-- A definition is part of the transaction.
BEGIN;
SELECT es_drop_aggregate('account');
SAVEPOINT s;
SELECT es_create_aggregate('account', stream_prefix => 'other-');
SELECT stream, version FROM es_dispatch(ROW('1', 1)::deposit);
ROLLBACK TO s;
SELECT es_dispatch(ROW('1', 1)::deposit);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT stream, version FROM es_dispatch(ROW('1', 1)::deposit);

-- All states are what their history says.
SELECT a, h.state = es_state(a, id) AS same
FROM (VALUES ('account', '1'), ('library', '12'), ('cart', '5'), ('lamp', 'a'), ('Odd Type', 'x y')) v(a, id),
	 LATERAL (SELECT state FROM es_history(a, id) ORDER BY version DESC LIMIT 1) h
ORDER BY a;

SET client_min_messages = warning;
DROP SCHEMA aggregate_app, aggregate_lib, aggregate_hostile, aggregate_test CASCADE;
