-- A stream is read by its name, forward or backward, from any version on.  Its
-- version is the number of its events; its category is its name up to the
-- first "-".

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('stream_test');
SET event_sourcing.store = 'stream_test';

SELECT r.version FROM generate_series(1, 5) AS i, es_append('order-1', 'item_added', jsonb_build_object('i', i)) AS r ORDER BY 1;
SELECT version FROM es_append('order-10', 'opened', '{}');
SELECT version FROM es_append('order-', 'opened', '{}');

-- ---------------------------------------------------------------------------
-- Version
-- ---------------------------------------------------------------------------

SELECT es_stream_version('order-1') AS order_1, es_stream_version('order-10') AS order_10, es_stream_version('order-') AS "order-";
-- 0: there is none.  Names are compared to the letter.
SELECT es_stream_version('order') AS "order", es_stream_version('Order-1') AS "Order-1", es_stream_version('order-1 ') AS "order-1 ";
SELECT es_stream_version(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('');
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('$all');
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version(repeat('x', 513));
\echo :LAST_ERROR_SQLSTATE

-- The events of the own transaction count, until they are rolled back.
BEGIN;
SELECT version FROM es_append('order-10', 'closed', '{}');
SELECT es_stream_version('order-10');
ROLLBACK;
SELECT es_stream_version('order-10');

-- Every call of a statement sees what the statement sees, as any query does.
SELECT r.version AS appended, es_stream_version('order-10') AS seen FROM es_append('order-10', 'closed', '{}') AS r;
SELECT es_stream_version('order-10');

-- ---------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------

-- The envelope: everything that is known about an event.
SELECT position, stream, version, type, data, metadata, event_id IS NOT NULL AS event_id, correlation_id, causation_id,
	recorded_at IS NOT NULL AS recorded_at
FROM es_read_stream('order-1');
-- from a version on, so many events
SELECT version, data FROM es_read_stream('order-1', 4);
SELECT version, data FROM es_read_stream('order-1', 2, 2);
SELECT version, data FROM es_read_stream('order-1', max_count => 1);
SELECT version, data FROM es_read_stream('order-1', 5, 100);
-- backward: from the end, or from a version on towards the beginning
SELECT version, data FROM es_read_stream('order-1', backward => true);
SELECT version, data FROM es_read_stream('order-1', backward => true, max_count => 1);
SELECT version, data FROM es_read_stream('order-1', 3, backward => true);
-- Reading on backward, page by page, comes to an end: what is before version 1?
SELECT version FROM es_read_stream('order-1', 1, backward => true);
SELECT version FROM es_read_stream('order-1', 0, backward => true);
SELECT version, data FROM es_read_stream('order-1', 4, 2, true);
SELECT version, data FROM es_read_stream('order-1', 100, 2, true);

-- No events: of a stream that is not there, beyond the end, none wanted.
SELECT count(*) FROM es_read_stream('order-2');
SELECT count(*) FROM es_read_stream('order-2', backward => true);
SELECT count(*) FROM es_read_stream('order-1', 6);
SELECT count(*) FROM es_read_stream('order-1', 9223372036854775807);
SELECT count(*) FROM es_read_stream('order-1', 1, 0);
SELECT count(*) FROM es_read_stream('order-1', 1, 0, true);
-- NULL stands for the default.
SELECT count(*) FROM es_read_stream('order-1', NULL, NULL, NULL);
SELECT count(*) FROM es_read_stream('order-1', 1, 9223372036854775807);

SELECT * FROM es_read_stream(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_stream('');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_stream('$all');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_stream(repeat('x', 513));
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_stream('order-1', -1);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_stream('order-1', -1, backward => true);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_stream('order-1', 1, -1);
\echo :LAST_ERROR_SQLSTATE

-- As any function that returns a set: joined, in the select list, aggregated,
-- through a cursor in both directions.
SELECT s.stream, count(e.version), max(e.version)
FROM (VALUES ('order-1'), ('order-10'), ('order-2')) AS s(stream) LEFT JOIN LATERAL es_read_stream(s.stream) AS e ON true
GROUP BY s.stream ORDER BY s.stream;
SELECT (es_read_stream('order-10')).type;
SELECT to_json(e) ->> 'type' AS type FROM es_read_stream('order-10') AS e;
BEGIN;
DECLARE reader SCROLL CURSOR FOR SELECT version FROM es_read_stream('order-1');
FETCH 2 FROM reader;
FETCH BACKWARD 1 FROM reader;
FETCH LAST FROM reader;
COMMIT;

-- stream and type have the default collation: a condition on them can use the
-- index of a table of one's own.
SELECT pg_collation_for(stream) AS stream, pg_collation_for(type) AS type FROM es_read_stream('order-10') LIMIT 1;

-- In a transaction of REPEATABLE READ a stream stays as it was at the
-- transaction's beginning.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es_read_stream('order-1');
SELECT version FROM es_append('order-1', 'item_added', '{"i": 6}', expected_version => 5);
-- apart from its own events
SELECT count(*), es_stream_version('order-1') FROM es_read_stream('order-1');
ROLLBACK;

-- A stream of many events, read in pages, is the same as read at once.
SELECT version FROM es_append('long-1', ARRAY(SELECT es_new_event('counted', jsonb_build_object('i', i)) FROM generate_series(1, 2500) AS i));
WITH RECURSIVE page(from_version, versions) AS (
	SELECT 1::bigint, ARRAY(SELECT version FROM es_read_stream('long-1', 1, 700))
	UNION ALL
	SELECT p.from_version + 700, ARRAY(SELECT version FROM es_read_stream('long-1', p.from_version + 700, 700))
	FROM page p WHERE cardinality(p.versions) > 0
)
SELECT from_version, cardinality(versions), versions = ARRAY(SELECT v FROM generate_series(from_version, from_version + cardinality(versions) - 1) AS v) AS complete
FROM page ORDER BY from_version;
SELECT count(*) FROM (TABLE stream_test.event EXCEPT ALL
	(SELECT * FROM es_read_stream('long-1') UNION ALL SELECT * FROM es_read_stream('order-1')
	 UNION ALL SELECT * FROM es_read_stream('order-10') UNION ALL SELECT * FROM es_read_stream('order-', backward => true))) AS missing;

-- ---------------------------------------------------------------------------
-- The end
-- ---------------------------------------------------------------------------

-- A session remembers where the streams ended that it wrote to, to find their
-- ends sooner, and never believes it: whatever happened meanwhile, the next
-- version is one more than the last that is there.
SELECT version FROM es_append('end-1', ARRAY(SELECT es_new_event('counted') FROM generate_series(1, 40)));
-- rolled back
BEGIN;
SELECT version FROM es_append('end-1', 'counted', '{}');
SAVEPOINT before;
SELECT version FROM es_append('end-1', ARRAY(SELECT es_new_event('counted') FROM generate_series(1, 100)));
ROLLBACK TO before;
SELECT version FROM es_append('end-1', 'counted', '{}');
ROLLBACK;
SELECT version FROM es_append('end-1', 'counted', '{}');
-- a wrong version, far before and far behind the end
SELECT version FROM es_append('end-1', 'counted', '{}', expected_version => 1);
SELECT version FROM es_append('end-1', 'counted', '{}', expected_version => 40);
SELECT version FROM es_append('end-1', 'counted', '{}', expected_version => 4000);
SELECT version FROM es_append('end-1', 'counted', '{}', expected_version => 41);
-- a log that was put back to an earlier state
BEGIN;
SET LOCAL session_replication_role = replica;
ALTER TABLE stream_test.event DISABLE TRIGGER ALL;
DELETE FROM stream_test.event WHERE stream = 'end-1' AND version > 5;
ALTER TABLE stream_test.event ENABLE TRIGGER event_guard_insert, ENABLE ALWAYS TRIGGER event_guard_change;
COMMIT;
SELECT version FROM es_append('end-1', 'counted', '{}');
-- and one that went on far without this session
BEGIN;
SET LOCAL session_replication_role = replica;
INSERT INTO stream_test.event (position, stream, version, type, data, event_id, recorded_at)
SELECT nextval('stream_test.event_position'), 'end-1', v, 'counted', '{}', gen_random_uuid(), now() FROM generate_series(7, 500) v;
COMMIT;
SELECT version FROM es_append('end-1', 'counted', '{}');
SELECT count(*) = max(version) AND min(version) = 1 AS complete FROM es_read_stream('end-1');

-- ---------------------------------------------------------------------------
-- Category
-- ---------------------------------------------------------------------------

SELECT name, es_category(name) FROM (VALUES ('order-1'), ('order'), ('order-'), ('order-1-2'), ('-1'), ('-'), ('Order Item-1'),
	('größe-1'), ('')) AS v(name) ORDER BY name COLLATE "C";
SELECT es_category(NULL) IS NULL AS null;
