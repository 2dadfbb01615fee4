# The examples of the documentation run as pasted and print what is shown.
#
# Every ```sql and ```sh block of a file runs in order, in one session and one
# database of its own; a ```text block after it is its output.  Comments that
# readers do not see stand on the line before a block:
#
#     <!-- error -->      the block fails with the error shown
#     <!-- not run -->    the block is a sketch
#     <!-- any output --> what it prints differs from run to run
#
# Times, ids, the width of columns and the extension's own statements in an
# error's context may differ.  ES_DOCS="README.md docs/guide.md" takes only
# these files.  ES_DOCS_WRITE=1 puts the output of this run into the files
# instead of comparing it.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = abs_path(dirname(__FILE__) . '/../..');
my @files = grep { -f "$root/$_" }
  qw(README.md docs/concepts.md docs/guide.md docs/reference.md docs/privileges.md
	  docs/design.md);
@files = split ' ', $ENV{ES_DOCS} if $ENV{ES_DOCS};

my $node = PostgreSQL::Test::Cluster->new('docs');
$node->init;
$node->append_conf('postgresql.conf', "max_prepared_transactions = 5\ntimezone = 'UTC'\n");
$node->start;

# Split a file into texts, blocks to run and the outputs that belong to them.
sub read_parts
{
	my ($file) = @_;
	my @parts;
	my $before = '';

	open my $in, '<:raw', $file or die "$file: $!";
	while (my $line = <$in>)
	{
		if ($line !~ /^```(\w*)$/)
		{
			push @parts, { kind => '', body => '' }
			  if !@parts || defined $parts[-1]{line};
			$parts[-1]{body} .= $line;
			$before = $line if $line =~ /\S/;
			next;
		}
		my ($kind, $start, $body) = ($1, $., '');
		while (defined(my $inner = <$in>))
		{
			last if $inner =~ /^```$/;
			$body .= $inner;
		}
		my %part = (kind => $kind, line => $start, body => $body);
		$part{error} = 1 if $before =~ /^<!-- error -->$/;
		$part{any} = 1 if $before =~ /^<!-- any output -->$/;
		$part{kind} = "$kind-not-run" if $before =~ /^<!-- not run -->$/;
		$before = '';
		push @parts, \%part;
	}
	close $in;
	return @parts;
}

# The text between a block and its output is at most one empty line.
sub pair_outputs
{
	my @parts = @_;
	for my $i (0 .. $#parts)
	{
		next unless $parts[$i]{kind} =~ /^(sql|sh)$/;
		my $next = $i + 1;
		$next++ if $next <= $#parts && !defined $parts[$next]{line} && $parts[$next]{body} !~ /\S/;
		next if $next > $#parts || $parts[$next]{kind} ne 'text';
		$parts[$i]{shown} = $parts[$next];
		$parts[$next]{kind} = 'output';
	}
}

# What may differ from run to run.
sub normal
{
	my ($text) = @_;
	$text =~ s/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/ID/g;
	$text =~ s/\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+\d\d(:\d\d)?)?/TIME/g;
	$text =~ s/^(CONTEXT: +)?SQL statement ".*"\n//mg;
	$text =~ s/-{2,}/-/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/ +$//mg;
	return $text;
}

my $number = 0;
for my $file (@files)
{
	my @parts = read_parts("$root/$file");
	pair_outputs(@parts);
	my @blocks = grep { $_->{kind} =~ /^(sql|sh)$/ } @parts;
	next unless @blocks;

	my $database = 'docs' . ++$number;
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = $database;
	local $ENV{PGCLIENTENCODING} = 'UTF8';

	# one session for all blocks, a mark after each
	my $script = "\\set SHOW_CONTEXT errors\n";
	my $dir = PostgreSQL::Test::Utils::tempdir();
	for my $i (0 .. $#blocks)
	{
		if ($blocks[$i]{kind} eq 'sh')
		{
			PostgreSQL::Test::Utils::append_to_file("$dir/$i.sh", "cd $dir\n$blocks[$i]{body}");
			$script .= "\\! sh $dir/$i.sh 2>&1\n";
		}
		else
		{
			$script .= $blocks[$i]{body};
		}
		$script .= "\n\\pset format aligned\n\\pset tuples_only off\n\\echo =====$i=====\n";
	}
	PostgreSQL::Test::Utils::append_to_file("$dir/script.sql", $script);
	my $got = `psql -X -q <"$dir/script.sql" 2>&1`;

	for my $i (0 .. $#blocks)
	{
		my $block = $blocks[$i];
		my $name = "$file, line $block->{line}";
		if ($got !~ s/\A(.*?)^=====$i=====\n//ms)
		{
			fail("$name: the session ended");
			diag($got);
			last;
		}
		my $output = $1;
		$output =~ s/[ \t]+$//mg;
		$output =~ s/\n+\z/\n/;
		$output = '' if $output !~ /\S/;

		if ($block->{error})
		{
			like($output, qr/ERROR:/, "$name: the error that is shown");
		}
		else
		{
			unlike($output, qr/^(psql:\S+ )?(ERROR|FATAL|PANIC):|error:|^sh: /m, "$name: runs")
			  or diag($output);
		}
		if ($ENV{ES_DOCS_WRITE})
		{
			$block->{shown}{body} = $output if $block->{shown};
		}
		elsif ($block->{shown} && !$block->{any})
		{
			is(normal($output), normal($block->{shown}{body}), "$name: prints what is shown");
		}
	}

	if ($ENV{ES_DOCS_WRITE})
	{
		open my $out, '>:raw', "$root/$file" or die "$file: $!";
		for my $part (@parts)
		{
			my $kind = $part->{kind} eq 'output' ? 'text' : $part->{kind} =~ s/-not-run$//r;
			print $out defined $part->{line} ? "```$kind\n$part->{body}```\n" : $part->{body};
		}
		close $out;
	}
}

$node->stop;
done_testing();
