# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# rebuild.sh: workload rebuild, a projection over 1,000,000 events (200,000 in
# quick mode) of 10,000 streams from the beginning.  Sourced by run.sh.

rebuild_events=$(short 1000000)

rebuild_handler() { PGOPTIONS="$PGOPTIONS -c event_sourcing.store=rebuild_es" \
	elapsed es.rebuild_handler "SELECT es_rebuild_projection('balance')"; }
rebuild_set() { PGOPTIONS="$PGOPTIONS -c event_sourcing.store=rebuild_es" \
	elapsed es.rebuild_set "SELECT es_rebuild_projection('balance_set')"; }
rebuild_insert() { elapsed plain.rebuild_insert 'SELECT plain.rebuild_insert()'; }
rebuild_loop() { elapsed hand.rebuild_loop 'SELECT plain.rebuild_loop()'; }

# The events of all streams lie in turns, as they would come.
load_rebuild() {
	sql >/dev/null <<-SQL
		SELECT es_create_store('rebuild_es');
		SET event_sourcing.store = 'rebuild_es';
		CREATE FUNCTION pg_temp.post(turn int) RETURNS bigint
		LANGUAGE sql AS '
			SELECT count(es_append(''account-'' || s, ARRAY(
				SELECT es_new_event(''deposited'', jsonb_build_object(''id'', ''r-'' || s, ''amount'', turn * 10 + n + 0.25))
				FROM generate_series(1, 10) n)))
			FROM generate_series(0, 9999) s';
		SELECT pg_temp.post(turn) FROM generate_series(0, $((rebuild_events / 100000 - 1))) turn;
		CALL project_by_handler();
		CALL project_by_set();
		VACUUM ANALYZE rebuild_es.event;
	SQL
	sql <<-'SQL'
		CREATE FUNCTION plain.rebuild_insert() RETURNS void
		LANGUAGE sql AS $$
			TRUNCATE plain.balance;
			INSERT INTO plain.balance
			SELECT data ->> 'id', sum((data ->> 'amount')::numeric) FROM rebuild_es.event WHERE type = 'deposited' GROUP BY 1
		$$;
		CREATE FUNCTION plain.rebuild_loop() RETURNS void
		LANGUAGE plpgsql AS $$
		DECLARE
			e record;
		BEGIN
			TRUNCATE plain.balance;
			FOR e IN SELECT type, data FROM rebuild_es.event ORDER BY position LOOP
				IF e.type = 'deposited' THEN
					INSERT INTO plain.balance AS b VALUES (e.data ->> 'id', (e.data ->> 'amount')::numeric)
					ON CONFLICT (id) DO UPDATE SET amount = b.amount + EXCLUDED.amount;
				END IF;
			END LOOP;
		END $$;
	SQL
}

round_rebuild() {
	export PGOPTIONS='-c synchronous_commit=off'
	turns rebuild_set rebuild_insert rebuild_handler rebuild_loop
	unset PGOPTIONS
}

tables_rebuild() {
	table "rebuild a projection over $rebuild_events events" s plain.rebuild_insert
	line 'event_sourcing, set-based projection' es.rebuild_set
	line 'event_sourcing, handler projection' es.rebuild_handler
	line 'plain PostgreSQL, INSERT ... SELECT ... GROUP BY' plain.rebuild_insert
	line 'by hand, PL/pgSQL loop with an upsert' hand.rebuild_loop
	against 'event_sourcing, handler / PL/pgSQL loop' es.rebuild_handler hand.rebuild_loop ''
}
