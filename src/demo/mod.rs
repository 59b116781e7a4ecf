//! `trunkline demo`: three shards with replicas, the proxy, an analytics shop loaded through it, six questions and answers.

mod answer;
mod error;
mod layout;
mod load;
pub mod postgres;
mod proxy;
mod questions;
mod route;
mod rows;
mod shards;

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::PathBuf;

use tokio::signal::unix::{SignalKind, signal};
use tokio_postgres::{Client, NoTls};

pub use error::DemoError;

use answer::Answer;
use layout::{DATABASE, DEFAULT_PORT_BASE, Layout};
use postgres::{Installation, SUPERUSER};
use proxy::Proxy;
use questions::QUESTIONS;
use route::Planner;
use rows::{ROWS_VERSION, Shop};
use shards::Shards;

/// Flags of `trunkline demo`.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoOptions {
    /// Print the answers, check them, and stop
    #[arg(long)]
    pub once: bool,
    /// Make servers and rows anew
    #[arg(long)]
    pub fresh: bool,
    /// Where servers, rows and the configuration are kept
    #[arg(long, default_value = ".demo")]
    pub dir: PathBuf,
    /// The proxy's port; the admin port is one above, the servers' begin nine above
    #[arg(long, hide = true, default_value_t = DEFAULT_PORT_BASE)]
    pub port_base: u16,
}

/// Runs the demo until SIGINT or SIGTERM, or with `once` until the answers are printed.
///
/// To be run on a current-thread runtime. Everything that it started has ended when it returns.
///
/// # Errors
/// A sentence for standard error; with `once` also a wrong answer.
pub async fn run(options: &DemoOptions) -> Result<(), DemoError> {
    let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut is_told_to_stop = std::pin::pin!(async move {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
    });
    let installation = Installation::find()?;
    let layout = Layout::new(&options.dir, options.port_base, installation.account.as_ref())?;
    let _lock = lock(&layout)?;
    let running = tokio::select! {
        running = start(options, &installation, &layout) => running?,
        () = &mut is_told_to_stop => return Err(DemoError::Interrupted),
    };
    let shown = tokio::select! {
        shown = show(options, &layout, running.shop) => shown,
        () = &mut is_told_to_stop => Ok(()),
    };
    if shown.is_ok() && !options.once {
        is_told_to_stop.await;
    }
    say("\nStopping.")?;
    running.proxy.stop().await;
    running.shards.stop().await;
    shown
}

/// What has been started. Fields are dropped in this order.
struct Running {
    proxy: Proxy,
    shards: Shards,
    shop: Shop,
}

/// One demo per directory: the lock goes with the process.
fn lock(layout: &Layout) -> Result<File, DemoError> {
    std::fs::create_dir_all(&layout.dir)?;
    let file = File::create(layout.lock_file())?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(DemoError::AlreadyRunning(layout.dir.clone())),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

async fn start(options: &DemoOptions, installation: &Installation, layout: &Layout) -> Result<Running, DemoError> {
    shards::stop_leftovers(layout).await?;
    if let Some(port) = layout.first_used_port() {
        return Err(DemoError::PortInUse(port));
    }
    let loaded = loaded_at(layout).filter(|_| !options.fresh && shards::are_present(installation, layout));
    let shards = match loaded {
        Some(_) => {
            say("Starting the servers of the last run (--fresh makes new ones).")?;
            Shards::start(installation, layout).await?
        }
        None => {
            say(&format!("Making three shards, each a primary and a replica, in {}.", layout.servers_dir.display()))?;
            remove_old(layout)?;
            Shards::create(installation, layout).await?
        }
    };
    std::fs::write(layout.config_file(), layout.config())?;
    let proxy = Proxy::start(&layout.config_file()).await?;
    let shop = match loaded {
        Some(made_at) => Shop { made_at },
        None => load_rows(layout).await?,
    };
    Ok(Running { proxy, shards, shop })
}

async fn load_rows(layout: &Layout) -> Result<Shop, DemoError> {
    let shop = Shop { made_at: jiff::Timestamp::now().as_second() * 1_000_000 };
    let n_rows = with_client(layout, async |client| load::load(client, shop).await).await?;
    std::fs::write(layout.marker_file(), format!("{ROWS_VERSION} {}\n", shop.made_at))?;
    say(&format!("Loaded {n_rows} rows through the proxy."))?;
    Ok(shop)
}

/// When the rows that are there were made; `None` without a complete load of this version's rows.
fn loaded_at(layout: &Layout) -> Option<i64> {
    let text = std::fs::read_to_string(layout.marker_file()).ok()?;
    let (version, made_at) = text.trim().split_once(' ')?;
    (version == ROWS_VERSION.to_string()).then_some(())?;
    made_at.parse().ok()
}

fn remove_old(layout: &Layout) -> Result<(), DemoError> {
    if layout.marker_file().exists() {
        std::fs::remove_file(layout.marker_file())?;
    }
    if layout.servers_dir.exists() {
        std::fs::remove_dir_all(&layout.servers_dir)?;
    }
    Ok(())
}

async fn show(options: &DemoOptions, layout: &Layout, shop: Shop) -> Result<(), DemoError> {
    let planner = Planner::load(&layout.config_file()).await?;
    with_client(layout, async |client| {
        for (idx, question) in QUESTIONS.into_iter().enumerate() {
            let asked_at = jiff::Timestamp::now().as_microsecond();
            let answer = Answer::to(client, question.sql()).await?;
            let answered_at = jiff::Timestamp::now().as_microsecond();
            say(&format!("\n{}. {}\n\n{};\n\n{}\n", idx + 1, question.title(), question.sql(), answer.to_table()))?;
            say(&format!("  -> {}", planner.route(question.sql())))?;
            // A row may leave the last three days while the question is under way.
            let is_right = [asked_at, answered_at].iter().any(|now| answer.has_rows(&question.expected(shop, *now)));
            if options.once && !is_right {
                let expected = Answer { columns: answer.columns.clone(), rows: question.expected(shop, answered_at) };
                return Err(DemoError::WrongAnswer {
                    sql: question.sql(),
                    got: answer.to_table(),
                    expected: expected.to_table(),
                });
            }
        }
        Ok(())
    })
    .await?;
    let (port, admin) = (layout.proxy_port(), layout.admin_port());
    say(&format!("\n  psql -h 127.0.0.1 -p {port} -U {SUPERUSER} {DATABASE}"))?;
    say(&format!("  psql -h 127.0.0.1 -p {admin} -U admin trunkline -c 'SHOW SHARDS'    curl http://127.0.0.1:{admin}/metrics"))?;
    if !options.once {
        say("\nRunning until Ctrl-C.")?;
    }
    Ok(())
}

/// Calls `work` with a connection to the proxy, which is driven meanwhile.
async fn with_client<T>(layout: &Layout, work: impl AsyncFnOnce(&Client) -> Result<T, DemoError>) -> Result<T, DemoError> {
    let target = format!("host=127.0.0.1 port={} user={SUPERUSER} dbname={DATABASE}", layout.proxy_port());
    let (client, connection) = tokio_postgres::connect(&target, NoTls).await?;
    tokio::select! {
        done = work(&client) => done,
        ended = connection => Err(ended.err().map_or(DemoError::ConnectionEnded, DemoError::from)),
    }
}

fn say(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{text}")
}
