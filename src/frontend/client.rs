//! A client from its first byte to its end: the way in, and then busy and silent by turns.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::time::timeout_at;

use super::connection::{Loop, Pause, Signal, shut_down};
use super::gate::Gate;
use super::peer::Peer;
use super::places::{OwnPlace, Place};
use super::startup::{Arrival, StartupEnd, authenticate, open_session, read_startup, register, say_end};
use crate::backend::{Socket, Stream};
use crate::config::{Config, ServerConfig};
use crate::executor::{Conversation, Failure, Folded};
use crate::observe::{ClientEntry, ErrorKind};
use crate::session::startup::Startup;
use crate::session::wire::{self, Severity};
use crate::sqlstate::Report;

/// Longest wait for a client to take the word that there is no place for it.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(1);

/// An accepted socket.
#[derive(Debug)]
pub struct Accepted {
    pub stream: Stream,
    pub peer: Peer,
    pub worker_idx: usize,
    pub counted: Counted,
}

/// One among the clients of a worker, until it is dropped.
#[derive(Debug)]
pub struct Counted(pub Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Serves one accepted socket until it is closed.
///
/// Most clients are silent at any moment, so this task is small: the way in, and a client that is busy, are boxed.
pub async fn serve(accepted: Box<Accepted>, gate: Arc<Gate>) {
    let gate = &*gate;
    let Some((session, config, _guest)) = Box::pin(let_in(accepted, gate)).await else { return };
    let mut session = Some(session);
    let draining = pin!(gate.draining.cancelled());
    let mut is_draining = Signal::new(&gate.draining, draining);
    while session.is_some() {
        let mut end = poll_fn(|cx| match (&mut session, is_draining.poll(cx)) {
            (Some(Session::Folded(_)), Poll::Ready(())) => Poll::Ready(Some(Box::new(shut_down()))),
            (Some(Session::Folded(folded)), Poll::Pending) => folded.poll(cx).map(|outcome| outcome.err().map(Box::new)),
            (Some(Session::Open(_)) | None, _) => Poll::Ready(None),
        })
        .await;
        Box::pin(turn(&mut session, &mut end, &mut is_draining, (gate, &config.server))).await;
    }
}

/// A session, ready for a statement or not.
enum Session {
    Open(Box<Conversation>),
    Folded(Folded),
}

/// What a client that has been let in takes up, given back when its task ends, however it ends.
struct Guest<'a> {
    _own_place: OwnPlace<'a>,
    _registered: Registered<'a>,
    _place: Place<'a>,
    _counted: Counted,
}

/// Takes the client out of the registry when its task ends.
struct Registered<'a> {
    gate: &'a Gate,
    entry: Arc<ClientEntry>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.gate.registry.remove_client(self.entry.id);
    }
}

/// Leads a client in: from its first byte to where it may send its first statement. `None`: it has been sent away, or has left.
async fn let_in(accepted: Box<Accepted>, gate: &Gate) -> Option<(Session, Arc<Config>, Guest<'_>)> {
    let Accepted { stream, peer, worker_idx, counted } = *accepted;
    gate.registry.process.n_accepted.increment();
    let config = Arc::clone(&gate.served().config);
    if let Err(error) = stream.tune(&config.server.tcp) {
        tracing::info!(%error, "a client left while it was let in");
        return None;
    }
    let mut socket = Socket::new(stream);
    let handshake = match gate.places.begin_handshake(&config.server) {
        Ok(handshake) => handshake,
        Err(report) => return turn_away(&mut socket, report, gate).await,
    };
    let mut arrival = Arrival { socket: Some(socket), peer };
    let deadline = Instant::now() + config.server.login_timeout;
    let outcome = timeout_at(deadline.into(), read_startup(&mut arrival, gate)).await.ok()?;
    let Arrival { socket: Some(mut socket), peer } = arrival else { return None };
    socket.limit_writes(config.server.client_write_timeout);
    let startup = match outcome {
        Ok(startup) => startup,
        Err(end) => return send_away(&mut socket, end).await,
    };
    let place = match gate.places.enter(&config.server) {
        Ok(place) => place,
        Err(report) => return turn_away(&mut socket, report, gate).await,
    };
    let entry = register(&startup, &socket, &peer, gate);
    let registered = Registered { gate, entry };
    // As Postgres after authentication_timeout: the socket is closed.
    let outcome = timeout_at(deadline.into(), log_in(socket, &startup, &peer, (&registered, &config.server))).await;
    drop(handshake);
    if !matches!(outcome, Ok(Ok(_))) {
        gate.registry.process.n_login_failures.increment();
    }
    let (mut conversation, own_place) = match outcome.ok()? {
        Ok(logged_in) => logged_in,
        Err((mut socket, end)) => return send_away(&mut socket, end).await,
    };
    conversation.worker_idx = worker_idx;
    conversation.set_half_closed_grace(config.server.half_closed_grace);
    let session = first_rest(conversation, gate).await?;
    Some((session, config, Guest { _own_place: own_place, _registered: registered, _place: place, _counted: counted }))
}

/// Authenticates a client and opens its session; the word that it is ready is in its output.
async fn log_in<'a>(
    mut socket: Socket,
    startup: &Startup,
    peer: &Peer,
    (registered, server): (&Registered<'a>, &ServerConfig),
) -> Result<(Conversation, OwnPlace<'a>), (Socket, StartupEnd)> {
    let Registered { gate, entry } = registered;
    let identity = match authenticate(&mut socket, startup, peer, gate).await {
        Ok(identity) => identity,
        Err(end) => return Err((socket, end)),
    };
    let own_place = match gate.places.enter_as(entry, server) {
        Ok(own_place) => own_place,
        Err(report) => {
            gate.registry.process.n_turned_away.increment();
            return Err((socket, report.into()));
        }
    };
    let conversation = open_session(socket, startup, identity, gate, Arc::clone(entry)).await?;
    Ok((conversation, own_place))
}

/// Tells the client that it is ready. It rests from its first moment on, unless it has not waited for that word.
async fn first_rest(mut conversation: Conversation, gate: &Gate) -> Option<Session> {
    if let Err(error) = conversation.client.flush().await {
        Box::pin(end_session(conversation, Err(error.into()), gate)).await;
        return None;
    }
    conversation.begin_rest();
    let is_silent = poll_fn(|cx| Poll::Ready(conversation.client.poll_fill(cx).is_pending())).await;
    Some(if is_silent && conversation.can_fold() {
        Session::Folded(conversation.fold())
    } else {
        Session::Open(Box::new(conversation))
    })
}

/// Says that there is no place. Whoever does not read it in time is not waited for.
async fn turn_away<T>(socket: &mut Socket, report: Report, gate: &Gate) -> Option<T> {
    gate.registry.process.n_turned_away.increment();
    drop(tokio::time::timeout(TURN_AWAY_TIMEOUT, say_end(socket, report.into())).await);
    None
}

async fn send_away<T>(socket: &mut Socket, end: StartupEnd) -> Option<T> {
    say_end(socket, end).await;
    None
}

/// Serves a client that is not silent, until it is again. `end` is what ends its session at once. No session is left when it ends.
///
/// What it takes it takes by reference: a parameter that is moved on has its room twice in the future.
async fn turn(
    session: &mut Option<Session>,
    end: &mut Option<Box<Failure>>,
    is_draining: &mut Signal<'_, '_>,
    (gate, server): (&Gate, &ServerConfig),
) {
    let mut conversation = match session.take() {
        Some(Session::Open(conversation)) => *conversation,
        Some(Session::Folded(folded)) => folded.unfold(server),
        None => return,
    };
    let outcome = match end.take() {
        None => {
            let max_message_len = conversation.database.query.max_message_bytes;
            Loop { conversation: &mut conversation, gate, max_message_len }.run(is_draining).await
        }
        Some(failure) => Err(*failure),
    };
    if matches!(outcome, Ok(Pause::Silent)) {
        *session = Some(Session::Folded(conversation.fold()));
    } else {
        Box::pin(end_session(conversation, outcome.map(drop), gate)).await;
    }
}

async fn end_session(mut conversation: Conversation, outcome: Result<(), Failure>, gate: &Gate) {
    gate.cancels.remove(conversation.process_id);
    if let Err(Failure::Client(error)) = &outcome {
        tracing::info!(client = conversation.entry.id, %error, "a client's connection broke");
    }
    let is_broken = matches!(&outcome, Err(Failure::Client(_)));
    if let Err(Failure::Fatal(report)) = outcome {
        conversation.database.counters.count_error(ErrorKind::Client);
        wire::report(&mut conversation.client.output, Severity::Fatal, &report);
    }
    // What the socket takes at once is sent at once; whoever does not read must not keep the servers' connections for it.
    let client = &mut conversation.client;
    let is_sent = poll_fn(|cx| Poll::Ready(client.poll_flush(cx).is_ready())).await || is_broken;
    conversation.close().await;
    if !is_sent {
        // The peer may be gone.
        drop(conversation.client.flush().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every client has one of these, mostly silent: what only a busy one needs is boxed.
    #[test]
    fn a_client_s_task_is_small() {
        fn size_of<A, B, F: Future>(_: fn(A, B) -> F) -> usize {
            std::mem::size_of::<F>()
        }
        let n_bytes = size_of(serve);
        // With what the runtime has around it that is 512, rounded up to 128.
        assert!(n_bytes <= 400, "{n_bytes} bytes");
    }
}
