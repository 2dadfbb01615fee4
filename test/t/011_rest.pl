# A worker sleeps through events that nobody wants, and is there at once for any
# other: whether the writer held it back, or only made it wanted.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

plan skip_all => 'no /proc' unless -r "/proc/$$/status";

# An event that is only found when a rest ends by itself waits for 125 ms on
# average; one that ends the rest, for a millisecond or two.
my $slowdown = $ENV{ES_SLOWDOWN} || 1;
my $prompt_ms = 60 * $slowdown;
my $rounds = 11;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init;
$node->append_conf('postgresql.conf', "event_sourcing.workers = 2\nautovacuum = off\nsynchronous_commit = off\n");
$node->start;
$node->safe_psql('postgres', <<'SQL');
CREATE EXTENSION event_sourcing;
SELECT es_create_store();
CREATE TABLE handled (position bigint, type text, at timestamptz DEFAULT clock_timestamp());
CREATE TYPE wanted AS (n int);
CREATE FUNCTION note(e wanted, envelope es_event) RETURNS void LANGUAGE sql
AS 'INSERT INTO public.handled VALUES (envelope."position", envelope.type)';
SELECT es_create_handler('note', 'note');

-- Events of two kinds that nobody wants, all the time.
CREATE PROCEDURE make_noise() LANGUAGE plpgsql AS $$
BEGIN
	WHILE NOT EXISTS (SELECT FROM pg_class WHERE relname = 'stopped') LOOP
		PERFORM es_append('noise-' || i, 'noise', '{}'::jsonb), es_append('quiet', 'noise', '{}'::jsonb)
		FROM generate_series(1, 2) i;
		COMMIT;
		PERFORM pg_sleep(0.001);
	END LOOP;
END $$;

-- Appends, and tells its position, and when that was, in milliseconds.
CREATE FUNCTION append_at(stream text, type text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RETURN (es_append(stream, type, '{"n": 1}'::jsonb))."position" || ' ' || 1000 * extract(epoch FROM clock_timestamp());
END $$;
SQL
$node->safe_psql('postgres', 'SELECT es_start_worker()');
my @workers = split /\n/, $node->safe_psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'event_sourcing worker'});
is(@workers, 2, 'two workers');

# How often the workers have slept.
sub sleeps
{
	my $sleeps = 0;
	for my $pid (@workers)
	{
		$sleeps += $1 if slurp_file("/proc/$pid/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m;
	}
	return $sleeps;
}

# Hundreds of events that nobody wants in a second, of which the workers take little notice.
sub wait_for_rest
{
	for (1 .. $PostgreSQL::Test::Utils::timeout_default)
	{
		my $sleeps = sleeps();
		my $position = $node->safe_psql('postgres', 'SELECT es_high_water()');
		$node->safe_psql('postgres', 'SELECT pg_sleep(1)');
		return 1 if sleeps() - $sleeps < 40 && $node->safe_psql('postgres', 'SELECT es_high_water()') > $position + 100 / $slowdown;
	}
	return 0;
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[ @sorted / 2 ];
}

# Milliseconds from a time, or from its append, to the handling of what append_at() has appended.
sub delay
{
	my ($position, $since) = split ' ', shift;
	$since = shift if @_;
	$node->poll_query_until('postgres', qq{SELECT EXISTS (SELECT FROM handled WHERE "position" = $position)})
	  or die "$position is not handled";
	return $node->safe_psql('postgres', qq{SELECT 1000 * extract(epoch FROM at) - $since FROM handled WHERE "position" = $position});
}

my $noise = $node->background_psql('postgres', on_error_stop => 0, timeout => 10 * $PostgreSQL::Test::Utils::timeout_default);
$noise->query_until(qr/begun/, "\\echo begun\nCALL make_noise();\n");
ok(wait_for_rest(), 'while only noise comes, the workers rest');

# ---------------------------------------------------------------------------
# What ends it
# ---------------------------------------------------------------------------

my $writer = $node->background_psql('postgres', on_error_stop => 0);
my @delays = map { delay($writer->query_safe(q{SELECT append_at('w', 'wanted')})) } 1 .. $rounds;
cmp_ok(median(@delays), '<', $prompt_ms, 'an event that is wanted ends the rest') or diag "@delays";

# Two events of the store are in flight, of which the wanted one is committed
# first: nothing of it is seen before the other is over, which nobody wants.
my $holder = $node->background_psql('postgres', on_error_stop => 0);
@delays = ();
for (1 .. $rounds)
{
	$holder->query_safe(q{BEGIN; SELECT es_append('noise-h', 'noise', '{}')});
	my $appended = $writer->query_safe(q{SELECT append_at('w', 'wanted')});
	my ($position) = split ' ', $appended;
	$node->safe_psql('postgres', 'SELECT pg_sleep(0.1)');
	is($node->safe_psql('postgres', qq{SELECT count(*) FROM handled WHERE "position" >= $position}), '0', 'held back') if $_ == 1;
	push @delays, delay($appended, $holder->query_safe('SELECT 1000 * extract(epoch FROM clock_timestamp()); COMMIT'));
}
cmp_ok(median(@delays), '<', $prompt_ms, 'so does the end of what held one back') or diag "@delays";

# A type that nobody wants, until somebody else makes a function for it.
my $types = 5;
$node->safe_psql('postgres', "CREATE TYPE later_$_ AS (n int)") for 1 .. $types;
@delays = ();
for my $n (1 .. $types)
{
	# once they have read what has changed, they learn that nobody wants it
	wait_for_rest() or die 'no rest';
	$writer->query_safe("SELECT append_at('l', 'later_$n')");
	wait_for_rest() or die 'no rest';
	$node->safe_psql('postgres', "CREATE FUNCTION note(e later_$n, envelope es_event) RETURNS void LANGUAGE sql
		AS 'INSERT INTO public.handled VALUES (envelope.\"position\", envelope.type)'");
	push @delays, delay($writer->query_safe("SELECT append_at('l', 'later_$n')"));
}
cmp_ok(median(@delays), '<', $prompt_ms, 'an event that became wanted ends the rest') or diag "@delays";

# A subscription that wants the noise of one stream, from now on.
$node->safe_psql('postgres', <<'SQL');
CREATE FUNCTION note_noise(e es_event) RETURNS void LANGUAGE sql
AS 'INSERT INTO public.handled VALUES (e."position", e.stream)';
SELECT es_create_handler('noise', 'note_noise', stream => 'noise-1', from_position => NULL);
SQL
ok($node->poll_query_until('postgres', q{SELECT count(*) > 1000 FROM handled WHERE type = 'noise-1'}), 'a new handler begins at once');
$node->safe_psql('postgres', q{SELECT es_drop_subscription('noise')});
ok(wait_for_rest(), 'when it is dropped, they rest again');

# Who waits for a subscription to pass what it does not want.
$node->safe_psql('postgres', <<'SQL');
CREATE PROCEDURE wait_for_noise(INOUT ms float8 DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
	begun timestamptz;
	at bigint;
BEGIN
	at := (es_append('noise-3', 'noise', '{}'::jsonb)).position;
	COMMIT;
	begun := clock_timestamp();
	IF NOT es_wait('note', at, '1 min') THEN
		RAISE 'not passed';
	END IF;
	ms := 1000 * extract(epoch FROM clock_timestamp() - begun);
END $$;
SQL
@delays = ();
for (1 .. $rounds)
{
	wait_for_rest() or die 'no rest' if $_ == 1;
	push @delays, $node->safe_psql('postgres', 'CALL wait_for_noise()');
	$node->safe_psql('postgres', 'SELECT pg_sleep(0.3)');
}
cmp_ok(median(@delays), '<', $prompt_ms, 'so does a wait') or diag "@delays";

# ---------------------------------------------------------------------------
# More kinds of events than a worker remembers
# ---------------------------------------------------------------------------

$writer->query_safe(q{SELECT es_append('many-' || i, 'kind ' || i, '{}'::jsonb) FROM generate_series(1, 1000) i});
for my $i (1 .. 200)
{
	$writer->query_safe(qq{SELECT es_append('many-$i', 'kind $i', '{}'::jsonb)});
	$writer->query_safe(q{SELECT append_at('w', 'wanted')}) if $i % 10 == 0;
}

# ---------------------------------------------------------------------------
# The end
# ---------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE TABLE stopped ()');
my $last = $node->safe_psql('postgres', 'SELECT max(position) FROM es.event');
is($node->safe_psql('postgres', "SELECT es_wait('note', $last, '1 min')"), 't', 'everything is passed');
is($node->safe_psql('postgres', <<'SQL'), 't', 'and what is wanted was handled, once and in its order');
SELECT (SELECT array_agg(position ORDER BY at) FROM handled WHERE type = 'wanted')
	= (SELECT array_agg(position ORDER BY position) FROM es.event WHERE type = 'wanted')
SQL
is($node->safe_psql('postgres', q{SELECT count(DISTINCT type) || ' ' || count(*) FROM handled WHERE type LIKE 'later%'}),
	"$types $types", 'of what became wanted, all that came since');

$_->quit for $noise, $writer, $holder;
$node->stop;
done_testing();
