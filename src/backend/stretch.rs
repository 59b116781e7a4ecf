//! Stretching passwords beside the runtimes: thousands of hashes would hold up every client of a worker.

use std::sync::LazyLock;

use tokio::sync::Semaphore;

use crate::session::scram::{Key, Salting};

/// Passwords that are stretched at a time, over all workers: half of the cores, so that logins never starve statements.
static PLACES: LazyLock<Semaphore> = LazyLock::new(|| {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    Semaphore::new((n_cores / 2).max(1))
});

/// SaltedPassword of SCRAM, computed on a thread for blocking work. Who asks first is served first. `None` while the process
/// ends.
///
/// Cancel safe: work that has begun is finished for nobody.
pub async fn stretch(salting: Salting, password: Vec<u8>) -> Option<Key> {
    let place = PLACES.acquire().await.ok()?;
    let work = move || {
        let salted = salting.stretch(&password);
        // Given back by the work itself: a caller that goes away does not make room for more.
        drop(place);
        salted
    };
    tokio::task::spawn_blocking(work).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::scram::DEFAULT_ITERATIONS;
    use std::num::NonZeroU32;
    use std::time::Duration;

    /// On a runtime of one thread, which the stretching would hold.
    #[tokio::test]
    async fn the_runtime_goes_on_meanwhile() {
        let slow = Salting { salt: vec![1; 16], iterations: NonZeroU32::new(60_000).expect("not zero") };
        let mut n_turns = 0;
        let mut work = std::pin::pin!(stretch(slow, b"pencil".to_vec()));
        loop {
            tokio::select! {
                biased;
                salted = &mut work => break assert!(salted.is_some()),
                () = tokio::time::sleep(Duration::from_millis(1)) => n_turns += 1,
            }
        }
        assert!(n_turns > 3, "{n_turns} turns");
    }

    #[tokio::test]
    async fn equal_to_the_plain_computation() {
        let salting = Salting { salt: b"salt".to_vec(), iterations: DEFAULT_ITERATIONS };
        assert_eq!(stretch(salting.clone(), b"pencil".to_vec()).await, Some(salting.stretch(b"pencil")));
    }
}
