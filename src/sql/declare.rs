//! DECLARE and FETCH, taken apart. The grammar is that of src/backend/parser/gram.y, `DeclareCursorStmt` and `FetchStmt`.

use super::cursor::Cursor;
use super::lexer::TokenKind;

/// What DECLARE says of going back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scroll {
    /// Nothing: the server decides.
    Unsaid,
    Yes,
    No,
}

/// A DECLARE CURSOR statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclareParts {
    /// Folded.
    pub name: String,
    pub scroll: Scroll,
    pub is_binary: bool,
    pub is_with_hold: bool,
    /// Where the cursor's query starts; it ends where the statement ends.
    pub query_start: usize,
}

/// Where FETCH and MOVE go. ALL is `i64::MAX`, as the server's `FETCH_ALL`; NEXT and PRIOR are one step, FIRST and LAST absolute places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    Forward(i64),
    Backward(i64),
    Absolute(i64),
    Relative(i64),
}

/// A FETCH or MOVE statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchParts {
    pub is_move: bool,
    pub movement: Movement,
    /// Folded.
    pub name: String,
}

const ALL: i64 = i64::MAX;

/// The parts of a DECLARE; `None` for anything else. Words that contradict each other are the server's to refuse.
pub fn declare_parts(sql: &[u8], has_standard_strings: bool) -> Option<DeclareParts> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    if !at.take("declare") {
        return None;
    }
    let name = at.name()?;
    let (mut scroll, mut is_binary) = (Scroll::Unsaid, false);
    loop {
        if at.take("binary") {
            is_binary = true;
        } else if at.take_all(&["no", "scroll"]) {
            scroll = Scroll::No;
        } else if at.take("scroll") {
            scroll = Scroll::Yes;
        } else if !at.take_any(&["asensitive", "insensitive"]) {
            break;
        }
    }
    if !at.take("cursor") {
        return None;
    }
    let is_with_hold = at.take_all(&["with", "hold"]);
    if !is_with_hold {
        at.take_all(&["without", "hold"]);
    }
    let is_query_next = at.take("for") && !at.is_at_end();
    let query_start = at.current()?.start;
    is_query_next.then_some(DeclareParts { name, scroll, is_binary, is_with_hold, query_start })
}

/// The parts of a FETCH or MOVE; `None` for what the grammar does not have.
pub fn fetch_parts(sql: &[u8], has_standard_strings: bool) -> Option<FetchParts> {
    let mut cursor = Cursor::new(sql, has_standard_strings);
    let at = &mut cursor;
    let is_move = at.is_at("move");
    if !at.take_any(&["fetch", "move"]) {
        return None;
    }
    // These words may be cursors' names as well.
    let mut ahead = at.clone();
    if ahead.name().is_some() && ahead.is_at_end() && !at.is_at("all") {
        return Some(FetchParts { is_move, movement: Movement::Forward(1), name: at.name()? });
    }
    let movement = movement(sql, at)?;
    at.take_any(&["from", "in"]);
    let name = at.name()?;
    at.is_at_end().then_some(FetchParts { is_move, movement, name })
}

fn movement(sql: &[u8], at: &mut Cursor<'_>) -> Option<Movement> {
    let word = at.word();
    let simple = match word.as_str() {
        "from" | "in" => return Some(Movement::Forward(1)),
        "next" => Movement::Forward(1),
        "prior" => Movement::Backward(1),
        "first" => Movement::Absolute(1),
        "last" => Movement::Absolute(-1),
        "all" => Movement::Forward(ALL),
        "absolute" | "relative" | "forward" | "backward" => {
            at.advance();
            let n_rows = if at.take("all") { Some(ALL) } else { signed(sql, at) };
            return match (word.as_str(), n_rows) {
                ("forward", n_rows) => Some(Movement::Forward(n_rows.unwrap_or(1))),
                ("backward", n_rows) => Some(Movement::Backward(n_rows.unwrap_or(1))),
                (_, None | Some(ALL)) => None,
                ("absolute", Some(n)) => Some(Movement::Absolute(n)),
                (_, Some(n)) => Some(Movement::Relative(n)),
            };
        }
        _ => return signed(sql, at).map(Movement::Forward),
    };
    at.advance();
    Some(simple)
}

/// A number of four bytes, with or without a sign.
fn signed(sql: &[u8], at: &mut Cursor<'_>) -> Option<i64> {
    let mut ahead = at.clone();
    let is_negative = ahead.take_operator("-");
    if !is_negative {
        ahead.take_operator("+");
    }
    let token = ahead.advance().filter(|token| token.kind == TokenKind::Number)?;
    let number: i32 = std::str::from_utf8(token.text(sql)).ok()?.parse().ok()?;
    *at = ahead;
    Some(if is_negative { -i64::from(number) } else { i64::from(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fetched(sql: &str) -> String {
        match fetch_parts(sql.as_bytes(), true) {
            Some(parts) => format!("{}{:?} {}", if parts.is_move { "move " } else { "" }, parts.movement, parts.name),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn every_form_of_fetch_is_read() {
        for (sql, parts) in [
            ("FETCH c", "Forward(1) c"),
            ("FETCH FROM \"C d\"", "Forward(1) C d"),
            ("fetch in c;", "Forward(1) c"),
            ("FETCH next", "Forward(1) next"),
            ("FETCH NEXT FROM next", "Forward(1) next"),
            ("FETCH PRIOR c", "Backward(1) c"),
            ("FETCH FIRST IN c", "Absolute(1) c"),
            ("FETCH LAST c", "Absolute(-1) c"),
            ("FETCH ABSOLUTE -3 FROM c", "Absolute(-3) c"),
            ("FETCH ABSOLUTE 0 c", "Absolute(0) c"),
            ("FETCH RELATIVE +2 c", "Relative(2) c"),
            ("FETCH 10 FROM c", "Forward(10) c"),
            ("FETCH -10 IN c", "Forward(-10) c"),
            ("FETCH ALL c", "Forward(9223372036854775807) c"),
            ("FETCH FORWARD c", "Forward(1) c"),
            ("FETCH FORWARD 5 c", "Forward(5) c"),
            ("FETCH FORWARD ALL IN c", "Forward(9223372036854775807) c"),
            ("MOVE BACKWARD FROM c", "move Backward(1) c"),
            ("MOVE BACKWARD 0 FROM c", "move Backward(0) c"),
            ("MOVE BACKWARD ALL FROM c", "move Backward(9223372036854775807) c"),
        ] {
            assert_eq!(fetched(sql), parts, "{sql}");
        }
        for wrong in [
            "FETCH",
            "FETCH ALL",
            "FETCH ABSOLUTE c d",
            "FETCH 3000000000 c",
            "FETCH 1 FROM c d",
            "FETCH RELATIVE ALL c",
            "FETCH 1.5 c",
        ] {
            assert_eq!(fetched(wrong), "none", "{wrong}");
        }
    }

    #[test]
    fn the_words_of_declare_are_read_in_any_order() {
        let of = |sql: &str| declare_parts(sql.as_bytes(), true);
        let sql = "DECLARE \"C\" BINARY INSENSITIVE NO SCROLL CURSOR WITH HOLD FOR SELECT 1";
        let parts = of(sql).unwrap();
        assert_eq!((parts.name.as_str(), parts.scroll, parts.is_binary, parts.is_with_hold), ("C", Scroll::No, true, true));
        assert_eq!(&sql[parts.query_start..], "SELECT 1");
        let parts = of("declare c scroll asensitive cursor without hold for values (1)").unwrap();
        assert_eq!((parts.scroll, parts.is_binary, parts.is_with_hold), (Scroll::Yes, false, false));
        assert_eq!(of("DECLARE c CURSOR FOR TABLE t").unwrap().scroll, Scroll::Unsaid);
        assert_eq!(of("DECLARE c CURSOR"), None);
        assert_eq!(of("DECLARE c NO CURSOR FOR SELECT 1"), None);
    }
}
