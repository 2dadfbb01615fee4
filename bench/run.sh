#!/bin/bash
# run.sh: measure the extension beside what one would do without it ("make bench").
#
# Every workload and its baseline run in turns, several rounds, on the same
# server; the table shows medians and, since machines are never quiet, the
# lowest and highest ratio of a round.  A ratio is one of speeds: above 1 the
# extension is the faster one.
#
# Environment, besides that of test/server.sh:
#   BENCH_ROUNDS  rounds (default 5)
#   BENCH_QUICK   1: three short rounds, to try it out
#
# Leaves raw.csv (every measurement), summary.csv (the table) and settings.csv
# in ES_RESULTS.

set -euo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
: "${ES_BIN:?run me by test/server.sh}" "${ES_PGDATA:?}" "${ES_WORK:?}" "${ES_RESULTS:?}"

quick=${BENCH_QUICK:-0}
rounds=${BENCH_ROUNDS:-5}
if [ "$quick" = 1 ]; then
	rounds=${BENCH_ROUNDS:-3}
fi
raw=$ES_RESULTS/raw.csv
comparisons=$ES_WORK/comparisons.csv
round=0
payload=

die() {
	echo "run.sh: $*" >&2
	exit 1
}

say() { echo "bench: $*" >&2; }

sql() { psql -X -q -A -t -v ON_ERROR_STOP=1 "$@"; }

# short N: fewer in quick mode
short() {
	if [ "$quick" = 1 ]; then echo $((($1 + 4) / 5)); else echo "$1"; fi
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
	local series=$1
	shift
	record "$series" "$(transactions "$@" | awk '/^tps/ { print $3 }')"
}

# duration SERIES UNITS TOTAL SCRIPT [OPTION...]: record microseconds per unit
# of which one transaction of one client does that many
duration() {
	local series=$1 units=$2
	shift 2
	record "$series" "$(transactions 1 "$@" | awk -v units="$units" '/^tps/ { print 1e6 / $3 / units }')"
}

# first SERIES CLIENTS TOTAL SCRIPT [OPTION...]: record the milliseconds that
# the script's last statement takes as the first one of a connection
first() {
	local series=$1
	shift
	record "$series" "$(transactions "$@" -C -r -M extended | awk '/^ +[0-9]/ { last = $1 } END { print last }')"
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

# "1 client" or "8 clients"
crowd() {
	if [ "$clients" = 1 ]; then echo "1 client"; else echo "$clients clients"; fi
}

# compare TITLE OURS BASELINE UNIT [TARGET]: a line of the table.  UNIT
# is "/s" where more is better, anything else where less is.
compare() {
	echo "$1|$2|$3|$4|${5:-}" >>"$comparisons"
}

# ---------------------------------------------------------------------------
# Appending one event
# ---------------------------------------------------------------------------

# The client knows the version: it goes through 10,000 streams round after
# round, in an order that jumps about.  Each client has streams of its own.
known_streams='\set n :n + 1
\set s :client_id * :streams + (:n * 7919) % :streams
\set v 1 + :n / :streams'
append_known="$known_streams
SELECT es_append(:family::text || :s, 'deposited', :data::jsonb, NULL, :v);"
insert_known="$known_streams
INSERT INTO plain.event (stream, version, type, data)
VALUES (:family::text || :s, :v + 1, 'deposited', :data);"

# A stream that does not exist.
new_stream='\set s random(1, 1000000000000000000)'
append_new="$new_stream
SELECT es_append('new-' || :s::text, 'deposited', :data::jsonb, NULL, 0);"
insert_new="$new_stream
INSERT INTO plain.event (stream, version, type, data) VALUES ('new-' || :s::text, 1, 'deposited', :data);"

# Any version: the server looks it up.
any_stream='\set s :client_id * :streams + random(0, :streams - 1)'
append_any="$any_stream
SELECT es_append(:family::text || :s, 'deposited', :data::jsonb);"
insert_any="$any_stream
INSERT INTO plain.event (stream, version, type, data)
SELECT :family::text || :s, max(version) + 1, 'deposited', :data FROM plain.event WHERE stream = :family::text || :s;"

# All clients append to one stream; by hand, a row that has its version goes first.
append_hot="SELECT es_append('hot', 'deposited', :data::jsonb);"
insert_hot="WITH head AS (UPDATE plain.head SET version = version + 1 WHERE stream = 'hot' RETURNING version)
INSERT INTO plain.event (stream, version, type, data) SELECT 'hot', version, 'deposited', :data FROM head;"

declare -A passed=() # how many events each client has put into its streams

# append_run SERIES CLIENTS TOTAL SCRIPT FAMILY
append_run() {
	local series=$1 clients=$2 total=$3 script=$4 family=$5 counter=$5.${1%%.*}.$2
	rate "$series" "$clients" "$total" "$script" -D n="$((${passed[$counter]:-0} - 1))" \
		-D streams="$((10000 / clients))" -D family="$family-"
	passed[$counter]=$((${passed[$counter]:-0} + total / clients))
}

ours_known() { append_run "es.known.$clients.$commit" "$clients" "$(short 10000)" "$append_known" "known$clients"; }
plain_known() { append_run "plain.known.$clients.$commit" "$clients" "$(short 10000)" "$insert_known" "known$clients"; }
ours_new() { rate "es.new.$clients.$commit" "$clients" "$(short 8000)" "$append_new"; }
plain_new() { rate "plain.new.$clients.$commit" "$clients" "$(short 8000)" "$insert_new"; }
ours_any() { append_run "es.any.$clients.$commit" "$clients" "$(short 8000)" "$append_any" "any$clients"; }
plain_any() { append_run "plain.any.$clients.$commit" "$clients" "$(short 8000)" "$insert_any" "any$clients"; }
ours_hot() { rate "es.hot.$clients.$commit" "$clients" "$(short 6000)" "$append_hot"; }
plain_hot() { rate "plain.hot.$clients.$commit" "$clients" "$(short 6000)" "$insert_hot"; }

bench_append() {
	local clients commit
	for commit in off on; do
		export PGOPTIONS="-c synchronous_commit=$commit"
		for clients in 1 8; do
			turns ours_known plain_known
			turns ours_new plain_new
		done
		turns ours_hot plain_hot
		[ "$commit" = on ] || turns ours_any plain_any
	done
	unset PGOPTIONS
}

list_append() {
	local clients commit target
	for commit in off on; do
		for clients in 1 8; do
			target=
			[ "$clients" = 1 ] || target='>= 0.95'
			compare "append 1 event, exact version, $(crowd), commit $commit" \
				"es.known.$clients.$commit" "plain.known.$clients.$commit" /s "$target"
			compare "append 1 event, new stream, $(crowd), commit $commit" \
				"es.new.$clients.$commit" "plain.new.$clients.$commit" /s "$target"
		done
	done
	compare "append 1 event, any version, 8 clients, commit off / INSERT max + 1" es.any.8.off plain.any.8.off /s
	for commit in off on; do
		compare "append 1 event, one hot stream, 8 clients, commit $commit / head row" \
			"es.hot.8.$commit" "plain.hot.8.$commit" /s '>= 1.0'
	done
}

# ---------------------------------------------------------------------------
# Appending 1,000 events
# ---------------------------------------------------------------------------

append_batch="$new_stream
SELECT es_append('batch-' || :s::text, events, 0) FROM batch;"
append_batch_text="$new_stream
SELECT es_append('batch-' || :s::text, events_text::es_new_event[], 0) FROM batch;"
insert_batch="$new_stream
INSERT INTO :table (stream, version, type, data)
SELECT 'batch-' || :s::text, ordinality, e.type, e.data
FROM batch b, unnest(b.types, b.data) WITH ORDINALITY e (type, data);"
copy_batch='\set n :n + 1
COPY :table (stream, version, type, data) FROM '"'$ES_WORK/batch.:n';"

batches=$(short 30)

ours_batch() { duration es.batch 1000 "$batches" "$append_batch"; }
ours_batch_text() { duration es.batch_text 1000 "$batches" "$append_batch_text"; }
plain_batch() { duration plain.batch 1000 "$batches" "${insert_batch/:table/plain.event}"; }
same_batch() { duration same.batch 1000 "$batches" "${insert_batch/:table/plain.same}"; }
plain_copy() { duration plain.copy 1000 "$batches" "$copy_batch" -M simple -D n=0 -D table=plain.event; }
same_copy() { duration same.copy 1000 "$batches" "$copy_batch" -M simple -D n=0 -D table=plain.same; }

bench_batch() {
	local n
	for ((n = 1; n <= batches; n++)); do
		echo "COPY (SELECT 'copy-$round-$n', ordinality, e.type, e.data
				FROM batch b, unnest(b.types, b.data) WITH ORDINALITY e (type, data)) TO '$ES_WORK/batch.$n';"
	done | sql
	turns ours_batch plain_copy plain_batch ours_batch_text same_copy same_batch
}

list_batch() {
	local title='append 1,000 events in one call'
	compare "$title / COPY" es.batch plain.copy us/event
	compare "$title / COPY, the same two indexes" es.batch same.copy us/event '>= 1.2'
	compare "$title / INSERT unnest" es.batch plain.batch us/event
	compare "$title / INSERT unnest, the same two indexes" es.batch same.batch us/event
	compare "$title, from text / COPY, the same two indexes" es.batch_text same.copy us/event
}

# ---------------------------------------------------------------------------
# Dispatching
# ---------------------------------------------------------------------------

account='\set s :client_id * :accounts + random(0, :accounts - 1)'
dispatch="$account
SELECT es_dispatch(ROW(:family::text || :s, 10.5)::deposit);"
by_hand="$account
SELECT plain.deposit(:family::text || :s, 10.5);"
# as many streams as the long dispatches have
dispatch_insert='\set n :n + 1
\set s :n % :accounts
\set v 1 + :n / :accounts
INSERT INTO plain.event (stream, version, type, data)
VALUES ('"'insert-' || :family::text || :client_id || '-' || :s, :v, 'deposited',"'
jsonb_build_object('"'id', :s::text, 'amount', 10.5));"

# dispatch_run SERIES KIND ACCOUNTS TOTAL SCRIPT
dispatch_run() {
	rate "$1" "$clients" "$4" "$5" -D accounts="$(($3 / clients))" -D family="$2-$clients-$round-" -D n=-1
}

ours_short() { dispatch_run "es.short.$clients" short 1000 "$(short 4000)" "$dispatch"; }
hand_short() { dispatch_run "hand.short.$clients" short 1000 "$(short 4000)" "$by_hand"; }
ours_long() { dispatch_run "es.long.$clients" long 40 "$(short 4000)" "$dispatch"; }
hand_long() { dispatch_run "hand.long.$clients" long 40 "$(short 400)" "$by_hand"; }
plain_dispatch() { dispatch_run "plain.dispatch.$clients" "" 40 "$(short 8000)" "$dispatch_insert"; }

# first_run SERIES KIND SCRIPT
first_run() {
	first "$1.$clients" "$clients" "$((clients * $(short 20)))" "$3" \
		-D accounts="$((20 / clients))" -D family="$2-" -D n=$((round * 1000))
}

ours_first() { first_run es.first cold10 "$dispatch"; }
hand_first() { first_run hand.first cold10 "$by_hand"; }
ours_first_long() { first_run es.first_long cold1000 "$dispatch"; }
hand_first_long() { first_run hand.first_long cold1000 "$by_hand"; }
ours_first_kept() { first_run es.first_kept kept1000 "$dispatch"; }
plain_first() { first_run plain.first "first-$round" "$dispatch_insert"; }

bench_dispatch() {
	local clients
	export PGOPTIONS='-c synchronous_commit=off'
	for clients in 1 8; do
		turns ours_short hand_short plain_dispatch ours_long hand_long
		turns ours_first hand_first plain_first ours_first_long hand_first_long ours_first_kept
	done
	unset PGOPTIONS
}

list_dispatch() {
	local clients target title
	for clients in 1 8; do
		target=
		[ "$clients" = 1 ] || target='>= 0.5'
		for title in "10 events short 1.3" "1,000 events long 5"; do
			# shellcheck disable=SC2086
			set -- $title
			compare "dispatch, stream of $1 $2, $(crowd) / INSERT" \
				"es.$3.$clients" "plain.dispatch.$clients" /s "$target"
			compare "dispatch, stream of $1 $2, $(crowd) / by hand" \
				"es.$3.$clients" "hand.$3.$clients" /s ">= $4"
		done
	done
	for clients in 1 8; do
		title="first dispatch of a connection, $(crowd)"
		compare "$title, 10 events / first INSERT" "es.first.$clients" "plain.first.$clients" ms
		compare "$title, 10 events / by hand" "es.first.$clients" "hand.first.$clients" ms
		compare "$title, 1,000 events / by hand" "es.first_long.$clients" "hand.first_long.$clients" ms
		compare "$title, 1,000 events, snapshot / by hand" "es.first_kept.$clients" "hand.first_long.$clients" ms
	done
}

# ---------------------------------------------------------------------------
# Folding and reading
# ---------------------------------------------------------------------------

# fold_run SERIES SCRIPT
fold_run() { duration "$1.$length" "$length" "$(short $((length < 10000 ? 200 : 3)))" "$2" -D length="$length"; }

ours_fold() { fold_run es.fold 'SELECT es_state(NULL::ledger, :length::text);'; }
ours_fold_plpgsql() { fold_run es.fold_plpgsql 'SELECT es_state(NULL::ledger_plpgsql, :length::text);'; }
ours_fold_jsonb() { fold_run es.fold_jsonb "SELECT es_state('ledger_jsonb', :length::text);"; }
plain_loop() { fold_run plain.loop "SELECT plain.fold('ledger-' || :length::text);"; }
plain_sum() {
	fold_run plain.sum "SELECT sum((data ->> 'amount')::numeric) FROM es.event WHERE stream = 'ledger-' || :length::text;"
}
plain_aggregate() {
	fold_run plain.aggregate "SELECT plain.ledger(data)
FROM (SELECT data FROM es.event WHERE stream = 'ledger-' || :length::text ORDER BY version) e;"
}

bench_fold() {
	local length
	export PGOPTIONS='-c event_sourcing.cache_size=0'
	for length in 1000 100000; do
		turns ours_fold plain_loop plain_sum ours_fold_plpgsql plain_aggregate ours_fold_jsonb
	done
	unset PGOPTIONS
}

list_fold() {
	local length title
	for length in 1000 100000; do
		title="fold $length events"
		compare "$title, SQL apply / PL/pgSQL loop" "es.fold.$length" "plain.loop.$length" us/event '>= 5'
		compare "$title, SQL apply / sum()" "es.fold.$length" "plain.sum.$length" us/event '>= 0.5'
		compare "$title, SQL apply / CREATE AGGREGATE" "es.fold.$length" "plain.aggregate.$length" us/event
		compare "$title, PL/pgSQL apply / PL/pgSQL loop" "es.fold_plpgsql.$length" "plain.loop.$length" us/event
		compare "$title, jsonb apply / PL/pgSQL loop" "es.fold_jsonb.$length" "plain.loop.$length" us/event
	done
}

# 200 pages of 1,000 events, from the first to the last; the client gets the rows.
next_page='\set after :after + 1000'
read_all="$next_page
SELECT * FROM es_read_all(:after, 1000);"
select_all="$next_page
SELECT * FROM read_es.event WHERE position > :after ORDER BY position LIMIT 1000;"
# the same without sending the rows
count_all="$next_page
SELECT count(data) FROM es_read_all(:after, 1000);"
select_count_all="$next_page
SELECT count(data) FROM (SELECT * FROM read_es.event WHERE position > :after ORDER BY position LIMIT 1000) e;"
read_stream="\set s random(1, 2000)
SELECT * FROM es_read_stream('account-' || :s::text);"
select_stream="\set s random(1, 2000)
SELECT * FROM read_es.event WHERE stream = 'account-' || :s::text ORDER BY version;"

# all_run SERIES SCRIPT
all_run() { duration "$1" 1000 "$(short 200)" "$2" -D after=-1000; }

ours_all() { all_run es.all "$read_all"; }
plain_all() { all_run plain.all "$select_all"; }
ours_count() { all_run es.count "$count_all"; }
plain_count() { all_run plain.count "$select_count_all"; }
ours_stream() { duration es.stream 100 "$(short 2000)" "$read_stream"; }
plain_stream() { duration plain.stream 100 "$(short 2000)" "$select_stream"; }

bench_read() {
	export PGOPTIONS='-c event_sourcing.store=read_es'
	turns ours_all plain_all
	turns ours_count plain_count
	turns ours_stream plain_stream
	unset PGOPTIONS
}

list_read() {
	compare 'es_read_all, 1,000 of 200,000 at a time / SELECT' es.all plain.all us/event '>= 0.9'
	compare 'es_read_all, counted on the server / SELECT' es.count plain.count us/event
	compare 'es_read_stream, 100 events / SELECT' es.stream plain.stream us/event
}

# ---------------------------------------------------------------------------
# Size
# ---------------------------------------------------------------------------

# size_run SERIES TABLE SCRIPT: what one event takes, appended by itself
size_run() {
	local series=$1 table=$2 script=$3 total before
	total=$(short 30000)
	before=$(sql -c 'CHECKPOINT' -c 'SELECT pg_current_wal_insert_lsn()')
	transactions 1 "$total" "$script" -D n=-1 >"$ES_WORK/size.out"
	record "$series.wal" "$(sql -c "SELECT round((pg_current_wal_insert_lsn() - '$before') / $total, 1)")"
	record "$series.disk" "$(sql -c "SELECT round((pg_relation_size('$table') + pg_indexes_size('$table')) / $total.0, 1)")"
}

# 10,000 streams, each client's order as above
size_streams='\set n :n + 1
\set s (:n * 7919) % 10000
\set v :n / 10000'

bench_size() {
	PGOPTIONS='-c event_sourcing.store=size_es' size_run es.size size_es.event "$size_streams
SELECT es_append('account-' || :s::text, 'deposited', :data::jsonb, NULL, :v);"
	size_run plain.size plain.size "$size_streams
INSERT INTO plain.size (stream, version, type, data) VALUES ('account-' || :s::text, :v + 1, 'deposited', :data);"
}

list_size() {
	compare 'WAL of an event with 229 bytes of payload' es.size.wal plain.size.wal bytes '<= 560 bytes'
	compare 'table and indexes, the same event' es.size.disk plain.size.disk bytes '<= 420 bytes'
}

# ---------------------------------------------------------------------------
# Run
# ---------------------------------------------------------------------------

# A server as it would be in use; its log must reach the disk, since the cost
# of a commit is part of what is compared.
prepare_server() {
	cat >>"$ES_PGDATA/postgresql.conf" <<-CONF
		fsync = on
		shared_buffers = 1GB
		max_wal_size = 8GB
		checkpoint_timeout = 1h
		autovacuum = off
		jit = off
	CONF
	"$ES_BIN/pg_ctl" -s -w -t 120 -D "$ES_PGDATA" -l "$ES_WORK/server.log" restart
	sql -c 'CREATE DATABASE bench'
	export PGDATABASE=bench
	sql -f "$here/schema.sql" >/dev/null
	payload=$(sql -c 'SELECT data FROM payload')
}

describe() {
	local settings
	settings="'fsync', 'full_page_writes', 'shared_buffers', 'max_wal_size', 'checkpoint_timeout', 'autovacuum', 'jit'"
	echo "$(sql -c 'SHOW server_version'), $(nproc) cores, $rounds rounds$([ "$quick" != 1 ] || echo ', quick'), load $(cut -d ' ' -f 1 /proc/loadavg)" |
		sed 's/^/PostgreSQL /'
	sql -c "SELECT string_agg(name || ' = ' || current_setting(name), ', ' ORDER BY name)
			FROM pg_settings WHERE name IN ($settings)"
	sql --csv -c "SELECT name, current_setting(name) FROM pg_settings
			WHERE source <> 'default' AND name !~ '^(lc_|data_|config_|hba_|ident_|unix_|log_|DateStyle|TimeZone)'
			ORDER BY name" >"$ES_RESULTS/settings.csv"
}

rm -f "$raw" "$comparisons"
started=$SECONDS
prepare_server

for bench in append batch; do
	list_$bench
done
list_dispatch
list_fold
list_read
list_size

for ((round = 1; round <= rounds; round++)); do
	say "round $round of $rounds: appending"
	bench_append
	bench_batch
done
say 'size'
round=1
bench_size
sql -v rounds="$rounds" -f "$here/load.sql" >/dev/null
for ((round = 1; round <= rounds; round++)); do
	say "round $round of $rounds: dispatching, folding, reading"
	bench_dispatch
	bench_fold
	bench_read
done

describe
awk -f "$here/report.awk" -v csv="$ES_RESULTS/summary.csv" "$raw" "$comparisons"
echo "took $((SECONDS - started)) s"
