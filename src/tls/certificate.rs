//! What is read from an X.509 certificate beside its key: names, and the hash that channel binding uses.

use ring::digest::{SHA256, SHA384, SHA512, digest};
use x509_cert::Certificate;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::der::asn1::{ContextSpecific, ObjectIdentifier};
use x509_cert::der::{Decode, Encode, Reader, SliceReader, TagNumber};
use x509_cert::spki::AlgorithmIdentifierOwned;

/// Attribute types with the short names that OpenSSL prints, and so Postgres compares.
const ATTRIBUTES: [(&str, &str); 14] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");

/// The names in a certificate's subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectNames {
    /// The first CN, unless it holds a zero byte: such a name is made to look like another.
    pub common_name: Option<String>,
    /// The whole subject as RFC 2253 writes it.
    pub distinguished_name: String,
}

/// The names in the subject of a DER certificate; `None` when it cannot be read.
pub fn subject_names(der: &[u8]) -> Option<SubjectNames> {
    let certificate = Certificate::from_der(der).ok()?;
    let subject = certificate.tbs_certificate.subject;
    let mut attributes = subject.0.iter().flat_map(|rdn| rdn.0.iter());
    let common_name = attributes.find(|attribute| attribute.oid == COMMON_NAME).and_then(text_of);
    // The last relative name comes first: RFC 2253, section 2.1. OpenSSL turns round the parts of one as well.
    let relative_names = subject.0.iter().rev().map(|rdn| {
        let mut attributes: Vec<_> = rdn.0.iter().map(attribute_text).collect();
        attributes.reverse();
        attributes.join("+")
    });
    Some(SubjectNames {
        common_name: common_name.filter(|name| !name.contains('\0')),
        distinguished_name: relative_names.collect::<Vec<_>>().join(","),
    })
}

/// Whether a certificate says for which hosts it is, so that its CN does not count.
pub(super) fn has_alternative_names(der: &[u8]) -> bool {
    Certificate::from_der(der).is_ok_and(|certificate| {
        let extensions = certificate.tbs_certificate.extensions.unwrap_or_default();
        extensions.iter().any(|extension| extension.extn_id == SUBJECT_ALT_NAME)
    })
}

/// A certificate's SubjectPublicKeyInfo in DER.
pub(super) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    Certificate::from_der(der).ok()?.tbs_certificate.subject_public_key_info.to_der().ok()
}

/// The first and the last second of a certificate's life, since 1970.
pub(super) fn validity(der: &[u8]) -> Option<(u64, u64)> {
    let validity = Certificate::from_der(der).ok()?.tbs_certificate.validity;
    Some((validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs()))
}

/// The channel binding `tls-server-end-point` of RFC 5929: the certificate's hash by the function that its signature uses, SHA-256
/// where that is MD5 or SHA-1. `None` where the signature names no function, as Ed25519's does
/// not, or SHA-224, which nobody uses.
pub fn end_point_hash(der: &[u8]) -> Option<Vec<u8>> {
    let algorithm = Certificate::from_der(der).ok()?.signature_algorithm;
    let hash = if algorithm.oid == RSA_PSS { pss_hash(&algorithm)? } else { algorithm.oid.to_string() };
    let function = match hash.as_str() {
        // MD5 and SHA-1 with RSA, SHA-1 with ECDSA and DSA, and the functions themselves as PSS names them.
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.10045.4.1" | "1.2.840.10040.4.3" | "1.3.14.3.2.26" => &SHA256,
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" | "2.16.840.1.101.3.4.2.1" => &SHA256,
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" | "2.16.840.1.101.3.4.2.2" => &SHA384,
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" | "2.16.840.1.101.3.4.2.3" => &SHA512,
        _ => return None,
    };
    Some(digest(function, der).as_ref().to_vec())
}

/// The hash function in the parameters of RSASSA-PSS: RFC 4055, section 3.1. SHA-1 where they leave it out.
fn pss_hash(algorithm: &AlgorithmIdentifierOwned) -> Option<String> {
    let parameters = algorithm.parameters.as_ref()?.to_der().ok()?;
    let mut reader = SliceReader::new(&parameters).ok()?;
    let hash = reader.sequence(|fields| {
        let hash = ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(fields, TagNumber::N0)?;
        fields.read_slice(fields.remaining_len())?;
        Ok(hash)
    });
    Some(hash.ok()?.map_or_else(|| "1.3.14.3.2.26".to_owned(), |hash| hash.value.oid.to_string()))
}

/// `TYPE=value`; a type without a short name as OpenSSL shows it, by its number and with the value in hexadecimal.
fn attribute_text(attribute: &AttributeTypeAndValue) -> String {
    let number = attribute.oid.to_string();
    let name = ATTRIBUTES.iter().find(|(oid, _)| *oid == number).map(|(_, name)| *name);
    match (name, text_of(attribute)) {
        (Some(name), Some(text)) => format!("{name}={}", escaped(&text)),
        _ => {
            let value = attribute.value.to_der().unwrap_or_default();
            let digits: String = value.iter().map(|byte| format!("{byte:02X}")).collect();
            format!("{number}=#{digits}")
        }
    }
}

/// A value of one of the string types as text.
fn text_of(attribute: &AttributeTypeAndValue) -> Option<String> {
    use x509_cert::der::{Tag, Tagged};
    let bytes = attribute.value.value();
    match attribute.value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString | Tag::VisibleString => {
            String::from_utf8(bytes.to_vec()).ok()
        }
        // T61 is in use as Latin-1.
        Tag::TeletexString => Some(bytes.iter().map(|&byte| char::from(byte)).collect()),
        Tag::BmpString => {
            let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16(&units).ok()
        }
        _ => None,
    }
}

/// Escaped as by `X509_NAME_print_ex` with XN_FLAG_RFC2253: separators by a backslash, what is not printable ASCII byte by byte.
fn escaped(text: &str) -> String {
    let last_idx = text.len().saturating_sub(1);
    let mut shown = String::with_capacity(text.len());
    for (idx, &byte) in text.as_bytes().iter().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => shown.extend(['\\', char::from(byte)]),
            b'#' | b' ' if idx == 0 => shown.extend(['\\', char::from(byte)]),
            b' ' if idx == last_idx => shown.push_str("\\ "),
            b' '..=b'~' => shown.push(char::from(byte)),
            _ => shown.push_str(&format!("\\{byte:02X}")),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::certificates;

    /// Made by OpenSSL 3.0, as the expected values were.
    fn sample(pem: &str) -> Vec<u8> {
        certificates(pem.as_bytes()).expect("a certificate").remove(0).to_vec()
    }

    #[test]
    fn names_as_openssl_shows_them() {
        let names = subject_names(&sample(include_str!("samples/names.pem"))).expect("names");
        assert_eq!(names.common_name.as_deref(), Some("Ann;<b>"));
        let expected = r#"CN=Ann\;\<b\>,GN=Ann+SN=Bee,UID=u1,1.2.3.4=#0C036F6464,emailAddress=a@b.example,OU=\#hash,OU=lead #1,O=Acme\, \"Inc.\" \+ S\C3\B6hne,C=DE"#;
        assert_eq!(names.distinguished_name, expected);
        assert_eq!(subject_names(b"no certificate"), None);
        assert_eq!(escaped(" a# "), "\\ a#\\ ");
    }

    #[test]
    fn the_end_point_is_hashed_as_the_signature() {
        let hash = |pem| {
            let hash = end_point_hash(&sample(pem))?;
            Some(hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
        };
        let sha384 = "a4aa6ae3f0ba7487dcf3530a4d665a92f2a56ca62565f67a30b018c58e6c1d0103091d836e7819ae0beeb41eccec57d8";
        assert_eq!(hash(include_str!("samples/names.pem")).as_deref(), Some(sha384));
        let sha512 = "96927efced507397f3cc5b26734e10f2b223f4ba775cdbd98db62605bb435e3eb3eb863d0d6bccdb4840d4395308d6a41fd497621cfef36144dbc1cfb20b941c";
        assert_eq!(hash(include_str!("samples/pss.pem")).as_deref(), Some(sha512));
        let sha256 = "e9b2421fba0d6d043acfe656562f28a6e38cab3e2079d70f7b99c50166a7b2a0";
        assert_eq!(hash(include_str!("samples/sha1.pem")).as_deref(), Some(sha256), "SHA-1 becomes SHA-256");
        assert_eq!(hash(include_str!("samples/ed25519.pem")), None);
    }
}
