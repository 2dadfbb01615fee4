# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# peers.sh: two event stores that keep their SQL on npm, each in databases of
# its own beside ours: message-db (message_db, message_db_read) and Emmett
# (emmett, emmett_read).  They are fetched at run time and never become part of
# this project.  Sourced by run.sh; sets peers to the names of those that are
# there.
#
# Both are called as their clients call them, with what a client computes (the
# message id) computed by the server for all: pgbench prepares the statement.

message_db_package=@eventide/message-db@1.3.1
emmett_package=@event-driven-io/emmett-postgresql@0.42.0

peers=()

load_peers() {
	local dir=$ES_WORK/peers

	if [ "${BENCH_PEERS:-1}" = 0 ]; then
		say 'message-db and Emmett are left out, as asked'
	elif ! command -v npm >/dev/null || ! command -v node >/dev/null; then
		say 'message-db and Emmett are left out: npm is not installed'
	elif ! fetch_peers "$dir"; then
		say 'message-db and Emmett are left out: the npm registry is not reachable'
	else
		load_message_db "$dir/node_modules/@eventide/message-db/database"
		load_emmett "$dir"
		peers=(messagedb emmett)
	fi
}

fetch_peers() {
	mkdir -p "$1" && cd "$1" && echo '{}' >package.json &&
		timeout 180 npm install --silent --ignore-scripts --no-audit --no-fund \
			--fetch-retries=1 --fetch-timeout=30000 "$message_db_package" "$emmett_package" \
			>npm.log 2>&1
} 2>/dev/null

# peer_database NAME SEARCH_PATH: an empty database
peer_database() {
	sql -c "CREATE DATABASE $1" -c "ALTER DATABASE $1 SET search_path = $2"
	PGDATABASE=$1 sql -c "CREATE TABLE payload (data jsonb)" \
		-c "INSERT INTO payload VALUES (\$payload\$$payload\$payload\$)"
}

# The files in the order of the package's install.sh, which wants a server of
# its own.
load_message_db() {
	local base=$1 database file

	for database in message_db message_db_read; do
		peer_database $database 'message_store, public'
		for file in roles/message-store schema/message-store extensions/pgcrypto tables/messages types/message \
			functions/{message-store-version,hash-64,acquire-lock,category,is-category,id,cardinal-id} \
			functions/{stream-version,write-message,get-stream-messages,get-category-messages} \
			functions/get-last-stream-message indexes/messages-{id,stream,category}; do
			PGOPTIONS='-c client_min_messages=error' PGDATABASE=$database sql -f "$base/$file.sql" >/dev/null
		done
	done
}

# Emmett's client prints the statements with which it would make its schema.
load_emmett() {
	local database schema=$ES_WORK/emmett.sql

	(cd "$1" && node --input-type=module -e '
		import { getPostgreSQLEventStore } from "@event-driven-io/emmett-postgresql";
		const store = getPostgreSQLEventStore("postgresql://localhost/unused");
		console.log(store.schema.sql());
		await store.close();') >"$schema"
	for database in emmett emmett_read; do
		peer_database $database public
		PGOPTIONS='-c client_min_messages=error' PGDATABASE=$database sql -f "$schema" >/dev/null
	done
}

# peer_streams PEER SUFFIX FAMILY STREAMS EVENTS: streams FAMILY-0, FAMILY-1, ...
# with that many events, written straight into the tables of PEER's database
peer_streams() {
	local family=$3 streams=$4 events=$5
	case $1 in
		messagedb)
			PGDATABASE=message_db$2 sql <<-SQL
				INSERT INTO messages (stream_name, position, type, data)
				SELECT '$family-' || s, v, 'deposited', data
				FROM payload, generate_series(0, $streams - 1) s, generate_series(0, $events - 1) v
				ORDER BY s, v;
				VACUUM ANALYZE messages;
			SQL
			;;
		emmett)
			PGDATABASE=emmett$2 sql <<-SQL
				INSERT INTO emt_streams (stream_id, stream_position, stream_type, stream_metadata)
				SELECT '$family-' || s, $events, '$family', '{}' FROM generate_series(0, $streams - 1) s;
				INSERT INTO emt_messages (stream_id, stream_position, transaction_id, message_schema_version,
					message_id, message_type, message_data, message_metadata)
				SELECT '$family-' || s, v, pg_current_xact_id(), '1', gen_random_uuid(), 'deposited', data, '{}'
				FROM payload, generate_series(0, $streams - 1) s, generate_series(1, $events) v
				ORDER BY s, v;
				VACUUM ANALYZE emt_streams, emt_messages;
			SQL
			;;
	esac
}
