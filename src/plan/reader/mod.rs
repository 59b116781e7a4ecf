//! From a text to its syntax tree: what of Postgres's grammar the parser does not know is said to it in tokens that it knows.
//!
//! The tree is for looking at: its tokens keep their places in the text, and texts for shards and the engine are made from the
//! text. So what is said to the parser may be less than the text, where the statement is marked as [loose](Parsed::is_loose):
//! such a statement runs as it was written, on one shard or, with its tables brought there, on the engine.

mod clauses;
mod dialect;
mod rewriting;
mod terms;
#[cfg(test)]
mod tests;
mod xml;

use std::ops::Range;

use sqlparser::ast::{Expr, Statement};
use sqlparser::keywords::Keyword;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, Tokenizer};

use dialect::Postgres;
use rewriting::Rewriting;

use super::text::{Edits, Positions};
use super::{Refusal, RefusalCode};

/// A statement with its syntax tree.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) sql: String,
    pub(super) statement: Statement,
    /// Whether the tree says less than the text of what makes the rows. It names all columns and tables, and its conditions hold.
    pub(super) is_loose: bool,
    /// Where words start of which the tree tells nothing, and that are no names of tables.
    pub(super) unsaid: Vec<usize>,
    /// Whether the parser was given other tokens: what was left out, nobody has read.
    is_rewritten: bool,
    /// Where `TABLE` stands for `SELECT * FROM`.
    table_commands: Vec<Range<usize>>,
}

impl Parsed {
    /// Says `SELECT * FROM` where the text says TABLE, so that something else than a name can stand behind it.
    pub(super) fn spell_tables(&self, edits: &mut Edits) {
        for range in &self.table_commands {
            edits.replace(range.clone(), "SELECT * FROM");
        }
    }
}

/// Whether the parser reads all of a statement by itself: what it does not, may be what Postgres does not read either.
pub fn is_readable(sql: &str, has_standard_strings: bool) -> bool {
    parse(sql, has_standard_strings).is_ok_and(|parsed| !parsed.is_rewritten)
}

/// Parses one statement.
///
/// # Errors
/// `Unparsed`, with the parser's words and position.
pub(super) fn parse(sql: &str, has_standard_strings: bool) -> Result<Parsed, Refusal> {
    if !has_standard_strings && sql.contains('\\') {
        return Err(Refusal::new(
            RefusalCode::Unparsed,
            "backslashes under standard_conforming_strings = off across shards are not supported",
        ));
    }
    let unparsed = |error: ParserError| {
        let words = match error {
            ParserError::TokenizerError(words) | ParserError::ParserError(words) => words,
            ParserError::RecursionLimitExceeded => "the statement is nested too deep".to_owned(),
        };
        let position = error_position(sql, &words);
        Refusal::new(RefusalCode::Unparsed, format!("the planner cannot read this statement: {words}")).with_position(position)
    };
    let rewriting = rewritten(sql).map_err(unparsed)?;
    let (is_loose, is_rewritten) = (rewriting.is_loose, rewriting.is_rewritten());
    let positions = Positions::of(sql);
    let range_of = |location: &Location| positions.offset(sql, *location).map(|start| start..start + "TABLE".len());
    let table_commands = rewriting.table_commands.iter().filter_map(range_of).collect();
    let unsaid = rewriting.unsaid().filter_map(|location| positions.offset(sql, location)).collect();
    let mut statements =
        Parser::new(&Postgres).with_tokens_with_locations(rewriting.into_tokens()).parse_statements().map_err(unparsed)?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => Ok(Parsed { sql: sql.to_owned(), statement, is_loose, unsaid, is_rewritten, table_commands }),
        _ => Err(Refusal::new(RefusalCode::Unparsed, "the planner expects one statement")),
    }
}

/// The expression that a text is, if it is one and nothing more.
pub(super) fn term(text: &str) -> Option<Expr> {
    let tokens = rewritten(text).ok()?.into_tokens();
    let mut parser = Parser::new(&Postgres).with_tokens_with_locations(tokens);
    let term = parser.parse_expr().ok()?;
    (parser.peek_token_ref().token == Token::EOF).then_some(term)
}

fn rewritten(sql: &str) -> Result<Rewriting, ParserError> {
    let mut text = Rewriting::of(Tokenizer::new(&Postgres, sql).tokenize_with_location()?);
    terms::operators(&mut text);
    for idx in 0..text.len() {
        match text.get(idx) {
            Some(Token::Word(word)) => match word.keyword {
                Keyword::NoKeyword | Keyword::XMLTABLE | Keyword::XMLNAMESPACES => at_other_word(&mut text, idx),
                keyword => {
                    terms::at_keyword(&mut text, idx, keyword);
                    clauses::at_keyword(&mut text, idx, keyword);
                }
            },
            Some(Token::Mul) => clauses::inheritance(&mut text, idx),
            Some(Token::LParen) => clauses::parenthesised_operand(&mut text, idx),
            Some(Token::Period) => terms::whole_rows(&mut text, idx),
            Some(Token::LBracket) => terms::subscripts(&mut text, idx),
            Some(Token::SingleQuotedString(_) | Token::EscapedStringLiteral(_) | Token::UnicodeStringLiteral(_)) => {
                terms::strings(&mut text, idx);
            }
            _ => {}
        }
    }
    Ok(text)
}

/// A word that the parser takes for a name, or for the beginning of what it reads of XML.
fn at_other_word(text: &mut Rewriting, idx: usize) {
    let Some(word) = text.word(idx) else { return };
    if word.eq_ignore_ascii_case("isnull") {
        terms::is_null(text, idx);
    } else if word.eq_ignore_ascii_case("document") {
        terms::is_document(text, idx);
    } else if word.eq_ignore_ascii_case("overriding") {
        clauses::overriding(text, idx);
    } else if word.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("xml")) {
        let word = word.to_ascii_lowercase();
        xml::at_word(text, idx, &word);
    }
}

/// The one-based character position in the parser's "… at Line: 1, Column: 8".
fn error_position(sql: &str, words: &str) -> Option<usize> {
    let (_, rest) = words.rsplit_once("Line: ")?;
    let (line, column) = rest.split_once(", Column: ")?;
    let digits: String = column.chars().take_while(char::is_ascii_digit).collect();
    let location = Location { line: line.parse().ok()?, column: digits.parse().ok()? };
    let offset = Positions::of(sql).offset(sql, location)?;
    Some(sql.get(..offset)?.chars().count() + 1)
}
