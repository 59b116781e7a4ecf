//! Connections to servers.

pub mod catalog;
pub mod control;
pub mod watermarks;
