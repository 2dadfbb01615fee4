-- An apply function in SQL that is inlined works on the fields of state and
-- event, in PL/pgSQL on whole records: the state must be the same after every
-- event, whichever way each of its events is applied.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
CREATE SCHEMA fold_app;
SET search_path = fold_app, public;
SELECT es_create_store('fold_test');
SET event_sourcing.store = 'fold_test';

-- A playlist: fields by value and by reference, arrays that grow, a nested
-- record, fields that change places, and one column that was dropped.
CREATE TYPE track AS (title text, seconds int);
CREATE TYPE playlist AS (id text, gone int, tracks text[], longest track, left_side text, right_side text,
						 plays bigint, rating numeric, note jsonb, moods int[], tag uuid);
CREATE TYPE track_added AS (id text, title text, seconds int);
CREATE TYPE sides_swapped AS (id text);
CREATE TYPE rated AS (id text, stars numeric, note jsonb);
CREATE TYPE mood_set AS (id text, mood int, at timestamptz);
CREATE TYPE cleared AS (id text, what text);
CREATE TYPE renamed AS (id text, name text);

-- The same state under four names: applied by fields, by PL/pgSQL, by turns, and
-- as the reference by SQL that cannot be inlined.
CREATE TYPE playlist_sql AS (id text, gone int, tracks text[], longest track, left_side text, right_side text,
							 plays bigint, rating numeric, note jsonb, moods int[], tag uuid);
CREATE TYPE playlist_plpgsql AS (id text, gone int, tracks text[], longest track, left_side text, right_side text,
								 plays bigint, rating numeric, note jsonb, moods int[], tag uuid);
CREATE TYPE playlist_mixed AS (id text, gone int, tracks text[], longest track, left_side text, right_side text,
							   plays bigint, rating numeric, note jsonb, moods int[], tag uuid);
DO $$
BEGIN
	FOR i IN 1..4 LOOP
		EXECUTE format('ALTER TYPE %s DROP ATTRIBUTE gone',
					   (ARRAY['playlist', 'playlist_sql', 'playlist_plpgsql', 'playlist_mixed'])[i]);
	END LOOP;
END $$;

-- What each event does, as one expression per event.
CREATE TABLE rule (event text PRIMARY KEY, fields text);
INSERT INTO rule VALUES
	('track_added', $$ e.id, array_append(s.tracks, e.title),
		CASE WHEN e.seconds > coalesce((s.longest).seconds, 0) THEN ROW(e.title, e.seconds)::track ELSE s.longest END,
		e.title, s.left_side, coalesce(s.plays, 0) + e.seconds, s.rating, s.note, s.moods, s.tag $$),
	('sides_swapped', $$ s.id, s.tracks, s.longest, s.right_side, s.left_side, s.plays, s.rating, s.note, s.moods, s.tag $$),
	('rated', $$ s.id, s.tracks, s.longest, s.left_side, s.right_side, s.plays,
		coalesce(s.rating, 0) * 0.5 + e.stars, coalesce(s.note, '{}') || e.note, s.moods, s.tag $$),
	('mood_set', $$ s.id, s.tracks || s.tracks[1:1], s.longest, s.tracks[array_upper(s.tracks, 1)], s.right_side, s.plays, s.rating, s.note,
		CASE WHEN e.mood % 2 = 0 THEN e.mood || s.moods ELSE s.moods END,
		md5(e.at::text)::uuid $$),
	('cleared', $$ s.id, CASE e.what WHEN 'tracks' THEN NULL WHEN 'all' THEN '{}' ELSE s.tracks END,
		CASE WHEN e.what = 'all' THEN NULL ELSE s.longest END, s.left_side, NULL, s.plays, NULL, s.note,
		CASE WHEN e.what = 'moods' THEN NULL ELSE s.moods END, NULL $$),
	('renamed', $$ coalesce(e.name, s.id), s.tracks, s.longest, repeat(e.name, 3000), s.right_side, s.plays, s.rating, s.note, s.moods, s.tag $$);
DO $$
DECLARE
	r rule;
	as_sql constant text := 'CREATE FUNCTION apply(s %1$s, e %2$s) RETURNS %1$s LANGUAGE sql STABLE AS ''SELECT ROW(%3$s)::%1$s''';
	as_plpgsql constant text := 'CREATE FUNCTION apply(s %1$s, e %2$s) RETURNS %1$s LANGUAGE plpgsql AS ''BEGIN RETURN ROW(%3$s)::%1$s; END''';
	as_whole constant text := 'CREATE FUNCTION apply(s %1$s, e %2$s) RETURNS %1$s LANGUAGE sql STABLE AS ''SELECT ROW(%3$s)::%1$s FROM (SELECT 1 OFFSET 0) one''';
BEGIN
	FOR r IN SELECT event, replace(fields, '''', '''''') FROM rule LOOP
		EXECUTE format(as_whole, 'playlist', r.event, r.fields);
		EXECUTE format(as_sql, 'playlist_sql', r.event, r.fields);
		EXECUTE format(as_plpgsql, 'playlist_plpgsql', r.event, r.fields);
		EXECUTE format(CASE WHEN r.event IN ('rated', 'cleared') THEN as_plpgsql
							WHEN r.event = 'mood_set' THEN as_whole ELSE as_sql END,
					   'playlist_mixed', r.event, r.fields);
	END LOOP;
END $$;
SELECT es_create_aggregate(state::regtype, stream_prefix => 'playlist-', snapshot_every => 0)
FROM unnest('{playlist,playlist_sql,playlist_plpgsql,playlist_mixed}'::text[]) state;

-- Twenty streams of 60 events each, in every order.
SELECT setseed(0.42);
SELECT count(es_append('playlist-' || n, ARRAY(
	SELECT CASE (random() * 7)::int
		WHEN 1 THEN es_new_event('sides_swapped', jsonb_build_object('id', n))
		WHEN 2 THEN es_new_event('rated', jsonb_build_object('id', n, 'stars', round(random()::numeric * 5, 2), 'note', jsonb_build_object('by', i, 'x', ARRAY[i, NULL])))
		WHEN 3 THEN es_new_event('mood_set', jsonb_build_object('id', n, 'mood', i, 'at', '2026-01-01T00:00:00Z'))
		WHEN 4 THEN es_new_event('cleared', jsonb_build_object('id', n, 'what', (ARRAY['tracks', 'all', 'moods', NULL])[1 + (random() * 3)::int]))
		WHEN 5 THEN es_new_event('renamed', CASE WHEN i % 2 = 0 THEN jsonb_build_object('name', 'list ' || i) ELSE '{}' END)
		ELSE es_new_event('track_added', jsonb_build_object('id', n::text, 'title', repeat('la ', i), 'seconds', (random() * 400)::int)) END
	FROM generate_series(1, 60) i)))
FROM generate_series(1, 20) n;

-- After every event of every stream: the same.
SELECT count(*) AS events, count(*) FILTER (WHERE f.state <> v.state) AS by_fields,
	count(*) FILTER (WHERE p.state <> v.state) AS by_plpgsql, count(*) FILTER (WHERE m.state <> v.state) AS by_turns
FROM generate_series(1, 20) n,
	es_history('playlist', n::text) v
	JOIN LATERAL es_history('playlist_sql', n::text) f USING (version)
	JOIN LATERAL es_history('playlist_plpgsql', n::text) p USING (version)
	JOIN LATERAL es_history('playlist_mixed', n::text) m USING (version);

-- At the end, from the start and on top of a kept state, typed and as JSON.
SELECT count(*) FILTER (WHERE es_state(NULL::playlist, n::text)::text = es_state(NULL::playlist_sql, n::text)::text
		AND es_state(NULL::playlist, n::text)::text = es_state(NULL::playlist_plpgsql, n::text)::text
		AND es_state(NULL::playlist, n::text)::text = es_state(NULL::playlist_mixed, n::text)::text
		AND to_json(es_state(NULL::playlist, n::text))::jsonb = es_state('playlist_mixed', n::text)) AS agree
FROM generate_series(1, 20) n;
SELECT count(es_append('playlist-' || n, ARRAY[es_new_event('track_added', '{"title": "encore", "seconds": 500}'),
	es_new_event('rated', '{"stars": 5, "note": {}}'), es_new_event('track_added', '{"title": "last", "seconds": 1}')]))
FROM generate_series(1, 20) n;
SELECT count(*) FILTER (WHERE kept = es_state('playlist', n::text)) AS agree
FROM generate_series(1, 20) n, es_state('playlist_sql', n::text) kept;
SET event_sourcing.cache_size = 0;
SELECT count(*) FILTER (WHERE folded = es_state('playlist_sql', n::text) AND folded = es_state('playlist_mixed', n::text)) AS agree
FROM generate_series(1, 20) n, es_state('playlist', n::text) folded;
RESET event_sourcing.cache_size;

-- An array that grows with every event is extended, not copied: 20,000 elements
-- of 100 bytes, where each copy on the way would add up to 20 GB.
CREATE TYPE diary AS (lines text[], words bigint);
CREATE TYPE line_written AS (line text);
CREATE FUNCTION apply(s diary, e line_written) RETURNS diary
LANGUAGE sql IMMUTABLE RETURN ROW(array_append(s.lines, e.line), coalesce(s.words, 0) + 1)::diary;
SELECT es_create_aggregate('diary', snapshot_every => 0);
SELECT (es_append('diary-1', array_agg(es_new_event('line_written', jsonb_build_object('line', rpad(i::text, 100)))))).version
FROM generate_series(1, 20000) i;
SELECT cardinality(lines), words, rtrim(lines[1]) AS first, rtrim(lines[20000]) AS last FROM es_state(NULL::diary, '1');

-- A function may keep the array that it is given, give it back, or give it away.
CREATE TYPE shelf AS (a text[], b text[], n int);
CREATE TYPE shelf_value AS (a text[], b text[], n int);
CREATE TYPE pushed AS (x text);
CREATE TYPE moved AS (x text);
CREATE TYPE drained AS (x text);
CREATE TYPE doubled AS (x text);
CREATE FUNCTION push(items text[], x text) RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	items[coalesce(array_upper(items, 1), 0) + 1] := x;
	RETURN items;
END $$;
CREATE FUNCTION weigh(items text[]) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	items := items || '{"more"}'::text[];
	RETURN length(array_to_string(items, ''));
END $$;
DO $$
DECLARE
	form text[];
	rule text[];
BEGIN
	FOREACH form SLICE 1 IN ARRAY ARRAY[['shelf', ''], ['shelf_value', ' FROM (SELECT 1 OFFSET 0) one']] LOOP
		FOREACH rule SLICE 1 IN ARRAY ARRAY[
			['pushed', 'fold_app.push(s.a, e.x), s.b, coalesce(s.n, 0) + 1'],
			['moved', 's.b, s.a, s.n'],
			['drained', 'NULL, array_append(s.b, e.x), s.n + fold_app.weigh(s.a)'],
			['doubled', 's.a, s.a || e.x, s.n + cardinality(s.b)']] LOOP
			EXECUTE format('CREATE FUNCTION apply(s %1$s, e %2$s) RETURNS %1$s LANGUAGE sql IMMUTABLE AS %3$L',
						   form[1], rule[1], format('SELECT ROW(%s)::%s%s', rule[2], form[1], form[2]));
		END LOOP;
		PERFORM es_create_aggregate(form[1]::regtype, stream_prefix => 'shelf-', snapshot_every => 0);
	END LOOP;
END $$;
SELECT version FROM es_append('shelf-1', ARRAY(
	SELECT es_new_event((ARRAY['pushed', 'pushed', 'pushed', 'moved', 'doubled', 'drained'])[1 + (random() * 5)::int],
						jsonb_build_object('x', i)) FROM generate_series(1, 2000) i));
SELECT count(*), count(*) FILTER (WHERE f.state = v.state) AS agree
FROM es_history('shelf', '1') f JOIN es_history('shelf_value', '1') v USING (version);

-- A state that is JSON, and an apply function that takes the envelope as well.
CREATE TYPE counter AS (n bigint, last_version bigint, last_type text, streams text);
CREATE TYPE counted AS (by int);
CREATE FUNCTION apply(s counter, e counted, m es_event) RETURNS counter
LANGUAGE sql IMMUTABLE RETURN ROW(coalesce(s.n, 0) + e.by, m.version, m.type, m.stream)::counter;
CREATE FUNCTION apply(s counter, m es_event) RETURNS counter
LANGUAGE sql IMMUTABLE RETURN ROW(s.n, m.version, m.type || '!', m.data ->> 'x')::counter;
SELECT es_create_aggregate('counter');
CREATE FUNCTION json_apply(s jsonb, m es_event) RETURNS jsonb
LANGUAGE sql IMMUTABLE RETURN s || jsonb_build_object(m.type, m.data, 'version', m.version);
CREATE FUNCTION json_execute(s jsonb, c es_command) RETURNS void LANGUAGE sql AS '';
SELECT es_create_aggregate('jsonb', name => 'json_counter', stream_prefix => 'counter-', commands => '{nothing}',
						   execute_function => 'json_execute', apply_function => 'json_apply');
SELECT version FROM es_append('counter-1', ARRAY[es_new_event('counted', '{"by": 2}'), es_new_event('odd', '{"x": "y"}'),
	es_new_event('counted', '{"by": 40}')]);
SELECT version, state FROM es_history('counter', '1');
SELECT version, state FROM es_history('json_counter', '1');

-- What an apply function cannot read or return is an error all the same.
SELECT version FROM es_append('counter-2', 'counted', '{"by": "many"}');
SELECT es_state(NULL::counter, '2');
SELECT version FROM es_append('counter-3', 'counted', '{"by": 99999999999}');
SELECT es_state(NULL::counter, '3');
SELECT version FROM es_append('counter-4', 'counted', '{"by": 1.5}');
SELECT es_state(NULL::counter, '4');
SELECT version FROM es_append('counter-5', 'counted', '[1]');
SELECT es_state(NULL::counter, '5');
CREATE OR REPLACE FUNCTION json_apply(s jsonb, m es_event) RETURNS jsonb
LANGUAGE sql IMMUTABLE RETURN NULLIF(s, '{}');
SELECT es_state('json_counter', '1');

-- A field that is added to a type while states of it are kept.
SELECT es_state(NULL::counter, '1');
ALTER TYPE counter ADD ATTRIBUTE more text;
SELECT es_state(NULL::counter, '1');
CREATE OR REPLACE FUNCTION apply(s counter, e counted, m es_event) RETURNS counter
LANGUAGE sql IMMUTABLE RETURN ROW(coalesce(s.n, 0) + e.by, m.version, m.type, m.stream, s.more || '.')::counter;
CREATE OR REPLACE FUNCTION apply(s counter, m es_event) RETURNS counter
LANGUAGE sql IMMUTABLE RETURN ROW(s.n, m.version, m.type, NULL, 'more')::counter;
SELECT es_state(NULL::counter, '1');

-- An apply function that asks for the state of another stream of its own kind.
CREATE TYPE echo AS (n int, heard int);
CREATE TYPE called AS (n int, of text);
CREATE FUNCTION listen(id text) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE WHEN id IS NOT NULL THEN (es_state(NULL::echo, id)).n END;
END $$;
CREATE FUNCTION apply(s echo, e called) RETURNS echo
LANGUAGE sql AS $$ SELECT ROW(coalesce(s.n, 0) + e.n, coalesce(s.heard, 0) + coalesce(fold_app.listen(e.of), 0))::echo $$;
SELECT es_create_aggregate('echo');
SELECT version FROM es_append('echo-1', ARRAY[es_new_event('called', '{"n": 1}'), es_new_event('called', '{"n": 2}')]);
SELECT version FROM es_append('echo-2', ARRAY[es_new_event('called', '{"n": 10, "of": "1"}'), es_new_event('called', '{"n": 20, "of": "1"}')]);
SELECT version FROM es_append('echo-3', ARRAY[es_new_event('called', '{"n": 100, "of": "2"}'), es_new_event('called', '{"n": 200, "of": "1"}')]);
SELECT es_state(NULL::echo, '3'), es_state(NULL::echo, '2'), es_state(NULL::echo, '1');

\set VERBOSITY default
SET client_min_messages = warning;
DROP SCHEMA fold_app, fold_test CASCADE;
