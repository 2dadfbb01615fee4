#!/usr/bin/perl
# plot.pl DIRECTORY: draw what its raw.csv and size-raw.csv hold as SVG beside
# them: throughput.svg (appends by clients), fold.svg (time by stream length)
# and size.svg (cost by store size); each is left out if its data is.  No
# modules; the background is explicit, so that a dark page does not hide them.

use strict;
use warnings;

my $directory = shift // '.';

# how each line looks: name, colour, marker; ours first and thickest
my %look = (
	es => [ 'event_sourcing', '#1d4ed8', 'circle' ],
	es_cached => [ 'event_sourcing, warm session', '#7c3aed', 'diamond' ],
	es_plpgsql => [ 'event_sourcing, PL/pgSQL apply', '#60a5fa', 'circle' ],
	plain => [ 'plain INSERT', '#4b5563', 'square' ],
	hand => [ 'PL/pgSQL loop', '#b45309', 'square' ],
	aggregate => [ 'CREATE AGGREGATE', '#be185d', 'triangle' ],
	sum => [ 'sum() of the amounts', '#4b5563', 'diamond' ],
	messagedb => [ 'message-db', '#c2410c', 'triangle' ],
	emmett => [ 'Emmett', '#15803d', 'diamond' ],
	es_anywhere => [ 'append, any stream', '#60a5fa', 'circle' ],
	plain_anywhere => [ 'plain INSERT, any stream', '#9ca3af', 'square' ],
	dispatch => [ 'dispatch, any stream', '#0891b2', 'triangle' ],
);

# medians FILE: the median of every series
sub medians {
	my ($file) = @_;
	my (%values, %median);
	open my $in, '<', "$directory/$file" or return {};
	while (<$in>) {
		chomp;
		my ($series, undef, $value) = split /,/;
		push @{ $values{$series} }, $value;
	}
	close $in;
	for my $series (keys %values) {
		my @sorted = sort { $a <=> $b } @{ $values{$series} };
		my $n = @sorted;
		$median{$series} = ($sorted[ ($n - 1) / 2 ] + $sorted[ $n / 2 ]) / 2;
	}
	return \%median;
}

# ---------------------------------------------------------------------------
# Drawing
# ---------------------------------------------------------------------------

my $out;

sub put { $out .= sprintf shift, @_ }

sub escape {
	my ($text) = @_;
	$text =~ s/&/&amp;/g;
	$text =~ s/</&lt;/g;
	return $text;
}

# text X Y TEXT [ATTRIBUTES]
sub text {
	my ($x, $y, $text, $attributes) = @_;
	put qq{<text x="%.1f" y="%.1f"%s>%s</text>\n}, $x, $y, $attributes ? " $attributes" : '', escape($text);
}

sub marker {
	my ($shape, $x, $y, $colour) = @_;
	my $style = qq{fill="$colour" stroke="#ffffff" stroke-width="1.5"};
	if ($shape eq 'circle') {
		put qq{<circle cx="%.1f" cy="%.1f" r="5" $style/>\n}, $x, $y;
	}
	elsif ($shape eq 'square') {
		put qq{<rect x="%.1f" y="%.1f" width="9" height="9" $style/>\n}, $x - 4.5, $y - 4.5;
	}
	elsif ($shape eq 'triangle') {
		put qq{<path d="M%.1f %.1fl5.5 10h-11z" $style/>\n}, $x, $y - 6;
	}
	else {
		put qq{<path d="M%.1f %.1fl6 6l-6 6l-6 -6z" $style/>\n}, $x, $y - 6;
	}
}

# 1,234,567
sub grouped {
	my ($n) = @_;
	1 while $n =~ s/^(\d+)(\d{3})/$1,$2/;
	return $n;
}

# the axis' steps from 0 to at least HIGHEST: 4 to 6 of 1, 2 or 5 times a power of ten
sub steps {
	my ($highest) = @_;
	my $step = 10**int(log($highest) / log(10) - 1);
	for my $factor (2, 2.5, 2, 2, 2.5, 2) {
		last if $highest / $step <= 6;
		$step *= $factor;
	}
	return map { $_ * $step } 0 .. int($highest / $step + 0.999);
}

# panel: one pair of axes with its lines
#   x, y, width, height: where its plot area is
#   title, x_title, y_title
#   xs: the values of x, with equal distances, x_labels: how they are written
#   log_y: powers of ten; otherwise the axis begins at 0
#   lines: [look, values...] with undef where there is none
#   highest: so that panels side by side have one scale
sub panel {
	my (%p) = @_;
	my (@ticks, $place);
	my @all = grep { defined && $_ > 0 } map { my (undef, @v) = @$_; @v } @{ $p{lines} };
	my ($highest, $lowest) = ($p{highest} // 0, 1e99);

	for (@all) {
		$highest = $_ if $_ > $highest;
		$lowest = $_ if $_ < $lowest;
	}
	if ($p{log_y}) {
		my $from = POSIX_floor(log($lowest) / log(10));
		my $to = -POSIX_floor(-log($highest) / log(10));
		@ticks = map { 10**$_ } $from .. $to;
		$place = sub { $p{y} + $p{height} * (1 - (log($_[0]) / log(10) - $from) / ($to - $from)) };
	}
	else {
		@ticks = steps($highest);
		$place = sub { $p{y} + $p{height} * (1 - $_[0] / $ticks[-1]) };
	}
	my $n = @{ $p{xs} };
	my $column = sub { $p{x} + $p{width} * ($_[0] + 0.5) / $n };

	text($p{x}, $p{y} - 14, $p{title}, 'class="t"') if $p{title};
	for my $tick (@ticks) {
		my $y = $place->($tick);
		put qq{<path d="M%.1f %.1fh%.1f" stroke="%s"/>\n}, $p{x}, $y, $p{width}, $tick == $ticks[0] ? '#374151' : '#e5e7eb';
		text($p{x} - 8, $y + 4, $p{y_label} ? $p{y_label}->($tick) : grouped($tick), 'text-anchor="end"')
			unless $p{no_y_labels};
	}
	for my $i (0 .. $n - 1) {
		put qq{<path d="M%.1f %.1fv5" stroke="#374151"/>\n}, $column->($i), $p{y} + $p{height};
		text($column->($i), $p{y} + $p{height} + 20, $p{x_labels}[$i], 'text-anchor="middle"');
	}
	text($p{x} + $p{width} / 2, $p{y} + $p{height} + 42, $p{x_title}, 'text-anchor="middle"');
	if ($p{y_title}) {
		my ($x, $y) = ($p{x} - 62, $p{y} + $p{height} / 2);
		text($x, $y, $p{y_title}, sprintf 'text-anchor="middle" transform="rotate(-90 %.1f %.1f)"', $x, $y);
	}
	for my $line (reverse @{ $p{lines} }) {
		my ($look, @values) = @$line;
		my (undef, $colour, $shape) = @{ $look{$look} };
		my @points = map { [ $column->($_), $place->($values[$_]) ] } grep { defined $values[$_] } 0 .. $#values;
		put qq{<path d="M%s" fill="none" stroke="$colour" stroke-width="%s"/>\n},
			join('L', map { sprintf '%.1f %.1f', @$_ } @points), $look eq 'es' ? 3 : 2;
		marker($shape, @$_, $colour) for @points;
	}
}

# without the module POSIX
sub POSIX_floor {
	my ($x) = @_;
	my $i = int $x;
	return $i > $x ? $i - 1 : $i;
}

# legend X Y DX DY LOOK...: the next one DX and DY away
sub legend {
	my ($x, $y, $dx, $dy, @looks) = @_;
	for my $look (@looks) {
		my ($name, $colour, $shape) = @{ $look{$look} };
		put qq{<path d="M%.1f %.1fh24" stroke="$colour" stroke-width="%s"/>\n}, $x, $y, $look eq 'es' ? 3 : 2;
		marker($shape, $x + 12, $y, $colour);
		text($x + 32, $y + 4, $name);
		$x += $dx;
		$y += $dy;
	}
}

# draw FILE WIDTH HEIGHT TITLE CODE
sub draw {
	my ($file, $width, $height, $title, $code) = @_;
	$out = '';
	put qq{<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 $width $height" width="$width" height="$height"}
		. qq{ font-family="system-ui, 'Segoe UI', Helvetica, Arial, sans-serif" font-size="13" fill="#374151" role="img"}
		. qq{ aria-label="%s">\n<style>.t{font-size:14px;font-weight:600;fill:#111827}.h{font-size:17px;font-weight:600;fill:#111827}</style>\n},
		escape($title);
	put qq{<rect x="0.5" y="0.5" width="%d" height="%d" rx="8" fill="#ffffff" stroke="#d1d5db"/>\n}, $width - 1, $height - 1;
	text(24, 34, $title, 'class="h"');
	$code->();
	put "</svg>\n";
	open my $to, '>', "$directory/$file" or die "plot.pl: $directory/$file: $!\n";
	print $to $out;
	close $to;
}

# have LINES: those of which there is any value
sub have {
	return grep { my (undef, @values) = @$_; grep { defined } @values } @_;
}

# ---------------------------------------------------------------------------
# The plots
# ---------------------------------------------------------------------------

my $of = medians('raw.csv');

my @clients = (1, 8, 32);
my %throughput;
for my $commit ('off', 'on') {
	$throughput{$commit} = [
		have(map { my $who = $_; [ $who, map { $of->{"$who.known.$_.$commit"} } @clients ] } qw(es plain messagedb emmett))
	];
}
if (@{ $throughput{off} } && @{ $throughput{on} }) {
	draw('throughput.svg', 870, 440, 'Appending one event, exact version', sub {
		my $x = 90;
		for my $commit ('off', 'on') {
			panel(
				x => $x, y => 96, width => 340, height => 250,
				title => "synchronous_commit = $commit", x_title => 'clients',
				y_title => $commit eq 'off' ? 'events per second' : '',
				xs => \@clients, x_labels => \@clients, lines => $throughput{$commit});
			$x += 415;
		}
		my @looks = map { $_->[0] } @{ $throughput{off} };
		legend(90, 418, 190, 0, @looks);
	});
}

my @lengths = (10, 100, 1000, 10000, 100000);
my %series = (es => 'es.fold', es_cached => 'es.fold_cached', es_plpgsql => 'es.fold_plpgsql', hand => 'hand.fold',
	aggregate => 'plain.aggregate', sum => 'plain.sum');
my @fold = have(map {
	my $who = $_;
	[ $who, map { my $us = $of->{"$series{$who}.$_"}; defined $us ? $us * $_ / 1000 : undef } @lengths ]
} qw(es es_cached es_plpgsql hand aggregate sum));
if (@fold) {
	$look{es}[0] = 'event_sourcing, folding all';
	draw('fold.svg', 870, 460, 'The state of a stream by its length', sub {
		panel(
			x => 90, y => 70, width => 480, height => 310, log_y => 1,
			x_title => 'events in the stream', y_title => 'milliseconds', y_label => sub { grouped($_[0]) },
			xs => \@lengths, x_labels => [ map { grouped($_) } @lengths ], lines => \@fold);
		legend(600, 110, 0, 28, map { $_->[0] } @fold);
	});
	$look{es}[0] = 'event_sourcing';
}

$of = medians('size-raw.csv');
my @sizes = grep { defined $of->{"es.append.$_"} } (1, 10, 100);
my @cost = have(map {
	my ($look, $name) = @$_;
	[ $look, map { my $rate = $of->{"$name.$_"}; $rate ? 1e6 / $rate : undef } @sizes ]
} ([ 'es', 'es.busy' ], [ 'es_anywhere', 'es.append' ], [ 'plain', 'plain.busy' ], [ 'plain_anywhere', 'plain.append' ],
	[ 'dispatch', 'es.dispatch' ]));
if (@sizes > 1) {
	$look{es}[0] = 'append, 5,000 streams';
	$look{plain}[0] = 'plain INSERT, 5,000 streams';
	draw('size.svg', 860, 440, 'Cost of a call by the size of the store', sub {
		panel(
			x => 90, y => 70, width => 480, height => 290,
			x_title => 'events in the store', y_title => 'microseconds per call, 8 clients',
			xs => \@sizes, x_labels => [ map { "$_ million" } @sizes ], lines => \@cost);
		legend(600, 110, 0, 28, map { $_->[0] } @cost);
	});
}
