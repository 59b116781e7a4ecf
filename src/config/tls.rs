//! `[tls]`: certificates and modes towards clients, `[tls.server]` and `[databases.NAME.tls]`: towards servers.

use std::path::Path;

use super::raw::{Section, Value};
use super::{ClientTls, TlsConfig};
use crate::tls::{Acceptor, Connector, Identity, TlsMode, certificates, private_key};

/// Reads `[tls]`; relative paths start from `dir`.
pub(super) fn read_tls(mut section: Section<'_>, dir: &Path) -> TlsConfig {
    let mode = section.take("mode");
    let (identity, has_identity) = read_identity(&mut section, dir);
    let client_ca = section.take("client_ca");
    let roots = client_ca.as_ref().and_then(|value| read_certificates(value, dir));
    let default = if has_identity { TlsMode::Prefer } else { TlsMode::Off };
    let chosen = mode.as_ref().and_then(read_mode).unwrap_or(default);
    if let Some(value) = &mode {
        if chosen != TlsMode::Off && !has_identity {
            value.fault(format!("\"{}\" needs tls.cert and tls.key", chosen.as_str()));
        }
        if chosen.is_verifying() && client_ca.is_none() {
            value.fault(format!("\"{}\" needs tls.client_ca, the authorities of the clients' certificates", chosen.as_str()));
        }
    }
    if let Some(value) = client_ca.as_ref().filter(|_| !has_identity) {
        value.fault("needs tls.cert and tls.key: no client is asked for a certificate without TLS");
    }
    let acceptor = identity.and_then(|identity| match Acceptor::new(identity, roots.unwrap_or_default()) {
        Ok(acceptor) => Some(acceptor),
        Err(error) => {
            section.source().fault_of_key(&["tls.cert"], format!("tls: {error}"));
            None
        }
    });
    let clients = ClientTls { mode: chosen, acceptor: acceptor.filter(|_| chosen != TlsMode::Off) };
    // What a server may be asked without knowing anything of it.
    let default = Connector::new(TlsMode::Prefer, Vec::new(), None).unwrap_or_else(|_| Connector::off());
    let server = read_server_tls(section.section("server"), &default, dir);
    section.finish();
    TlsConfig { clients, server }
}

/// Reads `[tls.server]`, or one database's own over `default`.
pub(super) fn read_server_tls(mut section: Section<'_>, default: &Connector, dir: &Path) -> Connector {
    let mode = section.take("mode");
    let chosen = mode.as_ref().and_then(read_mode).unwrap_or(default.mode);
    let ca = section.take("ca");
    let roots = ca.as_ref().and_then(|value| read_certificates(value, dir));
    if chosen.is_verifying() && ca.is_none() && !default.has_roots() {
        let message = format!("\"{}\" needs ca, the authorities of the servers' certificates", chosen.as_str());
        mode.iter().for_each(|value| value.fault(&message));
    }
    if let Some(value) = ca.as_ref().filter(|_| !chosen.is_verifying()) {
        value.fault(format!(
            "is looked at by modes \"verify-ca\" and \"verify-full\" only, and the mode is \"{}\"",
            chosen.as_str()
        ));
    }
    let (identity, _) = read_identity(&mut section, dir);
    let connector = default.with(chosen, roots, identity).unwrap_or_else(|error| {
        let keys = ["ca", "cert"].map(|key| format!("{}.{key}", section.shown_path()));
        section.source().fault_of_key(&keys.each_ref().map(String::as_str), format!("{}: {error}", section.shown_path()));
        Connector::off()
    });
    section.finish();
    connector
}

/// `cert` and `key`, and whether both were given; `None` when they cannot be used.
fn read_identity(section: &mut Section<'_>, dir: &Path) -> (Option<Identity>, bool) {
    let (cert, key) = (section.take("cert"), section.take("key"));
    match (&cert, &key) {
        (Some(cert), None) => cert.fault("needs its key beside it"),
        (None, Some(key)) => key.fault("needs its cert beside it"),
        _ => {}
    }
    let chain = cert.as_ref().and_then(|value| read_certificates(value, dir));
    let secret = key.as_ref().and_then(|value| {
        let (path, pem) = read_file(value, dir)?;
        value.understood(private_key(&pem).map_err(|error| format!("{path} {error}")))
    });
    let (Some(cert), Some(key)) = (cert, key) else { return (None, false) };
    let identity = chain.zip(secret).and_then(|(chain, secret)| {
        let judged = Identity::new(chain, secret).map_err(|error| match error {
            crate::tls::TlsError::KeyMismatch => format!("the key {error} in {}", cert.string().unwrap_or_default()),
            error => format!("the key or its certificate {error}"),
        });
        key.understood(judged)
    });
    (identity, true)
}

fn read_certificates(value: &Value<'_>, dir: &Path) -> Option<Vec<rustls::pki_types::CertificateDer<'static>>> {
    let (path, pem) = read_file(value, dir)?;
    value.understood(certificates(&pem).map_err(|error| format!("{path} {error}")))
}

fn read_file(value: &Value<'_>, dir: &Path) -> Option<(String, Vec<u8>)> {
    let path = dir.join(value.string()?);
    let bytes = std::fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()));
    Some((path.display().to_string(), value.understood(bytes)?))
}

fn read_mode(value: &Value<'_>) -> Option<TlsMode> {
    let word = value.string()?;
    let mode = TlsMode::ALL.into_iter().find(|mode| mode.as_str() == word);
    if mode.is_none() {
        value.fault(format!("\"{word}\" is not a mode of TLS; modes are {}", TlsMode::ALL.map(TlsMode::as_str).join(", ")));
    }
    mode
}
