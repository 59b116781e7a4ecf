//! What lies on the shards, past the proxy: all of the oracle's rows, each where its key says.

use super::fixture::{Sharded, TABLES};
use super::wire::{Answer, Client, Row};

fn rows_of(client: &mut Client, sql: &str) -> Vec<Row> {
    match client.simple(sql) {
        Answer::Rows(rows) => rows.rows,
        error => panic!("{sql}: {error:?}"),
    }
}

/// What is wrong with the rows on the shards.
pub(super) fn faults(sharded: &Sharded, oracle: &mut Client) -> Vec<String> {
    let mut shards: Vec<Client> = sharded.cluster.shards.iter().map(|shard| Client::open(shard.port())).collect();
    let mut faults = Vec::new();
    for table in TABLES {
        // The default of a metric's time differs from server to server.
        let items = if table.name == "metric" { "(at AT TIME ZONE 'UTC')::date, n, v" } else { "*" };
        let sql = format!("SELECT {items} FROM {}", table.name);
        let mut wanted = rows_of(oracle, &sql);
        wanted.sort();
        let mut parts: Vec<Vec<Row>> = shards.iter_mut().map(|shard| rows_of(shard, &sql)).collect();
        if table.name == "code" {
            for (shard, part) in parts.iter_mut().enumerate() {
                part.sort();
                if *part != wanted {
                    faults.push(format!("{} on shard {shard}: {part:?}, wanted {wanted:?}", table.name));
                }
            }
            continue;
        }
        let mut all: Vec<Row> = parts.into_iter().flatten().collect();
        all.sort();
        if all != wanted {
            let odd = |left: &[Row], right: &[Row]| left.iter().filter(|row| !right.contains(row)).cloned().collect::<Vec<_>>();
            let (extra, missing) = (odd(&all, &wanted), odd(&wanted, &all));
            faults.push(format!(
                "{}: {} rows, wanted {}; too many {extra:?}, missing {missing:?}",
                table.name,
                all.len(),
                wanted.len()
            ));
        }
        for (shard, client) in shards.iter_mut().enumerate() {
            let misplaced = rows_of(client, &format!("{sql} WHERE NOT ({})", home(table.name, shard, sharded.n)));
            if !misplaced.is_empty() {
                faults.push(format!("{} on shard {shard}: misplaced {misplaced:?}", table.name));
            }
        }
    }
    for (shard, client) in shards.iter_mut().enumerate() {
        let left = rows_of(client, "SELECT gid FROM pg_prepared_xacts");
        if !left.is_empty() {
            faults.push(format!("prepared transactions left on shard {shard}: {left:?}"));
        }
    }
    faults
}

/// The condition that a table's rows on a shard meet.
fn home(table: &str, shard: usize, n: usize) -> String {
    let is = |other: usize| shard == other % n;
    match table {
        "acct" | "item" => bucket("hash_int8", "id", shard, n),
        "doc" => bucket("hash_text", "slug", shard, n),
        "visit" => bucket("hash_uuid", "visit", shard, n),
        "\"Odd\"" => bucket("hash_int4", "\"Key\"", shard, n),
        "tiny" => bucket("hash_int2", "k", shard, n),
        "region" => {
            format!("CASE region WHEN 'us' THEN {} WHEN 'uk' THEN {} WHEN 'jp' THEN {} ELSE {} END", is(0), is(1), is(2), is(1))
        }
        "event" => format!(
            "CASE region WHEN 'us' THEN {} WHEN 'jp' THEN {} ELSE {} END",
            bucket("hash_int8", "uid", shard, n),
            shard == n - 1,
            // One shard is a plain server, which looks at no key.
            n == 1
        ),
        // Watermarks are midnights; rows of the days around them may be on either side.
        "metric" => format!(
            "CASE WHEN at > now() - interval '5 days' THEN {} WHEN at < now() - interval '32 days' THEN {} \
             WHEN at BETWEEN now() - interval '29 days' AND now() - interval '9 days' THEN {} ELSE true END",
            is(0),
            is(2),
            is(1)
        ),
        "audit_log" => format!("{}", shard == n / 2),
        _ => panic!("{table}"),
    }
}

/// The key's bucket of 4096 is in the shard's range: Postgres's own hash partitions say so.
fn bucket(parent: &str, column: &str, shard: usize, n: usize) -> String {
    // One more at either end, as ranges may be rounded up or down.
    let (low, high) = ((shard * 4096 / n).saturating_sub(1), ((shard + 1) * 4096 / n).min(4095));
    format!(
        "EXISTS (SELECT FROM generate_series({low}, {high}) r WHERE satisfies_hash_partition('{parent}'::regclass, 4096, r, {column}))"
    )
}

/// Tables whose only use is to name a hash.
pub(super) const HASHES: &str = "
CREATE TABLE hash_int8 (k bigint) PARTITION BY HASH (k);
CREATE TABLE hash_int4 (k integer) PARTITION BY HASH (k);
CREATE TABLE hash_int2 (k smallint) PARTITION BY HASH (k);
CREATE TABLE hash_text (k text) PARTITION BY HASH (k);
CREATE TABLE hash_uuid (k uuid) PARTITION BY HASH (k);
";
