#!/bin/bash
# run.sh: run all tests on a private server (server.sh); "make test" calls it.
#
# Suites: regress (sql/), isolation (test/isolation/), tap (test/t/), and pgtap
# (test/pgtap/ and examples/test/, each file in an empty database of its own).
# A failing suite does not stop the others.  The last line counts test files:
#
#     N passed, N failed[, N skipped]
#
# A suite that could not run counts as failed; the exit status is 0 only if
# something ran and nothing failed.
#
# Environment (or arguments of make):
#   SUITES="regress isolation tap pgtap"   only these suites
#   REGRESS, ISOLATION, TAP, PGTAP="a b"   only these tests, and, unless SUITES
#                                          is set, only their suites
#   REGRESS_OPTIONS   PGOPTIONS of regress and isolation, such as
#                     "-c debug_discard_caches=1"
#   VALGRIND=1        any report counts as a failure; the TAP tests do less, and
#                     allow for more time (go_slow())
#   SANITIZE=1        AddressSanitizer and UndefinedBehaviorSanitizer; the same
#   COVERAGE=1        lists how many lines of each file ran, and leaves those that
#                     did not in bench/results/coverage.txt; below 90 % of all is a failure
# and those of server.sh: PG_CONFIG, PG_CONF, MAKE_ARGS, KEEP, TMPDIR, ES_DATA.

set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=test/server.sh
. "$here/server.sh"

passed=0 failed=0 skipped=0

pick_suites() {
	if [ -n "${SUITES:-}" ]; then
		echo "$SUITES"
	elif [ -n "${REGRESS:-}${ISOLATION:-}${TAP:-}${PGTAP:-}" ]; then
		echo "${REGRESS:+regress} ${ISOLATION:+isolation} ${TAP:+tap} ${PGTAP:+pgtap}"
	else
		echo "regress isolation tap pgtap"
	fi
}

# Under valgrind everything takes ES_SLOWDOWN times as long: bounds of time are that
# much longer, and what is done many times is done less often.
go_slow() {
	export ES_SLOWDOWN=${ES_SLOWDOWN:-50} PG_TEST_TIMEOUT_DEFAULT=${PG_TEST_TIMEOUT_DEFAULT:-3600}
	export ES_CRASH_ROUNDS=${ES_CRASH_ROUNDS:-2} ES_INTERRUPT_CALLS=${ES_INTERRUPT_CALLS:-300}
	export ES_CONSUMER_EVENTS=${ES_CONSUMER_EVENTS:-3000} ES_FUZZ_CALLS=${ES_FUZZ_CALLS:-2000}
}

# Print the last line and return the exit status that goes with it.
verdict() {
	echo "$passed passed, $failed failed$([ $skipped = 0 ] || echo ", $skipped skipped")"
	[ "$failed" = 0 ] && [ $passed -gt 0 ]
}

heading() { printf '\n== %s\n' "$*"; }

# ensure_server: a test may have crashed it
ensure_server() {
	server_is_up || { say "the server is down: starting it again" && start_server; }
}

# ---------------------------------------------------------------------------
# pg_regress and pg_isolation_regress
# ---------------------------------------------------------------------------

# run_regress regress|isolation TESTS
run_regress() {
	local suite=$1 tests=$2 total rc ok bad diffs log=$ES_WORK/$1.log
	total=$(wc -w <<<"$tests")

	PGOPTIONS=${REGRESS_OPTIONS:-} es_make "installcheck-$suite" "${suite^^}=$tests" \
		bindir="$ES_BIN" 2>&1 | tee "$log"
	rc=${PIPESTATUS[0]}

	# "test name ... ok 12 ms" up to PostgreSQL 15, "ok 1 - name 12 ms" since 16.
	# What was not reported as ok has failed: it may not have run at all.
	ok=$(grep -cE '^(test| ) .* \.\.\. ok( |$)|^ok [0-9]+ +[-+] ' "$log")
	bad=$((total - ok))
	[ "$rc" = 0 ] || [ $bad -gt 0 ] || bad=1
	passed=$((passed + ok)) failed=$((failed + bad))

	# The story of the real log agrees with its expected output also where the
	# log is absent; it has tested nothing then.
	if [ -z "${ES_FINES_CSV:-}" ] &&
		grep -qE '^(test| ) *example_fines .*\.\.\. ok( |$)|^ok [0-9]+ +[-+] example_fines ' "$log"; then
		say "example_fines is skipped: there is no traffic_fines.csv.gz (ES_DATA)"
		passed=$((passed - 1)) skipped=$((skipped + 1))
	fi

	diffs=regression.diffs
	[ "$suite" = regress ] || diffs=output_iso/regression.diffs
	if [ -s "$diffs" ]; then
		heading "$suite: differences"
		head -n 400 "$diffs"
	fi
}

# ---------------------------------------------------------------------------
# Perl TAP and pgTAP
# ---------------------------------------------------------------------------

# count_prove LOG STATUS: one test file that prove ran; returns 1 if it failed
count_prove() {
	grep -vE '^(# )?(\+\+\+ |All tests successful|Files=|Result: |make: )' "$1"
	if [ "$2" != 0 ] || ! grep -qE '^Result: (PASS|NOTESTS)' "$1"; then
		failed=$((failed + 1))
		return 1
	elif grep -q '^Result: NOTESTS' "$1"; then
		skipped=$((skipped + 1))
	else
		passed=$((passed + 1))
	fi
}

# run_tap FILE
run_tap() {
	local log=$ES_WORK/tap.log name
	name=$(basename "$1" .pl)

	es_make installcheck-tap PROVE_TESTS="$1" TAP_TESTS=1 bindir="$ES_BIN" >"$log" 2>&1
	if ! count_prove "$log" $?; then
		tail -n 60 "tmp_check/log/regress_log_$name" 2>/dev/null
	fi
	[ "${KEEP:-0}" != 1 ] || cp -r tmp_check/log "$ES_WORK/log_$name" 2>/dev/null
}

# run_pgtap FILE
run_pgtap() {
	local log=$ES_WORK/pgtap.log

	{
		PGOPTIONS='-c client_min_messages=warning' "$ES_BIN/dropdb" --if-exists --force pgtap &&
			"$ES_BIN/createdb" pgtap &&
			pg_prove --psql-bin "$ES_BIN/psql" -d pgtap --ext .sql "$1"
	} >"$log" 2>&1
	count_prove "$log" $?
}

# ---------------------------------------------------------------------------
# Suites
# ---------------------------------------------------------------------------

# find_tests SUITE: the files or names to run, those asked for or all
find_tests() {
	local name

	case $1 in
		regress) if [ -n "${REGRESS:-}" ]; then echo "$REGRESS"; else es_make list-regress; fi ;;
		isolation) if [ -n "${ISOLATION:-}" ]; then echo "$ISOLATION"; else es_make list-isolation; fi ;;
		tap)
			for name in ${TAP:-}; do echo "test/t/$(basename "$name" .pl).pl"; done
			[ -n "${TAP:-}" ] || es_make list-tap
			;;
		pgtap)
			if [ -z "${PGTAP:-}" ]; then
				find test/pgtap -name '*.sql' 2>/dev/null | sort
				find examples/test -name '*.sql' 2>/dev/null | sort
			fi
			for name in ${PGTAP:-}; do
				name=$(basename "$name" .sql)
				find test/pgtap examples/test -name "$name.sql" 2>/dev/null | grep . || echo "$name.sql"
			done
			;;
		*) return 1 ;;
	esac
}

run_suite() {
	local suite=$1 tests test

	if ! tests=$(find_tests "$suite"); then
		heading "$suite: no such suite"
		failed=$((failed + 1))
		return
	fi
	tests=$(tr '\n' ' ' <<<"$tests")
	if [ -z "${tests// /}" ]; then
		heading "$suite: no tests"
		return
	fi
	heading "$suite"
	if ! ensure_server; then
		failed=$((failed + $(wc -w <<<"$tests")))
		return
	fi
	case $suite in
		regress | isolation) run_regress "$suite" "$tests" ;;
		tap) for test in $tests; do run_tap "$test"; done ;;
		pgtap) for test in $tests; do run_pgtap "$test"; done ;;
	esac
}

check_valgrind() {
	heading valgrind
	! server_is_up || stop_server
	if grep -q VALGRINDERROR-BEGIN "$ES_WORK"/valgrind.*.log; then
		grep -h -A 25 VALGRINDERROR-BEGIN "$ES_WORK"/valgrind.*.log | head -n 200
		failed=$((failed + 1))
	else
		echo "no report from $(find "$ES_WORK" -maxdepth 1 -name 'valgrind.*.log' | wc -l) processes"
		passed=$((passed + 1))
	fi
}

check_sanitizer() {
	heading sanitizer
	! server_is_up || stop_server
	if compgen -G "$ES_WORK/sanitizer.*" >/dev/null; then
		cat "$ES_WORK"/sanitizer.* | head -n 300
		failed=$((failed + 1))
	else
		echo 'no report'
		passed=$((passed + 1))
	fi
}

# What a process has counted is written when it exits; one that is killed loses it.
check_coverage() {
	heading coverage
	! server_is_up || stop_server
	gcov -o src src/*.c >"$ES_WORK/gcov.log" 2>&1
	grep -H '^ *#####:' ./*.c.gcov | sed 's/^\.\/\([^:]*\)\.gcov: *#####: */\1:/' >"$ES_RESULTS/coverage.txt"
	awk '
		/^File / { file = $2; gsub(/\047/, "", file); own = file ~ /^src\/[a-z_]*\.c$/ }
		/^Lines executed/ && own {
			split($2, part, ":")
			lines[file] = $4; covered[file] = part[2] * $4 / 100; own = 0
		}
		END {
			for (file in lines) {
				printf "%-28s %5.1f %% of %4d lines\n", file, 100 * covered[file] / lines[file], lines[file] | "sort"
				all += lines[file]; ran += covered[file]
			}
			close("sort")
			printf "%-28s %5.1f %% of %4d lines\n", "all", 100 * ran / all, all
			exit !(all > 0 && ran / all >= 0.9)
		}' "$ES_WORK/gcov.log"
	if [ "${PIPESTATUS[0]}" = 0 ]; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

if [ "${1:-}" = --inside ]; then
	[ "${VALGRIND:-0}" != 1 ] || go_slow
	for suite in $(pick_suites); do run_suite "$suite"; done
	[ "${VALGRIND:-0}" != 1 ] || check_valgrind
	[ "${SANITIZE:-0}" != 1 ] || check_sanitizer
	[ "${COVERAGE:-0}" != 1 ] || check_coverage
	if [ $failed != 0 ]; then
		heading "end of the server's log"
		tail -n 30 "$ES_WORK/server.log"
	fi
	echo
	verdict
	exit
fi

needs=build
for suite in $(pick_suites); do
	case $suite in tap | pgtap) needs+=" $suite" ;; esac
done
[ "${VALGRIND:-0}" != 1 ] || needs+=" valgrind"
export ES_NEEDS=$needs WERROR=${WERROR-1}
outside bash test/run.sh --inside
rc=$?
if [ $rc = $SETUP_FAILED ]; then
	cleanup
	failed=$(pick_suites | wc -w)
	verdict
fi
exit $rc
