# shellcheck shell=bash
# setup.sh: find what the build and the tests need, install what is missing.
# Sourced by server.sh and lint.sh; sets and exports PG_CONFIG.
#
# Only root on a Debian-like system installs anything; anyone else is told in
# one line what to install.

say() { echo "event_sourcing: $*" >&2; }

have() { command -v "$1" >/dev/null 2>&1; }

# The major version that an absent server should have: the one in the path of
# PG_CONFIG, else that of the pg_config at hand, else the distribution's.
wanted_major() {
	local major
	case ${PG_CONFIG:-} in
		*/postgresql/[0-9]*/*) major=${PG_CONFIG##*/postgresql/} && major=${major%%/*} ;;
		*) major=$("${PG_CONFIG:-pg_config}" --version 2>/dev/null | sed 's/^[^0-9]*\([0-9]*\).*/\1/') ;;
	esac
	[ -n "$major" ] || major=$(apt-cache depends postgresql 2>/dev/null |
		sed -n 's/.*Depends: postgresql-\([0-9]*\)$/\1/p' | head -n 1)
	echo "${major:-15}"
}

# suite_of MAJOR: Debian's release that has that version; 16 was in none
suite_of() {
	case $1 in
		15) echo bookworm ;;
		17) echo trixie ;;
		18) echo forky ;;
		19) echo experimental ;;
		*)
			say "no release of Debian has PostgreSQL $1"
			return 1
			;;
	esac
}

# debian_mirror: DEBIAN_MIRROR, or the first of the machine's own apt sources
debian_mirror() {
	local found
	found=${DEBIAN_MIRROR:-$(sed -n 's/^URIs: *//p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)}
	[ -n "$found" ] || found=$(sed -n 's/^deb \(\[[^]]*\] \)\?\([^ ]*\).*/\2/p' /etc/apt/sources.list 2>/dev/null | head -n 1)
	echo "$found"
}

# Print the packages that NEED... lacks: build, tap, pgtap, valgrind, sqlsmith, tools, source, chroot
missing_packages() {
	local need major config share
	config=${PG_CONFIG:-pg_config}
	major=$(wanted_major)
	share=$("$config" --sharedir 2>/dev/null || true)
	for need in "$@"; do
		case $need in
			build)
				{ have make && have gcc; } || echo build-essential
				# Debian's server package brings the makefiles of PGXS without the headers.
				{ [ -f "$("$config" --pgxs 2>/dev/null)" ] &&
					[ -f "$("$config" --includedir-server 2>/dev/null)/postgres.h" ]; } ||
					echo "postgresql-server-dev-$major"
				[ -x "$("$config" --bindir 2>/dev/null)/postgres" ] || echo "postgresql-$major"
				;;
			tap)
				perl -MTest::More -e 1 2>/dev/null || echo perl
				perl -MIPC::Run -e 1 2>/dev/null || echo libipc-run-perl
				;;
			pgtap)
				[ -f "$share/extension/pgtap.control" ] || echo "postgresql-$major-pgtap"
				have pg_prove || echo libtap-parser-sourcehandler-pgtap-perl
				;;
			valgrind | sqlsmith) have "$need" || echo "$need" ;;
			source)
				have bison || echo bison
				have flex || echo flex
				[ -e /usr/include/valgrind/memcheck.h ] || echo valgrind
				[ -e /usr/include/readline/readline.h ] || echo libreadline-dev
				[ -e /usr/include/zlib.h ] || echo zlib1g-dev
				have dpkg-source || echo dpkg-dev
				;;
			chroot)
				have mmdebstrap || echo mmdebstrap
				have ip || echo iproute2
				have unshare || echo util-linux
				;;
			tools)
				have clang-format || echo clang-format
				have clang-tidy || echo clang-tidy
				have cppcheck || echo cppcheck
				have shellcheck || echo shellcheck
				;;
		esac
	done
}

# require NEED...: make sure that all of it is there, or return 1 after saying why
require() {
	local packages apt=(apt-get -q -y -o DPkg::Lock::Timeout=300)
	packages=$(missing_packages "$@" | sort -u | tr '\n' ' ')
	if [ -n "$packages" ]; then
		if [ "$(id -u)" != 0 ] || ! have apt-get; then
			say "please install ${packages% }"
			return 1
		fi
		say "installing ${packages% }"
		# shellcheck disable=SC2086
		if ! (
			export DEBIAN_FRONTEND=noninteractive
			"${apt[@]}" update && "${apt[@]}" install --no-install-recommends $packages
		) >"${TMPDIR:-/tmp}/es-apt.$$" 2>&1 </dev/null; then
			tail -n 20 "${TMPDIR:-/tmp}/es-apt.$$" >&2
			rm -f "${TMPDIR:-/tmp}/es-apt.$$"
			say "could not install ${packages% }"
			return 1
		fi
		rm -f "${TMPDIR:-/tmp}/es-apt.$$"
		hash -r
		packages=$(missing_packages "$@" | sort -u | tr '\n' ' ')
		if [ -n "$packages" ]; then
			say "still missing after the installation: ${packages% }"
			return 1
		fi
	fi
	PG_CONFIG=$(command -v "${PG_CONFIG:-pg_config}" || true)
	export PG_CONFIG
}
