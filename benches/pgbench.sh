#!/usr/bin/env bash
# pgbench through the proxy and through PgBouncer, in turns, against one Postgres; then sharded point reads over three.
#
# usage: benches/pgbench.sh [quick|full]
# Prints a table and writes it with every single run to benches/results/pgbench.json.
# CPU is user plus system time of the pooler's process (/proc/PID/stat) per million transactions: on a busy machine it says
# more than transactions per second. Medians over the rounds; runs of A and B alternate, so that drift meets both.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-full}
case $mode in
    quick) seconds=4 rounds=3 clients_list='16' ;;
    full) seconds=15 rounds=5 clients_list='16 64' ;;
    *) echo "usage: $0 [quick|full]" >&2; exit 64 ;;
esac
trunkline=$PWD/target/release/trunkline
root=$PWD
[ -x "$trunkline" ] || { echo "$trunkline is missing: cargo build --release" >&2; exit 1; }

bin=''
for dir in "$(pg_config --bindir 2>/dev/null || true)" $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -Vr); do
    if [ -x "$dir/initdb" ]; then bin=$dir; break; fi
done
[ -n "$bin" ] || { echo 'no Postgres found: make deps' >&2; exit 1; }
pgbouncer=$(command -v pgbouncer || echo /usr/sbin/pgbouncer)
[ -x "$pgbouncer" ] || { echo 'no pgbouncer found: make deps-bench' >&2; exit 1; }

# Postgres and PgBouncer refuse root.
as_user=()
if [ "$(id -u)" = 0 ]; then
    user=$(id -un postgres 2>/dev/null || echo nobody)
    as_user=(setpriv --reuid "$user" --regid "$(id -gn "$user")" --clear-groups)
fi

work=$(mktemp -d /tmp/trunkline-bench.XXXXXX)
chmod 777 "$work"
pids=()
finish() {
    for pid in "${pids[@]}"; do kill -INT "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
cd "$work"

port_of_server() { echo $((17430 + $1)); }
wait_for() { # port
    for _ in $(seq 200); do
        if PGCONNECT_TIMEOUT=1 "$bin/psql" -X -q -h 127.0.0.1 -p "$1" -U postgres -d "${2:-postgres}" -c 'SELECT 1' >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "nothing answers on port $1" >&2
    exit 1
}
start_server() { # index
    local port
    port=$(port_of_server "$1")
    "${as_user[@]}" "$bin/initdb" -D "$work/pg$1" -U postgres -A trust --no-sync --locale=C --encoding=UTF8 >/dev/null
    "${as_user[@]}" "$bin/postgres" -D "$work/pg$1" -p "$port" -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
        -c synchronous_commit=off -c max_connections=200 -c max_prepared_transactions=64 -c shared_buffers=128MB >"$work/pg$1.log" 2>&1 &
    pids+=($!)
    wait_for "$port"
    "$bin/psql" -X -q -h 127.0.0.1 -p "$port" -U postgres -d postgres -c 'CREATE DATABASE bench'
}
for idx in 0 1 2; do start_server "$idx"; done
"$bin/pgbench" -q -i -s 10 -h 127.0.0.1 -p "$(port_of_server 0)" -U postgres bench >/dev/null 2>&1
for idx in 0 1 2; do "$bin/psql" -X -q -h 127.0.0.1 -p "$(port_of_server "$idx")" -U postgres -d bench -f "$root/sql/demo/schema.sql"; done

# The poolers: 20 connections to the server for each.
start_bouncer() { # port mode
    cat >"$work/bouncer-$2.ini" <<INI
[databases]
bench = host=127.0.0.1 port=$(port_of_server 0) dbname=bench
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
auth_type = any
pool_mode = $2
default_pool_size = $3
max_client_conn = 1000
log_connections = 0
log_disconnections = 0
INI
    # auth_type any: whoever comes is this user.
    sed -i "s/dbname=bench/dbname=bench user=postgres/" "$work/bouncer-$2.ini"
    "${as_user[@]}" "$pgbouncer" "$work/bouncer-$2.ini" >"$work/bouncer-$2.log" 2>&1 &
    pids+=($!)
    wait_for "$1" bench
    bouncer_pid=$!
}
start_trunkline() { # port config-file
    "$trunkline" run -c "$2" >"$2.log" 2>&1 &
    pids+=($!)
    trunkline_pid=$!
    wait_for "$1" bench
}
shard_lines() { # name index
    printf '[[databases.bench.shards]]\nname = "%s"\ndbname = "bench"\nnodes = [{ host = "127.0.0.1", port = %s }]\n' "$1" "$(port_of_server "$2")"
}
head_lines() { # port
    printf '[server]\nlisten = "127.0.0.1:%s"\n[admin]\nlisten = "127.0.0.1:%s"\n[pool]\nmax_per_node = 20\n' "$1" "$(($1 + 1))"
    printf '[auth]\nmethod = "trust"\n[databases.bench]\ncontrol = { user = "postgres" }\n'
}
{ head_lines 17440; shard_lines one 0; } >"$work/plain.toml"
{
    head_lines 17450
    for idx in 0 1 2; do shard_lines "shard$idx" "$idx"; done
    printf '[[databases.bench.tables]]\nname = "users"\nkey = { hash = "user_id" }\n'
} >"$work/sharded.toml"
start_bouncer 17460 transaction 20; bouncer_transaction=$bouncer_pid
# PgBouncer before 1.21 keeps prepared statements only in session mode, with a server connection for each client.
start_bouncer 17461 session 100; bouncer_session=$bouncer_pid
start_trunkline 17440 "$work/plain.toml"; plain=$trunkline_pid
start_trunkline 17450 "$work/sharded.toml"; sharded=$trunkline_pid
{
    echo 'INSERT INTO users (user_id, name, email, country) VALUES'
    for id in $(seq 1 4999); do echo "($id, 'user $id', 'e', 'us'),"; done
    echo "(5000, 'last', 'e', 'us');"
} | "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 17450 -U postgres -d bench

ticks=$(getconf CLK_TCK)
cpu_ticks() { # pid: fields 14 and 15 of stat, counted behind the name in parentheses
    local stat
    stat=$(cat "/proc/$1/stat")
    stat=${stat##*) }
    set -- $stat
    echo $((${12} + ${13}))
}
rows_file=$work/rows
: >"$rows_file"
one_run() { # case pooler pid port clients protocol script-arguments…
    local case_name=$1 pooler=$2 pid=$3 port=$4 clients=$5 protocol=$6
    shift 6
    local before after report n tps
    before=$(cpu_ticks "$pid")
    report=$("$bin/pgbench" -n -h 127.0.0.1 -p "$port" -U postgres -M "$protocol" -c "$clients" -j 2 -T "$seconds" "$@" bench 2>&1)
    after=$(cpu_ticks "$pid")
    n=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' <<<"$report")
    tps=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' <<<"$report")
    if [ -z "$n" ] || grep -q 'aborted' <<<"$report"; then echo "$report" >&2; exit 1; fi
    awk -v c="$case_name" -v p="$pooler" -v tps="$tps" -v n="$n" -v t="$((after - before))" -v hz="$ticks" \
        'BEGIN { printf "%s %s %.1f %.3f\n", c, p, tps, t / hz / n * 1e6 }' | tee -a "$rows_file" >&2
}

for clients in $clients_list; do
    for protocol in simple prepared; do
        case $protocol in
            simple) port=17460 pid=$bouncer_transaction ;;
            prepared) port=17461 pid=$bouncer_session ;;
        esac
        for _ in $(seq "$rounds"); do
            one_run "select-$protocol-$clients" trunkline "$plain" 17440 "$clients" "$protocol" -S
            one_run "select-$protocol-$clients" pgbouncer "$pid" "$port" "$clients" "$protocol" -S
        done
    done
    for protocol in simple prepared; do
        for _ in $(seq "$rounds"); do
            one_run "sharded-$protocol-$clients" trunkline "$sharded" 17450 "$clients" "$protocol" -f "$root/sql/pgbench/select_user.sql"
        done
    done
done

# The table, and the same as JSON with all runs.
medians=$work/medians
sort -k1,1 -k2,2 -k4,4g "$rows_file" | awk '
    function flush() { if (n) { print key, median(cpu, n), median_tps() } }
    function median(list, n) { return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2 }
    function median_tps(    i, j, t) {
        for (i = 2; i <= n; i++) { t = tps[i]; for (j = i - 1; j > 0 && tps[j] > t; j--) tps[j + 1] = tps[j]; tps[j + 1] = t }
        return median(tps, n)
    }
    { this = $1 " " $2; if (this != key) { flush(); key = this; n = 0 } n++; tps[n] = $3 + 0; cpu[n] = $4 + 0 }
    END { flush() }' >"$medians"
results=$root/benches/results
mkdir -p "$results"
awk '
    { cpu[$1, $2] = $3; tps[$1, $2] = $4; if (!($1 in seen)) { seen[$1] = 1; order[++n] = $1 } }
    END {
        printf "%-22s %12s %12s %9s %14s %14s %9s\n", "case", "trunkline", "pgbouncer", "tps", "trunkline", "pgbouncer", "cpu"
        printf "%-22s %12s %12s %9s %14s %14s %9s\n", "", "tps", "tps", "ratio", "cpu s/Mtx", "cpu s/Mtx", "ratio"
        for (i = 1; i <= n; i++) {
            c = order[i]; a = tps[c, "trunkline"]; b = tps[c, "pgbouncer"]; x = cpu[c, "trunkline"]; y = cpu[c, "pgbouncer"]
            printf "%-22s %12.0f %12s %9s %14.2f %14s %9s\n", c, a, b ? sprintf("%.0f", b) : "-", b ? sprintf("%.2f", a / b) : "-",
                x, y ? sprintf("%.2f", y) : "-", y ? sprintf("%.2f", x / y) : "-"
        }
    }' "$medians" | tee "$results/pgbench.txt"
{
    printf '{\n  "mode": "%s", "seconds_per_run": %s, "rounds": %s, "cores": %s,\n' "$mode" "$seconds" "$rounds" "$(nproc)"
    printf '  "postgres": "%s", "pgbouncer": "%s",\n' "$("$bin/postgres" --version)" "$("$pgbouncer" --version | head -1)"
    printf '  "medians": [\n'
    awk '{ printf "%s    { \"case\": \"%s\", \"pooler\": \"%s\", \"cpu_seconds_per_million\": %s, \"tps\": %s }", (NR > 1 ? ",\n" : ""), $1, $2, $3, $4 }' "$medians"
    printf '\n  ],\n  "runs": [\n'
    awk '{ printf "%s    { \"case\": \"%s\", \"pooler\": \"%s\", \"tps\": %s, \"cpu_seconds_per_million\": %s }", (NR > 1 ? ",\n" : ""), $1, $2, $3, $4 }' "$rows_file"
    printf '\n  ]\n}\n'
} >"$results/pgbench.json"
echo "benches/results/pgbench.json has every run"
