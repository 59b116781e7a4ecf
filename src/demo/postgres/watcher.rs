//! Ends a server when this process dies without having ended it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The script of the watcher. Its standard input is a pipe that we hold open: `read` returns when we are gone.
/// A stopped process takes no SIGINT, so it is continued first; after five seconds nothing is asked any more. A process that
/// does not work in the server's directory has only inherited its number.
const SCRIPT: &str = r#"
read -r _
[ "$(readlink "/proc/$1/cwd")" = "$3" ] || exit 0
kill -CONT "$1"; kill -INT "$1"
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do kill -0 "$1" || break; sleep 0.2; done
kill -KILL "$1"
[ -z "$2" ] || rm -rf -- "$2"
"#;

/// A shell that waits for this process's death. Dropping it calls the watch off.
#[derive(Debug)]
pub(super) struct Watcher(Child);

impl Watcher {
    /// Watches over the server `pid`; then removes `scratch_dir`, if one is given.
    ///
    /// In a process group of its own: Ctrl-C at the terminal is for us to act upon.
    pub(super) fn start(pid: u32, data_dir: &Path, scratch_dir: Option<&Path>) -> std::io::Result<Self> {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh", &pid.to_string()]).arg(scratch_dir.unwrap_or(Path::new(""))).arg(data_dir);
        command.current_dir("/").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().map(Self)
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // Killing it first keeps its script from seeing the pipe close. A watcher that is gone already needs neither.
        if self.0.kill().is_ok() {
            drop(self.0.wait());
        }
    }
}
