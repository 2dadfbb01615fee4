#!/bin/bash
# age.sh: does a session get slower or bigger with age?  ("make bench-age")
#
# One session makes 10,000,000 calls, each in a transaction of its own: of four,
# one es_append, one es_dispatch and two es_read_stream, on 1,000 accounts.
# After every tenth of them it says what a call costs and how much memory the
# backend has.  The store grows meanwhile, so the old session is compared with a
# new one that does the same in turns with it.
#
# Environment, besides that of test/server.sh:
#   BENCH_CALLS   calls (default 10000000)
#   BENCH_QUICK   1: a hundredth of them
#
# Leaves age-raw.csv, age-summary.csv in ES_RESULTS.

set -euo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=bench/measure.sh
. "$here/measure.sh"

calls=${BENCH_CALLS:-10000000}
[ "$quick" != 1 ] || calls=$((calls / 100))
turn=$((calls / 100)) # calls of one turn at the end

create_work() {
	sql <<-'SQL'
		SET client_min_messages = warning;
		CALL create_account_store('es_age');
		ALTER DATABASE bench SET event_sourcing.store = 'es_age';
		ALTER DATABASE bench SET synchronous_commit = off;
	SQL
	sql >/dev/null <<-'SQL'
		SELECT es_append('account-' || n, 'opened', jsonb_build_object('id', n::text, 'owner', 'Ada'))
		FROM generate_series(0, 999) n;
		CREATE PROCEDURE work(ncalls bigint)
		LANGUAGE plpgsql AS $$
		DECLARE
			id text;
		BEGIN
			FOR n IN 1..ncalls / 4 LOOP
				id := (n * 7919 % 1000)::text;
				PERFORM es_append('account-' || id, 'deposited', jsonb_build_object('id', id, 'amount', 1.5));
				COMMIT;
				PERFORM es_dispatch(ROW(id, 2.5)::deposit);
				COMMIT;
				PERFORM count(*) FROM es_read_stream('account-' || id, 1, 10);
				COMMIT;
				PERFORM count(*) FROM es_read_stream('account-' || id, 1, 10);
				COMMIT;
			END LOOP;
		END $$;
		-- a value of the backend's own /proc/PID/status in kB
		CREATE FUNCTION memory(field text) RETURNS bigint
		LANGUAGE sql AS $$
			SELECT substring(pg_read_file('/proc/self/status') FROM field || ':\s*(\d+)')::bigint
		$$;
	SQL
}

# The two sessions get their commands through pipes and answer with one line.
declare -A to=() from=()

# session NAME: start it
session() {
	local in=$ES_WORK/$1.in out=$ES_WORK/$1.out fd
	mkfifo "$in" "$out"
	sql <"$in" >"$out" &
	exec {fd}>"$in"
	to[$1]=$fd
	exec {fd}<"$out"
	from[$1]=$fd
}

# in_session NAME CALLS: sets microseconds, those of a call, and memory, in kB
in_session() {
	local began answer
	echo "SELECT 'ready';" >&"${to[$1]}"
	read -r answer <&"${from[$1]}"
	[ "$answer" = ready ] || die "the session says: $answer"
	began=$(date +%s%N)
	# in pieces, since a procedure that never ends keeps memory of its own
	seq $(($2 / 1000)) | sed 's/.*/CALL work(1000);/' >&"${to[$1]}"
	echo "SELECT memory('RssAnon');" >&"${to[$1]}"
	read -r memory <&"${from[$1]}"
	microseconds=$(awk "BEGIN { print ($(date +%s%N) - $began) / 1000 / $2 }")
}

close_session() {
	local fd=${to[$1]}
	exec {fd}>&-
	fd=${from[$1]}
	exec {fd}<&-
}

tables_age() {
	table "cost of a call after $calls calls in one session, in turns" us age.new
	line 'a new session' age.new
	line 'the old session' age.old '>= 0.95'
	table 'memory of the backend, without shared buffers' kB age.first_memory
	line 'after a tenth of the calls' age.first_memory
	line "after $calls calls" age.memory
}

started=$SECONDS
new_results age-
prepare_server 'autovacuum = on' 'track_counts = on'
describe
create_work
session old
for tenth in {1..10}; do
	in_session old $((calls / 10))
	round=$tenth
	record age.tenth "$microseconds"
	record age.tenth_memory "$memory"
	echo "tenth $tenth: $microseconds us a call, $memory kB"
	[ "$tenth" != 1 ] || first_memory=$memory
done
round=1
record age.first_memory "$first_memory"
record age.memory "$memory"
session new
in_session new "$turn"

run_old() {
	in_session old "$turn"
	record age.old "$microseconds"
}
run_new() {
	in_session new "$turn"
	record age.new "$microseconds"
}
for ((round = 1; round <= rounds; round++)); do
	turns run_old run_new
done
close_session old
close_session new
wait
print_tables age
echo
echo "took $((SECONDS - started)) s"
