//! Integration tests: real Postgres servers, the real binary, real drivers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it expects by panicking")]

mod demo;
mod harness;
mod postgres;
mod tidy;
