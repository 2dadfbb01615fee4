-- NULL for every argument: each public function of the extension is called with NULL
-- for all of its arguments, and with NULL for each one beside plausible others.  It
-- takes it or refuses it, and never ends in an internal error.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('hostile_null');
SET event_sourcing.store = 'hostile_null';
CREATE SCHEMA hostile_null_app;
SET search_path = hostile_null_app, public;
CREATE TYPE account AS (id text, balance int);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE sql IMMUTABLE RETURN ROW(c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE RETURN ROW(s.id, COALESCE(s.balance, 0) + e.amount)::account;
CREATE TABLE seen (position bigint);
CREATE FUNCTION see(e es_event) RETURNS void LANGUAGE sql AS $$ INSERT INTO hostile_null_app.seen VALUES (e.position) $$;
CREATE TYPE process AS (id text);
CREATE FUNCTION route(e deposited) RETURNS es_route LANGUAGE sql RETURN ('start', '1')::es_route;
CREATE FUNCTION handle(s process, e deposited) RETURNS es_command[] LANGUAGE sql RETURN NULL::es_command[];
SELECT es_create_aggregate('account');
SELECT es_create_projection('known', handler => 'see', targets => '{seen}');
SELECT es_create_subscription('known external');
SELECT es_append('account-1', ROW(1)::deposited);

-- What came of every call; ZZZZZ: it was accepted, and rolled back.
CREATE TABLE outcome (function text, nulls text, call text, sqlstate text, message text);
DO $$
DECLARE
  f record; i int; n int; args text[]; call text; given text; v text; k int; state text; msg text;
BEGIN
  FOR f IN SELECT p.*, e.extnamespace::regnamespace::text AS schema FROM pg_proc p
    JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON d.refobjid = e.oid AND e.extname = 'event_sourcing'
    WHERE p.prorettype <> 'trigger'::regtype AND p.proname <> 'es_stop_worker' AND p.proname <> 'es_start_worker'
    ORDER BY p.oid::regprocedure::text
  LOOP
    n := f.pronargs;
    FOR k IN 0..(CASE WHEN n = 0 THEN 0 ELSE n END) LOOP
      args := '{}';
      FOR i IN 1..n LOOP
        given := CASE WHEN k = 0 OR k = i THEN 'NULL' ELSE
          CASE format_type(f.proargtypes[i-1], NULL)
            WHEN 'text' THEN CASE f.proargnames[i] WHEN 'stream' THEN '''account-1''' WHEN 'data' THEN '''{"id":"1","amount":1}''' WHEN 'metadata' THEN '''{}'''
               WHEN 'command_type' THEN '''deposit''' WHEN 'type' THEN '''deposited''' WHEN 'id' THEN '''1''' WHEN 'aggregate' THEN '''account''' WHEN 'identity' THEN '''id'''
               WHEN 'mode' THEN '''async''' WHEN 'handler' THEN '''see''' WHEN 'action' THEN '''retry''' WHEN 'on_error' THEN '''park''' WHEN 'name' THEN '''known'''
               WHEN 'execute_function' THEN '''execute''' WHEN 'apply_function' THEN '''apply''' WHEN 'route_function' THEN '''route''' WHEN 'handle_function' THEN '''handle''' ELSE '''x''' END
            WHEN 'jsonb' THEN CASE f.proargnames[i] WHEN 'data' THEN '''{"id":"1","amount":1}''' ELSE '''{}''' END
            WHEN 'bigint' THEN '1' WHEN 'integer' THEN '1' WHEN 'boolean' THEN 'true' WHEN 'uuid' THEN 'gen_random_uuid()'
            WHEN 'interval' THEN '''1 ms''' WHEN 'timestamp with time zone' THEN 'now()'
            WHEN 'text[]' THEN '''{x}''' WHEN 'regclass[]' THEN '''{seen}''' WHEN 'name' THEN '''hostile_null''' WHEN 'oid' THEN '0::oid'
            WHEN 'regtype' THEN '''account''' WHEN 'es_new_event[]' THEN 'ARRAY[es_new_event(''t'')]'
            WHEN 'es_dispatch_result' THEN '(''account-1'',1,1,NULL)'
            WHEN 'anyelement' THEN CASE f.proargnames[i] WHEN 'command' THEN 'ROW(''1'',1)::deposit' WHEN 'event' THEN 'ROW(1)::deposited' ELSE 'NULL::account' END
            ELSE 'NULL' END END;
        IF given = 'NULL' AND f.proargtypes[i-1] = 'anyelement'::regtype THEN
           given := CASE f.proargnames[i] WHEN 'command' THEN 'NULL::deposit' WHEN 'event' THEN 'NULL::deposited' ELSE 'NULL::account' END;
        ELSE given := given || '::' || format_type(f.proargtypes[i-1], NULL); END IF;
        IF f.proargtypes[i-1] = 'anyelement'::regtype THEN given := regexp_replace(given, '::anyelement$', ''); END IF;
        args := args || given;
      END LOOP;
      call := CASE f.prokind WHEN 'p' THEN 'CALL ' ELSE 'SELECT * FROM ' END || f.schema || '.' || quote_ident(f.proname) || '(' || array_to_string(args, ', ') || ')';
      state := '00000'; msg := '';
      BEGIN
        EXECUTE call;
        RAISE EXCEPTION USING ERRCODE = 'ZZZZZ';
      EXCEPTION WHEN OTHERS THEN state := SQLSTATE; msg := SQLERRM;
      END;
      INSERT INTO outcome VALUES (f.oid::regprocedure::text, CASE WHEN k = 0 THEN 'all' ELSE f.proargnames[k] END, call, state, msg);
    END LOOP;
  END LOOP;
END $$;
-- The oracle: hundreds of calls, refused ones among them, and none that ended in an internal error.
SELECT count(*) > 250 AS calls, count(*) FILTER (WHERE sqlstate = '22004') > 100 AS refused,
	count(*) FILTER (WHERE sqlstate = 'ZZZZZ') > 50 AS accepted FROM outcome;
SELECT function, nulls, call, sqlstate, message FROM outcome
WHERE sqlstate ~ '^(XX|58|57)' OR message ~ 'cache lookup|unrecognized|unexpected' ORDER BY call;
-- and the session and the store are as they were
SELECT stream, version FROM es_read_all();

SET client_min_messages = warning;
DROP SCHEMA hostile_null, hostile_null_app CASCADE;
RESET client_min_messages;
