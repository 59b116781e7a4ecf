//! The largest messages that the protocol can express, and COPY in binary by the extended protocol.

use futures_util::{TryStreamExt, pin_mut};
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::types::Type;

use crate::harness::{Cluster, Message, Raw, message, text, value};

/// What sixteen bits can count.
const MOST: usize = 65_535;

/// Parse, Bind, Execute and Sync with the numbers from 1 to `MOST` as text.
fn bound(sql: &str) -> Vec<u8> {
    let mut values = vec![0, 0];
    values.extend_from_slice(&u16::MAX.to_be_bytes());
    for number in 1..=MOST {
        let number = number.to_string();
        values.extend_from_slice(&u32::try_from(number.len()).unwrap().to_be_bytes());
        values.extend_from_slice(number.as_bytes());
    }
    values.extend_from_slice(&[0, 0]);
    [
        message(b'P', &[text(""), text(sql), vec![0, 0]].concat()),
        message(b'B', &[text(""), text(""), values].concat()),
        message(b'E', &[text(""), vec![0, 0, 0, 0]].concat()),
        message(b'S', &[]),
    ]
    .concat()
}

async fn ask(raw: &mut Raw, sql: &str) -> Vec<Message> {
    raw.send(&bound(sql)).await;
    raw.until(b'Z').await
}

fn tags(answer: &[Message]) -> String {
    answer.iter().map(|message| char::from(message.tag)).collect()
}

#[tokio::test]
async fn as_many_parameters_as_can_be_told_are_bound() {
    for n_shards in [1, 3] {
        let cluster = Cluster::start(n_shards).await;
        let proxy = cluster.proxy().await;
        let mut raw = Raw::log_in(proxy.port).await;
        let rows: Vec<String> =
            (0..MOST / 3).map(|row| format!("(${}, ${}, ${})", 3 * row + 1, 3 * row + 2, 3 * row + 3)).collect();
        let insert = format!("INSERT INTO parts (part_id, name, weight) VALUES {}", rows.join(", "));
        let answer = ask(&mut raw, &insert).await;
        assert_eq!(tags(&answer), "12CZ", "{n_shards} shards: {:?}", answer.iter().find(|m| m.tag == b'E'));
        assert_eq!(answer[2].body, text("INSERT 0 21845"));
        for shard_idx in 0..n_shards {
            let count = value(&cluster.direct(shard_idx).await, "SELECT count(*) FROM parts").await;
            assert!(count.parse::<usize>().unwrap() > 21_845 / n_shards - 500, "{count} of {n_shards}");
        }
        let all: Vec<String> = (1..=MOST).map(|number| format!("${number}")).collect();
        // Of all shards, and in an order.
        for (sql, last_row) in [
            (format!("SELECT count(*), sum(weight) FROM parts WHERE part_id IN ({})", all.join(", ")), "21845715838805"),
            (format!("SELECT part_id FROM parts WHERE part_id IN ({}) ORDER BY part_id DESC LIMIT 1", all.join(", ")), "65533"),
            // Gathered rows have no room beside them.
            (format!("SELECT count(DISTINCT (part_id, name)) FROM parts WHERE part_id IN ({})", all.join(", ")), "21845"),
        ] {
            let answer = ask(&mut raw, &sql).await;
            assert_eq!(tags(&answer), "12DCZ", "{n_shards} shards: {:?}", answer.iter().find(|m| m.tag == b'E'));
            let printed: Vec<u8> = answer[2].body.iter().copied().filter(u8::is_ascii_digit).collect();
            assert_eq!(String::from_utf8(printed).unwrap(), last_row, "{n_shards} shards");
        }
    }
}

#[tokio::test]
async fn copy_goes_both_ways_in_binary() {
    for n_shards in [1, 3] {
        let cluster = Cluster::start(n_shards).await;
        let proxy = cluster.proxy().await;
        let client = proxy.connect().await;
        let types = [Type::INT8, Type::TEXT, Type::TEXT];
        // A table of one shard: one that is split by its key takes text and csv.
        let sink = client.copy_in("COPY audit (audit_id, actor, action) FROM STDIN (FORMAT binary)").await.unwrap();
        let writer = BinaryCopyInWriter::new(sink, &types);
        pin_mut!(writer);
        for id in 0..5_000i64 {
            writer.as_mut().write(&[&id, &"actor \t", &format!("action {id}")]).await.unwrap();
        }
        assert_eq!(writer.finish().await.unwrap(), 5_000);
        let out = client.copy_out("COPY (SELECT audit_id, actor, action FROM audit ORDER BY audit_id) TO STDOUT (FORMAT binary)");
        let rows: Vec<_> = BinaryCopyOutStream::new(out.await.unwrap(), &types).try_collect().await.unwrap();
        assert_eq!(rows.len(), 5_000);
        assert_eq!((rows[4_999].get::<i64>(0), rows[4_999].get::<&str>(2)), (4_999, "action 4999"));
        // Data that is none ends the COPY, and nothing else.
        let sink = client.copy_in("COPY audit (audit_id, actor, action) FROM STDIN (FORMAT binary)").await.unwrap();
        pin_mut!(sink);
        futures_util::SinkExt::send(&mut sink, bytes::Bytes::from_static(b"no signature of COPY")).await.unwrap();
        let error = sink.finish().await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("22P04"));
        assert_eq!(value(&client, "SELECT count(*) FROM audit").await, "5000");
    }
}
