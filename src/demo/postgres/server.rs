//! One running server: start, stop, and the faults that tests inflict on it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::installation::absolute;
use super::watcher::Watcher;
use super::{Installation, PostgresError};

const START_LIMIT: Duration = Duration::from_secs(60);
/// A fast shutdown beyond this is cut short by SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(15);
const QUIT_LIMIT: Duration = Duration::from_secs(5);
const QUIT_POLL_INTERVAL: Duration = Duration::from_millis(2);
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Of the server's log in an error.
const TAIL_LINES: usize = 12;

/// What to start.
#[derive(Debug, Clone)]
pub struct ServerSpec {
    pub data_dir: PathBuf,
    pub port: u16,
    pub settings: Vec<(String, String)>,
    /// Removed by the watcher, should this process be killed.
    pub scratch_dir: Option<PathBuf>,
}

/// A server that is our child process. Dropping it ends it at once, as SIGQUIT does.
#[derive(Debug)]
pub struct Server {
    spec: ServerSpec,
    child: Child,
    // Declared after `child`, and called off only once the server is gone.
    _watcher: Watcher,
}

impl Server {
    /// Starts the server of `spec.data_dir` on 127.0.0.1 and waits until it takes connections (a replica: until it takes reads).
    ///
    /// Its log is `spec.data_dir` with the extension `log`. Cancel safe: a dropped call kills the server.
    ///
    /// # Errors
    /// It ended (a port in use, a bad setting), or was not ready within 60 s; with the end of its log.
    pub async fn start(installation: &Installation, spec: ServerSpec) -> Result<Self, PostgresError> {
        let data_dir = absolute(&spec.data_dir)?;
        let log = log_of(&data_dir);
        let log_file = File::create(&log).map_err(PostgresError::io("write", &log))?;
        let log_copy = log_file.try_clone().map_err(PostgresError::io("write", &log))?;
        let mut command = installation.command("postgres");
        command.arg("-D").arg(&data_dir).args(["-p", &spec.port.to_string()]);
        command.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        for (name, value) in &spec.settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        command.stdout(log_file).stderr(log_copy).process_group(0);
        let mut child = command.spawn().map_err(PostgresError::io("run", &installation.program("postgres")))?;
        let watcher = match Watcher::start(child.id(), &data_dir, spec.scratch_dir.as_deref()) {
            Ok(watcher) => watcher,
            Err(source) => {
                drop(child.kill());
                drop(child.wait());
                return Err(PostgresError::io("run", Path::new("sh"))(source));
            }
        };
        let mut server = Self { spec: ServerSpec { data_dir, ..spec }, child, _watcher: watcher };
        server.wait_until_ready(&log).await?;
        Ok(server)
    }

    pub fn port(&self) -> u16 {
        self.spec.port
    }

    pub fn data_dir(&self) -> &Path {
        &self.spec.data_dir
    }

    /// What it was started with, to start it again.
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// Process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the postmaster and all its children by SIGSTOP: sockets stay open, nothing answers.
    pub fn pause(&self) {
        // The postmaster first: after it no child can be born.
        self.signal(Signal::STOP);
        self.signal_children(Signal::STOP);
    }

    /// Lets a paused server run on.
    pub fn resume(&self) {
        self.signal_children(Signal::CONT);
        self.signal(Signal::CONT);
    }

    /// Kills the postmaster and all its children by SIGKILL, as a power failure would.
    pub fn kill(&mut self) {
        self.signal(Signal::STOP);
        let children = self.children();
        if let Err(error) = self.child.kill() {
            tracing::debug!(%error, port = self.spec.port, "the server was gone before it was killed");
        }
        for child in children {
            signal(child, Signal::KILL);
        }
        if let Err(error) = self.child.wait() {
            tracing::warn!(%error, port = self.spec.port, "cannot wait for the server's end");
        }
        self.remove_shared_memory();
    }

    /// Removes the System V segment that a killed postmaster leaves: the seventh line of postmaster.pid ends with its id. The
    /// kernel has only so many.
    fn remove_shared_memory(&self) {
        let text = std::fs::read_to_string(self.spec.data_dir.join("postmaster.pid")).unwrap_or_default();
        if let Some(id) = text.lines().nth(6).and_then(|line| line.split_whitespace().nth(1)) {
            // Where it is gone already, or there is no ipcrm, nothing depends on it.
            drop(
                Command::new("ipcrm").args(["-m", id]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status(),
            );
        }
    }

    /// Fast shutdown (SIGINT): rolls back, writes a checkpoint, ends. After 15 s by SIGKILL.
    ///
    /// Cancel safe: a dropped call kills the server.
    pub async fn stop(mut self) {
        self.signal(Signal::CONT);
        self.signal(Signal::INT);
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline && self.is_running() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Whether the postmaster has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    async fn wait_until_ready(&mut self, log: &Path) -> Result<(), PostgresError> {
        let deadline = Instant::now() + START_LIMIT;
        while !self.is_ready() {
            let port = self.spec.port;
            if !self.is_running() {
                return Err(PostgresError::Ended { port, log: log.to_owned(), tail: tail_of(log) });
            }
            if Instant::now() >= deadline {
                let seconds = START_LIMIT.as_secs();
                return Err(PostgresError::NotReady { port, seconds, log: log.to_owned(), tail: tail_of(log) });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// As pg_ctl tells it: the postmaster writes its state to the eighth line of postmaster.pid (src/include/utils/pidfile.h).
    fn is_ready(&self) -> bool {
        let Ok(text) = std::fs::read_to_string(self.spec.data_dir.join("postmaster.pid")) else { return false };
        let mut lines = text.lines();
        lines.next() == Some(self.pid().to_string().as_str()) && lines.nth(6).is_some_and(|state| state.trim() == "ready")
    }

    fn signal(&self, which: Signal) {
        if let Ok(pid) = i32::try_from(self.pid()) {
            signal(pid, which);
        }
    }

    fn signal_children(&self, which: Signal) {
        for child in self.children() {
            signal(child, which);
        }
    }

    /// Backends and auxiliary processes. Each is in a process group of its own (src/backend/postmaster/fork_process.c and
    /// `InitPostmasterChild`), so the postmaster's group alone would miss them.
    fn children(&self) -> Vec<i32> {
        let parent = self.pid();
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
    }
}

/// Immediate shutdown (SIGQUIT): the postmaster ends its children and gives its shared memory back. Beyond five seconds by
/// SIGKILL.
impl Drop for Server {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        self.resume();
        self.signal(Signal::QUIT);
        let deadline = Instant::now() + QUIT_LIMIT;
        while self.is_running() && Instant::now() < deadline {
            std::thread::sleep(QUIT_POLL_INTERVAL);
        }
        if self.is_running() {
            self.kill();
        }
    }
}

/// Stops the server that an earlier run started in `data_dir` and left running, if there is one.
///
/// Ours is a live process that postmaster.pid names and whose working directory is `data_dir`: a reused process id is let be.
///
/// # Errors
/// It does not stop within 15 s.
pub async fn stop_leftover(data_dir: &Path) -> Result<(), PostgresError> {
    let data_dir = absolute(data_dir)?;
    let Some(pid) = leftover_in(&data_dir) else { return Ok(()) };
    tracing::info!(pid, "stopping a server that an earlier run left");
    signal(pid, Signal::CONT);
    signal(pid, Signal::INT);
    let deadline = Instant::now() + STOP_LIMIT;
    while leftover_in(&data_dir) == Some(pid) {
        if Instant::now() >= deadline {
            return Err(PostgresError::Leftover { pid, dir: data_dir });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

fn leftover_in(data_dir: &Path) -> Option<i32> {
    let text = std::fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    let pid: i32 = text.lines().next()?.trim().parse().ok()?;
    let working_dir = std::fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    (working_dir == data_dir.canonicalize().ok()?).then_some(pid)
}

fn signal(pid: i32, which: Signal) {
    let sent = Pid::from_raw(pid).map(|pid| kill_process(pid, which));
    if let Some(Err(error)) = sent {
        // Gone already: what was wanted of it, or what the caller finds out by waiting.
        tracing::debug!(%error, pid, "a signal was not delivered");
    }
}

/// Field 4 of /proc/PID/stat; field 2 is in parentheses and may hold anything.
fn parent_of(pid: i32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn log_of(data_dir: &Path) -> PathBuf {
    data_dir.with_extension("log")
}

fn tail_of(log: &Path) -> String {
    let text = std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
