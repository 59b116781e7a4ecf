#!/usr/bin/env bash
# From the runs of a benchmark: a table, the same as JSON with every run, and for `full` a chart.
#
# usage: benches/lib/report.sh MODE SECONDS ROWS NOTES, in the repository's root
set -euo pipefail
mode=$1 seconds=$2 rows=$3 notes=$4
out=benches/results/$mode

# One line per case: case, A, B, median and range of the rounds' ratios A/B of tps and of CPU, medians of both CPUs and latencies.
# A is the first target of the case, B each other one.
summary=$(mktemp)
trap 'rm -f "$summary"' EXIT
awk '
    function sorted(list, n,    i, j, t) { for (i = 2; i <= n; i++) { t = list[i]; for (j = i - 1; j > 0 && list[j] > t; j--) list[j + 1] = list[j]; list[j + 1] = t } }
    function middle(list, n) { sorted(list, n); return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2 }
    function of_rounds(c, target, values,    r, list, n) {
        for (r = 1; r <= n_rounds; r++) if ((c, target, r) in values && values[c, target, r] != "-") list[++n] = values[c, target, r] + 0
        return n ? sprintf("%.2f", middle(list, n)) : "-"
    }
    function ratio(c, a, b, values,    r, list, n) {
        for (r = 1; r <= n_rounds; r++) if (values[c, a, r] != "-" && values[c, b, r] != "-" && values[c, b, r] > 0) list[++n] = values[c, a, r] / values[c, b, r]
        if (!n) return "- - -"
        sorted(list, n)
        return sprintf("%.2f %.2f %.2f", middle(list, n), list[1], list[n])
    }
    {
        if (!($1 in n_targets)) cases[++n_cases] = $1
        if (!(($1, $2) in seen)) { seen[$1, $2] = 1; targets[$1, ++n_targets[$1]] = $2 }
        tps[$1, $2, $3] = $4; cpu[$1, $2, $3] = $5; p50[$1, $2, $3] = $6
        if ($3 > n_rounds) n_rounds = $3
    }
    END {
        for (i = 1; i <= n_cases; i++) for (t = 2; t <= n_targets[cases[i]]; t++) {
            c = cases[i]; a = targets[c, 1]; b = targets[c, t]
            print c, a, b, ratio(c, a, b, tps), ratio(c, a, b, cpu), of_rounds(c, a, cpu), of_rounds(c, b, cpu), of_rounds(c, a, p50), of_rounds(c, b, p50), of_rounds(c, a, tps), of_rounds(c, b, tps)
        }
    }' "$rows" >"$summary"

{
    echo "commit $(git rev-parse --short HEAD), $(nproc) cores, $(uname -sr), $(pg_config --version 2>/dev/null || psql --version)"
    echo "$seconds s per run; ratios A/B: median of the rounds [least, most]; CPU in µs per transaction of the pooler's process; p50 in µs"
    awk 'BEGIN { printf "%-24s %-22s %-19s %-19s %9s %9s %9s %9s %8s %8s\n", "case", "A / B", "tps A/B", "CPU A/B", "CPU A", "CPU B", "p50 A", "p50 B", "tps A", "tps B" }
        function range(m, l, h) { return m == "-" ? "-" : sprintf("%s [%s, %s]", m, l, h) }
        { printf "%-24s %-22s %-19s %-19s %9s %9s %9s %9s %8.0f %8.0f\n", $1, $2 " / " $3, range($4, $5, $6), range($7, $8, $9), $10, $11, $12, $13, $14, $15 }' "$summary"
    cat "$notes"
} | tee "$out.txt"

awk -v mode="$mode" -v seconds="$seconds" -v cores="$(nproc)" -v commit="$(git rev-parse --short HEAD)" -v rows="$rows" -v notes="$notes" '
    function number(x) { return x == "-" ? "null" : x + 0 }
    BEGIN { printf "{\n  \"mode\": \"%s\", \"seconds_per_run\": %s, \"cores\": %s, \"commit\": \"%s\",\n  \"cases\": [", mode, seconds, cores, commit }
    {
        printf "%s\n    { \"case\": \"%s\", \"a\": \"%s\", \"b\": \"%s\", \"tps_ratio\": [%s, %s, %s], \"cpu_ratio\": [%s, %s, %s] }", (NR > 1 ? "," : ""), $1, $2, $3,
            number($4), number($5), number($6), number($7), number($8), number($9)
    }
    END {
        printf "\n  ],\n  \"runs\": ["
        while ((getline line < rows) > 0) {
            split(line, f, " ")
            printf "%s\n    { \"case\": \"%s\", \"target\": \"%s\", \"round\": %s, \"tps\": %s, \"cpu_micros\": %s, \"p50_micros\": %s }", (n++ ? "," : ""), f[1], f[2], f[3], f[4], number(f[5]), number(f[6])
        }
        printf "\n  ],\n  \"notes\": ["
        while ((getline line < notes) > 0) printf "%s\n    \"%s\"", (m++ ? "," : ""), line
        printf "\n  ]\n}\n"
    }' "$summary" >"$out.json"
echo "$out.json has every run"

[ "$mode" = full ] || exit 0
# CPU per transaction beside PgBouncer, one bar per case; the line is PgBouncer itself.
awk '
    $3 == "pgbouncer" && $7 != "-" && $1 !~ /^latency/ { name[++n] = $1; ratio[n] = $7; low[n] = $8; high[n] = $9 }
    END {
        width = 720; left = 170; unit = (width - left - 60) / 1.6; height = 60 + 34 * n
        printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n", width, height
        printf "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"10\" y=\"22\" font-size=\"15\">CPU per transaction / PgBouncer’s (less is better)</text>\n"
        for (i = 1; i <= n; i++) {
            y = 40 + 34 * (i - 1)
            printf "<text x=\"10\" y=\"%d\">%s</text><rect x=\"%d\" y=\"%d\" width=\"%.0f\" height=\"20\" fill=\"#3a6ea5\"/>", y + 15, name[i], left, y, ratio[i] * unit
            printf "<line x1=\"%.0f\" x2=\"%.0f\" y1=\"%d\" y2=\"%d\" stroke=\"black\"/>", left + low[i] * unit, left + high[i] * unit, y + 10, y + 10
            printf "<text x=\"%.0f\" y=\"%d\">%s</text>\n", left + high[i] * unit + 6, y + 15, ratio[i]
        }
        printf "<line x1=\"%.0f\" x2=\"%.0f\" y1=\"34\" y2=\"%d\" stroke=\"#b03030\" stroke-dasharray=\"4\"/>\n</svg>\n", left + unit, left + unit, height - 14
    }' "$summary" >docs/performance.svg
