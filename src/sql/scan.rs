//! Where tokens end: the character rules of scan.l.

/// What a token's first byte makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// `{space}`; `\v` counts since PostgreSQL 16.
    Space,
    /// `{ident_start}`: letters, `_` and every byte of a non-ASCII character.
    Word,
    Digit,
    Dollar,
    Quote,
    DoubleQuote,
    Dot,
    Colon,
    Punctuation,
    Operator,
    /// Begins no token.
    Stray,
}

const CLASSES: [Class; 256] = classes();

const fn classes() -> [Class; 256] {
    let mut classes = [Class::Stray; 256];
    let mut byte = 0;
    while byte < 256 {
        classes[byte] = match byte as u8 {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => Class::Space,
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80..=0xff => Class::Word,
            b'0'..=b'9' => Class::Digit,
            b'$' => Class::Dollar,
            b'\'' => Class::Quote,
            b'"' => Class::DoubleQuote,
            b'.' => Class::Dot,
            b':' => Class::Colon,
            b'(' | b')' | b'[' | b']' | b',' | b';' => Class::Punctuation,
            b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'+' | b'-' | b'*' | b'/' | b'%' | b'<' | b'>'
            | b'=' => Class::Operator,
            _ => Class::Stray,
        };
        byte += 1;
    }
    classes
}

#[inline]
pub(super) fn class_of(byte: u8) -> Class {
    CLASSES[usize::from(byte)]
}

/// Every byte as it stands in the normal form of a word; 0 for those that end one.
const FOLDED: [u8; 256] = folded();

const fn folded() -> [u8; 256] {
    let mut folded = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        if matches!(CLASSES[byte], Class::Word | Class::Digit | Class::Dollar) {
            folded[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    folded
}

/// A byte of a word in lower case (ASCII letters only); `None` for one that ends the word.
#[inline]
pub(super) fn folded_in_word(byte: u8) -> Option<u8> {
    let folded = FOLDED[usize::from(byte)];
    (folded != 0).then_some(folded)
}

/// Skips white space and comments from `at`. False with a comment's start when it has no end.
#[inline]
pub(super) fn skip_gap(sql: &[u8], mut at: usize) -> (usize, bool) {
    while let Some(&byte) = sql.get(at) {
        match class_of(byte) {
            Class::Space => at += 1,
            Class::Operator if byte == b'-' && sql.get(at + 1) == Some(&b'-') => at = line_end(sql, at),
            Class::Operator if byte == b'/' && sql.get(at + 1) == Some(&b'*') => match block_comment_end(sql, at) {
                Some(end) => at = end,
                None => return (at, false),
            },
            _ => break,
        }
    }
    (at, true)
}

/// The next line end at or after `at`, or the end of the text.
fn line_end(sql: &[u8], at: usize) -> usize {
    sql.iter().skip(at).position(|&byte| matches!(byte, b'\n' | b'\r')).map_or(sql.len(), |length| at + length)
}

/// The end of the comment that opens at `at`; comments nest.
fn block_comment_end(sql: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0usize;
    loop {
        match (*sql.get(at)?, sql.get(at + 1)) {
            (b'/', Some(b'*')) => {
                depth += 1;
                at += 2;
            }
            (b'*', Some(b'/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => at += 1,
        }
    }
}

#[inline]
pub(super) fn word_end(sql: &[u8], start: usize) -> usize {
    let mut end = start + 1;
    while sql.get(end).is_some_and(|&byte| folded_in_word(byte).is_some()) {
        end += 1;
    }
    end
}

/// The end of a number that starts with a digit, or with a dot and a digit.
pub(super) fn number_end(sql: &[u8], start: usize) -> usize {
    if let Some(end) = radix_number_end(sql, start) {
        return end;
    }
    let mut end = digits_end(sql, start);
    // In `1..10` the dots are a token of their own.
    if sql.get(end) == Some(&b'.') && sql.get(end + 1) != Some(&b'.') {
        end += 1;
        if sql.get(end).is_some_and(u8::is_ascii_digit) {
            end = digits_end(sql, end);
        }
    }
    if matches!(sql.get(end), Some(b'e' | b'E')) {
        let digits = if matches!(sql.get(end + 1), Some(b'+' | b'-')) { end + 2 } else { end + 1 };
        if sql.get(digits).is_some_and(u8::is_ascii_digit) {
            end = digits_end(sql, digits);
        }
    }
    end
}

/// `{decinteger}`: digits with single underscores between them.
fn digits_end(sql: &[u8], start: usize) -> usize {
    grouped_end(sql, start, u8::is_ascii_digit)
}

fn grouped_end(sql: &[u8], start: usize, is_digit: impl Fn(&u8) -> bool) -> usize {
    let mut end = start;
    loop {
        match sql.get(end) {
            Some(byte) if is_digit(byte) => end += 1,
            Some(b'_') if end > start && sql.get(end + 1).is_some_and(&is_digit) => end += 2,
            _ => return end,
        }
    }
}

/// `0x1F`, `0o17`, `0b1`, with an underscore before any digit.
fn radix_number_end(sql: &[u8], start: usize) -> Option<usize> {
    if sql.get(start) != Some(&b'0') {
        return None;
    }
    let is_digit: fn(&u8) -> bool = match sql.get(start + 1)? {
        b'x' | b'X' => u8::is_ascii_hexdigit,
        b'o' | b'O' => |byte| matches!(byte, b'0'..=b'7'),
        b'b' | b'B' => |byte| matches!(byte, b'0' | b'1'),
        _ => return None,
    };
    let digits = if sql.get(start + 2) == Some(&b'_') { start + 3 } else { start + 2 };
    let end = grouped_end(sql, digits, is_digit);
    (end > digits).then_some(end)
}

/// The end of an operator: comments end it, and it only ends in `+` or `-` if it holds a character that no operator of
/// the SQL standard has (`=-` is two operators, `?-` is one).
pub(super) fn operator_end(sql: &[u8], start: usize) -> usize {
    let mut end = start + 1;
    while let Some(&byte) = sql.get(end) {
        let opens_comment = matches!((byte, sql.get(end + 1)), (b'-', Some(b'-')) | (b'/', Some(b'*')));
        if class_of(byte) != Class::Operator || opens_comment {
            break;
        }
        end += 1;
    }
    let is_sign = |end: usize| matches!(sql[end - 1], b'+' | b'-');
    let is_postgres_only = |byte: &u8| matches!(byte, b'~' | b'!' | b'@' | b'#' | b'^' | b'&' | b'|' | b'`' | b'?' | b'%');
    if end - start > 1 && is_sign(end) && !sql[start..end - 1].iter().any(is_postgres_only) {
        while end - start > 1 && is_sign(end) {
            end -= 1;
        }
    }
    end
}

/// What counts inside a quoted string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// Two quotes stand for one.
    Doubling,
    /// That, and a backslash takes the next character.
    Escapes,
    /// Only the closing quote.
    Bare,
}

/// The end of the string whose quote is at `open`, and whether it goes on in further pieces.
#[inline]
pub(super) fn string_end(sql: &[u8], open: usize, body: Body) -> Option<(usize, bool)> {
    let mut at = open + 1;
    let mut is_continued = false;
    loop {
        match *sql.get(at)? {
            b'\\' if body == Body::Escapes => at += 2,
            b'\'' if body != Body::Bare && sql.get(at + 1) == Some(&b'\'') => at += 2,
            b'\'' => match continuation(sql, at + 1) {
                Some(next_open) => {
                    is_continued = true;
                    at = next_open + 1;
                }
                None => return Some((at + 1, is_continued)),
            },
            _ => at += 1,
        }
    }
}

/// The opening quote of a string's next piece: white space with a line end in it, and `--` comments, may stand between.
#[inline]
fn continuation(sql: &[u8], mut at: usize) -> Option<usize> {
    let mut has_line_end = false;
    loop {
        match *sql.get(at)? {
            b'\n' | b'\r' => {
                has_line_end = true;
                at += 1;
            }
            b'-' if sql.get(at + 1) == Some(&b'-') => at = line_end(sql, at),
            b'\'' => return has_line_end.then_some(at),
            byte if class_of(byte) == Class::Space => at += 1,
            _ => return None,
        }
    }
}

/// The end of the identifier whose double quote is at `open`; an empty one is refused.
pub(super) fn quoted_identifier_end(sql: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        match *sql.get(at)? {
            b'"' if sql.get(at + 1) == Some(&b'"') => at += 2,
            b'"' => return (at > open + 1).then_some(at + 1),
            0 => return None,
            _ => at += 1,
        }
    }
}

/// The end of a dollar-quoted string that starts at `start`; `None` when there is no tag or no end.
pub(super) fn dollar_string_end(sql: &[u8], start: usize) -> Option<usize> {
    let mut tag_end = start + 1;
    while let Some(&byte) = sql.get(tag_end) {
        let is_tag = match class_of(byte) {
            Class::Word => true,
            Class::Digit => tag_end > start + 1,
            _ => false,
        };
        if !is_tag {
            break;
        }
        tag_end += 1;
    }
    if sql.get(tag_end) != Some(&b'$') {
        return None;
    }
    let delimiter = sql.get(start..=tag_end)?;
    let mut at = tag_end + 1;
    loop {
        at += sql.get(at..)?.iter().position(|&byte| byte == b'$')?;
        if sql[at..].starts_with(delimiter) {
            return Some(at + delimiter.len());
        }
        at += 1;
    }
}

/// `\XXXX` and `\+XXXXXX` replaced by their characters; `None` when an escape is not valid.
pub(super) fn unicode_unescaped(text: &str) -> Option<String> {
    let mut unescaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        unescaped.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('\\') {
            unescaped.push('\\');
            rest = after;
            continue;
        }
        let (digits, n_digits) = match rest.strip_prefix('+') {
            Some(digits) => (digits, 6),
            None => (rest, 4),
        };
        let code = digits.get(..n_digits).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        // Surrogate pairs are left alone: a name in them is then not found, which is refused, not misread.
        unescaped.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?);
        rest = &digits[n_digits..];
    }
    unescaped.push_str(rest);
    Some(unescaped)
}
