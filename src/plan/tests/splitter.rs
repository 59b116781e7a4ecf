//! COPY data cut anywhere gives what whole data gives.

use bytes::BytesMut;
use proptest::prelude::*;

use super::fixture::{NOW, fixture};
use crate::plan::{CopySplitter, Plan, Values, analyze};
use crate::sqlstate::{Report, SqlState};

fn split(sql: &str, chunks: &[&[u8]]) -> Result<Vec<String>, Report> {
    let fixture = fixture();
    let context = fixture.context();
    let mut shape = crate::sql::Fingerprint::default();
    crate::sql::fingerprint(sql.as_bytes(), true, &mut shape);
    let values = Values { sql, literals: &shape.literals, params: crate::plan::Params::default(), now_micros: NOW };
    let plan = analyze(sql, &shape.literals, &context).and_then(|template| template.bind(&values, &context))?;
    let Plan::CopyIn(plan) = plan else { panic!("{plan:?}") };
    let mut splitter = CopySplitter::new(plan.split.as_ref().unwrap(), &fixture.settings, NOW);
    let mut out = vec![BytesMut::new(); 3];
    for chunk in chunks {
        splitter.push(chunk, &mut out)?;
    }
    splitter.finish(&mut out)?;
    Ok(out.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect())
}

const CSV: &str = "COPY regional_metrics (name, region, value) FROM STDIN WITH (FORMAT csv, HEADER)";
const TEXT: &str = "COPY regional_metrics (name, region, value) FROM STDIN";

#[test]
fn csv_rows_with_quotes_and_newlines_go_whole() {
    let rows = "name,region,value\n\"a \"\"b\"\"\nc\",us,1\nd,\"de\",2\n\"e,f\",jp,3";
    let out = split(CSV, &[rows.as_bytes()]).unwrap();
    let head = "name,region,value\n";
    assert_eq!(out, [format!("{head}\"a \"\"b\"\"\nc\",us,1\n"), format!("{head}d,\"de\",2\n"), format!("{head}\"e,f\",jp,3")]);
}

#[test]
fn text_rows_with_escapes_go_whole() {
    let rows = "a\\\nb\tus\t1\nc\\\td\t\\144e\t2\ne\tj\\x70\t3\n\\.\nignored\n";
    let out = split(TEXT, &[rows.as_bytes()]).unwrap();
    assert_eq!(out, ["a\\\nb\tus\t1\n", "c\\\td\t\\144e\t2\n", "e\tj\\x70\t3\n"]);
}

#[test]
fn another_escape_than_the_quote() {
    let sql = "COPY regional_metrics (name, region) FROM STDIN CSV QUOTE '''' ESCAPE '\\'";
    let out = split(sql, &[b"'a\\'\n\\\\',us\n'b\\\\','de'\n"]).unwrap();
    assert_eq!(out, ["'a\\'\n\\\\',us\n", "'b\\\\','de'\n", ""]);
}

#[test]
fn rows_without_a_shard_are_refused_with_their_line() {
    let error = split(TEXT, &[b"a\tus\t1\nb\t\\N\t2\n"]).unwrap_err();
    assert_eq!((error.sqlstate, error.column.as_deref()), (SqlState::NOT_NULL_VIOLATION, Some("region")));
    assert!(error.message.ends_with("COPY line 2"), "{}", error.message);
    let error = split(TEXT, &[b"a\tzz\t1\n"]).unwrap_err();
    assert_eq!(error.sqlstate, SqlState::INVALID_PARAMETER_VALUE);
    let error = split(CSV, &[b"h\na,,1\n"]).unwrap_err();
    assert_eq!(error.sqlstate, SqlState::NOT_NULL_VIOLATION);
    let error = split(TEXT, &[b"a\tus\t1\rb\tus\t1\n"]).unwrap_err();
    assert_eq!(error.sqlstate, SqlState::BAD_COPY_FILE_FORMAT);
}

#[test]
fn a_row_that_postgres_refuses_goes_to_one_shard() {
    let out = split("COPY users (user_id, name) FROM STDIN", &[b"99999999999999999999\tx\n"]).unwrap();
    assert_eq!(out.iter().filter(|rows| !rows.is_empty()).count(), 1);
}

#[test]
fn a_row_beyond_the_limit_is_refused() {
    let chunk = vec![b'a'; 1 << 20];
    let chunks: Vec<&[u8]> = std::iter::repeat_n(chunk.as_slice(), 65).collect();
    assert_eq!(split(TEXT, &chunks).unwrap_err().sqlstate, SqlState::PROGRAM_LIMIT_EXCEEDED);
}

proptest! {
    #[test]
    fn chunks_do_not_show(rows in prop::collection::vec(("[ab,\\\\\"\n]{0,9}", 0usize..12), 1..12), cuts in prop::collection::vec(0usize..400, 0..8)) {
        let regions = ["us", "ca", "mx", "br", "uk", "de", "fr", "es", "jp", "sg", "au", "in"];
        let csv: String = rows.iter().map(|(name, idx)| format!("\"{}\",{},1\n", name.replace('"', "\"\""), regions[*idx])).collect();
        let escaped = |name: &str| name.replace('\\', "\\\\").replace('\n', "\\\n");
        let text: String = rows.iter().map(|(name, idx)| format!("{}\t{}\t1\n", escaped(name), regions[*idx])).collect();
        for (sql, rows_text) in [(CSV, format!("head\n{csv}")), (TEXT, text)] {
            let whole = split(sql, &[rows_text.as_bytes()]).unwrap();
            let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (rows_text.len() + 1)).collect();
            at.extend([0, rows_text.len()]);
            at.sort_unstable();
            let chunks: Vec<&[u8]> = at.windows(2).map(|pair| &rows_text.as_bytes()[pair[0]..pair[1]]).collect();
            prop_assert_eq!(split(sql, &chunks).unwrap(), whole.clone());
            let n_heads = if sql == CSV { 2 * "head\n".len() } else { 0 };
            prop_assert_eq!(whole.iter().map(String::len).sum::<usize>(), rows_text.len() + n_heads);
        }
    }
}
