# Whatever the functions are called with, in whatever state a session is, they
# answer or raise an error that says so: some twenty thousand generated calls, by
# three sessions at once.  "make fuzz" goes on for as long as one likes; see
# test/fuzz/fuzz.pl.

use strict;
use warnings;
use File::Basename qw(dirname);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $fuzz = dirname(__FILE__) . '/../fuzz';

my $node = PostgreSQL::Test::Cluster->new('main');
# whoever runs the tests: the superuser has the name that they use
$node->init(extra => [ '--username=postgres' ]);
$ENV{PGUSER} = 'postgres';
$node->append_conf('postgresql.conf', slurp_file("$fuzz/postgresql.conf"));
my $seconds = 10 * ($ENV{ES_SLOWDOWN} || 1);
$node->append_conf('postgresql.conf', "statement_timeout = '${seconds}s'");
$node->start;

# The same calls every time: what fails here fails for everybody.
local %ENV = (%ENV, PGHOST => $node->host, PGPORT => $node->port);
my $wanted = $ENV{ES_FUZZ_CALLS} || 20000;
my $report = `$^X $fuzz/fuzz.pl --calls $wanted --seed 1 --sessions 3 --log @{[ $node->logfile ]} 2>&1`;
is($?, 0, 'no crash, no internal error, no hang; the store holds what it must') or diag($report);
note($report);
like($report, qr/^(\d+) of \1 functions were called: all$/m, 'every function was called');
my ($calls) = $report =~ /^(\d+) calls:/m;
cmp_ok($calls || 0, '>', $wanted / 2, 'so many calls were made');
my ($succeeded) = $report =~ /^  00000 +(\d+)$/m;
cmp_ok($succeeded || 0, '>', $wanted / 20, 'so many of them succeeded');

$node->stop;
done_testing();
