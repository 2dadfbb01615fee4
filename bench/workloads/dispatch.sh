# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# dispatch.sh: workloads dispatch and cold.  A deposit to an account whose
# stream has 10, 1,000 or 100,000 events: warm, in sessions that go on, and
# cold, as the first statement of a connection.  Sourced by run.sh, after
# project.sh.

account='\set s :client_id * :accounts + random(0, :accounts - 1)'
es_dispatch="$account
SELECT es_dispatch(ROW(:family::text || :s, 10.5)::deposit);"
hand_dispatch="$account
SELECT plain.deposit(:family::text || :s, 10.5);"
# to as many streams, without looking
plain_dispatch="\set n :n + 1
\set s :n % :accounts
\set v 1 + :n / :accounts
INSERT INTO plain.event (stream, version, type, data)
VALUES ('insert-' || :run::text || '-' || :client_id || '-' || :s, :v, 'deposited',
jsonb_build_object('id', :s::text, 'amount', 10.5));"

declare -A accounts_of=([10]=1000 [1000]=40 [100000]=8)

# ---------------------------------------------------------------------------
# Warm
# ---------------------------------------------------------------------------

# dispatch_run SERIES TOTAL SCRIPT: a run has accounts of its own, since
# it makes their streams longer
dispatch_run() {
	local family=$length-$clients-$commit-$round
	[ "$length" != 100000 ] || family=100000
	rate "$1.$length.$clients.$commit" "$clients" "$2" "$3" -D n=-1 -D run="$length-$clients-$commit-$round" \
		-D accounts="$((${accounts_of[$length]} / clients))" -D family="$family-"
}

es_warm() { dispatch_run "es.dispatch_$kind" "$(calls 16000 500)" "$es_dispatch"; }
warm_none() { with_store none es_warm; }
warm_handler() { with_store handler es_warm; }
warm_set() { with_store set es_warm; }
warm_hand() {
	local total
	case $length in
		10) total=$(calls 8000 250) ;;
		1000) total=$(calls 400 10) ;;
		100000) total=$(calls 20 1) ;;
	esac
	dispatch_run hand.dispatch "$((total < clients ? clients : total))" "$hand_dispatch"
}
warm_plain() { dispatch_run plain.dispatch "$(calls 16000 500)" "$plain_dispatch"; }

# fill_accounts TABLE: append what its rows (id, nevents) say; where bare is
# false, to the store es_handler and the plain table only
fill_accounts() {
	local store
	sql <<-SQL
		INSERT INTO history
		SELECT nevents, array_agg(CASE
			WHEN n = 1 THEN es_new_event('opened', '{"id": "account", "owner": "Ada"}')
			ELSE es_new_event('deposited', jsonb_build_object('id', 'account', 'amount', n + 0.25)) END ORDER BY n)
		FROM (SELECT DISTINCT nevents FROM $1) a, generate_series(1, nevents) n
		GROUP BY nevents
		ON CONFLICT DO NOTHING;
	SQL
	for store in none handler set; do
		sql >/dev/null <<-SQL &
			SET event_sourcing.store = 'es_$store';
			SELECT count(es_append('account-' || id, events, 0)) FROM $1 JOIN history USING (nevents) WHERE bare OR '$store' = 'handler';
		SQL
	done
	wait
	sql <<-SQL
		INSERT INTO plain.event (stream, version, type, data)
		SELECT stream, version, type, data FROM es_handler.event ORDER BY position;
		INSERT INTO balance SELECT id, 0 FROM $1;
		INSERT INTO balance_set SELECT id, 0 FROM $1;
		INSERT INTO plain.balance SELECT id, 0 FROM $1;
	SQL
}

fill_warm_accounts() {
	sql <<-SQL
		CREATE TABLE warm AS
		SELECT format('%s-%s-%s-%s', nevents, run, round, n) AS id, nevents, true AS bare
		FROM (VALUES (10, ${accounts_of[10]}), (1000, ${accounts_of[1000]})) kinds (nevents, accounts),
			unnest('{1-off,8-off,32-off,8-on}'::text[]) run, generate_series(1, $rounds) round,
			generate_series(0, accounts - 1) n
		UNION ALL
		SELECT format('100000-%s', n), 99999, true FROM generate_series(0, ${accounts_of[100000]} - 1) n;
	SQL
	fill_accounts warm
}

load_dispatch() {
	local kind
	drop_account_stores
	create_account_stores fill_warm_accounts
	sql -c 'VACUUM ANALYZE'
	# The last event makes a state snapshot, as there would be one.
	for kind in none handler set; do
		sql -c "SET event_sourcing.store = 'es_$kind'" \
			-c 'SELECT count(es_dispatch(ROW(id, 1)::deposit)) FROM warm WHERE nevents = 99999' >/dev/null
	done
}

round_dispatch() {
	local clients commit=off length
	export PGOPTIONS='-c synchronous_commit=off'
	for length in 10 1000 100000; do
		for clients in 1 8 32; do
			if [ "$clients.$length" = 32.100000 ]; then
				continue
			fi
			turns warm_none warm_plain warm_handler warm_hand warm_set
		done
	done
	commit=on clients=8
	export PGOPTIONS='-c synchronous_commit=on'
	for length in 10 1000; do
		turns warm_handler warm_plain warm_hand
	done
	unset PGOPTIONS
}

tables_dispatch() {
	local run length clients commit to_plain to_hand
	for run in '10 1 off' '10 8 off' '10 32 off' '10 8 on' \
		'1000 1 off' '1000 8 off' '1000 32 off' '1000 8 on' '100000 1 off' '100000 8 off'; do
		read -r length clients commit <<<"$run"
		run=$length.$clients.$commit to_plain='' to_hand=''
		[ "$length.$clients" != 1000.8 ] || to_plain='>= 0.5'
		case $length in
			10) to_hand='>= 1.3' ;;
			1000) to_hand='>= 5' ;;
		esac
		table "dispatch, stream of $length events, $(crowd), commit $commit" /s "plain.dispatch.$run"
		line 'event_sourcing, no projection' "es.dispatch_none.$run"
		line 'event_sourcing, handler projection' "es.dispatch_handler.$run" "$to_plain"
		line 'event_sourcing, set-based projection' "es.dispatch_set.$run"
		line 'plain PostgreSQL, INSERT of that event' "plain.dispatch.$run"
		line 'by hand, PL/pgSQL function with an upsert' "hand.dispatch.$run"
		against 'event_sourcing, handler projection / by hand' "es.dispatch_handler.$run" "hand.dispatch.$run" "$to_hand"
	done
}

# ---------------------------------------------------------------------------
# Cold
# ---------------------------------------------------------------------------

cold_accounts=20

# cold_run SERIES FAMILY SCRIPT
cold_run() {
	local total
	total=$((clients * $(short 20)))
	first "$1.$clients" "$clients" "$total" "$3" \
		-D accounts="$((cold_accounts / clients))" -D family="$2-" -D n=-1 -D run="cold-$clients-$round"
}

es_cold() { cold_run "es.cold_$kind.10" cold10 "$es_dispatch"; }
cold_none() { with_store none es_cold; }
cold_handler() { with_store handler es_cold; }
cold_set() { with_store set es_cold; }
cold_hand() { cold_run hand.cold.10 cold10 "$hand_dispatch"; }
cold_plain() { cold_run plain.cold.10 "cold-$clients" "$plain_dispatch"; }
es_cold_long() { cold_run "es.cold_fold.$length" "cold$length" "$es_dispatch"; }
es_cold_kept() { cold_run "es.cold_kept.$length" "kept$length" "$es_dispatch"; }
cold_long() { with_store handler es_cold_long; }
cold_kept() { with_store handler es_cold_kept; }
cold_hand_long() { cold_run "hand.cold.$length" "cold$length" "$hand_dispatch"; }

fill_cold_accounts() {
	sql <<-SQL
		CREATE TABLE cold AS
		SELECT format('%s-%s', kind, n) AS id, nevents, nevents = 10 AS bare
		FROM (VALUES ('cold10', 10), ('cold1000', 1000), ('kept1000', 999),
				('cold100000', 100000), ('kept100000', 99999)) kinds (kind, nevents),
			generate_series(0, CASE WHEN nevents < 99999 THEN $cold_accounts - 1 ELSE 0 END) n;
	SQL
	fill_accounts cold
}

load_cold() {
	drop_account_stores
	create_account_stores fill_cold_accounts
	# This makes their state snapshots.
	sql -c 'VACUUM ANALYZE' -c "SET event_sourcing.store = 'es_handler'" \
		-c "SELECT count(es_dispatch(ROW(id, 1)::deposit)) FROM cold WHERE nevents IN (999, 99999)" >/dev/null
}

round_cold() {
	local clients length
	export PGOPTIONS='-c synchronous_commit=off'
	for clients in 1 8; do
		length=10
		turns cold_none cold_plain cold_handler cold_hand cold_set
		length=1000
		turns cold_long cold_hand_long cold_kept
	done
	clients=1 length=100000 cold_accounts=1
	turns cold_long cold_hand_long cold_kept
	cold_accounts=20
	unset PGOPTIONS
}

tables_cold() {
	local clients length run
	for clients in 1 8; do
		table "first dispatch of a connection, stream of 10 events, $(crowd)" ms "plain.cold.10.$clients"
		line 'event_sourcing, no projection' "es.cold_none.10.$clients"
		if [ "$clients" = 1 ]; then
			line 'event_sourcing, handler projection' "es.cold_handler.10.$clients" '< 3 ms'
		else
			line 'event_sourcing, handler projection' "es.cold_handler.10.$clients"
		fi
		line 'event_sourcing, set-based projection' "es.cold_set.10.$clients"
		line 'plain PostgreSQL, first INSERT' "plain.cold.10.$clients"
		line 'by hand, PL/pgSQL function with an upsert' "hand.cold.10.$clients"
	done
	for run in 1000.1 1000.8 100000.1; do
		length=${run%.*} clients=${run#*.}
		table "first dispatch of a connection, stream of $length events, $(crowd)" ms "hand.cold.$run"
		line 'event_sourcing, folding all of it' "es.cold_fold.$run"
		line 'event_sourcing, from a state snapshot' "es.cold_kept.$run"
		line 'by hand, PL/pgSQL function with an upsert' "hand.cold.$run"
	done
}
