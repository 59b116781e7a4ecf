# Measuring one run. Every run adds a line to $rows: case, target, round, transactions per second, CPU of the pooler's process in
# microseconds per transaction, median latency in microseconds; `-` for what was not measured.

ticks=$(getconf CLK_TCK)
rows=$work/rows
: >"$rows"

cpu_ticks() { # pid: fields 14 and 15 of stat, counted behind the name in parentheses; 0 without a pid
    local stat
    if [ "$1" = - ]; then echo 0; return; fi
    stat=$(cat "/proc/$1/stat")
    stat=${stat##*) }
    # shellcheck disable=SC2086 # fields
    set -- $stat
    echo $((${12} + ${13}))
}

resident_kib() { # pid
    awk '/^VmRSS:/ { print $2 }' "/proc/$1/status"
}

# Peak memory since `reset_peak`.
peak_kib() { # pid
    awk '/^VmHWM:/ { print $2 }' "/proc/$1/status"
}
reset_peak() { # pid
    echo 5 >"/proc/$1/clear_refs"
}

one_run() { # case target pid port database pgbench's arguments…
    local case_name=$1 target=$2 pid=$3 port=$4 database=$5
    shift 5
    local before after report n tps
    before=$(cpu_ticks "$pid")
    # shellcheck disable=SC2086 # arguments
    report=$("${pinned[@]}" "$bin/pgbench" -n -h 127.0.0.1 -p "$port" -U postgres -T "$seconds" "$@" ${extra[$target]:-} "$database" 2>&1) || { echo "$report" >&2; exit 1; }
    after=$(cpu_ticks "$pid")
    n=$(sed -n 's/^number of transactions actually processed: \([0-9]*\).*/\1/p' <<<"$report")
    tps=$(sed -n 's/^tps = \([0-9.]*\).*/\1/p' <<<"$report")
    if [ -z "$n" ] || [ "$n" = 0 ] || grep -q aborted <<<"$report"; then echo "$report" >&2; exit 1; fi
    local median=-
    if compgen -G "$work/latency.*" >/dev/null; then
        median=$(cat "$work"/latency.* | awk '{ print $3 }' | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }')
        rm -f "$work"/latency.*
    fi
    awk -v line="$case_name $target $round" -v tps="$tps" -v n="$n" -v t="$((after - before))" -v hz="$ticks" -v pid="$pid" -v median="$median" \
        'BEGIN { cpu = pid == "-" ? "-" : sprintf("%.3f", t / hz / n * 1e6); printf "%s %.1f %s %s\n", line, tps, cpu, median }' | tee -a "$rows" >&2
}
pinned=()
# Arguments of pgbench for one target only.
declare -A extra=()

# Each target once per round, in turns, so that drift meets all: `alternate case -- pgbench's arguments -- target pid port database …`
alternate() {
    local case_name=$1 arguments=()
    shift 2
    while [ "$1" != -- ]; do arguments+=("$1"); shift; done
    shift
    local targets=("$@") at
    for round in $(seq "$rounds"); do
        for ((at = 0; at < ${#targets[@]}; at += 4)); do
            one_run "$case_name" "${targets[@]:at:4}" "${arguments[@]}"
        done
    done
}

# Memory that clients take which have run a query and are idle.
memory_run() { # case target pid port clients
    local before after
    printf 'SELECT 1;\n\\sleep %s s\n' "$((memory_seconds + 30))" >"$work/idle.sql"
    before=$(resident_kib "$3")
    "$bin/pgbench" -n -h 127.0.0.1 -p "$4" -U postgres -c "$5" -j 1 -t 1 -f "$work/idle.sql" bench >/dev/null 2>&1 &
    local bench_pid=$!
    sleep "$memory_seconds"
    kill -0 "$bench_pid" || { echo "pgbench with $5 clients has ended early" >&2; exit 1; }
    after=$(resident_kib "$3")
    local idle_before idle_after
    idle_before=$(cpu_ticks "$3")
    sleep 5
    idle_after=$(cpu_ticks "$3")
    kill -KILL "$bench_pid"
    wait "$bench_pid" 2>/dev/null || true
    awk -v line="$1 $2" -v kib="$((after - before))" -v n="$5" -v none="$before" -v t="$((idle_after - idle_before))" -v hz="$ticks" \
        'BEGIN { printf "%s %.2f KiB per client, %.1f MiB with none, %.4f cores while idle\n", line, kib / n, none / 1024, t / hz / 5 }' | tee -a "$work/notes" >&2
}
