-- es_lint() names what would fail or be slow: commands without an aggregate,
-- events that cannot be applied, functions that are never called or cannot be
-- inlined, projections that lost their tables.  It reads definitions only and
-- runs none of the functions that it judges.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('lint');
SET event_sourcing.store = 'lint';
CREATE SCHEMA lint_app;
SET search_path = lint_app, public;

-- one finding: what, then the problem and the hint below
\pset format unaligned
\pset tuples_only on
\pset fieldsep '\n    '

-- An empty store has no problem.
SELECT severity || ': ' || object, problem, hint FROM es_lint();

-- Nor has a sound model: commands, events, a projection.
CREATE TYPE account AS (id text, balance int);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
SELECT es_create_aggregate('account');
CREATE TABLE balance (id text PRIMARY KEY, amount int);
CREATE FUNCTION project_balance(e deposited) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO balance AS b VALUES (e.id, e.amount)
	   ON CONFLICT (id) DO UPDATE SET amount = b.amount + EXCLUDED.amount $$;
SELECT es_create_projection('balance', handler => 'project_balance', targets => '{balance}');
SELECT stream, version FROM es_dispatch(ROW('1', 10)::deposit);
SELECT severity || ': ' || object, problem, hint FROM es_lint();

-- An event that a command returns, or that somebody appended, without a way to
-- apply it.  The log of another aggregate or of none is not looked at.
BEGIN;
CREATE TYPE withdraw AS (id text, amount int);
CREATE TYPE withdrawn AS (id text, amount int);
CREATE FUNCTION execute(s account, c withdraw) RETURNS SETOF withdrawn
	LANGUAGE sql RETURN ROW(c.id, c.amount)::withdrawn;
SELECT version FROM es_append('account-1', 'renamed', '{}');
SELECT version FROM es_append('accounting', 'audited', '{}');
SELECT severity || ': ' || object, problem, hint FROM es_lint();
-- The generic form applies them all.
CREATE FUNCTION apply(s account, e es_event) RETURNS account LANGUAGE sql IMMUTABLE RETURN s;
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

-- Commands: two aggregates for one, none for another, no identity, a name twice.
BEGIN;
CREATE TYPE wallet AS (id text, coins int);
CREATE TYPE purse AS (id text, coins int);
CREATE TYPE lose AS (purse text);
CREATE FUNCTION execute(s wallet, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION execute(s wallet, c lose) RETURNS void LANGUAGE sql RETURN NULL;
CREATE FUNCTION execute(s purse, c lose, m es_command) RETURNS void LANGUAGE sql RETURN NULL;
CREATE FUNCTION apply(s wallet, e deposited) RETURNS wallet
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.coins, 0) + e.amount)::wallet;
SELECT es_create_aggregate('wallet');
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

BEGIN;
CREATE FUNCTION till_execute(s jsonb, c es_command) RETURNS es_new_event
	LANGUAGE sql RETURN es_new_event('counted', c.data);
CREATE FUNCTION till_apply(s jsonb, e es_event) RETURNS jsonb
	LANGUAGE sql IMMUTABLE RETURN s || e.data;
SELECT es_create_aggregate('jsonb', name => 'till', execute_function => 'till_execute',
						   apply_function => 'till_apply', commands => '{count,deposit}');
SELECT es_create_aggregate('jsonb', name => 'safe', execute_function => 'no_such_function',
						   apply_function => 'till_apply', commands => '{count}');
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

CREATE SCHEMA lint_other;
BEGIN;
CREATE TYPE lint_other.deposit AS (id text, iban text);
CREATE FUNCTION execute(s account, c lint_other.deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, 1)::deposited;
CREATE TYPE lint_other.deposited AS (id text, amount int);
CREATE FUNCTION apply(s account, e lint_other.deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN s;
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

-- An aggregate without commands, and prefixes that overlap.
BEGIN;
CREATE TYPE vault AS (id text);
SELECT es_create_aggregate('vault', stream_prefix => 'account-');
SELECT es_create_aggregate('vault', name => 'deep vault', stream_prefix => 'account-deep-');
SELECT severity || ': ' || object, problem, hint FROM es_lint() WHERE problem ~ 'prefix|command';
-- A stream is the longest prefix's.
SELECT version FROM es_append('account-deep-1', 'dug', '{}');
SELECT severity || ': ' || object, problem, hint FROM es_lint() WHERE object ~ 'dug';
ROLLBACK;

-- A state type that is gone.
BEGIN;
DROP TYPE account CASCADE;
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

-- What functions return.
BEGIN;
CREATE TYPE audit AS (id text);
CREATE FUNCTION execute(s account, c audit) RETURNS int LANGUAGE sql RETURN 1;
CREATE TYPE audited AS (id text);
CREATE FUNCTION apply(s account, e audited) RETURNS text LANGUAGE sql IMMUTABLE RETURN '';
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

-- Which function is called: the first in the search_path, of those that are in it.
BEGIN;
CREATE SCHEMA lint_late;
SET search_path = lint_app, lint_late, public;
CREATE TYPE crate AS (id text);
CREATE TYPE fill AS (id text);
CREATE TYPE filled AS (id text);
CREATE TYPE emptied AS (id text);
CREATE FUNCTION execute(s crate, c fill) RETURNS filled LANGUAGE sql RETURN ROW(c.id)::filled;
CREATE FUNCTION execute(s crate, c fill, m es_command) RETURNS filled LANGUAGE sql RETURN ROW(c.id)::filled;
CREATE FUNCTION apply(s crate, e filled) RETURNS crate LANGUAGE sql IMMUTABLE RETURN s;
CREATE FUNCTION lint_late.apply(s crate, e filled) RETURNS crate LANGUAGE sql IMMUTABLE RETURN s;
CREATE FUNCTION lint_other.apply(s crate, e filled) RETURNS crate LANGUAGE sql IMMUTABLE RETURN s;
CREATE FUNCTION lint_other.apply(s crate, e emptied) RETURNS crate LANGUAGE sql IMMUTABLE RETURN s;
SELECT es_create_aggregate('crate');
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

-- How apply functions are declared.  The planner is the oracle: it inlines
-- exactly those functions of which nothing is said here.
BEGIN;
CREATE TYPE clock AS (id text, seen text, ticks int);
CREATE TYPE tick AS (id text);
CREATE FUNCTION execute(s clock, c tick) RETURNS void LANGUAGE sql RETURN NULL;
SELECT es_create_aggregate('clock');
DO $$
DECLARE
	i int := 0;
	definition text;
BEGIN
	FOREACH definition IN ARRAY ARRAY[
		-- inlined
		'IMMUTABLE RETURN ROW(e.id, s.seen, COALESCE(s.ticks, 0) + 1)::clock',
		'IMMUTABLE RETURN s',
		'IMMUTABLE BEGIN ATOMIC SELECT ROW(e.id, s.seen, 1)::clock; END',
		'IMMUTABLE RETURN CASE WHEN s.ticks IS DISTINCT FROM 7 THEN s ELSE ROW(e.id, lower(s.seen), 1)::clock END',
		'STABLE RETURN ROW(e.id, e.at::text, 1)::clock',
		'STABLE RETURN ROW(e.id, current_date::text, 1)::clock',
		'IMMUTABLE AS ''SELECT ROW(e.id, s.seen, COALESCE(s.ticks, 0) + 1)::clock;''',
		'IMMUTABLE AS ''SELECT ROW(e.id, $q$now() from; $q$, 1)::clock -- from now()''',
		'IMMUTABLE AS ''SELECT ROW(e.id, s.seen, extract(year FROM date $q$2001-01-01$q$))::clock''',
		-- not inlined
		'IMMUTABLE RETURN ROW(e.id, now()::text, 1)::clock',
		'IMMUTABLE RETURN ROW(e.id, e.at::text, 1)::clock',
		'IMMUTABLE RETURN ROW(e.id, current_date::text, 1)::clock',
		'IMMUTABLE RETURN ROW(e.id, e.id::date::text, 1)::clock',
		'IMMUTABLE RETURN ROW(e.id, s.seen, extract(year FROM e.at + interval ''1 day''))::clock',
		'STABLE RETURN ROW(e.id, s.seen, random())::clock',
		'IMMUTABLE STRICT RETURN ROW(e.id, s.seen, 1)::clock',
		'IMMUTABLE SECURITY DEFINER RETURN ROW(e.id, s.seen, 1)::clock',
		'IMMUTABLE SET work_mem = ''1MB'' RETURN ROW(e.id, s.seen, 1)::clock',
		'IMMUTABLE BEGIN ATOMIC SELECT 1; SELECT ROW(e.id, s.seen, 1)::clock; END',
		'IMMUTABLE BEGIN ATOMIC SELECT e.id, s.seen, 1; END',
		'IMMUTABLE BEGIN ATOMIC SELECT s LIMIT 1; END',
		'IMMUTABLE RETURN (SELECT s)',
		'IMMUTABLE AS ''SELECT e.id, s.seen, 1''',
		'IMMUTABLE AS ''SELECT 1; SELECT s''',
		'IMMUTABLE AS ''SELECT s FROM (VALUES (1)) v''',
		'IMMUTABLE AS ''SELECT ROW(e.id, now(), 1)::clock''',
		'IMMUTABLE AS ''SELECT ROW(e.id, e.at::date, 1)::clock''']
	LOOP
		i := i + 1;
		EXECUTE format('CREATE TYPE t%s AS (id text, at timestamptz)', to_char(i, 'FM00'));
		EXECUTE format('CREATE FUNCTION apply(s clock, e t%s) RETURNS clock LANGUAGE sql %s',
					   to_char(i, 'FM00'), definition);
	END LOOP;
END $$;
SELECT substring(object FROM 't\d\d'), problem FROM es_lint() ORDER BY object;

CREATE FUNCTION planner_inlines(event text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	line text;
	plan text := '';
BEGIN
	FOR line IN EXECUTE format('EXPLAIN (VERBOSE, COSTS OFF) SELECT apply(x.s, x.e)
			FROM (SELECT NULL::clock AS s, NULL::%I AS e OFFSET 0) x', event) LOOP
		plan := plan || line;
	END LOOP;
	RETURN plan !~ 'apply\(';
END $$;
SELECT 'wrong about ' || t.typname
FROM pg_type t LEFT JOIN es_lint() l ON l.object ~ t.typname
WHERE t.typname ~ '^t\d\d$' AND t.typnamespace = 'lint_app'::regnamespace
	AND planner_inlines(t.typname) <> (l.problem IS NULL);
ROLLBACK;

-- Functions in other languages: VOLATILE, settings, another user.
BEGIN;
CREATE TYPE moved AS (id text);
CREATE TYPE painted AS (id text);
CREATE FUNCTION apply(s account, e moved) RETURNS account LANGUAGE plpgsql AS $$ BEGIN RETURN s; END $$;
CREATE FUNCTION apply(s account, e painted) RETURNS account LANGUAGE plpgsql IMMUTABLE
	SET search_path = public AS $$ BEGIN RETURN s; END $$;
ALTER FUNCTION execute(account, deposit) SECURITY DEFINER;
ALTER FUNCTION project_balance(deposited) SET work_mem = '1MB';
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

-- Projections: no targets, a lost one, no overload, events that nobody knows.
BEGIN;
CREATE TYPE deposted AS (id text);
CREATE FUNCTION project_balance(e deposted) RETURNS void LANGUAGE sql RETURN NULL;
CREATE FUNCTION lint_other.project_balance(e deposted) RETURNS void LANGUAGE sql RETURN NULL;
CREATE TABLE seen (type text);
SELECT es_create_projection('seen', query => 'INSERT INTO seen SELECT type FROM es_new_events',
							types => '{deposited,deposted}', targets => '{seen}');
CREATE FUNCTION project_log(e es_event) RETURNS void LANGUAGE sql RETURN NULL;
SELECT es_create_projection('log', handler => 'project_log');
SELECT es_pause('log');
DROP FUNCTION project_log(es_event);
DROP TABLE seen;
SELECT severity || ': ' || object,
	   regexp_replace(problem, 'position \d+', 'position N'), hint FROM es_lint();
ROLLBACK;

-- Names that have to be quoted, and names that are none.
BEGIN;
CREATE SCHEMA "Lint ""App""";
SET search_path = "Lint ""App""", public;
CREATE TYPE "State" AS ("Id" text);
CREATE TYPE "Do it" AS ("Id" text);
CREATE TYPE "Done" AS ("Id" text);
CREATE FUNCTION "Execute"(s "State", c "Do it") RETURNS "Done" LANGUAGE sql RETURN ROW(c."Id")::"Done";
SELECT es_create_aggregate('"State"', identity => 'Id', execute_function => '"Execute"');
SELECT severity || ': ' || object, problem, hint FROM es_lint();
UPDATE lint.aggregate SET state_type = 'no(type', execute_function = 'a.b.c', apply_function = '' WHERE name = 'State';
UPDATE lint.projection SET handler = '1"x', targets = '{"(",""}';
SELECT severity || ': ' || object, problem, hint FROM es_lint();
ROLLBACK;

-- A store that is not there.
SET event_sourcing.store = 'lint_nowhere';
\set SHOW_CONTEXT never
SELECT * FROM es_lint();

-- After all this nothing has changed.
SET event_sourcing.store = 'lint';
SELECT severity || ': ' || object, problem, hint FROM es_lint();
SELECT count(*) FROM es_read_all();
\pset format aligned
\pset tuples_only off
DROP SCHEMA lint_app, lint_other, lint CASCADE;
RESET search_path;
RESET event_sourcing.store;
