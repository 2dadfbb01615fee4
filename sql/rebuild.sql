-- Rebuilding async projections.  History is replayed into tables beside those of
-- the projection, which then take their place: the same tables with new rows.
-- Where that is no way, they are emptied and filled in place, and a notice says
-- why.  Either way it is one transaction, and ends at the checkpoint or behind.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('rebuild_test');
SET event_sourcing.store = 'rebuild_test';
CREATE SCHEMA rebuild_app;
SET search_path = rebuild_app, public;
CREATE ROLE regress_es_reader;

CREATE TYPE deposited AS (account text, amount int);
CREATE TYPE closed AS (account text);

-- Four ways to write the same read model: PL/pgSQL, SQL whose names are looked
-- up when it runs, a statement over all events of a batch, and SQL that an
-- inlined function calls.
CREATE TABLE balance (
	account text PRIMARY KEY,
	amount bigint NOT NULL CHECK (amount >= 0),
	twice bigint GENERATED ALWAYS AS (amount * 2) STORED,
	note text DEFAULT repeat('n', 10)) WITH (fillfactor = 70);
CREATE INDEX balance_amount ON balance (amount) WHERE amount > 0;
CREATE TABLE closing (account text, n int DEFAULT 1);
CREATE FUNCTION keep(e deposited) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	old balance%ROWTYPE;
BEGIN
	SELECT * INTO old FROM balance b WHERE b.account = e.account;
	IF FOUND THEN
		UPDATE balance SET amount = old.amount + e.amount WHERE account = e.account;
	ELSE
		INSERT INTO balance VALUES (e.account, e.amount);
	END IF;
END $$;
CREATE FUNCTION keep(e closed) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	DELETE FROM balance b WHERE b.account = e.account;
	INSERT INTO closing (account) VALUES (e.account);
END $$;
SELECT es_create_projection('plpgsql', 'keep', mode => 'async', targets => '{balance,closing}');

CREATE TABLE balance_sql (account text PRIMARY KEY, amount bigint);
CREATE FUNCTION keep_sql(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO balance_sql AS b VALUES (e.account, e.amount)
	ON CONFLICT (account) DO UPDATE SET amount = b.amount + excluded.amount $$;
CREATE FUNCTION keep_sql(e closed) RETURNS void LANGUAGE sql AS $$
	DELETE FROM balance_sql b WHERE b.account = e.account $$;
SELECT es_create_projection('sql', 'keep_sql', mode => 'async', targets => '{balance_sql}');

CREATE TABLE turnover (account text PRIMARY KEY, n bigint, amount numeric);
SELECT es_create_projection('query', mode => 'async', targets => '{turnover}', types => '{deposited}', query => $$
	INSERT INTO turnover AS t
	SELECT data ->> 'account', count(*), sum((data ->> 'amount')::numeric) FROM es_new_events GROUP BY 1
	ON CONFLICT (account) DO UPDATE SET n = t.n + excluded.n, amount = t.amount + excluded.amount $$);

CREATE TABLE seen (account text, amount int);
CREATE FUNCTION write_seen(account text, amount int) RETURNS void LANGUAGE sql AS $$ INSERT INTO seen VALUES ($1, $2) $$;
CREATE FUNCTION keep_inlined(e deposited) RETURNS void LANGUAGE sql AS $$ SELECT write_seen(e.account, e.amount) $$;
SELECT es_create_projection('inlined', 'keep_inlined', mode => 'async', targets => '{seen}');

SELECT count(es_append('account-' || g % 50, ROW('a' || g % 50, g)::deposited)) FROM generate_series(1, 300) g;
SELECT count(es_append('account-' || g, ROW('a' || g)::closed)) FROM generate_series(1, 5) g;
SELECT es_run() > 0 AS run;
RESET client_min_messages;

-- What hangs on the tables: a view, grants, a disabled trigger, a statistics object.
CREATE VIEW rich AS SELECT account, amount FROM balance WHERE amount > 100;
GRANT SELECT ON balance TO regress_es_reader;
GRANT UPDATE (note) ON balance TO regress_es_reader;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'refused'; END $$;
CREATE TRIGGER refuse BEFORE INSERT ON balance FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE balance DISABLE TRIGGER refuse;
CREATE STATISTICS balance_stat ON account, amount FROM balance;
COMMENT ON TABLE balance IS 'what is left';

CREATE TABLE before AS
	SELECT oid, relname, relfilenode, relacl::text AS acl FROM pg_class
	WHERE relname IN ('balance', 'closing', 'balance_sql', 'turnover', 'seen', 'balance_pkey', 'balance_amount')
		AND relnamespace = 'rebuild_app'::regnamespace;
CREATE TABLE balance_before AS SELECT * FROM balance;
CREATE TABLE sql_before AS SELECT * FROM balance_sql;
CREATE TABLE turnover_before AS SELECT * FROM turnover;
CREATE TABLE seen_before AS SELECT * FROM seen;
CREATE VIEW changed AS
	(SELECT 'balance' AS what, t::text FROM (TABLE balance EXCEPT ALL TABLE balance_before) t)
	UNION ALL (SELECT 'balance before', t::text FROM (TABLE balance_before EXCEPT ALL TABLE balance) t)
	UNION ALL (SELECT 'sql', t::text FROM (TABLE balance_sql EXCEPT ALL TABLE sql_before) t)
	UNION ALL (SELECT 'sql before', t::text FROM (TABLE sql_before EXCEPT ALL TABLE balance_sql) t)
	UNION ALL (SELECT 'turnover', t::text FROM (TABLE turnover EXCEPT ALL TABLE turnover_before) t)
	UNION ALL (SELECT 'turnover before', t::text FROM (TABLE turnover_before EXCEPT ALL TABLE turnover) t)
	UNION ALL (SELECT 'seen', t::text FROM (TABLE seen EXCEPT ALL TABLE seen_before) t)
	UNION ALL (SELECT 'seen before', t::text FROM (TABLE seen_before EXCEPT ALL TABLE seen) t);

-- Maintained is what a rebuild makes of it.
SELECT es_verify_projection(p) AS differences FROM unnest('{plpgsql,sql,query,inlined}'::text[]) p;
-- Rebuilt is what was maintained.
SELECT p, es_rebuild_projection(p) FROM unnest('{plpgsql,sql,query,inlined}'::text[]) p;
SELECT * FROM changed;
SELECT count(*) FROM balance;
-- The same tables with other storage, and nothing left beside them.
SELECT relname, c.oid = b.oid AS same, c.relfilenode <> b.relfilenode AS new_storage, c.relacl::text IS NOT DISTINCT FROM b.acl AS same_grants
FROM before b LEFT JOIN pg_class c USING (relname) ORDER BY relname COLLATE "C";
SELECT count(*) AS schemas FROM pg_namespace WHERE nspname LIKE 'es\_rebuild\_%';
\d balance
SELECT reloptions FROM pg_class WHERE oid = 'balance'::regclass;
SELECT count(*) FROM rich;
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT amount FROM balance WHERE account = 'a7';
SELECT amount FROM balance WHERE account = 'a7';
RESET enable_seqscan;
SELECT has_table_privilege('regress_es_reader', 'balance', 'SELECT') AS may_read, has_table_privilege('regress_es_reader', 'balance', 'INSERT') AS may_write;
-- The unique index is there, and so is the check.
INSERT INTO balance VALUES ('a7', 1);
INSERT INTO balance VALUES ('b', -1);

-- What was wrong is right afterwards, and what comes next goes on from there:
-- the code finds its own tables again.
UPDATE balance SET amount = amount + 1;
DELETE FROM balance_sql;
INSERT INTO seen VALUES ('nobody', 0);
UPDATE turnover SET n = 0;
SELECT p, es_verify_projection(p) > 0 AS differs FROM unnest('{plpgsql,sql,query,inlined}'::text[]) p;
SELECT p, es_rebuild_projection(p) FROM unnest('{plpgsql,sql,query,inlined}'::text[]) p;
SELECT * FROM changed;
SELECT version FROM es_append('account-7', ROW('a7', 1000)::deposited);
SELECT es_run() > 0 AS run;
SELECT * FROM changed ORDER BY what, t;
SELECT es_verify_projection(p) FROM unnest('{plpgsql,sql,query,inlined}'::text[]) p;

-- A rebuild takes in what the worker has not done yet, and moves the checkpoint.
SELECT version FROM es_append('account-8', ROW('a8', 1000)::deposited);
SELECT es_verify_projection('sql') AS "compared as of the checkpoint";
SELECT es_rebuild_projection('sql');
SELECT amount > 1000 AS there FROM balance_sql WHERE account = 'a8';
SELECT position = (SELECT max(position) FROM rebuild_test.event) AS moved FROM rebuild_test.checkpoint WHERE subscription = 'sql';
SELECT es_run() > 0 AS run;
SELECT es_verify_projection('sql');
-- Its own events of the same transaction, too; and it all goes with the transaction.
BEGIN;
SELECT version FROM es_append('account-8', ROW('a8', 1)::deposited);
SELECT es_rebuild_projection('sql');
SELECT es_verify_projection('sql');
ROLLBACK;
SELECT es_verify_projection('sql');
BEGIN;
SELECT es_rebuild_projection('sql');
SELECT es_rebuild_projection('sql') AS again;
COMMIT;
SELECT es_verify_projection('sql'), es_run() AS left_to_do;

-- What had failed or was put aside is done with after a rebuild; before, it is
-- no difference that it is not in the table.
DELETE FROM balance_sql WHERE account = 'a9';
INSERT INTO rebuild_test.parked_event (subscription, position, partition, stream, version, type, state, attempts, parked_at)
SELECT 'sql', position, 0, stream, version, type, CASE version WHEN 1 THEN 'parked' ELSE 'waiting' END, 6, now()
FROM rebuild_test.event WHERE stream = 'account-9';
UPDATE rebuild_test.checkpoint SET failed_position = 1, attempts = 3, stopped = true WHERE subscription = 'sql';
SELECT es_verify_projection('sql');
SELECT es_rebuild_projection('sql') > 0 AS rebuilt;
SELECT count(*) AS parked FROM rebuild_test.parked_event;
SELECT stopped, failed_position, attempts FROM rebuild_test.checkpoint WHERE subscription = 'sql';
SELECT count(*) FROM balance_sql WHERE account = 'a9';
SELECT es_verify_projection('sql');

-- Paused, it is rebuilt as of its checkpoint.
SELECT es_pause('sql');
SELECT version FROM es_append('account-10', ROW('a10', 1000)::deposited);
SELECT es_rebuild_projection('sql') > 0 AS rebuilt, es_verify_projection('sql');
SELECT amount > 1000 AS there FROM balance_sql WHERE account = 'a10';
SELECT es_resume('sql');
SELECT es_run() > 0 AS run;
SELECT amount > 1000 AS there FROM balance_sql WHERE account = 'a10';

-- In place, since the code does not look names up by the search_path: qualified
-- names, bodies that were parsed when they were created, a path of its own, a view.
CREATE TABLE place (account text, amount int);
CREATE VIEW place_view AS SELECT * FROM place;
CREATE FUNCTION keep_qualified(e deposited) RETURNS void LANGUAGE plpgsql AS $$
BEGIN INSERT INTO rebuild_app.place VALUES (e.account, e.amount); END $$;
CREATE FUNCTION keep_parsed(e deposited) RETURNS void LANGUAGE sql
	BEGIN ATOMIC INSERT INTO place VALUES (e.account, e.amount); END;
CREATE FUNCTION keep_with_path(e deposited) RETURNS void LANGUAGE sql SET search_path = rebuild_app
	AS $$ INSERT INTO place VALUES (e.account, e.amount) $$;
CREATE FUNCTION keep_by_view(e deposited) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO place_view VALUES (e.account, e.amount) $$;
-- Even if it only reads there.
CREATE FUNCTION keep_unless_there(e deposited) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO place SELECT e.account, e.amount WHERE NOT EXISTS (SELECT 1 FROM rebuild_app.place) $$;
SET client_min_messages = warning;
SELECT es_create_projection('place ' || h, 'keep_' || h, mode => 'async', targets => '{place}')
FROM unnest('{qualified,parsed,with_path,by_view,unless_there}'::text[]) h;
RESET client_min_messages;
SELECT es_rebuild_projection('place parsed') > 0 AS rebuilt;
SELECT es_rebuild_projection('place with_path') > 0 AS rebuilt;
SELECT es_rebuild_projection('place by_view') > 0 AS rebuilt;
SELECT es_rebuild_projection('place unless_there') > 0 AS rebuilt;
SELECT count(*) FROM place;
SELECT es_rebuild_projection('place qualified') > 0 AS rebuilt;
SELECT (SELECT count(*) FROM place) = (SELECT count(*) FROM rebuild_test.event WHERE type = 'deposited') AS all_there;
SELECT es_verify_projection('place qualified');
-- Code that was made for the table's own row type.
CREATE FUNCTION describe(p place) RETURNS text LANGUAGE sql RETURN p.account;
CREATE FUNCTION keep_typed(e deposited) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO place VALUES (e.account, e.amount);
	PERFORM describe(p) FROM place p;
END $$;
SET client_min_messages = warning;
SELECT es_create_projection('place typed', 'keep_typed', mode => 'async', targets => '{place}');
RESET client_min_messages;
SELECT es_rebuild_projection('place typed') > 0 AS rebuilt;
DROP FUNCTION describe;
-- Any other error is the rebuild's.
CREATE FUNCTION keep_failing(e deposited) RETURNS void LANGUAGE plpgsql AS $$
BEGIN INSERT INTO place VALUES (e.account, 1 / 0); END $$;
SET client_min_messages = warning;
SELECT es_create_projection('place failing', 'keep_failing', mode => 'async', targets => '{place}');
RESET client_min_messages;
SELECT es_rebuild_projection('place failing');
\echo :LAST_ERROR_SQLSTATE
SELECT es_verify_projection('place qualified');

-- In place, because of what the table is.
SET client_min_messages = warning;
CREATE FUNCTION keep_place(e deposited) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO place VALUES (e.account, e.amount) $$;
SELECT es_drop_projection('place ' || h) FROM unnest('{qualified,parsed,with_path,by_view,unless_there,typed,failing}'::text[]) h;
SELECT es_create_projection('place', 'keep_place', mode => 'async', targets => '{place}');
SELECT es_run() > 0 AS run;
RESET client_min_messages;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
CREATE TRIGGER nothing BEFORE INSERT ON place FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
DROP TRIGGER nothing ON place;
CREATE RULE nothing AS ON DELETE TO place DO ALSO NOTHING;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
DROP RULE nothing ON place;
ALTER TABLE place ADD UNIQUE (account, amount) DEFERRABLE INITIALLY DEFERRED;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
ALTER TABLE place DROP CONSTRAINT place_account_amount_key;
ALTER TABLE place ADD n int GENERATED BY DEFAULT AS IDENTITY;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
ALTER TABLE place DROP n;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
SET client_min_messages = warning;
DROP TABLE place CASCADE;
RESET client_min_messages;
CREATE UNLOGGED TABLE place (account text, amount int);
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
ALTER TABLE place SET LOGGED;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
CREATE TABLE place_child () INHERITS (place);
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
DROP TABLE place_child;
ALTER TABLE place ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
ALTER TABLE place DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;
ALTER TABLE place REPLICA IDENTITY FULL;
SET client_min_messages = error;
CREATE PUBLICATION regress_es_rebuild FOR TABLE place;
RESET client_min_messages;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
DROP PUBLICATION regress_es_rebuild;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
CREATE TABLE public.place (account text, amount int);
SELECT es_drop_projection('place');
SET client_min_messages = warning;
SELECT es_create_projection('place', 'keep_place', mode => 'async', targets => '{public.place}');
RESET client_min_messages;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
SELECT es_drop_projection('place');
DROP TABLE public.place;
-- In place, because the transaction has used the table before.
SET client_min_messages = warning;
SELECT es_create_projection('place', 'keep_place', mode => 'async', targets => '{place}');
RESET client_min_messages;
SELECT es_run() > 0 AS run;
BEGIN;
SELECT count(*) > 0 AS there FROM place;
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
COMMIT;
SELECT es_verify_projection('place');
SELECT es_rebuild_projection('place') > 0 AS rebuilt;
SELECT es_verify_projection('place');

-- Tables with a foreign key between them are emptied and filled together.
CREATE TABLE master (account text PRIMARY KEY);
CREATE TABLE detail (account text REFERENCES master, amount int);
CREATE FUNCTION keep_both(e deposited) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO master VALUES (e.account) ON CONFLICT DO NOTHING;
	INSERT INTO detail VALUES (e.account, e.amount);
END $$;
SET client_min_messages = warning;
SELECT es_create_projection('both', 'keep_both', mode => 'async', targets => '{master,detail}');
RESET client_min_messages;
SELECT es_run() > 0 AS run;
SELECT es_rebuild_projection('both') > 0 AS rebuilt;
SELECT es_verify_projection('both');
-- Large values have their own storage, which goes along.
CREATE TABLE large (account text PRIMARY KEY, value text);
ALTER TABLE large ALTER value SET STORAGE EXTERNAL;
CREATE FUNCTION keep_large(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO large AS l VALUES (e.account, repeat(e.amount::text, 5000))
	ON CONFLICT (account) DO UPDATE SET value = l.value || e.amount $$;
SET client_min_messages = warning;
SELECT es_create_projection('large', 'keep_large', mode => 'async', targets => '{large}');
RESET client_min_messages;
SELECT es_run() > 0 AS run;
SELECT es_rebuild_projection('large') > 0 AS rebuilt;
SELECT es_verify_projection('large');
SELECT t.relname = 'pg_toast_' || c.oid AS toast, pg_relation_size(t.oid) > 0 AS used
FROM pg_class c JOIN pg_class t ON t.oid = c.reltoastrelid WHERE c.oid = 'large'::regclass;

-- The projection's owner needs no more rights than its code does, and the caller
-- no other than to call: what runs, runs as the owner.
CREATE ROLE regress_es_owner;
CREATE ROLE regress_es_caller;
GRANT USAGE, CREATE ON SCHEMA rebuild_app TO regress_es_owner;
GRANT USAGE ON SCHEMA rebuild_app, rebuild_test TO regress_es_owner, regress_es_caller;
GRANT SELECT ON rebuild_test.projection, rebuild_test.subscription TO regress_es_caller;
GRANT EXECUTE ON FUNCTION es_rebuild_projection(text), es_verify_projection(text) TO regress_es_caller;
SET ROLE regress_es_owner;
CREATE TABLE owned (account text, by_whom name);
CREATE FUNCTION keep_owned(e deposited) RETURNS void LANGUAGE sql AS $$ INSERT INTO owned VALUES (e.account, current_user) $$;
REVOKE ALL ON FUNCTION keep_owned(deposited) FROM PUBLIC;
RESET ROLE;
SET client_min_messages = warning;
SELECT es_create_projection('owned', 'keep_owned', mode => 'async', targets => '{owned}');
RESET client_min_messages;
UPDATE rebuild_test.projection SET owner = 'regress_es_owner' WHERE name = 'owned';
UPDATE rebuild_test.subscription SET owner = 'regress_es_owner' WHERE name = 'owned';
SET ROLE regress_es_caller;
SELECT es_rebuild_projection('owned') > 0 AS rebuilt;
SELECT es_verify_projection('owned');
RESET ROLE;
SELECT by_whom, count(*) > 0 AS some FROM owned GROUP BY by_whom;
SELECT relowner::regrole FROM pg_class WHERE oid = 'owned'::regclass;
-- A table that is not the owner's is only written to.
ALTER TABLE owned OWNER TO CURRENT_USER;
GRANT SELECT, INSERT, DELETE ON owned TO regress_es_owner;
SELECT es_rebuild_projection('owned') > 0 AS rebuilt;
-- Who may not call, may not.
SET ROLE regress_es_reader;
SELECT es_rebuild_projection('owned');
\echo :LAST_ERROR_SQLSTATE
RESET ROLE;

-- While it goes on, everybody can see which one it is and how far.
CREATE FUNCTION keep_shown(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO place SELECT projection, position / 10000 FROM es_rebuild_progress
	WHERE pid = pg_backend_pid() AND position <= last_position AND fraction BETWEEN 0 AND 1 AND since = statement_timestamp() $$;
SET client_min_messages = warning;
SELECT es_drop_projection('place');
SELECT es_create_projection('shown', 'keep_shown', mode => 'async', targets => '{place}');
RESET client_min_messages;
SELECT version FROM es_append('noise', ARRAY(SELECT es_new_event('beep') FROM generate_series(1, 10000)));
SELECT version FROM es_append('account-1', ROW('a1', 1)::deposited);
SELECT es_rebuild_projection('shown') > 0 AS rebuilt;
SELECT DISTINCT account, amount FROM place ORDER BY amount;
SELECT * FROM es_rebuild_progress;
-- Beside it nothing runs in parallel: it may have to read the definitions first.
CREATE TABLE many AS SELECT n FROM generate_series(1, 1000) n;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
UPDATE rebuild_test.projection SET name = name;
SELECT count(*), (SELECT count(*) FROM es_rebuilds()) AS rebuilds FROM many;
RESET parallel_setup_cost;
RESET parallel_tuple_cost;
RESET min_parallel_table_scan_size;
DROP TABLE many;

-- Bad input.
SET client_min_messages = warning;
SELECT es_create_projection('aimless', 'keep_place', mode => 'async');
RESET client_min_messages;
SELECT es_rebuild_projection('aimless');
\echo :LAST_ERROR_SQLSTATE
SELECT es_verify_projection('aimless');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_projection('aimless');
DROP TABLE large;
SELECT es_rebuild_projection('large');
\echo :LAST_ERROR_SQLSTATE
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_rebuild_projection('sql');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT es_verify_projection('sql');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA rebuild_app, rebuild_test CASCADE;
DROP OWNED BY regress_es_reader, regress_es_owner, regress_es_caller;
DROP ROLE regress_es_reader, regress_es_owner, regress_es_caller;
