//! The options of EXPLAIN, as far as the proxy acts on them: src/backend/commands/explain.c, `ExplainQuery`. What is wrong with them
//! is a server's to say.

use super::cursor::Cursor;
use super::lexer::TokenKind;

/// How the plan is to be written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ExplainFormat {
    #[default]
    Text,
    Json,
    Yaml,
    Xml,
    /// None that there is.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainOptions {
    /// The statement is run.
    pub is_analyze: bool,
    pub has_timing: bool,
    pub format: ExplainFormat,
}

/// The options of an EXPLAIN; the last of several of one name holds.
pub fn explain_options(sql: &[u8], has_standard_strings: bool) -> ExplainOptions {
    let mut options = ExplainOptions { is_analyze: false, has_timing: true, format: ExplainFormat::Text };
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    at.take("explain");
    if !at.take_punctuation(b'(') {
        options.is_analyze = at.take_any(&["analyze", "analyse"]);
        return options;
    }
    while !at.is_at_end() && !at.is_at_punctuation(b')') {
        let name = at.name().unwrap_or_default();
        let mut value = String::new();
        while !at.is_at_end() && !at.is_at_punctuation(b',') && !at.is_at_punctuation(b')') {
            let Some(token) = at.advance() else { break };
            let text = String::from_utf8_lossy(token.text(sql)).into_owned();
            value = if matches!(token.kind, TokenKind::String(_)) { text.trim_matches('\'').to_owned() } else { text };
        }
        at.take_punctuation(b',');
        let value = value.trim_matches('"').to_ascii_lowercase();
        // As defGetBoolean in src/backend/commands/define.c.
        let is_on = matches!(value.as_str(), "" | "1" | "true" | "on");
        match name.as_str() {
            "analyze" | "analyse" => options.is_analyze = is_on,
            "timing" => options.has_timing = is_on,
            "format" => {
                options.format = match value.as_str() {
                    "text" => ExplainFormat::Text,
                    "json" => ExplainFormat::Json,
                    "yaml" => ExplainFormat::Yaml,
                    "xml" => ExplainFormat::Xml,
                    _ => ExplainFormat::Other,
                }
            }
            _ => {}
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(sql: &str, expected: (bool, bool, ExplainFormat)) {
        let options = explain_options(sql.as_bytes(), true);
        assert_eq!((options.is_analyze, options.has_timing, options.format), expected, "{sql}");
    }

    #[test]
    fn options_are_read_as_the_server_reads_them() {
        check("EXPLAIN SELECT 1", (false, true, ExplainFormat::Text));
        check("explain analyse verbose select 1", (true, true, ExplainFormat::Text));
        check("/* x */ EXPLAIN (ANALYZE, TIMING off, FORMAT 'JSON') SELECT 1", (true, false, ExplainFormat::Json));
        check("EXPLAIN (ANALYZE 0, COSTS, FORMAT yaml) SELECT 1", (false, true, ExplainFormat::Yaml));
        check("EXPLAIN (FORMAT \"xml\") SELECT 1", (false, true, ExplainFormat::Xml));
        check("EXPLAIN (FORMAT prose) SELECT 1", (false, true, ExplainFormat::Other));
        check("EXPLAIN (ANALYZE, ANALYZE false) SELECT 1", (false, true, ExplainFormat::Text));
        check("EXPLAIN (SELECT 1)", (false, true, ExplainFormat::Text));
    }
}
