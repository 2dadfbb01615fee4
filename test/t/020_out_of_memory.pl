# Out of memory, at every point where there may be none.
#
# One session's address space is limited to a little more than it has: a call that
# needs more fails with 53200.  The limit is lifted, the session goes on, and nothing
# of the call is there.  Then it gets a little more room than before, and so on until
# the call comes to its end: so the memory has run out at one place after the other,
# first in a session that has nothing in its caches yet, then in one that has.  In the
# end what is cached is what a fold from zero gives.
#
# Environment: ES_MEMORY_STEPS  how much finer the steps are than by default (1)
#
# Skipped where there is no prlimit (util-linux) or no /proc, and with a sanitizer.

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# Limit a process's address space, softly: it is lifted again.
sub limit
{
	my ($pid, $bytes) = @_;
	return run_log([ 'prlimit', '--pid', $pid, "--as=$bytes:" ], '>', '/dev/null', '2>&1');
}

# How large it is, in bytes.
sub address_space
{
	my ($pid) = @_;
	open my $status, '<', "/proc/$pid/status" or return 0;
	my ($kb) = map { /^VmSize:\s+(\d+)/ ? $1 : () } <$status>;
	return ($kb || 0) * 1024;
}

plan skip_all => 'cannot limit the memory of a process here'
  unless address_space($$) && `prlimit --version 2>/dev/null` && limit($$, 'unlimited');

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
# The C library keeps nothing in stock: whatever is allocated is asked of the system,
# and what is freed is given back.
$ENV{MALLOC_TOP_PAD_} = 0;
$ENV{MALLOC_MMAP_THRESHOLD_} = 4096;
$node->start;
# A tool that watches the server's memory needs much itself, and ends the process when
# it can have no more: the shadow of AddressSanitizer alone is 20 TB.
my ($postmaster) = slurp_file($node->data_dir . '/postmaster.pid') =~ /^(\d+)/;
plan skip_all => 'the server runs with a sanitizer' if address_space($postmaster) > 2**40;
plan skip_all => 'the server runs under valgrind' if readlink("/proc/$postmaster/exe") =~ /valgrind/;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE plpgsql AS $$
BEGIN
	RETURN ROW(c.id, c.amount)::deposited;
END $$;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;

-- a state that becomes large
CREATE TYPE diary AS (id text, entries text[]);
CREATE TYPE note_down AS (id text, entry text);
CREATE TYPE noted AS (id text, entry text);
CREATE FUNCTION execute(s diary, c note_down) RETURNS noted LANGUAGE sql RETURN ROW(c.id, c.entry)::noted;
CREATE FUNCTION apply(s diary, e noted) RETURNS diary LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
	s.id := e.id;
	s.entries := s.entries || e.entry;
	RETURN s;
END $$;
SELECT es_create_aggregate('account', snapshot_every => 2), es_create_aggregate('diary', snapshot_every => 0);

CREATE TABLE total (id text PRIMARY KEY, balance bigint);
CREATE TABLE tally (type text PRIMARY KEY, events bigint);
CREATE TABLE later (type text PRIMARY KEY, events bigint);
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
$$;
CREATE FUNCTION tally(target text) RETURNS text LANGUAGE sql RETURN
	format('INSERT INTO %1$s SELECT type, count(*) FROM es_new_events GROUP BY type
		ON CONFLICT (type) DO UPDATE SET events = %1$s.events + excluded.events', target);
SELECT es_create_projection('total', 'project', targets => '{total}'),
	es_create_projection('tally', targets => '{tally}', query => tally('tally')),
	es_create_projection('later', mode => 'async', targets => '{later}', query => tally('later'));

SELECT count(es_dispatch(ROW(n % 5, n)::deposit)) FROM generate_series(1, 50) n;
SELECT version FROM es_append('diary-large', ARRAY(SELECT es_new_event(ROW('large', repeat('x', 8000))::noted) FROM generate_series(1, 150)));
SELECT es_run();

CREATE FUNCTION descend(n int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE WHEN n > 0 THEN descend(n - 1) ELSE 0 END;
END $$;
SQL
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

my ($session, $pid);

sub open_session
{
	$session->quit if $session;
	$session = $node->background_psql('postgres', on_error_stop => 0);
	$session->query_safe('\set VERBOSITY verbose');
	$pid = $session->query_safe('SELECT pg_backend_pid()');
	# a stack that could not grow would end the process; it does not shrink
	$session->query_safe(q{SELECT descend(100); LOAD 'event_sourcing'});
	return;
}

# The SQLSTATE of a call, and its answer.
sub answer
{
	my ($sql) = @_;
	my ($answer, $state) = $session->query("$sql;\n\\echo # :SQLSTATE") =~ /^(.*?)\n?# (\S+)$/s;
	note($session->{stderr}) if $state ne '00000';
	$session->{stderr} = '';
	return ($state, $answer);
}

my $log = q{SELECT count(*), COALESCE(sum(hashtext(stream || type)), 0), (SELECT count(*) FROM es.receipt), (SELECT sum(balance) FROM total),
	(SELECT sum(events) FROM tally), (SELECT sum(events) FROM later), (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory') FROM es.event};

# Call something with more and more room, in steps of so many bytes, until it succeeds.
# Returns how often it has failed.
sub with_more_and_more
{
	my ($what, $sql, $step, $cold) = @_;
	my %states;
	my $failed = 0;
	my $before = $node->safe_psql('postgres', $log);
	my $changed = 0;

	foreach my $steps (0 .. 10_000)
	{
		open_session() if $cold;
		limit($pid, address_space($pid) + $steps * $step) or die 'could not limit it';
		my ($state) = answer($sql);
		limit($pid, 'unlimited') or die 'could not lift the limit';
		$states{$state}++;
		last if $state eq '00000';
		$failed++;
		$changed++ if $node->safe_psql('postgres', $log) ne $before || (answer(q{SELECT es_stream_version('account-1')}))[0] ne '00000';
	}
	is(join(' ', sort keys %states), $failed ? '00000 53200' : '00000', "$what: fails for want of memory until it succeeds, after $failed attempts");
	is($changed, 0, "$what: an attempt that fails changes nothing, and the session goes on");
	return $failed;
}

# with a step in kB, and whether it is worth the while in new sessions, too
my @work = (
	[ 'a command', q{SELECT version FROM es_dispatch(ROW('1', 1)::deposit, command_id => gen_random_uuid())}, 96, 1 ],
	[ 'a state', q{SELECT cardinality((es_state(NULL::diary, 'large')).entries)}, 512, 1 ],
	[ 'a batch', q{SELECT es_run() >= 0}, 128, 1 ],
	[ 'a command on a large state', q{SELECT version FROM es_dispatch(ROW('large', 'y')::note_down)}, 1024, 0 ],
	[ 'an append of many events', q{SELECT version FROM es_append('many', array_fill(es_new_event('t', '{"n": 1}'), ARRAY[1000]))}, 512, 0 ],
	[ 'an append of a large event', q{SELECT version FROM es_append('large', 't', jsonb_build_object('text', repeat(md5('x'), 100000)))}, 3072, 0 ],
	[ 'reading the feed', q{SELECT max(position) FROM es_read_all(max_count => NULL)}, 1024, 0 ],
	[ 'a rebuild', q{SELECT es_rebuild_projection('tally')}, 256, 0 ]);

my $finer = $ENV{ES_MEMORY_STEPS} || 1;
my $failed = 0;
foreach (grep { $_->[3] } @work)
{
	my ($what, $sql, $step) = @$_;
	$failed += with_more_and_more("$what in a new session", $sql, $step * 1024 / $finer, 1);
}
open_session();
foreach (@work)
{
	my ($what, $sql, $step) = @$_;
	$failed += with_more_and_more($what, $sql, $step * 1024 / $finer, 0);
}
note("$failed calls failed");
cmp_ok($failed, '>', 20, 'that was often');

# What is in the session's caches is so.
foreach my $id (0 .. 4)
{
	is((answer("SELECT state = es_state('account', '$id') AND state = to_jsonb(es_state(NULL::account, '$id')) FROM es_history('account', '$id') ORDER BY version DESC LIMIT 1"))[1],
		't', "account $id: cached as folded from zero");
}
is((answer(q{SELECT state = es_state('diary', 'large') FROM es_history('diary', 'large') ORDER BY version DESC LIMIT 1}))[1],
	't', 'so is the large one');
$session->query_safe('SELECT es_run()');
is($session->query_safe(q{SELECT * FROM oracle.log_problems() UNION ALL SELECT * FROM oracle.sequence_problems()
	UNION ALL SELECT * FROM oracle.receipt_problems() UNION ALL SELECT * FROM oracle.projection_problems()}), '',
	'log, receipts and projections agree');
is($session->query_safe(q{SELECT type, events FROM later EXCEPT SELECT type, count(*) FROM es.event GROUP BY type}), '', 'and so does what was done later');
$session->quit;

is(join("\n", grep { /WARNING|PANIC|TRAP|terminated by signal|still referenced|leak/ } split /\n/, slurp_file($node->logfile)),
	'', 'the server warns of nothing');
$node->stop;
done_testing();
