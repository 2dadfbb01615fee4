-- Bank: accounts that are opened, used and closed, and never overdrawn.
--
-- Run it with psql in any database that can have the extension:
--     psql -f bank.sql
-- It makes two schemas, bank and bank_es. To be rid of it:
--     DROP SCHEMA bank, bank_es CASCADE;

\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE EXTENSION IF NOT EXISTS event_sourcing;

\echo
\echo '== 1. State, commands, events'

SELECT es_create_store('bank_es');
SET event_sourcing.store = 'bank_es';

CREATE SCHEMA bank;
SET search_path = bank, public;

CREATE TYPE account AS (id text, owner text, balance numeric, closed boolean);

CREATE TYPE open_account  AS (id text, owner text);
CREATE TYPE deposit       AS (id text, amount numeric);
CREATE TYPE withdraw      AS (id text, amount numeric);
CREATE TYPE close_account AS (id text);

CREATE TYPE account_opened AS (id text, owner text);
CREATE TYPE deposited      AS (id text, amount numeric);
CREATE TYPE withdrawn      AS (id text, amount numeric);
CREATE TYPE account_closed AS (id text);

\echo
\echo '== 2. Decisions'

-- What the commands on an account have in common
CREATE FUNCTION check_usable(s account, id text) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF s.id IS NULL THEN
    RAISE EXCEPTION 'there is no account %', id USING ERRCODE = 'no_data_found';
  ELSIF s.closed THEN
    RAISE EXCEPTION 'account % is closed', id USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$;

CREATE FUNCTION check_amount(amount numeric) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF amount > 0 AND amount = round(amount, 2) THEN
    RETURN;
  END IF;
  RAISE EXCEPTION '% is no amount of money to move', COALESCE(amount::text, 'NULL')
    USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a positive amount in whole cents.';
END $$;

CREATE FUNCTION execute(s account, c open_account) RETURNS account_opened
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NOT NULL THEN
    RAISE EXCEPTION 'account % exists', s.id USING ERRCODE = 'unique_violation';
  END IF;
  RETURN ROW(c.id, c.owner)::account_opened;
END $$;

CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_usable(s, c.id), check_amount(c.amount);
  RETURN ROW(c.id, c.amount)::deposited;
END $$;

CREATE FUNCTION execute(s account, c withdraw) RETURNS withdrawn
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_usable(s, c.id), check_amount(c.amount);
  IF c.amount > s.balance THEN
    RAISE EXCEPTION 'account % has %, not %', s.id, s.balance, c.amount
      USING ERRCODE = 'check_violation', DETAIL = format('%s is missing.', c.amount - s.balance);
  END IF;
  RETURN ROW(c.id, c.amount)::withdrawn;
END $$;

-- Two events of one command: what is left is paid out, then the account closes.
CREATE FUNCTION execute(s account, c close_account) RETURNS SETOF es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_usable(s, c.id);
  IF s.balance > 0 THEN
    RETURN NEXT es_new_event(ROW(c.id, s.balance)::withdrawn);
  END IF;
  RETURN NEXT es_new_event(ROW(c.id)::account_closed);
END $$;

\echo
\echo '== 3. Evolution'

CREATE FUNCTION apply(s account, e account_opened) RETURNS account
LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.owner, 0, false)::account;

CREATE FUNCTION apply(s account, e deposited) RETURNS account
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.owner, s.balance + e.amount, s.closed)::account;

CREATE FUNCTION apply(s account, e withdrawn) RETURNS account
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.owner, s.balance - e.amount, s.closed)::account;

CREATE FUNCTION apply(s account, e account_closed) RETURNS account
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.owner, s.balance, true)::account;

SELECT es_create_aggregate('account');

\echo
\echo '== 4. Read models: the balance of every account, event by event; totals, append by append'

CREATE TABLE balance (
  account text PRIMARY KEY,
  owner   text NOT NULL,
  amount  numeric NOT NULL
);

CREATE FUNCTION project_balance(e account_opened) RETURNS void
LANGUAGE sql AS $$ INSERT INTO balance VALUES (e.id, e.owner, 0) $$;

CREATE FUNCTION project_balance(e deposited) RETURNS void
LANGUAGE sql AS $$ UPDATE balance SET amount = amount + e.amount WHERE account = e.id $$;

CREATE FUNCTION project_balance(e withdrawn) RETURNS void
LANGUAGE sql AS $$ UPDATE balance SET amount = amount - e.amount WHERE account = e.id $$;

CREATE FUNCTION project_balance(e account_closed) RETURNS void
LANGUAGE sql AS $$ DELETE FROM balance WHERE account = e.id $$;

SELECT es_create_projection('balance', handler => 'project_balance', targets => '{balance}');

CREATE TABLE turnover (kind text PRIMARY KEY, movements bigint NOT NULL, amount numeric NOT NULL);

SELECT es_create_projection('turnover', types => '{deposited, withdrawn}', targets => '{turnover}', query => $$
  INSERT INTO turnover AS t
  SELECT type, count(*), sum((data ->> 'amount')::numeric) FROM es_new_events GROUP BY type
  ON CONFLICT (kind) DO UPDATE SET movements = t.movements + EXCLUDED.movements,
                                   amount = t.amount + EXCLUDED.amount
$$);

\echo
\echo '== 5. Business'

SELECT stream, version FROM es_dispatch(ROW('1', 'Ada')::open_account);
SELECT stream, version FROM es_dispatch(ROW('2', 'Bob')::open_account);
SELECT stream, version FROM es_dispatch(ROW('1', 100.00)::deposit);
SELECT stream, version FROM es_dispatch(ROW('1', 30.50)::withdraw);
SELECT * FROM balance ORDER BY account;

\echo '-- A command with an id is executed once, however often it is sent.'
SELECT stream, version FROM es_dispatch(ROW('2', 20)::deposit, command_id => 'c0ffee00-0000-4000-8000-000000000001');
SELECT stream, version FROM es_dispatch(ROW('2', 20)::deposit, command_id => 'c0ffee00-0000-4000-8000-000000000001');
SELECT * FROM balance ORDER BY account;

\echo
\echo '== 6. No overdraft'

\set ON_ERROR_STOP off
SELECT stream, version FROM es_dispatch(ROW('1', 70)::withdraw);
\echo '-- SQLSTATE:' :LAST_ERROR_SQLSTATE
SELECT stream, version FROM es_dispatch(ROW('1', -5)::withdraw);
\echo '-- SQLSTATE:' :LAST_ERROR_SQLSTATE

\echo '-- A transfer is two commands in one transaction: both happen, or neither.'
BEGIN;
SELECT stream, version FROM es_dispatch(ROW('1', 500)::deposit);
SELECT stream, version FROM es_dispatch(ROW('2', 500)::withdraw);
COMMIT;
\set ON_ERROR_STOP on

BEGIN;
SELECT stream, version FROM es_dispatch(ROW('1', 19.50)::withdraw);
SELECT stream, version FROM es_dispatch(ROW('2', 19.50)::deposit);
COMMIT;
SELECT * FROM balance ORDER BY account;

\echo
\echo '== 7. Closing'

SELECT stream, version FROM es_dispatch(ROW('2')::close_account);
SELECT * FROM es_state(NULL::account, '2');

\set ON_ERROR_STOP off
SELECT stream, version FROM es_dispatch(ROW('2', 1)::deposit);
\set ON_ERROR_STOP on

\echo
\echo '== 8. What there is to see afterwards'

SELECT version, type, data -> 'amount' AS amount, state -> 'balance' AS balance FROM es_history('account', '2');
SELECT * FROM balance ORDER BY account;
SELECT * FROM turnover ORDER BY kind;

SELECT es_rebuild_projection('balance');
SELECT es_rebuild_projection('turnover');
SELECT * FROM balance ORDER BY account;
SELECT * FROM turnover ORDER BY kind;
SELECT es_verify_projection('balance') AS balance_differs, es_verify_projection('turnover') AS turnover_differs;
