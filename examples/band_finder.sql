-- Band finder: musicians and bands, and which band looks for whom.
--
-- Run it with psql in any database that can have the extension:
--     psql -f band_finder.sql
-- It makes two schemas, band_finder and band_finder_es. To be rid of it:
--     DROP SCHEMA band_finder, band_finder_es CASCADE;

\set ON_ERROR_STOP on
SET client_min_messages = warning;

CREATE EXTENSION IF NOT EXISTS event_sourcing;

\echo
\echo '== 1. A store for the events, a schema for the application'

SELECT es_create_store('band_finder_es');
SET event_sourcing.store = 'band_finder_es';

CREATE SCHEMA band_finder;
SET search_path = band_finder, public;

\echo
\echo '== 2. The musician: a state, three commands, three events'

CREATE TYPE instrumentalist         AS (id text, instrument_type text, bands text[]);  -- state

CREATE TYPE create_instrumentalist  AS (id text, instrument_type text);                -- commands
CREATE TYPE join_band               AS (id text, band text);
CREATE TYPE leave_band              AS (id text, band text);

CREATE TYPE instrumentalist_created AS (id text, instrument_type text);                -- events
CREATE TYPE band_joined             AS (id text, instrument_type text, band text);
CREATE TYPE band_left               AS (id text, instrument_type text, band text);

\echo
\echo '== 3. Decide: what a command does, one overload of execute() each'

CREATE FUNCTION execute(s instrumentalist, c create_instrumentalist) RETURNS instrumentalist_created
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NOT NULL THEN
    RAISE EXCEPTION 'instrumentalist % exists', s.id USING ERRCODE = 'unique_violation';
  END IF;
  IF c.instrument_type IS NULL THEN
    RAISE EXCEPTION 'instrumentalist % plays no instrument', c.id USING ERRCODE = 'check_violation';
  END IF;
  RETURN ROW(c.id, c.instrument_type)::instrumentalist_created;
END $$;

CREATE FUNCTION execute(s instrumentalist, c join_band) RETURNS band_joined
LANGUAGE plpgsql AS $$
BEGIN
  IF s.id IS NULL THEN
    RAISE EXCEPTION 'there is no instrumentalist %', c.id USING ERRCODE = 'no_data_found';
  END IF;
  IF c.band = ANY (s.bands) THEN
    RAISE EXCEPTION '% is in % already', c.id, c.band
      USING ERRCODE = 'unique_violation', HINT = 'Leave the band first.';
  END IF;
  RETURN ROW(c.id, s.instrument_type, c.band)::band_joined;
END $$;

CREATE FUNCTION execute(s instrumentalist, c leave_band) RETURNS band_left
LANGUAGE plpgsql AS $$
BEGIN
  IF c.band = ANY (s.bands) THEN
    RETURN ROW(c.id, s.instrument_type, c.band)::band_left;
  END IF;
  RETURN NULL;  -- nothing to leave, nothing happens
END $$;

\echo
\echo '== 4. Evolve: what an event changes, one overload of apply() each'

CREATE FUNCTION apply(s instrumentalist, e instrumentalist_created) RETURNS instrumentalist
LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.instrument_type, s.bands)::instrumentalist;

CREATE FUNCTION apply(s instrumentalist, e band_joined) RETURNS instrumentalist
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.instrument_type, array_append(s.bands, e.band))::instrumentalist;

CREATE FUNCTION apply(s instrumentalist, e band_left) RETURNS instrumentalist
LANGUAGE sql IMMUTABLE RETURN ROW(s.id, s.instrument_type, array_remove(s.bands, e.band))::instrumentalist;

\echo
\echo '== 5. The band, in the same way'

CREATE TYPE band                  AS (name text);                              -- state

CREATE TYPE create_band           AS (name text);                              -- commands
CREATE TYPE look_for_instrument   AS (name text, instrument_type text);

CREATE TYPE band_created          AS (name text);                              -- events
CREATE TYPE instrument_looked_for AS (name text, instrument_type text);

CREATE FUNCTION execute(s band, c create_band) RETURNS band_created
LANGUAGE plpgsql AS $$
BEGIN
  IF s.name IS NOT NULL THEN
    RAISE EXCEPTION 'band % exists', s.name USING ERRCODE = 'unique_violation';
  END IF;
  RETURN ROW(c.name)::band_created;
END $$;

CREATE FUNCTION execute(s band, c look_for_instrument) RETURNS instrument_looked_for
LANGUAGE plpgsql AS $$
BEGIN
  IF s.name IS NULL THEN
    RAISE EXCEPTION 'there is no band %', c.name USING ERRCODE = 'no_data_found';
  END IF;
  RETURN ROW(c.name, c.instrument_type)::instrument_looked_for;
END $$;

CREATE FUNCTION apply(s band, e band_created) RETURNS band
LANGUAGE sql IMMUTABLE RETURN ROW(e.name)::band;

-- The state holds what decisions need, and none needs this.
CREATE FUNCTION apply(s band, e instrument_looked_for) RETURNS band
LANGUAGE sql IMMUTABLE RETURN s;

\echo
\echo '== 6. Register both'

SELECT es_create_aggregate('instrumentalist', identity => 'id');
SELECT es_create_aggregate('band', identity => 'name');

\echo
\echo '== 7. A read model: which band looks for which instrument, filled as events are recorded'

CREATE TABLE vacancy (band text, instrument_type text, PRIMARY KEY (band, instrument_type));

CREATE FUNCTION project_vacancy(e instrument_looked_for) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO vacancy VALUES (e.name, e.instrument_type) ON CONFLICT DO NOTHING
$$;

CREATE FUNCTION project_vacancy(e band_joined) RETURNS void
LANGUAGE sql AS $$
  DELETE FROM vacancy v WHERE v.band = e.band AND v.instrument_type = e.instrument_type
$$;

SELECT es_create_projection('vacancy', handler => 'project_vacancy', targets => '{vacancy}');

\echo
\echo '== 8. Commands: each one is a value of its type'

SELECT stream, version FROM es_dispatch(ROW('ada', 'drums')::create_instrumentalist);
SELECT stream, version FROM es_dispatch(ROW('bob', 'bass')::create_instrumentalist);
SELECT stream, version FROM es_dispatch(ROW('The Loops')::create_band);
SELECT stream, version FROM es_dispatch(ROW('Null and the Voids')::create_band);
SELECT stream, version FROM es_dispatch(ROW('The Loops', 'drums')::look_for_instrument);
SELECT stream, version FROM es_dispatch(ROW('The Loops', 'bass')::look_for_instrument);

\echo '-- or JSON, as it comes from a web application'
SELECT stream, version FROM es_dispatch('look_for_instrument', '{"name": "Null and the Voids", "instrument_type": "drums"}');

\echo
\echo '== 9. Which bands look for a drummer?'

SELECT band FROM vacancy WHERE instrument_type = 'drums' ORDER BY band;

\echo '-- Ada joins The Loops: the read model knows at once, it is the same transaction'
SELECT stream, version FROM es_dispatch(ROW('ada', 'The Loops')::join_band);
SELECT band FROM vacancy WHERE instrument_type = 'drums' ORDER BY band;

\echo
\echo '== 10. A command that is refused changes nothing, and says why'

\set ON_ERROR_STOP off
SELECT stream, version FROM es_dispatch(ROW('ada', 'The Loops')::join_band);
\echo '-- SQLSTATE:' :LAST_ERROR_SQLSTATE
SELECT stream, version FROM es_dispatch(ROW('The Jitters', 'drums')::look_for_instrument);
\echo '-- SQLSTATE:' :LAST_ERROR_SQLSTATE
\set ON_ERROR_STOP on

\echo
\echo '== 11. The events are all there is; the state is what they add up to'

SELECT stream, version FROM es_dispatch(ROW('ada', 'Null and the Voids')::join_band);
SELECT stream, version FROM es_dispatch(ROW('ada', 'The Loops')::leave_band);

SELECT version, type, data FROM es_read_stream('instrumentalist-ada');

\echo '-- now, and at version 3'
SELECT * FROM es_state(NULL::instrumentalist, 'ada');
SELECT * FROM es_state(NULL::instrumentalist, 'ada', at_version => 3);

\echo '-- event by event'
SELECT version, type, state -> 'bands' AS bands FROM es_history('instrumentalist', 'ada');

\echo
\echo '== 12. The whole store in order, and the read model made anew from it'

SELECT stream, version, type FROM es_read_all();

SELECT es_rebuild_projection('vacancy');
SELECT * FROM vacancy ORDER BY band, instrument_type;
SELECT es_verify_projection('vacancy') AS rows_that_differ;

\echo
\echo '== 13. What is wrong with all this? And how does it look?'

SELECT * FROM es_lint();
SELECT es_diagram() \g (format=unaligned tuples_only=on)
