# Calls that do not come to their end: cancelled at any point, out of time, in the
# middle of a savepoint or of an exception block, or with their session.
#
# One long session calls every public function, again and again, and is sent a
# cancel request every few milliseconds, wherever it is.  Other calls run out of
# their statement_timeout or lock_timeout, while a rival holds the streams that they
# want.  An interrupted call has done nothing, and leaves nothing behind: no lock, no
# memory, no pin or snapshot that the server would warn about, and above all nothing
# in the session's caches that is not so: what it says of a state is what a fold from
# zero gives.
#
# Environment: ES_INTERRUPT_CALLS  how many calls (default 3000)

use strict;
use warnings;
use File::Basename;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $calls = $ENV{ES_INTERRUPT_CALLS} || 3000;
my $warm_up = 1000;    # calls that fill the caches
my $chunk = 250;       # calls between two looks at the session

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "event_sourcing.retry_delay = '1ms'\n");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE ROLE clerk;

-- A state by an inlined function, and commands that may be refused.
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE plpgsql AS $$
BEGIN
	IF c.amount < 0 THEN RAISE EXCEPTION 'negative'; END IF;
	RETURN ROW(c.id, c.amount)::deposited;
END $$;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;

-- A state by PL/pgSQL, and a handler in SQL that dispatches a command of its own.
CREATE TYPE teller AS (id text, transfers bigint, last text[]);
CREATE TYPE transfer AS (id text, source text, target text, amount int);
CREATE TYPE transferred AS (id text, source text, target text, amount int);
CREATE FUNCTION execute(s teller, c transfer) RETURNS transferred LANGUAGE sql AS $$
	SELECT es_dispatch(ROW(c.source, c.amount)::deposit);
	SELECT es_dispatch(ROW(c.target, c.amount)::deposit);
	SELECT ROW(c.id, c.source, c.target, c.amount)::transferred;
$$;
CREATE FUNCTION apply(s teller, e transferred) RETURNS teller LANGUAGE plpgsql AS $$
BEGIN
	s.id := e.id;
	s.transfers := COALESCE(s.transfers, 0) + 1;
	s.last := (s.last || e.source)[greatest(1, cardinality(s.last) - 5):];
	RETURN s;
END $$;

-- A state without a schema.
CREATE FUNCTION count_up(s jsonb, c es_command) RETURNS SETOF es_new_event LANGUAGE sql
	BEGIN ATOMIC SELECT es_new_event('counted', c.data) FROM generate_series(1, 3); END;
CREATE FUNCTION counted(s jsonb, e es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE
	RETURN jsonb_set(s, '{n}', to_jsonb(COALESCE((s ->> 'n')::int, 0) + 1));
SELECT es_create_aggregate('account', snapshot_every => 7), es_create_aggregate('teller', snapshot_every => 11),
	es_create_aggregate('jsonb', name => 'counter', commands => '{count}',
		execute_function => 'count_up', apply_function => 'counted');

CREATE TABLE total (id text PRIMARY KEY, balance bigint);
CREATE TABLE tally (type text PRIMARY KEY, events bigint);
CREATE TABLE total_later (id text PRIMARY KEY, balance bigint);
CREATE TABLE tally_later (type text PRIMARY KEY, events bigint);
CREATE TABLE spare (type text PRIMARY KEY, events bigint);
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
END;
CREATE FUNCTION project_later(e deposited) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO total_later VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total_later.balance + excluded.balance;
END $$;
SELECT es_create_projection('total', 'project', targets => '{total}'),
	es_create_projection('total_later', 'project_later', mode => 'async', targets => '{total_later}');
CREATE FUNCTION tally(target text) RETURNS text LANGUAGE sql RETURN
	format('INSERT INTO %1$s SELECT type, count(*) FROM es_new_events GROUP BY type
		ON CONFLICT (type) DO UPDATE SET events = %1$s.events + excluded.events', target);
SELECT es_create_projection('tally', targets => '{tally}', query => tally('tally')),
	es_create_projection('tally_later', mode => 'async', targets => '{tally_later}', query => tally('tally_later'));

-- A handler that fails now and then, and a process manager.
CREATE TABLE effect (position bigint);
CREATE FUNCTION take_effect(e deposited, envelope es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effect VALUES (envelope.position);
	IF e.amount = 13 THEN RAISE 'bad luck'; END IF;
END $$;
SELECT es_create_handler('effect', 'take_effect', max_retries => 0);
CREATE TYPE bookkeeping AS (id text, amount int);
CREATE TYPE book AS (id text, amount int);
CREATE FUNCTION route(e transferred) RETURNS es_route LANGUAGE sql RETURN ROW('start', e.id)::es_route;
CREATE FUNCTION handle(s bookkeeping, e transferred) RETURNS deposit
	LANGUAGE sql RETURN ROW('fees', 1)::deposit;
CREATE FUNCTION apply(s bookkeeping, e transferred) RETURNS bookkeeping
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.amount)::bookkeeping;
SELECT es_create_process_manager('bookkeeping');
SELECT es_create_subscription('pulled', partitions => 2);
SQL
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

# ---------------------------------------------------------------------------
# The calls
# ---------------------------------------------------------------------------

# Often: what a session does all the time.  A word in braces is replaced by a random
# value.
my @common = (
	q{SELECT es_append('log-{few}', ARRAY[es_new_event('t', '{"n": 1}'), es_new_event('u')])},
	q{SELECT es_append('log-{few}', 't', jsonb_build_object('text', repeat('x', {many})))},
	q{SELECT es_append('log-{few}', 't', '{}')},
	q{SELECT es_append('account-{few}', ROW('{few}', 1)::deposited)},
	q{SELECT es_append('log-{few}', array_agg(es_new_event(ROW(n, 2)::deposited))) FROM generate_series(1, 20) n},
	q{SELECT es_dispatch(ROW('{few}', 1)::deposit)},
	q{SELECT es_dispatch(ROW('{few}', 13)::deposit, command_id => gen_random_uuid())},
	q{SELECT es_dispatch(ROW('{same}', 2)::deposit, command_id => id), es_dispatch(ROW('{same}', 2)::deposit, command_id => id)
		FROM (SELECT gen_random_uuid() AS id OFFSET 0) command},
	q{SELECT es_dispatch('deposit', jsonb_build_object('id', '{few}', 'amount', 3))},
	q{SELECT es_dispatch('deposit', '{"id": "{few}", "amount": 4}')},
	q{SELECT es_dispatch(ROW('{few}', -1)::deposit)},
	q{SELECT es_dispatch(ROW('{few}', '{few}', '{few}', 5)::transfer)},
	q{SELECT es_dispatch('count', '{"id": "{few}"}')},
	q{SELECT count(es_dispatch(ROW(n % 10, 1)::deposit)) FROM generate_series(1, 20) n},
	q{SELECT es_state(NULL::account, '{few}'), es_state(NULL::teller, '{few}')},
	q{SELECT es_state('account', '{few}'), es_state('counter', '{few}'), es_state('account', '{few}', at_time => now() - interval '1 s')},
	q{SELECT count(*) FROM es_history('account', '{few}')},
	q{SELECT count(*) FROM es_read_stream('account-{few}')},
	q{SELECT count(*) FROM es_read_all((es_high_water() * random())::bigint, 100)},
	q{SELECT count(*) FROM es_read_all(0, 50, categories => '{account}', types => '{deposited}')},
	q{SELECT es_stream_version('account-{few}')},
	q{SELECT es_run(200)},
	q{SELECT count(es_ack('pulled', 'me', position)) FROM (SELECT max(position) AS position FROM es_fetch('pulled', 'me', 50)) p WHERE position > 0},
	q{SELECT es_nack('pulled', 'me', min(position), 'park', 'why not') FROM es_fetch('pulled', 'me', 5) HAVING min(position) > 0},
	q{SELECT count(*) FROM es_fetch('pulled', 'me', 5, '20ms')},
	q{SELECT es_wait('tally_later', (es_high_water() * random())::bigint, '3ms')},
	q{SELECT es_schedule(ROW('{few}', 6)::deposit, clock_timestamp() + '5 ms'), es_schedule('deposit', '{"id": "{few}", "amount": 1}', 'now')},
	q{SELECT es_schedule('deposit', jsonb_build_object('id', '{few}', 'amount', 3), now(), schedule_id => md5('{few}')::uuid)},
	q{SELECT es_unschedule(md5('{few}')::uuid)});

# Seldom: definitions, maintenance and what an operator looks at.
my @rare = (
	q{SELECT es_grant('clerk', 'append'), es_grant('clerk', 'dispatch')},
	q{SELECT es_revoke('clerk', 'append')},
	q{SELECT es_create_aggregate('bookkeeping', execute_function => 'other_execute'), es_drop_aggregate('bookkeeping')},
	q{SELECT es_create_projection('spare', mode => 'async', targets => '{spare}', query => tally('spare'))},
	q{SELECT es_create_projection('spare', targets => '{spare}', query => tally('spare'))},
	q{SELECT es_drop_projection('spare')},
	q{SELECT es_alter_projection('tally_later', 'inline')},
	q{SELECT es_alter_projection('tally_later', 'async')},
	q{SELECT es_pause('total'), es_resume('total')},
	q{SELECT es_pause('effect'), es_resume('effect')},
	q{SELECT es_rebuild_projection('total')},
	q{SELECT es_rebuild_projection('tally')},
	q{SELECT es_rebuild_projection('total_later')},
	q{SELECT es_rebuild_projection('tally_later')},
	q{SELECT es_verify_projection('total'), count(*) FROM es_rebuilds()},
	q{SELECT es_verify_projection('tally_later')},
	q{SELECT es_prune_receipts('0 s')},
	q{SELECT es_reset_subscription('pulled', 0)},
	q{SELECT es_replay_parked('effect'), es_replay_parked('pulled')},
	q{SELECT es_skip_parked(subscription, position) FROM es_parked_event WHERE state = 'parked' LIMIT 1},
	q{SELECT es_create_subscription('another', stream => 'log-1'), es_drop_subscription('another')},
	q{SELECT es_create_handler('another', 'take_effect'), es_drop_subscription('another')},
	q{SELECT es_create_process_manager('bookkeeping', name => 'another'), es_drop_subscription('another')},
	q{SELECT es_create_store('other')},
	q{SELECT es_upgrade_store(), es_current_store()},
	q{DROP SCHEMA IF EXISTS other CASCADE},
	q{SELECT count(*), es_category('a-b') FROM es_lint()},
	q{SELECT es_diagram()},
	q{SELECT (SELECT count(*) FROM es_subscription_status), (SELECT count(*) FROM es_parked_event), (SELECT count(*) FROM es_schedule_status)},
	q{SELECT (SELECT count(*) FROM es_aggregate_status), (SELECT count(*) FROM es_inflight)},
	q{SELECT es_wait_check('{total_later}', '1 s'), es_async_projections('account-1', '{deposited}')},
	q{SELECT es_start_worker()},
	q{SELECT es_stop_worker()},
	# whatever was cached of functions and types is not to be relied on any more
	q{CREATE OR REPLACE FUNCTION apply(s account, e deposited) RETURNS account
		LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account},
	q{ALTER TABLE es.event SET (fillfactor = 100)},
	q{DISCARD PLANS});

# These commit, and therefore come alone.
my @alone = (
	q{CALL es_dispatch_and_wait(ROW('{few}', 7)::deposit, timeout => '2ms')},
	q{CALL es_dispatch_and_wait('deposit', '{"id": "{few}", "amount": 4}', timeout => '2ms')},
	q{CALL es_dispatch_and_wait('deposit', jsonb_build_object('id', '{few}', 'amount', 1), '{tally_later}', timeout => '2ms')});

# What may come of a call, besides success: it is interrupted (57014, 55P03), the
# command is refused (P0001), the rival and the session wait for each other (40P01),
# the transaction has failed before (25P02), what is to be created is there or what is
# to be dropped is not (42710, 42704), an event is waited for in the transaction that
# appends it (55000), the lease was lost by a reset (SE008).
my %expected = map { $_ => 1 } qw(00000 57014 55P03 P0001 40P01 25P02 42710 42704 55000 SE008);

sub pick { return $_[ rand @_ ] }

sub call
{
	my $sql = $_[0] // (rand() < 0.85 ? pick(@common) : pick(@rare));
	my $same = int(rand(12));
	$sql =~ s/\{few\}/int(rand(12))/ge;
	$sql =~ s/\{same\}/$same/g;
	$sql =~ s/\{many\}/int(rand(10_000))/ge;
	return $sql;
}

# After each call its SQLSTATE is written down.
sub script
{
	return join('', map { "$_;\n" . (/^(BEGIN|COMMIT|ROLLBACK|SAVEPOINT|RELEASE|SET)/ ? '' : "\\qecho '##' :SQLSTATE\n") } @_);
}

# A call, or several in a transaction, with some way for it to end.
sub transaction
{
	my $way = rand;

	return script(rand() < 0.05 ? call(pick(@alone)) : call()) if $way < 0.4;
	return script('BEGIN', call(), 'SAVEPOINT s', call(), 'ROLLBACK TO s', call(), 'RELEASE s', call(), 'COMMIT') if $way < 0.55;
	return script('BEGIN', call(), 'SAVEPOINT s', call(), 'SAVEPOINT t', call(), 'ROLLBACK TO s', call(), 'ROLLBACK') if $way < 0.6;
	return script('BEGIN', 'SET LOCAL statement_timeout = ' . (1 + int(rand(3))), call(), 'COMMIT') if $way < 0.7;
	return script('BEGIN', 'SET LOCAL lock_timeout = 1', call(), call(), 'COMMIT') if $way < 0.8;

	# an exception block that goes on whatever has happened in it, unless it is what must never happen
	my $attempt = sub {
		return "\tBEGIN\n\t\tEXECUTE \$call\$" . call() . "\$call\$;\n\tEXCEPTION WHEN OTHERS OR query_canceled THEN\n"
		  . "\t\tIF SQLSTATE LIKE 'XX%' THEN RAISE; END IF;\n\tEND;\n";
	};
	return script("DO \$\$\nBEGIN\n" . join('', map { $attempt->() } 1 .. 3) . "END \$\$");
}

# Every public function is called, the trigger functions excepted, which the others
# make run, and what the views and es_lint() are made of.
my $called = join("\n", @common, @rare, @alone);
is( join(' ', grep { $called !~ /\b$_\b/ } split /\n/,
		$node->safe_psql('postgres', q{
			SELECT DISTINCT p.proname FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid
				JOIN pg_extension x ON d.refobjid = x.oid AND d.deptype = 'e' AND x.extname = 'event_sourcing'
			WHERE p.prorettype <> 'trigger'::regtype AND p.proname NOT IN ('es_definition', 'es_check_grant', 'es_privilege_part',
				'es_privileges', 'es_inspected_store', 'es_overload', 'es_event_type',
				'es_inline_obstacle', 'es_name_parts', 'es_subscription_states', 'es_parked_events', 'es_schedules',
				'es_aggregate_counts', 'es_wait_for_result') ORDER BY 1})),
	'', 'every public function is called');

# ---------------------------------------------------------------------------
# The session, its rival, and who interrupts it
# ---------------------------------------------------------------------------

my $seed = srand;
note("seed $seed");
my $dir = PostgreSQL::Test::Utils::tempdir;
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $pid = $session->query_safe('SELECT pg_backend_pid()');
$session->query_safe(q{SET event_sourcing.cache_size = '16kB'; SET client_min_messages = warning; \set VERBOSITY sqlstate});

# It dispatches to the same streams, and holds one or two of them for a moment.
append_to_file("$dir/rival.sql", join('', map {
	sprintf("BEGIN;\nSELECT es_dispatch(ROW('%d', 1)::deposit);\nSELECT es_append('log-%d', 't', '{}');\nSELECT pg_sleep(%f);\nCOMMIT;\n",
		rand(12), rand(12), rand(0.004)) } 1 .. 200_000));
my $rival = IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', "$dir/rival.sql" ], '>', '/dev/null', '2>', "$dir/rival.err");

# Send the session a cancel request every few milliseconds, and now and then leave it
# alone for as long as the longest calls take.  Ends with the process.
sub start_interrupting
{
	my $child = fork // die "could not fork: $!";
	return $child if $child;

	srand($seed + $_[0]);
	my $parent = getppid;
	while (getppid == $parent)
	{
		usleep(rand() < 0.1 ? rand(80_000) : rand(3_000));
		kill 'INT', $pid or last;
	}
	POSIX::_exit(0);
}

my %outcomes;    # how many calls ended with each SQLSTATE

# Make the session call something, so many times.
sub call_many
{
	my ($round, @scripts) = @_;
	my $file = "$dir/calls$round";

	append_to_file("$file.sql", join('', @scripts));
	my $interrupter = start_interrupting($round);
	$session->query("\\o $file.out\n\\i $file.sql\n\\o");
	kill 'KILL', $interrupter;
	waitpid $interrupter, 0;
	# a request on its way may still meet the next statement
	$session->query("SELECT pg_sleep(0.01)");
	$session->query("ROLLBACK");
	$session->{stderr} = '';

	my @states = slurp_file("$file.out") =~ /^## (\S+)$/mg;
	$outcomes{$_}++ foreach @states;
	return scalar @states;
}

# What every call does when nobody interrupts it.  Those that undo others come first.
my @undo = (
	q{SELECT es_drop_projection('spare')}, q{SELECT es_stop_worker()}, q{DROP SCHEMA IF EXISTS other CASCADE},
	q{SELECT es_alter_projection('tally_later', 'async')}, q{SELECT es_reset_subscription('pulled', 0)});
my @undisturbed = map { call($_) } grep { !/spare|es_alter|es_reset|-1\)::deposit/ } @rare, @common, @alone;

# The memory that the session holds when its caches are full: each call was done to its
# end since something was replaced, and what was retired is freed, as in the next
# transaction that uses the store; and PL/pgSQL keeps the plan of a statement, instead
# of making one each time, from the sixth time on.
sub contexts
{
	$session->query(join(";\n", @undo, @undisturbed, (grep { /es_grant|es_revoke/ } @undisturbed) x 6));
	$session->{stderr} = '';
	$session->query_safe(q{SELECT es_stream_version('x')});
	return $session->query_safe(q{SELECT name, count(*), sum(used_bytes) FROM pg_backend_memory_contexts GROUP BY name ORDER BY name});
}

# The sum of them.  PostgreSQL's catalog caches lie in CacheMemoryContext itself, where
# nothing of ours does, and remember for ever what was not found under an OID of a schema
# or table that is gone: some 27 kB for each store made and dropped, as much as for the
# same tables made by hand.
sub bytes
{
	my $sum = 0;
	$sum += $_ foreach map { /^(?!CacheMemoryContext\|).*\|(\d+)$/ } split /\n/, $_[0];
	return $sum;
}

my ($done, $round) = (0, 0);
my $memory;
while ($done < $calls || !defined($memory))
{
	$done += call_many(++$round, map { transaction() } 1 .. $chunk / 3);
	$memory = contexts() if !defined($memory) && $done >= $warm_up;
}
$rival->kill_kill;
my $at_end = contexts();

note("$done calls: " . join(', ', map { "$_ $outcomes{$_}" } sort keys %outcomes));
is(join(' ', grep { !$expected{$_} } sort keys %outcomes), '', 'every call has ended as it may');
cmp_ok($outcomes{'57014'} || 0, '>', $done / 50, 'many were interrupted');
cmp_ok($outcomes{'00000'} || 0, '>', $done / 5, 'many were not');
cmp_ok($outcomes{'55P03'} || 0, '>', 0, 'some have not got their lock in time');

# ---------------------------------------------------------------------------
# What is left behind
# ---------------------------------------------------------------------------

is($node->safe_psql('postgres', "SELECT count(*) FROM pg_locks WHERE pid = $pid"), '0', 'no lock');
is($node->safe_psql('postgres', "SELECT backend_xid, backend_xmin FROM pg_stat_activity WHERE pid = $pid"), '|', 'no snapshot');

my $grown = bytes($at_end) - bytes($memory);
note('memory: ' . bytes($memory) . " bytes after the first thousand, grown by $grown");
cmp_ok($grown, '<', 256 * 1024, 'no memory');
my %before = map { /^(.*)\|(\d+\|\d+)$/ } split /\n/, $memory;
foreach (split /\n/, $at_end)
{
	my ($name, $now) = /^(.*)\|(\d+\|\d+)$/;
	note("$name: from " . ($before{$name} // '0|0') . " to $now") if ($before{$name} // '') ne $now;
}

# Each function does what it has to, in this session.
$session->query($_) foreach @undo;
$session->{stderr} = '';
foreach my $sql (@undisturbed)
{
	$session->query($sql);
	is($session->{stderr}, '', "afterwards: $sql");
	$session->{stderr} = '';
}
$session->query_safe('SELECT es_stop_worker()');
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'event_sourcing worker'})
  or die 'the worker goes on';

# What is in the caches is so.  The session itself says so, of its own cache.
my $consistent = q{SELECT * FROM oracle.log_problems() UNION ALL SELECT * FROM oracle.sequence_problems()
	UNION ALL SELECT * FROM oracle.receipt_problems() UNION ALL SELECT * FROM oracle.projection_problems()};
$session->query_safe('SELECT es_run()');
is($session->query_safe($consistent), '', 'log, receipts and projections agree');
is( $session->query_safe(q{
		SELECT aggregate, id, state, folded
		FROM (SELECT a.name AS aggregate, substr(e.stream, length(a.stream_prefix) + 1) AS id
			FROM es.aggregate a JOIN es.event e ON e.version = 1 AND e.stream ^@ a.stream_prefix) s,
			LATERAL (SELECT es_state(aggregate, id) AS state) now,
			LATERAL (SELECT state AS folded FROM es_history(aggregate, id) ORDER BY version DESC LIMIT 1) f
		WHERE state IS DISTINCT FROM folded}),
	'', 'states in the cache are folds from zero');
is( $node->safe_psql('postgres', q{
		SELECT s.stream, s.version FROM es.snapshot s JOIN es.aggregate a ON a.name = s.aggregate,
			LATERAL (SELECT state FROM es_history(a.name, substr(s.stream, length(a.stream_prefix) + 1)) h WHERE h.version = s.version) h
		WHERE s.state IS DISTINCT FROM h.state}),
	'', 'state snapshots are folds from zero');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM es.snapshot'), '>', 0, 'there are some');
is( $session->query_safe(q{SELECT position FROM effect GROUP BY position HAVING count(*) > 1
		UNION ALL SELECT position FROM effect EXCEPT SELECT position FROM es.event}),
	'', 'no event has had its effect twice');
is($node->safe_psql('postgres', 'SELECT count(*) FROM es_read_all(max_count => NULL)'),
	$node->safe_psql('postgres', 'SELECT count(*) FROM es.event'), 'nothing holds the feed back');
$session->quit;

# ---------------------------------------------------------------------------
# Interrupted while it plans
# ---------------------------------------------------------------------------

# A statement of the store's own that fails, each time, while it is planned: what was
# prepared for it does not stay in the session.
$node->safe_psql('postgres', q{
	CREATE FUNCTION fail() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'not now'; END $$;
	ALTER TABLE es.receipt ADD COLUMN extra int;
	ALTER TABLE es.receipt ALTER COLUMN extra SET DEFAULT fail()});
my $planner = $node->background_psql('postgres', on_error_stop => 0);
my $failing = q{DO $$
DECLARE
	failed int := 0;
BEGIN
	FOR i IN 1..100 LOOP
		BEGIN
			PERFORM es_dispatch(ROW('1', 1)::deposit, command_id => gen_random_uuid());
		EXCEPTION WHEN raise_exception THEN failed := failed + 1;
		END;
	END LOOP;
	ASSERT failed = 100;
END $$};
my $plans = q{SELECT count(*) FROM pg_backend_memory_contexts WHERE name IN ('SPI Plan', 'CachedPlanSource')};
$planner->query_safe($failing);
my $before = $planner->query_safe($plans);
$planner->query_safe($failing);
is($planner->query_safe($plans), $before, 'a statement that cannot be planned leaves no plan behind');
$node->safe_psql('postgres', 'ALTER TABLE es.receipt DROP COLUMN extra');
$planner->query_safe(q{SELECT es_dispatch(ROW('1', 1)::deposit, command_id => gen_random_uuid())});
is($planner->query_safe('SELECT * FROM oracle.receipt_problems()'), '', 'and works when it can');
$planner->quit;

# ---------------------------------------------------------------------------
# The session itself ends
# ---------------------------------------------------------------------------

# It stays in a transaction for too long, and is ended by the server.  What it held,
# others get; what it did is not.
foreach my $timeout ('idle_in_transaction_session_timeout', $node->pg_version >= 17 ? 'transaction_timeout' : ())
{
	my $idle = $node->background_psql('postgres', on_error_stop => 0);
	my $idle_pid = $idle->query_safe('SELECT pg_backend_pid()');
	my $version = $node->safe_psql('postgres', q{SELECT es_stream_version('account-1')});

	$idle->query(qq{SET $timeout = '300ms';\nBEGIN;\nSELECT es_dispatch(ROW('1', 1)::deposit)});
	ok($node->poll_query_until('postgres', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $idle_pid)"),
		"$timeout: the session ends");
	is($node->safe_psql('postgres', q{SELECT es_stream_version('account-1'), (SELECT count(*) FROM es_inflight)}),
		"$version|0", "$timeout: nothing of it is there, nor in flight");
	is( $node->safe_psql('postgres', q{SET lock_timeout = '10s'; SELECT version FROM es_dispatch(ROW('1', 1)::deposit)}),
		$version + 1, "$timeout: its stream is free");
	eval { $idle->{run}->kill_kill };
}

# ---------------------------------------------------------------------------
# What the server says of it
# ---------------------------------------------------------------------------

# (A BEGIN may be cancelled like everything else: what comes then is not in a
# transaction.)
my @said = grep { /WARNING|PANIC|TRAP|leak|still referenced|terminated by signal/
	  && !/WARNING:  (there is no transaction in progress|SET LOCAL can only be used in transaction blocks)/ } split /\n/, slurp_file($node->logfile);
is(join("\n", @said), '', 'the server warns of nothing');

$node->stop;
done_testing();
