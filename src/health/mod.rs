//! Which nodes answer and which is primary.
//!
//! [`states`] is a pure state machine that takes `now`; [`Board`] publishes what it says as atomics, so that a
//! statement reads it without a lock; the prober feeds it.

mod board;
mod prober;
mod states;

pub use board::{Board, NodeStatus};
pub use prober::{first_round, spawn_probers};
pub use states::{NodeReport, NodeRole, NodeState, ProbeOutcome, Thresholds};
