-- Inline projections, as a project would test its own read models: they follow
-- at once, fail together with the append, and can be made anew.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

BEGIN;
CREATE EXTENSION IF NOT EXISTS pgtap;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
SELECT plan(25);

CREATE SCHEMA tap_projection;
SET LOCAL search_path = tap_projection, public;
SELECT lives_ok($$SELECT es_create_store('tap_projection_es')$$, 'a store is created');
SET LOCAL event_sourcing.store = 'tap_projection_es';

CREATE TYPE item_added   AS (sku text, quantity int);
CREATE TYPE item_removed AS (sku text, quantity int);
CREATE TYPE stock_counted AS (note text);

CREATE TABLE stock (sku text PRIMARY KEY, quantity int NOT NULL CHECK (quantity >= 0));
CREATE TABLE audit (version bigint, stream text, type text, PRIMARY KEY (stream, version));
CREATE TABLE daily (type text PRIMARY KEY, events bigint NOT NULL, appends bigint NOT NULL);

-- one overload for every event that the read model is made of
CREATE FUNCTION project_stock(e item_added) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO stock AS s VALUES (e.sku, e.quantity)
  ON CONFLICT (sku) DO UPDATE SET quantity = s.quantity + EXCLUDED.quantity
$$;
CREATE FUNCTION project_stock(e item_removed, m es_event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  UPDATE stock SET quantity = quantity - e.quantity WHERE sku = e.sku;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'stream % removes %, which was never added', m.stream, e.sku USING ERRCODE = 'PX002';
  END IF;
END $$;

-- one function for all events
CREATE FUNCTION project_audit(m es_event) RETURNS void
LANGUAGE sql AS $$ INSERT INTO audit VALUES (m.version, m.stream, m.type) $$;

SELECT lives_ok(
  $$SELECT es_create_projection('stock', handler => 'project_stock', targets => '{stock}')$$,
  'a projection with a function for every event type');
SELECT lives_ok(
  $$SELECT es_create_projection('audit', handler => 'project_audit', targets => '{audit}')$$,
  'a projection with one function for all events');
SELECT lives_ok(
  $$SELECT es_create_projection('daily', types => '{item_added,item_removed}', targets => '{daily}', query => '
      INSERT INTO daily AS d SELECT type, count(*), 1 FROM es_new_events GROUP BY type
      ON CONFLICT (type) DO UPDATE SET events = d.events + EXCLUDED.events, appends = d.appends + 1')$$,
  'a set-based projection');
SELECT throws_ok(
  $$SELECT es_create_projection('stock', handler => 'project_stock')$$,
  '42710', NULL, 'a projection is created once');

-- Given some events
SELECT lives_ok($$SELECT es_append('store-1', ROW('nut', 10)::item_added)$$, 'given: 10 nuts');
SELECT lives_ok(
  $$SELECT es_append('store-1', ARRAY[es_new_event(ROW('bolt', 5)::item_added), es_new_event(ROW('nut', 3)::item_added),
                                      es_new_event(ROW('nut', 1)::item_removed)])$$,
  'given: three events in one append');
SELECT lives_ok($$SELECT es_append('store-2', ROW('by hand')::stock_counted)$$, 'given: an event that stock does not handle');

-- The read models have them
SELECT results_eq($$SELECT sku, quantity FROM stock ORDER BY sku$$, $$VALUES ('bolt', 5), ('nut', 12)$$, 'stock');
SELECT results_eq(
  $$SELECT stream, version, type FROM audit ORDER BY stream, version$$,
  $$VALUES ('store-1', 1::bigint, 'item_added'), ('store-1', 2, 'item_added'), ('store-1', 3, 'item_added'),
           ('store-1', 4, 'item_removed'), ('store-2', 1, 'stock_counted')$$,
  'audit');
SELECT results_eq(
  $$SELECT type, events, appends FROM daily ORDER BY type$$,
  $$VALUES ('item_added', 3::bigint, 2::bigint), ('item_removed', 1, 1)$$,
  'daily ran once for an append');

-- A read model that cannot follow refuses the append
SELECT throws_ok(
  $$SELECT es_append('store-1', ROW('gear', 1)::item_removed)$$,
  'PX002', 'stream store-1 removes gear, which was never added', 'the handler''s error reaches the caller');
SELECT throws_ok(
  $$SELECT es_append('store-1', ROW('bolt', 6)::item_removed)$$,
  '23514', NULL, 'so does that of a constraint');
SELECT is(es_stream_version('store-1'), 4::bigint, 'and there is no event');
SELECT results_eq($$SELECT sku, quantity FROM stock ORDER BY sku$$, $$VALUES ('bolt', 5), ('nut', 12)$$, 'and no change');

-- Rebuilt equals maintained
SELECT is(es_verify_projection('stock'), 0::bigint, 'stock is what its events say');
UPDATE stock SET quantity = 99 WHERE sku = 'nut';
SELECT isnt(es_verify_projection('stock'), 0::bigint, 'somebody changed it by hand');
SELECT lives_ok($$SELECT es_rebuild_projection('stock'), es_rebuild_projection('audit')$$, 'rebuilt');
SELECT results_eq($$SELECT sku, quantity FROM stock ORDER BY sku$$, $$VALUES ('bolt', 5), ('nut', 12)$$, 'and right again');
SELECT is(es_verify_projection('audit'), 0::bigint, 'audit is what its events say');

-- Paused and resumed
SELECT lives_ok($$SELECT es_pause('stock')$$, 'paused');
SELECT lives_ok($$SELECT es_append('store-1', ROW('bolt', 1)::item_added)$$, 'appends go on');
SELECT results_eq($$SELECT quantity FROM stock WHERE sku = 'bolt'$$, $$VALUES (5)$$, 'the read model does not');
SELECT lives_ok($$SELECT es_resume('stock')$$, 'resumed');
SELECT results_eq($$SELECT quantity FROM stock WHERE sku = 'bolt'$$, $$VALUES (6)$$, 'it has caught up');

SELECT * FROM finish();
ROLLBACK;
