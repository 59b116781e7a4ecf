//! How many clients there may be: in all, on their way in, of one user, of one database.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::ServerConfig;
use crate::observe::ClientEntry;
use crate::sqlstate::{Report, SqlState};

/// The places that are taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    n_clients: AtomicUsize,
    n_handshakes: AtomicUsize,
    /// Clients that have logged in.
    by_owner: Mutex<HashMap<Owner, usize>>,
}

/// A place among a counted few, given back when dropped.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a AtomicUsize);

/// The places of a client among those of its user and its database, given back when dropped.
#[derive(Debug)]
pub(super) struct OwnPlace<'a> {
    places: &'a Places,
    entry: Arc<ClientEntry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    User(Arc<str>),
    Database(Arc<str>),
}

impl Places {
    /// A place for one more client.
    ///
    /// # Errors
    /// 53300 when there are `server.max_clients`.
    pub(super) fn enter(&self, config: &ServerConfig) -> Result<Place<'_>, Report> {
        take(&self.n_clients, config.max_clients)
    }

    /// A place for one more login.
    ///
    /// # Errors
    /// 53300 when `server.max_handshakes` are under way.
    pub(super) fn begin_handshake(&self, config: &ServerConfig) -> Result<Place<'_>, Report> {
        take(&self.n_handshakes, config.max_handshakes)
    }

    /// The places of a client that has proved who it is.
    ///
    /// # Errors
    /// 53300, in the words of src/backend/utils/init/postinit.c and miscinit.c, when its user has
    /// `server.max_clients_per_user` or its database `server.max_clients_per_database`.
    pub(super) fn enter_as(&self, entry: &Arc<ClientEntry>, config: &ServerConfig) -> Result<OwnPlace<'_>, Report> {
        let owners = owners_of(entry);
        let limits = [config.max_clients_per_user, config.max_clients_per_database];
        let mut by_owner = self.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        for (owner, limit) in owners.iter().zip(limits) {
            if limit > 0 && by_owner.get(owner).is_some_and(|n| *n >= limit) {
                let whose = match owner {
                    Owner::User(name) => format!("role \"{name}\""),
                    Owner::Database(name) => format!("database \"{name}\""),
                };
                return Err(Report::new(SqlState::TOO_MANY_CONNECTIONS, format!("too many connections for {whose}")));
            }
        }
        for owner in owners {
            *by_owner.entry(owner).or_default() += 1;
        }
        Ok(OwnPlace { places: self, entry: Arc::clone(entry) })
    }
}

fn owners_of(entry: &ClientEntry) -> [Owner; 2] {
    [Owner::User(Arc::clone(&entry.user)), Owner::Database(Arc::clone(&entry.database))]
}

fn take(n_taken: &AtomicUsize, limit: usize) -> Result<Place<'_>, Report> {
    let place = Place(n_taken);
    let n_before = n_taken.fetch_add(1, Ordering::Relaxed);
    let refusal = || Report::new(SqlState::TOO_MANY_CONNECTIONS, "sorry, too many clients already");
    if n_before < limit { Ok(place) } else { Err(refusal()) }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for OwnPlace<'_> {
    fn drop(&mut self) {
        let mut by_owner = self.places.by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        for owner in owners_of(&self.entry) {
            let n_left = by_owner.get_mut(&owner).map_or(0, |n| {
                *n -= 1;
                *n
            });
            if n_left == 0 {
                by_owner.remove(&owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{ClientDescription, Registry};

    #[test]
    fn places_are_counted_by_owner_and_given_back() {
        let config = ServerConfig { max_clients_per_user: 2, max_clients_per_database: 3, ..ServerConfig::default() };
        let places = Places::default();
        let registry = Registry::default();
        let enter = |user: &str, database: &str| {
            let entry = registry.add_client(ClientDescription {
                database: database.into(),
                user: user.into(),
                address: None,
                application_name: String::new(),
                tls: String::new(),
            });
            places.enter_as(&entry, &config).map_err(|report| report.message)
        };
        let first = enter("a", "x").unwrap();
        let _second = enter("a", "x").unwrap();
        assert_eq!(enter("a", "y").unwrap_err(), "too many connections for role \"a\"");
        let _third = enter("b", "x").unwrap();
        assert_eq!(enter("b", "x").unwrap_err(), "too many connections for database \"x\"");
        drop(first);
        let _fourth = enter("b", "x").unwrap();
        drop((_second, _third, _fourth));
        assert!(places.by_owner.lock().unwrap().is_empty(), "nothing is left of who has gone");
    }

    #[test]
    fn a_full_house_has_places_again_once_one_leaves() {
        let config = ServerConfig { max_clients: 1, max_handshakes: 1, ..ServerConfig::default() };
        let places = Places::default();
        let inside = places.enter(&config).unwrap();
        let _arriving = places.begin_handshake(&config).unwrap();
        assert_eq!(places.enter(&config).unwrap_err().sqlstate, SqlState::TOO_MANY_CONNECTIONS);
        assert!(places.begin_handshake(&config).is_err());
        drop(inside);
        assert!(places.enter(&config).is_ok());
    }
}
