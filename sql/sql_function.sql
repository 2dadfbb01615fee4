-- Handlers in SQL that read and write tables keep their plans for the session.
-- Nobody may notice: they mean what they would if they were planned each time.
\set VERBOSITY default
\set SHOW_CONTEXT errors
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
CREATE SCHEMA box_office;
SET search_path = box_office, public;
SELECT es_create_store('box_office_es');
SET event_sourcing.store = 'box_office_es';

-- A theatre's house rules stand in a table.
CREATE TABLE house_rule (show text PRIMARY KEY, seats int NOT NULL, price numeric NOT NULL);
INSERT INTO house_rule VALUES ('hamlet', 2, 30), ('macbeth', 1, 20);

CREATE TYPE show AS (id text, sold int);
CREATE TYPE sell_seat AS (id text, guest text);
CREATE TYPE seat_sold AS (id text, guest text, price numeric);

-- A body given as text whose columns are the fields of the event ...
CREATE FUNCTION execute(s show, c sell_seat) RETURNS seat_sold LANGUAGE sql AS $$
	SELECT c.id, c.guest, price FROM house_rule
	WHERE show = c.id AND coalesce(s.sold, 0) < seats
$$;
CREATE FUNCTION apply(s show, e seat_sold) RETURNS show
LANGUAGE sql IMMUTABLE RETURN ROW(e.id, coalesce(s.sold, 0) + 1)::show;
SELECT es_create_aggregate('show');

-- ... a projection of two statements, of which the second sees the first ...
CREATE TABLE takings (show text PRIMARY KEY, seats int NOT NULL, amount numeric NOT NULL);
CREATE TABLE takings_log (show text, seats int, amount numeric);
CREATE FUNCTION follow(e seat_sold) RETURNS void LANGUAGE sql AS $$
	INSERT INTO takings AS t VALUES ($1.id, 1, e.price)
	ON CONFLICT (show) DO UPDATE SET seats = t.seats + 1, amount = t.amount + EXCLUDED.amount;
	INSERT INTO takings_log SELECT t.* FROM takings t WHERE t.show = e.id;
$$;
SELECT es_create_projection('takings', 'follow', targets => '{takings,takings_log}');

-- ... and one that was parsed when it was created.
CREATE TABLE guest (name text PRIMARY KEY, visits int NOT NULL);
CREATE FUNCTION follow_guest(e seat_sold) RETURNS guest LANGUAGE sql
BEGIN ATOMIC
	INSERT INTO guest AS g VALUES (e.guest, 1) ON CONFLICT (name) DO UPDATE SET visits = g.visits + 1
	RETURNING g.*;
END;
SELECT es_create_projection('guests', 'follow_guest', targets => '{guest}');

SELECT version FROM es_dispatch(ROW('hamlet', 'Ada')::sell_seat);
SELECT version FROM es_dispatch(ROW('hamlet', 'Bob')::sell_seat);
-- sold out: no row, no event
SELECT version, events FROM es_dispatch(ROW('hamlet', 'Cyd')::sell_seat);
SELECT version FROM es_dispatch(ROW('macbeth', 'Ada')::sell_seat);
TABLE takings;
TABLE takings_log;
TABLE guest;

-- The rules change, and so does the table that they stand in.
UPDATE house_rule SET seats = 10;
ALTER TABLE house_rule ADD COLUMN remark text;
SELECT version FROM es_dispatch(ROW('hamlet', 'Cyd')::sell_seat);
ALTER TABLE house_rule ALTER COLUMN seats TYPE bigint;
SELECT version FROM es_dispatch(ROW('hamlet', 'Dan')::sell_seat);
-- a price in whole pounds: the column's type is not the field's any more
ALTER TABLE house_rule ALTER COLUMN price TYPE int;
SELECT version, events[1].data ->> 'price' AS price FROM es_dispatch(ROW('hamlet', 'Eve')::sell_seat);
ALTER TABLE house_rule ALTER COLUMN price TYPE numeric;

-- Without the table the body given as text fails; with another one it goes on.
ALTER TABLE house_rule RENAME TO old_house_rule;
SELECT version FROM es_dispatch(ROW('hamlet', 'Fay')::sell_seat);
CREATE VIEW house_rule AS SELECT show, 20 AS seats, price * 2 AS price FROM old_house_rule;
SELECT version, events[1].data ->> 'price' AS price FROM es_dispatch(ROW('hamlet', 'Fay')::sell_seat);

-- The parsed body means the table that it meant, whatever it is called now.
ALTER TABLE guest RENAME TO visitor;
ALTER TABLE visitor RENAME COLUMN visits TO evenings;
CREATE TABLE guest (name text PRIMARY KEY, visits int NOT NULL);
SELECT version FROM es_dispatch(ROW('hamlet', 'Ada')::sell_seat);
SELECT * FROM visitor WHERE name = 'Ada';
SELECT count(*) FROM guest;
DROP TABLE guest;

-- A temporary table of the same name, and a caller's search_path, are nothing to it.
CREATE TEMPORARY TABLE takings (show text PRIMARY KEY, seats int, amount numeric);
SET search_path = public, pg_temp;
SELECT version FROM es_dispatch(ROW('hamlet', 'Ada')::box_office.sell_seat);
SET search_path = box_office, public;
SELECT count(*) FROM pg_temp.takings;
DROP TABLE pg_temp.takings;
SELECT * FROM takings WHERE show = 'hamlet';

-- An error in a statement says where it is, and what was done is undone.
ALTER TABLE takings_log ADD CONSTRAINT cheap CHECK (amount < 380);
BEGIN;
SELECT version FROM es_dispatch(ROW('macbeth', 'Gus')::sell_seat);
SAVEPOINT before;
SELECT version FROM es_dispatch(ROW('hamlet', 'Gus')::sell_seat);
ROLLBACK TO before;
SELECT version FROM es_dispatch(ROW('macbeth', 'Hal')::sell_seat);
COMMIT;
SELECT * FROM takings ORDER BY show;
ALTER TABLE takings_log DROP CONSTRAINT cheap;

-- A function that says it only reads must not write (what the context says
-- differs between servers).
\set SHOW_CONTEXT never
ALTER FUNCTION follow(seat_sold) STABLE;
SELECT version FROM es_dispatch(ROW('macbeth', 'Ida')::sell_seat);
ALTER FUNCTION follow(seat_sold) VOLATILE;
\set SHOW_CONTEXT errors

-- Who runs it needs the privileges that its statements need.
CREATE ROLE regress_usher;
GRANT USAGE ON SCHEMA box_office, box_office_es TO regress_usher;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA box_office_es TO regress_usher;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA box_office_es TO regress_usher;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO regress_usher;
GRANT SELECT ON house_rule TO regress_usher;
GRANT SELECT, INSERT, UPDATE ON takings, takings_log TO regress_usher;
SELECT version FROM es_dispatch(ROW('macbeth', 'Ida')::sell_seat);
SET ROLE regress_usher;
SELECT version FROM es_dispatch(ROW('macbeth', 'Joe')::sell_seat);
RESET ROLE;
GRANT SELECT, INSERT, UPDATE ON visitor TO regress_usher;
SET ROLE regress_usher;
SELECT version FROM es_dispatch(ROW('macbeth', 'Joe')::sell_seat);
RESET ROLE;
REVOKE EXECUTE ON FUNCTION follow(seat_sold) FROM PUBLIC;
SET ROLE regress_usher;
SELECT version FROM es_dispatch(ROW('macbeth', 'Kim')::sell_seat);
RESET ROLE;
GRANT EXECUTE ON FUNCTION follow(seat_sold) TO PUBLIC;

-- A new body counts from the next event on.
CREATE OR REPLACE FUNCTION follow(e seat_sold) RETURNS void LANGUAGE sql AS $$
	INSERT INTO takings AS t VALUES ($1.id, 1, e.price)
	ON CONFLICT (show) DO UPDATE SET seats = t.seats + 1, amount = t.amount + EXCLUDED.amount;
$$;
SELECT version FROM es_dispatch(ROW('macbeth', 'Kim')::sell_seat);

-- A handler that dispatches to the aggregate that it came from runs inside itself.
CREATE TYPE sell_group AS (id text, guests text[]);
CREATE FUNCTION execute(s show, c sell_group) RETURNS void LANGUAGE sql AS $$
	SELECT count(*) FROM unnest(c.guests) g, es_dispatch(ROW('macbeth', g)::sell_seat);
	SELECT NULL WHERE NOT EXISTS (SELECT FROM house_rule);
$$;
SELECT version FROM es_dispatch(ROW('group', '{Lea,Max}')::sell_group);

-- The oracle: the log itself.
SELECT show, seats, amount FROM takings
EXCEPT
SELECT data ->> 'id', count(*), sum((data ->> 'price')::numeric) FROM box_office_es.event GROUP BY 1;
SELECT name, evenings FROM visitor
EXCEPT
SELECT data ->> 'guest', count(*) FROM box_office_es.event GROUP BY 1;
SELECT stream, (es_state(NULL::show, split_part(stream, '-', 2))).sold = count(*) AS agrees
FROM box_office_es.event GROUP BY stream ORDER BY stream;

DROP SCHEMA box_office, box_office_es CASCADE;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA public FROM regress_usher;
DROP ROLE regress_usher;
