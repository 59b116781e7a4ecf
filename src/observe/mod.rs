//! What the process tells of itself: metrics, the registry of clients and servers, tracing.
//!
//! Nothing outside this module names a metric. A statement touches plain atomics only: no allocation, no lock and no
//! label lookup. They become text when somebody asks. The exporter crates keep each histogram sample until the next
//! scrape; here a histogram is a fixed row of buckets, so that nobody scraping costs nothing.

mod counters;
mod histogram;
mod metrics;
mod registry;
mod trace;

pub use counters::{CheckOutcome, Counter, DatabaseCounters, ErrorKind, ProcessCounters, Route, StatementTimer};
pub use histogram::Histogram;
pub use metrics::{DatabaseSample, NodeSample, PoolStatus, ProcessSample, Scrape, render};
pub use registry::{ClientDescription, ClientEntry, ClientState, Registry, ServerDescription, ServerEntry, ServerState};
pub use trace::init_tracing;
