# A store whose log comes from another cluster by logical replication, made by
# the recipe of docs/replication.md, whose statements are run here as they stand
# there.  It has projections of its own, which replicated rows run; its feed can
# be read up to a replicated checkpoint; nobody appends to it until it is
# released; and then it goes on where its publisher was lost.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path(dirname(__FILE__) . '/../..');
my $oracle = slurp_file("$root/test/oracle.sql");
my $load = 300;    # transactions of each client

# The blocks of the page, by the comments before them.
my %recipe;
my $page = slurp_file("$root/docs/replication.md");
push @{ $recipe{$1} }, $2 while $page =~ /^<!-- (\w+) -->\n```sql\n(.*?)^```$/msg;
is(join(' ', map { "$_:" . @{ $recipe{$_} } } sort keys %recipe),
	'check:1 publisher:2 reader:1 release:1 replica:3 wait:1', 'the page has its blocks');

my $model = <<'SQL';
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
SQL

my $preload = <<'CONF';
shared_preload_libraries = 'event_sourcing'
event_sourcing.databases = 'postgres'
event_sourcing.workers = 1
CONF

my $publisher = PostgreSQL::Test::Cluster->new('publisher');
$publisher->init(allows_streaming => 'logical');
$publisher->append_conf('postgresql.conf', $preload);
$publisher->start;
$publisher->safe_psql('postgres', "CREATE EXTENSION event_sourcing; SELECT es_create_store(); $model
	SELECT es_create_aggregate('account', snapshot_every => 5);
	SELECT es_dispatch(ROW(n % 3, n)::deposit) FROM generate_series(1, 20) n;
	SELECT es_dispatch(ROW('0', 100)::deposit, command_id => '00000000-0000-0000-0000-000000000001')");
$publisher->safe_psql('postgres', $_) foreach @{ $recipe{publisher} };

my $replica = PostgreSQL::Test::Cluster->new('replica');
$replica->init;
$replica->append_conf('postgresql.conf', $preload);
$replica->start;

sub on_replica { return $replica->safe_psql('postgres', $_[0]); }

# What fails on the replica, fails with this message.
sub refused
{
	my ($sql, $message, $what) = @_;
	my ($rc, $out, $err) = $replica->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	like($err, $message, $what);
}

sub caught_up { $publisher->wait_for_catchup('event_log'); }

# ---------------------------------------------------------------------------
# The recipe
# ---------------------------------------------------------------------------

on_replica($model);
on_replica($recipe{replica}[0]);

# A session that may append, as far as it knows.
my $session = $replica->background_psql('postgres', on_error_stop => 0);
is($session->query(q{BEGIN; SELECT version FROM es_append('x', ARRAY[es_new_event('t')]); ROLLBACK}), '1', 'an empty store of its own');

my $connection = $publisher->connstr . ' dbname=postgres';
(my $subscribe = $recipe{replica}[1]) =~ s/host=publisher dbname=app/$connection =~ s{'}{''}gr/e or die 'no connection in the recipe';
on_replica($subscribe);
$replica->poll_query_until('postgres', $recipe{wait}[0]) or die 'the log is not copied';
on_replica($recipe{replica}[2]);
on_replica(q{CREATE TABLE entry (stream text, version bigint, PRIMARY KEY (stream, version));
	SELECT es_create_projection('entry', query => 'INSERT INTO entry SELECT stream, version FROM es_new_events', targets => '{entry}');
	SELECT es_rebuild_projection('entry')});
on_replica($oracle);
caught_up();

my $log = 'SELECT to_jsonb(e) FROM es.event e ORDER BY position';
is(on_replica($log), $publisher->safe_psql('postgres', $log), 'the log is the same');
is(on_replica(q{SELECT balance FROM es_state(NULL::account, '0')}), '163', 'the state');
is(on_replica(q{SELECT deposits, amount FROM turnover WHERE id = '0'}), '7|163', 'the projection of the history');

# ---------------------------------------------------------------------------
# What a replica refuses
# ---------------------------------------------------------------------------

my $replica_error = qr/store es, which is a replica\nDETAIL:  Its event log is filled by logical replication, subscription "event_log"\./;
refused(q{SELECT es_append('x', ARRAY[es_new_event('t')])}, qr/ERROR:  55000: cannot append to $replica_error/, 'no es_append');
refused(q{SELECT es_dispatch(ROW('a', 1)::deposit)}, qr/ERROR:  55000: cannot append to $replica_error/, 'no es_dispatch');
$session->query(q{SELECT version FROM es_append('x', ARRAY[es_new_event('t')])});
like($session->{stderr}, qr/cannot append to store es, which is a replica/, 'not in a session from before the subscription either');
$session->{stderr} = '';
refused('SELECT * FROM es_read_all()', qr/ERROR:  55000: cannot tell the high-water mark of $replica_error/, 'no es_read_all');
refused('SELECT es_high_water()', qr/ERROR:  55000: cannot tell the high-water mark of $replica_error/, 'no es_high_water');
refused('SELECT es_run()', qr/ERROR:  55000: cannot run subscriptions of $replica_error/, 'no es_run');
refused(q{SELECT es_pause('turnover')}, qr/ERROR:  55000: cannot pause an inline projection of $replica_error/, 'no es_pause');
refused(q{SELECT es_alter_projection('turnover', 'async')}, qr/ERROR:  55000: cannot change the mode of a projection of $replica_error/, 'no es_alter_projection');
on_replica('ALTER SUBSCRIPTION event_log DISABLE');
refused(q{SELECT es_append('x', ARRAY[es_new_event('t')])}, $replica_error, 'no es_append while the subscription is disabled');
on_replica('ALTER SUBSCRIPTION event_log ENABLE');
is(on_replica(q{SELECT version FROM es_dispatch(ROW('0', 100)::deposit, command_id => '00000000-0000-0000-0000-000000000001')}),
	'7', 'a retry gets the result that the publisher gave');

# What the workers of the replica will have to do, and leave alone for now.
on_replica(q{CREATE TABLE handled (position bigint);
	CREATE FUNCTION note(e es_event) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO handled VALUES (e.position); END;
	SELECT es_create_handler('note', 'note')});

# ---------------------------------------------------------------------------
# The feed: positions arrive in the order of commits
# ---------------------------------------------------------------------------

my %read = (marked => [], naive => []);
my %seen = (marked => 0, naive => 0);

# Read what there is; the naive reader takes whatever it sees behind its position.
sub read_feed
{
	my ($reader) = @_;
	my $sql = $reader eq 'marked' ? $recipe{reader}[0] : 'SELECT position FROM es.event WHERE position > :position ORDER BY position';
	$sql =~ s/:position/$seen{$reader}/;
	my @positions = map { (split /\|/)[0] } split /\n/, on_replica($sql);
	push @{ $read{$reader} }, @positions;
	$seen{$reader} = $positions[-1] if @positions;
	return scalar @positions;
}

# Positions of all events, in their order, as the test knows them.
sub all_positions { return on_replica('SELECT position FROM es.event ORDER BY position') }

# The checkpoint has arrived that is at the publisher's last event.
sub mark_arrived
{
	my $last = $publisher->safe_psql('postgres', 'SELECT max(position) FROM es.event');
	$publisher->poll_query_until('postgres', "SELECT es_wait('feed_mark', $last, '10s')") or die 'no mark';
	caught_up();
}

mark_arrived();
read_feed($_) foreach qw(marked naive);
my $early = $publisher->background_psql('postgres');
$early->query_safe(q{BEGIN; SELECT es_append('early', ARRAY[es_new_event('t')])});
$publisher->safe_psql('postgres', q{SELECT es_append('late', ARRAY[es_new_event('t')])});
caught_up();
is(on_replica(q{SELECT count(*) FROM es.event WHERE stream = 'late'}), '1', 'the second position arrives first');
is(read_feed('naive'), 1, 'the naive reader takes it');
is(read_feed('marked'), 0, 'the reader up to the checkpoint waits');
$early->query_safe('COMMIT');
$early->quit;
mark_arrived();
is(read_feed('naive'), 0, 'the naive reader has missed an event');
is(read_feed('marked'), 2, 'the reader up to the checkpoint gets both');
is(on_replica('SELECT es_verify_projection(name) FROM es.projection'), "0\n0", 'the projections have both');

# The same with many writers.
my $dir = PostgreSQL::Test::Utils::tempdir;
my @clients;
foreach my $client (1 .. 4)
{
	append_to_file("$dir/$client.sql", join('', map {
		my $a = ($client * $_) % 7;
		my $end = $_ % 5 ? 'COMMIT' : 'ROLLBACK';
		"BEGIN; SELECT es_append('log-$client', ARRAY[es_new_event('t')]); SELECT pg_sleep(random() * 0.003);\n"
		. "SAVEPOINT s; SELECT es_append('undone', ARRAY[es_new_event('t')]); ROLLBACK TO s;\n"
		. "SELECT es_dispatch(ROW($a, $_)::deposit); $end;\n" } 1 .. $load));
	push @clients, IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $publisher->connstr('postgres'), '-f', "$dir/$client.sql" ],
		'>', "$dir/$client.out", '2>', "$dir/$client.err");
}
my $portions = 0;
until (on_replica('SELECT count(*) FROM es.event') >= 23 + 4 * 2 * $load * 0.8)
{
	$portions++ if read_feed('marked');
	read_feed('naive');
	die 'a client has failed' if grep { -s "$dir/$_.err" } 1 .. 4;
}
$_->finish foreach @clients;
mark_arrived();
read_feed('naive');
while (read_feed('marked')) { }
is(join("\n", @{ $read{marked} }), all_positions(), 'the reader up to the checkpoint has every event once, in order');
note('read in ' . $portions . ' portions; the naive reader missed ' . (@{ $read{marked} } - @{ $read{naive} }));
cmp_ok($portions, '>', 3, 'it has read while events came');
is(on_replica($log), $publisher->safe_psql('postgres', $log), 'the log is the same');
is(on_replica('SELECT es_verify_projection(name) FROM es.projection'), "0\n0", 'the projections are what a rebuild would make of them');
is(on_replica('SELECT * FROM oracle.log_problems() UNION ALL SELECT * FROM oracle.fold_problems()'), '', 'log and states agree');

is(on_replica(q{SELECT es_rebuild_projection('entry')}), scalar @{ $read{marked} }, 'a rebuild');
is(on_replica('SELECT count(*) FROM handled'), '0', 'the workers of the replica leave it alone');
unlike(slurp_file($replica->logfile), qr/CONTEXT:  .*event store "es"/, 'and do not complain');

# ---------------------------------------------------------------------------
# The publisher is lost, the replica is released
# ---------------------------------------------------------------------------

# One transaction is in flight, another has been committed.
my $lost = $publisher->background_psql('postgres', on_error_stop => 0);
$lost->query_safe(q{BEGIN; SELECT es_append('lost', ARRAY[es_new_event('t')])});
$publisher->safe_psql('postgres', q{SELECT es_dispatch(ROW('0', 1)::deposit)});
caught_up();
$publisher->stop('immediate');
$lost->{run}->finish;

my @release = split /^(?=SELECT es_upgrade_store)/m, $recipe{release}[0];
is(scalar @release, 2, 'the release has its two parts');
$replica->safe_psql('postgres', $release[0]);
my $last = on_replica('SELECT max(position) FROM es.event');
refused(q{SELECT es_append('x', ARRAY[es_new_event('t')])}, qr/ERROR:  55000: the position sequence of store es is behind its event log/,
	'without es_upgrade_store no append');
on_replica($release[1]);
my ($version, $position) = split /\|/, on_replica(q{SELECT version, position FROM es_append('x', ARRAY[es_new_event('t')])});
is($version, '1', 'an append');
cmp_ok($position, '>', $last, 'its position is above the last');
is($session->query(q{SELECT version FROM es_append('x', ARRAY[es_new_event('t')])}), '2', 'the session from before appends');
is(on_replica(q{SELECT version FROM es_dispatch(ROW('0', 100)::deposit, command_id => '00000000-0000-0000-0000-000000000001')}),
	'7', 'a retry gets its first result');
my $end = on_replica(q{SELECT es_stream_version('account-0')});
is(on_replica(q{SELECT version FROM es_dispatch(ROW('0', 1)::deposit)}), $end + 1, 'a stream goes on');

# The reader goes on with the feed, and the worker with what has waited.
push @{ $read{marked} }, split /\n/, on_replica("SELECT position FROM es_read_all($seen{marked}, max_count => NULL)");
is(join("\n", @{ $read{marked} }), all_positions(), 'the reader goes on and has every event once, in order');
$replica->poll_query_until('postgres', 'SELECT count(*) >= (SELECT count(*) FROM es.event) FROM handled') or die 'not handled';
is(on_replica('SELECT position FROM handled ORDER BY position'), all_positions(), 'the worker handles every event once');
is(on_replica('SELECT * FROM oracle.problems()'), '', 'log, states, receipts and projections agree');

$session->quit;
$replica->stop;
done_testing();
