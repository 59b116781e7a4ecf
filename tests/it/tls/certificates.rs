//! Certificates made for one test.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::harness::{Scratch, installation};

/// An authority that signs certificates.
pub(crate) struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
}

/// What a certificate says.
#[derive(Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) common_name: &'a str,
    /// Host names and addresses; none leaves the extension out.
    pub(crate) hosts: &'a [&'a str],
    pub(crate) is_expired: bool,
}

/// Files of a certificate and its key.
#[derive(Clone)]
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl<'a> Claim<'a> {
    /// A client's certificate.
    pub(crate) fn user(common_name: &'a str) -> Self {
        Self { common_name, hosts: &[], is_expired: false }
    }

    /// A certificate of this machine's servers.
    pub(crate) fn host() -> Self {
        Self { common_name: "a server", hosts: &["127.0.0.1", "localhost"], is_expired: false }
    }
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// Writes the authority's certificate to `NAME.crt`.
    pub(crate) fn write(&self, scratch: &Scratch, name: &str) -> PathBuf {
        scratch.write(&format!("{name}.crt"), &self.certificate.pem())
    }

    /// Writes a certificate and its key to `NAME.crt` and `NAME.key`, to which only the servers' account and root have access.
    pub(crate) fn issue(&self, scratch: &Scratch, name: &str, claim: Claim<'_>) -> Files {
        let hosts: Vec<String> = claim.hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, claim.common_name);
        params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc.");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        if claim.is_expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        write_pair(scratch, name, &certificate.pem(), &key.serialize_pem())
    }
}

/// A certificate for this machine that has signed itself, as `openssl req -x509` makes it: an authority's and a server's at once.
pub(crate) fn self_signed(scratch: &Scratch, name: &str) -> Files {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    write_pair(scratch, name, &certificate.pem(), &key.serialize_pem())
}

fn write_pair(scratch: &Scratch, name: &str, certificate: &str, key: &str) -> Files {
    let cert = scratch.write(&format!("{name}.crt"), certificate);
    let key = scratch.write(&format!("{name}.key"), key);
    if let Some(account) = &installation().account {
        account.own(&key).unwrap();
    }
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    Files { cert, key }
}
