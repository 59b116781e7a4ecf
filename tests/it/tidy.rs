//! House rules that no compiler checks: the import order, the purity of the core, the length of files.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules from the bottom up, as `src/lib.rs` draws them; where it has several in one step, the left one is the lower.
/// A module may import those before it.
const ORDER: &[&str] = &[
    "sqlstate", "deadline", "topology", "sql", "plan", "merge", "session", "observe", "tls", "config", "backend", "health",
    "executor", "frontend", "admin", "server", "demo", "main",
];
/// The last module of the pure core.
const LAST_OF_CORE: &str = "session";
/// What the core may not name: sockets, threads of control, clocks, files, the environment, randomness.
const IMPURE: &[&str] = &[
    "tokio::",
    "std::net",
    "std::fs",
    "std::env",
    "std::thread",
    "std::process",
    "Instant::now",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "rand::",
    "static mut",
    "thread_local!",
];
const MAX_LINES: usize = 600;

#[test]
fn imports_go_one_way() {
    let mut faults = Vec::new();
    for (module, path, text) in sources() {
        for imported in imports(&text) {
            if rank_of(&imported) > rank_of(&module) {
                faults.push(format!("{}: `{module}` must not import `{imported}`", path.display()));
            }
        }
        // Such a group may span lines, which this test does not read together.
        if text.contains("crate::{") {
            faults.push(format!("{}: write one `use crate::module` per module", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_documented_order_is_the_tested_one() {
    let documentation = fs::read_to_string("src/lib.rs").unwrap();
    let drawn: String = documentation.lines().filter_map(|line| line.strip_prefix("//!")).collect::<Vec<_>>().join(" ");
    let mut rest = drawn.as_str();
    for module in ORDER {
        let at = rest.find(module).unwrap_or_else(|| panic!("src/lib.rs does not name {module} in its place"));
        rest = &rest[at..];
    }
}

#[test]
fn the_core_is_pure() {
    let mut faults = Vec::new();
    for (module, path, text) in sources() {
        if rank_of(&module) > rank_of(LAST_OF_CORE) {
            continue;
        }
        for (idx, line) in product_lines(&text) {
            if let Some(word) = IMPURE.iter().find(|word| has_word(line, word)) {
                faults.push(format!("{}:{}: `{word}` in the pure core", path.display(), idx + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn metrics_are_named_in_one_place() {
    let mut faults = Vec::new();
    for (module, path, text) in sources() {
        let macros = ["metrics::counter!", "metrics::gauge!", "metrics::histogram!"];
        for (idx, line) in product_lines(&text) {
            if module != "observe" && macros.iter().any(|name| line.contains(name)) {
                faults.push(format!("{}:{}: a metric outside `observe`", path.display(), idx + 1));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_stay_short() {
    let mut faults = Vec::new();
    for root in ["src", "tests", "benches"] {
        for path in rust_files(Path::new(root)) {
            let n_lines = fs::read_to_string(&path).unwrap().lines().count();
            if n_lines > MAX_LINES {
                faults.push(format!("{}: {n_lines} lines, at most {MAX_LINES}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn no_test_is_ignored() {
    let marker = concat!("#[", "ignore");
    let ignoring: Vec<PathBuf> = ["src", "tests"]
        .into_iter()
        .flat_map(|root| rust_files(Path::new(root)))
        .filter(|path| fs::read_to_string(path).unwrap().contains(marker))
        .collect();
    assert!(ignoring.is_empty(), "{ignoring:?}");
}

/// Module, path and text of every source file of the library and the binary, but for modules that are tests as a whole.
fn sources() -> Vec<(String, PathBuf, String)> {
    let is_test = |path: &PathBuf| path.components().any(|part| part.as_os_str() == "tests");
    let all = rust_files(Path::new("src")).into_iter().filter(|path| !path.ends_with("lib.rs") && !is_test(path));
    all.map(|path| {
        let below = path.strip_prefix("src").unwrap();
        let first = below.components().next().unwrap().as_os_str().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        (first.trim_end_matches(".rs").to_owned(), path, text)
    })
    .collect()
}

fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn rank_of(module: &str) -> usize {
    let rank = ORDER.iter().position(|name| *name == module);
    rank.unwrap_or_else(|| panic!("module {module} has no place in the import order"))
}

/// Top-level modules that a file names by `crate::…` (or, in the binary, by `trunkline::…`).
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (_, line) in product_lines(text) {
        for prefix in ["crate::", "trunkline::"] {
            for (at, _) in line.match_indices(prefix) {
                let rest = &line[at + prefix.len()..];
                let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
                if ORDER.contains(&name.as_str()) {
                    found.push(name);
                }
            }
        }
    }
    found
}

/// Whether `word` stands in `line` as more than the end of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

/// Lines with their indexes, without comments and without the unit tests at a file's end.
fn product_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| *line != "#[cfg(test)]")
        .filter(|(_, line)| !line.trim_start().starts_with("//"))
}
