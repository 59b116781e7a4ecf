//! `trunkline demo --once`: the whole path as a newcomer sees it.

use tokio::process::Command;

use crate::harness::{BINARY, Scratch, free_ports};

#[tokio::test]
async fn once_prints_six_right_answers() {
    let scratch = Scratch::new();
    // The proxy, its admin port, and from the ninth on six servers.
    let port_base = free_ports(16);
    let run = async |label: &str| {
        let mut command = Command::new(BINARY);
        command.args(["demo", "--once", "--port-base", &port_base.to_string(), "--dir"]).arg(scratch.path().join("demo"));
        let output = command.kill_on_drop(true).output().await.unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{label} run:\n{stdout}\n{stderr}");
        assert_eq!(stdout.matches("  -> ").count(), 6, "{stdout}");
        stdout.into_owned()
    };
    assert!(run("first").await.contains("rows through the proxy"));
    assert!(!run("second").await.contains("rows through the proxy"), "the rows were loaded twice");
}
