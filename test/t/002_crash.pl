# Crashes under load: what was acknowledged is there, what was not is there
# wholly or not at all, and everything that is derived agrees with the log.
#
# Clients append, dispatch, and do both in transactions over several streams with
# savepoints that they go back to; each event and command has an id of its own, and
# they note what the server acknowledges.  Beside them one runs the async projections,
# one forgets old receipts, and one follows the feed.  The server is stopped at once,
# or any one of its processes is killed, in the middle of it.  After the recovery every
# client does what a client must: it sends everything again that it is not sure of, and
# more.  Each command must have happened once, with the result acknowledged.  The
# follower goes on behind the last position that it has read, crash after crash.
#
# Environment: ES_CRASH_ROUNDS  how many crashes (default 4)

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{ES_CRASH_ROUNDS} || 4;
my $clients = 4;
my $commands = 10000;    # per client and round; more than it can do until the crash

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
max_prepared_transactions = 5
restart_after_crash = on
synchronous_commit = on
event_sourcing.retry_delay = '1ms'
CONF
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
SELECT es_create_aggregate('account', snapshot_every => 5);

-- Read models in the appends' own transactions, and later; by handlers, and of sets.
CREATE TABLE total (id text PRIMARY KEY, balance bigint);
CREATE TABLE total_later (LIKE total INCLUDING ALL);
CREATE TABLE tally (type text PRIMARY KEY, events bigint, positions numeric);
CREATE TABLE tally_later (LIKE tally INCLUDING ALL);
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
END;
CREATE FUNCTION project_later(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total_later VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total_later.balance + excluded.balance;
$$;
CREATE FUNCTION tally(target text) RETURNS text LANGUAGE sql RETURN
	format('INSERT INTO %1$s SELECT type, count(*), sum(position) FROM es_new_events GROUP BY type
		ON CONFLICT (type) DO UPDATE SET events = %1$s.events + excluded.events,
			positions = %1$s.positions + excluded.positions', target);
SELECT es_create_projection('total', 'project', targets => '{total}'),
	es_create_projection('tally', targets => '{tally}', query => tally('tally'), categories => '{account,log}'),
	es_create_projection('total_later', 'project_later', mode => 'async', targets => '{total_later}'),
	es_create_projection('tally_later', mode => 'async', targets => '{tally_later}', query => tally('tally_later'));

-- what the clients were told, and what the follower has read
CREATE TABLE acknowledged (round int, id uuid, stream text, version bigint, position bigint);
CREATE TABLE followed (number bigserial, position bigint, stream text, version bigint);
SQL
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

my $seed = srand;
note("seed $seed");

# ---------------------------------------------------------------------------
# Clients
# ---------------------------------------------------------------------------

# A client's command, which gives one line; its first column is the id.  Accounts are
# shared by all clients, some of them by all rounds; the other streams belong to one
# client and round.
sub statement
{
	my ($round, $client, $i) = @_;
	my $id = "md5('$round $client $i')::uuid";
	my $account = ($client + $i) % 7;
	$account = "$round.$account" if $account > 1;
	my $result = "$id AS id, stream, version, position";

	return (
		"SELECT $result FROM es_dispatch(ROW('$account', $i)::deposit, command_id => $id);\n",
		"SELECT $result FROM es_append('log-$round-$client', ARRAY[es_new_event('t', event_id => $id)]);\n",
		"SELECT $result FROM es_dispatch('deposit', jsonb_build_object('id', '$account', 'amount', $i), command_id => $id);\n",
		# two streams, all or nothing, and what was taken back to a savepoint never; the
		# second has the first one's id for its cause
		"BEGIN;\nSELECT $result FROM es_append('pair-$round-$client', ARRAY[es_new_event('t', event_id => $id)]) \\gset\n"
		  . "SAVEPOINT s;\nSELECT version AS v FROM es_append('pair-$round-$client', 'taken back', '{}') \\gset\n"
		  . "SELECT version AS v FROM es_dispatch(ROW('$account', 1000000)::deposit) \\gset\nROLLBACK TO s;\n"
		  . "SELECT version AS v FROM es_dispatch(ROW('$account', $i)::deposit, command_id => $id) \\gset\n"
		  . "COMMIT;\n\\echo :id|:stream|:version|:position\n")[ $i % 4 ];
}

my $dir = PostgreSQL::Test::Utils::tempdir;

sub start_psql
{
	my ($name, $script) = @_;
	my $file = "$dir/$name";

	unlink glob("$file.*");
	append_to_file("$file.sql", $script);
	return IPC::Run::start([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$file.sql" ],
		'>', "$file.out", '2>', "$file.err");
}

# Start the clients, each with that many of its commands.
my @process;

sub start_clients
{
	my ($round, @counts) = @_;

	foreach my $client (0 .. $clients - 1)
	{
		$process[$client] = start_psql("client$client", join('', map { statement($round, $client, $_) } 1 .. $counts[$client]));
	}
	return;
}

# Wait until they have ended; returns the lines that the server acknowledged,
# for each client, and what went wrong.
sub finish_clients
{
	$_->finish foreach @process;
	# a line that was cut off is no acknowledgement
	return (
		[ map { [ slurp_file("$dir/client$_.out") =~ /^(.*)\n/mg ] } 0 .. $clients - 1 ],
		[ map { slurp_file("$dir/client$_.err") } 0 .. $clients - 1 ]);
}

# Who keeps the read models up to date, and who forgets receipts of earlier rounds, a
# few at a time: they have got random ages.
sub start_helpers
{
	return (
		start_psql('runner', "SELECT es_run(100);\n" x 20_000),
		start_psql('pruner', join('', map { sprintf("SELECT es_prune_receipts('%d s');\nSELECT pg_sleep(0.01);\n", 7200 - $_ * 5) } 1 .. 1000)));
}

# Who follows the feed, from the last position that it has read.  It is outside of the
# database: nothing that it has read can be taken back.
my $followed = 0;

sub start_follower
{
	return start_psql('follower', "\\set last $followed\n" . join('', (
		"SELECT COALESCE(max(position), :last) AS last, COALESCE(string_agg(concat_ws('|', position, stream, version), ' ' ORDER BY position), '') AS batch\n"
		  . "FROM es_read_all(:last, 100) \\gset\n\\echo :batch\nSELECT pg_sleep(0.002) \\gset\n") x 10_000));
}

# Write down what it has read; returns how many events it was.
sub finish_follower
{
	my ($follower) = @_;
	my @events;

	$follower->finish;
	foreach my $event (map { split / / } slurp_file("$dir/follower.out") =~ /^(.+)\n/mg)
	{
		my ($position) = $event =~ /^(\d+)/;
		die "position $position was read after $followed" if $position <= $followed;
		$followed = $position;
		push @events, "(" . join(', ', map { /\D/ ? "'$_'" : $_ } split /\|/, $event) . ")";
	}
	$node->safe_psql('postgres', 'INSERT INTO followed (position, stream, version) VALUES ' . join(', ', @events)) if @events;
	return scalar @events;
}

# ---------------------------------------------------------------------------
# What must hold after each crash
# ---------------------------------------------------------------------------

sub none
{
	my ($query, $what) = @_;
	is($node->safe_psql('postgres', $query), '', $what);
	return;
}

# All that is linear in the log, in one session after the other: each state as that
# session folds it, from wherever it starts, and as it is folded from zero.
my $agree = q{
	SELECT es_run() \gset
	SELECT * FROM oracle.log_problems() UNION ALL SELECT * FROM oracle.sequence_problems()
	UNION ALL SELECT * FROM oracle.receipt_problems() UNION ALL SELECT * FROM oracle.projection_problems();
	WITH folded AS MATERIALIZED (
		SELECT id, h.version, h.state, max(h.version) OVER (PARTITION BY id) AS last
		FROM (SELECT substr(stream, 9) AS id FROM es.event WHERE version = 1 AND stream ^@ 'account-') a, es_history('account', id) h)
	SELECT 'state', id, version, es_state('account', id), state FROM folded
		WHERE version = last AND (version <> es_stream_version('account-' || id) OR es_state('account', id) IS DISTINCT FROM state)
	UNION ALL
	SELECT 'state snapshot', id, version, s.state, folded.state FROM folded JOIN es.snapshot s USING (version)
		WHERE s.stream = 'account-' || id AND s.state IS DISTINCT FROM folded.state;
	SELECT 'snapshot of nothing', stream FROM es.snapshot s WHERE NOT EXISTS (
		SELECT FROM es.event e WHERE e.stream = s.stream AND e.version = s.version AND e.position = s.position);
	SELECT 'total', * FROM (TABLE total EXCEPT ALL TABLE total_later) t;
	SELECT 'total', id, balance FROM total EXCEPT ALL
		SELECT 'total', data ->> 'id', sum((data ->> 'amount')::int) FROM es.event WHERE type = 'deposited' GROUP BY 2};

foreach my $round (1 .. $rounds)
{
	my $kill = $round % 2 == 0;
	my $prepared = $round % 4 == 1 || $round % 4 == 2;

	# A transaction that is prepared now is still there after the crash.  (It holds the
	# feed back, so that in these rounds the follower reads only afterwards.)
	$node->safe_psql('postgres',
		"BEGIN; SELECT es_append('prepared', ARRAY[es_new_event('t')]); PREPARE TRANSACTION 'across the crash'") if $prepared;
	my $bound = $node->safe_psql('postgres', 'SELECT lower_bound FROM es_inflight');

	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM es.event');
	start_clients($round, ($commands) x $clients);
	my @helpers = start_helpers();
	my $follower = start_follower();
	my $events = $before + 500 + int(rand(700));
	$node->poll_query_until('postgres', "SELECT count(*) > $before + 300 FROM es.event") or die 'no load';
	$node->safe_psql('postgres', 'CHECKPOINT') if $round % 3 == 0;
	$node->poll_query_until('postgres', "SELECT count(*) > $events FROM es.event") or die 'no load';
	usleep(rand(100_000));

	my $how = 'the server is stopped at once';
	if ($kill)
	{
		# any process at all: a client's, mostly, or one of the server's own
		my ($pid, $type) = split /\|/, $node->safe_psql('postgres', q{
			SELECT pid, backend_type FROM pg_stat_activity WHERE pid <> pg_backend_pid() ORDER BY random() LIMIT 1});
		$how = "a $type is killed";
		kill 'KILL', $pid or die "could not kill $pid";
	}
	else
	{
		$node->stop('immediate');
	}
	my ($lines, $errors) = finish_clients();
	$_->finish foreach @helpers;
	$node->start unless $kill;
	$node->poll_query_until('postgres', 'SELECT true') or die 'no recovery';

	# Everything acknowledged is there, as it was acknowledged.
	my @acknowledged = map { @$_ } @$lines;
	my $values = join(', ', map { "($round, '" . join("', '", split(/\|/)) . "')" } @acknowledged);
	my $read = finish_follower($follower);
	note("round $round: $how after " . @acknowledged . " commands, of which the follower has read $read events");
	cmp_ok(scalar(@acknowledged), '>', 200, "round $round: the clients were at work when $how");
	is(scalar(grep { /server/ } @$errors), $clients, "round $round: every client noticed");
	$node->safe_psql('postgres', "INSERT INTO acknowledged VALUES $values");
	none('SELECT id FROM acknowledged a WHERE NOT EXISTS (SELECT FROM es.event e WHERE e.stream = a.stream AND e.version = a.version
			AND e.position = a.position AND a.id IN (e.event_id, e.causation_id))',
		"round $round: everything acknowledged is there");
	none("SELECT id FROM acknowledged a WHERE round = $round AND stream ~ '^(account|pair)-'
			AND (SELECT count(*) FROM es.event e WHERE e.causation_id = a.id) + (SELECT count(*) FROM es.receipt r WHERE r.command_id = a.id) <> 2",
		"round $round: each command acknowledged has its event once, and a receipt");
	none("SELECT causation_id FROM es.event e WHERE causation_id IS NOT NULL AND stream ^@ 'account-$round.'
			AND NOT EXISTS (SELECT FROM es.receipt r WHERE r.command_id = e.causation_id)",
		"round $round: no event is without its receipt");
	none("SELECT position FROM es.event p WHERE stream ^@ 'pair-$round-' AND NOT EXISTS (SELECT FROM es.event e WHERE e.causation_id = p.event_id)
			UNION ALL SELECT position FROM es.event WHERE type = 'taken back' OR data ->> 'amount' = '1000000'",
		"round $round: a transaction is there wholly or not at all, without what it took back");

	if ($prepared)
	{
		# The prepared transaction holds its stream and the mark as before.
		is($node->safe_psql('postgres', 'SELECT prepared, lower_bound FROM es_inflight'),
			"across the crash|$bound", "round $round: the prepared transaction is still in flight");
		is($node->safe_psql('postgres', 'SELECT es_high_water()'), $bound, "round $round: it holds the mark");
		my ($rc, $out, $err) = $node->psql('postgres',
			"SET lock_timeout = '10ms'; SELECT es_append('prepared', ARRAY[es_new_event('t')])");
		like($err, qr/lock timeout/, "round $round: it holds its stream");
		$node->safe_psql('postgres', ($round % 4 == 1 ? 'COMMIT' : 'ROLLBACK') . " PREPARED 'across the crash'");
	}

	# No position that anybody has seen is drawn again.
	is( $node->safe_psql('postgres',
			"SELECT position > (SELECT max(position) FROM es.event) AND position > $followed FROM es_append('next', ARRAY[es_new_event('t')])"),
		't', "round $round: the next position is above the last");
	none($agree, "round $round: the log, the states, the receipts and the projections agree");

	# The clients send all again, and the commands that they are in doubt of.
	start_clients($round, map { @$_ + 1 } @$lines);
	(my $again, $errors) = finish_clients();
	is(join('', @$errors), '', "round $round: the retries run without an error");
	foreach my $client (0 .. $clients - 1)
	{
		pop @{ $again->[$client] };
		is_deeply($again->[$client], $lines->[$client], "round $round: client $client gets the results that it got");
	}
	none("SELECT causation_id FROM es.event WHERE type = 'deposited' GROUP BY causation_id HAVING count(*) > 1
			UNION ALL SELECT event_id FROM es.event GROUP BY event_id HAVING count(*) > 1",
		"round $round: nothing has happened twice");
	none($agree, "round $round: all agree again");

	# what the pruner may forget in the next round
	$node->safe_psql('postgres', q{UPDATE es.receipt SET recorded_at = now() - random() * interval '2 hours'});
}

# The follower reads what is left, and has read every event once, in order.
my $last = $node->safe_psql('postgres', 'SELECT max(position) FROM es.event');
my $follower = start_follower();
usleep(10_000) while $follower->pumpable && slurp_file("$dir/follower.out") !~ /^(.* )?$last\|.*\n/m;
$follower->kill_kill;
finish_follower($follower);
none('SELECT position, stream, version FROM es.event EXCEPT ALL SELECT position, stream, version FROM followed',
	'the follower has missed nothing');
none('SELECT position, stream, version FROM followed EXCEPT ALL SELECT position, stream, version FROM es.event',
	'it has read nothing twice, and nothing that is not there');
note('it has read ' . $node->safe_psql('postgres', 'SELECT count(*) FROM followed') . ' events');
cmp_ok($node->safe_psql('postgres', 'SELECT count(*) FROM es.receipt'), '<',
	$node->safe_psql('postgres', q{SELECT count(*) FROM es.event WHERE type = 'deposited'}), 'some receipts were forgotten') if $rounds > 1;
is(join("\n", grep { /PANIC|TRAP|corrupt|could not read block|WARNING:  (?!terminating)/ } split /\n/, slurp_file($node->logfile)), '',
	'the server has found nothing wrong');

$node->stop;
done_testing();
