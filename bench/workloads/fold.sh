# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# fold.sh: workload fold, streams of 10 to 100,000 events to a balance: without
# any cache, and in a session that has seen the stream before.  Sourced by run.sh.

fold_lengths='10 100 1000 10000 100000'

# fold_run SERIES SCRIPT
fold_run() {
	local total=200
	[ "$length" -gt 1000 ] || total=$((200 * 1000 / length > 2000 ? 2000 : 200 * 1000 / length))
	[ "$length" -lt 10000 ] || total=$((300000 / length))
	duration "$1.$length" "$length" "$(short $total)" "$2" -D length="$length"
}

es_state='SELECT es_state(NULL::ledger, :length::text);'
es_fold() { fold_run es.fold "$es_state"; }
es_fold_plpgsql() { fold_run es.fold_plpgsql 'SELECT es_state(NULL::ledger_plpgsql, :length::text);'; }
es_fold_jsonb() { fold_run es.fold_jsonb "SELECT es_state('ledger_jsonb', :length::text);"; }
# Many calls even in quick mode, since the first one does fold.
es_fold_cached() { PGOPTIONS='' duration "es.fold_cached.$length" "$length" 5000 "$es_state" -D length="$length"; }
hand_fold() { fold_run hand.fold "SELECT plain.fold('ledger-' || :length::text);"; }
plain_sum() {
	fold_run plain.sum "SELECT sum((data ->> 'amount')::numeric) FROM es.event WHERE stream = 'ledger-' || :length::text;"
}
plain_aggregate() {
	fold_run plain.aggregate "SELECT plain.ledger(data)
FROM (SELECT data FROM es.event WHERE stream = 'ledger-' || :length::text ORDER BY version) e;"
}
plain_aggregate_sql() {
	fold_run plain.aggregate_sql "SELECT plain.ledger_sql(data)
FROM (SELECT data FROM es.event WHERE stream = 'ledger-' || :length::text ORDER BY version) e;"
}

load_fold() {
	sql >/dev/null <<-SQL
		SELECT es_append('ledger-' || length, array_agg(es_new_event('deposited',
			jsonb_build_object('id', length::text, 'amount', n + 0.25))))
		FROM unnest('{${fold_lengths// /,}}'::int[]) length, generate_series(1, length) n
		GROUP BY length;
		VACUUM ANALYZE es.event;
	SQL
}

round_fold() {
	local length
	export PGOPTIONS='-c event_sourcing.cache_size=0'
	for length in $fold_lengths; do
		turns es_fold hand_fold plain_sum es_fold_plpgsql plain_aggregate es_fold_jsonb plain_aggregate_sql es_fold_cached
	done
	unset PGOPTIONS
}

tables_fold() {
	local length to_loop to_sum
	for length in $fold_lengths; do
		to_loop='' to_sum=''
		case $length in
			1000 | 100000) to_loop='>= 5' to_sum='>= 0.5' ;;
		esac
		table "fold $length events" us/event "hand.fold.$length"
		line 'event_sourcing, SQL apply' "es.fold.$length" "$to_loop"
		line 'event_sourcing, SQL apply, stream in the cache' "es.fold_cached.$length"
		line 'event_sourcing, PL/pgSQL apply' "es.fold_plpgsql.$length"
		line 'event_sourcing, jsonb apply' "es.fold_jsonb.$length"
		line 'by hand, PL/pgSQL loop' "hand.fold.$length"
		line 'CREATE AGGREGATE over a PL/pgSQL function' "plain.aggregate.$length"
		line 'CREATE AGGREGATE over a SQL function' "plain.aggregate_sql.$length"
		line 'sum() of the amounts' "plain.sum.$length"
		against 'event_sourcing, SQL apply / sum()' "es.fold.$length" "plain.sum.$length" "$to_sum"
	done
}
