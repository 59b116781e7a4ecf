//! Whether an answer is the oracle's, as far as the statement determines it.

use std::collections::{BTreeMap, HashMap};

use super::wire::{Answer, Column, Row, Rows};

/// How an answer stands to the oracle's.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Same,
    Refused(String),
    Differs(String),
}

/// What one server answers, and how much of its order the statement determines.
pub(super) struct Wanted {
    answer: Answer,
    /// The rows of the whole answer without LIMIT: those of equal rank by ORDER BY together, in the order of the ranks.
    blocks: Vec<Vec<Row>>,
    offset: usize,
    /// Why the answer itself does not follow from the blocks, if it does not.
    fault: Option<String>,
    /// What the oracle tells of the statement before it has a plan. One with less in it (a part of a UNION that no row can satisfy)
    /// may tell another length of numeric or varchar.
    pub(super) declared: Vec<Column>,
}

impl Wanted {
    /// `ranked` is the whole answer without LIMIT, with the rank by ORDER BY as its last column.
    pub(super) fn new(answer: Answer, ranked: Option<&Rows>, offset: usize) -> Self {
        let (blocks, fault) = match (&answer, ranked) {
            (Answer::Rows(rows), None) => (vec![rows.rows.clone()], None),
            (Answer::Rows(rows), Some(ranked)) => {
                let blocks = blocks(ranked);
                // The oracle's own answer proves that the ranks mean what the statement says.
                let is_sound = follows(&blocks, offset, &rows.rows);
                (blocks, (!is_sound).then(|| format!("the generator is wrong: the oracle gives {}", brief_rows(rows))))
            }
            (Answer::Error { .. }, _) => (Vec::new(), None),
        };
        Self { answer, blocks, offset, fault, declared: Vec::new() }
    }

    pub(super) fn is_error(&self) -> bool {
        matches!(self.answer, Answer::Error { .. })
    }

    /// Whether rows were given under other columns than the oracle's.
    pub(super) fn has_other_columns(&self, given: &Answer) -> bool {
        matches!((&self.answer, given), (Answer::Rows(wanted), Answer::Rows(rows)) if wanted.columns != rows.columns)
    }

    pub(super) fn compare(&self, given: &Answer) -> Verdict {
        if let Some(code) = given.refusal() {
            return Verdict::Refused(code.to_owned());
        }
        match (&self.answer, given) {
            (Answer::Rows(wanted), Answer::Rows(rows)) => match self.differences(wanted, rows) {
                None => Verdict::Same,
                Some(what) => Verdict::Differs(what),
            },
            (Answer::Error { sqlstate: wanted, .. }, Answer::Error { sqlstate, .. }) if wanted == sqlstate => Verdict::Same,
            // That no collation can be told is found where a text is first hashed or compared: another plan does neither.
            (Answer::Error { sqlstate, .. }, Answer::Rows(_)) if sqlstate == "42P22" => Verdict::Same,
            (wanted, rows) => Verdict::Differs(format!("wanted {}, got {}", brief(wanted), brief(rows))),
        }
    }

    fn differences(&self, wanted: &Rows, given: &Rows) -> Option<String> {
        if wanted.columns != given.columns && self.declared != given.columns {
            return Some(format!("wanted columns {:?}, got {:?}", wanted.columns, given.columns));
        }
        if wanted.param_types != given.param_types || wanted.tags != given.tags {
            let sides = [wanted, given].map(|rows| format!("parameters {:?} tags {:?}", rows.param_types, rows.tags));
            return Some(format!("wanted {}, got {}", sides[0], sides[1]));
        }
        if wanted.rows != given.rows && !follows(&self.blocks, self.offset, &given.rows) {
            return Some(format!("wanted {}, got {}", brief_rows(wanted), brief_rows(given)));
        }
        self.fault.clone()
    }
}

/// Rows of equal rank, in the order of the ranks.
fn blocks(ranked: &Rows) -> Vec<Vec<Row>> {
    let format = ranked.columns.last().map_or(0, |column| column.format);
    let mut by_rank: BTreeMap<i64, Vec<Row>> = BTreeMap::new();
    for row in &ranked.rows {
        let (last, row) = row.split_last();
        by_rank.entry(rank(last.unwrap(), format)).or_default().push(row);
    }
    by_rank.into_values().collect()
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
        let mut counts: HashMap<&Row, i64, foldhash::fast::RandomState> = HashMap::default();
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
    let lines: Vec<String> = rows.rows.iter().take(12).map(|row| format!("{row:?}")).collect();
    format!("{} rows {:?} [{}]", rows.rows.len(), rows.tags, lines.join("; "))
}
