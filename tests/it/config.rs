//! What `check`, `explain` and a start with a wrong configuration say.

use std::process::{Command, Output};

use crate::harness::{BINARY, Scratch};

const SHOP: &str = r#"
[server]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[auth]
method = "trust"
[databases.shop]
[[databases.shop.shards]]
name = "one"
nodes = [{ host = "127.0.0.1", port = 1 }]
dbname = "shop"
[[databases.shop.shards]]
name = "two"
nodes = [{ host = "127.0.0.1", port = 2 }]
dbname = "shop"
[[databases.shop.tables]]
name = "orders"
key = { hash = "user_id" }
[[databases.shop.tables]]
name = "countries"
reference = true
"#;

const WRONG: &str = r#"
[server]
listen = "here"
max_clientz = 3
[admin]
listen = "127.0.0.1:6433"
[pool]
max_per_node = 0
checkout_timeout = "5 parsecs"
[auth]
method = "trust"
[databases.shop]
buckets = 1000
[[databases.shop.shards]]
name = "one"
nodes = [{ host = "127.0.0.1", port = 1 }]
dbname = "shop"
[[databases.shop.tables]]
name = "orders"
key = { list = "region", shards = { three = ["us"] } }
"#;

fn trunkline(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_wrong_configuration_lists_all_faults_and_exits_64() {
    let scratch = Scratch::new();
    let file = scratch.write("wrong.toml", WRONG);
    for command in ["check", "run"] {
        let output = trunkline(&[command, "-c", file.to_str().unwrap()]);
        let told = text(&output);
        assert_eq!(output.status.code(), Some(64), "{command}: {told}");
        // Line numbers are one-based, and the text begins with an empty line.
        for (line, word) in
            [(3, "listen"), (4, "max_clientz"), (8, "max_per_node"), (9, "checkout_timeout"), (13, "buckets"), (20, "three")]
        {
            let place = format!("wrong.toml:{line}:");
            assert!(told.lines().any(|l| l.contains(&place) && l.contains(word)), "{command}: no {place} … {word} in\n{told}");
        }
    }
}

#[test]
fn a_good_configuration_passes() {
    let scratch = Scratch::new();
    let file = scratch.write("good.toml", SHOP);
    let output = trunkline(&["check", "-c", file.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn the_documented_configuration_passes() {
    let output = trunkline(&["check", "-c", "config/trunkline.toml"]);
    assert!(output.status.success(), "{}", text(&output));
}

#[test]
fn a_missing_file_is_said() {
    let output = trunkline(&["check", "-c", "/nonexistent/trunkline.toml"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output).contains("/nonexistent/trunkline.toml"), "{}", text(&output));
}

#[test]
fn explain_needs_no_server() {
    let scratch = Scratch::new();
    let file = scratch.write("good.toml", SHOP);
    let explain = |sql: &str| {
        let output = trunkline(&["explain", "-c", file.to_str().unwrap(), sql]);
        assert!(output.status.success(), "{sql}: {}", text(&output));
        text(&output)
    };
    let single = explain("SELECT * FROM orders WHERE user_id = 42");
    assert!(single.contains("one") != single.contains("two"), "{single}");
    let all = explain("SELECT * FROM orders");
    assert!(all.contains("one") && all.contains("two"), "{all}");
    let gathered = explain("SELECT count(DISTINCT total) FROM orders WHERE user_id <> 7");
    assert!(
        gathered.contains("gather") && gathered.contains("SELECT … FROM \"public\".\"orders\" WHERE (\"user_id\" <> 7)"),
        "{gathered}"
    );
    let refused = trunkline(&["explain", "-c", file.to_str().unwrap(), "SELECT * FROM orders FOR UPDATE"]);
    assert!(text(&refused).contains("TL0"), "{}", text(&refused));
}

#[test]
fn wrong_usage_fails_and_help_does_not() {
    assert!(!trunkline(&["run"]).status.success());
    assert!(!trunkline(&["frobnicate"]).status.success());
    let help = trunkline(&["--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(["run", "check", "explain", "demo"].iter().all(|word| text(&help).contains(word)), "{}", text(&help));
}
