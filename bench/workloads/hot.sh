# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# hot.sh: workload hot, all clients append to one stream, whatever its version
# is.  Sourced by run.sh, after append.sh.

es_append_hot="SELECT es_append('hot', 'deposited', :data::jsonb);"
# by hand: a row that holds the version goes first
plain_insert_hot="WITH head AS (UPDATE plain.head SET version = version + 1 WHERE stream = 'hot' RETURNING version)
INSERT INTO plain.event (stream, version, type, data) SELECT 'hot', version, 'deposited', :data FROM head;"
messagedb_write_hot="SELECT write_message(gen_random_uuid()::varchar, 'hot-1', 'deposited', :data::jsonb);"
# Emmett looks for the version without a lock; the call returns success = false
# when another was faster, and its client has to begin again
emmett_append_hot="$emmett_append 'hot-0', 'hot', NULL, E'emt\x3adefault');"

# hot_run SERIES TOTAL SCRIPT: here a call that fails ends the run
hot_run() {
	rate "$1.hot.$clients.$commit" "$clients" "$2" "$3"
	record "$1.failed.$clients.$commit" 0
}

es_hot() { hot_run es "$(short $((clients > 8 ? 3200 : 6000)))" "$es_append_hot"; }
plain_hot() { hot_run plain "$(short $((clients > 8 ? 3200 : 6000)))" "$plain_insert_hot"; }
messagedb_hot() { PGDATABASE=message_db hot_run messagedb "$(short $((clients > 8 ? 1600 : 3000)))" "$messagedb_write_hot"; }

# Only what succeeded counts: the stream's growth.
emmett_hot() {
	local calls before tps grown
	calls=$(($(short $((clients > 8 ? 1600 : 3000))) / clients * clients))
	before=$(emmett_hot_version)
	tps=$(PGDATABASE=emmett transactions "$clients" "$calls" "$emmett_append_hot" | awk '/^tps/ { print $3 }')
	grown=$(($(emmett_hot_version) - before))
	record "emmett.hot.$clients.$commit" "$(awk "BEGIN { print $tps * $grown / $calls }")"
	record "emmett.failed.$clients.$commit" "$(awk "BEGIN { print 100 * (1 - $grown / $calls) }")"
}

emmett_hot_version() {
	PGDATABASE=emmett sql -c "SELECT stream_position FROM emt_streams WHERE stream_id = 'hot-0'"
}

load_hot() {
	local peer
	sql -c "INSERT INTO plain.head VALUES ('hot', 0)"
	for peer in "${peers[@]}"; do
		peer_streams "$peer" '' hot 1 1
	done
}

round_hot() {
	local clients commit
	for commit in off on; do
		export PGOPTIONS="-c synchronous_commit=$commit"
		for clients in 8 32; do
			turns es_hot plain_hot "${peers[@]/%/_hot}"
		done
	done
	unset PGOPTIONS
}

tables_hot() {
	local clients commit run target
	for commit in off on; do
		for clients in 8 32; do
			run=$clients.$commit target=''
			[ "$clients" != 8 ] || target='>= 1.0'
			table "append 1 event to one hot stream, $(crowd), commit $commit" /s "plain.hot.$run"
			line event_sourcing "es.hot.$run" "$target"
			line 'plain PostgreSQL, UPDATE of a head row and INSERT' "plain.hot.$run"
			line message-db "messagedb.hot.$run"
			line 'Emmett, the calls that succeed' "emmett.hot.$run"
			table "calls that fail on one hot stream, $(crowd), commit $commit" % "plain.failed.$run"
			line event_sourcing "es.failed.$run" 0
			line 'plain PostgreSQL, UPDATE of a head row and INSERT' "plain.failed.$run"
			line message-db "messagedb.failed.$run"
			line Emmett "emmett.failed.$run"
		done
	done
}
