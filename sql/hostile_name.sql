-- Names are data.  A store, its types, functions, tables and definitions, its streams and
-- consumers may have any name that PostgreSQL takes: with quotes, line ends, characters
-- that change the direction of writing, and with SQL in it.  All of it works with each of
-- them, and nothing that stands in a name is executed.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
CREATE SCHEMA hostile_name_test;
SET search_path = hostile_name_test, public;

-- What the SQL in the names would do.
CREATE TABLE victim (id int);
CREATE SEQUENCE sprung;
CREATE FUNCTION spring() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT nextval('hostile_name_test.sprung')::text; END;

CREATE TABLE name (n int PRIMARY KEY, label text, name text);
INSERT INTO name VALUES
	(1, 'a space, upper case', 'A Name'),
	(2, 'quotes', 'it''s "a" `name`'),
	(3, 'SQL in a literal', 'x''; DROP TABLE victim; --'),
	(4, 'SQL in an identifier', 'x"; DROP TABLE victim; --'),
	(5, 'an expression in a literal', ''' || hostile_name_test.spring() || '''),
	(6, 'an expression in an identifier', '" || hostile_name_test.spring() || "'),
	(7, 'dollar quotes', '$$; DROP TABLE victim; $f$ $1 $'),
	(8, 'backslashes', E'\\''; DROP TABLE victim; \\n\\'),
	(9, 'formats', '%s %I %L %1$s %%'),
	(10, 'patterns', '%_.*[a-z]+(?!x)^$|'),
	(11, 'line ends and tabs', E'a\nb\r\nc\td'),
	(12, 'a line that looks like a comment', E'a -- b\n/* c'),
	(13, 'writing from right to left', U&'a\202Eb\202C\200F\05D0'),
	(14, 'four bytes a character', U&'\+01F40E\+01F9EA'),
	(15, 'combining characters, no width', U&'e\0301\200B\FEFF'),
	(16, 'dots and brackets', 'a.b"."c(d)[e]{f}'),
	(18, 'marks of the extension', '@store@ @extension@ @extschema@'),
	(20, 'as long as a name can be', repeat(U&'\+01F40E', 15) || 'xyz'),
	(21, 'Mermaid', '"]:::x --> y[(<b>#amp;</b>');

-- ---------------------------------------------------------------------------
-- An application whose every name is this one
-- ---------------------------------------------------------------------------

-- Everything that a store does, once; returns what it had to return.
CREATE FUNCTION whole_life(name text) RETURNS text LANGUAGE plpgsql AS $life$
DECLARE
	stream text := 's' || name || '-1';
	command text := quote_ident('c' || left(name, 14));
	result text[];
	step text;
	id uuid;
	counted bigint;
BEGIN
	step := 'create types and functions';
	EXECUTE format('CREATE SCHEMA %I', 'app ' || left(name, 10));
	PERFORM set_config('search_path', quote_ident('app ' || left(name, 10)) || ', public', true);
	-- type names are 63 bytes at most, and an array type takes one of them
	EXECUTE format('CREATE TYPE %I AS (%I text, balance int)', 's' || left(name, 14), name);
	EXECUTE format('CREATE TYPE %I AS (%I text, amount int)', 'c' || left(name, 14), name);
	EXECUTE format('CREATE TYPE %I AS (amount int)', 'e' || left(name, 14));
	EXECUTE format('CREATE FUNCTION %I(s %I, c %I) RETURNS %I LANGUAGE sql RETURN ROW(c.amount)::%4$I',
		'x' || left(name, 14), 's' || left(name, 14), 'c' || left(name, 14), 'e' || left(name, 14));
	EXECUTE format('CREATE FUNCTION %I(s %I, e %I) RETURNS %2$I LANGUAGE sql IMMUTABLE RETURN ROW(s.%4$I, COALESCE(s.balance, 0) + e.amount)::%2$I',
		'a' || left(name, 14), 's' || left(name, 14), 'e' || left(name, 14), name);
	EXECUTE format('CREATE TABLE %I (type text PRIMARY KEY, %I int)', 't' || left(name, 14), name);
	EXECUTE format('CREATE FUNCTION %I(e es_event) RETURNS void LANGUAGE sql AS %L', name,
		format('INSERT INTO %1$I AS t VALUES (e.type, 1) ON CONFLICT (type) DO UPDATE SET %2$I = t.%2$I + 1', 't' || left(name, 14), name));

	step := 'create the store';
	PERFORM es_create_store(name);
	PERFORM set_config('event_sourcing.store', name, true);
	ASSERT es_current_store() = name;
	PERFORM es_upgrade_store(name);

	step := 'define';
	PERFORM es_create_aggregate(quote_ident('s' || left(name, 14))::regtype, identity => name, name => name, stream_prefix => 's' || name || '-',
		execute_function => quote_ident('x' || left(name, 14)), apply_function => quote_ident('a' || left(name, 14)), snapshot_every => 2);
	PERFORM es_create_projection(name, handler => quote_ident(name), targets => ARRAY[quote_ident('t' || left(name, 14))::regclass]);
	PERFORM es_create_projection(name || ' async', handler => quote_ident(name), mode => 'async');
	PERFORM es_create_handler(name || ' handler', quote_ident(name), types => ARRAY['e' || left(name, 14)]);
	PERFORM es_create_subscription(name || ' external', types => ARRAY['e' || left(name, 14)], stream => stream);

	step := 'append and dispatch';
	ASSERT (es_append('n' || name, name, jsonb_build_object(name, name))).version = 1;
	ASSERT (es_append('n' || name, ARRAY[es_new_event(name, metadata => jsonb_build_object(name, name))])).version = 2;
	FOR i IN 1..3 LOOP
		ASSERT (es_dispatch(command, jsonb_build_object(name, '1', 'amount', 10), command_id => gen_random_uuid())).version = i;
	END LOOP;
	id := es_schedule(command, jsonb_build_object(name, name, 'amount', 1), now() - interval '1 h');
	ASSERT (SELECT s.state FROM es_schedule_status s WHERE s.schedule_id = id) = 'due';

	step := 'read';
	ASSERT es_stream_version(stream) = 3 AND es_stream_version('n' || name) = 2;
	ASSERT (SELECT array_agg(e.type ORDER BY e.version) FROM es_read_stream('n' || name) e) = ARRAY[name, name];
	ASSERT (SELECT e.data FROM es_read_stream('n' || name, max_count => 1) e) = jsonb_build_object(name, name);
	ASSERT es_state(name, '1') ->> 'balance' = '30';
	ASSERT (SELECT count(*) FROM es_history(name, '1')) = 3;

	step := 'rebuild and verify';
	ASSERT es_verify_projection(name) = 0;
	PERFORM es_rebuild_projection(name);
	ASSERT es_verify_projection(name) = 0;
	EXECUTE format('SELECT sum(%I) FROM %I', name, 't' || left(name, 14)) INTO counted;
	ASSERT counted = 5, counted;
	PERFORM es_pause(name), es_resume(name);

	step := 'look at it';
	ASSERT NOT EXISTS (SELECT FROM es_lint() WHERE severity = 'error'), (SELECT string_agg(object || problem, '; ') FROM es_lint() WHERE severity = 'error');
	-- each line of a diagram is one node, one edge or one style
	ASSERT NOT EXISTS (SELECT FROM regexp_split_to_table(es_diagram(), '\n') line
		WHERE line !~ '^(flowchart LR|    [caep]\d+(\["[^"<>`]*"\]|\{\{"[^"<>`]*"\}\}|\(\["[^"<>`]*"\]\)|\[\("[^"<>`]*"\)\]):::[a-z]+|    [cae]\d+ -\.?->  ?[aep]\d+|    classDef [-a-z#:,0-9]+ .*)$'),
		es_diagram();
	ASSERT (SELECT array_agg(s.name ORDER BY s.name COLLATE "C") FROM es_subscription_status s)
		= ARRAY[name || ' async', name || ' external', name || ' handler'];
	ASSERT (SELECT a.events FROM es_aggregate_status a WHERE a.name = whole_life.name) = 3;
	PERFORM FROM es_inflight;
	PERFORM FROM es_rebuild_progress;
	PERFORM FROM es_parked_event;

	step := 'grant and revoke';
	PERFORM es_grant('"regress_es_''""; name"', 'admin');
	PERFORM es_revoke('"regress_es_''""; name"', 'admin');

	step := 'drop';
	PERFORM es_unschedule(id);
	PERFORM es_drop_subscription(name || ' handler'), es_drop_subscription(name || ' external');
	PERFORM es_drop_projection(name), es_drop_projection(name || ' async'), es_drop_aggregate(name);
	EXECUTE format('DROP SCHEMA %I CASCADE', name);
	EXECUTE format('DROP SCHEMA %I CASCADE', 'app ' || left(name, 10));
	RETURN 'works';
EXCEPTION WHEN OTHERS OR assert_failure THEN
	RETURN step || ': ' || SQLSTATE || ' ' || SQLERRM;
END $life$;

CREATE ROLE "regress_es_'""; name";
SET client_min_messages = warning;
SELECT n, label, whole_life(name) FROM name ORDER BY n;

-- What is pulled is seen when it has committed: fetched, acknowledged, put aside, waited
-- for, in a store that has the worst of these names.
SELECT name FROM name WHERE n = 8 \gset
SELECT es_create_store(:'name');
SET event_sourcing.store = :'name';
SELECT version FROM es_append(:'name', ARRAY[es_new_event(:'name'), es_new_event(:'name'), es_new_event(:'name')]);
SELECT es_create_subscription(:'name', types => ARRAY[:'name'], categories => ARRAY[:'name'], stream => :'name');
SELECT position, stream = :'name' AND type = :'name' AS intact FROM es_fetch(:'name', :'name', 1);
SELECT es_ack(:'name', :'name', 1), es_wait(:'name', 1);
SELECT position FROM es_fetch(:'name', :'name', 1);
SELECT es_nack(:'name', :'name', 2, 'park', :'name');
SELECT subscription = :'name' AND stream = :'name' AND reason = :'name' AS intact, position, state FROM es_parked_event;
SELECT es_replay_parked(:'name'), es_reset_subscription(:'name', 0);
-- errors quote a name as it is
\set VERBOSITY terse
SELECT es_wait('no such ''"', 1);
SELECT es_state('no such ''"', '1');
\set VERBOSITY default
SELECT es_drop_subscription(:'name');
RESET event_sourcing.store;

-- The oracle: nothing in a name was executed, and nothing is left.
SELECT is_called AS sprung FROM sprung;
SELECT count(*) AS victims FROM victim;
SELECT format('DROP SCHEMA %I CASCADE', :'name') \gexec
SELECT count(*) AS stores FROM pg_namespace JOIN name ON nspname IN (name, 'app ' || left(name, 10)) WHERE nspname <> 'public';

DROP OWNED BY "regress_es_'""; name";
DROP ROLE "regress_es_'""; name";
DROP SCHEMA hostile_name_test CASCADE;
RESET client_min_messages;
