-- Bank: accounts that are opened, used and closed, and never overdrawn; and money
-- that goes from one to another, or back.
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
\echo '== 8. Transfers, step by step'

-- A process manager: it takes events and gives commands. The money leaves one account
-- in one step and reaches the other in the next; if that is refused, it goes back.
-- What a step does, with all its commands, is one transaction, and happens once.

CREATE TYPE transfer AS (id text, source text, target text, amount numeric, status text);

CREATE TYPE request_transfer  AS (id text, source text, target text, amount numeric);
CREATE TYPE debit_transfer    AS (id text);
CREATE TYPE complete_transfer AS (id text);
CREATE TYPE reject_transfer   AS (id text, reason text);

CREATE TYPE transfer_requested AS (id text, source text, target text, amount numeric);
CREATE TYPE transfer_debited   AS (id text);
CREATE TYPE transfer_completed AS (id text);
CREATE TYPE transfer_rejected  AS (id text, reason text);

-- The transfer itself is an aggregate, so that everybody can see where it is.
CREATE FUNCTION execute(s transfer, c request_transfer) RETURNS transfer_requested
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NOT NULL THEN
    RAISE EXCEPTION 'transfer % exists', s.id USING ERRCODE = 'unique_violation';
  END IF;
  PERFORM check_amount(c.amount);
  RETURN ROW(c.id, c.source, c.target, c.amount)::transfer_requested;
END $$;

CREATE FUNCTION execute(s transfer, c debit_transfer) RETURNS transfer_debited
LANGUAGE sql RETURN ROW(c.id)::transfer_debited;

CREATE FUNCTION execute(s transfer, c complete_transfer) RETURNS transfer_completed
LANGUAGE sql RETURN ROW(c.id)::transfer_completed;

CREATE FUNCTION execute(s transfer, c reject_transfer) RETURNS transfer_rejected
LANGUAGE sql RETURN ROW(c.id, c.reason)::transfer_rejected;

CREATE FUNCTION apply(s transfer, e transfer_requested) RETURNS transfer
LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.source, e.target, e.amount, 'requested')::transfer;

CREATE FUNCTION apply(s transfer, e transfer_debited) RETURNS transfer
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.source, s.target, s.amount, 'debited')::transfer;

CREATE FUNCTION apply(s transfer, e transfer_completed) RETURNS transfer
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.source, s.target, s.amount, 'completed')::transfer;

CREATE FUNCTION apply(s transfer, e transfer_rejected) RETURNS transfer
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.source, s.target, s.amount, 'rejected')::transfer;

SELECT es_create_aggregate('transfer');

-- Which transfer is an event for?
CREATE FUNCTION route(e transfer_requested) RETURNS es_route
LANGUAGE sql RETURN ROW('start!', e.id)::es_route;

CREATE FUNCTION route(e transfer_debited) RETURNS es_route
LANGUAGE sql RETURN ROW('continue!', e.id)::es_route;

CREATE FUNCTION route(e transfer_completed) RETURNS es_route
LANGUAGE sql RETURN ROW('stop', e.id)::es_route;

CREATE FUNCTION route(e transfer_rejected) RETURNS es_route
LANGUAGE sql RETURN ROW('stop', e.id)::es_route;

-- What is to be done about it? Commands of several types travel as es_command.
CREATE FUNCTION as_command(c anyelement) RETURNS es_command
LANGUAGE sql AS $$ SELECT ROW(pg_typeof(c)::text, to_jsonb(c), NULL, NULL, NULL, NULL)::es_command $$;

CREATE FUNCTION handle(s transfer, e transfer_requested) RETURNS es_command[]
LANGUAGE sql RETURN ARRAY[as_command(ROW(e.source, e.amount)::withdraw),
                          as_command(ROW(e.id)::debit_transfer)];

CREATE FUNCTION handle(s transfer, e transfer_debited) RETURNS es_command[]
LANGUAGE sql RETURN ARRAY[as_command(ROW(s.target, s.amount)::deposit),
                          as_command(ROW(s.id)::complete_transfer)];

-- A command is refused: those behind it are not dispatched, these are, in their place.
CREATE FUNCTION refused(s transfer, c es_command, f es_failure) RETURNS es_command[]
LANGUAGE sql RETURN CASE s.status
  WHEN 'requested' THEN ARRAY[as_command(ROW(s.id, f.message)::reject_transfer)]
  WHEN 'debited' THEN ARRAY[as_command(ROW(s.source, s.amount)::deposit),
                            as_command(ROW(s.id, f.message)::reject_transfer)]
END;

-- The state of an instance is a transfer, too: apply() serves both.
SELECT es_create_process_manager('transfer');

SELECT stream, version FROM es_dispatch(ROW('3', 'Eve')::open_account);
SELECT stream, version FROM es_dispatch(ROW('t1', '1', '3', 30)::request_transfer);

\echo '-- A worker does this in the background.'
SELECT es_run();
SELECT version, type, state ->> 'status' AS status FROM es_history('transfer', 't1');
SELECT * FROM balance ORDER BY account;

\echo '-- The other account is closed: the money goes back.'
SELECT stream, version FROM es_dispatch(ROW('t2', '1', '2', 5)::request_transfer);
SELECT es_run();
SELECT version, type, data ->> 'reason' AS reason FROM es_history('transfer', 't2');

\echo '-- There is not enough: nothing moves.'
SELECT stream, version FROM es_dispatch(ROW('t3', '1', '3', 1000)::request_transfer);
SELECT es_run();
SELECT version, type, data ->> 'reason' AS reason FROM es_history('transfer', 't3');

\echo '-- Everything that a transfer has caused is correlated with it.'
SELECT e.stream, e.type, e.data -> 'amount' AS amount
FROM es_read_all() e
JOIN es_read_stream('transfer-t2', max_count => 1) t ON e.correlation_id = t.event_id
ORDER BY e.position;
SELECT * FROM balance ORDER BY account;

\echo
\echo '== 9. What there is to see afterwards'

SELECT version, type, data -> 'amount' AS amount, state -> 'balance' AS balance FROM es_history('account', '2');
SELECT * FROM balance ORDER BY account;
SELECT * FROM turnover ORDER BY kind;
SELECT name, kind, state, lag_events, parked_events FROM es_subscription_status;

SELECT es_rebuild_projection('balance');
SELECT es_rebuild_projection('turnover');
SELECT * FROM balance ORDER BY account;
SELECT * FROM turnover ORDER BY kind;
SELECT es_verify_projection('balance') AS balance_differs, es_verify_projection('turnover') AS turnover_differs;
