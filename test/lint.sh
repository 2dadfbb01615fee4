#!/bin/bash
# lint.sh format|format-check|lint: the C sources' layout, static analysis of
# the C sources and the shell scripts ("make format", "make lint").

set -uo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=test/setup.sh
. "$here/setup.sh"
cd "$here/.." || exit

# Replace the tabs and blanks that begin a line by \1 and \2: diff -b then sees
# every change of indentation, and none of alignment inside a line.
mark() { sed -e ':a' -e 's/^\([\x01\x02]*\)\t/\1\x01/; ta' -e 's/^\([\x01\x02]*\) /\1\x02/; ta'; }
unmark() { tr '\001\002' '\t '; }

# layout check|write: compare the sources with what clang-format makes of them,
# or make them so
layout() {
	local file old new rc=0
	require tools || return
	old=$(mktemp) && new=$(mktemp) || return
	for file in src/*.[ch]; do
		mark <"$file" >"$old"
		clang-format "$file" | mark >"$new" || rc=1
		if [ "$1" = write ]; then
			diff -b --old-line-format='' --new-line-format='%L' --unchanged-line-format='%L' \
				"$old" "$new" | unmark >"$file.tmp"
			cmp -s "$file" "$file.tmp" || cat "$file.tmp" >"$file"
			rm "$file.tmp"
			continue
		fi
		diff -bu --label "$file" --label "$file (clang-format)" "$old" "$new" | unmark
		[ "${PIPESTATUS[0]}" = 0 ] || rc=1
		# A message stays on one line, so that it can be searched for.
		expand -t 4 "$file" | awk -v file="$file" -v limit=100 '
			length > limit && !/"/ {
				printf "%s:%d: longer than %d columns\n", file, NR, limit
				bad = 1
			}
			END { exit bad }' || rc=1
	done
	rm -f "$old" "$new"
	return $rc
}

rc=0
shopt -s nullglob
case ${1:-} in
	format) layout write && exit ;;
	format-check) layout check && exit ;;
	lint) require tools build || exit ;;
	*) say "usage: lint.sh format|format-check|lint" ;;
esac
[ "${1:-}" = lint ] || exit 1

echo "== clang-tidy"
clang-tidy --quiet src/*.c -- -std=gnu99 -D_GNU_SOURCE -Isrc \
	-isystem "$("$PG_CONFIG" --includedir-server)" 2> >(grep -v ' generated\.$' >&2) || rc=1

# Without the server's headers, cppcheck has to be told about their macros.
echo "== cppcheck"
cppcheck --quiet --error-exitcode=1 --inline-suppr --std=c99 -Isrc -j"$(nproc)" \
	--enable=warning,performance,portability \
	--suppress=missingIncludeSystem --suppress=unknownMacro \
	-D'PG_FUNCTION_INFO_V1(x)=' -DPG_MODULE_MAGIC= -DPGDLLEXPORT= -DPGDLLIMPORT= \
	-D'pg_attribute_noreturn()=__attribute__((noreturn))' -D'pg_attribute_printf(a,b)=' -DFLEXIBLE_ARRAY_MEMBER= \
	-D'PG_TRY(x)=' -D'PG_CATCH(x)=' -D'PG_FINALLY(x)=' -D'PG_END_TRY(x)=' \
	src/*.c || rc=1

echo "== shellcheck"
shellcheck -x .ci/run test/*.sh examples/*.sh bench/*.sh || rc=1

exit $rc
