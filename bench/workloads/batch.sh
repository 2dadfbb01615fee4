# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# batch.sh: workload batch, 10 and 1,000 events in one call, to a new stream.
# Sourced by run.sh, after append.sh.

es_append_batch="$new_stream
SELECT es_append('batch-' || :s::text, events, 0) FROM batch WHERE size = :size;"
es_append_batch_text="$new_stream
SELECT es_append('batch-' || :s::text, events_text::es_new_event[], 0) FROM batch WHERE size = :size;"
plain_insert_batch="$new_stream
INSERT INTO :table (stream, version, type, data)
SELECT 'batch-' || :s::text, ordinality, e.type, e.data
FROM batch b, unnest(b.types, b.data) WITH ORDINALITY e (type, data) WHERE b.size = :size;"
plain_copy_batch='\set n :n + 1
COPY :table (stream, version, type, data) FROM '"'$ES_WORK/batch.:n';"
# message-db writes one message a call; its client makes as many calls as there
# are messages, which are here one statement
messagedb_write_batch="$new_stream
SELECT count(write_message(gen_random_uuid()::varchar, 'batch-' || :s::text, 'deposited', data, NULL, n - 2))
FROM payload, generate_series(1, :size) n;"
emmett_append_batch="$new_stream
SELECT r.* FROM batch b, emt_append_to_stream(ARRAY(SELECT gen_random_uuid()::text FROM generate_series(1, :size)),
b.data, b.metadata, b.versions, b.types, b.kinds, 'batch-' || :s::text, 'batch', 0, E'emt\x3adefault') r WHERE b.size = :size;"

# batch_run SERIES SCRIPT [OPTION...]
batch_run() {
	local series=$1 script=$2
	shift 2
	duration "$series.$size" "$size" "$(short $((size == 10 ? 1000 : 30)))" "$script" -D size="$size" "$@"
}

es_batch() { batch_run es.batch "$es_append_batch"; }
es_batch_text() { batch_run es.batch_text "$es_append_batch_text"; }
plain_batch() { batch_run plain.batch "${plain_insert_batch/:table/plain.event}"; }
same_batch() { batch_run same.batch "${plain_insert_batch/:table/plain.same}"; }
plain_copy() { batch_run plain.copy "$plain_copy_batch" -M simple -D n=0 -D table=plain.event; }
same_copy() { batch_run same.copy "$plain_copy_batch" -M simple -D n=0 -D table=plain.same; }
messagedb_batch() { PGDATABASE=message_db batch_run messagedb.batch "$messagedb_write_batch"; }
emmett_batch() { PGDATABASE=emmett batch_run emmett.batch "$emmett_append_batch"; }

# one call's worth of events, as values and as text
load_batch() {
	sql <<-'SQL'
		CREATE TABLE batch AS
		SELECT size, array_agg(es_new_event('deposited', data)) AS events,
			   array_agg(es_new_event('deposited', data))::text AS events_text,
			   array_agg('deposited'::text) AS types, array_agg(data) AS data
		FROM payload, unnest('{10,1000}'::int[]) size, generate_series(1, size)
		GROUP BY size;
		ANALYZE batch;
	SQL
	[[ " ${peers[*]} " != *" emmett "* ]] || PGDATABASE=emmett sql <<-'SQL'
		CREATE TABLE batch AS
		SELECT size, array_agg(data) AS data, array_agg('{}'::jsonb) AS metadata, array_agg('1'::text) AS versions,
			   array_agg('deposited'::text) AS types, array_agg('E'::text) AS kinds
		FROM payload, unnest('{10,1000}'::int[]) size, generate_series(1, size)
		GROUP BY size;
		ANALYZE batch;
	SQL
}

round_batch() {
	local n size
	export PGOPTIONS='-c synchronous_commit=off'
	for ((n = 1; n <= $(short 30); n++)); do
		echo "COPY (SELECT 'copy-$round-$n', ordinality, e.type, e.data
				FROM batch b, unnest(b.types, b.data) WITH ORDINALITY e (type, data)
				WHERE b.size = 1000) TO '$ES_WORK/batch.$n';"
	done | sql
	size=10
	turns es_batch plain_batch same_batch "${peers[@]/%/_batch}"
	size=1000
	turns es_batch plain_copy plain_batch es_batch_text same_copy same_batch "${peers[@]/%/_batch}"
	unset PGOPTIONS
}

tables_batch() {
	table 'append 10 events in one call' us/event plain.batch.10
	line event_sourcing es.batch.10
	line 'plain PostgreSQL, INSERT unnest' plain.batch.10
	line 'plain PostgreSQL, INSERT unnest, two indexes as we have' same.batch.10
	line 'message-db, ten calls' messagedb.batch.10
	line Emmett emmett.batch.10

	table 'append 1,000 events in one call' us/event plain.copy.1000
	line event_sourcing es.batch.1000
	line 'event_sourcing, events given as text' es.batch_text.1000
	line 'plain PostgreSQL, COPY' plain.copy.1000
	line 'plain PostgreSQL, COPY, two indexes as we have' same.copy.1000
	line 'plain PostgreSQL, INSERT unnest' plain.batch.1000
	line 'plain PostgreSQL, INSERT unnest, two indexes as we have' same.batch.1000
	line 'message-db, a thousand calls' messagedb.batch.1000
	line Emmett emmett.batch.1000
	against 'event_sourcing / COPY, two indexes as we have' es.batch.1000 same.copy.1000 '>= 1.2'
	against 'event_sourcing, text / COPY, two indexes as we have' es.batch_text.1000 same.copy.1000 ''
}
