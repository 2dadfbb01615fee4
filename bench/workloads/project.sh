# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154  # shared by the files that run.sh sources
# project.sh: workload project, a read model of balances kept in the transaction
# that appends: by nothing, by a handler for each event, by one statement for
# all events of an append, and by hand-written triggers.  Sourced by run.sh,
# after append.sh.

# One event to a new stream, 10,000 rows in the read model.
es_append_projected="$new_stream
\set k random(0, 9999)
SELECT es_append('new-' || :s::text, 'deposited', jsonb_build_object('id', 'p-' || :k::text, 'amount', 1.5), NULL, 0);"
plain_insert_projected="$new_stream
\set k random(0, 9999)
INSERT INTO :table (stream, version, type, data)
VALUES ('new-' || :s::text, 1, 'deposited', jsonb_build_object('id', 'p-' || :k::text, 'amount', 1.5));"

# 1,000 events to a new stream, about 50 accounts.
es_append_projected_batch="$new_stream
SELECT es_append('batch-' || :s::text, events, 0) FROM deposits;"
plain_insert_projected_batch="$new_stream
INSERT INTO :table (stream, version, type, data)
SELECT 'batch-' || :s::text, ordinality, 'deposited', e.data
FROM deposits d, unnest(d.data) WITH ORDINALITY e (data);"

es_project() { rate "es.project_$kind.8" 8 "$(short 8000)" "$es_append_projected"; }
es_project_batch() { duration "es.project_$kind.1000" 1000 "$(short 20)" "$es_append_projected_batch"; }
plain_project() { rate "plain.project_$1.8" 8 "$(short 8000)" "${plain_insert_projected/:table/plain.$1}"; }
plain_project_batch() {
	duration "plain.project_$1.1000" 1000 "$(short 20)" "${plain_insert_projected_batch/:table/plain.$1}"
}

# with_store KIND COMMAND: run it with the store es_KIND
with_store() {
	local kind=$1
	PGOPTIONS="-c synchronous_commit=${commit:-off} -c event_sourcing.store=es_$kind" "$2"
}

project_none() { with_store none es_project; }
project_handler() { with_store handler es_project; }
project_set() { with_store set es_project; }
project_plain() { plain_project event; }
project_row_trigger() { plain_project row_trigger; }
project_set_trigger() { plain_project set_trigger; }
batch_none() { with_store none es_project_batch; }
batch_handler() { with_store handler es_project_batch; }
batch_set() { with_store set es_project_batch; }
batch_plain() { plain_project_batch event; }
batch_row_trigger() { plain_project_batch row_trigger; }
batch_set_trigger() { plain_project_batch set_trigger; }

# The stores es_none, es_handler and es_set; those of workload dispatch too.
# create_account_stores COMMAND: COMMAND fills them, before they get their
# projections, which so see nothing of it
create_account_stores() {
	sql <<-'SQL'
		CALL create_account_store('es_none');
		CALL create_account_store('es_handler');
		CALL create_account_store('es_set');
	SQL
	"$1"
	sql <<-'SQL'
		SET event_sourcing.store = 'es_handler';
		CALL project_by_handler();
		SET event_sourcing.store = 'es_set';
		CALL project_by_set();
	SQL
}

drop_account_stores() {
	sql <<-'SQL'
		SET client_min_messages = warning;
		DROP SCHEMA IF EXISTS es_none, es_handler, es_set CASCADE;
		TRUNCATE balance, balance_set, plain.balance;
	SQL
}

load_project() {
	drop_account_stores
	create_account_stores :
	sql <<-'SQL'
		CREATE TABLE deposits AS
		SELECT array_agg(es_new_event('deposited', data)) AS events, array_agg(data) AS data
		FROM generate_series(1, 1000) n,
			jsonb_build_object('id', 'p-' || n * 7919 % 50, 'amount', n + 0.25) data;
		INSERT INTO balance SELECT 'p-' || n, 0 FROM generate_series(0, 9999) n;
		INSERT INTO balance_set TABLE balance;
		INSERT INTO plain.balance TABLE balance;
		VACUUM ANALYZE balance, balance_set, plain.balance, deposits;
	SQL
}

round_project() {
	export PGOPTIONS='-c synchronous_commit=off'
	turns project_none project_plain project_handler project_row_trigger project_set project_set_trigger
	turns batch_none batch_plain batch_handler batch_row_trigger batch_set batch_set_trigger
	unset PGOPTIONS
}

tables_project() {
	table 'append 1 event with an inline projection, 8 clients, commit off' /s plain.project_event.8
	line 'event_sourcing, no projection' es.project_none.8
	line 'event_sourcing, handler projection' es.project_handler.8
	line 'event_sourcing, set-based projection' es.project_set.8
	line 'plain PostgreSQL, no projection' plain.project_event.8
	line 'by hand, row trigger' plain.project_row_trigger.8
	line 'by hand, statement trigger' plain.project_set_trigger.8
	against 'event_sourcing, handler / row trigger' es.project_handler.8 plain.project_row_trigger.8 ''

	table 'append 1,000 events with an inline projection of 50 rows' us/event plain.project_event.1000
	line 'event_sourcing, no projection' es.project_none.1000
	line 'event_sourcing, handler projection' es.project_handler.1000
	line 'event_sourcing, set-based projection' es.project_set.1000
	line 'plain PostgreSQL, no projection' plain.project_event.1000
	line 'by hand, row trigger' plain.project_row_trigger.1000
	line 'by hand, statement trigger' plain.project_set_trigger.1000
	against 'event_sourcing, handler / row trigger' es.project_handler.1000 plain.project_row_trigger.1000 ''
	against 'event_sourcing, set-based / statement trigger' es.project_set.1000 plain.project_set_trigger.1000 ''
}
