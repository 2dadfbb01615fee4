# Workers: started by hand or by the launcher, woken at commit, and there again
# after whatever happens to them.  What they are asked not to be in the way of,
# such as DROP DATABASE, they are not.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

my $workers = q{FROM pg_stat_activity WHERE backend_type = 'event_sourcing worker'};

# A database with a store and a handler that notes what it is given; for events
# of type 'stuck' it waits for a lock that the test may hold.
sub set_up
{
	my ($node, $database) = @_;

	$node->safe_psql($database, <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE TABLE handled (handler text, position bigint, type text, pid int DEFAULT pg_backend_pid());
CREATE FUNCTION note(e es_event) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO handled VALUES ('note', e.position, e.type);
END;
SELECT es_create_handler('note', 'note');
SQL
	return;
}

sub append
{
	my ($node, $database, $type) = @_;
	return $node->safe_psql($database, "SELECT position FROM es_append('s', '$type', '{}')");
}

# The handler gets an event of this type.
sub handled
{
	my ($node, $database, $type, $what, $handler) = @_;
	$handler ||= 'note';
	ok($node->poll_query_until($database, "SELECT count(*) = 1 FROM handled WHERE type = '$type' AND handler = '$handler'"), $what);
	return;
}

sub running
{
	my ($node, $database, $count, $what) = @_;
	ok($node->poll_query_until('postgres', "SELECT count(*) = $count $workers AND datname = '$database'"), $what);
	return;
}

# All workers of a database sleep.
sub wait_until_idle
{
	my ($node, $database) = @_;
	$node->poll_query_until('postgres', "SELECT bool_and(state = 'idle' AND state_change < clock_timestamp() - interval '1 s') $workers AND datname = '$database'")
	  or die "the workers do not come to rest";
	return;
}

sub logged
{
	my ($node, $pattern, $what) = @_;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return pass($what) if slurp_file($node->logfile) =~ $pattern;
		usleep(100_000);
	}
	return fail($what);
}

sub cpu_ticks
{
	my $ticks = 0;
	for my $pid (@_)
	{
		my @fields = split ' ', slurp_file("/proc/$pid/stat") =~ s/^.*\) //r;
		$ticks += $fields[11] + $fields[12];
	}
	return $ticks;
}

# ---------------------------------------------------------------------------
# Without preload
# ---------------------------------------------------------------------------

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 5\nrestart_after_crash = on\n");
$node->start;
set_up($node, 'postgres');

append($node, 'postgres', 'before');
my $pid = $node->safe_psql('postgres', 'SELECT es_start_worker()');
cmp_ok($pid, '>', 0, 'es_start_worker');
running($node, 'postgres', 2, 'two workers by default');
handled($node, 'postgres', 'before', 'what was there before is handled');
is($node->safe_psql('postgres', 'SELECT es_start_worker()'), $pid, 'starting them again changes nothing');
running($node, 'postgres', 2, 'two workers still');

is($node->safe_psql('postgres', q{SELECT es_wait('note', (SELECT position FROM es_append('s', 'first', '{}')), '0')}), 'f', 'not passed yet');
handled($node, 'postgres', 'first', 'an event is handled after its commit');
my $position = append($node, 'postgres', 'waited for');
is($node->safe_psql('postgres', "SELECT es_wait('note', $position, '1 min')"), 't', 'es_wait');
is($node->safe_psql('postgres', q{SELECT count(*) FROM handled WHERE type = 'waited for'}), '1', 'after es_wait it is handled');
is($node->safe_psql('postgres', "SELECT es_wait('note', $position + 1000, '10 ms')"), 'f', 'a position that does not exist yet');

# Twenty events one after the other, each waited for: far below 100 ms each.
my $bound = 2 * ($ENV{ES_SLOWDOWN} || 1);
is( $node->safe_psql('postgres', <<"SQL"), 't', 'woken at commit, without polling');
CREATE PROCEDURE ping_pong(INOUT fast boolean DEFAULT NULL) LANGUAGE plpgsql AS \$\$
DECLARE
	begun timestamptz := clock_timestamp();
	at bigint;
BEGIN
	FOR i IN 1..20 LOOP
		at := (es_append('s', 'ping', '{}'::jsonb)).position;
		COMMIT;
		IF NOT es_wait('note', at, '1 min') THEN
			RAISE 'not passed';
		END IF;
		COMMIT;
	END LOOP;
	fast := clock_timestamp() - begun < interval '$bound s';
END \$\$;
CALL ping_pong();
SQL

SKIP:
{
	skip 'no /proc', 1 unless -r "/proc/$$/stat";
	wait_until_idle($node, 'postgres');
	my @pids = split /\n/, $node->safe_psql('postgres', "SELECT pid $workers");
	my $ticks = cpu_ticks(@pids);
	my $until = $node->safe_psql('postgres', q{SELECT now() + interval '3 s'});
	$node->poll_query_until('postgres', "SELECT clock_timestamp() > '$until'");
	cmp_ok(cpu_ticks(@pids) - $ticks, '<=', 1, 'idle workers use no CPU');
}

# The mark is held by a transaction that aborts, by a savepoint, by a prepared one.
my $writer = $node->background_psql('postgres', on_error_stop => 0);
$writer->query_safe(q{BEGIN; SELECT es_append('other', 'taken back', '{}')});
$position = append($node, 'postgres', 'behind an abort');
wait_until_idle($node, 'postgres');
is($node->safe_psql('postgres', "SELECT es_wait('note', $position, '0')"), 'f', 'a transaction in flight holds the mark');
$writer->query_safe('ROLLBACK');
handled($node, 'postgres', 'behind an abort', 'an abort wakes');

$writer->query_safe(q{BEGIN; SAVEPOINT s; SELECT es_append('other', 'taken back', '{}')});
append($node, 'postgres', 'behind a savepoint');
wait_until_idle($node, 'postgres');
$writer->query_safe('ROLLBACK TO s');
handled($node, 'postgres', 'behind a savepoint', q{a savepoint's rollback wakes});
$writer->query_safe('COMMIT');

$node->safe_psql('postgres', q{BEGIN; SELECT es_append('other', 'prepared', '{}'); PREPARE TRANSACTION 'p'});
append($node, 'postgres', 'behind a prepared one');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
handled($node, 'postgres', 'prepared', 'COMMIT PREPARED in a session without the library');
handled($node, 'postgres', 'behind a prepared one', 'what came after it');
is($node->safe_psql('postgres', q{SELECT count(*) FROM handled WHERE type = 'taken back'}), '0', 'what was taken back is never seen');

# ---------------------------------------------------------------------------
# A command that is always due
# ---------------------------------------------------------------------------

# Each time that a lone worker has dispatched it, it is due again: events are handled
# all the same.
$node->safe_psql('postgres', q{LOAD 'event_sourcing'; ALTER SYSTEM SET event_sourcing.workers = 1});
$node->safe_psql('postgres', q{SELECT pg_reload_conf(), es_stop_worker()});
$node->safe_psql('postgres', q{SELECT es_start_worker()});
running($node, 'postgres', 1, 'one worker');
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION tick(s jsonb, c es_command) RETURNS es_new_event LANGUAGE sql AS 'SELECT NULL::es_new_event';
CREATE FUNCTION ticked(s jsonb, e es_event) RETURNS jsonb LANGUAGE sql IMMUTABLE RETURN s;
SELECT es_create_aggregate('jsonb', name => 'clock', execute_function => 'tick', apply_function => 'ticked', commands => '{tick}');
SELECT es_schedule('tick', '{"id": "c"}', now(), '1 microsecond');
SQL
ok($node->poll_query_until('postgres', 'SELECT turns > 0 FROM es.schedule'), 'a command is dispatched again and again');
append($node, 'postgres', 'beside a schedule');
handled($node, 'postgres', 'beside a schedule', 'a command that is always due does not keep events waiting');
my $turns = $node->safe_psql('postgres', 'SELECT turns FROM es.schedule');
ok($node->poll_query_until('postgres', "SELECT turns > $turns FROM es.schedule"), 'and goes on');
$node->safe_psql('postgres', 'SELECT es_unschedule(schedule_id) FROM es.schedule');
$node->safe_psql('postgres', q{LOAD 'event_sourcing'; ALTER SYSTEM RESET event_sourcing.workers});
$node->safe_psql('postgres', 'SELECT pg_reload_conf(), es_stop_worker()');
$node->safe_psql('postgres', 'SELECT es_start_worker()');
running($node, 'postgres', 2, 'two workers again');

# ---------------------------------------------------------------------------
# A handler that does not return
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION stick(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.type LIKE 'stuck%' THEN
		PERFORM pg_advisory_xact_lock_shared(1);
	END IF;
	INSERT INTO handled VALUES ('stick', e.position, e.type);
END $$;
SELECT es_create_handler('stick', 'stick');
SQL
handled($node, 'postgres', 'first', 'a new handler gets the history', 'stick');

my $holder = $node->background_psql('postgres', on_error_stop => 0);
my $stuck = "$workers AND wait_event_type = 'Lock'";
$holder->query_safe('SELECT pg_advisory_lock(1)');
append($node, 'postgres', 'stuck');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $stuck"), 'a handler is stuck');
handled($node, 'postgres', 'stuck', 'the other handler goes on');
append($node, 'postgres', 'later');
handled($node, 'postgres', 'later', 'and on');

# A cancel request ends the attempt, not the worker.
$pid = $node->safe_psql('postgres', "SELECT pid $stuck");
$node->safe_psql('postgres', "SELECT pg_cancel_backend($pid)");
$holder->query_safe('SELECT pg_advisory_unlock(1)');
handled($node, 'postgres', 'stuck', 'tried again after pg_cancel_backend', 'stick');
is($node->safe_psql('postgres', "SELECT count(*) $workers AND pid = $pid"), '1', 'the worker lives');
wait_until_idle($node, 'postgres');
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) $workers");
append($node, 'postgres', 'after idle cancel');
handled($node, 'postgres', 'after idle cancel', 'a cancel request while it is idle');
is($node->safe_psql('postgres', "SELECT count(*) $workers AND pid = $pid"), '1', 'the worker still lives');

# ---------------------------------------------------------------------------
# Stopping, terminating, killing
# ---------------------------------------------------------------------------

$holder->query_safe('SELECT pg_advisory_lock(1)');
append($node, 'postgres', 'stuck again');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $stuck"), 'a handler is stuck again');
is($node->safe_psql('postgres', 'SELECT es_stop_worker()'), '2', 'es_stop_worker stops it, too');
is($node->safe_psql('postgres', "SELECT count(*) $workers"), '0', 'they are gone');
$holder->query_safe('SELECT pg_advisory_unlock(1)');
$position = append($node, 'postgres', 'while stopped');
is($node->safe_psql('postgres', 'SELECT es_stop_worker()'), '0', 'stopping none');
is($node->safe_psql('postgres', "SELECT es_wait('note', $position, '100 ms')"), 'f', 'nobody works');
$node->safe_psql('postgres', 'SELECT es_start_worker()');
handled($node, 'postgres', 'while stopped', 'what came while they were stopped');
handled($node, 'postgres', 'stuck again', 'what was interrupted', 'stick');

$pid = $node->safe_psql('postgres', "SELECT min(pid) $workers");
$node->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
append($node, 'postgres', 'after terminate');
handled($node, 'postgres', 'after terminate', 'pg_terminate_backend: the other worker goes on');
running($node, 'postgres', 2, 'the postmaster restarts the one');
is($node->safe_psql('postgres', "SELECT count(*) $workers AND pid = $pid"), '0', 'it is another process');

$pid = $node->safe_psql('postgres', "SELECT min(pid) $workers");
$writer->quit;
$holder->quit;
kill 'KILL', $pid;
ok($node->poll_query_until('postgres', "SELECT pg_postmaster_start_time() < now() AND NOT EXISTS (SELECT $workers AND pid = $pid)"), 'the server recovers from kill -9');
append($node, 'postgres', 'after kill');
handled($node, 'postgres', 'after kill', 'workers are there again');
running($node, 'postgres', 2, 'both');

# Configuration
$node->append_conf('postgresql.conf', "event_sourcing.workers = 1\n");
$node->reload;
running($node, 'postgres', 1, 'event_sourcing.workers is lowered');
append($node, 'postgres', 'with one');
handled($node, 'postgres', 'with one', 'one worker');

# ---------------------------------------------------------------------------
# DROP EXTENSION, DROP DATABASE
# ---------------------------------------------------------------------------

for my $database ('dropped', 'forced')
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	set_up($node, $database);
	$node->safe_psql($database, 'SELECT es_start_worker()');
	running($node, $database, 1, "a worker in database $database");
	append($node, $database, 'first');
	handled($node, $database, 'first', 'it works there');
}

$pid = $node->safe_psql('postgres', "SELECT pid $workers AND datname = 'dropped'");
$node->safe_psql('dropped', 'DROP EXTENSION event_sourcing CASCADE');
wait_until_idle($node, 'dropped');
is($node->safe_psql('postgres', "SELECT pid $workers AND datname = 'dropped'"), $pid, 'DROP EXTENSION beside a worker');
$node->safe_psql('dropped', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_upgrade_store();
CREATE FUNCTION note(e es_event) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO handled VALUES ('note', e.position, e.type);
END;
SQL
append($node, 'dropped', 'second');
handled($node, 'dropped', 'second', 'it goes on with a new one');

$node->safe_psql('postgres', "LOAD 'event_sourcing'; ALTER DATABASE dropped RENAME TO renamed");
running($node, 'renamed', 1, 'ALTER DATABASE beside a worker, which comes back');
$node->safe_psql('postgres', "LOAD 'event_sourcing'; DROP DATABASE renamed");
running($node, 'renamed', 0, 'DROP DATABASE in a session that has the library');
$node->safe_psql('postgres', 'DROP DATABASE forced WITH (FORCE)');
running($node, 'forced', 0, 'DROP DATABASE WITH (FORCE) in any other');
logged($node, qr/event_sourcing worker 1: database \d+ is gone/, 'the postmaster restarts it for the last time');
$node->stop;

# ---------------------------------------------------------------------------
# No free background worker
# ---------------------------------------------------------------------------

$node->append_conf('postgresql.conf', "event_sourcing.workers = 2\nmax_worker_processes = 2\n");
$node->start;
my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT es_start_worker()");
like($err, qr/ERROR:  53400: could not start worker 2 of 2.*HINT:  Raise max_worker_processes/s, 'no room for the second worker');
append($node, 'postgres', 'with one of two');
handled($node, 'postgres', 'with one of two', 'the first does the work');
$node->stop;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'event_sourcing'\nevent_sourcing.databases = 'postgres'\nmax_worker_processes = 3\n");
$node->start;
logged($node, qr/could not start event_sourcing worker 2 for database "postgres".*All background workers are in use/s, 'nor does the launcher find any');
append($node, 'postgres', 'with one of the launcher');
handled($node, 'postgres', 'with one of the launcher', 'its first one does the work');
$node->stop;

# ---------------------------------------------------------------------------
# Preloaded
# ---------------------------------------------------------------------------

my $primary = PostgreSQL::Test::Cluster->new('primary');
$primary->init(allows_streaming => 1);
$primary->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'event_sourcing'
event_sourcing.databases = 'app, "Late One"'
max_worker_processes = 12
wal_receiver_status_interval = 1
CONF
$primary->start;
logged($primary, qr/database "app" of event_sourcing.databases cannot be connected to/, 'a database that is not there');
$primary->safe_psql('postgres', 'CREATE DATABASE app');
set_up($primary, 'app');
$primary->reload;
running($primary, 'app', 2, 'the launcher starts workers');
append($primary, 'app', 'first');
handled($primary, 'app', 'first', 'they work');

# A store that is not whole keeps nobody from the others, and is taken up again when it is.
$primary->safe_psql('app', <<'SQL');
SELECT es_create_store('damaged');
SET event_sourcing.store = 'damaged';
SELECT es_create_handler('note', 'note');
ALTER TABLE damaged.checkpoint RENAME stopped TO halted;
SELECT version FROM es_append('s', 'in the damaged one', '{}');
SQL
logged($primary, qr/ERROR:  column c\.stopped does not exist/, 'a column of a store is gone');
append($primary, 'app', 'in the other one');
handled($primary, 'app', 'in the other one', 'the other store is worked on');
$primary->safe_psql('app', 'ALTER TABLE damaged.checkpoint RENAME halted TO stopped');
handled($primary, 'app', 'in the damaged one', 'the column is there again');
logged($primary, qr/worker \d goes on with event store "damaged"/, 'the log says so');
$primary->safe_psql('app', q{SET client_min_messages = warning; DROP SCHEMA damaged CASCADE});

$primary->safe_psql('postgres', 'CREATE DATABASE "Late One"');
running($primary, 'Late One', 2, 'a database that comes later is found');
$primary->safe_psql('postgres', 'CREATE DATABASE shop');
set_up($primary, 'shop');
$primary->append_conf('postgresql.conf', "event_sourcing.databases = 'app,shop'\nevent_sourcing.workers = 3\n");
$primary->reload;
running($primary, 'shop', 3, 'a reload adds a database');
running($primary, 'app', 3, 'and a worker');
running($primary, 'Late One', 0, 'and removes a database');
append($primary, 'shop', 'first');
handled($primary, 'shop', 'first', 'they work there');
$primary->append_conf('postgresql.conf', "event_sourcing.workers = 2\n");
$primary->reload;
running($primary, 'app', 2, 'a reload removes a worker');

$pid = $primary->safe_psql('postgres', "SELECT min(pid) $workers AND datname = 'app'");
$primary->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($primary->poll_query_until('postgres', "SELECT count(*) = 2 $workers AND datname = 'app' AND pid <> $pid"), 'the launcher restarts what was terminated');
$primary->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'event_sourcing launcher'});
ok($primary->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'event_sourcing launcher'}), 'the postmaster restarts the launcher');
running($primary, 'app', 2, 'which finds the workers');

is($primary->safe_psql('app', 'SELECT es_stop_worker()'), '2', 'es_stop_worker');
$pid = $primary->safe_psql('postgres', "SELECT min(pid) $workers AND datname = 'shop'");
$primary->safe_psql('postgres', "SELECT pg_terminate_backend($pid)");
ok($primary->poll_query_until('postgres', "SELECT count(*) = 2 $workers AND datname = 'shop' AND pid <> $pid"), 'the launcher restarts workers');
running($primary, 'app', 0, 'but not where they were stopped by hand');
$primary->safe_psql('app', 'SELECT es_start_worker()');
running($primary, 'app', 2, 'es_start_worker beside the launcher');
is($primary->safe_psql('app', 'SELECT es_stop_worker()'), '2', 'stopped again');
$primary->reload;
running($primary, 'app', 2, 'a reload starts them, too');

$primary->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE shop');
running($primary, 'shop', 2, 'CREATE DATABASE TEMPLATE of a database with workers');
$primary->safe_psql('postgres', 'DROP DATABASE shop');
running($primary, 'shop', 0, 'DROP DATABASE without FORCE');
($rc, $out, $err) = $primary->psql('postgres', 'BEGIN; DROP DATABASE app');
like($err, qr/DROP DATABASE cannot run inside a transaction block/, 'a DROP DATABASE that fails');
running($primary, 'app', 2, 'they come back');

# ---------------------------------------------------------------------------
# Waiting for what a command has recorded
# ---------------------------------------------------------------------------

$primary->safe_psql('app', <<'SQL');
CREATE TYPE account AS (id text, balance bigint);
CREATE TYPE deposit AS (id text, amount int);
CREATE TYPE deposited AS (id text, amount int);
CREATE FUNCTION execute(s account, c deposit) RETURNS deposited
	LANGUAGE sql RETURN ROW(c.id, c.amount)::deposited;
CREATE FUNCTION apply(s account, e deposited) RETURNS account
	LANGUAGE sql IMMUTABLE RETURN ROW(e.id, COALESCE(s.balance, 0) + e.amount)::account;
SELECT es_create_aggregate('account');
SQL
is($primary->safe_psql('app', q{CALL es_dispatch_and_wait(ROW('a', 1)::deposit, subscriptions => '{note}', timeout => '1 min')}) =~ s/.*\|//r,
	't', 'es_dispatch_and_wait');
is($primary->safe_psql('app', q{SELECT count(*) FROM handled WHERE type = 'deposited'}), '1', 'the handler has handled it');
is($primary->safe_psql('app', q{CALL es_dispatch_and_wait('deposit', '{"id": "a", "amount": 2}', subscriptions => '{note}', timeout => '1 min')}) =~ s/.*\|//r,
	't', 'the same in JSON');
is($primary->safe_psql('app', q{SET search_path = pg_catalog; CALL public.es_dispatch_and_wait(ROW('a', 3)::public.deposit)}) =~ s/.*\|//r,
	't', 'nothing to wait for, under another search_path');
($rc, $out, $err) = $primary->psql('app', q{CALL es_dispatch_and_wait(ROW('a', 4)::deposit, subscriptions => '{note,nobody}')});
like($err, qr/"nobody" does not exist/, 'an unknown subscription');
($rc, $out, $err) = $primary->psql('app', q{BEGIN; CALL es_dispatch_and_wait(ROW('a', 5)::deposit)});
like($err, qr/invalid transaction termination/, 'not in a transaction');
is($primary->safe_psql('app', q{SELECT balance FROM es_state(NULL::account, 'a')}), '6', 'what failed was not dispatched');

# ---------------------------------------------------------------------------
# Standby
# ---------------------------------------------------------------------------

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;
$position = append($primary, 'app', 'replicated');
$primary->wait_for_catchup($standby);
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'event_sourcing %'}), '0', 'no worker on a standby');
($rc, $out, $err) = $standby->psql('app', 'SELECT es_start_worker()');
like($err, qr/cannot start a worker during recovery/, 'nor can one be started');
is($standby->safe_psql('app', "SELECT es_wait('note', $position, '1 min')"), 't', 'es_wait waits for replay');

$primary->safe_psql('app', 'SELECT es_stop_worker()');
append($primary, 'app', 'left over');
$primary->wait_for_catchup($standby);
$primary->stop;
$standby->promote;
running($standby, 'app', 2, 'workers start at promotion');
handled($standby, 'app', 'left over', 'and do what was left');
$standby->stop;
done_testing();
