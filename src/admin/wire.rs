//! The console's side of the wire: whole messages in, pgwire's messages out.

use std::io::{self, ErrorKind};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use pgwire::messages::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// As in Postgres: src/include/libpq/pqcomm.h, `MAX_STARTUP_PACKET_LENGTH`.
const MAX_STARTUP_BYTES: usize = 10_000;
/// Console commands are short.
const MAX_MESSAGE_BYTES: usize = 65_535;
/// Answers are sent on when this much of them has gathered.
const FLUSH_BYTES: usize = 64 * 1024;
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) struct Wire {
    stream: TcpStream,
    input: BytesMut,
    output: BytesMut,
}

/// A whole message from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// Type byte and body.
    Message(u8, Bytes),
    /// The length is impossible or above the limit: nothing after it can be understood.
    Malformed(&'static str),
    Closed,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, input: BytesMut::new(), output: BytesMut::new() }
    }

    /// Reads a packet without a type byte: the type is 0. Not cancel safe only in that a half read packet stays here.
    pub(super) async fn read_startup(&mut self) -> io::Result<Incoming> {
        self.read_packet(0, 8, MAX_STARTUP_BYTES, "invalid length of startup packet").await
    }

    pub(super) async fn read_message(&mut self) -> io::Result<Incoming> {
        self.read_packet(1, 4, MAX_MESSAGE_BYTES, "invalid message length").await
    }

    /// Appends a message to the answer.
    pub(super) fn push(&mut self, message: &impl Message) -> io::Result<()> {
        message.encode(&mut self.output).map_err(io::Error::other)
    }

    /// Appends one raw byte: the answer to SSLRequest.
    pub(super) fn push_byte(&mut self, byte: u8) {
        self.output.extend_from_slice(&[byte]);
    }

    /// Sends the answer on once it is large.
    pub(super) async fn flush_if_large(&mut self) -> io::Result<()> {
        if self.output.len() < FLUSH_BYTES { Ok(()) } else { self.flush().await }
    }

    pub(super) async fn flush(&mut self) -> io::Result<()> {
        timeout(WRITE_TIMEOUT, self.stream.write_all_buf(&mut self.output)).await.map_err(io::Error::from)?
    }

    async fn read_packet(
        &mut self,
        n_type_bytes: usize,
        min_len: usize,
        max_len: usize,
        fault: &'static str,
    ) -> io::Result<Incoming> {
        if !self.fill(n_type_bytes + 4).await? {
            return Ok(Incoming::Closed);
        }
        let kind = if n_type_bytes == 0 { 0 } else { self.input[0] };
        let mut prefix = &self.input[n_type_bytes..];
        let len = prefix.get_u32() as usize;
        if len < min_len || len > max_len {
            return Ok(Incoming::Malformed(fault));
        }
        if !self.fill(n_type_bytes + len).await? {
            return Ok(Incoming::Closed);
        }
        let mut packet = self.input.split_to(n_type_bytes + len);
        packet.advance(n_type_bytes + 4);
        Ok(Incoming::Message(kind, packet.freeze()))
    }

    /// Reads until `n_bytes` are there; false when the client has gone before.
    async fn fill(&mut self, n_bytes: usize) -> io::Result<bool> {
        while self.input.len() < n_bytes {
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(fault) if fault.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(fault) => return Err(fault),
            }
        }
        Ok(true)
    }
}

/// Reads the fields of a message's body; `None` when it is too short.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// A text that ends with a zero byte.
    pub(super) fn text(&mut self) -> Option<&'a str> {
        let len = self.0.iter().position(|&byte| byte == 0)?;
        let (text, rest) = self.0.split_at(len);
        self.0 = rest.get(1..)?;
        std::str::from_utf8(text).ok()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    pub(super) fn int16(&mut self) -> Option<i16> {
        self.0.try_get_i16().ok()
    }

    pub(super) fn int32(&mut self) -> Option<i32> {
        self.0.try_get_i32().ok()
    }

    /// A count and as many int16.
    pub(super) fn int16s(&mut self) -> Option<Vec<i16>> {
        let n = self.int16()?;
        (0..n).map(|_| self.int16()).collect()
    }
}
