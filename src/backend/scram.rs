//! SCRAM-SHA-256 towards a server.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use pgwire::api::auth::sasl::scram::random_nonce;

use super::connect::{ConnectError, next_message, server_report};
use super::{Credentials, Secret, Socket, Stream};
use crate::session::scram::{ClientBinding, ClientExchange, ClientKeys, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, Salting};
use crate::session::wire::{self, BodyReader};
use crate::tls::end_point_hash;

/// Most iterations that a server may ask for: about a second of one core. Postgres's default is 4,096.
const MAX_ITERATIONS: u32 = 1_000_000;

/// Answers AuthenticationSASL, whose list of mechanisms is given, up to and with the server's own proof.
///
/// # Errors
/// `NoPassword` without a secret that fits, `OtherSecret` where learnt keys are of another salt than the server's, `Protocol`
/// for what is no SCRAM, more than a million iterations, and a server that does not know the secret.
///
/// Not cancel safe: the socket is to be closed.
pub(super) async fn scram(
    socket: &mut Socket,
    mut mechanisms: BodyReader<'_>,
    credentials: &Credentials,
) -> Result<(), ConnectError> {
    let offered: Vec<&[u8]> = std::iter::from_fn(|| mechanisms.c_string()).collect();
    let (mechanism, binding) = choose(&offered, end_point_of(&socket.stream))
        .ok_or(ConnectError::Protocol("the server offers no SASL mechanism that is supported"))?;
    if matches!(credentials.secret, Secret::None | Secret::Md5(_)) {
        return Err(ConnectError::NoPassword(credentials.user.clone()));
    }
    let exchange = ClientExchange::new(random_nonce(), binding);
    let first = exchange.first();
    wire::message(&mut socket.output, b'p', |b| {
        b.put_slice(mechanism.as_bytes());
        b.put_u8(0);
        b.put_i32(i32::try_from(first.len()).unwrap_or(0));
        b.put_slice(first.as_bytes());
    });
    socket.flush().await?;
    let asked = exchange.on_server_first(&payload(socket, 11).await?).map_err(ConnectError::Protocol)?;
    let keys = keys(credentials, &asked.salting).await?;
    let (last, server_proof) = asked.answer(&keys);
    wire::message(&mut socket.output, b'p', |b| b.put_slice(last.as_bytes()));
    socket.flush().await?;
    server_proof.check(&payload(socket, 12).await?).map_err(ConnectError::Protocol)
}

/// The channel binding of an encrypted connection.
fn end_point_of(stream: &Stream) -> Option<Vec<u8>> {
    match stream {
        Stream::Tls(stream) => stream.peer_certificate().and_then(|leaf| end_point_hash(&leaf)),
        Stream::Tcp(_) | Stream::Unix(_) => None,
    }
}

/// The mechanism to use of those that a server offers. Over TLS the exchange is bound to the server's certificate if it can be:
/// who stands between with a certificate of its own cannot pass it on. RFC 5802, section 6.
fn choose(offered: &[&[u8]], end_point: Option<Vec<u8>>) -> Option<(&'static str, ClientBinding)> {
    let is_offered = |name: &str| offered.contains(&name.as_bytes());
    match end_point {
        Some(hash) if is_offered(SCRAM_SHA_256_PLUS) => Some((SCRAM_SHA_256_PLUS, ClientBinding::EndPoint(hash))),
        Some(_) if is_offered(SCRAM_SHA_256) => Some((SCRAM_SHA_256, ClientBinding::NotOffered)),
        None if is_offered(SCRAM_SHA_256) => Some((SCRAM_SHA_256, ClientBinding::None)),
        Some(_) | None => None,
    }
}

async fn keys(credentials: &Credentials, salting: &Salting) -> Result<Arc<ClientKeys>, ConnectError> {
    match &credentials.secret {
        Secret::Password(_) if salting.iterations.get() > MAX_ITERATIONS => {
            Err(ConnectError::Protocol("the server asks for too many SCRAM iterations"))
        }
        Secret::Password(password) => password.keys(salting).await.ok_or(ConnectError::Protocol("the proxy is shutting down")),
        Secret::Scram(keys) if keys.salting == *salting => Ok(Arc::clone(keys)),
        Secret::Scram(_) => Err(ConnectError::OtherSecret(credentials.user.clone())),
        Secret::None | Secret::Md5(_) => Err(ConnectError::NoPassword(credentials.user.clone())),
    }
}

async fn payload(socket: &mut Socket, expected: i32) -> Result<Bytes, ConnectError> {
    let (tag, mut body) = next_message(socket).await?;
    match tag {
        b'E' => Err(ConnectError::Server(server_report(&body))),
        b'R' if BodyReader(&body).i32() == Some(expected) => {
            body.advance(4);
            Ok(body)
        }
        _ => Err(ConnectError::Protocol("unexpected message during SCRAM exchange")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Password;
    use super::super::connect::{Endpoint, open};
    use super::*;
    use crate::tls::Connector;
    use crate::topology::NodeAddress;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// What `open` says of a server that offers SCRAM and answers the first message, whose nonce it repeats, by `rest`.
    async fn met(secret: Secret, rest: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = NodeAddress { host: "127.0.0.1".to_owned(), port: listener.local_addr().expect("bound").port() };
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("a client");
            let mut buffer = vec![0; 1024];
            assert!(stream.read(&mut buffer).await.expect("a startup packet") > 0);
            stream.write_all(b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0").await.expect("sent");
            let n_read = stream.read(&mut buffer).await.expect("a first message");
            let text = String::from_utf8_lossy(&buffer[..n_read]).into_owned();
            let body = format!("r={}{rest}", text.split("r=").nth(1).unwrap_or_default());
            let length = u32::try_from(body.len() + 8).expect("short").to_be_bytes();
            stream.write_all(&[b"R", &length[..], &[0, 0, 0, 11], body.as_bytes()].concat()).await.expect("sent");
            stream.shutdown().await.expect("shut");
            // A client that has heard enough may reset the connection.
            drop(stream.read_to_end(&mut buffer).await);
        };
        let credentials = Credentials { user: "ann".to_owned(), secret };
        let endpoint = Endpoint { address, dbname: "db".to_owned(), tls: Connector::off() };
        let (outcome, ()) = tokio::join!(open(&endpoint, &credentials), server);
        outcome.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_hostile_server_gets_no_work_out_of_the_proxy() {
        let password = || Secret::Password(Password::new("pencil".to_owned()));
        let salt = "s=AAAAAAAAAAAAAAAAAAAAAA==";
        let many = met(password(), &format!("x,{salt},i=1000001")).await;
        assert_eq!(many, "the server asks for too many SCRAM iterations");
        assert_eq!(met(password(), &format!("x,{salt},i=4294967296")).await, "malformed SCRAM message: invalid iteration count");
        assert_eq!(met(password(), &format!(",{salt},i=1")).await, "invalid SCRAM nonce");
        let nonce = "x".repeat(60 * 1024);
        let closed = "server closed the connection unexpectedly";
        assert_eq!(met(password(), &format!("{nonce},{salt},i=1")).await, closed, "answered, however long");
        assert_eq!(met(password(), &format!("{nonce}{nonce},{salt},i=1")).await, "message too long during start-up");
    }

    #[test]
    fn the_exchange_is_bound_where_both_sides_can() {
        let (plain, plus) = (SCRAM_SHA_256.as_bytes(), SCRAM_SHA_256_PLUS.as_bytes());
        let hash = || Some(vec![1]);
        assert_eq!(choose(&[plus, plain], hash()), Some((SCRAM_SHA_256_PLUS, ClientBinding::EndPoint(vec![1]))));
        assert_eq!(choose(&[plain], hash()), Some((SCRAM_SHA_256, ClientBinding::NotOffered)));
        assert_eq!(choose(&[plus, plain], None), Some((SCRAM_SHA_256, ClientBinding::None)));
        assert_eq!((choose(&[plus], None), choose(&[], hash()), choose(&[b"OTHER"], None)), (None, None, None));
    }

    #[tokio::test]
    async fn learnt_keys_serve_one_salt_only() {
        let salting = Salting { salt: vec![0; 16], iterations: std::num::NonZeroU32::new(2).expect("not zero") };
        let keys = ClientKeys::of_salted(salting.clone(), &salting.stretch(b"pencil"));
        let learnt = || Secret::Scram(Arc::new(keys.clone()));
        let other = "the server's SCRAM secret of user \"ann\" is not the one by which the client logged in";
        assert_eq!(met(learnt(), "x,s=AAAAAAAAAAAAAAAAAAAAAA==,i=1").await, other);
        assert_eq!(met(learnt(), "x,s=AAAA,i=2").await, other);
        assert_eq!(met(learnt(), "x,s=AAAAAAAAAAAAAAAAAAAAAA==,i=2").await, "server closed the connection unexpectedly");
        let none = "the server asks for a password and none is configured for user \"ann\"";
        assert_eq!(met(Secret::None, "").await, none);
    }
}
