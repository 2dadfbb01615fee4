-- Commands on an aggregate, as a project would test its own: what comes of
-- them, what is refused and how, and that nothing of a refused one stays.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT plan(47);

CREATE SCHEMA tap_dispatch;
SET LOCAL search_path = tap_dispatch, public;
SELECT lives_ok($$SELECT es_create_store('tap_dispatch_es')$$, 'a store is created');
SET LOCAL event_sourcing.store = 'tap_dispatch_es';

-- A parcel is registered, weighed and delivered, in this order.
CREATE TYPE parcel AS (id text, grams int, delivered boolean);

CREATE TYPE register_parcel AS (id text);
CREATE TYPE weigh           AS (id text, grams int);
CREATE TYPE weigh_often     AS (id text, grams int[]);
CREATE TYPE deliver         AS (id text);
CREATE TYPE lose            AS (id text);
CREATE TYPE touch           AS (id text);
CREATE TYPE unheard_of      AS (id text);

CREATE TYPE parcel_registered AS (id text);
CREATE TYPE parcel_weighed    AS (id text, grams int);
CREATE TYPE parcel_delivered  AS (id text);
CREATE TYPE parcel_lost       AS (id text);

CREATE FUNCTION execute(s parcel, c register_parcel) RETURNS parcel_registered
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NOT NULL THEN
    RAISE EXCEPTION 'parcel % is registered', s.id USING ERRCODE = 'unique_violation';
  END IF;
  RETURN ROW(c.id)::parcel_registered;
END $$;

CREATE FUNCTION execute(s parcel, c weigh) RETURNS parcel_weighed
LANGUAGE plpgsql AS $$
BEGIN
  IF c.grams <= 0 OR c.grams IS NULL THEN
    RAISE EXCEPTION 'a parcel weighs something' USING ERRCODE = 'PX001', DETAIL = 'Given: ' || COALESCE(c.grams, 0);
  END IF;
  RETURN ROW(c.id, c.grams)::parcel_weighed;
END $$;

CREATE FUNCTION execute(s parcel, c weigh_often) RETURNS parcel_weighed[]
LANGUAGE sql RETURN ARRAY(SELECT ROW(c.id, g)::parcel_weighed FROM unnest(c.grams) g);

-- an event of another type too, when the parcel was never weighed
CREATE FUNCTION execute(s parcel, c deliver, m es_command) RETURNS SETOF es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  IF s.grams IS NULL THEN
    RETURN NEXT es_new_event(ROW(c.id, 1)::parcel_weighed);
  END IF;
  RETURN NEXT es_new_event(ROW(c.id)::parcel_delivered, metadata => jsonb_build_object('by', m.metadata ->> 'courier'));
END $$;

-- nobody can apply its event
CREATE FUNCTION execute(s parcel, c lose) RETURNS parcel_lost
LANGUAGE sql RETURN ROW(c.id)::parcel_lost;

CREATE FUNCTION execute(s parcel, c touch) RETURNS void
LANGUAGE sql RETURN NULL;

CREATE FUNCTION apply(s parcel, e parcel_registered) RETURNS parcel
LANGUAGE sql IMMUTABLE RETURN ROW(e.id, NULL, false)::parcel;

CREATE FUNCTION apply(s parcel, e parcel_weighed) RETURNS parcel
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, e.grams, s.delivered)::parcel;

CREATE FUNCTION apply(s parcel, e parcel_delivered) RETURNS parcel
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  s.delivered := true;
  RETURN s;
END $$;

SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1')::register_parcel)$$,
  'SE004', 'no aggregate executes command "register_parcel"', 'there is no aggregate yet');
SELECT lives_ok($$SELECT es_create_aggregate('parcel')$$, 'an aggregate is registered');
SELECT throws_ok(
  $$SELECT es_create_aggregate('parcel')$$,
  '42710', 'aggregate "parcel" already exists', 'an aggregate is registered once');

-- What a command gives back
SELECT results_eq(
  $$SELECT stream, version, array_length(events, 1), (events[1]).type, (events[1]).version, (events[1]).data
    FROM es_dispatch(ROW('1')::register_parcel)$$,
  $$VALUES ('parcel-1', 1::bigint, 1, 'parcel_registered', 1::bigint, '{"id": "1"}'::jsonb)$$,
  'a command gives the stream, its version and the events');
SELECT results_eq(
  $$SELECT stream, version FROM es_dispatch('weigh', '{"id": "1", "grams": 700}')$$,
  $$VALUES ('parcel-1', 2::bigint)$$,
  'a command may be given as JSON');
SELECT results_eq(
  $$SELECT stream, version, position, events FROM es_dispatch(ROW('1')::touch)$$,
  $$VALUES ('parcel-1', 2::bigint, NULL::bigint, '{}'::es_event[])$$,
  'a command without events gives the current version');
SELECT results_eq(
  $$SELECT version, array_length(events, 1) FROM es_dispatch(ROW('1', '{800,900}')::weigh_often)$$,
  $$VALUES (4::bigint, 2)$$,
  'a handler may return an array of events');
SELECT results_eq(
  $$SELECT version, events FROM es_dispatch(ROW('1', '{}')::weigh_often)$$,
  $$VALUES (4::bigint, '{}'::es_event[])$$,
  'an empty array is no event');
SELECT results_eq(
  $$SELECT (events[1]).type, (events[1]).metadata ->> 'by' FROM es_dispatch(ROW('1')::deliver, metadata => '{"courier": "Cleo"}')$$,
  $$VALUES ('parcel_delivered', 'Cleo')$$,
  'a handler that takes es_command sees the metadata');
SELECT results_eq(
  $$SELECT version, array_length(events, 1) FROM es_dispatch(ROW('2')::deliver)$$,
  $$VALUES (2::bigint, 2)$$,
  'a handler may return events of several types');

-- State and history
SELECT results_eq(
  $$SELECT * FROM es_state(NULL::parcel, '1')$$,
  $$VALUES ('1', 900, true)$$, 'the state is all events applied');
SELECT results_eq(
  $$SELECT * FROM es_state(NULL::parcel, '1', at_version => 2)$$,
  $$VALUES ('1', 700, false)$$, 'the state at a version');
SELECT is(es_state('parcel', '1'), '{"id": "1", "grams": 900, "delivered": true}'::jsonb, 'the state as JSON');
SELECT ok(es_state('parcel', 'nobody') IS NULL, 'no stream, no state');
SELECT results_eq(
  $$SELECT version, type, state ->> 'grams' FROM es_history('parcel', '1')$$,
  $$VALUES (1::bigint, 'parcel_registered', NULL), (2, 'parcel_weighed', '700'), (3, 'parcel_weighed', '800'),
           (4, 'parcel_weighed', '900'), (5, 'parcel_delivered', '900')$$,
  'the history has the state after every event');

-- What a handler refuses
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1')::register_parcel)$$,
  '23505', 'parcel 1 is registered', 'the handler''s SQLSTATE and message reach the caller');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1', 0)::weigh)$$,
  'PX001', 'a parcel weighs something', 'so does an SQLSTATE of one''s own');
SELECT is(es_stream_version('parcel-1'), 5::bigint, 'a refused command leaves no event');

-- Expected versions
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1', 5)::weigh, expected_version => 3)$$,
  'SE001', 'stream "parcel-1" is at version 5, not 3', 'a wrong expected version');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1', 5)::weigh, expected_version => 0)$$,
  'SE001', 'stream "parcel-1" already exists, at version 5', 'the stream must not exist, but does');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('9')::register_parcel, expected_version => -1)$$,
  'SE001', 'stream "parcel-9" does not exist', 'the stream must exist, but does not');
SELECT lives_ok(
  $$SELECT es_dispatch(ROW('1', 950)::weigh, expected_version => 5)$$, 'the right expected version');

-- Commands and events that nobody knows
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1')::unheard_of)$$,
  'SE004', 'no aggregate executes command "unheard_of"', 'a type without a handler');
SELECT throws_ok(
  $$SELECT es_dispatch('no_such_type', '{}')$$,
  'SE004', 'no aggregate executes command "no_such_type"', 'a name without a type');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1')::lose)$$,
  'SE005', 'aggregate "parcel" cannot apply event "parcel_lost"', 'an event without an apply function');
SELECT is(es_stream_version('parcel-1'), 6::bigint, 'it is not recorded');

CREATE FUNCTION execute(s parcel, c unheard_of) RETURNS parcel_weighed
LANGUAGE sql RETURN ROW(c.id, 42)::parcel_weighed;
SELECT lives_ok($$SELECT es_dispatch(ROW('1')::unheard_of)$$, 'a handler is found as soon as it is there');

CREATE TYPE letter AS (id text);
CREATE FUNCTION execute(s letter, c unheard_of) RETURNS parcel_weighed
LANGUAGE sql RETURN ROW(c.id, 42)::parcel_weighed;
SELECT lives_ok($$SELECT es_create_aggregate('letter')$$, 'a second aggregate');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1')::unheard_of)$$,
  'SE004', 'several aggregates execute command "unheard_of"', 'a command has one aggregate');
DROP FUNCTION execute(letter, unheard_of);
SELECT lives_ok($$SELECT es_dispatch(ROW('1')::unheard_of)$$, 'one of them is gone: it works again');

-- Identities and JSON
SELECT throws_ok(
  $$SELECT es_dispatch(ROW(NULL, 5)::weigh)$$,
  '22004', 'the identity of aggregate "parcel" must not be NULL', 'no identity');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('', 5)::weigh)$$,
  '22023', 'the identity of aggregate "parcel" must not be empty', 'an empty identity');
SELECT throws_ok(
  $$SELECT es_dispatch('weigh', '{"id": "1", "gram": 5}')$$,
  '22023', 'type "weigh" has no field "gram"', 'a key that the command does not have');
SELECT throws_ok(
  $$SELECT es_dispatch('weigh', '{"id": "1", "grams": "heavy"}')$$,
  '22P02', 'invalid input syntax for type integer: "heavy"', 'a value that the field does not take');
SELECT throws_ok(
  $$SELECT es_dispatch('weigh', '{"id": "1"}')$$,
  'PX001', 'a parcel weighs something', 'a missing key is NULL');

-- Receipts
SELECT results_eq(
  $$SELECT version FROM es_dispatch(ROW('1', 111)::weigh, command_id => '00000000-0000-4000-8000-000000000001')$$,
  $$VALUES (9::bigint)$$, 'a command with an id');
SELECT results_eq(
  $$SELECT version, (events[1]).data ->> 'grams' FROM es_dispatch(ROW('1', 222)::weigh, command_id => '00000000-0000-4000-8000-000000000001')$$,
  $$VALUES (9::bigint, '111')$$, 'the same id again: the first result');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1')::deliver, command_id => '00000000-0000-4000-8000-000000000001')$$,
  'SE007', NULL, 'the same id with another command');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('2', 3)::weigh, command_id => '00000000-0000-4000-8000-000000000001')$$,
  'SE007', NULL, 'the same id for another stream');
SELECT results_eq(
  $$SELECT DISTINCT causation_id, correlation_id FROM es_read_stream('parcel-1', 9)$$,
  $$VALUES ('00000000-0000-4000-8000-000000000001'::uuid, '00000000-0000-4000-8000-000000000001'::uuid)$$,
  'causation and correlation come from the command''s id');

-- Metadata of the session under that of the command
SET LOCAL event_sourcing.metadata = '{"user": "dora", "tenant": 7}';
SELECT results_eq(
  $$SELECT (events[1]).metadata FROM es_dispatch(ROW('1', 5)::weigh, metadata => '{"user": "emil"}')$$,
  $$VALUES ('{"user": "emil", "tenant": 7}'::jsonb)$$, 'metadata of the session and of the command');

-- The log is append-only
SELECT throws_ok(
  $$DELETE FROM tap_dispatch_es.event$$,
  '55000', 'cannot change event log "tap_dispatch_es.event"', 'events cannot be deleted');
SELECT throws_ok(
  $$UPDATE tap_dispatch_es.event SET data = '{}'$$,
  '55000', 'cannot change event log "tap_dispatch_es.event"', 'events cannot be changed');

-- Gone
SELECT lives_ok($$SELECT es_drop_aggregate('parcel')$$, 'an aggregate is dropped');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('1', 5)::weigh)$$,
  'SE004', 'no aggregate executes command "weigh"', 'its commands are unknown now');
SELECT is(es_stream_version('parcel-1'), 10::bigint, 'its events are still there');

SELECT * FROM finish();
ROLLBACK;
