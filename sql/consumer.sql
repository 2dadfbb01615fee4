-- Consumers pull the events of a subscription.  What a consumer fetches is
-- leased to it, and comes again until it is acknowledged: at least once.  A
-- stream always belongs to the same partition, and a partition to one consumer
-- at a time, so the order of each stream is kept, whatever fails.  This story is
-- told by one session under the names of several consumers.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('consumer_test');
SET event_sourcing.store = 'consumer_test';

-- Who has which lease, and what is put aside.
CREATE VIEW consumer_test.lease AS
	SELECT subscription, partition, position, consumer, leased_to, failed_position, attempts, retry_at IS NOT NULL AS backs_off, last_error
	FROM consumer_test.checkpoint;
CREATE VIEW consumer_test.aside AS
	SELECT subscription, position, stream, state, reason, attempts, consumer FROM consumer_test.parked_event;

SELECT position FROM es_append('order-1', ARRAY[es_new_event('opened'), es_new_event('item_added', '{"i": 1}')]);
SELECT position FROM es_append('order-2', 'opened', '{}');
SELECT position FROM es_append('invoice-1', 'opened', '{}');
SELECT position FROM es_append('order-1', 'item_added', '{"i": 2}');

-- ---------------------------------------------------------------------------
-- Fetch and acknowledge
-- ---------------------------------------------------------------------------

SELECT es_create_subscription('all');
SELECT position, stream, version, type, data FROM es_fetch('all', 'a', 3);
-- Whoever lost the answer, or was restarted, fetches again: the same, and more.
SELECT position, stream FROM es_fetch('all', 'a', 3);
SELECT position, stream FROM es_fetch('all', 'a');
-- The one partition is leased: nothing for anybody else.
SELECT count(*) FROM es_fetch('all', 'b');
SELECT partition, position, consumer, leased_to FROM consumer_test.lease;

-- Acknowledged is all up to a position.
SELECT es_ack('all', 'a', 2);
SELECT partition, position, consumer, leased_to FROM consumer_test.lease;
SELECT position FROM es_fetch('all', 'a', 2);
SELECT es_ack('all', 'a', 1);
SELECT es_ack('all', 'a', 2);
-- After the last one the lease ends,
SELECT es_ack('all', 'a', 5);
SELECT partition, position, consumer, leased_to FROM consumer_test.lease;
-- and the same again does no harm: the answer may have been lost.
SELECT es_ack('all', 'a', 5);
SELECT es_ack('all', 'a', 4);
SELECT count(*) FROM es_fetch('all', 'a');

-- What is not done is not acknowledged by somebody without a lease.
SELECT position FROM es_append('order-2', 'closed', '{}');
SELECT es_ack('all', 'a', 6);
\echo :LAST_ERROR_SQLSTATE
SELECT position FROM es_fetch('all', 'b');
SELECT es_ack('all', 'a', 6);
\echo :LAST_ERROR_SQLSTATE
SELECT es_nack('all', 'a', 6);
\echo :LAST_ERROR_SQLSTATE
SELECT es_ack('all', 'b', 100);
SELECT position FROM consumer_test.lease;

-- A fetch can say at once that what came before is done; 0, in the first call of
-- a loop, says nothing.  Both are one transaction.
SELECT es_create_subscription('loop');
SELECT position FROM es_fetch('loop', 'a', 4, ack => 0);
SELECT position FROM es_fetch('loop', 'a', 4, ack => 4);
SELECT position, consumer, leased_to FROM consumer_test.checkpoint WHERE subscription = 'loop';
-- The answer was lost: the same again.
SELECT position FROM es_fetch('loop', 'a', 4, ack => 4);
-- Nothing is left, and what was acknowledged is not held back by the waiting.
SELECT position FROM es_fetch('loop', 'a', 4, wait => '1 hour', ack => 6);
SELECT position, consumer, leased_to FROM consumer_test.checkpoint WHERE subscription = 'loop';
SELECT position FROM es_fetch('loop', 'a', 4, wait => '10 milliseconds', ack => 6);
SELECT position FROM es_fetch('loop', 'a', ack => -1);
SELECT position FROM es_fetch('loop', 'a', ack => 7);
\echo :LAST_ERROR_SQLSTATE
SELECT es_reset_subscription('loop', 0);
-- What was fetched in a transaction that is rolled back was never fetched.
SELECT position FROM es_fetch('loop', 'a', 2, ack => 0);
BEGIN;
SAVEPOINT before;
SELECT position FROM es_fetch('loop', 'a', 2, ack => 2);
ROLLBACK TO before;
SELECT position FROM es_fetch('loop', 'a', 2, ack => 4);
ROLLBACK;
SELECT position, consumer, leased_to FROM consumer_test.checkpoint WHERE subscription = 'loop';
SELECT position FROM es_fetch('loop', 'a', 2, ack => 4);
SELECT es_drop_subscription('loop');

-- Whoever has lost a part of what it was handed must not say that all is done,
-- though it still holds the rest: it has to fetch first.
SELECT es_create_subscription('halves', partitions => 2, lease => '1 millisecond');
SELECT array_agg(position ORDER BY position) FROM es_fetch('halves', 'a');
SELECT partition, consumer FROM consumer_test.checkpoint WHERE subscription = 'halves' ORDER BY partition;
DO $$ BEGIN
	WHILE EXISTS (SELECT FROM consumer_test.checkpoint
	              WHERE subscription = 'halves' AND leased_until > clock_timestamp()) LOOP
	END LOOP;
END $$;
SELECT position FROM es_fetch('halves', 'b', 1);
SELECT partition, consumer FROM consumer_test.checkpoint WHERE subscription = 'halves' ORDER BY partition;
SELECT es_ack('halves', 'a', 6);
\echo :LAST_ERROR_SQLSTATE
SELECT min(position) > 0 AS fetched FROM es_fetch('halves', 'a', ack => 6);
\echo :LAST_ERROR_SQLSTATE
SELECT min(position) > 0 AS fetched FROM es_fetch('halves', 'a');
SELECT es_ack('halves', 'a', 6);
SELECT es_drop_subscription('halves');

-- What is parked can be tried again, once: refused, it is parked again or skipped, and what
-- waited behind it comes.
SELECT es_create_subscription('again', lease => '1 hour');
SELECT position, stream FROM es_fetch('again', 'a') ORDER BY position;
SELECT es_nack('again', 'a', 1, 'park', 'bad');
SELECT es_ack('again', 'a', 100);
SELECT position, stream, state, consumer, reason FROM consumer_test.parked_event WHERE subscription = 'again' ORDER BY position;
SELECT es_replay_parked('again');
SELECT position FROM es_fetch('again', 'a');
SELECT es_nack('again', 'a', 1, 'retry');
SELECT position, state, consumer, reason FROM consumer_test.parked_event WHERE subscription = 'again' ORDER BY position;
SELECT es_replay_parked('again');
SELECT position FROM es_fetch('again', 'a');
-- its holder is gone: it counts as refused
UPDATE consumer_test.checkpoint SET leased_until = '2000-01-01' WHERE subscription = 'again';
SELECT position FROM es_fetch('again', 'b');
SELECT position, state, consumer, reason FROM consumer_test.parked_event WHERE subscription = 'again' ORDER BY position;
SELECT es_ack('again', 'a', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_replay_parked('again');
SELECT position FROM es_fetch('again', 'b');
SELECT es_nack('again', 'b', 1, 'skip');
SELECT position, state, consumer FROM consumer_test.parked_event WHERE subscription = 'again' ORDER BY position;
SELECT position FROM es_fetch('again', 'b');
SELECT es_ack('again', 'b', 100);
SELECT position, consumer, leased_to FROM consumer_test.checkpoint WHERE subscription = 'again';
SELECT count(*) FROM consumer_test.parked_event WHERE subscription = 'again';
SELECT es_drop_subscription('again');

-- Waiting ends when there is nothing to wait for any more.
SELECT count(*) FROM es_fetch('all', 'a', wait => '10 milliseconds');
SELECT count(*) FROM es_fetch('all', 'a', wait => '-1 second');

-- It is all a part of the transaction.
BEGIN;
SELECT position FROM es_append('order-3', 'opened', '{}');
SELECT position FROM es_fetch('all', 'a');
SELECT es_ack('all', 'a', 7);
SELECT position, consumer FROM consumer_test.lease;
ROLLBACK;
SELECT position, consumer FROM consumer_test.lease;

-- ---------------------------------------------------------------------------
-- Filters, and where to begin
-- ---------------------------------------------------------------------------

SELECT es_create_subscription('orders', categories => ARRAY['order']);
SELECT es_create_subscription('openings', types => ARRAY['opened']);
SELECT es_create_subscription('order 2', stream => 'order-2');
SELECT es_create_subscription('late', from_position => 4);
SELECT es_create_subscription('from now', from_position => NULL);
SELECT position, stream FROM es_fetch('orders', 'a');
SELECT position, type FROM es_fetch('openings', 'a');
SELECT position, stream FROM es_fetch('order 2', 'a');
SELECT position FROM es_fetch('late', 'a');
SELECT position FROM es_fetch('from now', 'a');
SELECT position FROM es_append('order-4', 'opened', '{}') \gset
SELECT position = :position AS new FROM es_fetch('from now', 'a');

-- A subscription that finds nothing moves on, to the last event that it has read.
SELECT es_create_subscription('nothing', types => ARRAY['nothing']);
SELECT count(*) FROM es_fetch('nothing', 'a');
SELECT position = :position AS moved, consumer FROM consumer_test.lease WHERE subscription = 'nothing';

-- Paused, it gives nothing.
UPDATE consumer_test.subscription SET paused = true WHERE name = 'orders';
SELECT count(*) FROM es_fetch('orders', 'a');
SELECT es_ack('orders', 'a', 2);
UPDATE consumer_test.subscription SET paused = false WHERE name = 'orders';
SELECT position < 8 AS old FROM es_fetch('orders', 'a', 2);

-- Reset, it begins again, and the leases are lost.
SELECT es_reset_subscription('orders', 2);
SELECT es_ack('orders', 'a', 3);
\echo :LAST_ERROR_SQLSTATE
SELECT position FROM es_fetch('orders', 'a', 2);

-- ---------------------------------------------------------------------------
-- Refusing an event
-- ---------------------------------------------------------------------------

SELECT es_create_store('nack_test');
SET event_sourcing.store = 'nack_test';
CREATE VIEW nack_test.lease AS
	SELECT position, consumer, leased_to, failed_position, attempts, retry_at IS NOT NULL AS backs_off, last_error
	FROM nack_test.checkpoint WHERE subscription = 'n';
CREATE VIEW nack_test.aside AS
	SELECT position, stream, state, reason, attempts, consumer FROM nack_test.parked_event WHERE subscription = 'n' ORDER BY position;
SELECT count(es_append('s-' || i % 2, 'counted', '{}'::jsonb)) FROM generate_series(1, 6) AS i;
SELECT es_create_subscription('n', max_retries => 1);
SELECT position, stream FROM es_fetch('n', 'a', 4);

-- Retry: the lease ends, and everything after the checkpoint comes again, later.
SET event_sourcing.retry_delay = '1h';
SELECT es_ack('n', 'a', 1);
SELECT es_nack('n', 'a', 3, reason => 'not now');
TABLE nack_test.lease;
SELECT count(*) FROM es_fetch('n', 'a');
RESET event_sourcing.retry_delay;
UPDATE nack_test.checkpoint SET retry_at = now();
SELECT position FROM es_fetch('n', 'a', 3);
-- After max_retries it is parked, and its stream waits behind it.
SELECT es_nack('n', 'a', 3);
TABLE nack_test.lease;
TABLE nack_test.aside;
SELECT position, stream FROM es_fetch('n', 'a');
TABLE nack_test.aside;
SELECT es_ack('n', 'a', 6);
TABLE nack_test.lease;

-- Skip: the first one moves the checkpoint, any other is kept in mind until it is passed.
SELECT es_reset_subscription('n', 0);
TABLE nack_test.aside;
SELECT position FROM es_fetch('n', 'a', 4);
SELECT es_nack('n', 'a', 1, 'skip');
SELECT es_nack('n', 'a', 3, 'skip', 'of no use');
-- once more does no harm
SELECT es_nack('n', 'a', 3, 'skip');
SELECT es_nack('n', 'a', 1, 'skip');
TABLE nack_test.lease;
TABLE nack_test.aside;
SELECT position FROM es_fetch('n', 'a', 4);
SELECT es_ack('n', 'a', 2);
TABLE nack_test.lease;
TABLE nack_test.aside;

-- Park: a stream is held, the others go on.
SELECT es_nack('n', 'a', 4, 'park', 'look at this');
TABLE nack_test.aside;
SELECT position, stream FROM es_fetch('n', 'a');
SELECT es_nack('n', 'a', 6, 'retry');
\echo :LAST_ERROR_SQLSTATE
SELECT es_ack('n', 'a', 5);
SELECT count(*) FROM es_fetch('n', 'a');
TABLE nack_test.lease;
TABLE nack_test.aside;

-- ---------------------------------------------------------------------------
-- Replay
-- ---------------------------------------------------------------------------

-- The parked events come first and alone; new ones of their stream wait behind them.
SELECT position FROM es_append('s-0', 'counted', '{}');
SELECT position FROM es_append('s-1', 'counted', '{}');
SELECT es_replay_parked('n');
SELECT position, stream FROM es_fetch('n', 'a');
SELECT position FROM es_fetch('n', 'a', 1);
SELECT count(*) FROM es_fetch('n', 'b');
TABLE nack_test.aside;
-- Refused again, it is parked again, and what came after it waits.
SELECT es_nack('n', 'a', 4, 'retry', 'still bad');
TABLE nack_test.aside;
SELECT position, stream FROM es_fetch('n', 'a');
SELECT es_ack('n', 'a', 8);
SELECT count(*) FROM es_fetch('n', 'a');
TABLE nack_test.aside;
-- In order to the end: what waited is released by those before it.
SELECT es_replay_parked('n');
SELECT position FROM es_append('s-0', 'counted', '{}');
SELECT position FROM es_fetch('n', 'a', 2);
SELECT es_ack('n', 'a', 6);
SELECT position FROM es_fetch('n', 'a');
SELECT es_ack('n', 'a', 7);
SELECT position FROM es_fetch('n', 'a');
SELECT es_ack('n', 'a', 9);
TABLE nack_test.lease;
TABLE nack_test.aside;

-- A parked event can be given up: those behind it go on.
SELECT count(es_append('s-0', 'counted', '{}'::jsonb)) FROM generate_series(1, 3);
SELECT position FROM es_fetch('n', 'a');
SELECT es_nack('n', 'a', 10, 'park');
TABLE nack_test.aside;
SELECT es_skip_parked('n', 10);
SELECT position FROM es_fetch('n', 'a');
SELECT es_ack('n', 'a', 12);
TABLE nack_test.lease;
TABLE nack_test.aside;

-- ---------------------------------------------------------------------------
-- Expired leases
-- ---------------------------------------------------------------------------

-- An event may be what its consumers die of.  From the first expired lease on it
-- comes alone, and after max_retries it is parked.
SELECT es_create_subscription('deadly', max_retries => 1, lease => '1 microsecond');
SELECT position FROM es_fetch('deadly', 'a', 3);
SELECT position FROM es_fetch('deadly', 'b', 3);
SELECT position, consumer, leased_to, failed_position, attempts, last_error FROM nack_test.checkpoint WHERE subscription = 'deadly';
SELECT es_ack('deadly', 'a', 1);
\echo :LAST_ERROR_SQLSTATE
UPDATE nack_test.subscription SET lease = '1 hour' WHERE name = 'deadly';
SELECT position FROM es_fetch('deadly', 'c', 3);
SELECT position, state, reason, attempts FROM nack_test.parked_event WHERE subscription = 'deadly' ORDER BY position;
SELECT es_ack('deadly', 'c', 100);
SELECT position FROM es_fetch('deadly', 'c', 3);
-- An expired lease is lost only to whoever takes it.
UPDATE nack_test.checkpoint SET leased_until = now() WHERE subscription = 'deadly';
SELECT es_ack('deadly', 'c', 100);

-- ---------------------------------------------------------------------------
-- Partitions
-- ---------------------------------------------------------------------------

SELECT es_create_store('partition_test');
SET event_sourcing.store = 'partition_test';
SELECT count(es_append('p-' || i % 10, 'counted', '{}'::jsonb)) FROM generate_series(1, 40) AS i;
SELECT es_create_subscription('p', partitions => 4);
-- Alone, a consumer gets everything, in the order of the positions.
SELECT array_agg(position) = array_agg(position ORDER BY position) AS in_order, count(*) FROM es_fetch('p', 'a', 20);
SELECT partition, consumer FROM partition_test.checkpoint ORDER BY partition;
-- Another one gets nothing until something is given back, and then its share.
SELECT count(*) FROM es_fetch('p', 'b');
SELECT es_ack('p', 'a', 20);
SELECT count(*) > 0 AS some FROM es_fetch('p', 'a');
SELECT count(*) > 0 AS some FROM es_fetch('p', 'b');
SELECT consumer, count(*) FROM partition_test.checkpoint GROUP BY consumer ORDER BY consumer;
SELECT es_ack('p', 'a', 40);
SELECT es_ack('p', 'b', 40);
SELECT count(*) FROM es_fetch('p', 'a');
SELECT DISTINCT position, consumer FROM partition_test.checkpoint;

-- ---------------------------------------------------------------------------
-- Arguments and errors
-- ---------------------------------------------------------------------------

SELECT * FROM es_fetch(NULL, 'a');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_fetch('p', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_fetch('p', '');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_fetch('p', repeat('x', 513));
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_fetch('p', 'a', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_fetch('p', 'a', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_fetch('q', 'a');
\echo :LAST_ERROR_SQLSTATE
SELECT es_ack('p', 'a', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_ack('p', 'a', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_ack('p', 'a', 41);
\echo :LAST_ERROR_SQLSTATE
SELECT es_nack('p', 'a', 1, 'explode');
\echo :LAST_ERROR_SQLSTATE
SELECT es_nack('p', 'a', 1, NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_nack('p', 'a', 41);
\echo :LAST_ERROR_SQLSTATE

-- A lease ends within the range of timestamps, wherever it begins; the longest one works.
SELECT es_create_subscription('long', lease => '178000000 years');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_subscription('long', lease => '1000 years 1 microsecond');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_subscription('long', lease => '0');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_subscription('long', lease => '-178000000 years');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_subscription('long', lease => '1000 years');
SELECT position FROM es_fetch('long', 'a', 2);
SELECT position, consumer, leased_to, leased_until > now() + interval '999 years' AS long FROM partition_test.checkpoint WHERE subscription = 'long';
SELECT count(*) FROM es_fetch('long', 'b', 2);
SELECT es_ack('long', 'a', 2);
SELECT position FROM es_fetch('long', 'b', 2);
SELECT es_drop_subscription('long');

-- What the store runs itself is not pulled.
CREATE FUNCTION handle(e es_event) RETURNS void LANGUAGE sql RETURN NULL;
SELECT es_create_handler('h', 'handle');
SELECT * FROM es_fetch('h', 'a');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_subscription('h');
DROP FUNCTION handle;

-- Others may have moved on since such a transaction began.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT * FROM es_fetch('p', 'a');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- Plain grants are all that a consumer needs.
CREATE ROLE regress_consumer;
GRANT USAGE ON SCHEMA partition_test TO regress_consumer;
GRANT SELECT ON partition_test.event, partition_test.event_position, partition_test.subscription TO regress_consumer;
GRANT SELECT, INSERT, UPDATE ON partition_test.checkpoint, partition_test.consumer TO regress_consumer;
GRANT SELECT, INSERT, UPDATE, DELETE ON partition_test.parked_event TO regress_consumer;
SELECT position FROM es_append('p-1', 'counted', '{}');
SET ROLE regress_consumer;
SELECT * FROM es_fetch('p', 'a');
RESET ROLE;
GRANT EXECUTE ON FUNCTION es_fetch(text, text, int, interval, bigint), es_ack(text, text, bigint),
	es_nack(text, text, bigint, text, text) TO regress_consumer;
SET ROLE regress_consumer;
SELECT position FROM es_fetch('p', 'a');
SELECT es_nack('p', 'a', 41, 'park', 'why not');
RESET ROLE;
REVOKE ALL ON FUNCTION es_fetch(text, text, int, interval, bigint), es_ack(text, text, bigint),
	es_nack(text, text, bigint, text, text) FROM regress_consumer;
SELECT position, state, reason FROM partition_test.parked_event;

SET client_min_messages = warning;
DROP SCHEMA consumer_test CASCADE;
DROP SCHEMA nack_test CASCADE;
DROP SCHEMA partition_test CASCADE;
DROP ROLE regress_consumer;
