-- es_new_event() builds the events that es_append() takes, from a type and JSON
-- or from a composite value, whose type's name is the event type.  Whatever
-- cannot be an event is refused here already.  A composite becomes the JSON
-- that to_jsonb() makes of it, whatever the types of its fields.

SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS event_sourcing;
RESET client_min_messages;
SELECT es_create_store('event_test');
SET event_sourcing.store = 'event_test';
CREATE SCHEMA event_test_app;
SET search_path = event_test_app, public;

-- ---------------------------------------------------------------------------
-- From a type and JSON
-- ---------------------------------------------------------------------------

-- Only the type is needed; the data are then an empty object.
SELECT * FROM es_new_event('opened');
SELECT * FROM es_new_event('deposited', '{"amount": 10}', '{"by": "ann"}',
	'00000000-0000-7000-8000-000000000001', '2020-02-02 20:20:20+00');

-- Data may be any JSON value, metadata must be an object: they are merged.
SELECT type, data, metadata FROM es_new_event('counted', '42')
UNION ALL SELECT type, data, metadata FROM es_new_event('listed', '[1, 2]', '{}')
UNION ALL SELECT type, data, metadata FROM es_new_event('nothing', 'null')
ORDER BY type;
SELECT es_new_event('deposited', '{}', '[1]');
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('deposited', '{}', '"ann"');
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('deposited', '{}', 'null');
\echo :LAST_ERROR_SQLSTATE

-- An event has a type of 1 to 512 bytes, and data.
SELECT es_new_event(NULL::text);
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('');
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('deposited', NULL);
\echo :LAST_ERROR_SQLSTATE
SELECT length((es_new_event(repeat('x', 512))).type);
SELECT es_new_event(repeat('x', 513));
\echo :LAST_ERROR_SQLSTATE
-- bytes, not characters
SELECT es_new_event(repeat('ü', 257));
\echo :LAST_ERROR_SQLSTATE

-- Text that is not what the parameter takes fails as its type's input fails.
\set SHOW_CONTEXT never
SELECT es_new_event('deposited', '{"amount": ');
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('deposited', '{}', event_id => 'one');
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('deposited', '{}', recorded_at => 'once upon a time');
\echo :LAST_ERROR_SQLSTATE
-- JSON has no character zero
SELECT es_new_event('deposited', '{"text": "\u0000"}');
\echo :LAST_ERROR_SQLSTATE

\set SHOW_CONTEXT errors

-- History has a time: infinity is none.
SELECT es_new_event('deposited', '{}', recorded_at => 'infinity');
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('deposited', '{}', recorded_at => '-infinity');
\echo :LAST_ERROR_SQLSTATE

-- ---------------------------------------------------------------------------
-- From a composite value
-- ---------------------------------------------------------------------------

-- The type's name is the event type, its fields are the data.
CREATE TYPE deposited AS (account text, amount int);
SELECT * FROM es_new_event(ROW('7', 10)::deposited);
SELECT * FROM es_new_event(ROW('7', 10)::deposited, '{"by": "ann"}',
	'00000000-0000-7000-8000-000000000002', '2020-02-02 20:20:20+00');
SELECT * FROM es_new_event(ROW('7', 10)::deposited, event_id => '00000000-0000-7000-8000-000000000003');

-- The name is taken as it is, without its schema.
CREATE TYPE "Konto eröffnet" AS ("Inhaber Name" text, "select" int);
SELECT type, data FROM es_new_event(ROW('Ann', 1)::"Konto eröffnet");

-- A table's row is a composite value, too.
CREATE TABLE payment (account text, amount int);
INSERT INTO payment VALUES ('7', 10), ('8', 20);
SELECT type, data FROM payment AS p, es_new_event(p) ORDER BY p.account;

-- A row of NULLs is an event, no row is none.
SELECT type, data FROM es_new_event(ROW(NULL, NULL)::deposited);
SELECT es_new_event(NULL::deposited);
\echo :LAST_ERROR_SQLSTATE

-- Only a named composite type can be an event.
SELECT es_new_event(ROW('7', 10));
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event(42);
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event('{"amount": 10}'::jsonb);
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event(ARRAY[ROW('7', 10)::deposited]);
\echo :LAST_ERROR_SQLSTATE
CREATE DOMAIN large_deposit AS deposited CHECK ((VALUE).amount > 1000);
SELECT es_new_event(ROW('7', 2000)::large_deposit);
\echo :LAST_ERROR_SQLSTATE
-- and its metadata and time obey the same rules
SELECT es_new_event(ROW('7', 10)::deposited, '[]');
\echo :LAST_ERROR_SQLSTATE
SELECT es_new_event(ROW('7', 10)::deposited, recorded_at => 'infinity');
\echo :LAST_ERROR_SQLSTATE

-- ---------------------------------------------------------------------------
-- Composite values as JSON
-- ---------------------------------------------------------------------------

-- Fields of every kind, with their extreme values.
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TYPE int_span AS RANGE (subtype = int);
CREATE DOMAIN percentage AS numeric(5, 2) CHECK (VALUE BETWEEN 0 AND 100);
CREATE DOMAIN tags AS text[] CHECK (cardinality(VALUE) < 10);
CREATE TYPE price AS (amount numeric(12, 2), currency char(3));
CREATE TYPE item AS (name text, price price, tags text[]);
CREATE DOMAIN priced_item AS item CHECK ((VALUE).name <> '');

CREATE TYPE numbers AS (b boolean, i2 smallint, i4 int, i8 bigint, n numeric, n2 numeric(10, 2),
	f4 real, f8 double precision, o oid);
CREATE TYPE texts AS (t text, v varchar, v3 varchar(3), c char(5), n name, c1 "char", bits bit(4), bin bytea);
CREATE TYPE times AS (d date, t time, tz timetz, ts timestamp, tstz timestamptz, ts0 timestamp(0), iv interval);
CREATE TYPE documents AS (j json, jb jsonb);
CREATE TYPE collections AS (ints int[], matrix int[][], texts text[], stamps timestamptz[], moods mood[],
	docs jsonb[], items item[]);
CREATE TYPE others AS (mood mood, p percentage, tg tags, u uuid, span int_span, spans int4multirange,
	r daterange, ip inet, pt point, i item, pi priced_item);

CREATE TABLE numbers_sample (value numbers);
INSERT INTO numbers_sample VALUES
	(ROW(true, -32768, 2147483647, -9223372036854775808, 12345678901234567890.123456789, 1.5, 1.1, 0.1, 4294967295)),
	(ROW(false, 0, 0, 0, 'NaN', 'NaN', 'NaN', 'NaN', 0)),
	(ROW(NULL, NULL, NULL, NULL, 'Infinity', NULL, 'Infinity', '-Infinity', NULL)),
	(ROW(NULL, NULL, NULL, NULL, '-Infinity', NULL, 1e20, 1e-300, NULL)),
	(ROW(NULL, 1, 2, 3, 1.000, 1, -0.0, 1e300, 1)),
	(ROW(NULL, NULL, NULL, NULL, 1e-100, NULL, NULL, NULL, NULL));
CREATE TABLE texts_sample (value texts);
INSERT INTO texts_sample VALUES
	(ROW('', '', '', '', '', '', B'0000', '')),
	(ROW('a "quoted" \ and' || E'\n\t\x01' || 'line', 'ünï€𝄞', 'abc', 'ab', 'name', 'c', B'1010', '\x00ff')),
	(ROW(repeat('long ', 5000), '</script>', NULL, NULL, NULL, NULL, NULL, decode(repeat('00ff', 5000), 'hex')));
CREATE TABLE times_sample (value times);
INSERT INTO times_sample VALUES
	(ROW('2020-02-29', '23:59:59.999999', '12:00+05:30', '2020-02-29 12:00:00.000001', '2020-02-29 12:00:00+05',
		'2020-02-29 12:00:00.6', '1 year 2 days 03:04:05.6')),
	(ROW('infinity', '24:00', NULL, '-infinity', 'infinity', 'infinity', '-1 mon')),
	(ROW('0001-01-01 BC', NULL, NULL, '0044-03-15 BC', '12000-01-01 00:00+00', NULL, '0'));
-- a JSON null in a field is not a field that is NULL, though both become null
CREATE TABLE documents_sample (value documents);
INSERT INTO documents_sample VALUES
	(ROW('null', 'null')), (ROW(NULL, NULL)), (ROW('{"a":  1, "a": 2}', '{"b": [1, {"c": null}]}')),
	(ROW('[]', '[]')), (ROW('"text"', '"text"')), (ROW('1.50', '1.50')), (ROW('true', 'false')), (ROW('{}', '[[[]]]'));
CREATE TABLE collections_sample (value collections);
INSERT INTO collections_sample VALUES
	(ROW('{}', '{}', '{}', '{}', '{}', '{}', '{}')),
	(ROW('{1,NULL,3}', '{{1,2},{3,4}}', '{"a,b","NULL",NULL,"\"q\""}', '{2020-02-29 12:00+05,infinity}', '{sad,happy}',
		ARRAY['null', '{"a": 1}', NULL]::jsonb[], ARRAY[ROW('nut', ROW(1.5, 'EUR'), '{a,b}')::item, NULL])),
	(ROW('[5:6]={1,2}', NULL, NULL, NULL, NULL, NULL, NULL));
CREATE TABLE others_sample (value others);
INSERT INTO others_sample VALUES
	(ROW('happy', 99.5, '{a,b}', '00000000-0000-7000-8000-000000000001', '[1,5)', '{[1,2),[5,)}', '(,2020-01-01]', '10.0.0.1/8',
		'(1.5,2)', ROW('nut', NULL, NULL)::item, ROW('nut', ROW(1, 'EUR'), '{}')::priced_item)),
	(ROW('sad', NULL, NULL, NULL, 'empty', '{}', 'empty', '::1', NULL, ROW(NULL, NULL, NULL)::item, NULL));

-- composites in arrays of any number of dimensions, domains over and inside of them
CREATE DOMAIN bag AS priced_item[];
CREATE TYPE nests AS (grid item[][], priced priced_item[], bag bag, deep collections, deeper collections[]);
CREATE TABLE nests_sample (value nests);
INSERT INTO nests_sample
	SELECT ROW(v.grid, v.grid, v.grid, c.value, ARRAY[c.value, NULL, c.value])::nests
	FROM collections_sample c, (VALUES
		('{}'::item[]), (NULL), (ARRAY[NULL]::item[]), ('[3:4]={"(a,,)",NULL}'),
		(ARRAY[[ROW('a', ROW(1, 'EUR'), '{x}')::item, NULL, ROW('b', NULL, NULL)::item], [ROW('c', NULL, '{}')::item, ROW('d', NULL, NULL)::item, NULL]]),
		('{{{"(a,,)"},{"(b,,)"}},{{"(c,,)"},{"(d,,)"}},{{NULL},{"(e,,)"}}}')) v (grid);

-- The oracle is that JSON, to the letter: nothing may differ.  (Made by way of text:
-- to_jsonb() itself looks at field names that the server may have freed by then.)
CREATE VIEW made AS
	SELECT e.type, e.data, to_json(value)::jsonb AS wanted FROM numbers_sample, es_new_event(value) e
	UNION ALL SELECT e.type, e.data, to_json(value)::jsonb FROM texts_sample, es_new_event(value) e
	UNION ALL SELECT e.type, e.data, to_json(value)::jsonb FROM times_sample, es_new_event(value) e
	UNION ALL SELECT e.type, e.data, to_json(value)::jsonb FROM documents_sample, es_new_event(value) e
	UNION ALL SELECT e.type, e.data, to_json(value)::jsonb FROM collections_sample, es_new_event(value) e
	UNION ALL SELECT e.type, e.data, to_json(value)::jsonb FROM others_sample, es_new_event(value) e
	UNION ALL SELECT e.type, e.data, to_json(value)::jsonb FROM nests_sample, es_new_event(value) e;
SELECT type, count(*), count(*) FILTER (WHERE data::text IS DISTINCT FROM wanted::text) AS different
FROM made GROUP BY type ORDER BY type;
-- Some of them, to look at.
SELECT jsonb_pretty(e.data) AS data FROM numbers_sample, es_new_event(value) AS e WHERE (value).i4 IN (0, 2147483647) ORDER BY (value).i4;
SELECT e.data, to_json(value)::jsonb AS wanted FROM documents_sample, es_new_event(value) AS e ORDER BY value::text COLLATE "C";

-- The same holds in whatever style the session shows values.
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SET bytea_output = 'escape';
SET extra_float_digits = 0;
SELECT count(*) FILTER (WHERE data::text IS DISTINCT FROM wanted::text) AS different FROM made;
RESET datestyle;
RESET intervalstyle;
RESET bytea_output;
RESET extra_float_digits;

-- A type may change while a session uses it: the next event has its new shape.
CREATE TYPE changing AS (a int, b text, c int);
SELECT data FROM es_new_event(ROW(1, 'x', 3)::changing);
ALTER TYPE changing DROP ATTRIBUTE b;
SELECT data FROM es_new_event(ROW(1, 3)::changing);
ALTER TYPE changing ADD ATTRIBUTE d price;
ALTER TYPE changing RENAME ATTRIBUTE a TO "A";
SELECT data FROM es_new_event(ROW(1, 3, ROW(1.5, 'EUR'))::changing);
-- also when the change is in a nested type
ALTER TYPE price ADD ATTRIBUTE rate numeric;
SELECT data FROM es_new_event(ROW(1, 3, ROW(1.5, 'EUR', 2))::changing);
ALTER TYPE changing RENAME TO changed;
SELECT type, data FROM es_new_event(ROW(1, 3, NULL)::changed);
-- A type without fields is an event, too.
CREATE TYPE closed AS ();
SELECT type, data FROM es_new_event(ROW()::closed);

-- ---------------------------------------------------------------------------
-- Event ids
-- ---------------------------------------------------------------------------

-- An event without an id gets a UUID of version 7 when it is appended: 48 bits
-- of milliseconds, the version, then bits that rise, the variant, and random
-- bits.  In one session every id is above all earlier ones.
SELECT version FROM es_append('ids-1', ARRAY(SELECT es_new_event('made') FROM generate_series(1, 5000)));
SELECT count(r.version) FROM generate_series(1, 500) AS i, es_append('ids-2', 'made', jsonb_build_object('i', i)) AS r;
SELECT count(*), count(DISTINCT event_id) AS ids,
	count(*) FILTER (WHERE substr(event_id::text, 15, 1) = '7') AS version_7,
	count(*) FILTER (WHERE substr(event_id::text, 20, 1) IN ('8', '9', 'a', 'b')) AS variant,
	count(*) FILTER (WHERE event_id < before) AS falling,
	count(*) FILTER (WHERE to_timestamp(('x' || left(replace(event_id::text, '-', ''), 12))::bit(48)::bigint / 1000.0)
		BETWEEN recorded_at - interval '1 minute' AND recorded_at + interval '1 minute') AS of_their_time
FROM (SELECT event_id, recorded_at, lag(event_id) OVER (ORDER BY position) AS before
	  FROM es_read_all(0, NULL)) e;
-- The random part does not repeat.
SELECT count(DISTINCT right(event_id::text, 12)) FROM es_read_all(0, NULL);
-- An id that was given is kept, of whatever version it is.
SELECT version FROM es_append('ids-3', ARRAY[es_new_event('made', event_id => 'ffffffff-ffff-4fff-bfff-ffffffffffff')]);
SELECT event_id FROM es_read_stream('ids-3');

-- An event that is built already can be built again: what it has stays, unless
-- it is given anew.
SELECT * FROM es_new_event(es_new_event('a', '{"n":1}', '{"by":"ann"}',
	event_id => '00000000-0000-7000-8000-000000000001', recorded_at => '2020-01-01 00:00+00'));
SELECT * FROM es_new_event(es_new_event('a', '{"n":1}', '{"by":"ann"}',
	event_id => '00000000-0000-7000-8000-000000000001'), '{"by":"bob"}');
