# The feed under load: a reader that continues from the last position it got
# sees every committed event exactly once, in the order of positions.
#
# Writers commit, roll back, go back to savepoints, prepare transactions and end
# them later, and sleep between drawing a position and committing it.  Beside
# them two followers read with es_read_all(), one in READ COMMITTED and one in
# REPEATABLE READ with a snapshot that is older than the read.
#
# Two more followers read in a wrong way, and the test fails unless both are
# caught: a load under which they lose nothing would prove nothing.
#
# Environment: ES_STRESS_SECONDS  how long the writers run (default 15)

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $seconds = $ENV{ES_STRESS_SECONDS} || 15;
my $writers = 12;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 50\nmax_connections = 50\n");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION event_sourcing; SELECT es_create_store();');
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

# ---------------------------------------------------------------------------
# Writers: pgbench scripts.  A transaction appends to streams of group a before
# b before c, so that no two of them wait for each other in a circle.
# ---------------------------------------------------------------------------

my $random = <<'SQL';
\set a random(1, 40)
\set b random(1, 40)
\set c random(1, 40)
\set n random(1, 3)
\set ms random(0, 25)
\set luck random(1, 100)
SQL

my %script = (

	# one statement, at once
	quick => [ 40, <<'SQL' ],
SELECT es_append('a-' || :a, array_fill(es_new_event('quick'), ARRAY[:n]));
SQL

	# sleeps with positions drawn, then commits or rolls back
	slow => [ 20, <<'SQL' ],
BEGIN;
SELECT es_append('a-' || :a, array_fill(es_new_event('slow'), ARRAY[:n]));
\sleep :ms ms
SELECT es_append('b-' || :b, array_fill(es_new_event('slow'), ARRAY[:n]));
\sleep :ms ms
\if :luck <= 70
COMMIT;
\else
ROLLBACK;
\endif
SQL

	# goes back to a savepoint, which lets the registration go, and appends again
	savepoint => [ 20, <<'SQL' ],
BEGIN;
SAVEPOINT s;
SELECT es_append('a-' || :a, array_fill(es_new_event('savepoint'), ARRAY[:n]));
\sleep :ms ms
\if :luck <= 60
ROLLBACK TO s;
\else
RELEASE s;
\endif
SELECT es_append('b-' || :b, array_fill(es_new_event('savepoint'), ARRAY[:n]));
SAVEPOINT t;
SELECT es_append('c-' || :c, array_fill(es_new_event('savepoint'), ARRAY[:n]));
\if :luck % 3 = 0
ROLLBACK TO t;
\endif
\sleep :ms ms
\if :luck <= 90
COMMIT;
\else
ROLLBACK;
\endif
SQL

	# an exception block that fails after its append
	block => [ 10, <<'SQL' ],
DO $$
BEGIN
	BEGIN
		PERFORM es_append('a-' || (random() * 40)::int, array_fill(es_new_event('block'), ARRAY[2]));
		PERFORM 1 / (random() * 2)::int;
	EXCEPTION WHEN division_by_zero THEN NULL;
	END;
	PERFORM es_append('b-' || (random() * 40)::int, array_fill(es_new_event('block'), ARRAY[2]));
	PERFORM pg_sleep(random() * 0.01);
END $$;
SQL

	# prepared, and ended later
	prepared => [ 10, <<'SQL' ],
BEGIN;
SELECT es_append('a-' || :a, array_fill(es_new_event('prepared'), ARRAY[:n]));
SELECT es_append('c-' || :c, array_fill(es_new_event('prepared'), ARRAY[:n]));
PREPARE TRANSACTION 'stress_:client_id';
\sleep :ms ms
\if :luck <= 70
COMMIT PREPARED 'stress_:client_id';
\else
ROLLBACK PREPARED 'stress_:client_id';
\endif
SQL
);

my @scripts;
my $dir = PostgreSQL::Test::Utils::tempdir;
foreach my $name (sort keys %script)
{
	my ($weight, $sql) = @{ $script{$name} };
	append_to_file("$dir/$name.sql", $random . $sql);
	push @scripts, '-f', "$dir/$name.sql\@$weight";
}

# ---------------------------------------------------------------------------
# Followers: each records what it saw, in the order in which it saw it, and
# continues from the last position it got.
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
CREATE TABLE seen (follower text, number bigserial, position bigint, stream text, version bigint);
CREATE TABLE finished ();

CREATE PROCEDURE follow(follower text) LANGUAGE plpgsql AS $$
DECLARE
	last bigint := 0;
	mark bigint;
	next bigint;
	stop boolean;
BEGIN
	LOOP
		-- seen before the read: what the read does not find afterwards is not there
		stop := EXISTS (SELECT FROM finished);
		COMMIT;
		-- where the isolation level is higher, this takes the transaction's snapshot
		PERFORM FROM es.event LIMIT 1;
		PERFORM pg_sleep(0.005 * random());

		CASE follower
		WHEN 'read committed', 'repeatable read' THEN
			WITH batch AS (
				INSERT INTO seen (follower, position, stream, version)
				SELECT follow.follower, e.position, e.stream, e.version FROM es_read_all(last, 500) e
				RETURNING seen.position
			) SELECT max(position) INTO next FROM batch;
		WHEN 'naive' THEN
			WITH batch AS (
				INSERT INTO seen (follower, position, stream, version)
				SELECT follow.follower, e.position, e.stream, e.version FROM es.event e
				WHERE e.position > last ORDER BY e.position LIMIT 500
				RETURNING seen.position
			) SELECT max(position) INTO next FROM batch;
		WHEN 'early snapshot' THEN
			mark := es_high_water();
			WITH batch AS (
				INSERT INTO seen (follower, position, stream, version)
				SELECT follow.follower, e.position, e.stream, e.version FROM es.event e
				WHERE e.position > last AND e.position <= mark ORDER BY e.position LIMIT 500
				RETURNING seen.position
			) SELECT max(position) INTO next FROM batch;
		END CASE;
		COMMIT;

		EXIT WHEN stop AND next IS NULL;
		last := COALESCE(next, last);
		PERFORM pg_sleep(0.004 * random());
	END LOOP;
END $$;
SQL

my %isolation = (
	'read committed' => 'read committed',
	'repeatable read' => 'repeatable read',
	'naive' => 'read committed',
	'early snapshot' => 'repeatable read');
my @followers = sort keys %isolation;
my %process;
foreach my $follower (@followers)
{
	$process{$follower} = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'),
			'-c', "SET default_transaction_isolation = '$isolation{$follower}'",
			'-c', "CALL follow('$follower')" ]);
}

# A transaction that is older than everything and appends nothing: were it to
# hold the feed back, the followers would not finish.
my $bystander = $node->background_psql('postgres');
$bystander->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; CREATE TABLE work ();');

# ---------------------------------------------------------------------------
# Run
# ---------------------------------------------------------------------------

$node->command_ok(
	[ 'pgbench', '-n', '-c', $writers, '-j', 2, '-T', $seconds, @scripts, 'postgres' ],
	'the writers run without an error');

is($node->safe_psql('postgres', 'SELECT count(*) FROM es_inflight'), '0', 'nothing is in flight afterwards');
$node->safe_psql('postgres', 'INSERT INTO finished DEFAULT VALUES');
ok($process{$_}->finish, "follower \"$_\" ends") foreach @followers;
$bystander->quit;

# ---------------------------------------------------------------------------
# What they saw
# ---------------------------------------------------------------------------

my $events = $node->safe_psql('postgres', 'SELECT count(*) FROM es.event');
my $drawn = $node->safe_psql('postgres', "SELECT pg_sequence_last_value('es.event_position')");
note("$events events of $drawn positions");
cmp_ok($events, '>', 100 * $seconds / ($ENV{ES_SLOWDOWN} || 1), 'there was a load');
cmp_ok($drawn, '>', 1.1 * $events, 'some of it was rolled back');

is($node->safe_psql('postgres', 'SELECT * FROM oracle.problems()'),
	'', 'versions have no gaps, and positions rise in every stream');

# events that a follower did not see, or saw more than once, or that are none
sub differences
{
	my ($follower) = @_;
	return map { $node->safe_psql('postgres', $_) } (
		"SELECT count(*) FROM (SELECT position, stream, version FROM es.event
			EXCEPT ALL SELECT position, stream, version FROM seen WHERE follower = '$follower') d",
		"SELECT count(*) FROM (SELECT position, stream, version FROM seen WHERE follower = '$follower'
			EXCEPT ALL SELECT position, stream, version FROM es.event) d");
}

foreach my $follower ('read committed', 'repeatable read')
{
	my ($missed, $extra) = differences($follower);
	is($missed, '0', "follower \"$follower\" missed no event");
	is($extra, '0', "follower \"$follower\" saw no event twice");
	is( $node->safe_psql(
			'postgres', "SELECT count(*) FROM (
				SELECT position <= lag(position) OVER (ORDER BY number) AS position_falls,
					version <> 1 + lag(version, 1, 0::bigint) OVER (PARTITION BY stream ORDER BY number) AS version_jumps
				FROM seen WHERE follower = '$follower') s WHERE position_falls OR version_jumps"),
		'0',
		"follower \"$follower\" saw them in order, each stream version by version");
}

# The controls.
foreach my $follower ('naive', 'early snapshot')
{
	my ($missed) = differences($follower);
	note("follower \"$follower\" missed $missed events");
	cmp_ok($missed, '>', 0, "control: follower \"$follower\" is caught missing events");
}

$node->stop;
done_testing();
