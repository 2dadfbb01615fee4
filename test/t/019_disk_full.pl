# The disk is full: for the log's table, for an index of it, and for the WAL.
#
# The server runs in a mount namespace of its own, where two small file systems in
# memory hold the store's tables and the WAL, and can be given more room.  That needs
# no rights but those to make a user namespace; where even these are missing, the test
# is skipped.
#
# An append that finds no room fails with 53100 and leaves nothing, the session goes
# on, and with room again so do the appends.  Without room for the WAL the server
# stops, as PostgreSQL does; with room again, all that was acknowledged is there.

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $base = PostgreSQL::Test::Utils::tempdir;
my ($tables, $wal) = ("$base/tables", "$base/wal");
mkdir $_ or die "could not make $_: $!" foreach ($tables, $wal);

# Who holds the namespace while servers come and go: an ordinary user is root in there
# and may mount, until standard input ends.
my ($in, $out) = ('', '');
my $holder = IPC::Run::start([ 'unshare', '--user', '--map-root-user', '--mount', 'sh', '-c',
		"mount -t tmpfs -o size=8m,mode=700 tmpfs $tables && mount -t tmpfs -o size=200m,mode=700 tmpfs $wal && echo \$\$ && exec cat" ],
	'<', \$in, '>', \$out, '2>', '/dev/null');
eval { $holder->pump until $out =~ /\n/ };
my ($pid) = $out =~ /^(\d+)\n/;

# A command as root of the namespace, and as the user that everybody is outside.
my @enter = ('nsenter', '--preserve-credentials', '--user', '--mount', '-t', $pid || 0);
my @user = (@enter, 'unshare', '--user', "--map-user=$>", '--map-group=' . ($) + 0));
unless ($pid && run_log([ @user, 'touch', "$tables/can_write" ], '>', '/dev/null', '2>&1'))
{
	eval { $holder->kill_kill };
	plan skip_all => 'cannot mount file systems in a user namespace here';
}

sub inside { run_log([ @enter, @_ ]) or die "could not run @_"; return }

# Everything that the test starts by pg_ctl is started in there.
mkdir "$base/bin" or die $!;
chomp(my $pg_ctl = `sh -c 'command -v pg_ctl'`);
append_to_file("$base/bin/pg_ctl", "#!/bin/sh\ncase \" \$* \" in *' start '*|*' start') exec @user $pg_ctl \"\$@\";; esac\nexec $pg_ctl \"\$@\"\n");
chmod 0755, "$base/bin/pg_ctl";

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(extra => ['--wal-segsize=1']);
$node->append_conf('postgresql.conf', <<'CONF');
min_wal_size = 2MB
max_wal_size = 1GB
checkpoint_timeout = 1h
wal_recycle = off
autovacuum = off
synchronous_commit = on
restart_after_crash = off
log_statement = none
CONF
inside('sh', '-c', "cp -a @{[$node->data_dir]}/pg_wal/. $wal/ && rm -r @{[$node->data_dir]}/pg_wal && ln -s $wal @{[$node->data_dir]}/pg_wal && mkdir $tables/space");
local $ENV{PATH} = "$base/bin:$ENV{PATH}";
$node->start;

$node->safe_psql('postgres', <<SQL);
CREATE EXTENSION event_sourcing;
CREATE TABLESPACE small LOCATION '$tables/space';
SET default_tablespace = small;
SELECT es_create_store();
CREATE TABLE total (id text PRIMARY KEY, balance bigint);
RESET default_tablespace;
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int, note text);
CREATE TYPE deposited AS (id text, amount int, note text);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount, c.note)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql AS \$\$
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
\$\$;
SELECT es_create_aggregate('account', snapshot_every => 3), es_create_projection('total', 'project', targets => '{total}');
-- what does not compress
CREATE FUNCTION noise(n int) RETURNS text LANGUAGE sql AS
	\$\$ SELECT string_agg(md5(random()::text), '') FROM generate_series(1, n) \$\$;
SQL
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

my $session = $node->background_psql('postgres', on_error_stop => 0);
$session->query_safe('\set VERBOSITY verbose');
my $agree = q{SELECT * FROM oracle.problems()};

# The SQLSTATE of a statement, and its answer.
sub answer
{
	my ($sql) = @_;
	my ($answer, $state) = $session->query("$sql;\n\\echo # :SQLSTATE") =~ /^(.*?)\n?# (\S+)$/s;
	my $error = $session->{stderr};
	$session->{stderr} = '';
	return ($state, $answer, $error);
}

# ---------------------------------------------------------------------------
# No room for the tables
# ---------------------------------------------------------------------------

my $megabytes = 8;
foreach my $call (
	[ 'appends', q{SELECT version FROM es_append('log', 't', jsonb_build_object('noise', noise(3000)))} ],
	[ 'appends of many events', q{SELECT version FROM es_append('log', ARRAY(SELECT es_new_event('t', jsonb_build_object('noise', noise(200))) FROM generate_series(1, 50)))} ],
	[ 'commands', q{SELECT version FROM es_dispatch(ROW('1', 1, noise(1000))::deposit, command_id => gen_random_uuid())} ],
	[ 'commands with names that fill the index', q{SELECT version FROM es_append(noise(12), ARRAY(SELECT es_new_event('t') FROM generate_series(1, 100)))} ])
{
	my ($what, $sql) = @$call;
	my ($done, $state, $answer, $error) = (-1, '00000');
	while ($state eq '00000' && $done < 5000)
	{
		$done++;
		($state, $answer, $error) = answer($sql);
	}
	note("$what: $done succeeded");
	is($state, '53100', "$what: there is no room");
	like($error, qr/53100: could not (extend|write)/, "$what: and the error says so");

	# The session goes on, and knows what is there.
	my $count = q{SELECT count(*), (SELECT count(*) FROM es.receipt), (SELECT sum(balance) FROM total) FROM es.event};
	my $before = $node->safe_psql('postgres', $count);
	($state) = answer($sql);
	is($state, '53100', "$what: nor is there for another one");
	is((answer($count))[1], $before, "$what: what has failed has left nothing");
	is((answer($agree))[1], '', "$what: all agree");

	$megabytes += 6;
	inside('mount', '-o', "remount,size=${megabytes}m", 'tmpfs', $tables);
	($state, $answer) = answer($sql);
	is($state, '00000', "$what: with room, it succeeds");
	is((answer($agree))[1], '', "$what: all agree with it");
}
is((answer(q{SELECT state = es_state('account', '1') FROM es_history('account', '1') ORDER BY version DESC LIMIT 1}))[1],
	't', 'the state is the one folded from zero');

# ---------------------------------------------------------------------------
# No room for the WAL
# ---------------------------------------------------------------------------

# From here on the tables have room.
inside('mount', '-o', 'remount,size=200m', 'tmpfs', $tables);
$session->quit;
$node->stop;
$node->start;
inside('mount', '-o', 'remount,size=12m', 'tmpfs', $wal);

my $client = PostgreSQL::Test::Utils::tempdir . '/client';
append_to_file("$client.sql", join('', map {
	"SELECT md5('$_')::uuid, stream, version, position FROM es_dispatch(ROW('wal', $_, noise(600))::deposit, command_id => md5('$_')::uuid);\n" } 1 .. 5000));
IPC::Run::run([ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$client.sql" ], '>', "$client.out", '2>', "$client.err");
like(slurp_file("$client.err"), qr/server closed the connection|terminat|PANIC/, 'without room for the WAL the server stops');
like(slurp_file($node->logfile), qr/PANIC:  .*No space left on device/, 'it says why');
my @told = slurp_file("$client.out") =~ /^(.+)\n/mg;
note(@told . ' commands were acknowledged');
cmp_ok(scalar(@told), '>', 100, 'many commands were acknowledged before');

# It may be gone, or on its way.
PostgreSQL::Test::Utils::system_log('pg_ctl', '-D', $node->data_dir, '-m', 'immediate', '-w', 'stop') if -e $node->data_dir . '/postmaster.pid';
$node->{_pid} = undef;
inside('mount', '-o', 'remount,size=200m', 'tmpfs', $wal);
$node->start;
$node->safe_psql('postgres', 'CREATE TABLE told (id uuid, stream text, version bigint, position bigint); INSERT INTO told VALUES '
	  . join(', ', map { "('" . join("', '", split /\|/) . "')" } @told));
is( $node->safe_psql('postgres', q{SELECT count(*) FROM told t WHERE NOT EXISTS (SELECT FROM es.event e
		WHERE e.causation_id = t.id AND e.stream = t.stream AND e.version = t.version AND e.position = t.position)}),
	'0', 'with room, everything acknowledged is there');
is($node->safe_psql('postgres', 'SELECT * FROM oracle.log_problems() UNION ALL SELECT * FROM oracle.sequence_problems()
	UNION ALL SELECT * FROM oracle.receipt_problems() UNION ALL SELECT * FROM oracle.projection_problems()'), '', 'all agree');
is( $node->safe_psql('postgres', q{SELECT state = es_state('account', 'wal') FROM es_history('account', 'wal') ORDER BY version DESC LIMIT 1}),
	't', 'the state is the one folded from zero');
is($node->safe_psql('postgres', q{SELECT version - es_stream_version('account-wal') FROM es_dispatch(ROW('wal', 1, '')::deposit)}), '1', 'commands go on');

$node->stop;
eval { $holder->kill_kill };
done_testing();
