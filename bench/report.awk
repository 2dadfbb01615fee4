# report.awk: one table per workload, of raw.csv (series,round,value) and of the
# tables that measure.sh describes: a title with unit and baseline, then lines.
# Every line has the median with the lowest and the highest round, and its ratio
# to the baseline: the median and the range of the rounds' own ratios, which
# compare what ran side by side.  A ratio is one of speeds: above 1 is faster
# (or smaller) than the baseline.  Goes to the standard output, and as lines of
# CSV to the end of the file that the variable csv names.

BEGIN {
	format = "%-68s %9s %-9s %-19s %6s  %-14s %s\n"
	FS = ","
}

# the first file
FNR == NR {
	values[$1, ++count[$1]] = $3
	next
}

FNR == 1 {
	FS = "|"
	$0 = $0
}

$1 == "table" {
	title = $2
	unit = $3
	baseline = $4
	more_is_better = (unit == "/s")
	printed = 0
	next
}

$1 == "line" && count[$3] {
	ratios($3, baseline)
	median = median_of($3)
	put($2, median, range(list[1], list[count[$3]]), csv_of(median, list[1], list[count[$3]]), $4, $3 == baseline)
}

$1 == "against" && count[$3] && count[$4] {
	ratios($3, $4)
	put("  " $2, "", "", ",,,", $5, 0)
}

# put WHO, its median and range, and the ratio that ratios() left
function put(who, median, spread, csv_values, target, is_baseline) {
	if (!printed++)
		printf "\n" format, title, "median", "unit", "(lowest-highest)", "ratio", "(lowest-highest)", "target"
	printf format, "  " who, median == "" ? "" : number(median), median == "" ? "" : unit, spread,
		is_baseline || !nratios ? "" : short(ratio),
		is_baseline || !nratios ? "" : "(" short(ratio_lowest) "-" short(ratio_highest) ")", target
	sub(/^ +/, "", who)
	printf "\"%s\",\"%s\",%s,%s,%s\n", title, who, csv_values,
		nratios ? sprintf("%.4g,%.4g,%.4g", ratio, ratio_lowest, ratio_highest) : ",,", target >> csv
}

function csv_of(median, lowest, highest) {
	return median "," unit "," lowest "," highest
}

function range(lowest, highest) {
	return "(" number(lowest) "-" number(highest) ")"
}

# the ratios of a's rounds to b's: nratios, ratio (their median), ratio_lowest, ratio_highest
function ratios(a, b,    i) {
	nratios = count[a] < count[b] ? count[a] : count[b]
	for (i = 1; i <= nratios; i++) {
		if (values[a, i] == 0 || values[b, i] == 0) {
			nratios = 0
			return
		}
		list[i] = more_is_better ? values[a, i] / values[b, i] : values[b, i] / values[a, i]
	}
	sort(list, nratios)
	ratio = middle(list, nratios)
	ratio_lowest = list[1]
	ratio_highest = list[nratios]
}

# the median of a series; leaves its values in list, in order
function median_of(series,    i) {
	for (i = 1; i <= count[series]; i++)
		list[i] = values[series, i]
	sort(list, count[series])
	return middle(list, count[series])
}

function middle(list, n) {
	return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}

function sort(list, n,    i, j, value) {
	for (i = 2; i <= n; i++) {
		value = list[i]
		for (j = i - 1; j >= 1 && list[j] > value; j--)
			list[j + 1] = list[j]
		list[j + 1] = value
	}
}

function short(ratio) {
	return sprintf(ratio >= 100 ? "%.0f" : ratio >= 10 ? "%.1f" : ratio >= 0.1 ? "%.2f" : "%.3f", ratio)
}

function number(value) {
	return value == 0 ? "0" : sprintf(value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : "%.3f", value)
}
