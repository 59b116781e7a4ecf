#!/usr/bin/env bash
# pg_dump and pg_restore: a database is dumped through the proxy, emptied, and restored through it; and into one server past it.
set -uo pipefail
source "$(dirname "$0")/../checks.sh"
run() { psql -X -A -t -q -v ON_ERROR_STOP=1 "$@"; }
# The proxy keeps tables of its own before several shards. A table that is pinned to the last
# shard stays out: dropped there it would still be in the catalog of the first, which clients see.
dump() { pg_dump --no-owner --exclude-schema=trunkline --exclude-table=audit "$@"; }
drop_all() {
    run -c "SELECT format('DROP TABLE %I CASCADE;', tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'audit'" >"$work/drop.sql" &&
        run -c 'SET client_min_messages = error' -f "$work/drop.sql" -c 'DROP TYPE IF EXISTS mood'
}
# All rows in their order, as one word.
rows() { run -c 'SELECT id, label FROM items ORDER BY id' -c 'SELECT note_id, body FROM notes ORDER BY note_id' | md5sum; }

schema_is_made() {
    drop_all && run <<'SQL'
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TABLE items (id bigint PRIMARY KEY, label text, raw bytea, feeling mood);
CREATE TABLE notes (note_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL);
CREATE INDEX items_label ON items (label);
INSERT INTO notes (body) VALUES ('first'), ('second');
SQL
    run -c '\copy items (id, label) from stdin' < <(for id in $(seq 1 2000); do printf '%s\tlabel %s, with a \\t tab\n' "$id" "$id"; done)
}

schema_is_dumped() {
    dump --schema-only >"$work/schema.sql" &&
        grep -q 'CREATE TABLE public.items' "$work/schema.sql" && grep -q "CREATE TYPE public.mood AS ENUM" "$work/schema.sql" &&
        grep -q 'items_pkey PRIMARY KEY (id)' "$work/schema.sql"
}

plain_text_goes_round() {
    local before
    before=$(rows)
    dump >"$work/all.sql" && drop_all && run -f "$work/all.sql" >/dev/null && equal "$(rows)" "$before" &&
        run -c "INSERT INTO notes (body) VALUES ('third')" && equal "$(run -c 'SELECT max(note_id) FROM notes')" 3
}

custom_format_goes_round() {
    local before
    before=$(rows)
    dump -Fc -f "$work/all.dump" && drop_all && pg_restore --no-owner --exit-on-error -d "$PGDATABASE" "$work/all.dump" &&
        equal "$(rows)" "$before" &&
        # Over what is there, in one transaction.
        pg_restore --no-owner --clean --if-exists -1 -d "$PGDATABASE" "$work/all.dump" && equal "$(rows)" "$before"
}

rows_as_inserts_go_round() {
    local before
    before=$(rows)
    dump --inserts --rows-per-insert=100 >"$work/inserts.sql" && drop_all && run -f "$work/inserts.sql" >/dev/null &&
        equal "$(rows)" "$before"
}

one_server_takes_it() {
    local before
    before=$(rows)
    dump >"$work/one.sql" && run -c 'SELECT count(*) FROM items' >"$work/count" && equal "$(cat "$work/count")" 2000 &&
        # One server, past the proxy: what it holds must be all rows.
        PGPORT=$DIRECT_PORT PGUSER=postgres run -d postgres -c 'CREATE DATABASE restored' &&
        PGPORT=$DIRECT_PORT PGUSER=postgres PGDATABASE=restored run -f "$work/one.sql" >/dev/null &&
        equal "$(PGPORT=$DIRECT_PORT PGUSER=postgres PGDATABASE=restored PGOPTIONS='-c search_path=public' rows)" "$before"
}

data_alone_goes_round() {
    local before
    before=$(rows)
    dump --data-only >"$work/data.sql" && run -c 'TRUNCATE items' -c 'TRUNCATE notes' && run -f "$work/data.sql" >/dev/null &&
        equal "$(rows)" "$before"
}

checks schema_is_made schema_is_dumped plain_text_goes_round custom_format_goes_round one_server_takes_it data_alone_goes_round rows_as_inserts_go_round
