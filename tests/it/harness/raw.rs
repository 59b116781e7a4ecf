//! The protocol byte by byte, for what no driver would send.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{DATABASE, PATIENCE};

/// One message from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// A field of an ErrorResponse or NoticeResponse: `C` SQLSTATE, `M` message.
    pub(crate) fn field(&self, code: u8) -> String {
        let fields = self.body.split(|byte| *byte == 0);
        let found = fields.into_iter().find(|field| field.first() == Some(&code));
        found.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).unwrap_or_default()
    }
}

/// A client's socket, or what it has made of it.
pub(crate) struct Raw<S = TcpStream> {
    pub(crate) stream: S,
}

impl Raw {
    /// Breaks the connection, as the kernel does for a process that dies with unread data.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).unwrap();
    }

    pub(crate) async fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        // What is sent in pieces is to arrive in pieces.
        stream.set_nodelay(true).unwrap();
        Self { stream }
    }

    /// Opened and logged in as `postgres`: ReadyForQuery has been read.
    pub(crate) async fn log_in(port: u16) -> Self {
        let mut raw = Self::open(port).await;
        raw.send(&startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE)])).await;
        raw.until(b'Z').await;
        raw
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Says that nothing more will be sent; answers are still read.
    pub(crate) async fn half_close(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Sends, and does not mind when the server has closed the socket already.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    /// Says that nothing more will be sent; what is to come can be read.
    pub(crate) async fn finish_sending(&mut self) {
        drop(self.stream.shutdown().await);
    }

    /// The next message; `None` at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        tokio::time::timeout(PATIENCE, self.read_message()).await.expect("no message came")
    }

    /// The next message if one comes in time: `Err` when none does, `None` at the end of the stream.
    pub(crate) async fn next_within(&mut self, patience: Duration) -> Result<Option<Message>, tokio::time::error::Elapsed> {
        tokio::time::timeout(patience, self.read_message()).await
    }

    /// The next message if one comes in time: `Ok(None)` at the end of the stream, `Err(())` if it ends within a message.
    pub(crate) async fn piece_within(
        &mut self,
        patience: Duration,
    ) -> Result<Result<Option<Message>, ()>, tokio::time::error::Elapsed> {
        let reading = async {
            let Ok(tag) = self.stream.read_u8().await else { return Ok(None) };
            let length = self.stream.read_i32().await.map_err(drop)?;
            let mut body = Vec::new();
            let n_expected = u64::try_from(length - 4).map_err(drop)?;
            let n_read = (&mut self.stream).take(n_expected).read_to_end(&mut body).await.map_err(drop)?;
            if n_read as u64 == n_expected { Ok(Some(Message { tag, body })) } else { Err(()) }
        };
        tokio::time::timeout(patience, reading).await
    }

    async fn read_message(&mut self) -> Option<Message> {
        let tag = self.stream.read_u8().await.ok()?;
        let length = self.stream.read_i32().await.ok()?;
        let mut body = vec![0; usize::try_from(length - 4).unwrap()];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Message { tag, body })
    }

    /// Messages up to and with the first of `tag`.
    pub(crate) async fn until(&mut self, tag: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.next().await.unwrap_or_else(|| panic!("closed after {messages:?}"));
            let is_last = message.tag == tag;
            messages.push(message);
            if is_last {
                return messages;
            }
        }
    }

    /// Tags of the messages up to and with ReadyForQuery, as one string, ParameterStatus and notices left out.
    pub(crate) async fn tags(&mut self) -> String {
        let messages = self.until(b'Z').await;
        messages.iter().map(|message| char::from(message.tag)).filter(|tag| !['S', 'N'].contains(tag)).collect()
    }

    pub(crate) async fn read_byte(&mut self) -> Option<u8> {
        self.byte_within(PATIENCE).await.expect("no byte came")
    }

    /// One byte if it comes in time: `Err` when none does, `None` at the end of the stream.
    pub(crate) async fn byte_within(&mut self, patience: Duration) -> Result<Option<u8>, tokio::time::error::Elapsed> {
        Ok(tokio::time::timeout(patience, self.stream.read_u8()).await?.ok())
    }

    /// Whether the server closes the socket within the tests' patience; messages before the end are read over.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(10), self.stream.read_to_end(&mut rest)).await;
        read.is_ok()
    }
}

/// A startup message.
pub(crate) fn startup(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    with_length(&body)
}

/// A message with its tag.
pub(crate) fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&with_length(body));
    bytes
}

/// Query, Parse, … bodies are made of strings with a zero byte behind.
pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

pub(crate) fn with_length(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(body);
    bytes
}
