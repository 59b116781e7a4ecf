//! RELOAD and SIGHUP: the file is read again; what changed is served to new clients, and nobody is dropped.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::database::{Builder, prepare};
use crate::admin::{AdminView, ReloadRequest};
use crate::config::{self, Config};
use crate::frontend::{Databases, Gate, Served};
use crate::health::first_round;

pub(super) struct Reloader {
    pub gate: Arc<Gate>,
    pub builder: Builder,
    pub view: watch::Sender<Arc<AdminView>>,
    pub source: PathBuf,
    pub requests: mpsc::Receiver<ReloadRequest>,
    pub stop: CancellationToken,
}

impl Reloader {
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        while let Some(Some(request)) = stop.run_until_cancelled(self.requests.recv()).await {
            let outcome = self.reload().await;
            // Who asked may have gone.
            drop(request.send(outcome));
        }
    }

    async fn reload(&mut self) -> Result<String, Vec<String>> {
        let read = config::load(&self.source).map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>())?;
        let served = self.gate.served();
        let changes = served.config.changes_to(&read);
        let config = Arc::new(read.under(&served.config));
        config.auth.inherit(&served.config.auth);
        let databases =
            self.databases(&served, &config).map_err(|(name, error)| vec![format!("database \"{name}\": {error}")])?;
        for database in databases.values() {
            first_round(&database.board, config.health.timeout).await;
            prepare(database, Duration::ZERO).await;
        }
        let next = Served::new(Arc::clone(&config), databases.clone(), Some(&served))
            .map_err(|error| vec![format!("auth.query: {error}")])?;
        for (name, database) in &databases {
            if let Some(predecessor) = served.databases.get(name).filter(|old| !Arc::ptr_eq(old, database)) {
                predecessor.retire(database);
            }
        }
        self.view.send_replace(Arc::new(super::admin_view(&config, &databases)));
        super::spawn_derivation(&self.builder.tasks, &self.stop, &config);
        self.gate.replace(next);
        let mut words = vec![if changes.live.is_empty() {
            "nothing changed".to_owned()
        } else {
            format!("changed: {}", changes.live.join(", "))
        }];
        if !changes.restart.is_empty() {
            words.push(format!("need a restart: {}", changes.restart.join(", ")));
        }
        Ok(words.join("; "))
    }

    /// Databases whose settings are as they were stay, with their connections; the others are made anew.
    fn databases(&self, served: &Served, config: &Config) -> Result<Databases, (String, super::DatabaseError)> {
        let is_shared_equal = served.config.health == config.health;
        let mut databases = Databases::new();
        for (name, database) in &config.databases {
            let kept = served.databases.get(name).filter(|kept| is_shared_equal && kept.config == *database);
            let database = match kept {
                Some(kept) => {
                    kept.self_check.enable_all();
                    Arc::clone(kept)
                }
                None => {
                    let predecessor = served.databases.get(name).map(|predecessor| &**predecessor);
                    Arc::new(self.builder.build(config, database, predecessor).map_err(|error| (name.clone(), error))?)
                }
            };
            databases.insert(name.clone(), database);
        }
        Ok(databases)
    }
}
