# A hot standby reads streams and states as the primary does, and says clearly
# what it cannot do: tell the high-water mark, and write.  After its promotion
# it is a primary like any other, for the sessions that were there before, too.

use strict;
use warnings;
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
done_testing();
