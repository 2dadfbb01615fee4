# report.awk: medians of raw.csv (series,round,value), set beside each other as
# the lines of the comparisons say (title|ours|baseline|unit|target); a table to
# the standard output, and the same to the file that the variable csv names.

BEGIN {
	format = "%-74s %11s %11s %-8s %6s  %-14s %s\n"
	printf format, "workload / baseline", "ours", "baseline", "unit", "ratio", "(lowest-highest)", "target"
	print "workload,ours,baseline,unit,ratio,lowest,highest,target" > csv
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

{
	ours = median_of($2)
	base = median_of($3)
	more_is_better = ($4 == "/s")
	n = count[$2] < count[$3] ? count[$2] : count[$3]
	if (n == 0)
		next
	for (i = 1; i <= n; i++)
		list[i] = speed(values[$2, i], values[$3, i])
	sort(list, n)
	ratio = middle(list, n)
	printf format, $1, number(ours), number(base), $4, sprintf("%.2f", ratio),
		sprintf("(%.2f-%.2f)", list[1], list[n]), $5
	printf "\"%s\",%s,%s,%s,%.3f,%.3f,%.3f,%s\n", $1, ours, base, $4, ratio, list[1], list[n], $5 > csv
}

# how many times as fast as b is a?
function speed(a, b) {
	return more_is_better ? a / b : b / a
}

function median_of(series,    list, i) {
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

function number(value) {
	return sprintf(value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : "%.3f", value)
}
