-- Process managers.  route() says which instances an event is for, handle() which
-- commands are dispatched then, apply() what the instance is afterwards.  Handling
-- an event, its commands with all that they cause, and the new state happen
-- together or not at all, and once.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT es_create_store('process_test');
SET event_sourcing.store = 'process_test';
CREATE SCHEMA process_app;
SET search_path = process_app, public;
SET event_sourcing.retry_delay = 0;

-- What there is to be coordinated: purchases, and parcels.
CREATE TYPE purchase AS (id text, item text, status text);
CREATE TYPE place AS (id text, item text);
CREATE TYPE pay AS (id text, amount int);
CREATE TYPE cancel AS (id text, reason text);
CREATE TYPE placed AS (id text, item text);
CREATE TYPE payment AS (id text, amount int);
CREATE TYPE cancelled AS (id text, reason text);
CREATE FUNCTION execute(s purchase, c place) RETURNS placed LANGUAGE sql RETURN ROW(c.id, c.item)::placed;
CREATE FUNCTION execute(s purchase, c pay) RETURNS payment LANGUAGE sql RETURN ROW(c.id, c.amount)::payment;
CREATE FUNCTION execute(s purchase, c cancel) RETURNS cancelled LANGUAGE plpgsql AS $$
BEGIN
	IF s.status = 'cancelled' THEN
		RAISE EXCEPTION 'purchase % is cancelled already', c.id USING ERRCODE = 'PU001';
	END IF;
	RETURN ROW(c.id, c.reason)::cancelled;
END $$;
CREATE FUNCTION apply(s purchase, e placed) RETURNS purchase LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.item, 'placed')::purchase;
CREATE FUNCTION apply(s purchase, e payment) RETURNS purchase LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.item, 'paid')::purchase;
CREATE FUNCTION apply(s purchase, e cancelled) RETURNS purchase LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.item, 'cancelled')::purchase;
SELECT es_create_aggregate('purchase');

CREATE TYPE parcel AS (id text, item text, status text);
CREATE TYPE pack AS (id text, item text);
CREATE TYPE send AS (id text);
CREATE TYPE packed AS (id text, item text);
CREATE TYPE sent AS (id text);
CREATE FUNCTION execute(s parcel, c pack) RETURNS packed LANGUAGE plpgsql AS $$
BEGIN
	IF c.item = 'anvil' THEN
		RAISE EXCEPTION 'an anvil is too heavy' USING ERRCODE = 'PA001', DETAIL = '100 kg', HINT = 'Buy a feather.';
	END IF;
	RETURN ROW(c.id, c.item)::packed;
END $$;
CREATE FUNCTION execute(s parcel, c send) RETURNS sent LANGUAGE sql RETURN ROW(c.id)::sent;
CREATE FUNCTION apply(s parcel, e packed) RETURNS parcel LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.item, 'packed')::parcel;
CREATE FUNCTION apply(s parcel, e sent) RETURNS parcel LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.item, 'sent')::parcel;
SELECT es_create_aggregate('parcel');

CREATE VIEW history AS SELECT position, stream, version, type, data FROM process_test.event ORDER BY position;
CREATE VIEW instance AS SELECT process_manager, id, state, position FROM process_test.process ORDER BY process_manager, id;
CREATE VIEW parked AS
	SELECT subscription, stream, version, type, state, reason, attempts FROM es_parked_event ORDER BY subscription, position;

-- ---------------------------------------------------------------------------
-- From an event to commands
-- ---------------------------------------------------------------------------

-- A purchase is packed when it is placed, and sent when it is paid.
CREATE TYPE fulfilment AS (purchase text, item text, paid int, steps text[]);
CREATE FUNCTION route(e placed) RETURNS es_route LANGUAGE sql RETURN ROW('start!', e.id)::es_route;
CREATE FUNCTION route(e payment) RETURNS es_route LANGUAGE sql RETURN ROW('continue!', e.id)::es_route;
CREATE FUNCTION route(e packed, m es_event) RETURNS es_route LANGUAGE sql RETURN ROW('continue', e.id)::es_route;
CREATE FUNCTION route(e sent) RETURNS es_route LANGUAGE sql RETURN ROW('stop', e.id)::es_route;
CREATE FUNCTION handle(f fulfilment, e placed) RETURNS pack LANGUAGE sql RETURN ROW(e.id, e.item)::pack;
CREATE FUNCTION handle(f fulfilment, e payment) RETURNS send LANGUAGE plpgsql AS $$
BEGIN
	-- the state is the one before this event
	IF COALESCE(f.paid, 0) + e.amount >= 10 THEN
		RETURN ROW(f.purchase)::send;
	END IF;
	RETURN NULL;
END $$;
CREATE FUNCTION apply(f fulfilment, e placed) RETURNS fulfilment LANGUAGE sql RETURN ROW(e.id, e.item, 0, '{placed}')::fulfilment;
CREATE FUNCTION apply(f fulfilment, e payment, m es_event) RETURNS fulfilment LANGUAGE sql
	RETURN ROW(f.purchase, f.item, f.paid + e.amount, f.steps || ('payment at ' || m.version))::fulfilment;
CREATE FUNCTION apply(f fulfilment, e packed) RETURNS fulfilment LANGUAGE sql
	RETURN ROW(f.purchase, f.item, f.paid, f.steps || '{packed}')::fulfilment;
SELECT es_create_process_manager('fulfilment');
SELECT name, kind, state, position, partitions FROM es_subscription_status;

SELECT version FROM es_dispatch(ROW('1', 'feather')::place);
SELECT version FROM es_dispatch(ROW('2', 'lamp')::place);
-- Events cause commands, which cause events, and so on, in one run.
SELECT es_run();
SELECT * FROM history;
SELECT * FROM instance;
SELECT es_run();
-- Not enough: no command, but a new state.
SELECT version FROM es_dispatch(ROW('1', 4)::pay);
SELECT es_run();
SELECT * FROM instance;
-- Enough: it is sent, and the instance is done with.
SELECT version FROM es_dispatch(ROW('1', 6)::pay);
SELECT es_run();
SELECT * FROM history OFFSET 4;
SELECT * FROM instance;

-- The events of a command have the event for their cause, and its correlation, and
-- so down the chain: all that one command has brought about can be found.
SELECT version FROM es_dispatch(ROW('3', 'book')::place, correlation_id => '00000000-0000-4000-8000-000000000003');
SELECT version FROM es_dispatch(ROW('3', 10)::pay, correlation_id => '00000000-0000-4000-8000-000000000003');
SELECT es_run();
SELECT e.stream, e.type, c.stream AS cause_stream, c.type AS cause, right(e.correlation_id::text, 1) AS correlation
FROM process_test.event e LEFT JOIN process_test.event c ON c.event_id = e.causation_id
WHERE e.stream IN ('purchase-3', 'parcel-3') ORDER BY e.position;
-- An event without a correlation gives its id.
SELECT e.stream, e.type, c.type AS cause, e.correlation_id = c.event_id AS by_id
FROM process_test.event e JOIN process_test.event c ON c.event_id = e.causation_id
WHERE e.stream = 'parcel-1' ORDER BY e.position;

-- ---------------------------------------------------------------------------
-- Routes
-- ---------------------------------------------------------------------------

-- start! of what is there, continue! of what is not: the event fails, and is parked.
SELECT version FROM es_append('purchase-2', ROW('2', 'lamp')::placed);
SELECT version FROM es_append('purchase-9', ROW('9', 1)::payment);
SELECT es_run();
SELECT * FROM parked;
SELECT * FROM instance;
SELECT es_drop_subscription('fulfilment');
SELECT * FROM instance;

-- start and continue take it as it comes; stop of what is not there does no harm;
-- NULL is for nobody.  Each action, on an instance that is not there and that is.
CREATE TYPE poked AS (action text, id text);
CREATE TYPE diary AS (pokes text[]);
CREATE FUNCTION route(e poked) RETURNS es_route LANGUAGE sql
	RETURN CASE WHEN e.action IS DISTINCT FROM 'none' THEN ROW(e.action, e.id)::es_route END;
CREATE FUNCTION apply(d diary, e poked) RETURNS diary LANGUAGE sql RETURN ROW(d.pokes || e.action)::diary;
SELECT es_create_process_manager('diary', max_retries => 0, from_position => NULL);
SELECT version FROM es_append('poke-1', ARRAY[es_new_event(ROW('start', 'a')::poked), es_new_event(ROW('start', 'a')::poked),
	es_new_event(ROW('continue', 'b')::poked), es_new_event(ROW('continue', 'b')::poked), es_new_event(ROW('continue!', 'b')::poked),
	es_new_event(ROW('start!', 'c')::poked), es_new_event(ROW('stop', 'd')::poked), es_new_event(ROW('none', 'a')::poked),
	es_new_event(ROW(NULL, 'a')::poked)]);
SELECT es_run();
SELECT id, state FROM instance;
SELECT version FROM es_append('poke-1', ARRAY[es_new_event(ROW('stop', 'a')::poked), es_new_event(ROW('start!', 'a')::poked), es_new_event(ROW('stop', 'b')::poked)]);
SELECT es_run();
SELECT id, state FROM instance;
-- What is no route fails the event.
SELECT version FROM es_append('poke-2', ROW('pat', 'a')::poked);
SELECT version FROM es_append('poke-3', ROW('start', NULL)::poked);
SELECT version FROM es_append('poke-4', ROW('stop', '')::poked);
SELECT version FROM es_append('poke-5', ROW('start!', 'c')::poked);
SELECT version FROM es_append('poke-6', ROW('continue!', 'nobody')::poked);
SELECT es_run();
SELECT stream, reason FROM parked;
SELECT id, state FROM instance;
SELECT es_drop_subscription('diary');

-- Several instances for one event: an array, or a set.  They are served in turn, and
-- one that is named twice sees its own new state.
CREATE TYPE bell AS (id text, who text[]);
CREATE FUNCTION ring(e bell) RETURNS es_route[] LANGUAGE sql
	RETURN ARRAY(SELECT ROW('start', w)::es_route FROM unnest(e.who) WITH ORDINALITY u(w, n) ORDER BY n);
CREATE FUNCTION ring_set(e bell) RETURNS SETOF es_route LANGUAGE sql
	AS $$ SELECT ROW(CASE w WHEN 'off' THEN NULL ELSE 'start' END, w)::es_route FROM unnest(e.who) WITH ORDINALITY u(w, n) ORDER BY n $$;
CREATE TYPE listener AS (rings int);
CREATE FUNCTION apply(l listener, e bell) RETURNS listener LANGUAGE sql RETURN ROW(COALESCE(l.rings, 0) + 1)::listener;
CREATE FUNCTION handle(l listener, e bell, m es_event) RETURNS pack LANGUAGE sql RETURN ROW(e.id, 'ring ' || COALESCE(l.rings, 0))::pack;
SELECT es_create_process_manager('listener', 'array', 'ring', from_position => NULL);
SELECT es_create_process_manager('listener', 'set', 'ring_set', from_position => NULL);
SELECT version FROM es_append('bell-1', ROW('bell', '{ann,bob,ann,off}')::bell);
SELECT version FROM es_append('bell-1', ROW('bell', '{}')::bell);
SELECT es_run();
SELECT process_manager, id, state FROM instance;
SELECT version, data FROM history WHERE stream = 'parcel-bell' ORDER BY version;
SELECT es_drop_subscription('array'), es_drop_subscription('set');

-- ---------------------------------------------------------------------------
-- Commands
-- ---------------------------------------------------------------------------

-- handle() returns one command, an array or a set of them, es_command for commands of
-- several types, or nothing.
CREATE TYPE parcels AS (count int);
CREATE TYPE one AS (id text);
CREATE TYPE array_of AS (id text);
CREATE TYPE set_of AS (id text);
CREATE TYPE mixed AS (id text);
CREATE TYPE mixed_array AS (id text);
CREATE TYPE mixed_set AS (id text);
CREATE TYPE no_command AS (id text);
CREATE TYPE unhandled AS (id text);
CREATE FUNCTION route_any(m es_event) RETURNS es_route LANGUAGE sql RETURN ROW('start', m.type)::es_route;
CREATE FUNCTION handle(p parcels, e one) RETURNS pack LANGUAGE sql RETURN ROW(e.id, 'one')::pack;
CREATE FUNCTION handle(p parcels, e array_of) RETURNS pack[] LANGUAGE sql RETURN ARRAY[ROW(e.id, 'array 1')::pack, NULL, ROW(e.id, 'array 2')::pack];
CREATE FUNCTION handle(p parcels, e set_of) RETURNS SETOF pack LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. 3 LOOP
		RETURN NEXT ROW(e.id, 'set ' || i)::pack;
	END LOOP;
END $$;
CREATE FUNCTION handle(p parcels, e mixed) RETURNS es_command LANGUAGE sql
	RETURN ROW('pack', jsonb_build_object('id', e.id, 'item', 'mixed'), '{"by": "me"}', NULL, NULL, NULL)::es_command;
CREATE FUNCTION handle(p parcels, e mixed_array) RETURNS es_command[] LANGUAGE sql
	RETURN ARRAY[ROW('process_app.pack', jsonb_build_object('id', e.id, 'item', 'mixed array'), NULL, '00000000-0000-4000-8000-00000000000a', NULL, NULL)::es_command,
		ROW('send', jsonb_build_object('id', e.id), NULL, NULL, '00000000-0000-4000-8000-00000000000b', '00000000-0000-4000-8000-00000000000c')::es_command];
CREATE FUNCTION handle(p parcels, e mixed_set, m es_event) RETURNS SETOF es_command LANGUAGE sql
	AS $$ SELECT ROW(t, jsonb_build_object('id', e.id), NULL, NULL, NULL, NULL)::es_command FROM unnest('{pack,send}'::text[]) t $$;
CREATE FUNCTION handle(p parcels, e no_command) RETURNS void LANGUAGE plpgsql AS $$ BEGIN END $$;
SELECT es_create_process_manager('parcels', route_function => 'route_any', categories => '{form}', initial_state => '(5)');
SELECT version FROM es_append('form-1', ARRAY[es_new_event(ROW('f1')::one), es_new_event(ROW('f2')::array_of), es_new_event(ROW('f3')::set_of),
	es_new_event(ROW('f4')::mixed), es_new_event(ROW('f5')::mixed_array), es_new_event(ROW('f6')::mixed_set), es_new_event(ROW('f7')::no_command),
	es_new_event(ROW('f8')::unhandled)]);
SELECT es_run();
SELECT * FROM parked;
SELECT e.stream, e.version, e.type, e.data, e.metadata, c.type AS cause, right(e.causation_id::text, 12) = '00000000000a' AS by_command, right(e.causation_id::text, 12) = '00000000000c' AS by_cause,
	right(e.correlation_id::text, 12) = '00000000000b' AS correlated
FROM process_test.event e LEFT JOIN process_test.event c ON c.event_id = e.causation_id AND c.stream = 'form-1'
WHERE e.stream LIKE 'parcel-f%' ORDER BY e.stream, e.version;
-- Whatever an event is, the instance begins with the initial state.
SELECT id, state FROM instance;
SELECT es_drop_subscription('parcels');

-- State jsonb, with functions under names of its own.
CREATE FUNCTION j_route(m es_event) RETURNS es_route LANGUAGE sql RETURN ROW('start', m.data ->> 'id')::es_route;
CREATE FUNCTION j_handle(s jsonb, m es_event) RETURNS es_command LANGUAGE sql
	RETURN CASE WHEN (s -> 'seen')::int = 1 THEN ROW('pack', jsonb_build_object('id', m.data ->> 'id', 'item', s ->> 'thing'), NULL, NULL, NULL, NULL)::es_command END;
CREATE FUNCTION j_apply(s jsonb, m es_event) RETURNS jsonb LANGUAGE sql RETURN s || m.data || jsonb_build_object('seen', (s -> 'seen')::int + 1);
SELECT es_create_process_manager('jsonb', 'loose', 'j_route', 'j_handle', 'j_apply', initial_state => '{"seen": 0}', categories => '{loose}');
SELECT version FROM es_append('loose-1', ARRAY[es_new_event('a', '{"id": "j", "thing": "cup"}'), es_new_event('b', '{"id": "j", "more": 1}'), es_new_event('c', '{"id": "k"}')]);
SELECT es_run();
SELECT process_manager, id, state FROM instance;
SELECT stream, data FROM history WHERE stream = 'parcel-j';
SELECT es_drop_subscription('loose');

-- ---------------------------------------------------------------------------
-- Refusals
-- ---------------------------------------------------------------------------

-- A command that is refused fails the event: of what was done before it nothing stays,
-- no command, no state, of no instance.  The event is parked, and those of its stream.
CREATE TYPE shipment AS (items text[]);
CREATE TYPE wanted AS (id text, items text[]);
CREATE FUNCTION route(e wanted) RETURNS es_route[] LANGUAGE sql RETURN ARRAY[ROW('start', e.id || '-1'), ROW('start', e.id || '-2')]::es_route[];
CREATE FUNCTION handle(s shipment, e wanted) RETURNS SETOF pack LANGUAGE sql
	AS $$ SELECT ROW(e.id, i)::pack FROM unnest(e.items) WITH ORDINALITY u(i, n) ORDER BY n $$;
CREATE FUNCTION apply(s shipment, e wanted) RETURNS shipment LANGUAGE sql RETURN ROW(s.items || e.items)::shipment;
SELECT es_create_process_manager('shipment', max_retries => 1, categories => '{want}');
SELECT version FROM es_append('want-1', ROW('w1', '{cup,anvil,spoon}')::wanted);
SELECT version FROM es_append('want-2', ROW('w2', '{cup}')::wanted);
SELECT version FROM es_append('want-1', ROW('w3', '{fork}')::wanted);
SELECT es_run();
SELECT * FROM parked;
SELECT id, state FROM instance;
SELECT stream, version, data FROM history WHERE stream LIKE 'parcel-w%';
-- The aggregate is mended, the event replayed, and with it all that waits.
CREATE OR REPLACE FUNCTION execute(s parcel, c pack) RETURNS packed LANGUAGE sql RETURN ROW(c.id, c.item)::packed;
SELECT es_replay_parked('shipment');
SELECT * FROM parked;
SELECT id, state FROM instance;
SELECT stream, version, data FROM history WHERE stream LIKE 'parcel-w%' ORDER BY stream, version;
SELECT es_drop_subscription('shipment');

-- With a function refused() for it, the refused command alone is undone, those behind
-- it are not dispatched, and the function's commands are, in their place.
CREATE OR REPLACE FUNCTION execute(s parcel, c pack) RETURNS packed LANGUAGE plpgsql AS $$
BEGIN
	IF c.item = 'anvil' THEN
		-- it even appends, which is undone
		PERFORM es_append('scratch-1', 'tried', '{}'::jsonb);
		RAISE EXCEPTION 'an anvil is too heavy' USING ERRCODE = 'PA001', DETAIL = '100 kg', HINT = 'Buy a feather.';
	END IF;
	RETURN ROW(c.id, c.item)::packed;
END $$;
-- refused(state, command): the state has the event in it
CREATE FUNCTION refused(s shipment, c pack) RETURNS cancel LANGUAGE sql
	RETURN ROW(c.id, 'no ' || c.item || ' among ' || s.items::text)::cancel;
SELECT es_create_process_manager('shipment', max_retries => 1, categories => '{want}', from_position => NULL);
SELECT version FROM es_append('want-3', ROW('w4', '{cup,anvil,spoon}')::wanted);
SELECT es_run();
SELECT stream, version, type, reason FROM parked;
SELECT stream, version, type, data FROM history WHERE stream LIKE '%-w4' OR stream LIKE 'scratch%';
SELECT id, state FROM instance;
-- The second instance's cancel is refused in its turn, and there is no refused(shipment,
-- cancel): so the whole event has failed.  Mended, both are served.
CREATE OR REPLACE FUNCTION execute(s purchase, c cancel) RETURNS cancelled LANGUAGE sql RETURN ROW(c.id, c.reason)::cancelled;
SELECT es_replay_parked('shipment');
SELECT stream, version, type, data FROM history WHERE stream LIKE '%-w4' OR stream LIKE 'scratch%';
SELECT id, state FROM instance;

-- refused(state, command, es_failure) comes instead of it, and knows why.
DROP FUNCTION refused(shipment, pack);
CREATE FUNCTION refused(s shipment, c pack, f es_failure) RETURNS cancel[] LANGUAGE sql
	RETURN ARRAY[ROW(c.id, concat_ws(' / ', c.item, f.sqlstate, f.message, f.detail, f.hint))::cancel, ROW(c.id, 'again')::cancel];
SELECT version FROM es_append('want-4', ROW('w5', '{anvil}')::wanted);
SELECT es_run();
SELECT stream, version, type, data FROM history WHERE stream LIKE '%-w5' ORDER BY version LIMIT 2;
-- refused(state, es_failure) is for whatever has none of its own; nothing need come of it.
DROP FUNCTION refused(shipment, pack, es_failure);
CREATE TABLE refusal (n serial, why text);
CREATE FUNCTION refused(s shipment, f es_failure) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO refusal (why) VALUES (f.sqlstate || ' ' || f.message) $$;
SELECT version FROM es_append('want-5', ROW('w6', '{cup,anvil,spoon}')::wanted);
SELECT es_run();
SELECT why FROM refusal ORDER BY n;
SELECT stream, version, type, data FROM history WHERE stream LIKE '%-w6';
-- The more particular one is preferred, in whatever order they were made.
CREATE FUNCTION refused(s shipment, c pack) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO refusal (why) VALUES ('the pack of ' || c.item) $$;
SELECT version FROM es_append('want-6', ROW('w7', '{anvil}')::wanted);
SELECT es_run();
SELECT why FROM refusal ORDER BY n DESC LIMIT 1;
-- What refused() returns may be refused in its turn: then the event fails.
CREATE OR REPLACE FUNCTION execute(s purchase, c cancel) RETURNS cancelled LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = 'PU002'; END $$;
DROP FUNCTION refused(shipment, pack);
CREATE FUNCTION refused(s shipment, c pack) RETURNS cancel LANGUAGE sql RETURN ROW(c.id, 'x')::cancel;
SELECT version FROM es_append('want-7', ROW('w8', '{cup,anvil}')::wanted);
SELECT es_run();
SELECT stream, version, type, reason, attempts FROM parked;
SELECT count(*) FROM history WHERE stream LIKE '%-w8';
SELECT count(*) FROM instance WHERE id LIKE 'w8%';
SELECT es_skip_parked('shipment', position) FROM es_parked_event;
-- What might go well the next time is no refusal: a deadlock, a lock that is not to be had.
CREATE OR REPLACE FUNCTION execute(s parcel, c pack) RETURNS packed LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'in the way of somebody' USING ERRCODE = 'deadlock_detected'; END $$;
SELECT setval('refusal_n_seq', 100);
SELECT version FROM es_append('want-8', ROW('w9', '{cup}')::wanted);
SELECT es_run();
SELECT stream, version, type, reason, attempts FROM parked;
SELECT count(*) FROM refusal WHERE n > 100;
SELECT es_skip_parked('shipment', position) FROM es_parked_event;

-- Nor is it a refusal when the event takes too long: nothing is done in its place.
CREATE OR REPLACE FUNCTION execute(s parcel, c pack) RETURNS packed LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_sleep(60); END $$;
SELECT version FROM es_append('want-10', ROW('w11', '{cup}')::wanted);
SET event_sourcing.handler_timeout = '50ms';
SELECT es_run();
RESET event_sourcing.handler_timeout;
SELECT stream, version, type, reason, attempts FROM parked;
SELECT count(*) FROM refusal WHERE n > 100;
SELECT count(*) FROM history WHERE stream LIKE '%-w11';
SELECT es_skip_parked('shipment', position) FROM es_parked_event;

-- Of a command given as es_command, refused() gets just that.
CREATE FUNCTION handle_loosely(s shipment, e wanted) RETURNS es_command[] LANGUAGE sql
	RETURN ARRAY(SELECT ROW('pack', jsonb_build_object('id', e.id, 'item', i), NULL, NULL, NULL, NULL)::es_command FROM unnest(e.items) WITH ORDINALITY u(i, n) ORDER BY n);
CREATE FUNCTION refused_loosely(s shipment, c es_command, f es_failure) RETURNS es_command LANGUAGE sql
	RETURN ROW('send', jsonb_build_object('id', 'instead-of-' || (c.data ->> 'item')), jsonb_build_object('why', f.message), NULL, NULL, NULL)::es_command;
CREATE OR REPLACE FUNCTION execute(s parcel, c pack) RETURNS packed LANGUAGE plpgsql AS $$
BEGIN
	IF c.item = 'anvil' THEN
		RAISE EXCEPTION 'an anvil is too heavy' USING ERRCODE = 'PA001', DETAIL = '100 kg', HINT = 'Buy a feather.';
	END IF;
	RETURN ROW(c.id, c.item)::packed;
END $$;
SELECT es_drop_subscription('shipment');
SELECT es_create_process_manager('shipment', 'loose shipment', handle_function => 'handle_loosely', refused_function => 'refused_loosely', categories => '{want}', from_position => NULL);
SELECT version FROM es_append('want-9', ROW('w10', '{cup,anvil,spoon}')::wanted);
SELECT es_run();
SELECT * FROM parked;
SELECT e.stream, e.version, e.type, e.data, e.metadata FROM process_test.event e WHERE e.stream LIKE 'parcel-w10' OR e.stream LIKE '%anvil' ORDER BY position;
SELECT es_drop_subscription('loose shipment');

-- ---------------------------------------------------------------------------
-- Two at once
-- ---------------------------------------------------------------------------

-- Two process managers that answer each other end when one has nothing to say.
CREATE TYPE ping AS (id text, n int);
CREATE TYPE game AS (id text, n int);
CREATE TYPE hit AS (id text, n int);
CREATE FUNCTION execute(s game, c hit) RETURNS ping LANGUAGE sql RETURN ROW(c.id, c.n)::ping;
CREATE FUNCTION apply(s game, e ping) RETURNS game LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.n)::game;
SELECT es_create_aggregate('game');
CREATE TYPE player AS (hits int);
CREATE FUNCTION route_even(e ping) RETURNS es_route LANGUAGE sql RETURN CASE WHEN e.n % 2 = 0 THEN ROW('start', e.id)::es_route END;
CREATE FUNCTION route_odd(e ping) RETURNS es_route LANGUAGE sql RETURN CASE WHEN e.n % 2 = 1 THEN ROW('start', e.id)::es_route END;
CREATE FUNCTION handle(p player, e ping) RETURNS hit LANGUAGE sql RETURN CASE WHEN e.n < 9 THEN ROW(e.id, e.n + 1)::hit END;
CREATE FUNCTION apply(p player, e ping) RETURNS player LANGUAGE sql RETURN ROW(COALESCE(p.hits, 0) + 1)::player;
SELECT es_create_process_manager('player', 'even', 'route_even');
SELECT es_create_process_manager('player', 'odd', 'route_odd');
SELECT version FROM es_dispatch(ROW('g', 0)::hit);
-- each event is read by both
SELECT es_run();
SELECT es_state('game', 'g');
SELECT process_manager, id, state FROM instance;
SELECT es_drop_subscription('even'), es_drop_subscription('odd');

-- ---------------------------------------------------------------------------
-- Bad input
-- ---------------------------------------------------------------------------

SELECT es_create_process_manager(NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('int');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('4294967295');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('jsonb');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', route_function => 'nowhere');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', route_function => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', handle_function => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', apply_function => '');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', refused_function => NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', initial_state => '(1,2,3)');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', categories => '{}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', types => '{NULL}');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', from_position => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', max_retries => -1);
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary', on_error => 'weep');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_process_manager('diary');
SELECT es_create_process_manager('diary');
\echo :LAST_ERROR_SQLSTATE
SELECT es_create_handler('diary', 'route');
\echo :LAST_ERROR_SQLSTATE
SELECT es_drop_subscription('diary');

-- Functions that return what they should not: found when they are called.
CREATE TYPE odd AS (n int);
CREATE TYPE w1 AS (x int);
CREATE TYPE w2 AS (x int);
CREATE TYPE w3 AS (x int);
CREATE TYPE w4 AS (x int);
CREATE TYPE w5 AS (x int);
CREATE TYPE w6 AS (x int);
CREATE TYPE w7 AS (x int);
CREATE TYPE w8 AS (x int);
CREATE FUNCTION bad_route(e w1) RETURNS text LANGUAGE sql RETURN 'start';
CREATE FUNCTION bad_route(e w2) RETURNS SETOF record LANGUAGE sql AS $$ SELECT 'start'::text, 'x'::text $$;
CREATE FUNCTION bad_route(m es_event) RETURNS es_route LANGUAGE sql RETURN ROW('start', 'x')::es_route;
CREATE FUNCTION handle(o odd, e w3) RETURNS int LANGUAGE sql RETURN 1;
CREATE FUNCTION handle(o odd, e w4) RETURNS w4 LANGUAGE sql RETURN e;
CREATE FUNCTION handle(o odd, e w5) RETURNS es_command LANGUAGE sql RETURN ROW('nobody_knows', '{}', NULL, NULL, NULL, NULL)::es_command;
CREATE FUNCTION handle(o odd, e w8) RETURNS pack LANGUAGE sql RETURN ROW(NULL, 'a parcel without an id')::pack;
CREATE FUNCTION apply(o odd, e w6) RETURNS text LANGUAGE sql RETURN 'odd';
CREATE FUNCTION apply(o odd, e w7) RETURNS odd LANGUAGE sql RETURN NULL::odd;
SELECT es_create_process_manager('odd', route_function => 'bad_route', categories => '{wrong}', max_retries => 0);
SELECT count(*) FROM generate_series(1, 8) n, es_append('wrong-' || n, 'w' || n, '{"x": 1}'::jsonb);
SELECT es_run();
SELECT type, reason FROM parked;
SELECT * FROM instance;

-- The state type is gone: the process manager fails, and can be dropped.
DROP TYPE odd CASCADE;
SELECT version FROM es_append('wrong-9', 'w9', '{"x": 1}'::jsonb);
SELECT es_run();
SELECT last_error, parked_events FROM es_subscription_status;
SELECT es_drop_subscription('odd');
SELECT (SELECT count(*) FROM process_test.subscription) AS subscriptions, (SELECT count(*) FROM process_test.checkpoint) AS checkpoints,
	(SELECT count(*) FROM process_test.parked_event) AS parked, (SELECT count(*) FROM process_test.process) AS instances;

-- ---------------------------------------------------------------------------
-- The oracle
-- ---------------------------------------------------------------------------

-- A process manager's state is a fold over the events that were routed to it; and each
-- event that asks for a parcel has one, however the run was cut into pieces.
CREATE TYPE stock AS (n int, items text[]);
CREATE TYPE needed AS (id text, item text);
CREATE FUNCTION route(e needed) RETURNS es_route LANGUAGE sql RETURN ROW('start', e.id)::es_route;
CREATE FUNCTION handle(s stock, e needed, m es_event) RETURNS pack LANGUAGE sql RETURN ROW(m.position::text, e.item)::pack;
CREATE FUNCTION apply(s stock, e needed) RETURNS stock LANGUAGE sql RETURN ROW(COALESCE(s.n, 0) + 1, s.items || e.item)::stock;
SELECT es_create_process_manager('stock', max_retries => 0, types => '{needed}', from_position => NULL);
DO $$
BEGIN
	FOR i IN 1 .. 60 LOOP
		PERFORM es_append('need-' || i % 4, ROW(chr(97 + i % 6), CASE WHEN i % 13 = 0 THEN 'anvil' ELSE 'item ' || i END)::needed);
		IF i % 3 = 0 THEN
			PERFORM es_run(1);
		END IF;
	END LOOP;
END $$;
SELECT es_run() > 0 AS more;
SELECT state, count(*) > 0 AS some FROM parked GROUP BY state ORDER BY state;
CREATE OR REPLACE FUNCTION execute(s parcel, c pack) RETURNS packed LANGUAGE sql RETURN ROW(c.id, c.item)::packed;
SELECT es_replay_parked('stock') > 0 AS replayed;
SELECT es_run();
CREATE VIEW is_there AS
	SELECT id, (state -> 'n')::int AS n, (SELECT array_agg(i ORDER BY i) FROM jsonb_array_elements_text(state -> 'items') i) AS items FROM instance;
CREATE VIEW should_be AS
	SELECT data ->> 'id' AS id, count(*)::int AS n, array_agg(data ->> 'item' ORDER BY data ->> 'item') AS items FROM process_test.event WHERE type = 'needed' GROUP BY 1;
SELECT id::text, n, items FROM is_there EXCEPT ALL SELECT id, n, items FROM should_be;
SELECT id, n, items FROM should_be EXCEPT ALL SELECT id, n, items FROM is_there;
CREATE VIEW parcels_made AS
	SELECT e.data ->> 'item' AS item, c.position FROM process_test.event e JOIN process_test.event c ON e.causation_id = c.event_id AND c.type = 'needed' WHERE e.type = 'packed';
SELECT item, position FROM parcels_made EXCEPT ALL SELECT data ->> 'item', position FROM process_test.event WHERE type = 'needed';
SELECT data ->> 'item', position FROM process_test.event WHERE type = 'needed' EXCEPT ALL SELECT item, position FROM parcels_made;
SELECT count(*) > 0 AS some FROM should_be;

DROP SCHEMA process_app, process_test CASCADE;
