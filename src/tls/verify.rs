//! Which servers are believed: the rules of libpq's `sslmode`.
//!
//! Manual: "SSL Support" of libpq, client verification of server certificates.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::{has_alternative_names, public_key, subject_names, validity};
use super::{TlsError, TlsMode, provider, root_store};

#[derive(Debug)]
pub(super) struct ServerVerifier {
    mode: TlsMode,
    roots: RootCertStore,
    /// The certificates of `roots` as they came.
    trusted: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    pub(super) fn new(mode: TlsMode, roots: &[CertificateDer<'static>]) -> Result<Self, TlsError> {
        let algorithms = provider().signature_verification_algorithms;
        Ok(Self { mode, roots: root_store(roots)?, trusted: roots.to_vec(), algorithms })
    }

    /// Whether the certificate leads to an authority that is believed.
    ///
    /// A server may show a certificate that it has signed itself and that is among the authorities: libpq believes it, while
    /// rustls takes no authority's own certificate for a server's.
    fn verify_chain(
        &self,
        leaf: &CertificateDer<'_>,
        parsed: &ParsedCertificate<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if !self.trusted.contains(leaf) {
            return verify_server_cert_signed_by_trust_anchor(parsed, &self.roots, intermediates, now, self.algorithms.all);
        }
        match validity(leaf) {
            Some((from, _)) if now.as_secs() < from => Err(CertificateError::NotValidYet.into()),
            Some((_, until)) if now.as_secs() > until => Err(CertificateError::Expired.into()),
            Some(_) => Ok(()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    /// A name among the certificate's alternative names; its CN where it has none, which rustls does not look at and libpq does.
    fn verify_name(&self, leaf: &CertificateDer<'_>, parsed: &ParsedCertificate<'_>, host: &ServerName<'_>) -> Result<(), Error> {
        verify_server_name(parsed, host).or_else(|error| {
            let has_name = !has_alternative_names(leaf)
                && subject_names(leaf).and_then(|names| names.common_name).is_some_and(|name| is_host(&name, &host.to_str()));
            if has_name { Ok(()) } else { Err(error) }
        })
    }
}

/// As libpq's `pq_verify_peer_name_matches_certificate_name`: equal but for case, or one leading label replaced by `*`.
fn is_host(name: &str, host: &str) -> bool {
    if name.eq_ignore_ascii_case(host) {
        return true;
    }
    let (Some(pattern), Some((label, domain))) = (name.strip_prefix("*."), host.split_once('.')) else { return false };
    !label.is_empty() && pattern.contains('.') && pattern.eq_ignore_ascii_case(domain)
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if !self.mode.is_verifying() {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        self.verify_chain(end_entity, &parsed, intermediates, now)?;
        if self.mode == TlsMode::VerifyFull {
            self.verify_name(end_entity, &parsed, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    /// In every mode: channel binding proves nothing unless the server holds the key of the certificate that it shows.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.mode.is_verifying() {
            return verify_tls13_signature(message, cert, dss, &self.algorithms);
        }
        // Looks at nothing but the key: rustls reads no certificates of version 1, which servers often have.
        let key = public_key(cert).ok_or(CertificateError::BadEncoding)?;
        verify_tls13_signature_with_raw_key(message, &SubjectPublicKeyInfoDer::from(key), dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
