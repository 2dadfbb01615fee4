# A hot standby reads streams and states as the primary does, and says clearly
# what it cannot do: tell the high-water mark, and write.  After its promotion
# it is a primary like any other, for the sessions that were there before, too.
#
# A failover under load: readers that keep a position of their own, of the
# primary's feed or of the standby's up to a checkpoint, go on at the new primary
# and miss nothing; so do the workers.  Where replication is asynchronous a reader
# may have seen what is lost then, and finds out (docs/replication.md).

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', "max_prepared_transactions = 5\n");
$primary->start;
$primary->safe_psql('postgres', <<'SQL');
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
SELECT es_create_aggregate('account', snapshot_every => 3);
SELECT es_create_projection('totals', 'project', targets => ARRAY['total'::regclass]);
SELECT es_dispatch(ROW('a', n)::deposit) FROM generate_series(1, 4) n;
SQL
$primary->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
my $session = $standby->background_psql('postgres', on_error_stop => 0);

sub on_standby { return $session->query($_[0]); }

# What fails, fails with this message; the code is shown, too.
sub refused
{
	my ($sql, $message, $what) = @_;
	my ($rc, $out, $err) = $standby->psql('postgres', "\\set VERBOSITY verbose\n$sql");
	like($err, $message, $what);
}

# ---------------------------------------------------------------------------
# Reading
# ---------------------------------------------------------------------------

$primary->wait_for_catchup($standby);
is(on_standby(q{SELECT string_agg(data ->> 'amount', ',') FROM es_read_stream('account-a')}), '1,2,3,4', 'es_read_stream');
is(on_standby(q{SELECT es_stream_version('account-a')}), '4', 'es_stream_version');
is(on_standby(q{SELECT balance FROM es_state(NULL::account, 'a')}), '10', 'es_state');
is(on_standby(q{SELECT es_state('account', 'a', 3) -> 'balance'}), '6', 'es_state at a version');
is(on_standby(q{SELECT string_agg(state ->> 'balance', ',' ORDER BY version) FROM es_history('account', 'a')}), '1,3,6,10', 'es_history');
is(on_standby(q{SELECT balance FROM total}), '10', 'the projection');
is(on_standby(q{SELECT count(*) FROM es.event}), '4', 'the table of the log');
is(on_standby(q{SELECT count(*) FROM es_inflight}), '0', 'es_inflight');

# The session has the state in its cache; the primary goes on, replaces the
# function, and the standby follows.
$primary->safe_psql('postgres', q{SELECT es_dispatch(ROW('a', 5)::deposit)});
$primary->wait_for_catchup($standby);
is(on_standby(q{SELECT balance FROM es_state(NULL::account, 'a')}), '15', 'the state follows');
$primary->safe_psql('postgres', q{CREATE OR REPLACE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + 2 * e.amount)::account});
$primary->wait_for_catchup($standby);
is(on_standby(q{SELECT balance FROM es_state(NULL::account, 'a')}), '30', 'the state follows a function that was replaced');

# ---------------------------------------------------------------------------
# What a standby cannot do
# ---------------------------------------------------------------------------

refused('SELECT es_high_water()', qr/ERROR:  55000: cannot tell the high-water mark during recovery/, 'no es_high_water');
refused('SELECT * FROM es_read_all()', qr/ERROR:  55000: cannot tell the high-water mark during recovery/, 'no es_read_all');
refused('SELECT * FROM es_read_all(backward => true)', qr/ERROR:  55000: cannot tell the high-water mark during recovery/, 'not backward either');
refused(q{SELECT es_append('x', ARRAY[es_new_event('t')])}, qr/ERROR:  25006: .*read-only|ERROR:  25006: .*during recovery/, 'no es_append');
refused(q{SELECT es_dispatch(ROW('a', 1)::deposit)}, qr/ERROR:  25006: .*read-only|ERROR:  25006: .*during recovery/, 'no es_dispatch');
refused(q{SELECT es_rebuild_projection('totals')}, qr/ERROR:  25006: /, 'no es_rebuild_projection');
refused(q{SELECT es_create_store('other')}, qr/ERROR:  25006: /, 'no es_create_store');

# ---------------------------------------------------------------------------
# Promotion
# ---------------------------------------------------------------------------

# A prepared transaction and one in flight go along; the second ends with its server.
my $writer = $primary->background_psql('postgres', on_error_stop => 0);
$primary->safe_psql('postgres', q{BEGIN; SELECT es_append('prepared', ARRAY[es_new_event('t')]); PREPARE TRANSACTION 'moved'});
$writer->query_safe(q{BEGIN; SELECT es_append('in flight', ARRAY[es_new_event('t')])});
$primary->safe_psql('postgres', q{SELECT es_dispatch(ROW('b', n)::deposit) FROM generate_series(1, 3) n});
my $last = $primary->safe_psql('postgres', 'SELECT max(position) FROM es.event');
$primary->wait_for_catchup($standby);
$primary->stop('immediate');
$writer->{run}->finish;
$standby->promote;

is(on_standby('SELECT prepared, lower_bound FROM es_inflight'), 'moved|5', 'the prepared transaction is in flight');
is(on_standby('SELECT es_high_water(), count(*) FROM es_read_all()'), '5|5', 'it holds the mark');
my ($version, $position) = split /\|/, on_standby(q{SELECT version, position FROM es_dispatch(ROW('a', 6)::deposit)});
is($version, '6', 'a session from before the promotion dispatches');
cmp_ok($position, '>', $last, 'the next position is above the last');
on_standby(q{COMMIT PREPARED 'moved'});
is(on_standby('SELECT count(*), max(position) FROM es_read_all()'), "10|$position", 'the feed has every event');
is(on_standby('SELECT es_rebuild_projection($$totals$$)'), '9', 'a projection is rebuilt');
is($standby->safe_psql('postgres', 'SELECT * FROM oracle.problems()'), '', 'log, states and projection agree');

$session->quit;
$standby->stop;

# ---------------------------------------------------------------------------
# Failover under load, with synchronous replication
# ---------------------------------------------------------------------------

# Statements of the documentation, by the comments before them.
my %recipe;
my $page = slurp_file(abs_path(dirname(__FILE__) . '/../..') . '/docs/replication.md');
push @{ $recipe{$1} }, $2 while $page =~ /^<!-- (\w+) -->\n```sql\n(.*?)^```$/msg;

my $old = PostgreSQL::Test::Cluster->new('old');
$old->init(allows_streaming => 1);
$old->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'event_sourcing'
event_sourcing.databases = 'postgres'
event_sourcing.workers = 1
max_prepared_transactions = 5
CONF
$old->start;
$old->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE TABLE handled (position bigint);
CREATE FUNCTION note(e es_event) RETURNS void LANGUAGE sql BEGIN ATOMIC INSERT INTO handled VALUES (e.position); END;
SELECT es_create_handler('note', 'note');
SQL
$old->safe_psql('postgres', $recipe{publisher}[0]);    # feed_mark
$old->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));
$old->backup('backup');
my $new = PostgreSQL::Test::Cluster->new('new');
$new->init_from_backup($old, 'backup', has_streaming => 1);
$new->start;
$old->append_conf('postgresql.conf', "synchronous_standby_names = '*'\n");
$old->reload;
$old->safe_psql('postgres', q{BEGIN; SELECT es_append('prepared', ARRAY[es_new_event('t')]); PREPARE TRANSACTION 'kept'});

# A reader: the server, the positions read, and the event_id of the last.
my %reader = (primary => [], standby => []);

sub read_at
{
	my ($name, $node, $sql) = @_;
	my $position = $reader{$name}[-1] // 0;
	$sql =~ s/:position/$position/;
	my @got = map { (split /\|/)[0] } split /\n/, $node->safe_psql('postgres', $sql);
	push @{ $reader{$name} }, @got;
	return scalar @got;
}

# Clients append to streams of their own and to common ones, in transactions of
# different lengths; what is acknowledged goes to a file.
my $dir = PostgreSQL::Test::Utils::tempdir;
my @clients;
foreach my $client (1 .. 4)
{
	append_to_file("$dir/$client.sql", join('', map {
		my $sleep = $_ % 3 ? '' : "SELECT pg_sleep(random() * 0.002) \\g /dev/null\n";
		my $end = $_ % 7 ? 'COMMIT' : 'ROLLBACK';
		"BEGIN;\nSELECT position FROM es_append('log-$client', ARRAY[es_new_event('t')]) \\gset\n$sleep"
		. "SELECT es_append('common-' || ($_ * $client) % 5, ARRAY[es_new_event('t')]) \\g /dev/null\n$end;\n"
		. ($end eq 'COMMIT' ? "\\echo :position\n" : '') } 1 .. 20000));
	push @clients, IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $old->connstr('postgres'), '-f', "$dir/$client.sql" ],
		'>', "$dir/$client.out", '2>', "$dir/$client.err");
}

# Nothing above the prepared transaction is shown before it ends.
$old->poll_query_until('postgres', 'SELECT count(*) > 300 FROM es.event') or die 'no load';
is(read_at('primary', $old, 'SELECT position FROM es_read_all(:position)'), 0, 'a prepared transaction holds the feed back');
is(read_at('standby', $new, $recipe{reader}[0]), 0, 'also on the standby');
$old->safe_psql('postgres', q{COMMIT PREPARED 'kept'});

my %portions = (primary => 0, standby => 0);
while ($portions{primary} < 8 || $portions{standby} < 8)
{
	$portions{primary}++ if read_at('primary', $old, 'SELECT position FROM es_read_all(:position)');
	$portions{standby}++ if read_at('standby', $new, $recipe{reader}[0]);
	die 'a client has failed' if grep { -s "$dir/$_.err" } 1 .. 4;
}
# once more, as late as can be
read_at('primary', $old, 'SELECT position FROM es_read_all(:position, max_count => NULL)');
$old->stop('immediate');
$_->finish foreach @clients;
$new->promote;

my @acknowledged = map { slurp_file("$dir/$_.out") =~ /^(\d+)\n/mg } 1 .. 4;
note(@acknowledged . ' transactions were acknowledged; read ' . @{ $reader{primary} } . ' and ' . @{ $reader{standby} } . ' events before the failover');
cmp_ok(scalar @acknowledged, '>', 300 / ($ENV{ES_SLOWDOWN} || 1), 'the clients were at work');
is($new->safe_psql('postgres', 'SELECT count(*) FROM unnest(ARRAY[' . join(',', @acknowledged) . ']) AS a(position)
		WHERE NOT EXISTS (SELECT FROM es.event e WHERE e.position = a.position)'),
	'0', 'everything acknowledged is there');

my $restored = $new->safe_psql('postgres', 'SELECT max(position) FROM es.event');
$new->safe_psql('postgres', q{SELECT es_append('common-' || n % 5, ARRAY[es_new_event('t')]) FROM generate_series(1, 50) n});
is($new->safe_psql('postgres', "SELECT count(*) FROM es.event WHERE position > $restored"), '50', 'new positions are above the last');
my $all = $new->safe_psql('postgres', 'SELECT position FROM es.event ORDER BY position');
foreach my $name (sort keys %reader)
{
	my $before = @{ $reader{$name} };
	read_at($name, $new, 'SELECT position FROM es_read_all(:position, max_count => NULL)');
	cmp_ok(@{ $reader{$name} } - $before, '>=', 50, "the reader of the $name goes on");
	is(join("\n", @{ $reader{$name} }), $all, 'and has every event once, in order');
}
$new->poll_query_until('postgres', 'SELECT count(*) >= (SELECT count(*) FROM es.event) FROM handled') or die 'not handled';
is($new->safe_psql('postgres', 'SELECT position FROM handled ORDER BY position'), $all, 'the worker has handled every event once');
is($new->safe_psql('postgres', 'SELECT * FROM oracle.problems()'), '', 'the log is whole');

# ---------------------------------------------------------------------------
# Asynchronous replication: a reader has seen what is lost
# ---------------------------------------------------------------------------

$new->append_conf('postgresql.conf', "synchronous_standby_names = ''\n");
$new->reload;
$new->backup('backup');
my $third = PostgreSQL::Test::Cluster->new('third');
$third->init_from_backup($new, 'backup', has_streaming => 1);
$third->start;
my $event = q{SELECT position, event_id FROM es_read_all(backward => true, max_count => 1)};
my @shared = split /\|/, $new->safe_psql('postgres', $event);
$new->wait_for_catchup($third);
$third->append_conf('postgresql.conf', "primary_conninfo = ''\n");
$third->reload;
$new->poll_query_until('postgres', 'SELECT count(*) = 0 FROM pg_stat_replication') or die 'still connected';
$new->safe_psql('postgres', q{SELECT es_append('lost', ARRAY[es_new_event('t')]) FROM generate_series(1, 100)});
my @lost = split /\|/, $new->safe_psql('postgres', $event);
$new->stop('immediate');
$third->promote;
$third->safe_psql('postgres', q{SELECT es_append('other', ARRAY[es_new_event('t')]) FROM generate_series(1, 200)});

sub knows
{
	my ($position, $event_id) = @_;
	(my $sql = $recipe{check}[0]) =~ s/:position/$position/;
	$sql =~ s/:'event_id'/'$event_id'/;
	return $third->safe_psql('postgres', $sql);
}
is($third->safe_psql('postgres', "SELECT stream FROM es.event WHERE position = $lost[0]"), 'other', 'positions of lost events are drawn again');
is(knows(@lost), 'f', 'a reader of lost events finds out');
is(knows(@shared), 't', 'one that has not seen any goes on');

$third->stop;
done_testing();
