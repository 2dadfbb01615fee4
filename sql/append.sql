-- es_append() adds events to the end of a stream, all or nothing, and answers
-- with the stream's version and the last event's position.  Versions count
-- from 1 without gaps, positions rise through the whole store.  A writer may
-- say which version it expects, and may repeat a call whose answer it lost.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('append_test');
SET event_sourcing.store = 'append_test';
CREATE SCHEMA append_test_app;
SET search_path = append_test_app, public;
CREATE TYPE deposited AS (amount int);

-- ---------------------------------------------------------------------------
-- The forms of the function
-- ---------------------------------------------------------------------------

-- An array of events.  Positions begin with 1 in a new store.
SELECT * FROM es_append('account-1', ARRAY[
	es_new_event('opened', '{"owner": "ann"}'),
	es_new_event(ROW(10)::deposited)]);
-- One event from a type and JSON; nothing but literals will do.
SELECT * FROM es_append('account-1', 'deposited', '{"amount": 20}');
SELECT * FROM es_append('account-1', 'deposited', '{"amount": 30}', '{"by": "ann"}');
SELECT * FROM es_append('account-1', 'deposited', '{"amount": 40}', '{"by": "ann"}', 4);
SELECT * FROM es_append('account-1', 'deposited', '{"amount": 50}', expected_version => 5);
-- with values of type text and jsonb in any mixture that SQL resolves
SELECT * FROM es_append('account-1'::text, 'deposited'::text, '{"amount": 60}'::jsonb, '{"by": "bob"}'::jsonb, 6::bigint);
SELECT * FROM es_append('account-1', 'deposited', jsonb_build_object('amount', 70));
SELECT * FROM es_append('account-1', 'deposited', '{"amount": 80}', metadata => jsonb_build_object('by', 'bob'));
SELECT * FROM es_append(stream => 'account-1', type => 'deposited', data => '{"amount": 90}', expected_version => 9);
-- One event given as a composite value.
SELECT * FROM es_append('account-1', ROW(100)::deposited);
SELECT * FROM es_append('account-1', ROW(110)::deposited, '{"by": "bob"}');
SELECT * FROM es_append('account-1', ROW(120)::deposited, '{"by": "bob"}', 12);
SELECT * FROM es_append('account-1', ROW(130)::deposited, expected_version => 13);
SELECT * FROM es_append(stream => 'account-1', event => ROW(140)::deposited);
-- An es_new_event is a composite value, and means the event that it describes.
SELECT * FROM es_append('account-1', es_new_event('deposited', '{"amount": 150}', '{"by": "ann"}'), '{"channel": "web"}');
-- A prepared statement with parameters.
PREPARE add(text, text, jsonb) AS SELECT * FROM es_append($1, $2, $3);
EXECUTE add('account-2', 'deposited', '{"amount": 1}');
EXECUTE add('account-2', 'deposited', '{"amount": 2}');
DEALLOCATE add;
-- Many streams in one statement.
SELECT r.* FROM generate_series(3, 5) AS i, es_append('account-' || i, 'opened', '{}') AS r ORDER BY r.position;

-- All of it is there, in order, under the name that the event's type has.
SELECT position, version, type, data, metadata FROM append_test.event WHERE stream = 'account-1' ORDER BY version;
-- Nothing else was set: ids were made, the time is that of the append.
SELECT count(*), count(event_id) AS ids, count(correlation_id) AS correlations, count(causation_id) AS causations,
	count(*) FILTER (WHERE recorded_at BETWEEN now() - interval '1 hour' AND clock_timestamp()) AS now
FROM append_test.event;

-- ---------------------------------------------------------------------------
-- Expected versions
-- ---------------------------------------------------------------------------

-- n: exactly this version.
SELECT * FROM es_append('expect-1', 'a', '{}', expected_version => 1);
\echo :LAST_ERROR_SQLSTATE
-- 0: the stream must not exist.
SELECT stream, version FROM es_append('expect-1', 'a', '{}', expected_version => 0);
SELECT * FROM es_append('expect-1', 'a', '{}', expected_version => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT stream, version FROM es_append('expect-1', 'b', '{}', expected_version => 1);
SELECT * FROM es_append('expect-1', 'c', '{}', expected_version => 1);
\echo :LAST_ERROR_SQLSTATE
-- beyond the end
SELECT * FROM es_append('expect-1', 'c', '{}', expected_version => 3);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_append('expect-1', 'c', '{}', expected_version => 9223372036854775807);
\echo :LAST_ERROR_SQLSTATE
-- -1: the stream must exist.
SELECT stream, version FROM es_append('expect-1', 'c', '{}', expected_version => -1);
SELECT * FROM es_append('expect-2', 'a', '{}', expected_version => -1);
\echo :LAST_ERROR_SQLSTATE
-- NULL: any version.
SELECT stream, version FROM es_append('expect-1', 'd', '{}', expected_version => NULL);
SELECT stream, version FROM es_append('expect-2', 'a', '{}', expected_version => NULL);
-- Nothing else is a version.
SELECT * FROM es_append('expect-1', 'e', '{}', expected_version => -2);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_append('expect-1', '{}'::es_new_event[], -9223372036854775808);
\echo :LAST_ERROR_SQLSTATE
-- The other forms check in the same way.
SELECT * FROM es_append('expect-1', ARRAY[es_new_event('e')], 3);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_append('expect-1', ROW(1)::deposited, expected_version => 3);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_append('expect-1', 'e', '{}'::jsonb, NULL::jsonb, 3);
\echo :LAST_ERROR_SQLSTATE

-- The detail has a fixed form, for programs; nothing was appended by all this.
DO $$
DECLARE
	detail text;
BEGIN
	PERFORM es_append('expect-1', 'e', '{}', expected_version => 2);
EXCEPTION WHEN SQLSTATE 'SE001' THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	RAISE NOTICE '%', regexp_match(detail, '^stream "(.*)" expected version (-?\d+) actual version (\d+)$');
END $$;
SELECT version, type FROM es_read_stream('expect-1');

-- An empty array is a check alone: the version and position as they are.
SELECT stream, version, position = (SELECT position FROM es_read_stream('expect-1', 4)) AS of_last
FROM es_append('expect-1', '{}'::es_new_event[], 4);
SELECT stream, version, position IS NOT NULL AS has_position FROM es_append('expect-1', '{}'::es_new_event[]);
SELECT stream, version, position IS NOT NULL AS has_position FROM es_append('expect-1', '{}'::es_new_event[], -1);
SELECT * FROM es_append('expect-3', '{}'::es_new_event[], 0);
SELECT * FROM es_append('expect-3', '{}'::es_new_event[]);
SELECT * FROM es_append('expect-1', '{}'::es_new_event[], 3);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_append('expect-1', '{}'::es_new_event[], 0);
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM es_append('expect-3', '{}'::es_new_event[], -1);
\echo :LAST_ERROR_SQLSTATE

-- In one transaction, each append continues where the one before ended.
BEGIN;
SELECT version FROM es_append('expect-4', 'a', '{}', expected_version => 0);
SELECT version FROM es_append('expect-4', 'b', '{}', expected_version => 1);
SAVEPOINT before_c;
SELECT version FROM es_append('expect-4', 'c', '{}', expected_version => 2);
ROLLBACK TO before_c;
-- what was rolled back does not count
SELECT version FROM es_append('expect-4', 'd', '{}', expected_version => 2);
COMMIT;
SELECT version, type FROM es_read_stream('expect-4');

-- ---------------------------------------------------------------------------
-- Retries
-- ---------------------------------------------------------------------------

-- A writer that lost the answer repeats the call.  With ids of its own for the
-- events it gets the first answer again, and nothing is appended.
CREATE FUNCTION batch(VARIADIC ids int[]) RETURNS es_new_event[] LANGUAGE sql AS $$
	SELECT array_agg(es_new_event('retried', jsonb_build_object('id', id),
								  event_id => ('00000000-0000-7000-8000-' || lpad(id::text, 12, '0'))::uuid) ORDER BY n)
	FROM unnest(ids) WITH ORDINALITY AS u(id, n)
$$;
CREATE TABLE first_answer AS SELECT * FROM es_append('retry-1', batch(1, 2, 3), 0);
SELECT version, position = (SELECT position FROM first_answer) AS same FROM es_append('retry-1', batch(1, 2, 3), 0);
-- also when the stream has grown since
SELECT version FROM es_append('retry-1', batch(4), 3);
SELECT version, position = (SELECT position FROM first_answer) AS same FROM es_append('retry-1', batch(1, 2, 3), 0);
SELECT version FROM es_append('retry-1', batch(4), 3);
-- With NULL or -1 they may stand anywhere in the stream.
SELECT version, position = (SELECT position FROM first_answer) AS same FROM es_append('retry-1', batch(1, 2, 3));
SELECT version, position = (SELECT position FROM first_answer) AS same FROM es_append('retry-1', batch(1, 2, 3), -1);
SELECT version FROM es_append('retry-1', batch(2, 3));
SELECT version FROM es_append('retry-1', batch(4), -1);
-- The single-event form, too, with an event that carries its id.
SELECT version FROM es_append('retry-1', (batch(2))[1]);
-- Only the ids decide: the data of the retry are not looked at.
SELECT version FROM es_append('retry-1', ARRAY[es_new_event('other', '{"other": true}',
	event_id => '00000000-0000-7000-8000-000000000004')], 3);
SELECT version, type, data FROM es_read_stream('retry-1');

-- Some of the ids, or all in another order, are neither a retry nor new events.
SELECT version FROM es_append('retry-1', batch(3, 4, 5), 2);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('retry-1', batch(4, 5));
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('retry-1', batch(5, 4), -1);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('retry-1', batch(2, 1, 3), 0);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('retry-1', batch(2, 1));
\echo :LAST_ERROR_SQLSTATE
-- not contiguous
SELECT version FROM es_append('retry-1', batch(1, 3));
\echo :LAST_ERROR_SQLSTATE
-- one event without an id beside one that is there
SELECT version FROM es_append('retry-1', batch(4) || es_new_event('new'));
\echo :LAST_ERROR_SQLSTATE

-- Right after the expected version, and nowhere else.
SELECT version FROM es_append('retry-1', batch(2, 3), 0);
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('retry-1', batch(1), 2);
\echo :LAST_ERROR_SQLSTATE
-- New ids where others stand are a plain conflict.
SELECT version FROM es_append('retry-1', batch(8, 9), 1);
\echo :LAST_ERROR_SQLSTATE
-- Events without ids cannot be recognised: a repeated call is a conflict.
SELECT version FROM es_append('retry-1', ARRAY[es_new_event('retried')], 3);
\echo :LAST_ERROR_SQLSTATE
-- Ids count within their stream: another stream may have them as well.
SELECT version FROM es_append('retry-2', batch(1, 2, 3), 0);
SELECT version FROM es_append('retry-2', batch(4));

-- The same id twice in one call is a mistake, whatever the stream has.
SELECT version FROM es_append('retry-3', batch(1, 2, 1));
\echo :LAST_ERROR_SQLSTATE
SELECT version FROM es_append('retry-1', batch(4, 4), 3);
\echo :LAST_ERROR_SQLSTATE
-- What failed left nothing.
SELECT stream, max(version) AS version, count(*) FROM append_test.event WHERE stream LIKE 'retry-%' GROUP BY stream ORDER BY stream;

-- ---------------------------------------------------------------------------
-- Metadata, correlation and causation
-- ---------------------------------------------------------------------------

-- The setting event_sourcing.metadata is merged under the metadata of an event.
BEGIN;
SET LOCAL event_sourcing.metadata = '{"user": "ann", "tool": "web"}';
SELECT version FROM es_append('meta-1', 'a', '{}');
SELECT version FROM es_append('meta-1', 'a', '{}', '{"tool": "app", "trace": 7}');
SELECT version FROM es_append('meta-1', ROW(1)::deposited, '{"tool": null}');
SELECT version FROM es_append('meta-1', ARRAY[es_new_event('a'), es_new_event('a', '{}', '{"user": "bob"}'),
	es_new_event(ROW(1)::deposited, '{}')]);
COMMIT;
-- outside that transaction it is not set
SELECT version FROM es_append('meta-1', 'a', '{}', '{"trace": 8}');
SELECT version FROM es_append('meta-1', 'a', '{}');
SELECT version, metadata FROM es_read_stream('meta-1');
-- Only the first level is merged.
SET event_sourcing.metadata = '{"a": {"x": 1}}';
SELECT version FROM es_append('meta-2', 'a', '{}', '{"a": {"y": 2}}');
SELECT metadata FROM es_read_stream('meta-2');
-- The setting is read when it is used.
SET event_sourcing.metadata = '{"user": ';
\set SHOW_CONTEXT never
SELECT es_append('meta-2', 'a', '{}');
\echo :LAST_ERROR_SQLSTATE
\set SHOW_CONTEXT errors
SET event_sourcing.metadata = '["user"]';
SELECT es_append('meta-2', 'a', '{}');
\echo :LAST_ERROR_SQLSTATE
SET event_sourcing.metadata = '';
SELECT version FROM es_append('meta-2', 'a', '{}');
RESET event_sourcing.metadata;

-- Correlation and causation ids belong to the whole call.
SELECT version FROM es_append('meta-3', ARRAY[es_new_event('a'), es_new_event('b')], 0,
	'00000000-0000-7000-8000-00000000000c', '00000000-0000-7000-8000-00000000000d');
SELECT version FROM es_append('meta-3', ARRAY[es_new_event('c')], causation_id => '00000000-0000-7000-8000-00000000000e');
SELECT version, correlation_id, causation_id FROM es_read_stream('meta-3');

-- ---------------------------------------------------------------------------
-- History from elsewhere
-- ---------------------------------------------------------------------------

-- Events keep the time they are given, also when it is in no order: versions
-- and positions follow the array.
SELECT version FROM es_append('import-1', ARRAY[
	es_new_event('a', recorded_at => '1999-12-31 23:59:59.999999+00'),
	es_new_event('b', recorded_at => '0044-03-15 00:00:00+00 BC'),
	es_new_event('c', recorded_at => '2999-01-01 00:00:00+00')]);
SELECT version, type, recorded_at AT TIME ZONE 'UTC' AS recorded_at,
	position - lag(position) OVER (ORDER BY version) AS step
FROM es_read_stream('import-1');

-- ---------------------------------------------------------------------------
-- Names
-- ---------------------------------------------------------------------------

-- A stream's name is 1 to 512 bytes of text, whatever characters they are.
\pset format unaligned
SELECT stream, version FROM es_append('straße-日本語-🎺', 'größer', '{"ключ": "значение"}');
SELECT stream, version FROM es_append('it''s a "quoted" \ name; DROP TABLE append_test.event --', 'quote''d', '{}');
SELECT stream, version FROM es_append(E'two\nlines\tand a tab', E'new\nline', '{}');
SELECT stream, version FROM es_append(' ', ' ', '{}');
SELECT stream, version FROM es_append('-', '-', '{}');
SELECT stream, version FROM es_append('a$', '$a', '{}');
SELECT stream, version FROM es_append('%s %d %n', '%s', '{}');
-- letters are not folded, spaces not trimmed
SELECT stream, version FROM es_append('Case', 'a', '{}');
SELECT stream, version FROM es_append('case', 'a', '{}');
SELECT stream, version FROM es_append('case ', 'a', '{}');
-- ü is one character or two: two names
SELECT version FROM es_append(U&'\00FC', 'a', '{}');
SELECT version FROM es_append(U&'u\0308', 'a', '{}');
SELECT length(stream), octet_length(stream), version FROM es_append(repeat('x', 512), repeat('y', 512), '{}');
SELECT length(stream), octet_length(stream), version FROM es_append(repeat('ü', 256), repeat('ü', 256), '{}');
-- read back as they were given
SELECT stream, type, data FROM es_read_stream('straße-日本語-🎺')
UNION ALL SELECT stream, type, data FROM es_read_stream('it''s a "quoted" \ name; DROP TABLE append_test.event --')
UNION ALL SELECT stream, type, data FROM es_read_stream(E'two\nlines\tand a tab');
\pset format aligned

SELECT es_append(repeat('x', 513), 'a', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append(repeat('ü', 257), 'a', '{}');
\echo :LAST_ERROR_SQLSTATE
-- names that begin with $ are the store's own
SELECT es_append('$all', 'a', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('$', ARRAY[es_new_event('a')]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('', 'a', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append(NULL, 'a', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append(NULL, ARRAY[es_new_event('a')]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('', ROW(1)::deposited);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append(NULL, '{}'::es_new_event[], 0);
\echo :LAST_ERROR_SQLSTATE

-- ---------------------------------------------------------------------------
-- What is no event
-- ---------------------------------------------------------------------------

SELECT es_append('bad-1', NULL::es_new_event[]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[es_new_event('a'), NULL, es_new_event('b')]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[ARRAY[es_new_event('a')], ARRAY[es_new_event('b')]]);
\echo :LAST_ERROR_SQLSTATE
-- an array may begin with any subscript
SELECT version FROM es_append('good-1', ('[5:6]=' || ARRAY[es_new_event('a'), es_new_event('b')]::text)::es_new_event[]);
SELECT version, type FROM es_read_stream('good-1');

-- A value of the type es_new_event may be made without es_new_event(): the
-- same is asked of it.
SELECT es_append('bad-1', ARRAY[ROW(NULL, '{}', NULL, NULL, NULL)::es_new_event]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[ROW('', '{}', NULL, NULL, NULL)::es_new_event]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[ROW('a', NULL, NULL, NULL, NULL)::es_new_event]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[ROW('a', '{}', '7', NULL, NULL)::es_new_event]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[ROW('a', '{}', NULL, NULL, 'infinity')::es_new_event]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[ROW(repeat('x', 513), '{}', NULL, NULL, NULL)::es_new_event]);
\echo :LAST_ERROR_SQLSTATE

SELECT es_append('bad-1', NULL::text, '{}'::jsonb);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', NULL, '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', '', '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', repeat('x', 513), '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', NULL::jsonb);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', '{}', '[]');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', '{}', '"text"'::jsonb);
\echo :LAST_ERROR_SQLSTATE
\set SHOW_CONTEXT never
SELECT es_append('bad-1', 'a', '{"amount": ');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', '{}', '{');
\echo :LAST_ERROR_SQLSTATE
\set SHOW_CONTEXT errors

SELECT es_append('bad-1', NULL::deposited);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ROW(1));
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 42);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', '{"amount": 1}'::jsonb);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY[ROW(1)::deposited]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ROW(1)::deposited, '[]');
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ROW(1)::deposited, expected_version => -2);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ROW('', '{}', NULL, NULL, NULL)::es_new_event);
\echo :LAST_ERROR_SQLSTATE

-- Arguments of other types find no function.
\set VERBOSITY terse
SELECT es_append(1, 'a', '{}');
\set VERBOSITY default
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', 42);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', ARRAY['a']::text[]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_append('bad-1', 'a', '{}', expected_version => 'one');
\echo :LAST_ERROR_SQLSTATE

-- One bad event takes the whole append with it.
SELECT es_append('bad-1', ARRAY[es_new_event('a'), ROW(NULL, '{}', NULL, NULL, NULL)::es_new_event]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('bad-1');

-- ---------------------------------------------------------------------------
-- Many events, large events
-- ---------------------------------------------------------------------------

-- 10,000 events in one call, on top of one that is there.
SELECT version FROM es_append('many-1', 'first', '{}');
SELECT a.version, a.position - b.position AS drawn
FROM es_append('many-1', '{}'::es_new_event[]) AS b,
	es_append('many-1', ARRAY(SELECT es_new_event('counted', jsonb_build_object('i', i)) FROM generate_series(2, 10001) AS i), b.version) AS a;
-- Versions without gaps, in the order of the array; positions rise with them.
SELECT count(*), min(version), max(version), count(DISTINCT version) AS versions, count(DISTINCT position) AS positions,
	count(DISTINCT event_id) AS ids, count(DISTINCT recorded_at) AS times,
	count(*) FILTER (WHERE version > 1 AND (data ->> 'i')::bigint <> version) AS out_of_order,
	count(*) FILTER (WHERE position <= before) AS falling
FROM (SELECT *, lag(position) OVER (ORDER BY version) AS before FROM append_test.event WHERE stream = 'many-1') e;
-- A retry of all of them.
SELECT version FROM es_append('many-2', ARRAY(SELECT (batch(i))[1] FROM generate_series(1, 3000) AS i), 0);
SELECT version FROM es_append('many-2', ARRAY(SELECT (batch(i))[1] FROM generate_series(1, 3000) AS i), 0);
SELECT version FROM es_append('many-2', ARRAY(SELECT (batch(i))[1] FROM generate_series(2, 3001) AS i), 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('many-2');

-- Events of megabytes, alone and in one call.
SELECT version FROM es_append('large-1', 'document', jsonb_build_object('text', repeat('0123456789', 200000)));
SELECT version FROM es_append('large-1', ARRAY(
	SELECT es_new_event('document', jsonb_build_object('i', i, 'text', repeat(i::text, 1000000))) FROM generate_series(1, 9) AS i));
SELECT version, length(data ->> 'text') AS length, md5(data ->> 'text') = md5(repeat(COALESCE(data ->> 'i', '0123456789'),
	CASE WHEN version = 1 THEN 200000 ELSE 1000000 END)) AS same
FROM es_read_stream('large-1');

-- A thousand streams in one transaction: more than the server would like to
-- lock one by one.
BEGIN;
SELECT count(r.version), sum(r.version) FROM generate_series(1, 1000) AS i, es_append('wide-' || i, 'opened', '{}') AS r;
SELECT count(r.version), sum(r.version) FROM generate_series(1, 1000) AS i, es_append('wide-' || i, 'closed', '{}', expected_version => 1) AS r;
COMMIT;
SELECT count(*), count(DISTINCT stream) AS streams FROM es_read_all(0, NULL, ARRAY['wide']);
-- Appends that a savepoint's rollback undid hold no locks, so they do not count:
-- the log itself is not locked.
BEGIN;
DO $$ BEGIN
	FOR i IN 1..300 LOOP
		BEGIN
			PERFORM es_append('undone-' || i, 'opened', '{}');
			RAISE division_by_zero;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
SELECT version FROM es_append('done-1', 'opened', '{}');
SELECT count(*) AS log_locked FROM pg_locks
WHERE relation = 'append_test.event'::regclass AND mode = 'ShareRowExclusiveLock' AND pid = pg_backend_pid();
COMMIT;

-- ---------------------------------------------------------------------------
-- The oracle
-- ---------------------------------------------------------------------------

-- In every stream the versions are 1, 2, 3 to the last, and the positions rise
-- with them; no position is there twice.
SELECT count(*) FILTER (WHERE version <> n) AS gaps, count(*) FILTER (WHERE position <= before) AS falling,
	count(*) - count(DISTINCT position) AS repeated
FROM (SELECT version, position, row_number() OVER w AS n, lag(position) OVER w AS before
	  FROM append_test.event WINDOW w AS (PARTITION BY stream ORDER BY version)) e;
