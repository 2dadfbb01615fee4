#!/bin/bash
# sqlsmith.sh [SECONDS]: random queries over a store with everything in it
# ("make sqlsmith").
#
# sqlsmith (a Debian package) writes nonsense that parses: joins of the store's
# tables and views with calls of the extension's functions anywhere in them.  It
# rolls each query back.  The server's log is the judge, see judge.pl.  Worth most
# with an assertion build: PG_CONFIG=PREFIX/bin/pg_config test/sqlsmith.sh
#
# Arguments and environment, besides that of server.sh:
#   SECONDS   how long (default 600)
#   SEED      sqlsmith's seed (default: drawn and shown)

set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
if [ -z "${ES_WORK:-}" ]; then
	# shellcheck source=test/setup.sh
	. "$here/setup.sh"
	require sqlsmith || exit 69
	PG_CONF="${PG_CONF:-}"$'\n'$(cat "$here/fuzz/postgresql.conf")
	export PG_CONF
	exec bash "$here/server.sh" bash test/sqlsmith.sh "$@"
fi

seconds=${1:-600}
seed=${SEED:-$RANDOM}
echo "sqlsmith for $seconds s, seed $seed"
createdb fuzz && psql -X -q -d fuzz -f "$here/fuzz/store.sql" -f "$here/fuzz/sqlsmith.sql" >/dev/null || exit

# Its errors are many and expected: only the log counts.  It ends when the server
# does.
started=$SECONDS
timeout "$seconds" sqlsmith --verbose --exclude-catalog --seed="$seed" \
	--target="host=$PGHOST port=$PGPORT dbname=fuzz user=fuzz_owner" >"$ES_WORK/sqlsmith.out" 2>&1
rc=$?
tr '\r' '\n' <"$ES_WORK/sqlsmith.out" | grep -a '^queries:' | tail -n 1
echo "took $((SECONDS - started)) s"
if [ $rc != 124 ]; then
	echo "sqlsmith ended by itself (status $rc)"
	tail -n 5 "$ES_WORK/sqlsmith.out"
fi
perl "$here/fuzz/judge.pl" "$ES_WORK/server.log" && [ $rc = 124 ]
