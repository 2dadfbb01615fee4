# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# append.sh: workload append, one event a call.  Sourced by run.sh.

# The client knows the version: it goes through 10,000 streams round after
# round, in an order that jumps about.  Each client has streams of its own.
known_streams='\set n :n + 1
\set s :client_id * :streams + (:n * 7919) % :streams
\set v 1 + :n / :streams'
es_append_known="$known_streams
SELECT es_append(:family::text || :s, 'deposited', :data::jsonb, NULL, :v);"
plain_insert_known="$known_streams
INSERT INTO plain.event (stream, version, type, data)
VALUES (:family::text || :s, :v + 1, 'deposited', :data);"
# message-db counts from 0, and takes one lock for each category
messagedb_write_known="$known_streams
SELECT write_message(gen_random_uuid()::varchar, :family::text || :s, 'deposited', :data::jsonb, NULL, :v - 1);"
# pgbench takes a colon in quotes for a variable, hence the escape in the name of Emmett's partition.
emmett_append="SELECT * FROM emt_append_to_stream(ARRAY[gen_random_uuid()::text], ARRAY[:data::jsonb], ARRAY['{}'::jsonb],
ARRAY['1'], ARRAY['deposited'], ARRAY['E'],"
emmett_append_known="$known_streams
$emmett_append :family::text || :s, 'known', :v, E'emt\x3adefault');"

# A stream that does not exist.
new_stream='\set s random(1, 1000000000000000000)'
es_append_new="$new_stream
SELECT es_append('new-' || :s::text, 'deposited', :data::jsonb, NULL, 0);"
plain_insert_new="$new_stream
INSERT INTO plain.event (stream, version, type, data) VALUES ('new-' || :s::text, 1, 'deposited', :data);"

# Any version: the server looks it up.
any_stream='\set s :client_id * :streams + random(0, :streams - 1)'
es_append_any="$any_stream
SELECT es_append(:family::text || :s, 'deposited', :data::jsonb);"
plain_insert_any="$any_stream
INSERT INTO plain.event (stream, version, type, data)
SELECT :family::text || :s, max(version) + 1, 'deposited', :data FROM plain.event WHERE stream = :family::text || :s;"

declare -A passed=() # how many events each client has put into its streams

# append_run SERIES TOTAL SCRIPT FAMILY
append_run() {
	local series=$1 total=$2 script=$3 family=$4 counter=$4.${1%%.*}
	rate "$series.$clients.$commit" "$clients" "$total" "$script" -D n="$((${passed[$counter]:-0} - 1))" \
		-D streams="$((10000 / clients))" -D family="$family-"
	passed[$counter]=$((${passed[$counter]:-0} + total / clients))
}

es_known() { append_run es.known "$(calls 10000 500)" "$es_append_known" "known$clients"; }
plain_known() { append_run plain.known "$(calls 10000 500)" "$plain_insert_known" "known$clients"; }
messagedb_known() {
	PGDATABASE=message_db append_run messagedb.known "$(calls 5000 500)" "$messagedb_write_known" "known$clients"
}
emmett_known() {
	PGDATABASE=emmett append_run emmett.known "$(calls 5000 500)" "$emmett_append_known" "known$clients"
}
es_new() { rate "es.new.$clients.$commit" "$clients" "$(short 8000)" "$es_append_new"; }
plain_new() { rate "plain.new.$clients.$commit" "$clients" "$(short 8000)" "$plain_insert_new"; }
es_any() { append_run es.any "$(short 8000)" "$es_append_any" "any$clients"; }
plain_any() { append_run plain.any "$(short 8000)" "$plain_insert_any" "any$clients"; }

# one event in each of 10,000 streams for each number of clients
load_append() {
	local clients peer
	sql >/dev/null <<-'SQL'
		SELECT count(es_append(family || '-' || n, ARRAY[es_new_event('deposited', data)]))
		FROM payload, unnest('{known1,known8,known32,any8}'::text[]) family, generate_series(0, 9999) n;
		INSERT INTO plain.event (stream, version, type, data)
		SELECT family || '-' || n, 1, 'deposited', data
		FROM payload, unnest('{known1,known8,known32,any8}'::text[]) family, generate_series(0, 9999) n;
		VACUUM ANALYZE es.event, plain.event;
	SQL
	for peer in "${peers[@]}"; do
		for clients in 1 8 32; do
			peer_streams "$peer" '' "known$clients" 10000 1
		done
	done
}

round_append() {
	local clients commit
	for commit in off on; do
		export PGOPTIONS="-c synchronous_commit=$commit"
		for clients in 1 8 32; do
			turns es_known plain_known "${peers[@]/%/_known}"
		done
		clients=8
		turns es_new plain_new
		[ "$commit" = on ] || turns es_any plain_any
	done
	unset PGOPTIONS
}

tables_append() {
	local clients commit run
	for commit in off on; do
		for clients in 1 8 32; do
			run=$clients.$commit
			table "append 1 event, exact version, $(crowd), commit $commit" /s "plain.known.$run"
			if [ "$clients" = 8 ]; then
				line event_sourcing "es.known.$run" '>= 0.95'
			else
				line event_sourcing "es.known.$run"
			fi
			line 'plain PostgreSQL, INSERT' "plain.known.$run"
			line message-db "messagedb.known.$run"
			line Emmett "emmett.known.$run"
		done
		table "append 1 event, new stream, 8 clients, commit $commit" /s "plain.new.8.$commit"
		line event_sourcing "es.new.8.$commit" '>= 0.95'
		line 'plain PostgreSQL, INSERT' "plain.new.8.$commit"
	done
	table 'append 1 event, any version, 8 clients, commit off' /s plain.any.8.off
	line event_sourcing es.any.8.off
	line 'plain PostgreSQL, INSERT of max + 1, which may fail' plain.any.8.off
}
