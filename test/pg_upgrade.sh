#!/bin/bash
# pg_upgrade.sh [--root DIR] OLD_PG_CONFIG NEW_PG_CONFIG: does a store survive
# pg_upgrade from one major version of PostgreSQL to another?
#
# Makes a cluster of the old version with a store that has something of
# everything (full_store.sql) and a log of ES_EVENTS events (default 20000),
# upgrades it, and checks the new one: the same content, the oracles, and that
# everything goes on.  All of it in temporary directories, with private copies of
# both servers (server.sh); needs the headers of both, and leaves nothing behind.
#
#   test/pg_upgrade.sh /usr/lib/postgresql/15/bin/pg_config /usr/lib/postgresql/17/bin/pg_config
#
# Where the two cannot be installed together:
#
#   --root DIR   NEW is in this root directory, with its headers, gcc and make:
#
#       mmdebstrap --variant=minbase \
#         --include=postgresql-17,postgresql-server-dev-17,gcc,make,libc6-dev trixie DIR
#
#       The old server of this machine is copied into it, with the libraries that it
#       lacks, and all runs there (needs root; mounts are its own, and end with it).
#       Name both as they are there: /usr/bin/pg_config may be another one.
#
# The new server must not be older than the old one: a minor release may write
# something into a cluster that the releases of the same time know, and no earlier one.
#
# Environment: ES_EVENTS, and that of server.sh.

set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=test/server.sh
. "$here/server.sh"

# ---------------------------------------------------------------------------
# In another root directory
# ---------------------------------------------------------------------------

# libraries_of PG_CONFIG: shared libraries that the server's programs need
libraries_of() {
	find "$("$1" --bindir)" "$("$1" --pkglibdir)" -maxdepth 1 -type f ! -name 'llvmjit*' -exec ldd {} + 2>/dev/null |
		sed -n 's/.*=> \(\/[^ ]*\) .*/\1/p' | sort -u
}

# copy_old ROOT PG_CONFIG: put this machine's server into a root directory
copy_old() {
	local root=$1 config=$2 library known
	# with the links on the way: /usr/bin/pg_config may be one
	tar -C / -cf - "$(realpath --relative-to=/ "$("$config" --bindir)/..")" "$(realpath --relative-to=/ "$("$config" --sharedir)")" \
		"$(realpath --relative-to=/ "$("$config" --includedir-server)")" "$(realpath --relative-to=/ "$("$config" --pkgincludedir)")" \
		2>/dev/null | tar -C "$root" --skip-old-files -xf - || return
	mkdir -p "$root/usr/local/lib"
	known=$(chroot "$root" ldconfig -p) || return
	for library in $(libraries_of "$config"); do
		grep -q "^[[:space:]]*$(basename "$library") " <<<"$known" ||
			cp -L "$library" "$root/usr/local/lib/" || return
	done
	chroot "$root" ldconfig
}

# in_root ROOT COMMAND...: with devices, processes and mounts of its own
in_root() {
	local root=$1
	shift
	# shellcheck disable=SC2016
	unshare --mount --pid --fork --kill-child --net /bin/bash -c '
		set -e; root=$1; shift
		mount --make-rprivate /
		mkdir -p "$root/proc" "$root/dev"
		mount -t proc proc "$root/proc"
		mount -t tmpfs -o mode=755 tmpfs "$root/dev"
		for n in null zero random urandom; do : >"$root/dev/$n"; mount --bind "/dev/$n" "$root/dev/$n"; done
		mkdir "$root/dev/shm"; mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
		ln -s /proc/self/fd "$root/dev/fd"
		exec chroot "$root" "$@"' in_root "$root" "$@"
}

run_in_root() {
	local root=$1 old=$2 new=$3 rc
	[ "$(id -u)" = 0 ] || { say "--root needs root"; return $SETUP_FAILED; }
	copy_old "$root" "$old" || { say "could not copy the old server into $root"; return $SETUP_FAILED; }
	rm -rf "${root:?}/tmp/event_sourcing" && mkdir -p "$root/tmp/event_sourcing" &&
		tar -C "$(dirname "$here")" --exclude=./.git -cf - . | tar -C "$root/tmp/event_sourcing" --no-same-owner -xf - ||
		return $SETUP_FAILED
	in_root "$root" /usr/bin/env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 \
		ES_EVENTS="${ES_EVENTS:-}" KEEP="${KEEP:-}" MAKE_ARGS="${MAKE_ARGS:-}" \
		bash /tmp/event_sourcing/test/pg_upgrade.sh "$old" "$new"
	rc=$?
	rm -rf "${root:?}/tmp/event_sourcing"
	return $rc
}

# ---------------------------------------------------------------------------
# Beside the new server, which server.sh has built and started
# ---------------------------------------------------------------------------

# old COMMAND...: with the old server's programs and names
old() {
	local work=$ES_WORK/old
	ES_WORK=$work ES_BIN=$old_bin ES_PGDATA=$work/data PG_CONFIG=$ES_OLD_PG_CONFIG PATH="$old_bin:$PATH" "$@"
}

build_old() {
	mkdir -p "$ES_WORK/old/src" && tar -cf - . | tar -C "$ES_WORK/old/src" -xf - &&
		old copy_postgres && (cd "$ES_WORK/old/src" && old build)
}

query() { "$ES_BIN/psql" -XAtq -v ON_ERROR_STOP=1 "$@"; }

# The state of cluster ES_PGDATA: what is in the store, and what is wrong.
content() {
	query -c 'SELECT * FROM shop.content()' -c 'SELECT * FROM es_read_all(max_count => NULL)'
}

# result STATUS WHAT: one line as of TAP; a failure counts
failures=0 number=0
result() {
	number=$((number + 1))
	if [ "$1" = 0 ]; then
		echo "ok $number - $2"
	else
		echo "not ok $number - $2"
		failures=$((failures + 1))
	fi
}

same_content() {
	content >"$ES_WORK/after" && [ -s "$ES_WORK/before" ] || return
	if ! diff "$ES_WORK/before" "$ES_WORK/after" >"$ES_WORK/differences"; then
		head -n 20 "$ES_WORK/differences"
		return 1
	fi
}

# nothing SQL...: the statements return no rows
nothing() {
	if query "$@" >"$ES_WORK/problems" 2>&1 && [ ! -s "$ES_WORK/problems" ]; then
		return
	fi
	cat "$ES_WORK/problems"
	return 1
}

fill_old() {
	old start_server &&
		old query -c 'CREATE EXTENSION event_sourcing' -f test/oracle.sql -o /dev/null -f test/full_store.sql -c "
			SELECT es_append('import-' || n % 100, ARRAY[es_new_event('imported', jsonb_build_object('n', n))])
			FROM generate_series(1, ${ES_EVENTS:-20000}) n" &&
		old content >"$ES_WORK/before" && old stop_server
}

run_pg_upgrade() {
	(cd "$ES_WORK" && "$ES_BIN/pg_upgrade" -b "$old_bin" -B "$ES_BIN" -d "$ES_WORK/old/data" -D "$ES_PGDATA" \
		-U postgres -s "$PGHOST" "$@") ||
		{ grep -rh -A 4 'error:\|ERROR:' "$ES_PGDATA/pg_upgrade_output.d" && return 1; }
}

make_clusters() {
	local checksums=
	# on by default since 18
	! "$ES_BIN/initdb" --help | grep -q -- --no-data-checksums || checksums=--no-data-checksums
	stop_server && rm -rf "$ES_PGDATA" && old make_cluster &&
		"$ES_BIN/initdb" -D "$ES_PGDATA" -U postgres -A trust -N --encoding=UTF8 --locale=C.UTF-8 --no-instructions \
			$checksums && cp "$ES_WORK/old/data/postgresql.conf" "$ES_PGDATA/es.conf" &&
		sed -n '/^listen_addresses/,$p' "$ES_PGDATA/es.conf" >>"$ES_PGDATA/postgresql.conf"
}

upgrade() {
	old_bin=$ES_WORK/old/pg$("$ES_OLD_PG_CONFIG" --bindir)
	say "upgrading from $("$ES_OLD_PG_CONFIG" --version)"
	[ "$("$ES_OLD_PG_CONFIG" --version)" != "$("$PG_CONFIG" --version)" ] || { say "that is the same"; return 64; }
	step "build for the old server" build_old &&
		step "make the clusters" make_clusters &&
		step "fill the old cluster" fill_old || return $SETUP_FAILED

	step "check" run_pg_upgrade --check
	result $? "pg_upgrade --check finds nothing"
	step "upgrade" run_pg_upgrade
	result $? "pg_upgrade"
	[ $failures = 0 ] || return 1
	step "start the server" start_server || return $SETUP_FAILED
	same_content
	result $? "the content is the same"
	nothing -c 'SELECT * FROM shop.goes_on()'
	result $? "everything goes on"
	query -c 'SELECT es_upgrade_store()' >/dev/null
	nothing -c 'SELECT * FROM shop.problems()'
	result $? "also after es_upgrade_store()"
	echo "# $(query -c 'SELECT count(*) FROM es.event') events in the end, PostgreSQL $(query -c 'SHOW server_version')"
	[ $failures = 0 ]
}

case ${1:-} in
	--inside) upgrade ;;
	--root) if [ $# = 4 ]; then run_in_root "$2" "$3" "$4"; else sed -n '2,28p' "$0" >&2 && (exit 64); fi ;;
	*)
		if [ $# != 2 ]; then
			sed -n '2,28p' "$0" >&2
			exit 64
		fi
		export ES_OLD_PG_CONFIG=$1 PG_CONFIG=$2
		outside bash test/pg_upgrade.sh --inside
		;;
esac
