//! Why a server could not be found, made or started.

use std::io;
use std::path::{Path, PathBuf};

/// A failure to run Postgres. Each is a sentence for the person at the terminal.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    #[error("no Postgres of version 14 or later was found (by pg_config, PATH or /usr/lib/postgresql); `make deps` installs it")]
    NotInstalled,
    #[error("running as root, but Postgres refuses root and /etc/passwd has neither postgres nor nobody to run it as")]
    NoAccount,
    #[error("{} is closed to the user {user}, who runs the servers because Postgres refuses root", dir.display())]
    Unreachable { user: String, dir: PathBuf },
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{program} failed: {output}")]
    Program { program: String, output: String },
    #[error("the server on port {port} ended while starting; the end of {}:\n{tail}", log.display())]
    Ended { port: u16, log: PathBuf, tail: String },
    #[error("the server on port {port} was not ready within {seconds} s; the end of {}:\n{tail}", log.display())]
    NotReady { port: u16, seconds: u64, log: PathBuf, tail: String },
    #[error("process {pid}, an earlier server in {}, does not stop", dir.display())]
    Leftover { pid: i32, dir: PathBuf },
}

impl PostgresError {
    /// For `map_err`: what was tried on which path.
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
