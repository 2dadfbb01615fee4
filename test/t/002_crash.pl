# Crashes under load: what was acknowledged is there, what was not is there
# wholly or not at all, and everything that is derived agrees with the log.
#
# Clients append and dispatch, each event and command with an id of its own, and
# note what the server acknowledges.  The server is stopped at once, or one of
# its processes is killed, in the middle of it.  After the recovery every client
# does what a client must: it sends everything again that it is not sure of, and
# more.  Each command must have happened once, with the result acknowledged.
#
# Environment: ES_CRASH_ROUNDS  how many crashes (default 3)

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{ES_CRASH_ROUNDS} || 3;
my $clients = 4;
my $commands = 20000;    # per client and round; more than it can do until the crash

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 5\nrestart_after_crash = on\n");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE TABLE total (id text PRIMARY KEY, balance bigint);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
END;
SELECT es_create_aggregate('account', snapshot_every => 50);
SELECT es_create_projection('totals', 'project', targets => ARRAY['total'::regclass]);

-- what the clients were told
CREATE TABLE acknowledged (id uuid, stream text, version bigint, position bigint);
SQL
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

# The statement of a client's command; its first column is the id.  Accounts are
# shared by all clients, the other streams belong to one client and round.
sub statement
{
	my ($round, $client, $i) = @_;
	my $id = "md5('$round $client $i')::uuid";
	my $account = ($client + $i) % 7;

	return $i % 3
	  ? "SELECT $id, stream, version, position FROM es_dispatch(ROW('$account', $i)::deposit, command_id => $id);\n"
	  : "SELECT $id, stream, version, position FROM es_append('log-$round-$client', ARRAY[es_new_event('t', event_id => $id)]);\n";
}

# Start the clients, each with that many of its commands.
my $dir = PostgreSQL::Test::Utils::tempdir;
my @process;

sub start_clients
{
	my ($round, @counts) = @_;

	foreach my $client (0 .. $clients - 1)
	{
		my $file = "$dir/client$client";
		unlink glob("$file.*");
		append_to_file("$file.sql", join('', map { statement($round, $client, $_) } 1 .. $counts[$client]));
		$process[$client] = IPC::Run::start(
			[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$file.sql" ],
			'>', "$file.out", '2>', "$file.err");
	}
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

foreach my $round (1 .. $rounds)
{
	my $kill = $round % 2 == 0;
	my $how = $kill ? 'a process is killed' : 'the server is stopped at once';

	# A transaction that is prepared now is still there after the crash.
	$node->safe_psql('postgres',
		"BEGIN; SELECT es_append('prepared', ARRAY[es_new_event('t')]); PREPARE TRANSACTION 'across the crash'");
	my $bound = $node->safe_psql('postgres', 'SELECT lower_bound FROM es_inflight');

	my $before = $node->safe_psql('postgres', 'SELECT count(*) FROM es.event');
	start_clients($round, ($commands) x $clients);
	$node->poll_query_until('postgres', "SELECT count(*) > $before + 300 FROM es.event") or die 'no load';
	$node->safe_psql('postgres', 'CHECKPOINT') if $round % 3 == 0;
	$node->poll_query_until('postgres', "SELECT count(*) > $before + 1000 FROM es.event") or die 'no load';

	if ($kill)
	{
		my $pid = $node->safe_psql('postgres',
			"SELECT pid FROM pg_stat_activity WHERE query ~ 'es_dispatch|es_append' AND pid <> pg_backend_pid() LIMIT 1");
		kill 'KILL', $pid or die "could not kill $pid";
	}
	else
	{
		$node->stop('immediate');
	}
	my ($lines, $errors) = finish_clients();
	$node->start unless $kill;
	$node->poll_query_until('postgres', 'SELECT true') or die 'no recovery';

	# Everything acknowledged is there, as it was acknowledged.
	my @acknowledged = map { @$_ } @$lines;
	my $values = join(', ', map { "('" . join("', '", split(/\|/)) . "')" } @acknowledged);
	note("round $round: $how after " . @acknowledged . ' commands');
	cmp_ok(scalar(@acknowledged), '>', 500, "round $round: the clients were at work when $how");
	is(scalar(grep { /server/ } @$errors), $clients, "round $round: every client noticed");
	$node->safe_psql('postgres', "INSERT INTO acknowledged VALUES $values");
	is( $node->safe_psql(
			'postgres', 'SELECT count(*) FROM acknowledged a
				WHERE NOT EXISTS (SELECT FROM es.event e WHERE e.stream = a.stream AND e.version = a.version
					AND e.position = a.position AND a.id IN (e.event_id, e.causation_id))'),
		'0', "round $round: everything acknowledged is there");

	# The prepared transaction holds its stream and the mark as before.
	is($node->safe_psql('postgres', 'SELECT prepared, lower_bound FROM es_inflight'),
		"across the crash|$bound", "round $round: the prepared transaction is still in flight");
	is($node->safe_psql('postgres', 'SELECT es_high_water()'), $bound, "round $round: it holds the mark");
	my ($rc, $out, $err) = $node->psql('postgres',
		"SET lock_timeout = '10ms'; SELECT es_append('prepared', ARRAY[es_new_event('t')])");
	like($err, qr/lock timeout/, "round $round: it holds its stream");
	$node->safe_psql('postgres', ($round % 2 ? 'COMMIT' : 'ROLLBACK') . " PREPARED 'across the crash'");

	# No position that anybody has seen is drawn again.
	is( $node->safe_psql('postgres',
			"SELECT position > (SELECT max(position) FROM es.event) FROM es_append('next', ARRAY[es_new_event('t')])"),
		't', "round $round: the next position is above the last");
	is($node->safe_psql('postgres', 'SELECT * FROM oracle.problems()'),
		'', "round $round: the log, the states, the receipts and the projection agree");

	# The clients send all again, and the commands that they are in doubt of.
	start_clients($round, map { @$_ + 1 } @$lines);
	(my $again, $errors) = finish_clients();
	is(join('', @$errors), '', "round $round: the retries run without an error");
	foreach my $client (0 .. $clients - 1)
	{
		pop @{ $again->[$client] };
		is_deeply($again->[$client], $lines->[$client], "round $round: client $client gets the results that it got");
	}
	is( $node->safe_psql(
			'postgres', "SELECT count(*) FROM (
				SELECT FROM es.event WHERE type = 'deposited' GROUP BY causation_id HAVING count(*) > 1
				UNION ALL SELECT FROM es.event GROUP BY event_id HAVING count(*) > 1) d"),
		'0', "round $round: nothing has happened twice");
	is($node->safe_psql('postgres', 'SELECT * FROM oracle.problems()'), '', "round $round: all agree again");
}

# A feed reader gets it all.
is($node->safe_psql('postgres', 'SELECT count(*) FROM es_read_all(max_count => NULL)'),
	$node->safe_psql('postgres', 'SELECT count(*) FROM es.event'),
	'the feed has every event');

$node->stop;
done_testing();
