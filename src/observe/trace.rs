//! Log lines on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Environment variable with a filter as of the crate tracing-subscriber (`info`, `trunkline::health=debug`).
const FILTER_VARIABLE: &str = "TRUNKLINE_LOG";

/// Broken control connections are reported by the prober, so the pool's own line on each is left out.
const QUIETER: &str = "deadpool.postgres=error";

/// Sends log lines to standard error, `level` (`info`, `warn`) and above unless `TRUNKLINE_LOG` says otherwise.
///
/// A filter that cannot be read counts as `level` and is named in a warning. A second call does nothing.
pub fn init_tracing(level: &str) {
    let default = format!("{level},{QUIETER}");
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_default();
    let (filter, fault) = match wanted.trim() {
        "" => (EnvFilter::new(default), None),
        text => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(fault) => (EnvFilter::new(default), Some(fault)),
        },
    };
    let is_first = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init()
        .is_ok();
    if is_first && let Some(fault) = fault {
        tracing::warn!(%fault, "{FILTER_VARIABLE} cannot be read; logging at level {level}");
    }
}
