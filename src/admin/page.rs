//! The page at `/`: the shards at a glance.

use super::AdminState;
use crate::health::{Board, NodeStatus};

/// The page, in HTML.
pub(super) fn render(state: &AdminState) -> String {
    let ready = state.unready_reason().map_or_else(|| "ready".to_owned(), |reason| format!("not ready: {reason}"));
    let view = state.current();
    let rows: String = view
        .databases
        .iter()
        .flat_map(|database| {
            let board = &database.board;
            board.snapshot().into_iter().map(|node| row(&database.topology.database, board, &node))
        })
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let (n_clients, ready) = (state.registry.n_clients(), escaped(&ready));
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Trunkline</title>\n\
         <style>body{{font-family:sans-serif;margin:2em}}td,th{{text-align:left;padding:.2em 1em .2em 0}}</style></head>\n\
         <body><h1>Trunkline {version}</h1>\n<p>{ready}; {n_clients} clients</p>\n\
         <p><a href=\"/metrics\">metrics</a> · <a href=\"/healthz\">healthz</a> · <a href=\"/readyz\">readyz</a></p>\n\
         <table><tr><th>database</th><th>shard</th><th>node</th><th>role</th><th>state</th><th>reads</th><th>fault</th></tr>\n\
         {rows}</table></body></html>\n"
    )
}

fn row(database: &str, board: &Board, node: &NodeStatus) -> String {
    let reads = if board.reader_of(node.shard) == Some(node.node_idx) { "yes" } else { "" };
    let address = node.address.to_string();
    let fault = node.fault.as_deref().unwrap_or_default();
    let cells = [database, &node.shard_name, &address, node.role.as_label(), node.state.as_label(), reads, fault];
    let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
    format!("<tr>{cells}</tr>\n")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
