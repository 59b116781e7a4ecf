//! What relations and functions a function's code names, told by its words in any language.

use crate::topology::{Manner, Mention};

/// Functions without parentheses.
const BARE_CALLS: [&str; 5] = ["current_timestamp", "current_date", "current_time", "localtimestamp", "localtime"];

/// The words after which a relation's name stands.
const BEFORE_READ: [&str; 6] = ["from", "join", "using", "table", "only", "lateral"];

/// The words that end a list of relations.
const AFTER_LIST: [&str; 14] = [
    "where",
    "group",
    "order",
    "limit",
    "having",
    "union",
    "intersect",
    "except",
    "set",
    "returning",
    "loop",
    "then",
    "values",
    "select",
];

/// All that code names. Text within strings counts as code, comments do not.
pub fn mentions(code: &str) -> Vec<Mention> {
    let mut scan = Scan::default();
    let code = without_comments(code);
    let mut rest = code.as_str();
    while let Some(c) = rest.chars().next() {
        if !is_of_word(c) {
            scan.take_mark(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let end = rest.find(|c| !is_of_word(c)).unwrap_or(rest.len());
        let word = rest[..end].to_lowercase();
        rest = &rest[end..];
        let after = rest.trim_start_matches(['"', ' ', '\n', '\t', '\r']);
        scan.take_word(word, after, rest);
    }
    scan.found.sort_unstable();
    scan.found.dedup();
    scan.found
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Whether a word runs SQL that is not there as one constant: EXECUTE of PL/pgSQL, and what other languages have for it.
fn is_composed(word: &str, rest: &str) -> bool {
    let rest = rest.trim_start();
    match word {
        "execute" => {}
        "spi_exec" | "spi_exec_query" | "spi_query" | "spi_prepare" => return true,
        _ => return false,
    }
    let next = rest.find(|c| !is_of_word(c)).map_or(rest, |end| &rest[..end]).to_lowercase();
    // GRANT EXECUTE ON, and triggers.
    if rest.starts_with([';', ',', '.']) || rest.is_empty() || ["on", "function", "procedure"].contains(&next.as_str()) {
        return false;
    }
    let constant = rest.strip_prefix('\'').and_then(|text| text.split_once('\''));
    constant.is_none_or(|(_, behind)| behind.starts_with('\'') || behind.trim_start().starts_with("||"))
}

/// `--` to the end of the line, and `/* */`.
fn without_comments(code: &str) -> String {
    let mut text = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(at) = [rest.find("--"), rest.find("/*")].into_iter().flatten().min() {
        text.push_str(&rest[..at]);
        text.push(' ');
        let end = if rest[at..].starts_with("--") { rest[at..].find('\n') } else { rest[at..].find("*/").map(|end| end + 2) };
        rest = end.map_or("", |end| &rest[at + end..]);
    }
    text + rest
}

#[derive(Debug, Default)]
struct Scan {
    found: Vec<Mention>,
    /// The word before.
    last: String,
    schema: Option<String>,
    /// What the next name would be a relation for.
    expected: Option<Manner>,
    /// What a comma leads to; and for each open parenthesis what it did before.
    list: Option<Manner>,
    outer: Vec<Option<Manner>>,
    /// Whether a statement may begin here.
    begins: bool,
    /// NEW stood where a statement may begin.
    is_new: bool,
}

impl Scan {
    /// `rest`: the code behind the word; `after`: the same without a quote that ends it, and blanks.
    fn take_word(&mut self, word: String, after: &str, rest: &str) {
        let begins = std::mem::take(&mut self.begins);
        if after.starts_with('.') {
            self.is_new = begins && word == "new";
            self.schema = Some(word);
            return;
        }
        let schema = self.schema.take();
        if schema.as_deref() == Some("new") && (after.starts_with(":=") || self.is_new && after.starts_with('=')) {
            self.found.push(Mention { schema: None, name: word.clone(), manner: Manner::Assigned });
        }
        let expected = if schema.is_some() { self.expected.take() } else { self.expect(&word) };
        if let Some(manner) = expected {
            self.found.push(Mention { schema: schema.clone(), name: word.clone(), manner });
        }
        if is_composed(&word, rest) {
            self.found.push(Mention { schema: None, name: word.clone(), manner: Manner::Composed });
        }
        if after.starts_with('(') || BARE_CALLS.contains(&word.as_str()) {
            self.found.push(Mention { schema, name: word.clone(), manner: Manner::Called });
        }
        self.begins = matches!(word.as_str(), "begin" | "then" | "else" | "loop");
        self.last = word;
    }

    /// What a name is that is this word: nothing if it is a keyword, or stands where no relation does.
    fn expect(&mut self, word: &str) -> Option<Manner> {
        let manner = match word {
            "from" if self.last == "delete" => Manner::Written,
            "from" if self.last == "distinct" => return None,
            "into" | "truncate" | "copy" | "update" => Manner::Written,
            "only" | "table" | "lateral" if self.expected.is_some() => return None,
            word if BEFORE_READ.contains(&word) => Manner::Read,
            word if AFTER_LIST.contains(&word) => {
                (self.list, self.expected) = (None, None);
                return None;
            }
            _ => return self.expected.take(),
        };
        self.list = matches!(word, "from" | "join" | "using" | "truncate").then_some(manner);
        self.expected = Some(manner);
        None
    }

    fn take_mark(&mut self, c: char) {
        match c {
            '(' => self.outer.push(self.list.take()),
            ')' => (self.list, self.expected) = (self.outer.pop().flatten(), None),
            ',' if self.list.is_some() => self.expected = self.list,
            ';' => (self.list, self.expected, self.begins) = (None, None, true),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(code: &str, expected: &str) {
        let shown = mentions(code).into_iter().map(|mention| {
            let schema = mention.schema.map(|schema| schema + ".").unwrap_or_default();
            let mark = match mention.manner {
                Manner::Read => "",
                Manner::Written => "!",
                Manner::Called => "()",
                Manner::Assigned => ":=",
                Manner::Composed => "…",
            };
            format!("{schema}{}{mark}", mention.name)
        });
        assert_eq!(shown.collect::<Vec<_>>().join(" "), expected, "{code}");
    }

    #[test]
    fn relations_are_told_by_the_words_before_them() {
        check("SELECT count(*) FROM Users", "count() users");
        check(
            "SELECT 1 FROM a AS x (p, q), public.b y JOIN ONLY c ON f(d, e) = 1, g WHERE h IN (i, j)",
            "a c f() g in() x() public.b",
        );
        check(
            "BEGIN DELETE FROM a; UPDATE \"B\" SET c = d, e = f; INSERT INTO \"s\".\"t\" (u, v) VALUES (1, 2); END",
            "a! b! values() s.t! s.t()",
        );
        check("SELECT x IS DISTINCT FROM y, z FROM (SELECT 1 FROM a, b) AS q, LATERAL c(1)", "a b c c() from()");
        check("EXECUTE 'TRUNCATE TABLE a, b'; PERFORM other.f(g);", "a! b! other.f()");
    }

    #[test]
    fn columns_of_new_are_assigned() {
        check(
            "BEGIN NEW.k := NEW.k + 1; new.l = now(); IF new.m = 1 THEN NEW.\"n\"=CURRENT_DATE; END IF; END",
            "current_date() k:= l:= n:= now()",
        );
    }

    #[test]
    fn sql_that_is_put_together_is_told() {
        check("EXECUTE 'SELECT 1' INTO x; EXECUTE 'SELECT $1' USING y;", "x! y");
        check("EXECUTE q;", "execute…");
        check("RETURN QUERY EXECUTE format('SELECT %s', t)", "execute… format()");
        check("EXECUTE 'SELECT 1 FROM ' || t", "execute… t");
        check("EXECUTE 'SELECT ''x'''", "execute…");
        check("plpy.execute(q); spi_exec_query($q)", "execute… spi_exec_query() spi_exec_query… plpy.execute()");
        check("GRANT EXECUTE ON FUNCTION f TO x; CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()", "f()");
    }

    #[test]
    fn comments_are_not_code() {
        check("-- FROM a\nSELECT 1 /* FROM b */ FROM c --", "c");
        check("/* never ends FROM a", "");
    }
}
