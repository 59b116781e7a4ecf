//! A histogram of durations with fixed buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds, inclusive. The last bucket, without a bound, follows them.
///
/// Three bounds per decade from 50 µs (a forwarded statement) to 30 s (the default statement timeout).
const BOUNDS_MICROS: [u64; 18] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000,
    10_000_000, 30_000_000,
];

/// Durations counted in fixed buckets. A record costs two relaxed atomic additions.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    pub fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket_idx = BOUNDS_MICROS.partition_point(|&bound| bound < micros);
        self.buckets[bucket_idx].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn n_records(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }

    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.load(Ordering::Relaxed))
    }

    /// Zero when there are no records.
    pub fn mean(&self) -> Duration {
        let sum_micros = self.sum_micros.load(Ordering::Relaxed);
        Duration::from_micros(sum_micros.checked_div(self.n_records()).unwrap_or(0))
    }

    /// Each bucket's upper bound in seconds (the last is infinite) and the count of all records up to it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        let bounds = BOUNDS_MICROS.iter().map(|&micros| micros as f64 / 1e6).chain([f64::INFINITY]);
        bounds.zip(&self.buckets).scan(0, |total, (bound, bucket)| {
            *total += bucket.load(Ordering::Relaxed);
            Some((bound, *total))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let histogram = Histogram::default();
        for micros in [0, 50, 51, 40_000_000] {
            histogram.record(Duration::from_micros(micros));
        }
        let counts: Vec<u64> = histogram.cumulative().map(|(_, n)| n).collect();
        assert_eq!((counts[0], counts[1], counts[17], counts[18]), (2, 3, 3, 4));
        assert_eq!((histogram.n_records(), histogram.sum().as_micros()), (4, 40_000_101));
        assert_eq!(Histogram::default().mean(), Duration::ZERO);
    }
}
