#!/usr/bin/env bash
# Trunkline beside PgBouncer, beside itself without shards, and beside one server with all rows.
#
# usage: benches/bench.sh [quick|full]
# Prints a table and writes it, with every single run, to benches/results/MODE.{txt,json}; `full` also draws docs/performance.svg.
# CPU is user plus system time of the pooler's process (/proc/PID/stat) per transaction: on a busy machine it says more than
# transactions per second. A figure is the median of the rounds' ratios; runs of A and B alternate, so that drift meets both.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-full}
case $mode in
    quick) seconds=${SECONDS_PER_RUN:-4} rounds=${ROUNDS:-3} memory_seconds=8 n_idle=1000 ;;
    full) seconds=${SECONDS_PER_RUN:-3} rounds=${ROUNDS:-5} memory_seconds=25 n_idle=5000 ;;
    *) echo "usage: $0 [quick|full]" >&2; exit 64 ;;
esac
root=$PWD
trunkline=$root/target/release/trunkline
[ -x "$trunkline" ] || { echo "$trunkline is missing: cargo build --release" >&2; exit 1; }
# shellcheck source=benches/lib/servers.sh
. "$root/benches/lib/servers.sh"
# shellcheck source=benches/lib/measure.sh
. "$root/benches/lib/measure.sh"
cd "$work"
start_all

# Unsharded, beside PgBouncer.
for clients in 16 64 500; do
    [ "$mode" = full ] || [ "$clients" = 16 ] || continue
    alternate "simple-$clients" -- -M simple -S -c "$clients" -j 2 -- \
        trunkline "$plain" 17440 bench pgbouncer "$bouncer_transaction" 17460 bench
    [ "$clients" != 500 ] || continue
    alternate "prepared-$clients" -- -M prepared -S -c "$clients" -j 2 -- \
        trunkline "$plain" 17440 bench pgbouncer "$bouncer_session" 17461 bench
done
alternate tpcb-prepared-16 -- -M prepared -c 16 -j 16 -- trunkline "$plain" 17440 bench pgbouncer "$bouncer_session" 17461 bench

# Over three shards, beside the same rows in one database.
for protocol in simple prepared; do
    for what in read:select_user write:update_user; do
        alternate "sharded-${what%%:*}-$protocol" -- -M "$protocol" -c 16 -j 2 -f "$root/sql/pgbench/${what##*:}.sql" -- \
            sharded "$sharded" 17450 bench unsharded "$plain" 17440 whole
    done
done

# Fan-out, beside one server with all rows, without a pooler.
query() { # name statement: a script file
    printf '%s\n' "$2" >"$work/$1.sql"
    echo "$work/$1.sql"
}
# Of several clients pgbench logs no latency that can be trusted: an answer that is there at once counts as 0. Their time is n / tps.
beside_server=(sharded "$sharded" 17450 bench server - 17430 whole)
latency=(--log --log-prefix "$work/latency")
alternate top-20 -- -M simple -c 4 -j 2 -f "$(query top 'SELECT * FROM facts ORDER BY amount, fact_id LIMIT 20;')" -- "${beside_server[@]}"
alternate count-sum -- -M simple -c 4 -j 2 -f "$(query sums 'SELECT count(*), sum(amount) FROM facts;')" -- "${beside_server[@]}"
alternate group-10000 -- -M simple -c 1 "${latency[@]}" -f "$(query groups 'SELECT kind, count(*), avg(amount) FROM facts GROUP BY kind;')" -- "${beside_server[@]}"
reset_peak "$sharded"
idle_kib=$(resident_kib "$sharded")
alternate ordered-300000 -- -M simple -c 1 "${latency[@]}" -f "$(query all 'SELECT * FROM facts WHERE fact_id <= 300000 ORDER BY fact_id;')" -- "${beside_server[@]}"
awk -v kib="$(($(peak_kib "$sharded") - idle_kib))" 'BEGIN { printf "ordered-300000 sharded %.1f MiB above idle\n", kib / 1024 }' | tee -a "$work/notes" >&2
joined='SELECT country, count(*), sum(total_cents) FROM users JOIN orders USING (user_id) GROUP BY country;'
alternate join-in-place -- -M simple -c 1 "${latency[@]}" -f "$(query joined "$joined")" -- "${beside_server[@]}"
# Facts are placed by another key than users: both come to one server.
gathered='SELECT u.name, f.amount FROM facts f JOIN users u ON u.user_id = f.kind WHERE f.fact_id <= 2000;'
alternate join-gathered -- -M simple -c 1 "${latency[@]}" -f "$(query gathered "$gathered")" -- "${beside_server[@]}"
alternate rows-10000 -- -M simple -c 4 -j 2 -f "$(query rows 'SELECT * FROM facts WHERE fact_id <= 10000;')" -- \
    trunkline "$plain" 17440 whole pgbouncer "$bouncer_transaction" 17460 whole server - 17430 whole

if [ "$mode" = full ]; then
    # What may grow: shards and tables, and shapes of statements.
    start_grown
    alternate grown -- -M simple -c 16 -j 2 -f "$root/sql/pgbench/select_user.sql" -- grown "$grown" 17444 bench sharded "$sharded" 17450 bench
    cat >"$work/shapes.sql" <<'SQL'
\set n :n + 1
\set shape (:n * 16 + :client_id) % :shapes
\set user_id random(1, 5000)
SELECT name AS n:shape, email, country FROM users WHERE user_id = :user_id;
SQL
    extra=([shapes-10000]='-D n=0 -D shapes=10000' [shapes-1]='-D n=0 -D shapes=1')
    # Planned once before it counts.
    "$bin/pgbench" -n -h 127.0.0.1 -p 17450 -U postgres -c 16 -j 2 -t 700 -D n=0 -D shapes=10000 -f "$work/shapes.sql" bench >/dev/null
    alternate shapes -- -M simple -c 16 -j 2 -f "$work/shapes.sql" -- shapes-10000 "$sharded" 17450 bench shapes-1 "$sharded" 17450 bench
    extra=()
    start_tls
    PGSSLMODE=require alternate tls-simple-16 -- -M simple -S -c 16 -j 2 -- trunkline "$tls" 17446 bench pgbouncer "$bouncer_tls" 17462 bench
fi

# One client, all on one core: what the pooler adds to a round trip.
if command -v taskset >/dev/null; then
    for pid in "${pids[@]}"; do taskset -a -p -c 0 "$pid" >/dev/null; done
    pinned=(taskset -c 0)
    alternate latency-simple -- -M simple -S -c 1 "${latency[@]}" -- \
        trunkline "$plain" 17440 bench pgbouncer "$bouncer_transaction" 17460 bench server - 17430 bench
    alternate latency-prepared -- -M prepared -S -c 1 "${latency[@]}" -- \
        trunkline "$plain" 17440 bench pgbouncer "$bouncer_session" 17461 bench server - 17430 bench
    pinned=()
    for pid in "${pids[@]}"; do taskset -a -p -c "0-$(($(nproc) - 1))" "$pid" >/dev/null; done
fi

# Idle clients, and the start.
sed 's/:17440"/:17442"/; s/:17441"/:17443"/' "$work/plain.toml" >"$work/fresh.toml"
began=$(date +%s%N)
"$trunkline" run -c "$work/fresh.toml" >"$work/fresh.log" 2>&1 &
fresh=$!
pids+=("$fresh")
until psql_at 17442 bench -c 'SELECT 1' >/dev/null 2>&1; do sleep 0.005; done
echo "start trunkline $((($(date +%s%N) - began) / 1000000)) ms to the first query served, psql's own start included" | tee -a "$work/notes" >&2
memory_run "idle-$n_idle" trunkline "$fresh" 17442 "$n_idle"
memory_run "idle-$n_idle" pgbouncer "$bouncer_transaction" 17460 "$n_idle"

mkdir -p "$root/benches/results"
cd "$root"
benches/lib/report.sh "$mode" "$seconds" "$rows" "$work/notes"
