//! A server that does harm: between the proxy and a real Postgres, it changes what the server says.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{DATABASE, startup};

/// What is done, once, to the messages of a server. Messages are counted from 0, over all connections since it was set.
#[derive(Debug, Clone)]
pub(crate) enum Mischief {
    Nothing,
    /// Every byte arrives alone.
    Split,
    /// The connection is closed before this message.
    CutBefore(usize),
    /// … in the middle of it.
    CutWithin(usize),
    /// These bytes come before this message.
    Insert(usize, Vec<u8>),
    /// These bytes come instead of the first message of this tag.
    Replace(u8, Vec<u8>),
    /// … behind it.
    After(u8, Vec<u8>),
}

#[derive(Debug)]
struct State {
    mischief: Mischief,
    n_messages: usize,
    n_startups: usize,
}

/// A listener that passes connections on. Those of users whose name begins with `m` log in as the superuser, and meet it.
pub(crate) struct Hostile {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Hostile {
    #[allow(clippy::disallowed_methods, reason = "the tasks end within the test's own runtime")]
    pub(crate) async fn start(behind: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State { mischief: Mischief::Nothing, n_messages: 0, n_startups: 0 }));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(treat(stream, behind, Arc::clone(&shared)));
            }
        });
        Self { port, state, task }
    }

    pub(crate) fn set(&self, mischief: Mischief) {
        let mut state = self.state.lock().unwrap();
        (state.mischief, state.n_messages) = (mischief, 0);
    }

    /// Messages since the last [`Self::set`].
    pub(crate) fn n_messages(&self) -> usize {
        self.state.lock().unwrap().n_messages
    }

    /// Logins of those it harms.
    pub(crate) fn n_startups(&self) -> usize {
        self.state.lock().unwrap().n_startups
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn treat(mut stream: TcpStream, behind: u16, state: Arc<Mutex<State>>) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut server = TcpStream::connect(("127.0.0.1", behind)).await.ok()?;
    let user = loop {
        let length = usize::try_from(stream.read_i32().await.ok()?).ok()?;
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).await.ok()?;
        if body[..4] == [0, 3, 0, 0] || body[..4] == [0, 3, 0, 2] {
            let mut strings = body[4..].split(|byte| *byte == 0).map(String::from_utf8_lossy);
            strings.find(|name| name == "user")?;
            break strings.next()?.into_owned();
        }
        if body[..4] == 80_877_102_u32.to_be_bytes() {
            // A cancel request: the server judges it.
            server.write_all(&[&i32::try_from(length).ok()?.to_be_bytes()[..], &body].concat()).await.ok()?;
            return server.read_to_end(&mut Vec::new()).await.ok().map(drop);
        }
        stream.write_all(b"N").await.ok()?;
    };
    server.write_all(&startup(0x0003_0000, &[("user", "postgres"), ("database", DATABASE)])).await.ok()?;
    if !user.starts_with('m') {
        return tokio::io::copy_bidirectional(&mut stream, &mut server).await.ok().map(drop);
    }
    state.lock().unwrap().n_startups += 1;
    let ((from_proxy, to_proxy), (from_server, to_server)) = (stream.into_split(), server.into_split());
    tokio::select! {
        ended = forward(from_proxy, to_server) => ended,
        ended = harm(from_server, to_proxy, &state) => ended,
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> Option<()> {
    tokio::io::copy(&mut from, &mut to).await.ok().map(drop)
}

async fn harm(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &Mutex<State>) -> Option<()> {
    loop {
        let tag = from.read_u8().await.ok()?;
        let length = from.read_u32().await.ok()?;
        let mut message = [&[tag][..], &length.to_be_bytes(), &vec![0; length as usize - 4]].concat();
        from.read_exact(&mut message[5..]).await.ok()?;
        let (mischief, number) = {
            let mut state = state.lock().unwrap();
            state.n_messages += 1;
            let number = state.n_messages - 1;
            let mischief = state.mischief.clone();
            if matches!(mischief, Mischief::Replace(wanted, _) | Mischief::After(wanted, _) if wanted == tag) {
                state.mischief = Mischief::Nothing;
            }
            (mischief, number)
        };
        match mischief {
            Mischief::CutBefore(at) if at == number => return None,
            Mischief::CutWithin(at) if at == number => {
                to.write_all(&message[..message.len() / 2]).await.ok()?;
                return None;
            }
            Mischief::Insert(at, bytes) if at == number => to.write_all(&[bytes, message].concat()).await.ok()?,
            Mischief::Replace(wanted, bytes) if wanted == tag => to.write_all(&bytes).await.ok()?,
            Mischief::After(wanted, bytes) if wanted == tag => to.write_all(&[message, bytes].concat()).await.ok()?,
            Mischief::Split => {
                for byte in message {
                    to.write_all(&[byte]).await.ok()?;
                }
            }
            _ => to.write_all(&message).await.ok()?,
        }
    }
}
