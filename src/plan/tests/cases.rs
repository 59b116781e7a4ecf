//! `tests/plan/*.txt`: statements with the plans that `explain` prints for them.
//!
//! A case is one or more lines `> SQL`, lines `$ type value` for parameters (`$ null` for NULL), and the plan up to a blank
//! line. `# Title` begins a section; `@ default_shard europe` and `@ one_shard` change the fixture for the rest of the file.
//! With UPDATE_PLANS=1 in the environment the plans and docs/sql-support.md are written anew, to be reviewed as a diff.

use std::fs;
use std::path::{Path, PathBuf};

use super::fixture::{Fixture, NOW, fixture};
use crate::plan::Params;
use crate::plan::explain::explain_with;
use crate::sql::ParamFormat;
use crate::topology::TypeOid;

enum Block {
    /// Kept as it is.
    Lines(String),
    Title(String),
    Case {
        sql: String,
        params: Vec<String>,
    },
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn blocks(text: &str) -> Vec<Block> {
    let parse = |paragraph: &str| {
        if let Some(title) = paragraph.strip_prefix("# ") {
            return Block::Title(title.to_owned());
        }
        if !paragraph.starts_with("> ") {
            return Block::Lines(paragraph.to_owned());
        }
        let lines =
            |mark: &str| paragraph.lines().filter_map(|line| line.strip_prefix(mark)).map(str::to_owned).collect::<Vec<_>>();
        Block::Case { sql: lines("> ").join("\n"), params: lines("$ ") }
    };
    text.split("\n\n").map(|paragraph| parse(paragraph.trim_matches('\n'))).collect()
}

fn apply(fixture: &mut Fixture, directive: &str) {
    match directive.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["@", "default_shard", name] => fixture.topology.default_shard = fixture.topology.shard_named(name),
        ["@", "one_shard"] => fixture.topology.shards.truncate(1),
        ["@", "no_schema"] => fixture.schema = crate::topology::Schema::default(),
        ["@", "backslashes"] => fixture.settings.has_standard_strings = false,
        other => panic!("directive {other:?}"),
    }
}

fn plan_of(fixture: &Fixture, sql: &str, params: &[String]) -> String {
    let (mut types, mut values): (Vec<TypeOid>, Vec<Option<&[u8]>>) = (Vec::new(), Vec::new());
    for param in params {
        let (type_name, value) = param.split_once(' ').unwrap_or((param, ""));
        types.push(match type_name {
            "int8" => 20,
            "int4" => 23,
            "text" => 25,
            "numeric" => 1700,
            "timestamptz" => 1184,
            _ => 0,
        });
        values.push((type_name != "null").then_some(value.as_bytes()));
    }
    let formats = vec![ParamFormat::Text; values.len()];
    explain_with(sql, Params { types: &types, formats: &formats, values: &values }, &fixture.context(), NOW)
}

/// The file with the plans of today, and its part of the support page.
fn renewed(text: &str) -> (String, String, usize) {
    let (mut fixture, mut page, mut n_cases) = (fixture(), String::new(), 0);
    let mut paragraphs = Vec::new();
    for block in blocks(text) {
        match block {
            Block::Lines(lines) => {
                lines.lines().filter(|line| line.starts_with('@')).for_each(|line| apply(&mut fixture, line));
                paragraphs.push(lines);
            }
            Block::Title(title) => {
                page.push_str(&format!("\n## {title}\n\n| Statement | Plan |\n|---|---|\n"));
                paragraphs.push(format!("# {title}"));
            }
            Block::Case { sql, params } => {
                n_cases += 1;
                let plan = plan_of(&fixture, &sql, &params);
                let quoted: Vec<String> = sql.lines().map(|line| format!("> {line}")).collect();
                let given: Vec<String> = params.iter().map(|param| format!("$ {param}")).collect();
                page.push_str(&format!("| {} | {} |\n", code(&sql), rung(&plan)));
                paragraphs.push(
                    [quoted.join("\n"), given.join("\n"), plan]
                        .into_iter()
                        .filter(|part| !part.is_empty())
                        .collect::<Vec<_>>()
                        .join("\n"),
                );
            }
        }
    }
    (paragraphs.join("\n\n") + "\n", page, n_cases)
}

fn code(sql: &str) -> String {
    let one_line = sql.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    if one_line.contains('`') { format!("`` {one_line} ``") } else { format!("`{one_line}`") }
}

/// The first line of a plan, without the shards' names.
fn rung(plan: &str) -> String {
    let first = plan.lines().next().unwrap_or_default().replace('|', "\\|");
    match first.split_once(": ") {
        Some(("merge", _)) => "merge".to_owned(),
        Some(("combine", _)) => "combine".to_owned(),
        Some(("gather", _)) => "gather".to_owned(),
        Some((rung, _)) if rung.starts_with("explain ") => format!("explain of {}", &rung["explain ".len()..]),
        Some(("refused", words)) => format!("refused: {words}"),
        Some((rung, words)) => format!("{rung}: {words}"),
        None => first,
    }
}

fn case_files() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(root().join("tests/plan"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "txt"))
        .collect();
    files.sort();
    files
}

fn compare(path: &Path, new: &str) {
    if std::env::var_os("UPDATE_PLANS").is_some() {
        fs::write(path, new).unwrap();
        return;
    }
    let old = fs::read_to_string(path).unwrap_or_default();
    let difference = old.lines().zip(new.lines()).position(|(old, new)| old != new);
    let line = difference.unwrap_or_else(|| old.lines().count().min(new.lines().count()));
    let show = |text: &str| text.lines().skip(line.saturating_sub(3)).take(8).collect::<Vec<_>>().join("\n");
    assert!(
        old == new,
        "{} differs at line {} (UPDATE_PLANS=1 rewrites it)\nis:\n{}\nwould be:\n{}",
        path.display(),
        line + 1,
        show(&old),
        show(new)
    );
}

const PAGE_HEAD: &str = "# What SQL is supported\n\n\
Made by a test from `tests/plan/*.txt` (`UPDATE_PLANS=1 cargo test --lib plan::tests` writes it anew): every form below is tested. \
The tables are the demo's: `users`, `orders`, `order_items` by hash of `user_id`, `regional_metrics` by list, `metrics` by age, `events` \
by list and hash, `countries` on every shard, `audit` on one.\n\n\
- **route**: sent to one shard as it came; whatever SQL it contains, one shard answers it.\n\
- **merge**: every shard runs it, rows are concatenated or merged in order.\n\
- **combine**: every shard returns partial rows, one Postgres runs the final SELECT over them.\n\
- **gather**: the columns and rows that the statement needs of each table are brought to one Postgres, which runs it over them.\n\
- **explain**: each shard explains what it would get, with the same options; the final statement is shown. With ANALYZE it is run.\n\
- **insert**, **copy**: split by row. **everywhere**: the same on every shard, in one transaction.\n\
- **refused**: with the SQLSTATE and reason code; a hint names the way out.\n\n\
Ranges over `now()` are evaluated once, five minutes wider on each side for clocks that differ; months count 28 to 31 days when shards are \
chosen. A row of a COPY that is split may have 64 MiB. In an INSERT or COPY over several shards, a column that the statement leaves to a \
default of `now()` takes each shard's own clock.\n";

#[test]
fn plans_and_support_page_are_as_written() {
    let (mut page, mut n_cases) = (PAGE_HEAD.to_owned(), 0);
    for path in case_files() {
        let (text, part, n) = renewed(&fs::read_to_string(&path).unwrap());
        compare(&path, &text);
        page.push_str(&part);
        n_cases += n;
    }
    compare(&root().join("docs/sql-support.md"), &page);
    assert!(n_cases >= 200, "{n_cases} cases");
}
