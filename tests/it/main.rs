//! Integration tests: real Postgres servers, the real binary, real drivers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod admin;
mod auth;
mod calls;
mod config;
mod control;
mod conversations;
mod cursors;
mod demo;
mod deploy;
mod differential;
mod drivers;
mod faults;
mod functions;
mod gathered;
mod harness;
mod hostile;
mod leaks;
mod lifecycle;
mod meetings;
mod merged;
mod pinned;
mod pools;
mod portals;
mod postgres;
mod prepared;
mod protocol;
mod routing;
mod schemas;
mod soak;
mod tidy;
mod timeouts;
mod tls;
mod transactions;
mod types;
mod views;
