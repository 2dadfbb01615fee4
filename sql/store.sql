-- A store is a schema that holds one event log with its definitions.  The
-- setting event_sourcing.store names the one that the functions work on.  Its
-- tables belong to its owner and are plain to read, but the log is append-only
-- for everybody, its owner included; and it outlives the extension.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;

-- ---------------------------------------------------------------------------
-- Creating
-- ---------------------------------------------------------------------------

-- By default the store is the schema "es", which the setting names, too.  (In a
-- transaction, since others may have it.)
BEGIN;
SET LOCAL client_min_messages = warning;
DROP SCHEMA IF EXISTS es CASCADE;
SELECT es_create_store();
SELECT es_current_store();
SELECT stream, version, position FROM es_append('account-1', 'opened', '{}');
ROLLBACK;

-- Any other name will do, with spaces, capitals, quotes and letters of any kind.
SELECT es_create_store('store_test');
SELECT es_create_store('Store Test "2"; größer');
SELECT es_create_store('select');
-- an empty schema that is there already becomes the store, and keeps its comment
CREATE SCHEMA store_test_empty;
COMMENT ON SCHEMA store_test_empty IS 'made beforehand';
SELECT es_create_store('store_test_empty');
SELECT obj_description('store_test_empty'::regnamespace, 'pg_namespace');

-- The tables of a store.
SELECT c.relname, c.relkind, obj_description(c.oid, 'pg_class') AS comment
FROM pg_class c
WHERE c.relnamespace = 'store_test'::regnamespace AND c.relkind IN ('r', 'S', 'v') AND c.relname NOT LIKE '%\_seq'
ORDER BY c.relname COLLATE "C";
\d store_test.event
-- None of them is a member of the extension, and nobody but the owner may read them.
SELECT count(*) AS members FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
WHERE d.deptype = 'e' AND c.relnamespace = 'store_test'::regnamespace;
SELECT count(*) AS granted FROM pg_class WHERE relnamespace = 'store_test'::regnamespace AND relacl IS NOT NULL;

-- A name is used once.
SELECT es_create_store('store_test');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_store(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_store('');
\echo :LAST_ERROR_SQLSTATE
-- PostgreSQL keeps some names for itself
SELECT es_create_store('pg_store');
\echo :LAST_ERROR_SQLSTATE
-- What was rolled back is not there.
BEGIN;
SELECT es_create_store('store_test_later');
ROLLBACK;
SELECT es_create_store('store_test_later');
SET client_min_messages = warning;
DROP SCHEMA store_test_later CASCADE;
RESET client_min_messages;

-- ---------------------------------------------------------------------------
-- The setting
-- ---------------------------------------------------------------------------

-- Each store has streams, positions and definitions of its own.
SET event_sourcing.store = 'store_test';
SELECT * FROM es_append('account-1', 'opened', '{"store": 1}');
SET event_sourcing.store = 'Store Test "2"; größer';
SELECT es_current_store() = current_setting('event_sourcing.store') AS current;
SELECT * FROM es_append('account-1', 'opened', '{"store": 2}');
SELECT * FROM es_append('account-1', 'closed', '{"store": 2}');
SET event_sourcing.store = 'select';
SELECT * FROM es_append('account-1', ARRAY[es_new_event('opened', '{"store": 3}'), es_new_event('closed')]);
SELECT version, data FROM es_read_stream('account-1');
SET event_sourcing.store = 'store_test';
SELECT version, data FROM es_read_stream('account-1');

-- For one transaction, or one function.
BEGIN;
SET LOCAL event_sourcing.store = 'Store Test "2"; größer';
SELECT count(*), es_high_water() FROM es_read_all();
COMMIT;
SELECT count(*), es_high_water() FROM es_read_all();
CREATE FUNCTION store_test.version_elsewhere() RETURNS bigint LANGUAGE sql SET event_sourcing.store = 'select'
	RETURN es_stream_version('account-1');
SELECT store_test.version_elsewhere() AS elsewhere, es_stream_version('account-1') AS here;
-- In the middle of a transaction: each append goes where the setting points.
BEGIN;
SELECT version FROM es_append('account-2', 'opened', '{}');
SET LOCAL event_sourcing.store = 'select';
SELECT version FROM es_append('account-2', 'opened', '{}');
SELECT count(*) FROM es_inflight;
SET LOCAL event_sourcing.store = 'store_test';
SELECT version FROM es_append('account-2', 'closed', '{}');
SELECT count(*) FROM es_inflight;
COMMIT;
-- Prepared statements follow it as well.
PREPARE count_all AS SELECT count(*) FROM es_read_all();
EXECUTE count_all;
SET event_sourcing.store = 'Store Test "2"; größer';
EXECUTE count_all;
DEALLOCATE count_all;
-- As a property of the database (or of a role).
SELECT current_database() AS database \gset
ALTER DATABASE :"database" SET event_sourcing.store = 'store_test_empty';
\c -
SHOW event_sourcing.store;
SELECT * FROM es_append('account-1', 'opened', '{}');
ALTER DATABASE :"database" RESET event_sourcing.store;

-- A schema that is not there, or is no store: 3F000 and what to do.
SET event_sourcing.store = 'store_test_nowhere';
SELECT es_current_store();
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('account-1', 'opened', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('account-1', '{}'::es_new_event[]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_read_stream('account-1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_read_all();
\echo :LAST_ERROR_SQLSTATE
SELECT es_high_water();
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('account-1');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_inflight;
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch('deposit', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_upgrade_store();
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.store = 'public';
SELECT es_append('account-1', 'opened', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_upgrade_store('public');
\echo :LAST_ERROR_SQLSTATE
SELECT es_upgrade_store('store_test_nowhere');
\echo :LAST_ERROR_SQLSTATE
-- What cannot be a schema's name cannot be set.
SET event_sourcing.store = '';
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.store = 'a name of sixty-four bytes, which is one more than a name can have';
\echo :LAST_ERROR_SQLSTATE
-- Nor can a setting that does not exist: a slip of the pen is told.
SET event_sourcing.stores = 'es';
\echo :LAST_ERROR_SQLSTATE

-- ---------------------------------------------------------------------------
-- Append-only
-- ---------------------------------------------------------------------------

-- There is one way into the log, and none to change it: for the superuser, for
-- the owner of the table, by whatever statement.
SET event_sourcing.store = 'store_test';
UPDATE store_test.event SET data = '{}';
\echo :LAST_ERROR_SQLSTATE
UPDATE store_test.event SET data = '{}' WHERE false;
\echo :LAST_ERROR_SQLSTATE
DELETE FROM store_test.event WHERE stream = 'account-1';
\echo :LAST_ERROR_SQLSTATE
TRUNCATE store_test.event;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE store_test.event RESTART IDENTITY CASCADE;
\echo :LAST_ERROR_SQLSTATE
INSERT INTO store_test.event SELECT * FROM store_test.event;
\echo :LAST_ERROR_SQLSTATE
INSERT INTO store_test.event (position, stream, version, type, data, event_id, recorded_at)
VALUES (1000, 'account-9', 1, 'opened', '{}', gen_random_uuid(), now()) ON CONFLICT DO NOTHING;
\echo :LAST_ERROR_SQLSTATE
INSERT INTO store_test.event AS e (position, stream, version, type, data, event_id, recorded_at)
VALUES (1000, 'account-1', 1, 'opened', '{}', gen_random_uuid(), now())
ON CONFLICT (stream, version) DO UPDATE SET data = EXCLUDED.data;
\echo :LAST_ERROR_SQLSTATE
COPY store_test.event FROM stdin;
\.
\echo :LAST_ERROR_SQLSTATE
MERGE INTO store_test.event e USING (SELECT 'account-1' AS stream) s ON e.stream = s.stream
WHEN MATCHED THEN UPDATE SET data = '{}';
\echo :LAST_ERROR_SQLSTATE
MERGE INTO store_test.event e USING (SELECT 'account-1' AS stream) s ON e.stream = s.stream
WHEN MATCHED THEN DELETE;
\echo :LAST_ERROR_SQLSTATE
MERGE INTO store_test.event e USING (SELECT 'account-9' AS stream) s ON e.stream = s.stream
WHEN NOT MATCHED THEN INSERT VALUES (1000, s.stream, 1, 'opened', '{}', NULL, gen_random_uuid(), NULL, NULL, now());
\echo :LAST_ERROR_SQLSTATE
WITH gone AS (DELETE FROM store_test.event RETURNING *) SELECT count(*) FROM gone;
\echo :LAST_ERROR_SQLSTATE
-- An append opens the door for itself only, also when it fails.
DO $$
BEGIN
	PERFORM es_append('account-1', 'opened', '{}', expected_version => 0);
EXCEPTION WHEN SQLSTATE 'SE001' THEN
	INSERT INTO store_test.event SELECT * FROM store_test.event;
END $$;
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('account-3', 'opened', '{}');
INSERT INTO store_test.event SELECT * FROM store_test.event;
\echo :LAST_ERROR_SQLSTATE
-- Replication, which fires no ordinary triggers, may fill the log but not
-- change it.
SET session_replication_role = replica;
UPDATE store_test.event SET data = '{}';
\echo :LAST_ERROR_SQLSTATE
DELETE FROM store_test.event;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE store_test.event;
\echo :LAST_ERROR_SQLSTATE
RESET session_replication_role;
-- Nothing was lost or added.
SELECT stream, version, type, data FROM store_test.event ORDER BY stream, version;

-- For an owner who is no superuser it is the same.
CREATE ROLE regress_store_owner;
GRANT CREATE ON DATABASE :"database" TO regress_store_owner;
GRANT EXECUTE ON FUNCTION es_create_store(name), es_append(text, text, text, text, bigint) TO regress_store_owner;
SET ROLE regress_store_owner;
SELECT es_create_store('store_test_owned');
SET event_sourcing.store = 'store_test_owned';
SELECT * FROM es_append('account-1', 'opened', '{}');
UPDATE store_test_owned.event SET data = '{}';
\echo :LAST_ERROR_SQLSTATE
DELETE FROM store_test_owned.event;
\echo :LAST_ERROR_SQLSTATE
TRUNCATE store_test_owned.event;
\echo :LAST_ERROR_SQLSTATE
INSERT INTO store_test_owned.event SELECT * FROM store_test_owned.event;
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT DISTINCT r.rolname AS owner FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
WHERE c.relnamespace = 'store_test_owned'::regnamespace;
SET client_min_messages = warning;
DROP OWNED BY regress_store_owner CASCADE;
RESET client_min_messages;
DROP ROLE regress_store_owner;

-- ---------------------------------------------------------------------------
-- Renaming and dropping
-- ---------------------------------------------------------------------------

-- A store may be renamed like any schema, also while a session uses it.
SET event_sourcing.store = 'store_test';
SELECT es_stream_version('account-1');
ALTER SCHEMA store_test RENAME TO store_test_renamed;
SELECT es_append('account-1', 'closed', '{}');
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.store = 'store_test_renamed';
SELECT version FROM es_append('account-1', 'closed', '{}');
SELECT version, type FROM es_read_stream('account-1');
UPDATE store_test_renamed.event SET data = '{}';
\echo :LAST_ERROR_SQLSTATE
-- two of them may even swap their names
SET event_sourcing.store = 'store_test_empty';
SELECT es_stream_version('account-1');
BEGIN;
ALTER SCHEMA store_test_empty RENAME TO store_test_swapped;
ALTER SCHEMA store_test_renamed RENAME TO store_test_empty;
ALTER SCHEMA store_test_swapped RENAME TO store_test_renamed;
SELECT es_stream_version('account-1');
ROLLBACK;
SELECT es_stream_version('account-1');
-- or get another one between two appends of a transaction, which is in flight once
BEGIN;
SELECT version FROM es_append('account-1', 'reopened', '{}');
ALTER SCHEMA store_test_empty RENAME TO store_test_swapped;
SET LOCAL event_sourcing.store = 'store_test_swapped';
SELECT version FROM es_append('account-1', 'closed', '{}');
SELECT count(*) FROM es_inflight;
ROLLBACK;

-- Dropping the schema drops the store, and a new one begins from the start.
SET client_min_messages = warning;
DROP SCHEMA store_test_empty CASCADE;
RESET client_min_messages;
SELECT es_stream_version('account-1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_store('store_test_empty');
SELECT * FROM es_append('account-1', 'opened', '{}');
SET client_min_messages = warning;
DROP SCHEMA store_test_empty, "Store Test ""2""; größer", "select" CASCADE;
RESET client_min_messages;

-- ---------------------------------------------------------------------------
-- Upgrading
-- ---------------------------------------------------------------------------

-- es_upgrade_store() puts right what a store lacks, and changes nothing in one
-- that is sound.
SET event_sourcing.store = 'store_test_renamed';
SELECT es_upgrade_store();
SELECT es_upgrade_store('store_test_renamed');
SELECT tgname, tgenabled, pg_get_triggerdef(oid) AS definition FROM pg_trigger
WHERE tgrelid = 'store_test_renamed.event'::regclass AND NOT tgisinternal ORDER BY tgname COLLATE "C";
SELECT es_stream_version('account-1'), es_high_water() >= max(position) AS sequence_fits FROM store_test_renamed.event;

-- A log that was filled by other means, as replication or a restore of its
-- table does, may be ahead of its sequence.  Positions drawn from that would
-- come below what a reader has already passed, so appends are refused.
SET session_replication_role = replica;
INSERT INTO store_test_renamed.event (position, stream, version, type, data, event_id, recorded_at)
VALUES (1000, 'restored-1', 1, 'opened', '{}', '00000000-0000-7000-8000-000000000001', '2020-02-02 20:20+00');
RESET session_replication_role;
\c -
SET event_sourcing.store = 'store_test_renamed';
SELECT es_append('account-4', 'opened', '{}');
\echo :LAST_ERROR_SQLSTATE
-- Reading does no harm; the mark is the sequence's.
SELECT es_stream_version('restored-1'), es_high_water() < 1000 AS mark_is_lower;
SELECT es_upgrade_store();
SELECT * FROM es_append('account-4', 'opened', '{}');
SELECT es_high_water(), max(position) FROM es_read_all();

-- ---------------------------------------------------------------------------
-- The extension
-- ---------------------------------------------------------------------------

-- DROP EXTENSION takes the triggers along and leaves every event.  (In a
-- transaction, for the sake of other stores here.)
CREATE TABLE store_test_renamed.count_by_type (type text PRIMARY KEY, events int);
SELECT es_create_projection('count_by_type', targets => '{store_test_renamed.count_by_type}', query => $$
	INSERT INTO store_test_renamed.count_by_type AS c SELECT type, count(*) FROM es_new_events GROUP BY type
	ON CONFLICT (type) DO UPDATE SET events = c.events + EXCLUDED.events $$);
SELECT es_rebuild_projection('count_by_type') = (SELECT count(*) FROM store_test_renamed.event) AS rebuilt;
CREATE TABLE store_test_renamed.before AS TABLE store_test_renamed.event;
\set VERBOSITY terse
DROP EXTENSION event_sourcing;
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
BEGIN;
SET LOCAL client_min_messages = warning;
DROP EXTENSION event_sourcing CASCADE;
RESET client_min_messages;
SELECT count(*) AS lost FROM (TABLE store_test_renamed.before EXCEPT ALL TABLE store_test_renamed.event) AS lost;
SELECT count(*) AS triggers FROM pg_trigger WHERE tgrelid = 'store_test_renamed.event'::regclass AND NOT tgisinternal;
-- Create it again, and the store is as it was after es_upgrade_store().
CREATE EXTENSION event_sourcing;
SELECT es_upgrade_store();
SELECT version FROM es_append('account-4', 'closed', '{}');
SELECT version, type FROM es_read_stream('account-4');
-- its projections go on, too
SELECT es_verify_projection('count_by_type') AS differences;
SAVEPOINT guarded;
UPDATE store_test_renamed.event SET data = '{}';
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO guarded;
INSERT INTO store_test_renamed.event SELECT * FROM store_test_renamed.event;
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
-- The session goes on with the extension that it had.
SELECT version FROM es_append('account-4', 'closed', '{}');
SELECT es_verify_projection('count_by_type') AS differences;

-- A store is not built around tables that somebody else has put there: their
-- triggers would run as whoever dispatches.
CREATE SCHEMA store_test_planted;
CREATE TABLE store_test_planted.receipt (command_id uuid PRIMARY KEY);
SELECT es_create_store('store_test_planted');
\echo :LAST_ERROR_SQLSTATE
DROP TABLE store_test_planted.receipt;
SELECT es_create_store('store_test_planted');
CREATE ROLE regress_store_other;
ALTER TABLE store_test_planted.receipt OWNER TO regress_store_other;
SELECT es_upgrade_store('store_test_planted');
\echo :LAST_ERROR_SQLSTATE
SET client_min_messages = warning;
DROP SCHEMA store_test_planted CASCADE;
RESET client_min_messages;
DROP ROLE regress_store_other;

-- Every object of the extension is described.  From 17 on, array types and the
-- row types of views are members, too; they need no words.
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS undescribed
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'event_sourcing'
	AND obj_description(d.objid, d.classid::regclass::name) IS NULL
	AND NOT EXISTS (SELECT FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid
					WHERE d.classid = 'pg_type'::regclass AND t.oid = d.objid
						AND (t.typcategory = 'A' OR c.relkind = 'v'))
ORDER BY 1;
-- Their names begin with es_.
SELECT pg_describe_object(d.classid, d.objid, d.objsubid) AS misnamed
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
LEFT JOIN pg_proc p ON p.oid = d.objid AND d.classid = 'pg_proc'::regclass
LEFT JOIN pg_type t ON t.oid = d.objid AND d.classid = 'pg_type'::regclass
LEFT JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'event_sourcing'
	AND COALESCE(p.proname, t.typname, c.relname) NOT LIKE 'es\_%'
	AND t.typcategory IS DISTINCT FROM 'A'
ORDER BY 1;

-- What writes or defines is granted to nobody: whatever is VOLATILE and may be
-- called by everybody reads the feed, waits for a subscription, or looks what a
-- session does; or it is a trigger function, which nobody can call.
SELECT p.oid::regprocedure AS function, p.prorettype::regtype AS result
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'event_sourcing' AND p.provolatile = 'v' AND has_function_privilege('public', p.oid, 'EXECUTE')
ORDER BY p.oid::regprocedure::text COLLATE "C";
-- No function runs with other rights than its caller's; those in SQL and
-- PL/pgSQL that read tables fix their search_path.  Procedures that COMMIT cannot:
-- everything in them is qualified.
SELECT p.oid::regprocedure AS security_definer
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
WHERE e.extname = 'event_sourcing' AND p.prosecdef
ORDER BY 1;
SELECT p.oid::regprocedure AS open_search_path
FROM pg_proc p JOIN pg_depend d ON d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'e'
JOIN pg_extension e ON e.oid = d.refobjid AND d.refclassid = 'pg_extension'::regclass
JOIN pg_language l ON l.oid = p.prolang
WHERE e.extname = 'event_sourcing' AND l.lanname IN ('sql', 'plpgsql') AND p.prosqlbody IS NULL
	AND NOT EXISTS (SELECT FROM unnest(p.proconfig) AS c WHERE c LIKE 'search_path=%')
ORDER BY 1;

-- Trigger functions are for the tables of a store.
SELECT es_event_guard();
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE store_test_renamed.mine (id int);
CREATE TRIGGER mine AFTER UPDATE ON store_test_renamed.mine EXECUTE FUNCTION es_project();
INSERT INTO store_test_renamed.mine VALUES (1);
UPDATE store_test_renamed.mine SET id = 2;
\echo :LAST_ERROR_SQLSTATE

SET client_min_messages = warning;
DROP SCHEMA store_test_renamed CASCADE;
RESET client_min_messages;
