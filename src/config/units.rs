//! Durations and sizes with their units, spelt as in postgresql.conf.

use std::time::Duration;

/// Units of time in microseconds. `m` is not among them: in Postgres it is nothing, elsewhere minutes or months.
const TIME_UNITS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// Units of memory in bytes, each 1024 of the one before.
const SIZE_UNITS: [(&str, u64); 5] = [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// `"10s"`, `"500ms"`, `"7d"`. The error says what is expected.
pub(super) fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    scaled(text, &TIME_UNITS).map(Duration::from_micros).ok_or("must be a duration such as \"10s\" (units: us, ms, s, min, h, d)")
}

/// `"256MB"`, `"64kB"`: bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, &'static str> {
    scaled(text, &SIZE_UNITS).ok_or("must be a size such as \"256MB\" (units: B, kB, MB, GB, TB; 1kB is 1024 bytes)")
}

/// In the largest unit that divides it.
pub(super) fn show_duration(duration: Duration) -> String {
    show(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), &TIME_UNITS, "0s")
}

pub(super) fn show_size(n_bytes: u64) -> String {
    show(n_bytes, &SIZE_UNITS, "0B")
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let n_digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, unit) = text.split_at(n_digits);
    let amount: u64 = digits.parse().ok()?;
    let scale = units.iter().find(|(name, _)| *name == unit.trim_start())?.1;
    // Half of the range is kept free, so that sums of two never overflow.
    amount.checked_mul(scale).filter(|product| *product <= u64::MAX / 2)
}

fn show(amount: u64, units: &[(&str, u64)], zero: &str) -> String {
    let largest = units.iter().rev().find(|(_, scale)| amount.is_multiple_of(*scale));
    match largest {
        Some((name, scale)) if amount > 0 => format!("{}{name}", amount / scale),
        _ => zero.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_postgres_units() {
        assert_eq!(parse_duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        assert_eq!(parse_duration("500 ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_size("256MB"), Ok(256 << 20));
        assert_eq!(parse_size("1kB"), Ok(1024));
        for wrong in ["", "10", "s", "1m", "-1s", "1.5s", "1h30min", "99999999999999d"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
        for wrong in ["256", "256mb", "1KB", "99999999TB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shown_in_the_largest_whole_unit() {
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_duration(Duration::from_secs(7 * 86_400)), "7d");
        assert_eq!((show_duration(Duration::ZERO), show_size(1536)), ("0s".to_owned(), "1536B".to_owned()));
    }
}
