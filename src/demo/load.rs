//! Loading the demo's rows through the proxy, as any application would.

use std::io::{IsTerminal, Write};
use std::pin::pin;

use bytes::Bytes;
use futures_util::SinkExt;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_postgres::Client;

use super::DemoError;
use super::rows::{COUNTRIES, Shop, TableRows, insert_countries};

/// Of one CopyData message, about.
const CHUNK_BYTES: usize = 32 * 1024;

/// Loads every table of `shop`: COPY per table, `countries` by one INSERT of many rows. Returns the number of rows.
///
/// # Errors
/// What the proxy answers. Rows of tables loaded before stay; the caller starts anew.
pub(super) async fn load(client: &Client, shop: Shop) -> Result<u64, DemoError> {
    let tables = shop.tables();
    let n_rows = tables.iter().map(|t| t.n_rows).sum::<u64>() + COUNTRIES.len() as u64;
    let progress = Progress::start(n_rows);
    let n_countries = client.execute(&insert_countries(), &[]).await?;
    // A reference table is counted once, however many copies are written.
    check_count("countries", n_countries, COUNTRIES.len() as u64)?;
    progress.add(n_countries);
    for table in tables {
        let (name, expected) = (table.table, table.n_rows);
        check_count(name, copy(client, table, &progress).await?, expected)?;
        progress.finish_table(name, expected)?;
    }
    progress.finish();
    Ok(n_rows)
}

async fn copy(client: &Client, table: TableRows, progress: &Progress) -> Result<u64, DemoError> {
    let sink = client.copy_in::<_, Bytes>(&format!("COPY {} ({}) FROM STDIN", table.table, table.columns)).await?;
    let mut sink = pin!(sink);
    let mut chunk = String::with_capacity(CHUNK_BYTES + 1024);
    let mut n_lines = 0;
    for line in table.lines {
        chunk.push_str(&line);
        n_lines += 1;
        if chunk.len() >= CHUNK_BYTES {
            sink.send(Bytes::from(std::mem::take(&mut chunk))).await?;
            progress.add(n_lines);
            n_lines = 0;
        }
    }
    sink.send(Bytes::from(chunk)).await?;
    progress.add(n_lines);
    Ok(sink.finish().await?)
}

fn check_count(table: &'static str, counted: u64, expected: u64) -> Result<(), DemoError> {
    if counted == expected { Ok(()) } else { Err(DemoError::WrongCount { table, counted, expected }) }
}

/// A bar on a terminal, a line per table elsewhere.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
}

impl Progress {
    fn start(n_rows: u64) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(n_rows) } else { ProgressBar::hidden() };
        let style = ProgressStyle::with_template("loading through the proxy [{bar:40}] {pos}/{len} rows, {per_sec}");
        if let Ok(style) = style {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar, is_terminal }
    }

    fn add(&self, n_rows: u64) {
        self.bar.inc(n_rows);
    }

    fn finish_table(&self, table: &str, n_rows: u64) -> Result<(), DemoError> {
        if !self.is_terminal {
            writeln!(std::io::stderr(), "loaded {table}: {n_rows} rows")?;
        }
        Ok(())
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
