#!/bin/bash
# assert.sh: all tests on a PostgreSQL with assertions, built from Debian's source
# ("make test-assert"), and kept for the next time.  It knows valgrind, too, so
# that "make test-valgrind" sees the memory that a palloc() handed out.
#
# Environment:
#   MAJOR        version (default 15; also 17, 18, 19)
#   ASSERT_BASE  where source and server are (default /var/tmp/event_sourcing; about 700 MB)
#   DEBIAN_MIRROR  (default: that of the machine's own apt sources)
#   DISCARD_ALL  with debug_discard_caches = 1, how many of a statement's places discard all
#                caches; behind them one of 10,007 does (default 0: all; "make test-discard"
#                has 50,000)
# and that of run.sh, such as VALGRIND=1.

set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=test/setup.sh
. "$here/setup.sh"

major=${MAJOR:-15}
base=${ASSERT_BASE:-/var/tmp/event_sourcing}
prefix=$base/assert-$major

# With a list of sources of its own: the machine's may have none.
get_source() {
	local apt
	suite=$(suite_of "$major") || return
	mkdir -p "$prefix.source/parts" "$prefix.source/lists/partial" && cd "$prefix.source" || return
	echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(debian_mirror) $suite main" >parts/source.list
	apt=(apt-get -q -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$PWD/parts"
		-o "Dir::State::Lists=$PWD/lists" -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root)
	"${apt[@]}" update && "${apt[@]}" source --download-only "postgresql-$major" &&
		mkdir -p tree && tar -C tree --strip-components=1 -xf ./*.orig.tar.*
}

# With debug_discard_caches = 1 a server forgets its caches wherever they can become
# invalid; a statement with a loop, in which there are millions of such places, would take
# hours.
discard_fewer() {
	sed -i -E '/^AcceptInvalidationMessages/,/^}/ {
		s/static int[[:space:]]+recursion_depth = 0;/& static TimestampTz statement; static uint64 places; \
		static int64 all_places = -1;/
		s/if \(recursion_depth < debug_discard_caches\)/if (all_places < 0) \
				all_places = getenv("DISCARD_ALL") ? atoll(getenv("DISCARD_ALL")) : 0; \
			if (statement != GetCurrentStatementStartTimestamp()) \
				places = 0; \
			statement = GetCurrentStatementStartTimestamp(); \
			if (recursion_depth < debug_discard_caches \&\& \
				(places++ < all_places || all_places == 0 || places % 10007 == 0))/
	}' "$1" && grep -q 'all_places == 0' "$1"
}

build() {
	cd "$prefix.source/tree" && discard_fewer src/backend/utils/cache/inval.c || return
	# as a make of its own: only the outermost makes the generated headers
	unset MAKELEVEL MAKEFLAGS MFLAGS
	./configure --quiet --prefix="$prefix" --enable-cassert --enable-debug --enable-tap-tests --without-icu \
		CPPFLAGS=-DUSE_VALGRIND CFLAGS='-O2 -g -fno-omit-frame-pointer' &&
		make -s -j"$(nproc)" && make -s install &&
		make -s -C contrib -j"$(nproc)" && make -s -C contrib install &&
		make -s -C src/test/isolation install &&
		cp src/tools/valgrind.supp "$("$prefix/bin/pg_config" --sharedir)/" || return
	# SQL only: that of any version will do
	cp /usr/share/postgresql/*/extension/pgtap* "$("$prefix/bin/pg_config" --sharedir)/extension/"
}

require source pgtap tap || {
	echo "0 passed, 1 failed"
	exit 1
}
mkdir -p "$base"
if [ ! -e "$prefix.ready" ]; then
	rm -rf "$prefix" "$prefix.source"
	if ! (get_source && build) >"$prefix.log" 2>&1 </dev/null; then
		tail -n 30 "$prefix.log" >&2
		say "could not build PostgreSQL $major with assertions"
		echo "0 passed, 1 failed"
		exit 1
	fi
	rm -rf "$prefix.source"
	touch "$prefix.ready"
fi
PG_CONFIG=$prefix/bin/pg_config exec bash "$here/run.sh"
