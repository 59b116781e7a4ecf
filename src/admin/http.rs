//! HTTP for machines and for a glance: one request, one answer, closed.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{AdminState, page};
use crate::health::{NodeRole, NodeState};
use crate::observe::{DatabaseSample, NodeSample, ProcessSample, Scrape, render};
use crate::session::pins::PinReason;

const MAX_HEAD_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
/// The type that Prometheus asks for.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

struct Answer {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

/// What is wanted: `Err` is the answer to a request that is none.
struct Request {
    path: String,
    is_head: bool,
}

/// Answers one request.
pub(super) async fn serve(mut stream: TcpStream, state: &AdminState) -> io::Result<()> {
    let request = match timeout(HEAD_TIMEOUT, read_head(&mut stream)).await {
        Ok(request) => request?,
        Err(_) => Err(Answer::text("408 Request Timeout", "no whole request within 5 seconds\n")),
    };
    let (answer, is_head) = match request {
        Ok(request) => (route(&request.path, state), request.is_head),
        Err(answer) => (answer, false),
    };
    timeout(WRITE_TIMEOUT, write_answer(&mut stream, &answer, is_head)).await.map_err(io::Error::from)?
}

fn route(path: &str, state: &AdminState) -> Answer {
    match path {
        "/" => Answer { status: "200 OK", content_type: HTML, body: page::render(state) },
        "/metrics" => Answer { status: "200 OK", content_type: METRICS, body: metrics(state) },
        "/healthz" => Answer::text("200 OK", "alive\n"),
        "/readyz" => match state.unready_reason() {
            None => Answer::text("200 OK", "ready\n"),
            Some(reason) => Answer::text("503 Service Unavailable", format!("not ready: {reason}\n")),
        },
        _ => Answer::text("404 Not Found", "there are /, /metrics, /healthz and /readyz\n"),
    }
}

async fn read_head(stream: &mut TcpStream) -> io::Result<Result<Request, Answer>> {
    let mut head = BytesMut::with_capacity(1024);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(request) = parse_head(&head) {
            return Ok(request);
        }
        if head.len() >= MAX_HEAD_BYTES {
            return Ok(Err(Answer::text("431 Request Header Fields Too Large", "the request's head is above 8 KiB\n")));
        }
    }
}

/// `None` when more bytes are needed.
fn parse_head(head: &[u8]) -> Option<Result<Request, Answer>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(httparse::Status::Partial) => None,
        Ok(httparse::Status::Complete(_)) => {
            let target = parsed.path.unwrap_or_default();
            let path = target.split(['?', '#']).next().unwrap_or_default().to_owned();
            Some(match parsed.method {
                Some("GET") => Ok(Request { path, is_head: false }),
                Some("HEAD") => Ok(Request { path, is_head: true }),
                _ => Err(Answer::text("405 Method Not Allowed", "only GET and HEAD\n")),
            })
        }
        Err(fault) => Some(Err(Answer::text("400 Bad Request", format!("not an HTTP request: {fault}\n")))),
    }
}

async fn write_answer(stream: &mut TcpStream, answer: &Answer, is_head: bool) -> io::Result<()> {
    let Answer { status, content_type, body } = answer;
    let allow = if status.starts_with("405") { "Allow: GET, HEAD\r\n" } else { "" };
    let n_bytes = body.len();
    let mut text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {n_bytes}\r\n{allow}\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    );
    if !is_head {
        text.push_str(body);
    }
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // What the client still sends is read away, within a bound: closing over unread bytes would cut its answer off.
    let mut rest = [0; 4096];
    for _ in 0..16 {
        if stream.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

fn metrics(state: &AdminState) -> String {
    let view = state.current();
    let clients = state.registry.clients();
    let databases: Vec<_> = view
        .databases
        .iter()
        .map(|database| DatabaseSample {
            database: &database.topology.database,
            n_clients: clients.iter().filter(|client| *client.database == *database.topology.database).count(),
            n_silent: clients
                .iter()
                .filter(|client| *client.database == *database.topology.database && client.is_silent())
                .count(),
            n_pinned: PinReason::ALL.map(|reason| {
                let of_database = clients.iter().filter(|client| *client.database == *database.topology.database);
                of_database.filter(|client| client.pins().contains(reason)).count()
            }),
            counters: &database.counters,
        })
        .collect();
    let nodes: Vec<_> = view
        .databases
        .iter()
        .flat_map(|database| database.board.snapshot().into_iter().map(|node| (&database.topology.database, node)))
        .map(|(database, node)| NodeSample {
            database: database.clone(),
            shard: node.shard_name,
            node: node.address.to_string(),
            is_up: node.state == NodeState::Up,
            is_primary: node.role == NodeRole::Primary,
            lsn: node.lsn,
        })
        .collect();
    let started_at_seconds = state.started_at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let version = env!("CARGO_PKG_VERSION");
    render(&Scrape {
        process: ProcessSample { version, started_at_seconds, counters: &state.registry.process },
        databases: &databases,
        pools: &(state.pools)(),
        nodes: &nodes,
    })
}

impl Answer {
    fn text(status: &'static str, body: impl Into<String>) -> Self {
        Self { status, content_type: TEXT, body: body.into() }
    }
}
