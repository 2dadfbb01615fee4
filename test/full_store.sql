-- A store with something of everything, for the tests that move a store or change
-- what is under it: dump and restore, backup, upgrades.
--
-- Run it where the extension and oracle.sql are.  Then
--
--     SELECT * FROM shop.content();     everything in the store and its read models
--     SELECT * FROM shop.problems();    what is wrong, nothing if all is well
--     SELECT * FROM shop.goes_on();     use all of it; returns what does not work
--
-- What is left undone on purpose: an async projection, a handler and a process
-- manager are in the middle of the log, a consumer holds a lease, a schedule is
-- due, another one waits, a projection is paused, an event is parked.

CREATE SCHEMA shop;
SET client_min_messages = warning;
SET search_path = shop, public;
DO $$ BEGIN
	IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'shop_app') THEN
		CREATE ROLE shop_app;
	END IF;
END $$;

-- ---------------------------------------------------------------------------
-- Aggregates
-- ---------------------------------------------------------------------------

CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;

CREATE TYPE bell AS (id text, rings bigint);
CREATE TYPE ring AS (id text);
CREATE TYPE rang AS (id text);
CREATE FUNCTION execute(s bell, c ring) RETURNS rang LANGUAGE sql RETURN ROW(c.id)::rang;
CREATE FUNCTION apply(s bell, e rang) RETURNS bell
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.rings, 0) + 1)::bell;

-- without types
CREATE FUNCTION cart_execute(s jsonb, c es_command) RETURNS es_new_event
	LANGUAGE sql RETURN es_new_event('item_added', c.data);
CREATE FUNCTION cart_apply(s jsonb, e es_event) RETURNS jsonb
	LANGUAGE sql IMMUTABLE RETURN s || jsonb_build_object(e.data ->> 'item', e.version);

-- ---------------------------------------------------------------------------
-- Read models, handlers, a process manager: for each bell that rings, a deposit
-- ---------------------------------------------------------------------------

CREATE TABLE total (id text PRIMARY KEY, balance bigint);
CREATE TABLE late_total (id text PRIMARY KEY, balance bigint);
CREATE TABLE entry (stream text, version bigint, PRIMARY KEY (stream, version));
CREATE TABLE paused_entry (position bigint PRIMARY KEY);
CREATE TABLE handled (position bigint);		-- no key: twice would show
CREATE TABLE indexed (position bigint);

CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
END;
CREATE FUNCTION project_late(e deposited) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO late_total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = late_total.balance + excluded.balance;
END;
CREATE FUNCTION handle_event(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.type = 'poison' THEN
		RAISE EXCEPTION 'cannot stand it';
	END IF;
	INSERT INTO handled VALUES (e.position);
END $$;

CREATE TYPE reward AS (bell text, rings int);
CREATE FUNCTION route(e rang) RETURNS es_route LANGUAGE sql RETURN ROW('start', e.id)::es_route;
CREATE FUNCTION handle(s reward, e rang) RETURNS deposit LANGUAGE sql RETURN ROW('reward-' || e.id, 1)::deposit;
CREATE FUNCTION apply(s reward, e rang) RETURNS reward
	LANGUAGE sql RETURN ROW(e.id, COALESCE(s.rings, 0) + 1)::reward;

-- ---------------------------------------------------------------------------
-- Definitions and history
-- ---------------------------------------------------------------------------

SELECT es_create_store();
SELECT es_create_aggregate('account', snapshot_every => 3);
SELECT es_create_aggregate('bell');
SELECT es_create_aggregate('jsonb', name => 'cart', execute_function => 'cart_execute',
						   apply_function => 'cart_apply', initial_state => '{}', commands => '{add_item}');
SELECT es_create_projection('total', 'project', targets => '{total}');
SELECT es_create_projection('late_total', 'project_late', mode => 'async', targets => '{late_total}');
SELECT es_create_projection('entry', query => 'INSERT INTO entry SELECT stream, version FROM es_new_events',
							targets => '{entry}');
SELECT es_create_projection('paused_entry', query => 'INSERT INTO paused_entry SELECT position FROM es_new_events',
							targets => '{paused_entry}');
SELECT es_create_handler('handled', 'handle_event', partitions => 2, max_retries => 0);
SELECT es_create_process_manager('reward');
SELECT es_create_subscription('indexed', lease => '1 hour');
SELECT es_create_subscription('shared', partitions => 2, lease => '1 hour');

SELECT es_dispatch(ROW('a', n)::deposit, metadata => jsonb_build_object('n', n)) FROM generate_series(1, 10) n;
SELECT es_dispatch(ROW('a', 45)::deposit, command_id => '00000000-0000-0000-0000-000000000001');
SELECT es_dispatch(ROW('hall')::ring) FROM generate_series(1, 2);
SELECT es_dispatch('add_item', '{"id": "7", "item": "pen"}');
SELECT es_append('note', ARRAY[es_new_event('noted', '{"text": "\u00e4 \\ '' \" \t"}',
											recorded_at => '2001-02-03 04:05:06.789+00')]);
SELECT es_append('bad', ARRAY[es_new_event('poison'), es_new_event('after_it')]);
-- positions drawn and never committed stay gaps
BEGIN; SELECT es_append('gap', ARRAY[es_new_event('t'), es_new_event('t')]); ROLLBACK;
SELECT es_run();
SELECT es_pause('paused_entry');

SELECT position AS acked FROM es_fetch('indexed', 'a', 5) ORDER BY position LIMIT 1 OFFSET 2 \gset
INSERT INTO indexed SELECT position FROM es.event WHERE position <= :acked;
SELECT es_ack('indexed', 'a', :acked);
SELECT count(*) FROM es_fetch('shared', 'a', 3);

-- what is left undone
SELECT es_dispatch(ROW('a', n)::deposit) FROM generate_series(1, 5) n;
SELECT es_dispatch(ROW('attic')::ring);
SELECT es_schedule(ROW('due')::ring, now() - interval '1 minute', schedule_id => '00000000-0000-0000-0000-000000000002');
SELECT es_schedule(ROW('waits')::ring, '2100-01-31 12:00+00', every => '1 month');

-- what a user may do with the tables
CREATE INDEX event_recorded_at ON es.event USING brin (recorded_at);
GRANT USAGE ON SCHEMA es, shop TO shop_app;
GRANT SELECT, INSERT ON es.event TO shop_app;
GRANT SELECT (name) ON es.aggregate TO shop_app;
GRANT SELECT ON es.projection TO shop_app;
GRANT USAGE ON SEQUENCE es.event_position TO shop_app;
GRANT INSERT ON entry, paused_entry TO shop_app;		-- inline projections run with the caller's rights
GRANT EXECUTE ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid) TO shop_app;
REVOKE EXECUTE ON FUNCTION es_lint() FROM PUBLIC;

-- ---------------------------------------------------------------------------
-- What is in it, and whether it goes on
-- ---------------------------------------------------------------------------

CREATE FUNCTION content() RETURNS SETOF text
	LANGUAGE plpgsql SET search_path = shop, public AS $$
DECLARE
	relation regclass;
BEGIN
	FOR relation IN
		SELECT c.oid FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace IN ('es'::regnamespace, 'shop'::regnamespace)
		ORDER BY c.oid::regclass::text COLLATE "C"
	LOOP
		RETURN QUERY EXECUTE format('SELECT l FROM %2$s t, format(''%%s: %%s'', %1$L, to_jsonb(t)) l ORDER BY l COLLATE "C"',
									relation, relation);
	END LOOP;
	RETURN QUERY SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
		WHERE c.relnamespace = 'es'::regnamespace ORDER BY 1;
	RETURN QUERY SELECT format('%s enabled %s', pg_get_triggerdef(t.oid), t.tgenabled)
		FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
		WHERE c.relnamespace = 'es'::regnamespace AND NOT t.tgisinternal ORDER BY 1;
	-- grants of all kinds but the owners' own
	RETURN QUERY
		SELECT format('%s to %s on %s', a.privilege_type, CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
					  o.name)
		FROM (SELECT nspacl, nspowner, 'schema ' || nspname FROM pg_namespace WHERE nspname IN ('es', 'shop')
			  UNION ALL SELECT relacl, relowner, oid::regclass::text FROM pg_class WHERE relnamespace = 'es'::regnamespace
			  UNION ALL SELECT t.attacl, c.relowner, t.attrelid::regclass || '.' || t.attname
				FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid WHERE c.relnamespace = 'es'::regnamespace
			  UNION ALL SELECT f.proacl, f.proowner, f.oid::regprocedure::text FROM pg_proc f JOIN pg_depend d
				ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e'
				JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'event_sourcing') o(acl, owner, name),
			 aclexplode(o.acl) a
		WHERE a.grantee <> o.owner ORDER BY 1;
END $$;

-- each line a thing that is wrong, whatever is done and undone
CREATE FUNCTION problems() RETURNS SETOF text
	LANGUAGE plpgsql SET search_path = shop, public AS $$
BEGIN
	RETURN QUERY SELECT * FROM oracle.problems();
	RETURN QUERY SELECT format('position %s is %s %s times', position, what, count(*))
		FROM (SELECT position, 'handled' FROM handled UNION ALL SELECT position, 'indexed' FROM indexed) e(position, what)
		GROUP BY position, what HAVING count(*) > 1 OR NOT EXISTS (SELECT FROM es.event WHERE event.position = e.position);
	RETURN QUERY SELECT format('account reward-%s has %s deposits', substr(stream, 16), count(*))
		FROM es.event e WHERE stream ^@ 'account-reward-' GROUP BY stream
		HAVING count(*) > (SELECT count(*) FROM es.event r WHERE r.stream = 'bell-' || substr(e.stream, 16));
END $$;

CREATE FUNCTION must(holds boolean, what text) RETURNS SETOF text
	LANGUAGE sql AS $$ SELECT 'not so: ' || what WHERE holds IS NOT TRUE $$;

CREATE FUNCTION must_fail(statement text, message text) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE statement;
	RETURN NEXT 'not refused: ' || statement;
EXCEPTION WHEN OTHERS THEN
	RETURN QUERY SELECT * FROM shop.must(SQLERRM ~ message, format('%s is refused with %s, but %s', statement, message, SQLERRM));
END $$;

-- Each line a thing that does not go on.  Once only: it uses everything up.
CREATE FUNCTION goes_on() RETURNS SETOF text
	LANGUAGE plpgsql SET search_path = shop, public SET client_min_messages = warning AS $$
DECLARE
	last bigint := (SELECT max(position) FROM es.event);
	fetched bigint[];
	ended bigint := es_stream_version('account-a');
	schedules bigint := (SELECT count(*) FROM es.schedule);
	got es_dispatch_result;
BEGIN
	RETURN QUERY SELECT * FROM problems();

	-- the log
	got := es_dispatch(ROW('a', 5)::deposit);
	RETURN QUERY SELECT * FROM must(got.version = ended + 1, 'the stream goes on');
	RETURN QUERY SELECT * FROM must(got.position > last, 'the next position is above the last');
	got := es_dispatch(ROW('a', 45)::deposit, command_id => '00000000-0000-0000-0000-000000000001');
	RETURN QUERY SELECT * FROM must(got.version = 11 AND (got.events[1]).data ->> 'amount' = '45',
									'a retry gets the result of long ago');
	RETURN QUERY SELECT * FROM must(es_state('cart', '7') = '{"pen": 1}', 'the state of an aggregate without types');
	got := es_dispatch('add_item', '{"id": "7", "item": "ink"}');
	RETURN QUERY SELECT * FROM must(es_state('cart', '7') = '{"pen": 1, "ink": 2}', 'its next state');
	RETURN QUERY SELECT * FROM must_fail('DELETE FROM es.event', 'cannot change event log');
	RETURN QUERY SELECT * FROM must_fail('INSERT INTO es.event SELECT * FROM es.event', 'cannot insert into event log');

	-- what was left undone: by the worker, if there is one, or here
	PERFORM es_run();
	RETURN QUERY SELECT * FROM must((SELECT count(*) FROM es.schedule) = schedules - 1
		OR NOT EXISTS (SELECT FROM es.schedule WHERE schedule_id = '00000000-0000-0000-0000-000000000002'), 'what was due is not scheduled any more');
	RETURN QUERY SELECT * FROM must((SELECT count(*) FROM es.event WHERE stream = 'bell-due') = 1, 'it was dispatched once');
	RETURN QUERY SELECT * FROM must((SELECT count(*) FROM es.schedule WHERE due_at = '2100-01-31 12:00+00' AND every = '1 month') = 1,
									'what waits is scheduled');
	RETURN QUERY SELECT 'not handled: ' || position FROM es.event WHERE stream <> 'bad'
		AND position NOT IN (SELECT position FROM handled);
	RETURN QUERY SELECT * FROM must((SELECT string_agg(state, ',' ORDER BY position) FROM es.parked_event) = 'parked,waiting', 'an event is parked');
	RETURN QUERY SELECT format('no reward for ring %s of %s', b.version, b.stream) FROM es.event b
		WHERE b.stream ^@ 'bell-' AND b.version > es_stream_version('account-reward-' || substr(b.stream, 6));
	RETURN QUERY SELECT * FROM must((SELECT count(*) FROM es.process) = (SELECT count(DISTINCT stream) FROM es.event WHERE stream ^@ 'bell-'),
									'the process manager has its instances');

	-- the consumer goes on behind what it has acknowledged
	LOOP
		fetched := ARRAY(SELECT position FROM es_fetch('indexed', 'a', 10) ORDER BY position);
		EXIT WHEN fetched = '{}';
		INSERT INTO indexed SELECT unnest(fetched);
		PERFORM es_ack('indexed', 'a', fetched[cardinality(fetched)]);
	END LOOP;
	RETURN QUERY SELECT 'not indexed: ' || position FROM es.event
		WHERE position < (SELECT max(position) FROM es.event) AND position NOT IN (SELECT position FROM indexed);

	RETURN QUERY SELECT * FROM must((SELECT count(*) FROM es_fetch('shared', 'a', 3)) > 0, 'another consumer has its lease');

	-- definitions can be changed and made
	RETURN QUERY SELECT * FROM must((SELECT count(*) FROM paused_entry) < (SELECT count(*) FROM es.event), 'the paused projection is paused');
	PERFORM es_resume('paused_entry');
	RETURN QUERY SELECT * FROM must((SELECT count(*) FROM paused_entry) = (SELECT count(*) FROM es.event), 'it catches up');
	CREATE TABLE after_move (position bigint PRIMARY KEY);
	PERFORM es_create_projection('after_move', query => 'INSERT INTO after_move SELECT position FROM es_new_events', targets => '{after_move}');
	PERFORM es_rebuild_projection('after_move');
	PERFORM es_create_handler('new_handler', 'handle_event', from_position => NULL);
	RETURN QUERY SELECT * FROM must(ARRAY(SELECT id FROM es.projection ORDER BY id) || ARRAY(SELECT id FROM es.subscription ORDER BY id)
		= ARRAY(SELECT DISTINCT id FROM es.projection ORDER BY id) || ARRAY(SELECT DISTINCT id FROM es.subscription ORDER BY id), 'ids are unique');
	PERFORM es_drop_subscription('new_handler');
	RETURN QUERY SELECT 'lint: ' || object || ' ' || problem FROM es_lint() WHERE severity = 'error';
	RETURN QUERY SELECT * FROM must(es_diagram() ~ 'flowchart', 'the diagram');

	-- an application with its grants
	GRANT INSERT ON after_move TO shop_app;
	SET LOCAL ROLE shop_app;
	PERFORM public.es_append('app', ARRAY[public.es_new_event('t')]);
	RETURN QUERY SELECT * FROM shop.must_fail('SELECT public.es_dispatch(ROW(''a'', 1)::shop.deposit)', 'permission denied');
	RETURN QUERY SELECT * FROM shop.must_fail('SELECT * FROM public.es_lint()', 'permission denied');
	RESET ROLE;
	RETURN QUERY SELECT * FROM problems();
END $$;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA shop TO shop_app;
