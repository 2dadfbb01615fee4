-- A store with something of everything, for test/fuzz.sh and test/sqlsmith.sh:
-- aggregates with typed and with JSON state, projections inline and async, a
-- handler that fails now and then, a process manager, subscriptions, schedules,
-- receipts, state snapshots, a second store with an odd name, a row type and a
-- domain among the fields.  It belongs to a role that is no superuser, and a role
-- with next to no rights looks on.
--
-- What begins with "kept" is never changed by the fuzzer: at the end it must be
-- what history says.

\set ON_ERROR_STOP 1
SET client_min_messages = warning;

CREATE ROLE fuzz_owner LOGIN;
CREATE ROLE fuzz_low LOGIN;
GRANT fuzz_low TO fuzz_owner;
SELECT format('GRANT CREATE ON DATABASE %I TO fuzz_owner', current_database()) \gexec

CREATE EXTENSION event_sourcing;
SELECT format('GRANT EXECUTE ON ROUTINE %s TO fuzz_owner', d.objid::regprocedure)
FROM pg_depend d
WHERE d.deptype = 'e' AND d.classid = 'pg_proc'::regclass
	AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_sourcing') \gexec
-- As one of the low role's own functions would: it may call, but has no rights on the tables.
GRANT EXECUTE ON FUNCTION es_dispatch(text, jsonb, jsonb, bigint, uuid, uuid, uuid), es_append(text, text, jsonb, jsonb, bigint),
	es_run(bigint), es_rebuild_projection(text), es_fetch(text, text, int, interval, bigint) TO fuzz_low;

CREATE SCHEMA app AUTHORIZATION fuzz_owner;
GRANT USAGE ON SCHEMA app TO PUBLIC;
SET SESSION AUTHORIZATION fuzz_owner;
SET search_path = app, public;
SELECT es_create_store(), es_create_store('Odd "store"');
GRANT USAGE ON SCHEMA es TO fuzz_low;
GRANT SELECT ON es.event, es.aggregate TO fuzz_low;

-- ---------------------------------------------------------------------------
-- Aggregates
-- ---------------------------------------------------------------------------

-- "kept" is a plain one, folded in SQL, with state snapshots.
CREATE TYPE kept AS (id text, balance numeric, note text);
CREATE TYPE keep AS (id text, amount numeric, note text);
CREATE TYPE was_kept AS (id text, amount numeric, note text);
CREATE FUNCTION execute(s kept, c keep) RETURNS was_kept LANGUAGE sql RETURN ROW(c.id, c.amount, c.note)::was_kept;
CREATE FUNCTION apply(s kept, e was_kept) RETURNS kept LANGUAGE sql IMMUTABLE
	RETURN ROW(e.id, COALESCE(s.balance, 0) + COALESCE(e.amount, 0), e.note)::kept;
SELECT es_create_aggregate('kept', snapshot_every => 5);

-- "wallet" decides, refuses, and returns events in every form there is.
CREATE TYPE wallet AS (id text, balance numeric, note text, tags text[]);
CREATE TYPE put AS (id text, amount numeric, note text);
CREATE TYPE take AS (id text, amount numeric);
CREATE TYPE tell AS (id text, times int);
CREATE TYPE list AS (id text, tags text[]);
CREATE TYPE shrug AS (id text);
CREATE TYPE put_in AS (id text, amount numeric, note text);
CREATE TYPE taken_out AS (id text, amount numeric);
CREATE TYPE told AS (id text, at timestamptz);
CREATE TYPE listed AS (id text, tag text);
CREATE FUNCTION execute(s wallet, c put) RETURNS put_in LANGUAGE sql RETURN ROW(c.id, c.amount, c.note)::put_in;
CREATE FUNCTION execute(s wallet, c take) RETURNS taken_out LANGUAGE plpgsql AS $$
BEGIN
	IF s.balance < c.amount THEN
		RAISE EXCEPTION 'not enough' USING ERRCODE = 'WA001', DETAIL = 'there is ' || s.balance, HINT = 'Put some in.';
	END IF;
	RETURN ROW(c.id, c.amount)::taken_out;
END $$;
CREATE FUNCTION execute(s wallet, c tell, m es_command) RETURNS SETOF es_new_event LANGUAGE sql AS $$
	SELECT es_new_event('told', jsonb_build_object('id', c.id, 'at', '2020-01-01'), m.metadata) FROM generate_series(1, c.times)
$$;
CREATE FUNCTION execute(s wallet, c list) RETURNS listed[] LANGUAGE sql
	RETURN ARRAY(SELECT ROW(c.id, t)::listed FROM unnest(c.tags) t);
CREATE FUNCTION execute(s wallet, c shrug) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION apply(s wallet, e put_in) RETURNS wallet LANGUAGE sql IMMUTABLE
	RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount, e.note, s.tags)::wallet;
CREATE FUNCTION apply(s wallet, e taken_out) RETURNS wallet LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.balance := s.balance - e.amount;
	RETURN s;
END $$;
CREATE FUNCTION apply(s wallet, e told, m es_event) RETURNS wallet LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.id := e.id;
	s.note := m.stream || m.version;
	RETURN s;
END $$;
CREATE FUNCTION apply(s wallet, e listed) RETURNS wallet LANGUAGE sql IMMUTABLE
	RETURN ROW(e.id, s.balance, s.note, s.tags || e.tag)::wallet;
SELECT es_create_aggregate('wallet', snapshot_every => 3);

-- "gadget" has fields of every kind and a number for its identity.
CREATE DOMAIN small AS int CHECK (VALUE < 1000);
CREATE TYPE part AS (name text, sizes int[], born date);
CREATE TYPE color AS ENUM ('red', 'green', 'blue');
CREATE TYPE gadget AS (id bigint, size small, part part, parts part[], color color, during tstzrange, data jsonb);
CREATE TYPE build AS (id bigint, size small, part part, parts part[], color color, during tstzrange, data jsonb);
CREATE TYPE built AS (id bigint, size small, part part, parts part[], color color, during tstzrange, data jsonb);
CREATE FUNCTION execute(s gadget, c build) RETURNS SETOF built LANGUAGE sql
	AS 'SELECT c.id, c.size, c.part, c.parts, c.color, c.during, c.data FROM generate_series(1, 2)';
CREATE FUNCTION apply(s gadget, e built) RETURNS gadget LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.id := e.id; s.size := e.size; s.part := e.part; s.parts := s.parts || e.parts;
	s.color := e.color; s.during := e.during; s.data := COALESCE(s.data, '[]') || COALESCE(e.data, '{}');
	IF cardinality(s.parts) > 9 THEN
		s.parts := NULL;
		s.data := NULL;
	END IF;
	RETURN s;
END $$;
SELECT es_create_aggregate('gadget', snapshot_every => 1);

-- "chest" has no types at all.
CREATE FUNCTION chest_execute(s jsonb, c es_command) RETURNS es_new_event[] LANGUAGE sql
	RETURN ARRAY[es_new_event(c.type || 'ed', c.data, c.metadata)];
CREATE FUNCTION chest_apply(s jsonb, e es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
	RETURN jsonb_build_object('n', COALESCE((s ->> 'n')::int, 0) + 1, 'last', e.type);
SELECT es_create_aggregate('jsonb', name => 'chest', execute_function => 'chest_execute', apply_function => 'chest_apply',
						   commands => '{fill,drain}', initial_state => '{"n": 0}');

-- "chaos" does whatever its commands and events say, at every place where the
-- extension calls a function of the user's.
CREATE TYPE chaos AS (id text, n int);
CREATE TYPE stir AS (id text, decide text, remember text);
CREATE TYPE stirred AS (id text, sql text);
CREATE FUNCTION execute(s chaos, c stir) RETURNS stirred LANGUAGE plpgsql AS $$
BEGIN
	IF c.decide IS NOT NULL THEN
		EXECUTE c.decide;
	END IF;
	RETURN ROW(c.id, c.remember)::stirred;
END $$;
CREATE FUNCTION apply(s chaos, e stirred) RETURNS chaos LANGUAGE plpgsql AS $$
BEGIN
	IF e.sql IS NOT NULL THEN
		BEGIN
			EXECUTE e.sql;
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END IF;
	RETURN ROW(e.id, COALESCE(s.n, 0) + 1)::chaos;
END $$;
SELECT es_create_aggregate('chaos', snapshot_every => 2);
CREATE FUNCTION stir_up(e stirred) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.sql IS NOT NULL THEN
		EXECUTE e.sql;
	END IF;
EXCEPTION WHEN OTHERS THEN
	IF e.id = 'fail' THEN
		RAISE;
	END IF;
END $$;

-- Inside a decision, under the stream's lock: what was handed over is what history says.
CREATE TYPE peek AS (id text);
CREATE FUNCTION compare(aggregate text, id text, state jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	folded jsonb := (SELECT h.state FROM public.es_history(aggregate, id) h ORDER BY h.version DESC LIMIT 1);
BEGIN
	IF folded IS DISTINCT FROM state AND folded IS NOT NULL THEN
		RAISE EXCEPTION 'state of % % is %, folded from zero %', aggregate, id, state, folded USING ERRCODE = 'XX777';
	END IF;
END $$;
CREATE FUNCTION execute(s wallet, c peek) RETURNS void LANGUAGE sql AS $$ SELECT app.compare('wallet', c.id, to_jsonb(s)) $$;
CREATE TYPE peek_gadget AS (id bigint);
CREATE FUNCTION execute(s gadget, c peek_gadget) RETURNS void LANGUAGE sql AS $$ SELECT app.compare('gadget', c.id::text, to_jsonb(s)) $$;
CREATE TYPE peek_kept AS (id text);
CREATE FUNCTION execute(s kept, c peek_kept) RETURNS void LANGUAGE sql AS $$ SELECT app.compare('kept', c.id, to_jsonb(s)) $$;

-- ---------------------------------------------------------------------------
-- Projections and handlers
-- ---------------------------------------------------------------------------

CREATE TABLE kept_inline (id text PRIMARY KEY, n bigint, balance numeric);
CREATE FUNCTION kept_project(e was_kept) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.kept_inline VALUES (e.id, 1, COALESCE(e.amount, 0))
		ON CONFLICT (id) DO UPDATE SET n = kept_inline.n + 1, balance = kept_inline.balance + excluded.balance;
END $$;
SELECT es_create_projection('kept inline', 'kept_project', targets => '{kept_inline}', categories => '{kept}');
CREATE TABLE kept_set (type text PRIMARY KEY, n bigint);
SELECT es_create_projection('kept set', targets => '{kept_set}', query =>
	'INSERT INTO app.kept_set SELECT type, count(*) FROM es_new_events GROUP BY type
	 ON CONFLICT (type) DO UPDATE SET n = kept_set.n + excluded.n');
CREATE TABLE kept_async (stream text PRIMARY KEY, n bigint, version bigint);
SELECT es_create_projection('kept async', mode => 'async', targets => '{kept_async}', query =>
	'INSERT INTO app.kept_async SELECT stream, count(*), max(version) FROM es_new_events GROUP BY stream
	 ON CONFLICT (stream) DO UPDATE SET n = kept_async.n + excluded.n, version = excluded.version');

CREATE TABLE total (type text PRIMARY KEY, n bigint);
CREATE TABLE seen (position bigint, type text);
CREATE FUNCTION project(e put_in) RETURNS void LANGUAGE sql AS
	$$ INSERT INTO app.total VALUES ('put', 1) ON CONFLICT (type) DO UPDATE SET n = total.n + 1 $$;
CREATE FUNCTION project(e told, m es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO app.total VALUES (m.type, 1) ON CONFLICT (type) DO UPDATE SET n = total.n + 1;
END $$;
CREATE FUNCTION see(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.position % 17 = 0 THEN
		RAISE EXCEPTION 'position % again' , e.position;
	END IF;
	INSERT INTO app.seen VALUES (e.position, e.type);
END $$;
SELECT es_create_projection('total', 'project', targets => '{total}');
SELECT es_create_projection('seen', 'see', mode => 'async', targets => '{seen}');
SELECT es_create_handler('watch', 'see', partitions => 2, max_retries => 1);
SELECT es_create_projection('stirred', 'stir_up');
SELECT es_create_handler('stirrer', 'stir_up', max_retries => 1);
SELECT es_create_handler('halt', 'see', categories => '{wallet}', max_retries => 0, on_error => 'stop');
SELECT es_create_subscription('pull', partitions => 3, lease => '1 ms');
SELECT es_create_subscription('lonely', stream => 'wallet-1', types => '{put_in}');

CREATE TYPE courier AS (id text, sent int);
CREATE FUNCTION route(e taken_out) RETURNS es_route LANGUAGE sql IMMUTABLE
	RETURN CASE WHEN e.amount > 50 THEN ROW('stop', e.id)::es_route ELSE ROW('start', e.id)::es_route END;
CREATE FUNCTION handle(s courier, e taken_out) RETURNS put LANGUAGE sql IMMUTABLE
	RETURN ROW('courier', e.amount, 'from ' || e.id)::put;
CREATE FUNCTION apply(s courier, e taken_out) RETURNS courier LANGUAGE sql IMMUTABLE
	RETURN ROW(e.id, COALESCE(s.sent, 0) + 1)::courier;
SELECT es_create_process_manager('courier', categories => '{wallet}', max_retries => 1);

-- ---------------------------------------------------------------------------
-- Some history
-- ---------------------------------------------------------------------------

CREATE FUNCTION prehistory() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..60 LOOP
		PERFORM es_dispatch(ROW(i % 7, i, 'note ' || i)::keep, command_id => ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid);
		PERFORM es_dispatch(ROW(i % 5, i, NULL)::put);
		PERFORM es_dispatch(ROW(i % 5, i / 2)::take, '{"why": "because"}');
		PERFORM es_dispatch(ROW(i % 4, 1, ROW('p', '{1,2}', '2020-02-02'), NULL, 'red', '[2020-01-01,)', '{"a": [1]}')::build);
		PERFORM es_dispatch('fill', jsonb_build_object('id', i % 3, 'n', i));
		PERFORM es_append('log-' || i % 3, 'noted', jsonb_build_object('i', i));
		PERFORM es_schedule(ROW('1', 1, 'later')::put, now() + make_interval(days => 1000 + i));
	END LOOP;
	PERFORM es_dispatch(ROW('1', '{a,b}')::list), es_dispatch(ROW('1', 3)::tell), es_dispatch(ROW('1')::shrug);
	PERFORM set_config('event_sourcing.store', 'Odd "store"', true);
	PERFORM es_append('odd-1', 'noted', '{}'::jsonb);
	PERFORM es_create_aggregate('wallet');
	PERFORM es_dispatch(ROW('1', 1, 'odd')::put);
END $$;
SET event_sourcing.retry_delay = 0;
SELECT prehistory();
SELECT es_run(200);
