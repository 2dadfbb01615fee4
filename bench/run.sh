#!/bin/bash
# run.sh: measure the extension beside what one would do without it ("make bench").
#
# Every workload of bench/workloads and its baselines run in turns, several
# rounds, on the same server, and print a table each as soon as they are
# done; report.awk says how to read it.  Whoever else keeps event stores in
# PostgreSQL as SQL functions is measured too, if the npm registry is there
# (peers.sh).
#
# Environment, besides that of test/server.sh:
#   BENCH         workloads to run (default: all)
#   BENCH_ROUNDS  rounds (default 5)
#   BENCH_QUICK   1: three short rounds, to try it out
#   BENCH_PEERS   0: without message-db and Emmett
#
# Leaves raw.csv (every measurement), summary.csv (the tables), settings.csv and
# the plots (*.svg) in ES_RESULTS.

set -euo pipefail

here=$(dirname "$(realpath -- "${BASH_SOURCE[0]}")")
# shellcheck source=bench/measure.sh
. "$here/measure.sh"
# shellcheck source=bench/peers.sh
. "$here/peers.sh"
# In this order: bytes wants the peers' tables empty.
all_workloads='bytes append hot batch read fold project dispatch cold rebuild async'
for file in append hot batch project rebuild async dispatch fold read bytes; do
	# shellcheck source=/dev/null
	. "$here/workloads/$file.sh"
done

workloads=${BENCH:-$all_workloads}
for workload in $workloads; do
	case " $all_workloads " in
		*" $workload "*) ;;
		*) die "there is no workload $workload, only $all_workloads" ;;
	esac
done

started=$SECONDS
new_results ""
prepare_server ""
load_peers
describe
for workload in $workloads; do
	measure "$workload"
done
perl "$here/plot.pl" "$ES_RESULTS"
echo
echo "took $((SECONDS - started)) s"
