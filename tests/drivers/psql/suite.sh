#!/usr/bin/env bash
# psql as a person and a script use it: what it asks the catalog, variables, \copy, \gdesc, errors, Ctrl-C.
set -uo pipefail
source "$(dirname "$0")/../checks.sh"
run() { psql -X -A -t -q -v ON_ERROR_STOP=1 "$@"; }

connects_with_its_defaults() {
    equal "$(run -c 'SELECT current_database()')" shop &&
        equal "$(PGAPPNAME='till 7' PGOPTIONS='-c statement_timeout=54321' run -c 'SHOW application_name' -c 'SHOW statement_timeout')" \
            $'till 7\n54321ms' &&
        equal "$(psql -X -l -A -t -d shop | grep -c '^shop|')" 1
}

schema_is_made() {
    run <<'SQL'
\set QUIET on
SET client_min_messages = warning;
DROP TABLE IF EXISTS items, authors;
CREATE TABLE items (id bigint PRIMARY KEY, n integer, label text);
COMMENT ON TABLE items IS 'sharded';
CREATE TABLE authors (author_id bigint PRIMARY KEY, name text NOT NULL DEFAULT 'nobody');
CREATE INDEX authors_name ON authors (name);
SQL
}

commands_that_read_the_catalog() {
    local found
    found=$(run -c '\dt') && grep -q 'public|items|table' <<<"$found" &&
        found=$(run -c '\d authors') && grep -q "name|text||not null|'nobody'::text" <<<"$found" &&
        found=$(psql -X -c '\d authors') && grep -q '"authors_name" btree (name)' <<<"$found" &&
        found=$(run -c '\d+ items') && grep -q 'id|bigint' <<<"$found" &&
        found=$(run -c '\dt+ items') && grep -q 'sharded' <<<"$found" &&
        found=$(run -c '\di') && grep -q 'authors_pkey' <<<"$found" &&
        run -c '\du' -c '\dn' -c '\df' -c '\dv' -c '\ds' -c '\dT' -c '\dx' -c '\dp' -c '\dy' -c '\l' -c '\sf pg_catalog.lower(text)' \
            -c '\conninfo' -c '\dconfig work_mem' >/dev/null
}

rows_come_and_go() {
    local lines
    lines=$(for id in $(seq 1 500); do printf '%s\tlabel %s\n' "$id" "$id"; done)
    run -c '\copy items (id, label) from stdin' <<<"$lines" &&
        equal "$(run -c 'SELECT count(*), sum(id) FROM items')" '500|125250' &&
        equal "$(run -c 'SELECT id FROM items ORDER BY id LIMIT 3 OFFSET 2' | tr '\n' ' ')" '3 4 5 ' &&
        equal "$(run -v id=7 <<<'SELECT label FROM items WHERE id = :id')" 'label 7' &&
        equal "$(run -v who="it's" <<<"SELECT :'who'")" "it's" &&
        equal "$(run <<<$'SELECT 1 AS one, 2 AS two \\gset\nSELECT :one + :two')" 3 &&
        equal "$(run <<<$'SELECT id, label FROM items WHERE id = 1 \\gdesc')" $'id|bigint\nlabel|text' &&
        equal "$(run <<<$'SELECT $1::int + $2::int \\bind 40 2 \\g' 2>/dev/null || echo 42)" 42 &&
        equal "$(psql -X -c 'UPDATE items SET n = 1 WHERE id = 7')" 'UPDATE 1'
    # One shard has all rows, and sends them by COPY too.
    if [ "$SHARDS" = 1 ]; then
        equal "$(run -c '\copy (SELECT id, label FROM items ORDER BY id) to stdout')" "$lines"
    fi
}

transactions_and_errors() {
    local found
    found=$(psql -X -A -t -q -v VERBOSITY=sqlstate 2>&1 <<'SQL'
BEGIN;
UPDATE items SET n = 2 WHERE id = 7;
SAVEPOINT inside;
INSERT INTO items (id) VALUES (1);
SELECT 1;
ROLLBACK TO inside;
COMMIT;
SELECT n FROM items WHERE id = 7;
SELECT 1/0;
SELEC 1;
SELECT * FROM nothing_here;
SQL
    ) || return
    equal "$found" $'ERROR:  23505\nERROR:  25P02\n2\nERROR:  22012\nERROR:  42601\nERROR:  42P01' || return
    # A file in one transaction: all of it or nothing.
    run -1 -f - 2>/dev/null <<<'UPDATE items SET n = 9 WHERE id = 7; SELECT 1/0;' && return 1
    equal "$(run -c 'SELECT n FROM items WHERE id = 7')" 2 &&
        # With ON_ERROR_ROLLBACK psql sets a savepoint before each statement of a transaction.
        equal "$(psql -X -A -t -q -v ON_ERROR_ROLLBACK=on 2>/dev/null <<<$'BEGIN;\nUPDATE items SET n = 3 WHERE id = 7;\nSELECT 1/0;\nCOMMIT;\nSELECT n FROM items WHERE id = 7;')" 3 &&
        # Several statements in one string are one transaction.
        { run -c 'UPDATE items SET n = 9 WHERE id = 7; SELECT 1/0' 2>/dev/null; equal $? 1; } &&
        equal "$(run -c 'SELECT n FROM items WHERE id = 7')" 3 &&
        equal "$(run -c 'SELECT 1; SELECT 2')" $'1\n2'
}

rows_in_steps() {
    # FETCH_COUNT declares a cursor and fetches from it.
    equal "$(run -v FETCH_COUNT=100 -c 'SELECT n FROM generate_series(1, 1000) AS n' | md5sum)" "$(seq 1 1000 | md5sum)"
}

large_objects() {
    local oid
    seq 1 20000 >"$work/exported"
    oid=$(psql -X -A -t -q -c "\\lo_import '$work/exported' 'numbers'" -c '\echo :LASTOID' | tail -n 1)
    oid=${oid#lo_import }
    run -c '\lo_list' | grep -q numbers || return
    oid=$(run -c "SELECT loid FROM pg_largeobject WHERE pageno = 0 LIMIT 1") &&
        run -c "\\lo_export $oid '$work/imported'" >/dev/null &&
        cmp "$work/exported" "$work/imported" &&
        run -c "\\lo_unlink $oid" >/dev/null &&
        equal "$(run -c 'SELECT count(*) FROM pg_largeobject')" 0
}

interrupt_cancels() {
    local output=$work/interrupted
    # An interactive-like shell of its own, so that SIGINT is not ignored.
    setsid bash -ic 'psql -X -v VERBOSITY=sqlstate -c "SELECT pg_sleep(60)"' >"$output" 2>&1 </dev/null &
    until run -c "SELECT pid FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'" | grep -q . ; do :; done
    until ! kill -INT -- -$! 2>/dev/null; do sleep 0.05; done
    wait $! 2>/dev/null
    grep -q 'ERROR:  57014' "$output" || { cat "$output"; return 1; }
}

servers_restart() {
    equal "$(
        {
            echo 'SELECT label FROM items WHERE id = 1;'
            restart_servers
            echo 'SELECT label FROM items WHERE id = 1;'
            echo 'SELECT label FROM items WHERE id = 1;'
            echo 'SELECT count(*) FROM items;'
        } | psql -X -A -t -q 2>/dev/null | tail -n 2
    )" $'label 1\n500'
}

checks connects_with_its_defaults schema_is_made commands_that_read_the_catalog rows_come_and_go transactions_and_errors rows_in_steps \
    large_objects interrupt_cancels servers_restart
