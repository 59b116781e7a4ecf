//! How deep a statement's syntax tree may be: who walks it needs stack for each level, and the stack of a thread is finite.
//!
//! Parentheses are bounded by the parser. Chains are not: `1 + 1 + 1 …` makes a tree as deep as it is long.

use crate::sql::{TokenKind, tokens};

/// Most links of chains within one another. A worker's stack is large enough for it.
pub const MAX_CHAIN: usize = 5_000;

/// Texts below this length, in bytes, cannot have longer chains: each link takes an operator and an operand.
const SHORT_LEN: usize = 2 * MAX_CHAIN;

/// Words that link operands like an operator, or stand before one.
const LINKS: [&[u8]; 16] = [
    b"and",
    b"or",
    b"not",
    b"union",
    b"except",
    b"intersect",
    b"is",
    b"isnull",
    b"notnull",
    b"collate",
    b"at",
    b"like",
    b"ilike",
    b"in",
    b"between",
    b"similar",
];

/// Whether a text has longer chains than [`MAX_CHAIN`]. Over-estimates the depth of its tree.
pub fn is_too_deep(sql: &[u8], has_standard_strings: bool) -> bool {
    if sql.len() < SHORT_LEN {
        return false;
    }
    // Links so far at each open level: a comma ends a chain of its own level only.
    let mut levels = vec![0_usize];
    let mut n_links = 0;
    for token in tokens(sql, has_standard_strings) {
        let is_link = match token.kind {
            TokenKind::Operator | TokenKind::Punctuation(b'[') => true,
            TokenKind::Word => LINKS.iter().any(|word| token.text(sql).eq_ignore_ascii_case(word)),
            _ => false,
        };
        if is_link && let Some(level) = levels.last_mut() {
            *level += 1;
            n_links += 1;
        }
        match token.kind {
            TokenKind::Punctuation(b'(' | b'[') => levels.push(0),
            TokenKind::Punctuation(b')' | b']') if levels.len() > 1 => n_links -= levels.pop().unwrap_or(0),
            TokenKind::Punctuation(b',') => n_links -= levels.last_mut().map_or(0, std::mem::take),
            TokenKind::Punctuation(b';') => {
                levels = vec![0];
                n_links = 0;
            }
            _ => {}
        }
        if n_links > MAX_CHAIN || levels.len() > MAX_CHAIN {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_counted_and_lists_are_not() {
        let is_deep = |sql: String| is_too_deep(sql.as_bytes(), true);
        assert!(is_deep(format!("SELECT 1{}", "+1".repeat(MAX_CHAIN + 1))));
        assert!(is_deep(format!("SELECT 1{}", " + f(1, 2)".repeat(MAX_CHAIN + 1))));
        assert!(is_deep(format!("SELECT true{}", " OR NOT x".repeat(MAX_CHAIN))));
        assert!(is_deep("(".repeat(20_000)));
        assert!(!is_deep(format!("SELECT 1{}", "+1".repeat(MAX_CHAIN))));
        assert!(!is_deep(format!("INSERT INTO t VALUES (1){}", ", (1 + 2, -3)".repeat(20_000))));
        assert!(!is_deep("SELECT 1 + 1;".repeat(20_000)));
    }
}
