-- Modes of projections.  An inline projection follows within the append, an async one
-- when the store is run; a projection changes from one to the other, and pauses in
-- either, at a position: no event is missed and none is seen twice.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('mode_test');
SET event_sourcing.store = 'mode_test';
CREATE SCHEMA mode_app;
SET search_path = mode_app, public;
SET event_sourcing.retry_delay = 0;

CREATE TYPE paid AS (amount int);
CREATE TYPE refunded AS (amount int);
CREATE VIEW progress AS
	SELECT p.name, p.mode, p.paused_at, s.state, s.position, s.lag_events AS lag, s.parked_events AS parked
	FROM mode_test.projection p LEFT JOIN es_subscription_status s ON s.name = p.name AND s.kind = 'projection' ORDER BY p.name;

-- A projection of each kind: handlers; one for all events; statements, with filters,
-- comments, WITH and WITH RECURSIVE.
CREATE TABLE balance (till text PRIMARY KEY, amount bigint);
CREATE FUNCTION balance(e paid, m es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO balance AS b VALUES (m.stream, e.amount) ON CONFLICT (till) DO UPDATE SET amount = b.amount + EXCLUDED.amount $$;
CREATE FUNCTION balance(e refunded, m es_event) RETURNS void LANGUAGE sql AS $$
	UPDATE balance SET amount = amount - e.amount WHERE till = m.stream $$;
CREATE TABLE journal (position bigint PRIMARY KEY, stream text, version bigint, type text);
CREATE FUNCTION journal(m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO journal VALUES (m.position, m.stream, m.version, m.type);
END $$;
CREATE TABLE daily (type text PRIMARY KEY, n bigint, amount bigint);
CREATE TABLE bar_paid (n bigint, amount bigint);
INSERT INTO bar_paid VALUES (0, 0);
CREATE TABLE step (position bigint, step int);
SELECT es_create_projection('balance', 'balance', mode => 'async', targets => '{balance}');
SELECT es_create_projection('journal', 'journal', mode => 'async', targets => '{journal}', categories => '{till,bar}');
SELECT es_create_projection('daily', mode => 'async', targets => '{daily}', query => $$
	-- one row for each type; a comment before the statement, and one with es_new_events
	/* in /* it */ */ INSERT INTO daily AS d
	SELECT type, count(*), COALESCE(sum((data ->> 'amount')::int), 0) FROM es_new_events GROUP BY type
	ON CONFLICT (type) DO UPDATE SET n = d.n + EXCLUDED.n, amount = d.amount + EXCLUDED.amount -- the end
	$$);
SELECT es_create_projection('bar_paid', mode => 'async', targets => '{bar_paid}', types => '{paid}', categories => '{bar}', query => $$
	WITH new AS (SELECT count(*) AS n, sum((data ->> 'amount')::int) AS amount FROM es_new_events)
	UPDATE bar_paid p SET n = p.n + new.n, amount = p.amount + new.amount FROM new $$);
SELECT es_create_projection('step', mode => 'async', targets => '{step}', types => '{paid}', query => $$
	WITH RECURSIVE es_steps (position, step, rest) AS (
		SELECT position, 1, (data ->> 'amount')::int - 1 FROM es_new_events
		UNION ALL
		SELECT position, step + 1, rest - 1 FROM es_steps WHERE rest > 0 AND step < 3)
	INSERT INTO step SELECT position, step FROM es_steps $$);

-- What each of them should be, in plain SQL over the log.
CREATE VIEW balance_should AS
	SELECT stream::text AS till, sum(CASE type WHEN 'paid' THEN 1 ELSE -1 END * (data ->> 'amount')::int)::bigint AS amount
	FROM mode_test.event WHERE type IN ('paid', 'refunded') GROUP BY stream;
CREATE VIEW journal_should AS SELECT position, stream::text, version, type::text FROM mode_test.event WHERE es_category(stream) IN ('till', 'bar');
CREATE VIEW daily_should AS
	SELECT type::text, count(*) AS n, COALESCE(sum((data ->> 'amount')::int), 0)::bigint AS amount FROM mode_test.event GROUP BY type;
CREATE VIEW bar_paid_should AS
	SELECT count(*) AS n, COALESCE(sum((data ->> 'amount')::int), 0)::bigint AS amount FROM mode_test.event WHERE type = 'paid' AND es_category(stream) = 'bar';
CREATE VIEW step_should AS
	SELECT position, g AS step FROM mode_test.event, generate_series(1, least((data ->> 'amount')::int, 3)) g WHERE type = 'paid';
CREATE FUNCTION differences() RETURNS TABLE (projection text, missing bigint, too_many bigint) LANGUAGE plpgsql AS $$
BEGIN
	FOREACH projection IN ARRAY '{balance,bar_paid,daily,journal,step}'::text[] LOOP
		EXECUTE format('SELECT (SELECT count(*) FROM (SELECT * FROM %1$s_should EXCEPT ALL SELECT * FROM %1$s) d),
			(SELECT count(*) FROM (SELECT * FROM %1$s EXCEPT ALL SELECT * FROM %1$s_should) d)', projection) INTO missing, too_many;
		RETURN NEXT;
	END LOOP;
END $$;
-- Appends of all sorts; each is other than the one before.
CREATE SEQUENCE turn;
CREATE FUNCTION business() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	n int := nextval('turn');
BEGIN
	PERFORM es_append('till-' || n % 3, ARRAY[es_new_event(ROW(n)::paid), es_new_event('noise'), es_new_event(ROW(1)::refunded)]);
	PERFORM es_append('bar-' || n % 2, ARRAY(SELECT es_new_event(ROW(g)::paid) FROM generate_series(1, n) g));
	PERFORM es_append('else', 'noise', '{}'::jsonb);
END $$;

-- An async projection has history to do, whenever it was created; nothing before it is run.
SELECT business(), business();
SELECT * FROM progress;
SELECT count(*) FROM journal;
SELECT es_run() > 0 AS ran;
SELECT * FROM progress;
SELECT * FROM differences();
SELECT business();
SELECT * FROM differences() WHERE missing + too_many = 0;
SELECT es_run() > 0 AS ran;
SELECT * FROM differences();
-- bar_paid has a row from the start, which a rebuild does not know of
SELECT name, es_verify_projection(name) FROM progress;

-- async -> inline: what is missing is caught up with at once, and from then on it follows
-- the append; it has no subscription any more.
SELECT business();
SELECT es_alter_projection(name, 'inline') FROM mode_test.projection ORDER BY id;
SELECT * FROM differences();
SELECT * FROM progress;
SELECT (SELECT count(*) FROM mode_test.subscription) AS subscriptions, (SELECT count(*) FROM mode_test.checkpoint) AS checkpoints;
SELECT business();
SELECT * FROM differences();
SELECT es_run();
-- To the mode that it has: nothing.
SELECT es_alter_projection('balance', 'inline');
SELECT * FROM differences();

-- inline -> async: it stays where it is, and the run goes on there.
SELECT es_alter_projection(name, 'async') FROM mode_test.projection ORDER BY id;
SELECT name, mode, state, lag FROM progress;
SELECT es_run();
SELECT business();
SELECT name, lag FROM progress;
SELECT es_run() > 0 AS ran;
SELECT * FROM differences();
SELECT es_alter_projection('balance', 'async');
SELECT es_run();

-- To and fro within a transaction, among its appends, and rolled back.
BEGIN;
SELECT business();
SELECT es_alter_projection('balance', 'inline'), es_alter_projection('daily', 'inline');
SELECT business();
SELECT es_alter_projection('balance', 'async');
SELECT business();
SELECT es_run() > 0 AS ran;
SELECT es_alter_projection('journal', 'inline');
SELECT business();
COMMIT;
SELECT name, mode FROM progress;
SELECT es_run() > 0 AS ran;
SELECT * FROM differences();
BEGIN;
SELECT es_alter_projection('daily', 'async'), es_alter_projection('step', 'inline');
SELECT business();
ROLLBACK;
SELECT name, mode FROM progress;
SELECT business();
SELECT es_run() > 0 AS ran;
SELECT * FROM differences();

-- Paused in either mode, it stays where it is, and it changes its mode while it is paused.
SELECT es_pause(name) FROM mode_test.projection ORDER BY id;
SELECT business();
SELECT es_run();
SELECT name, mode, paused_at IS NOT NULL AS paused_inline, state, lag FROM progress;
SELECT projection, missing > 0 AS behind FROM differences();
SELECT es_alter_projection(name, CASE mode WHEN 'inline' THEN 'async' ELSE 'inline' END) FROM mode_test.projection ORDER BY id;
SELECT name, mode, paused_at IS NOT NULL AS paused_inline, state, lag FROM progress;
SELECT business();
SELECT es_run();
SELECT es_alter_projection('daily', 'inline'), es_alter_projection('balance', 'async');
SELECT business();
-- Resumed, it has what it missed: inline at once, async when it is run.
SELECT es_resume(name) FROM mode_test.projection ORDER BY id;
SELECT p.name, p.mode, d.missing > 0 AS behind FROM progress p JOIN differences() d ON d.projection = p.name ORDER BY p.name;
SELECT es_run() > 0 AS ran;
SELECT * FROM differences();
SELECT name, mode, paused_at, state, lag FROM progress;

-- A rebuild brings an async projection up to date: nothing is left to be run.
SELECT business();
SELECT es_rebuild_projection(name) > 0 AS rebuilt FROM mode_test.projection WHERE name <> 'bar_paid' ORDER BY id;
SELECT es_run() > 0 AS ran;
SELECT * FROM differences();
SELECT es_drop_projection('bar_paid');

-- With events parked, it cannot follow an append: first mend it, or give them up.
CREATE FUNCTION fussy(e paid, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.amount = 13 THEN
		RAISE EXCEPTION 'no thirteens' USING ERRCODE = 'FU001';
	END IF;
	INSERT INTO fussy VALUES (m.position, e.amount);
END $$;
CREATE TABLE fussy (position bigint PRIMARY KEY, amount int);
SELECT es_create_projection('fussy', 'fussy', mode => 'async', targets => '{fussy}', categories => '{fuss}');
SELECT version FROM es_append('fuss-1', ARRAY[es_new_event(ROW(1)::paid), es_new_event(ROW(13)::paid), es_new_event(ROW(2)::paid)]);
-- It fails as the run would.
SELECT es_alter_projection('fussy', 'inline');
\echo :LAST_ERROR_SQLSTATE
SELECT mode FROM progress WHERE name = 'fussy';
SELECT es_run() > 0 AS ran;
SELECT es_alter_projection('fussy', 'inline');
\echo :LAST_ERROR_SQLSTATE
SELECT es_skip_parked('fussy', position) FROM es_parked_event WHERE subscription = 'fussy' AND state = 'parked';
SELECT es_alter_projection('fussy', 'inline');
SELECT amount FROM fussy ORDER BY position;
-- Inline, it refuses the append again.
SELECT version FROM es_append('fuss-1', ROW(13)::paid);
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('fussy');

-- Bad input.
SELECT es_alter_projection('none', 'inline');
\echo :LAST_ERROR_SQLSTATE
SELECT es_alter_projection('daily', 'sometimes');
\echo :LAST_ERROR_SQLSTATE
SELECT es_alter_projection('daily', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_alter_projection(NULL, 'inline');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('handler', 'journal');
SELECT es_alter_projection('handler', 'inline');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_subscription('handler');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_alter_projection('step', 'async');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_alter_projection('balance', 'inline');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
-- An async projection without targets can run, but not be rebuilt.
SELECT es_create_projection('aimless', 'journal', mode => 'async');
SELECT es_rebuild_projection('aimless');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('aimless');

-- The oracle: a wild order of everything, and in the end each is what the log says, and
-- what a rebuild would make of it.
SELECT es_create_projection('bar_paid', mode => 'inline', types => '{paid}', categories => '{bar}', query => $$
	WITH new AS (SELECT count(*) AS n, sum((data ->> 'amount')::int) AS amount FROM es_new_events)
	UPDATE bar_paid p SET n = p.n + new.n, amount = p.amount + new.amount FROM new $$);
DO $$
DECLARE
	names CONSTANT text[] := '{balance,bar_paid,daily,journal,step}';
BEGIN
	FOR i IN 1 .. 60 LOOP
		IF i % 2 = 0 THEN
			PERFORM business();
		END IF;
		CASE i % 7
			WHEN 0 THEN PERFORM es_alter_projection(names[i % 5 + 1], 'async');
			WHEN 1 THEN PERFORM es_pause(names[i % 5 + 1]);
			WHEN 2 THEN PERFORM es_alter_projection(names[i % 5 + 1], 'inline');
			WHEN 3 THEN PERFORM es_run(i);
			WHEN 4 THEN PERFORM es_resume(names[i % 5 + 1]);
			WHEN 5 THEN PERFORM es_alter_projection(names[i % 5 + 1], CASE WHEN i % 2 = 0 THEN 'inline' ELSE 'async' END);
			WHEN 6 THEN PERFORM es_run();
		END CASE;
	END LOOP;
END $$;
SELECT count(DISTINCT mode) AS modes, count(*) FILTER (WHERE state = 'paused' OR paused_at IS NOT NULL) > 0 AS some_paused FROM progress;
SELECT es_resume(name) FROM mode_test.projection ORDER BY id;
SELECT es_run() > 0 AS ran;
SELECT * FROM differences();
SELECT name, es_verify_projection(name) FROM progress WHERE name <> 'bar_paid';
SELECT es_rebuild_projection(name) > 0 AS rebuilt FROM mode_test.projection WHERE name <> 'bar_paid' ORDER BY id;
SELECT * FROM differences();

DROP SCHEMA mode_app, mode_test CASCADE;
