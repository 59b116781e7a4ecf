//! Trunkline: a Postgres proxy that makes many Postgres servers look like one.
//!
//! # Architecture
//! Imports go one way only, and `tests/it/tidy.rs` enforces it:
//! `sqlstate, deadline, topology` ← `sql` ← `plan` ← `merge, session` ← (the pure core ends) ← `observe, tls, config` ← `backend, health`
//! ← `executor` ← `frontend` ← `admin` ← `server` ← `demo` ← `main`.
//!
//! What is absent: the core has no sockets, no clock, no randomness and no global; no module below `server` reads the
//! configuration file; nothing outside `observe` names a metric.

pub mod admin;
pub mod backend;
pub mod config;
pub mod deadline;
pub mod demo;
pub mod executor;
pub mod frontend;
pub mod health;
pub mod merge;
pub mod observe;
pub mod plan;
pub mod server;
pub mod session;
pub mod sql;
pub mod sqlstate;
pub mod tls;
pub mod topology;
