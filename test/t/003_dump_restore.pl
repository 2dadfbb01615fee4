# A store outlives everything around it: pg_dump brings all of it to another
# database, DROP EXTENSION leaves it, and it works again after CREATE EXTENSION,
# in whatever schema; it can have any name, and get another one while sessions
# are at work on it.  Whatever a store has, definitions of all kinds, checkpoints,
# leases, schedules, grants, comes along in every format of a dump, and goes on.

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => ['--encoding=UTF8', '--no-locale']);
$node->start;
my $dir = PostgreSQL::Test::Utils::tempdir;
my $oracle = slurp_file(dirname(__FILE__) . '/../oracle.sql');

# A name that needs quotes everywhere.
my $strange = q{Tom's "Big" Store};
my %literal = (es => q{'es'}, $strange => q{'Tom''s "Big" Store'});
my %identifier = (es => 'es', $strange => q{"Tom's ""Big"" Store"});
my @stores = ('es', $strange);

my $model = <<'SQL';
CREATE SCHEMA "Shop";
SET search_path = "Shop", public, ext;
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE TABLE total (store name, id text, balance bigint, PRIMARY KEY (store, id));
CREATE TABLE entry (store name, stream text, version bigint);
CREATE TABLE late (store name, position bigint);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited LANGUAGE plpgsql AS $$
BEGIN
	RETURN ROW(c.id, c.amount)::deposited;
END $$;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total VALUES (current_setting('event_sourcing.store'), e.id, e.amount)
		ON CONFLICT (store, id) DO UPDATE SET balance = total.balance + excluded.balance;
$$;
SQL

# Definitions and some history for a store: targets are filtered by store.
sub fill_store
{
	my ($store) = @_;
	return "SET event_sourcing.store = $literal{$store};\n" . <<'SQL';
SET search_path = "Shop", public, ext;
SELECT es_create_store(current_setting('event_sourcing.store')::name);
SELECT es_create_aggregate('account', snapshot_every => 3);
SELECT es_create_projection('entries', query =>
	'INSERT INTO entry SELECT current_setting(''event_sourcing.store''), stream, version FROM es_new_events');
SELECT es_create_projection('totals', 'project');
SELECT es_create_projection('late', query =>
	'INSERT INTO late SELECT current_setting(''event_sourcing.store''), position FROM es_new_events');
SELECT es_dispatch(ROW('a', n)::deposit, metadata => jsonb_build_object('n', n)) FROM generate_series(1, 10) n;
SELECT es_pause('late');
SELECT es_append('note', ARRAY[es_new_event('noted', '{"text": "\u00e4 \\ '' \" \t"}', recorded_at => '2001-02-03 04:05:06.789+00')]);
SELECT es_dispatch(ROW('a', 100)::deposit, command_id => '00000000-0000-0000-0000-000000000001');
-- positions drawn and never committed stay gaps
BEGIN; SELECT es_append('gap', ARRAY[es_new_event('t'), es_new_event('t'), es_new_event('t')]); ROLLBACK;
SELECT es_dispatch(ROW('b', 1000)::deposit);
SQL
}

# Everything that is in a store, and what it has put into the targets.
sub content
{
	my ($db, $store) = @_;
	my @tables = qw(event aggregate projection receipt snapshot);
	return $node->safe_psql($db,
		join('', map { "SELECT '$_', to_jsonb(t) FROM $identifier{$store}.$_ t ORDER BY 2;\n" } @tables)
		. join('', map { qq{SELECT '$_', to_jsonb(t) FROM "Shop".$_ t WHERE store = $literal{$store} ORDER BY 2;\n} }
			qw(total entry late)));
}

# What a query of the last statement says, in a store.
sub in_store
{
	my ($db, $store, $sql) = @_;
	return $node->safe_psql($db,
		qq{SET event_sourcing.store = $literal{$store}; SET search_path = "Shop", public, ext; $sql});
}

# A store that was moved works on: history, definitions, receipts, positions,
# projections, and nobody changes an event.
sub works
{
	my ($db, $store, $what) = @_;
	my ($version, $last) = split /\|/,
	  in_store($db, $store, qq{SELECT es_stream_version('account-a'), max(position) FROM $identifier{$store}.event});

	is(in_store($db, $store, q{SELECT balance - 155 - (}. ($version - 11) . q{) FROM es_state(NULL::account, 'a')}),
		'0', "$what: the state is the sum of its history");
	my $result = in_store($db, $store, q{SELECT version, position FROM es_dispatch(ROW('a', 1)::deposit)});
	my ($next_version, $next) = split /\|/, $result;
	is($next_version, $version + 1, "$what: the stream goes on");
	cmp_ok($next, '>', $last, "$what: the next position is above the last");
	is(in_store($db, $store,
			q{SELECT version, cardinality(events) FROM es_dispatch(ROW('a', 100)::deposit, command_id => '00000000-0000-0000-0000-000000000001')}),
		'11|1', "$what: a retry gets the result of long ago");
	is(in_store($db, $store, qq{SELECT balance = (SELECT balance FROM es_state(NULL::account, 'a')) FROM total
			WHERE store = $literal{$store} AND id = 'a'}),
		't', "$what: the handlers of the projection run");
	is(in_store($db, $store, qq{SELECT count(*) - (SELECT count(*) FROM $identifier{$store}.event)
			FROM entry WHERE store = $literal{$store}}),
		'0', "$what: the query of the projection runs");
	is(in_store($db, $store, qq{SELECT count(*) FROM late WHERE store = $literal{$store}}),
		'10', "$what: the paused projection is paused");
	is(in_store($db, $store, 'SELECT * FROM oracle.log_problems()
			UNION ALL SELECT * FROM oracle.sequence_problems()
			UNION ALL SELECT * FROM oracle.fold_problems()
			UNION ALL SELECT * FROM oracle.receipt_problems()'),
		'', "$what: log, states and receipts agree");
	is(in_store($db, $store, 'SELECT count(*) FROM es_read_all(max_count => NULL)'),
		in_store($db, $store, "SELECT count(*) FROM $identifier{$store}.event"), "$what: the feed has every event");
	foreach my $sql (
		"DELETE FROM $identifier{$store}.event",
		"UPDATE $identifier{$store}.event SET type = 'x'",
		"TRUNCATE $identifier{$store}.event",
		"INSERT INTO $identifier{$store}.event SELECT * FROM $identifier{$store}.event")
	{
		my ($rc, $out, $err) = $node->psql($db, $sql);
		like($err, qr/cannot (change|insert into) event log/, "$what: " . (split / /, $sql)[0] . ' is refused');
	}
}

# ---------------------------------------------------------------------------
# Two stores in one database, dumped and restored into empty ones
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE source');
$node->safe_psql('source', "CREATE EXTENSION event_sourcing; $model" . fill_store($_)) foreach 'es';
$node->safe_psql('source', fill_store($strange));
$node->safe_psql('source', $oracle);
my %content = map { $_ => content('source', $_) } @stores;
isnt($content{es}, '', 'there is something to dump');

my %restore = (
	plain => [
		[ 'pg_dump', '-f', "$dir/plain.sql", $node->connstr('source') ],
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('plain'), '-f', "$dir/plain.sql" ] ],
	inserts => [
		[ 'pg_dump', '--rows-per-insert=2', '-f', "$dir/inserts.sql", $node->connstr('source') ],
		[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('inserts'), '-f', "$dir/inserts.sql" ] ],
	custom => [
		[ 'pg_dump', '-Fc', '-f', "$dir/custom.dump", $node->connstr('source') ],
		[ 'pg_restore', '--exit-on-error', '-d', $node->connstr('custom'), "$dir/custom.dump" ] ],
	parallel => [
		[ 'pg_dump', '-Fd', '-j', 2, '-f', "$dir/parallel", $node->connstr('source') ],
		[ 'pg_restore', '-j', 2, '--exit-on-error', '-d', $node->connstr('parallel'), "$dir/parallel" ] ]);

foreach my $how (sort keys %restore)
{
	$node->safe_psql('postgres', "CREATE DATABASE $how TEMPLATE template0");
	$node->command_ok($restore{$how}[0], "$how: dump");
	$node->command_ok($restore{$how}[1], "$how: restore");
	foreach my $store (@stores)
	{
		is(content($how, $store), $content{$store}, "$how: store $store is the same");
		works($how, $store, "$how, store $store");
	}
}

# A log restored by itself, its sequence left behind: appends are refused until
# the store is brought up to date.
$node->safe_psql('plain', q{SELECT setval('es.event_position', 3)});
my ($rc, $out, $err) = $node->psql('plain', q{SELECT es_append('x', ARRAY[es_new_event('t')])});
like($err, qr/sequence of store es is behind its event log/, 'a sequence that is behind is found out');
$node->safe_psql('plain', 'SELECT es_upgrade_store()');
works('plain', 'es', 'after es_upgrade_store');

# ---------------------------------------------------------------------------
# DROP EXTENSION and CREATE EXTENSION
# ---------------------------------------------------------------------------

# A session that was there before: it has everything in its caches.
my $session = $node->background_psql('source', on_error_stop => 0);
$session->query_safe(q{SET search_path = "Shop", public, ext});
is($session->query(q{SELECT version FROM es_dispatch(ROW('a', 1)::deposit)}), '12', 'a session at work');
$content{es} = content('source', 'es');

$node->safe_psql('source', 'DROP EXTENSION event_sourcing CASCADE');
is(content('source', $_), $content{$_}, "DROP EXTENSION leaves store $_ as it was") foreach @stores;
$session->query(q{SELECT version FROM es_dispatch(ROW('a', 1)::deposit)});
like($session->{stderr}, qr/function es_dispatch\(deposit\) does not exist/, 'no extension, no dispatch');
$session->{stderr} = '';

# In another schema than before.
$node->safe_psql('source', 'CREATE SCHEMA ext; CREATE EXTENSION event_sourcing SCHEMA ext');
$node->safe_psql('source', "SELECT ext.es_upgrade_store($literal{$_})") foreach @stores;
works('source', $_, "extension anew, store $_") foreach @stores;
is($session->query(q{SELECT version FROM es_dispatch(ROW('a', 1)::deposit)}), '14', 'the session from before goes on');
is($session->query(q{SELECT version FROM es_append('account-a', ROW('a', 1)::deposited)}), '15', 'it appends, too');
works('source', 'es', 'after the session from before');

# ---------------------------------------------------------------------------
# A store gets another name while a session has it in its caches
# ---------------------------------------------------------------------------

my $dispatch = q{SELECT version FROM es_dispatch(ROW('r', 1)::deposit)};
is($session->query($dispatch), '1', 'a store has its name');
$node->safe_psql('source', 'ALTER SCHEMA es RENAME TO "Moved"');
$session->query($dispatch);
like($session->{stderr}, qr/there is no event store in schema "es"/, 'the old name is none any more');
$session->{stderr} = '';
is($session->query(qq{SET event_sourcing.store = 'Moved'; $dispatch}), '2', 'the new one is the store');

# The old name goes to a new store: its streams begin anew.
$node->safe_psql('source', 'SET search_path = "Shop", ext; ' . fill_store('es'));
is($session->query(qq{SET event_sourcing.store = 'es'; $dispatch}), '1', 'another store has the old name');
is($session->query(qq{SET event_sourcing.store = 'Moved'; $dispatch}), '3', 'the first one goes on under the new name');

# Two names change hands: the session must not mix up their states.
$node->safe_psql('source', 'BEGIN; ALTER SCHEMA es RENAME TO tmp; ALTER SCHEMA "Moved" RENAME TO es;
	ALTER SCHEMA tmp RENAME TO "Moved"; COMMIT');
is($session->query(qq{SET event_sourcing.store = 'es'; $dispatch}), '4', 'names swapped: the first store');
is($session->query(qq{SET event_sourcing.store = 'Moved'; $dispatch}), '2', 'names swapped: the other one');

# A store that is dropped and made again is empty.
$node->safe_psql('source', 'DROP SCHEMA "Moved" CASCADE');
$session->query($dispatch);
like($session->{stderr}, qr/there is no event store in schema "Moved"/, 'a dropped store is none');
$session->{stderr} = '';
$node->safe_psql('source', q{SET search_path = "Shop", ext; SELECT es_create_store('Moved');
	SET event_sourcing.store = 'Moved'; SELECT es_create_aggregate('account')});
is($session->query($dispatch), '1', 'made again, it is empty');
$session->quit;

# ---------------------------------------------------------------------------
# Everything qualified: the extension in a schema of its own, no search_path
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE bare');
is($node->safe_psql('bare', <<'SQL'), "12|12\n3\n78\n78\n12|12\n12\n0\n0\n12\n0\nt", 'all works with an empty search_path');
SET client_min_messages = warning;
SET search_path = '';
CREATE SCHEMA ext; CREATE SCHEMA shop;
CREATE EXTENSION event_sourcing SCHEMA ext;
DO $$ BEGIN PERFORM ext.es_create_store(); END $$;
CREATE TYPE shop.account AS (id text, balance bigint);
CREATE TYPE shop.deposit AS (id text, amount int);
CREATE TYPE shop.deposited AS (id text, amount int);
CREATE TABLE shop.total (id text PRIMARY KEY, balance bigint);
CREATE FUNCTION shop.execute(s shop.account, c shop.deposit, m ext.es_command) RETURNS shop.deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::shop.deposited;
CREATE FUNCTION shop.apply(s shop.account, e shop.deposited, m ext.es_event) RETURNS shop.account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::shop.account;
CREATE FUNCTION shop.project(e shop.deposited) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO shop.total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
END;
DO $$ BEGIN
	PERFORM ext.es_create_aggregate('shop.account', snapshot_every => 5);
	PERFORM ext.es_create_projection('totals', 'shop.project', targets => ARRAY['shop.total'::regclass]);
	PERFORM ext.es_dispatch(ROW('a', n)::shop.deposit) FROM generate_series(1, 11) n;
END $$;
SELECT d.version, d.position FROM ext.es_dispatch('deposit', '{"id": "a", "amount": 12}') d;
SELECT r.version FROM ext.es_append('note', ARRAY[ext.es_new_event('t'), ext.es_new_event('t'), ext.es_new_event('t')]) r;
SELECT s.balance FROM ext.es_state(NULL::shop.account, 'a') s;
SELECT ext.es_state('account', 'a') -> 'balance';
SELECT count(*), max(h.version) FROM ext.es_history('account', 'a') h;
SELECT count(*) FROM ext.es_read_stream('account-a');
SELECT count(*) FROM ext.es_inflight;
SELECT ext.es_verify_projection('totals');
SELECT ext.es_rebuild_projection('totals');
SELECT count(*) FROM ext.es_lint() l WHERE l::text ~ 'error';
SELECT ext.es_diagram() ~ 'flowchart';
SQL

# ---------------------------------------------------------------------------
# Something of everything, in every format
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE full_store');
$node->safe_psql('full_store', "CREATE EXTENSION event_sourcing; $oracle");
$node->command_ok([ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', "$dir/full_store.out", '-d', $node->connstr('full_store'),
		'-f', dirname(__FILE__) . '/../full_store.sql' ], 'a store with something of everything');
my $full_content = $node->safe_psql('full_store', 'SELECT * FROM shop.content()');
foreach my $table (qw(event aggregate projection subscription checkpoint parked_event consumer process schedule receipt snapshot))
{
	like($full_content, qr/^es\.$table: /m, "$table is not empty");
}

my @psql = ('psql', '-Xq', '-v', 'ON_ERROR_STOP=1');
my $full = $node->connstr('full_store');
my %how = (
	plain => [ [ 'pg_dump', '-f', "$dir/full.sql", $full ], [ @psql, '-d', 'TO', '-f', "$dir/full.sql" ] ],
	inserts => [ [ 'pg_dump', '--column-inserts', '-f', "$dir/full_inserts.sql", $full ], [ @psql, '-d', 'TO', '-f', "$dir/full_inserts.sql" ] ],
	custom => [ [ 'pg_dump', '-Fc', '-f', "$dir/full.dump", $full ], [ 'pg_restore', '--exit-on-error', '-d', 'TO', "$dir/full.dump" ] ],
	parallel => [
		[ 'pg_dump', '-Fd', '-j', 2, '-f', "$dir/full_parallel", $full ],
		[ 'pg_restore', '-j', 2, '--exit-on-error', '-d', 'TO', "$dir/full_parallel" ] ],
	# some schemas, into a database that has the extension
	schemas => [
		[ 'pg_dump', '-n', 'es', '-n', 'shop', '-n', 'oracle', '-f', "$dir/full_schemas.sql", $full ],
		[ @psql, '-d', 'TO', '-c', 'CREATE EXTENSION event_sourcing', '-f', "$dir/full_schemas.sql" ] ],
	# the tables first, their rows later
	data_only => [
		[ 'pg_dump', '-s', '-f', "$dir/full_empty.sql", $full ],
		[ @psql, '-d', 'TO', '-f', "$dir/full_empty.sql" ],
		[ 'pg_dump', '-a', '-Fc', '-f', "$dir/full_data.dump", $full ],
		[ 'pg_restore', '--exit-on-error', '--data-only', '--disable-triggers', '-d', 'TO', "$dir/full_data.dump" ],
		[ @psql, '-o', "$dir/upgrade.out", '-d', 'TO', '-c', 'SELECT es_upgrade_store()' ] ]);

foreach my $how (sort keys %how)
{
	my $db = "full_$how";
	my $to = $node->connstr($db);
	$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0");
	foreach my $command (@{ $how{$how} })
	{
		$node->command_ok([ map { $_ eq 'TO' ? $to : $_ } @$command ], "$how: $$command[0]");
	}
	# the extension is no part of a dump of schemas, nor are the grants on its functions
	$node->safe_psql($db, 'GRANT EXECUTE ON FUNCTION es_append(text, es_new_event[], bigint, uuid, uuid) TO shop_app;
		REVOKE EXECUTE ON FUNCTION es_lint() FROM PUBLIC') if $how eq 'schemas';
	is($node->safe_psql($db, 'SELECT * FROM shop.content()'), $full_content, "$how: the same content");
	is($node->safe_psql($db, 'SELECT * FROM shop.goes_on()'), '', "$how: everything goes on");
}

$node->stop;
done_testing();
