//! `trunkline.…`: settings that the proxy itself acts on. They are kept and replayed as any other setting of the session, under
//! the text that SHOW prints for them; this is what their values mean.
//!
//! Words and messages as in src/backend/utils/misc/guc.c: `parse_and_validate_value`.

use super::settings::SettingValue;
use crate::sql::{TokenKind, fold_identifier, string_text, tokens};
use crate::sqlstate::{Report, SqlState};

/// What the names of these settings begin with.
pub const PREFIX: &str = "trunkline.";

/// A setting of the proxy's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnSetting {
    Shard,
    Key,
    AllowScatter,
    ExplainRoute,
    MaxGatherBytes,
    PartialResults,
}

/// What becomes of a statement that goes to more than one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllowScatter {
    #[default]
    On,
    /// It runs, and the client gets a NOTICE.
    Notice,
    /// It is refused.
    Off,
}

/// What the configuration allows and presets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnBounds {
    pub allow_scatter: AllowScatter,
    /// What a session may lower.
    pub max_gather_bytes: u64,
    /// Whether a session may ask for partial results.
    pub may_be_partial: bool,
}

impl OwnSetting {
    pub const ALL: [Self; 6] =
        [Self::AllowScatter, Self::ExplainRoute, Self::Key, Self::MaxGatherBytes, Self::PartialResults, Self::Shard];

    pub fn name(self) -> &'static str {
        match self {
            Self::Shard => "trunkline.shard",
            Self::Key => "trunkline.key",
            Self::AllowScatter => "trunkline.allow_scatter",
            Self::ExplainRoute => "trunkline.explain_route",
            Self::MaxGatherBytes => "trunkline.max_gather_bytes",
            Self::PartialResults => "trunkline.partial_results",
        }
    }

    /// The setting of this name, in lower case.
    ///
    /// # Errors
    /// 42704, with the names that there are.
    pub fn named(name: &str) -> Result<Self, Report> {
        Self::ALL.into_iter().find(|setting| setting.name() == name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Report::new(SqlState::UNDEFINED_OBJECT, format!("unrecognized configuration parameter \"{name}\""))
                .with_hint(format!("The proxy's own settings are {known}."))
        })
    }

    /// The value as SHOW prints it. Whether there is such a shard is not looked at.
    ///
    /// # Errors
    /// 22023 for what is no value of the setting, 42501 for one that the configuration forbids.
    pub fn canonical(self, value: &str, bounds: &OwnBounds) -> Result<String, Report> {
        match self {
            Self::Shard | Self::Key => Ok(value.to_owned()),
            Self::AllowScatter => AllowScatter::of(value)
                .map(|word| word.as_str().to_owned())
                .ok_or_else(|| invalid(self.name(), value).with_hint("Available values: on, notice, off.")),
            Self::ExplainRoute => self.boolean(value).map(|is_on| on_off(is_on).to_owned()),
            Self::PartialResults => match self.boolean(value)? {
                true if !bounds.may_be_partial => Err(forbidden(self.name())),
                is_on => Ok(on_off(is_on).to_owned()),
            },
            Self::MaxGatherBytes => {
                let n_bytes = bytes(value).map_err(|hint| {
                    let report = invalid(self.name(), value);
                    match hint {
                        Some(hint) => report.with_hint(hint),
                        None => report,
                    }
                })?;
                if n_bytes < 1.0 || n_bytes > bounds.max_gather_bytes as f64 {
                    return Err(self.out_of_range(n_bytes, bounds));
                }
                Ok(shown_bytes(n_bytes as u64))
            }
        }
    }

    fn boolean(self, value: &str) -> Result<bool, Report> {
        truth(value).ok_or_else(|| {
            Report::new(SqlState::INVALID_PARAMETER_VALUE, format!("parameter \"{}\" requires a Boolean value", self.name()))
        })
    }

    fn out_of_range(self, n_bytes: f64, bounds: &OwnBounds) -> Report {
        let message = format!(
            "{n_bytes} B is outside the valid range for parameter \"{}\" (1 B .. {} B)",
            self.name(),
            bounds.max_gather_bytes
        );
        Report::new(SqlState::INVALID_PARAMETER_VALUE, message)
            .with_hint("A session may only lower what query.max_gather_bytes of the configuration allows.")
    }

    /// What holds where the session has set nothing, as SHOW prints it.
    pub fn preset(self, bounds: &OwnBounds) -> String {
        match self {
            Self::Shard | Self::Key => String::new(),
            Self::AllowScatter => bounds.allow_scatter.as_str().to_owned(),
            Self::ExplainRoute | Self::PartialResults => on_off(false).to_owned(),
            Self::MaxGatherBytes => shown_bytes(bounds.max_gather_bytes),
        }
    }
}

impl AllowScatter {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Notice => "notice",
            Self::Off => "off",
        }
    }

    /// The word, in any case; other words for true and false are taken as well.
    pub fn of(word: &str) -> Option<Self> {
        if word.eq_ignore_ascii_case("notice") {
            return Some(Self::Notice);
        }
        truth(word).map(|is_on| if is_on { Self::On } else { Self::Off })
    }
}

/// What the settings of a session come to, where any of them is not as the proxy has it by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnSettings {
    pub shard: Option<String>,
    /// One value for each column, with commas between.
    pub key: Option<String>,
    pub allow_scatter: AllowScatter,
    pub explains_route: bool,
    pub max_gather_bytes: u64,
    pub is_partial: bool,
}

impl OwnSettings {
    /// From the values of a session. A value that no longer fits the configuration is brought to what does.
    pub fn of<'a>(value_of: impl Fn(&'static str) -> Option<&'a SettingValue>, bounds: &OwnBounds) -> Option<Box<Self>> {
        let text_of = |setting: OwnSetting| setting.canonical(value_of(setting.name())?.text(), bounds).ok();
        let is_on = |setting| text_of(setting).is_some_and(|text| text == "on");
        let own = Self {
            shard: text_of(OwnSetting::Shard).filter(|name| !name.is_empty()),
            key: text_of(OwnSetting::Key).filter(|key| !key.is_empty()),
            allow_scatter: text_of(OwnSetting::AllowScatter)
                .and_then(|word| AllowScatter::of(&word))
                .unwrap_or(bounds.allow_scatter),
            explains_route: is_on(OwnSetting::ExplainRoute),
            max_gather_bytes: text_of(OwnSetting::MaxGatherBytes)
                .and_then(|text| bytes(&text).ok())
                .map_or(bounds.max_gather_bytes, |n_bytes| n_bytes as u64),
            is_partial: is_on(OwnSetting::PartialResults),
        };
        (!own.is_usual(bounds)).then(|| Box::new(own))
    }

    fn is_usual(&self, bounds: &OwnBounds) -> bool {
        self.shard.is_none()
            && self.key.is_none()
            && self.allow_scatter == AllowScatter::On
            && !self.explains_route
            && !self.is_partial
            && self.max_gather_bytes == bounds.max_gather_bytes
    }
}

/// The one value that stands after TO in a SET statement which the grammar has taken; `None`: DEFAULT.
///
/// # Errors
/// 22023 for a list of several; 42601 for a string with escapes that are none.
pub fn argument(name: &str, sql: &str, has_standard_strings: bool) -> Result<Option<String>, Report> {
    let all: Vec<_> = tokens(sql.as_bytes(), has_standard_strings).collect();
    if all.iter().any(|token| token.is_punctuation(b',')) {
        return Err(Report::new(SqlState::INVALID_PARAMETER_VALUE, format!("SET {name} takes only one argument")));
    }
    let [.., last] = all.as_slice() else { return Ok(None) };
    let text = sql.get(last.start..last.end).unwrap_or_default();
    let unsigned = match last.kind {
        TokenKind::Word if text.eq_ignore_ascii_case("default") => return Ok(None),
        TokenKind::Word | TokenKind::QuotedIdentifier => fold_identifier(text).into_owned(),
        TokenKind::String(_) => {
            let syntax = || Report::new(SqlState::SYNTAX_ERROR, format!("the value of {name} is not understood"));
            string_text(text).ok_or_else(syntax)?.into_owned()
        }
        _ => text.to_owned(),
    };
    let is_negative = all.first().is_some_and(|first| first.text(sql.as_bytes()) == b"-");
    Ok(Some(if is_negative { format!("-{unsigned}") } else { unsigned }))
}

fn invalid(name: &str, value: &str) -> Report {
    Report::new(SqlState::INVALID_PARAMETER_VALUE, format!("invalid value for parameter \"{name}\": \"{value}\""))
}

fn forbidden(name: &str) -> Report {
    Report::new(SqlState::INSUFFICIENT_PRIVILEGE, format!("permission denied to set parameter \"{name}\""))
        .with_hint("The configuration has query.allow_partial_results = false.")
}

fn on_off(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// A boolean as Postgres reads it: `parse_bool_with_len` in src/backend/utils/adt/bool.c.
pub(super) fn truth(text: &str) -> Option<bool> {
    let text = text.to_ascii_lowercase();
    let is_prefix = |word: &str| !text.is_empty() && word.starts_with(text.as_str());
    match text.as_str() {
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        _ if is_prefix("true") || is_prefix("yes") => Some(true),
        _ if is_prefix("false") || is_prefix("no") => Some(false),
        _ => None,
    }
}

const UNITS: [(&str, f64); 5] =
    [("TB", 1_099_511_627_776.0), ("GB", 1_073_741_824.0), ("MB", 1_048_576.0), ("kB", 1_024.0), ("B", 1.0)];

/// A number of bytes, perhaps with a unit: `parse_int` of a setting whose unit is the byte. The error is a hint, if there is one.
fn bytes(text: &str) -> Result<f64, Option<&'static str>> {
    let text = text.trim();
    let is_of_number = |(at, c): (usize, char)| c.is_ascii_digit() || c == '.' || (at == 0 && (c == '-' || c == '+'));
    let end = text.char_indices().find(|place| !is_of_number(*place)).map_or(text.len(), |(at, _)| at);
    let (number, unit) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| None)?;
    let factor = match unit.trim() {
        "" => 1.0,
        unit => {
            let known = UNITS.iter().find(|(name, _)| *name == unit);
            known.ok_or(Some("Valid units for this parameter are \"B\", \"kB\", \"MB\", \"GB\", and \"TB\"."))?.1
        }
    };
    Ok((number * factor).round_ties_even())
}

/// As SHOW prints it: in the largest unit that it is whole in.
fn shown_bytes(n_bytes: u64) -> String {
    let fitting = UNITS.iter().find(|(_, factor)| n_bytes > 0 && n_bytes.is_multiple_of(*factor as u64));
    fitting.map_or_else(|| "0".to_owned(), |(unit, factor)| format!("{}{unit}", n_bytes / *factor as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: OwnBounds = OwnBounds { allow_scatter: AllowScatter::On, max_gather_bytes: 256 << 20, may_be_partial: false };

    #[track_caller]
    fn check(setting: OwnSetting, value: &str, expected: &str) {
        let text = match setting.canonical(value, &BOUNDS) {
            Ok(text) => text,
            Err(report) => format!("{report}{}", report.hint.as_ref().map(|hint| format!(" | {hint}")).unwrap_or_default()),
        };
        assert_eq!(text, expected, "{value}");
    }

    #[test]
    fn words_are_postgres_words() {
        check(OwnSetting::AllowScatter, "NOTICE", "notice");
        check(OwnSetting::AllowScatter, "false", "off");
        check(
            OwnSetting::AllowScatter,
            "never",
            "22023: invalid value for parameter \"trunkline.allow_scatter\": \"never\" | Available values: on, notice, off.",
        );
        check(OwnSetting::ExplainRoute, "t", "on");
        check(OwnSetting::ExplainRoute, "", "22023: parameter \"trunkline.explain_route\" requires a Boolean value");
        check(OwnSetting::PartialResults, "off", "off");
    }

    #[test]
    fn what_the_configuration_forbids_is_no_value() {
        let report = OwnSetting::PartialResults.canonical("on", &BOUNDS).unwrap_err();
        assert_eq!(report.to_string(), "42501: permission denied to set parameter \"trunkline.partial_results\"");
        let report = OwnSetting::MaxGatherBytes.canonical("1GB", &BOUNDS).unwrap_err();
        assert_eq!(
            report.to_string(),
            "22023: 1073741824 B is outside the valid range for parameter \"trunkline.max_gather_bytes\" (1 B .. 268435456 B)"
        );
        assert_eq!(OwnSetting::named("trunkline.shards").unwrap_err().sqlstate, SqlState::UNDEFINED_OBJECT);
    }

    #[test]
    fn sizes_are_read_and_shown_with_units() {
        check(OwnSetting::MaxGatherBytes, " 64 MB ", "64MB");
        check(OwnSetting::MaxGatherBytes, "1.5kB", "1536B");
        check(OwnSetting::MaxGatherBytes, "65536", "64kB");
        check(
            OwnSetting::MaxGatherBytes,
            "64mb",
            "22023: invalid value for parameter \"trunkline.max_gather_bytes\": \"64mb\" | Valid units for this parameter are \
             \"B\", \"kB\", \"MB\", \"GB\", and \"TB\".",
        );
        check(OwnSetting::MaxGatherBytes, "much", "22023: invalid value for parameter \"trunkline.max_gather_bytes\": \"much\"");
    }

    #[test]
    fn one_value_stands_after_to() {
        let of = |sql: &str| argument("trunkline.x", sql, true).map_err(|report| report.sqlstate.to_string());
        assert_eq!(of("Notice"), Ok(Some("notice".to_owned())));
        assert_eq!(of("'It''s'"), Ok(Some("It's".to_owned())));
        assert_eq!(of("\"Eu\""), Ok(Some("Eu".to_owned())));
        assert_eq!(of("- 5"), Ok(Some("-5".to_owned())));
        assert_eq!(of("default"), Ok(None));
        assert_eq!(of("a, b"), Err("22023".to_owned()));
    }

    #[test]
    fn usual_settings_are_none() {
        let of = |name: &'static str, value: &str| {
            let value = SettingValue::Text(value.to_owned());
            OwnSettings::of(|asked| (asked == name).then_some(&value), &BOUNDS)
        };
        assert_eq!(of("trunkline.allow_scatter", "on"), None);
        assert_eq!(of("trunkline.max_gather_bytes", "256MB"), None);
        assert_eq!(of("trunkline.max_gather_bytes", "1MB").unwrap().max_gather_bytes, 1 << 20);
        assert_eq!(of("trunkline.shard", "eu").unwrap().shard.as_deref(), Some("eu"));
        assert_eq!(of("trunkline.partial_results", "on"), None, "the configuration forbids it");
    }
}
