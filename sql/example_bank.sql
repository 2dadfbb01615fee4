-- examples/bank.sql, as a user runs it, and what must come of it.

\getenv abs_srcdir PG_ABS_SRCDIR
\cd :abs_srcdir/examples
\set ECHO queries
\i bank.sql
\set ECHO all

-- Money is neither made nor lost: balances are what came in and did not go out.
SELECT (SELECT sum(amount) FROM balance) AS balances,
	   sum((data ->> 'amount')::numeric) FILTER (WHERE type = 'deposited')
	   - sum((data ->> 'amount')::numeric) FILTER (WHERE type = 'withdrawn') AS moved,
	   (SELECT sum(CASE kind WHEN 'deposited' THEN amount ELSE -amount END) FROM turnover) AS turnover
FROM es_read_all();

-- The read model and the state of every account agree.
SELECT b.account, b.amount, (es_state(NULL::account, b.account)).balance FROM balance b
WHERE b.amount <> (es_state(NULL::account, b.account)).balance;

-- Nothing is wrong with the model.
SELECT severity, object, problem FROM es_lint();

DROP SCHEMA bank, bank_es CASCADE;
