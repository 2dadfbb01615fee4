-- What others own: a role that owns a store, types, read models and handlers has
-- put code into every place that can have some.  Whoever runs, rebuilds, compares,
-- upgrades or looks at it does not lend their rights to that code.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
CREATE ROLE regress_es_mallory;
CREATE SCHEMA hostile_owner_code AUTHORIZATION regress_es_mallory;
-- she may create a store, and call every function of the extension
SELECT format('GRANT CREATE ON DATABASE %I TO regress_es_mallory', current_database()) \gexec
\set ECHO none
SELECT format('GRANT EXECUTE ON FUNCTION %s TO regress_es_mallory', p.oid::regprocedure)
FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'event_sourcing' AND p.prokind = 'f' \gexec
\set ECHO all
SET event_sourcing.store = 'hostile_owner';
SET search_path = hostile_owner_code, public;

-- ---------------------------------------------------------------------------
-- Mallory's code
-- ---------------------------------------------------------------------------

SET ROLE regress_es_mallory;
-- tell() notes whose rights it has, in sequences, since these survive a rollback.
CREATE SEQUENCE as_mallory;
CREATE SEQUENCE as_another;
CREATE FUNCTION tell() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval(CASE current_user WHEN 'regress_es_mallory' THEN 'hostile_owner_code.as_mallory' ELSE 'hostile_owner_code.as_another' END);
	RETURN true;
END $$;
-- a constant, she says
CREATE FUNCTION tell_constant() RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN hostile_owner_code.tell(); END $$;
CREATE FUNCTION tell_constant(text) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN hostile_owner_code.tell(); END $$;
CREATE FUNCTION tell_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM hostile_owner_code.tell();
	RETURN CASE WHEN TG_LEVEL = 'ROW' THEN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END END;
END $$;
-- a domain with a check, and a type with casts
CREATE DOMAIN word AS text CHECK (tell());
CREATE TYPE odd AS (value text);
CREATE FUNCTION odd_text(odd) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM hostile_owner_code.tell(); RETURN $1.value; END $$;
CREATE TYPE odd_number AS (value bigint);
CREATE FUNCTION odd_bigint(odd_number) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM hostile_owner_code.tell(); RETURN $1.value; END $$;
CREATE FUNCTION text_odd(text) RETURNS odd LANGUAGE plpgsql AS $$ BEGIN RETURN ROW($1); END $$;
CREATE CAST (odd AS text) WITH FUNCTION odd_text(odd) AS IMPLICIT;
CREATE CAST (odd_number AS bigint) WITH FUNCTION odd_bigint(odd_number) AS IMPLICIT;
CREATE CAST (text AS odd) WITH FUNCTION text_odd(text) AS ASSIGNMENT;

-- Her store, with an aggregate, and a subscription of every kind.
SELECT es_create_store('hostile_owner');
CREATE TYPE account AS (id text, balance int, note word);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int, note word);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE sql RETURN ROW(c.id, c.amount, 'x')::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount, 'x')::account;
SELECT es_create_aggregate('account', snapshot_every => 2, initial_state => '(,0,x)');
-- read models with code in them
CREATE TABLE balance_inline (id text PRIMARY KEY, balance int CHECK (tell()), note word,
	generated boolean GENERATED ALWAYS AS (tell_constant(id)) STORED);
CREATE INDEX ON balance_inline (tell_constant(id));
CREATE INDEX ON balance_inline (id) WHERE tell_constant(id);
CREATE TABLE balance_beside (LIKE balance_inline INCLUDING ALL);
CREATE TABLE balance_in_place (LIKE balance_inline INCLUDING ALL);
CREATE TRIGGER tell BEFORE INSERT OR UPDATE OR DELETE ON balance_inline FOR EACH ROW EXECUTE FUNCTION tell_trigger();
CREATE TRIGGER tell BEFORE INSERT OR UPDATE OR DELETE ON balance_in_place FOR EACH ROW EXECUTE FUNCTION tell_trigger();
CREATE TRIGGER tell_all BEFORE INSERT OR UPDATE OR DELETE ON balance_in_place FOR EACH STATEMENT EXECUTE FUNCTION tell_trigger();
-- a view in the place of a read model, and a rule
CREATE TABLE amount (id text, amount int);
CREATE VIEW balance_view AS SELECT id, sum(amount) AS balance FROM amount WHERE tell() GROUP BY id;
CREATE RULE insert AS ON INSERT TO balance_view DO INSTEAD INSERT INTO amount SELECT NEW.id, NEW.balance WHERE tell();
CREATE RULE delete AS ON DELETE TO balance_view DO INSTEAD DELETE FROM amount WHERE tell();
CREATE FUNCTION project_inline(e deposited) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tell();
	INSERT INTO balance_inline AS b VALUES (e.id, e.amount, 'x') ON CONFLICT (id) DO UPDATE SET balance = b.balance + EXCLUDED.balance;
END $$;
CREATE FUNCTION project_beside(e deposited) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM tell();
	INSERT INTO balance_beside AS b VALUES (e.id, e.amount, 'x') ON CONFLICT (id) DO UPDATE SET balance = b.balance + EXCLUDED.balance;
END $$;
CREATE FUNCTION project_view(e deposited) RETURNS void LANGUAGE sql AS $$ INSERT INTO balance_view VALUES (e.id, e.amount) $$;
SELECT es_create_projection('inline', handler => 'project_inline', targets => '{balance_inline}');
SELECT es_create_projection('beside', handler => 'project_beside', targets => '{balance_beside}', mode => 'async');
SELECT es_create_projection('in place', mode => 'async', targets => '{balance_in_place}', query => $$
	INSERT INTO balance_in_place AS b SELECT data ->> 'id', sum((data ->> 'amount')::int), 'x' FROM es_new_events WHERE tell() GROUP BY 1
	ON CONFLICT (id) DO UPDATE SET balance = b.balance + EXCLUDED.balance$$);
-- es_create_projection() takes tables only; the name in the definition is hers to change
SELECT es_create_projection('view', handler => 'project_view', targets => '{amount}');
UPDATE hostile_owner.projection SET targets = '{hostile_owner_code.balance_view}' WHERE name = 'view';
CREATE FUNCTION handle_event(e es_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM hostile_owner_code.tell(); END $$;
SELECT es_create_handler('handler', 'handle_event');
CREATE TYPE process AS (id text, note word);
CREATE FUNCTION route(e deposited) RETURNS es_route LANGUAGE plpgsql AS $$
BEGIN PERFORM hostile_owner_code.tell(); RETURN ('start', e.id)::es_route; END $$;
CREATE FUNCTION handle(s process, e deposited) RETURNS es_command[] LANGUAGE plpgsql AS $$
BEGIN PERFORM hostile_owner_code.tell(); RETURN NULL; END $$;
SELECT es_create_process_manager('process', initial_state => '(,x)');
-- triggers on the store's tables
SELECT format('CREATE TRIGGER tell BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION tell_trigger()', oid::regclass)
FROM pg_class WHERE relnamespace = 'hostile_owner'::regnamespace AND relkind = 'r' ORDER BY relname COLLATE "C" \gexec
SELECT count(es_dispatch(ROW(i % 3, i)::deposit)) FROM generate_series(1, 5) AS i;
SELECT es_schedule(ROW('7', 7)::deposit, now()) IS NOT NULL AS scheduled;
RESET ROLE;

-- What a statement returns, and whose rights her code had while it ran.
CREATE FUNCTION public.rights(statement text, OUT result text, OUT code_ran_as text) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM setval('hostile_owner_code.as_mallory', 1, false), setval('hostile_owner_code.as_another', 1, false);
	BEGIN
		EXECUTE statement INTO result;
	EXCEPTION WHEN OTHERS THEN
		result := SQLSTATE || ' ' || SQLERRM;
	END;
	code_ran_as := concat_ws(' and ', (SELECT 'mallory' FROM hostile_owner_code.as_mallory WHERE is_called),
		(SELECT current_user FROM hostile_owner_code.as_another WHERE is_called));
END $$;

-- ---------------------------------------------------------------------------
-- A superuser looks at it
-- ---------------------------------------------------------------------------

SELECT current_user AS superuser \gset
\pset null -
-- Nothing of her code runs at all.
SET search_path = public;
SELECT s AS statement, r.* FROM unnest(ARRAY['SELECT count(*) > 0 FROM es_lint()', 'SELECT length(es_diagram()) > 0',
	'SELECT count(*) FROM es_subscription_status', 'SELECT count(*) FROM es_parked_event', 'SELECT count(*) FROM es_schedule_status',
	'SELECT count(*) FROM es_aggregate_status', 'SELECT count(*) FROM es_rebuild_progress', 'SELECT count(*) FROM es_inflight',
	'SELECT count(*) FROM es_read_all()', $$SELECT count(*) FROM es_read_stream('account-1')$$]) AS s, public.rights(s) AS r;
-- ... not when she puts a view in the place of a table, or a type of hers into one:
-- that is not looked at.
BEGIN;
SET LOCAL ROLE regress_es_mallory;
ALTER TABLE hostile_owner.aggregate RENAME TO aggregate_kept;
CREATE VIEW hostile_owner.aggregate AS SELECT * FROM hostile_owner.aggregate_kept WHERE hostile_owner_code.tell();
RESET ROLE;
SELECT s AS statement, r.* FROM unnest(ARRAY['SELECT count(*) > 0 FROM es_lint()', 'SELECT length(es_diagram()) > 0',
	'SELECT count(*) FROM es_aggregate_status', 'SELECT count(*) FROM es_subscription_status']) AS s, public.rights(s) AS r;
ROLLBACK;
BEGIN;
SET LOCAL ROLE regress_es_mallory;
ALTER TABLE hostile_owner.projection ALTER mode TYPE hostile_owner_code.odd USING hostile_owner_code.text_odd(mode);
RESET ROLE;
SELECT s AS statement, r.* FROM unnest(ARRAY['SELECT count(*) > 0 FROM es_lint()', 'SELECT length(es_diagram()) > 0',
	'SELECT count(*) FROM es_aggregate_status', 'SELECT count(*) FROM es_subscription_status']) AS s, public.rights(s) AS r;
ROLLBACK;

-- ---------------------------------------------------------------------------
-- A superuser runs, rebuilds, compares and upgrades it
-- ---------------------------------------------------------------------------

-- All of it runs as she.
CREATE VIEW public.care AS
SELECT s AS statement, r.* FROM unnest(ARRAY['SELECT es_run()', $$SELECT es_rebuild_projection('inline')$$,
	$$SELECT es_rebuild_projection('beside')$$, $$SELECT es_rebuild_projection('in place')$$, $$SELECT es_rebuild_projection('view')$$,
	$$SELECT es_verify_projection('inline')$$, $$SELECT es_verify_projection('beside')$$, $$SELECT es_verify_projection('in place')$$,
	$$SELECT es_verify_projection('view')$$, $$SELECT es_upgrade_store('hostile_owner')$$]) AS s, public.rights(s) AS r;
SET client_min_messages = warning;
SELECT * FROM public.care;
-- ... where a worker has to read her types, too.
BEGIN;
SET LOCAL ROLE regress_es_mallory;
ALTER TABLE hostile_owner.subscription ALTER on_error TYPE hostile_owner_code.odd USING hostile_owner_code.text_odd(on_error);
ALTER TABLE hostile_owner.projection ALTER mode TYPE hostile_owner_code.odd USING hostile_owner_code.text_odd(mode);
SELECT version FROM es_dispatch(ROW('8', 8)::hostile_owner_code.deposit);
RESET ROLE;
SELECT * FROM public.care;
-- ... and an upgrade reads the last position
ALTER TABLE hostile_owner.event DISABLE TRIGGER ALL;
ALTER SEQUENCE hostile_owner.event_position OWNED BY NONE;
SET LOCAL ROLE regress_es_mallory;
ALTER TABLE hostile_owner.event ALTER position TYPE hostile_owner_code.odd_number USING ROW(position)::hostile_owner_code.odd_number;
RESET ROLE;
-- since 18 its max() is not unique, and nothing runs
SELECT code_ran_as IN ('', 'mallory') AS nobody_else FROM public.rights($$SELECT es_upgrade_store('hostile_owner')$$);
ROLLBACK;
-- Pausing an inline projection and resuming it replays what it has missed.
SET ROLE regress_es_mallory;
SELECT es_pause('view');
SELECT version FROM es_dispatch(ROW('9', 9)::hostile_owner_code.deposit);
DROP TRIGGER tell ON hostile_owner.projection;
RESET ROLE;
SELECT * FROM public.rights($$SELECT es_resume('view')$$);
SELECT * FROM public.rights($$SELECT es_verify_projection('view')$$);
RESET client_min_messages;

-- A name that she writes into a definition is not believed.
SET ROLE regress_es_mallory;
UPDATE hostile_owner.projection SET owner = :'superuser' WHERE name = 'inline';
RESET ROLE;
SELECT * FROM public.rights($$SELECT es_rebuild_projection('inline')$$) \gset
SELECT replace(:'result', :'superuser', 'superuser') AS result, :'code_ran_as' AS code_ran_as;
UPDATE hostile_owner.projection SET owner = 'regress_es_mallory' WHERE name = 'inline';

-- ---------------------------------------------------------------------------
-- A superuser writes into it
-- ---------------------------------------------------------------------------

-- That is another matter.  Whoever appends to a store runs its inline projections
-- and the triggers of its tables, and whoever dispatches runs its handlers, as who
-- writes into any table runs that table's triggers.  A superuser does not do that to
-- a store of somebody whom he does not trust, or does it as that role.
SELECT code_ran_as = :'superuser' AS as_superuser FROM public.rights($$SELECT version FROM es_append('note-1', 'noted', '{}')$$);
SELECT code_ran_as = :'superuser' AS as_superuser FROM public.rights($$SELECT version FROM es_dispatch(ROW('1', 1)::hostile_owner_code.deposit)$$);
SET ROLE regress_es_mallory;
SELECT * FROM public.rights($$SELECT version FROM es_append('note-1', 'noted', '{}')$$);
SELECT * FROM public.rights($$SELECT version FROM es_dispatch(ROW('1', 1)::hostile_owner_code.deposit)$$);
RESET ROLE;

-- ---------------------------------------------------------------------------
-- SECURITY DEFINER
-- ---------------------------------------------------------------------------

-- A function that lets everybody deposit fixes the store beside the search_path.
SELECT es_create_store('hostile_owner_bank');
CREATE SCHEMA hostile_owner_bank_code;
SET event_sourcing.store = 'hostile_owner_bank';
SET search_path = hostile_owner_bank_code, public;
CREATE TYPE account AS (id text, balance int);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
SELECT es_create_aggregate('account');
CREATE FUNCTION public.careful_deposit(id text, amount int) RETURNS bigint LANGUAGE sql SECURITY DEFINER
	SET search_path = hostile_owner_bank_code, public, pg_temp SET event_sourcing.store = 'hostile_owner_bank'
	AS $$ SELECT version FROM es_dispatch(ROW(id, amount)::deposit) $$;
CREATE FUNCTION public.careless_deposit(id text, amount int) RETURNS bigint LANGUAGE sql SECURITY DEFINER
	SET search_path = hostile_owner_bank_code, public, pg_temp
	AS $$ SELECT version FROM es_dispatch(ROW(id, amount)::deposit) $$;
GRANT USAGE ON SCHEMA hostile_owner_bank_code TO regress_es_mallory;
-- Mallory has a store that executes the same command in her way.
SET ROLE regress_es_mallory;
SET event_sourcing.store = 'hostile_owner';
CREATE TYPE hostile_owner_code.trap AS (id text);
CREATE TYPE hostile_owner_code.trapped AS (id text);
CREATE FUNCTION hostile_owner_code.spring(s hostile_owner_code.trap, c hostile_owner_bank_code.deposit) RETURNS hostile_owner_code.trapped
	LANGUAGE plpgsql AS $$ BEGIN PERFORM hostile_owner_code.tell(); RETURN ROW(c.id); END $$;
CREATE FUNCTION hostile_owner_code.spring_apply(s hostile_owner_code.trap, e hostile_owner_code.trapped) RETURNS hostile_owner_code.trap
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id)::hostile_owner_code.trap;
SELECT es_create_aggregate('hostile_owner_code.trap', execute_function => 'hostile_owner_code.spring', apply_function => 'hostile_owner_code.spring_apply');
-- She calls both with the setting that leads to it.
SELECT * FROM public.rights($$SELECT public.careful_deposit('1', 10)$$);
SHOW event_sourcing.store;
SELECT code_ran_as FROM public.rights($$SELECT public.careless_deposit('1', 10)$$) \gset
SELECT :'code_ran_as' IN ('', 'mallory') AS harmless;
RESET ROLE;
-- The oracle: the careful one has reached the bank, the careless one has run her code as its definer.
SELECT stream, version, type FROM hostile_owner_bank.event;
SELECT stream, version, type FROM hostile_owner.event WHERE type = 'trapped';

SET client_min_messages = warning;
DROP FUNCTION public.careful_deposit, public.careless_deposit;
DROP VIEW public.care;
DROP FUNCTION public.rights;
DROP SCHEMA hostile_owner_bank, hostile_owner_bank_code, hostile_owner, hostile_owner_code CASCADE;
DROP OWNED BY regress_es_mallory;
DROP ROLE regress_es_mallory;
RESET client_min_messages;
