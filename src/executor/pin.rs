//! Backends that a client keeps beyond its transaction, because state of its session lives there.

use std::task::{Context, Poll};
use std::time::Instant;

use super::Conversation;
use super::conversation::unpooled;
use super::enlist::{Enlisted, Part, Watched};
use super::failure::Failure;
use super::sequences::LastValues;
use crate::backend::{ConnectionLost, Lease, PinPermit, parameter_status};
use crate::config::PoolMode;
use crate::deadline::Deadline;
use crate::observe::ErrorKind;
use crate::session::pins::{PinReason, PinReasons};
use crate::session::unpooled::{Leftover, Look};
use crate::session::wire::{self, HEADER_LEN};
use crate::sqlstate::{Report, SqlState};

/// What a backend is asked outside of a transaction, where every advisory lock that it has is the session's. One row of
/// booleans, in the order of [`ASKED`].
const WHAT_IS_LEFT: &str = "\
SELECT EXISTS (SELECT FROM pg_catalog.pg_listening_channels()),
  EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.pg_my_temp_schema())
    OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace = pg_catalog.pg_my_temp_schema()),
  EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()),
  EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)";

/// Reasons that a backend can be asked for; of the others nothing tells.
const ASKED: [PinReason; 4] = [PinReason::Listen, PinReason::Temporary, PinReason::AdvisoryLock, PinReason::Cursor];
const UNASKED: PinReasons = PinReasons::only(PinReason::Settings).with(PinReason::Sequence).with(PinReason::Other);

/// Why and how a backend is the client's own.
#[derive(Debug, Default)]
pub(super) struct Pin {
    reasons: PinReasons,
    /// What the running transaction may have added of [`UNASKED`].
    added: PinReasons,
    /// Something may have been made or ended since the backend was asked last.
    is_unsettled: bool,
    /// `None` in session pooling, where each backend is the client's own.
    permit: Option<PinPermit>,
}

impl Enlisted {
    fn has_unsettled_pin(&self) -> bool {
        self.pin.as_ref().is_some_and(|pin| pin.is_unsettled)
    }
}

impl Conversation {
    /// The pin that a new backend begins with: in session pooling it is the client's own from the start.
    pub(super) fn first_pin(&self) -> Option<Box<Pin>> {
        (self.database.config.pool.mode == PoolMode::Session).then(Box::default)
    }

    /// Refuses what this pool mode never keeps for a client.
    ///
    /// # Errors
    /// TL090.
    pub(super) fn check_leftover(&self, leftover: Leftover) -> Result<(), Failure> {
        // Settings that nobody keeps are only lost, for the next client has its own.
        let Some(reason) = leftover.makes.without(PinReason::Settings).iter().next() else { return Ok(()) };
        let pool = &self.database.config.pool;
        let hint = match pool.mode {
            PoolMode::Session => return Ok(()),
            PoolMode::Transaction if pool.max_pinned > 0 => return Ok(()),
            PoolMode::Transaction => "Raise pool.max_pinned above 0, or use pool.mode = \"session\".",
            PoolMode::Statement => "Use pool.mode = \"transaction\" or \"session\".",
        };
        Err(unpooled(&format!("{} lives in one server's session", reason.describe()), hint))
    }

    /// Ties a backend to the client before a statement that may leave something there.
    ///
    /// # Errors
    /// 53300 (TL080) when `pool.max_pinned` clients have pinned connections to the node already; TL090 for settings that other
    /// shards, and the planner, would not learn of.
    pub(super) fn reserve_pin(&mut self, idx: usize, leftover: Leftover) -> Result<(), Failure> {
        if leftover.makes.contains(PinReason::Settings) && self.view.topology.only_shard().is_none() {
            return Err(Failure::refused(
                "TL090",
                "code that changes settings would change them on one shard only",
                "Use SET, or set_config with literals or parameters.",
            ));
        }
        let pool = &self.database.config.pool;
        if leftover.look == Look::Never || pool.mode != PoolMode::Transaction || pool.max_pinned == 0 {
            return Ok(());
        }
        if self.enlisted[idx].pin.is_none() {
            if leftover.look == Look::IfPinned {
                return Ok(());
            }
            let permit = self.pin_permit(&self.enlisted[idx].lease, leftover)?;
            self.enlisted[idx].pin = Some(Box::new(Pin { permit, ..Pin::default() }));
        }
        if let Some(pin) = &mut self.enlisted[idx].pin {
            pin.is_unsettled = true;
            pin.added = pin.added.union(leftover.makes.intersection(UNASKED));
        }
        Ok(())
    }

    /// A place among the pinned connections of a node; `None` where each connection is the client's own anyway.
    ///
    /// # Errors
    /// 53300 (TL080).
    pub(super) fn pin_permit(&self, lease: &Lease, leftover: Leftover) -> Result<Option<PinPermit>, Failure> {
        let pool = &self.database.config.pool;
        if pool.mode != PoolMode::Transaction {
            return Ok(None);
        }
        let n_max = pool.max_pinned;
        Ok(match self.pools.pins_of(lease.shard, lease.node_idx) {
            None => None,
            // State that only perhaps is made is kept when it is there, whatever the limit.
            Some(pins) if leftover.makes.is_empty() => Some(pins.pin()),
            Some(pins) => Some(pins.try_pin(n_max).ok_or_else(|| too_many_pinned(n_max, leftover.makes))?),
        })
    }

    /// Outside of a transaction: asks backends what they have, and unties those that have nothing.
    ///
    /// `is_committed`: what was run since the last time holds.
    pub(super) async fn settle_pins(&mut self, is_committed: bool) {
        if self.enlisted.iter().any(Enlisted::has_unsettled_pin) {
            Box::pin(self.ask_what_is_left(is_committed)).await;
        }
    }

    async fn ask_what_is_left(&mut self, is_committed: bool) {
        self.timer.set(Deadline::after(Instant::now(), self.database.query.timeout));
        let shards: Vec<_> = self.enlisted.iter().filter(|held| held.has_unsettled_pin()).map(|held| held.lease.shard).collect();
        for shard in shards {
            let Some(idx) = self.index_of(shard) else { continue };
            if !self.enlisted[idx].lease.is_clean {
                continue;
            }
            // A backend that does not answer keeps what it may have; one that is lost has ended the session.
            let Ok(found) = self.look(idx).await else { continue };
            let Some(pin) = &mut self.enlisted[idx].pin else { continue };
            let added = if is_committed { pin.added } else { PinReasons::NONE };
            let reasons = found.union(pin.reasons.intersection(UNASKED)).union(added);
            for reason in reasons.iter().filter(|reason| !pin.reasons.contains(*reason)) {
                self.database.counters.count_pin(reason);
            }
            **pin = Pin { reasons, permit: pin.permit.take(), ..Pin::default() };
            if reasons.is_empty() {
                self.enlisted[idx].pin = None;
            }
        }
        self.note_pins();
    }

    /// Tells the registry why the client is pinned.
    pub(super) fn note_pins(&self) {
        let mut all = PinReasons::NONE;
        for held in &self.enlisted {
            let reasons = held.pin.as_ref().map_or(PinReasons::NONE, |pin| pin.reasons);
            held.lease.entry().set_pins(reasons);
            all = all.union(reasons);
        }
        if self.has_held_cursor() {
            all = all.with(PinReason::Cursor);
        }
        self.entry.set_pins(all);
    }

    /// Whether code has changed settings of a backend of the client's own, unseen.
    pub(super) fn has_unseen_settings(&self, idx: usize) -> bool {
        let pin = self.enlisted[idx].pin.as_ref();
        pin.is_some_and(|pin| pin.reasons.union(pin.added).contains(PinReason::Settings))
    }

    /// Forgets that code has changed settings: they have been reset.
    pub(super) fn unpin_settings(&mut self) {
        // A rollback brings them back.
        let (is_open, has_savepoints) = (self.transaction.is_open(), !self.transaction.savepoints.is_empty());
        for pin in self.enlisted.iter_mut().filter_map(|held| held.pin.as_mut()) {
            if !has_savepoints {
                pin.added = pin.added.without(PinReason::Settings);
            }
            if !is_open && pin.reasons.contains(PinReason::Settings) {
                pin.reasons = pin.reasons.without(PinReason::Settings);
                pin.is_unsettled = true;
            }
        }
    }

    /// Ties a backend to the client for the last values of sequences, if one more may be pinned.
    pub(super) fn pin_for_sequences(&mut self, idx: usize) -> bool {
        let held = &mut self.enlisted[idx];
        if held.pin.is_none() {
            let pins = self.pools.pins_of(held.lease.shard, held.lease.node_idx);
            let permit = pins.map(|pins| pins.try_pin(self.database.config.pool.max_pinned));
            match permit {
                Some(None) => return false,
                permit => held.pin = Some(Box::new(Pin { permit: permit.flatten(), ..Pin::default() })),
            }
        }
        let Some(pin) = &mut held.pin else { return false };
        if !pin.reasons.contains(PinReason::Sequence) {
            pin.reasons = pin.reasons.with(PinReason::Sequence);
            self.database.counters.count_pin(PinReason::Sequence);
            self.note_pins();
        }
        true
    }

    /// Forgets that backends are kept for the last values of sequences: these have been discarded.
    pub(super) fn unpin_sequences(&mut self) {
        self.last_values = LastValues::None;
        for pin in self.enlisted.iter_mut().filter_map(|held| held.pin.as_mut()) {
            pin.is_unsettled |= pin.reasons.contains(PinReason::Sequence);
            pin.reasons = pin.reasons.without(PinReason::Sequence);
        }
    }

    /// Whether a backend is kept for the last values of sequences.
    pub(super) fn is_pinned_for_sequences(&self, idx: usize) -> bool {
        self.enlisted[idx].pin.as_ref().is_some_and(|pin| pin.reasons.contains(PinReason::Sequence))
    }

    async fn look(&mut self, idx: usize) -> Result<PinReasons, Failure> {
        let rows = self.ask(idx, WHAT_IS_LEFT).await?;
        let row = rows.first().map(Vec::as_slice).unwrap_or_default();
        let found = ASKED.iter().zip(row).filter(|(_, value)| value.as_deref() == Some("t"));
        Ok(found.fold(PinReasons::NONE, |all, (reason, _)| all.with(*reason)))
    }

    /// Runs a query of the proxy's own on a backend and gives its rows as text.
    ///
    /// # Errors
    /// The server's, or that the connection was lost.
    pub(super) async fn ask(&mut self, idx: usize, sql: &str) -> Result<Vec<Vec<Option<String>>>, Failure> {
        Ok(self.ask_several(idx, sql).await?.into_iter().flatten().collect())
    }

    /// The same for several statements: the rows of each.
    pub(super) async fn ask_several(&mut self, idx: usize, sql: &str) -> Result<Vec<Vec<Vec<Option<String>>>>, Failure> {
        self.enlisted[idx].begin_statement().write_query(sql.as_bytes());
        if let Err(error) = self.timer.send(&mut self.enlisted[idx].lease).await {
            return Err(self.abandon(idx, error).await);
        }
        let (mut parts, mut rows, mut failure) = (Vec::new(), Vec::new(), None);
        loop {
            let (tag, message) = self.next_message(idx, Watched::Nobody).await?;
            match tag {
                b'Z' if parts.is_empty() && failure.is_none() => {
                    // It belongs to something else: the answer is still to come.
                    let lost = ConnectionLost("server is ready before it has answered".to_owned());
                    return Err(self.abandon(idx, lost.into()).await);
                }
                b'Z' => return failure.map_or(Ok(parts), Err),
                b'E' => failure = Some(Failure::Shard(message)),
                b'D' => {
                    let fields = wire::fields(&message[HEADER_LEN..]).unwrap_or_default();
                    let text = |field: Option<&[u8]>| field.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
                    rows.push(fields.into_iter().map(text).collect());
                }
                b'C' => parts.push(std::mem::take(&mut rows)),
                b'T' | b'N' => {}
                tag => {
                    let lost = ConnectionLost(format!("server sent a message of unexpected type {tag}"));
                    return Err(self.abandon(idx, lost.into()).await);
                }
            }
        }
    }

    /// Writes what the client's own backends said beside the answers of statements.
    pub fn tell_late(&mut self) {
        let Self { client, enlisted, .. } = self;
        for held in enlisted.iter_mut().filter(|held| !held.late.is_empty()) {
            client.output.extend_from_slice(&held.late.split());
        }
    }

    /// Reads what the client's own backends say while nothing runs; ready when there is something for the client.
    ///
    /// # Errors
    /// What ends the session: a backend that is the client's own has ended.
    pub fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        let n_held = self.enlisted.len();
        for idx in 0..n_held {
            let held = &mut self.enlisted[idx];
            // Of several the next statement is told, unless their end is what the client has asked for.
            let is_heard = n_held == 1 || self.settings.value("idle_in_transaction_session_timeout").is_some();
            let is_held = held.pin.is_some() || (is_heard && held.part != Part::Outside);
            if !is_held || !held.is_ready || held.n_skipped_cycles > 0 {
                continue;
            }
            let n_before = self.client.output.len();
            loop {
                match self.take_news(idx) {
                    Ok(News::Taken) => {}
                    Ok(News::Kept) => break,
                    Err(failure) => return Poll::Ready(Err(failure)),
                }
                let n_read = match self.enlisted[idx].lease.socket.poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(outcome) => outcome.map_err(ConnectionLost::from),
                };
                if !matches!(n_read, Ok(n) if n > 0) {
                    if self.enlisted[idx].pin.is_none() {
                        // The next statement, or the end of the transaction, finds it.
                        break;
                    }
                    self.drop_enlisted(idx);
                    return Poll::Ready(Err(lost_state()));
                }
            }
            if self.client.output.len() > n_before {
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    }

    /// Passes on the whole messages that a backend sent unasked.
    fn take_news(&mut self, idx: usize) -> Result<News, Failure> {
        self.tell_late();
        while let Ok(Some(header)) = self.enlisted[idx].lease.buffered_header() {
            let n_held = self.enlisted.len();
            let held = &mut self.enlisted[idx];
            let body = held.lease.socket.input.get(HEADER_LEN..header.len).unwrap_or_default();
            if held.pin.is_none() && header.tag == b'E' && n_held > 1 && !ends_idle_transaction(body) {
                return Ok(News::Kept);
            }
            let mut message = held.lease.socket.input.split_to(header.len);
            match header.tag {
                b'A' => held.tell_own_pid(&mut message),
                b'N' => {}
                b'S' => {
                    held.lease.note_parameter(&message[HEADER_LEN..]);
                    if let Some((name, value)) = parameter_status(&message[HEADER_LEN..]) {
                        self.note_parameter(&name, &value);
                        self.note_told(name, value);
                    }
                }
                b'E' => {
                    // As with one Postgres: its last words, and the end.
                    self.client.output.extend_from_slice(&message);
                    self.drop_enlisted(idx);
                    return Err(Failure::Ended);
                }
                _ => {
                    self.drop_enlisted(idx);
                    return Err(lost_state());
                }
            }
            self.client.output.extend_from_slice(&message);
        }
        Ok(News::Taken)
    }
}

/// What became of messages that a backend sent unasked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Taken,
    /// The error of one backend of several, which the client survives: the next statement is told of it.
    Kept,
}

/// Whether a server's last words are about a client that is silent within its transaction, on whatever shard.
fn ends_idle_transaction(body: &[u8]) -> bool {
    let code = wire::report_field(body, b'C').unwrap_or_default();
    code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT.0 || code == SqlState::TRANSACTION_TIMEOUT.0
}

/// The end of a session whose state is gone with its backend.
pub(super) fn lost_state() -> Failure {
    Failure::fatal(
        SqlState::CONNECTION_FAILURE,
        "terminating connection because the server connection with the session's state was lost",
    )
}

fn too_many_pinned(n_max: usize, makes: PinReasons) -> Failure {
    let what = makes.iter().next().map_or("it", PinReason::describe);
    let message = format!("{what} needs a server connection of the client's own, and {n_max} are pinned already");
    let report = Report::new(SqlState::TOO_MANY_CONNECTIONS, message).with_detail("Reason code TL080.").with_hint(
        "Raise pool.max_pinned, or have clients release what pins them: SHOW CLIENTS on the admin console tells what.",
    );
    Failure::statement(report, ErrorKind::CheckoutTimeout)
}
