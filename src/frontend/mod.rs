//! TODO

mod auth;

pub use auth::{AuthStep, Authenticator, Identity};
