-- What sqlsmith shall see.  It asks an unqualified pg_proc what functions there
-- are, and would take ours one time in a hundred; this table shows ours, with the
-- types of the application in place of polymorphic arguments, functions that
-- return sets as if they did not, and one of fifteen of PostgreSQL's.  It does
-- not quote the names of schemas.

ALTER SCHEMA "Odd ""store""" RENAME TO odd_store;

CREATE SCHEMA smith;
CREATE TABLE smith.pg_proc AS
	WITH candidate AS (
		SELECT p.*, n.nspname IN ('app', 'public') AS ours
		FROM pg_catalog.pg_proc p
		JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
			AND (n.nspname IN ('app', 'public') OR p.oid::bigint % 15 = 0 AND NOT p.proretset
				 AND NOT EXISTS (SELECT FROM pg_type t WHERE t.typtype = 'p' AND t.oid = ANY (p.proargtypes || p.prorettype)))
	), signature AS (
		SELECT c.pronamespace, c.proname, c.prorettype, c.proargtypes::oid[]
		FROM candidate c
		WHERE NOT c.ours OR NOT 'anyelement'::regtype = ANY (c.proargtypes::oid[])
		UNION ALL
		SELECT c.pronamespace, c.proname, CASE c.prorettype WHEN 'anyelement'::regtype THEN t.oid ELSE c.prorettype END,
			   string_to_array(replace(c.proargtypes::text, 'anyelement'::regtype::oid::text, t.oid::text), ' ')::oid[]
		FROM candidate c
		JOIN pg_type t ON t.typtype = 'c' AND t.typnamespace = 'app'::regnamespace
		WHERE c.ours AND 'anyelement'::regtype = ANY (c.proargtypes::oid[])
	)
	SELECT row_number() OVER (ORDER BY proname, proargtypes::text)::oid AS oid, pronamespace, proname, prorettype, proargtypes,
		   false AS proretset, 'f'::"char" AS prokind, false AS proisagg, false AS proiswindow
	FROM signature;
CREATE UNIQUE INDEX ON smith.pg_proc (oid);
GRANT USAGE ON SCHEMA smith TO PUBLIC;
GRANT SELECT ON smith.pg_proc TO PUBLIC;
ALTER ROLE fuzz_owner SET search_path = smith, pg_catalog, app, public;

-- Sets are read through views.
SET SESSION AUTHORIZATION fuzz_owner;
CREATE VIEW app.all_events AS SELECT * FROM public.es_read_all(0, NULL);
CREATE VIEW app.stream AS SELECT * FROM public.es_read_stream('wallet-1');
CREATE VIEW app.history AS SELECT * FROM public.es_history('wallet', '1');
CREATE VIEW app.states AS SELECT i::text AS id, public.es_state(NULL::app.wallet, i::text) AS wallet, public.es_state('kept', i::text) AS kept
	FROM generate_series(0, 6) i;
CREATE VIEW app.fetched AS SELECT * FROM public.es_fetch('pull', 'smith', 5);
CREATE VIEW app.lint AS SELECT * FROM public.es_lint();
