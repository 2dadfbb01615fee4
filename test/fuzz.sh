#!/bin/bash
# fuzz.sh [CALLS [SEED]]: call every function of the extension with arguments that
# are valid, borderline and absurd ("make fuzz"); fuzz.pl says how.
#
# It fails on a crash, an assertion, an internal error (SQLSTATE XX...), a leak
# warning, a call that takes over ten seconds, and on a store that does not hold
# what it must at the end.  Worth most with an assertion build:
# PG_CONFIG=PREFIX/bin/pg_config test/fuzz.sh 1000000
#
# Arguments and environment, besides that of server.sh:
#   CALLS      how many (default 100000); each 100000 in a database of its own,
#              since a long log makes calls slow
#   SEED       of the first database, the next has the next one (default: drawn
#              and shown)
#   SESSIONS   concurrent sessions (default 2; with 1 the same seed does the same)
#   FUZZ_KEEP  a directory for the scripts and what they said

set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
if [ -z "${ES_WORK:-}" ]; then
	PG_CONF="${PG_CONF:-}"$'\n'$(cat "$here/fuzz/postgresql.conf")
	export PG_CONF
	exec bash "$here/server.sh" bash test/fuzz.sh "$@"
fi

calls=${1:-100000}
seed=${2:-$((RANDOM * 10 + 1))}
sessions=${SESSIONS:-2}
failed=0
while [ "$calls" -gt 0 ]; do
	some=$((calls < 100000 ? calls : 100000))
	: >"$ES_WORK/server.log"
	keep=()
	if [ -n "${FUZZ_KEEP:-}" ]; then
		mkdir -p "$FUZZ_KEEP/$seed" && keep=(--keep "$FUZZ_KEEP/$seed")
	fi
	perl "$here/fuzz/fuzz.pl" --calls "$some" --seed "$seed" --sessions "$sessions" \
		--log "$ES_WORK/server.log" "${keep[@]}" || failed=$((failed + 1))
	dropdb --force "fuzz_$seed"
	psql -X -q -c 'DROP ROLE fuzz_owner, fuzz_low'
	calls=$((calls - some))
	seed=$((seed + 1))
done
[ $failed = 0 ]
