# The servers and poolers of a benchmark run, all on loopback, in a directory that goes with them.
#
# Server 0 has two databases: `bench` (pgbench's tables, and a third of the sharded tables) and `whole` (the sharded tables with
# all their rows). Servers 1 and 2 have the other thirds. Ports: 17430 and up.

bin=''
for dir in "$(pg_config --bindir 2>/dev/null || true)" $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -Vr); do
    if [ -x "$dir/initdb" ]; then bin=$dir; break; fi
done
[ -n "$bin" ] || { echo 'no Postgres found: make deps' >&2; exit 1; }
pgbouncer=$(command -v pgbouncer || echo /usr/sbin/pgbouncer)
[ -x "$pgbouncer" ] || { echo 'no pgbouncer found: make deps-bench' >&2; exit 1; }
ulimit -n "$(ulimit -H -n)"

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

psql_at() { # port database psql's arguments…
    local port=$1 database=$2
    shift 2
    "$bin/psql" -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$port" -U postgres -d "$database" "$@"
}
wait_for() { # port [database]
    for _ in $(seq 200); do
        if PGCONNECT_TIMEOUT=1 psql_at "$1" "${2:-postgres}" -c 'SELECT 1' >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    echo "nothing answers on port $1" >&2
    exit 1
}
start_server() { # index
    local port=$((17430 + $1))
    "${as_user[@]}" "$bin/initdb" -D "$work/pg$1" -U postgres -A trust --no-sync --locale=C --encoding=UTF8 >/dev/null
    "${as_user[@]}" "$bin/postgres" -D "$work/pg$1" -p "$port" -c listen_addresses=0.0.0.0 -c unix_socket_directories= -c fsync=off \
        -c synchronous_commit=off -c max_connections=500 -c max_prepared_transactions=64 -c shared_buffers=256MB >"$work/pg$1.log" 2>&1 &
    pids+=($!)
    wait_for "$port"
    psql_at "$port" postgres -c 'CREATE DATABASE bench'
}
start_bouncer() { # port mode server-connections [further settings]; sets bouncer_pid
    cat >"$work/bouncer-$1.ini" <<INI
[databases]
bench = host=127.0.0.1 port=17430 dbname=bench user=postgres
whole = host=127.0.0.1 port=17430 dbname=whole user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = $1
unix_socket_dir =
auth_type = any
pool_mode = $2
default_pool_size = $3
max_client_conn = 6000
log_connections = 0
log_disconnections = 0
${4:-}
INI
    "${as_user[@]}" "$pgbouncer" "$work/bouncer-$1.ini" >"$work/bouncer-$1.log" 2>&1 &
    bouncer_pid=$!
    pids+=("$bouncer_pid")
    wait_for "$1" bench
}
start_trunkline() { # port config-file; sets trunkline_pid
    "$trunkline" run -c "$2" >"$2.log" 2>&1 &
    trunkline_pid=$!
    pids+=("$trunkline_pid")
    wait_for "$1" bench
}

database_lines() { # name
    printf '[databases.%s]\ncontrol = { user = "postgres" }\n' "$1"
}
shard_lines() { # database shard server-index dbname
    printf '[[databases.%s.shards]]\nname = "%s"\ndbname = "%s"\nnodes = [{ host = "127.0.0.1", port = %s }]\n' "$1" "$2" "$4" "$((17430 + $3))"
}
server_lines() { # port
    printf '[server]\nlisten = "127.0.0.1:%s"\n[admin]\nlisten = "127.0.0.1:%s"\n[pool]\nmax_per_node = 20\n[auth]\nmethod = "trust"\n' "$1" "$(($1 + 1))"
}

start_all() {
    for idx in 0 1 2; do start_server "$idx"; done
    psql_at 17430 postgres -c 'CREATE DATABASE whole'
    "$bin/pgbench" -q -i -s 10 -h 127.0.0.1 -p 17430 -U postgres bench >/dev/null 2>&1
    {
        server_lines 17440
        database_lines bench; shard_lines bench one 0 bench
        database_lines whole; shard_lines whole one 0 whole
    } >"$work/plain.toml"
    {
        server_lines 17450
        database_lines bench
        for idx in 0 1 2; do shard_lines bench "shard$idx" "$idx" bench; done
        printf '[[databases.bench.tables]]\nname = "users"\nkey = { hash = "user_id" }\n'
        printf '[[databases.bench.tables]]\nname = "orders"\nkey = { hash = "user_id" }\n'
        printf '[[databases.bench.tables]]\nname = "facts"\nkey = { hash = "fact_id" }\n'
    } >"$work/sharded.toml"
    start_bouncer 17460 transaction 20; bouncer_transaction=$bouncer_pid
    # PgBouncer before 1.21 keeps prepared statements only in session mode, with a server connection for each client.
    start_bouncer 17461 session 100; bouncer_session=$bouncer_pid
    start_trunkline 17440 "$work/plain.toml"; plain=$trunkline_pid
    start_trunkline 17450 "$work/sharded.toml"; sharded=$trunkline_pid
    load
}

# What may grow without a one-shard statement costing more: 64 shards, each under an address of its own though all are server 0's
# `whole`, and 1,000 tables beside the one that is read.
start_grown() { # sets grown
    {
        server_lines 17444 | sed 's/max_per_node = 20/max_per_node = 2/'
        database_lines bench
        for n in $(seq 64); do shard_lines bench "shard$n" 0 whole | sed "s/127.0.0.1/127.0.0.$n/"; done
        for name in users $(seq -f 'table%g' 1000); do printf '[[databases.bench.tables]]\nname = "%s"\nkey = { hash = "user_id" }\n' "$name"; done
    } >"$work/grown.toml"
    start_trunkline 17444 "$work/grown.toml"; grown=$trunkline_pid
}

# The same database behind TLS, for clients only.
start_tls() { # sets tls and bouncer_tls
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout "$work/tls.key" -out "$work/tls.crt" 2>/dev/null
    chmod 644 "$work/tls.key"
    {
        server_lines 17446
        printf '[tls]\nmode = "require"\ncert = "tls.crt"\nkey = "tls.key"\n'
        database_lines bench; shard_lines bench one 0 bench
    } >"$work/tls.toml"
    PGSSLMODE=require start_trunkline 17446 "$work/tls.toml"; tls=$trunkline_pid
    local settings="client_tls_sslmode = require
client_tls_cert_file = $work/tls.crt
client_tls_key_file = $work/tls.key"
    PGSSLMODE=require start_bouncer 17462 transaction 20 "$settings"; bouncer_tls=$bouncer_pid
}

# The same rows over three shards and in one database.
load() {
    local facts='CREATE TABLE facts (fact_id bigint PRIMARY KEY, kind int NOT NULL, amount bigint NOT NULL, note text NOT NULL)'
    for target in '17430 whole' '17430 bench' '17431 bench' '17432 bench'; do
        # shellcheck disable=SC2086 # port and database
        psql_at $target -f "$root/sql/demo/schema.sql" -c "$facts" -c 'CREATE INDEX ON facts (amount, fact_id)'
    done
    psql_at 17430 whole -c "INSERT INTO users (user_id, name, email, country)
            SELECT n, 'user ' || n, 'user' || n || '@example.com', 'us' FROM generate_series(1, 50000) AS n" \
        -c "INSERT INTO facts SELECT n, n % 10000, n::bigint * 7919 % 1000003, rpad('note ' || n, 66, '.') FROM generate_series(1, 1000000) AS n" \
        -c "INSERT INTO orders (order_id, user_id, total_cents) SELECT n, n * 31 % 50000 + 1, n FROM generate_series(1, 100000) AS n"
    for table in users orders facts; do
        psql_at 17430 whole -c "COPY $table TO STDOUT" | psql_at 17450 bench -c "COPY $table FROM STDIN"
    done
    for idx in 0 1 2; do psql_at $((17430 + idx)) bench -c 'VACUUM ANALYZE'; done
    psql_at 17430 whole -c 'VACUUM ANALYZE'
}
