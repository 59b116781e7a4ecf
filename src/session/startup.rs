//! The startup message's parameters.

use std::collections::BTreeMap;

use super::options::apply_options;
use super::settings::{SettingValue, Settings};
use super::wire::BodyReader;
use crate::sqlstate::{Report, SqlState};

/// Longest startup packet: MAX_STARTUP_PACKET_LENGTH in src/include/libpq/pqcomm.h.
pub const MAX_STARTUP_LEN: usize = 10_000;

/// Newest minor version of protocol 3 spoken here.
pub const NEWEST_MINOR: u16 = 2;

/// What the first packet of a connection asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    Ssl,
    GssEncryption,
    Cancel { pid: i32, secret: Vec<u8> },
    Startup(Startup),
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// Minor version that both sides speak.
    pub minor: u16,
    /// Whether the client asked for a newer one, or for options that nobody here knows.
    pub unknown_options: Vec<String>,
    pub is_newer: bool,
    pub user: String,
    pub database: String,
    pub is_replication: bool,
    /// Everything else, names folded.
    pub settings: BTreeMap<String, String>,
    /// What is wrong with `options`: to be told to a client that has proved who it is.
    pub fault: Option<Box<Report>>,
}

/// Reads the packet after its length field.
///
/// # Errors
/// As src/backend/tcop/backend_startup.c: 08P01 for a bad layout, 0A000 for another major version, 28000 without a user, 22023
/// for a value of `replication` that is none.
pub fn opening(packet: &[u8]) -> Result<Opening, Report> {
    let mut reader = BodyReader(packet);
    let malformed =
        || Report::new(SqlState::PROTOCOL_VIOLATION, "invalid startup packet layout: expected terminator as last byte");
    let (major, minor) = match (reader.i16(), reader.i16()) {
        (Some(major), Some(minor)) => (major.cast_unsigned(), minor.cast_unsigned()),
        _ => return Err(malformed()),
    };
    match (major, minor) {
        (1234, 5679) => Ok(Opening::Ssl),
        (1234, 5680) => Ok(Opening::GssEncryption),
        (1234, 5678) => {
            // Without a key it is nobody's: as any other wrong one it gets no answer.
            let pid = reader.i32().unwrap_or(0);
            Ok(Opening::Cancel { pid, secret: reader.0.to_vec() })
        }
        (3, minor) => startup(minor, reader, malformed()).map(Opening::Startup),
        (major, minor) => Err(unsupported_protocol(major, minor)),
    }
}

/// 0A000 for a version that is not spoken, which a request that comes at the wrong time is taken for.
pub fn unsupported_protocol(major: u16, minor: u16) -> Report {
    let message = format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.{NEWEST_MINOR}");
    Report::new(SqlState::FEATURE_NOT_SUPPORTED, message)
}

fn startup(minor: u16, mut reader: BodyReader<'_>, malformed: Report) -> Result<Startup, Report> {
    let mut startup = Startup {
        minor: minor.min(NEWEST_MINOR),
        is_newer: minor > NEWEST_MINOR,
        unknown_options: Vec::new(),
        user: String::new(),
        database: String::new(),
        is_replication: false,
        settings: BTreeMap::new(),
        fault: None,
    };
    // 3.1 was never released; what asks for it gets 3.0.
    if minor == 1 {
        startup.minor = 0;
    }
    let (mut options, mut named) = (String::new(), BTreeMap::new());
    loop {
        let name = reader.c_string().ok_or_else(|| malformed.clone())?;
        if name.is_empty() {
            break;
        }
        let value = reader.c_string().ok_or_else(|| malformed.clone())?;
        let (name, value) = (String::from_utf8_lossy(name).into_owned(), String::from_utf8_lossy(value).into_owned());
        match name.as_str() {
            "user" => startup.user = value,
            "database" => startup.database = value,
            "options" => options = value,
            "replication" => startup.is_replication = is_replication(&value)?,
            _ if name.starts_with("_pq_.") => startup.unknown_options.push(name),
            _ => drop(named.insert(name.to_ascii_lowercase(), value)),
        }
    }
    if !reader.0.is_empty() {
        return Err(malformed);
    }
    if startup.user.is_empty() {
        return Err(Report::new(SqlState::INVALID_AUTHORIZATION, "no PostgreSQL user name specified in startup packet"));
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    startup.fault = apply_options(&options, &mut startup.settings).err().map(Box::new);
    // What has a parameter of its own is set after what stands in `options`.
    startup.settings.append(&mut named);
    Ok(startup)
}

/// What the value of `replication` asks for: a boolean as `parse_bool` reads it, or "database".
fn is_replication(value: &str) -> Result<bool, Report> {
    let lower = value.to_ascii_lowercase();
    let begins = |word: &str, n_least: usize| lower.len() >= n_least && word.starts_with(&lower);
    if value == "database" || begins("true", 1) || begins("yes", 1) || begins("on", 2) || lower == "1" {
        return Ok(true);
    }
    if begins("false", 1) || begins("no", 1) || begins("off", 2) || lower == "0" {
        return Ok(false);
    }
    let message = format!("invalid value for parameter \"replication\": \"{value}\"");
    Err(Report::new(SqlState::INVALID_PARAMETER_VALUE, message)
        .with_hint("Valid values are: \"false\", 0, \"true\", 1, \"database\"."))
}

impl Startup {
    /// The settings to replay on backends.
    pub fn session_settings(&self) -> Settings {
        Settings::new(self.settings.iter().map(|(name, value)| (name.clone(), SettingValue::Text(value.clone()))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(major: i16, minor: i16, body: &[u8]) -> Vec<u8> {
        [&major.to_be_bytes()[..], &minor.to_be_bytes(), body].concat()
    }

    #[test]
    fn startup_reads_options_as_the_server_does() {
        let body = b"user\0ann\0geqo\0on\0options\0-c geqo=off --work-mem=4\\ MB -csearch_path=a\0_pq_.x\0y\0TimeZone\0UTC\0\0";
        let Ok(Opening::Startup(startup)) = opening(&packet(3, 2, body)) else { panic!() };
        assert_eq!((startup.user.as_str(), startup.database.as_str(), startup.minor), ("ann", "ann", 2));
        assert_eq!(startup.unknown_options, ["_pq_.x"]);
        let pairs: Vec<_> = startup.settings.iter().map(|(n, v)| format!("{n}={v}")).collect();
        assert_eq!(pairs, ["geqo=on", "search_path=a", "timezone=UTC", "work_mem=4 MB"]);
    }

    #[test]
    fn newer_versions_are_negotiated_and_others_refused() {
        let Ok(Opening::Startup(startup)) = opening(&packet(3, 9999, b"user\0a\0\0")) else { panic!() };
        assert_eq!((startup.minor, startup.is_newer), (2, true));
        assert_eq!(opening(&packet(2, 0, b"")).unwrap_err().sqlstate, SqlState::FEATURE_NOT_SUPPORTED);
        assert_eq!(opening(&packet(3, 0, b"user\0a")).unwrap_err().sqlstate, SqlState::PROTOCOL_VIOLATION);
        assert_eq!(opening(&packet(3, 0, b"\0")).unwrap_err().sqlstate, SqlState::INVALID_AUTHORIZATION);
        assert_eq!(opening(&packet(1234, 5679, b"")), Ok(Opening::Ssl));
    }
}
