//! What relations and functions a function's code names, told by its words in any language.

use super::lexer::{Token, TokenKind, tokens};
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
        scan.take_word(word, after);
    }
    if is_composed(&code) {
        scan.found.push(Mention { schema: None, name: "execute".to_owned(), manner: Manner::Composed });
    }
    scan.found.sort_unstable();
    scan.found.dedup();
    scan.found
}

/// Whether code runs SQL that does not stand in it as one constant: EXECUTE of PL/pgSQL, and what other languages have for it.
fn is_composed(code: &str) -> bool {
    let bytes = code.as_bytes();
    let tokens: Vec<Token> = tokens(bytes, true).collect();
    let is_word = |token: &Token, words: &[&str]| words.iter().any(|word| token.is_word(bytes, word));
    let begins = |before: Option<&Token>| {
        before.is_none_or(|token| {
            is_word(token, &["begin", "then", "else", "loop", "query", "in", "for"])
                || token.is_punctuation(b';')
                || token.text(bytes) == b">>"
        })
    };
    let is_constant = |rest: &[Token]| match rest {
        [text @ Token { kind: TokenKind::String(_), .. }] => is_one_constant(text.text(bytes)),
        [text @ Token { kind: TokenKind::String(_), .. }, next, ..] => {
            is_one_constant(text.text(bytes)) && (next.is_punctuation(b';') || is_word(next, &["into", "using", "loop"]))
        }
        _ => false,
    };
    tokens.iter().enumerate().any(|(idx, token)| {
        // Of PL/Perl, PL/Tcl and PL/Python.
        let runs_text = is_word(token, &["spi_exec", "spi_exec_query", "spi_query", "spi_prepare", "plpy"]);
        let before = idx.checked_sub(1).and_then(|before| tokens.get(before));
        runs_text || is_word(token, &["execute"]) && begins(before) && !is_constant(tokens.get(idx + 1..).unwrap_or_default())
    })
}

/// Whether a string's words are those of its value: nothing in it is written otherwise, nor goes on behind a line's end.
fn is_one_constant(text: &[u8]) -> bool {
    match text {
        [b'\'', inner @ .., b'\''] => {
            let quotes = inner.iter().filter(|byte| **byte == b'\'').count();
            let pairs = inner.windows(2).filter(|pair| pair == b"''").count();
            quotes == 0 || quotes == 2 * pairs
        }
        [b'e' | b'E', rest @ ..] => !rest.contains(&b'\\') && is_one_constant(rest),
        [b'$', ..] => true,
        _ => false,
    }
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
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
    fn take_word(&mut self, word: String, after: &str) {
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
        check("FOR r IN EXECUTE 'SELECT 1 FROM ' || t LOOP", "execute… t");
        check("EXECUTE 'SELECT '::text || t", "execute…");
        check("EXECUTE 'SELECT 1 FROM us'\n'ers'", "execute… us");
        check("IF x THEN EXECUTE procedure || ''; END IF", "execute…");
        check("EXECUTE E'SELECT \\x31'", "execute…");
        check("EXECUTE 'SELECT ''x'', 5'; EXECUTE $a$SELECT 7$a$ INTO x; EXECUTE E'SELECT 1'", "x!");
        check("RAISE NOTICE 'please execute this'; RETURN 'cannot execute %'", "");
        check("plpy.execute(q)", "execute… plpy.execute()");
        check("spi_exec_query($q)", "execute… spi_exec_query()");
        check("GRANT EXECUTE ON FUNCTION f TO x; CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()", "f()");
    }

    #[test]
    fn comments_are_not_code() {
        check("-- FROM a\nSELECT 1 /* FROM b */ FROM c --", "c");
        check("/* never ends FROM a", "");
    }
}
