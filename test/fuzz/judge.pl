# judge.pl LOG...: whether a server's log shows a fault of the server's or the
# extension's, as no call with whatever arguments may cause one.  Prints the
# SQLSTATEs with their counts, and each kind of fault with an example; the exit
# status is 1 if there is any.
#
# The log is written with log_line_prefix '%p %e ' and log_error_verbosity verbose.

use strict;
use warnings;

# What is never right, whatever its SQLSTATE.
my $fault = qr{
	TRAP:|terminated\ by\ signal|server\ process .* exited\ with\ exit\ code
	|PANIC:|stack\ smashing|out\ of\ memory\ (?:at|in)
	|cache\ lookup\ failed|could\ not\ open\ relation\ with\ OID|unrecognized\ (?!configuration|privilege|lock\ mode\ name|encoding|key\ word|headline|weight|Snowball|format|parameter|object\ class)
	|leak:|leaked|leak\ in|still\ (?:active|referenced|pinned)|not\ closed|refcount
	|problem\ in\ alloc\ set|detected\ write\ past\ chunk
	|unexpected\ (?!argument|EOF\ on\ client)
}x;

# Faults of PostgreSQL's own, not the extension's: of its functions with random
# arguments, which sqlsmith calls too; of concurrent CREATE OR REPLACE FUNCTION,
# which takes no lock.
my $not_ours = qr{
	could\ not\ open\ relation\ with\ OID\ 0\b
	|invalid\ INTERVAL\ typmod
	|^cache\ lookup\ failed\ for\ type\ \d+\ at\ character\ \d+$	# dropped while a query is parsed
	|^tuple\ concurrently\ (?:updated|deleted)$
}x;

my (%states, %faults, $statement_of);
my $errors = 0;
my $held;    # the fault whose statement and location are to come

foreach my $file (@ARGV)
{
	open my $log, '<', $file or die "judge.pl: $file: $!\n";
	while (my $line = <$log>)
	{
		chomp $line;
		if ($line =~ /^(\d+) (\w{5}) (ERROR|FATAL|PANIC|WARNING):\s+(?:\w{5}: )?(.*)/)
		{
			my ($pid, $state, $level, $message) = ($1, $2, $3, $4);

			$states{"$level $state"}++;
			$errors++ if $level eq 'ERROR';
			undef $held;
			next if $message =~ $not_ours;
			$held = remember($pid, "$level $state", $message)
				if $state =~ /^XX/ || $level eq 'PANIC' || "$level: $message" =~ $fault;
		}
		elsif ($line =~ /^(?:\d+ \w{5} )?(?:LOCATION|STATEMENT|CONTEXT|DETAIL|QUERY):/)
		{
			$line =~ s/^\d+ \w{5} //;
			push @{ $held->{more} }, $line if $held && @{ $held->{more} } < 40;
		}
		elsif ($line =~ /^\t/)
		{
			push @{ $held->{more} }, $line if $held && @{ $held->{more} } < 40;
		}
		else
		{
			undef $held;
			remember(0, 'log', $line) if $line =~ $fault;
		}
	}
	close $log;
}

print "log: $errors errors\n";
printf "  %-16s %d\n", $_, $states{$_} foreach sort keys %states;
foreach my $kind (sort keys %faults)
{
	my $found = $faults{$kind};

	print "FAULT ($found->{count} times): $found->{message}\n";
	print "  $_\n" foreach @{ $found->{more} };
}
exit(%faults ? 1 : 0);

# Keep an example of each kind, where a kind is a message without its numbers.
# Returns it if it is the first.
sub remember
{
	my ($pid, $what, $message) = @_;
	(my $kind = "$what $message") =~ s/\d+/N/g;

	$faults{$kind} //= { count => 0, message => "$what: $message", more => [] };
	return $faults{$kind}{count}++ ? undef : $faults{$kind};
}
