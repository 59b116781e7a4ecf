//! What a client has named: its prepared statements and its portals, within limits.

use bytes::Bytes;
use foldhash::HashMap;

use super::batch::{Portal, SessionStatement, Target};
use super::failure::Failure;
use super::own::Progress;
use crate::config::QueryConfig;
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// A client's prepared statements by name; the unnamed one under the empty name.
#[derive(Debug, Default)]
pub(super) struct Statements {
    by_name: HashMap<Bytes, SessionStatement>,
    n_bytes: usize,
}

impl Statements {
    pub(super) fn get(&self, name: &[u8]) -> Option<&SessionStatement> {
        self.by_name.get(name)
    }

    /// Whether one more statement of this size may be named.
    ///
    /// # Errors
    /// 54000. The unnamed statement is never refused.
    pub(super) fn check_room(&self, name: &[u8], n_bytes: usize, limits: &QueryConfig) -> Result<(), Failure> {
        let has_room = self.by_name.len() < limits.max_client_statements && fits(self.n_bytes + n_bytes, limits);
        if name.is_empty() || has_room {
            return Ok(());
        }
        Err(limit_reached("prepared statements", limits, "Close statements that are no longer used"))
    }

    /// Puts a statement under a name and gives the one that had it.
    pub(super) fn insert(&mut self, name: Bytes, statement: SessionStatement) -> Option<SessionStatement> {
        self.n_bytes += size_of(&name, &statement);
        let previous = self.by_name.insert(name.clone(), statement);
        if let Some(previous) = &previous {
            self.n_bytes -= size_of(&name, previous);
        }
        previous
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<SessionStatement> {
        if self.by_name.is_empty() {
            return None;
        }
        let removed = self.by_name.remove(name);
        if let Some(statement) = &removed {
            self.n_bytes -= size_of(name, statement);
        }
        removed
    }

    /// Puts back what a name stood for before a message that was skipped.
    pub(super) fn restore(&mut self, name: Bytes, previous: Option<SessionStatement>) {
        match previous {
            Some(previous) => drop(self.insert(name, previous)),
            None => drop(self.remove(&name)),
        }
    }

    /// Removes all but the unnamed one, as DEALLOCATE ALL does.
    pub(super) fn clear_named(&mut self) {
        let unnamed = self.remove(b"");
        self.clear();
        if let Some(unnamed) = unnamed {
            self.insert(Bytes::new(), unnamed);
        }
    }

    pub(super) fn clear(&mut self) {
        self.by_name.clear();
        self.n_bytes = 0;
    }

    /// All of them in as little memory as they take; `None` without any.
    pub(super) fn folded(mut self) -> Option<Box<Self>> {
        self.by_name.shrink_to_fit();
        (!self.by_name.is_empty()).then(|| Box::new(self))
    }

    /// The client's name of a statement.
    pub(super) fn name_of(&self, prepared_id: u64) -> Option<String> {
        let (name, _) = self.by_name.iter().find(|(_, statement)| statement.prepared.id == prepared_id)?;
        Some(String::from_utf8_lossy(name).into_owned())
    }

    /// A server's words about a statement that it knows by the proxy's name, with the client's instead.
    pub(super) fn with_clients_name(&self, text: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(text).ok()?;
        let (before, rest) = text.split_once("\"trunkline_")?;
        let (number, after) = rest.split_once('"')?;
        let id: u64 = number.parse().ok()?;
        let (name, _) = self.by_name.iter().find(|(name, statement)| !name.is_empty() && statement.prepared.id == id)?;
        Some(format!("{before}\"{}\"{after}", String::from_utf8_lossy(name)))
    }
}

/// The unnamed statement is bounded by the message that brought it.
fn size_of(name: &[u8], statement: &SessionStatement) -> usize {
    if name.is_empty() { 0 } else { name.len() + statement.prepared.sql.len() }
}

/// A client's portals by name.
#[derive(Debug, Default)]
pub(super) struct Portals {
    /// Most statements use no other.
    unnamed: Option<Portal>,
    by_name: HashMap<Bytes, Portal>,
    n_bytes: usize,
    /// Where those are that any shard could take.
    shards: HashMap<Bytes, ShardId>,
    /// How far those of the proxy's own have run.
    pub(super) progress: HashMap<Bytes, Progress>,
    n_opened: u64,
}

impl Portals {
    pub(super) fn get(&self, name: &[u8]) -> Option<&Portal> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.by_name.get(name) }
    }

    /// # Errors
    /// 54000.
    pub(super) fn insert(&mut self, name: Bytes, portal: Portal, limits: &QueryConfig) -> Result<(), Failure> {
        self.remove(&name);
        let n_bytes = values_len(&portal);
        if name.is_empty() {
            self.n_bytes += n_bytes;
            self.unnamed = Some(portal);
            return Ok(());
        }
        let has_room = self.by_name.len() < limits.max_client_statements && fits(self.n_bytes + n_bytes, limits);
        if !has_room {
            return Err(limit_reached("portals", limits, "Close portals that are no longer used"));
        }
        self.n_bytes += n_bytes;
        self.by_name.insert(name, portal);
        Ok(())
    }

    pub(super) fn remove(&mut self, name: &[u8]) -> Option<Portal> {
        let removed = match name {
            [] => self.unnamed.take(),
            name => self.by_name.remove(name),
        };
        self.n_bytes -= removed.as_ref().map_or(0, values_len);
        removed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.unnamed.is_none() && self.by_name.is_empty() && self.shards.is_empty() && self.progress.is_empty()
    }

    pub(super) fn clear(&mut self) {
        (self.unnamed, self.n_bytes) = (None, 0);
        if !self.by_name.is_empty() || !self.progress.is_empty() || !self.shards.is_empty() {
            *self = Self::default();
        }
    }

    /// Remembers where a portal was made that any shard could take.
    pub(super) fn note_shard(&mut self, name: &Bytes, shard: ShardId) {
        self.shards.insert(name.clone(), shard);
    }

    pub(super) fn shard_of(&self, name: &[u8]) -> Option<ShardId> {
        self.shards.get(name).copied()
    }

    /// Whether a portal of the proxy's own has run, or has begun to.
    pub(super) fn has_progress(&self) -> bool {
        !self.progress.is_empty()
    }

    /// Whether such a portal has more to give, or keeps its name.
    pub(super) fn has_open_progress(&self) -> bool {
        self.has_progress() && !(self.progress.len() == 1 && matches!(self.progress.get(&b""[..]), Some(Progress::Done)))
    }

    /// Forgets how far a portal of the proxy's own has run.
    pub(super) fn take_progress(&mut self, name: &[u8]) -> Option<Progress> {
        if self.progress.is_empty() { None } else { self.progress.remove(name) }
    }

    /// A name for a portal on the shards, not used before in this transaction.
    pub(super) fn next_server_name(&mut self) -> String {
        self.n_opened += 1;
        format!("trunkline portal {}", self.n_opened)
    }

    /// Forgets portals that were bound after this many savepoints: they go with a ROLLBACK TO the one before.
    pub(super) fn roll_back_to(&mut self, n_savepoints: usize) {
        let is_undone = |portal: &Portal| portal.n_savepoints > n_savepoints;
        let named = self.by_name.iter().filter(|(_, portal)| is_undone(portal)).map(|(name, _)| name.clone());
        let unnamed = self.unnamed.iter().filter(|portal| is_undone(portal)).map(|_| Bytes::new());
        for name in named.chain(unnamed).collect::<Vec<_>>() {
            self.remove(&name);
            self.progress.remove(&name);
        }
    }

    /// Savepoints beyond this many are released: what was bound after them belongs to the level before.
    pub(super) fn release_to(&mut self, n_savepoints: usize) {
        for portal in self.by_name.values_mut().chain(&mut self.unnamed) {
            portal.n_savepoints = portal.n_savepoints.min(n_savepoints);
        }
    }
}

fn values_len(portal: &Portal) -> usize {
    match &portal.target {
        Target::Own { values, .. } => values.encoded.len(),
        Target::One { .. } => 0,
    }
}

fn fits(n_bytes: usize, limits: &QueryConfig) -> bool {
    n_bytes as u64 <= limits.max_client_statement_bytes
}

fn limit_reached(what: &str, limits: &QueryConfig, way_out: &str) -> Failure {
    let (n_most, n_bytes) = (limits.max_client_statements, limits.max_client_statement_bytes);
    let message = format!("a session may hold at most {n_most} {what}, of {n_bytes} bytes together");
    let hint = format!("{way_out}, or raise query.max_client_statements or query.max_client_statement_bytes.");
    Failure::client(Report::new(SqlState::PROGRAM_LIMIT_EXCEEDED, message).with_detail("Reason code TL099.").with_hint(hint))
}
