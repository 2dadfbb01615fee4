# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# async.sh: workload async, what runs behind the writers: projections that catch
# up over the events of workload rebuild, a pulled subscription, the time from a
# commit to its handling by an idle worker, and what subscriptions that want
# nothing cost the writers.  Sourced by run.sh, after rebuild.sh.

# catch_up SERIES PROJECTION PROCEDURE: one from the beginning, in the foreground
catch_up() {
	sql -c "SET event_sourcing.store = 'rebuild_es'" -c "SELECT es_drop_projection('$2')" -c "TRUNCATE $2" \
		-c "CALL $3('async')" >/dev/null
	PGOPTIONS="$PGOPTIONS -c event_sourcing.store=rebuild_es" elapsed "$1" 'SELECT es_run()'
}
async_set() { catch_up es.async_set balance_set project_by_set; }
async_handler() { catch_up es.async_handler balance project_by_handler; }
async_insert() { elapsed plain.async_insert 'SELECT plain.rebuild_insert()'; }
async_loop() { elapsed hand.async_loop 'SELECT plain.rebuild_loop()'; }

# Each call takes 100 events and says that the 100 before are done; positions
# have no gaps here.
pull_subscription="SELECT * FROM es_fetch('pulled', 'c', 100, ack => :p);
\set p :p + 100"
pull_feed='SELECT * FROM es_read_all(:p, 100);
\set p :p + 100'
pull_calls=$(short 2000)

async_pull() {
	sql -c "SET event_sourcing.store = 'rebuild_es'" -c "SELECT es_drop_subscription('pulled')" \
		-c "SELECT es_create_subscription('pulled')" >/dev/null
	PGOPTIONS="$PGOPTIONS -c event_sourcing.store=rebuild_es" \
		duration es.async_pull 100 "$pull_calls" "$pull_subscription" -D p=0
}
async_read() {
	PGOPTIONS="$PGOPTIONS -c event_sourcing.store=rebuild_es" \
		duration es.async_read 100 "$pull_calls" "$pull_feed" -D p=0
}

# Writers beside a worker: to a store with ten handlers of events that do not
# come, and to one with none.
idle_append='\set s random(1, 1000000000000000000)
SELECT es_append('"'quiet-' || :s::text, 'deposited', '{}'::jsonb, NULL, 0"');'
async_write() {
	PGOPTIONS="$PGOPTIONS -c event_sourcing.store=es_quiet_$1" \
		rate "es.async_$1.8" 8 "$(short 80000)" "$idle_append"
}
without_subscriptions() { async_write none; }
with_subscriptions() { async_write ten; }

# One event at a time, and each only when the worker has long been asleep.
async_latency() {
	local value
	sql -c 'TRUNCATE handled' >/dev/null
	PGOPTIONS="$PGOPTIONS -c event_sourcing.store=es_prompt" transactions 1 "$(short 500)" \
		'SELECT es_append('"'prompt', 'asked', '{}'::jsonb"');
\sleep 20 ms' >/dev/null
	until [ "$(sql -c 'SELECT count(*) FROM handled')" = "$(short 500)" ]; do :; done
	for value in 0.5 0.99; do
		record "es.async_latency.$value" "$(sql -c "SELECT 1000 * extract(epoch FROM
			percentile_disc($value) WITHIN GROUP (ORDER BY handled_at - recorded_at)) FROM handled")"
	done
}

load_async() {
	[ -n "$(sql -c "SELECT to_regnamespace('rebuild_es')")" ] || load_rebuild
	sql >/dev/null <<-'SQL'
		SET event_sourcing.store = 'rebuild_es';
		SELECT es_create_subscription('pulled');

		SELECT es_create_store('es_quiet_none'), es_create_store('es_quiet_ten');
		SET event_sourcing.store = 'es_quiet_ten';
		CREATE TYPE never AS (id text);
		CREATE FUNCTION handle_never(e never) RETURNS void LANGUAGE sql AS 'SELECT';
		SELECT es_create_handler('never_' || n, 'handle_never') FROM generate_series(1, 10) n;

		SELECT es_create_store('es_prompt');
		SET event_sourcing.store = 'es_prompt';
		CREATE UNLOGGED TABLE handled (recorded_at timestamptz, handled_at timestamptz);
		CREATE FUNCTION handle_promptly(e es_event) RETURNS void
		LANGUAGE sql AS 'INSERT INTO bench.handled VALUES (e.recorded_at, clock_timestamp())';
		SELECT es_create_handler('prompt', 'handle_promptly');
	SQL
}

round_async() {
	export PGOPTIONS='-c synchronous_commit=off'
	turns async_set async_insert async_handler async_loop
	turns async_pull async_read
	sql -c 'SELECT es_start_worker()' >/dev/null
	turns without_subscriptions with_subscriptions
	async_latency
	sql -c 'SELECT es_stop_worker()' >/dev/null
	unset PGOPTIONS
}

tables_async() {
	table "async projection catches up over $rebuild_events events" s plain.async_insert
	line 'event_sourcing, set-based projection' es.async_set '>= 0.5'
	line 'event_sourcing, handler projection' es.async_handler
	line 'plain PostgreSQL, INSERT ... SELECT ... GROUP BY' plain.async_insert
	line 'by hand, PL/pgSQL loop with an upsert' hand.async_loop
	against 'event_sourcing, handler / PL/pgSQL loop' es.async_handler hand.async_loop '>= 0.7'

	table 'pull a subscription, 100 events at a time, 1 consumer' us/event es.async_read
	line 'event_sourcing, es_fetch() with ack' es.async_pull '>= 0.7'
	line 'event_sourcing, es_read_all()' es.async_read

	table 'append 1 event beside a worker, 8 clients, commit off' /s es.async_none.8
	line 'event_sourcing, 10 subscriptions that do not want it' es.async_ten.8 '>= 0.97'
	line 'event_sourcing, no subscription' es.async_none.8

	table 'from an append to its handling by an idle worker' ms ''
	line 'event_sourcing, median' es.async_latency.0.5
	line 'event_sourcing, 99 of 100' es.async_latency.0.99 '< 5 ms'
}
