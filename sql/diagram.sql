-- es_diagram() draws a store: commands go to aggregates, these record events,
-- and projections follow them.  The text is a Mermaid flowchart, always in the
-- same order.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('diagram');
SET event_sourcing.store = 'diagram';
CREATE SCHEMA diagram_app;
SET search_path = diagram_app, public;
\pset format unaligned
\pset tuples_only on

-- An empty store has nothing but the styles.
SELECT es_diagram();

-- Two aggregates.  Events come from the return types of execute() and from the
-- log; a command or an event that several have is one node.
CREATE TYPE account AS (id text, balance int);
CREATE TYPE open_account AS (id text);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE close_account AS (id text);
CREATE TYPE account_opened AS (id text);
CREATE TYPE deposited AS (id text, amount int);
CREATE TYPE account_closed AS (id text);
CREATE FUNCTION execute(s account, c open_account) RETURNS account_opened
	LANGUAGE sql RETURN ROW(c.id)::account_opened;
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited[]
	LANGUAGE sql RETURN ARRAY[ROW(c.id, c.amount)::deposited];
CREATE FUNCTION execute(s account, c close_account) RETURNS es_new_event
	LANGUAGE sql RETURN es_new_event('account_closed');
CREATE FUNCTION apply(s account, e es_event) RETURNS account LANGUAGE sql IMMUTABLE RETURN s;
SELECT es_create_aggregate('account');

CREATE FUNCTION till_execute(s jsonb, c es_command) RETURNS SETOF es_new_event
	LANGUAGE sql AS $$ SELECT es_new_event('counted', c.data) $$;
CREATE FUNCTION till_apply(s jsonb, e es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN s || e.data;
SELECT es_create_aggregate('jsonb', name => 'till', execute_function => 'till_execute',
						   apply_function => 'till_apply', commands => '{count,recount}');

-- Projections: one with a function for every event, one with a function for
-- all, a set-based one of some types, one of a category.
CREATE TABLE balance (id text PRIMARY KEY, amount int);
CREATE FUNCTION project_balance(e account_opened) RETURNS void LANGUAGE sql RETURN NULL;
CREATE FUNCTION project_balance(e deposited, m es_event) RETURNS void LANGUAGE sql RETURN NULL;
SELECT es_create_projection('balance', handler => 'project_balance', targets => '{balance}');
CREATE FUNCTION project_all(e es_event) RETURNS void LANGUAGE sql RETURN NULL;
SELECT es_create_projection('everything', handler => 'project_all');
CREATE TABLE turnover (type text, n bigint);
SELECT es_create_projection('turnover', types => '{deposited,counted}', targets => '{turnover}',
	query => 'INSERT INTO turnover SELECT type, count(*) FROM es_new_events GROUP BY type');
CREATE TABLE tills (n bigint);
SELECT es_create_projection('tills', categories => '{till}', targets => '{tills}',
	query => 'INSERT INTO tills SELECT count(*) FROM es_new_events');
SELECT es_diagram();

-- What is recorded shows too: an event that no return type tells of, and one
-- of a stream without an aggregate.
SELECT version FROM es_dispatch(ROW('1')::close_account);
SELECT version FROM es_dispatch('count', '{"id": "1", "coins": 3}');
SELECT version FROM es_append('weather-rome', 'sun_shone', '{}');
SELECT regexp_replace(l, '^ +', '') FROM regexp_split_to_table(es_diagram(), '\n') l WHERE l !~ 'classDef';

-- A definition that is broken is drawn as far as it goes.
BEGIN;
DROP TYPE account CASCADE;
SELECT l FROM regexp_split_to_table(es_diagram(), '\n') l WHERE l ~ ' a1|"account';
ROLLBACK;

-- Names are data: nothing in them can end a label or begin markup.
BEGIN;
CREATE TYPE "a ""b"" <i>#1</i> `c` & d" AS (id text);
SELECT es_create_aggregate('"a ""b"" <i>#1</i> `c` & d"', commands => ARRAY[E'x"]\n--> y']);
SELECT l FROM regexp_split_to_table(es_diagram(), '\n') l WHERE l ~ '34';
ROLLBACK;

\pset format aligned
\pset tuples_only off
DROP SCHEMA diagram_app, diagram CASCADE;
RESET search_path;
RESET event_sourcing.store;
