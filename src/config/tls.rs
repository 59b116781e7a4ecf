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
    value.one_of(TlsMode::ALL, TlsMode::as_str, ("a mode of TLS", "modes"))
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use expect_test::{Expect, expect};
    use std::path::{Path, PathBuf};

    /// A directory with two certificates and their keys.
    fn directory(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("trunkline-tls-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        for name in ["a", "b"] {
            let made = rcgen::generate_simple_self_signed([format!("{name}.example")]).expect("a certificate");
            std::fs::write(dir.join(format!("{name}.crt")), made.cert.pem()).expect("written");
            std::fs::write(dir.join(format!("{name}.key")), made.signing_key.serialize_pem()).expect("written");
        }
        std::fs::write(dir.join("empty"), "").expect("written");
        dir
    }

    fn parsed(dir: &Path, text: &str) -> Result<Config, String> {
        let shard = "[[databases.one.shards]]\nname = \"a\"\nnodes = [{ host = \"h\" }]\n";
        let text = format!("{text}\n[auth]\nmethod = \"trust\"\n{shard}");
        Config::parse(&text, &dir.join("t.toml")).map_err(|faults| {
            let lines: Vec<_> =
                faults.iter().map(|fault| fault.to_string().replace(&format!("{}/", dir.display()), "")).collect();
            lines.join("\n") + "\n"
        })
    }

    #[track_caller]
    fn check(dir: &Path, text: &str, expected: &Expect) {
        expected.assert_eq(&parsed(dir, text).err().unwrap_or_default());
    }

    #[test]
    fn all_faults_with_their_lines() {
        let dir = directory("faults");
        let cases = [
            (
                "[tls]\nmode = \"full\"\ncert = \"none.crt\"\nkey = \"empty\"\nclient_ca = \"empty\"\nsurprise = 1",
                expect![[r#"
                    t.toml:2: tls.mode: "full" is not a mode of TLS; modes are off, prefer, require, verify-ca, verify-full
                    t.toml:3: tls.cert: cannot read none.crt: No such file or directory (os error 2)
                    t.toml:4: tls.key: empty holds no private key in PEM form that is not encrypted
                    t.toml:5: tls.client_ca: empty holds no certificate in PEM form
                    t.toml:6: unknown key "surprise" in tls; known are mode, cert, key, client_ca, server
                "#]],
            ),
            (
                "[tls]\ncert = \"a.crt\"\nkey = \"b.key\"",
                expect![[r#"
                    t.toml:3: tls.key: the key does not belong to the certificate in a.crt
                "#]],
            ),
            (
                "[tls]\nmode = \"verify-ca\"\nkey = \"b.key\"\n[tls.server]\nmode = \"verify-full\"\ncert = \"a.crt\"",
                expect![[r#"
                    t.toml:2: tls.mode: "verify-ca" needs tls.cert and tls.key
                    t.toml:2: tls.mode: "verify-ca" needs tls.client_ca, the authorities of the clients' certificates
                    t.toml:3: tls.key: needs its cert beside it
                    t.toml:5: tls.server.mode: "verify-full" needs ca, the authorities of the servers' certificates
                    t.toml:6: tls.server.cert: needs its key beside it
                "#]],
            ),
            (
                "[tls]\nclient_ca = \"a.crt\"\n[tls.server]\nca = \"a.crt\"\n[databases.one.tls]\nca = \"a.crt\"\nmode = \"off\"",
                expect![[r#"
                    t.toml:2: tls.client_ca: needs tls.cert and tls.key: no client is asked for a certificate without TLS
                    t.toml:4: tls.server.ca: is looked at by modes "verify-ca" and "verify-full" only, and the mode is "prefer"
                    t.toml:6: databases.one.tls.ca: is looked at by modes "verify-ca" and "verify-full" only, and the mode is "off"
                "#]],
            ),
        ];
        for (text, expected) in &cases {
            check(&dir, text, expected);
        }
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn modes_by_default_and_by_database() {
        let dir = directory("modes");
        let modes = |text: &str| {
            let config = parsed(&dir, text).expect("a sound file");
            [config.tls.clients.mode, config.tls.server.mode, config.databases["one"].tls.mode].map(super::TlsMode::as_str)
        };
        assert_eq!(modes(""), ["off", "prefer", "prefer"]);
        assert_eq!(modes("[tls]\ncert = \"a.crt\"\nkey = \"a.key\""), ["prefer", "prefer", "prefer"]);
        let verifying =
            "[tls]\nmode = \"off\"\ncert = \"a.crt\"\nkey = \"a.key\"\n[tls.server]\nmode = \"verify-ca\"\nca = \"b.crt\"";
        assert_eq!(modes(verifying), ["off", "verify-ca", "verify-ca"]);
        let own = "[databases.one.tls]\nmode = \"verify-full\"";
        assert_eq!(modes(&format!("{verifying}\n{own}")), ["off", "verify-ca", "verify-full"]);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn other_contents_of_a_file_are_a_change() {
        let dir = directory("changes");
        let text = "[tls]\nmode = \"verify-ca\"\ncert = \"a.crt\"\nkey = \"a.key\"\nclient_ca = \"b.crt\"";
        let old = parsed(&dir, text).expect("a sound file");
        assert!(old.changes_to(&parsed(&dir, text).expect("a sound file")).is_empty());
        std::fs::copy(dir.join("a.crt"), dir.join("b.crt")).expect("copied");
        let new = parsed(&dir, text).expect("a sound file");
        assert_eq!(old.changes_to(&new).live, ["tls"]);
        assert!(!format!("{old:?}").contains("PrivateKey"));
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
