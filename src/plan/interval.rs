//! Intervals of `now() - interval '3 days'`, as far as routing reads them: as spans that surely hold the result.

use super::Values;
use super::slot::string_content;
use crate::sql::LiteralKind;

/// A stretch of time in microseconds since 2000-01-01 UTC, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// One `± interval`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offset {
    pub(super) is_minus: bool,
    pub(super) literal_idx: usize,
    /// `INTERVAL '3' DAY`; also `CURRENT_DATE - 3`. `None`: the literal names its units.
    pub(super) unit: Option<Unit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3600 * SECOND;
const DAY: i64 = 24 * HOUR;

impl Unit {
    /// The unit that a word of Postgres's interval input names.
    pub(super) fn named(word: &str) -> Option<Self> {
        let word = word.to_ascii_lowercase();
        Some(match word.as_str() {
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" => Self::Microsecond,
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => Self::Millisecond,
            "s" | "sec" | "secs" | "second" | "seconds" => Self::Second,
            "m" | "min" | "mins" | "minute" | "minutes" => Self::Minute,
            "h" | "hr" | "hrs" | "hour" | "hours" => Self::Hour,
            "d" | "day" | "days" => Self::Day,
            "w" | "week" | "weeks" => Self::Week,
            "mon" | "mons" | "month" | "months" => Self::Month,
            "y" | "yr" | "yrs" | "year" | "years" => Self::Year,
            _ => return None,
        })
    }

    /// The least and the most that `n` of the unit can be: days are an hour and a half longer or shorter where clocks change,
    /// months have 28 to 31 days.
    fn span(self, n: i64) -> Option<Span> {
        let (short, long, slack) = match self {
            Self::Microsecond => (1, 1, 0),
            Self::Millisecond => (1000, 1000, 0),
            Self::Second => (SECOND, SECOND, 0),
            Self::Minute => (60 * SECOND, 60 * SECOND, 0),
            Self::Hour => (HOUR, HOUR, 0),
            Self::Day => (DAY, DAY, 3 * HOUR),
            Self::Week => (7 * DAY, 7 * DAY, 3 * HOUR),
            Self::Month => (28 * DAY, 31 * DAY, 3 * HOUR),
            Self::Year => (365 * DAY, 366 * DAY, 3 * HOUR),
        };
        let (a, b) = (n.checked_mul(short)?, n.checked_mul(long)?);
        Some(Span { low: a.min(b).checked_sub(slack)?, high: a.max(b).checked_add(slack)? })
    }
}

impl Offset {
    /// Moves a span by the interval; `None` where the interval's text is not understood.
    pub(super) fn applied(&self, span: Span, values: &Values<'_>) -> Option<Span> {
        let literal = *values.literals.get(self.literal_idx)?;
        let text = match literal.kind {
            LiteralKind::Integer => values.sql.get(literal.start..literal.end)?.to_owned(),
            LiteralKind::PlainString | LiteralKind::OtherString => string_content(values.sql.as_bytes(), literal)?,
            LiteralKind::Decimal => return None,
        };
        let length = match self.unit {
            Some(unit) => unit.span(text.trim().parse().ok()?)?,
            None => interval_span(&text)?,
        };
        if self.is_minus {
            Some(Span { low: span.low.checked_sub(length.high)?, high: span.high.checked_sub(length.low)? })
        } else {
            Some(Span { low: span.low.checked_add(length.low)?, high: span.high.checked_add(length.high)? })
        }
    }
}

/// `3 days`, `1 month 2 days`, `90min`, `12:30`, `1 day 02:03:04`.
fn interval_span(text: &str) -> Option<Span> {
    let mut total = Span { low: 0, high: 0 };
    let spaced = text.replace(|c: char| c.is_ascii_whitespace(), " ");
    let mut words = spaced.split(' ').filter(|word| !word.is_empty()).peekable();
    words.peek()?;
    while let Some(word) = words.next() {
        let part = if word.contains(':') {
            clock_span(word)?
        } else {
            let n_digits = word.bytes().position(|b| !b.is_ascii_digit() && b != b'-' && b != b'+').unwrap_or(word.len());
            let (number, unit) = word.split_at(n_digits);
            let unit = if unit.is_empty() { words.next()? } else { unit };
            Unit::named(unit)?.span(number.parse().ok()?)?
        };
        total = Span { low: total.low.checked_add(part.low)?, high: total.high.checked_add(part.high)? };
    }
    Some(total)
}

fn clock_span(word: &str) -> Option<Span> {
    let mut parts = word.split(':');
    let hours: i64 = parts.next().filter(|part| part.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    let minutes: i64 = parts.next()?.parse().ok()?;
    let seconds: i64 = parts.next().map_or(Some(0), |part| part.parse().ok())?;
    let micros = hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(seconds)?.checked_mul(SECOND)?;
    parts.next().is_none().then_some(Span { low: micros, high: micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_usual_forms_and_no_others() {
        let days = |n: i64| Some(Span { low: n * DAY - 3 * HOUR, high: n * DAY + 3 * HOUR });
        assert_eq!(interval_span("3 days"), days(3));
        assert_eq!(interval_span("3d"), days(3));
        assert_eq!(interval_span("90 min"), Some(Span { low: 90 * 60 * SECOND, high: 90 * 60 * SECOND }));
        assert_eq!(interval_span("02:30"), Some(Span { low: 9000 * SECOND, high: 9000 * SECOND }));
        assert_eq!(interval_span("1 month").map(|span| span.high), Some(31 * DAY + 3 * HOUR));
        for text in ["", "P1D", "1.5 days", "days", "3", "1 day ago", "-01:00"] {
            assert_eq!(interval_span(text), None, "{text}");
        }
    }
}
