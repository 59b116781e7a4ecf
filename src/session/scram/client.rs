//! The client's role, towards servers.

use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{ClientKeys, Salting, hmac, is_equal_in_constant_time, sha256, xor};

/// Whether the exchange is tied to the TLS connection that it runs over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientBinding {
    /// Not over TLS, or not wanted.
    None,
    /// Over TLS, but the server does not offer it. A server that did will see that its offer was taken out.
    NotOffered,
    /// Hash of the server's certificate, for SCRAM-SHA-256-PLUS.
    EndPoint(Vec<u8>),
}

/// An exchange from the client-first-message on.
#[derive(Debug)]
pub struct ClientExchange {
    nonce: String,
    binding: ClientBinding,
}

/// What the server-first-message asks for.
#[derive(Debug)]
pub struct ServerChallenge {
    /// How the password is to be stretched.
    pub salting: Salting,
    without_proof: String,
    signed: String,
}

/// What the server must answer to prove that it knows the client's secret.
#[derive(Debug)]
pub struct ServerProof(super::Key);

impl ClientExchange {
    /// `nonce` must be random, printable and without a comma.
    pub fn new(nonce: String, binding: ClientBinding) -> Self {
        Self { nonce, binding }
    }

    /// The client-first-message. The user's name is that of the startup message.
    pub fn first(&self) -> String {
        format!("{}{}", self.header(), self.bare())
    }

    fn header(&self) -> &'static str {
        match self.binding {
            ClientBinding::None => "n,,",
            ClientBinding::NotOffered => "y,,",
            ClientBinding::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Reads the server-first-message.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn on_server_first(&self, message: &[u8]) -> Result<ServerChallenge, &'static str> {
        let text = std::str::from_utf8(message).map_err(|_| "malformed SCRAM message")?;
        let mut attributes = text.split(',');
        let mut attribute = |prefix| attributes.next().and_then(|text| text.strip_prefix(prefix));
        let nonce = attribute("r=").ok_or("malformed SCRAM message: no nonce")?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err("invalid SCRAM nonce");
        }
        let salt = attribute("s=").and_then(|text| STANDARD.decode(text).ok()).filter(|salt| !salt.is_empty());
        let salt = salt.ok_or("malformed SCRAM message: invalid salt")?;
        let iterations = attribute("i=").and_then(|text| text.parse::<NonZeroU32>().ok());
        let iterations = iterations.ok_or("malformed SCRAM message: invalid iteration count")?;
        let end_point: &[u8] = if let ClientBinding::EndPoint(hash) = &self.binding { hash } else { &[] };
        let binding = STANDARD.encode([self.header().as_bytes(), end_point].concat());
        let without_proof = format!("c={binding},r={nonce}");
        let signed = format!("{},{text},{without_proof}", self.bare());
        Ok(ServerChallenge { salting: Salting { salt, iterations }, without_proof, signed })
    }
}

impl ServerChallenge {
    /// The client-final-message, and what to expect for it. `keys` must be of this challenge's salting.
    pub fn answer(self, keys: &ClientKeys) -> (String, ServerProof) {
        let signature = hmac(&sha256(&keys.client_key), self.signed.as_bytes());
        let proof = STANDARD.encode(xor(&keys.client_key, &signature));
        let server_proof = ServerProof(hmac(&keys.server_key, self.signed.as_bytes()));
        (format!("{},p={proof}", self.without_proof), server_proof)
    }
}

impl ServerProof {
    /// Checks the server-final-message.
    ///
    /// # Errors
    /// What is wrong with it, in words: also that the server does not know the secret.
    pub fn check(&self, message: &[u8]) -> Result<(), &'static str> {
        let signature = message.strip_prefix(b"v=").ok_or("malformed SCRAM message: no server signature")?;
        let signature = STANDARD.decode(signature).map_err(|_| "malformed SCRAM message: invalid server signature")?;
        if is_equal_in_constant_time(&signature, &self.0) { Ok(()) } else { Err("incorrect server signature") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mechanism, Verifier, challenge};
    use super::*;

    #[test]
    fn the_two_roles_understand_each_other() {
        let salting = Salting { salt: vec![5; 16], iterations: NonZeroU32::new(10).expect("not zero") };
        let keys = ClientKeys::of_salted(salting.clone(), &salting.stretch(b"pencil"));
        let end_point = vec![1, 2, 3];
        let cases = [
            (ClientBinding::None, Mechanism::Unbound, None),
            (ClientBinding::NotOffered, Mechanism::Unbound, None),
            (ClientBinding::None, Mechanism::Unbound, Some(end_point.clone())),
            (ClientBinding::EndPoint(end_point.clone()), Mechanism::Bound, Some(end_point.clone())),
        ];
        for (binding, mechanism, shown) in cases {
            let client = ClientExchange::new("abc".to_owned(), binding);
            let (server_first, waiting) =
                challenge(client.first().as_bytes(), mechanism, shown.as_deref(), keys.verifier(), "def").expect("a challenge");
            let asked = client.on_server_first(&server_first).expect("a challenge");
            assert_eq!(asked.salting, salting);
            let (client_final, server_proof) = asked.answer(&keys);
            let proven = waiting.verify(client_final.as_bytes()).expect("well formed").expect("proven");
            assert!(proven.keys == keys, "the client's keys are learnt from its proof");
            server_proof.check(&proven.server_final).expect("the server proves itself");
            assert!(server_proof.check(b"v=AAAA").is_err() && server_proof.check(b"e=no").is_err());
        }
    }

    #[test]
    fn another_servers_certificate_is_noticed() {
        let secret = postgres_protocol::password::scram_sha_256(b"pencil");
        let verifier = Verifier::parse(&secret).expect("a secret");
        let client = ClientExchange::new("abc".to_owned(), ClientBinding::EndPoint(vec![1]));
        let (server_first, waiting) =
            challenge(client.first().as_bytes(), Mechanism::Bound, Some(&[2]), verifier, "def").expect("a challenge");
        let asked = client.on_server_first(&server_first).expect("a challenge");
        let keys = ClientKeys::of_salted(asked.salting.clone(), &asked.salting.stretch(b"pencil"));
        let report = waiting.verify(asked.answer(&keys).0.as_bytes()).expect_err("bound to another certificate");
        assert_eq!(report.to_string(), "28000: SCRAM channel binding check failed");
    }

    #[test]
    fn what_a_hostile_server_may_send_is_refused() {
        let client = ClientExchange::new("abc".to_owned(), ClientBinding::None);
        for message in [
            "",
            "r=",
            "r=abc",
            "r=abc,s=AAAA,i=1",
            "r=xyz1,s=AAAA,i=1",
            "r=abc1,s=,i=1",
            "r=abc1,s=!,i=1",
            "r=abc1,s=AAAA,i=0",
            "r=abc1,s=AAAA,i=-1",
            "r=abc1,s=AAAA,i=99999999999",
            "r=abc1,s=AAAA",
            "m=x,r=abc1,s=AAAA,i=1",
            "e=other-error",
        ] {
            assert!(client.on_server_first(message.as_bytes()).is_err(), "{message}");
        }
        assert!(client.on_server_first(b"r=abc\xff,s=AAAA,i=1").is_err());
        let long = format!("r=abc{},s=AAAA,i=4096", "x".repeat(60_000));
        assert!(client.on_server_first(long.as_bytes()).is_ok(), "long, but right");
    }
}
