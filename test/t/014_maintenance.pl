# Maintenance beside writers and workers: tables and indexes are rewritten, rebuilt,
# moved and altered, and no append, no fold and no subscription notices anything but
# the wait for a lock.
#
# What is read and written without a statement (src/log.c) must be seen to keep up
# with other files, other indexes and other columns, and so must every session's
# plans and caches: all sessions live as long as the test.
#
# Environment: ES_MAINTENANCE_ROUNDS  how often all of it is done (default 1)

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $rounds = $ENV{ES_MAINTENANCE_ROUNDS} || 1;
my $writers = 3;

my $node = PostgreSQL::Test::Cluster->new('main');
# whoever runs the tests: the superuser has the name that they use
$node->init(extra => [ '--username=postgres' ]);
$ENV{PGUSER} = 'postgres';
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'event_sourcing'
event_sourcing.databases = 'postgres'
event_sourcing.workers = 2
event_sourcing.retry_delay = '10ms'
allow_in_place_tablespaces = on
log_statement = none
client_min_messages = warning
CONF
$node->start;

# Where the server cannot compress by LZ4, it is left with its own method.
my $lz4 = $node->safe_psql('postgres', q{SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'});
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE TYPE account AS (id text, balance bigint, text text);
CREATE TYPE deposit AS (id text, amount int, text text);
CREATE TYPE deposited AS (id text, amount int, text text);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount, c.text)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount, e.text)::account;
SELECT es_create_aggregate('account', snapshot_every => 20);

CREATE TABLE total (id text PRIMARY KEY, balance bigint);
CREATE TABLE total_later (LIKE total INCLUDING ALL);
CREATE TABLE tally_later (type text PRIMARY KEY, events bigint, positions numeric);
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
END;
CREATE FUNCTION project_later(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total_later VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total_later.balance + excluded.balance;
$$;
SELECT es_create_projection('total', 'project', targets => '{total}'),
	es_create_projection('total_later', 'project_later', mode => 'async', targets => '{total_later}'),
	es_create_projection('tally_later', mode => 'async', targets => '{tally_later}', query => '
		INSERT INTO tally_later SELECT type, count(*), sum(position) FROM es_new_events GROUP BY type
			ON CONFLICT (type) DO UPDATE SET events = tally_later.events + excluded.events,
				positions = tally_later.positions + excluded.positions');

-- what nothing would keep from being done twice
CREATE TABLE effect (number bigserial, stream text, version bigint, position bigint);
CREATE FUNCTION take_effect(e es_event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO effect (stream, version, position) VALUES (e.stream, e.version, e.position);
$$;
SELECT es_create_handler('effect', 'take_effect', partitions => 3);

CREATE TABLE acknowledged (id uuid, stream text, version bigint, position bigint, balance bigint);
SQL
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));
$node->safe_psql('postgres', q{CREATE TABLESPACE elsewhere LOCATION ''});

# ---------------------------------------------------------------------------
# Writers
# ---------------------------------------------------------------------------

# Each writes for itself to a few accounts, with texts of all sizes, reads their states
# back, and knows what they must be: the balance is the sum of what it has deposited.
my $dir = PostgreSQL::Test::Utils::tempdir;
my @process;

sub writer
{
	my ($client) = @_;
	my %balance;

	return join('', map {
		my ($account, $i) = ("$client." . $_ % 5, $_);
		my $id = "md5('$client $i')::uuid";
		my $length = (10, 100, 3000, 9000)[ $i % 4 ];
		$balance{$account} += $i;
		($i % 3
			? "SELECT position AS p FROM es_dispatch(ROW('$account', $i, repeat(md5('$i'), $length / 32))::deposit, command_id => $id) \\gset\n"
			: "BEGIN;\nSELECT version AS p FROM es_append('log-$client', ARRAY[es_new_event('t', event_id => $id)]) \\gset\n"
			  . "SAVEPOINT s;\nSELECT version AS p FROM es_append('account-$account', 'unknown', '{}') \\gset\nROLLBACK TO s;\n"
			  . "SELECT position AS p FROM es_dispatch(ROW('$account', $i, '')::deposit, command_id => $id) \\gset\nCOMMIT;\n")
		  . "SELECT $id, e.stream, e.version, e.position, (es_state(NULL::account, '$account')).balance FROM es_read_stream('account-$account', backward => true, max_count => 1) e;\n"
	} 1 .. 15_000);
}

foreach my $client (0 .. $writers - 1)
{
	append_to_file("$dir/writer$client.sql", writer($client));
	# one of them does everything by statements
	local $ENV{PGOPTIONS} = '-c event_sourcing.direct_log=' . ($client ? 'on' : 'off');
	$process[$client] = IPC::Run::start(
		[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$dir/writer$client.sql" ],
		'>', "$dir/writer$client.out", '2>', "$dir/writer$client.err");
}

# Wait until the writers have done more, and the workers as well.
sub go_on
{
	my ($written, $handled) = split /\|/, $node->safe_psql('postgres',
		'SELECT max(position) + 20, (SELECT COALESCE(max(position), 0) FROM effect) FROM es.event');
	return $node->poll_query_until('postgres',
		"SELECT max(position) > $written AND (SELECT max(position) > $handled FROM effect) FROM es.event");
}

# ---------------------------------------------------------------------------
# Maintenance
# ---------------------------------------------------------------------------

my @tables = split /\n/, $node->safe_psql('postgres', q{SELECT oid::regclass FROM pg_class WHERE relnamespace = 'es'::regnamespace AND relkind = 'r' ORDER BY 1});
my @work = (
	'VACUUM FULL es.event',
	'CLUSTER es.event USING event_pkey',
	'CLUSTER es.event USING event_position_key',
	'REINDEX TABLE es.event',
	'REINDEX TABLE CONCURRENTLY es.event',
	'REINDEX INDEX CONCURRENTLY es.event_pkey',
	'REINDEX INDEX CONCURRENTLY es.event_position_key',
	'ALTER TABLE es.event SET TABLESPACE elsewhere',
	'ALTER INDEX es.event_pkey SET TABLESPACE elsewhere',
	'ALTER TABLE es.event SET TABLESPACE pg_default',
	'ALTER INDEX es.event_pkey SET TABLESPACE pg_default',
	'ALTER TABLE es.event ALTER data SET STATISTICS 500; ANALYZE es.event',
	'ALTER TABLE es.event ALTER data SET STORAGE EXTERNAL',
	'ALTER TABLE es.event ALTER data SET STORAGE EXTENDED',
	($lz4 eq 't' ? 'ALTER TABLE es.event ALTER data SET COMPRESSION lz4; VACUUM FULL es.event' : ()),
	'ALTER TABLE es.event SET (fillfactor = 90, autovacuum_enabled = false); VACUUM es.event',
	'CREATE INDEX CONCURRENTLY by_type ON es.event (type)',
	'DROP INDEX CONCURRENTLY es.by_type',
	'CREATE UNIQUE INDEX CONCURRENTLY again ON es.event (position)',
	'DROP INDEX CONCURRENTLY es.again',
	# another index in the place of the one that sessions scan
	'ALTER TABLE es.event DROP CONSTRAINT event_position_key, ADD CONSTRAINT event_position_key UNIQUE (position)',
	'ALTER TABLE es.event DROP CONSTRAINT event_pkey, ADD CONSTRAINT event_pkey PRIMARY KEY (stream, version)',
	# none in its place for a while
	'ALTER TABLE es.event DROP CONSTRAINT event_position_key',
	'ALTER TABLE es.event ADD CONSTRAINT event_position_key UNIQUE (position)',
	'ALTER TABLE es.event REPLICA IDENTITY FULL',
	(map { "VACUUM FULL $_" } @tables),
	(map { "REINDEX TABLE CONCURRENTLY $_" } @tables),
	'VACUUM FULL total; VACUUM FULL total_later; VACUUM FULL effect',
	'ALTER TABLE es.snapshot ADD COLUMN remark text',
	'ALTER TABLE es.checkpoint ADD COLUMN remark text',
	'ALTER TABLE es.receipt ADD COLUMN remark text',
	'ALTER TABLE es.subscription ADD COLUMN remark text');

# From here on the log has had another column.
my @columns = (
	'ALTER TABLE es.event ADD COLUMN remark text',
	'VACUUM FULL es.event',
	q{ALTER TABLE es.event ADD COLUMN written timestamptz DEFAULT now()},
	'ALTER TABLE es.event DROP COLUMN remark',
	'CLUSTER es.event USING event_pkey',
	'ALTER TABLE es.event DROP COLUMN written',
	'VACUUM FULL es.event');

sub refused
{
	my ($sql, $error) = @_;
	my ($rc, $out, $err) = $node->psql('postgres', $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);
	like($err, $error, "refused: $sql");
	return;
}

go_on() or die 'no load';
foreach my $round (1 .. $rounds)
{
	foreach my $sql (@work, $round == $rounds ? @columns : ())
	{
		my $work = $sql;
		$work =~ s/ADD COLUMN remark/ADD COLUMN IF NOT EXISTS remark/;
		# each by itself: some of it must not be in a transaction
		my $err;
		foreach my $try (1 .. 10)
		{
			(undef, undef, $err) = $node->psql('postgres', '', extra_params => [ map { ('-c', $_) } split /; /, $work ]);
			# locks a table's indexes exclusively one after the other, and so can meet any
			# transaction that reads by two of them in a deadlock, whoever then is the victim
			last unless $work =~ /^REINDEX TABLE es/ && $err =~ /deadlock detected/;
		}
		is($err, '', "round $round: $work");
		go_on() or die "nothing goes on after $work";
	}
	refused('TRUNCATE es.event', qr/55000: cannot change event log "es.event"/);
	refused('TRUNCATE es.event CASCADE', qr/55000: cannot change event log "es.event"/);
}

my $alive = grep { $_->pumpable } @process;
is($alive, $writers, 'every writer is at it to the end');
$_->kill_kill foreach @process;

# ---------------------------------------------------------------------------
# The outcome
# ---------------------------------------------------------------------------

sub none
{
	my ($query, $what) = @_;
	is($node->safe_psql('postgres', $query), '', $what);
	return;
}

sub same
{
	my ($one, $other, $what) = @_;
	none("($one) EXCEPT ALL ($other)", "$what: nothing too much");
	none("($other) EXCEPT ALL ($one)", "$what: nothing missing");
	return;
}

# All that is linear in the log: each state as a session folds it, from wherever it
# starts, and as it is folded from zero.
my $agree = q{
	SELECT * FROM oracle.log_problems() UNION ALL SELECT * FROM oracle.sequence_problems()
	UNION ALL SELECT * FROM oracle.receipt_problems() UNION ALL SELECT * FROM oracle.projection_problems();
	WITH folded AS MATERIALIZED (
		SELECT id, h.version, h.state, max(h.version) OVER (PARTITION BY id) AS last
		FROM (SELECT substr(stream, 9) AS id FROM es.event WHERE version = 1 AND stream ^@ 'account-') a, es_history('account', id) h)
	SELECT 'state', id, version, es_state('account', id), state FROM folded
		WHERE version = last AND (version <> es_stream_version('account-' || id) OR es_state('account', id) IS DISTINCT FROM state)
	UNION ALL
	SELECT 'state snapshot', id, version, s.state, folded.state FROM folded JOIN es.snapshot s USING (version)
		WHERE s.stream = 'account-' || id AND s.state IS DISTINCT FROM folded.state};

sub agree
{
	my ($when) = @_;

	ok( $node->poll_query_until('postgres', q{SELECT NOT EXISTS (SELECT FROM es_subscription_status WHERE lag_events > 0)}),
		"$when: the workers finish");
	none($agree, "$when: log, sequence, states, receipts and projections agree");
	same('SELECT stream, version, position FROM effect', 'SELECT stream, version, position FROM es.event',
		"$when: events that the handler has handled");
	same('TABLE total_later', 'TABLE total', "$when: what a worker has projected");
	same('SELECT type, events, positions FROM tally_later', 'SELECT type, count(*), sum(position) FROM es.event GROUP BY type',
		"$when: what a worker has counted");
	return;
}

foreach my $client (0 .. $writers - 1)
{
	is(slurp_file("$dir/writer$client.err"), '', "writer $client has met no error");
	my @lines = slurp_file("$dir/writer$client.out") =~ /^(.+)\n/mg;
	note("writer $client has done " . @lines . ' commands');
	$node->safe_psql('postgres', 'INSERT INTO acknowledged VALUES ' . join(', ', map { "('" . join("', '", split /\|/) . "')" } @lines));
}
none('SELECT id FROM acknowledged a WHERE NOT EXISTS (SELECT FROM es.event e
		WHERE e.stream = a.stream AND e.version = a.version AND e.position = a.position AND e.causation_id = a.id)',
	'everything acknowledged is in the log, as it was acknowledged');
none(q{SELECT a.id, a.balance, h.balance FROM acknowledged a
		JOIN (SELECT stream, version, sum((data ->> 'amount')::int) OVER (PARTITION BY stream ORDER BY version) AS balance
			FROM es.event WHERE stream ^@ 'account-') h USING (stream, version)
		WHERE a.balance <> h.balance},
	'every state read in between was the one at its version');
none(q{SELECT position FROM es.event WHERE type = 'unknown'}, 'what was taken back is not there');
agree('after it all');
none('SELECT * FROM es.parked_event', 'nothing is parked');

# ---------------------------------------------------------------------------
# Other names and other owners
# ---------------------------------------------------------------------------

# In one session that knows the store well.
my $session = $node->background_psql('postgres', on_error_stop => 0);
my $deposit = q{SELECT version - es_stream_version('account-known') FROM es_dispatch(ROW('known', 1, '')::deposit, command_id => gen_random_uuid())};
$session->query_safe('\set VERBOSITY verbose');

sub fails
{
	my ($sql, $error, $what) = @_;
	$session->query($sql);
	like($session->{stderr}, $error, $what);
	$session->{stderr} = '';
	return;
}

is($session->query_safe($deposit), '1', 'a command');
$node->safe_psql('postgres', 'ALTER SCHEMA es RENAME TO history');
fails($deposit, qr/3F000: there is no event store in schema "es"/, 'a store that was renamed is not found by its old name');
$session->query_safe(q{SET event_sourcing.store = 'history'});
is($session->query_safe($deposit), '1', 'but by its new one');
$node->safe_psql('postgres', q{SELECT es_create_store('es')});
$session->query_safe(q{RESET event_sourcing.store});
fails($deposit, qr/SE004/, 'another store in its place is another one');
$node->safe_psql('postgres', q{DROP SCHEMA es CASCADE; ALTER SCHEMA history RENAME TO es});
is($session->query_safe($deposit), '1', 'and by its old one again');

refused('ALTER EXTENSION event_sourcing SET SCHEMA es', qr/0A000: extension "event_sourcing" does not support SET SCHEMA/);
is($session->query_safe($deposit), '1', 'that did nothing');

# The owner's name is what a worker may do: it must be allowed to be the owner of the
# definitions.  Appends go on all the same.
my $give = q{DO $$
DECLARE
	relation record;
BEGIN
	FOR relation IN SELECT oid::regclass AS name FROM pg_class WHERE relnamespace = 'es'::regnamespace AND relkind = 'r' LOOP
		EXECUTE format('ALTER TABLE %s OWNER TO %I', relation.name, 'OWNER');
	END LOOP;
END $$};
$node->safe_psql('postgres', 'CREATE ROLE keeper; GRANT CREATE ON SCHEMA es TO keeper; GRANT USAGE ON SCHEMA es TO keeper');
$node->safe_psql('postgres', 'ALTER TABLE es.event OWNER TO keeper');
is($session->query_safe($deposit), '1', 'the log has another owner than the rest: appends go on');
$node->safe_psql('postgres', $give =~ s/OWNER'/keeper'/r);
is($session->query_safe($deposit), '1', 'all of it has another owner: appends go on');
ok( $node->poll_query_until('postgres', q{SELECT EXISTS (SELECT FROM es.checkpoint WHERE last_error ~ 'cannot run code as role')}),
	'workers do not go on as somebody whom the owner may not be');
$node->safe_psql('postgres', $give =~ s/OWNER'/postgres'/r);
is($session->query_safe($deposit), '1', 'the former owner again');
agree('the former owner again');
is( $session->query_safe(q{SELECT es_state('account', 'known') = h.state FROM es_history('account', 'known') h ORDER BY h.version DESC LIMIT 1}),
	't', 'the session has the right state');
$session->quit;

is(join("\n", grep { /PANIC|TRAP|WARNING|could not open|could not read|still referenced|leak/ } split /\n/, slurp_file($node->logfile)),
	'', 'the server has found nothing wrong');
$node->stop;
done_testing();
