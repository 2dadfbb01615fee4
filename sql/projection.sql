-- Projections.  A projection keeps tables up to date from events, inside the
-- transaction that appends them: by handlers, functions overloaded by event
-- type, which get the events one by one, or by one statement over the relation
-- es_new_events, which gets the events of an append at once.  Its tables can be
-- rebuilt from history and compared with it at any time.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('projection_test');
SET event_sourcing.store = 'projection_test';
CREATE SCHEMA projection_app;
SET search_path = projection_app, public;

CREATE TYPE opened AS (owner text);
CREATE TYPE paid AS (amount int);
CREATE TYPE closed AS (reason text);

-- A handler has any of three signatures: h(event), h(event, es_event), and
-- h(es_event) for what has no overload of its own.
CREATE TABLE seen (n serial, what text);
CREATE FUNCTION note(e opened) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (what) VALUES ('opened by ' || e.owner) $$;
CREATE FUNCTION note(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen (what) VALUES ('paid ' || e.amount || ' on ' || m.stream || ' at ' || m.version);
END $$;
CREATE FUNCTION note(m es_event) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO seen (what) VALUES (m.type || ' ' || m.data);
	RETURN 7; -- of no account
END $$;
SELECT es_create_projection('notes', 'note', targets => '{seen}');
SELECT version FROM es_append('till-1', ARRAY[es_new_event(ROW('ann')::opened), es_new_event(ROW(5)::paid),
											  es_new_event(ROW('late')::closed), es_new_event('odd', '[1]')]);
SELECT version FROM es_append('till-2', ROW(7)::paid);
SELECT what FROM seen ORDER BY n;
-- Replaced, it counts at once.
CREATE OR REPLACE FUNCTION note(e opened) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO seen (what) VALUES ('OPENED by ' || e.owner) $$;
SELECT version FROM es_append('till-2', ROW('bob')::opened);
SELECT what FROM seen ORDER BY n DESC LIMIT 1;

-- Without a function for es_event, only events with an overload are looked at.
CREATE TABLE total (till text PRIMARY KEY, amount int);
CREATE FUNCTION add_up(e paid, m es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total AS t VALUES (m.stream, e.amount)
	ON CONFLICT (till) DO UPDATE SET amount = t.amount + EXCLUDED.amount $$;
-- History is not looked at until it is asked for.
SELECT es_create_projection('totals', 'add_up', targets => '{total}');
SELECT count(*) FROM total;
SELECT es_rebuild_projection('totals');
SELECT * FROM total ORDER BY till;
SELECT version FROM es_append('till-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW('x')::opened), es_new_event(ROW(2)::paid)]);
SELECT * FROM total ORDER BY till;

SET client_min_messages = warning;

-- A set-based projection: one statement for all events of an append.
CREATE TABLE batch (n serial, events bigint, tills text, amount bigint);
SELECT es_create_projection('batches', query => $$
	INSERT INTO batch (events, tills, amount)
	SELECT count(*), string_agg(DISTINCT stream, ','), sum((data ->> 'amount')::int) FROM es_new_events $$);
SELECT version FROM es_append('till-3', ARRAY(SELECT es_new_event(ROW(g)::paid) FROM generate_series(1, 2500) g));
SELECT version FROM es_append('till-3', ROW(1)::paid);
SELECT version FROM es_append('till-3', '{}'::es_new_event[]);
SELECT events, tills, amount FROM batch ORDER BY n;
SELECT es_drop_projection('batches');

-- es_new_events has the columns of es_event, with the default collation, so
-- that the statement's joins can use its tables' indexes.
CREATE TABLE shown (line text);
SELECT es_create_projection('show', query => $$
	INSERT INTO shown SELECT concat_ws(' ', stream, version, type, data, metadata,
		position > 0, event_id IS NOT NULL, right(correlation_id::text, 1), right(causation_id::text, 1), recorded_at <= clock_timestamp()) || ' ' || coalesce(pg_collation_for(stream), '') FROM es_new_events $$);
SELECT version FROM es_append('till-4', ARRAY[es_new_event(ROW(1)::paid, '{"by": "me"}')], NULL,
	'00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000b');
SELECT line FROM shown ORDER BY line;
SELECT es_drop_projection('show');

-- Filters: by type, by category, by both; for handlers and statements alike.
CREATE TABLE got (n serial, by text, stream text, type text);
CREATE FUNCTION got_types(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO got (by, stream, type) VALUES ('types', m.stream, m.type) $$;
CREATE FUNCTION got_both(m es_event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO got (by, stream, type) VALUES ('both', m.stream, m.type) $$;
SELECT es_create_projection('got types', 'got_types', types => '{opened,closed}');
SELECT es_create_projection('got both', 'got_both', types => '{paid}', categories => '{bar,door}');
SELECT es_create_projection('got query', categories => '{bar}',
	query => $$INSERT INTO got (by, stream, type) SELECT 'categories', stream, type FROM es_new_events ORDER BY position$$);
SELECT es_create_projection('got nothing', categories => '{none}',
	query => $$INSERT INTO got (by, stream, type) SELECT 'nothing', stream, type FROM es_new_events$$);
SELECT version FROM es_append('bar-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW('c')::opened)]);
SELECT version FROM es_append('barn-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW('c')::closed)]);
SELECT version FROM es_append('door', ARRAY[es_new_event(ROW(1)::paid), es_new_event('Paid')]);
-- Handlers get the events in order; statements follow when the append is complete.
SELECT by, stream, type FROM got ORDER BY n;
SELECT es_drop_projection('got ' || x) FROM unnest('{types,both,query,nothing}'::text[]) x;

-- Several projections: each event goes to all of them, in the order in which
-- they were created, before the next event.
CREATE TABLE journal (n serial, line text);
CREATE FUNCTION first(e paid) RETURNS void LANGUAGE sql AS $$ INSERT INTO journal (line) VALUES ('first ' || e.amount) $$;
CREATE FUNCTION second(e paid) RETURNS void LANGUAGE sql AS $$ INSERT INTO journal (line) VALUES ('second ' || e.amount) $$;
SELECT es_create_projection('z', 'first');
SELECT es_create_projection('y', query => $$INSERT INTO journal (line) SELECT 'third ' || string_agg(data ->> 'amount', ',' ORDER BY position) FROM es_new_events$$);
SELECT es_create_projection('x', 'second');
SELECT es_create_projection('w', query => $$INSERT INTO journal (line) SELECT 'fourth after ' || count(*) FROM journal$$);
SELECT version FROM es_append('till-5', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(2)::paid)]);
SELECT line FROM journal ORDER BY n;
SELECT es_drop_projection(x) FROM unnest('{x,y,z,w}'::text[]) x;

-- A projection that fails makes the append fail, with its name in the context.
CREATE FUNCTION strict_till(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.amount < 0 THEN
		RAISE EXCEPTION 'no refunds' USING ERRCODE = 'TI001', DETAIL = m.stream, HINT = 'Ask the owner.';
	END IF;
END $$;
SELECT es_create_projection('strict till', 'strict_till');
SELECT es_append('till-6', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(-1)::paid)]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_stream_version('till-6'), (SELECT count(*) FROM total WHERE till = 'till-6');
SELECT es_drop_projection('strict till');
SELECT es_create_projection('ratio', query => $$INSERT INTO journal (line) SELECT 1 / (data ->> 'amount')::int FROM es_new_events$$);
SELECT es_append('till-6', ROW(0)::paid);
\echo :LAST_ERROR_SQLSTATE
-- Caught, it takes along only what its block did, and works again after it.
RESET client_min_messages;
DO $$
BEGIN
	FOR i IN -1 .. 1 LOOP
		BEGIN
			PERFORM es_append('till-6', ROW(i)::paid);
		EXCEPTION WHEN division_by_zero THEN
			RAISE NOTICE '%: %', i, SQLERRM;
		END;
	END LOOP;
END $$;
SET client_min_messages = warning;
SELECT version, data FROM es_read_stream('till-6') ORDER BY version;
SELECT amount FROM total WHERE till = 'till-6';
SELECT es_drop_projection('ratio');
-- Data that the event type cannot be read from.
SELECT es_append('till-6', 'paid', '{"amount": "much"}');
\echo :LAST_ERROR_SQLSTATE

-- A projection sees what the append's transaction has done so far, its rows go
-- with it, and a savepoint takes back both.
BEGIN;
SELECT version FROM es_append('till-7', ROW(1)::paid);
SAVEPOINT s;
SELECT version FROM es_append('till-7', ROW(10)::paid);
SELECT amount FROM total WHERE till = 'till-7';
ROLLBACK TO s;
SELECT amount FROM total WHERE till = 'till-7';
ROLLBACK;
SELECT count(*) FROM total WHERE till = 'till-7';

-- A handler may dispatch commands.  Their events have the first event's id for
-- their cause and its correlation.
CREATE TYPE bonus AS (id text, points int);
CREATE TYPE grant_bonus AS (id text, points int);
CREATE TYPE bonus_granted AS (points int);
CREATE FUNCTION execute(s bonus, c grant_bonus) RETURNS bonus_granted LANGUAGE sql RETURN ROW(c.points)::bonus_granted;
CREATE FUNCTION apply(s bonus, e bonus_granted) RETURNS bonus LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.points, 0) + e.points)::bonus;
SELECT es_create_aggregate('bonus');
CREATE FUNCTION reward(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM es_dispatch(ROW(m.stream, e.amount / 10)::grant_bonus);
END $$;
SELECT es_create_projection('rewards', 'reward');
SELECT version FROM es_append('till-8', ARRAY[es_new_event(ROW(100)::paid), es_new_event(ROW(50)::paid)], NULL,
	'00000000-0000-4000-8000-00000000000c');
SELECT b.version, b.data, p.data AS cause, right(b.correlation_id::text, 1) AS correlation
FROM es_read_stream('bonus-till-8') b JOIN es_read_stream('till-8') p ON p.event_id = b.causation_id
ORDER BY b.version;
SELECT es_state('bonus', 'till-8');
SELECT es_drop_projection('rewards');

-- The caller's search_path is of no account.
SET search_path = '';
SELECT (public.es_append('till-9', ROW(3)::projection_app.paid)).version;
SELECT amount FROM projection_app.total WHERE till = 'till-9';
SET search_path = projection_app, public;

-- Bad input.
SELECT es_create_projection('bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'note', query => 'SELECT 1');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'note', mode => 'sometimes');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'note', mode => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'no_such_function');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'runs_nowhere.note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'length');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', query => 'SELECT 1; SELECT 2');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', query => 'COMMIT');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', query => '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', query => 'INSERT INTO seen SELECT FORM es_new_events');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', query => 'INSERT INTO no_such_table SELECT type FROM es_new_events');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', query => 'INSERT INTO seen (what) SELECT tpye FROM es_new_events');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'note', targets => '{no_such_table}');
\echo :LAST_ERROR_SQLSTATE
CREATE VIEW seen_view AS SELECT * FROM seen;
SELECT es_create_projection('bad', 'note', targets => '{seen_view}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'note', targets => ARRAY[NULL]::regclass[]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'note', types => ARRAY['a', NULL]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('bad', 'note', categories => ARRAY[NULL]);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection(NULL, 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('', 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_projection('totals', 'note');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_pause('bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_resume('bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_rebuild_projection('bad');
\echo :LAST_ERROR_SQLSTATE
SELECT es_verify_projection('bad');
\echo :LAST_ERROR_SQLSTATE
-- A handler that returns a set is refused when it is to be called.
CREATE FUNCTION many(e paid) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
BEGIN;
SELECT es_create_projection('many', 'many');
SELECT es_append('till-9', ROW(3)::paid);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- A paused projection stays behind; resumed, it gets exactly what it missed.
SELECT es_pause('totals');
SELECT version FROM es_append('till-10', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(2)::paid)]);
SELECT count(*) FROM total WHERE till = 'till-10';
-- It may be compared and rebuilt as of then, and paused twice.
SELECT es_verify_projection('totals');
SELECT es_pause('totals');
SELECT es_rebuild_projection('totals') > 2500 AS rebuilt;
SELECT count(*) FROM total WHERE till = 'till-10';
SELECT es_resume('totals');
SELECT amount FROM total WHERE till = 'till-10';
SELECT es_resume('totals');
SELECT version FROM es_append('till-10', ROW(4)::paid);
SELECT amount FROM total WHERE till = 'till-10';
-- Resumed and paused within one transaction, among appends.
BEGIN;
SELECT version FROM es_append('till-10', ROW(8)::paid);
SELECT es_pause('totals');
SELECT version FROM es_append('till-10', ROW(16)::paid);
SELECT amount FROM total WHERE till = 'till-10';
SELECT es_resume('totals');
SELECT version FROM es_append('till-10', ROW(32)::paid);
COMMIT;
SELECT amount FROM total WHERE till = 'till-10';

-- A set-based projection over history: it comes in portions, each event once.
CREATE TABLE daily (type text PRIMARY KEY, n bigint, amount bigint);
SELECT es_create_projection('daily', targets => '{daily}', query => $$
	INSERT INTO daily AS d
	SELECT type, count(*), COALESCE(sum(CASE type WHEN 'paid' THEN (data ->> 'amount')::int END), 0) FROM es_new_events GROUP BY type
	ON CONFLICT (type) DO UPDATE SET n = d.n + EXCLUDED.n, amount = d.amount + EXCLUDED.amount $$);
SELECT version FROM es_append('till-11', ARRAY(SELECT es_new_event('beep') FROM generate_series(1, 12000)));
SELECT type, n > 10000 AS many FROM daily ORDER BY type;
SELECT es_rebuild_projection('daily') = (SELECT count(*) FROM projection_test.event) AS all_events;
SELECT (SELECT sum(n) FROM daily) = (SELECT count(*) FROM projection_test.event) AS all_counted;
SELECT es_pause('daily');
SELECT version FROM es_append('till-11', ARRAY(SELECT es_new_event('beep') FROM generate_series(1, 10500)));
SELECT es_resume('daily');
SELECT es_verify_projection('daily');

-- Verifying rebuilds aside: 0 says that a table is what history says.
SELECT es_verify_projection('totals');
SELECT es_verify_projection('notes') > 0 AS "a serial never comes out the same";
-- A changed row differs twice, as it is and as it should be; a row that is
-- missing or too many, once.  The table itself is left as it was.
UPDATE total SET amount = amount + 1 WHERE till = 'till-1';
SELECT es_verify_projection('totals');
DELETE FROM total WHERE till = 'till-2';
INSERT INTO total VALUES ('till-0', NULL);
SELECT es_verify_projection('totals');
SELECT * FROM total WHERE till IN ('till-0', 'till-1', 'till-2') ORDER BY till;
SELECT es_rebuild_projection('totals') > 0 AS rebuilt;
SELECT es_verify_projection('totals');
-- It fails as the rebuild would, and leaves everything alone.
BEGIN;
CREATE OR REPLACE FUNCTION add_up(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not today'; END $$;
SAVEPOINT s;
SELECT es_verify_projection('totals');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK TO s;
SELECT count(*) > 0 AS there FROM total;
ROLLBACK;

-- Oracle, written out in SQL: maintained and computed, compared both ways.
CREATE VIEW total_should AS
	SELECT stream AS till, sum((data ->> 'amount')::int) AS amount FROM projection_test.event WHERE type = 'paid' GROUP BY stream;
CREATE VIEW daily_should AS
	SELECT type, count(*) AS n, COALESCE(sum(CASE type WHEN 'paid' THEN (data ->> 'amount')::int END), 0) AS amount
	FROM projection_test.event GROUP BY type;
SELECT till::text, amount FROM total EXCEPT ALL SELECT till, amount FROM total_should;
SELECT till::text, amount FROM total_should EXCEPT ALL SELECT till, amount FROM total;
SELECT type::text, n, amount FROM daily EXCEPT ALL SELECT type, n, amount FROM daily_should;
SELECT type::text, n, amount FROM daily_should EXCEPT ALL SELECT type, n, amount FROM daily;

-- Without targets nobody knows what to rebuild.
SELECT es_create_projection('aimless', 'first');
SELECT es_rebuild_projection('aimless');
\echo :LAST_ERROR_SQLSTATE
SELECT es_verify_projection('aimless');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('aimless');
-- A target that is gone.
CREATE TABLE brief (x int);
SELECT es_create_projection('brief', 'first', targets => '{brief}');
DROP TABLE brief;
SELECT es_rebuild_projection('brief');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('brief');

-- A snapshot that is older than the rebuild's lock would lose events.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_rebuild_projection('totals');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT es_verify_projection('totals');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_resume('totals');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

-- Logical replication writes rows into the log without es_append(); projections
-- follow, row by row.  Nobody else can do that.
INSERT INTO projection_test.event (position, stream, version, type, data, event_id, recorded_at)
VALUES (nextval('projection_test.event_position'), 'till-12', 1, 'paid', '{"amount": 1}', '00000000-0000-4000-8000-00000000000d', now());
\echo :LAST_ERROR_SQLSTATE
CREATE TABLE rows_of (n serial, rows bigint);
SELECT es_create_projection('rows', query => 'INSERT INTO rows_of (rows) SELECT count(*) FROM es_new_events', categories => '{till}');
SET session_replication_role = replica;
INSERT INTO projection_test.event (position, stream, version, type, data, event_id, recorded_at)
SELECT nextval('projection_test.event_position'), 'till-12', v, 'paid', jsonb_build_object('amount', v), gen_random_uuid(), now()
FROM generate_series(1, 3) v;
RESET session_replication_role;
SELECT amount FROM total WHERE till = 'till-12';
SELECT rows FROM rows_of ORDER BY n;
SELECT version FROM es_append('till-12', ARRAY[es_new_event(ROW(4)::paid), es_new_event(ROW(5)::paid)]);
SELECT amount FROM total WHERE till = 'till-12';
SELECT rows FROM rows_of ORDER BY n;
SELECT es_verify_projection('totals'), es_verify_projection('daily');

-- Dropping a projection keeps its tables and ends its work; it can come again.
SELECT es_drop_projection('totals');
SELECT version FROM es_append('till-12', ROW(6)::paid);
SELECT amount FROM total WHERE till = 'till-12';
SELECT es_create_projection('totals', 'add_up', targets => '{total}');
-- what it missed: the row as it is, and as it should be
SELECT es_verify_projection('totals');
SELECT es_rebuild_projection('totals') > 0 AS rebuilt;
SELECT es_verify_projection('totals');

SET client_min_messages = warning;
DROP SCHEMA projection_app, projection_test CASCADE;
