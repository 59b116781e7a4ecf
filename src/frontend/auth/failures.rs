//! Failed logins, counted by address and user: who guesses must wait.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::FailureConfig;
use crate::sqlstate::{Report, SqlState};

/// Most pairs of address and user that are counted at a time, some hundred kilobytes.
const MAX_PAIRS: usize = 10_000;

/// Longest time until a pair is let in again, however many logins have failed at once.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How many logins have failed lately, for each address and user. A login that succeeds is never counted.
///
/// Each pair may fail `burst` times, and once more for each `interval` that has passed. Beyond that it is refused before its
/// password is looked at. A success clears its pair.
#[derive(Debug, Default)]
pub struct FailedLogins {
    hasher: RandomState,
    /// When a pair will have all its tries again, by the pair's hash: names may be long, and are not kept.
    whole_at: Mutex<HashMap<u64, Instant>>,
}

impl FailedLogins {
    /// Whether a further login of the pair may be tried now.
    ///
    /// # Errors
    /// 53400 with the time to wait.
    pub fn admit(&self, address: Option<IpAddr>, user: &str, limit: &FailureConfig, now: Instant) -> Result<(), Report> {
        let whole_at = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(whole_at) = whole_at.get(&self.key(address, user)).copied() else { return Ok(()) };
        // `burst` intervals before all tries are back, the first one is.
        let spare = limit.interval.saturating_mul(limit.burst.saturating_sub(1));
        let wait = whole_at.saturating_duration_since(now).saturating_sub(spare);
        if limit.burst == 0 || wait.is_zero() {
            return Ok(());
        }
        let report = Report::new(
            SqlState::CONFIGURATION_LIMIT_EXCEEDED,
            format!("too many failed logins for user \"{user}\" from this address"),
        );
        Err(report.with_hint(format!("Try again in {} s.", wait.as_secs() + 1)))
    }

    /// Counts a login that has failed.
    pub fn count(&self, address: Option<IpAddr>, user: &str, limit: &FailureConfig, now: Instant) {
        if limit.burst == 0 {
            return;
        }
        let mut pairs = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.key(address, user);
        if pairs.len() >= MAX_PAIRS && !pairs.contains_key(&key) {
            make_room(&mut pairs, now);
        }
        let whole_at = pairs.entry(key).or_insert(now);
        let latest = now + limit.interval.saturating_mul(limit.burst) + MAX_WAIT;
        *whole_at = ((*whole_at).max(now) + limit.interval).min(latest);
    }

    /// Forgets the pair's failures after a success.
    pub fn clear(&self, address: Option<IpAddr>, user: &str) {
        self.whole_at.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key(address, user));
    }

    /// Of an IPv6 address only the network counts: who has one address has the other 2^64 as well.
    fn key(&self, address: Option<IpAddr>, user: &str) -> u64 {
        let network = address.map(|address| match address.to_canonical() {
            IpAddr::V4(address) => (4, u64::from(u32::from(address))),
            IpAddr::V6(address) => (6, u64::try_from(u128::from(address) >> 64).unwrap_or_default()),
        });
        self.hasher.hash_one((network, user))
    }
}

/// Drops pairs that have all their tries again, or else those that are nearest to it: half of all.
fn make_room(pairs: &mut HashMap<u64, Instant>, now: Instant) {
    pairs.retain(|_, whole_at| *whole_at > now);
    if pairs.len() >= MAX_PAIRS {
        let mut times: Vec<Instant> = pairs.values().copied().collect();
        let (_, median, _) = times.select_nth_unstable(MAX_PAIRS / 2);
        let median = *median;
        pairs.retain(|_, whole_at| *whole_at > median);
    }
    // All at the same instant: a flood of the same moment, of which nothing is known that would tell one from another.
    if pairs.len() >= MAX_PAIRS {
        pairs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: FailureConfig = FailureConfig { burst: 3, interval: Duration::from_secs(10) };

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().expect("an address"))
    }

    #[test]
    fn who_fails_too_often_must_wait_and_one_try_comes_back_at_a_time() {
        let (failures, now, here) = (FailedLogins::default(), Instant::now(), address("192.0.2.1"));
        for _ in 0..3 {
            assert_eq!(failures.admit(here, "ann", &LIMIT, now), Ok(()));
            failures.count(here, "ann", &LIMIT, now);
        }
        let refused = failures.admit(here, "ann", &LIMIT, now).expect_err("refused");
        assert_eq!(refused.to_string(), "53400: too many failed logins for user \"ann\" from this address");
        assert_eq!(refused.hint.as_deref(), Some("Try again in 11 s."));
        assert!(failures.admit(here, "ann", &LIMIT, now + seconds(9)).is_err());
        assert!(failures.admit(here, "ann", &LIMIT, now + seconds(10)).is_ok());
        failures.count(here, "ann", &LIMIT, now + seconds(10));
        assert!(failures.admit(here, "ann", &LIMIT, now + seconds(19)).is_err());
        assert!(failures.admit(here, "ann", &LIMIT, now + seconds(20)).is_ok());
        for other in [(here, "bob"), (address("192.0.2.2"), "ann"), (None, "ann")] {
            assert!(failures.admit(other.0, other.1, &LIMIT, now).is_ok(), "{other:?} has done nothing");
        }
    }

    #[test]
    fn a_success_clears_and_no_limit_is_none() {
        let (failures, now) = (FailedLogins::default(), Instant::now());
        for _ in 0..5 {
            failures.count(None, "ann", &LIMIT, now);
        }
        assert!(failures.admit(None, "ann", &LIMIT, now).is_err());
        failures.clear(None, "ann");
        assert!(failures.admit(None, "ann", &LIMIT, now).is_ok());
        let none = FailureConfig { burst: 0, ..LIMIT };
        for _ in 0..5 {
            failures.count(None, "ann", &none, now);
            assert!(failures.admit(None, "ann", &none, now).is_ok());
        }
    }

    #[test]
    fn guesses_made_at_once_are_paid_for_up_to_a_minute() {
        let (failures, now) = (FailedLogins::default(), Instant::now());
        for _ in 0..10_000 {
            failures.count(None, "ann", &LIMIT, now);
        }
        assert!(failures.admit(None, "ann", &LIMIT, now + seconds(69)).is_err());
        assert!(failures.admit(None, "ann", &LIMIT, now + seconds(70)).is_ok());
    }

    #[test]
    fn memory_is_bounded_and_the_worst_are_remembered() {
        let (failures, now) = (FailedLogins::default(), Instant::now());
        for _ in 0..5 {
            failures.count(address("192.0.2.1"), "ann", &LIMIT, now);
        }
        for number in 0..50_000_u32 {
            failures.count(Some(IpAddr::V4(number.into())), "ann", &LIMIT, now);
        }
        assert!(failures.whole_at.lock().expect("no panic").len() <= MAX_PAIRS);
        assert!(failures.admit(address("192.0.2.1"), "ann", &LIMIT, now).is_err());
    }

    #[test]
    fn neighbours_of_an_ipv6_network_count_as_one() {
        let (failures, now) = (FailedLogins::default(), Instant::now());
        for number in 0..3 {
            failures.count(address(&format!("2001:db8::{number}")), "ann", &LIMIT, now);
        }
        assert!(failures.admit(address("2001:db8::ffff"), "ann", &LIMIT, now).is_err());
        assert!(failures.admit(address("2001:db8:0:1::1"), "ann", &LIMIT, now).is_ok());
        assert!(failures.admit(address("::ffff:192.0.2.1"), "ann", &LIMIT, now).is_ok());
    }
}
