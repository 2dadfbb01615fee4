-- Testing aggregates and process managers with pgTAP: given these events, when this
-- command or event comes, then these events are recorded, or it is refused with that
-- error.
--
-- Run it with pg_prove in a database that can have pgtap and event_sourcing:
--     pg_prove -d test bank_test.sql
-- It ends with ROLLBACK and leaves nothing behind.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT plan(29);

-- The aggregate under test.  In a project of yours it is there already: leave
-- this part out, and let the tests use a store of their own all the same.

CREATE SCHEMA bank_test;
SET LOCAL search_path = bank_test, public;

CREATE TYPE account        AS (id text, balance numeric);
CREATE TYPE open_account   AS (id text);
CREATE TYPE deposit        AS (id text, amount numeric);
CREATE TYPE withdraw       AS (id text, amount numeric);
CREATE TYPE account_opened AS (id text);
CREATE TYPE deposited      AS (id text, amount numeric);
CREATE TYPE withdrawn      AS (id text, amount numeric);

CREATE FUNCTION execute(s account, c open_account) RETURNS account_opened
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NOT NULL THEN
    RAISE EXCEPTION 'account % exists', s.id USING ERRCODE = 'unique_violation';
  END IF;
  RETURN ROW(c.id)::account_opened;
END $$;

CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NULL THEN
    RAISE EXCEPTION 'there is no account %', c.id USING ERRCODE = 'no_data_found';
  END IF;
  RETURN ROW(c.id, c.amount)::deposited;
END $$;

CREATE FUNCTION execute(s account, c withdraw) RETURNS withdrawn
LANGUAGE plpgsql AS $$
BEGIN
  IF c.amount > s.balance THEN
    RAISE EXCEPTION 'account % has %, not %', s.id, s.balance, c.amount USING ERRCODE = 'check_violation';
  END IF;
  RETURN ROW(c.id, c.amount)::withdrawn;
END $$;

CREATE FUNCTION apply(s account, e account_opened) RETURNS account
LANGUAGE sql IMMUTABLE RETURN ROW(e.id, 0)::account;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.balance + e.amount)::account;
CREATE FUNCTION apply(s account, e withdrawn) RETURNS account
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.balance - e.amount)::account;

-- The process manager under test: money leaves one account and reaches another, or
-- goes back.
CREATE TYPE transfer           AS (id text, source text, target text, amount numeric, status text);
CREATE TYPE transfer_requested AS (id text, source text, target text, amount numeric);
CREATE TYPE transfer_debited   AS (id text);
CREATE TYPE finish_transfer    AS (id text, status text);
CREATE TYPE transfer_finished  AS (id text, status text);
CREATE TYPE debit_transfer     AS (id text);

CREATE FUNCTION execute(s transfer, c debit_transfer) RETURNS transfer_debited
LANGUAGE sql RETURN ROW(c.id)::transfer_debited;
CREATE FUNCTION execute(s transfer, c finish_transfer) RETURNS transfer_finished
LANGUAGE sql RETURN ROW(c.id, c.status)::transfer_finished;
CREATE FUNCTION apply(s transfer, e transfer_requested) RETURNS transfer
LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.source, e.target, e.amount, 'requested')::transfer;
CREATE FUNCTION apply(s transfer, e transfer_debited) RETURNS transfer
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.source, s.target, s.amount, 'debited')::transfer;
CREATE FUNCTION apply(s transfer, e transfer_finished) RETURNS transfer
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.source, s.target, s.amount, e.status)::transfer;

CREATE FUNCTION route(e transfer_requested) RETURNS es_route LANGUAGE sql RETURN ROW('start!', e.id)::es_route;
CREATE FUNCTION route(e transfer_debited) RETURNS es_route LANGUAGE sql RETURN ROW('continue!', e.id)::es_route;
CREATE FUNCTION route(e transfer_finished) RETURNS es_route LANGUAGE sql RETURN ROW('stop', e.id)::es_route;
CREATE FUNCTION as_command(c anyelement) RETURNS es_command
LANGUAGE sql AS $$ SELECT ROW(pg_typeof(c)::text, to_jsonb(c), NULL, NULL, NULL, NULL)::es_command $$;
CREATE FUNCTION handle(s transfer, e transfer_requested) RETURNS es_command[]
LANGUAGE sql RETURN ARRAY[as_command(ROW(e.source, e.amount)::withdraw), as_command(ROW(e.id)::debit_transfer)];
CREATE FUNCTION handle(s transfer, e transfer_debited) RETURNS es_command[]
LANGUAGE sql RETURN ARRAY[as_command(ROW(s.target, s.amount)::deposit), as_command(ROW(s.id, 'completed')::finish_transfer)];
CREATE FUNCTION refused(s transfer, c es_command) RETURNS es_command[]
LANGUAGE sql RETURN CASE s.status WHEN 'debited' THEN ARRAY[as_command(ROW(s.source, s.amount)::deposit)] END
                    || as_command(ROW(s.id, 'rejected')::finish_transfer);

SELECT lives_ok($$SELECT es_create_store('bank_test_es')$$, 'a store for the tests');
SET LOCAL event_sourcing.store = 'bank_test_es';
SELECT lives_ok($$SELECT es_create_aggregate('account')$$, 'the aggregate');

-- Opening an account

-- when
PREPARE opening AS SELECT (events[1]).type, (events[1]).data FROM es_dispatch(ROW('1')::open_account);
-- then
SELECT results_eq('opening', $$VALUES ('account_opened', '{"id": "1"}'::jsonb)$$, 'an account is opened');
SELECT throws_ok('opening', '23505', 'account 1 exists', 'but not twice');

-- Depositing

-- given
SELECT lives_ok($$SELECT es_append('account-2', ROW('2')::account_opened)$$, 'given an open account');
-- when, then
SELECT results_eq(
  $$SELECT (e).type, (e).data FROM es_dispatch(ROW('2', 10)::deposit) d, unnest(d.events) e$$,
  $$VALUES ('deposited', '{"id": "2", "amount": 10}'::jsonb)$$, 'a deposit is recorded');
SELECT is((es_state(NULL::account, '2')).balance, 10::numeric, 'and raises the balance');
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('3', 10)::deposit)$$,
  'P0002', 'there is no account 3', 'a deposit to no account is refused');
SELECT is(es_stream_version('account-3'), 0::bigint, 'and opens none');

-- Withdrawing

-- given
SELECT lives_ok(
  $$SELECT es_append('account-4', ARRAY[es_new_event(ROW('4')::account_opened),
                                        es_new_event(ROW('4', 100)::deposited),
                                        es_new_event(ROW('4', 30)::withdrawn)])$$,
  'given an account with a balance of 70');
-- when, then
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('4', 70.01)::withdraw)$$,
  '23514', 'account 4 has 70, not 70.01', 'a cent too much is refused');
SELECT is(es_stream_version('account-4'), 3::bigint, 'and nothing is recorded');
SELECT lives_ok($$SELECT es_dispatch(ROW('4', 70)::withdraw)$$, 'the last cent can be withdrawn');
SELECT results_eq(
  $$SELECT version, type, (state ->> 'balance')::numeric FROM es_history('account', '4')$$,
  $$VALUES (1::bigint, 'account_opened', 0::numeric), (2, 'deposited', 100), (3, 'withdrawn', 70), (4, 'withdrawn', 0)$$,
  'step by step');

-- Two clients at once: the second one decided on a balance that is no more
SELECT throws_ok(
  $$SELECT es_dispatch(ROW('2', 5)::withdraw, expected_version => 1)$$,
  'SE001', 'stream "account-2" is at version 2, not 1', 'a stale decision is refused');
-- A client that sends its command again, because the answer was lost
PREPARE sending AS
  SELECT version FROM es_dispatch(ROW('2', 5)::withdraw, command_id => '11111111-1111-4111-8111-111111111111');
SELECT results_eq('sending', $$VALUES (3::bigint)$$, 'a command with an id');
SELECT results_eq('sending', $$VALUES (3::bigint)$$, 'gets its first answer again');
SELECT is((es_state(NULL::account, '2')).balance, 5::numeric, 'and is executed once');

-- Transferring, with es_run() for the worker

SELECT lives_ok($$SELECT es_create_aggregate('transfer'), es_create_process_manager('transfer')$$, 'the process manager');
-- given
SELECT lives_ok(
  $$SELECT es_append('account-' || id, ARRAY[es_new_event(ROW(id)::account_opened), es_new_event(ROW(id, 50)::deposited)])
    FROM unnest('{5,6}'::text[]) AS id$$,
  'given two accounts with 50');
-- when
SELECT lives_ok($$SELECT es_append('transfer-a', ROW('a', '5', '6', 20)::transfer_requested)$$, 'when a transfer is requested');
SELECT is(es_run(), 3::bigint, 'then three events are handled');
SELECT results_eq(
  $$SELECT id, (es_state(NULL::account, id)).balance FROM unnest('{5,6}'::text[]) AS id$$,
  $$VALUES ('5', 30::numeric), ('6', 70)$$, 'and the money is where it should be');
SELECT is((es_state(NULL::transfer, 'a')).status, 'completed', 'the transfer is completed');

-- when there is nobody to receive it
SELECT lives_ok($$SELECT es_append('transfer-b', ROW('b', '5', '7', 20)::transfer_requested), es_run()$$, 'when it goes to no account');
SELECT results_eq(
  $$SELECT version, type, (data ->> 'amount')::numeric FROM es_read_stream('account-5', 4)$$,
  $$VALUES (4::bigint, 'withdrawn', 20::numeric), (5, 'deposited', 20)$$, 'then the money goes back');
-- when there is too little
SELECT lives_ok($$SELECT es_append('transfer-c', ROW('c', '5', '6', 31)::transfer_requested), es_run()$$, 'when there is too little');
SELECT results_eq(
  $$SELECT id, es_state('transfer', id) ->> 'status', es_stream_version('account-5') FROM unnest('{b,c}'::text[]) AS id$$,
  $$VALUES ('b', 'rejected', 5::bigint), ('c', 'rejected', 5)$$, 'then nothing moves');

-- Every event can be applied, every command has one aggregate, and so on
SELECT is_empty($$SELECT * FROM es_lint() WHERE severity = 'error'$$, 'es_lint() finds no error');

SELECT * FROM finish();
ROLLBACK;
