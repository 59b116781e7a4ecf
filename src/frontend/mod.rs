//! The client's side: startup, authentication, the message loop.

mod auth;
mod client;
mod connection;
mod gate;
mod peer;
mod places;
mod startup;
mod tls;

pub use auth::{
    AuthInput, AuthStep, Authenticator, Expected, FailedLogins, Identity, Login, Lookups, UserLookup, derive_ahead, lookups,
};
pub use client::{Accepted, Counted, serve};
pub use gate::{Databases, Gate, Served};
pub use peer::{ClientCertificate, Peer, TlsPeer};
