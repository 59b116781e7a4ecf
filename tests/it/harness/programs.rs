//! Postgres's own client programs.

use std::path::PathBuf;

use tokio::process::Command;

use super::{DATABASE, installation};

/// psql against `port`: one `-c` per statement; unaligned rows without headers. Panics on an error.
pub(crate) async fn psql(port: u16, statements: &[&str]) -> String {
    let mut command = Command::new(program("psql"));
    command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]);
    command.args(["-d", DATABASE]);
    for sql in statements {
        command.args(["-c", sql]);
    }
    let output = command.kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "psql: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// pgbench against `port` with a script's file. Panics on an error; returns its report.
pub(crate) async fn pgbench(port: u16, arguments: &[&str]) -> String {
    let mut command = Command::new(program("pgbench"));
    command.args(["-n", "-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]).args(arguments).arg(DATABASE);
    let output = command.kill_on_drop(true).output().await.unwrap();
    let report = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "pgbench {arguments:?}: {report}");
    report
}

fn program(name: &str) -> PathBuf {
    let beside_server = installation().program(name);
    if beside_server.is_file() { beside_server } else { PathBuf::from(name) }
}
