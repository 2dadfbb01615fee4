-- State snapshots.  Every snapshot_every events of a stream, a dispatch writes
-- the state it ends with into the store's table "snapshot".  Whoever needs the
-- state and has none in memory begins there.  A state snapshot is only ever a
-- shortcut: with it or without it, the state is the same, and one that does not
-- fit the functions, the types or the log is ignored.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('snapshot_test');
SET event_sourcing.store = 'snapshot_test';
CREATE SCHEMA snapshot_app;
SET search_path = snapshot_app, public;
-- nothing is kept in memory here
SET event_sourcing.cache_size = 0;

CREATE TYPE meter AS (id text, total int, readings int[]);
CREATE TYPE read_meter AS (id text, units int[]);
CREATE TYPE metered AS (units int);
CREATE FUNCTION execute(s meter, c read_meter) RETURNS SETOF metered
	LANGUAGE sql AS 'SELECT u FROM unnest(c.units) u';
-- counts how often it runs
CREATE SEQUENCE applied;
CREATE FUNCTION apply(s meter, e metered) RETURNS meter LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('applied');
	s.total := COALESCE(s.total, 0) + e.units;
	s.readings := s.readings || e.units;
	RETURN s;
END $$;
SELECT es_create_aggregate('meter', snapshot_every => 5);

-- What has been applied since the last time this was asked.
CREATE FUNCTION runs() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	n bigint := nextval('applied') - 1;
BEGIN
	PERFORM setval('applied', 1, false);
	RETURN n;
END $$;
CREATE VIEW snapshots AS
	SELECT stream, version, state FROM snapshot_test.snapshot ORDER BY stream, aggregate;
SELECT runs();

-- Not yet, not yet, now: at the fifth event, or with the append that passes it.
SELECT version FROM es_dispatch(ROW('1', '{1,2,3,4}')::read_meter);
SELECT * FROM snapshots;
SELECT version FROM es_dispatch(ROW('1', '{5}')::read_meter);
SELECT * FROM snapshots;
SELECT version FROM es_dispatch(ROW('1', '{6,7}')::read_meter);
SELECT * FROM snapshots;
SELECT version FROM es_dispatch(ROW('1', '{8,9,10,11,12,13,14,15,16}')::read_meter);
SELECT * FROM snapshots;

-- It is used: of sixteen events, none is applied again; at version 15 all are,
-- since the snapshot is newer.
SELECT runs() > 0 AS before;
SELECT es_state('meter', '1') ->> 'total' AS total, runs();
SELECT es_state('meter', '1', at_version => 15) ->> 'total' AS total, runs();
-- A dispatch begins there, too, and applies its own event.
SELECT version FROM es_dispatch(ROW('1', '{17}')::read_meter);
SELECT runs();
-- The history is always folded from the start.
SELECT count(*), max(version) FROM es_history('meter', '1');
SELECT runs();

-- Oracle: with the snapshot, without it, and by the history.
CREATE TABLE answers AS SELECT 'snapshot' AS source, es_state('meter', '1') AS state;
INSERT INTO answers SELECT 'history', state FROM es_history('meter', '1') ORDER BY version DESC LIMIT 1;
-- Emptying the table is harmless.
DELETE FROM snapshot_test.snapshot;
SELECT runs() > 0 AS before;
INSERT INTO answers SELECT 'no snapshot', es_state('meter', '1');
SELECT runs();
SELECT count(*), count(DISTINCT state) FROM answers;
-- The next one is written when its time comes.
SELECT version FROM es_dispatch(ROW('1', '{18,19}')::read_meter);
SELECT count(*) FROM snapshots;
SELECT version FROM es_dispatch(ROW('1', '{20}')::read_meter);
SELECT stream, version FROM snapshots;

-- What is in a snapshot is believed only while it fits: one with a version that
-- the log does not have, or with a position that it has elsewhere, is ignored.
BEGIN;
UPDATE snapshot_test.snapshot SET state = jsonb_set(state, '{total}', '-1');
SELECT es_state('meter', '1') ->> 'total' AS believed;
UPDATE snapshot_test.snapshot SET position = position + 1;
SELECT es_state('meter', '1') ->> 'total' AS total;
UPDATE snapshot_test.snapshot SET position = position - 1, version = version + 7;
SELECT es_state('meter', '1') ->> 'total' AS total;
UPDATE snapshot_test.snapshot SET version = version - 9;
SELECT es_state('meter', '1') ->> 'total' AS total;
ROLLBACK;
-- So it is when the log is written anew, as after a restore of an older dump.
BEGIN;
SET LOCAL session_replication_role = replica;
ALTER TABLE snapshot_test.event DISABLE TRIGGER ALL;
DELETE FROM snapshot_test.event WHERE stream = 'meter-1';
ALTER TABLE snapshot_test.event ENABLE TRIGGER ALL;
RESET session_replication_role;
SELECT es_state('meter', '1') IS NULL AS gone;
SELECT version FROM es_dispatch(ROW('1', '{100}')::read_meter);
SELECT es_state('meter', '1');
SELECT version FROM es_append('meter-1', ARRAY(SELECT es_new_event(ROW(1)::metered) FROM generate_series(1, 30)));
SELECT es_state('meter', '1') ->> 'total' AS total;
ROLLBACK;

-- It is ignored when an apply function changes ...
SELECT runs() > 0 AS before;
SELECT es_state('meter', '1') ->> 'total' AS total, runs();
BEGIN;
CREATE OR REPLACE FUNCTION apply(s meter, e metered) RETURNS meter LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('applied');
	s.total := COALESCE(s.total, 0) + e.units * 1000;
	RETURN s;
END $$;
SELECT es_state('meter', '1'), runs();
ROLLBACK;
-- ... or the state's type, or an event's.
BEGIN;
ALTER TYPE meter ADD ATTRIBUTE unit text;
SELECT es_state('meter', '1') ->> 'total' AS total, runs();
ROLLBACK;
BEGIN;
ALTER TYPE metered ADD ATTRIBUTE unit text;
SELECT es_state('meter', '1') ->> 'total' AS total, runs();
ROLLBACK;
-- Back to what it was, it is good again.
SELECT es_state('meter', '1') ->> 'total' AS total, runs();

-- How often: 0 never, NULL is the default of 1000.
SELECT es_drop_aggregate('meter');
SELECT count(*) FROM snapshots;
SELECT es_create_aggregate('meter', snapshot_every => 0);
SELECT version FROM es_dispatch(ROW('2', ARRAY(SELECT generate_series(1, 2000)))::read_meter);
SELECT count(*) FROM snapshots;
SELECT es_drop_aggregate('meter');
SELECT es_create_aggregate('meter', snapshot_every => NULL);
SELECT version FROM es_dispatch(ROW('2', '{1}')::read_meter);
SELECT count(*) FROM snapshots;
SELECT version FROM es_dispatch(ROW('3', ARRAY(SELECT generate_series(1, 999)))::read_meter);
SELECT count(*) FROM snapshots;
SELECT version FROM es_dispatch(ROW('3', '{1000}')::read_meter);
SELECT stream, version, state ->> 'total' AS total FROM snapshots;

-- A snapshot dies with its transaction or savepoint.
SELECT es_drop_aggregate('meter');
SELECT es_create_aggregate('meter', snapshot_every => 1);
BEGIN;
SELECT version FROM es_dispatch(ROW('4', '{1}')::read_meter);
SAVEPOINT s;
SELECT version FROM es_dispatch(ROW('4', '{2}')::read_meter);
SELECT * FROM snapshots WHERE stream = 'meter-4';
ROLLBACK TO s;
SELECT * FROM snapshots WHERE stream = 'meter-4';
SELECT es_state('meter', '4');
COMMIT;

-- A state that JSON cannot hold exactly is not written, and right all the same.
CREATE TYPE gauge AS (id text, last point, raw bytea, ratio float4);
CREATE TYPE set_gauge AS (id text, ratio float4);
CREATE TYPE gauge_set AS (ratio float4);
CREATE FUNCTION execute(s gauge, c set_gauge) RETURNS gauge_set LANGUAGE sql RETURN ROW(c.ratio)::gauge_set;
CREATE FUNCTION apply(s gauge, e gauge_set) RETURNS gauge LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, point(e.ratio, 1e-30), '\x00ff'::bytea, e.ratio)::gauge;
SELECT es_create_aggregate('gauge', snapshot_every => 1);
SELECT version FROM es_dispatch(ROW('1', 0.1)::set_gauge);
SELECT es_state(NULL::gauge, '1'), es_state('gauge', '1') = state AS same FROM es_history('gauge', '1');
SELECT count(*) FROM snapshots WHERE stream = 'gauge-1';

-- State snapshots are the store's own: a role that may dispatch has no right to
-- the table, and they are kept and used all the same.
CREATE ROLE regress_snapshot_role;
GRANT USAGE ON SCHEMA snapshot_test, snapshot_app TO regress_snapshot_role;
GRANT SELECT, INSERT ON snapshot_test.event TO regress_snapshot_role;
GRANT SELECT ON snapshot_test.aggregate, snapshot_test.projection TO regress_snapshot_role;
GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA snapshot_test, snapshot_app TO regress_snapshot_role;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO regress_snapshot_role;
SET ROLE regress_snapshot_role;
SELECT version FROM es_dispatch(ROW('5', '{1,2,3}')::read_meter);
SELECT es_state('meter', '5');
RESET ROLE;
SELECT count(*) FROM snapshots WHERE stream = 'meter-5';
-- It uses what others wrote.
SELECT version FROM es_dispatch(ROW('5', '{4}')::read_meter);
SELECT runs() > 0 AS before;
SET ROLE regress_snapshot_role;
SELECT es_state('meter', '5');
SELECT version FROM es_dispatch(ROW('5', '{5}')::read_meter);
RESET ROLE;
SELECT runs();
SELECT stream, version FROM snapshots WHERE stream = 'meter-5';

SET client_min_messages = warning;
DROP OWNED BY regress_snapshot_role;
DROP ROLE regress_snapshot_role;
DROP SCHEMA snapshot_app, snapshot_test CASCADE;
