//! Real servers for every test: Postgres by initdb in a directory of its own, the proxy as the built binary.

mod cluster;
pub(crate) mod extended;
mod fake;
mod mischief;
mod postgres;
mod programs;
mod proxy;
pub(crate) mod random;
mod raw;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use trunkline::demo::postgres::{Installation, is_port_free};

pub(crate) use cluster::{Cluster, ClusterOptions, Single, load_both};
pub(crate) use fake::{Fake, Manner};
pub(crate) use mischief::{Hostile, Mischief};
pub(crate) use postgres::Postgres;
pub(crate) use programs::{pgbench, psql};
pub(crate) use proxy::{Proxy, ProxyOptions, QUICK_HEALTH};
pub(crate) use raw::{Message, Raw, message, startup, text, with_length};

/// The proxy under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_trunkline");
/// The database of every cluster.
pub(crate) const DATABASE: &str = "shop";
/// How long any state is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Found once per process.
pub(crate) fn installation() -> &'static Installation {
    static FOUND: OnceLock<Installation> = OnceLock::new();
    FOUND.get_or_init(|| Installation::find().unwrap())
}

/// A directory that goes with its owner.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = scratch_root().join(format!("trunkline-it-{}-{number}", std::process::id()));
        if path.exists() {
            std::fs::remove_dir_all(&path).unwrap();
        }
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file and returns its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Where test servers live: in memory if there is room for many of them, else in the directory for temporary files.
fn scratch_root() -> &'static Path {
    const NEEDED_KILOBYTES: u64 = 4 << 20;
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let df = std::process::Command::new("df").args(["-Pk", "/dev/shm"]).output();
        let text = df.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let available = text.lines().nth(1).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
        let is_roomy = available.is_some_and(|kilobytes| kilobytes >= NEEDED_KILOBYTES);
        if is_roomy { PathBuf::from("/dev/shm") } else { std::env::temp_dir() }
    })
}

/// A port that nothing listens on now.
pub(crate) fn free_port() -> u16 {
    free_ports(1)
}

/// The first of `n` neighbouring ports that nothing listens on now.
///
/// Below the range from which the kernel takes ports for outgoing connections; where a process begins to search depends on
/// its id, so that tests running at the same time seldom meet.
pub(crate) fn free_ports(n: u16) -> u16 {
    const FIRST: u32 = 10_000;
    const SPAN: u32 = 20_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..SPAN {
        let step = NEXT.fetch_add(u32::from(n), Ordering::Relaxed);
        let port = (FIRST + (std::process::id().wrapping_mul(127) + step) % SPAN) as u16;
        let any_interface = |port| TcpListener::bind(("0.0.0.0", port)).is_ok();
        if (port..port + n).all(|port| is_port_free(port) && any_interface(port)) {
            return port;
        }
    }
    panic!("no free port");
}

/// Waits until `is_so`. It is asked again and again, and may itself take time.
pub(crate) async fn poll(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Connects to 127.0.0.1 as the superuser.
pub(crate) async fn connect_to(port: u16, dbname: &str) -> Client {
    connect_with(&format!("host=127.0.0.1 port={port} user=postgres dbname={dbname}")).await.unwrap()
}

/// Connects by a connection string, and drives the connection until the client is dropped.
#[allow(clippy::disallowed_methods, reason = "the task ends with its client, within the test's own runtime")]
pub(crate) async fn connect_with(target: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(target, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// Runs `work` beside the caller.
#[allow(clippy::disallowed_methods, reason = "the task ends within the test's own runtime")]
pub(crate) fn beside<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> tokio::task::JoinHandle<T> {
    tokio::spawn(work)
}

/// The rows of a simple query as text; NULL is `None`.
pub(crate) async fn rows(client: &Client, sql: &str) -> Vec<Vec<Option<String>>> {
    try_rows(client, sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

pub(crate) async fn try_rows(client: &Client, sql: &str) -> Result<Vec<Vec<Option<String>>>, tokio_postgres::Error> {
    let messages = client.simple_query(sql).await?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|idx| row.get(idx).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(rows.collect())
}

/// The one value of a one-row answer.
pub(crate) async fn value(client: &Client, sql: &str) -> String {
    let rows = rows(client, sql).await;
    assert_eq!(rows.len(), 1, "{sql}");
    rows[0][0].clone().unwrap_or_else(|| panic!("{sql}: NULL"))
}

/// Each of the statements must be refused with this reason code, and with a hint.
pub(crate) async fn check_refused(client: &Client, code: &str, statements: &[&str]) {
    for sql in statements {
        let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql}: succeeded"));
        let report = error.as_db_error().unwrap();
        assert_eq!(report.detail(), Some(format!("Reason code {code}.").as_str()), "{sql}: {report:?}");
        assert!(report.hint().is_some_and(|hint| !hint.is_empty()), "{sql}");
    }
}

/// SQLSTATE and message of a simple query that must fail.
pub(crate) async fn failure(client: &Client, sql: &str) -> (String, String) {
    let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql}: succeeded"));
    sqlstate_of(&error)
}

pub(crate) fn sqlstate_of(error: &tokio_postgres::Error) -> (String, String) {
    let report = error.as_db_error().unwrap_or_else(|| panic!("not a server's report: {error:?}"));
    (report.code().code().to_owned(), report.message().to_owned())
}
