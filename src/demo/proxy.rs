//! The proxy inside the demo's process.

use std::path::Path;

use super::DemoError;
use crate::config;
use crate::server;

/// The running proxy; its clients are served by threads of its own.
pub(super) struct Proxy(server::Running);

impl Proxy {
    /// Starts the proxy with the configuration in `config_file`.
    pub(super) async fn start(config_file: &Path) -> Result<Self, DemoError> {
        let config = config::load(config_file).map_err(|faults| DemoError::faults(&faults))?;
        let running = server::start(config, config_file.to_owned()).await;
        running.map(Self).map_err(|error| DemoError::Proxy(error.to_string()))
    }

    /// Ends the proxy; clients may finish what they have begun.
    pub(super) async fn stop(self) {
        self.0.shutdown().await;
    }
}
