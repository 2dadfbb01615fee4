# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# bytes.sh: workload bytes, what one event of 229 bytes of payload takes in the
# write-ahead log and in tables and indexes, appended by itself to one of 10,000
# streams.  It counts, so one round is enough, on tables of its own.  Sourced by
# run.sh, after append.sh.

bytes_streams='\set n :n + 1
\set s (:n * 7919) % 10000
\set v :n / 10000'

# bytes_run WHO TABLES SCRIPT: TABLES are those that grow, in the database at hand
bytes_run() {
	local who=$1 made=0 size total before upto
	size="SELECT coalesce(sum(pg_total_relation_size(t)), 0) FROM unnest('{$2}'::regclass[]) t"
	total=$(short 100000)
	before=$(sql -c 'CHECKPOINT' -c 'SELECT pg_current_wal_insert_lsn()' -c "$size")
	# A session that plans its statements for a small table reads all of it later.
	for upto in 1000 $((total / 3)) "$total"; do
		transactions 1 $((upto - made)) "$3" -D n=$((made - 1)) >"$ES_WORK/bytes.out"
		sql -c "ANALYZE $2"
		made=$upto
	done
	record "$who.wal" "$(sql -c "SELECT round((pg_current_wal_insert_lsn() - '${before%$'\n'*}') / $total, 1)")"
	record "$who.disk" "$(sql -c "SELECT round((($size) - ${before#*$'\n'}) / $total.0, 1)")"
}

load_bytes() {
	sql <<-'SQL'
		SELECT es_create_store('bytes_es');
		CREATE TABLE plain.bytes (LIKE plain.event INCLUDING ALL);
	SQL
}

round_bytes() {
	[ "$round" = 1 ] || return 0
	PGOPTIONS='-c event_sourcing.store=bytes_es' bytes_run es bytes_es.event "$bytes_streams
SELECT es_append('account-' || :s::text, 'deposited', :data::jsonb, NULL, :v);"
	bytes_run plain plain.bytes "$bytes_streams
INSERT INTO plain.bytes (stream, version, type, data) VALUES ('account-' || :s::text, :v + 1, 'deposited', :data);"
	[ ${#peers[@]} != 0 ] || return 0
	PGDATABASE=message_db bytes_run messagedb messages "$bytes_streams
SELECT write_message(gen_random_uuid()::varchar, 'account-' || :s::text, 'deposited', :data::jsonb, NULL, :v - 1);"
	PGDATABASE=emmett bytes_run emmett emt_messages_emt_default_active,emt_streams_emt_default_active "$bytes_streams
$emmett_append 'account-' || :s::text, 'account', :v, E'emt\x3adefault');"
}

tables_bytes() {
	table 'write-ahead log of an event of 229 bytes' bytes plain.wal
	line event_sourcing es.wal '<= 560 bytes'
	line 'plain PostgreSQL, INSERT' plain.wal
	line message-db messagedb.wal
	line Emmett emmett.wal
	table 'tables and indexes of an event of 229 bytes' bytes plain.disk
	line event_sourcing es.disk '<= 420 bytes'
	line 'plain PostgreSQL, INSERT' plain.disk
	line message-db messagedb.disk
	line Emmett emmett.disk
}
