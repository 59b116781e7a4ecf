//! One timer per client, armed once and moved rarely: a statement that ends in time costs no timer operation.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

use crate::backend::{Connection, ConnectionLost};
use crate::deadline::Deadline;
use crate::session::wire::Header;

/// The deadline of the running statement, with the sleep that watches it.
#[derive(Debug)]
pub(super) struct Timer {
    deadline: Deadline,
    /// Armed for some deadline, perhaps that of an earlier statement; moved on when it fires too early.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Utility statements have no deadline: an index takes as long as it takes.
    is_exempt: bool,
}

/// Why a wait for a server ended without a message.
#[derive(Debug)]
pub(super) enum WaitError {
    Lost(ConnectionLost),
    DeadlinePassed,
}

impl From<ConnectionLost> for WaitError {
    fn from(lost: ConnectionLost) -> Self {
        Self::Lost(lost)
    }
}

impl From<std::io::Error> for WaitError {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.into())
    }
}

impl Timer {
    pub(super) fn new() -> Self {
        Self { deadline: Deadline::NEVER, sleep: None, is_exempt: false }
    }

    /// Sets the deadline of the statement that begins.
    pub(super) fn set(&mut self, deadline: Deadline) {
        self.is_exempt = false;
        self.replace(deadline);
    }

    /// Lets the statement run without a deadline.
    pub(super) fn exempt(&mut self) {
        self.deadline = Deadline::NEVER;
        self.is_exempt = true;
    }

    /// Moves the deadline closer, unless the statement has none by its nature.
    pub(super) fn limit(&mut self, deadline: Deadline) {
        if !self.is_exempt {
            self.replace(self.deadline.min(deadline));
        }
    }

    fn replace(&mut self, deadline: Deadline) {
        self.deadline = deadline;
        let Some(at) = deadline.instant() else { return };
        // An earlier deadline than the armed one must move the sleep; a later one is found when it fires.
        if let Some(sleep) = self.sleep.as_mut().filter(|sleep| sleep.deadline().into_std() > at) {
            sleep.as_mut().reset(at.into());
        }
    }

    pub(super) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Ready once the deadline has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.deadline.instant() else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        while sleep.as_mut().poll(cx).is_ready() {
            if at <= Instant::now() {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at.into());
        }
        Poll::Pending
    }

    /// Reads into the connection's buffer, at most until the deadline.
    ///
    /// Cancel safe.
    pub(super) async fn fill(&mut self, connection: &mut Connection) -> Result<(), WaitError> {
        let n_read = poll_fn(|cx| match connection.socket.poll_fill(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map_err(WaitError::from)),
            Poll::Pending => self.poll(cx).map(|()| Err(WaitError::DeadlinePassed)),
        })
        .await?;
        if n_read == 0 {
            return Err(ConnectionLost("server closed the connection unexpectedly".to_owned()).into());
        }
        Ok(())
    }

    /// Writes the connection's output, at most until the deadline: a server that is stopped takes nothing.
    ///
    /// Not cancel safe: part of it may be written.
    pub(super) async fn send(&mut self, connection: &mut Connection) -> Result<(), WaitError> {
        poll_fn(|cx| match connection.socket.poll_flush(cx) {
            Poll::Ready(outcome) => Poll::Ready(outcome.map_err(WaitError::from)),
            Poll::Pending => self.poll(cx).map(|()| Err(WaitError::DeadlinePassed)),
        })
        .await
    }

    /// Reads into the connection's buffer while it writes what is left of its output: a server that waits until its answers
    /// are read takes no more of a long pipeline.
    ///
    /// Not cancel safe while there is output.
    pub(super) async fn exchange(&mut self, connection: &mut Connection) -> Result<(), WaitError> {
        if !connection.socket.output.is_empty() {
            let is_sent = poll_fn(|cx| {
                if let Poll::Ready(outcome) = connection.socket.poll_flush(cx) {
                    return Poll::Ready(outcome.map(|()| true).map_err(WaitError::from));
                }
                match connection.socket.poll_fill(cx) {
                    Poll::Ready(Ok(0)) => {
                        Poll::Ready(Err(ConnectionLost("server closed the connection unexpectedly".to_owned()).into()))
                    }
                    Poll::Ready(outcome) => Poll::Ready(outcome.map(|_| false).map_err(WaitError::from)),
                    Poll::Pending => self.poll(cx).map(|()| Err(WaitError::DeadlinePassed)),
                }
            })
            .await?;
            if !is_sent {
                return Ok(());
            }
        }
        self.fill(connection).await
    }

    /// Reads until a whole message stands at the start of the connection's buffer.
    ///
    /// Cancel safe.
    pub(super) async fn next_header(&mut self, connection: &mut Connection) -> Result<Header, WaitError> {
        loop {
            if let Some(header) = connection.buffered_header()? {
                return Ok(header);
            }
            self.fill(connection).await?;
        }
    }
}
