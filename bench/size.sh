#!/bin/bash
# size.sh: does the size of a store change what a call costs?  ("make bench-size")
#
# Stores of 1, 10 and, if asked for, 100 million events side by side in one
# server, each in streams of 100 events with about 100 bytes of payload; beside
# the smaller ones a plain table with the usual three indexes.  Every round
# measures all of them in turns: appending with the exact version to 5,000
# streams that lie scattered, as those that are in use at a time do; and at
# random places of the whole store, whether it fits into memory or not, appending,
# dispatching, reading a stream and reading a page of the feed.  The ratios
# compare with the store of 1 million.
#
# Environment, besides that of test/server.sh:
#   BENCH_SIZE    millions of events of the largest store: 1, 10 (default) or
#                 100, which takes about 45 GB of disk and half an hour
#   BENCH_ROUNDS  rounds (default 5)
#   BENCH_QUICK   1: three short rounds, with stores a hundredth of the size
#
# Leaves size-raw.csv, size-summary.csv and size.svg in ES_RESULTS.

set -euo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=bench/measure.sh
. "$here/measure.sh"

largest=${BENCH_SIZE:-10}
sizes=()
for size in 1 10 100; do
	[ "$size" -gt "$largest" ] || sizes+=("$size")
done
million=1000000
[ "$quick" != 1 ] || million=10000
clients=8
loaders=$(nproc)

streams_of() { echo $(($1 * million / 100)); }

# ---------------------------------------------------------------------------
# Loading
# ---------------------------------------------------------------------------

prepare_load() {
	sql <<-'SQL'
		-- an account of 100 events with about 100 bytes of payload each
		INSERT INTO history
		SELECT 100, array_agg(CASE
			WHEN n = 1 THEN es_new_event('opened', data || '{"owner": "Ada Lovelace"}')
			ELSE es_new_event('deposited', data || jsonb_build_object('amount', n + 0.25)) END ORDER BY n)
		FROM generate_series(1, 100) n,
			jsonb_build_object('id', 'account', 'reference', 'invoice 815', 'memo', repeat('.', 20)) data;
		-- a hundred streams in one call: one statement must not take too many locks
		CREATE FUNCTION load_streams(first bigint, beyond bigint) RETURNS bigint
		LANGUAGE sql AS $$
			SELECT count(es_append('account-' || s, events, 0))
			FROM history, generate_series(first, least(first + 100, beyond) - 1) s
			WHERE nevents = 100
		$$;
	SQL
	echo "payload of $(sql -c 'SELECT round(avg(pg_column_size(e.data)))
		FROM history, unnest(events) e WHERE nevents = 100') bytes"
}

# load SIZE: fill the store with as many sessions as there are cores; says how
# long every tenth of it takes
load() {
	local size=$1 streams part tenth began loader
	streams=$(streams_of "$size")
	part=$((streams / 10))
	for ((tenth = 0; tenth < 10; tenth++)); do
		began=$(date +%s%N)
		for ((loader = 0; loader < loaders; loader++)); do
			seq $((tenth * part + loader * 100)) $((loaders * 100)) $(((tenth + 1) * part - 1)) |
				sed "s/.*/SELECT load_streams(&, $(((tenth + 1) * part)));/" |
				PGOPTIONS="-c event_sourcing.store=es_${size}m -c synchronous_commit=off" sql >/dev/null &
		done
		wait
		round=$tenth
		record "es.load.$size" "$((($(date +%s%N) - began) / (part * 100)))"
	done
	say "$size million: $(awk -F , -v series="es.load.$size" '$1 == series { list = list " " $3 } END { print list }' "$raw")" \
		'ns an event, for each tenth'
	sql -c "VACUUM ANALYZE es_${size}m.event" -c 'CHECKPOINT'
}

load_plain() {
	local size=$1
	sql <<-SQL
		CREATE TABLE plain.event_$size (LIKE plain.event INCLUDING ALL);
		SET synchronous_commit = off;
		INSERT INTO plain.event_$size (stream, version, type, data)
		SELECT stream, version, type, data FROM es_${size}m.event ORDER BY position;
		VACUUM ANALYZE plain.event_$size;
	SQL
}

# record_bytes WHO SIZE TABLE
record_bytes() {
	record "$1.bytes.$2" "$(sql -c "SELECT round(pg_total_relation_size('$3') / ($2 * $million.0), 1)")"
}

# ---------------------------------------------------------------------------
# Measuring
# ---------------------------------------------------------------------------

# Of ten streams one is for dispatches, five are for appends to 5,000 of them
# and four for appends to all of them, in an order that jumps about, so that the
# client knows the version.
busy_stream='\set n :n + 1
\set s :client_id * :each + (:n * 7919) % :each
\set id :s / 5 * :stride * 10 + 1 + :s % 5
\set v 100 + :n / :each'
known_stream='\set n :n + 1
\set s :client_id * :each + (:n * 7919) % :each
\set id :s / 4 * 10 + 6 + :s % 4
\set v 100 + :n / :each'
es_append="
SELECT es_append('account-' || :id, 'deposited', :data::jsonb, NULL, :v);"
plain_insert="
INSERT INTO plain.event_:size (stream, version, type, data)
VALUES ('account-' || :id, :v + 1, 'deposited', :data);"
es_dispatch='\set s random(0, :streams / 10 - 1) * 10
SELECT es_dispatch(ROW(:s, 10.5)::deposit);'
es_read_stream="\\set s random(0, :streams - 1)
SELECT * FROM es_read_stream('account-' || :s, 1, 100);"
plain_read_stream="\\set s random(0, :streams - 1)
SELECT * FROM plain.event_:size WHERE stream = 'account-' || :s AND version >= 1 ORDER BY version LIMIT 100;"
es_read_feed='\set after random(0, :streams * 100 - 1000)
SELECT * FROM es_read_all(:after, 1000);'
plain_read_feed='\set after random(0, :streams * 100 - 1000)
SELECT * FROM plain.event_:size WHERE position > :after ORDER BY position LIMIT 1000;'

declare -A passed=()

# run_at SERIES TOTAL SCRIPT
run_at() {
	local each busy streams counter=$1
	streams=$(streams_of "$size")
	each=$((streams * 4 / 10 / clients))
	busy=$((streams / 2 < 5000 ? streams / 2 : 5000))
	[[ $1 != *.busy ]] || each=$((busy / clients))
	rate "$1.$size" "$clients" "$2" "${3//:size/$size}" -D n="$((${passed[$counter.$size]:-0} - 1))" \
		-D each="$each" -D streams="$streams" -D stride="$((streams / 2 / busy))"
	passed[$counter.$size]=$((${passed[$counter.$size]:-0} + $2 / clients))
}

# at SIZE WHO WHAT TOTAL
at() {
	local size=$1 script
	case $2.$3 in
		es.busy) script=$busy_stream$es_append ;;
		es.append) script=$known_stream$es_append ;;
		es.dispatch) script=$es_dispatch ;;
		es.stream) script=$es_read_stream ;;
		es.feed) script=$es_read_feed ;;
		plain.busy) script=$busy_stream$plain_insert ;;
		plain.append) script=$known_stream$plain_insert ;;
		plain.stream) script=$plain_read_stream ;;
		plain.feed) script=$plain_read_feed ;;
	esac
	PGOPTIONS="-c synchronous_commit=off -c event_sourcing.store=es_${size}m" run_at "$2.$3" "$4" "$script"
}

# everywhere WHAT TOTAL: in all stores and tables, in turns
everywhere() {
	local runs=() size
	for size in "${sizes[@]}"; do
		runs+=("at $size es $1 $2")
		[ "$size" -gt 10 ] || [ "$1" = dispatch ] || runs+=("at $size plain $1 $2")
	done
	turns "${runs[@]}"
}

# size_lines WHAT [TARGET]
size_lines() {
	local size target
	for size in "${sizes[@]}"; do
		target=
		[ "$size" != 100 ] || target=${2:-}
		line "event_sourcing, $size million events" "es.$1.$size" "$target"
	done
	for size in "${sizes[@]}"; do
		line "plain PostgreSQL, $size million events" "plain.$1.$size"
	done
}

tables_of_size() {
	table 'append 1 event to one of 5,000 streams, 8 clients' /s es.busy.1
	size_lines busy '>= 0.8'
	table 'append 1 event to any stream of the store, 8 clients' /s es.append.1
	size_lines append
	table 'dispatch, stream of 100 events, mostly not cached, 8 clients' /s es.dispatch.1
	size_lines dispatch
	table 'read a stream of 100 events, 8 clients' /s es.stream.1
	size_lines stream
	table 'read 1,000 events of the feed, 8 clients' /s es.feed.1
	size_lines feed
	table 'tables and indexes of an event' bytes es.bytes.1
	size_lines bytes
	table 'loading the store, streams of 100 in one call, for each tenth' ns/event es.load.1
	size_lines load
}

# ---------------------------------------------------------------------------
# Run
# ---------------------------------------------------------------------------

started=$SECONDS
new_results size-
# Nothing here is to be replicated; a bulk load should not write whole pages.
prepare_server 'wal_level = minimal' 'max_wal_senders = 0' 'max_wal_size = 6GB' 'full_page_writes = off' \
	'checkpoint_timeout = 30min'
describe
prepare_load
payload='{"id": "account", "amount": 10.5, "reference": "invoice 815", "memo": "...................."}'
for size in "${sizes[@]}"; do
	sql -c "CALL create_account_store('es_${size}m')"
	load "$size"
	[ "$size" -gt 10 ] || load_plain "$size"
	round=1
	record_bytes es "$size" "es_${size}m.event"
	[ "$size" -gt 10 ] || record_bytes plain "$size" "plain.event_$size"
	say "$size million loaded after $((SECONDS - started)) s"
done
# restart_server empties shared_buffers for all alike
echo 'full_page_writes = on' >>"$ES_PGDATA/postgresql.conf"
restart_server

# The first round only warms the caches.
for ((round = 0; round <= rounds; round++)); do
	[ "$round" != 1 ] || sed -i '/^[a-z]*\.\(busy\|append\|dispatch\|stream\|feed\)\./d' "$raw"
	everywhere busy "$(short 16000)"
	everywhere append "$(short 16000)"
	everywhere dispatch "$(short 8000)"
	everywhere stream "$(short 8000)"
	everywhere feed "$(short 2000)"
done
print_tables of_size
perl "$here/plot.pl" "$ES_RESULTS"
echo
echo "took $((SECONDS - started)) s"
