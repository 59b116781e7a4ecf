use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::*;
use crate::health::{NodeReport, ProbeOutcome, Thresholds};
use crate::observe::{ClientDescription, ErrorKind, Route, ServerDescription};
use crate::topology::ShardId;

const CONFIG: &str = r#"
[admin]
users = ["admin"]
[auth]
method = "trust"
[[databases.shop.shards]]
name = "asia"
nodes = [{ host = "h1" }, { host = "h2" }]
[[databases.shop.shards]]
name = "europe"
nodes = [{ host = "h3" }]
[[databases.shop.tables]]
name = "orders"
key = { hash = "user_id" }
[[databases.shop.tables]]
name = "metrics"
key = { age = "at", tiers = [{ shard = "asia", younger_than = "7d" }, { shard = "europe" }] }
[[databases.shop.tables]]
name = "countries"
reference = true
"#;

/// A served admin port. Its view has one database with one client and one server connection.
struct Port {
    address: SocketAddr,
    state: Arc<AdminState>,
    reloads: mpsc::Receiver<ReloadRequest>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

async fn port() -> Port {
    let config = Config::parse(CONFIG, Path::new("t.toml")).unwrap();
    let topology = Arc::new(config.databases["shop"].topology.clone());
    let registry = Arc::new(Registry::default());
    registry.add_client(ClientDescription {
        database: "shop".into(),
        user: "app".into(),
        address: None,
        application_name: "psql".into(),
        tls: "TLSv1.3 TLS_AES_256_GCM_SHA384".into(),
    });
    let server = ServerDescription {
        database: "shop".into(),
        shard: "asia".into(),
        node: "h1:5432".into(),
        user: "app".into(),
        pid: 77,
        tls: String::new(),
    };
    registry.add_server(server).lease(1);
    let counters = Arc::new(DatabaseCounters::default());
    counters.record_statement(Route::Merge, Duration::from_millis(2));
    counters.count_error(ErrorKind::Shard);
    let database = DatabaseView { board: Arc::new(Board::new(&topology)), topology, counters };
    let view = AdminView { config: Arc::new(config), databases: vec![database] };
    let pool = PoolStatus {
        database: "shop".into(),
        shard: "asia".into(),
        node: "h1:5432".into(),
        user: "app".into(),
        n_max: 20,
        n_open: 1,
        n_idle: 0,
        n_leased: 1,
        n_reserve: 0,
        n_waiting: 0,
        longest_wait: Duration::ZERO,
        backoff_left: Duration::ZERO,
    };
    let (reload, reloads) = mpsc::channel(1);
    let state = Arc::new(AdminState {
        registry,
        view: watch::Sender::new(Arc::new(view)).subscribe(),
        pools: Arc::new(move || vec![pool.clone()]),
        reload,
        is_accepting: Arc::new(AtomicBool::new(true)),
        started_at: SystemTime::now(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(serve(listener, Arc::clone(&state), shutdown.clone()));
    Port { address, state, reloads, shutdown, tasks }
}

impl Port {
    fn board(&self) -> Arc<Board> {
        Arc::clone(&self.state.current().databases[0].board)
    }

    async fn console(&self, user: &str) -> Result<Client, tokio_postgres::Error> {
        let mut settings = tokio_postgres::Config::new();
        settings.host("127.0.0.1").port(self.address.port()).user(user).dbname("trunkline");
        let (client, connection) = settings.connect(NoTls).await?;
        self.tasks.spawn(connection);
        Ok(client)
    }

    /// Sends bytes and returns all that comes back.
    async fn exchange(&self, sent: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        answer
    }

    /// Status line and body.
    async fn http(&self, request_line: &str) -> (String, String) {
        let answer = self.exchange(format!("{request_line} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await;
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nConnection: close"), "{head}");
        (head.lines().next().unwrap().trim_start_matches("HTTP/1.1 ").to_owned(), body.to_owned())
    }
}

fn rows(messages: &[SimpleQueryMessage]) -> Vec<String> {
    let row = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            let cells: Vec<_> = (0..row.len()).map(|idx| row.get(idx).unwrap_or("-")).collect();
            Some(cells.join("|"))
        }
        _ => None,
    };
    messages.iter().filter_map(row).collect()
}

async fn show(client: &Client, command: &str) -> Vec<String> {
    rows(&client.simple_query(command).await.unwrap())
}

#[tokio::test]
async fn the_console_shows_everything_in_text() {
    let port = port().await;
    let client = port.console("admin").await.unwrap();
    let report = NodeReport { is_in_recovery: false, timeline: 3, lsn: 0x1_0000_00ff, max_prepared_transactions: 0 };
    let at_once = Thresholds { fall: 1, rise: 1 };
    port.board().record(ShardId(0), 1, ProbeOutcome::Report(report), at_once);
    port.board().record(ShardId(1), 0, ProbeOutcome::Failed("gone".into()), at_once);

    assert_eq!(
        show(&client, "SHOW SHARDS;").await,
        ["shop|asia|shop|up|h2:5432|h2:5432|2|off", "shop|europe|shop|down|-|-|1|on"]
    );
    let nodes = show(&client, "show nodes").await;
    assert_eq!(nodes[0], "shop|asia|h1:5432|unknown|unknown|0|-|-|-|-|-");
    assert_eq!(nodes[1], "shop|asia|h2:5432|primary|up|0|3|1/FF|0|0|-");
    assert_eq!(nodes[2], "shop|europe|h3:5432|unknown|down|0|-|-|-|-|gone");
    assert_eq!(show(&client, "SHOW POOLS").await, ["shop|asia|h1:5432|app|20|1|0|1|0|0|0|0"]);
    assert!(show(&client, "SHOW CLIENTS").await[0].starts_with("1|shop|app|unix|psql|login|0|0|20"));
    assert!(show(&client, "SHOW SERVERS").await[0].starts_with("2|shop|asia|h1:5432|app|77|leased|1|1|20"));
    let tables = show(&client, "SHOW TABLES").await;
    assert_eq!(
        tables,
        [
            "shop|countries|reference|-|asia, europe|-",
            "shop|metrics|sharded|age(at)|asia, europe|",
            "shop|orders|sharded|hash(user_id)|asia, europe|-",
        ]
    );
    let stats = show(&client, "SHOW STATS").await;
    for line in ["shop|clients|1", "shop|statements_merge|1", "shop|mean_micros_merge|2000", "shop|errors_shard|1"] {
        assert!(stats.iter().any(|found| found == line), "{line} is not in {stats:?}");
    }
    let config = show(&client, "SHOW CONFIG").await;
    assert!(config.contains(&"databases.shop.shards.asia|shop on h1:5432, h2:5432".to_owned()), "{config:?}");
    assert_eq!(show(&client, "SHOW HELP; SHOW VERSION").await.len(), 12);
    assert_eq!(show(&client, " ; ").await.len(), 0);
}

#[tokio::test]
async fn drivers_get_typed_values_by_the_extended_protocol() {
    let port = port().await;
    let client = port.console("admin").await.unwrap();
    let row = client.query_one("SHOW CLIENTS", &[]).await.unwrap();
    let age = row.get::<_, SystemTime>("connected_at").elapsed().unwrap();
    assert!(age < Duration::from_secs(60), "{age:?}");
    assert_eq!((row.get::<_, i64>("id"), row.get::<_, String>("user")), (1, "app".to_owned()));

    let error = client.query("SHOW NONSENSE", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42601");
    assert!(error.as_db_error().unwrap().hint().unwrap().contains("SHOW POOLS"));
    assert_eq!(client.query("SHOW VERSION", &[]).await.unwrap().len(), 1);
    let error = client.simple_query("SHOW VERSION; nonsense; SHOW VERSION").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "42601");
}

#[tokio::test]
async fn only_named_users_get_in() {
    let port = port().await;
    let error = port.console("app").await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "28000");
}

#[tokio::test]
async fn a_reload_tells_its_outcome() {
    let mut port = port().await;
    let client = port.console("admin").await.unwrap();
    let answers = async {
        port.reloads.recv().await.unwrap().send(Ok("2 settings changed".into())).unwrap();
        port.reloads.recv().await.unwrap().send(Err(vec!["t.toml:3: no".into(), "t.toml:4: no".into()])).unwrap();
    };
    let asks = async {
        client.simple_query("RELOAD").await.unwrap();
        client.simple_query("reload").await.unwrap_err()
    };
    let (error, ()) = tokio::join!(asks, answers);
    assert_eq!(error.code().unwrap().code(), "22023");
    assert_eq!(error.as_db_error().unwrap().detail(), Some("t.toml:3: no\nt.toml:4: no"));
}

#[tokio::test]
async fn http_answers_on_the_same_port() {
    let port = port().await;
    assert_eq!(port.http("GET /healthz").await, ("200 OK".into(), "alive\n".into()));
    assert_eq!(port.http("HEAD /healthz?x=1").await, ("200 OK".into(), String::new()));
    assert_eq!(port.http("GET /nothing").await.0, "404 Not Found");
    assert_eq!(port.http("POST /metrics").await.0, "405 Method Not Allowed");
    let (status, page) = port.http("GET /").await;
    assert!(status == "200 OK" && page.contains("<td>europe</td><td>h3:5432</td>"), "{page}");
    let (status, metrics) = port.http("GET /metrics").await;
    assert_eq!(status, "200 OK");
    for line in [
        "trunkline_clients{database=\"shop\"} 1",
        "trunkline_pool_connections{database=\"shop\",shard=\"asia\",node=\"h1:5432\",user=\"app\",state=\"leased\"} 1",
        "trunkline_node_up{database=\"shop\",shard=\"europe\",node=\"h3:5432\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn ready_needs_a_node_for_each_shard_and_an_open_door() {
    let port = port().await;
    assert_eq!(port.http("GET /readyz").await, ("200 OK".into(), "ready\n".into()));
    let at_once = Thresholds { fall: 1, rise: 1 };
    port.board().record(ShardId(1), 0, ProbeOutcome::Failed("gone".into()), at_once);
    let (status, reason) = port.http("GET /readyz").await;
    assert_eq!(status, "503 Service Unavailable");
    assert_eq!(reason, "not ready: shard \"europe\" of database \"shop\" has no node that answers\n");
    port.state.is_accepting.store(false, Ordering::Relaxed);
    assert!(port.http("GET /readyz").await.1.contains("starts or stops"));
}

#[tokio::test]
async fn bad_requests_get_an_answer_and_a_closed_socket() {
    let port = port().await;
    let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(9000));
    assert!(port.exchange(long.as_bytes()).await.starts_with(b"HTTP/1.1 431 "));
    assert!(port.exchange(b"GET\0 / HTTP/1.1\r\n\r\n").await.starts_with(b"HTTP/1.1 400 "));
    for startup in [&[0, 0, 0x40, 0, 0, 3, 0, 0][..], &[0, 0, 0, 4], &[0, 0, 0, 12, 0, 3, 0, 0, b'u', b's', b'e', b'r']] {
        let answer = port.exchange(startup).await;
        assert!(answer.starts_with(b"E") && answer.windows(6).any(|window| window == b"C08P01"), "{answer:?}");
    }
    let old = port.exchange(&[0, 0, 0, 8, 0, 2, 0, 0]).await;
    assert!(old.windows(6).any(|window| window == b"C0A000"), "{old:?}");
}

#[tokio::test]
async fn encryption_is_declined_and_a_newer_protocol_negotiated() {
    let port = port().await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    for code in [80_877_103_i32, 80_877_104] {
        stream.write_all(&[[0, 0, 0, 8], code.to_be_bytes()].concat()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'N');
    }
    let body = b"\0\x03\x27\x0fuser\0admin\0_pq_.wish\0on\0\0";
    stream.write_all(&(body.len() as u32 + 4).to_be_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = [0; 23];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"v\0\0\0\x16\0\x03\0\x02\0\0\0\x01_pq_.wish\0");
}

#[tokio::test]
async fn there_are_sixty_four_places_and_shutdown_empties_them() {
    let port = port().await;
    let mut open = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        open.push(port.console("admin").await.unwrap());
    }
    let mut one_more = TcpStream::connect(port.address).await.unwrap();
    // Nothing was sent, so a clean close arrives, not a reset.
    assert_eq!(one_more.read(&mut [0]).await.unwrap(), 0);
    drop(open.pop());
    port.shutdown.cancel();
    let error = open[0].simple_query("SHOW VERSION").await.unwrap_err();
    assert!(error.code().is_none(), "{error}");
}
