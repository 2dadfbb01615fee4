# A base backup taken under load, and recovery to a point in the middle of that
# load: what was acknowledged before the point is there, what was not committed
# then is not, nothing is there by half, and everything that a store has goes on
# from there: read models, checkpoints, leases, schedules, process managers.

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $clients = 3;
my $commands = 20000;    # per client; more than it can do

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => ['--encoding=UTF8', '--no-locale'], has_archiving => 1, allows_streaming => 1);
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'event_sourcing'
event_sourcing.workers = 2
max_prepared_transactions = 5
CONF
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION event_sourcing');
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $node->connstr('postgres'),
		'-f', dirname(__FILE__) . '/../full_store.sql' ], 'a store with something of everything');
$node->append_conf('postgresql.conf', "event_sourcing.databases = 'postgres'\n");
$node->reload;

# Each client dispatches, and appends three events at a time; what the server
# acknowledges goes to a file.
my $dir = PostgreSQL::Test::Utils::tempdir;
my @process;
foreach my $client (1 .. $clients)
{
	append_to_file("$dir/$client.sql", "SET search_path = shop, public;\n" . join('', map {
		my $id = "md5('$client $_')::uuid";
		$_ % 3
		  ? "SELECT stream, version, position FROM es_dispatch(ROW('" . ($client + $_) % 4 . "', 1)::deposit, command_id => $id);\n"
		  : "SELECT stream, version, position FROM es_append('three-$client', ARRAY[es_new_event('t'), es_new_event('t'), es_new_event('t')]);\n"
		} 1 .. $commands));
	push @process, IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/$client.sql" ],
		'>', "$dir/$client.out", '2>', "$dir/$client.err");
}

sub acknowledged
{
	# a line that was cut off is no acknowledgement
	return map { slurp_file("$dir/$_.out") =~ /^(\S+\|\d+\|\d+)\n/mg } 1 .. $clients;
}

sub wait_for_more
{
	my ($count) = @_;
	my $now = $node->safe_psql('postgres', 'SELECT count(*) FROM es.event');
	$node->poll_query_until('postgres', "SELECT count(*) > $now + $count FROM es.event") or die 'no load';
}

wait_for_more(200);
$node->safe_psql('postgres', q{BEGIN; SELECT es_append('prepared', ARRAY[es_new_event('t')]); PREPARE TRANSACTION 'across'});
$node->backup('base');
wait_for_more(300);
my @before = acknowledged();
$node->safe_psql('postgres', q{SELECT pg_create_restore_point('middle')});
wait_for_more(300);
$node->safe_psql('postgres', q{COMMIT PREPARED 'across'});
my $segment = $node->safe_psql('postgres', 'SELECT pg_walfile_name(pg_current_wal_lsn())');
$node->safe_psql('postgres', 'SELECT pg_switch_wal()');
$node->poll_query_until('postgres', "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver") or die 'not archived';
$_->kill_kill foreach @process;
my %log = map { $_ => 1 } split /\n/, $node->safe_psql('postgres', 'SELECT position, event_id FROM es.event');
my @after = acknowledged();
$node->stop('immediate');

# ---------------------------------------------------------------------------
# The point in the middle; first without workers, to look at it in peace
# ---------------------------------------------------------------------------

my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($node, 'base', has_restoring => 1, standby => 0);
$restored->append_conf('postgresql.conf', <<'CONF');
recovery_target_name = 'middle'
recovery_target_action = 'promote'
event_sourcing.databases = ''
CONF
$restored->start;
$restored->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'no recovery';

# How many of the acknowledged appends are there.
sub found
{
	my $values = join(', ', map { "('" . join("', ", split(/\|/, $_, 2)) =~ s/\|/, /r . ')' } @_);
	return $restored->safe_psql('postgres', "SELECT count(*) FROM (VALUES $values) a(stream, version, position)
		JOIN es.event e USING (stream, version, position)");
}

my $there = found(@after);
note(@before . ' acknowledged before the point, ' . @after . " in the end, $there of them restored");
cmp_ok(scalar @before, '>', 200 / ($ENV{ES_SLOWDOWN} || 1), 'the clients were at work before the point');
is(found(@before), scalar @before, 'everything acknowledged before it is there');
cmp_ok($there, '<', scalar @after, 'not everything that came after it');
is(scalar(grep { !$log{$_} } split /\n/, $restored->safe_psql('postgres', 'SELECT position, event_id FROM es.event')),
	0, 'every event is the one that it was');
is($restored->safe_psql('postgres', q{SELECT stream FROM es.event WHERE stream ^@ 'three-' GROUP BY stream HAVING count(*) % 3 <> 0}),
	'', 'no append is there by half');

my $bound = $restored->safe_psql('postgres', q{SELECT lower_bound FROM es_inflight WHERE prepared = 'across'});
is($restored->safe_psql('postgres', 'SELECT es_high_water()'), $bound, 'the prepared transaction holds the mark');
$restored->safe_psql('postgres', q{ROLLBACK PREPARED 'across'});
is($restored->safe_psql('postgres', 'SELECT * FROM shop.problems()'), '', 'all agree');
is($restored->safe_psql('postgres', 'SELECT * FROM shop.goes_on()'), '', 'everything goes on');

# ---------------------------------------------------------------------------
# In use again
# ---------------------------------------------------------------------------

$restored->append_conf('postgresql.conf', "event_sourcing.databases = 'postgres'\n");
$restored->reload;
my $position = $restored->safe_psql('postgres', q{SELECT position FROM es_append('again', ARRAY[es_new_event('t')])});
is($restored->safe_psql('postgres', "SELECT es_wait('handled', $position, '3 min')"), 't', 'workers go on');
is($restored->safe_psql('postgres', q{SELECT count(*) FROM es.event WHERE stream <> 'bad' AND position NOT IN (SELECT position FROM shop.handled)}),
	'0', 'every event is handled');
is($restored->safe_psql('postgres', 'SELECT * FROM shop.problems()'), '', 'all agree again, and nothing was handled twice');

$restored->stop;
done_testing();
