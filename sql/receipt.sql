-- Receipts.  A command that is dispatched with a command_id is executed once:
-- any later dispatch with this id gets the first result, events included, and
-- the handler does not run.  The id belongs to one command type on one stream.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('receipt_test');
SET event_sourcing.store = 'receipt_test';
CREATE SCHEMA receipt_app;
SET search_path = receipt_app, public;

CREATE TYPE purse AS (id text, coins int);
CREATE TYPE put AS (id text, coins int);
CREATE TYPE peek AS (id text);
CREATE TYPE coins_put AS (coins int);
CREATE SEQUENCE calls;
-- a handler that counts its calls and does something else each time
CREATE FUNCTION execute(s purse, c put) RETURNS SETOF coins_put LANGUAGE plpgsql AS $$
DECLARE
	call bigint := nextval('calls');
BEGIN
	IF c.coins < 0 THEN RAISE EXCEPTION 'no debts'; END IF;
	FOR i IN 1 .. c.coins LOOP RETURN NEXT ROW(call)::coins_put; END LOOP;
END $$;
CREATE FUNCTION execute(s purse, c peek) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('calls'); END $$;
CREATE FUNCTION apply(s purse, e coins_put) RETURNS purse
	LANGUAGE sql IMMUTABLE RETURN ROW(s.id, COALESCE(s.coins, 0) + e.coins)::purse;
SELECT es_create_aggregate('purse');

-- The first dispatch does it and stores a receipt.
CREATE TABLE first AS
	SELECT 'a' AS command, d.* FROM es_dispatch(ROW('1', 2)::put, command_id => '00000000-0000-4000-8000-00000000000a') d;
SELECT stream, version, cardinality(events) FROM first;
SELECT command_id, command_type, stream, version, event_count FROM receipt_test.receipt;

-- Without an id there is no receipt.
SELECT version FROM es_dispatch(ROW('1', 1)::put);
SELECT count(*) FROM receipt_test.receipt;

-- A retry gets the first result, whatever the stream has become, as a composite
-- or as JSON, and even if it asks for something else.
SELECT (d.r).stream, (d.r).version, d.r = ROW(f.stream, f.version, f.position, f.events)::es_dispatch_result AS same
FROM first f, (SELECT es_dispatch(ROW('1', 2)::put, command_id => '00000000-0000-4000-8000-00000000000a') AS r OFFSET 0) d;
SELECT (d.r).stream, (d.r).version, d.r = ROW(f.stream, f.version, f.position, f.events)::es_dispatch_result AS same
FROM first f, (SELECT es_dispatch('put', '{"id": "1", "coins": 2}', command_id => '00000000-0000-4000-8000-00000000000a') AS r OFFSET 0) d;
SELECT (d.r).stream, (d.r).version, d.r = ROW(f.stream, f.version, f.position, f.events)::es_dispatch_result AS same
FROM first f, (SELECT es_dispatch(ROW('put', '{"id": "1", "coins": 9}', NULL, '00000000-0000-4000-8000-00000000000a', NULL, NULL)::es_command) AS r OFFSET 0) d;
-- The expected version was checked the first time; the retry's no longer fits.
SELECT version FROM es_dispatch(ROW('1', 2)::put, expected_version => 0, command_id => '00000000-0000-4000-8000-00000000000a');
-- Nothing was done: the handler ran twice so far, the stream has three events.
SELECT last_value FROM calls;
SELECT es_stream_version('purse-1');

-- The same id for another command or another stream is a mistake.
SELECT es_dispatch(ROW('1')::peek, command_id => '00000000-0000-4000-8000-00000000000a');
\echo :LAST_ERROR_SQLSTATE
SELECT es_dispatch(ROW('2', 2)::put, command_id => '00000000-0000-4000-8000-00000000000a');
\echo :LAST_ERROR_SQLSTATE

-- A command without events has a receipt, too.
SELECT stream, version, position, events FROM es_dispatch(ROW('1')::peek, command_id => '00000000-0000-4000-8000-00000000000b');
SELECT version FROM es_dispatch(ROW('1', 1)::put);
SELECT stream, version, position, events FROM es_dispatch(ROW('1')::peek, command_id => '00000000-0000-4000-8000-00000000000b');
SELECT last_value FROM calls;

-- A refused command has none: it may be tried again with the same id.
SELECT es_dispatch(ROW('3', -1)::put, command_id => '00000000-0000-4000-8000-00000000000c');
SELECT version FROM es_dispatch(ROW('3', 1)::put, command_id => '00000000-0000-4000-8000-00000000000c');
-- So has one that was rolled back.
BEGIN;
SAVEPOINT s;
SELECT version FROM es_dispatch(ROW('3', 1)::put, command_id => '00000000-0000-4000-8000-00000000000d');
SELECT version FROM es_dispatch(ROW('3', 1)::put, command_id => '00000000-0000-4000-8000-00000000000d');
ROLLBACK TO s;
SELECT version FROM es_dispatch(ROW('3', 3)::put, command_id => '00000000-0000-4000-8000-00000000000d');
COMMIT;
SELECT version, cardinality(events) FROM es_dispatch(ROW('3', 3)::put, command_id => '00000000-0000-4000-8000-00000000000d');

-- The id is the cause of the events and, by default, their correlation.
SELECT DISTINCT stream, right(causation_id::text, 1) AS causation, right(correlation_id::text, 1) AS correlation
FROM es_read_all() ORDER BY 1, 2, 3;

-- Old receipts may be forgotten: then the id is new again.
SELECT count(*) FROM receipt_test.receipt;
SELECT es_prune_receipts('1 hour');
UPDATE receipt_test.receipt SET recorded_at = recorded_at - interval '2 hours'
WHERE command_id <> '00000000-0000-4000-8000-00000000000b';
SELECT es_prune_receipts('1 hour');
SELECT command_id, command_type, stream, version, position IS NULL AS no_position, event_count
FROM receipt_test.receipt ORDER BY command_id;
SELECT version FROM es_dispatch(ROW('2', 1)::put, command_id => '00000000-0000-4000-8000-00000000000a');
SELECT es_prune_receipts(NULL);
\echo :LAST_ERROR_SQLSTATE

SET client_min_messages = warning;
DROP SCHEMA receipt_app, receipt_test CASCADE;
