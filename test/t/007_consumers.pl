# Consumers under load, some of which are killed in the middle of a batch: every
# event is handled at least once, the events of each stream are handled for the
# first time in their order, and no checkpoint passes an event that was not
# acknowledged.
#
# Two writers append to some hundred streams, in transactions that overlap and
# sometimes roll back.  Four consumers share the partitions.  Each records what
# it handles in the transaction that acknowledges it.  Every now and then one of
# them is killed, and goes on under its name or under another one.
#
# Environment: ES_CONSUMER_EVENTS  how many events there are (default 100000)

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $events = $ENV{ES_CONSUMER_EVENTS} || 100000;
my $partitions = 8;
my $per_append = 25;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "synchronous_commit = off\nlog_min_messages = panic\n");
$node->start;
$node->safe_psql('postgres', <<"SQL");
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
SELECT es_create_subscription('s', partitions => $partitions, lease => '300 milliseconds',
	max_retries => 1000000);

-- number: the order in which they were handled
CREATE TABLE handled (number bigserial, position bigint, stream text, version bigint, consumer text);
CREATE INDEX ON handled (position);
CREATE TABLE finished ();

CREATE PROCEDURE consume(consumer text) LANGUAGE plpgsql AS \$\$
DECLARE
	batch bigint[];
	streams text[];
	versions bigint[];
	lost boolean;
BEGIN
	LOOP
		SELECT array_agg(e.position), array_agg(e.stream), array_agg(e.version)
			INTO batch, streams, versions FROM es_fetch('s', consumer, 200, wait => '100 milliseconds') e;
		COMMIT;
		EXIT WHEN batch IS NULL AND EXISTS (SELECT FROM finished);
		lost := false;
		FOR i IN 1 .. COALESCE(cardinality(batch), 0) LOOP
			INSERT INTO handled (position, stream, version, consumer)
				VALUES (batch[i], streams[i], versions[i], consumer);
			IF i % 40 = 0 OR i = cardinality(batch) THEN
				BEGIN
					PERFORM es_ack('s', consumer, batch[i]);
				EXCEPTION WHEN SQLSTATE 'SE008' THEN
					lost := true;
				END;
				COMMIT;
				EXIT WHEN lost;
			END IF;
		END LOOP;
	END LOOP;
END \$\$;

-- which partition a stream belongs to: the same hash as of the type text
CREATE VIEW passed AS
	SELECT e.position FROM es.event e
	JOIN es.checkpoint c ON c.position >= e.position
		AND c.partition = (hashtext(e.stream)::bigint & 4294967295) % $partitions;
SQL

# ---------------------------------------------------------------------------
# Consumers
# ---------------------------------------------------------------------------

my %consumers;    # by name
my $names = 0;

sub start_consumer
{
	my ($name) = @_;
	$consumers{$name} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres') . " application_name=$name",
			'-c', "CALL consume('$name')" ],
		'>', '/dev/null', '2>', '/dev/null');
}

sub kill_consumer
{
	my ($name) = @_;
	my $process = delete $consumers{$name};
	$node->safe_psql('postgres',
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '$name'");
	$process->finish;
}

start_consumer('c' . ++$names) for 1 .. 4;

# ---------------------------------------------------------------------------
# Writers
# ---------------------------------------------------------------------------

my $script = PostgreSQL::Test::Utils::tempdir . '/append.sql';
append_to_file($script, <<"SQL");
\\set a random(1, 150)
\\set b random(151, 300)
\\set luck random(1, 100)
BEGIN;
SAVEPOINT s;
SELECT es_append('s-' || :a, array_fill(es_new_event('counted'), ARRAY[$per_append]));
\\if :luck <= 5
ROLLBACK TO s;
SELECT es_append('s-' || :a, array_fill(es_new_event('counted again'), ARRAY[$per_append]));
\\endif
SELECT es_append('s-' || :b, array_fill(es_new_event('counted'), ARRAY[$per_append]));
COMMIT;
SQL
# ---------------------------------------------------------------------------
# Kill one in each portion of the work, however fast it is done
# ---------------------------------------------------------------------------

my $kills = 25;
my $transactions = int($events / $kills / (2 * 2 * $per_append));
$events = $kills * $transactions * 2 * 2 * $per_append;

my $not_handled = 'SELECT count(*) FROM passed p WHERE NOT EXISTS (SELECT FROM handled h WHERE h.position = p.position)';
my $ahead = 0;
my $written = 1;
foreach my $portion (1 .. $kills)
{
	my $writers = IPC::Run::start(
		[ 'pgbench', '-n', '-c', 2, '-j', 2, '-t', $transactions, '-f', $script, '-d', $node->connstr('postgres') ],
		'>', '/dev/null', '2>', '/dev/null');
	my $name = (sort keys %consumers)[ int(rand(4)) ];

	usleep(int(rand(150_000)));
	kill_consumer($name);
	start_consumer(rand() < 0.5 ? $name : 'c' . ++$names);
	$written &&= $writers->finish;
	$ahead += $node->safe_psql('postgres', $not_handled) if $portion % 5 == 0;
}
ok($written, 'the writers run without an error');
ok($node->poll_query_until('postgres', "SELECT count(DISTINCT position) = $events FROM handled"),
	'every event is handled');
$node->safe_psql('postgres', 'INSERT INTO finished DEFAULT VALUES');
ok($consumers{$_}->finish, "consumer $_ ends") foreach sort keys %consumers;

# ---------------------------------------------------------------------------
# What they did
# ---------------------------------------------------------------------------

my ($handlings, $consumers) =
  split /\|/, $node->safe_psql('postgres', 'SELECT count(*), count(DISTINCT consumer) FROM handled');
note("$events events, $handlings handlings by $consumers consumers, $kills killed");
is($ahead + $node->safe_psql('postgres', $not_handled),
	0, 'no checkpoint was ever past an event that was not handled');
is( $node->safe_psql(
		'postgres', "SELECT count(*) FROM (
			SELECT stream, version, min(number) AS number FROM handled GROUP BY stream, version) f
			JOIN (SELECT stream, version, min(number) AS number FROM handled GROUP BY stream, version) g
			ON g.stream = f.stream AND g.version = f.version + 1 AND g.number < f.number"),
	'0',
	'the events of each stream were handled for the first time in their order');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM es.event'), $events, 'all of them were there');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM es.parked_event'), '0', 'none was parked');
is( $node->safe_psql('postgres', 'SELECT count(*) FROM es.checkpoint WHERE consumer IS NOT NULL'),
	'0', 'all leases have ended');
is( $node->safe_psql('postgres',
		"SELECT count(*) FROM es.checkpoint WHERE position < (SELECT max(position) FROM es.event)"),
	'0', 'all partitions have come to the end');

$node->stop;
done_testing();
