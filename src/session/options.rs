//! The startup parameter `options`: command-line switches of a server process.
//!
//! As src/backend/utils/init/postinit.c, `pg_split_opts`, and src/backend/tcop/postgres.c, `process_postgres_switches`.

use std::collections::BTreeMap;

use crate::sqlstate::{Report, SqlState};

/// Reads the switches into `settings`, under folded names. What is allowed the server says when they are replayed.
///
/// # Errors
/// 42601 for what is no switch, or a switch without its value.
pub(super) fn apply_options(options: &str, settings: &mut BTreeMap<String, String>) -> Result<(), Report> {
    let words = split_options(options);
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut letters = word.strip_prefix('-').filter(|letters| !letters.is_empty()).ok_or_else(|| invalid(word))?;
        while let Some(letter) = letters.chars().next() {
            letters = &letters[letter.len_utf8()..];
            let Some((name, value)) = of_letter(letter).ok_or_else(|| invalid(word))? else {
                continue;
            };
            if let Some(value) = value {
                settings.insert(name.to_owned(), value.to_owned());
                continue;
            }
            let argument = if letters.is_empty() { words.next().ok_or_else(|| invalid(word))? } else { letters };
            letters = "";
            let (name, value) = with_argument(letter, name, argument)?;
            settings.insert(name, value);
        }
    }
    Ok(())
}

/// The setting behind a switch, and its value if it takes no argument; `Some(None)` for a switch that does nothing.
#[allow(clippy::option_option, reason = "no such switch, a switch without effect, a switch with one")]
fn of_letter(letter: char) -> Option<Option<(&'static str, Option<&'static str>)>> {
    Some(Some(match letter {
        '-' | 'c' => ("", None),
        'B' => ("shared_buffers", None),
        'e' => ("datestyle", Some("euro")),
        'F' => ("fsync", Some("false")),
        'f' => ("enable_", None),
        'h' => ("listen_addresses", None),
        'i' => ("listen_addresses", Some("*")),
        'k' => ("unix_socket_directories", None),
        'l' => ("ssl", Some("true")),
        'N' => ("max_connections", None),
        'O' => ("allow_system_table_mods", Some("true")),
        'P' => ("ignore_system_indexes", Some("true")),
        'p' => ("port", None),
        'S' => ("work_mem", None),
        's' => ("log_statement_stats", Some("true")),
        't' => ("log_", None),
        'W' => ("post_auth_delay", None),
        'n' => return Some(None),
        _ => return None,
    }))
}

fn with_argument(letter: char, name: &str, argument: &str) -> Result<(String, String), Report> {
    let switched = |name: Option<&str>, value: &str| name.map(|name| (name.to_owned(), value.to_owned()));
    match letter {
        '-' | 'c' => {
            let dashes = if letter == 'c' { "-c " } else { "--" };
            let missing = || Report::new(SqlState::SYNTAX_ERROR, format!("{dashes}{argument} requires a value"));
            let (name, value) = argument.split_once('=').ok_or_else(missing)?;
            Ok((name.to_ascii_lowercase().replace('-', "_"), value.to_owned()))
        }
        'f' => switched(plan_of(argument), "false").ok_or_else(|| invalid(argument)),
        't' => switched(statistics_of(argument), "true").ok_or_else(|| invalid(argument)),
        _ => Ok((name.to_owned(), argument.to_owned())),
    }
}

/// The kind of plan that `-f` forbids: `set_plan_disabling_options`.
fn plan_of(argument: &str) -> Option<&'static str> {
    Some(match argument.bytes().next()? {
        b's' => "enable_seqscan",
        b'i' => "enable_indexscan",
        b'o' => "enable_indexonlyscan",
        b'b' => "enable_bitmapscan",
        b't' => "enable_tidscan",
        b'n' => "enable_nestloop",
        b'm' => "enable_mergejoin",
        b'h' => "enable_hashjoin",
        _ => return None,
    })
}

/// What `-t` logs: `get_stats_option_name`.
fn statistics_of(argument: &str) -> Option<&'static str> {
    Some(match argument.as_bytes() {
        [b'p', b'a', ..] => "log_parser_stats",
        [b'p', b'l', ..] => "log_planner_stats",
        [b'e', ..] => "log_executor_stats",
        _ => return None,
    })
}

fn invalid(word: &str) -> Report {
    Report::new(SqlState::SYNTAX_ERROR, format!("invalid command-line argument for server process: {word}"))
        .with_hint("Try \"postgres --help\" for more information.")
}

/// Words apart by blanks; a backslash takes the next character as it is.
fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() || c == '\x0b' => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(options: &str) -> Result<String, String> {
        let mut settings = BTreeMap::new();
        apply_options(options, &mut settings).map_err(|report| report.to_string())?;
        Ok(settings.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn switches_become_settings() {
        assert_eq!(read("-c geqo=off --work-mem=4\\ MB -csearch_path=a").unwrap(), "geqo=off search_path=a work_mem=4 MB");
        assert_eq!(read("-eS 1024 -fs").unwrap(), "datestyle=euro enable_seqscan=false work_mem=1024");
        assert_eq!(read(" \t\n").unwrap(), "");
        assert_eq!(read("-c a.b= -tpl").unwrap(), "a.b= log_planner_stats=true");
    }

    #[test]
    fn what_is_no_switch_is_refused_in_the_servers_words() {
        let invalid = |word: &str| format!("42601: invalid command-line argument for server process: {word}");
        for (options, word) in [("x", "x"), ("-c", "-c"), ("-z", "-z"), ("-fx", "x"), ("-", "-")] {
            assert_eq!(read(options).unwrap_err(), invalid(word), "{options}");
        }
        assert_eq!(read("-c work_mem").unwrap_err(), "42601: -c work_mem requires a value");
        assert_eq!(read("--work_mem").unwrap_err(), "42601: --work_mem requires a value");
    }
}
