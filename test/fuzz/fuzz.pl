# fuzz.pl: call every function of the extension with whatever can be called an
# argument, in whatever state a session can be, and see that nothing worse than an
# error comes of it.  See fuzz.sh.
#
#     fuzz.pl --log SERVER_LOG [--calls N] [--seed N] [--sessions N] [--keep DIR]
#
# The statements are written to a script for each session first, and depend on the
# seed, the number of calls and of sessions alone (and on the functions that
# there are, which are read from pg_proc): one session does the same again with
# the same seed, several do as far as they do not meet.  Then psql runs them, one
# statement in each line, so that the number of a line with an error says which.
#
# Calls are made alone, or some dozen in one call of fuzz.try(), which catches
# the errors; within transaction blocks and outside; from the user's functions that
# the extension calls (the commands of the aggregate "chaos" carry statements).

use strict;
use warnings;
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use Getopt::Long;
use Time::HiRes qw(sleep time);

my ($calls, $seed, $sessions, $keep, $server_log) = (20_000, int(rand(1_000_000)), 2, undef, undef);
GetOptions('calls=i' => \$calls, 'seed=i' => \$seed, 'sessions=i' => \$sessions, 'keep=s' => \$keep, 'log=s' => \$server_log)
	or exit 64;
$server_log // die "fuzz.pl: --log is missing\n";

my $here = dirname(__FILE__);
my $dir = $keep // tempdir(CLEANUP => 1);
my $database = "fuzz_$seed";
my @psql = ('psql', '-X', '-q', '-A', '-t', '-d', $database);
my $started = time();

my (@functions, @restore, @scripts, %covered, %result, $written, $ran, $problems, $judged);

# ---------------------------------------------------------------------------
# Set-up, run, report
# ---------------------------------------------------------------------------

sub set_up
{
	system('psql', '-X', '-q', '-d', 'postgres', '-v', 'ON_ERROR_STOP=1', '-c', "CREATE DATABASE $database") == 0
		or die "fuzz.pl: no database\n";
	foreach my $file ("$here/store.sql", "$here/oracle.sql")
	{
		system("psql -X -q -o /dev/null -d $database -v ON_ERROR_STOP=1 -f $file") == 0 or die "fuzz.pl: $file failed\n";
	}
	return;
}

sub ask
{
	my ($query, $user) = @_;
	local $ENV{PGOPTIONS} = '-c statement_timeout=0 -c lock_timeout=0';
	open my $out, '-|', @psql, '-U', $user, '-F', "\t", '-c', $query or die "fuzz.pl: psql: $!\n";
	my $text = join '', <$out>;
	close $out or die "fuzz.pl: could not ask: $query\n";
	return $text;
}

# The functions and procedures that are members of the extension, with their arguments.
sub read_functions
{
	my @found;
	my $rows = ask(<<'SQL', 'postgres');
SELECT p.oid::regprocedure, n.nspname || '.' || p.proname, p.prokind, p.proretset, p.pronargs, p.pronargs - p.pronargdefaults,
	p.prorettype::regtype, array_to_string(p.proargnames, ','), (SELECT string_agg(t::regtype::text, ',' ORDER BY i)
	FROM unnest(p.proargtypes) WITH ORDINALITY AS a(t, i))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
WHERE d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'event_sourcing') ORDER BY 1::text COLLATE "C", p.oid::regprocedure::text COLLATE "C"
SQL
	foreach my $row (sort split /\n/, $rows)
	{
		my ($signature, $name, $kind, $set, $count, $required, $result, $names, $types) = split /\t/, $row, -1;
		my @types = split /,/, $types;
		my @names = (split /,/, $names)[ 0 .. $#types ];
		my $function = {
			signature => $signature, name => $name, kind => $kind, set => $set eq 't',
			required => $required, result => $result, names => \@names, types => \@types };

		$function->{weight} = weight($name);
		push @found, $function;
	}
	@found or die "fuzz.pl: no functions\n";
	return @found;
}

# What is called more often, and what less since it takes long as the log grows.
sub weight
{
	my ($name) = @_;
	return 12 if $name =~ /es_dispatch$/;
	return 6 if $name =~ /es_append$|es_state$/;
	return 0.03 if $name =~ /es_start_worker|es_stop_worker/;
	return 0.1 if $name =~ /es_run$|es_create_store|es_upgrade_store|es_lint|es_diagram|es_overload/;
	return 0.3 if $name =~ /es_rebuild_projection|es_verify_projection|es_resume|es_alter_projection|counts|states$|es_history/;
	return 0.5 if $name =~ /_and_wait|es_wait$/;
	return 2;
}

# The definitions of store.sql, each in one line, to come back to them after havoc.
sub read_definitions
{
	open my $in, '<', "$here/store.sql" or die "fuzz.pl: store.sql: $!\n";
	my $text = join '', <$in>;
	close $in;
	$text =~ s/.*^-- Aggregates$//ms;
	$text =~ s/^-- Some history$.*//ms;
	my @statements;
	while ($text =~ /^((?:CREATE (?:TYPE|DOMAIN|TABLE|FUNCTION)|SELECT es_create_).*?;)$(?<!BEGIN ATOMIC)/msg)
	{
		my $statement = $1;

		if ($statement =~ /AS \$\$$/m || $statement =~ /AS\s+\$\$(?!.*\$\$)/s)
		{
			# the body goes on to its $$
			$text =~ /\G(.*?\$\$;)/msg or die "fuzz.pl: store.sql: no end of $statement\n";
			$statement .= $1;
		}
		$statement =~ s/^CREATE FUNCTION/CREATE OR REPLACE FUNCTION/;
		$statement =~ s/--[^\n]*//g;
		$statement =~ s/\s+/ /g;
		push @statements, $statement;
	}
	@statements > 50 or die "fuzz.pl: could not read store.sql\n";
	return @statements;
}

sub run_scripts
{
	my @pids;
	foreach my $script (@scripts)
	{
		my $pid = fork() // die "fuzz.pl: fork: $!\n";
		if ($pid == 0)
		{
			open STDIN, '<', '/dev/null' or die;
			open STDOUT, '>', "$script->{file}.out" or die;
			open STDERR, '>', "$script->{file}.err" or die;
			exec @psql, '-U', 'fuzz_owner', '-v', 'VERBOSITY=sqlstate', '-f', $script->{file} or die;
		}
		push @pids, $pid;
	}
	foreach my $i (0 .. $#pids)
	{
		waitpid $pids[$i], 0;
		$scripts[$i]{status} = $? >> 8;
	}
	return;
}

# Nothing is in flight any more: no session, no prepared transaction, no worker.
sub come_to_rest
{
	ask("ROLLBACK PREPARED '$_'", 'postgres') foreach split /\n/, ask('SELECT gid FROM pg_prepared_xacts WHERE database = current_database()', 'postgres');
	ask('SELECT es_stop_worker()', 'postgres');
	foreach (1 .. 600)
	{
		return if ask(q{SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'}, 'postgres') == 0;
		sleep 0.1;
	}
	die "fuzz.pl: a session does not end\n";
}

# Count what the calls came to, from what psql said.
sub read_results
{
	my (%states, @faults);
	my ($direct, $caught, $skipped) = (0, 0, 0);
	foreach my $script (@scripts)
	{
		my %failed;
		open my $err, '<', "$script->{file}.err" or die;
		while (my $line = <$err>)
		{
			next unless $line =~ /:(\d+): (ERROR|FATAL|PANIC|WARNING):\s+(\w{5})/;
			my ($number, $level, $state) = ($1, $2, $3);

			# what they say is in the log, for judge.pl
			next if $level eq 'WARNING';
			$failed{$number} = $state;
			push @faults, "$script->{file}:$number: $state $script->{lines}[$number - 1]{text}"
				if $state eq '57014' || $level ne 'ERROR' && $state ne '42501';
		}
		close $err;
		open my $out, '<', "$script->{file}.out" or die;
		while (my $line = <$out>)
		{
			next unless $line =~ /^tried: ([^|]*)/;
			foreach my $one (split / /, $1)
			{
				my ($state, $count) = split /\*/, $one;

				$states{$state} += $count;
				$caught += $count;
			}
		}
		close $out;
		foreach my $i (0 .. $#{ $script->{lines} })
		{
			next unless $script->{lines}[$i]{kind} eq 'call';
			my $state = $failed{ $i + 1 } // '00000';
			$state eq '25P02' ? $skipped++ : ($states{$state}++, $direct++);
		}
		push @faults, "psql ended with status $script->{status}: the connection was lost" if $script->{status};
	}
	return (states => \%states, faults => \@faults, direct => $direct, caught => $caught, skipped => $skipped);
}

sub report
{
	printf "%d calls: %d alone, %d with their errors caught (%d were skipped in failed transactions)\n",
		$result{direct} + $result{caught}, @result{qw(direct caught skipped)};
	printf "%.0f s to write the scripts, %.0f s to run them, %.0f s to judge\n", $written - $started, $ran - $written, time() - $ran;
	printf "%d of %d functions were called: %s\n", scalar(grep { $covered{ $_->{signature} } } @functions), scalar(@functions),
		join(' ', map { "without $_->{signature}" } grep { !$covered{ $_->{signature} } } @functions) || 'all';
	printf "  %-6s %d\n", $_, $result{states}{$_}
		foreach sort { $result{states}{$b} <=> $result{states}{$a} || $a cmp $b } keys %{ $result{states} };
	print "FAULT $_\n" foreach map { substr $_, 0, 2000 } @{ $result{faults} };
	print "PROBLEM $_\n" foreach split /\n/, $problems;
	print "seed $seed: ", ($problems ne '' || $judged || @{ $result{faults} } ? 'FAILED' : 'passed'), "\n";
	return;
}

# ---------------------------------------------------------------------------
# Choosing
# ---------------------------------------------------------------------------

sub pick { return $_[ int rand @_ ] }

sub chance
{
	my ($probability) = @_;
	return rand() < $probability;
}

sub between
{
	my ($low, $high) = @_;
	return $low + int rand($high - $low + 1);
}

# a literal, in one line
sub quote
{
	my ($text) = @_;
	return 'NULL' unless defined $text;
	$text =~ s/\\/\\\\/g;
	$text =~ s/'/''/g;
	$text =~ s/\n/\\n/g;
	return "E'$text'";
}

sub pick_function
{
	my $sum = 0;
	$sum += $_->{weight} foreach @functions;
	my $at = rand $sum;
	foreach my $function (@functions)
	{
		return $function if ($at -= $function->{weight}) < 0;
	}
	return $functions[-1];
}

# ---------------------------------------------------------------------------
# Arguments
# ---------------------------------------------------------------------------

my @own_types = qw(wallet put take tell list shrug put_in taken_out told listed gadget build built part kept keep was_kept
	chaos stir stirred courier peek peek_gadget peek_kept small color no_such);
my @aggregates = qw(wallet gadget chest chaos courier);
my @subscriptions = qw(watch halt stirrer pull lonely courier s1 s2);
my @projections = qw(total seen stirred p1 p2);
my @kept = ('kept inline', 'kept set', 'kept async');

# what may name anything, and nothing should choke on
my @odd_texts = (
	"NULL", "''", "' '", "'a'", "'-'", "'wallet-'", "'\$all'", "'\$'", "'x.y'", "'a.b.c'", q{'"'}, q{'"quoted"'}, q{'"a"".b"'}, q{E'\\''},
	q{E'\\n\\t\\r'}, q{E'\\x01\\x7f'}, q{E'\\u2603\\U0001F600'}, "'%s%n%d'", "'{'", "'{}'", "'[]'", "'null'", "'0'", "'-1'",
	"'9223372036854775808'", "'NaN'", "repeat('x', 512)", "repeat('x', 513)", "repeat('ü', 300)", "repeat('ab-', 1000)",
	"repeat('y', 63)", "repeat('y', 64)", "'pg_catalog.now'", "'; DROP TABLE es.event; --'", "'../../etc'", "'es_event'");

sub id { return pick(0 .. 6, 'courier', 'ü', '', 'fail', 'a-b', between(7, 40)) }

sub text
{
	my ($argument, $name) = @_;
	return pick(@odd_texts) if chance(0.12);
	if ($argument =~ /^(?:stream|stream_prefix)$/)
	{
		return quote(pick('wallet', 'wallet', 'gadget', 'kept', 'chaos', 'log', 'chest', 'odd', 'x') . '-' . ($argument eq 'stream' ? id() : ''));
	}
	return quote(id()) if $argument =~ /^(?:id|identity)$/ && chance(0.8);
	return quote(pick('id', 'note', 'amount', 'no_such')) if $argument eq 'identity';
	return quote(pick(@aggregates, 'kept')) if $argument eq 'aggregate';
	return quote(pick(qw(put take tell list shrug build fill drain keep peek stir no_such app.put int4), @own_types)) if $argument eq 'command_type';
	return quote(pick(@own_types, 'noted', 'es_event', 'filled')) if $argument eq 'type';
	return quote(pick('inline', 'async', 'INLINE', 'none')) if $argument eq 'mode';
	return quote(pick('retry', 'skip', 'park', 'stop', 'none')) if $argument =~ /^(?:action|on_error)$/;
	return quote(pick('c1', 'c2', 'c3')) if $argument eq 'consumer';
	return pick(q{'1 day'}, q{'-1 day'}, q{'x'}, 'NULL', q{'0'}, q{'1 mon'}) if $argument eq 'every';
	return pick(q{'now'}, q{'infinity'}, q{'-infinity'}, q{'tomorrow'}, q{'x'}, 'NULL', q{'2100-01-01'}, q{'294277-01-01'}) if $argument eq 'at';
	return quote(data()) if $argument =~ /^(?:data|metadata)$/;
	return pick('NULL', "'(1,2)'", "'{}'", q{'{"n": 1}'}, "'(x,5,y,\"{a,b}\")'", "'[1'") if $argument eq 'initial_state';
	return quote(query()) if $argument eq 'query';
	return quote(pick(handler(), split /_/, $argument)) if $argument =~ /handler|_function$/;
	return quote(pick(definition($name))) if $argument eq 'name';
	return quote(pick(@aggregates, @subscriptions, @projections, @own_types));
}

# Names of definitions that fit a function: "kept" ones only where nothing is changed for
# good.  While one is paused, events that it cannot handle would be let in.
sub definition
{
	my ($name) = @_;
	my @names = $name =~ /aggregate/ ? @aggregates : $name =~ /projection/ ? @projections
		: $name =~ /process/ ? ('courier', 's1') : (@subscriptions, @projections);
	push @names, @kept if $name !~ /create|drop|reset|alter|nack|ack|fetch|pause/;
	push @names, 'kept' if $name =~ /aggregate/ && $name !~ /create|drop/;
	return @names;
}

# kept_project is not among them: what it counted twice would not be what history says
sub handler
{
	return (qw(project see see app.see stir_up execute apply route handle chest_execute chest_apply es_run now pg_sleep
			es_read_all es_event_guard es_project no.such public.es_append record_in array_in), 'see()', 'app."see"', '"');
}

sub query
{
	my $total = 'INSERT INTO app.total SELECT type, count(*) FROM es_new_events GROUP BY type ON CONFLICT (type) DO UPDATE SET n = total.n + excluded.n';
	return pick($total, $total, $total, $total,
		'INSERT INTO app.seen SELECT position, type FROM es_new_events', 'SELECT 1', 'SELECT * FROM es_new_events', '', ';', 'SELECT $1',
		'DELETE FROM app.seen', 'UPDATE es.event SET type = 1', 'COMMIT', 'VACUUM', 'TRUNCATE app.seen', 'DROP TABLE app.seen', 'SELECT 1; SELECT 2',
		'SELECT 1/0 FROM es_new_events', 'WITH x AS (INSERT INTO app.seen SELECT position, type FROM es_new_events RETURNING 1) SELECT count(*) FROM x',
		'DELETE FROM es_new_events', 'INSERT INTO app.seen SELECT position, no_such FROM es_new_events', 'SELEKT',
		q{SELECT es_append('loop-1', 'x', '{}'::jsonb) FROM es_new_events}, q{SELECT es_dispatch(ROW('1', 1, '')::app.put) FROM es_new_events},
		q{SELECT es_drop_projection('p1') FROM es_new_events}, q{SELECT es_run(5) FROM es_new_events}, 'EXPLAIN SELECT 1', 'CREATE TEMP TABLE t ()');
}

# a JSON text that fits a command or event, or nearly, or not
sub data
{
	return pick('{}', '[]', 'null', '1', '"x"', 'true', '', '{', '{"id": null}', '{"id": ""}', '{"id": {}}', '{"id": [1]}', '{"id": 1e400}', '{"id": "1", "id": "2"}',
		'{"id": "1", "no_such": 1}', '{"": 1}', '{"id": "' . ('x' x 600) . '"}', '[' x 200 . ']' x 200, '{"a":' x 150 . '1' . '}' x 150,
		'{"id": "\\\\u0000"}', '[[1,2],[3]]', '{"id": "1", "tags": [["a"],["b"]]}', '{"id": "1", "tags": "{a,b}"}') if chance(0.35);
	my $id = id();
	return sprintf '{"id": %s%s}', chance(0.5) && $id =~ /^\d+$/ ? $id : "\"$id\"", join '', map { ", $_" } grep { chance(0.4) } (
		'"amount": ' . pick(0, 1, -1, 55, '1e30', '"7"', 'null', '"x"', '[]'), '"note": ' . pick('"n"', 1, 'null', '{"a": 1}'),
		'"times": ' . pick(0, 1, 3, -1, 'null', '"2"', 2147483648), '"tags": ' . pick('[]', '["a"]', '["a", null]', 'null', '"x"', '[1, [2]]'),
		'"size": ' . pick(1, 999, 1000, -5, 'null', '"x"'), '"color": ' . pick('"red"', '"pink"', 'null', 1),
		'"part": ' . pick('{}', '{"name": "p", "sizes": [1, null], "born": "2020-02-02"}', 'null', '[]', '{"sizes": [[1], [2]]}', '{"x": 1}', '"(p,,)"'),
		'"parts": ' . pick('[]', '[{"name": "p"}]', '[null]', '{}', '[[{"name": "p"}]]'), '"during": ' . pick('"empty"', '"[2020-01-01,)"', '"x"', 'null'),
		'"data": ' . pick('[]', '{"a": {"b": [1]}}', 'null', '"x"'), '"at": ' . pick('"now"', '"infinity"', 'null', 0),
		'"tag": ' . pick('"t"', 'null', '{}'));
}

sub jsonb { return chance(0.1) ? 'NULL' : quote(data()) . '::jsonb' }

sub uuid
{
	return pick('NULL', 'NULL', q{'00000000-0000-0000-0000-000000000000'}, q{'ffffffff-ffff-ffff-ffff-ffffffffffff'}) . '::uuid' if chance(0.5);
	return sprintf q{'%s-0000-0000-0000-%012d'::uuid}, pick('00000000', '00000000', '11111111'), between(1, 80) if chance(0.7);
	return sprintf q{'%08x-%04x-7%03x-8%03x-%012x'::uuid}, map { int rand $_ } 2**32, 2**16, 2**12, 2**12, 2**31;
}

sub array_of
{
	my ($type, $element) = @_;
	my $form = rand;

	return "NULL::${type}[]" if $form < 0.2;
	return "'{}'::${type}[]" if $form < 0.3;
	return "ARRAY[[" . $element->() . "],[" . $element->() . "]]::${type}[]" if $form < 0.35;
	return "array_fill(" . $element->() . "::$type, '{2}', '{0}')" if $form < 0.38;
	return "array_fill(" . $element->() . "::$type, '{300}')" if $form < 0.39;
	return 'ARRAY[' . join(', ', map { $element->() } 1 .. between(1, 4)) . "]::${type}[]";
}

# a value of a composite type: as a row, from JSON, NULL, or another type altogether
sub composite
{
	my ($depth) = @_;
	my $id = quote(id());

	if ($depth > 0 && chance(0.15))
	{
		return sprintf 'ROW(%s, %s, %s)::app.stir', $id, map { chance(0.4) ? 'NULL' : quote(nested($depth - 1)) } 1 .. 2;
	}
	return pick(
		"ROW($id, " . between(0, 60) . ", 'n')::app.put", "ROW($id, " . between(0, 60) . ', NULL)::app.keep', "ROW($id, " . between(0, 60) . ')::app.take',
		"ROW($id, " . between(-1, 4) . ')::app.tell', "ROW($id, '{a,b,NULL}')::app.list", "ROW($id)::app.shrug", "ROW($id)::app.peek", "ROW($id)::app.peek_kept",
		'ROW(' . between(0, 6) . ')::app.peek_gadget', 'ROW(' . between(0, 6) . q{, 5, ROW('p', '{1}', now()), NULL, 'red', NULL, '{}')::app.build},
		"ROW($id, 5)::app.taken_out", "ROW($id, NULL)::app.told", "ROW($id, 1, 'direct')::app.put_in", "ROW($id, 'SELECT 1')::app.stirred") if chance(0.65);
	return sprintf 'jsonb_populate_record(NULL::app.%s, %s)', pick(@own_types), jsonb() if chance(0.6);
	return 'NULL::app.' . pick(@own_types) if chance(0.4);
	return pick('1', q{'x'::text}, 'NULL', q{'x'}, "ROW(1, 2)", 'ROW()', q{ROW('1')::app.shrug::record}, 'ARRAY[1, 2]', "ARRAY[ROW('1')::app.shrug]", 'NULL::record', 'now()', 'NULL::es_event',
		'NULL::es_new_event', 'NULL::es_command', q{'red'::app.color}, '5::app.small', q{'[1,2]'::int4range}, 'NULL::pg_class', q{'{}'::jsonb}, q{'{}'::json}, 'NULL::void',
		'(SELECT e FROM es.event e LIMIT 1)', '(SELECT t FROM app.total t LIMIT 1)', q{es_new_event('a')}, 'NULL::app.total', q{'public'::regnamespace}, q{'x'::cstring});
}

sub new_event
{
	return pick(
		'NULL', 'es_new_event(' . text('type') . ')', 'es_new_event(' . text('type') . ', ' . jsonb() . ', ' . jsonb() . ', ' . uuid() . ')',
		sprintf('ROW(%s, %s, %s, %s, %s)::es_new_event', text('type'), jsonb(), jsonb(), uuid(), value('', 'x', 'timestamp with time zone', 0)),
		"es_new_event(ROW('1', 1, 'n')::app.put_in)", "ROW('noted', '{}', NULL, NULL, NULL)::es_new_event");
}

sub value
{
	my ($function, $argument, $type, $depth) = @_;

	return array_of($1, sub { value($function, $argument, $1, $depth) }) if $type =~ /^(.*)\[\]$/ && $type !~ /^regclass/;
	return text($argument, $function) . '::text' if $type eq 'text';
	return pick('NULL', 0, 0, 1, 1, 2, 3, 5, 10, 100, -1, -2, 2147483648, '9223372036854775807', "'-9223372036854775808'", between(1, 500)) . '::bigint' if $type eq 'bigint';
	return pick('NULL', 0, 1, 1, 2, 5, 100, -1, 1000, 1025, 2147483647, "'-2147483648'") . '::int' if $type eq 'integer';
	return pick('NULL', 'true', 'false') . '::boolean' if $type eq 'boolean';
	return uuid() if $type eq 'uuid';
	return jsonb() if $type eq 'jsonb';
	if ($type eq 'interval')
	{
		# what waits must not wait for long
		return pick('NULL', "'0'", "'1 ms'", "'5 ms'", "'-1 s'", "'-178000000 years'", "'20 ms'") . '::interval'
			if $argument =~ /^(?:timeout|wait)$/ && $function !~ /check/;
		return pick('NULL', "'0'", "'1 ms'", "'-1 s'", "'1 day'", "'1 mon -30 days'", "'-178000000 years'", "'178000000 years'", "'10 years'", "'1000000 hours'") . '::interval';
	}
	return pick('NULL', "'infinity'", "'-infinity'", 'now()', 'clock_timestamp()', "'epoch'", "'294276-12-31'", "'4713-01-01 BC'", "'2100-01-01'", "now() - interval '1 s'") . '::timestamptz'
		if $type eq 'timestamp with time zone';
	return pick('NULL', "'es'", "'Odd \"store\"'", "'Odd \"store\"'", "'no_such'", "''", "'pg_catalog'", "repeat('n', 64)", "'app'", "'public'") . '::name' if $type eq 'name';
	return pick(map({ "'app.$_'" } qw(wallet wallet gadget kept chaos courier put color small part)), "'jsonb'", "'jsonb'", "'int4'", "'es_event'", "'anyelement'", "'record'", "'void'", "'app.wallet[]'",
		'NULL', "'0'", "'4294967295'", "'trigger'", "'pg_class'") . '::regtype' if $type eq 'regtype';
	return pick("'{app.total}'", "'{app.total}'", "'{app.seen}'", "'{app.total,app.seen}'", "'{app.total,app.total}'", "'{NULL}'", "'{}'", 'NULL', "'{es.event}'", "'{pg_class}'",
		"'{es_inflight}'", "'{0,4294967295}'", "'{{app.total},{app.seen}}'", "'{es.event_position}'") . '::regclass[]' if $type eq 'regclass[]';
	return composite($depth) if $type eq 'anyelement';
	return new_event() if $type =~ /es_new_event$/;
	return pick('NULL::es_dispatch_result', "ROW('wallet-1', 1, 1, NULL)::es_dispatch_result", "ROW(NULL, NULL, 5, '{}')::es_dispatch_result",
		"ROW('wallet-1', 1, " . between(0, 500) . ', ARRAY(SELECT e::es_event FROM es.event e LIMIT 2))::es_dispatch_result') if $type =~ /es_dispatch_result$/;
	return "NULL::$type";
}

# ---------------------------------------------------------------------------
# Statements
# ---------------------------------------------------------------------------

sub call
{
	my ($depth, $function) = @_;
	$function //= pick_function();
	my @values = map { value($function->{name}, $function->{names}[$_], $function->{types}[$_], $depth) } 0 .. $#{ $function->{types} };
	my @arguments = @values;

	$covered{ $function->{signature} }++;
	if (chance(0.6))
	{
		# leave out what has a default: from the end, or here and there by name
		splice @arguments, between($function->{required}, scalar @arguments);
		if (chance(0.3) && @arguments < @values)
		{
			my $i = between(scalar @arguments, $#values);
			push @arguments, "$function->{names}[$i] => $values[$i]" if $function->{names}[$i];
		}
	}
	# three times the default of what waits would be too long
	my ($wait) = grep { $function->{names}[$_] =~ /^timeout$/ } 0 .. $#values;
	push @arguments, "timeout => $values[$wait]"
	  if defined $wait && @arguments <= $wait && !grep { /^timeout => / } @arguments;
	my $expression = "$function->{name}(" . join(', ', @arguments) . ')';
	$expression =~ s/, position =>/, "position" =>/;
	return "CALL $expression" if $function->{kind} eq 'p';
	return pick(
		"SELECT $expression", "SELECT $expression", "SELECT * FROM $expression", "SELECT count(*) FROM $expression",
		"SELECT x IS NULL FROM generate_series(1, 2) i, LATERAL $expression x", "SELECT COALESCE(length(($expression)::text), 0)",
		"SELECT $expression FROM generate_series(1, 3)", "SELECT * FROM $expression x LIMIT 1");
}

# a statement for a function of the user's to run
sub nested
{
	my ($depth) = @_;
	return chance(0.75) ? call($depth) : chance(0.6) ? definition_change() : pick(settings(), 'COMMIT', 'ROLLBACK', "SET ROLE fuzz_low", 'SELECT 1 / 0', 'DISCARD PLANS', 'SAVEPOINT a');
}

sub settings
{
	my $how = pick('SET', ('SET LOCAL') x 3);
	return "$how " . pick(
		"event_sourcing.store = 'es'", "event_sourcing.store = 'Odd \"store\"'", "event_sourcing.store = 'no_such'", "event_sourcing.store = ''", "event_sourcing.metadata = '{\"who\": \"me\"}'",
		"event_sourcing.metadata = '{'", "event_sourcing.metadata = '[1]'", "event_sourcing.metadata = ''", 'event_sourcing.cache_size = 0', 'event_sourcing.cache_size = 1', "event_sourcing.cache_size = '16MB'",
		'event_sourcing.max_dispatch_depth = 1', 'event_sourcing.max_dispatch_depth = 3', 'event_sourcing.direct_log = off', 'event_sourcing.direct_log = on', 'event_sourcing.handler_timeout = 1',
		'event_sourcing.handler_timeout = 0', 'event_sourcing.retry_delay = 0', 'event_sourcing.no_such = 1', 'search_path = app, public', 'search_path = public, app', "search_path = ''",
		'search_path = no_such', 'default_transaction_read_only = on', 'default_transaction_read_only = off', 'work_mem = 64', 'row_security = off', 'row_security = on', 'plan_cache_mode = force_generic_plan',
		'enable_indexscan = off', 'enable_seqscan = off', "DateStyle = 'German'", "IntervalStyle = 'iso_8601'", "TimeZone = 'Asia/Kathmandu'", 'extra_float_digits = 0', "bytea_output = 'escape'",
		'check_function_bodies = off', 'jit = off', 'force_parallel_mode = on', 'debug_parallel_query = on', 'parallel_setup_cost = 0', "lock_timeout = '1s'", 'xmloption = document', 'transform_null_equals = on', 'standard_conforming_strings = off',
		"session_replication_role = 'replica'", 'default_toast_compression = pglz', 'array_nulls = off', 'quote_all_identifiers = on', 'from_collapse_limit = 1', 'max_stack_depth = 100');
}

# The user's own types, functions and tables change under the definitions.
sub definition_change
{
	my $command = pick(qw(put take tell list build shrug));
	my $event = pick(qw(put_in taken_out told listed built stirred));
	my $state = pick(qw(wallet wallet gadget chaos courier));
	my $type = pick($command, $event, $state, 'part');
	my $field = pick('extra', 'note', 'amount', 'tags', 'size');

	return pick(
		"CREATE OR REPLACE FUNCTION app.apply(s app.wallet, e app.put_in) RETURNS app.wallet LANGUAGE sql IMMUTABLE RETURN ROW(e.id, e.amount, 'other', s.tags)::app.wallet",
		"CREATE OR REPLACE FUNCTION app.apply(s app.wallet, e app.put_in) RETURNS app.wallet LANGUAGE plpgsql IMMUTABLE AS 'BEGIN s.id := e.id; s.balance := COALESCE(s.balance, 0) - 1; RETURN s; END'",
		"CREATE OR REPLACE FUNCTION app.apply(s app.wallet, e app.put_in) RETURNS app.wallet LANGUAGE sql IMMUTABLE AS 'SELECT NULL::app.wallet'",
		"CREATE OR REPLACE FUNCTION app.apply(s app.wallet, e app.taken_out) RETURNS app.wallet LANGUAGE sql STABLE STRICT AS 'SELECT s'",
		"CREATE OR REPLACE FUNCTION app.apply(s app.$state, e app.$event) RETURNS app.$state LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN s; END'",
		"CREATE OR REPLACE FUNCTION app.apply(s app.$state, e app.$event, m es_event) RETURNS app.$state LANGUAGE sql IMMUTABLE AS 'SELECT s'",
		"CREATE OR REPLACE FUNCTION app.execute(s app.wallet, c app.$command) RETURNS es_new_event LANGUAGE sql AS 'SELECT es_new_event(c.*::text)'",
		"CREATE OR REPLACE FUNCTION app.execute(s app.wallet, c app.put) RETURNS app.put_in LANGUAGE plpgsql AS 'BEGIN PERFORM es_dispatch(c); RETURN ROW(c.id, 1, NULL)::app.put_in; END'",
		"CREATE OR REPLACE FUNCTION app.execute(s app.wallet, c app.put) RETURNS app.put_in LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
		"CREATE OR REPLACE FUNCTION app.execute(s app.wallet, c app.shrug) RETURNS " . pick('int', 'record', 'SETOF record', 'text[]', 'app.put_in[]', 'jsonb') . " LANGUAGE sql AS 'SELECT NULL'",
		"CREATE OR REPLACE FUNCTION app.execute(s app.$state, c app.$command) RETURNS app.$event LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
		"CREATE OR REPLACE FUNCTION app.handle(s app.courier, e app.taken_out) RETURNS SETOF es_command LANGUAGE sql AS 'SELECT ROW(''put'', ''{\"id\": \"9\"}'', NULL, NULL, NULL, NULL)::es_command'",
		"CREATE OR REPLACE FUNCTION app.route(e app.$event) RETURNS es_route LANGUAGE sql AS 'SELECT ROW(''" . pick('start', 'start!', 'continue', 'continue!', 'stop', '', 'x') . "'', ''1'')::es_route'",
		"DROP FUNCTION app.apply(app.$state, app.$event)", "DROP FUNCTION app.execute(app.wallet, app.$command)", 'DROP FUNCTION app.see(es_event)', "DROP FUNCTION app.project(app.put_in)",
		"DROP FUNCTION app.route(app.taken_out)", 'DROP FUNCTION app.handle(app.courier, app.taken_out)', "ALTER FUNCTION app.apply(app.$state, app.$event) RENAME TO applied",
		"ALTER FUNCTION app.apply(app.wallet, app.put_in) " . pick('STRICT', 'VOLATILE', 'IMMUTABLE', 'SECURITY DEFINER', "SET work_mem = '1MB'", 'RESET ALL', 'COST 5', 'OWNER TO fuzz_low'),
		"ALTER TYPE app.$type ADD ATTRIBUTE extra " . pick('int', 'text', 'app.part', 'app.small', 'numeric[]', "text COLLATE \"C\""), "ALTER TYPE app.$type ADD ATTRIBUTE extra int CASCADE", "ALTER TYPE app.$type DROP ATTRIBUTE IF EXISTS $field CASCADE",
		"ALTER TYPE app.$type ALTER ATTRIBUTE $field TYPE " . pick('text', 'bigint', 'jsonb') . ' CASCADE', "ALTER TYPE app.$type RENAME ATTRIBUTE $field TO other", "ALTER TYPE app.$type RENAME TO renamed",
		"ALTER TYPE app.renamed RENAME TO $type", "DROP TYPE app.$type CASCADE", "DROP TYPE app.$type", "ALTER TYPE app.$type SET SCHEMA public", "ALTER TYPE public.$type SET SCHEMA app", "CREATE TYPE public.$type AS (id int)", "DROP TYPE public.$type CASCADE",
		'ALTER DOMAIN app.small ADD CONSTRAINT positive CHECK (VALUE > 0) NOT VALID', 'ALTER DOMAIN app.small DROP CONSTRAINT IF EXISTS positive', "ALTER TYPE app.color ADD VALUE IF NOT EXISTS 'pink'",
		'ALTER TABLE app.total ADD COLUMN IF NOT EXISTS extra int', 'ALTER TABLE app.total DROP COLUMN IF EXISTS extra', 'DROP TABLE app.seen', 'TRUNCATE app.total', 'ALTER TABLE app.seen ALTER COLUMN position TYPE numeric',
		'CREATE TRIGGER odd AFTER INSERT ON app.seen FOR EACH ' . pick('ROW', 'STATEMENT') . ' EXECUTE FUNCTION ' . pick('es_project', 'es_event_guard', 'es_definition_changed', 'es_owner_guard') . '()', 'DROP TRIGGER odd ON app.seen',
		"INSERT INTO app.seen VALUES (1, 'x')", "SELECT es_drop_aggregate('" . pick(@aggregates) . "')", "SELECT es_drop_projection('" . pick(@projections) . "')", "SELECT es_drop_subscription('" . pick(@subscriptions) . "')",
		pick(@restore), pick(@restore), pick(@restore), store_change());
}

# What an administrator may do to the tables of a store, and to the odd one what he should not.
sub store_change
{
	my $table = pick(qw(event event event stream snapshot receipt aggregate projection subscription checkpoint consumer parked_event process schedule));
	my $column = pick(qw(position stream version type data metadata event_id name state id partition owner));
	my $odd = '"Odd ""store"""';

	return pick(
		"ANALYZE es.$table", 'CREATE INDEX fuzz_index ON es.event (type)', 'DROP INDEX es.fuzz_index', 'ALTER TABLE es.event ENABLE ROW LEVEL SECURITY', 'ALTER TABLE es.event DISABLE ROW LEVEL SECURITY',
		'ALTER TABLE es.event NO FORCE ROW LEVEL SECURITY', "CREATE POLICY fuzz_policy ON es.event USING (type <> 'told')", 'DROP POLICY fuzz_policy ON es.event', 'ALTER TABLE es.event SET (fillfactor = 80)',
		'GRANT SELECT ON ALL TABLES IN SCHEMA es TO fuzz_low', 'GRANT ALL ON ALL TABLES IN SCHEMA es TO fuzz_low', 'REVOKE ALL ON ALL TABLES IN SCHEMA es FROM fuzz_low', 'GRANT USAGE ON ALL SEQUENCES IN SCHEMA es TO fuzz_low',
		"UPDATE es.event SET type = 'x' WHERE position = 1", "DELETE FROM es.event WHERE position = 1", 'TRUNCATE es.event', "INSERT INTO es.event (position, stream) VALUES (1, 'x')", 'DELETE FROM es.snapshot', 'DELETE FROM es.receipt WHERE event_count > 99',
		"UPDATE es.subscription SET paused = NOT paused WHERE name = 's1'", "DELETE FROM es.checkpoint WHERE subscription = 'watch'", "UPDATE es.aggregate SET snapshot_every = 2 WHERE name = 'wallet'", 'LOCK TABLE es.event IN SHARE MODE NOWAIT',
		"ALTER TABLE $odd.$table ADD COLUMN extra int", "ALTER TABLE $odd.$table DROP COLUMN $column CASCADE", "ALTER TABLE $odd.$table ALTER COLUMN $column TYPE text", "ALTER TABLE $odd.$table RENAME TO other", "DROP TABLE $odd.$table CASCADE",
		"ALTER TABLE $odd.event DISABLE TRIGGER ALL", "DROP SEQUENCE $odd.event_position CASCADE", "SELECT setval('$odd.event_position', " . pick(1, 5, '9223372036854775807') . ')', "ALTER SCHEMA $odd RENAME TO elsewhere", "ALTER SCHEMA elsewhere RENAME TO $odd",
		"DROP SCHEMA $odd CASCADE", "DROP SCHEMA $odd CASCADE", "SELECT es_create_store('Odd \"store\"')", "SELECT es_create_store('Odd \"store\"')", "ALTER TABLE $odd.event DROP CONSTRAINT event_pkey CASCADE", "ALTER TABLE $odd.event SET UNLOGGED",
		"TRUNCATE $odd.$table CASCADE", "DELETE FROM $odd.$table", "ALTER TABLE $odd.event REPLICA IDENTITY FULL", "CREATE TABLE $odd.event_2 () INHERITS ($odd.event)");
}

# ---------------------------------------------------------------------------
# Scripts
# ---------------------------------------------------------------------------

sub write_script
{
	my ($session) = @_;
	my $script = { file => "$dir/session_$session.sql", lines => [] };
	my $emit = sub {
		my ($kind, $text) = @_;
		push @{ $script->{lines} }, { kind => $kind, text => $text };
	};
	my $wanted = $calls / $sessions;
	my ($made, $gid) = (0, 0);

	srand($seed * 1000 + $session);
	if ($session == 1)
	{
		# each of them once
		$emit->('call', call(1, $_)) foreach @functions;
		$made += @functions;
	}
	while ($made < $wanted)
	{
		chapter($emit, $session, \$gid);
		foreach (1 .. between(10, 80))
		{
			my $kind = rand;

			$made += $kind < 0.25 ? try($emit) : $kind < 0.4 ? burst($emit) : $kind < 0.6 ? block($emit, $session, \$gid) : step($emit);
		}
	}
	open my $out, '>', $script->{file} or die "fuzz.pl: $script->{file}: $!\n";
	foreach my $line (@{ $script->{lines} })
	{
		$line->{text} =~ /\n/ and die "fuzz.pl: two lines: $line->{text}\n";
		print $out $line->{text}, $line->{text} =~ /^\\/ ? "\n" : ";\n";
	}
	close $out;
	return $script;
}

# A session from anew, with what should be there mostly there.
sub chapter
{
	my ($emit, $session, $gid) = @_;
	my $role = chance(0.04) ? 'fuzz_low' : 'fuzz_owner';

	$emit->('state', '\\set ON_ERROR_ROLLBACK ' . pick('on', 'off'));
	$emit->('state', "ROLLBACK PREPARED 'fuzz_${session}_$$gid'") if $$gid;
	$emit->('state', chance(0.7) ? "\\c - $role" : 'DISCARD ALL');
	$emit->('state', "SET search_path = app, public");
	$emit->('state', "SELECT es_drop_projection('$_')") foreach 'p1', 'p2';
	if (chance(0.3))
	{
		$emit->('state', 'DROP TYPE ' . join(', ', map { "app.$_" } pick(qw(put take list tell)), pick(qw(put_in told listed taken_out))) . ' CASCADE') if chance(0.2);
		$emit->('state', s/;$//r) foreach @restore;
	}
	if (chance(0.4))
	{
		# state snapshots and cached states must not outlive the function that they come of
		my ($apply) = grep { /FUNCTION apply\(s wallet, e put_in\)/ } @restore;
		my $other = sprintf 'CREATE OR REPLACE FUNCTION app.apply(s app.wallet, e app.put_in) RETURNS app.wallet LANGUAGE sql IMMUTABLE '
			. q{RETURN ROW(e.id, COALESCE(s.balance, 0) - %d, 'other', s.tags)::app.wallet}, between(1, 100);
		my @ids = map { quote(id()) } 1 .. 3;

		foreach my $function ($other, $apply =~ s/;$//r)
		{
			$emit->('state', $function);
			$emit->('call', "SELECT es_dispatch(ROW($_, 1, NULL)::app.put)") foreach map { ($_) x 4 } @ids;
			$emit->('call', "SELECT es_dispatch(ROW($_)::app.peek)") foreach @ids;
		}
	}
	# who waits for another session's lock does not hang
	$emit->('state', q{SET statement_timeout = '10s'});
	$emit->('state', q{SET lock_timeout = '4s'});
	return;
}

# Some dozen calls whose errors are caught.
sub try
{
	my ($emit) = @_;
	my $count = between(10, 80);

	$emit->('try', 'SELECT fuzz.try(ARRAY[' . join(', ', map { quote(chance(0.04) ? nested(1) : call(1)) } 1 .. $count) . '])');
	return $count;
}

# Many calls of one function in a loop, each argument in turn from a list: with
# plans that are kept, and much faster.
sub burst
{
	my ($emit) = @_;
	my $function = pick_function();
	my $count = between(100, 1000);
	my $composite;

	$function = pick_function() while $function->{weight} < 1 || $function->{kind} eq 'p';
	$covered{ $function->{signature} }++;
	my @arguments = map {
		my $i = $_;
		my $values = between(1, 7);
		my $field = $function->{types}[$i] eq 'anyelement' ? anyelement_of_one_type() : sub { value($function->{name}, $function->{names}[$i], $function->{types}[$i], 1) };

		sprintf 'CASE i * %d %% %d %s END', pick(1, 3, 5, 11, 13), $values, join ' ', map { "WHEN $_ THEN " . $field->() } 0 .. $values - 1;
	} 0 .. $#{ $function->{types} };
	$emit->('burst', sprintf q{DO %s}, quote(sprintf <<'PLPGSQL', $count, $function->{name}, join(', ', @arguments), quote($function->{signature})));
DECLARE states text[] := '{}'; BEGIN FOR i IN 1..%d LOOP
EXIT WHEN pg_catalog.clock_timestamp() > pg_catalog.statement_timestamp() + interval '2 s'; BEGIN PERFORM %s(%s); states := states || '00000'::text;
EXCEPTION WHEN OTHERS THEN states := states || fuzz.check(SQLSTATE, SQLERRM, %s); END; END LOOP;
PERFORM pg_catalog.set_config('fuzz.tried', 'tried: ' || fuzz.tally(states), false); END
PLPGSQL
	$emit->('burst', q{SELECT pg_catalog.current_setting('fuzz.tried', true), pg_catalog.set_config('fuzz.tried', '', false)});
	return $count;
}

sub anyelement_of_one_type
{
	my $type = pick(@own_types);
	my %rows = (
		put => sub { 'ROW(' . quote(id()) . ', ' . between(0, 60) . ", 'n')" }, keep => sub { 'ROW(' . quote(id()) . ', ' . between(0, 60) . ', NULL)' },
		take => sub { 'ROW(' . quote(id()) . ', ' . between(0, 60) . ')' }, tell => sub { 'ROW(' . quote(id()) . ', ' . between(-1, 4) . ')' },
		list => sub { 'ROW(' . quote(id()) . ", '{a,b}')" }, peek => sub { 'ROW(' . quote(id()) . ')' }, peek_kept => sub { 'ROW(' . quote(id()) . ')' },
		peek_gadget => sub { 'ROW(' . between(0, 6) . ')' }, put_in => sub { 'ROW(' . quote(id()) . ", 1, 'direct')" },
		stir => sub { sprintf 'ROW(%s, %s, %s)', quote(id()), map { chance(0.4) ? 'NULL' : quote(nested(0)) } 1 .. 2 });

	return sub { $rows{$type}->() . "::app.$type" }
		if ($rows{$type} || chance(0.6)) && ($type = pick(sort keys %rows));
	return sub { chance(0.2) ? "NULL::app.$type" : "jsonb_populate_record(NULL::app.$type, " . jsonb() . ')' };
}

sub step
{
	my ($emit) = @_;
	my $kind = rand;

	if ($kind < 0.08)
	{
		$emit->('state', chance(0.5) ? definition_change() =~ s/;$//r : settings());
		return 0;
	}
	if ($kind < 0.1)
	{
		$emit->('state', pick('SET ROLE fuzz_low', ('RESET ROLE') x 4, 'RESET ALL', 'RESET ALL', 'DISCARD PLANS', 'DEALLOCATE ALL', 'CHECKPOINT', 'VACUUM es.event', 'ANALYZE'));
		return 0;
	}
	if ($kind < 0.13)
	{
		my $call = call(1);
		my $name = 'p' . between(1, 3);

		$emit->('state', "DEALLOCATE $name");
		$emit->('state', "PREPARE $name AS $call");
		$emit->('call', "EXECUTE $name") foreach 1 .. 2;
		return 2;
	}
	my $count = between(1, 8);
	$emit->('call', call(2)) foreach 1 .. $count;
	return $count;
}

# A transaction block.
sub block
{
	my ($emit, $session, $gid) = @_;
	my $made = 0;

	$emit->('state', 'BEGIN' . pick('', '', '', ' ISOLATION LEVEL REPEATABLE READ', ' ISOLATION LEVEL SERIALIZABLE', ' READ ONLY'));
	foreach (1 .. between(1, 10))
	{
		my $kind = rand;

		if ($kind < 0.15)
		{
			my $name = pick('a', 'b');
			$emit->('state', pick("SAVEPOINT $name", "SAVEPOINT $name", "ROLLBACK TO $name", "RELEASE $name"));
		}
		elsif ($kind < 0.19)
		{
			my $call = call(1);
			$emit->('state', 'DECLARE c' . pick('', ' SCROLL', ' INSENSITIVE') . " CURSOR FOR $call");
			$emit->('call', 'FETCH ' . pick(1, 2, 'ALL') . ' FROM c');
			$emit->('state', pick('CLOSE c', 'ROLLBACK TO a'));
			$made++;
		}
		else
		{
			$made += $kind < 0.3 ? try($emit) : step($emit);
		}
	}
	if (chance(0.05))
	{
		$$gid++;
		$emit->('state', "PREPARE TRANSACTION 'fuzz_${session}_$$gid'");
		$made += step($emit);
		$emit->('state', pick('COMMIT', 'ROLLBACK') . " PREPARED 'fuzz_${session}_$$gid'");
	}
	$emit->('state', pick('COMMIT', 'COMMIT', 'ROLLBACK'));
	return $made;
}

# ---------------------------------------------------------------------------
# All of it
# ---------------------------------------------------------------------------

$| = 1;
print "seed $seed, $calls calls in $sessions sessions\n";
set_up();
@functions = read_functions();
@restore = read_definitions();
@scripts = map { write_script($_) } 1 .. $sessions;
$written = time();
run_scripts();
$ran = time();
%result = read_results();
# after a crash the log is what counts
$problems = eval { come_to_rest(); ask('SELECT * FROM fuzz.problems()', 'postgres') } // "the store could not be checked: $@";
$judged = system($^X, "$here/judge.pl", $server_log);
report();
exit($problems ne '' || $judged != 0 || @{ $result{faults} } ? 1 : 0);
