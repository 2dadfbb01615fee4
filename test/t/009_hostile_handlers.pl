# Hostile handlers beside workers: one that does not return, one that raises, one
# that feeds itself, one that deadlocks, one that changes settings, one of a user
# who wants more rights.  None of them holds the others back, leaks into them, or
# ends a worker; neither do a prepared transaction and the end of a store.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $workers = q{FROM pg_stat_activity WHERE backend_type = 'event_sourcing worker'};

my $node = PostgreSQL::Test::Cluster->new('main');
# whoever runs the tests: the superuser has the name that they use
$node->init(extra => [ '--username=postgres' ]);
$ENV{PGUSER} = 'postgres';
$node->append_conf('postgresql.conf', <<'CONF');
shared_preload_libraries = 'event_sourcing'
event_sourcing.databases = 'postgres'
event_sourcing.workers = 2
event_sourcing.retry_delay = '20ms'
max_prepared_transactions = 5
deadlock_timeout = '50ms'
CONF
$node->start;

# Two stores, each with a handler and a projection of one name: the others, that
# nothing may happen to.  They note under which settings they run.
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store(), es_create_store('other');
CREATE TABLE handled (handler text, store text, position bigint, stream text, type text, settings text);
CREATE TABLE tally (store text, type text, events bigint, PRIMARY KEY (store, type));

CREATE FUNCTION settings() RETURNS text LANGUAGE sql
	RETURN concat_ws('; ', current_user, current_setting('role'), current_setting('search_path'), current_setting('event_sourcing.store'),
		current_setting('session_replication_role'), current_setting('work_mem'), current_setting('statement_timeout'));
CREATE FUNCTION note(e es_event) RETURNS void LANGUAGE sql BEGIN ATOMIC
	INSERT INTO handled VALUES ('good', current_setting('event_sourcing.store'), e.position, e.stream, e.type, settings());
END;

SELECT es_create_handler('good', 'note');
SELECT es_create_projection('tally', mode => 'async', targets => '{tally}', query => '
	INSERT INTO tally SELECT ''es'', type, count(*) FROM es_new_events GROUP BY type
		ON CONFLICT (store, type) DO UPDATE SET events = tally.events + excluded.events');
SET event_sourcing.store = 'other';
SELECT es_create_handler('good', 'note');
SELECT es_create_projection('tally', mode => 'async', targets => '{tally}', query => '
	INSERT INTO tally SELECT ''other'', type, count(*) FROM es_new_events GROUP BY type
		ON CONFLICT (store, type) DO UPDATE SET events = tally.events + excluded.events');
SQL

# What is set for sessions of people does not reach the workers.  (Nor this test's.)
my @settings = (
	[ 'lock_timeout', '1ms', '0' ],
	[ 'statement_timeout', '1ms', '0' ],
	[ 'default_transaction_isolation', 'serializable', 'read\ committed' ],
	[ 'default_transaction_read_only', 'on', 'off' ],
	[ 'search_path', 'nowhere', 'public' ]);
push @settings, [ 'transaction_timeout', '1ms', '0' ] if $node->pg_version >= 17;
$ENV{PGOPTIONS} = join(' ', map { "-c $_->[0]=$_->[2]" } @settings);
$node->safe_psql('postgres', join('', map { "ALTER DATABASE postgres SET $_->[0] = '$_->[1]';" } @settings));
$node->stop;
$node->start;

$node->poll_query_until('postgres', "SELECT count(*) = 2 $workers") or die 'no workers';
my $pids = $node->safe_psql('postgres', "SELECT array_agg(pid ORDER BY pid) $workers");

# Append an event; returns its position.
sub append
{
	my ($stream, $type, $store) = @_;
	return $node->safe_psql('postgres',
		"SET event_sourcing.store = '" . ($store || 'es') . "'; SELECT position FROM es_append('$stream', '$type', '{}')");
}

sub becomes_true
{
	my ($query, $what) = @_;
	return ok($node->poll_query_until('postgres', "SELECT $query"), $what);
}

sub result
{
	my ($query, $expected, $what) = @_;
	return is($node->safe_psql('postgres', $query), $expected, $what);
}

# Whoever behaves gets all events of both stores.
my $fresh = 0;

sub others_go_on
{
	my ($while, @stores) = @_;

	$fresh++;
	foreach my $store (@stores ? @stores : ('es', 'other'))
	{
		my $position = append("fresh-$fresh", 'fresh', $store);
		result("SET event_sourcing.store = '$store';
				SELECT es_wait('good', $position, '3 min') AND es_wait('tally', $position, '3 min')",
			't', "$while: the others in store $store go on");
		result("SET event_sourcing.store = '$store';
				SELECT string_agg(name || ' ' || lag_events, ', ' ORDER BY name) FROM es_subscription_status WHERE name IN ('good', 'tally')",
			'good 0, tally 0', "$while: they do not lag in store $store");
	}
	return;
}

others_go_on('at first');

# ---------------------------------------------------------------------------
# One that appends to the stream that its event is of
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
CREATE TYPE counter AS (id text, n int);
CREATE TYPE count_on AS (id text);
CREATE TYPE counted AS (id text, n int);
CREATE FUNCTION execute(s counter, c count_on) RETURNS counted LANGUAGE sql RETURN ROW(c.id, COALESCE(s.n, 0) + 1)::counted;
CREATE FUNCTION apply(s counter, e counted) RETURNS counter LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.n)::counter;
SELECT es_create_aggregate('counter');
CREATE FUNCTION feed_itself(e counted) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.n < 20 THEN
		PERFORM es_dispatch(ROW(e.id)::count_on);
	END IF;
END $$;
SELECT es_create_handler('feeds itself', 'feed_itself');
SELECT es_dispatch(ROW('a')::count_on), es_dispatch(ROW('b')::count_on);
SQL
becomes_true(q{count(*) = 2 FROM es.event WHERE type = 'counted' AND version = 20}, 'a handler feeds itself');
others_go_on('then');
result(q{SELECT max(version), count(*), count(DISTINCT causation_id) FROM es.event WHERE type = 'counted'}, '20|40|38',
	'each of its commands has been executed once');

# ---------------------------------------------------------------------------
# One that deadlocks with a client
# ---------------------------------------------------------------------------

# It appends to b, then to a; the client appends to a, then to b.  Locks 1 and 2
# let the test say when.  Only the worker looks for a deadlock, so that it is the
# one who gives way.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION cross_over(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(1);
	PERFORM es_append('b', 'by the handler', '{}'::jsonb);
	PERFORM pg_advisory_xact_lock_shared(2);
	PERFORM es_append('a', 'by the handler', '{}'::jsonb);
END $$;
SELECT es_create_handler('deadlocks', 'cross_over', types => '{cross}', max_retries => 0);
SQL
my $gate = $node->background_psql('postgres');
my $client = $node->background_psql('postgres');
my $waits_for = q{EXISTS (SELECT FROM pg_locks JOIN pg_stat_activity a USING (pid) WHERE NOT granted AND a.backend_type = };
$gate->query_safe('SELECT pg_advisory_lock(1), pg_advisory_lock(2)');
append('crossing', 'cross');
becomes_true("$waits_for 'event_sourcing worker' AND objsubid = 1 AND objid = 1)", 'a handler begins');
$client->query_safe(q{SET deadlock_timeout = '1h'; BEGIN; SELECT es_append('a', 'by the client', '{}')});
$gate->query_safe('SELECT pg_advisory_unlock(1)');
becomes_true("$waits_for 'event_sourcing worker' AND objsubid = 1 AND objid = 2)", 'it holds one stream');
$client->query_until(qr/sent/, "\\echo sent\nSELECT es_append('b', 'by the client', '{}');\nCOMMIT;\n");
becomes_true("$waits_for 'client backend')", 'the client holds the other one, and waits');
$gate->query_safe('SELECT pg_advisory_unlock(2)');
$client->query_safe('SELECT 1');
becomes_true(q{count(*) = 4 FROM es.event WHERE stream IN ('a', 'b')}, 'after a deadlock both have done their work');
others_go_on('after a deadlock');
result(q{SELECT string_agg(stream || ' ' || type, ', ' ORDER BY stream, version) FROM es.event WHERE stream IN ('a', 'b')},
	'a by the client, a by the handler, b by the client, b by the handler', 'the client first, and all once');
result(q{SELECT attempts, last_error FROM es.checkpoint WHERE subscription = 'deadlocks'} =~ s/last_error/left(last_error, 25)/r,
	'0|deadlock detected (40P01)', 'the handler was the one that gave way');
result('SELECT count(*) FROM es_parked_event', '0', 'a deadlock parks nothing, even where nothing is to be tried again');
$_->quit foreach ($gate, $client);

# ---------------------------------------------------------------------------
# One that changes settings
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE somebody;
CREATE SCHEMA evil;
CREATE FUNCTION evil.settings() RETURNS text LANGUAGE sql RETURN 'evil';
CREATE FUNCTION evil.note(e public.es_event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'evil'; END $$;
CREATE FUNCTION be_rude(e es_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	statement text;
BEGIN
	INSERT INTO public.handled VALUES ('rude', current_setting('event_sourcing.store'), e.position, e.stream, e.type, public.settings());
	FOREACH statement IN ARRAY '{
		SET event_sourcing.store = other, SET search_path = evil, SET work_mem = 64kB, SET statement_timeout = 5,
		SET session_replication_role = replica, SET event_sourcing.handler_timeout = 1, SET ROLE somebody,
		SET SESSION AUTHORIZATION somebody, SET LOCAL lock_timeout = 1, SET lock_timeout = 1}'::text[]
	LOOP
		BEGIN
			EXECUTE regexp_replace(statement, '= (\d+kB)', '= ''\1''');
		EXCEPTION WHEN OTHERS THEN
			INSERT INTO public.handled VALUES ('rude', NULL, e.position, e.stream, statement, SQLERRM);
		END;
	END LOOP;
END $$;
SELECT es_create_handler('rude', 'be_rude', types => '{rude}');
SELECT es_append('manners', array_fill(es_new_event('rude'), ARRAY[3]));
SQL
becomes_true(q{count(*) = 3 FROM handled WHERE handler = 'rude' AND type = 'rude'}, 'a handler changes settings');
others_go_on('then');
result(q{SELECT DISTINCT settings FROM handled WHERE handler = 'rude' AND type = 'rude'},
	'postgres; none; public, pg_temp; es; origin; 4MB; 0', 'the next event of the batch finds none of it');
result(q{SELECT DISTINCT type, settings FROM handled WHERE handler = 'rude' AND type <> 'rude' ORDER BY type},
	qq{SET ROLE somebody|cannot set parameter "role" within security-definer function\n}
	  . q{SET SESSION AUTHORIZATION somebody|cannot set parameter "session_authorization" within security-definer function},
	'it cannot change its role');
result(q{SELECT DISTINCT settings FROM handled WHERE handler = 'good' ORDER BY settings},
	"postgres; none; public, pg_temp; es; origin; 4MB; 0\npostgres; none; public, pg_temp; other; origin; 4MB; 0", 'nor do others find any of it');

# ---------------------------------------------------------------------------
# One of a user who wants more rights
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
CREATE ROLE mallory LOGIN;
CREATE SCHEMA mallory AUTHORIZATION mallory;
CREATE TABLE secret (word text);
INSERT INTO secret VALUES ('xyzzy');
CREATE SCHEMA private;
GRANT USAGE ON SCHEMA es TO mallory;
GRANT SELECT ON ALL TABLES IN SCHEMA es TO mallory;
GRANT INSERT, UPDATE, DELETE ON es.subscription, es.schedule TO mallory;
GRANT EXECUTE ON FUNCTION es_create_handler(text, text, text[], text[], text, bigint, int, int, text) TO mallory;
SQL
my %mallory = (extra_params => [ '-U', 'mallory' ]);
my %attack = (
	'read' => 'INSERT INTO mallory.loot SELECT word FROM public.secret',
	'set role' => 'SET ROLE postgres',
	'reset role' => 'RESET ROLE',
	'set session' => 'SET SESSION AUTHORIZATION postgres',
	'reset session' => 'RESET SESSION AUTHORIZATION',
	'create' => q{CREATE FUNCTION private.trap() RETURNS int LANGUAGE sql RETURN 1},
	'temporary' => 'CREATE TEMPORARY TABLE handled (x int)',
	'later' => 'INSERT INTO mallory.later VALUES (1)',
	'terminate' => 'SELECT pg_terminate_backend(pg_backend_pid())',
	'commit' => 'COMMIT',
	'others' => q{UPDATE es.subscription SET owner = 'mallory', handler = 'mallory.attack' WHERE name = 'good'},
	'schedule' => q{INSERT INTO es.schedule (schedule_id, due_at, command_type, data, owner)
		VALUES (gen_random_uuid(), now(), 'public.count_on', '{"id": "loot"}', 'postgres')});
$node->safe_psql('postgres', <<'SQL', %mallory);
CREATE TABLE mallory.loot (word text);
-- what is deferred runs at the end of the transaction, which is not hers
CREATE TABLE mallory.later (x int);
CREATE FUNCTION mallory.steal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO mallory.loot VALUES (current_user);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER steal AFTER INSERT ON mallory.later DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION mallory.steal();
CREATE TABLE mallory.attack (type text, statement text);
CREATE FUNCTION mallory.attack(e public.es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE (SELECT statement FROM mallory.attack WHERE type = e.type);
END $$;
-- undaunted by errors, she tries the rest
CREATE FUNCTION mallory.attack_all(e public.es_event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	attack text;
BEGIN
	FOR attack IN SELECT statement FROM mallory.attack ORDER BY type DESC LOOP
		BEGIN
			EXECUTE attack;
			SET CONSTRAINTS ALL IMMEDIATE;
		EXCEPTION WHEN OTHERS THEN NULL;
		END;
	END LOOP;
	INSERT INTO mallory.loot VALUES (current_user || ' ' || session_user);
END $$;
SELECT es_create_handler('attack', 'mallory.attack', categories => '{attack}', max_retries => 0);
SELECT es_create_handler('attack all', 'mallory.attack_all', categories => '{all}', max_retries => 0);
SQL
foreach my $type (sort keys %attack)
{
	$node->safe_psql('postgres', "INSERT INTO mallory.attack VALUES ('$type', \$\$$attack{$type}\$\$)");
	append("attack-$type", $type);
}
append('all', 'all');
becomes_true(q{count(*) = 12 FROM es.parked_event WHERE subscription = 'attack'}, 'all attacks fail');
others_go_on('then');
# 16 and later say more about processes that must not be terminated.
result(q{SELECT type, regexp_replace(reason, '^(must be a superuser|permission denied) to terminate .*\((42501)\).*$', 'not to be terminated (\2)')
	FROM es_parked_event ORDER BY type}, <<'OUT' =~ s/\n\z//r, 'why they fail');
commit|EXECUTE of transaction commands is not implemented (0A000)
create|permission denied for schema private (42501)
later|cannot fire deferred trigger within security-restricted operation (42501)
others|must have the privileges of role "postgres" to change what it has defined (42501)
read|permission denied for table secret (42501)
reset role|cannot set parameter "role" within security-definer function (42501)
reset session|cannot set parameter "session_authorization" within security-definer function (42501)
schedule|must have the privileges of role "postgres" to change what it has defined (42501)
set role|cannot set parameter "role" within security-definer function (42501)
set session|cannot set parameter "session_authorization" within security-definer function (42501)
temporary|cannot create temporary table within security-restricted operation (42501)
terminate|not to be terminated (42501)
OUT
becomes_true(q{count(*) > 0 FROM mallory.loot}, 'all attacks, one after the other');
result('SELECT word FROM mallory.loot ORDER BY word', 'mallory postgres', 'she remains who she is');
result(q{SELECT count(*) FROM pg_proc WHERE pronamespace = 'private'::regnamespace}, '0', 'she has made no function');
result(q{SELECT count(*) FROM es.schedule}, '0', 'she has scheduled no command for another');
result(q{SELECT owner, handler FROM es.subscription WHERE name = 'good'}, 'postgres|note', 'the other handler is as it was');
$node->safe_psql('postgres', q{SELECT es_drop_subscription('attack'), es_drop_subscription('attack all')});

# ---------------------------------------------------------------------------
# One that raises
# ---------------------------------------------------------------------------

# Wherever the event that it fails on stands in its batch, those before it are
# handled once, and so are those of other streams; a set-based projection has them,
# too.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION fail(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.type = 'bad' THEN
		RAISE 'no, thanks';
	END IF;
	INSERT INTO handled (handler, position, stream, type) VALUES ('fails', e.position, e.stream, e.type);
END $$;
SELECT es_create_handler('fails', 'fail', max_retries => 2, categories => '{x}');
CREATE TABLE sets (position bigint);
SELECT es_create_projection('set fails', mode => 'async', targets => '{sets}', categories => '{x}', query => '
	INSERT INTO sets SELECT position / (type <> ''bad'')::int FROM es_new_events');
SQL
foreach my $before (0 .. 4)
{
	$node->safe_psql('postgres', "
		BEGIN;
		SELECT es_append('x-$before', array_fill(es_new_event('good'), ARRAY[$before]) || ARRAY[es_new_event('bad'), es_new_event('good')]);
		SELECT es_append('x-other', 'good', '{}');
		COMMIT");
	becomes_true("count(*) = 2 FROM es.parked_event WHERE stream = 'x-$before' AND state = 'parked'",
		"what fails after $before events is parked");
}
becomes_true(q{bool_and(lag_events = 0) FROM es_subscription_status}, 'the handler goes on');
others_go_on('then');
result(q{SELECT state, attempts, reason, count(*) FROM es_parked_event GROUP BY subscription, state, attempts, reason ORDER BY subscription, state},
	"parked|3|no, thanks (P0001)|5\nwaiting|0||5\nparked|6|division by zero (22012)|5\nwaiting|0||5", 'what comes later in its stream waits');
foreach (q{SELECT position FROM handled WHERE handler = 'fails'}, 'SELECT position FROM sets')
{
	my $good = q{SELECT position FROM es.event e WHERE stream ^@ 'x-' AND NOT EXISTS (
		SELECT FROM es.event b WHERE b.stream = e.stream AND b.type = 'bad' AND b.version <= e.version)};
	result("($_) EXCEPT ALL ($good)", '', 'nothing is handled that waits, or twice');
	result("($good) EXCEPT ALL ($_)", '', 'all else is handled');
}
$node->safe_psql('postgres', q{SELECT es_drop_subscription('fails'), es_drop_projection('set fails')});

# ---------------------------------------------------------------------------
# One that does not return
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION hang(e es_event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
SELECT es_create_handler('hangs', 'hang', types => '{hang}', max_retries => 1, partitions => 8);
SQL
append('hang-1', 'hang');
becomes_true("count(*) = 1 $workers AND wait_event = 'PgSleep'", 'a handler does not return');
my $begun = $node->safe_psql('postgres', "SELECT xact_start $workers AND wait_event = 'PgSleep'");
others_go_on('meanwhile');
result("SELECT xact_start $workers AND wait_event = 'PgSleep'", $begun, 'it still runs');

# A cancel request ends the attempt and says nothing about the event.
result("SELECT pg_cancel_backend(pid) $workers AND wait_event = 'PgSleep'", 't', 'it is cancelled');
becomes_true("count(*) = 1 $workers AND wait_event = 'PgSleep' AND xact_start > '$begun'", 'it is tried again');
result(q{SELECT sum(attempts), max(last_error) FROM es.checkpoint WHERE subscription = 'hangs'},
	'0|canceling statement due to user request (57014)', 'that was no failure');

# With a limit of time, the event is parked at last.  Even when all workers are at
# such events, the others get their turn.
$node->safe_psql('postgres', q{ALTER SYSTEM SET event_sourcing.handler_timeout = '1s'});
$node->reload;
append("hang-$_", 'hang') foreach (2 .. 8);
$node->safe_psql('postgres', "SELECT pg_cancel_backend(pid) $workers AND wait_event = 'PgSleep'");
becomes_true("count(*) = 2 $workers AND wait_event = 'PgSleep'", 'all workers are at handlers that do not return');
others_go_on('meanwhile');
becomes_true('count(*) = 8 FROM es_parked_event', 'their events are parked');
result('SELECT DISTINCT attempts, reason FROM es_parked_event',
	'2|it took longer than event_sourcing.handler_timeout allows (1000 ms) (57014)', 'why');
others_go_on('then');
$node->safe_psql('postgres', q{SELECT es_drop_subscription('hangs')});

# ---------------------------------------------------------------------------
# A prepared transaction holds the mark
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', q{BEGIN; SELECT es_append('prepared', 't', '{}'); PREPARE TRANSACTION 'p'});
my $position = append('behind', 't');
others_go_on('beside a prepared transaction', 'other');
result("SELECT es_wait('good', $position, '0')", 'f', 'a prepared transaction holds the mark of its store');
$node->safe_psql('postgres', q{COMMIT PREPARED 'p'});
result("SELECT es_wait('good', $position, '3 min')", 't', 'when it is committed, all goes on');
result(q{SELECT string_agg(stream, ' ' ORDER BY position) FROM handled WHERE handler = 'good' AND type = 't'}, 'prepared behind',
	'in the order of the log');
$node->safe_psql('postgres', q{BEGIN; SELECT es_append('prepared', 'taken back', '{}'); PREPARE TRANSACTION 'p'});
$position = append('behind', 't');
$node->safe_psql('postgres', q{ROLLBACK PREPARED 'p'});
result("SELECT es_wait('good', $position, '3 min')", 't', 'the same when it is rolled back');

# ---------------------------------------------------------------------------
# A store is dropped
# ---------------------------------------------------------------------------

# while a handler of it runs, and others have work
$node->safe_psql('postgres', <<'SQL');
SET event_sourcing.store = 'other';
SELECT es_create_handler('hangs', 'hang', types => '{hang}', max_retries => 1000);
SELECT es_append('hang', 'hang', '{}');
SQL
becomes_true("count(*) = 1 $workers AND wait_event = 'PgSleep'", 'a handler of the other store runs');
$node->safe_psql('postgres', q{
	SET event_sourcing.store = 'other';
	SELECT count(es_append('many-' || n, 't', '{}'::jsonb)) FROM generate_series(1, 1000) n});
$node->safe_psql('postgres', 'DROP SCHEMA other CASCADE');
others_go_on('after the end of the other store', 'es');
$node->safe_psql('postgres', <<'SQL');
DELETE FROM handled WHERE store = 'other';
DELETE FROM tally WHERE store = 'other';
SET event_sourcing.store = 'other';
SELECT es_create_store('other');
SELECT es_create_handler('good', 'note');
SELECT es_create_projection('tally', mode => 'async', targets => '{tally}', query => '
	INSERT INTO tally SELECT ''other'', type, count(*) FROM es_new_events GROUP BY type
		ON CONFLICT (store, type) DO UPDATE SET events = tally.events + excluded.events');
SQL
others_go_on('with a new one');

# ---------------------------------------------------------------------------
# All in all
# ---------------------------------------------------------------------------

result("SELECT array_agg(pid ORDER BY pid) $workers", $pids, 'no worker has ended');
foreach my $store ('es', 'other')
{
	foreach (
		[ "SELECT position, stream, type FROM handled WHERE handler = 'good' AND store = '$store'", "SELECT position, stream, type FROM $store.event" ],
		[ "SELECT type, events FROM tally WHERE store = '$store'", "SELECT type, count(*) FROM $store.event GROUP BY type" ])
	{
		my ($one, $other) = @$_;
		result("($one) EXCEPT ALL ($other)", '', "store $store: nothing too much");
		result("($other) EXCEPT ALL ($one)", '', "store $store: nothing missing");
	}
}
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'nothing has crashed');

$node->stop;
done_testing();
