//! Running plans: leases, relays, fan-outs, transactions. The shell around the planner.
//!
//! A [`Conversation`] is one client's session with the backends that it holds. Everything here runs in the client's task;
//! there is no task, channel or lock per message.

mod batch;
mod batch_run;
mod cancel;
mod checkout;
mod combine;
mod command;
mod commit;
mod conversation;
mod copy_in;
mod copy_many;
mod copy_out;
mod cursor;
mod database;
mod describe;
mod engine;
mod enlist;
mod express;
mod failure;
mod fan_out;
mod fetch;
mod forward;
mod function_call;
mod gather;
mod grammar;
mod greeting;
mod holding;
mod meeting;
mod merge;
mod own;
mod own_settings;
mod pin;
mod portal;
mod relay;
mod rest;
mod rights;
mod self_check;
mod sequences;
mod settings;
mod simple;
mod statements;
mod stored;
mod templates;
mod temporary;
mod timer;
mod two_phase;
mod types;
mod write;

pub use batch::Batch;
pub use cancel::{CancelRegistry, CancelTarget};
pub use conversation::{Conversation, SessionUser};
pub use database::{Database, DatabaseParts, View, now_micros};
pub use failure::Failure;
pub use templates::{CachedTemplate, TemplateCache};
