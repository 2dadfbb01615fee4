-- Who may do what.  es_grant() gives a role one of four privileges on a store,
-- read, append, dispatch or admin, and es_revoke() takes it back.  Underneath
-- are PostgreSQL's own privileges and nothing else.
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('grant_test');
SET event_sourcing.store = 'grant_test';
CREATE SCHEMA grant_app;
SET search_path = grant_app, public;

-- A domain that everybody may use.
CREATE TYPE account AS (id text, balance int);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (amount int);
CREATE TYPE reminder AS (id text, sent int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE sql IMMUTABLE
	RETURN ROW(c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.balance, 0) + e.amount)::account;
CREATE FUNCTION remind(e deposited) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION route(e deposited, m es_event) RETURNS es_route LANGUAGE sql IMMUTABLE
	RETURN ROW('start', m.stream)::es_route;
CREATE FUNCTION handle(s reminder, e deposited) RETURNS void LANGUAGE sql AS 'SELECT';
CREATE FUNCTION apply(s reminder, e deposited) RETURNS reminder LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.sent, 0) + 1)::reminder;
CREATE TABLE total (amount int);
INSERT INTO total VALUES (0);
CREATE FUNCTION add_up(e deposited) RETURNS void LANGUAGE sql AS 'UPDATE total SET amount = total.amount + e.amount';
SELECT es_create_aggregate('account', snapshot_every => 3);
GRANT USAGE ON SCHEMA grant_app TO PUBLIC;

-- ---------------------------------------------------------------------------
-- What nobody has been given
-- ---------------------------------------------------------------------------

-- A new store gives PUBLIC nothing.
SELECT count(*) FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
WHERE n.nspname = 'grant_test' AND a.grantee = 0;
SELECT c.relname, a.privilege_type FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.relnamespace = 'grant_test'::regnamespace AND a.grantee = 0;
SELECT c.relname, t.attname, a.privilege_type FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid
CROSS JOIN LATERAL aclexplode(t.attacl) a
WHERE c.relnamespace = 'grant_test'::regnamespace AND a.grantee = 0;
-- Of the extension's relations PUBLIC may read the status views, which show to
-- each role what that role may read.
CREATE TEMP VIEW member AS
	SELECT d.classid, d.objid FROM pg_depend d
	WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
		AND d.refobjid = (SELECT e.oid FROM pg_extension e WHERE e.extname = 'event_sourcing');
SELECT c.relname COLLATE "C", a.privilege_type
FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND c.oid = m.objid
CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE a.grantee = 0 ORDER BY 1, 2;
-- None of its functions has more rights than its caller.
SELECT p.oid::regprocedure
FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid WHERE p.prosecdef;
-- The functions that PUBLIC may execute, and whether they are marked as such
-- that change nothing: what they read, they read with the caller's rights.
SELECT p.proname COLLATE "C" AS function, string_agg(DISTINCT p.provolatile::text, '') AS volatility,
	   bool_or(p.prorettype = 'trigger'::regtype) AS trigger
FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
WHERE has_function_privilege('public', p.oid, 'EXECUTE')
GROUP BY p.proname ORDER BY 1;

-- ---------------------------------------------------------------------------
-- Four privileges, and what each is for
-- ---------------------------------------------------------------------------

CREATE ROLE regress_es_none;
CREATE ROLE regress_es_read;
CREATE ROLE regress_es_append;
CREATE ROLE regress_es_dispatch;
CREATE ROLE regress_es_admin;
SELECT es_grant('regress_es_read', 'read');
SELECT es_grant('regress_es_append', 'append');
SELECT es_grant('regress_es_dispatch', 'dispatch');
SELECT es_grant('regress_es_admin', 'admin');
ALTER TABLE total OWNER TO regress_es_admin;
-- They are plain grants.
SELECT c.relname COLLATE "C", a.grantee::regrole, string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type COLLATE "C") AS may
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.relnamespace = 'grant_test'::regnamespace AND a.grantee::regrole::text LIKE 'regress_es_%'
GROUP BY c.relname, a.grantee ORDER BY c.relname COLLATE "C", a.grantee::regrole::text COLLATE "C";
SELECT c.relname, t.attname, a.grantee::regrole, a.privilege_type
FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) a
WHERE c.relnamespace = 'grant_test'::regnamespace
ORDER BY c.relname COLLATE "C", a.grantee::regrole::text COLLATE "C", t.attnum;

-- Something to work with: an async projection, a handler, a subscription and a
-- process manager of the admin's, a parked event, a schedule, a state snapshot.
SELECT version FROM es_dispatch(ROW('1', 10)::deposit, command_id => '00000000-0000-7000-8000-000000000001');
SELECT version FROM es_dispatch(ROW('1', 10)::deposit);
SELECT version FROM es_dispatch(ROW('1', 10)::deposit);
SET ROLE regress_es_admin;
SELECT es_create_projection('total', 'add_up', 'async', '{total}');
SELECT es_create_handler('remind', 'remind', from_position => NULL);
SELECT es_create_subscription('export'), es_create_subscription('mirror');
SELECT es_create_process_manager('reminder', from_position => NULL);
SELECT es_run();
SELECT count(*) FROM es_fetch('export', 'c', 1);
SELECT es_nack('export', 'c', 1, 'park');
SELECT count(*) FROM es_fetch('mirror', 'c', 1);
RESET ROLE;

-- Every public function, and what it needs.
CREATE TABLE call (n int GENERATED ALWAYS AS IDENTITY, function name, needs text, statement text);
INSERT INTO call (function, needs, statement) VALUES
	('es_new_event', NULL, $$SELECT es_new_event('noted')$$),
	('es_category', NULL, $$SELECT es_category('note-1')$$),
	('es_current_store', NULL, $$SELECT es_current_store()$$),
	('es_stream_version', 'read', $$SELECT es_stream_version('account-1')$$),
	('es_read_stream', 'read', $$SELECT count(*) FROM es_read_stream('account-1')$$),
	('es_read_all', 'read', $$SELECT count(*) FROM es_read_all()$$),
	('es_high_water', 'read', $$SELECT es_high_water()$$),
	('es_state', 'read', $$SELECT es_state(NULL::account, '1')$$),
	('es_state', 'read', $$SELECT es_state('account', '1')$$),
	('es_state', 'read', $$SELECT es_state('account', '1', at_time => now())$$),
	('es_history', 'read', $$SELECT count(*) FROM es_history('account', '1')$$),
	('es_wait', 'read', $$SELECT es_wait('remind', 0, '0s')$$),
	('es_lint', 'read', $$SELECT count(*) FROM es_lint()$$),
	('es_diagram', 'read', $$SELECT es_diagram()$$),
	('es_subscription_status', 'read', $$SELECT count(*) FROM es_subscription_status$$),
	('es_parked_event', 'read', $$SELECT count(*) FROM es_parked_event$$),
	('es_schedule_status', 'read', $$SELECT count(*) FROM es_schedule_status$$),
	('es_aggregate_status', 'read', $$SELECT count(*) FROM es_aggregate_status$$),
	('es_rebuild_progress', 'read', $$SELECT count(*) FROM es_rebuild_progress$$),
	('es_inflight', NULL, $$SELECT count(*) FROM es_inflight$$),
	('es_append', 'append', $$SELECT es_append('note-1', 'noted', '{}')$$),
	('es_append', 'append', $$SELECT es_append('note-1', 'noted', '{}'::jsonb)$$),
	('es_append', 'append', $$SELECT es_append('note-1', ARRAY[es_new_event('noted'), es_new_event('noted')])$$),
	('es_append', 'append', $$SELECT es_append('note-1', ROW(1)::deposited)$$),
	('es_dispatch', 'dispatch', $$SELECT es_dispatch(ROW('1', 1)::deposit)$$),
	('es_dispatch', 'dispatch', $$SELECT es_dispatch('deposit', '{"id": "1", "amount": 1}'::jsonb)$$),
	('es_dispatch', 'dispatch', $$SELECT es_dispatch('deposit', '{"id": "1", "amount": 1}', command_id => gen_random_uuid())$$),
	('es_dispatch', 'dispatch', $$SELECT es_dispatch('deposit', '{"id": "1", "amount": 10}', command_id => '00000000-0000-7000-8000-000000000001')$$),
	('es_schedule', 'dispatch', $$SELECT es_schedule(ROW('1', 1)::deposit, now() + interval '1 day')$$),
	('es_schedule', 'dispatch', $$SELECT es_schedule('deposit', '{"id": "1", "amount": 1}'::jsonb, now() + interval '1 day', schedule_id => '00000000-0000-7000-8000-000000000002')$$),
	('es_schedule', 'dispatch', $$SELECT es_schedule('deposit', '{"id": "1", "amount": 1}', '2999-01-01')$$),
	('es_unschedule', 'dispatch', $$SELECT es_unschedule('00000000-0000-7000-8000-000000000003')$$),
	('es_create_aggregate', 'admin', $$SELECT es_create_aggregate('account', name => 'other', commands => '{}')$$),
	('es_drop_aggregate', 'admin', $$SELECT es_drop_aggregate('account')$$),
	('es_create_projection', 'admin', $$SELECT es_create_projection('more', 'add_up', 'async', '{}')$$),
	('es_create_projection', 'owner', $$SELECT es_create_projection('more', 'add_up', 'inline')$$),
	('es_alter_projection', 'owner', $$SELECT es_alter_projection('total', 'inline')$$),
	('es_rebuild_projection', 'admin', $$SELECT es_rebuild_projection('total')$$),
	('es_verify_projection', 'admin', $$SELECT es_verify_projection('total')$$),
	('es_pause', 'admin', $$SELECT es_pause('total')$$),
	('es_pause', 'admin', $$SELECT es_pause('remind')$$),
	('es_resume', 'admin', $$SELECT es_resume('total')$$),
	('es_resume', 'admin', $$SELECT es_resume('remind')$$),
	('es_drop_projection', 'admin', $$SELECT es_drop_projection('total')$$),
	('es_create_handler', 'admin', $$SELECT es_create_handler('more', 'remind')$$),
	('es_create_process_manager', 'admin', $$SELECT es_create_process_manager('reminder', 'more')$$),
	('es_create_subscription', 'admin', $$SELECT es_create_subscription('more')$$),
	('es_reset_subscription', 'admin', $$SELECT es_reset_subscription('remind', 0)$$),
	('es_drop_subscription', 'admin', $$SELECT es_drop_subscription('remind')$$),
	('es_drop_subscription', 'admin', $$SELECT es_drop_subscription('reminder')$$),
	('es_replay_parked', 'admin', $$SELECT es_replay_parked('export')$$),
	('es_skip_parked', 'admin', $$SELECT es_skip_parked('export', 1)$$),
	('es_fetch', 'admin', $$SELECT count(*) FROM es_fetch('export', 'd')$$),
	('es_ack', 'admin', $$SELECT es_ack('mirror', 'c', 1)$$),
	('es_nack', 'admin', $$SELECT es_nack('mirror', 'c', 1)$$),
	('es_prune_receipts', 'admin', $$SELECT es_prune_receipts('1 day')$$),
	('es_run', 'admin', $$SELECT es_run()$$),
	('es_grant', 'owner', $$SELECT es_grant('regress_es_none', 'read')$$),
	('es_revoke', 'owner', $$SELECT es_revoke('regress_es_none', 'read')$$),
	('es_create_store', 'owner', $$SELECT es_create_store('grant_test_mine')$$),
	('es_upgrade_store', 'owner', $$SELECT es_upgrade_store()$$);
GRANT SELECT ON call TO PUBLIC;

-- Try a statement, and undo it.
CREATE FUNCTION attempt(statement text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RAISE SQLSTATE 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN RETURN 'done';
	WHEN OTHERS THEN RETURN SQLSTATE || ' ' || SQLERRM;
END $$;
CREATE TABLE tried (role text DEFAULT current_user, n int, result text);
GRANT SELECT, INSERT ON tried TO PUBLIC;
SET ROLE regress_es_none;
INSERT INTO tried (n, result) SELECT n, attempt(statement) FROM call ORDER BY n;
SET ROLE regress_es_read;
INSERT INTO tried (n, result) SELECT n, attempt(statement) FROM call ORDER BY n;
SET ROLE regress_es_append;
INSERT INTO tried (n, result) SELECT n, attempt(statement) FROM call ORDER BY n;
SET ROLE regress_es_dispatch;
INSERT INTO tried (n, result) SELECT n, attempt(statement) FROM call ORDER BY n;
SET ROLE regress_es_admin;
INSERT INTO tried (n, result) SELECT n, attempt(statement) FROM call ORDER BY n;
RESET ROLE;

-- The table: who has done what, and what the others were told.
SELECT c.n, c.statement, COALESCE(c.needs, '') AS needs,
	   COALESCE(string_agg(replace(t.role, 'regress_es_', ''), ' ' ORDER BY strpos('none read append dispatch admin', replace(t.role, 'regress_es_', '')))
				FILTER (WHERE t.result = 'done'), '') AS done_by
FROM call c JOIN tried t USING (n) GROUP BY c.n, c.statement, c.needs ORDER BY c.n;
SELECT replace(t.role, 'regress_es_', '') AS role, t.result COLLATE "C" AS refused, count(*)
FROM tried t WHERE t.result <> 'done' AND t.role IN ('regress_es_none', 'regress_es_read', 'regress_es_admin')
GROUP BY t.role, t.result ORDER BY 1, 2;
-- The oracle: each privilege is enough for what it is for and for nothing that
-- needs another, and without it the error is 42501.
SELECT t.role, c.statement, c.needs, t.result
FROM call c JOIN tried t USING (n)
CROSS JOIN LATERAL (VALUES ('regress_es_none', '{}'::text[]), ('regress_es_read', '{read}'), ('regress_es_append', '{read,append}'),
	('regress_es_dispatch', '{read,dispatch}'), ('regress_es_admin', '{read,append,dispatch,admin}')) AS has(role, privileges)
WHERE t.role = has.role
	AND CASE WHEN c.needs IS NULL OR c.needs = ANY (has.privileges) THEN t.result <> 'done'
			 ELSE t.result NOT LIKE '42501 permission denied for %' END
ORDER BY c.n, t.role COLLATE "C";
-- No public function is left out.  These are not called above: parts of others,
-- which have no rights of their own, triggers, and those that are called below.
SELECT DISTINCT p.proname COLLATE "C" AS function
FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
WHERE p.proname NOT IN (SELECT function FROM call) ORDER BY 1;
-- The function that commits, and those that start and stop processes
\set SHOW_CONTEXT never
SET ROLE regress_es_append;
CALL es_dispatch_and_wait(ROW('1', 1)::deposit, '{}');
SELECT es_start_worker();
SELECT es_stop_worker();
SET ROLE regress_es_dispatch;
DO $$ DECLARE r es_dispatch_result; p boolean;
BEGIN CALL es_dispatch_and_wait(ROW('1', 1)::deposit, '{}', result => r, passed => p); RAISE NOTICE 'version %', r.version; END $$;
SELECT es_stop_worker();
SET ROLE regress_es_admin;
DO $$ DECLARE r es_dispatch_result; p boolean;
BEGIN CALL es_dispatch_and_wait('deposit', '{"id": "1", "amount": 1}'::jsonb, '{}', result => r, passed => p); RAISE NOTICE 'version %', r.version; END $$;
SELECT es_stop_worker();
RESET ROLE;
SELECT has_function_privilege('regress_es_admin', 'es_start_worker()', 'EXECUTE');

-- ---------------------------------------------------------------------------
-- What they deliberately do not let one do
-- ---------------------------------------------------------------------------

-- Whoever may append or dispatch cannot write to the log otherwise, or change it.
SET ROLE regress_es_append;
SELECT attempt($$INSERT INTO grant_test.event SELECT 1000, 'account-1', 1000, type, data, metadata, gen_random_uuid(), NULL, NULL, now() FROM grant_test.event LIMIT 1$$);
SELECT attempt($$UPDATE grant_test.event SET data = '{}'$$), attempt($$DELETE FROM grant_test.event$$), attempt($$TRUNCATE grant_test.event$$);
SELECT attempt($$SELECT setval('grant_test.event_position', 1)$$);
RESET ROLE;
-- Whoever may dispatch records what a handler decides, and nothing else: not even
-- with the right to call es_append(), which is the database's, from another store.
SELECT es_create_store('grant_test_2');
SET event_sourcing.store = 'grant_test_2';
SELECT es_grant('regress_es_dispatch', 'append');
SET ROLE regress_es_dispatch;
SELECT version FROM es_append('note-1', 'noted', '{}');
SET event_sourcing.store = 'grant_test';
SELECT version FROM es_append('note-1', 'noted', '{}');
SELECT version FROM es_append('note-1', '{}'::es_new_event[]);
SELECT version FROM es_dispatch(ROW('1', 1)::deposit);
SELECT attempt($$INSERT INTO grant_test.event (position, stream, version, type, data, event_id, recorded_at) VALUES (1000, 'account-1', 1000, 'deposited', '{"amount": 1000}', gen_random_uuid(), now())$$);
-- Nor can it forge the state that is decided on.  State snapshots are written
-- with its commands all the same, by the store's owner.
SELECT attempt($$UPDATE grant_test.snapshot SET state = '{"balance": 1000}'$$), attempt($$SELECT state FROM grant_test.snapshot$$);
SELECT name, state_snapshots FROM es_aggregate_status;
RESET ROLE;
SELECT stream, version, state FROM grant_test.snapshot;
-- Or take back what others have scheduled.
SET ROLE regress_es_admin;
SELECT es_schedule(ROW('1', 5)::deposit, '2999-01-01', schedule_id => '00000000-0000-7000-8000-000000000004');
SET ROLE regress_es_dispatch;
SELECT es_unschedule('00000000-0000-7000-8000-000000000004');
SELECT attempt($$UPDATE grant_test.schedule SET owner = current_user$$);
RESET ROLE;
SELECT es_unschedule('00000000-0000-7000-8000-000000000004');
-- Whoever administers may define what runs as itself, and nobody else's, and
-- change nobody else's.
CREATE ROLE regress_es_admin_2;
SELECT es_grant('regress_es_admin_2', 'admin');
SET ROLE regress_es_admin_2;
SELECT es_create_handler('of_another', 'remind', from_position => NULL);
SET ROLE regress_es_admin;
SELECT attempt($$SELECT es_drop_subscription('of_another')$$);
SELECT attempt($$UPDATE grant_test.subscription SET owner = current_user WHERE name = 'of_another'$$);
SELECT attempt($$UPDATE grant_test.subscription SET owner = 'regress_es_read' WHERE name = 'remind'$$);
RESET ROLE;
SELECT es_drop_subscription('of_another');
SELECT es_revoke('regress_es_admin_2', 'read');

-- ---------------------------------------------------------------------------
-- Projections and their tables
-- ---------------------------------------------------------------------------

-- An async projection runs as its owner: to dispatch needs no right to its table.
SET ROLE regress_es_dispatch;
SELECT version FROM es_dispatch(ROW('2', 7)::deposit);
SELECT attempt('SELECT * FROM total');
RESET ROLE;
SELECT es_run() > 0 AS run;
SELECT amount = (SELECT sum((data ->> 'amount')::int) FROM grant_test.event WHERE type = 'deposited') AS right FROM total;
-- An inline one runs as who dispatches, who needs what its handler needs.
CREATE TABLE largest (amount int);
INSERT INTO largest VALUES (0);
CREATE FUNCTION keep_largest(e deposited) RETURNS void LANGUAGE sql AS
	'UPDATE grant_app.largest SET amount = GREATEST(largest.amount, e.amount)';
SELECT es_create_projection('largest', 'keep_largest');
SET ROLE regress_es_dispatch;
SELECT es_dispatch(ROW('2', 8)::deposit);
RESET ROLE;
BEGIN;
GRANT SELECT, UPDATE ON largest TO regress_es_dispatch;
SET LOCAL ROLE regress_es_dispatch;
SELECT version FROM es_dispatch(ROW('2', 8)::deposit);
ROLLBACK;
-- or the handler brings the rights along
ALTER FUNCTION keep_largest(deposited) SECURITY DEFINER SET search_path = grant_app, pg_temp;
SET ROLE regress_es_dispatch;
SELECT version FROM es_dispatch(ROW('2', 9)::deposit);
RESET ROLE;
SELECT amount FROM largest;
SELECT es_drop_projection('largest');

-- ---------------------------------------------------------------------------
-- Taking back
-- ---------------------------------------------------------------------------

-- All that a role has been granted, in one line.
CREATE TEMP VIEW granted AS
	SELECT r.rolname AS role, COALESCE(es_privileges('grant_test', r.oid), '{}') AS privileges,
		   (SELECT count(*) FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
			WHERE c.relnamespace = 'grant_test'::regnamespace AND a.grantee = r.oid)
		   + (SELECT count(*) FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) a
			WHERE c.relnamespace = 'grant_test'::regnamespace AND a.grantee = r.oid)
		   + (SELECT count(*) FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
			WHERE n.nspname = 'grant_test' AND a.grantee = r.oid) AS grants,
		   (SELECT count(*) FROM member m JOIN pg_proc p ON m.classid = 'pg_proc'::regclass AND p.oid = m.objid
			CROSS JOIN LATERAL aclexplode(p.proacl) a WHERE a.grantee = r.oid) AS functions
	FROM pg_roles r WHERE r.rolname IN ('regress_es_none', 'regress_es_read', 'regress_es_append', 'regress_es_dispatch',
		'regress_es_admin', 'regress_es_both');
SELECT * FROM granted ORDER BY role COLLATE "C";
-- Granting twice is granting once.
SELECT es_grant('regress_es_read', 'read');
SELECT * FROM granted WHERE role = 'regress_es_read';
-- What is left is as if the other privilege had never been there, whichever was
-- granted first.
CREATE ROLE regress_es_both;
SELECT es_grant('regress_es_both', 'dispatch'), es_grant('regress_es_both', 'append');
SELECT * FROM granted WHERE role = 'regress_es_both';
SELECT es_revoke('regress_es_both', 'append');
SELECT * FROM granted WHERE role = 'regress_es_both';
SELECT es_grant('regress_es_both', 'append');
SELECT es_revoke('regress_es_both', 'dispatch');
SELECT * FROM granted WHERE role = 'regress_es_both';
-- Revoking takes back those that include it, too: read is in all others.
SELECT es_revoke('regress_es_both', 'read');
SELECT * FROM granted WHERE role = 'regress_es_both';
SELECT es_grant('regress_es_both', 'admin');
SELECT es_revoke('regress_es_both', 'append');
SELECT * FROM granted WHERE role = 'regress_es_both';
SELECT es_grant('regress_es_both', 'admin');
SELECT es_revoke('regress_es_both', 'admin');
SELECT * FROM granted WHERE role = 'regress_es_both';
SELECT es_revoke('regress_es_both', 'read');
-- What was not granted cannot be missed.
SELECT es_revoke('regress_es_both', 'admin');
SELECT * FROM granted WHERE role = 'regress_es_both';
-- Functions belong to the database.  What another store of it needs stays.
SELECT es_revoke('regress_es_dispatch', 'dispatch');
SELECT * FROM granted WHERE role = 'regress_es_dispatch';
SELECT es_grant('regress_es_dispatch', 'append');
SELECT es_revoke('regress_es_dispatch', 'append');
SET event_sourcing.store = 'grant_test_2';
SET ROLE regress_es_dispatch;
SELECT version FROM es_append('note-1', 'noted', '{}');
RESET ROLE;
SELECT es_revoke('regress_es_dispatch', 'read');
SET event_sourcing.store = 'grant_test';
SELECT * FROM granted WHERE role = 'regress_es_dispatch';
-- The oracle: after 'read' is revoked nothing is left of any of them, and the
-- table of calls is that of a role that never had anything.
SELECT es_revoke(r.role, 'read') FROM unnest('{regress_es_read,regress_es_append,regress_es_dispatch,regress_es_admin}'::regrole[]) AS r(role);
SELECT * FROM granted WHERE grants + functions > 0;
TRUNCATE tried;
SET ROLE regress_es_none;
INSERT INTO tried (n, result) SELECT n, attempt(statement) FROM call ORDER BY n;
SET ROLE regress_es_admin;
INSERT INTO tried (n, result) SELECT n, attempt(statement) FROM call ORDER BY n;
RESET ROLE;
SELECT n, result FROM tried WHERE role = 'regress_es_admin' EXCEPT ALL SELECT n, result FROM tried WHERE role = 'regress_es_none';

-- ---------------------------------------------------------------------------
-- Names, owners, errors
-- ---------------------------------------------------------------------------

-- A name that needs quotes, of a role and of a store
CREATE ROLE "regress_es; DROP ""x""";
SELECT es_create_store('grant "test" 3');
SET event_sourcing.store = 'grant "test" 3';
SELECT es_grant('"regress_es; DROP ""x"""', 'dispatch');
SELECT es_privileges('grant "test" 3', '"regress_es; DROP ""x"""'::regrole);
SELECT es_revoke('"regress_es; DROP ""x"""', 'dispatch');
SELECT es_privileges('grant "test" 3', '"regress_es; DROP ""x"""'::regrole);
SELECT es_revoke('"regress_es; DROP ""x"""', 'read');
SET event_sourcing.store = 'grant_test';
-- What is not there
SELECT es_grant('regress_es_nobody', 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT es_grant(4000000000::oid::regrole, 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT es_grant('regress_es_read', 'write');
\echo :LAST_ERROR_SQLSTATE
SELECT es_revoke('regress_es_read', '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_grant(NULL, 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT es_grant('regress_es_read', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_revoke(NULL, NULL);
\echo :LAST_ERROR_SQLSTATE
-- PUBLIC is no role: what it has, nobody can be denied.
SELECT es_grant('public', 'read');
\echo :LAST_ERROR_SQLSTATE
SELECT es_grant('-', 'read');
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.store = 'grant_test_none';
SELECT es_grant('regress_es_read', 'read');
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.store = 'grant_test';
-- A store's owner need not be the extension's.  The owner gives rights on the
-- store; the right to call is the database's.
CREATE ROLE regress_es_keeper;
GRANT CREATE ON DATABASE :"DBNAME" TO regress_es_keeper;
GRANT EXECUTE ON FUNCTION es_create_store(name), es_upgrade_store(name), es_grant(regrole, text), es_revoke(regrole, text) TO regress_es_keeper;
SET ROLE regress_es_keeper;
SELECT es_create_store('grant_test_4');
SET event_sourcing.store = 'grant_test_4';
SELECT es_grant('regress_es_read', 'read');
SELECT es_grant('regress_es_append', 'append');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT EXECUTE ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid), es_append(text, text, jsonb, jsonb, bigint),
	es_append(text, text, text, text, bigint), es_append(text, anyelement, jsonb, bigint) TO regress_es_keeper WITH GRANT OPTION;
SET ROLE regress_es_keeper;
SELECT es_grant('regress_es_append', 'append');
-- not on the store of another
SET event_sourcing.store = 'grant_test';
SELECT attempt($$SELECT es_grant('regress_es_append', 'append')$$), attempt($$SELECT es_revoke('regress_es_append', 'read')$$);
SET event_sourcing.store = 'grant_test_4';
SET ROLE regress_es_append;
SELECT version FROM es_append('note-1', 'noted', '{}');
SET ROLE regress_es_keeper;
-- An owner has no use for less.
SELECT es_revoke('regress_es_keeper', 'read');
\echo :LAST_ERROR_SQLSTATE

-- ---------------------------------------------------------------------------
-- Tables that come with a newer version
-- ---------------------------------------------------------------------------

-- Here a store is made older by dropping them.
DROP TABLE grant_test_4.parked_event, grant_test_4.schedule;
SELECT es_upgrade_store();
RESET ROLE;
SELECT es_privileges('grant_test_4', 'regress_es_read'::regrole), es_privileges('grant_test_4', 'regress_es_append'::regrole),
	   es_privileges('grant_test_4', 'regress_es_none'::regrole);
SET ROLE regress_es_read;
SELECT count(*) FROM es_parked_event;
RESET ROLE;

RESET event_sourcing.store;
SET client_min_messages = warning;
DROP SCHEMA grant_app, grant_test, grant_test_2, "grant ""test"" 3", grant_test_4 CASCADE;
DROP OWNED BY regress_es_keeper CASCADE;
DROP ROLE regress_es_none, regress_es_read, regress_es_append, regress_es_dispatch, regress_es_admin, regress_es_admin_2,
	regress_es_both, regress_es_keeper, "regress_es; DROP ""x""";
