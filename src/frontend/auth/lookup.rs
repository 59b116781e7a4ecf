//! Users looked up in a database's own server: `[auth.query]`.
//!
//! Over connections of the query's own user, which never carry a client's statement. An answer is kept for a while; who asks
//! for the same user at the same time waits for one and the same question.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout_at;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::backend::control::{ControlError, ControlNode};
use crate::config::{AuthQueryConfig, Config, ControlConfig, UserConfig, UserSecret};
use crate::executor::Database;
use crate::frontend::gate::Databases;
use crate::observe::ProcessCounters;
use crate::sqlstate::{Report, SqlState};
use crate::topology::ShardId;

/// Time after a failed question during which no other is asked: clients that wait for it shall not wait in a row.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Longest name of a role: NAMEDATALEN.
const MAX_NAME_LEN: usize = 63;

/// Lookups of all databases, by the name that clients give. Empty without `[auth.query]`.
pub type Lookups = BTreeMap<String, Arc<UserLookup>>;

/// Users of one database, as its first shard knows them.
#[derive(Debug)]
pub struct UserLookup {
    config: AuthQueryConfig,
    database: Arc<Database>,
    /// The first shard's.
    nodes: Vec<ControlNode>,
    answers: Mutex<Answers>,
    failure: Mutex<Option<(Instant, Report)>>,
}

/// The last answer about one user. Locked while it is asked for anew.
type Slot = Arc<tokio::sync::Mutex<Option<Answer>>>;

#[derive(Debug)]
struct Answer {
    asked_at: Instant,
    user: Option<Arc<UserConfig>>,
}

/// Slots by user name, at most `max_len`. Those of users that are not found are among them: they too cost a question.
#[derive(Debug)]
struct Answers {
    max_len: usize,
    /// With the number of the slot's last use.
    slots: HashMap<String, (u64, Slot)>,
    n_uses: u64,
}

/// Makes the lookups of a configuration. Those that nothing has changed for are taken over, with their answers.
///
/// # Errors
/// `Mismatch` when the connection settings make no pool.
pub fn lookups(config: &Config, databases: &Databases, before: Option<&Lookups>) -> Result<Lookups, ControlError> {
    let Some(query) = &config.auth.query else { return Ok(Lookups::new()) };
    let lookup = |(name, database): (&String, &Arc<Database>)| {
        let known = before.and_then(|before| before.get(name));
        let lookup = match known.filter(|known| Arc::ptr_eq(&known.database, database) && known.config == *query) {
            Some(known) => Arc::clone(known),
            None => Arc::new(UserLookup::new(query, database)?),
        };
        Ok((name.clone(), lookup))
    };
    databases.iter().map(lookup).collect()
}

impl UserLookup {
    fn new(config: &AuthQueryConfig, database: &Arc<Database>) -> Result<Self, ControlError> {
        let topology = &database.config.topology;
        let shard = topology.shard(FIRST);
        let user = ControlConfig { user: config.user.clone(), password: config.password.clone() };
        let node = |address| ControlNode::new(address, &shard.dbname, &user, &database.config.tls, config.timeout);
        Ok(Self {
            nodes: shard.nodes.iter().map(node).collect::<Result<_, _>>()?,
            database: Arc::clone(database),
            answers: Mutex::new(Answers::new(config.cache_size)),
            failure: Mutex::default(),
            config: config.clone(),
        })
    }

    /// What the database's server knows of a user; `None` if it does not exist.
    ///
    /// # Errors
    /// 08006 if the server cannot be asked, F0000 if it does not answer the question; not while an answer is there that is no
    /// older than `stale_time`.
    ///
    /// Cancel safe: who waits for the same user asks anew.
    pub async fn find(&self, user: &str, counters: &ProcessCounters) -> Result<Option<Arc<UserConfig>>, Report> {
        if user.len() > MAX_NAME_LEN {
            return Ok(None);
        }
        let slot = self.answers.lock().unwrap_or_else(PoisonError::into_inner).slot(user);
        let mut answer = slot.lock().await;
        if let Some(known) = answer.as_ref().filter(|known| known.asked_at.elapsed() < self.config.cache_time) {
            return Ok(known.user.clone());
        }
        let asked_at = Instant::now();
        match self.ask(user, counters).await {
            Ok(found) => {
                // An unchanged user keeps what was derived from its password.
                let same = answer.take().and_then(|known| known.user).filter(|known| Some(&**known) == found.as_ref());
                let user = same.or_else(|| found.map(Arc::new));
                *answer = Some(Answer { asked_at, user: user.clone() });
                Ok(user)
            }
            Err(report) => match answer.as_ref().filter(|known| known.asked_at.elapsed() < self.config.stale_time) {
                Some(known) => Ok(known.user.clone()),
                None => Err(report),
            },
        }
    }

    async fn ask(&self, user: &str, counters: &ProcessCounters) -> Result<Option<UserConfig>, Report> {
        let failed = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, report)) = failed.filter(|(at, _)| at.elapsed() < RETRY_INTERVAL) {
            return Err(report);
        }
        counters.n_user_lookups.increment();
        let deadline = Instant::now() + self.config.timeout;
        let outcome = timeout_at(deadline.into(), self.query(user)).await;
        let fault = match outcome {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(fault)) => fault,
            Err(_) => ControlError::Timeout { node: self.config.user.clone(), after: self.config.timeout },
        };
        counters.n_user_lookup_failures.increment();
        let report = report_of(&fault, &self.database.name);
        if report.sqlstate == SqlState::CONFIG_FILE_ERROR {
            tracing::error!(database = self.database.name, user = self.config.user, error = %fault, "auth.query is refused");
        } else {
            tracing::warn!(database = self.database.name, error = %fault, "users cannot be looked up");
        }
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), report.clone()));
        Err(report)
    }

    async fn query(&self, user: &str) -> Result<Option<UserConfig>, ControlError> {
        let node_idx = self.database.board.reader_of(FIRST).unwrap_or(0);
        let node = self.nodes.get(node_idx).ok_or_else(|| ControlError::Mismatch("no such node".to_owned()))?;
        let client = node.client().await?;
        let rows = client.connection().query_typed(&self.config.sql, &[(&user, Type::TEXT)]).await;
        match &rows.map_err(|fault| client.error(&fault))?[..] {
            [] => Ok(None),
            [row] => Ok(Some(user_of(row)?)),
            _ => Err(ControlError::Mismatch("auth.query.sql gave more than one row for a user".to_owned())),
        }
    }
}

/// The shard that is asked: a role is the same on all of them.
const FIRST: ShardId = ShardId(0);

fn user_of(row: &Row) -> Result<UserConfig, ControlError> {
    let secret: Option<&str> = row.try_get(1).map_err(|_| {
        ControlError::Mismatch("auth.query.sql must give the user's name and its stored password, as text".to_owned())
    })?;
    Ok(UserConfig::new(secret.map_or(UserSecret::None, UserSecret::of_stored), None, None))
}

fn report_of(fault: &ControlError, database: &str) -> Report {
    let message = format!("cannot look up users of database \"{database}\"");
    let is_down = match fault {
        ControlError::Unreachable { .. } | ControlError::Timeout { .. } | ControlError::Busy { .. } => true,
        ControlError::Server { sqlstate, .. } => sqlstate.0.starts_with(b"57P") || sqlstate.0.starts_with(b"53"),
        ControlError::Mismatch(_) => false,
    };
    // What the server said may name the query's user: it stands in the log.
    Report::new(if is_down { SqlState::CONNECTION_FAILURE } else { SqlState::CONFIG_FILE_ERROR }, message)
}

impl Answers {
    fn new(max_len: usize) -> Self {
        Self { max_len, slots: HashMap::new(), n_uses: 0 }
    }

    fn slot(&mut self, user: &str) -> Slot {
        self.n_uses += 1;
        if let Some((used, slot)) = self.slots.get_mut(user) {
            *used = self.n_uses;
            return Arc::clone(slot);
        }
        if self.slots.len() >= self.max_len {
            self.make_room();
        }
        let slot = Slot::default();
        self.slots.insert(user.to_owned(), (self.n_uses, Arc::clone(&slot)));
        slot
    }

    /// Drops the half that was not used for longest.
    fn make_room(&mut self) {
        let mut uses: Vec<u64> = self.slots.values().map(|(used, _)| *used).collect();
        let (_, median, _) = uses.select_nth_unstable(self.max_len / 2);
        let median = *median;
        self.slots.retain(|_, (used, _)| *used > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_bounded_and_the_used_ones_stay() {
        let mut answers = Answers::new(100);
        let ann = answers.slot("ann");
        for number in 0..10_000 {
            answers.slot(&format!("guess {number}"));
            assert!(answers.slots.len() <= 100);
            assert!(Arc::ptr_eq(&answers.slot("ann"), &ann));
        }
        let mut one = Answers::new(1);
        one.slot("a");
        one.slot("b");
        assert_eq!(one.slots.len(), 1);
    }

    #[test]
    fn who_is_to_blame() {
        let told = |fault| report_of(&fault, "shop").to_string();
        let node = || "10.0.0.1:5432".to_owned();
        let server = |code: &[u8; 5]| ControlError::Server {
            node: node(),
            sqlstate: SqlState(*code),
            message: "permission denied".into(),
        };
        assert_eq!(told(server(b"42501")), "F0000: cannot look up users of database \"shop\"");
        assert_eq!(told(server(b"57P03")), "08006: cannot look up users of database \"shop\"");
        let gone = ControlError::Unreachable { node: node(), message: "refused".into() };
        assert_eq!(told(gone), "08006: cannot look up users of database \"shop\"");
    }
}
