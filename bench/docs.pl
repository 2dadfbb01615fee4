#!/usr/bin/perl
# docs.pl: put the newest results into docs/performance.md and README.md:
#
#		perl bench/docs.pl
#
# Between <!-- table PREFIX --> and <!-- end --> come the tables of bench/results
# whose titles begin with PREFIX, or with <!-- table = TITLE --> that one, and
# between <!-- profile --> and <!-- end --> that of profile.sh; the plots are copied to docs.  What has no
# results stays as it is.

use strict;
use warnings;
use File::Basename qw(dirname);
use File::Copy qw(copy);

chdir dirname(__FILE__) . '/..' or die $!;

# title => [ [who, median, unit, lowest, highest, ratio, ratio_lowest, ratio_highest, target], ... ]
my (%tables, @titles);
for my $file (glob 'bench/results/*summary.csv') {
	open my $in, '<', $file or die "$file: $!";
	<$in>;
	while (<$in>) {
		chomp;
		my @fields;
		push @fields, $1 // $2 while /\G(?:"([^"]*)"|([^,]*))(?:,|$)/gc && @fields < 10;
		my $title = shift @fields;
		push @titles, $title unless $tables{$title};
		push @{ $tables{$title} }, \@fields;
	}
}

sub ratio {
	my $value = shift;
	return sprintf $value >= 100 ? '%.0f' : $value >= 10 ? '%.1f' : $value >= 0.1 ? '%.2f' : '%.3f', $value;
}

sub number {
	my $value = shift;
	return '0' if $value == 0;
	my $text = sprintf $value >= 100 ? '%.0f' : $value >= 10 ? '%.1f' : $value >= 0.001 ? '%.3f' : '%.4f', $value;
	1 while $text =~ s/^(\d+)(\d{3})/$1,$2/;
	return $text;
}

sub table {
	my $title = shift;
	my $text = "**$title**\n\n| | median | lowest to highest | ratio | lowest to highest | target |\n|---|---:|---:|---:|---:|---|\n";
	for my $line (@{ $tables{$title} }) {
		my ($who, $median, $unit, $lowest, $highest, $ratio, $ratio_lowest, $ratio_highest, $target) =
			map { $_ // '' } @$line;
		# what is at 1 in every round is what the others are compared with
		my $compared = $ratio ne '' && !($ratio == 1 && $ratio_lowest == 1 && $ratio_highest == 1);
		my $bold = $who =~ /^event_sourcing/ ? '**' : '';
		$text .= '| ' . join(' | ', $who,
			$median eq '' ? '' : number($median) . " $unit",
			$median eq '' || $lowest == $highest ? '' : number($lowest) . ' to ' . number($highest),
			$compared ? $bold . ratio($ratio) . $bold : '',
			$compared ? ratio($ratio_lowest) . ' to ' . ratio($ratio_highest) : '', $target) . " |\n";
	}
	return $text;
}

# all calls of profile.csv in one table
sub profile {
	my (%share, %all, @calls, @parts, $place);
	open my $in, '<', 'bench/results/profile.csv' or return '';
	<$in>;
	while (<$in>) {
		my ($call, $part, $instructions, $percent) = /^"(.*?)","(.*?)",(\d+),(\d*)/ or next;
		push @calls, $call unless grep { $_ eq $call } @calls;
		if ($part eq 'all of it') {
			$place = 0;
			$all{$call} = $instructions;
			next;
		}
		# where the call has it: after the part before it, and what belongs to that
		$place++ while $part !~ /^ / && ($parts[$place] // '') =~ /^ /;
		splice @parts, $place, 0, $part unless grep { $_ eq $part } @parts;
		($place) = map { $_ + 1 } grep { $parts[$_] eq $part } 0 .. $#parts;
		$share{$call}{$part} = "$percent %";
	}
	my $text = '| share of the instructions | ' . join(' | ', @calls) . " |\n|---|" . '---:|' x @calls . "\n";
	$text .= '| all of it | ' . join(' | ', map { number($all{$_}) } @calls) . " |\n";
	for my $part (@parts) {
		$text .= "| $part | " . join(' | ', map { $share{$_}{$part} // '' } @calls) . " |\n";
	}
	return $text;
}

for my $file ('docs/performance.md', 'README.md') {
	open my $in, '<', $file or die "$file: $!";
	my $text = do { local $/; <$in> };
	close $in;
	$text =~ s{(<!-- table (.*?) -->\n)(.*?)(<!-- end -->)}{
		my ($begin, $prefix, $old, $end) = ($1, $2, $3, $4);
		my @found = $prefix =~ /^= (.*)/ ? grep { $_ eq $1 } @titles : grep { index($_, $prefix) == 0 } @titles;
		$begin . (@found ? join("\n", map { table($_) } @found) : $old) . $end;
	}gse;
	$text =~ s{(<!-- profile -->\n)(.*?)(<!-- end -->)}{ $1 . (profile() || $2) . $3 }gse;
	open my $out, '>', $file or die "$file: $!";
	print $out $text;
	close $out;
}
for my $plot (glob 'bench/results/*.svg') {
	copy($plot, 'docs') or die "$plot: $!";
}
