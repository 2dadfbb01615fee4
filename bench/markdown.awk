# markdown.awk: the tables of a summary.csv (see report.awk) as Markdown, for
# docs/performance.md:  awk -f bench/markdown.awk bench/results/summary.csv


FNR == 1 {
	next
}

{
	line = $0
	for (i = 1; i <= 10; i++)
		field[i] = next_field()
}

field[1] != title {
	title = field[1]
	printf "\n**%s**\n\n| | median | lowest to highest | ratio | lowest to highest | target |\n|---|---:|---:|---:|---:|---|\n",
		title
}

{
	measured = field[3] != ""
	# whoever is at 1 in every round is what the others are compared with
	is_baseline = field[7] == 1 && field[8] == 1 && field[9] == 1
	printf "| %s | %s | %s | %s | %s | %s |\n", field[2],
		measured ? number(field[3]) " " field[4] : "",
		measured ? number(field[5]) " to " number(field[6]) : "",
		is_baseline || field[7] == "" ? "" : (field[2] ~ /^event_sourcing/ ? "**" ratio(field[7]) "**" : ratio(field[7])),
		is_baseline || field[7] == "" ? "" : ratio(field[8]) " to " ratio(field[9]), field[10]
}

# take the first field off the line
function next_field(    value) {
	if (line ~ /^"/) {
		match(line, /^"[^"]*"/)
		value = substr(line, 2, RLENGTH - 2)
	} else {
		match(line, /^[^,]*/)
		value = substr(line, 1, RLENGTH)
	}
	line = substr(line, RLENGTH + 2)
	return value
}

function ratio(value) {
	return sprintf(value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : value >= 0.1 ? "%.2f" : "%.3f", value)
}

function number(value) {
	if (value >= 10000)
		return sprintf("%d,%03d", value / 1000, value % 1000)
	return value == 0 ? "0" : sprintf(value >= 100 ? "%.0f" : value >= 10 ? "%.1f" : "%.3f", value)
}
