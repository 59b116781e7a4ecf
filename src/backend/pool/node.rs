//! The connections of one user to one node: opening them, waiting for them, keeping them.

use std::future::poll_fn;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use super::CheckoutError;
use super::slots::{Figures, Limits, Place, Rank, Request, Slots, Turn};
use crate::backend::connect::{Endpoint, open};
use crate::backend::{CancelHandle, ConnectError, Connection, Credentials};
use crate::config::PoolConfig;
use crate::deadline::Deadline;
use crate::observe::{Registry, ServerDescription};

/// Longest time between two looks of a waiting client at what the pool may do for it.
const WAITING_TICK: Duration = Duration::from_millis(500);

/// An idle connection above the limit is closed when it was not used for so long.
const RESERVE_IDLE: Duration = Duration::from_secs(5);

/// Part of its lifetime by which a connection may end early, so that those opened together do not end together.
const LIFETIME_JITTER: f64 = 0.1;

/// Where a pool's connections go.
#[derive(Debug)]
pub(super) struct Target {
    pub endpoint: Endpoint,
    pub shard_name: String,
    /// The database's name towards clients.
    pub database: String,
    pub credentials: Credentials,
}

#[derive(Debug)]
pub(super) struct NodePool {
    pub target: Target,
    config: PoolConfig,
    registry: Arc<Registry>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    slots: Slots<Box<Connection>>,
    /// A login has succeeded, and none was refused since: `pool.min_per_node` connections are kept.
    is_used: bool,
}

impl NodePool {
    pub(super) fn new(target: Target, config: &PoolConfig, registry: Arc<Registry>) -> Self {
        let limits = Limits {
            max: config.max_per_node,
            reserve: config.reserve,
            reserve_after: config.reserve_after,
            max_pause: config.connect_backoff,
        };
        let state = Mutex::new(State { slots: Slots::new(limits), is_used: false });
        Self { target, config: config.clone(), registry, state }
    }

    /// A connection that is fit for use. An idle one is taken without waiting.
    ///
    /// Cancel safe: dropping the future gives its place in the queue away.
    pub(super) async fn checkout(&self, mut request: Request, alarm: &Alarm) -> Result<Box<Connection>, CheckoutError> {
        let mut place = self.state().slots.acquire(&request);
        let mut refusal = None;
        loop {
            let turn = match place {
                Place::Now(turn) => turn,
                Place::Queued { ticket, turn } => {
                    let queued = Queued { pool: self, ticket, since: request.now, turn, has_had_turn: false };
                    match queued.wait(request.deadline, alarm).await {
                        Some(turn) => turn,
                        None => return Err(self.too_late(refusal)),
                    }
                }
            };
            place = match turn {
                Turn::Idle(connection) if connection.is_usable(request.now) => return Ok(connection),
                Turn::Idle(connection) => {
                    drop(connection);
                    self.state().slots.replace_dead(&request)
                }
                // Rare, and boxed: who waits has no room for it.
                Turn::Open => match Box::pin(self.open(&mut request)).await {
                    Ok(connection) => return Ok(connection),
                    Err((error, None)) => return Err(self.cannot_connect(error)),
                    Err((error, Some(place))) => {
                        refusal = Some(error);
                        place
                    }
                },
                Turn::Failed(error) => return Err(self.cannot_connect(error)),
                Turn::Closed => return Err(CheckoutError::Closed),
            };
        }
    }

    /// An idle connection that is fit for use, if the queue is empty.
    pub(super) fn checkout_idle(&self, request: &Request) -> Option<Box<Connection>> {
        let connection = self.state().slots.acquire_idle(request)?;
        if connection.is_usable(request.now) {
            return Some(connection);
        }
        drop(connection);
        self.lost(request.now);
        None
    }

    /// Uses the right to open a connection. With an error there may be a place in the queue to wait at.
    async fn open(&self, request: &mut Request) -> Result<Box<Connection>, (ConnectError, Option<Place<Box<Connection>>>)> {
        let opening = Opening(Some(self));
        let began = Instant::now();
        let limit = Deadline::after(began, self.config.connect_timeout);
        let attempt = open(&self.target.endpoint, &self.target.credentials);
        let outcome = match limit.min(request.deadline).instant() {
            Some(until) => timeout_at(until.into(), attempt).await,
            None => Ok(attempt.await),
        };
        request.now = Instant::now();
        let error = match outcome {
            Ok(Ok(opened)) => {
                opening.settle();
                self.note_opened(request.now);
                if let Err(error) = opened.socket.stream.tune(&self.config.tcp) {
                    tracing::warn!(node = %self.target.endpoint.address, %error, "pool.tcp cannot be set");
                }
                return Ok(Box::new(self.connection(opened)));
            }
            Ok(Err(error)) => error,
            // The client's own time is up: it says nothing about the server, and the right passes to the next.
            Err(_) if !limit.has_passed(request.now) => return Err((ConnectError::Timeout, None)),
            Err(_) => ConnectError::Timeout,
        };
        opening.settle();
        tracing::debug!(node = %self.target.endpoint.address, %error, "a server connection could not be opened");
        let place = self.note_failed(&error, began, request);
        Err((error, place))
    }

    fn note_opened(&self, now: Instant) {
        let mut state = self.state();
        state.is_used = true;
        state.slots.opened(now);
    }

    fn note_failed(&self, error: &ConnectError, began: Instant, request: &Request) -> Option<Place<Box<Connection>>> {
        let mut state = self.state();
        state.is_used &= error.is_evidence_against_node() || error.is_server_full();
        state.slots.failed(error, began, request, random_fraction())
    }

    fn connection(&self, opened: crate::backend::connect::Opened) -> Connection {
        let Target { endpoint, shard_name, database, credentials } = &self.target;
        let entry = self.registry.add_server(ServerDescription {
            database: database.clone(),
            shard: shard_name.clone(),
            node: endpoint.address.to_string(),
            user: credentials.user.clone(),
            pid: opened.process_id,
            tls: opened.socket.stream.tls_description().unwrap_or_default(),
        });
        let cancel = CancelHandle::new(endpoint.clone(), &opened);
        let n_prepared = self.config.max_prepared_statements;
        let mut connection = Connection::new(opened, cancel, n_prepared, entry, Arc::clone(&self.registry));
        let lifetime = self.config.max_lifetime.mul_f64(1.0 - LIFETIME_JITTER * random_fraction());
        connection.expires_at = Deadline::after(connection.opened_at, lifetime);
        connection
    }

    /// Takes a leased connection that is clean back.
    pub(super) fn give_back(&self, connection: Box<Connection>, now: Instant) {
        let surplus = self.state().slots.give_back(connection, now);
        drop(surplus);
    }

    /// A leased connection was closed.
    pub(super) fn lost(&self, now: Instant) {
        self.state().slots.lost(now);
    }

    /// Closes idle connections that are dead, old, unused for too long, or left of the reserve.
    pub(super) fn close_idle(&self, now: Instant) {
        let mut state = self.state();
        let min = if state.is_used { self.config.min_per_node } else { 0 };
        let mut n_open = state.slots.n_open();
        let closed = state.slots.retain_idle(|connection| {
            let unused = now.saturating_duration_since(connection.idle_since);
            let is_unused = !self.config.idle_timeout.is_zero() && unused > self.config.idle_timeout;
            let is_surplus = n_open > self.config.max_per_node && unused > RESERVE_IDLE;
            let is_kept = connection.is_usable(now) && (!is_unused || n_open <= min) && !is_surplus;
            n_open -= usize::from(!is_kept);
            is_kept
        });
        drop(state);
        drop(closed);
    }

    /// Whether connections are missing to `pool.min_per_node`.
    pub(super) fn lacks_spares(&self) -> bool {
        let state = self.state();
        state.is_used && state.slots.n_open() < self.config.min_per_node
    }

    /// Opens connections up to `pool.min_per_node`, one after the other, until one fails.
    pub(super) async fn open_spares(&self) {
        while self.may_open_spare() {
            let mut request =
                Request { rank: Rank::Newcomer, now: Instant::now(), deadline: Deadline::NEVER, waits_out_pause: false };
            match self.open(&mut request).await {
                Ok(connection) => self.give_back(connection, Instant::now()),
                Err((_, Some(Place::Queued { ticket, .. }))) => {
                    self.state().slots.leave(ticket);
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn may_open_spare(&self) -> bool {
        let mut state = self.state();
        state.is_used && state.slots.open_spare(self.config.min_per_node, Instant::now())
    }

    pub(super) fn n_open(&self) -> usize {
        self.state().slots.n_open()
    }

    pub(super) fn figures(&self, now: Instant) -> Figures {
        self.state().slots.figures(now)
    }

    pub(super) fn retire(&self) {
        let closed = self.state().slots.retire();
        drop(closed);
    }

    pub(super) fn close(&self) {
        let closed = self.state().slots.close();
        drop(closed);
    }

    fn cannot_connect(&self, error: ConnectError) -> CheckoutError {
        CheckoutError::Connect { shard: self.target.shard_name.clone(), node: self.target.endpoint.address.to_string(), error }
    }

    /// Why a wait was in vain: the failure to open one more connection, if there was one since the last success.
    fn too_late(&self, refusal: Option<ConnectError>) -> CheckoutError {
        match refusal.or_else(|| self.state().slots.last_error().cloned()) {
            Some(error) => self.cannot_connect(error),
            None => CheckoutError::Timeout { shard: self.target.shard_name.clone() },
        }
    }

    /// A panic under the lock leaves nothing half done, so a poisoned lock is used on.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When a future that waits for a connection is to be polled again, though nothing has woken it.
#[derive(Debug)]
pub struct Alarm {
    began: Instant,
    /// After `began`; `u64::MAX`: never.
    micros: AtomicU64,
}

impl Alarm {
    /// Not set, for a wait that begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self { began: now, micros: AtomicU64::new(u64::MAX) }
    }

    pub fn at(&self) -> Deadline {
        match self.micros.load(Ordering::Relaxed) {
            u64::MAX => Deadline::NEVER,
            micros => (self.began + Duration::from_micros(micros)).into(),
        }
    }

    fn set(&self, at: Deadline) {
        // Not before it.
        let micros = at.instant().map(|at| at.saturating_duration_since(self.began).as_micros() + 1);
        self.micros.store(micros.and_then(|micros| micros.try_into().ok()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// The right to open a connection, passed on when it is dropped unsettled.
struct Opening<'a>(Option<&'a NodePool>);

impl Opening<'_> {
    fn settle(mut self) {
        self.0 = None;
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        if let Some(pool) = self.0 {
            pool.state().slots.abandoned(Instant::now());
        }
    }
}

/// A place in the queue. Dropped, it is given away, and with it whatever has just been granted.
struct Queued<'a> {
    pool: &'a NodePool,
    ticket: u64,
    since: Instant,
    turn: oneshot::Receiver<Turn<Box<Connection>>>,
    /// It has been taken out of the queue, which need not be searched for it.
    has_had_turn: bool,
}

impl Queued<'_> {
    /// Waits for its turn; `None` after the deadline. Cancel safe.
    async fn wait(mut self, deadline: Deadline, alarm: &Alarm) -> Option<Turn<Box<Connection>>> {
        let outcome = poll_fn(|cx| {
            if let Poll::Ready(outcome) = Pin::new(&mut self.turn).poll(cx) {
                return Poll::Ready(Some(outcome.unwrap_or(Turn::Closed)));
            }
            let now = Instant::now();
            if deadline.has_passed(now) {
                return Poll::Ready(None);
            }
            let slots = &mut self.pool.state().slots;
            slots.grant(now);
            let tick = now + WAITING_TICK;
            alarm.set(deadline.min(slots.next_event(self.since, now).map_or(tick, |at| at.min(tick)).into()));
            Poll::Pending
        })
        .await;
        alarm.set(Deadline::NEVER);
        self.has_had_turn = outcome.is_some();
        outcome
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        if self.has_had_turn || self.pool.state().slots.leave(self.ticket) {
            return;
        }
        match self.turn.try_recv() {
            Ok(Turn::Idle(connection)) => self.pool.give_back(connection, Instant::now()),
            Ok(Turn::Open) => self.pool.state().slots.abandoned(Instant::now()),
            Ok(Turn::Failed(_) | Turn::Closed) | Err(_) => {}
        }
    }
}

/// From 0 to 1; good enough to spread things over time.
fn random_fraction() -> f64 {
    let bits = RandomState::new().build_hasher().finish();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
