-- examples/fines.sql, as a user runs it: a real log of 34,724 events, with
-- figures that were computed without any event store.  Skipped where the log
-- is absent (ES_FINES_CSV names it).

\getenv abs_srcdir PG_ABS_SRCDIR
\cd :abs_srcdir/examples
\set ECHO queries
\i fines.sql
\set ECHO all
\if :fines_absent
\quit
\endif

-- The figures, to the cent: 10,000 fines; 4,910 payments; 210,446.90 paid; 4,354
-- with nothing due; 40 overpaid; 390,404.50 outstanding.
SELECT 10000 = count(*) AS fines, 210446.90 = sum(paid) AS paid, 4354 = count(*) FILTER (WHERE due <= 0) AS settled,
	   40 = count(*) FILTER (WHERE due < 0) AS overpaid, 390404.50 = sum(due) FILTER (WHERE due > 0) AS outstanding,
	   4910 = (SELECT events FROM total WHERE event = 'payment_received') AS payments,
	   210446.90 = (SELECT euro FROM total WHERE event = 'payment_received') AS total_paid
FROM fine_due;

-- Every line became one event, in the order of the log, on the day it names.
SELECT count(*) AS lines, count(e.position) AS events,
	   count(*) FILTER (WHERE (e.recorded_at AT TIME ZONE 'Europe/Rome')::date <> l.date) AS wrong_day,
	   count(*) FILTER (WHERE e.stream <> 'fine-' || l.fine) AS wrong_stream
FROM log l FULL JOIN fines_es.event e ON (e.metadata ->> 'seq')::int = l.seq;
SELECT count(*) AS out_of_order
FROM (SELECT position, lag(position) OVER (ORDER BY (metadata ->> 'seq')::int) AS previous FROM fines_es.event) e
WHERE position < previous;

-- The read model equals the states, both ways.
(SELECT fine, amount, expenses, paid, due FROM fine_due EXCEPT ALL SELECT id, amount, expenses, paid, due FROM state)
UNION ALL
(SELECT id, amount, expenses, paid, due FROM state EXCEPT ALL SELECT fine, amount, expenses, paid, due FROM fine_due);

-- States at a time agree with plain SQL on the log.
SELECT sum(due(s)) FILTER (WHERE due(s) > 0) = (
		SELECT sum(due) FROM (
			SELECT (array_agg(amount ORDER BY seq DESC) FILTER (WHERE amount IS NOT NULL))[1]
				   + COALESCE(sum(expense), 0) - COALESCE(sum(payment), 0) AS due
			FROM log WHERE date <= '2007-12-31' GROUP BY fine) l
		WHERE due > 0) AS same_at_the_end_of_2007
FROM (SELECT fine FROM log WHERE activity = 'Create Fine') l
CROSS JOIN LATERAL es_state(NULL::fine, l.fine, at_time => start_of('2008-01-01') - interval '1 second') s;

-- The last printed total is the sum of the payments in all fines but one.
SELECT f.fine, f.paid, p.printed
FROM fine_due f
JOIN (SELECT DISTINCT ON (stream) data ->> 'fine' AS fine, (data ->> 'printed_total')::numeric AS printed
	  FROM fines_es.event WHERE type = 'payment_received' ORDER BY stream, version DESC) p USING (fine)
WHERE f.paid <> p.printed;

SELECT severity, object, problem FROM es_lint();
DROP SCHEMA fines, fines_es CASCADE;
