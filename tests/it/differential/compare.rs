//! Whether an answer is the oracle's, as far as the statement determines it.

use std::collections::HashMap;

use super::wire::{Answer, Row, Rows};

/// How an answer stands to the oracle's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Refused(String),
    Differs(String),
}

/// Compares. `ranked` is the whole answer without LIMIT as the oracle gives it, with the rank by ORDER BY as its last column.
pub(super) fn compare(oracle: &Answer, ranked: Option<&Rows>, given: &Answer, offset: usize) -> Verdict {
    if let Some(code) = given.refusal() {
        return Verdict::Refused(code.to_owned());
    }
    match (oracle, given) {
        (Answer::Rows(wanted), Answer::Rows(rows)) => match differences(wanted, ranked, rows, offset) {
            None => Verdict::Same,
            Some(what) => Verdict::Differs(what),
        },
        (Answer::Error { sqlstate: wanted, .. }, Answer::Error { sqlstate, .. }) if wanted == sqlstate => Verdict::Same,
        (wanted, rows) => Verdict::Differs(format!("wanted {}, got {}", brief(wanted), brief(rows))),
    }
}

fn differences(wanted: &Rows, ranked: Option<&Rows>, given: &Rows, offset: usize) -> Option<String> {
    if wanted.columns != given.columns {
        return Some(format!("wanted columns {:?}, got {:?}", wanted.columns, given.columns));
    }
    if wanted.param_types != given.param_types || wanted.tags != given.tags {
        let sides = [wanted, given].map(|rows| format!("parameters {:?} tags {:?}", rows.param_types, rows.tags));
        return Some(format!("wanted {}, got {}", sides[0], sides[1]));
    }
    let blocks = ranked.map_or_else(|| vec![wanted.rows.clone()], blocks);
    let fits = follows(&blocks, offset, &given.rows);
    if !fits {
        return Some(format!("wanted {}, got {}", brief_rows(wanted), brief_rows(given)));
    }
    // The oracle's own answer proves that the ranks mean what the statement says.
    let is_sound = follows(&blocks, offset, &wanted.rows);
    (!is_sound).then(|| format!("the generator is wrong: the oracle gives {}", brief_rows(wanted)))
}

/// Rows of equal rank, in the order of the ranks.
fn blocks(ranked: &Rows) -> Vec<Vec<Row>> {
    let mut by_rank: Vec<(i64, Vec<Row>)> = Vec::new();
    let mut places: HashMap<i64, usize> = HashMap::new();
    for row in &ranked.rows {
        let (Some((last, row)), Some(column)) = (row.split_last(), ranked.columns.last()) else { continue };
        let rank = rank(last.as_deref().unwrap(), column.format);
        let place = *places.entry(rank).or_insert_with(|| {
            by_rank.push((rank, Vec::new()));
            by_rank.len() - 1
        });
        by_rank[place].1.push(row.to_vec());
    }
    by_rank.sort_by_key(|(rank, _)| *rank);
    by_rank.into_iter().map(|(_, rows)| rows).collect()
}

fn rank(bytes: &[u8], format: i16) -> i64 {
    match format {
        0 => std::str::from_utf8(bytes).unwrap().parse().unwrap(),
        _ => i64::from_be_bytes(bytes.try_into().unwrap()),
    }
}

/// Whether `rows` are what follows the first `offset` rows, for some order of each block.
fn follows(blocks: &[Vec<Row>], offset: usize, rows: &[Row]) -> bool {
    let (mut skip, mut rest) = (offset, rows);
    for block in blocks {
        let n_skipped = skip.min(block.len());
        skip -= n_skipped;
        let (here, after) = rest.split_at(rest.len().min(block.len() - n_skipped));
        rest = after;
        let mut counts: HashMap<&Row, i64> = HashMap::new();
        block.iter().for_each(|row| *counts.entry(row).or_default() += 1);
        for row in here {
            let count = counts.entry(row).or_default();
            *count -= 1;
            if *count < 0 {
                return false;
            }
        }
    }
    rest.is_empty()
}

pub(super) fn brief(answer: &Answer) -> String {
    match answer {
        Answer::Rows(rows) => brief_rows(rows),
        Answer::Error { sqlstate, message, detail } => format!("ERROR {sqlstate} {message} ({detail})"),
    }
}

fn brief_rows(rows: &Rows) -> String {
    let field = |field: &Option<Vec<u8>>| {
        field.as_ref().map_or_else(|| "NULL".to_owned(), |bytes| String::from_utf8_lossy(bytes).escape_debug().to_string())
    };
    let line = |row: &Row| row.iter().map(field).collect::<Vec<_>>().join("|");
    let lines: Vec<String> = rows.rows.iter().take(12).map(line).collect();
    format!("{} rows {:?} [{}]", rows.rows.len(), rows.tags, lines.join("; "))
}
