//! Connections to servers: raw ones that carry clients' statements, pooled per node and user, and the control plane's.

mod cancel;
pub mod catalog;
mod connect;
mod connection;
pub mod control;
mod credentials;
mod encrypted;
mod pins;
mod pool;
mod scram;
mod secure;
mod socket;
mod stretch;
pub mod watermarks;

pub use cancel::{AnnouncedCancel, CancelHandle};
pub use connect::{ConnectError, parameter_status, server_report};
pub use connection::{Connection, ConnectionLost, Preparation};
pub use credentials::{Credentials, Password, Secret};
pub use encrypted::Encrypted;
pub use pins::PinPermit;
pub use pool::{Alarm, CheckoutError, Lease, PoolFigures, Pools, Rank, Spares, UserPools, Wish};
pub use socket::{OUTPUT_HIGH_WATER, PeerState, Socket, Stream};
pub use stretch::stretch;
