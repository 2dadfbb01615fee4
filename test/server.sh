#!/bin/bash
# server.sh COMMAND [ARG...]: run a command beside a private PostgreSQL server
# that has this extension.
#
# Builds the extension in a temporary copy of the source, installs it into a
# private copy of the installed PostgreSQL, starts a throw-away cluster on a
# Unix socket, runs COMMAND in the copy of the source, then stops and removes
# everything, also when it is interrupted.  Needs no running server and leaves
# the installed one alone.  As root it goes on as user postgres, because the
# server refuses root.
#
# Environment:
#   PG_CONFIG   pg_config of the server to use (default: the one in PATH)
#   PG_CONF     more lines for postgresql.conf
#   MAKE_ARGS   more arguments for make, such as COPT=-O0
#   WERROR      1: compiler warnings are errors
#   VALGRIND    1: the server runs under valgrind
#   SANITIZE    1: the extension is built with AddressSanitizer and
#               UndefinedBehaviorSanitizer
#   COVERAGE    1: the extension counts which of its lines run
#   KEEP        1: do not remove the temporary directory
#   TMPDIR      where the temporary directory goes (default /tmp)
#   ES_DATA     directory that may hold traffic_fines.csv.gz, a real event log
#               (default: ../shared/data of the source tree)
#   ES_NEEDS    what must be installed (default "build"; see setup.sh)
#
# COMMAND gets PGHOST, PGPORT, PGUSER and PGDATABASE for psql, a PATH that
# begins with the server's programs, and
#   ES_WORK, ES_BIN, ES_PGDATA   temporary directory, programs, data directory
#   ES_FINES_CSV  the event log, unpacked; empty if there is none
#   ES_RESULTS    files put there come back to bench/results of the source tree
#
# The exit status is that of COMMAND, or 70 if the set-up failed.
#
# Sourced, it only defines its functions (run.sh uses them on both sides).

set -uo pipefail

SETUP_FAILED=70

# ---------------------------------------------------------------------------
# Outside: temporary directory, hand-over, cleaning up
# ---------------------------------------------------------------------------

# as_server_user CMD...: run as the user who will own the server
as_server_user() {
	if [ -n "$server_user" ]; then
		runuser -u "$server_user" -- "$@"
	else
		"$@"
	fi
}

# Print a directory for temporary files that make can work in and the server's
# user can reach: TMPDIR, else /tmp.
temp_base() {
	local dir
	for dir in "${TMPDIR:-/tmp}" /tmp; do
		dir=$(realpath -- "$dir" 2>/dev/null) || continue
		case $dir in *[!A-Za-z0-9/._+-]*) continue ;; esac
		[ -d "$dir" ] && [ -w "$dir" ] && as_server_user test -x "$dir" && echo "$dir" && return
	done
	say "no usable directory for temporary files"
	return 1
}

make_workspace() {
	local base dir

	server_user=
	if [ "$(id -u)" = 0 ]; then
		server_user=postgres
		id "$server_user" >/dev/null 2>&1 || server_user=nobody
	fi
	base=$(temp_base) || return
	dir=$(mktemp -d "$base/es.XXXXXX") || return
	work=$dir short=$dir
	# A socket's path must stay below 107 bytes.
	if [ ${#work} -gt 50 ]; then
		dir=$(mktemp -d /tmp/es.XXXXXX) || return
		short=$dir
	fi
	mkdir "$work/src" "$work/home" "$work/data_in" "$work/results" "$short/sock" "$short/tmp"
}

copy_source() {
	tar -C "$source_dir" --exclude=./.git --exclude=./bench/results -cf - . |
		tar -C "$work/src" --no-same-owner -xf -
}

copy_data() {
	local packed=${ES_DATA:-$source_dir/../shared/data}/traffic_fines.csv.gz

	fines=
	if [ -r "$packed" ]; then
		fines=$work/data_in/traffic_fines.csv
		gzip -dc "$packed" >"$fines"
	fi
}

# Print the processes that work in our temporary directories.
leftovers() {
	find /proc -mindepth 2 -maxdepth 2 -name cwd \
		\( -lname "${work:?}" -o -lname "${work:?}/*" -o -lname "${short:?}/*" \) -printf '%h\n' 2>/dev/null |
		sed 's,/proc/,,'
}

# End whatever still runs.  A postmaster shuts down at once and takes its
# children along; initdb and its shells may finish.  By force only what is left
# after that: a killed server leaves shared memory behind.
reap() {
	local tries pid

	for tries in {1..100}; do
		[ -n "$(leftovers)" ] || break
		for pid in $(leftovers); do
			if [ "$(head -n 1 "/proc/$pid/cwd/postmaster.pid" 2>/dev/null)" = "$pid" ]; then
				kill -QUIT "$pid" 2>/dev/null
				continue
			fi
			case $(cat "/proc/$pid/comm" 2>/dev/null) in
				postgres | initdb | sh) ;;
				*) kill -TERM "$pid" 2>/dev/null ;;
			esac
		done
		sleep 0.1
	done
	# shellcheck disable=SC2046
	[ "$tries" != 100 ] || kill -KILL $(leftovers) ${child:+"-$child"} 2>/dev/null
}

cleanup() {
	trap '' INT TERM HUP PIPE
	[ -n "$work" ] || return
	reap
	[ "${KEEP:-0}" = 1 ] || rm -rf "$work" "$short"
	work=
}

save_results() {
	local target=$source_dir/bench/results

	[ -n "$(ls -A "$work/results")" ] || return 0
	mkdir -p "$target" 2>/dev/null
	if [ -w "$target" ]; then
		cp -r "$work/results/." "$target/"
		[ "$(id -u)" != 0 ] || chown -R --reference="$source_dir/bench" "$target"
	else
		say "cannot write to $target: the results are lost"
	fi
}

# outside COMMAND [ARG...]: all that this script promises; call it once, and as
# the last thing, since it sets the traps that clean up.
outside() {
	local rc as

	if [ $# = 0 ]; then
		say "usage: server.sh COMMAND [ARG...]"
		return 64
	fi
	umask 022
	source_dir=$(dirname "$here")
	work='' short='' child=''
	trap cleanup EXIT
	trap 'exit 129' HUP
	trap 'exit 130' INT
	trap 'exit 141' PIPE
	trap 'exit 143' TERM

	# shellcheck disable=SC2086
	require ${ES_NEEDS:-build} || return $SETUP_FAILED
	if ! { make_workspace && copy_source && copy_data; }; then
		say "could not copy the source"
		return $SETUP_FAILED
	fi
	[ "${KEEP:-0}" != 1 ] || say "working in $work, which is kept"
	if [ -n "$server_user" ]; then
		chown -R "$server_user:" "$work" "$short"
	fi

	# A session of its own, so that all of it can be ended at once; a shell's
	# background job ignores some signals, which must not reach the tests.
	as=()
	[ -z "$server_user" ] || as=(runuser -u "$server_user" --)
	(
		cd "$work/src" && exec setsid "${as[@]}" env --default-signal=INT,QUIT \
			HOME="$work/home" TMPDIR="$short/tmp" ES_WORK="$work" ES_SOCKETS="$short/sock" \
			ES_DATA="$work/data_in" ES_FINES_CSV="$fines" ES_RESULTS="$work/results" \
			bash test/server.sh --inside "$@"
	) </dev/null &
	child=$!
	wait "$child"
	rc=$?
	child=
	save_results
	return $rc
}

# ---------------------------------------------------------------------------
# Inside: build, install, cluster
# ---------------------------------------------------------------------------

# The caller's settings must not reach make, psql or the server.
clean_environment() {
	local name

	for name in "${!PG@}"; do
		case $name in
			PG_CONFIG | PG_CONF | PG_TEST_* | PGTAP) ;;
			*) unset "$name" ;;
		esac
	done
	unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES GNUMAKEFLAGS PSQLRC PSQL_PAGER LANGUAGE
	export LC_ALL=C.UTF-8 PAGER=cat
}

# make for the extension.  No JIT bitcode: it takes as long as the code itself,
# and clang may be missing.
es_make() {
	# shellcheck disable=SC2086
	make -s --no-print-directory PG_CONFIG="$PG_CONFIG" with_llvm=no ${MAKE_ARGS:-} "$@"
}

# A relocated copy of the installed server: PostgreSQL finds its directories
# relative to its programs, so this one loads libraries and extensions from the
# copy only.
copy_postgres() {
	local root=$ES_WORK/pg bin share lib

	bin=$("$PG_CONFIG" --bindir) && share=$("$PG_CONFIG" --sharedir) &&
		lib=$("$PG_CONFIG" --pkglibdir) || return
	mkdir -p "$root$bin" "$root$share" "$root$lib" &&
		cp -a "$bin/." "$root$bin/" &&
		tar -C "$lib" --exclude=./bitcode -cf - . | tar -C "$root$lib" -xf - || return
	# Links may point out of the tree, or nowhere.
	cp -aL "$share/." "$root$share/" 2>/dev/null || cp -a "$share/." "$root$share/"
}

build() {
	local options=()

	[ "${SANITIZE:-0}" != 1 ] || options=(COPT='-fsanitize=address,undefined -fno-omit-frame-pointer -g')
	[ "${COVERAGE:-0}" != 1 ] || options=(COPT='--coverage -fprofile-update=atomic')
	es_make clean >/dev/null 2>&1
	es_make -j"$(nproc)" "${options[@]}" all && es_make "${options[@]}" install DESTDIR="$ES_WORK/pg"
}

make_cluster() {
	"$ES_BIN/initdb" -D "$ES_PGDATA" -U postgres -A trust -N \
		--encoding=UTF8 --locale=C.UTF-8 --no-instructions &&
		cat >>"$ES_PGDATA/postgresql.conf" <<-CONF
			listen_addresses = ''
			unix_socket_directories = '$ES_SOCKETS'
			max_connections = 100
			max_prepared_transactions = 20
			fsync = off
			${PG_CONF:-}
		CONF
}

# put_in_front COMMAND: from now on every server is started by that shell command,
# also that of a copy of the programs
put_in_front() {
	mv "$ES_BIN/postgres" "$ES_BIN/postgres.real" &&
		cat >"$ES_BIN/postgres" <<-SH && chmod 755 "$ES_BIN/postgres"
			#!/bin/bash
			real=\${0%/*}/postgres.real
			[ "\$1" = -V ] && exec "\$real" "\$@"
			$1 "\$real" "\$@"
		SH
}

# "pg_ctl restart" starts what the server takes itself for, which valgrind does not
# let us say: the tests stop and start instead.
put_valgrind_in_front() {
	local suppressions=/dev/null

	[ ! -f "$("$PG_CONFIG" --sharedir)/valgrind.supp" ] ||
		suppressions=$("$PG_CONFIG" --sharedir)/valgrind.supp
	put_in_front "exec valgrind --quiet --leak-check=no --gen-suppressions=all --trace-children=yes \
		--track-origins=yes --read-var-info=no \
		--error-markers=VALGRINDERROR-BEGIN,VALGRINDERROR-END \
		--suppressions='$suppressions' --suppressions='$PWD/test/valgrind.supp' --log-file='$ES_WORK/valgrind.%p.log'"
}

# The server itself is not built for it, so the sanitizer's library is loaded
# first; with a server that speaks other languages, setlocale() does not survive
# that.  The server looks at the address of its stack, and frees nothing at exit.
put_sanitizer_in_front() {
	local library
	library=$(gcc -print-file-name=libasan.so)
	put_in_front "export LD_PRELOAD='$library' \
		ASAN_OPTIONS='detect_leaks=0:detect_stack_use_after_return=0:log_path=$ES_WORK/sanitizer' \
		UBSAN_OPTIONS='print_stacktrace=1:log_path=$ES_WORK/sanitizer'
	exec -a \"\$0\""	# "pg_ctl restart" starts what the server takes itself for
}

server_is_up() {
	"$ES_BIN/pg_ctl" -s -D "$ES_PGDATA" status >/dev/null
}

start_server() {
	"$ES_BIN/pg_ctl" -s -w -t 120 -D "$ES_PGDATA" -l "$ES_WORK/server.log" start
}

stop_server() {
	"$ES_BIN/pg_ctl" -s -w -t 120 -D "$ES_PGDATA" -m fast stop
}

# step WHAT CMD...: run CMD quietly; if it fails, show what it said
step() {
	local what=$1 log=$ES_WORK/setup.log
	shift
	if ! "$@" >"$log" 2>&1; then
		tail -n 100 "$log" >&2
		say "could not $what"
		[ "$what" != "start the server" ] || tail -n 20 "$ES_WORK/server.log" >&2
		return 1
	fi
}

inside() {
	local rc

	clean_environment
	ES_BIN=$ES_WORK/pg$("$PG_CONFIG" --bindir) ES_PGDATA=$ES_WORK/data
	export ES_BIN ES_PGDATA PATH="$ES_BIN:$PATH"
	export PGHOST="$ES_SOCKETS" PGPORT=5432 PGUSER=postgres PGDATABASE=postgres

	say "building for $("$PG_CONFIG" --version)"
	step "copy the server" copy_postgres &&
		step "build the extension" build &&
		step "make a cluster" make_cluster &&
		{ [ "${VALGRIND:-0}" != 1 ] || put_valgrind_in_front; } &&
		{ [ "${SANITIZE:-0}" != 1 ] || put_sanitizer_in_front; } &&
		step "start the server" start_server || return $SETUP_FAILED

	"$@"
	rc=$?
	! server_is_up || stop_server
	return $rc
}

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=test/setup.sh
. "$here/setup.sh"

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
	if [ "${1:-}" = --inside ]; then
		shift
		inside "$@"
	else
		outside "$@"
	fi
	exit
fi
