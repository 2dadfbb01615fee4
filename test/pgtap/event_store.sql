-- The event store alone: appending with expected versions, retrying, reading.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT plan(27);

SELECT throws_ok(
  $$SET LOCAL event_sourcing.store = 'tap_nowhere'; SELECT es_append('a', 'b', '{}')$$,
  '3F000', 'there is no event store in schema "tap_nowhere"', 'no store, no append');
SELECT lives_ok($$SELECT es_create_store('tap_store_es')$$, 'a store is created');
SET LOCAL event_sourcing.store = 'tap_store_es';
SELECT throws_ok(
  $$SELECT es_create_store('tap_store_es')$$,
  '42710', 'event store "tap_store_es" already exists', 'a store is created once');

CREATE TYPE note_taken AS (text text, stars int);

-- Appending
SELECT results_eq(
  $$SELECT stream, version FROM es_append('note-1', 'note_taken', '{"text": "one"}')$$,
  $$VALUES ('note-1', 1::bigint)$$, 'an event as type and JSON');
SELECT throws_ok(
  $$SELECT es_append('note-1', 'note_taken', '{"text": ')$$,
  '22P02', 'invalid input syntax for type json', 'which must be JSON');
SELECT results_eq(
  $$SELECT stream, version FROM es_append('note-1', ROW('two', 2)::note_taken)$$,
  $$VALUES ('note-1', 2::bigint)$$, 'an event as a composite value');
SELECT results_eq(
  $$SELECT stream, version FROM es_append('note-1', ARRAY[es_new_event('note_taken', '{"text": "three"}'),
      es_new_event(ROW('four', 4)::note_taken, recorded_at => '2020-02-02 20:20+00')])$$,
  $$VALUES ('note-1', 4::bigint)$$, 'several events');
SELECT results_eq(
  $$SELECT version, type, data FROM es_read_stream('note-1')$$,
  $$VALUES (1::bigint, 'note_taken', '{"text": "one"}'::jsonb), (2, 'note_taken', '{"text": "two", "stars": 2}'),
           (3, 'note_taken', '{"text": "three"}'), (4, 'note_taken', '{"text": "four", "stars": 4}')$$,
  'all of them, in order');
SELECT results_eq(
  $$SELECT recorded_at FROM es_read_stream('note-1', 4)$$, $$VALUES ('2020-02-02 20:20+00'::timestamptz)$$,
  'history can be imported with its own times');

-- Expected versions
SELECT throws_ok($$SELECT es_append('note-1', 'x', '{}', expected_version => 2)$$,
  'SE001', 'stream "note-1" is at version 4, not 2', 'exactly this version');
SELECT throws_ok($$SELECT es_append('note-1', 'x', '{}', expected_version => 0)$$,
  'SE001', 'stream "note-1" already exists, at version 4', 'a new stream');
SELECT throws_ok($$SELECT es_append('note-2', 'x', '{}', expected_version => -1)$$,
  'SE001', 'stream "note-2" does not exist', 'a stream that exists');
SELECT throws_ok($$SELECT es_append('note-2', 'x', '{}', expected_version => -2)$$,
  '22023', 'invalid expected version -2', 'nonsense');
SELECT results_eq(
  $$SELECT version FROM es_append('note-1', '{}'::es_new_event[], 4)$$, $$VALUES (4::bigint)$$,
  'an empty array checks the version alone');

-- A retry with the same ids
PREPARE twice AS SELECT version FROM es_append('note-3', ARRAY[
  es_new_event('a', event_id => '00000000-0000-7000-8000-00000000000a'),
  es_new_event('b', event_id => '00000000-0000-7000-8000-00000000000b')], 0);
SELECT results_eq('twice', $$VALUES (2::bigint)$$, 'appended');
SELECT results_eq('twice', $$VALUES (2::bigint)$$, 'the same again: the first result');
SELECT is(es_stream_version('note-3'), 2::bigint, 'and nothing twice');
SELECT throws_ok(
  $$SELECT es_append('note-3', ARRAY[es_new_event('b', event_id => '00000000-0000-7000-8000-00000000000b'),
                                     es_new_event('c', event_id => '00000000-0000-7000-8000-00000000000c')], 0)$$,
  'SE006', NULL, 'some of the ids are there, some are not');

-- Names
SELECT throws_ok($$SELECT es_append('', 'x', '{}')$$, '22023', 'the stream name must not be empty', 'no name');
SELECT throws_ok($$SELECT es_append('$x', 'x', '{}')$$, '22023', 'stream name "$x" is reserved', 'a reserved name');
SELECT throws_ok($$SELECT es_append('x', '', '{}')$$, '22023', 'the event type must not be empty', 'no type');

-- Reading
SELECT results_eq(
  $$SELECT version FROM es_read_stream('note-1', 3, 1, backward => true)$$, $$VALUES (3::bigint)$$, 'backward from a version');
SELECT is_empty($$SELECT * FROM es_read_stream('nobody')$$, 'a stream that does not exist is empty');
SELECT is(es_stream_version('nobody'), 0::bigint, 'and at version 0');
SELECT results_eq(
  $$SELECT stream, type FROM es_read_all(categories => '{note}', types => '{a,b}')$$,
  $$VALUES ('note-3', 'a'), ('note-3', 'b')$$, 'all streams, by category and type');
SELECT is(
  (SELECT count(*) FROM es_read_all(after_position => (SELECT max(position) FROM es_read_stream('note-1')))),
  2::bigint, 'all streams, from a position on');
SELECT cmp_ok(es_high_water(), '>=', (SELECT max(position) FROM tap_store_es.event), 'the high-water mark counts our own events');

SELECT * FROM finish();
ROLLBACK;
