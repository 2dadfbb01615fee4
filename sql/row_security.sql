-- Tenants in one store, kept apart by row security on its log: what one may not
-- see is not read, not folded, not decided on, not handled and not handed out
-- to it, and no cache serves one what was folded for another.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('rls_test');
SET event_sourcing.store = 'rls_test';
CREATE SCHEMA rls_app;
SET search_path = rls_app, public;
GRANT USAGE ON SCHEMA rls_app TO PUBLIC;
CREATE TYPE account AS (id text, balance int);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (amount int);
CREATE TYPE digest AS (id text, events int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE sql IMMUTABLE
	RETURN ROW(c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.balance, 0) + e.amount)::account;
SELECT es_create_aggregate('account', snapshot_every => 2);

\set SHOW_CONTEXT never

-- A stream is its tenant's whose name its identity begins with.  The tenant is a
-- setting, as a pooled application has it: one role for all of them.
CREATE ROLE regress_es_app;
CREATE ROLE regress_es_auditor BYPASSRLS;
SELECT es_grant('regress_es_app', 'admin'), es_grant('regress_es_auditor', 'read');
ALTER TABLE rls_test.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant ON rls_test.event USING (split_part(stream, '-', 2) ^@ current_setting('app.tenant', true));
-- The oracle throughout: what a caller gets is what it gets from the log itself.
CREATE FUNCTION folded(id text) RETURNS int LANGUAGE sql RETURN
	(SELECT sum((data ->> 'amount')::int) FROM rls_test.event WHERE stream = 'account-' || id);
CREATE FUNCTION look(OUT role text, OUT tenant text, OUT acme int, OUT blue int, OUT feed bigint, OUT versions bigint, OUT right boolean) LANGUAGE sql AS $$
	SELECT CASE current_user WHEN session_user THEN 'superuser' ELSE current_user END, current_setting('app.tenant', true), (es_state(NULL::account, 'acme')).balance, (es_state('account', 'blue') ->> 'balance')::int,
		   (SELECT count(*) FROM es_read_all()), es_stream_version('account-acme') + es_stream_version('account-blue'),
		   (es_state(NULL::account, 'acme')).balance IS NOT DISTINCT FROM folded('acme')
		   AND (es_state('account', 'blue') ->> 'balance')::int IS NOT DISTINCT FROM folded('blue')
		   AND (SELECT count(*) FROM es_read_all()) = (SELECT count(*) FROM rls_test.event)
		   AND (SELECT count(*) FROM es_history('account', 'acme')) = (SELECT count(*) FROM rls_test.event WHERE stream = 'account-acme')
$$;

-- ---------------------------------------------------------------------------
-- One session, one role, one tenant after the other
-- ---------------------------------------------------------------------------

SET ROLE regress_es_app;
SET app.tenant = 'acme';
SELECT version FROM es_dispatch(ROW('acme', 1)::deposit);
SELECT version FROM es_dispatch(ROW('acme', 2)::deposit, command_id => '00000000-0000-7000-8000-000000000001');
SELECT version FROM es_dispatch(ROW('acme', 4)::deposit);
SELECT * FROM look();
SET app.tenant = 'blue';
SELECT * FROM look();
SELECT version FROM es_dispatch(ROW('blue', 100)::deposit);
SELECT * FROM look();
-- Not to write either: no stream of another, old or new, by no way, and nothing of
-- a retry of another's command.
SELECT version FROM es_dispatch(ROW('acme', 8)::deposit);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_dispatch(ROW('acme_2', 8)::deposit);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('account-acme', ROW(8)::deposited);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_dispatch(ROW('acme', 2)::deposit, command_id => '00000000-0000-7000-8000-000000000001');
\echo :LAST_ERROR_SQLSTATE
-- No setting at all is no tenant.
SET app.tenant = 'none';
SELECT * FROM look();
-- Within one transaction, and in a function that sets it for itself
BEGIN;
SET LOCAL app.tenant = 'acme';
SELECT * FROM look();
SAVEPOINT s;
SET LOCAL app.tenant = 'blue';
SELECT * FROM look();
ROLLBACK TO s;
SELECT * FROM look();
COMMIT;
SELECT * FROM look();
RESET ROLE;
-- No state snapshot was written for them, though two events are enough for one.
SELECT count(*) FROM rls_test.snapshot;

-- ---------------------------------------------------------------------------
-- Roles to whom the policy does not apply, in the same session
-- ---------------------------------------------------------------------------

-- The owner and the auditor see everything, and warm the caches: here is a state
-- snapshot, too.
SELECT * FROM look();
SELECT version FROM es_dispatch(ROW('acme', 8)::deposit);
SELECT stream, version, state ->> 'balance' AS balance FROM rls_test.snapshot;
SET ROLE regress_es_auditor;
SELECT * FROM look();
-- What they have warmed is not the tenants'.
SET ROLE regress_es_app;
SET app.tenant = 'blue';
SELECT * FROM look();
SELECT state FROM rls_test.snapshot;
SET app.tenant = 'acme';
SELECT * FROM look();
SELECT version FROM es_dispatch(ROW('acme', 16)::deposit);
SELECT * FROM look();
RESET ROLE;
SELECT * FROM look();
-- A function with the rights of somebody else shows what that one may see, and
-- leaves nothing of it behind.
CREATE FUNCTION as_auditor(id text) RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = rls_app, public, pg_temp SET event_sourcing.store = 'rls_test'
	AS 'SELECT (es_state(NULL::account, id)).balance';
CREATE FUNCTION as_app(id text) RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = rls_app, public, pg_temp SET event_sourcing.store = 'rls_test' SET app.tenant = 'blue'
	AS 'SELECT (es_state(NULL::account, id)).balance';
ALTER FUNCTION as_auditor(text) OWNER TO regress_es_auditor;
ALTER FUNCTION as_app(text) OWNER TO regress_es_app;
SET ROLE regress_es_app;
SET app.tenant = 'blue';
SELECT as_auditor('acme'), as_app('acme'), as_app('blue'), (es_state(NULL::account, 'acme')).balance AS own;
RESET ROLE;
SELECT as_auditor('acme'), as_app('acme'), as_app('blue'), (es_state(NULL::account, 'acme')).balance AS own;
-- row_security = off asks for an error where rows would be hidden.
SET ROLE regress_es_app;
SET row_security = off;
SELECT es_state(NULL::account, 'acme');
\echo :LAST_ERROR_SQLSTATE
SELECT FROM es_read_all();
\echo :LAST_ERROR_SQLSTATE
RESET row_security;
RESET ROLE;

-- ---------------------------------------------------------------------------
-- Policies that come and go while states are cached
-- ---------------------------------------------------------------------------

SET app.tenant = 'blue';
ALTER TABLE rls_test.event DISABLE ROW LEVEL SECURITY;
SET ROLE regress_es_app;
SELECT * FROM look();
RESET ROLE;
ALTER TABLE rls_test.event ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_app;
SELECT * FROM look();
RESET ROLE;
-- another policy, which shows less of a stream
CREATE POLICY small ON rls_test.event AS RESTRICTIVE FOR SELECT USING ((data ->> 'amount')::int < 8);
SET app.tenant = 'acme';
SET ROLE regress_es_app;
SELECT * FROM look();
-- whose end is not seen, and which nobody who sees no end of it can append to
SELECT version FROM es_dispatch(ROW('acme', 1)::deposit);
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
-- A handler that becomes somebody else while it decides does not make what it was
-- given theirs: the state that is hidden in part is kept nowhere.
CREATE TYPE rise AS (id text);
CREATE FUNCTION execute(s account, c rise) RETURNS deposited LANGUAGE plpgsql AS $$
BEGIN
	SET LOCAL ROLE NONE;
	RETURN ROW(1)::deposited;
END $$;
DROP POLICY small ON rls_test.event;
CREATE POLICY small ON rls_test.event AS RESTRICTIVE FOR SELECT USING ((data ->> 'amount')::int <> 8);
SET ROLE regress_es_app;
SELECT * FROM look();
SELECT version FROM es_dispatch(ROW('acme')::rise);
SELECT * FROM look();
RESET ROLE;
SELECT * FROM look();
SELECT s.version, (s.state ->> 'balance')::int = (SELECT sum((e.data ->> 'amount')::int) FROM rls_test.event e WHERE e.stream = s.stream AND e.version <= s.version) AS right
FROM rls_test.snapshot s;
DROP POLICY small ON rls_test.event;
-- no policy at all shows nothing
DROP POLICY tenant ON rls_test.event;
SET ROLE regress_es_app;
SELECT * FROM look();
RESET ROLE;
CREATE POLICY tenant ON rls_test.event USING (split_part(stream, '-', 2) ^@ current_setting('app.tenant', true));
-- An owner who is no superuser, and the policies forced on it
CREATE ROLE regress_es_keeper;
GRANT regress_es_app TO regress_es_keeper;
GRANT USAGE ON SCHEMA rls_test TO regress_es_keeper;
SELECT string_agg(format('ALTER TABLE rls_test.%I OWNER TO regress_es_keeper', c.relname), '; ') AS alter_all
FROM pg_class c WHERE c.relnamespace = 'rls_test'::regnamespace AND c.relkind = 'r' \gset
:alter_all;
SET app.tenant = 'blue';
SET ROLE regress_es_keeper;
SELECT * FROM look();
ALTER TABLE rls_test.event FORCE ROW LEVEL SECURITY;
SELECT * FROM look();
ALTER TABLE rls_test.event NO FORCE ROW LEVEL SECURITY;
SELECT * FROM look();
RESET ROLE;

-- ---------------------------------------------------------------------------
-- Handlers, async projections, process managers, consumers
-- ---------------------------------------------------------------------------

-- Each tenant has a role now, and definitions that run as it: what they are not
-- shown they do not handle, whoever runs them.
CREATE ROLE regress_es_acme;
CREATE ROLE regress_es_blue;
SELECT es_grant(r.role, 'admin') FROM unnest('{regress_es_acme,regress_es_blue}'::regrole[]) AS r(role);
GRANT regress_es_acme, regress_es_blue TO regress_es_keeper;
DROP POLICY tenant ON rls_test.event;
CREATE POLICY tenant ON rls_test.event USING (split_part(stream, '-', 2) ^@ replace(current_user, 'regress_es_', ''));
CREATE TABLE seen (n int GENERATED ALWAYS AS IDENTITY, what text, who text DEFAULT current_user, stream text, version bigint);
GRANT INSERT, SELECT ON seen TO PUBLIC;
CREATE FUNCTION handler_acme(e deposited, m es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO rls_app.seen (what, stream, version) VALUES ('handler', m.stream, m.version) $$;
CREATE FUNCTION handler_blue(e deposited, m es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO rls_app.seen (what, stream, version) VALUES ('handler', m.stream, m.version) $$;
-- a process manager that would tell by a command what it has seen
CREATE FUNCTION route(e deposited, m es_event) RETURNS es_route LANGUAGE sql IMMUTABLE
	RETURN ROW('start', m.stream)::es_route;
CREATE FUNCTION handle(s digest, e deposited, m es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO rls_app.seen (what, stream, version) VALUES ('process manager', m.stream, m.version) $$;
CREATE FUNCTION apply(s digest, e deposited) RETURNS digest LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.events, 0) + 1)::digest;
SET ROLE regress_es_acme;
SELECT es_create_handler('handler_acme', 'handler_acme');
SELECT es_create_process_manager('digest', 'digest_acme');
SELECT es_create_projection('feed_acme', mode => 'async', query => $$INSERT INTO rls_app.seen (what, stream, version) SELECT 'projection', stream, version FROM es_new_events$$);
SELECT es_create_subscription('pull_acme');
SET ROLE regress_es_blue;
SELECT es_create_handler('handler_blue', 'handler_blue');
SELECT es_create_process_manager('digest', 'digest_blue');
SELECT es_create_projection('feed_blue', mode => 'async', query => $$INSERT INTO rls_app.seen (what, stream, version) SELECT 'projection', stream, version FROM es_new_events$$);
SELECT es_create_subscription('pull_blue');
RESET ROLE;
-- run by somebody who sees everything, and by a tenant
SELECT es_run() > 0 AS run;
SET ROLE regress_es_acme;
SELECT version FROM es_dispatch(ROW('acme', 32)::deposit);
SET ROLE regress_es_blue;
SELECT version FROM es_dispatch(ROW('blue', 200)::deposit);
SELECT es_run() > 0 AS run;
RESET ROLE;
SELECT what, who, stream, count(*) FROM seen GROUP BY what, who, stream ORDER BY what, who, stream;
-- The oracle: each has seen all events of its tenant, once, and nothing else.
SELECT s.what, s.who, s.stream, s.version FROM seen s
EXCEPT ALL
SELECT w.what, 'regress_es_' || split_part(e.stream, '-', 2), e.stream, e.version
FROM rls_test.event e CROSS JOIN (VALUES ('handler'), ('process manager'), ('projection')) AS w(what);
SELECT w.what, 'regress_es_' || split_part(e.stream, '-', 2) AS who, e.stream, e.version
FROM rls_test.event e CROSS JOIN (VALUES ('handler'), ('process manager'), ('projection')) AS w(what)
EXCEPT ALL
SELECT s.what, s.who, s.stream, s.version FROM seen s;
-- A consumer is handed what its role sees.  A subscription has one checkpoint, so
-- each tenant pulls its own.
SET ROLE regress_es_acme;
SELECT stream, count(*), max(version) FROM es_fetch('pull_acme', 'c') GROUP BY stream;
SET ROLE regress_es_blue;
SELECT stream, count(*), max(version) FROM es_fetch('pull_blue', 'c') GROUP BY stream;
RESET ROLE;

-- ---------------------------------------------------------------------------
-- Definitions that policies hide
-- ---------------------------------------------------------------------------

-- A session remembers definitions, too, and whose they are.
CREATE POLICY own ON rls_test.subscription USING (owner = current_user);
ALTER TABLE rls_test.subscription ENABLE ROW LEVEL SECURITY;
SELECT count(*) FROM es_subscription_status;
SELECT es_wait('handler_acme', 1, '0s') AS passed;
SET ROLE regress_es_acme;
SELECT es_wait('handler_acme', 1, '0s') AS passed;
SELECT es_wait('handler_blue', 1, '0s') AS passed;
\echo :LAST_ERROR_SQLSTATE
SET ROLE regress_es_blue;
SELECT es_wait('handler_blue', 1, '0s') AS passed;
SELECT es_wait('handler_acme', 1, '0s') AS passed;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
-- Whoever may not read definitions is not served those that another has loaded.
CREATE ROLE regress_es_stranger;
SELECT es_state('account', 'nobody') IS NULL AS nothing;
SELECT es_async_projections('account-acme', '{deposited}');
SET ROLE regress_es_stranger;
DO $$ BEGIN PERFORM es_state('account', 'nobody'); EXCEPTION WHEN insufficient_privilege THEN RAISE NOTICE '%', SQLERRM; END $$;
DO $$ BEGIN PERFORM es_async_projections('account-acme', '{deposited}'); EXCEPTION WHEN insufficient_privilege THEN RAISE NOTICE '%', SQLERRM; END $$;
RESET ROLE;

RESET event_sourcing.store;
SET client_min_messages = warning;
DROP SCHEMA rls_app, rls_test CASCADE;
DROP OWNED BY regress_es_app, regress_es_auditor, regress_es_acme, regress_es_blue, regress_es_keeper;
DROP ROLE regress_es_app, regress_es_auditor, regress_es_acme, regress_es_blue, regress_es_keeper, regress_es_stranger;
