# Much of everything: many streams in one transaction, many events in one append,
# large events, long sessions.  Nothing runs out, and memory does not grow with
# what a session has done.

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Where everything is slow, what is done again and again is done less often.
sub fewer
{
	return int($_[0] / ($ENV{ES_SLOWDOWN} || 1));
}

# The lock table of a server with the default settings has room for some 8,000
# locks; of this one for about 2,000.
my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_connections = 20\nmax_locks_per_transaction = 64\nshared_buffers = 16MB\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION event_sourcing; SELECT es_create_store();');
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

# ---------------------------------------------------------------------------
# 20,000 streams in one transaction
# ---------------------------------------------------------------------------

# It waits for the writers under way, others wait for it, and all of them keep
# the guarantees.
my $importer = $node->background_psql('postgres');
my $writer = $node->background_psql('postgres');
my $follower = $node->background_psql('postgres');

$importer->query_safe('BEGIN');
is( $importer->query_safe(
		q{SELECT count((es_append('stream-' || n, ARRAY[es_new_event('t')])).version) FROM generate_series(1, 20000) n}),
	'20000', '20,000 streams in one statement');
is($importer->query_safe('SELECT count(*) < 1000 FROM pg_locks'), 't', 'the lock table is not full of them');
is($follower->query_safe('SELECT es_high_water(), count(*) FROM es_read_all()'), '0|0', 'nothing is shown before it commits');

# past the limit of locks, a stream is protected all the same
$writer->query_until(qr/start/, qq{\\echo start\nSELECT version FROM es_append('stream-20000', ARRAY[es_new_event('t')]);\n});
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'});
$importer->query_safe(q{SELECT es_append('stream-' || n, ARRAY[es_new_event('t')], 1) FROM generate_series(1, 20000) n});
$importer->query_safe('COMMIT');
is($writer->query_safe(q{SELECT es_stream_version('stream-20000')}), "3\n3", 'a writer that waited comes after it');
is($follower->query_safe('SELECT es_high_water(), count(*), max(position) FROM es_read_all(max_count => NULL)'),
	'40001|40001|40001', 'then the feed has every event');

# Many savepoints, many of them rolled back.
is($importer->query_safe(<<'SQL'), '2000', '5,000 subtransactions that append');
DO $$
BEGIN
	FOR n IN 1..5000 LOOP
		BEGIN
			PERFORM es_append('sub-' || n, ARRAY[es_new_event('t')]);
			IF n % 5 < 3 THEN RAISE division_by_zero; END IF;
		EXCEPTION WHEN division_by_zero THEN NULL;
		END;
	END LOOP;
END $$;
SELECT count(*) FROM es.event WHERE stream ^@ 'sub-';
SQL
is($node->safe_psql('postgres', 'SELECT * FROM oracle.problems()'), '', 'no gaps, positions rise');
$_->quit foreach ($importer, $writer, $follower);

# ---------------------------------------------------------------------------
# Large appends and large events
# ---------------------------------------------------------------------------

is( $node->safe_psql(
		'postgres', q{SELECT version FROM es_append('ten thousand', array_fill(es_new_event('t'), ARRAY[10000]), 0)}),
	'10000', '10,000 events in one append');
is( $node->safe_psql('postgres', q{SELECT count(*), max(version), max(position) - min(position) FROM es.event WHERE stream = 'ten thousand'}),
	'10000|10000|9999', 'each has its place');

# One of 50 MB goes in and comes back.
is( $node->safe_psql(
		'postgres', q{SELECT version FROM es_append('large', 't', jsonb_build_object('text', repeat('x', 50 * 1024 * 1024)));
			SELECT length(data ->> 'text') FROM es_read_stream('large');
			SELECT length(data ->> 'text') FROM es_read_all(types => ARRAY['t'], backward => true, max_count => 1)}),
	"1\n52428800\n52428800", 'an event of 50 MB');

# 1,000 events of 100 kB each are more than one statement takes; all or nothing.
is( $node->safe_psql(
		'postgres', q{SELECT version FROM es_append('wide',
			array_fill(es_new_event('t', jsonb_build_object('text', repeat('x', 100 * 1024))), ARRAY[1000]))}),
	'1000', '100 MB in one append');

# A million keys go in and come back; a command has no fields of these names.
is( $node->safe_psql(
		'postgres', q{SELECT version FROM es_append('keys', 't', (SELECT jsonb_object_agg(i, i) FROM generate_series(1, 1000000) i));
			SELECT count(*), sum(k::int) FROM es_read_stream('keys'), jsonb_object_keys(data) k}),
	"1\n1000000|500000500000", 'a million keys');

# Strings of a gigabyte are refused, without one in the message, and the session goes
# on; what JSON can hold of them is recorded.
$node->safe_psql('postgres', <<'SQL');
CREATE TYPE book AS (id text, letters bigint);
CREATE TYPE write AS (id text, chapter text);
CREATE TYPE written AS (chapter text);
CREATE FUNCTION execute(s book, c write) RETURNS written LANGUAGE sql RETURN ROW(c.chapter)::written;
CREATE FUNCTION apply(s book, e written) RETURNS book LANGUAGE sql IMMUTABLE
	RETURN ROW(s.id, COALESCE(s.letters, 0) + length(e.chapter))::book;
SELECT es_create_aggregate('book');
CREATE FUNCTION letters(n int) RETURNS text LANGUAGE sql RETURN repeat(repeat('x', 1000000), n);
SQL
foreach my $call (
	[ q{es_append(letters(1000), 't', '{}')}, '22023' ],
	[ q{es_append('huge', letters(1000), '{}')}, '22023' ],
	[ q{es_append('huge', 't', jsonb_build_object('text', letters(1000)))}, '54000' ],
	[ q{es_append('huge', 't', '{}', jsonb_build_object('text', letters(1000)))}, '54000' ],
	[ q{es_read_stream(letters(1000))}, '22023' ],
	[ q{es_stream_version(letters(1000))}, '22023' ],
	[ q{es_state('book', letters(1000))}, '22023' ],
	[ q{es_dispatch(letters(1000), '{}')}, 'SE004' ],
	[ q{es_dispatch('write', jsonb_build_object('id', 'huge', letters(200), 1))}, '22023' ],
	[ q{es_dispatch(ROW(letters(1000), 'x')::write)}, '22023' ],
	[ q{es_dispatch(ROW('huge', letters(1000))::write)}, '54000' ],
	[ q{es_create_subscription(letters(1000))}, '22023' ])
{
	my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT * FROM $call->[0];\nSELECT es_stream_version('keys')", on_error_stop => 0);
	my ($state) = $err =~ /ERROR:  (\w{5}):/;
	is(join('|', $state // $err, $out, length($err) < 5000 ? 'short' : 'long'), "$call->[1]|1|short", "SELECT $call->[0]");
}
is( $node->safe_psql(
		'postgres', q{SELECT version FROM es_dispatch(ROW('huge', letters(250))::write);
			SELECT (es_state(NULL::book, 'huge')).letters, length(data ->> 'chapter') FROM es_read_stream('book-huge')}),
	"1\n250000000|250000000", 'a command and its event of 250 MB');

# Its own session, so that its peak is that of this append.
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query_safe('SELECT pg_backend_pid()');

# The most memory that the session's process has used so far, in MB, as the
# operating system tells it; 0 where it does not.
sub peak
{
	open my $status, '<', "/proc/$pid/status" or return 0;
	my ($kb) = map { /^VmHWM:\s+(\d+)/ ? $1 : () } <$status>;
	return int(($kb || 0) / 1024);
}

# The sum of the memory contexts of the session, after a collection of what was
# retired (which is freed in the next transaction that uses the store).
sub memory
{
	$session->query_safe(q{SELECT es_stream_version('x')});
	return $session->query_safe('SELECT sum(total_bytes) FROM pg_backend_memory_contexts');
}

# 100,000 events in one append take memory for themselves, some 1 kB each, and
# nothing of it is left afterwards.
my $before = memory();
my $peak = peak();
is($session->query_safe(q{SELECT version FROM es_append('many', array_fill(es_new_event('t', '{"n": 1}'), ARRAY[100000]))}),
	'100000', '100,000 events in one append');
my $after = memory();
SKIP:
{
	skip 'valgrind needs much more itself', 1 if fewer(1000) < 1000;
	cmp_ok(peak() - $peak, '<', 150, 'its memory is bounded');
}
note('grown at its peak by ' . (peak() - $peak) . ' MB');
cmp_ok($after - $before, '<', 2 * 1024 * 1024, 'nothing of it stays in memory');
is($session->query_safe(q{SELECT count(*) FROM es_read_all(max_count => NULL, categories => ARRAY['many'])}), '100000', 'they are read');

# ---------------------------------------------------------------------------
# Long sessions
# ---------------------------------------------------------------------------

$session->query_safe(<<'SQL');
SET client_min_messages = warning;
CREATE TYPE account AS (id text, balance bigint, note text);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE TABLE total (id text PRIMARY KEY, balance bigint) WITH (fillfactor = 50);
CREATE TABLE daily (day int PRIMARY KEY, amount bigint) WITH (fillfactor = 50);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE plpgsql AS $$
BEGIN
	IF c.amount < 0 THEN RAISE EXCEPTION 'negative'; END IF;
	RETURN ROW(c.id, c.amount)::deposited;
END $$;
CREATE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
	RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount, repeat('x', 100))::account;
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
$$;
SELECT es_create_aggregate('account', snapshot_every => 20);
SELECT es_create_projection('totals', 'project', targets => ARRAY['total'::regclass]);
SELECT es_create_projection('daily', targets => ARRAY['daily'::regclass], types => ARRAY['deposited'],
	query => 'INSERT INTO daily SELECT 1, sum((data ->> ''amount'')::bigint) FROM es_new_events
		ON CONFLICT (day) DO UPDATE SET amount = daily.amount + excluded.amount');

-- one transaction for each of some commands, on some hundred streams
CREATE PROCEDURE work(commands int, streams int) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1..commands LOOP
		PERFORM es_dispatch(ROW(n % streams, 1)::deposit, command_id => CASE WHEN n % 3 = 0 THEN gen_random_uuid() END);
		COMMIT;
	END LOOP;
END $$;

-- as above; every tenth fails in an exception block, every hundredth after a dispatch that succeeded
CREATE PROCEDURE work_with_errors(commands int, streams int) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1..commands LOOP
		BEGIN
			IF n % 100 = 0 THEN
				PERFORM es_dispatch(ROW(n % streams, 1)::deposit);
			END IF;
			PERFORM es_dispatch(ROW(n % streams, CASE WHEN n % 10 = 0 THEN -1 ELSE 1 END)::deposit);
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
		COMMIT;
	END LOOP;
END $$;

-- functions and definitions are replaced in between: all that is cached is loaded again
CREATE PROCEDURE work_with_changes(changes int) LANGUAGE plpgsql AS $$
BEGIN
	FOR n IN 1..changes LOOP
		CASE n % 4
		WHEN 0 THEN
			CREATE OR REPLACE FUNCTION apply(s account, e deposited) RETURNS account LANGUAGE sql IMMUTABLE
				RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount, repeat('y', 100))::account;
		WHEN 1 THEN
			CREATE OR REPLACE FUNCTION project(e deposited) RETURNS void LANGUAGE sql AS '
				INSERT INTO total VALUES (e.id, e.amount)
					ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance';
		WHEN 2 THEN
			PERFORM es_pause('daily');
			PERFORM es_resume('daily');
		WHEN 3 THEN
			CREATE OR REPLACE FUNCTION unrelated() RETURNS int LANGUAGE sql AS 'SELECT 1';
		END CASE;
		COMMIT;
		FOR i IN 1..5 LOOP
			PERFORM es_dispatch(ROW(i, 1)::deposit);
			PERFORM es_state('account', i::text), es_state(NULL::account, i::text);
			COMMIT;
		END LOOP;
	END LOOP;
END $$;
SQL

# Each kind of work is done once to fill the caches, then again and again; what
# the later rounds add must be next to nothing.  (The cache of states may grow to
# its size; a small one is full from the first round on.)
$session->query_safe(q{SET event_sourcing.cache_size = '64kB'});
foreach my $work (
	[ 'CALL work(' . fewer(2000) . ', 200)', 'CALL work(' . fewer(20000) . ', 200)', '20,000 commands' ],
	[ 'CALL work_with_errors(' . fewer(2000) . ', 200)', 'CALL work_with_errors(' . fewer(10000) . ', 200)', '10,000 commands with errors' ],
	[ 'CALL work_with_changes(' . fewer(100) . ')', 'CALL work_with_changes(' . fewer(1000) . ')', '1,000 changes of functions and definitions' ],
	[   q{SELECT count(*) FROM es_read_all(max_count => 1000)},
		'SELECT count(c) FROM generate_series(1, ' . fewer(2000) . '), LATERAL (SELECT count(*) AS c FROM es_read_all(generate_series, 100)) r',
		'2,000 reads of the feed in one statement' ],
	[   q{SELECT count(*) FROM es_history('account', '1')},
		q{SELECT count(es_state('account', (n % 200)::text)) FROM generate_series(1, } . fewer(20000) . ') n',
		'20,000 states in one statement' ])
{
	my ($first, $again, $what) = @$work;
	$session->query_safe($first);
	my $memory = memory();
	$session->query_safe($again);
	my $grown = memory() - $memory;
	note("$what: $memory bytes, grown by $grown");
	cmp_ok($grown, '<', 256 * 1024, "$what: memory does not grow");
}

# With more streams than the cache has room for, the states are right.
$session->query_safe('CALL work(' . fewer(5000) . ', ' . fewer(2500) . ')');
my $states = $session->query_safe(q{SELECT sum(total_bytes) FROM pg_backend_memory_contexts WHERE name = 'event_sourcing states'});
note("the cache of states: $states bytes");
cmp_ok($states, '<', 4 * 64 * 1024, 'the cache of states keeps to its size');
is($session->query_safe(q{SELECT sum((es_state(NULL::account, id)).balance) = sum(balance) FROM total}), 't', 'the states are right');

# The longest transaction: as many commands, nothing committed in between.
$session->query_safe(q{RESET event_sourcing.cache_size});
$session->query_safe(q{BEGIN});
$session->query_safe(q{SELECT count(es_dispatch(ROW(n % 100, 1)::deposit)) FROM generate_series(1, 2000) n});
$before = memory();
$session->query_safe(q{SELECT count(es_dispatch(ROW(n % 100, 1)::deposit)) FROM generate_series(1, 10000) n});
$after = memory();
note('10,000 commands in one transaction: grown by ' . ($after - $before));
cmp_ok($after - $before, '<', 2 * 1024 * 1024, '10,000 commands in one transaction: memory hardly grows');
$session->query_safe(q{COMMIT});

is($node->safe_psql('postgres', 'SELECT * FROM oracle.log_problems() UNION ALL SELECT * FROM oracle.projection_problems()
	UNION ALL SELECT * FROM oracle.receipt_problems()'), '', 'log, receipts and projections agree');

$session->quit;
$node->stop;
done_testing();
