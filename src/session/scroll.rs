//! Where a cursor stands that can only go forward, and what FETCH and MOVE then mean: `DoPortalRunFetch` and `PortalRunSelect` of
//! src/backend/tcop/pquery.c, with NO SCROLL.

use crate::sql::Movement;

/// Rows to read, of which nobody or the client gets each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// `None`: all that are left.
    pub n_rows: Option<u64>,
    pub is_given: bool,
}

/// What a FETCH or MOVE comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steps {
    /// Read these, one after the other. The tag counts the rows of the last.
    Read(Vec<Stretch>),
    /// Read nothing; the tag has this count.
    Stay(u64),
}

/// "cursor can only scan forward" (55000).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cursor can only scan forward")]
pub struct ForwardOnly;

/// Where a cursor stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    n_passed: u64,
    /// Past the last row.
    is_at_end: bool,
}

impl Position {
    /// # Errors
    /// [`ForwardOnly`] for what goes back, and for a row that is to be given again.
    pub fn steps(&self, movement: Movement, is_move: bool) -> Result<Steps, ForwardOnly> {
        let given = |n_rows| Stretch { n_rows, is_given: !is_move };
        let passed = |n_rows: i64| Stretch { n_rows: count(n_rows), is_given: false };
        let one = |before: i64| match before {
            0 => vec![given(Some(1))],
            before => vec![passed(before), given(Some(1))],
        };
        match movement {
            Movement::Forward(0) | Movement::Relative(0) => self.current(is_move),
            Movement::Forward(n) if n > 0 => Ok(Steps::Read(vec![given(count(n))])),
            Movement::Forward(n) => self.backward(-n, is_move),
            Movement::Backward(n) if n < 0 => Ok(Steps::Read(vec![given(count(-n))])),
            Movement::Backward(n) => self.backward(n, is_move),
            Movement::Relative(n) if n > 0 => Ok(Steps::Read(one(n - 1))),
            Movement::Relative(_) => Err(ForwardOnly),
            Movement::Absolute(0) if self.is_fresh() => Ok(Steps::Read(vec![given(Some(0))])),
            Movement::Absolute(n) if n > 0 => self.absolute(n).map(one).map(Steps::Read),
            Movement::Absolute(_) => Err(ForwardOnly),
        }
    }

    /// Takes into account that a stretch was read, and gave this many rows.
    pub fn note(&mut self, stretch: Stretch, n_rows: u64) {
        if stretch.n_rows == Some(0) || self.is_at_end {
            return;
        }
        self.n_passed += n_rows;
        self.is_at_end = stretch.n_rows.is_none_or(|n_wanted| n_rows < n_wanted);
    }

    /// Whether there is nothing more to read.
    pub fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Not moved yet, nor asked to.
    fn is_fresh(&self) -> bool {
        self.n_passed == 0 && !self.is_at_end
    }

    /// The row on which the cursor stands: it would have to be read again.
    fn current(&self, is_move: bool) -> Result<Steps, ForwardOnly> {
        let is_on_row = self.n_passed > 0 && !self.is_at_end;
        match (is_move, is_on_row) {
            (true, is_on_row) => Ok(Steps::Stay(u64::from(is_on_row))),
            (false, true) => Err(ForwardOnly),
            (false, false) => Ok(Steps::Read(vec![Stretch { n_rows: Some(0), is_given: true }])),
        }
    }

    fn backward(&self, n: i64, is_move: bool) -> Result<Steps, ForwardOnly> {
        match n {
            0 if is_move => self.current(true),
            i64::MAX if is_move && self.is_fresh() => Ok(Steps::Stay(0)),
            _ => Err(ForwardOnly),
        }
    }

    /// Rows to pass before the one with this number.
    fn absolute(&self, n: i64) -> Result<i64, ForwardOnly> {
        let n_before = n - 1;
        if n_before.unsigned_abs() <= self.n_passed / 2 {
            return if self.is_fresh() { Ok(n_before) } else { Err(ForwardOnly) };
        }
        let n_passed = i64::try_from(self.n_passed).unwrap_or(i64::MAX).saturating_add(i64::from(self.is_at_end));
        if n <= n_passed { Err(ForwardOnly) } else { Ok(n_before - n_passed) }
    }
}

/// A count as the number of rows that it asks for.
fn count(n: i64) -> Option<u64> {
    if n == i64::MAX { None } else { u64::try_from(n).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Movement::{Absolute, Backward, Forward, Relative};

    const ALL: i64 = i64::MAX;

    /// The stretches of a FETCH: `3` given, `(3)` passed, `*` all.
    fn told(position: Position, movement: Movement, is_move: bool) -> String {
        match position.steps(movement, is_move) {
            Err(ForwardOnly) => "55000".to_owned(),
            Ok(Steps::Stay(n)) => format!("={n}"),
            Ok(Steps::Read(stretches)) => {
                let word = |stretch: &Stretch| {
                    let n = stretch.n_rows.map_or_else(|| "*".to_owned(), |n| n.to_string());
                    if stretch.is_given { n } else { format!("({n})") }
                };
                stretches.iter().map(word).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn forward_forms_are_stretches_and_others_are_refused() {
        let fresh = Position::default();
        let third = Position { n_passed: 3, is_at_end: false };
        let end = Position { n_passed: 6, is_at_end: true };
        for (position, movement, expected) in [
            (fresh, Forward(2), "2"),
            (fresh, Forward(ALL), "*"),
            (fresh, Forward(0), "0"),
            (third, Forward(0), "55000"),
            (end, Forward(0), "0"),
            (fresh, Backward(-2), "2"),
            (fresh, Backward(1), "55000"),
            (fresh, Backward(0), "55000"),
            (fresh, Forward(-1), "55000"),
            (fresh, Absolute(1), "1"),
            (fresh, Absolute(4), "(3) 1"),
            (fresh, Absolute(0), "0"),
            (third, Absolute(0), "55000"),
            (third, Absolute(2), "55000"),
            (third, Absolute(3), "55000"),
            (third, Absolute(4), "1"),
            (third, Absolute(6), "(2) 1"),
            (end, Absolute(7), "55000"),
            (end, Absolute(8), "1"),
            (fresh, Absolute(-1), "55000"),
            (third, Relative(1), "1"),
            (third, Relative(3), "(2) 1"),
            (third, Relative(-1), "55000"),
        ] {
            assert_eq!(told(position, movement, false), expected, "{position:?} {movement:?}");
        }
        for (position, movement, expected) in [
            (third, Forward(0), "=1"),
            (end, Relative(0), "=0"),
            (fresh, Backward(ALL), "=0"),
            (third, Backward(ALL), "55000"),
            (third, Forward(2), "(2)"),
        ] {
            assert_eq!(told(position, movement, true), expected, "{position:?} {movement:?}");
        }
    }

    #[test]
    fn the_end_is_reached_by_asking_for_more_than_there_is() {
        let stretch = |n_rows| Stretch { n_rows, is_given: true };
        let mut position = Position::default();
        position.note(stretch(Some(0)), 0);
        assert!(position.is_fresh());
        position.note(stretch(Some(6)), 6);
        assert_eq!(position, Position { n_passed: 6, is_at_end: false });
        position.note(stretch(None), 0);
        assert_eq!(position, Position { n_passed: 6, is_at_end: true });
    }
}
