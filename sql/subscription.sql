-- Subscriptions that the store runs itself.  An event handler is a function,
-- overloaded by event type, that gets each event once, in the order of the log:
-- what it does and how far it is are one transaction.  An event on which it fails
-- is tried again, and then put aside with the later events of its stream, while
-- everybody else goes on.  Handlers run as whoever defined them.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('subscription_test');
SET event_sourcing.store = 'subscription_test';
CREATE SCHEMA subscription_app;
SET search_path = subscription_app, public;
-- A failure is tried again at once, so that one es_run() sees it through.
SET event_sourcing.retry_delay = 0;

CREATE TYPE opened AS (owner text);
CREATE TYPE paid AS (amount int);
CREATE TYPE closed AS (reason text);
CREATE VIEW progress AS
	SELECT name, kind, state, position, lag_events AS lag, attempts, last_error, parked_events AS parked
	FROM es_subscription_status ORDER BY name;
CREATE VIEW parked AS
	SELECT subscription, position, stream, version, type, state, reason, attempts
	FROM es_parked_event ORDER BY subscription, position;

-- ---------------------------------------------------------------------------
-- Handlers
-- ---------------------------------------------------------------------------

-- A handler has any of three signatures: h(event), h(event, es_event), and
-- h(es_event) for what has no overload of its own.  What it returns is of no account.
CREATE TABLE seen (n serial, by text, what text);
CREATE FUNCTION note(e opened) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('note', 'opened by ' || e.owner) $$;
CREATE FUNCTION note(e paid, m es_event) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen (by, what) VALUES ('note', 'paid ' || e.amount || ' on ' || m.stream || ' at ' || m.version);
	RETURN 7;
END $$;
CREATE FUNCTION note(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('note', m.type || ' ' || m.data) $$;
SELECT version, position FROM es_append('till-1', ARRAY[es_new_event(ROW('ann')::opened), es_new_event(ROW(5)::paid)]);
SELECT es_create_handler('notes', 'note');
-- Nothing happens before it is run; history comes first.
SELECT version, position FROM es_append('till-1', ARRAY[es_new_event(ROW('late')::closed), es_new_event('odd', '[1]')]);
SELECT version, position FROM es_append('till-2', ROW(7)::paid);
SELECT * FROM progress;
SELECT count(*) FROM seen;
SELECT es_run();
SELECT what FROM seen ORDER BY n;
SELECT * FROM progress;
-- Once is enough.
SELECT es_run();
SELECT count(*) FROM seen;

-- Without h(es_event), only events with an overload are looked at.
CREATE FUNCTION pay_day(e paid) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('pay day', e.amount::text) $$;
SELECT es_create_handler('pay day', 'pay_day');
SELECT es_run();
SELECT what FROM seen WHERE by = 'pay day' ORDER BY n;

-- es_run() does no more than it is told to, and goes on where it stopped.
DELETE FROM seen;
SELECT version FROM es_append('till-2', ARRAY(SELECT es_new_event(ROW(g)::paid) FROM generate_series(1, 5) g));
SELECT es_run(0);
SELECT count(*) FROM seen;
SELECT es_run(3);
SELECT count(*) FROM seen;
SELECT es_run(1);
SELECT count(*) FROM seen;
SELECT es_run(NULL);
SELECT by, string_agg(what, ', ' ORDER BY n) FROM seen GROUP BY by ORDER BY by;

-- What is rolled back, was not handled.
SELECT version FROM es_append('till-2', ROW(6)::paid);
BEGIN;
SELECT es_run();
SELECT count(*) FROM seen WHERE what LIKE '%6%';
ROLLBACK;
SELECT count(*) FROM seen WHERE what LIKE '%6%';
SELECT es_run();
SELECT count(*) FROM seen WHERE what LIKE '%6%';
-- The transaction's own events are in the feed, as for every reader.
BEGIN;
SELECT version FROM es_append('till-2', ROW(8)::paid);
SELECT es_run();
COMMIT;
SELECT es_run();
SELECT es_drop_subscription('notes'), es_drop_subscription('pay day');

-- Filters: by category, type and stream, and by all of them.
CREATE FUNCTION sift(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('sift', m.stream || ' ' || m.type) $$;
CREATE FUNCTION sift_a(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('category', m.stream || ' ' || m.type) $$;
CREATE FUNCTION sift_b(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('type', m.stream || ' ' || m.type) $$;
CREATE FUNCTION sift_c(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('stream', m.stream || ' ' || m.type) $$;
CREATE FUNCTION sift_d(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (by, what) VALUES ('all', m.stream || ' ' || m.type) $$;
SELECT es_create_handler('by category', 'sift_a', categories => '{bar,door}', from_position => NULL);
SELECT es_create_handler('by type', 'sift_b', types => '{opened,closed}', from_position => NULL);
SELECT es_create_handler('by stream', 'sift_c', stream => 'bar-1', from_position => NULL);
SELECT es_create_handler('by all', 'sift_d', categories => '{bar}', types => '{paid}', stream => 'bar-1', from_position => NULL);
SELECT version FROM es_append('bar-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW('c')::opened)]);
SELECT version FROM es_append('bar-10', ARRAY[es_new_event(ROW(1)::paid), es_new_event('Paid')]);
SELECT version FROM es_append('barn-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW('c')::closed)]);
SELECT version FROM es_append('door', ARRAY[es_new_event(ROW(1)::paid)]);
SELECT es_run();
SELECT by, string_agg(what, ', ' ORDER BY n) FROM seen WHERE by IN ('category', 'type', 'stream', 'all') GROUP BY by ORDER BY by;
-- What nobody wants is not looked at again: all are up to date.
SELECT name, position, lag FROM progress;
SELECT es_drop_subscription('by ' || x) FROM unnest('{category,type,stream,all}'::text[]) x;

-- Where to begin: at a position, behind the end, or (NULL) from now on.
TRUNCATE seen;
SELECT es_create_handler('from 12', 'sift_a', from_position => 12);
SELECT es_create_handler('from 1000', 'sift_b', from_position => 1000);
SELECT es_create_handler('from now', 'sift_c', from_position => NULL);
SELECT version, position FROM es_append('till-3', ROW(9)::paid);
SELECT es_run();
SELECT by, count(*), min(what), max(what) FROM seen GROUP BY by ORDER BY by;
SELECT name, position, lag FROM progress;
SELECT es_drop_subscription('from ' || x) FROM unnest('{12,1000,now}'::text[]) x;

-- Partitions: each stream has one of them for ever, so its order is kept, and each
-- has a checkpoint of its own.
TRUNCATE seen;
SELECT es_create_handler('parts', 'sift', categories => '{part}', partitions => 4);
SELECT count(*) FROM generate_series(1, 3) v, generate_series(1, 20) s, es_append('part-' || s, 'step', jsonb_build_object('v', v));
SELECT es_run();
SELECT count(*), count(DISTINCT what) FROM seen;
SELECT count(*) FROM subscription_test.checkpoint WHERE subscription = 'parts';
SELECT partitions, lag_events FROM es_subscription_status;
-- more streams, all in the partitions that they had
SELECT count(*) FROM generate_series(1, 20) s, es_append('part-' || s, 'step', '{"v": 4}');
SELECT es_run(7), es_run(7), es_run();
SELECT count(*) FROM seen;
SELECT es_drop_subscription('parts');

-- ---------------------------------------------------------------------------
-- Failures
-- ---------------------------------------------------------------------------

-- mood says on which amounts the handler fails; tries counts, whatever is undone.
CREATE TABLE mood (amount int PRIMARY KEY);
CREATE SEQUENCE tries;
CREATE TABLE done (n serial, by text, stream text, version bigint);
CREATE FUNCTION moody(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('tries');
	INSERT INTO done (by, stream, version) VALUES ('moody', m.stream, m.version);
	IF EXISTS (SELECT FROM mood o WHERE o.amount = e.amount) THEN
		RAISE EXCEPTION 'not in the mood for %', e.amount USING ERRCODE = 'MO001', DETAIL = 'It happens.', HINT = 'Wait.';
	END IF;
END $$;

-- An event that fails waits, longer each time, and with it all that comes later.
SET event_sourcing.retry_delay = '1h';
INSERT INTO mood VALUES (13);
SELECT es_create_handler('moody', 'moody', max_retries => 2, from_position => NULL);
SELECT version FROM es_append('m-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(13)::paid), es_new_event(ROW(2)::paid)]);
SELECT version FROM es_append('m-2', ROW(3)::paid);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
SELECT name, state, lag, attempts, last_error, parked FROM progress;
SELECT retry_at > clock_timestamp() + interval '59 min' AS waits, last_error_at <= clock_timestamp() AS failed FROM es_subscription_status;
SELECT es_run();
SELECT attempts FROM progress;
-- es_resume() does not wait for it, and neither does it forgive.
SELECT es_resume('moody');
SELECT es_run();
SELECT name, state, attempts FROM progress;
SELECT retry_at > clock_timestamp() + interval '59 min' AS waits FROM es_subscription_status;
-- Mended, it goes on; what was said of the error stays to be read.
DELETE FROM mood;
SELECT es_resume('moody');
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
SELECT name, state, lag, attempts, last_error, parked FROM progress;
SET event_sourcing.retry_delay = 0;

-- An event that failed max_retries + 1 times is parked, and the later events of its
-- stream wait behind it, though they would do well; everybody else goes on.
TRUNCATE done;
INSERT INTO mood VALUES (13);
SELECT setval('tries', 1, false);
SELECT version, position FROM es_append('m-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(13)::paid), es_new_event(ROW(2)::paid)]);
SELECT version, position FROM es_append('m-2', ROW(3)::paid);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
-- 1 and 13 together, then 1 alone, 13 three times, 3
SELECT last_value FROM tries;
SELECT * FROM parked;
SELECT name, state, lag, attempts, last_error, parked FROM progress;
SELECT version, position FROM es_append('m-1', ARRAY[es_new_event(ROW(4)::paid), es_new_event(ROW('x')::closed)]);
SELECT version, position FROM es_append('m-2', ROW(5)::paid);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
SELECT stream, version, state FROM parked;

-- Replayed before it was mended, it fails again, and nothing overtakes it.
SELECT es_replay_parked('moody');
SELECT stream, version, state, reason, attempts FROM parked;
SELECT stream, version FROM done ORDER BY n;
-- Mended and replayed, the stream catches up in its order.
DELETE FROM mood;
SELECT es_replay_parked('moody');
SELECT * FROM parked;
SELECT stream, version FROM done ORDER BY n;
SELECT es_replay_parked('moody');
SELECT version FROM es_append('m-1', ROW(6)::paid);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n DESC LIMIT 1;

-- Two bad events in a stream: the replay stops at the second one.
TRUNCATE done;
INSERT INTO mood VALUES (13), (14);
SELECT version, position FROM es_append('m-3', ARRAY[es_new_event(ROW(13)::paid), es_new_event(ROW(1)::paid), es_new_event(ROW(14)::paid), es_new_event(ROW(2)::paid)]);
SELECT version, position FROM es_append('m-4', ARRAY[es_new_event(ROW(13)::paid), es_new_event(ROW(1)::paid)]);
SELECT es_run();
SELECT stream, version, state, attempts FROM parked;
DELETE FROM mood WHERE amount = 13;
SELECT es_replay_parked('moody');
SELECT stream, version, state, reason, attempts FROM parked;
SELECT stream, version FROM done ORDER BY n;
-- Given up, it is left out, and those behind it go on at once.
SELECT es_skip_parked('moody', position) FROM parked WHERE state = 'parked';
SELECT stream, version FROM done ORDER BY n;
SELECT * FROM parked;
SELECT es_skip_parked('moody', 1);
\echo :LAST_ERROR_SQLSTATE
-- One that waits can be given up as well; it is the parked one that holds it.
SELECT version, position FROM es_append('m-3', ARRAY[es_new_event(ROW(14)::paid), es_new_event(ROW(3)::paid), es_new_event(ROW(4)::paid)]);
SELECT es_run();
SELECT es_skip_parked('moody', position) FROM parked WHERE state = 'waiting' ORDER BY position LIMIT 1;
SELECT stream, version, state FROM parked;
SELECT es_skip_parked('moody', position) FROM parked WHERE state = 'parked';
SELECT stream, version FROM done ORDER BY n DESC LIMIT 1;
SELECT * FROM parked;
SELECT es_drop_subscription('moody');

-- on_error => 'skip': the event alone is left out, and only the log of the server
-- and last_error tell.
TRUNCATE done;
SELECT es_create_handler('moody', 'moody', max_retries => 0, on_error => 'skip', from_position => NULL);
SELECT version, position FROM es_append('m-5', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(14)::paid), es_new_event(ROW(2)::paid)]);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
SELECT name, state, lag, attempts, last_error, parked FROM progress;
SELECT es_drop_subscription('moody');

-- on_error => 'stop': nothing goes on until somebody has mended it and says so.
TRUNCATE done;
SELECT es_create_handler('moody', 'moody', max_retries => 1, on_error => 'stop', from_position => NULL);
SELECT version, position FROM es_append('m-6', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(14)::paid)]);
SELECT version, position FROM es_append('m-7', ROW(2)::paid);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
SELECT name, state, lag, attempts, last_error, parked FROM progress;
SELECT es_run();
SELECT state, attempts FROM progress;
-- Not mended, it stops again at its first failure.
SELECT es_resume('moody');
SELECT state, attempts FROM progress;
SELECT es_run();
SELECT state, attempts FROM progress;
DELETE FROM mood;
SELECT es_resume('moody');
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
SELECT name, state, lag, attempts, last_error, parked FROM progress;
SELECT es_drop_subscription('moody');

-- A poison event in 10,000: the batch becomes smaller until it ends before it, it is
-- parked, and the rest is processed.  Each stream is complete and in order but one.
TRUNCATE done;
CREATE TABLE tally (stream text PRIMARY KEY, events int, last bigint);
CREATE FUNCTION tally(m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval('tries');
	IF m.data = '{"poison": true}' THEN
		RAISE EXCEPTION 'poisoned';
	END IF;
	INSERT INTO tally AS t VALUES (m.stream, 1, m.version)
	ON CONFLICT (stream) DO UPDATE SET events = t.events + 1, last = EXCLUDED.last WHERE t.last = EXCLUDED.last - 1;
END $$;
SELECT es_create_handler('tally', 'tally', max_retries => 3, categories => '{bulk}', from_position => NULL);
SELECT count(*) FROM generate_series(1, 10) s, es_append('bulk-' || s, ARRAY(SELECT es_new_event('b',
	CASE WHEN s = 5 AND g = 700 THEN '{"poison": true}' ELSE '{}' END::jsonb) FROM generate_series(1, 1000) g));
SELECT setval('tries', 1, false);
SELECT es_run();
SELECT stream, events, last FROM tally ORDER BY length(stream), stream;
-- every event once, those before the culprit in its batch again, and the culprit itself
SELECT last_value < 20000 AS few_more FROM tries;
SELECT state, count(*), min(version), max(version) FROM parked GROUP BY state ORDER BY state;
-- The function is mended, and the stream comes after.
CREATE OR REPLACE FUNCTION tally(m es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO tally AS t VALUES (m.stream, 1, m.version)
	ON CONFLICT (stream) DO UPDATE SET events = t.events + 1, last = EXCLUDED.last WHERE t.last = EXCLUDED.last - 1 $$;
SELECT es_replay_parked('tally');
SELECT count(*), sum(events), min(last), max(last) FROM tally;
SELECT * FROM parked;
SELECT es_drop_subscription('tally');

-- Async projections are subscriptions, too.  By handler, and by a statement, whose
-- set is halved until the culprit is alone.
CREATE TABLE total (stream text PRIMARY KEY, amount bigint);
CREATE TABLE share (stream text PRIMARY KEY, amount numeric);
CREATE FUNCTION add_up(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.amount = 0 THEN
		RAISE EXCEPTION 'nothing was paid';
	END IF;
	INSERT INTO total AS t VALUES (m.stream, e.amount) ON CONFLICT (stream) DO UPDATE SET amount = t.amount + EXCLUDED.amount;
END $$;
SELECT version FROM es_append('p-1', ARRAY(SELECT es_new_event('noise') FROM generate_series(1, 3000) g));
SELECT count(*) FROM generate_series(1, 4) s, es_append('p-' || s + 1, ARRAY(SELECT es_new_event(ROW(CASE WHEN s = 2 AND g = 150 THEN 0 ELSE g END)::paid)
	FROM generate_series(1, 200) g));
SELECT es_create_projection('totals', 'add_up', mode => 'async', targets => '{total}', categories => '{p}');
SELECT es_create_projection('shares', mode => 'async', targets => '{share}', types => '{paid}', categories => '{p}', query => $$
	INSERT INTO share AS s SELECT stream, sum(1000000 / (data ->> 'amount')::int) FROM es_new_events GROUP BY stream
	ON CONFLICT (stream) DO UPDATE SET amount = s.amount + EXCLUDED.amount $$);
-- 800 less 51 for each of them
SELECT es_run();
SELECT name, state, lag, attempts, last_error, parked FROM progress;
SELECT * FROM parked WHERE state = 'parked';
SELECT * FROM total ORDER BY stream;
SELECT * FROM share ORDER BY stream;
-- While a stream is held, its events wait, and the statement gets the others.
SELECT version FROM es_append('p-3', ROW(1)::paid);
SELECT version FROM es_append('p-4', ROW(1)::paid);
SELECT es_run();
SELECT subscription, count(*) FROM parked GROUP BY subscription ORDER BY subscription;
-- Mended, each in its way; then it is what history says.
CREATE OR REPLACE FUNCTION add_up(e paid, m es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total AS t VALUES (m.stream, e.amount) ON CONFLICT (stream) DO UPDATE SET amount = t.amount + EXCLUDED.amount $$;
SELECT es_replay_parked('totals');
SELECT es_skip_parked('shares', position) FROM parked WHERE state = 'parked';
SELECT * FROM parked;
SELECT es_verify_projection('totals');
SELECT stream, amount FROM total EXCEPT ALL
	SELECT stream, sum((data ->> 'amount')::int) FROM subscription_test.event WHERE type = 'paid' AND stream LIKE 'p-%' GROUP BY stream;
SELECT stream::text, sum((data ->> 'amount')::int) FROM subscription_test.event WHERE type = 'paid' AND stream LIKE 'p-%' GROUP BY stream
	EXCEPT ALL SELECT stream, amount FROM total;
SELECT stream, amount FROM share EXCEPT ALL
	SELECT stream, sum(1000000 / (data ->> 'amount')::int) FROM subscription_test.event WHERE type = 'paid' AND stream LIKE 'p-%' AND data <> '{"amount": 0}' GROUP BY stream;
SELECT stream::text, sum(1000000 / (data ->> 'amount')::int) FROM subscription_test.event WHERE type = 'paid' AND stream LIKE 'p-%' AND data <> '{"amount": 0}' GROUP BY stream
	EXCEPT ALL SELECT stream, amount FROM share;
SELECT es_drop_projection('totals'), es_drop_projection('shares');
SELECT count(*) FROM es_subscription_status;

-- Few events among many take few attempts: a set is halved by its positions.
CREATE TABLE ratio (stream text, ratio int);
SELECT version FROM es_append('r-1', ARRAY(SELECT es_new_event('noise') FROM generate_series(1, 5000)));
SELECT version FROM es_append('r-2', ARRAY[es_new_event(ROW(1)::paid)] || ARRAY(SELECT es_new_event('noise') FROM generate_series(1, 5000))
	|| es_new_event(ROW(0)::paid) || es_new_event(ROW(2)::paid));
SELECT version FROM es_append('r-3', ARRAY(SELECT es_new_event('noise') FROM generate_series(1, 5000)) || es_new_event(ROW(2)::paid));
SELECT es_create_projection('ratios', mode => 'async', types => '{paid}', categories => '{r}', query => $$
	INSERT INTO ratio SELECT stream, 100 / (data ->> 'amount')::int FROM (SELECT nextval('tries') OFFSET 0) t, es_new_events $$);
SELECT setval('tries', 1, false);
SELECT es_run();
SELECT * FROM ratio ORDER BY stream;
SELECT stream, state, count(*) FROM parked GROUP BY stream, state ORDER BY stream, state;
SELECT last_value < 30 AS few FROM tries;
SELECT es_drop_projection('ratios');

-- A handler that does not return is cancelled, and fails like any other.
CREATE FUNCTION sleepy(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.amount = 13 THEN
		PERFORM pg_sleep(60);
	END IF;
	INSERT INTO done (by, stream, version) VALUES ('sleepy', m.stream, m.version);
END $$;
TRUNCATE done;
SELECT es_create_handler('sleepy', 'sleepy', max_retries => 1, from_position => NULL);
SELECT version FROM es_append('s-1', ROW(13)::paid);
SELECT version FROM es_append('s-2', ROW(1)::paid);
SET event_sourcing.handler_timeout = '100ms';
SELECT es_run();
RESET event_sourcing.handler_timeout;
SELECT stream, version FROM done ORDER BY n;
SELECT stream, version, state, reason, attempts FROM parked;
-- To catch the cancellation does not help.
CREATE OR REPLACE FUNCTION sleepy(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.amount = 13 THEN
		PERFORM pg_sleep(60);
	END IF;
	INSERT INTO done (by, stream, version) VALUES ('sleepy', m.stream, m.version);
EXCEPTION WHEN query_canceled THEN
	INSERT INTO done (by, stream, version) VALUES ('sleepless', m.stream, m.version);
END $$;
SELECT version FROM es_append('s-4', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(13)::paid), es_new_event(ROW(13)::paid)]);
SET event_sourcing.handler_timeout = '100ms';
SELECT es_run();
RESET event_sourcing.handler_timeout;
SELECT by, stream, version FROM done ORDER BY n;
SELECT stream, version, state, reason, attempts FROM parked;
CREATE OR REPLACE FUNCTION sleepy(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.amount = 13 THEN
		PERFORM pg_sleep(60);
	END IF;
	INSERT INTO done (by, stream, version) VALUES ('sleepy', m.stream, m.version);
END $$;
-- Nobody's statement is cancelled later on.
SELECT pg_sleep(0.2);
-- The caller's own cancellation is no failure of the handler: es_run() ends.
SELECT version FROM es_append('s-3', ROW(13)::paid);
SET statement_timeout = '200ms';
SELECT es_run();
\echo :LAST_ERROR_SQLSTATE
RESET statement_timeout;
SELECT state, attempts, parked FROM progress;
SELECT es_drop_subscription('sleepy');

-- ---------------------------------------------------------------------------
-- What a handler may do
-- ---------------------------------------------------------------------------

-- It may dispatch commands, to the very stream from which its event came.  What
-- it causes has the event for its cause, and the event's correlation, or its id.
CREATE TYPE lamp AS (id text, lit boolean, switched int);
CREATE TYPE switch AS (id text);
CREATE TYPE switched AS (lit boolean);
CREATE FUNCTION execute(s lamp, c switch) RETURNS switched LANGUAGE sql RETURN ROW(NOT COALESCE(s.lit, false))::switched;
CREATE FUNCTION apply(s lamp, e switched) RETURNS lamp LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, e.lit, COALESCE(s.switched, 0) + 1)::lamp;
SELECT es_create_aggregate('lamp');
CREATE FUNCTION switch_off(e switched, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.lit THEN
		PERFORM es_dispatch(ROW(split_part(m.stream, '-', 2))::switch);
	END IF;
END $$;
SELECT es_create_handler('switch off', 'switch_off', from_position => NULL);
SELECT version FROM es_dispatch(ROW('a')::switch);
SELECT version FROM es_dispatch(ROW('b')::switch, correlation_id => '00000000-0000-4000-8000-00000000000b');
-- Its own event comes round in the same run, when it is sure of its place.
SELECT es_run();
SELECT es_state('lamp', 'a'), es_state('lamp', 'b');
SELECT l.stream, l.version, l.causation_id = c.event_id AS caused, l.correlation_id = c.event_id AS by_id,
	right(l.correlation_id::text, 12) = '00000000000b' AS correlated
FROM subscription_test.event l JOIN subscription_test.event c ON c.stream = l.stream AND c.version = 1 AND l.version = 2
WHERE l.stream LIKE 'lamp-%' ORDER BY l.stream;
SELECT es_run();
SELECT es_drop_subscription('switch off');

-- Whatever settings it changes, the next handler and the session do not see it.
SELECT es_create_store('subscription_test_2');
CREATE FUNCTION careless(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen (by, what) VALUES ('careless', concat_ws(' ', e.amount, current_setting('event_sourcing.store'), current_setting('search_path'), current_setting('work_mem')));
	PERFORM set_config('event_sourcing.store', 'subscription_test_2', false);
	PERFORM set_config('search_path', 'pg_catalog', false);
	PERFORM set_config('work_mem', '123kB', false);
END $$;
CREATE FUNCTION careful(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen (by, what) VALUES ('careful', concat_ws(' ', e.amount, current_setting('event_sourcing.store'), current_setting('search_path'), current_setting('work_mem')));
END $$;
CREATE FUNCTION careless_projection(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen (by, what) VALUES ('careless projection', concat_ws(' ', e.amount, current_setting('event_sourcing.store'), current_setting('search_path'), current_setting('work_mem')));
	PERFORM set_config('event_sourcing.store', 'subscription_test_2', false);
	PERFORM set_config('search_path', 'pg_catalog', false);
	PERFORM set_config('work_mem', '123kB', false);
END $$;
TRUNCATE seen;
SET work_mem = '4MB';
SELECT es_create_handler('careless', 'careless', categories => '{care}');
SELECT es_create_handler('careful', 'careful', categories => '{care}');
SELECT es_create_projection('careless projection', 'careless_projection', mode => 'async', categories => '{care}');
SELECT version FROM es_append('care-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(2)::paid)]);
SELECT es_run();
SELECT by, what FROM seen ORDER BY by, n;
SELECT current_setting('event_sourcing.store'), current_setting('search_path'), current_setting('work_mem');
SELECT es_drop_subscription('careless'), es_drop_subscription('careful'), es_drop_projection('careless projection');
-- A run within a run would handle the same event again and again, and a subscription
-- cannot be changed by its own handler.
CREATE FUNCTION eager(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE e.amount
		WHEN 1 THEN PERFORM es_run();
		WHEN 2 THEN PERFORM es_drop_subscription('eager');
		WHEN 3 THEN PERFORM es_reset_subscription('eager', 0);
		WHEN 4 THEN PERFORM es_replay_parked('eager');
		WHEN 5 THEN PERFORM es_pause('eager');
		ELSE INSERT INTO done (by, stream, version) VALUES ('eager', m.stream, m.version);
	END CASE;
END $$;
TRUNCATE done;
SELECT es_create_handler('eager', 'eager', categories => '{eager}', max_retries => 0);
SELECT count(*) FROM generate_series(1, 6) s, es_append('eager-' || s, ROW(s)::paid);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
SELECT stream, state, reason FROM parked;
SELECT es_drop_subscription('eager');

-- Nor can it become somebody else.
CREATE ROLE regress_es_other;
CREATE FUNCTION pretender(e paid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	SET ROLE regress_es_other;
END $$;
CREATE FUNCTION pretender_2(e paid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	SET SESSION AUTHORIZATION regress_es_other;
END $$;
CREATE FUNCTION ender(e paid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	COMMIT;
END $$;
SELECT es_create_handler('pretender', 'pretender', max_retries => 0);
SELECT es_create_handler('pretender 2', 'pretender_2', max_retries => 0);
SELECT es_create_handler('ender', 'ender', max_retries => 0);
SELECT es_run() > 0 AS ran;
SELECT DISTINCT subscription, reason FROM parked WHERE state = 'parked' ORDER BY subscription, reason;
SELECT current_user = session_user AS still_me;
SELECT es_drop_subscription('pretender'), es_drop_subscription('pretender 2'), es_drop_subscription('ender');
DROP ROLE regress_es_other;

-- ---------------------------------------------------------------------------
-- Pausing, moving, dropping
-- ---------------------------------------------------------------------------

-- Paused, it stays where it is; resumed, it goes on there.
TRUNCATE done;
SELECT es_create_handler('moody', 'moody', from_position => NULL);
SELECT es_pause('moody'), es_pause('moody');
SELECT version FROM es_append('m-8', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(2)::paid)]);
SELECT es_run();
SELECT name, state, lag FROM progress;
SELECT count(*) FROM done;
SELECT es_resume('moody'), es_resume('moody');
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;

-- Moved back, it handles again what it has handled, and what was parked is forgotten.
INSERT INTO mood VALUES (13);
SELECT version, position AS last FROM es_append('m-8', ARRAY[es_new_event(ROW(13)::paid), es_new_event(ROW(3)::paid)]) \gset
SELECT es_run();
SELECT stream, version, state FROM parked;
DELETE FROM mood;
SELECT es_reset_subscription('moody', :last - 2);
SELECT * FROM parked;
SELECT name, state, lag FROM progress;
SELECT es_run();
SELECT stream, version FROM done ORDER BY n;
-- NULL: what there is now is left out.
SELECT version FROM es_append('m-8', ROW(4)::paid);
SELECT es_reset_subscription('moody', NULL);
SELECT version FROM es_append('m-8', ROW(5)::paid);
SELECT es_run();
SELECT stream, version FROM done ORDER BY n DESC LIMIT 1;
-- 0: everything.
SELECT es_reset_subscription('moody', 0);
SELECT es_run() = count(*) AS everything FROM subscription_test.event WHERE type = 'paid';

-- Dropped, nothing of it is left, so that it can come again.
INSERT INTO mood VALUES (13);
SELECT version FROM es_append('m-9', ARRAY[es_new_event(ROW(13)::paid), es_new_event(ROW(3)::paid)]);
SELECT es_run();
SELECT es_drop_subscription('moody');
SELECT (SELECT count(*) FROM subscription_test.subscription) AS subscriptions, (SELECT count(*) FROM subscription_test.checkpoint) AS checkpoints,
	(SELECT count(*) FROM subscription_test.parked_event) AS parked;
SELECT es_create_handler('moody', 'moody');
SELECT name, kind, state, position, lag > 0 AS lag, attempts, last_error, parked FROM progress;
SELECT es_drop_subscription('moody');
DELETE FROM mood;

-- ---------------------------------------------------------------------------
-- Bad input
-- ---------------------------------------------------------------------------

SELECT es_create_handler(NULL, 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('', 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler(repeat('x', 513), 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'no_such_function');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'a.b.c');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'nowhere.note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'length');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', categories => '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', categories => '{a,NULL}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', types => '{{a},{b}}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', types => '{NULL}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', stream => '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', stream => '$all');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', from_position => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', partitions => 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', partitions => 1025);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', partitions => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', max_retries => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', max_retries => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', on_error => 'cry');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('bad', 'note', on_error => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_run(-1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_reset_subscription('none', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_reset_subscription(NULL, 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_subscription('none');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_subscription(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_replay_parked('none');
\echo :LAST_ERROR_SQLSTATE
SELECT es_replay_parked(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_skip_parked('none', 1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_skip_parked(NULL, 1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_pause('none');
\echo :LAST_ERROR_SQLSTATE
SELECT es_resume('none');
\echo :LAST_ERROR_SQLSTATE

-- A name is taken by whatever is a subscription, and by every projection.
SELECT es_create_handler('taken', 'note');
SELECT es_create_projection('taken inline', 'add_up');
SELECT es_create_projection('taken async', 'add_up', mode => 'async');
SELECT es_create_handler('taken', 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_subscription('taken');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('taken', 'add_up');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('taken', 'add_up', mode => 'async');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('taken inline', 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('taken async', 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('taken async', 'add_up');
\echo :LAST_ERROR_SQLSTATE
-- Projections have functions of their own.
SELECT es_drop_subscription('taken async');
\echo :LAST_ERROR_SQLSTATE
SELECT es_reset_subscription('taken async', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('taken');
\echo :LAST_ERROR_SQLSTATE
SELECT es_skip_parked('taken', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_reset_subscription('taken', -1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_subscription('taken'), es_drop_projection('taken inline'), es_drop_projection('taken async');

-- A snapshot that stands still cannot tell what others have done.
SELECT es_create_handler('rr', 'sift', from_position => NULL);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_run();
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT es_pause('rr');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_drop_subscription('rr');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SELECT es_drop_subscription('rr');

-- ---------------------------------------------------------------------------
-- What it needs is gone
-- ---------------------------------------------------------------------------

-- A function that is dropped: other overloads of its name go on.
TRUNCATE seen;
SELECT es_create_handler('notes', 'note', categories => '{gone}');
DROP FUNCTION note(es_event);
DROP FUNCTION note(opened);
SELECT version FROM es_append('gone-1', ARRAY[es_new_event(ROW('x')::opened), es_new_event(ROW(1)::paid)]);
SELECT es_run();
SELECT what FROM seen ORDER BY n;
-- Without any it is no longer known what it wants: its events wait, and none is parked.
DROP FUNCTION note(paid, es_event);
SELECT version FROM es_append('gone-1', ARRAY[es_new_event(ROW('x')::opened), es_new_event(ROW(2)::paid)]);
SELECT es_run();
SELECT name, state, lag, parked, last_error FROM progress;
CREATE FUNCTION note(e paid) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen (by, what) VALUES ('note', 'paid again ' || e.amount) $$;
SELECT es_resume('notes');
SELECT es_run();
SELECT what FROM seen ORDER BY n;
SELECT name, state, lag, parked FROM progress;
-- So with an async projection, and when the schema of the functions has another name.
CREATE SCHEMA subscription_app_2;
CREATE FUNCTION subscription_app_2.tell(e paid) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO subscription_app.seen (by, what) VALUES ('tell', e.amount::text) $$;
SELECT es_create_projection('tell', 'subscription_app_2.tell', mode => 'async', categories => '{gone}');
ALTER SCHEMA subscription_app_2 RENAME TO subscription_app_3;
SELECT es_run();
SELECT name, state, parked, last_error FROM progress WHERE name = 'tell';
ALTER SCHEMA subscription_app_3 RENAME TO subscription_app_2;
SELECT es_resume('tell');
SELECT es_run();
SELECT what FROM seen WHERE by = 'tell' ORDER BY n;
SELECT es_drop_projection('tell');
SET client_min_messages = error;
DROP SCHEMA subscription_app_2 CASCADE;
SET client_min_messages = warning;
DROP FUNCTION note(paid);
-- A handler that returns a set is refused when it is to be called.
CREATE FUNCTION note(e paid) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
SELECT version FROM es_append('gone-1', ROW(3)::paid);
SELECT es_run();
SELECT name, state, lag, parked, last_error FROM progress;
SELECT es_drop_subscription('notes');

-- A table that is dropped fails the event that needs it.
SELECT es_create_projection('totals', 'add_up', mode => 'async', targets => '{total}', categories => '{gone}');
DROP TABLE total;
SELECT es_run();
SELECT name, state, lag, parked, last_error FROM progress;
SELECT es_verify_projection('totals');
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE total (stream text PRIMARY KEY, amount bigint);
SELECT es_replay_parked('totals');
SELECT * FROM total;
SELECT es_drop_projection('totals');

-- ---------------------------------------------------------------------------
-- Rights
-- ---------------------------------------------------------------------------

-- A handler runs as the role that defined it, whoever calls es_run().
CREATE ROLE regress_es_handler;
CREATE ROLE regress_es_rival;
CREATE ROLE regress_es_boss SUPERUSER;
CREATE TABLE secret (what text);
INSERT INTO secret VALUES ('it is a secret');
CREATE TABLE witness (n serial, who text, session_is_super boolean, what text);
CREATE FUNCTION spy(e paid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.amount = 13 THEN
		INSERT INTO witness (what) SELECT what FROM secret;
	END IF;
	INSERT INTO witness (who, session_is_super, what) VALUES (current_user, current_setting('is_superuser')::boolean, e.amount::text);
END $$;
GRANT USAGE ON SCHEMA subscription_test, subscription_app TO regress_es_handler, regress_es_rival;
GRANT SELECT ON subscription_test.event, subscription_test.projection TO regress_es_handler, regress_es_rival;
GRANT SELECT, INSERT, UPDATE, DELETE ON subscription_test.subscription TO regress_es_handler, regress_es_rival;
GRANT SELECT, INSERT ON witness TO regress_es_handler;
GRANT USAGE ON SEQUENCE witness_n_seq, subscription_test.event_position TO regress_es_handler;
GRANT EXECUTE ON FUNCTION es_create_handler(text, text, text[], text[], text, bigint, int, int, text), es_drop_subscription(text),
	es_pause(text), es_resume(text), es_reset_subscription(text, bigint), es_run(bigint) TO regress_es_handler, regress_es_rival;
SET ROLE regress_es_handler;
SELECT es_create_handler('spy', 'spy', max_retries => 0, categories => '{spied}');
RESET ROLE;
SELECT version FROM es_append('spied-1', ROW(1)::paid);
SELECT version FROM es_append('spied-2', ROW(13)::paid);
SELECT version FROM es_append('spied-3', ROW(2)::paid);
SELECT es_run();
SELECT who, session_is_super, what FROM witness ORDER BY n;
SELECT stream, state, reason FROM parked;
SELECT name, owner FROM es_subscription_status;
SELECT current_user = session_user AS still_me;
-- Others run it as well, and it still runs as its owner; they need no right of their own.
SELECT version FROM es_append('spied-1', ROW(3)::paid);
SET ROLE regress_es_rival;
SELECT es_run();
RESET ROLE;
SELECT who, session_is_super, what FROM witness ORDER BY n DESC LIMIT 1;

-- A definition is its owner's: a rival with rights on the table cannot change it,
SET ROLE regress_es_rival;
SELECT es_pause('spy');
\echo :LAST_ERROR_SQLSTATE
SELECT es_reset_subscription('spy', 0);
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_subscription('spy');
\echo :LAST_ERROR_SQLSTATE
UPDATE subscription_test.subscription SET handler = 'other' WHERE name = 'spy';
\echo :LAST_ERROR_SQLSTATE
UPDATE subscription_test.subscription SET owner = 'regress_es_rival' WHERE name = 'spy';
\echo :LAST_ERROR_SQLSTATE
DELETE FROM subscription_test.subscription WHERE name = 'spy';
\echo :LAST_ERROR_SQLSTATE
-- nor make one under another's name.
INSERT INTO subscription_test.subscription (name, kind, from_position, partitions, max_retries, on_error, handler, search_path, owner)
	VALUES ('fake', 'handler', 0, 1, 5, 'park', 'spy', '{subscription_app}', 'regress_es_handler');
\echo :LAST_ERROR_SQLSTATE
INSERT INTO subscription_test.subscription (name, kind, from_position, partitions, max_retries, on_error, handler, search_path, owner)
	VALUES ('fake', 'handler', 0, 1, 5, 'park', 'spy', '{subscription_app}', 'regress_es_boss');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
SELECT name, owner, paused FROM subscription_test.subscription ORDER BY name;
-- Its owner can, with no right on the checkpoints.
SET ROLE regress_es_handler;
SELECT es_pause('spy'), es_resume('spy'), es_reset_subscription('spy', 0);
SELECT es_drop_subscription('spy');
RESET ROLE;
SELECT count(*) FROM subscription_test.parked_event;

-- What its owner may not see of the log is not for the handler, and holds nobody up;
-- so with a statement that reads the log.
CREATE TABLE shown (stream text, version bigint);
GRANT SELECT, INSERT ON shown TO regress_es_handler;
GRANT INSERT ON subscription_test.projection TO regress_es_handler;
GRANT EXECUTE ON FUNCTION es_create_projection(text, text, text, regclass[], text, text[], text[]) TO regress_es_handler;
ALTER TABLE subscription_test.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY seen ON subscription_test.event FOR SELECT TO regress_es_handler USING (stream LIKE 'seen-%');
SET ROLE regress_es_handler;
SELECT es_create_handler('spy', 'spy', max_retries => 0, from_position => NULL);
SELECT es_create_projection('shown', mode => 'async', categories => '{seen,hidden}', query => 'INSERT INTO shown SELECT stream, version FROM es_new_events');
RESET ROLE;
TRUNCATE witness;
SELECT version FROM es_append('seen-1', ROW(1)::paid);
SELECT version FROM es_append('hidden-1', ROW(2)::paid);
SELECT es_run();
SELECT version FROM es_append('hidden-1', ROW(3)::paid);
SELECT es_run();
SELECT version FROM es_append('seen-1', ROW(4)::paid);
SELECT version FROM es_append('hidden-1', ROW(5)::paid);
SELECT es_run();
SELECT who, what FROM witness ORDER BY n;
SELECT * FROM shown ORDER BY stream, version;
SELECT name, state, lag FROM progress;
-- Without the right to read the log it fails, and that is no event's fault: it is tried
-- again later, though not by the same es_run(), and not parked.
REVOKE SELECT ON subscription_test.event FROM regress_es_handler;
SELECT version FROM es_append('seen-1', ROW(6)::paid);
SELECT es_run();
SELECT name, state, lag, attempts > 0 AS tried, parked, last_error FROM progress;
GRANT SELECT ON subscription_test.event TO regress_es_handler;
SELECT es_resume('spy'), es_resume('shown');
SELECT es_run();
SELECT who, what FROM witness ORDER BY n DESC LIMIT 1;
SELECT name, state, lag, parked FROM progress;
DROP POLICY seen ON subscription_test.event;
ALTER TABLE subscription_test.event DISABLE ROW LEVEL SECURITY;
SELECT es_drop_subscription('spy'), es_drop_projection('shown');

-- In a store whose owner may not act as the role, its handlers could never run.
CREATE ROLE regress_es_keeper;
GRANT CREATE ON DATABASE :"DBNAME" TO regress_es_keeper;
GRANT EXECUTE ON FUNCTION es_create_store(name) TO regress_es_keeper;
SET ROLE regress_es_keeper;
SELECT es_create_store('subscription_test_3');
GRANT USAGE ON SCHEMA subscription_test_3 TO regress_es_handler;
GRANT SELECT ON ALL TABLES IN SCHEMA subscription_test_3 TO regress_es_handler;
GRANT INSERT ON subscription_test_3.subscription TO regress_es_handler;
RESET ROLE;
SET event_sourcing.store = 'subscription_test_3';
SET ROLE regress_es_handler;
SELECT es_create_handler('spy', 'spy');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
-- Not even a superuser's.
SET ROLE regress_es_boss;
SELECT es_create_handler('super', 'spy');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;
GRANT regress_es_handler TO regress_es_keeper;
SET ROLE regress_es_handler;
SELECT es_create_handler('spy', 'spy', max_retries => 0);
RESET ROLE;
SELECT version FROM es_append('spied-1', ROW(4)::paid);
SELECT es_run();
SELECT who, session_is_super, what FROM witness ORDER BY n DESC LIMIT 1;
-- Taken away later, it is the subscription that fails, and says why.
REVOKE regress_es_handler FROM regress_es_keeper;
SELECT version FROM es_append('spied-1', ROW(5)::paid);
SET event_sourcing.retry_delay = '1h';
SELECT es_run();
SELECT name, state, lag, attempts, parked, last_error FROM progress;
-- The owner of the store's tables can write any name into them, and gains nothing by it.
SET ROLE regress_es_keeper;
UPDATE subscription_test_3.subscription SET owner = 'regress_es_boss';
RESET ROLE;
SELECT es_resume('spy');
SELECT es_run();
SELECT name, state, attempts, parked, last_error FROM progress;
-- A role that is gone.
UPDATE subscription_test_3.subscription SET owner = 'regress_es_handler';
SET client_min_messages = error;
DROP OWNED BY regress_es_handler;
DROP ROLE regress_es_handler;
SET client_min_messages = warning;
SELECT es_resume('spy');
SELECT es_run();
SELECT name, state, attempts, parked, last_error FROM progress;
SELECT es_drop_subscription('spy');
SET event_sourcing.store = 'subscription_test';
SET event_sourcing.retry_delay = 0;

-- ---------------------------------------------------------------------------
-- The oracle
-- ---------------------------------------------------------------------------

-- A handler with partitions, run in pieces beside appends, failures and mending,
-- has done in the end what the log says: every event once, every stream in order.
CREATE TABLE oracle (n serial, stream text, version bigint, amount int);
CREATE FUNCTION keep(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM mood o WHERE o.amount = e.amount) THEN
		RAISE EXCEPTION 'not in the mood for %', e.amount;
	END IF;
	INSERT INTO oracle (stream, version, amount) VALUES (m.stream, m.version, e.amount);
END $$;
SELECT es_create_handler('oracle', 'keep', partitions => 3, max_retries => 1);
INSERT INTO mood VALUES (13), (77), (150);
DO $$
BEGIN
	FOR i IN 1 .. 40 LOOP
		PERFORM es_append('o-' || i % 7, ARRAY(SELECT es_new_event(ROW(i * 5 + g)::paid) FROM generate_series(0, 4) g));
		PERFORM es_append('o-' || i % 5, 'noise', '{}'::jsonb);
		PERFORM es_run(4);
		IF i = 20 THEN
			DELETE FROM mood WHERE amount = 13;
		END IF;
		IF i % 10 = 0 THEN
			PERFORM es_replay_parked('oracle');
		END IF;
	END LOOP;
END $$;
SELECT es_run() > 0 AS more;
SELECT state, count(*) > 0 AS some FROM parked GROUP BY state ORDER BY state;
DELETE FROM mood;
SELECT es_replay_parked('oracle') > 0 AS replayed;
SELECT es_run();
SELECT stream, version, amount FROM oracle EXCEPT ALL SELECT stream, version, (data ->> 'amount')::int FROM subscription_test.event WHERE type = 'paid';
SELECT stream::text, version, (data ->> 'amount')::int FROM subscription_test.event WHERE type = 'paid' EXCEPT ALL SELECT stream, version, amount FROM oracle;
SELECT count(*) AS out_of_order FROM (SELECT version < lag(version) OVER (PARTITION BY stream ORDER BY n) AS wrong FROM oracle) o WHERE wrong;
SELECT name, state, lag, parked FROM progress;

-- The view has these columns.
SELECT column_name, data_type FROM information_schema.columns WHERE table_name = 'es_subscription_status' ORDER BY ordinal_position;

SET client_min_messages = error;
DROP OWNED BY regress_es_rival, regress_es_keeper CASCADE;
DROP ROLE regress_es_rival, regress_es_keeper, regress_es_boss;
DROP SCHEMA subscription_app, subscription_test, subscription_test_2 CASCADE;
