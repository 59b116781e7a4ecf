//! Towards clients: our certificate, and whose certificates are believed.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;

use super::{ALPN_PROTOCOL, Identity, TlsError, end_point_hash, provider, root_store, unusable};

/// What the handshakes of clients share. Two are equal when their certificates and keys are.
#[derive(Clone)]
pub struct Acceptor {
    pub config: Arc<ServerConfig>,
    /// The channel binding `tls-server-end-point` of the certificate; empty where RFC 5929 defines none.
    pub server_end_point: Vec<u8>,
    identity: Identity,
    client_roots: Vec<CertificateDer<'static>>,
}

impl Acceptor {
    /// With `client_roots`, clients are asked for a certificate; one that is given must come from these authorities, none may be
    /// given: whether that will do is seen once the user is known.
    ///
    /// A client may take up an earlier session by a ticket, which nobody but this acceptor can read.
    ///
    /// # Errors
    /// `Unusable` when rustls will not take a certificate or key.
    pub fn new(identity: Identity, client_roots: Vec<CertificateDer<'static>>) -> Result<Self, TlsError> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(unusable)?;
        let builder = if client_roots.is_empty() {
            builder.with_no_client_auth()
        } else {
            let roots = Arc::new(root_store(&client_roots)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).allow_unauthenticated().build();
            builder.with_client_cert_verifier(verifier.map_err(unusable)?)
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified()?)));
        config.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
        config.ticketer = rustls::crypto::ring::Ticketer::new().map_err(unusable)?;
        let server_end_point = end_point_hash(identity.leaf()).unwrap_or_default();
        Ok(Self { config: Arc::new(config), server_end_point, identity, client_roots })
    }
}

impl PartialEq for Acceptor {
    fn eq(&self, other: &Self) -> bool {
        self.identity == other.identity && self.client_roots == other.client_roots
    }
}

/// Without the key.
impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("identity", &self.identity).finish_non_exhaustive()
    }
}
