#!/bin/bash
# soak.sh: hours of mixed load  ("make soak")
#
# 32 clients dispatch commands (some with a command id), append, read, fold and
# fetch, at a fixed rate; workers run an async projection of either kind, a
# handler and a schedule; old receipts are pruned.  Compared are the second tenth
# of the time, when everything is warm, and the last: how long transactions take,
# what memory each backend and worker has, how big the tables are that keep their
# number of rows.  At the end the oracles of the tests look at the store.
#
# Environment, besides that of test/server.sh:
#   SOAK_MINUTES  default 120
#   SOAK_RATE     transactions per second (default 400)
#
# Leaves soak-memory.csv, soak-latency.csv in ES_RESULTS.  The last line says how
# many of the checks hold; the exit status is 0 if all do.

set -euo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=bench/measure.sh
. "$here/measure.sh"

minutes=${SOAK_MINUTES:-120}
rate=${SOAK_RATE:-400}
seconds=$((minutes * 60))
clients=32
accounts=2000
passed=0 failed=0

create_work() {
	sql >/dev/null <<-SQL
		SET client_min_messages = warning;
		CALL create_account_store('es_soak');
		ALTER DATABASE bench SET event_sourcing.store = 'es_soak';
		SET event_sourcing.store = 'es_soak';
		SELECT es_append('account-' || n, 'opened', jsonb_build_object('id', n::text, 'owner', 'Ada'))
		FROM generate_series(1, $accounts) n;
		CALL project_by_handler('inline');
		CALL project_by_set('async');
		CREATE TABLE movement (account text PRIMARY KEY, count bigint NOT NULL);
		CREATE FUNCTION count_movement(e deposited) RETURNS void
		LANGUAGE sql AS 'INSERT INTO bench.movement AS m VALUES (e.id, 1)
			ON CONFLICT (account) DO UPDATE SET count = m.count + 1';
		SELECT es_create_handler('movement', 'count_movement', partitions => 4);
		SELECT es_create_subscription('pulled', partitions => 8);
		SELECT es_schedule(ROW('1', 0.01)::deposit, now(), every => '1 s');
		SELECT es_start_worker();
	SQL
	cat >"$ES_WORK/dispatch.sql" <<-SQL
		\set id random(1, $accounts)
		SELECT es_dispatch(ROW(:id::text, 2.5)::deposit);
	SQL
	cat >"$ES_WORK/once.sql" <<-SQL
		\set id random(1, $accounts)
		SELECT es_dispatch(ROW(:id::text, 1)::deposit, command_id => gen_random_uuid());
	SQL
	cat >"$ES_WORK/append.sql" <<-'SQL'
		\set id random(1, 1000000000)
		SELECT es_append('visit-' || :id, 'visited', :data::jsonb);
	SQL
	cat >"$ES_WORK/read.sql" <<-SQL
		\set id random(1, $accounts)
		SELECT count(*) FROM es_read_stream('account-' || :id, 1, 20);
		SELECT es_state(NULL::account, :id::text);
	SQL
	cat >"$ES_WORK/fetch.sql" <<-'SQL'
		BEGIN;
		SELECT COALESCE(max("position"), 0) AS last FROM es_fetch('pulled', 'consumer ' || :client_id % 4, 200) \gset
		SELECT CASE WHEN :last > 0 THEN es_ack('pulled', 'consumer ' || :client_id % 4, :last) END;
		COMMIT;
	SQL
}

# sample NAME: the memory of all our processes and the sizes of tables, in kB
sample() {
	local pid kind
	while IFS='|' read -r pid kind; do
		echo "$1,$kind,$pid,$(awk '/^RssAnon/ { print $2 }' "/proc/$pid/status" 2>/dev/null)"
	done < <(sql -c "SELECT pid, CASE backend_type WHEN 'client backend' THEN 'backend' ELSE 'worker' END
		FROM pg_stat_activity WHERE application_name = 'soak' OR backend_type = 'event_sourcing worker'")
	sql -c "SELECT '$1,table,' || c.oid::regclass || ',' || pg_total_relation_size(c.oid) / 1024
		FROM pg_class c WHERE relkind = 'r' AND oid::regclass::text IN
			('es_soak.checkpoint', 'es_soak.consumer', 'es_soak.schedule', 'es_soak.receipt', 'es_soak.snapshot',
			 'balance', 'balance_set', 'movement')"
}

# check WHAT VALUE BOUND: pass when the value is at most the bound
check() {
	if awk "BEGIN { exit !($2 <= $3) }"; then
		passed=$((passed + 1))
		printf 'ok      %-64s %10s, at most %s\n' "$1" "$2" "$3"
	else
		failed=$((failed + 1))
		printf 'FAILED  %-64s %10s, at most %s\n' "$1" "$2" "$3"
	fi
}

# latency FROM TO: median and 99th percentile in ms of the transactions that
# ended in these seconds of the run
latency() {
	cat "$ES_WORK"/latency.* | awk -v from=$((began + $1)) -v to=$((began + $2)) '$5 >= from && $5 < to { print $3 / 1000 }' |
		sort -n | awk '{ v[NR] = $1 } END { printf "%.3f %.3f\n", v[int((NR + 1) / 2)], v[int(NR * 0.99)] }'
}

# growth KIND: of the memory of the process, or the size of the table, of that
# kind that has grown most, in percent
growth() {
	awk -F, -v kind="$1" '$2 == kind { if ($1 == "warm") warm[$3] = $4; else if ($1 == "end") end[$3] = $4 }
		END {
			for (i in warm)
				if (warm[i] > 0 && end[i] > 0 && (end[i] - warm[i]) / warm[i] * 100 > most)
					most = (end[i] - warm[i]) / warm[i] * 100
			printf "%.1f", most
		}' "$ES_RESULTS/soak-memory.csv"
}

new_results soak-
prepare_server 'autovacuum = on' 'track_counts = on' 'autovacuum_naptime = 10s' 'max_connections = 60'
describe
create_work
echo "$clients clients, $rate transactions a second, $minutes minutes"

cd "$ES_WORK"
began=$(date +%s)
PGAPPNAME=soak pgbench -n -M prepared -c $clients -j 2 -T "$seconds" -R "$rate" -D data="$payload" -P 60 \
	-l --sampling-rate=0.2 --log-prefix=latency --failures-detailed --max-tries=5 \
	-f dispatch.sql@6 -f once.sql@2 -f append.sql@4 -f read.sql@4 -f fetch.sql@2 >pgbench.out 2>pgbench.err &
load=$!
while [ $(($(date +%s) - began)) -lt "$seconds" ] && kill -0 $load 2>/dev/null; do
	now=$(($(date +%s) - began))
	sql -c "SELECT es_prune_receipts('5 min')" >/dev/null
	if [ $now -ge $((seconds / 5)) ] && ! grep -q '^warm' "$ES_RESULTS/soak-memory.csv" 2>/dev/null; then
		sample warm >>"$ES_RESULTS/soak-memory.csv"
	fi
	sample "$now" >>"$ES_RESULTS/soak-memory.csv"
	if [ $now -ge $((seconds - seconds / 10)) ] && ! grep -q '^end' "$ES_RESULTS/soak-memory.csv"; then
		sample end >>"$ES_RESULTS/soak-memory.csv"
	fi
	sleep $((seconds < 1200 ? 5 : 30))
done
wait $load || die "pgbench failed: $(tail -n 5 pgbench.err)"
tail -n 25 pgbench.out

read -r warm_median warm_p99 < <(latency $((seconds / 10)) $((seconds / 5)))
read -r end_median end_p99 < <(latency $((seconds - seconds / 10)) "$seconds")
{
	echo 'part,median_ms,p99_ms'
	echo "second tenth,$warm_median,$warm_p99"
	echo "last tenth,$end_median,$end_p99"
} | tee "$ES_RESULTS/soak-latency.csv"
check 'latency, last to second tenth: median' "$(awk "BEGIN { printf \"%.2f\", $end_median / $warm_median }")" 1.1
check 'memory of the backend that grew most, in percent' "$(growth backend)" 10
check 'memory of the worker that grew most, in percent' "$(growth worker)" 10
check 'the table that grew most with the same rows, in percent' "$(growth table)" 100
check 'failed transactions, in percent' "$(sed -n 's/^number of failed transactions: [0-9]* (\([0-9.]*\)%)$/\1/p' pgbench.out)" 0.1

last=$(sql -c 'SELECT max(position) FROM es_soak.event')
sql -c 'SELECT es_unschedule(schedule_id) FROM es_soak.schedule' -c "SELECT es_wait('balance_set', $last, '10 min'), es_wait('movement', $last, '10 min')" >/dev/null
sql -f "$here/../test/oracle.sql"
# not the states at all versions, which is quadratic: those of now
check 'problems that the oracles find' "$(sql -c "SELECT (SELECT count(*) FROM oracle.log_problems())
	+ (SELECT count(*) FROM oracle.sequence_problems()) + (SELECT count(*) FROM oracle.receipt_problems())")" 0
check 'states that differ from the projection' "$(sql -c "SELECT count(*) FROM balance
	WHERE (es_state('account', id) ->> 'balance')::numeric IS DISTINCT FROM amount")" 0
check 'projections that differ from the log' "$(sql -c "
	WITH truth AS (SELECT data ->> 'id' AS id, sum((data ->> 'amount')::numeric) AS amount, count(*) AS count
		FROM es_soak.event WHERE type = 'deposited' GROUP BY 1)
	SELECT count(*) FROM truth t FULL JOIN balance b USING (id) FULL JOIN balance_set s USING (id)
		FULL JOIN movement m ON m.account = id
	WHERE t.amount IS DISTINCT FROM b.amount OR t.amount IS DISTINCT FROM s.amount OR t.count IS DISTINCT FROM m.count")" 0
check 'problems in the log of the server' "$(grep -cE '(WARNING|PANIC|FATAL|XX000|leak)' "$ES_WORK/server.log" || true)" 0
sql -c 'SELECT es_stop_worker()' >/dev/null
echo "$passed passed, $failed failed"
[ $failed = 0 ]
