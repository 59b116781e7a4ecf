//! Towards servers: how far they are believed, and our certificate where they ask for one.

use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, ServerName};
use rustls::sign::SingleCertAndKey;

use super::verify::ServerVerifier;
use super::{ALPN_PROTOCOL, Identity, TlsError, TlsMode, provider, unusable};

/// What the handshakes with the servers of a database share. Two are equal when mode, certificates and keys are.
#[derive(Clone)]
pub struct Connector {
    pub mode: TlsMode,
    /// `None` when the mode is off.
    pub config: Option<Arc<ClientConfig>>,
    roots: Vec<CertificateDer<'static>>,
    identity: Option<Identity>,
}

impl Connector {
    /// `roots` are the authorities that a verifying mode believes, `identity` is what a server that asks is shown.
    ///
    /// Sessions are not taken up again: connections to servers are few and live long, and each handshake shows the certificate
    /// that channel binding needs.
    ///
    /// # Errors
    /// `Unusable` when rustls will not take a certificate or key.
    pub fn new(mode: TlsMode, roots: Vec<CertificateDer<'static>>, identity: Option<Identity>) -> Result<Self, TlsError> {
        if mode == TlsMode::Off {
            return Ok(Self { mode, config: None, roots, identity });
        }
        let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let verifier = Arc::new(ServerVerifier::new(mode, &roots)?);
        let builder = builder.map_err(unusable)?.dangerous().with_custom_certificate_verifier(verifier);
        let mut config = match &identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified()?))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { mode, config: Some(Arc::new(config)), roots, identity })
    }

    /// Clear text.
    pub fn off() -> Self {
        Self { mode: TlsMode::Off, config: None, roots: Vec::new(), identity: None }
    }

    /// The same authorities and certificate under another mode, and with what is given in their place.
    ///
    /// # Errors
    /// As [`Connector::new`].
    pub fn with(
        &self,
        mode: TlsMode,
        roots: Option<Vec<CertificateDer<'static>>>,
        identity: Option<Identity>,
    ) -> Result<Self, TlsError> {
        let roots = roots.unwrap_or_else(|| self.roots.clone());
        Self::new(mode, roots, identity.or_else(|| self.identity.clone()))
    }

    /// Whether there are authorities to believe.
    pub fn has_roots(&self) -> bool {
        !self.roots.is_empty()
    }

    /// The name under which a server at `host` is greeted and, if it is verified, looked for in its certificate.
    ///
    /// # Errors
    /// What is wrong with the name, if it must be verified.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, String> {
        match ServerName::try_from(host.to_owned()) {
            Ok(name) => Ok(name),
            Err(error) if self.mode == TlsMode::VerifyFull => Err(format!("host name \"{host}\" cannot be verified: {error}")),
            // Not sent: an address goes into no greeting.
            Err(_) => Ok(ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))),
        }
    }
}

impl PartialEq for Connector {
    fn eq(&self, other: &Self) -> bool {
        self.mode == other.mode && self.roots == other.roots && self.identity == other.identity
    }
}

/// Without the key.
impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("mode", &self.mode).field("identity", &self.identity).finish_non_exhaustive()
    }
}
