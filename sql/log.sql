-- A log that is just what es_create_store() made is read and written without
-- SQL.  Whatever somebody made of it, and whoever asks: nobody can tell the
-- direct way from a statement.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
CREATE SCHEMA log_test_app;
SELECT current_database() AS db \gset
ALTER DATABASE :"db" SET event_sourcing.store = 'log_test';
ALTER DATABASE :"db" SET search_path = log_test_app, public;
\c -
SET client_min_messages = warning;
SELECT es_create_store('log_test');

CREATE TYPE note AS (id text, total int, last text);
CREATE TYPE noted AS (n int, said text);
CREATE FUNCTION apply(s note, e noted) RETURNS note LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, coalesce(s.total, 0) + e.n, e.said)::note;
SELECT es_create_aggregate('note');
SELECT version FROM es_append('note-1', ARRAY[es_new_event(ROW(1, 'one')::noted),
	es_new_event(ROW(2, 'two')::noted, metadata => '{"by": "ann"}'), es_new_event(ROW(3, 'three')::noted)]);
SELECT version FROM es_append('note-2', ROW(1, 'other')::noted);

-- Each call is made twice, the direct way allowed and not, and undone.  Which
-- statements the first one came to shows in the plans that the session has more than
-- before; a session makes them anew for a schema that was renamed.
CREATE TABLE call (n serial, name text, statement text);
INSERT INTO call (name, statement) VALUES
	('append one', $$SELECT version FROM es_append('note-1', 'noted', '{"n": 4}', '{"by": "bob"}')$$),
	('append several', $$SELECT version FROM es_append('note-1', ARRAY[es_new_event('noted', '{"n": 4}'), es_new_event('noted', '{"n": 5}')])$$),
	('wrong version', $$SELECT version FROM es_append('note-1', 'noted', '{"n": 4}', expected_version => 1)$$),
	('version', $$SELECT es_stream_version('note-1')$$),
	('stream', $$SELECT version, type, data ->> 'n', metadata FROM es_read_stream('note-1', 2)$$),
	('stream, back', $$SELECT version FROM es_read_stream('note-1', 2, 5, true)$$),
	('feed', $$SELECT stream, version FROM es_read_all(1, 2)$$),
	('feed, back', $$SELECT stream, version FROM es_read_all(backward => true)$$),
	('feed of a type', $$SELECT count(*) FROM es_read_all(types => '{noted}')$$),
	('state', $$SELECT es_state(NULL::note, '1')$$);
CREATE FUNCTION log_plans() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS
	$$SELECT ident FROM pg_backend_memory_contexts WHERE name = 'CachedPlanSource' AND ident ~ '^INSERT INTO log_test.event \(|^SELECT .*::pg_catalog.* FROM log_test.event ' AND ident !~ '^SELECT ident'$$;
CREATE FUNCTION forget_plans() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	ALTER SCHEMA log_test RENAME TO log_test_renamed;
	ALTER SCHEMA log_test_renamed RENAME TO log_test;
	PERFORM es_current_store();
END $$;
CREATE FUNCTION attempt(direct boolean, statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
	state text;
	message text;
	detail text;
	hint text;
BEGIN
	PERFORM set_config('event_sourcing.direct_log', direct::text, true);
	EXECUTE format('SELECT coalesce(string_agg(r::text, '' ''), ''nothing'') FROM (%s) AS r', statement) INTO result;
	RAISE EXCEPTION USING ERRCODE = 'UNDO0';
EXCEPTION
	WHEN SQLSTATE 'UNDO0' THEN
		RETURN result;
	WHEN others THEN
		GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT,
			detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
		detail := regexp_replace(detail, '\(\d+, (.*, noted), .*\)', '(..., \1, ...)');
		RETURN concat_ws(' / ', state, message, nullif(detail, ''), nullif(hint, ''));
END $$;
CREATE FUNCTION compare(statement text, OUT statements text, OUT result text) LANGUAGE plpgsql AS $$
DECLARE
	before text[];
	by_statement text;
BEGIN
	PERFORM forget_plans();
	before := ARRAY(SELECT log_plans());
	result := attempt(true, statement);
	SELECT coalesce(string_agg(DISTINCT substring(p, '^\w+'), ', '), 'none')
	FROM (SELECT log_plans() EXCEPT ALL SELECT unnest(before)) AS made (p) INTO statements;
	by_statement := attempt(false, statement);
	IF result <> by_statement THEN
		result := 'DIRECT: ' || result || ', BY STATEMENT: ' || by_statement;
	END IF;
END $$;
CREATE FUNCTION outcome(statement text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	EXECUTE statement;
	EXECUTE query INTO result;
	RETURN result;
END $$;
CREATE VIEW every_call AS SELECT name, statements, result FROM call, LATERAL compare(statement) AS c ORDER BY n;
CREATE VIEW an_append AS SELECT name, statements, result FROM call, LATERAL compare(statement) AS c WHERE name = 'append one';

-- As it was made.  Filters are PostgreSQL's work.
SELECT * FROM every_call;
-- Off means off.
\c -
SET event_sourcing.direct_log = on;
SELECT version FROM es_append('note-2', ROW(2, 'other')::noted);
SELECT count(*) > 0 AS statements FROM log_plans();
SET event_sourcing.direct_log = off;
SELECT version FROM es_append('note-2', ROW(3, 'other')::noted);
SELECT count(*) > 0 AS statements FROM log_plans();
RESET event_sourcing.direct_log;

-- ---------------------------------------------------------------------------
-- Other tables
-- ---------------------------------------------------------------------------

-- One more column
BEGIN;
ALTER TABLE log_test.event ADD COLUMN seen timestamptz DEFAULT now();
SELECT * FROM every_call;
-- and one less: its place in the rows remains.
ALTER TABLE log_test.event DROP COLUMN seen;
SELECT * FROM every_call;
ROLLBACK;
-- A column of another name, of another type, with a precision
BEGIN;
ALTER TABLE log_test.event RENAME COLUMN metadata TO meta;
SELECT * FROM every_call;
ALTER TABLE log_test.event RENAME COLUMN meta TO metadata;
ALTER TABLE log_test.event ALTER COLUMN version TYPE numeric;
SELECT * FROM every_call;
ROLLBACK;
BEGIN;
ALTER TABLE log_test.event ALTER COLUMN recorded_at TYPE timestamptz(0);
SELECT * FROM compare($$SELECT outcome('SELECT es_append(''note-1'', ARRAY[es_new_event(''noted'', recorded_at => ''2001-02-03 04:05:06.7+00'')])',
	'SELECT extract(second FROM recorded_at) FROM es_read_stream(''note-1'', 4)')$$);
ROLLBACK;
-- in another order of its letters, although the same as it happens
BEGIN;
ALTER TABLE log_test.event ALTER COLUMN stream TYPE text COLLATE "POSIX";
SELECT * FROM an_append;
ROLLBACK;
-- that gives its values itself
BEGIN;
ALTER TABLE log_test.event ALTER COLUMN position ADD GENERATED ALWAYS AS IDENTITY (SEQUENCE NAME log_test.other);
SELECT * FROM an_append;
ROLLBACK;
-- Without an index, with one that waits to the end of the transaction
BEGIN;
ALTER TABLE log_test.event DROP CONSTRAINT event_position_key;
SELECT * FROM every_call;
ROLLBACK;
BEGIN;
ALTER TABLE log_test.event DROP CONSTRAINT event_pkey, ADD CONSTRAINT event_pkey PRIMARY KEY (stream, version) DEFERRABLE;
SELECT * FROM an_append;
ROLLBACK;
-- Not crash-safe; nothing else is different.
BEGIN;
ALTER SEQUENCE log_test.event_position OWNED BY NONE;
ALTER TABLE log_test.event SET UNLOGGED;
SELECT * FROM every_call;
ROLLBACK;
-- With a child, whose events are the log's
BEGIN;
CREATE TABLE log_test.older () INHERITS (log_test.event);
INSERT INTO log_test.older SELECT 0, 'note-0', 1, 'noted', '{}', NULL, gen_random_uuid(), NULL, NULL, now();
SELECT * FROM every_call;
ROLLBACK;
-- In partitions
BEGIN;
CREATE TABLE log_test.kept AS SELECT * FROM log_test.event;
ALTER SEQUENCE log_test.event_position OWNED BY NONE;
DROP TABLE log_test.event;
CREATE TABLE log_test.event (LIKE es_event, PRIMARY KEY (stream, version)) PARTITION BY HASH (stream);
CREATE TABLE log_test.event_0 PARTITION OF log_test.event FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE log_test.event_1 PARTITION OF log_test.event FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO log_test.event SELECT * FROM log_test.kept;
SELECT * FROM every_call;
ROLLBACK;
-- A view under the log's name
BEGIN;
ALTER TABLE log_test.event RENAME TO event_kept;
CREATE VIEW log_test.event AS SELECT * FROM log_test.event_kept WHERE version < 3;
SELECT * FROM every_call;
ROLLBACK;

-- ---------------------------------------------------------------------------
-- Rules, triggers and constraints
-- ---------------------------------------------------------------------------

BEGIN;
CREATE RULE nothing AS ON INSERT TO log_test.event DO INSTEAD NOTHING;
SELECT * FROM every_call;
ROLLBACK;
-- Triggers of a row, after it, fire either way, and see the same.
CREATE TABLE fired (what text);
CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO fired SELECT concat_ws(' ', TG_NAME, TG_WHEN, TG_LEVEL, NEW.version, 'of', count(*)) FROM log_test.event;
	RETURN NEW;
END $$;
CREATE VIEW trace AS SELECT * FROM compare($$SELECT outcome('SELECT es_append(''note-1'', ARRAY[es_new_event(''noted'', ''{"n": 4}''), es_new_event(''noted'', ''{"n": 5}'')])',
	'SELECT string_agg(what, '', '' ORDER BY what) FROM fired')$$);
BEGIN;
CREATE TRIGGER after_row AFTER INSERT ON log_test.event FOR EACH ROW EXECUTE FUNCTION fire();
CREATE TRIGGER after_row_when AFTER INSERT ON log_test.event FOR EACH ROW WHEN (NEW.version = 4) EXECUTE FUNCTION fire();
CREATE TRIGGER after_row_system AFTER INSERT ON log_test.event FOR EACH ROW
	WHEN (NEW.tableoid = 'log_test.event'::regclass AND NEW.ctid IS NOT NULL AND NEW.xmin IS NOT NULL) EXECUTE FUNCTION fire();
CREATE TRIGGER after_row_replica AFTER INSERT ON log_test.event FOR EACH ROW EXECUTE FUNCTION fire();
CREATE TRIGGER after_row_disabled AFTER INSERT ON log_test.event FOR EACH ROW EXECUTE FUNCTION fire();
ALTER TABLE log_test.event ENABLE REPLICA TRIGGER after_row_replica, DISABLE TRIGGER after_row_disabled;
SELECT * FROM trace;
SET LOCAL session_replication_role = replica;
SELECT * FROM trace;
ROLLBACK;
-- All others make it a statement.
BEGIN;
CREATE TRIGGER after_statement AFTER INSERT ON log_test.event FOR EACH STATEMENT EXECUTE FUNCTION fire();
SELECT * FROM trace;
ROLLBACK;
BEGIN;
CREATE TRIGGER before_statement BEFORE INSERT ON log_test.event FOR EACH STATEMENT EXECUTE FUNCTION fire();
SELECT * FROM trace;
ROLLBACK;
BEGIN;
CREATE TRIGGER before_row BEFORE INSERT ON log_test.event FOR EACH ROW EXECUTE FUNCTION fire();
SELECT * FROM trace;
ROLLBACK;
BEGIN;
CREATE TRIGGER after_row AFTER INSERT ON log_test.event REFERENCING NEW TABLE AS new FOR EACH ROW EXECUTE FUNCTION fire();
SELECT * FROM trace;
ROLLBACK;
-- A trigger that drops the row
BEGIN;
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER swallow BEFORE INSERT ON log_test.event FOR EACH ROW EXECUTE FUNCTION swallow();
SELECT * FROM an_append;
ROLLBACK;
-- Triggers of other commands say nothing about the insert.
BEGIN;
CREATE TRIGGER before_truncate BEFORE TRUNCATE ON log_test.event FOR EACH STATEMENT EXECUTE FUNCTION fire();
SELECT * FROM trace;
ROLLBACK;
-- What the table checks is checked.
BEGIN;
ALTER TABLE log_test.event ADD CONSTRAINT few CHECK (version < 4);
SELECT * FROM an_append;
ROLLBACK;
BEGIN;
ALTER TABLE log_test.event ADD CONSTRAINT here CHECK (tableoid = 'log_test.event'::regclass);
SELECT * FROM an_append;
ROLLBACK;
BEGIN;
CREATE UNIQUE INDEX said ON log_test.event ((data ->> 'n')) WHERE stream = 'note-1';
SELECT * FROM an_append;
SELECT * FROM compare($$SELECT version FROM es_append('note-1', 'noted', '{"n": 2}')$$);
ROLLBACK;
-- A foreign key, at once and at the end
BEGIN;
CREATE TABLE known (type text PRIMARY KEY);
INSERT INTO known VALUES ('noted');
ALTER TABLE log_test.event ADD CONSTRAINT known FOREIGN KEY (type) REFERENCES known;
SELECT * FROM an_append;
SELECT * FROM compare($$SELECT version FROM es_append('note-1', 'forgotten', '{}')$$);
ALTER TABLE log_test.event ALTER CONSTRAINT known DEFERRABLE INITIALLY DEFERRED;
SELECT * FROM compare($$SELECT version FROM es_append('note-1', 'forgotten', '{}')$$);
SELECT version FROM es_append('note-1', 'forgotten', '{}');
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK;
-- Versions that the session cannot know of, since they came in beside the locks
BEGIN;
CREATE FUNCTION jump() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('session_replication_role', 'replica', true);
	INSERT INTO log_test.event SELECT NEW.position + 1000, NEW.stream, NEW.version + 1, NEW.type, NEW.data, NULL, NEW.event_id, NULL, NULL, now();
	PERFORM set_config('session_replication_role', 'origin', true);
	RETURN NULL;
END $$;
CREATE TRIGGER jump AFTER INSERT ON log_test.event FOR EACH ROW WHEN (NEW.version = 1000) EXECUTE FUNCTION jump();
SELECT * FROM compare($$SELECT version FROM es_append('note-9', ARRAY(SELECT es_new_event('noted') FROM generate_series(1, 1001)))$$);
ROLLBACK;

-- ---------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------

CREATE ROLE regress_es_reader;
CREATE ROLE regress_es_writer;
GRANT USAGE ON SCHEMA log_test, log_test_app TO regress_es_reader, regress_es_writer;
GRANT SELECT ON call, every_call, an_append TO regress_es_reader, regress_es_writer;
GRANT SELECT ON log_test.event, log_test.aggregate, log_test.snapshot TO regress_es_reader, regress_es_writer;
GRANT SELECT ON log_test.event_position TO regress_es_reader;
SELECT format('GRANT EXECUTE ON FUNCTION %s TO regress_es_reader, regress_es_writer', oid::regprocedure)
FROM pg_proc WHERE proname = 'es_append' ORDER BY 1 \gexec
-- A reader reads.
\c -
SET ROLE regress_es_reader;
SELECT * FROM every_call;
RESET ROLE;
-- A role gets rights by a grant, or from a role that it becomes a member of, and
-- loses them; the session has looked at them before.
CREATE VIEW tried AS SELECT attempt(true, statement) FROM call WHERE name = 'append one';
GRANT SELECT ON tried TO regress_es_reader;
GRANT USAGE ON log_test.event_position TO regress_es_reader, regress_es_writer;
GRANT INSERT ON log_test.event TO regress_es_writer;
SET ROLE regress_es_reader;
SELECT * FROM tried;
RESET ROLE;
GRANT regress_es_writer TO regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM tried;
RESET ROLE;
REVOKE regress_es_writer FROM regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM tried;
RESET ROLE;
GRANT INSERT ON log_test.event TO regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM tried;
SELECT * FROM every_call;
RESET ROLE;
REVOKE INSERT ON log_test.event FROM regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM tried;
-- A function of somebody else has that one's rights, and its caller's come back.
RESET ROLE;
CREATE FUNCTION append_as_owner() RETURNS bigint LANGUAGE sql SECURITY DEFINER AS
	$$SELECT version FROM es_append('note-1', 'noted', '{}')$$;
SET ROLE regress_es_reader;
SELECT * FROM compare('SELECT append_as_owner()');
SELECT * FROM tried;
RESET ROLE;
-- Rights on columns: the statement knows for which it needs them.
REVOKE SELECT ON log_test.event FROM regress_es_reader;
GRANT SELECT (stream, version, position), INSERT ON log_test.event TO regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM every_call;
RESET ROLE;
-- No right to read at all, and no right to the schema
REVOKE SELECT (stream, version, position) ON log_test.event FROM regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM every_call;
RESET ROLE;
GRANT SELECT ON log_test.event TO regress_es_reader;
REVOKE USAGE ON SCHEMA log_test FROM regress_es_reader;
SET ROLE regress_es_reader;
SELECT * FROM every_call;
RESET ROLE;
GRANT USAGE ON SCHEMA log_test TO regress_es_reader;
-- Row security: the writer sees one stream and may write to another.
CREATE POLICY of_reader ON log_test.event FOR SELECT TO regress_es_reader USING (stream = 'note-2');
CREATE POLICY to_reader ON log_test.event FOR INSERT TO regress_es_reader WITH CHECK (version < 4);
ALTER TABLE log_test.event ENABLE ROW LEVEL SECURITY;
SET ROLE regress_es_reader;
SELECT * FROM every_call;
-- where it would make a difference, it must not be overlooked
SET row_security = off;
SELECT * FROM an_append;
RESET ROLE;
RESET row_security;
SELECT * FROM every_call;
ALTER TABLE log_test.event DISABLE ROW LEVEL SECURITY;
SET ROLE regress_es_reader;
SELECT result FROM compare($$SELECT count(*) FROM es_read_stream('note-1')$$);
RESET ROLE;

-- ---------------------------------------------------------------------------
-- Transactions
-- ---------------------------------------------------------------------------

-- Only reading
BEGIN READ ONLY;
SELECT name, attempt(true, statement) = attempt(false, statement) AS same, attempt(true, statement) FROM call ORDER BY n;
ROLLBACK;
-- What was rolled back is gone, and its version is free again.
BEGIN;
SELECT version FROM es_append('note-3', ROW(1, 'kept')::noted);
SAVEPOINT s;
SELECT version FROM es_append('note-3', ARRAY[es_new_event(ROW(2, 'lost')::noted), es_new_event(ROW(3, 'lost')::noted)]);
SELECT es_state(NULL::note, '3');
ROLLBACK TO s;
SELECT version FROM es_append('note-3', ROW(4, 'kept')::noted);
SELECT version, data ->> 'n' AS n FROM es_read_stream('note-3');
COMMIT;
SELECT es_state(NULL::note, '3');
-- A cursor shows what was there when it was opened.
BEGIN;
DECLARE c CURSOR FOR SELECT version FROM es_read_stream('note-3');
SELECT version FROM es_append('note-3', ROW(8, 'later')::noted);
FETCH ALL FROM c;
SELECT max(version) FROM es_read_stream('note-3');
COMMIT;
-- A statement sees no event of its own.
SELECT a.version, es_stream_version('note-3') AS before FROM es_append('note-3', ROW(9, 'now')::noted) AS a;
-- A handler appends to another stream while its own event is being written.
SET client_min_messages = warning;
CREATE FUNCTION echo(e noted) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.said = 'echo' THEN
		PERFORM es_append('echo-' || i, 'noted', jsonb_build_object('n', e.n, 'said', 'echoed')) FROM generate_series(1, 2) AS i;
	END IF;
END $$;
SELECT es_create_projection('echo', 'echo');
SELECT * FROM compare($$SELECT version FROM es_append('note-4', ARRAY[es_new_event(ROW(1, 'echo')::noted), es_new_event(ROW(2, 'echo')::noted)])$$);
SELECT version FROM es_append('note-4', ARRAY[es_new_event(ROW(1, 'echo')::noted), es_new_event(ROW(2, 'echo')::noted)]);
SELECT stream, version, data FROM es_read_all() WHERE stream ~ '^(note-4|echo)' ORDER BY position;

-- ---------------------------------------------------------------------------
-- Large and many
-- ---------------------------------------------------------------------------

-- Values that do not fit into a page; as they came and as they are stored.
SELECT version FROM es_append('large-1', ARRAY(SELECT es_new_event('large', jsonb_build_object('text', string_agg(md5((i * 1000 + j)::text), '')))
											   FROM generate_series(1, 3) AS i, generate_series(1, 20000) AS j GROUP BY i ORDER BY i));
SELECT version, length(data ->> 'text'), md5(data ->> 'text') = md5((SELECT string_agg(md5((version * 1000 + j)::text), '') FROM generate_series(1, 20000) AS j)) AS same
FROM es_read_stream('large-1');
SELECT version FROM es_append('large-2', ARRAY(SELECT es_new_event('large', data) FROM log_test.event WHERE stream = 'large-1' ORDER BY version));
SELECT count(DISTINCT md5(data::text)) FROM log_test.event WHERE stream LIKE 'large-%';
-- More than one portion
SELECT version FROM es_append('many-1', ARRAY(SELECT es_new_event(ROW(i, 'many')::noted) FROM generate_series(1, 2500) AS i));
SELECT count(*), min(version), max(version), bool_and((data ->> 'n')::bigint = version) AS in_order FROM es_read_stream('many-1');
SELECT array_agg(version) FROM es_read_stream('many-1', 2000, 3);
SELECT array_agg(version) FROM es_read_stream('many-1', 2000, 3, true);
SELECT count(*) FROM es_read_stream('many-1', 5, 0);
SELECT array_agg(version) FROM es_read_all(0, 3, backward => true);
SELECT count(*) FROM es_read_all((SELECT max(position) FROM log_test.event));
-- and the only way in is still es_append().
INSERT INTO log_test.event SELECT 0, 'note-1', 9, 'noted', '{}', NULL, gen_random_uuid();

-- The oracle: versions without gaps, positions that rise with them
SELECT stream, version FROM (SELECT stream, version, row_number() OVER w, position <= lag(position) OVER w AS fell FROM log_test.event
							 WINDOW w AS (PARTITION BY stream ORDER BY version)) AS e
WHERE version <> row_number OR fell;

SELECT es_drop_projection('echo');
ALTER DATABASE :"db" RESET event_sourcing.store;
ALTER DATABASE :"db" RESET search_path;
SET client_min_messages = warning;
DROP OWNED BY regress_es_reader, regress_es_writer;
DROP ROLE regress_es_reader, regress_es_writer;
DROP SCHEMA log_test, log_test_app CASCADE;
