//! Sessions that have waited long for a server while they hold several: where the search for deadlocks begins.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::CancelTarget;
use crate::backend::CancelHandle;
use crate::sqlstate::Report;

/// Who has not said for this long that it still waits does not. A session says so every second.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3);

/// The long waits of one database. Locked by sessions once a second while they wait, and not by others.
#[derive(Debug, Default)]
pub struct Waits {
    told: Mutex<Vec<Weak<Wait>>>,
    news: Notify,
}

/// The long wait of one statement. It is over when its session drops it.
#[derive(Debug)]
pub(super) struct Wait {
    session: Arc<CancelTarget>,
    /// When its transaction began.
    began: Instant,
    renewed: Mutex<(Instant, Waker)>,
    /// Why the session is to give up.
    verdict: OnceLock<Box<Report>>,
}

impl Waits {
    /// Tells that a statement of `session` waits, whose transaction has begun at `began`; `renewed`: what [`Wait::renew`] takes.
    pub(super) fn tell(&self, session: &Arc<CancelTarget>, began: Instant, renewed: (Instant, Waker)) -> Arc<Wait> {
        let session = Arc::clone(session);
        let wait = Arc::new(Wait { session, began, renewed: Mutex::new(renewed), verdict: OnceLock::new() });
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|known| known.strong_count() > 0);
        told.push(Arc::downgrade(&wait));
        drop(told);
        self.news.notify_one();
        wait
    }

    /// Ready once another wait was told.
    ///
    /// Cancel safe.
    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    /// Who waits at this moment, and is not to give up yet. The oldest transaction stands first.
    pub(super) fn current(&self, now: Instant) -> Vec<Arc<Wait>> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|known| known.strong_count() > 0);
        let is_current = |wait: &Arc<Wait>| {
            let renewed_at = wait.renewed.lock().unwrap_or_else(PoisonError::into_inner).0;
            wait.verdict.get().is_none() && now.saturating_duration_since(renewed_at) < FORGOTTEN_AFTER
        };
        let mut current: Vec<_> = told.iter().filter_map(Weak::upgrade).filter(is_current).collect();
        drop(told);
        current.sort_by_key(|wait| wait.began);
        current
    }
}

impl Wait {
    /// The statement still waits at `now`; `waker` has its session look at the verdict.
    pub(super) fn renew(&self, now: Instant, waker: &Waker) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.0 = now;
        renewed.1.clone_from(waker);
    }

    /// Has the statement give up with this report.
    pub(super) fn end(&self, report: Report) {
        if self.verdict.set(Box::new(report)).is_ok() {
            self.renewed.lock().unwrap_or_else(PoisonError::into_inner).1.wake_by_ref();
        }
    }

    /// What the statement is to give up with.
    pub(super) fn verdict(&self) -> Option<Box<Report>> {
        self.verdict.get().cloned()
    }

    /// The server connections of the session.
    pub(super) fn handles(&self) -> Vec<CancelHandle> {
        self.session.handles()
    }
}
