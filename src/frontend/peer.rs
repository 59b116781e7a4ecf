//! How a client is connected, as far as authentication looks at it.

use std::net::SocketAddr;

/// The other end of a client's socket.
#[derive(Debug, Clone)]
pub struct Peer {
    /// `None` for a client of the unix socket.
    pub address: Option<SocketAddr>,
    /// `None` while the connection is not encrypted.
    pub tls: Option<TlsPeer>,
}

/// What the TLS handshake told of a client, and what it told the client.
#[derive(Debug, Clone)]
pub struct TlsPeer {
    /// Hash of the certificate shown to the client: the channel binding `tls-server-end-point` of RFC 5929. Empty where
    /// that defines none (Ed25519): channel binding is then not offered.
    pub server_end_point: Vec<u8>,
    /// The certificate that the client has proved to hold, verified against `tls.client_ca`.
    pub certificate: Option<ClientCertificate>,
}

/// The names in a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// CN of the subject, which method `cert` compares with the user's name.
    pub common_name: Option<String>,
    /// The whole subject as RFC 2253 writes it.
    pub distinguished_name: String,
}

impl Peer {
    /// A client that came over a unix socket.
    pub fn unix() -> Self {
        Self { address: None, tls: None }
    }

    /// A client that came over TCP, not yet encrypted.
    pub fn tcp(address: SocketAddr) -> Self {
        Self { address: Some(address), tls: None }
    }

    /// Whether the connection does not leave the machine.
    pub fn is_local(&self) -> bool {
        self.address.is_none_or(|address| address.ip().is_loopback())
    }
}

/// As `SHOW CLIENTS` prints it: `unix`, or address and port.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.address {
            Some(address) => address.fmt(f),
            None => f.write_str("unix"),
        }
    }
}
