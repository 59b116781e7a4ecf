#!/usr/bin/env bash
# pgbench in all its query modes, with one connection per client and with one per transaction.
set -uo pipefail
source "$(dirname "$0")/../checks.sh"
run() { psql -X -A -t -q -v ON_ERROR_STOP=1 "$@"; }

tables_are_made() {
    pgbench -i -I dtgp -q 2>"$work/log" || { cat "$work/log"; return 1; }
    equal "$(run -c 'SELECT count(*) FROM pgbench_accounts')" 100000
}

# Every transaction adds the same sum to an account, a teller and a branch, and writes it down.
sums_agree() {
    equal "$(run -c 'SELECT sum(abalance) FROM pgbench_accounts')" "$(run -c 'SELECT sum(delta) FROM pgbench_history')" &&
        equal "$(run -c 'SELECT sum(tbalance) FROM pgbench_tellers')" "$(run -c 'SELECT sum(delta) FROM pgbench_history')" &&
        equal "$(run -c 'SELECT sum(bbalance) FROM pgbench_branches')" "$(run -c 'SELECT sum(delta) FROM pgbench_history')" &&
        equal "$(run -c 'SELECT count(*) FROM pgbench_history')" "$1"
}

# N_TRANSACTIONS OPTION…: eight clients with a thread each, since a thread of pgbench waits while one of its clients prepares.
bench() {
    local n=$1
    shift
    pgbench -n -c 8 -j 8 -t "$n" "$@" >"$work/log" 2>&1 && grep -q "number of transactions actually processed: $((8 * n))/" "$work/log" ||
        { cat "$work/log"; return 1; }
}

transactions_simple() { bench 20 -M simple && sums_agree 160; }
transactions_extended() { bench 20 -M extended && sums_agree 320; }
transactions_prepared() { bench 20 -M prepared && sums_agree 480; }
reads_simple() { bench 50 -S -M simple; }
reads_extended() { bench 50 -S -M extended; }
reads_prepared() { bench 50 -S -M prepared; }
connections_per_transaction() { bench 5 -S -C -M simple && bench 5 -S -C -M extended && bench 5 -S -C -M prepared && bench 5 -C && sums_agree 520; }
pipelines() {
    printf '%s\n' '\set aid random(1, 100000)' '\startpipeline' 'SELECT abalance FROM pgbench_accounts WHERE aid = :aid;' \
        'UPDATE pgbench_accounts SET abalance = abalance WHERE aid = :aid;' '\endpipeline' >"$work/pipeline.sql"
    bench 20 -M extended -f "$work/pipeline.sql" && bench 20 -M prepared -f "$work/pipeline.sql"
}

checks tables_are_made transactions_simple transactions_extended transactions_prepared reads_simple reads_extended reads_prepared \
    connections_per_transaction pipelines
