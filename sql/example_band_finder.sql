-- examples/band_finder.sql, as a user runs it, and what must come of it.

\getenv abs_srcdir PG_ABS_SRCDIR
\cd :abs_srcdir/examples
\set ECHO queries
\i band_finder.sql
\set ECHO all

-- The read model is what its events add up to, by another way than its handler.
SELECT l.name, l.instrument_type
FROM es_read_all(types => '{instrument_looked_for}') e, jsonb_to_record(e.data) AS l(name text, instrument_type text)
WHERE NOT EXISTS (SELECT FROM es_read_all(types => '{band_joined}') j
				  WHERE j.data ->> 'band' = l.name AND j.data ->> 'instrument_type' = l.instrument_type
					AND j.position > e.position)
EXCEPT ALL
SELECT band, instrument_type FROM vacancy;

-- A refused command left nothing: the commands that were accepted made these.
SELECT count(*) AS events, count(DISTINCT stream) AS streams FROM es_read_all();

-- State from history, from the fold, and from JSON agree.
SELECT es_state('instrumentalist', 'ada') = to_json(es_state(NULL::instrumentalist, 'ada'))::jsonb AS same,
	   es_state('instrumentalist', 'ada') = (SELECT state FROM es_history('instrumentalist', 'ada')
											 ORDER BY version DESC LIMIT 1) AS same_too;

DROP SCHEMA band_finder, band_finder_es CASCADE;
