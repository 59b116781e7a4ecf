//! A server that is one for the proxy's own probes only: with other users it does what a test wants.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::with_length;

/// What a fake server does once it has read a startup packet.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    /// Closes the socket without a word.
    Close,
    /// Never says anything.
    Silence,
    /// Answers with these bytes and closes the socket.
    Say(Vec<u8>),
}

/// A listener that keeps count of its connections by the user who starts them.
pub(crate) struct Fake {
    pub(crate) port: u16,
    n_startups: Arc<Mutex<HashMap<String, usize>>>,
    task: JoinHandle<()>,
}

impl Fake {
    #[allow(clippy::disallowed_methods, reason = "the tasks end within the test's own runtime")]
    /// `behind` is the port of the server that the superuser is passed on to.
    pub(crate) async fn start(manner: Manner, behind: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let n_startups = Arc::new(Mutex::new(HashMap::new()));
        let counts = Arc::clone(&n_startups);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(treat(stream, behind, manner.clone(), Arc::clone(&counts)));
            }
        });
        Self { port, n_startups, task }
    }

    /// How often this user has begun to log in.
    pub(crate) fn n_startups(&self, user: &str) -> usize {
        self.n_startups.lock().unwrap().get(user).copied().unwrap_or(0)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn treat(mut stream: TcpStream, behind: u16, manner: Manner, counts: Arc<Mutex<HashMap<String, usize>>>) -> Option<()> {
    let startup = loop {
        let length = usize::try_from(stream.read_i32().await.ok()?).ok()?;
        let mut body = vec![0; length - 4];
        stream.read_exact(&mut body).await.ok()?;
        if body[..4] == [0, 3, 0, 0] {
            break body;
        }
        // A request for encryption.
        stream.write_all(b"N").await.ok()?;
    };
    let mut strings = startup[4..].split(|byte| *byte == 0).map(String::from_utf8_lossy);
    strings.find(|name| name == "user")?;
    let user = strings.next()?.into_owned();
    if user == "postgres" {
        let mut server = TcpStream::connect(("127.0.0.1", behind)).await.ok()?;
        server.write_all(&with_length(&startup)).await.ok()?;
        return tokio::io::copy_bidirectional(&mut stream, &mut server).await.ok().map(drop);
    }
    *counts.lock().unwrap().entry(user).or_default() += 1;
    match manner {
        Manner::Close => {}
        Manner::Silence => drop(stream.read_to_end(&mut Vec::new()).await),
        Manner::Say(bytes) => stream.write_all(&bytes).await.ok()?,
    }
    Some(())
}
