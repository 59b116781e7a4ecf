//! Memory that a crowd of busy clients has needed, given back to the system once they are silent.
//!
//! glibc's allocator gives back by itself what lies free at the end of a heap: one small thing there that is still in use keeps
//! all that is free before it. After 5,000 clients had run a query at the same moment, the process kept 8.3 KiB for each of them;
//! 1.8 once free pages were given back wherever they lie.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::frontend::Gate;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(5);

/// Sessions that must have been folded since the last time for it to be worth some milliseconds: the allocator's locks are held
/// meanwhile.
const MANY_FOLDED: u64 = 200;

/// At most so many of them since the last look: while clients come and go, what is free is soon used again.
const FEW_FOLDED: u64 = 20;

/// Gives free pages back when many clients have fallen silent, and no more do. Ends with the process.
pub(super) async fn keep_small(gate: Arc<Gate>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut n_given_back, mut n_seen) = (0, 0);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let n_folded = gate.served().databases.values().map(|database| database.counters.n_folded.value()).sum::<u64>();
        let is_calm = n_folded.saturating_sub(n_seen) <= FEW_FOLDED;
        n_seen = n_folded;
        if is_calm && n_folded.saturating_sub(n_given_back) >= MANY_FOLDED {
            n_given_back = n_folded;
            // Beside the runtime: it takes some milliseconds. It fails only as the process ends.
            drop(tokio::task::spawn_blocking(give_back).await);
        }
    }
}

/// Gives all free pages back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code, reason = "malloc_trim(3) has no safe form; what it saves stands at the head of this file")]
fn give_back() {
    // SAFETY: malloc_trim takes the allocator's own locks, may be called from any thread at any time, and moves nothing that is
    // allocated; its argument is a number of bytes to keep at the end of the heap.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators do it by themselves, or cannot.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn give_back() {}
