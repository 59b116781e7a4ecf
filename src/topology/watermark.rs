//! Age tiers: the policy from the configuration and the watermarks that routing uses.

use std::time::Duration;

/// `younger_than` of each tier but the last, youngest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AgePolicy {
    pub younger_than: Vec<Duration>,
}

/// The timestamps between tiers in microseconds since 2000-01-01 UTC, descending.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Watermarks(pub Vec<i64>);

const MICROS_PER_DAY: i64 = 86_400_000_000;

impl AgePolicy {
    /// First watermarks of a database: `now` less each tier's age, rounded down to the UTC day.
    pub fn initial_watermarks(&self, now_micros: i64) -> Watermarks {
        let mark = |age: &Duration| {
            let micros = i64::try_from(age.as_micros()).unwrap_or(i64::MAX);
            now_micros.saturating_sub(micros).div_euclid(MICROS_PER_DAY).saturating_mul(MICROS_PER_DAY)
        };
        Watermarks(self.younger_than.iter().map(mark).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_watermarks_fall_on_utc_days() {
        let policy = AgePolicy { younger_than: vec![Duration::from_secs(7 * 86_400), Duration::from_secs(30 * 86_400)] };
        let now = 100 * MICROS_PER_DAY + 5;
        assert_eq!(policy.initial_watermarks(now), Watermarks(vec![93 * MICROS_PER_DAY, 70 * MICROS_PER_DAY]));
    }
}
