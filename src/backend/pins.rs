//! How many connections of a pool are tied to clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the pinned connections of one node and user.
#[derive(Debug, Clone, Default)]
pub struct PinCounter(Arc<AtomicUsize>);

/// One pinned connection; counted until it is dropped.
#[derive(Debug)]
pub struct PinPermit(PinCounter);

impl PinCounter {
    /// Counts one more, unless that makes more than `n_max`.
    pub fn try_pin(&self, n_max: usize) -> Option<PinPermit> {
        let pinned = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < n_max).then_some(n + 1));
        pinned.ok().map(|_| PinPermit(self.clone()))
    }

    /// Counts one more, whatever the limit: the state is there already.
    pub fn pin(&self) -> PinPermit {
        self.0.fetch_add(1, Ordering::Relaxed);
        PinPermit(self.clone())
    }

    pub fn n_pinned(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for PinPermit {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_limited_and_come_back() {
        let counter = PinCounter::default();
        let first = counter.try_pin(1);
        assert!(first.is_some() && counter.try_pin(1).is_none());
        drop(first);
        let _over = counter.pin();
        assert!(counter.try_pin(1).is_none() && counter.try_pin(2).is_some());
        assert_eq!(counter.n_pinned(), 1);
    }
}
