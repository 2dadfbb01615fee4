#!/bin/bash
# demo.sh: run examples/band_finder.sql on a private server ("make demo").
# The environment is that of test/server.sh.

set -uo pipefail

root=$(dirname "$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")")
script=examples/band_finder.sql
if [ ! -f "$root/$script" ]; then
	echo "demo.sh: $script is missing" >&2
	exit 1
fi
# Narration comes from \echo, so show the statements (-e), not every line (-a).
exec bash "$root/test/server.sh" \
	bash -c 'psql -X -q -e -v ON_ERROR_STOP=1 -P pager=off -f "$1" 2>&1' demo "$script"
