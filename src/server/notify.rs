//! Telling systemd how the process is: sd_notify(3), over the datagram socket that NOTIFY_SOCKET names.

use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// What there is to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// Clients are served; a reload that was announced is over.
    Ready,
    /// The configuration is read again.
    Reloading,
    /// No more clients are let in.
    Stopping,
    /// The process and its workers live.
    Alive,
}

/// The way to a supervisor; to nobody where there is none.
#[derive(Debug, Default)]
pub struct Supervisor {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// As the environment names it.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).ok();
        let socket = variable("NOTIFY_SOCKET").and_then(|path| {
            let address = address(&path);
            address.and_then(|address| Ok((UnixDatagram::unbound()?, address))).map_err(|error| warn(&error)).ok()
        });
        let watchdog = watchdog(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref(), std::process::id());
        Self { watchdog: watchdog.filter(|_| socket.is_some()), socket }
    }

    /// How often [`Notice::Alive`] is to be told: twice as often as the supervisor asks for it. `None`: never.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// Tells it. What cannot be told is logged: the proxy does not depend on it.
    pub fn tell(&self, notice: Notice) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(words(notice).as_bytes(), address)
        {
            warn(&error);
        }
    }
}

fn warn(error: &std::io::Error) {
    tracing::warn!(%error, "the supervisor cannot be told");
}

fn words(notice: Notice) -> String {
    match notice {
        Notice::Ready => "READY=1".to_owned(),
        Notice::Reloading => {
            // So that systemd can tell this reload from an earlier one: Type=notify-reload in systemd.service(5).
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
            format!("RELOADING=1\nMONOTONIC_USEC={}", now.tv_sec * 1_000_000 + now.tv_nsec / 1_000)
        }
        Notice::Stopping => "STOPPING=1".to_owned(),
        Notice::Alive => "WATCHDOG=1".to_owned(),
    }
}

/// A path, or with `@` before it a name in Linux's abstract namespace.
fn address(path: &str) -> std::io::Result<SocketAddr> {
    match path.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name),
        _ => SocketAddr::from_pathname(path),
    }
}

/// The limit of the supervisor's patience, where it is meant for this process.
fn watchdog(micros: Option<&str>, pid: Option<&str>, own_pid: u32) -> Option<Duration> {
    let micros = micros?.parse().ok().filter(|micros| *micros > 0)?;
    let is_meant = pid.is_none_or(|pid| pid.parse() == Ok(own_pid));
    is_meant.then(|| Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_for_the_process_that_is_named() {
        assert_eq!(watchdog(Some("3000000"), Some("7"), 7), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000"), None, 7), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000"), Some("8"), 7), None);
        assert_eq!((watchdog(None, None, 7), watchdog(Some("0"), None, 7)), (None, None));
    }

    #[test]
    fn a_reload_is_told_with_its_time() {
        let told = words(Notice::Reloading);
        let micros = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(micros.parse::<i64>().unwrap() > 0, "{told}");
    }
}
