//! The proxy under test, as a child process.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::Client;

use super::{BINARY, DATABASE, PATIENCE, Scratch, connect_with, poll, rows};

const CLIENT_LINE: &str = "trunkline: listening for clients on 127.0.0.1:";
const ADMIN_LINE: &str = "trunkline: admin on 127.0.0.1:";

/// Lines for the parts of the configuration that a test cares about.
pub(crate) struct ProxyOptions<'a> {
    /// Further lines of `[server]`.
    pub(crate) server: &'a str,
    /// The lines of `[auth]`.
    pub(crate) auth: &'a str,
    /// Whole sections: `[pool]`, `[query]`, `[health]`.
    pub(crate) sections: &'a str,
    /// The value of `databases.shop.control`.
    pub(crate) control: &'a str,
    /// Further lines of `[databases.shop]`.
    pub(crate) database: &'a str,
}

impl Default for ProxyOptions<'_> {
    fn default() -> Self {
        Self { server: "", auth: "method = \"trust\"", sections: QUICK_HEALTH, control: "{ user = \"postgres\" }", database: "" }
    }
}

/// So that tests of failover need not wait for the usual seconds.
pub(crate) const QUICK_HEALTH: &str = "[health]\ninterval = \"250ms\"\ntimeout = \"250ms\"\nfall = 3\nrise = 1\n";

/// A running proxy. Dropping it kills it.
pub(crate) struct Proxy {
    child: Child,
    pub(crate) port: u16,
    pub(crate) admin_port: u16,
    pub(crate) config_file: PathBuf,
    stderr: Arc<Mutex<String>>,
}

impl Proxy {
    /// Starts `trunkline run` with this configuration, whose ports are 0, and waits until it listens.
    pub(crate) async fn start(scratch: &Scratch, config: &str) -> Self {
        Self::start_by(Command::new(BINARY), scratch, config).await
    }

    /// The same by a command of the test's own, to which the arguments are added.
    pub(crate) async fn start_by(mut command: Command, scratch: &Scratch, config: &str) -> Self {
        let config_file = scratch.write("trunkline.toml", config);
        let mut child = command
            .args(["run", "-c"])
            .arg(&config_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&stderr);
        // A thread, because a full pipe would hold the proxy while a test computes.
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        let mut proxy = Self { child, port: 0, admin_port: 0, config_file, stderr };
        let deadline = Instant::now() + PATIENCE;
        while proxy.port == 0 || proxy.admin_port == 0 {
            let log = proxy.log();
            let ended = proxy.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "the proxy did not start ({ended:?}):\n{log}");
            proxy.port = port_after(&log, CLIENT_LINE);
            proxy.admin_port = port_after(&log, ADMIN_LINE);
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        proxy
    }

    /// A session of the superuser.
    pub(crate) async fn connect(&self) -> Client {
        connect_with(&self.target("postgres")).await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.log()))
    }

    /// A connection string for `user`, to add to.
    pub(crate) fn target(&self, user: &str) -> String {
        format!("host=127.0.0.1 port={} user={user} dbname={DATABASE}", self.port)
    }

    /// A session of the admin console.
    pub(crate) async fn admin(&self) -> Client {
        connect_with(&format!("host=127.0.0.1 port={} user=admin dbname=trunkline", self.admin_port)).await.unwrap()
    }

    /// Waits until SHOW CLIENTS tells just these reasons for pinned clients: what a backend has left is asked after the answer.
    pub(crate) async fn wait_for_pins(&self, expected: &[&str]) {
        let admin = self.admin().await;
        poll(&format!("the pins are {expected:?}"), async || {
            let clients = rows(&admin, "SHOW CLIENTS").await.into_iter();
            let pins = clients.filter_map(|mut row| row.pop().flatten()).filter(|pins| !pins.is_empty());
            pins.eq(expected.iter().copied())
        })
        .await;
    }

    /// The page of metrics, with its header.
    pub(crate) async fn metrics(&self) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.admin_port)).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        page
    }

    /// Waits until this many clients count as silent.
    pub(crate) async fn wait_until_silent(&self, n_clients: usize) {
        let line = format!("\ntrunkline_silent_clients{{database=\"{DATABASE}\"}} {n_clients}\n");
        poll(&format!("{n_clients} clients are silent"), async || self.metrics().await.contains(&line)).await;
    }

    /// What it has written to standard error so far.
    pub(crate) fn log(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Memory of the process that is not in files.
    pub(crate) fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The most memory that it has had so far, in kB.
    pub(crate) fn peak_memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// SIGTERM, and how it ended.
    pub(crate) async fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        poll("the proxy ends", async || self.child.try_wait().unwrap().is_some()).await;
        self.child.wait().unwrap()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            // The test harness shows this beside the failure.
            use std::io::Write;
            drop(writeln!(std::io::stderr(), "--- the proxy's log\n{}---", self.log()));
        }
    }
}

fn port_after(log: &str, prefix: &str) -> u16 {
    log.lines().find_map(|line| line.strip_prefix(prefix)?.trim().parse().ok()).unwrap_or(0)
}
