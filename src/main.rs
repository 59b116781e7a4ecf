//! The `trunkline` command: flags and wiring.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use trunkline::config::{self, Config, Fault};
use trunkline::demo::DemoOptions;
use trunkline::server::{self, Notice, Running, Supervisor};

/// EX_USAGE of sysexits.h: the configuration or the command line is wrong.
const EXIT_USAGE: u8 = 64;

#[derive(Parser)]
#[command(name = "trunkline", version, about = "A Postgres proxy that makes many Postgres servers look like one")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serves clients until SIGTERM or SIGINT; SIGHUP reads the configuration again
    Run {
        /// The configuration file
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Reads a configuration and says all that is wrong with it, or what it describes
    Check {
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Shows the route and the per-shard statements of a statement, without any server
    Explain {
        #[arg(short, long, value_name = "FILE")]
        config: PathBuf,
        /// The database, where the configuration has several
        #[arg(short, long, value_name = "NAME")]
        database: Option<String>,
        sql: String,
    },
    /// Three shards with replicas, data and the proxy, on this machine
    Demo(trunkline::demo::DemoOptions),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        }
    };
    // The demo's terminal is for its questions and answers.
    trunkline::observe::init_tracing(if matches!(arguments.command, Command::Demo(_)) { "warn" } else { "info" });
    match arguments.command {
        Command::Run { config } => with_config(&config, |loaded| run(loaded, config.clone())),
        Command::Check { config } => with_config(&config, |loaded| {
            print(&loaded.summary());
            ExitCode::SUCCESS
        }),
        Command::Explain { config, database, sql } => with_config(&config, |loaded| explain(&loaded, database.as_deref(), &sql)),
        Command::Demo(options) => demo(&options),
    }
}

fn with_config(path: &Path, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match config::load(path) {
        Ok(config) => then(config),
        Err(faults) => {
            for fault in &faults {
                say(&Fault::to_string(fault));
            }
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Writes the answer of a command to standard output. Whoever has stopped reading, as `head` does, has what was wanted.
fn print(text: &str) {
    drop(writeln!(std::io::stdout().lock(), "{}", text.trim_end()));
}

fn say(text: &str) {
    eprintln!("{text}");
}

/// Runs a command on a runtime of this thread.
fn block_on(command: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(command),
        Err(error) => {
            say(&format!("trunkline: cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config, source: PathBuf) -> ExitCode {
    block_on(async {
        match server::start(config, source).await {
            Ok(running) => {
                for address in running.client_addresses() {
                    say(&format!("trunkline: listening for clients on {address}"));
                }
                say(&format!("trunkline: admin on {}", running.admin_address()));
                until_signal(running).await
            }
            Err(error) => {
                say(&format!("trunkline: {error}"));
                ExitCode::FAILURE
            }
        }
    })
}

fn demo(options: &DemoOptions) -> ExitCode {
    block_on(async {
        match trunkline::demo::run(options).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                say(&format!("trunkline: {error}"));
                ExitCode::FAILURE
            }
        }
    })
}

/// Serves until SIGTERM or SIGINT, then lets transactions end; a second signal ends at once.
async fn until_signal(running: Running) -> ExitCode {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::hangup()));
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else { return ExitCode::FAILURE };
    let supervisor = Supervisor::from_environment();
    supervisor.tell(Notice::Ready);
    let mut watchdog = supervisor.watchdog_interval().map(tokio::time::interval);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                supervisor.tell(Notice::Reloading);
                match running.reload().await {
                    Ok(words) => say(&format!("trunkline: reloaded: {words}")),
                    Err(faults) => faults.iter().for_each(|fault| say(fault)),
                }
                supervisor.tell(Notice::Ready);
            }
            () = due(&mut watchdog) => if running.is_alive().await {
                supervisor.tell(Notice::Alive);
            },
        }
    }
    supervisor.tell(Notice::Stopping);
    tokio::select! {
        () = running.shutdown() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    ExitCode::SUCCESS
}

/// Ready when the watchdog is to be told; never without one.
async fn due(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn explain(config: &Config, database: Option<&str>, sql: &str) -> ExitCode {
    let found = match database {
        Some(name) => config.databases.get(name),
        None if config.databases.len() == 1 => config.databases.values().next(),
        None => None,
    };
    let Some(found) = found else {
        say("trunkline: name one of the configuration's databases with --database");
        return ExitCode::from(EXIT_USAGE);
    };
    print(&trunkline::plan::explain_offline(&found.topology, sql, trunkline::executor::now_micros()));
    ExitCode::SUCCESS
}
