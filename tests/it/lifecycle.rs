//! How the process begins, is reached, is told things and ends.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{
    BINARY, Cluster, Message, Proxy, ProxyOptions, Raw, Scratch, connect_with, free_port, message, poll, sqlstate_of, text, value,
};

async fn proxy_with(cluster: &Cluster, server: &str) -> Proxy {
    cluster.proxy_with(ProxyOptions { server, ..ProxyOptions::default() }).await
}

async fn is_ready(proxy: &Proxy) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", proxy.admin_port)).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response.starts_with("HTTP/1.1 200")
}

/// The words with which a session is ended, and that nothing follows.
async fn farewell(raw: &mut Raw) -> (String, String, String) {
    let words = raw.next().await.unwrap();
    assert_eq!(words.tag, b'E', "{words:?}");
    assert!(raw.next().await.is_none());
    fields(&words)
}

fn fields(words: &Message) -> (String, String, String) {
    (words.field(b'S'), words.field(b'C'), words.field(b'M'))
}

fn shutdown_words() -> (String, String, String) {
    let message = "terminating connection due to administrator command";
    ("FATAL".to_owned(), "57P01".to_owned(), message.to_owned())
}

fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

async fn in_transaction(proxy: &Proxy) -> Raw {
    let mut raw = Raw::log_in(proxy.port).await;
    raw.send(&query("BEGIN")).await;
    raw.send(&query("INSERT INTO users VALUES (1, 'n', 'e', 'us')")).await;
    assert_eq!((raw.tags().await, raw.tags().await), ("CZ".to_owned(), "CZ".to_owned()));
    raw
}

#[tokio::test]
async fn sigterm_sends_idle_clients_away_and_waits_for_transactions() {
    let cluster = Cluster::start(1).await;
    let mut proxy = proxy_with(&cluster, "shutdown_grace = \"20s\"").await;
    poll("ready", async || is_ready(&proxy).await).await;
    let (mut idle, mut busy, mut running) =
        (Raw::log_in(proxy.port).await, in_transaction(&proxy).await, Raw::log_in(proxy.port).await);
    running.send(&query("SELECT pg_sleep(1)")).await;
    let direct = cluster.direct(0).await;
    let sleeping = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    poll("it runs", async || value(&direct, sleeping).await == "1").await;
    proxy.signal(Signal::TERM);
    assert_eq!(farewell(&mut idle).await, shutdown_words());
    assert!(!is_ready(&proxy).await, "a load balancer must see it at once");
    // A statement that runs gets its answer, and then the word.
    assert_eq!(running.tags().await, "TDCZ");
    assert_eq!(farewell(&mut running).await, shutdown_words());
    busy.send(&query("COMMIT")).await;
    assert_eq!(busy.tags().await, "CZ");
    assert_eq!(farewell(&mut busy).await, shutdown_words());
    poll("the proxy ends", async || !proxy.is_running()).await;
    assert_eq!(value(&cluster.direct(0).await, "SELECT count(*) FROM users").await, "1");
}

#[tokio::test]
async fn the_grace_time_ends_and_a_second_signal_ends_it_now() {
    let cluster = Cluster::start(1).await;
    let mut short = proxy_with(&cluster, "shutdown_grace = \"300ms\"").await;
    let mut busy = in_transaction(&short).await;
    short.signal(Signal::TERM);
    assert_eq!(farewell(&mut busy).await, shutdown_words());
    poll("the proxy ends", async || !short.is_running()).await;
    assert_eq!(value(&cluster.direct(0).await, "SELECT count(*) FROM users").await, "0", "it was rolled back");
    let mut long = proxy_with(&cluster, "shutdown_grace = \"1h\"").await;
    let (_busy, mut idle) = (in_transaction(&long).await, Raw::log_in(long.port).await);
    long.signal(Signal::TERM);
    assert_eq!(farewell(&mut idle).await, shutdown_words());
    assert!(long.is_running());
    long.signal(Signal::INT);
    poll("the proxy ends", async || !long.is_running()).await;
}

#[tokio::test]
async fn sighup_tells_faults_and_keeps_what_was_in_use() {
    let cluster = Cluster::start(1).await;
    let proxy = cluster.proxy().await;
    let client = proxy.connect().await;
    let before = std::fs::read_to_string(&proxy.config_file).unwrap();
    std::fs::write(&proxy.config_file, before.replace("[admin]", "max_clientz = 3\n[admin]")).unwrap();
    proxy.signal(Signal::HUP);
    poll("the fault is told", async || proxy.log().contains("unknown key \"max_clientz\"")).await;
    assert_eq!(value(&client, "SELECT 1").await, "1");
    assert_eq!(value(&proxy.connect().await, "SELECT 1").await, "1");
    std::fs::write(&proxy.config_file, before.replace("[admin]", "max_clients_per_user = 1\n[admin]")).unwrap();
    proxy.signal(Signal::HUP);
    poll("the change is told", async || proxy.log().contains("reloaded: changed: server.max_clients_per_user")).await;
    let error = connect_with(&proxy.target("postgres")).await.err().unwrap();
    assert_eq!(sqlstate_of(&error).0, "53300");
}

#[tokio::test]
async fn systemd_is_told_of_every_step() {
    let cluster = Cluster::start(1).await;
    let scratch = Scratch::new();
    let path = scratch.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let told = || {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    };
    let told_but_alive = || std::iter::repeat_with(told).find(|words| words != "WATCHDOG=1").unwrap();
    let mut command = Command::new(BINARY);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000");
    let proxy = Proxy::start_by(command, &cluster.scratch, &cluster.config(&ProxyOptions::default())).await;
    assert_eq!(told(), "READY=1");
    for _ in 0..3 {
        assert_eq!(told(), "WATCHDOG=1");
    }
    proxy.signal(Signal::HUP);
    let reloading = told_but_alive();
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap_or_else(|| panic!("{reloading}"));
    assert!(micros.parse::<u64>().unwrap() > 0);
    assert_eq!(told_but_alive(), "READY=1");
    proxy.signal(Signal::TERM);
    assert_eq!(told_but_alive(), "STOPPING=1");
}

#[tokio::test]
async fn a_new_process_takes_over_the_addresses_of_an_old_one() {
    let cluster = Cluster::start(1).await;
    let dir = Scratch::new();
    let port = free_port();
    let config = |server: &str| {
        let server = format!("unix_socket_dir = \"{}\"\nunix_socket_permissions = \"0700\"\n{server}", dir.path().display());
        let options = ProxyOptions { server: &server, ..ProxyOptions::default() };
        cluster.config(&options).replacen("127.0.0.1:0", &format!("127.0.0.1:{port}"), 1)
    };
    let socket = dir.path().join(format!(".s.PGSQL.{port}"));
    let by_socket = format!("host={} port={port} user=postgres dbname=shop", dir.path().display());
    let old = Proxy::start(&Scratch::new(), &config("reuse_port = true")).await;
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o700);
    let kept = connect_with(&by_socket).await.unwrap();
    // One that does not want to share cannot start.
    let scratch = Scratch::new();
    let file = scratch.write("trunkline.toml", &config(""));
    let refused = Command::new(BINARY).args(["run", "-c"]).arg(file).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("cannot listen on"), "{refused:?}");
    let new = Proxy::start(&Scratch::new(), &config("reuse_port = true")).await;
    assert_eq!(value(&kept, "SELECT 1").await, "1", "who is connected stays with the old one");
    assert!(old.stop().await.success());
    for target in [&by_socket, &new.target("postgres")] {
        assert_eq!(value(&connect_with(target).await.unwrap(), "SELECT 2").await, "2");
    }
    assert!(new.stop().await.success());
    assert!(!socket.exists(), "the last one cleans up");
}

#[tokio::test]
async fn logins_under_way_are_bounded() {
    let cluster = Cluster::start(1).await;
    let proxy = proxy_with(&cluster, "max_handshakes = 2\nlogin_timeout = \"25s\"").await;
    let (first, _second) = (Raw::open(proxy.port).await, Raw::open(proxy.port).await);
    // Accepted in turn: the third is refused once the others are in.
    let mut third = Raw::open(proxy.port).await;
    let words = third.next().await.unwrap();
    assert_eq!(fields(&words), ("FATAL".to_owned(), "53300".to_owned(), "sorry, too many clients already".to_owned()));
    assert!(third.next().await.is_none());
    drop(first);
    poll("there is a place again", async || connect_with(&proxy.target("postgres")).await.is_ok()).await;
}

#[tokio::test]
async fn clients_are_counted_by_user_and_by_database() {
    let cluster = Cluster::start(1).await;
    cluster.direct(0).await.batch_execute("CREATE ROLE a LOGIN; CREATE ROLE b LOGIN").await.unwrap();
    let proxy = proxy_with(&cluster, "max_clients_per_user = 2\nmax_clients_per_database = 3").await;
    let enter = async |user: &str| connect_with(&proxy.target(user)).await;
    let first = enter("a").await.unwrap();
    let _second = enter("a").await.unwrap();
    let refused = |outcome: Result<tokio_postgres::Client, tokio_postgres::Error>| sqlstate_of(&outcome.err().unwrap());
    assert_eq!(refused(enter("a").await), ("53300".to_owned(), "too many connections for role \"a\"".to_owned()));
    let _third = enter("b").await.unwrap();
    assert_eq!(refused(enter("b").await), ("53300".to_owned(), "too many connections for database \"shop\"".to_owned()));
    drop(first);
    poll("there is a place again", async || enter("b").await.is_ok()).await;
}

#[tokio::test]
async fn too_few_descriptors_are_told_at_start() {
    let cluster = Cluster::start(1).await;
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\"", BINARY]);
    let proxy = Proxy::start_by(command, &cluster.scratch, &cluster.config(&ProxyOptions::default())).await;
    assert!(proxy.log().contains("need more open files than are allowed"), "{}", proxy.log());
    assert_eq!(value(&proxy.connect().await, "SELECT 1").await, "1");
    let modest = proxy_with(&cluster, "max_clients = 10").await;
    assert!(!modest.log().contains("need more open files"), "{}", modest.log());
}
