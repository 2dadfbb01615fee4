# shellcheck shell=bash
# measure.sh: what all benchmarks share: a server as it would be in use, the
# ways to measure, and the tables of results.  Sourced by run.sh, size.sh,
# age.sh and memory.sh, which run beside the server of test/server.sh.
#
# raw.csv gets every measurement as series,round,value.  A series is named
# WHO.WHAT[.DETAIL...]; WHO is es (this extension), plain (plain PostgreSQL),
# hand (written by hand), messagedb or emmett.

bench_dir=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
: "${ES_BIN:?run me by test/server.sh}" "${ES_PGDATA:?}" "${ES_WORK:?}" "${ES_RESULTS:?}"

quick=${BENCH_QUICK:-0}
if [ "$quick" = 1 ]; then
	rounds=${BENCH_ROUNDS:-3}
else
	rounds=${BENCH_ROUNDS:-5}
fi
round=0
payload={}
raw='' summary='' tables=''

say() { echo "bench: $*" >&2; }

die() {
	say "$*"
	exit 1
}

sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }

# short N: fewer in quick mode
short() {
	if [ "$quick" = 1 ]; then echo $((($1 + 4) / 5)); else echo "$1"; fi
}

# calls TOTAL EACH: how many calls all clients make: TOTAL, but no client less
# than EACH, since its first ones are slow; fewer in quick mode
calls() {
	short "$(($1 < $2 * clients ? $2 * clients : $1))"
}

# "1 client" or "8 clients"
crowd() {
	if [ "$clients" = 1 ]; then echo "1 client"; else echo "$clients clients"; fi
}

# ---------------------------------------------------------------------------
# The server
# ---------------------------------------------------------------------------

# prepare_server LINE...: restart it with the settings of a server in use, and
# these lines.  Its log must reach the disk, since the cost of a commit is part
# of what is compared.
prepare_server() {
	{
		cat <<-CONF
			fsync = on
			wal_level = replica
			shared_buffers = 1GB
			max_wal_size = 8GB
			checkpoint_timeout = 1h
			autovacuum = off
			jit = off
		CONF
		printf '%s\n' "$@"
	} >>"$ES_PGDATA/postgresql.conf"
	restart_server
	sql -c 'CREATE DATABASE bench'
	export PGDATABASE=bench
	sql -f "$bench_dir/schema.sql" >/dev/null
	payload=$(sql -c 'SELECT data FROM payload')
}

restart_server() {
	"$ES_BIN/pg_ctl" -s -w -t 600 -D "$ES_PGDATA" -l "$ES_WORK/server.log" restart
}

# describe: what the figures were measured on, to the standard output and to
# settings.csv
describe() {
	local settings
	settings="'fsync', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'autovacuum', 'jit'"
	echo "PostgreSQL $(sql -c 'SHOW server_version'), $(nproc) cores, rounds: $rounds$([ "$quick" != 1 ] || echo ', quick')"
	sql -c "SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name)
			FROM pg_settings WHERE name IN ($settings)"
	sql --csv -c "SELECT name, current_setting(name) FROM pg_settings
			WHERE source <> 'default' AND name !~ '^(lc_|data_|config_|hba_|ident_|unix_|log_|DateStyle|TimeZone)'
			ORDER BY name" >"$ES_RESULTS/settings.csv"
}

# ---------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------

# record SERIES VALUE
record() { echo "$1,$round,$2" >>"$raw"; }

# transactions CLIENTS TOTAL SCRIPT [OPTION...]: run a pgbench script, print its output
transactions() {
	local clients=$1 total=$2 script=$3
	shift 3
	pgbench -n -M prepared -c "$clients" -j "$((clients < 2 ? 1 : 2))" -t "$((total / clients))" \
		-f <(echo "$script") -D data="$payload" "$@" 2>"$ES_WORK/pgbench.err" ||
		die "pgbench failed on: $script
$(cat "$ES_WORK/pgbench.err")"
}

# rate SERIES CLIENTS TOTAL SCRIPT [OPTION...]: record transactions per second
rate() {
	local series=$1 value
	shift
	value=$(transactions "$@" | awk '/^tps/ { print $3 }')
	record "$series" "$value"
}

# duration SERIES UNITS TOTAL SCRIPT [OPTION...]: record microseconds per unit
# of which one transaction of one client does that many
duration() {
	local series=$1 units=$2 value
	shift 2
	value=$(transactions 1 "$@" | awk -v units="$units" '/^tps/ { print 1e6 / $3 / units }')
	record "$series" "$value"
}

# first SERIES CLIENTS TOTAL SCRIPT [OPTION...]: record the milliseconds that
# the script's last statement takes as the first one of a connection
first() {
	local series=$1 value
	shift
	value=$(transactions "$@" -C -r -M extended | awk '/^ +[0-9]/ { last = $1 } END { print last }')
	record "$series" "$value"
}

# elapsed SERIES SQL: record the seconds of one statement
elapsed() {
	local value
	value=$(sql -c '\timing on' -c "$2" | awk '/^Time:/ { print $2 / 1000 }')
	record "$1" "$value"
}

# turns COMMAND...: run the commands, in the other direction every other round
turns() {
	local i command
	for ((i = 1; i <= $#; i++)); do
		command=${!i}
		if ((round % 2 == 0)); then
			command=${*:$# + 1 - i:1}
		fi
		$command
	done
}

# ---------------------------------------------------------------------------
# Tables
# ---------------------------------------------------------------------------

# new_results PREFIX: begin new files
new_results() {
	raw=$ES_RESULTS/$1raw.csv
	summary=$ES_RESULTS/$1summary.csv
	tables=$ES_WORK/tables
	: >"$raw"
	echo 'workload,who,median,unit,lowest,highest,ratio,ratio_lowest,ratio_highest,target' >"$summary"
}

# table TITLE UNIT BASELINE: begin a table whose ratios compare with that
# series.  UNIT is "/s" where more is better, anything else where less is.
table() { echo "table|$1|$2|$3" >>"$tables"; }

# line WHO SERIES [TARGET]: a line of the table; left out if nothing was measured
line() { echo "line|$1|$2|${3:-}" >>"$tables"; }

# against WHO SERIES OTHER TARGET: a line with the ratio to another series than the baseline
against() { echo "against|$1|$2|$3|$4" >>"$tables"; }

# measure WORKLOAD: load its data, run its rounds, print its tables.  A workload
# is three functions: load_NAME, round_NAME and tables_NAME.
measure() {
	local began=$SECONDS loaded
	"load_$1"
	sql -c 'CHECKPOINT'
	loaded=$SECONDS
	for ((round = 1; round <= rounds; round++)); do
		"round_$1"
	done
	say "$1 took $((SECONDS - loaded)) s, after $((loaded - began)) s of loading"
	print_tables "$1"
}

# print_tables WORKLOAD
print_tables() {
	: >"$tables"
	"tables_$1"
	awk -f "$bench_dir/report.awk" -v csv="$summary" "$raw" "$tables"
}
