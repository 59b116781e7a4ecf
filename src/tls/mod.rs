//! TLS by rustls: what handshakes need in both directions, made of certificates and keys. No sockets here.
//!
//! Clients are met by an [`Acceptor`], servers are asked for TLS by a [`Connector`].

mod accept;
mod certificate;
mod connect;
mod verify;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

pub use accept::Acceptor;
pub use certificate::{SubjectNames, end_point_hash, subject_names};
pub use connect::Connector;

/// The application protocol that Postgres registered for TLS (ALPN).
pub const ALPN_PROTOCOL: &[u8] = b"postgresql";

/// How much TLS is asked of the other side, in the words of libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsMode {
    Off,
    /// TLS where the other side wants it, else clear text.
    Prefer,
    Require,
    /// And the other side's certificate must come from a trusted authority.
    VerifyCa,
    /// And it must name the host (of a server) or the user (of a client).
    VerifyFull,
}

/// Why certificates or keys cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    #[error("holds no certificate in PEM form")]
    NoCertificate,
    #[error("holds no private key in PEM form that is not encrypted")]
    NoKey,
    #[error("is malformed: {0}")]
    Malformed(String),
    #[error("does not belong to the certificate")]
    KeyMismatch,
    #[error("cannot be used: {0}")]
    Unusable(String),
}

/// A certificate with those that lead to its authority, and its key.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<PrivateKeyDer<'static>>,
}

/// Without the key.
impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("n_certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

impl TlsMode {
    pub const ALL: [Self; 5] = [Self::Off, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// The word of the configuration file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// Whether the other side's certificate is held against an authority's.
    pub fn is_verifying(self) -> bool {
        self >= Self::VerifyCa
    }
}

impl Identity {
    /// A certificate with its key, from DER.
    ///
    /// # Errors
    /// `NoCertificate` for an empty chain, `Malformed` for what is no certificate; of the key: `KeyMismatch` when it is another
    /// certificate's, `Unusable` for one of a kind that is not supported.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, TlsError> {
        let identity = Self { chain, key: Arc::new(key) };
        let certified = identity.certified()?;
        let leaf = identity.chain.first().ok_or(TlsError::NoCertificate)?;
        let public_key = certificate::public_key(leaf).ok_or_else(|| TlsError::Malformed("not a certificate".to_owned()))?;
        match certified.key.public_key() {
            Some(own) if own.as_ref() != public_key => Err(TlsError::KeyMismatch),
            _ => Ok(identity),
        }
    }

    /// In the form that handshakes use. Version 1 certificates are let through: whoever is shown one may judge it.
    fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let key = provider().key_provider.load_private_key(self.key.clone_key());
        Ok(CertifiedKey::new(self.chain.clone(), key.map_err(unusable)?))
    }

    fn leaf(&self) -> &[u8] {
        self.chain.first().map_or(&[], |leaf| leaf.as_ref())
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// `NoCertificate`, or `Malformed` with what is wrong.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|error| TlsError::Malformed(error.to_string()))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    if certificates.iter().any(|der| subject_names(der).is_none()) {
        return Err(TlsError::Malformed("a certificate cannot be read".to_owned()));
    }
    Ok(certificates)
}

/// The private key of a PEM file: PKCS #8, PKCS #1 or SEC 1, not encrypted.
///
/// # Errors
/// `NoKey`, or `Malformed` with what is wrong.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::NoKey,
        error => TlsError::Malformed(error.to_string()),
    })
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn unusable(error: impl std::fmt::Display) -> TlsError {
    TlsError::Unusable(error.to_string())
}

fn root_store(roots: &[CertificateDer<'static>]) -> Result<rustls::RootCertStore, TlsError> {
    let mut store = rustls::RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(unusable)?;
    }
    Ok(store)
}
