//! What relations and functions a function's code names, told by its words in any language.

use super::lexer::{StringKind, Token, TokenKind, tokens};
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
    let plain = without_comments(code);
    let mut rest = plain.as_str();
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
    if is_composed(code) {
        scan.found.push(Mention { schema: None, name: "execute".to_owned(), manner: Manner::Composed });
    }
    scan.found.sort_unstable();
    scan.found.dedup();
    scan.found
}

/// By what PL/Perl, PL/Tcl, PL/Python, PL/v8, PL/Java and PL/R run a text.
const RUN_TEXT: [&str; 13] = [
    "spi_exec",
    "spi_query",
    "spi_prepare",
    "plpy.execute",
    "plpy.prepare",
    "plpy.cursor",
    "plv8.execute",
    "plv8.prepare",
    "pg.spi",
    "dbgetquery",
    "dbsendquery",
    "createstatement",
    "preparestatement",
];

/// Whether code runs SQL that does not stand in it as one constant: EXECUTE of PL/pgSQL, and what other languages have for it.
fn is_composed(code: &str) -> bool {
    let lower = code.to_lowercase();
    RUN_TEXT.iter().any(|call| lower.contains(call)) || lower.contains("execute") && executes_text(code.as_bytes())
}

/// Whether an EXECUTE that begins a statement of PL/pgSQL, or stands where a query does, takes anything but one constant.
fn executes_text(code: &[u8]) -> bool {
    let tokens: Vec<Token> = tokens(code, true).collect();
    let is_word = |token: &Token, words: &[&str]| words.iter().any(|word| token.is_word(code, word));
    let begins = |before: Option<&Token>| {
        before.is_none_or(|token| {
            is_word(token, &["begin", "then", "else", "loop", "query", "in", "for"])
                || token.is_punctuation(b';')
                || token.text(code) == b">>"
        })
    };
    // Whose words are those of its value, where the tables are looked for.
    let is_constant = |text: &Token| match text.kind {
        TokenKind::String(StringKind::Plain | StringKind::Dollar) => true,
        TokenKind::String(StringKind::Escape) => !text.text(code).contains(&b'\\'),
        _ => false,
    };
    let takes_constant = |rest: &[Token]| match rest {
        [text] => is_constant(text),
        [text, next, ..] => is_constant(text) && (next.is_punctuation(b';') || is_word(next, &["into", "using", "loop"])),
        [] => false,
    };
    tokens.iter().enumerate().any(|(idx, token)| {
        let before = idx.checked_sub(1).and_then(|before| tokens.get(before));
        let is_execute = is_word(token, &["execute"]) && begins(before);
        // What is no text of SQL's tokens may hide one.
        token.kind == TokenKind::Invalid || is_execute && !takes_constant(tokens.get(idx + 1..).unwrap_or_default())
    })
}

fn is_of_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

/// Without `--` to the end of the line, and `/* */`, where they stand in no string.
fn without_comments(code: &str) -> String {
    let mut text = String::with_capacity(code.len());
    let (mut rest, mut is_string) = (code, false);
    while let Some(c) = rest.chars().next() {
        let end = match rest {
            _ if is_string => None,
            comment if comment.starts_with("--") => Some(comment.find('\n').unwrap_or(comment.len())),
            comment if comment.starts_with("/*") => Some(comment.find("*/").map_or(comment.len(), |end| end + 2)),
            _ => None,
        };
        text.push(if end.is_some() { ' ' } else { c });
        is_string ^= c == '\'';
        rest = &rest[end.unwrap_or(c.len_utf8())..];
    }
    text
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
        check("EXECUTE 'SELECT coalesce(x, ''''') '; EXECUTE 'a'''\n'b'", "coalesce() execute…");
        check("q := replace(q, '--', '');\nRETURN QUERY EXECUTE q;", "execute… replace()");
        check("RAISE NOTICE '--'; EXECUTE q;", "execute…");
        check("# don't cache\nrows = plpy.execute(q)", "execute… plpy.execute()");
        check("plpy.notice('executes nothing')", "plpy.notice()");
        check("my $q = shift; my $rv = spi_exec_query($q);", "execute… spi_exec_query()");
        check("GRANT EXECUTE ON FUNCTION f TO x; CREATE TRIGGER t BEFORE INSERT ON a EXECUTE FUNCTION f()", "f()");
    }

    #[test]
    fn comments_are_not_code() {
        check("-- FROM a\nSELECT 1 /* FROM b */ FROM c --", "c");
        check("/* never ends FROM a", "");
        check("RAISE NOTICE '--'; PERFORM 1 FROM a; -- it's FROM b", "a");
    }
}
