-- Accounts for the dispatches, new ones for each run, since a run makes their
-- streams longer; then the projection, which so gets none of these events.
-- Variables: rounds.

\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE TEMPORARY TABLE account_run AS
SELECT format('%s-%s-%s-%s', kind, clients, round, n) AS id, nevents
FROM (VALUES ('short', 10, 1000), ('long', 1000, 40)) kinds (kind, nevents, accounts),
	unnest('{1,8}'::int[]) clients, generate_series(1, :rounds) round, generate_series(0, accounts - 1) n
UNION ALL
SELECT format('%s-%s', kind, n), nevents
FROM (VALUES ('cold10', 10), ('cold1000', 1000), ('kept1000', 999)) kinds (kind, nevents),
	generate_series(0, 19) n;

SELECT count(es_append('account-' || id, ARRAY(SELECT e FROM history(id, nevents) e), 0)) FROM account_run;
INSERT INTO plain.event (stream, version, type, data)
SELECT 'account-' || id, h.ordinality, h.type, h.data
FROM account_run, history(id, nevents) WITH ORDINALITY h;

INSERT INTO balance SELECT id, 0 FROM account_run;
INSERT INTO plain.balance SELECT id, 0 FROM account_run;

SELECT es_create_projection('balance', handler => 'project_balance', targets => '{balance}');

-- these get a state snapshot
SELECT count(es_dispatch(ROW(id, 1)::deposit)) FROM account_run WHERE nevents = 999;
SELECT count(plain.deposit(id, 1)) FROM account_run WHERE nevents = 999;

VACUUM ANALYZE;
