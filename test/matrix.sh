#!/bin/bash
# matrix.sh: all tests on every major version of PostgreSQL that Debian has
# ("make test-matrix"): each in a chroot of the release that has it, made of
# Debian's packages and kept for the next time.
#
# Needs root on a Debian-like system, and its mirror.  Every command in a chroot
# has name spaces of its own: nothing stays mounted, no server survives it, and
# there is no network.
#
# Environment:
#   MAJORS       versions to test (default "15 17 18 19")
#   CHROOT_BASE  where the chroots are (default /var/tmp/event_sourcing; about 600 MB each)
#   DEBIAN_MIRROR  (default: that of the machine's own apt sources)
# and that of run.sh, such as TAP="006_worker".  The last line counts the tests of
# all versions.  A version whose chroot cannot be made, say without a network, is
# one that was skipped.

set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=test/setup.sh
. "$here/setup.sh"

majors=${MAJORS:-15 17 18 19}
base=${CHROOT_BASE:-/var/tmp/event_sourcing}
source_dir=$(dirname "$here")
passed=0 failed=0 skipped=0
no_chroot=77

# inside ROOT CMD...: in a chroot with its own processes, mounts and network
inside() {
	local root=$1
	shift
	# shellcheck disable=SC2016
	unshare --mount --pid --net --fork --kill-child bash -c '
		root=$1 && shift
		mount --make-rprivate / && mount -t proc proc "$root/proc" && mount --rbind /sys "$root/sys" &&
			mount -t tmpfs -o mode=755,nosuid tmpfs "$root/dev" || exit 70
		for node in null zero full random urandom tty; do
			: >"$root/dev/$node" && mount --bind "/dev/$node" "$root/dev/$node" || exit 70
		done
		mkdir "$root/dev/shm" "$root/dev/pts"
		mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
		mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
		ln -s pts/ptmx "$root/dev/ptmx"
		ln -s /proc/self/fd "$root/dev/fd"
		ip link set lo up
		exec chroot "$root" "$@"' chroot "$root" \
		/usr/bin/env -i HOME=/root LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@" </dev/null
}

# make_root MAJOR SUITE ROOT
make_root() {
	local major=$1 suite=$2 root=$3 release=$2 lines pins=''

	[ "$suite" != experimental ] || release=sid
	lines="deb $(debian_mirror) $release main"
	if [ "$suite" = experimental ]; then
		# nothing but PostgreSQL of it
		lines+=$'\n'"deb $(debian_mirror) experimental main"
		pins="Package: postgresql-$major* postgresql-*-$major libpq5 libpq-dev
Pin: release a=experimental
Pin-Priority: 600"
	fi
	rm -rf --one-file-system "$root"
	mkdir -p "$base"
	cat >"$root.setup" <<-SH
		mkdir -p "\$1/etc/postgresql-common" "\$1/etc/apt/preferences.d"
		echo 'create_main_cluster = false' >"\$1/etc/postgresql-common/createcluster.conf"
		echo '$pins' >"\$1/etc/apt/preferences.d/postgresql"
	SH
	# The headers without the compiler for JIT that their package asks for; and
	# pgTAP, which is SQL only, of whatever version there is.
	cat >"$root.finish" <<-SH
		set -e
		chroot "\$1" bash -euc '
			cd /root
			unpack() { apt-get -q -o APT::Sandbox::User=root download "\$1" && dpkg -x "\$1"_*.deb "\$2" && rm -f "\$1"_*.deb; }
			unpack postgresql-server-dev-$major /
			pgtap=\$(apt-cache search --names-only "^postgresql-[0-9]+-pgtap\$" | cut -d" " -f1 | sort -V | tail -n 1)
			unpack "\$pgtap" pgtap
			cp -n pgtap/usr/share/postgresql/*/extension/pgtap* /usr/share/postgresql/$major/extension/
			rm -rf pgtap'
	SH
	echo "$lines" | mmdebstrap --mode=root --variant=minbase \
		--include="ca-certificates,postgresql-$major,build-essential,libpq-dev,perl,libipc-run-perl,libtap-parser-sourcehandler-pgtap-perl,iproute2" \
		--aptopt='APT::Install-Recommends "0"' --aptopt='Acquire::Languages "none"' \
		--aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
		--setup-hook="bash $root.setup \"\$1\"" --customize-hook="bash $root.finish \"\$1\"" \
		"$release" "$root" -
}

# test_major MAJOR: print what the tests print
test_major() {
	local major=$1 suite root
	suite=$(suite_of "$major") || return
	root=$base/$suite-$major
	(
		flock 9
		if [ ! -e "$root.ready" ]; then
			make_root "$major" "$suite" "$root" >"$root.log" 2>&1 || {
				tail -n 30 "$root.log"
				say "could not make $root"
				exit $no_chroot
			}
			rm -f "$root.setup" "$root.finish"
			touch "$root.ready"
		fi
		rm -rf --one-file-system "$root/src" && mkdir "$root/src" &&
			tar -C "$source_dir" --exclude=./.git --exclude=./bench/results -cf - . |
			tar -C "$root/src" --no-same-owner -xf - &&
			inside "$root" PG_CONFIG="/usr/lib/postgresql/$major/bin/pg_config" \
				${SUITES:+SUITES="$SUITES"} ${REGRESS:+REGRESS="$REGRESS"} ${ISOLATION:+ISOLATION="$ISOLATION"} \
				${TAP:+TAP="$TAP"} ${PGTAP:+PGTAP="$PGTAP"} ${MAKE_ARGS:+MAKE_ARGS="$MAKE_ARGS"} \
				bash /src/test/run.sh
	) 9>"$base/$suite-$major.lock"
}

# count LOG: add what its last line says
count() {
	local line
	line=$(tail -n 1 "$1")
	if [[ $line =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed(,\ ([0-9]+)\ skipped)?$ ]]; then
		passed=$((passed + BASH_REMATCH[1])) failed=$((failed + BASH_REMATCH[2])) skipped=$((skipped + ${BASH_REMATCH[4]:-0}))
	else
		failed=$((failed + 1))
	fi
}

if [ "$(id -u)" != 0 ]; then
	say "only root can make chroots"
	echo "0 passed, 1 failed"
	exit 1
fi
require chroot || {
	echo "0 passed, 1 failed"
	exit 1
}
mkdir -p "$base"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for major in $majors; do
	started=$SECONDS
	test_major "$major" >"$log" 2>&1
	rc=$?
	[ $rc = 0 ] || cat "$log"
	if [ $rc = $no_chroot ]; then
		skipped=$((skipped + 1))
	else
		count "$log"
		[ $rc = 0 ] || [ $failed -gt 0 ] || failed=1
	fi
	echo "PostgreSQL $major: $(tail -n 1 "$log") in $((SECONDS - started)) s"
done
echo "$passed passed, $failed failed$([ $skipped = 0 ] || echo ", $skipped skipped")"
[ $failed = 0 ] && [ $passed -gt 0 ]
