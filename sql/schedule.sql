-- Scheduled commands.  A command is dispatched when it is due, once, by whoever runs
-- the store, as the role that scheduled it; again and again when it has an interval.
-- It is taken back in the transaction that makes it moot.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('schedule_test');
SET event_sourcing.store = 'schedule_test';
CREATE SCHEMA schedule_app;
SET search_path = schedule_app, public;
SET event_sourcing.retry_delay = 0;
SET TimeZone = 'UTC';

CREATE TYPE task AS (id text, reminders int, done boolean);
CREATE TYPE remind AS (id text, word text);
CREATE TYPE finish AS (id text);
CREATE TYPE reminded AS (word text);
CREATE TYPE finished AS (id text);
CREATE FUNCTION execute(s task, c remind) RETURNS reminded LANGUAGE plpgsql AS $$
BEGIN
	IF c.word = 'never' THEN
		RAISE EXCEPTION 'never say never' USING ERRCODE = 'TA001', DETAIL = 'The word is bad.', HINT = 'Say later.';
	END IF;
	RETURN ROW(c.word)::reminded;
END $$;
CREATE FUNCTION execute(s task, c finish) RETURNS finished LANGUAGE sql RETURN ROW(c.id)::finished;
CREATE FUNCTION apply(s task, e reminded) RETURNS task LANGUAGE sql IMMUTABLE RETURN ROW(s.id, COALESCE(s.reminders, 0) + 1, s.done)::task;
CREATE FUNCTION apply(s task, e finished) RETURNS task LANGUAGE sql IMMUTABLE RETURN ROW(e.id, s.reminders, true)::task;
SELECT es_create_aggregate('task');
CREATE VIEW history AS SELECT position, stream, version, type, data FROM schedule_test.event ORDER BY position;
-- an id that can be told from others
CREATE FUNCTION id(n int) RETURNS uuid LANGUAGE sql IMMUTABLE RETURN ('00000000-0000-4000-8000-' || lpad(n::text, 12, '0'))::uuid;
CREATE VIEW scheduled AS
	SELECT right(schedule_id::text, 4) AS id, CASE WHEN due_at < '2021-01-01' THEN due_at END AS due_long, every, command_type, data, state, attempts, last_error
	FROM es_schedule_status ORDER BY due_at, schedule_id;

-- ---------------------------------------------------------------------------
-- Once
-- ---------------------------------------------------------------------------

-- What is due is dispatched, what has been due longest first, and forgotten; the rest waits.
SELECT es_schedule(ROW('a', 'second')::remind, '2020-01-02', schedule_id => id(1));
SELECT es_schedule(ROW('a', 'first')::remind, '2020-01-01', schedule_id => id(2));
SELECT es_schedule(ROW('a', 'some day')::remind, '2999-12-31', schedule_id => id(3));
SELECT * FROM scheduled;
SELECT es_run(1);
SELECT * FROM history;
SELECT es_run();
SELECT es_run();
SELECT * FROM history;
SELECT * FROM scheduled;
-- Without an id it gets one, ordered by time.
SELECT es_schedule(ROW('a', 'now')::remind, now()) < es_schedule(ROW('a', 'now')::remind, now()) AS ordered;
SELECT es_run();
-- Given as its type and JSON, and with a schema in its name.
SELECT es_schedule('remind', '{"id": "b", "word": "json"}', '2020-01-01', schedule_id => id(4));
SELECT es_schedule('schedule_app.remind', '{"id": "b"}'::jsonb, '2020-01-01', schedule_id => id(5));
SELECT es_schedule('remind', '{"id": "b", "word": "daily"}', '2020-01-03', '1 day', '{"by": "me"}', id(6)) = id(6) AS scheduled;
SELECT id, command_type, data FROM scheduled WHERE state = 'due';
SELECT es_run();
SELECT stream, version, type, data FROM history WHERE stream = 'task-b';
SELECT id, every, command_type, state FROM scheduled WHERE id = '0006';
SELECT es_unschedule(id(6));
-- What is rolled back was not scheduled, or not dispatched.
BEGIN;
SELECT es_schedule(ROW('c', 'x')::remind, '2020-01-01', schedule_id => id(6)) = id(6) AS scheduled;
ROLLBACK;
SELECT es_run();
SELECT es_schedule(ROW('c', 'x')::remind, '2020-01-01', schedule_id => id(6)) = id(6) AS scheduled;
BEGIN;
SELECT es_run();
ROLLBACK;
SELECT es_stream_version('task-c'), (SELECT count(*) FROM scheduled WHERE state = 'due') AS due;
SELECT es_run();
SELECT es_stream_version('task-c'), (SELECT count(*) FROM scheduled WHERE state = 'due') AS due;

-- A schedule with the same id is replaced, all of it.
SELECT es_schedule(ROW('d', 'old')::remind, '2020-01-01', '1 day', '{"old": true}', id(7), id(100), id(101)) = id(7) AS scheduled;
SELECT es_schedule(ROW('d', 'new')::remind, '2020-01-02', schedule_id => id(7)) = id(7) AS replaced;
SELECT * FROM scheduled;
SELECT es_run();
SELECT e.stream, e.data, e.metadata, right(e.correlation_id::text, 3) AS correlation FROM schedule_test.event e WHERE e.stream = 'task-d';
SELECT es_run();

-- Its events have the schedule's id for cause and correlation, or those that were given;
-- metadata is that of the time when it was scheduled.
SET event_sourcing.metadata = '{"by": "ann", "from": "setting"}';
SELECT es_schedule(ROW('e', '1')::remind, '2020-01-01', schedule_id => id(8)) = id(8) AS scheduled;
SELECT es_schedule(ROW('e', '2')::remind, '2020-01-02', NULL, '{"by": "bob"}', id(9), id(102), id(103)) = id(9) AS scheduled;
RESET event_sourcing.metadata;
SELECT es_run();
SELECT version, metadata, right(correlation_id::text, 3) AS correlation, right(causation_id::text, 3) AS causation
FROM schedule_test.event WHERE stream = 'task-e' ORDER BY version;
-- Scheduled by a handler, it goes on with the event's correlation.
CREATE FUNCTION plan(e finished, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_schedule(ROW(e.id || '-after', 'planned')::remind, '2020-01-01');
END $$;
SELECT es_create_handler('plan', 'plan', from_position => NULL);
SELECT version FROM es_dispatch(ROW('f')::finish, correlation_id => id(104));
-- the event, and the command that its handler has made due
SELECT es_run();
SELECT e.stream, e.data, c.stream AS cause, right(e.correlation_id::text, 3) AS correlation
FROM schedule_test.event e JOIN schedule_test.event c ON c.event_id = e.causation_id WHERE e.stream = 'task-f-after';
SELECT es_drop_subscription('plan');

-- ---------------------------------------------------------------------------
-- Taken back
-- ---------------------------------------------------------------------------

SELECT es_unschedule(id(3)), es_unschedule(id(3)), es_unschedule(id(4));
SELECT * FROM scheduled;
-- The command that makes the reminder moot takes it back, in its own transaction.
CREATE OR REPLACE FUNCTION execute(s task, c finish) RETURNS finished LANGUAGE plpgsql AS $$
BEGIN
	IF s.done THEN
		RAISE EXCEPTION 'task % is done', s.id;
	END IF;
	PERFORM es_unschedule(id(10));
	RETURN ROW(c.id)::finished;
END $$;
SELECT es_schedule(ROW('g', 'too late')::remind, '2020-01-01', schedule_id => id(10)) = id(10) AS scheduled;
BEGIN;
SELECT version FROM es_dispatch(ROW('g')::finish);
ROLLBACK;
SELECT count(*) FROM scheduled;
SELECT version FROM es_dispatch(ROW('g')::finish);
SELECT count(*) FROM scheduled;
SELECT es_run();
SELECT type FROM history WHERE stream = 'task-g';

-- A recurring command may end itself, and one that is due may put itself off.
CREATE TYPE countdown AS (id text, n int);
CREATE TYPE count_down AS (id text, schedule uuid);
CREATE TYPE counted_down AS (n int);
CREATE FUNCTION execute(s countdown, c count_down) RETURNS counted_down LANGUAGE plpgsql AS $$
BEGIN
	IF s.n = 1 THEN
		PERFORM es_unschedule(c.schedule);
	END IF;
	RETURN ROW(COALESCE(s.n, 3) - 1)::counted_down;
END $$;
CREATE FUNCTION apply(s countdown, e counted_down) RETURNS countdown LANGUAGE sql IMMUTABLE RETURN ROW(s.id, e.n)::countdown;
SELECT es_create_aggregate('countdown');
SELECT es_schedule(ROW('x', id(11))::count_down, '2020-01-01', '1 hour', schedule_id => id(11)) = id(11) AS scheduled;
SELECT es_run();
SELECT count(*) FROM scheduled;
UPDATE schedule_test.schedule SET due_at = '2020-01-01';
SELECT es_run();
UPDATE schedule_test.schedule SET due_at = '2020-01-01';
SELECT es_run();
SELECT es_state('countdown', 'x');
SELECT count(*) FROM scheduled;
CREATE TYPE snooze AS (id text, schedule uuid);
CREATE FUNCTION execute(s task, c snooze) RETURNS reminded LANGUAGE plpgsql AS $$
BEGIN
	IF s.reminders IS NULL THEN
		PERFORM es_schedule(c, '2020-01-02', schedule_id => c.schedule);
	ELSIF s.reminders < 2 THEN
		PERFORM es_schedule(c, '2999-01-01', schedule_id => c.schedule);
	END IF;
	RETURN ROW('snoozed')::reminded;
END $$;
SELECT es_schedule(ROW('h', id(12))::snooze, '2020-01-01', schedule_id => id(12)) = id(12) AS scheduled;
SELECT es_run();
SELECT id, command_type, state FROM scheduled;
SELECT es_unschedule(id(12));
SELECT version, data FROM history WHERE stream = 'task-h';
-- The same with one that recurs.
SELECT es_schedule(ROW('i', id(13))::snooze, '2020-01-01', '1 minute', schedule_id => id(13)) = id(13) AS scheduled;
SELECT es_run();
SELECT id, every, command_type, state FROM scheduled;
SELECT es_unschedule(id(13));
SELECT version, data FROM history WHERE stream = 'task-i';

-- ---------------------------------------------------------------------------
-- Again and again
-- ---------------------------------------------------------------------------

-- Turns that were missed are made up for by one; the next one lies ahead, on the grid
-- of the first, and is the nearest there is.
SELECT es_schedule(ROW('hour', 'tick')::remind, '2020-01-01 00:07', '1 hour', schedule_id => id(20)) = id(20) AS scheduled;
SELECT es_schedule(ROW('odd', 'tick')::remind, '2020-01-01 00:00:00.3', '7 hours 7 seconds', schedule_id => id(21)) = id(21) AS scheduled;
SELECT es_schedule(ROW('day', 'tick')::remind, '2020-01-01 12:34', '1 day', schedule_id => id(22)) = id(22) AS scheduled;
SELECT es_schedule(ROW('month', 'tick')::remind, '2020-01-01 12:34', '1 month', schedule_id => id(23)) = id(23) AS scheduled;
SELECT es_schedule(ROW('monthend', 'tick')::remind, '2020-01-31 12:34', '1 month', schedule_id => id(24)) = id(24) AS scheduled;
SELECT es_run(5);
SELECT stream, version, type FROM history WHERE stream IN ('task-hour', 'task-odd', 'task-day', 'task-month', 'task-monthend') ORDER BY stream, version;
SELECT command_type, data ->> 'id' AS id, every, state, due_at > now() AS ahead,
	due_at <= now() + every + CASE data ->> 'id' WHEN 'monthend' THEN interval '3 days' ELSE '0' END AS nearest,
	CASE data ->> 'id'
		WHEN 'hour' THEN extract(minute FROM due_at) = 7 AND extract(second FROM due_at) = 0
		WHEN 'odd' THEN mod((extract(epoch FROM due_at - '2020-01-01 00:00:00.3') * 1000000)::bigint, 25207000000) = 0
		WHEN 'day' THEN due_at::time = '12:34'
		WHEN 'month' THEN due_at::time = '12:34' AND extract(day FROM due_at) = 1
		WHEN 'monthend' THEN due_at::time = '12:34' AND extract(day FROM due_at + interval '1 day') = 1 END AS on_grid
FROM es_schedule_status ORDER BY schedule_id;
SELECT es_unschedule(id(21)), es_unschedule(id(22)), es_unschedule(id(23)), es_unschedule(id(24));
UPDATE schedule_test.schedule SET due_at = '2020-01-01 00:07';
SELECT es_run();
SELECT es_stream_version('task-hour');
SELECT es_unschedule(id(20));
-- One that is due again as soon as it is done is dispatched once by each es_run(), which
-- would not end otherwise.
SET statement_timeout = '1 min';
SELECT es_schedule(ROW('busy', 'tick')::remind, '2020-01-01', '1 microsecond', schedule_id => id(25)) = id(25) AS scheduled;
SELECT es_run();
SELECT es_run();
SELECT es_stream_version('task-busy');
SELECT es_unschedule(id(25));
RESET statement_timeout;

-- ---------------------------------------------------------------------------
-- Refused
-- ---------------------------------------------------------------------------

-- A command that is refused is tried again, later each time, while others go on,
SET event_sourcing.retry_delay = '1h';
SELECT es_schedule(ROW('j', 'never')::remind, '2020-01-01', schedule_id => id(30)) = id(30) AS scheduled;
SELECT es_schedule(ROW('j', 'well')::remind, '2020-01-02', schedule_id => id(31)) = id(31) AS scheduled;
SELECT es_run();
SELECT * FROM scheduled;
SELECT es_run();
SELECT version, data FROM history WHERE stream = 'task-j';
-- and at last given up: it stays to be seen, and is not tried any more.
SET event_sourcing.retry_delay = 0;
UPDATE schedule_test.schedule SET retry_at = NULL;
SELECT es_run();
SELECT * FROM scheduled;
SELECT es_run();
SELECT attempts FROM scheduled;
-- Scheduled anew, it begins anew.
SELECT es_schedule(ROW('j', 'better')::remind, '2020-01-01', schedule_id => id(30)) = id(30) AS scheduled;
SELECT id, state, attempts, last_error FROM scheduled;
SELECT es_run();
SELECT version, data FROM history WHERE stream = 'task-j';
-- A recurring one only misses a turn.
SELECT es_schedule(ROW('k', 'never')::remind, '2020-01-01', '1 day', schedule_id => id(32)) = id(32) AS scheduled;
SELECT es_run();
SELECT id, every, data, state, attempts, last_error FROM scheduled;
SELECT due_at > now() AS ahead, due_at <= now() + every AS nearest, due_at::time FROM es_schedule_status;
UPDATE schedule_test.schedule SET due_at = '2020-01-01', data = '{"id": "k", "word": "good"}';
SELECT es_run();
SELECT id, state, attempts, last_error FROM scheduled;
SELECT version, data FROM history WHERE stream = 'task-k';
SELECT es_unschedule(id(32));
-- A command that runs the store in its turn would be dispatched again and again.
CREATE OR REPLACE FUNCTION execute(s task, c finish) RETURNS finished LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_run();
	RETURN ROW(c.id)::finished;
END $$;
SELECT es_schedule(ROW('l')::finish, '2020-01-01', schedule_id => id(33)) = id(33) AS scheduled;
SELECT es_run();
SELECT id, state, attempts, last_error FROM scheduled;
-- A command that no aggregate executes any more; one that takes too long.
SELECT es_schedule(ROW('l', 'x')::remind, '2020-01-01', schedule_id => id(33)) = id(33) AS scheduled;
SELECT es_drop_aggregate('task');
SELECT es_run();
SELECT id, state, attempts, last_error FROM scheduled;
SELECT es_create_aggregate('task');
CREATE OR REPLACE FUNCTION execute(s task, c finish) RETURNS finished LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(60);
END $$;
SELECT es_schedule(ROW('l')::finish, '2020-01-01', schedule_id => id(33)) = id(33) AS scheduled;
SET event_sourcing.handler_timeout = '20ms';
SELECT es_run();
RESET event_sourcing.handler_timeout;
SELECT id, state, attempts, last_error FROM scheduled;
SELECT es_unschedule(id(33));

-- ---------------------------------------------------------------------------
-- Bad input
-- ---------------------------------------------------------------------------

CREATE TYPE unheard AS (id text);
SELECT es_schedule(ROW('a')::unheard, now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule('unheard', '{}', now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(NULL::remind, now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(1, now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(NULL, '{}', now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule('remind', NULL, now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule('remind', '[]', now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule('remind', '{"id": "a", "worth": 1}', now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule('remind', '{"word": "x"}', now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW(NULL, 'x')::remind, now());
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('a', 'x')::remind, NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('a', 'x')::remind, 'infinity');
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('a', 'x')::remind, '-infinity');
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('a', 'x')::remind, now(), '0');
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('a', 'x')::remind, now(), '-1 day');
\echo :LAST_ERROR_SQLSTATE
-- in February it would go back
SELECT es_schedule(ROW('a', 'x')::remind, now(), '1 month -29 days');
\echo :LAST_ERROR_SQLSTATE
-- there would be no second time
SELECT es_schedule(ROW('a', 'x')::remind, '2020-01-01', '300000 years');
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule(ROW('a', 'x')::remind, now(), NULL, '[]');
\echo :LAST_ERROR_SQLSTATE
SELECT es_unschedule(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule('remind', '{"id": "a"}', 'some day');
\echo :LAST_ERROR_SQLSTATE
SELECT es_schedule('remind', '{"id": "a"', '2020-01-01');
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM scheduled;
-- Whoever may write the table may write nonsense: it is dispatched, once, and holds
-- nobody up.
INSERT INTO schedule_test.schedule (schedule_id, due_at, every, command_type, data) VALUES
	(id(34), '2020-02-01', '1 month -29 days', 'remind', '{"id": "n", "word": "1"}'), (id(35), '2020-02-02', '300000 years', 'remind', '{"id": "n", "word": "2"}'),
	(id(36), '2020-02-03', '0', 'remind', '{"id": "n", "word": "3"}'), (id(37), '2020-02-04', NULL, 'remind', '[]'), (id(38), '2020-02-05', NULL, 'remind', '{"id": "n", "word": "5"}');
SELECT es_run();
SELECT version, data FROM history WHERE stream = 'task-n';
SELECT id, state, attempts, last_error FROM scheduled;
SELECT es_unschedule(id(37));

-- ---------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------

-- It is dispatched as the role that scheduled it, whoever runs the store.
CREATE ROLE regress_es_planner;
CREATE ROLE regress_es_rival;
GRANT USAGE ON SCHEMA schedule_test, schedule_app TO regress_es_planner, regress_es_rival;
GRANT SELECT ON schedule_test.aggregate, schedule_test.projection, schedule_test.subscription TO regress_es_planner, regress_es_rival;
GRANT SELECT, INSERT, UPDATE, DELETE ON schedule_test.schedule TO regress_es_planner, regress_es_rival;
GRANT SELECT, INSERT ON schedule_test.event TO regress_es_planner;
GRANT USAGE ON SEQUENCE schedule_test.event_position TO regress_es_planner;
GRANT EXECUTE ON FUNCTION es_schedule(anyelement, timestamptz, interval, jsonb, uuid, uuid, uuid), es_unschedule(uuid), es_run(bigint)
	TO regress_es_planner, regress_es_rival;
CREATE OR REPLACE FUNCTION execute(s task, c finish) RETURNS finished LANGUAGE plpgsql AS $$
BEGIN
	RETURN ROW(current_user)::finished;
END $$;
SET ROLE regress_es_planner;
SELECT es_schedule(ROW('m')::finish, '2020-01-01', schedule_id => id(40)) = id(40) AS scheduled;
SET ROLE regress_es_rival;
-- A rival can neither replace it nor take it back, nor schedule in another's name.
SELECT es_schedule(ROW('m')::finish, '2020-01-01', schedule_id => id(40)) = id(40) AS scheduled;
\echo :LAST_ERROR_SQLSTATE
SELECT es_unschedule(id(40));
\echo :LAST_ERROR_SQLSTATE
INSERT INTO schedule_test.schedule (schedule_id, due_at, command_type, data, owner) VALUES (id(41), now(), 'finish', '{"id": "m"}', 'regress_es_planner');
\echo :LAST_ERROR_SQLSTATE
-- Running the store, it runs it as its owner.
SELECT es_run();
RESET ROLE;
SELECT version, data FROM history WHERE stream = 'task-m';
SELECT current_user = session_user AS still_me;
-- What that role may not do, its command may not.
REVOKE INSERT ON schedule_test.event FROM regress_es_planner;
SET ROLE regress_es_planner;
SELECT es_schedule(ROW('m')::finish, '2020-01-01', schedule_id => id(40)) = id(40) AS scheduled;
RESET ROLE;
SELECT es_run();
SELECT id, state, attempts, last_error FROM scheduled;
SELECT owner FROM es_schedule_status;
-- A role that is gone.
UPDATE schedule_test.schedule SET owner = 'regress_es_nobody', failed_at = NULL, attempts = 0;
SELECT es_run();
SELECT id, state, attempts, last_error FROM scheduled;

-- ---------------------------------------------------------------------------
-- The oracle
-- ---------------------------------------------------------------------------

-- Each of many schedules is dispatched once, in the order of their times.
DELETE FROM schedule_test.schedule;
SELECT count(es_schedule(ROW('oracle', g::text)::remind, timestamptz '2020-01-01' + (g * 7919 % 500) * interval '1 minute')) FROM generate_series(1, 500) g;
SELECT es_run(123), es_run();
SELECT count(*) FROM scheduled;
SELECT data ->> 'word' FROM schedule_test.event WHERE stream = 'task-oracle' EXCEPT ALL SELECT g::text FROM generate_series(1, 500) g;
SELECT g::text FROM generate_series(1, 500) g EXCEPT ALL SELECT data ->> 'word' FROM schedule_test.event WHERE stream = 'task-oracle';
SELECT count(*) AS out_of_order FROM (SELECT (data ->> 'word')::int * 7919 % 500 < lag((data ->> 'word')::int * 7919 % 500) OVER (ORDER BY version) AS wrong
	FROM schedule_test.event WHERE stream = 'task-oracle') o WHERE wrong;

DROP OWNED BY regress_es_planner, regress_es_rival;
DROP ROLE regress_es_planner, regress_es_rival;
SET client_min_messages = error;
DROP SCHEMA schedule_app, schedule_test CASCADE;
