#!/bin/bash
# memory.sh: how much memory do long streams and large calls take?
# ("make bench-memory")
#
# Each measurement is a new backend's growth at its highest (VmHWM), with hardly
# any shared buffers, which count as memory of every backend that touches them.
#
# Environment, besides that of test/server.sh:
#   BENCH_EVENTS  events of the stream (default 10000000)
#   BENCH_QUICK   1: a hundredth of them
#
# Leaves memory-raw.csv and memory-summary.csv in ES_RESULTS.

set -euo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=bench/measure.sh
. "$here/measure.sh"

events=${BENCH_EVENTS:-10000000}
[ "$quick" != 1 ] || events=$((events / 100))

load_memory() {
	sql >/dev/null <<-'SQL'
		-- a value of the backend's own /proc/PID/status in kB
		CREATE FUNCTION memory(field text) RETURNS bigint
		LANGUAGE sql AS $$
			SELECT substring(pg_read_file('/proc/self/status') FROM field || ':\s*(\d+)')::bigint
		$$;
		-- a ledger's deposits, to fold, and events of 229 bytes, to append
		CREATE TABLE call AS
		SELECT 1000 AS size, array_agg(es_new_event('deposited', jsonb_build_object('id', '1', 'amount', n + 0.25))) AS events
		FROM generate_series(1, 1000) n;
		INSERT INTO call
		SELECT 100000, array_agg(es_new_event('deposited', data)) FROM payload, generate_series(1, 100000);
		ALTER TABLE call ADD type text[], ADD data jsonb[];
		UPDATE call SET type = ARRAY(SELECT type FROM unnest(events)), data = ARRAY(SELECT data FROM unnest(events));
		CREATE PROCEDURE read_feed()
		LANGUAGE plpgsql AS $$
		DECLARE
			after bigint := 0;
			last bigint;
		BEGIN
			LOOP
				SELECT max(position) INTO last FROM es_read_all(after, 100000);
				EXIT WHEN last IS NULL;
				after := last;
			END LOOP;
		END $$;
	SQL
	seq $((events / 1000)) |
		sed "s/.*/SELECT es_append('ledger-1', events) FROM call WHERE size = 1000;/" |
		PGOPTIONS='-c synchronous_commit=off' sql >/dev/null
	sql -c 'VACUUM ANALYZE' -c 'CHECKPOINT'
}

# growth SERIES SQL: record how many MB a backend has at most beyond what it had
# after doing the same with next to nothing, WARM_UP
growth() {
	local series=$1 statement=$2 warm_up=$3 value
	value=$(
		{
			echo "SET event_sourcing.cache_size = 0;"
			echo "$warm_up"
			echo "SELECT memory('VmRSS') AS before \\gset"
			echo "$statement"
			echo "SELECT 'growth ' || memory('VmHWM') - :before;"
		} | sql | sed -n 's/^growth //p'
	)
	record "$series" "$(awk "BEGIN { print $value / 1024 }")"
}

measure_memory() {
	local length
	local few=$((events / 1000)) some=$((events / 10))
	sql -c "SELECT es_append('ledger-2', events) FROM call WHERE size = 1000" >/dev/null
	for length in $few $some $events; do
		growth "es.fold_memory.$length" "SELECT es_state(NULL::ledger, '1', at_version => $length);" \
			"SELECT es_state(NULL::ledger, '2', at_version => 10);"
	done
	growth es.page_memory 'CALL read_feed();' 'SELECT count(*) FROM es_read_all(0, 10);'
	growth es.feed_memory 'SELECT count(*) FROM es_read_all(0, NULL);' 'SELECT count(*) FROM es_read_all(0, 10);'
	growth es.stream_memory "SELECT count(*) FROM es_read_stream('ledger-1');" \
		"SELECT count(*) FROM es_read_stream('ledger-1', 1, 10);"
	growth plain.stream_memory "SELECT count(data) FROM es.event WHERE stream = 'ledger-1';" \
		"SELECT count(data) FROM es.event WHERE stream = 'ledger-2';"
	growth es.append_memory "SELECT es_append('large', events) FROM call WHERE size = 100000;" \
		"SELECT es_append('small', events) FROM call WHERE size = 1000;"
	growth plain.append_memory "INSERT INTO plain.event (stream, version, type, data)
		SELECT 'large', ordinality, e.type, e.data
		FROM call c, unnest(c.type, c.data) WITH ORDINALITY e (type, data) WHERE size = 100000;" \
		"INSERT INTO plain.event (stream, version, type, data)
		SELECT 'small', ordinality, e.type, e.data
		FROM call c, unnest(c.type, c.data) WITH ORDINALITY e (type, data) WHERE size = 1000;"
	record append.payload "$(sql -c "SELECT sum(pg_column_size(e)) / 1048576.0 FROM call, unnest(data) e WHERE size = 100000")"
}

tables_memory() {
	local length
	table 'memory of a fold, beyond that of 10 events' MB "es.fold_memory.$((events / 1000))"
	for length in $((events / 1000)) $((events / 10)) "$events"; do
		line "event_sourcing, es_state() of $length events" "es.fold_memory.$length" "$([ "$length" != "$events" ] || echo constant)"
	done
	table "memory of reading $events events, beyond that of 10" MB plain.stream_memory
	line 'event_sourcing, es_read_all() by 100,000' es.page_memory constant
	line 'event_sourcing, es_read_all() in one call' es.feed_memory constant
	line 'event_sourcing, es_read_stream() in one call' es.stream_memory constant
	line 'plain PostgreSQL, SELECT count()' plain.stream_memory
	table 'memory of appending 100,000 events in one call' MB append.payload
	line 'the payload itself, 229 bytes each' append.payload
	line 'event_sourcing, es_append()' es.append_memory '>= 0.33'
	line 'plain PostgreSQL, INSERT unnest' plain.append_memory
}

started=$SECONDS
new_results memory-
prepare_server 'shared_buffers = 4MB' 'max_wal_size = 4GB'
describe
load_memory
say "loaded after $((SECONDS - started)) s"
rounds=1
for ((round = 1; round <= rounds; round++)); do
	measure_memory
done
print_tables memory
echo
echo "took $((SECONDS - started)) s"
