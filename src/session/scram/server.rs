//! The server's role: what a client sees follows src/backend/libpq/auth-scram.c, word for word.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{ClientKeys, Key, Verifier, hmac, is_equal_in_constant_time, sha256, xor};
use crate::sqlstate::{Report, SqlState};

/// Header of the only type of channel binding, before its data.
const BINDING_HEADER: &str = "p=tls-server-end-point,,";

/// The mechanism that a client has chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// SCRAM-SHA-256.
    Unbound,
    /// SCRAM-SHA-256-PLUS.
    Bound,
}

/// An exchange that waits for the client-final-message.
#[derive(Debug)]
pub struct Challenge {
    verifier: Verifier,
    nonce: Vec<u8>,
    /// What `c=` must say.
    binding: String,
    is_bound: bool,
    /// client-first-message-bare and server-first-message, each with a comma behind.
    said: Vec<u8>,
}

/// A proof that was right.
#[derive(Debug)]
pub struct Proven {
    /// The server's own proof, to be sent.
    pub server_final: Vec<u8>,
    /// With these the client can be stood for where its secret is the same.
    pub keys: ClientKeys,
}

/// Answers a client-first-message by a server-first-message.
///
/// `end_point` is the hash of the certificate that the client was shown; `None` on a connection without TLS. `nonce` must be
/// random, printable and without a comma.
///
/// # Errors
/// 08P01 for a message that is no SCRAM, 0A000 for an authorization identity or an extension, 28000 for a client that was
/// talked out of channel binding.
pub fn challenge(
    message: &[u8],
    mechanism: Mechanism,
    end_point: Option<&[u8]>,
    verifier: Verifier,
    nonce: &str,
) -> Result<(Vec<u8>, Challenge), Report> {
    judge_text(message)?;
    let mut reader = Reader(message);
    let binding = read_binding(&mut reader, mechanism, end_point)?;
    if reader.peek() == b'a' {
        return Err(unsupported("client uses authorization identity, but it is not supported"));
    }
    if reader.peek() != b',' {
        return Err(malformed(format!("Unexpected attribute \"{}\" in client-first-message.", shown(reader.peek()))));
    }
    reader.skip();
    let bare = reader.0;
    if reader.peek() == b'm' {
        return Err(unsupported("client requires an unsupported SCRAM extension"));
    }
    // The name is that of the startup message.
    reader.attribute(b'n')?;
    let client_nonce = reader.attribute(b'r')?;
    if !client_nonce.iter().all(u8::is_ascii_graphic) {
        return Err(violation("non-printable characters in SCRAM nonce"));
    }
    while !reader.0.is_empty() {
        reader.any_attribute()?;
    }
    let nonce = [client_nonce, nonce.as_bytes()].concat();
    let salting = &verifier.salting;
    let rest = format!(",s={},i={}", STANDARD.encode(&salting.salt), salting.iterations);
    let server_first = [b"r=", &nonce[..], rest.as_bytes()].concat();
    let said = [bare, b",", &server_first, b","].concat();
    Ok((server_first, Challenge { verifier, nonce, binding, is_bound: mechanism == Mechanism::Bound, said }))
}

/// Reads the GS2 header up to its second comma, and says what the client-final-message must repeat of it.
fn read_binding(reader: &mut Reader<'_>, mechanism: Mechanism, end_point: Option<&[u8]>) -> Result<String, Report> {
    let flag = reader.peek();
    match (flag, mechanism) {
        (b'n' | b'y', Mechanism::Bound) => {
            Err(malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data."))
        }
        // RFC 5802, section 6: somebody between the two has taken -PLUS out of what was offered.
        (b'y', Mechanism::Unbound) if end_point.is_some() => {
            Err(Report::new(SqlState::INVALID_AUTHORIZATION, "SCRAM channel binding negotiation error").with_detail(
                "The client supports SCRAM channel binding but thinks the server does not.  However, this server does support \
                 channel binding.",
            ))
        }
        (b'n' | b'y', Mechanism::Unbound) => {
            reader.skip();
            if reader.peek() != b',' {
                return Err(malformed(format!("Comma expected, but found character \"{}\".", shown(reader.peek()))));
            }
            reader.skip();
            Ok(STANDARD.encode([flag, b',', b',']))
        }
        (b'p', Mechanism::Unbound) => Err(malformed(
            "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.",
        )),
        (b'p', Mechanism::Bound) => {
            let kind = reader.attribute(b'p')?;
            if kind != b"tls-server-end-point" {
                let kind = String::from_utf8_lossy(kind);
                return Err(violation(format!("unsupported SCRAM channel-binding type \"{kind}\"")));
            }
            Ok(STANDARD.encode([BINDING_HEADER.as_bytes(), end_point.unwrap_or_default()].concat()))
        }
        (flag, _) => Err(malformed(format!("Unexpected channel-binding flag \"{}\".", shown(flag)))),
    }
}

impl Challenge {
    /// Checks a client-final-message; `None` for a proof that is not the verifier's.
    ///
    /// # Errors
    /// 08P01 for a message that is no SCRAM, 28000 for one that is bound to another server's certificate.
    pub fn verify(self, message: &[u8]) -> Result<Option<Proven>, Report> {
        judge_text(message)?;
        let mut reader = Reader(message);
        if reader.attribute(b'c')? != self.binding.as_bytes() {
            return Err(match self.is_bound {
                true => Report::new(SqlState::INVALID_AUTHORIZATION, "SCRAM channel binding check failed"),
                false => violation("unexpected SCRAM channel-binding attribute in client-final-message"),
            });
        }
        let nonce = reader.attribute(b'r')?;
        let (without_proof, proof) = loop {
            // Each attribute ends behind its comma; the last one of what is signed does so before it.
            let without_proof = &message[..message.len() - reader.0.len()];
            if let (b'p', proof) = reader.any_attribute()? {
                break (without_proof.strip_suffix(b",").unwrap_or(without_proof), proof);
            }
        };
        let proof: Option<Key> = STANDARD.decode(proof).ok().and_then(|bytes| bytes.try_into().ok());
        let proof = proof.ok_or_else(|| malformed("Malformed proof in client-final-message."))?;
        if !reader.0.is_empty() {
            return Err(malformed("Garbage found at the end of client-final-message."));
        }
        if nonce != self.nonce {
            return Err(violation("invalid SCRAM response").with_detail("Nonce does not match."));
        }
        Ok(self.prove(without_proof, &proof))
    }

    fn prove(self, without_proof: &[u8], proof: &Key) -> Option<Proven> {
        let Verifier { salting, stored_key, server_key } = self.verifier;
        let signed = [&self.said[..], without_proof].concat();
        let client_key = xor(proof, &hmac(&stored_key, &signed));
        if !is_equal_in_constant_time(&sha256(&client_key), &stored_key) {
            return None;
        }
        let signature = STANDARD.encode(hmac(&server_key, &signed));
        let server_final = [b"v=", signature.as_bytes()].concat();
        Some(Proven { server_final, keys: ClientKeys { salting, client_key, server_key } })
    }
}

/// A message's rest. Its end reads as a zero byte, which no message contains.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> u8 {
        self.0.first().copied().unwrap_or(0)
    }

    fn skip(&mut self) {
        self.0 = self.0.get(1..).unwrap_or_default();
    }

    /// `NAME=VALUE` up to the next comma, which is passed over: `read_attr_value`.
    fn attribute(&mut self, name: u8) -> Result<&'a [u8], Report> {
        if self.peek() != name {
            let found = shown(self.peek());
            return Err(malformed(format!("Expected attribute \"{}\" but found \"{found}\".", char::from(name))));
        }
        self.skip();
        if self.peek() != b'=' {
            return Err(malformed(format!("Expected character \"=\" for attribute \"{}\".", char::from(name))));
        }
        self.skip();
        let end = self.0.iter().position(|byte| *byte == b',').unwrap_or(self.0.len());
        let (value, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(value)
    }

    /// The same whatever the name is: `read_any_attr`.
    fn any_attribute(&mut self) -> Result<(u8, &'a [u8]), Report> {
        match self.peek() {
            0 => Err(malformed("Attribute expected, but found end of string.")),
            name if name.is_ascii_alphabetic() => Ok((name, self.attribute(name)?)),
            other => Err(malformed(format!("Attribute expected, but found invalid character \"{}\".", shown(other)))),
        }
    }
}

/// As `sanitize_char` prints it.
fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() { format!("'{}'", char::from(byte)) } else { format!("0x{byte:02x}") }
}

fn judge_text(message: &[u8]) -> Result<(), Report> {
    match message {
        [] => Err(malformed("The message is empty.")),
        _ if message.contains(&0) => Err(malformed("Message length does not match input length.")),
        _ => Ok(()),
    }
}

fn malformed(detail: impl Into<String>) -> Report {
    violation("malformed SCRAM message").with_detail(detail)
}

fn violation(message: impl Into<String>) -> Report {
    Report::new(SqlState::PROTOCOL_VIOLATION, message)
}

fn unsupported(message: &str) -> Report {
    Report::new(SqlState::FEATURE_NOT_SUPPORTED, message)
}
