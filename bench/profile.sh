#!/bin/bash
# profile.sh: where the work of a warm call goes  ("make bench-profile")
#
# Counts instructions with callgrind, which is exact and repeatable where time
# is not: a server in single-user mode makes some hundred calls, and the
# instructions are those inside of our function, everything it calls included,
# the parser, the network and the commit excluded.
#
# Environment, besides that of test/server.sh:
#   BENCH_CALLS  calls to count (default 500)
#
# Leaves profile.csv in ES_RESULTS.

set -euo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=bench/measure.sh
. "$here/measure.sh"

calls=${BENCH_CALLS:-500}
command -v valgrind >/dev/null || die 'valgrind is not installed'

# count FUNCTION STATEMENT: run the statement as many times as there are calls,
# warm, and print "instructions<TAB>function" per call, all that is called included
count() {
	local out=$ES_WORK/callgrind.out i
	rm -f "$out"
	{
		echo "SET search_path = bench, public;"
		for ((i = 0; i < 20 + calls; i++)); do
			echo "${2//:n/$i}"
		done
	} | valgrind -q --tool=callgrind --callgrind-out-file="$out" --toggle-collect="$1" \
		"$ES_BIN/postgres" --single -D "$ES_PGDATA" bench >"$ES_WORK/single.out" 2>&1
	! grep -q ERROR "$ES_WORK/single.out" || die "$(grep ERROR "$ES_WORK/single.out")"
	callgrind_annotate --inclusive=yes --threshold=100 --auto=no "$out" 2>/dev/null |
		sed -n "s/^ *\([0-9,]*\) (.*:\(es_[a-z_]*\|[a-z_]*\)\( \[.*\)\?$/\1\t\2/p" | tr -d , |
		awk -F '\t' -v calls="$((20 + calls))" '!seen[$2]++ { printf "%d\t%s\n", $1 / calls, $2 }'
}

# show TITLE FUNCTION STATEMENT PART...: the parts are "function: what it does"
show() {
	local title=$1 function=$2 counted total part name value
	counted=$(count "$2" "$3")
	shift 3
	total=$(awk -F '\t' -v f="$function" '$2 == f { print $1 }' <<<"$counted")
	printf '\n%-60s %12s %7s\n' "$title" instructions share
	printf '  %-58s %12d %7s\n' 'all of it' "$total" ''
	echo "\"$title\",\"all of it\",$total," >>"$ES_RESULTS/profile.csv"
	for part in "$@"; do
		name=${part%%: *}
		value=$(awk -F '\t' -v f="$name" '$2 == f { print $1 }' <<<"$counted")
		[ -n "$value" ] || continue
		printf '  %-58s %12d %6d%%\n' "${part#*: }" "$value" $((value * 100 / total))
		echo "\"$title\",\"${part#*: }\",$value,$((value * 100 / total))" >>"$ES_RESULTS/profile.csv"
	done
}

echo 'call,part,instructions,percent' >"$ES_RESULTS/profile.csv"
prepare_server ''
sql >/dev/null <<-'SQL'
	CALL create_account_store('es_none');
	CALL create_account_store('es_handler');
	SET event_sourcing.store = 'es_none';
	SELECT es_append('account-7', 'opened', '{"id": "7", "owner": "Ada"}');
	SET event_sourcing.store = 'es_handler';
	CALL project_by_handler();
	SELECT es_append('account-7', 'opened', '{"id": "7", "owner": "Ada"}');
	INSERT INTO balance VALUES ('7', 0);
	VACUUM ANALYZE;
SQL
describe
"$ES_BIN/pg_ctl" -s -w -D "$ES_PGDATA" stop

append_parts=(
	'es_stream_lock: lock the stream'
	'es_stream_read_head: find its end'
	'es_append_record: number the events, draw positions'
	'es_feed_register:   of which registering in flight'
	'nextval_internal:   of which the sequence'
	'es_log_insert: insert into table and indexes'
)
dispatch_parts=(
	'es_command_handler: find the handler'
	'es_stream_lock: lock the stream'
	'es_state_load: load the state from the cache, and what is new'
	'es_routine_call: run the handlers'
	'es_new_event_from_record: events as JSON'
	'es_append_record: number the events, draw positions'
	'es_fold_apply: apply the events'
	'es_log_insert: insert into table and indexes, with projections'
	'es_project:   of which projections'
	'es_state_keep: keep the state'
	'es_event_to_datum: the events of the result'
	'GetSnapshotData: taking snapshots, anywhere'
)
for setting in es_none es_handler; do
	echo "event_sourcing.store = '$setting'" >>"$ES_PGDATA/postgresql.conf"
	if [ $setting = es_none ]; then
		show 'es_append of one event' es_append_json "SELECT es_append('account-8', 'deposited', '{\"id\": \"8\", \"amount\": 10.5}'::jsonb, NULL, :n);" \
			"${append_parts[@]}"
		show 'es_dispatch without projection' es_dispatch_record "SELECT es_dispatch(ROW('7', 10.5)::deposit);" "${dispatch_parts[@]}"
	else
		show 'es_dispatch with an inline projection' es_dispatch_record "SELECT es_dispatch(ROW('7', 10.5)::deposit);" "${dispatch_parts[@]}"
	fi
done
