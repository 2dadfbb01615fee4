-- The feed is all events of a store in the order of their positions.  A reader
-- that continues from the last position it got misses none and sees none
-- twice: it sees positions up to the high-water mark, below which nothing will
-- ever appear that is not there yet.  This story is told by one session; what
-- others do at the same time is a matter of the isolation tests.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('feed_test');
SET event_sourcing.store = 'feed_test';

-- Nothing is there yet.
SELECT es_high_water();
SELECT count(*) FROM es_read_all();
SELECT count(*) FROM es_read_all(backward => true);

SELECT position FROM es_append('order-1', ARRAY[es_new_event('opened'), es_new_event('item_added', '{"i": 1}')]);
SELECT position FROM es_append('order-2', 'opened', '{}');
SELECT position FROM es_append('invoice-1', 'opened', '{}');
SELECT position FROM es_append('order-1', 'item_added', '{"i": 2}');
SELECT position FROM es_append('audit', 'logged', '{}');

-- ---------------------------------------------------------------------------
-- Reading
-- ---------------------------------------------------------------------------

SELECT es_high_water();
SELECT position, stream, version, type, data FROM es_read_all();
-- The envelope has the columns of the table, and the same content.
SELECT count(*) FROM (SELECT * FROM es_read_all() EXCEPT ALL TABLE feed_test.event) AS other;

-- Continue after the last position, a few events at a time.
SELECT position, stream FROM es_read_all(0, 2);
SELECT position, stream FROM es_read_all(2, 2);
SELECT position, stream FROM es_read_all(4, 2);
SELECT position, stream FROM es_read_all(6, 2);
SELECT position, stream FROM es_read_all(max_count => 1);
-- beyond the end, none wanted, all wanted
SELECT count(*) FROM es_read_all(9223372036854775807);
SELECT count(*) FROM es_read_all(0, 0);
SELECT count(*) FROM es_read_all(0, NULL);
SELECT count(*) FROM es_read_all(NULL, NULL, NULL, NULL, NULL);

-- Filters: of categories, of types, of both.
SELECT position, stream, type FROM es_read_all(categories => ARRAY['order']);
SELECT position, stream, type FROM es_read_all(categories => ARRAY['invoice', 'audit', 'nothing', 'audit']);
SELECT position, stream, type FROM es_read_all(types => ARRAY['opened']);
SELECT position, stream, type FROM es_read_all(categories => ARRAY['order'], types => ARRAY['opened', 'logged']);
SELECT position, stream, type FROM es_read_all(2, 1, ARRAY['order'], ARRAY['opened', 'item_added']);
-- a category is a whole one, and compared to the letter
SELECT count(*) FROM es_read_all(categories => ARRAY['ord', 'order-1', 'Order', 'order%', '']);
SELECT count(*) FROM es_read_all(types => ARRAY['open', 'Opened', 'open%']);
-- an empty filter lets nothing through
SELECT count(*) FROM es_read_all(categories => '{}');
SELECT count(*) FROM es_read_all(types => '{}');

-- Backward: from the end, or from before a position, with all the filters.
SELECT position, stream FROM es_read_all(backward => true);
SELECT position, stream FROM es_read_all(max_count => 2, backward => true);
SELECT position, stream FROM es_read_all(4, 2, backward => true);
SELECT position, stream FROM es_read_all(1, backward => true);
SELECT position, stream FROM es_read_all(100, 1, backward => true);
SELECT position, stream FROM es_read_all(categories => ARRAY['order'], types => ARRAY['opened'], backward => true);
SELECT position, stream FROM es_read_all(5, 1, ARRAY['order'], backward => true);
SELECT position, stream FROM es_read_all(6, 1, NULL, ARRAY['opened'], true);

SELECT * FROM es_read_all(-1);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_all(-1, backward => true);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_all(0, -1);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_all(categories => ARRAY['order', NULL]);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_read_all(types => ARRAY[NULL]::text[]);
\echo :LAST_ERROR_SQLSTATE

-- ---------------------------------------------------------------------------
-- Transactions
-- ---------------------------------------------------------------------------

-- The own events can be read before they are committed.
BEGIN;
SELECT position FROM es_append('order-3', 'opened', '{}');
SELECT position, stream FROM es_read_all(6);
SELECT es_high_water();
-- For everybody else they hold the mark back: it cannot pass position 6.
SELECT pid = pg_backend_pid() AS own, prepared, since = now() AS since_now, lower_bound FROM es_inflight;
COMMIT;
SELECT count(*) FROM es_inflight;
SELECT es_high_water();

-- A transaction that appends nothing is not in flight.
BEGIN;
SELECT count(*) FROM es_read_all();
SELECT version FROM es_append('order-3', '{}'::es_new_event[], 1);
SELECT count(*) FROM es_inflight;
COMMIT;

-- What is rolled back leaves a gap in the positions, and none in the versions.
BEGIN;
SELECT version, position FROM es_append('order-3', 'closed', '{}');
ROLLBACK;
SELECT count(*) FROM es_inflight;
SELECT es_high_water();
SELECT version, position FROM es_append('order-3', 'cancelled', '{}');
SELECT position, stream, version, type FROM es_read_all(6);

-- So does a savepoint.  The transaction is in flight when it appends again,
-- not as long as everything is rolled back.
BEGIN;
SAVEPOINT one;
SELECT version, position FROM es_append('order-4', 'opened', '{}');
ROLLBACK TO one;
SELECT lower_bound FROM es_inflight;
SELECT version, position FROM es_append('order-4', 'opened', '{}');
SAVEPOINT two;
SELECT version, position FROM es_append('order-4', 'closed', '{}');
SELECT version, position FROM es_append('order-5', 'opened', '{}');
ROLLBACK TO two;
SELECT lower_bound FROM es_inflight;
SELECT version, position FROM es_append('order-5', 'reopened', '{}');
RELEASE one;
SELECT position, stream, version, type FROM es_read_all(9);
COMMIT;
SELECT position, stream, version, type FROM es_read_all(9);

-- An append that fails leaves nothing behind it, either.
SELECT es_append('order-5', 'closed', '{}', expected_version => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM es_inflight;
SELECT position FROM es_append('order-5', 'closed', '{}', expected_version => 1);

-- In REPEATABLE READ, too, es_read_all() sees what is committed: it takes a
-- snapshot of its own, while the table and es_read_stream() show the
-- transaction's.  Another session does the append.
SELECT current_database() AS database \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT count(*) FROM es_read_all(14);
\setenv PGDATABASE :database
\! psql -X -q -A -t -c "SELECT position FROM es_append('order-6', 'opened', '{}')" -v ON_ERROR_STOP=1 "options='-c event_sourcing.store=feed_test'"
SELECT position, stream FROM es_read_all(14);
SELECT count(*) FROM es_read_stream('order-6');
SELECT count(*) FROM feed_test.event WHERE stream = 'order-6';
COMMIT;
SELECT count(*) FROM es_read_stream('order-6');

-- ---------------------------------------------------------------------------
-- The oracle
-- ---------------------------------------------------------------------------

-- More events, with gaps; then a reader that continues from position to
-- position, in pages of 7, gets the whole log once and in its order.
DO $$
BEGIN
	FOR i IN 1..100 LOOP
		BEGIN
			PERFORM es_append('many-' || i % 7, ARRAY(SELECT es_new_event('counted') FROM generate_series(1, i % 5)));
			IF i % 3 = 0 THEN
				RAISE 'forget it';
			END IF;
		EXCEPTION WHEN raise_exception THEN
			NULL;
		END;
	END LOOP;
END $$;
WITH RECURSIVE page(n, positions) AS (
	SELECT 1, ARRAY(SELECT position FROM es_read_all(0, 7))
	UNION ALL
	SELECT n + 1, ARRAY(SELECT position FROM es_read_all(positions[cardinality(positions)], 7))
	FROM page WHERE cardinality(positions) > 0
), seen AS (
	SELECT u.position, row_number() OVER (ORDER BY n, o) AS place FROM page, unnest(positions) WITH ORDINALITY AS u(position, o)
)
SELECT (SELECT count(*) FROM seen) = (SELECT count(*) FROM feed_test.event) AS complete,
	(SELECT count(*) FROM seen s FULL JOIN (SELECT position, row_number() OVER (ORDER BY position) AS place FROM feed_test.event) e
	 USING (position, place) WHERE s.position IS NULL OR e.position IS NULL) AS different,
	(SELECT max(position) FROM feed_test.event) < es_high_water() + 1 AS below_the_mark;
-- Backward is the same the other way round.
SELECT array_agg(position) = ARRAY(SELECT position FROM feed_test.event ORDER BY position DESC) AS same
FROM es_read_all(0, NULL, backward => true);
