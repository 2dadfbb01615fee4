# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# read.sh: workload read, of 200,000 events in 2,000 streams of 100: a stream,
# a category and the whole feed.  The client gets the rows.  Sourced by run.sh.

# The feed from the first event to the last, 1,000 at a time.
next_page='\set after :after + :step'
es_read_feed="$next_page
SELECT * FROM es_read_all(:after, 1000);"
plain_read_feed="$next_page
SELECT * FROM read_es.event WHERE position > :after ORDER BY position LIMIT 1000;"
# the same without sending the rows
es_count_feed="$next_page
SELECT count(data) FROM es_read_all(:after, 1000);"
plain_count_feed="$next_page
SELECT count(data) FROM (SELECT * FROM read_es.event WHERE position > :after ORDER BY position LIMIT 1000) e;"
# Emmett's readMessagesBatch() has no index that helps it
emmett_read_feed="$next_page
SELECT stream_id, stream_position, global_position, message_data, message_metadata, message_schema_version, message_type,
message_id FROM emt_messages
WHERE partition = E'emt\x3adefault' AND is_archived = FALSE AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
AND global_position >= :after + 1
ORDER BY transaction_id, global_position LIMIT 1000;"

# One category of two: half the events.
es_read_category="$next_page
SELECT * FROM es_read_all(:after, 1000, categories => '{account}');"
plain_read_category="$next_page
SELECT * FROM read_es.event WHERE position > :after AND split_part(stream, '-', 1) = 'account' ORDER BY position LIMIT 1000;"
messagedb_read_category="$next_page
SELECT * FROM get_category_messages('account', :after + 1, 1000);"

random_stream='\set s random(0, 999)'
es_read_stream="$random_stream
SELECT * FROM es_read_stream('account-' || :s::text);"
plain_read_stream="$random_stream
SELECT * FROM read_es.event WHERE stream = 'account-' || :s::text ORDER BY version;"
messagedb_read_stream="$random_stream
SELECT * FROM get_stream_messages('account-' || :s::text, 0, 1000);"
emmett_read_stream="$random_stream
SELECT stream_id, stream_position, global_position, message_data, message_metadata, message_schema_version, message_type,
message_id FROM emt_messages
WHERE stream_id = 'account-' || :s::text AND partition = E'emt\x3adefault' AND is_archived = FALSE
ORDER BY stream_position ASC;"

# page_run SERIES PAGES SCRIPT: that many pages, spread over all events
page_run() { duration "$1" 1000 "$2" "$3" -D step="$((200000 / $2))" -D after="-$((200000 / $2))"; }

es_feed() { page_run es.feed "$(short 200)" "$es_read_feed"; }
plain_feed() { page_run plain.feed "$(short 200)" "$plain_read_feed"; }
emmett_feed() { PGDATABASE=emmett_read page_run emmett.feed 5 "$emmett_read_feed"; }
es_count() { page_run es.count "$(short 200)" "$es_count_feed"; }
plain_count() { page_run plain.count "$(short 200)" "$plain_count_feed"; }
es_category() { page_run es.category "$(short 100)" "$es_read_category"; }
plain_category() { page_run plain.category "$(short 100)" "$plain_read_category"; }
messagedb_category() { PGDATABASE=message_db_read page_run messagedb.category "$(short 100)" "$messagedb_read_category"; }
es_stream() { duration es.stream 100 "$(short 2000)" "$es_read_stream"; }
plain_stream() { duration plain.stream 100 "$(short 2000)" "$plain_read_stream"; }
messagedb_stream() { PGDATABASE=message_db_read duration messagedb.stream 100 "$(short 2000)" "$messagedb_read_stream"; }
emmett_stream() { PGDATABASE=emmett_read duration emmett.stream 100 "$(short 2000)" "$emmett_read_stream"; }

load_read() {
	local peer
	sql >/dev/null <<-'SQL'
		SELECT es_create_store('read_es');
		SET event_sourcing.store = 'read_es';
		SELECT count(es_append(category || '-' || s, events))
		FROM generate_series(0, 999) s, unnest('{account,order}'::text[]) category,
			(SELECT array_agg(es_new_event('deposited', data)) FROM payload, generate_series(1, 100)) e (events);
		VACUUM ANALYZE read_es.event;
	SQL
	for peer in "${peers[@]}"; do
		peer_streams "$peer" _read account 1000 100
		peer_streams "$peer" _read order 1000 100
	done
}

round_read() {
	local feed=() category=()
	[ ${#peers[@]} = 0 ] || feed=(emmett_feed) category=(messagedb_category)
	export PGOPTIONS='-c event_sourcing.store=read_es'
	turns es_stream plain_stream "${peers[@]/%/_stream}"
	turns es_category plain_category "${category[@]}"
	turns es_feed plain_feed "${feed[@]}"
	turns es_count plain_count
	unset PGOPTIONS
}

tables_read() {
	table 'read a stream of 100 events' us/event plain.stream
	line event_sourcing es.stream
	line 'plain PostgreSQL, SELECT' plain.stream
	line message-db messagedb.stream
	line Emmett emmett.stream
	table 'follow one category of two, 1,000 of 100,000 at a time' us/event plain.category
	line event_sourcing es.category
	line 'plain PostgreSQL, SELECT' plain.category
	line message-db messagedb.category
	table 'follow the feed, 1,000 of 200,000 at a time' us/event plain.feed
	line event_sourcing es.feed '>= 0.9'
	line 'plain PostgreSQL, SELECT, which may miss events' plain.feed
	line Emmett emmett.feed
	table 'the same, counted on the server' us/event plain.count
	line event_sourcing es.count
	line 'plain PostgreSQL, SELECT, which may miss events' plain.count
}
