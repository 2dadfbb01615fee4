-- Fines: a real log of 10,000 road-traffic fines, replayed as commands.
--
-- The log is a CSV file with the columns seq, fine, activity, date, amount,
-- expense, payment, total_payment, article, vehicle_class, points, dismissal and
-- notification_type, from "Road Traffic Fine Management Process" (M. de Leoni and
-- F. Mannhardt, 4TU.ResearchData, doi 10.4121/uuid:270fd440-1057-4fb9-89a9-b699b47990f5).
-- Say where it is, and run this with psql in any database that can have the extension:
--     ES_FINES_CSV=traffic_fines.csv psql -f fines.sql
-- It makes two schemas, fines and fines_es. To be rid of it:
--     DROP SCHEMA fines, fines_es CASCADE;

\set fines_csv ''
\getenv fines_csv ES_FINES_CSV
\set echo :ECHO
\set ECHO none
SELECT :'fines_csv' = '' AS fines_absent \gset
\set ECHO :echo
\if :fines_absent
\echo 'fines.sql: skipped, because ES_FINES_CSV does not name the log of fines'
\quit
\endif

\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE EXTENSION IF NOT EXISTS event_sourcing;

\echo
\echo '== 1. State, commands, events'

SELECT es_create_store('fines_es');
SET event_sourcing.store = 'fines_es';

CREATE SCHEMA fines;
SET search_path = fines, public;

CREATE TYPE fine AS (
  id        text,
  amount    numeric,    -- of the fine, with the penalty
  expenses  numeric,    -- postage
  paid      numeric,
  steps     text[]      -- what has been done, but for payments
);

-- Commands have the fields of the log, its names of activities are theirs.
CREATE TYPE create_fine AS (fine text, date date, amount numeric, article int, vehicle_class text, points int, dismissal text);
CREATE TYPE send_fine AS (fine text, date date, expense numeric);
CREATE TYPE insert_fine_notification AS (fine text, date date, notification_type text);
CREATE TYPE add_penalty AS (fine text, date date, amount numeric);
CREATE TYPE payment AS (fine text, date date, payment numeric, total_payment numeric);
CREATE TYPE send_for_credit_collection AS (fine text, date date);
CREATE TYPE insert_date_appeal_to_prefecture AS (fine text, date date);
CREATE TYPE send_appeal_to_prefecture AS (fine text, date date, dismissal text);
CREATE TYPE receive_result_appeal_from_prefecture AS (fine text, date date);
CREATE TYPE notify_result_appeal_to_offender AS (fine text, date date);
CREATE TYPE appeal_to_judge AS (fine text, date date, dismissal text);

-- Events do not repeat the date: it is the time at which they are recorded.
CREATE TYPE fine_created AS (fine text, amount numeric, article int, vehicle_class text, points int, dismissal text);
CREATE TYPE fine_sent AS (fine text, expense numeric);
CREATE TYPE notification_inserted AS (fine text, notification_type text);
CREATE TYPE penalty_added AS (fine text, new_amount numeric);
CREATE TYPE payment_received AS (fine text, amount numeric, printed_total numeric);
CREATE TYPE sent_for_credit_collection AS (fine text, due numeric);
CREATE TYPE appeal_date_inserted AS (fine text);
CREATE TYPE appeal_sent_to_prefecture AS (fine text, dismissal text);
CREATE TYPE appeal_result_received AS (fine text);
CREATE TYPE appeal_result_notified AS (fine text);
CREATE TYPE appealed_to_judge AS (fine text, dismissal text);

\echo
\echo '== 2. Decisions'

-- Days of the police are days in Italy.
CREATE FUNCTION start_of(day date) RETURNS timestamptz
LANGUAGE sql IMMUTABLE RETURN day::timestamp AT TIME ZONE 'Europe/Rome';

CREATE FUNCTION due(s fine) RETURNS numeric
LANGUAGE sql IMMUTABLE RETURN s.amount + s.expenses - s.paid;

-- Every step but a payment is taken once, and some need another one before.
CREATE FUNCTION check_step(s fine, id text, step text, needs text DEFAULT NULL) RETURNS void
LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  IF s.id IS NULL THEN
    RAISE EXCEPTION 'there is no fine %', id USING ERRCODE = 'no_data_found';
  ELSIF step = ANY (s.steps) THEN
    RAISE EXCEPTION 'fine %: "%" has been done', id, step USING ERRCODE = 'unique_violation';
  ELSIF needs IS NOT NULL AND needs <> ALL (s.steps) THEN
    RAISE EXCEPTION 'fine %: "%" comes before "%"', id, needs, step
      USING ERRCODE = 'object_not_in_prerequisite_state';
  END IF;
END $$;

CREATE FUNCTION execute(s fine, c create_fine) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NOT NULL THEN
    RAISE EXCEPTION 'fine % exists', s.id USING ERRCODE = 'unique_violation';
  END IF;
  RETURN es_new_event(ROW(c.fine, c.amount, c.article, c.vehicle_class, c.points, c.dismissal)::fine_created,
                      recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c send_fine) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'sent');
  RETURN es_new_event(ROW(c.fine, c.expense)::fine_sent, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c insert_fine_notification) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'notified', needs => 'sent');
  RETURN es_new_event(ROW(c.fine, c.notification_type)::notification_inserted, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c add_penalty) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'penalty', needs => 'notified');
  RETURN es_new_event(ROW(c.fine, c.amount)::penalty_added, recorded_at => start_of(c.date));
END $$;

-- Payments come as they come: several of them, and too much as well.
CREATE FUNCTION execute(s fine, c payment) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'payment');
  IF c.payment IS NULL OR c.payment <= 0 THEN
    RAISE EXCEPTION 'fine %: % is no payment', c.fine, COALESCE(c.payment::text, 'NULL')
      USING ERRCODE = 'invalid_parameter_value';
  END IF;
  RETURN es_new_event(ROW(c.fine, c.payment, c.total_payment)::payment_received, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c send_for_credit_collection) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'collection', needs => 'penalty');
  IF due(s) <= 0 THEN
    RAISE EXCEPTION 'fine %: nothing is due', c.fine USING ERRCODE = 'check_violation';
  END IF;
  RETURN es_new_event(ROW(c.fine, due(s))::sent_for_credit_collection, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c insert_date_appeal_to_prefecture) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'appeal dated');
  RETURN es_new_event(ROW(c.fine)::appeal_date_inserted, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c send_appeal_to_prefecture) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'appeal sent', needs => 'appeal dated');
  RETURN es_new_event(ROW(c.fine, c.dismissal)::appeal_sent_to_prefecture, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c receive_result_appeal_from_prefecture) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'appeal decided');
  RETURN es_new_event(ROW(c.fine)::appeal_result_received, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c notify_result_appeal_to_offender) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'appeal answered');
  RETURN es_new_event(ROW(c.fine)::appeal_result_notified, recorded_at => start_of(c.date));
END $$;

CREATE FUNCTION execute(s fine, c appeal_to_judge) RETURNS es_new_event
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM check_step(s, c.fine, 'judge', needs => 'notified');
  RETURN es_new_event(ROW(c.fine, c.dismissal)::appealed_to_judge, recorded_at => start_of(c.date));
END $$;

\echo
\echo '== 3. Evolution'

CREATE FUNCTION apply(s fine, e fine_created) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(e.fine, e.amount, 0, 0, '{}')::fine;

CREATE FUNCTION apply(s fine, e fine_sent) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses + e.expense, s.paid, array_append(s.steps, 'sent'))::fine;

CREATE FUNCTION apply(s fine, e notification_inserted) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid, array_append(s.steps, 'notified'))::fine;

-- The penalty's amount is the new total, not an increment.
CREATE FUNCTION apply(s fine, e penalty_added) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, e.new_amount, s.expenses, s.paid, array_append(s.steps, 'penalty'))::fine;

CREATE FUNCTION apply(s fine, e payment_received) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid + e.amount, s.steps)::fine;

CREATE FUNCTION apply(s fine, e sent_for_credit_collection) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid, array_append(s.steps, 'collection'))::fine;

CREATE FUNCTION apply(s fine, e appeal_date_inserted) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid, array_append(s.steps, 'appeal dated'))::fine;

CREATE FUNCTION apply(s fine, e appeal_sent_to_prefecture) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid, array_append(s.steps, 'appeal sent'))::fine;

CREATE FUNCTION apply(s fine, e appeal_result_received) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid, array_append(s.steps, 'appeal decided'))::fine;

CREATE FUNCTION apply(s fine, e appeal_result_notified) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid, array_append(s.steps, 'appeal answered'))::fine;

CREATE FUNCTION apply(s fine, e appealed_to_judge) RETURNS fine
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.amount, s.expenses, s.paid, array_append(s.steps, 'judge'))::fine;

SELECT es_create_aggregate('fine', identity => 'fine');

\echo
\echo '== 4. Read models: what is due for every fine, and totals over all'

CREATE TABLE fine_due (
  fine      text PRIMARY KEY,
  amount    numeric NOT NULL,
  expenses  numeric NOT NULL DEFAULT 0,
  paid      numeric NOT NULL DEFAULT 0,
  due       numeric NOT NULL GENERATED ALWAYS AS (amount + expenses - paid) STORED
);

CREATE FUNCTION project_due(e fine_created) RETURNS void
LANGUAGE sql AS $$ INSERT INTO fine_due (fine, amount) VALUES (e.fine, e.amount) $$;

CREATE FUNCTION project_due(e fine_sent) RETURNS void
LANGUAGE sql AS $$ UPDATE fine_due f SET expenses = f.expenses + e.expense WHERE f.fine = e.fine $$;

CREATE FUNCTION project_due(e penalty_added) RETURNS void
LANGUAGE sql AS $$ UPDATE fine_due f SET amount = e.new_amount WHERE f.fine = e.fine $$;

CREATE FUNCTION project_due(e payment_received) RETURNS void
LANGUAGE sql AS $$ UPDATE fine_due f SET paid = f.paid + e.amount WHERE f.fine = e.fine $$;

SELECT es_create_projection('fine_due', handler => 'project_due', targets => '{fine_due}');

CREATE TABLE total (event text PRIMARY KEY, events bigint NOT NULL, euro numeric NOT NULL);

SELECT es_create_projection('total', targets => '{total}', query => $$
  INSERT INTO total AS t
  SELECT n.type, count(*), sum(COALESCE(n.data ->> 'amount', n.data ->> 'expense', '0')::numeric)
  FROM es_new_events n
  GROUP BY n.type
  ON CONFLICT (event) DO UPDATE SET events = t.events + EXCLUDED.events, euro = t.euro + EXCLUDED.euro
$$);

\echo
\echo '== 5. The log'

CREATE TABLE log (
  seq int PRIMARY KEY, fine text, activity text, date date, amount numeric, expense numeric,
  payment numeric, total_payment numeric, article int, vehicle_class text, points int,
  dismissal text, notification_type text
);

-- \copy reads the file on this side, but takes no variables: so it is put together first.
\set load '\\copy log FROM ' :'fines_csv' ' WITH (FORMAT csv, HEADER)'
:load

SELECT activity, count(*) FROM log GROUP BY activity ORDER BY activity COLLATE "C";

\echo
\echo '== 6. Every line of it is a command, in the order in which it happened'

SELECT count(*) AS commands
FROM (SELECT seq, lower(replace(activity, ' ', '_')) AS command,
             jsonb_strip_nulls(to_jsonb(l) - 'seq' - 'activity') AS data
      FROM log l
      ORDER BY seq) l
CROSS JOIN LATERAL es_dispatch(l.command, l.data, metadata => jsonb_build_object('seq', l.seq));

\echo
\echo '== 7. The figures, from the read model'

SELECT count(*) AS fines, sum(paid) AS paid, count(*) FILTER (WHERE due <= 0) AS settled,
       count(*) FILTER (WHERE due < 0) AS overpaid, sum(due) FILTER (WHERE due > 0) AS outstanding
FROM fine_due;

SELECT * FROM total ORDER BY event COLLATE "C";

\echo
\echo '== 8. The same, from the events of every fine'

CREATE VIEW state AS
  SELECT s.*, due(s) AS due
  FROM log l CROSS JOIN LATERAL es_state(NULL::fine, l.fine) s
  WHERE l.activity = 'Create Fine';

SELECT count(*) AS fines, sum(paid) AS paid, count(*) FILTER (WHERE due <= 0) AS settled,
       count(*) FILTER (WHERE due < 0) AS overpaid, sum(due) FILTER (WHERE due > 0) AS outstanding
FROM state;

\echo
\echo '== 9. The same, from the read model made anew'

SELECT es_rebuild_projection('fine_due');
SELECT es_rebuild_projection('total');

SELECT count(*) AS fines, sum(paid) AS paid, count(*) FILTER (WHERE due <= 0) AS settled,
       count(*) FILTER (WHERE due < 0) AS overpaid, sum(due) FILTER (WHERE due > 0) AS outstanding
FROM fine_due;

SELECT es_verify_projection('fine_due') AS fine_due_differs, es_verify_projection('total') AS total_differs;

\echo
\echo '== 10. History: what was outstanding at the end of each year, as far as the log goes'

SELECT year, count(s.id) AS fines, sum(due(s)) FILTER (WHERE due(s) > 0) AS outstanding
FROM generate_series(2006, 2011) AS year
CROSS JOIN (SELECT fine FROM log WHERE activity = 'Create Fine') l
CROSS JOIN LATERAL es_state(NULL::fine, l.fine, at_time => start_of(make_date(year + 1, 1, 1)) - interval '1 second') s
GROUP BY year ORDER BY year;

\echo
\echo '== 11. What one fine went through'

SELECT h.version, (h.recorded_at AT TIME ZONE 'Europe/Rome')::date AS date, h.type,
       h.state -> 'amount' AS amount, h.state -> 'expenses' AS expenses, h.state -> 'paid' AS paid
FROM es_history('fine', 'A22233') h;

\echo
\echo '== 12. Refused: what the law does not allow'

\set ON_ERROR_STOP off
SELECT version FROM es_dispatch(ROW('A2127', '2013-01-01', 70)::add_penalty);
SELECT version FROM es_dispatch(ROW('A22233', '2013-01-01')::send_for_credit_collection);
\set ON_ERROR_STOP on
