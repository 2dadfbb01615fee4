# Crashes beside workers: whatever is derived from the log has each event in it
# exactly once, and each command and scheduled command is executed exactly once.
#
# Clients dispatch commands and schedule others; workers keep two async
# projections and run an event handler and a process manager.  Again and again the
# server is stopped at once, or one of the workers is killed.  A client that is in
# doubt about a command sends it again, with the same id, until it is acknowledged.
# A schedule that it is in doubt about it leaves alone: it may have run by then,
# and would run again.
#
# Beside them a restless operator pauses, rebuilds and changes the projections.
#
# One client does not wait for its commits to reach the disk, and every other
# round the workers do not either: so commits get lost that others have seen.
#
# Beside them a consumer keeps its checkpoint in a transaction of its own.  The
# test fails unless that one is caught: crashes under which it repeats nothing
# would prove nothing.
#
# Environment: ES_CRASH_ROUNDS  how many crashes (default 30)

use strict;
use warnings;
use File::Basename;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $rounds = $ENV{ES_CRASH_ROUNDS} || 30;
my $clients = 4;        # client 0 does not wait for the disk
my $statements = 2000;  # per client and round; more than it can do until the crash

# What the test itself writes down must not be lost, whatever the database says.
$ENV{PGOPTIONS} = '-c synchronous_commit=on';

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'event_sourcing'
event_sourcing.databases = 'postgres'
event_sourcing.workers = 2
event_sourcing.retry_delay = '10ms'
log_statement = none
restart_after_crash = on
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

CREATE TYPE bell AS (id text, rings bigint);
CREATE TYPE ring AS (id text, ring uuid);
CREATE TYPE rang AS (id text, ring uuid);
CREATE FUNCTION execute(s bell, c ring) RETURNS rang
	LANGUAGE sql RETURN ROW(c.id, c.ring)::rang;
CREATE FUNCTION apply(s bell, e rang) RETURNS bell
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.rings, 0) + 1)::bell;

-- An order is placed once, however often the command comes; it has a bell ring.
CREATE TYPE purchase AS (id uuid, amount int);
CREATE TYPE place_order AS (id uuid, amount int);
CREATE TYPE order_placed AS (id uuid, amount int);
CREATE FUNCTION execute(s purchase, c place_order) RETURNS order_placed LANGUAGE plpgsql AS $$
BEGIN
	IF s.id IS NOT NULL THEN
		RAISE EXCEPTION 'order % is placed already', c.id;
	END IF;
	PERFORM es_schedule(ROW('order', c.id)::ring, clock_timestamp() + random() * interval '1 s', schedule_id => c.id);
	RETURN ROW(c.id, c.amount)::order_placed;
END $$;
CREATE FUNCTION apply(s purchase, e order_placed) RETURNS purchase
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.amount)::purchase;

CREATE TYPE ledger AS (id text, entries bigint);
CREATE TYPE book AS (id text, purchase uuid, amount int);
CREATE TYPE booked AS (id text, purchase uuid, amount int);
CREATE FUNCTION execute(s ledger, c book) RETURNS booked
	LANGUAGE sql RETURN ROW(c.id, c.purchase, c.amount)::booked;
CREATE FUNCTION apply(s ledger, e booked) RETURNS ledger
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.entries, 0) + 1)::ledger;

SELECT es_create_aggregate(a, snapshot_every => 50) FROM unnest('{account,bell,purchase,ledger}'::regtype[]) a;

-- Every order is entered into a ledger.
CREATE TYPE bookkeeping AS (purchase uuid, amount int);
CREATE FUNCTION route(e order_placed) RETURNS es_route LANGUAGE sql RETURN ROW('start!', e.id)::es_route;
CREATE FUNCTION route(e booked) RETURNS es_route LANGUAGE sql RETURN ROW('stop', e.purchase)::es_route;
CREATE FUNCTION handle(s bookkeeping, e order_placed) RETURNS book
	LANGUAGE sql RETURN ROW(left(e.id::text, 1), e.id, e.amount)::book;
CREATE FUNCTION apply(s bookkeeping, e order_placed) RETURNS bookkeeping
	LANGUAGE sql RETURN ROW(e.id, e.amount)::bookkeeping;
SELECT es_create_process_manager('bookkeeping');

CREATE TABLE total (id text PRIMARY KEY, balance bigint);
CREATE FUNCTION project(e deposited) RETURNS void LANGUAGE sql AS $$
	INSERT INTO total VALUES (e.id, e.amount)
		ON CONFLICT (id) DO UPDATE SET balance = total.balance + excluded.balance;
$$;
SELECT es_create_projection('total', 'project', mode => 'async', targets => '{total}');

CREATE TABLE tally (type text PRIMARY KEY, events bigint, positions numeric);
SELECT es_create_projection('tally', mode => 'async', targets => '{tally}', query => '
	INSERT INTO tally SELECT type, count(*), sum(position) FROM es_new_events GROUP BY type
		ON CONFLICT (type) DO UPDATE SET events = tally.events + excluded.events,
			positions = tally.positions + excluded.positions');

-- Nothing here would keep an event from being handled twice.  Now and then it
-- takes its time, so that batches are interrupted in the middle, and now and then
-- it fails, so that they are tried again in parts.
CREATE TABLE effect (number bigserial, stream text, version bigint, position bigint);
CREATE FUNCTION take_effect(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO effect (stream, version, position) VALUES (e.stream, e.version, e.position);
	IF e.position % 32 = 0 THEN
		PERFORM pg_sleep(0.005);
	END IF;
	IF random() < 0.01 THEN
		RAISE 'bad luck';
	END IF;
END $$;
SELECT es_create_handler('effect', 'take_effect', partitions => 3);

-- scheduled commands that ran
CREATE VIEW rung AS SELECT (data ->> 'ring')::uuid AS id FROM es.event WHERE type = 'rang';

-- what the clients were told
CREATE TABLE told (id uuid, what text, answer text);

-- the control
CREATE TABLE naive (position bigint);
CREATE TABLE naive_checkpoint (position bigint);
INSERT INTO naive_checkpoint VALUES (0);
CREATE PROCEDURE consume() LANGUAGE plpgsql AS $$
DECLARE
	last bigint := (SELECT position FROM naive_checkpoint);
BEGIN
	LOOP
		INSERT INTO naive SELECT position FROM es_read_all(last, 20);
		COMMIT;
		PERFORM pg_sleep(0.005);
		last := GREATEST(last, (SELECT max(position) FROM naive));
		UPDATE naive_checkpoint SET position = last;
		COMMIT;
	END LOOP;
END $$;
SQL
$node->safe_psql('postgres', slurp_file(dirname(__FILE__) . '/../oracle.sql'));

# ---------------------------------------------------------------------------
# Clients
# ---------------------------------------------------------------------------

# The kinds of a client's statements, in turn.  A bell is withdrawn right after it
# was scheduled, for a time at which it may have run or not.  Before an order
# something is appended and taken back: its position is that of no event.
my @kinds = qw(deposit order deposit ring deposit order deposit withdrawn withdraw);

sub kind { return $kinds[ $_[0] % @kinds ] }

# A client's statement; its answer begins with an id and the kind.
sub statement
{
	my ($client, $i) = @_;
	my $kind = kind($i);
	my $number = $kind eq 'withdraw' ? $i - 1 : $i;
	my $id = "md5('$client $number')::uuid";
	my $command = {
		deposit => "ROW('" . (($client + $i) % 7) . "', $i)::deposit",
		order => "ROW($id, $i)::place_order",
		ring => "ROW('$client', $id)::ring",
		withdrawn => "ROW('$client', $id)::ring" }->{$kind};

	return "SELECT pg_sleep(random() * 0.003) \\gset\n"
	  . ($kind eq 'order' ? "BEGIN;\nSELECT version FROM es_append('taken back', 't', '{}') \\gset\nROLLBACK;\n" : '')
	  . (
		$kind eq 'withdraw' ? "SELECT $id, '$kind', es_unschedule($id);\n"
		: $kind eq 'ring'   ? "SELECT $id, '$kind', es_schedule($command, clock_timestamp() + random() * interval '1 s', schedule_id => $id);\n"
		: $kind eq 'withdrawn' ? "SELECT $id, '$kind', es_schedule($command, clock_timestamp() + random() * interval '5 ms', schedule_id => $id);\n"
		: "SELECT $id, '$kind', concat_ws(' ', stream, version, position) FROM es_dispatch($command, command_id => $id);\n");
}

my $dir = PostgreSQL::Test::Utils::tempdir;
my @next = (0) x $clients;    # the first statement that a client has no answer to
my @process;

# Let each client do that many statements.
sub start_clients
{
	my ($count) = @_;

	foreach my $client (0 .. $clients - 1)
	{
		my $file = "$dir/client$client";
		local $ENV{PGOPTIONS} = '-c synchronous_commit=' . ($client ? 'on' : 'off');

		unlink glob("$file.*");
		append_to_file("$file.sql", join('', map { statement($client, $_) } $next[$client] .. $next[$client] + $count - 1));
		$process[$client] = IPC::Run::start(
			[ 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', "$file.sql" ],
			'>', "$file.out", '2>', "$file.err");
	}
	return;
}

# What the operator does, over and over; each statement is a transaction.
my @chores = (
	[ q{SELECT es_pause('effect')}, q{SELECT es_resume('effect')} ],
	[ q{SELECT es_pause('tally')}, q{SELECT es_resume('tally')} ],
	[ q{SELECT es_alter_projection('total', 'inline')}, q{SELECT es_alter_projection('total', 'async')} ],
	[ q{SELECT es_rebuild_projection('tally')} ],
	[ q{SELECT es_rebuild_projection('total')} ],
	[ q{SELECT es_run(100)} ]);

sub start_operator
{
	unlink glob("$dir/operator.*");
	append_to_file("$dir/operator.sql", join('', map { "SELECT pg_sleep(random() * 0.05);\n" . join('', map { "$_;\n" } @{ $chores[ rand @chores ] }) } 1 .. 500));
	return IPC::Run::start([ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-f', "$dir/operator.sql" ],
		'>', '/dev/null', '2>', "$dir/operator.err");
}

# Wait until they have ended; returns what they were told (those that wait for the
# disk) and what went wrong.
sub finish_clients
{
	my (@told, @errors);

	foreach my $client (0 .. $clients - 1)
	{
		$process[$client]->finish;
		# a line that was cut off tells nothing, nor does one of no row
		my @lines = slurp_file("$dir/client$client.out") =~ /^(.+\|.+\|.+)\n/mg;
		$next[$client] += @lines;
		push @told, @lines if $client > 0;
		push @errors, slurp_file("$dir/client$client.err");
		$next[$client]++ if $errors[-1] && kind($next[$client]) =~ /ring|withdraw/;
	}
	return (\@told, \@errors);
}

sub write_down
{
	my ($told) = @_;
	$node->safe_psql('postgres', 'INSERT INTO told VALUES ' . join(', ', map { "('" . join("', '", split(/\|/)) . "')" } @$told));
	return;
}

# ---------------------------------------------------------------------------
# Crashes
# ---------------------------------------------------------------------------

my $seed = srand;
note("seed $seed");
my $in_work = 0;

foreach my $round (1 .. $rounds)
{
	my $kill = $round % 2 == 0;
	my $how = $kill ? 'a worker is killed' : 'the server is stopped at once';
	my $synchronous = $round % 4 < 2 ? 'on' : 'off';

	my ($before, $done) = split /\|/,
	  $node->safe_psql('postgres', 'SELECT count(*), (SELECT COALESCE(min(position), 0) FROM es.checkpoint) FROM es.event');
	start_clients($statements);
	my $consumer = IPC::Run::start(
		[ 'psql', '-XAtq', '-d', $node->connstr('postgres'), '-c', 'CALL consume()' ], '2>', '/dev/null');

	my $operator = start_operator();

	# at some time when clients and workers are at it
	my $events = $before + 50 + int(rand(250));
	$node->poll_query_until('postgres',
		"SELECT count(*) > $events AND (SELECT count(*) >= 5 AND max(position) > $done FROM es.checkpoint) FROM es.event")
	  or die 'no load';
	my $astray = 'SELECT count(*) FROM es.checkpoint c WHERE NOT EXISTS (SELECT FROM es.event e WHERE e.position = c.position)';
	is($node->safe_psql('postgres', $astray), '0', "round $round: every checkpoint is the position of an event");
	usleep(rand(100_000));

	if ($kill)
	{
		my ($pid, $working) = split /\|/, $node->safe_psql('postgres', q{
			SELECT pid, (xact_start IS NOT NULL)::int FROM pg_stat_activity WHERE backend_type = 'event_sourcing worker'
			ORDER BY xact_start, random() LIMIT 1});
		$in_work += $working;
		kill 'KILL', $pid or die "could not kill $pid";
	}
	else
	{
		$node->stop('immediate');
	}
	my ($told, $errors) = finish_clients();
	$_->finish foreach ($consumer, $operator);
	$node->start unless $kill;
	$node->poll_query_until('postgres', 'SELECT true') or die 'no recovery';

	note("round $round: $how after " . @$told . ' answers');
	is(scalar(grep { /server/ } @$errors), $clients, "round $round: every client noticed that $how");
	is(join("\n", slurp_file("$dir/operator.err") =~ /^(.*ERROR: .*)/mg), '', "round $round: and so did the operator");
	write_down($told);

	# Positions above the last event may be drawn again.
	is($node->safe_psql('postgres', "$astray; ALTER DATABASE postgres SET synchronous_commit = $synchronous"),
		'0', "round $round: every checkpoint still is");
}
note("$in_work of " . int($rounds / 2) . ' workers were killed in a transaction');

$node->safe_psql('postgres', q{SELECT es_resume('effect'), es_resume('tally'), es_alter_projection('total', 'async')});

# The clients get their answers, and the workers finish.
start_clients(20);
my ($told, $errors) = finish_clients();
is(join('', @$errors), '', 'at last every client gets its answers');
write_down($told);
ok( $node->poll_query_until('postgres', '
		SELECT NOT EXISTS (SELECT FROM es.schedule) AND NOT EXISTS (SELECT FROM es_subscription_status WHERE lag_events > 0)'),
	'the workers finish');
note($node->safe_psql('postgres', 'SELECT type, count(*) FROM es.event GROUP BY type ORDER BY type'));

# ---------------------------------------------------------------------------
# The outcome
# ---------------------------------------------------------------------------

sub none
{
	my ($query, $what) = @_;
	is($node->safe_psql('postgres', $query), '', $what);
	return;
}

# Neither query has a row, or has it more often, than the other.
sub same
{
	my ($one, $other, $what) = @_;
	none("($one) EXCEPT ALL ($other)", "$what: nothing too much");
	none("($other) EXCEPT ALL ($one)", "$what: nothing missing");
	return;
}

# without the fold of every version of every stream, which takes long
none("SELECT * FROM oracle.$_()", "$_") foreach qw(log_problems sequence_problems receipt_problems projection_problems);
same('SELECT id, balance FROM total',
	q{SELECT data ->> 'id', sum((data ->> 'amount')::int)::bigint FROM es.event WHERE type = 'deposited' GROUP BY 1},
	'a projection by handlers');
same('SELECT id, balance FROM total',
	q{SELECT id, (es_state(NULL::account, id)).balance FROM (SELECT DISTINCT substr(stream, 9) AS id FROM es.event WHERE stream ^@ 'account-') s},
	'the same against the fold');
same('SELECT type, events, positions FROM tally',
	'SELECT type, count(*), sum(position) FROM es.event GROUP BY type', 'a set-based projection');
same('SELECT stream, version, position FROM effect', 'SELECT stream, version, position FROM es.event',
	'events that a handler has handled');
none('SELECT stream, version FROM (SELECT stream, version, row_number() OVER (PARTITION BY stream ORDER BY number) AS turn FROM effect) e
		WHERE version <> turn',
	'it has handled them in the order of each stream');
same(q{SELECT data ->> 'purchase', data ->> 'amount' FROM es.event WHERE type = 'booked'},
	q{SELECT data ->> 'id', data ->> 'amount' FROM es.event WHERE type = 'order_placed'},
	'commands of a process manager');
none('SELECT id FROM es.process', 'every process was stopped');

# commands
none(q{SELECT causation_id FROM es.event WHERE type IN ('deposited', 'order_placed') GROUP BY causation_id HAVING count(*) > 1},
	'no command was executed twice');
none(q{SELECT id, answer FROM told WHERE what IN ('deposit', 'order') AND NOT EXISTS (
		SELECT FROM es.event e WHERE e.causation_id = told.id AND told.answer = concat_ws(' ', e.stream, e.version, e.position))},
	'what was acknowledged is in the log, as it was acknowledged');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM told WHERE what IN ('deposit', 'order')}), '>', 100 * $rounds, 'that is a lot');

# scheduled commands
none('SELECT id FROM rung GROUP BY id HAVING count(*) > 1', 'no scheduled command ran twice');
none("SELECT id FROM told WHERE what IN ('ring', 'withdrawn') AND answer <> id::text", 'schedules have the ids that they were given');
none("SELECT id FROM told WHERE what = 'ring' EXCEPT SELECT id FROM rung", 'those acknowledged ran');
none("SELECT id FROM told WHERE what = 'withdraw' AND answer = 't' INTERSECT SELECT id FROM rung", 'those withdrawn did not run');
none("SELECT id FROM told t JOIN told w USING (id) WHERE t.what = 'withdrawn' AND w.what = 'withdraw' AND w.answer = 'f'
		EXCEPT SELECT id FROM rung",
	'those that could not be withdrawn any more ran');
same("SELECT data ->> 'ring' FROM es.event WHERE stream = 'bell-order'",
	"SELECT data ->> 'id' FROM es.event WHERE type = 'order_placed'", 'commands scheduled by commands');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT answer, ' ' ORDER BY answer) FROM told WHERE what = 'withdraw'"),
	'f t', 'some were withdrawn in time, others not');

# nothing has gone wrong on the way
none('SELECT * FROM es.parked_event', 'nothing is parked');
none(q{SELECT subscription, attempts, last_error FROM es.checkpoint
		WHERE stopped OR attempts > 0 OR last_error <> 'bad luck (P0001)' OR (last_error IS NOT NULL AND subscription <> 'effect')},
	'nothing has failed for another reason than bad luck');
is(join("\n", grep { !/subscription "effect"/ && /PANIC|TRAP|will be tried again|is given up|is stopped/ } split /\n/, slurp_file($node->logfile)),
	'', 'nor does the log say so');

# The control.
SKIP:
{
	skip 'too few crashes', 1 if $rounds < 10;
	my $repeated = $node->safe_psql('postgres', 'SELECT count(*) FROM (SELECT FROM naive GROUP BY position HAVING count(*) > 1) n');
	note("the naive consumer has consumed $repeated events more than once");
	cmp_ok($repeated, '>', 0, 'control: a consumer with a checkpoint apart is caught consuming events twice');
}

$node->stop;
done_testing();
