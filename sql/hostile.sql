-- The extension calls its own functions and PostgreSQL's, whatever stands in
-- search_path; it acts with the rights of its caller; and it shows to nobody
-- what the policies of a store's tables hide.

-- ---------------------------------------------------------------------------
-- A hostile search_path
-- ---------------------------------------------------------------------------

-- A database of its own, since everything in it is poisoned.
SELECT current_database() AS home \gset
SET client_min_messages = warning;
DROP DATABASE IF EXISTS event_sourcing_hostile;
CREATE DATABASE event_sourcing_hostile TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C';
\c event_sourcing_hostile
SET client_min_messages = warning;
CREATE SCHEMA ext;

-- Whatever a careless function might pick up is planted in public: functions
-- with the extension's and with PostgreSQL's names, operators, casts, types,
-- tables.  Each tells when it is called.  A sequence counts, since a count
-- survives when the error of a trap is caught and rolled back.
CREATE SEQUENCE public.sprung;
CREATE FUNCTION public.spring() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_catalog.nextval('public.sprung'::pg_catalog.regclass);
	RAISE EXCEPTION 'the trap is sprung';
END $$;
-- the same for names that are given
DO $$
DECLARE
	signature text;
	operator text;
	argument text;
	body CONSTANT text := 'LANGUAGE plpgsql AS $f$ BEGIN PERFORM public.spring(); RETURN NULL; END $f$';
BEGIN
	FOREACH signature IN ARRAY ARRAY[
		'es_event_guard() RETURNS text', 'es_current_store() RETURNS name', 'es_category(text) RETURNS text',
		'es_high_water() RETURNS bigint', 'es_stream_version(text) RETURNS bigint', 'es_definition() RETURNS text',
		'es_overload() RETURNS text', 'es_event_type() RETURNS text', 'es_name_parts(text) RETURNS text[]',
		'es_inline_obstacle(oid) RETURNS text', 'es_lint() RETURNS text', 'es_diagram() RETURNS text',
		'es_append(text, text, text) RETURNS text', 'es_append(text, text, jsonb) RETURNS text',
		'es_new_event(text, jsonb) RETURNS text', 'es_dispatch(text, text) RETURNS text', 'es_dispatch(text, jsonb) RETURNS text',
		'es_read_stream(text) RETURNS text', 'es_read_all() RETURNS text',
		'split_part(text, text, integer) RETURNS text', 'unnest(anyarray) RETURNS anyelement', 'unnest(bigint[]) RETURNS bigint',
		'unnest(text[]) RETURNS text', 'unnest(jsonb[]) RETURNS jsonb', 'unnest(uuid[]) RETURNS uuid',
		'unnest(timestamptz[]) RETURNS timestamptz', 'setval(regclass, bigint) RETURNS bigint', 'nextval(regclass) RETURNS bigint',
		'nextval(text) RETURNS bigint', 'pg_sequence_last_value(regclass) RETURNS bigint', 'now() RETURNS timestamptz',
		'clock_timestamp() RETURNS timestamptz', 'to_jsonb(anyelement) RETURNS jsonb',
		'jsonb_concat(jsonb, jsonb) RETURNS jsonb', 'jsonb_populate_record(anyelement, jsonb) RETURNS anyelement',
		'array_remove(text[], text) RETURNS text[]', 'array_position(text[], text) RETURNS integer', 'cardinality(anyarray) RETURNS integer',
		'cardinality(text[]) RETURNS integer', 'format(text, text) RETURNS text', 'format(text, name) RETURNS text',
		'parse_ident(text, boolean) RETURNS text[]', 'quote_ident(text) RETURNS text', 'quote_ident(name) RETURNS text',
		'length(text) RETURNS integer', 'replace(text, text, text) RETURNS text', 'regexp_replace(text, text, text, text) RETURNS text',
		'lower(text) RETURNS text', 'substring(text, text) RETURNS text', 'array_to_string(text[], text) RETURNS text',
		'current_database() RETURNS name', 'current_setting(text) RETURNS text', 'set_config(text, text, boolean) RETURNS text',
		'int8(integer) RETURNS bigint', 'int8(text) RETURNS bigint',
		'text(name) RETURNS text', 'text(bigint) RETURNS text', 'starts_with(text, text) RETURNS boolean'
	] LOOP
		EXECUTE pg_catalog.format('CREATE FUNCTION public.%s %s', signature, body);
	END LOOP;
	-- operators, for the types on which a store's statements compare
	FOREACH argument IN ARRAY ARRAY['text', 'bigint', 'integer', 'uuid', 'name', 'oid', 'jsonb', 'timestamptz', 'boolean', '"char"', 'xid',
		'anyarray', 'anyelement', 'text[]', 'record']
	LOOP
		EXECUTE pg_catalog.format('CREATE FUNCTION public.trap(%1$s, %1$s) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$', argument);
		FOREACH operator IN ARRAY ARRAY['=', '<>', '<', '<=', '>', '>=', '||', '@>', '~', '!~', '^@', '~~', '|', '<<', '+', '-', '&', '/']
		LOOP
			EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = %s, RIGHTARG = %s)', operator, argument, argument);
		END LOOP;
	END LOOP;
	-- and for a column of one type against a value of another, where PostgreSQL's own operators need a cast
	CREATE FUNCTION public.trap(text, name) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$;
	CREATE FUNCTION public.trap(name, text) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$;
	CREATE FUNCTION public.trap(bigint, integer) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$;
	CREATE FUNCTION public.trap(text, anyarray) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$;
	CREATE FUNCTION public.trap("char", text) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$;
	CREATE FUNCTION public.trap(oid, regtype) RETURNS boolean LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$;
	FOREACH operator IN ARRAY ARRAY['=', '<>', '<', '>', '||', '^@', '~', '|', '<<', '+', '-'] LOOP
		EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = text, RIGHTARG = name)', operator);
		EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = name, RIGHTARG = text)', operator);
		EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = bigint, RIGHTARG = integer)', operator);
		EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = text, RIGHTARG = anyarray)', operator);
		EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = "char", RIGHTARG = text)', operator);
		EXECUTE pg_catalog.format('CREATE OPERATOR public.%s (FUNCTION = public.trap, LEFTARG = oid, RIGHTARG = regtype)', operator);
	END LOOP;
END $$;
-- aggregates
CREATE FUNCTION public.trap_count(bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM public.spring(); RETURN 0; END $$;
CREATE AGGREGATE public.count(*) (SFUNC = trap_count, STYPE = bigint);
CREATE FUNCTION public.trap_max(bigint, bigint) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM public.spring(); RETURN 0; END $$;
CREATE AGGREGATE public.max(bigint) (SFUNC = trap_max, STYPE = bigint);
CREATE FUNCTION public.trap_text(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.spring(); RETURN ''; END $$;
CREATE AGGREGATE public.min(text) (SFUNC = trap_text, STYPE = text);
CREATE FUNCTION public.trap_text(text, text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.spring(); RETURN ''; END $$;
CREATE AGGREGATE public.string_agg(text, text) (SFUNC = trap_text, STYPE = text);
-- types, among them ones that no value fits, and tables with a store's names
CREATE DOMAIN public.jsonb AS pg_catalog.text CHECK (false);
CREATE DOMAIN public.text AS pg_catalog.int4 CHECK (false);
CREATE DOMAIN public.uuid AS pg_catalog.text CHECK (false);
CREATE DOMAIN public.timestamptz AS pg_catalog.text CHECK (false);
CREATE DOMAIN public.name AS pg_catalog.int4 CHECK (false);
CREATE TYPE public.es_event AS (nothing int);
CREATE TYPE public.es_new_event AS (nothing int);
CREATE TYPE public.es_command AS (nothing int);
CREATE TYPE public.es_append_result AS (nothing int);
CREATE TYPE public.es_dispatch_result AS (nothing int);
CREATE TABLE public.event (nothing int);
CREATE TABLE public.event_position (nothing int);
CREATE TABLE public.es_new_events (nothing int);
CREATE TABLE public.es_maintained (nothing int);
CREATE TABLE public.pg_class (nothing int);
CREATE TABLE public.pg_proc (nothing int);
CREATE TABLE public.pg_locks (nothing int);
CREATE TABLE public.pg_type (nothing int);
-- a cast where PostgreSQL has none
CREATE FUNCTION public.trap_cast(pg_catalog.text) RETURNS pg_catalog.jsonb LANGUAGE plpgsql AS $$ BEGIN PERFORM public.spring(); RETURN NULL; END $$;
CREATE CAST (pg_catalog.text AS pg_catalog.jsonb) WITH FUNCTION public.trap_cast(pg_catalog.text) AS ASSIGNMENT;

-- The traps work: they come first in this search_path.
\set SHOW_CONTEXT never
SET search_path = public, pg_catalog;
SELECT count(*) FROM (VALUES (1)) AS v;
SELECT 'a'::pg_catalog.text = 'a'::pg_catalog.text;
SELECT 1::bigint > 2::bigint;
SELECT split_part('a-b'::pg_catalog.text, '-'::pg_catalog.text, 1);
SELECT 'a'::text;
SELECT pg_catalog.setval('public.sprung', 1, false) FROM public.sprung WHERE is_called;

-- From here on nothing of it may be called.
CREATE EXTENSION event_sourcing SCHEMA ext;
CREATE SCHEMA app;
CREATE TYPE app.account AS (id pg_catalog.text, balance int, tags pg_catalog.text[]);
CREATE TYPE app.deposit AS (id pg_catalog.text, amount int);
CREATE TYPE app.withdraw AS (id pg_catalog.text, amount int);
CREATE TYPE app.deposited AS (amount int, tags pg_catalog.text[]);
CREATE TYPE app.withdrawn AS (amount int);
SET search_path = app, pg_catalog;
CREATE FUNCTION app.execute(s account, c deposit) RETURNS deposited LANGUAGE sql IMMUTABLE
	RETURN ROW(c.amount, ARRAY['a'])::deposited;
CREATE FUNCTION app.execute(s account, c withdraw, m ext.es_command) RETURNS SETOF ext.es_new_event LANGUAGE sql STABLE
	BEGIN ATOMIC SELECT ext.es_new_event(ROW(c.amount)::withdrawn, m.metadata); END;
CREATE FUNCTION app.apply(s account, e deposited, m ext.es_event) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(ext.es_category(m.stream), COALESCE(s.balance, 0) + e.amount, e.tags)::account;
CREATE FUNCTION app.apply(s account, e withdrawn) RETURNS account LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.balance := s.balance - e.amount;
	RETURN s;
END $$;
CREATE TABLE app.balance (id pg_catalog.text PRIMARY KEY, balance int);
CREATE TABLE app.event_count (type pg_catalog.text PRIMARY KEY, events int);
CREATE FUNCTION app.project(e deposited, m ext.es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO app.balance AS b VALUES (m.stream, e.amount) ON CONFLICT (id) DO UPDATE SET balance = b.balance + EXCLUDED.balance $$;
-- what is registered remembers the search_path that it was registered with
SELECT ext.es_create_store('hostile');
SET event_sourcing.store = 'hostile';
SELECT ext.es_create_aggregate('account', snapshot_every => 5);
SELECT ext.es_create_projection('balance', handler => 'project', targets => '{balance}');
SELECT ext.es_create_projection('event_count', targets => '{event_count}', query => $$
	INSERT INTO app.event_count AS c SELECT type, count(*) FROM es_new_events GROUP BY type
	ON CONFLICT (type) DO UPDATE SET events = c.events + EXCLUDED.events $$);

-- Now as a user whose search_path is the attacker's.
SET search_path = public, pg_catalog;
SELECT ext.es_create_store('hostile_2');
SELECT ext.es_upgrade_store('hostile');
SELECT version FROM ext.es_append('note-1', 'noted', '{"text": "x"}');
SELECT version FROM ext.es_append('note-1', ARRAY[ext.es_new_event('noted', '{}', '{"by": "ann"}', event_id => '00000000-0000-7000-8000-000000000001'),
	ext.es_new_event(ROW(1, ARRAY['x'])::app.deposited)], 1);
-- a retry, a conflict
SELECT version FROM ext.es_append('note-1', ARRAY[ext.es_new_event('noted', '{}', event_id => '00000000-0000-7000-8000-000000000001'),
	ext.es_new_event(ROW(1, ARRAY['x'])::app.deposited)], 1);
SELECT version FROM ext.es_append('note-1', 'noted', '{}', expected_version => 1);
\echo :LAST_ERROR_SQLSTATE
SELECT stream, version FROM ext.es_dispatch(ROW('1', 10)::app.deposit);
SELECT stream, version FROM ext.es_dispatch('app.deposit', '{"id": "1", "amount": 20}', command_id => '00000000-0000-7000-8000-000000000002');
SELECT stream, version FROM ext.es_dispatch('app.deposit', '{"id": "1", "amount": 20}', command_id => '00000000-0000-7000-8000-000000000002');
SELECT stream, version FROM ext.es_dispatch(ROW('1', 5)::app.withdraw, '{"by": "bob"}');
SELECT pg_catalog.count(r.version) FROM pg_catalog.generate_series(1, 10) AS i, ext.es_dispatch(ROW('1', i)::app.deposit) AS r;
SELECT * FROM ext.es_state(NULL::app.account, '1');
SELECT ext.es_state('account', '1', at_version => 3);
SELECT version, state FROM ext.es_history('account', '1') WHERE version OPERATOR(pg_catalog.<) 4;
SELECT version, type, data FROM ext.es_read_stream('account-1', max_count => 3);
SELECT position, stream, type FROM ext.es_read_all(0, 4, ARRAY['account', 'note'], ARRAY['noted', 'deposited']);
SELECT position FROM ext.es_read_all(0, 2, backward => true);
SELECT ext.es_stream_version('account-1'), ext.es_high_water(), ext.es_category('account-1'), ext.es_current_store();
SELECT pg_catalog.count(*) FROM ext.es_inflight;
SELECT ext.es_rebuild_projection('balance');
SELECT ext.es_verify_projection('balance');
SELECT ext.es_rebuild_projection('event_count');
SELECT ext.es_verify_projection('event_count');
SELECT ext.es_pause('balance');
SELECT ext.es_resume('balance');
SELECT severity, object, problem FROM ext.es_lint();
SELECT pg_catalog.length(ext.es_diagram()) OPERATOR(pg_catalog.>) 100 AS diagram;
SELECT ext.es_prune_receipts('0 seconds');
SELECT ext.es_drop_projection('event_count');
SELECT ext.es_drop_aggregate('account');
UPDATE hostile.event SET data = NULL;
\echo :LAST_ERROR_SQLSTATE
-- The oracle: no trap was sprung, and nothing was written to the attacker's tables.
SELECT is_called AS sprung FROM public.sprung;
SELECT pg_catalog.count(*) FROM (SELECT nothing FROM public.event UNION ALL SELECT nothing FROM public.es_new_events
	UNION ALL SELECT nothing FROM public.es_maintained) AS t;
SELECT pg_catalog.count(*), pg_catalog.max(position) FROM hostile.event;

-- Where names of the extension are taken, it is not created.
DROP EXTENSION event_sourcing CASCADE;
CREATE EXTENSION event_sourcing SCHEMA public;
\echo :LAST_ERROR_SQLSTATE

-- In a schema full of operators that fit better than PostgreSQL's, where those need
-- a cast, none of them gets into an object of the extension.
CREATE SCHEMA trapped;
DO $$
DECLARE
	types CONSTANT pg_catalog.text[] := '{text,name,int8,int4,int2,oid,regtype,bool,jsonb}';
	one pg_catalog.text;
	other pg_catalog.text;
	operator pg_catalog.text;
BEGIN
	FOREACH one IN ARRAY types LOOP
		FOREACH other IN ARRAY types LOOP
			EXECUTE pg_catalog.format('CREATE FUNCTION trapped.trap(pg_catalog.%I, pg_catalog.%I) RETURNS pg_catalog.bool LANGUAGE plpgsql AS $f$ BEGIN RETURN public.spring(); END $f$', one, other);
			FOREACH operator IN ARRAY '{=,<>,<,>,<=,>=,||,|,&,<<,>>,+,-,~,^@}'::pg_catalog.text[] LOOP
				EXECUTE pg_catalog.format('CREATE OPERATOR trapped.%s (FUNCTION = trapped.trap, LEFTARG = pg_catalog.%I, RIGHTARG = pg_catalog.%I)', operator, one, other);
			END LOOP;
		END LOOP;
	END LOOP;
END $$;
SET search_path = pg_catalog;
CREATE EXTENSION event_sourcing SCHEMA trapped;
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS object, pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) AS uses
FROM pg_depend d
WHERE (d.refclassid = 'pg_operator'::regclass AND d.refobjid IN (SELECT o.oid FROM pg_operator o WHERE o.oprnamespace = 'trapped'::regnamespace)
	OR d.refclassid = 'pg_proc'::regclass AND d.refobjid IN (SELECT p.oid FROM pg_proc p WHERE p.proname = 'trap'))
	AND d.classid NOT IN ('pg_operator'::regclass, 'pg_proc'::regclass);

\c :home
DROP DATABASE event_sourcing_hostile;

-- ---------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------

-- An application's role gets exactly these rights on a store.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('hostile_test');
SET event_sourcing.store = 'hostile_test';
CREATE SCHEMA hostile_test_app;
SET search_path = hostile_test_app, public;
CREATE TYPE account AS (id text, balance int);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE sql IMMUTABLE
	RETURN ROW(c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.balance, 0) + e.amount)::account;
SELECT es_create_aggregate('account', snapshot_every => 3);

CREATE ROLE regress_es_app;
GRANT USAGE ON SCHEMA hostile_test, hostile_test_app TO regress_es_app;
GRANT SELECT ON hostile_test.aggregate, hostile_test.projection, hostile_test.snapshot TO regress_es_app;
GRANT SELECT, INSERT ON hostile_test.event, hostile_test.receipt TO regress_es_app;
GRANT USAGE ON SEQUENCE hostile_test.event_position TO regress_es_app;
GRANT EXECUTE ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid), es_append(text, text, text, text, bigint),
	es_append(text, text, jsonb, jsonb, bigint), es_append(text, anyelement, jsonb, bigint),
	es_dispatch(anyelement, jsonb, bigint, uuid, uuid, uuid), es_dispatch(text, text, text, bigint, uuid, uuid, uuid),
	es_dispatch(text, jsonb, jsonb, bigint, uuid, uuid, uuid) TO regress_es_app;

-- With them it can append, dispatch and read ...
SET ROLE regress_es_app;
SELECT version FROM es_append('note-1', 'noted', '{}');
SELECT version FROM es_append('note-1', ARRAY[es_new_event('noted'), es_new_event('noted')], 1);
SELECT version FROM es_append('note-1', ROW(1)::deposited);
SELECT version FROM es_append('note-1', 'noted', jsonb_build_object('a', 1));
SELECT version FROM es_dispatch(ROW('1', 10)::deposit, command_id => '00000000-0000-7000-8000-000000000001');
SELECT version FROM es_dispatch(ROW('1', 10)::deposit, command_id => '00000000-0000-7000-8000-000000000001');
SELECT version FROM es_dispatch('deposit', '{"id": "1", "amount": 20}');
SELECT version FROM es_dispatch('deposit', jsonb_build_object('id', '1', 'amount', 30));
SELECT * FROM es_state(NULL::account, '1');
SELECT count(*), es_stream_version('note-1') FROM es_read_all();
SELECT count(*) FROM es_read_stream('note-1');
-- ... and nothing else.
SELECT es_create_store('hostile_test_mine');
\echo :LAST_ERROR_SQLSTATE
SELECT es_upgrade_store();
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_aggregate('account', name => 'other');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_aggregate('account');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('mine', query => 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('mine');
\echo :LAST_ERROR_SQLSTATE
SELECT es_rebuild_projection('mine');
\echo :LAST_ERROR_SQLSTATE
SELECT es_verify_projection('mine');
\echo :LAST_ERROR_SQLSTATE
SELECT es_pause('mine');
\echo :LAST_ERROR_SQLSTATE
SELECT es_resume('mine');
\echo :LAST_ERROR_SQLSTATE
SELECT es_prune_receipts('1 day');
\echo :LAST_ERROR_SQLSTATE
-- It may INSERT into the log, and still not by itself.
INSERT INTO hostile_test.event SELECT * FROM hostile_test.event;
\echo :LAST_ERROR_SQLSTATE
UPDATE hostile_test.event SET data = '{}';
\echo :LAST_ERROR_SQLSTATE
DELETE FROM hostile_test.receipt;
\echo :LAST_ERROR_SQLSTATE
ALTER TABLE hostile_test.event DISABLE TRIGGER ALL;
\echo :LAST_ERROR_SQLSTATE
SET session_replication_role = replica;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- Without any one of the rights, an error names what is missing; what does not
-- need it goes on.
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN 'done';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
CREATE TABLE call (n int GENERATED ALWAYS AS IDENTITY, name text, statement text);
INSERT INTO call (name, statement) VALUES
	('append', $$SELECT es_append('note-1', 'noted', '{}')$$),
	('append several', $$SELECT es_append('note-1', ARRAY[es_new_event('noted'), es_new_event('noted')])$$),
	('dispatch', $$SELECT es_dispatch(ROW('1', 1)::deposit)$$),
	('dispatch with id', $$SELECT es_dispatch('deposit', '{"id": "1", "amount": 1}', command_id => gen_random_uuid())$$),
	('state', $$SELECT es_state(NULL::account, '1')$$),
	('read stream', $$SELECT es_read_stream('note-1')$$),
	('version', $$SELECT es_stream_version('note-1')$$),
	('read all', $$SELECT es_read_all()$$),
	('mark', $$SELECT es_high_water()$$);
GRANT SELECT ON call TO regress_es_app;
SET ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
RESET ROLE;
-- es_append() has a right for each of its forms.
BEGIN;
REVOKE EXECUTE ON FUNCTION es_append(text, text, text, text, bigint) FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- So has es_dispatch().
BEGIN;
REVOKE EXECUTE ON FUNCTION es_dispatch(anyelement, jsonb, bigint, uuid, uuid, uuid) FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- Without USAGE on the schema there is nothing but the mark, which is a number.
BEGIN;
REVOKE USAGE ON SCHEMA hostile_test FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- Who may not read the log gets nothing out of it, nor from what the session
-- remembers of it, and cannot write, since a writer has to read first.
BEGIN;
REVOKE SELECT ON hostile_test.event FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- Who may not INSERT is a reader.
BEGIN;
REVOKE INSERT ON hostile_test.event FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- Positions and the mark come from the sequence.
BEGIN;
REVOKE USAGE ON SEQUENCE hostile_test.event_position FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- Aggregates are needed by whoever dispatches or asks for a state.
BEGIN;
REVOKE SELECT ON hostile_test.aggregate FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- State snapshots are a shortcut: who may not read them folds from the beginning.
BEGIN;
REVOKE SELECT ON hostile_test.snapshot FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- Projections, if there are any, run in the append.
BEGIN;
SET LOCAL client_min_messages = warning;
SELECT es_create_projection('counted', query => 'SELECT count(*) FROM es_new_events');
REVOKE SELECT ON hostile_test.projection FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
-- Receipts are for commands with an id.
BEGIN;
REVOKE SELECT ON hostile_test.receipt FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
BEGIN;
REVOKE INSERT ON hostile_test.receipt FROM regress_es_app;
SET LOCAL ROLE regress_es_app;
SELECT name, attempt(statement) FROM call ORDER BY n;
ROLLBACK;
\set SHOW_CONTEXT never

-- ---------------------------------------------------------------------------
-- Row security
-- ---------------------------------------------------------------------------

-- Policies on the log keep tenants apart: here each role has the streams whose
-- identity begins with its name.
CREATE ROLE regress_es_ann IN ROLE regress_es_app;
CREATE ROLE regress_es_bob IN ROLE regress_es_app;
ALTER TABLE hostile_test.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON hostile_test.event USING (split_part(stream, '-', 2) ^@ current_user::text);

SET ROLE regress_es_ann;
SELECT stream, version FROM es_append('note-regress_es_ann', 'noted', '{"of": "ann"}');
SELECT stream, version FROM es_dispatch(ROW('regress_es_ann', 10)::deposit);
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
SET ROLE regress_es_bob;
SELECT stream, version FROM es_append('note-regress_es_bob', 'noted', '{"of": "bob"}');
SELECT stream, version FROM es_dispatch(ROW('regress_es_bob', 5)::deposit);
SELECT balance FROM es_state(NULL::account, 'regress_es_bob');

-- Neither sees the other's streams, or those of nobody.
SELECT stream, version, data FROM es_read_all();
SELECT stream FROM es_read_all(categories => ARRAY['note'], backward => true);
SELECT count(*) FROM es_read_stream('note-regress_es_ann');
SELECT es_stream_version('note-regress_es_ann'), es_stream_version('note-1');
SELECT es_state(NULL::account, 'regress_es_ann') IS NULL AS nothing;
SELECT es_state('account', 'regress_es_ann') IS NULL AS nothing;
SELECT count(*) FROM es_history('account', 'regress_es_ann');
SELECT * FROM es_append('note-regress_es_ann', '{}'::es_new_event[]);
-- or writes into them
SELECT es_append('note-regress_es_ann', 'noted', '{"of": "bob"}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('note-regress_es_ann', ARRAY[es_new_event('noted'), es_new_event('noted')]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('note-regress_es_ann', 'noted', '{}', expected_version => 1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('regress_es_ann', 1)::deposit);
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_es_ann;
SELECT stream, version, data FROM es_read_all();
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
SELECT es_state(NULL::account, 'regress_es_bob') IS NULL AS nothing;
-- The owner, to whom policies do not apply, sees everything, and what the
-- session remembers of it is not served to the others.
RESET ROLE;
SELECT stream, version FROM es_read_all() ORDER BY stream COLLATE "C", version;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
SELECT balance FROM es_state(NULL::account, 'regress_es_bob');
SELECT version FROM es_dispatch(ROW('regress_es_ann', 10)::deposit);
SELECT version FROM es_dispatch(ROW('regress_es_ann', 10)::deposit);
-- with a state snapshot now, which is no way around the policy, either
SELECT stream, version FROM hostile_test.snapshot WHERE stream = 'account-regress_es_ann';
SET ROLE regress_es_bob;
SELECT es_state(NULL::account, 'regress_es_ann') IS NULL AS nothing;
SELECT es_state('account', 'regress_es_ann') IS NULL AS nothing;
SELECT es_dispatch(ROW('regress_es_ann', 1)::deposit);
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_es_ann;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
SELECT version FROM es_dispatch(ROW('regress_es_ann', 10)::deposit);
RESET ROLE;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');

-- A policy may hide single events of a stream.  A reader folds what it sees;
-- a writer that does not see the end of the stream cannot append to it.
DROP POLICY tenant ON hostile_test.event;
CREATE POLICY small ON hostile_test.event FOR SELECT USING ((data ->> 'amount')::int < current_setting('hostile_test.largest')::int);
CREATE POLICY all_new ON hostile_test.event FOR INSERT WITH CHECK (true);
SET hostile_test.largest = 1000;
SET ROLE regress_es_ann;
SELECT version FROM es_dispatch(ROW('regress_es_ann', 500)::deposit);
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
-- the same role, and another setting that the policy looks at
SET hostile_test.largest = 100;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
SELECT es_stream_version('account-regress_es_ann');
SELECT es_append('account-regress_es_ann', ROW(1)::deposited);
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('regress_es_ann', 1)::deposit);
\echo :LAST_ERROR_SQLSTATE
SET hostile_test.largest = 1000;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
RESET ROLE;
-- the owner again, then the owner under the policies as well
SET hostile_test.largest = 100;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
ALTER TABLE hostile_test.event OWNER TO regress_es_ann;
ALTER TABLE hostile_test.event FORCE ROW LEVEL SECURITY;
SET ROLE regress_es_ann;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
RESET ROLE;
ALTER TABLE hostile_test.event NO FORCE ROW LEVEL SECURITY;
SET ROLE regress_es_ann;
SELECT balance FROM es_state(NULL::account, 'regress_es_ann');
RESET ROLE;

-- The log of another owner is none of one's business, whatever the setting says.
SELECT es_create_store('hostile_test_secret');
SET event_sourcing.store = 'hostile_test_secret';
SELECT version FROM es_append('note-1', 'noted', '{}');
SET ROLE regress_es_bob;
SELECT * FROM es_read_all();
\echo :LAST_ERROR_SQLSTATE
SELECT es_high_water();
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('note-1', 'noted', '{}');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA hostile_test, hostile_test_app, hostile_test_secret CASCADE;
DROP OWNED BY regress_es_app, regress_es_ann, regress_es_bob;
DROP ROLE regress_es_ann, regress_es_bob, regress_es_app;
RESET client_min_messages;
