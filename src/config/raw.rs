//! Strict reading of TOML: a value of the wrong type, a missing key and a key that nobody asked for are faults with a line.
//!
//! The document is walked with its spans rather than deserialized, because a derived deserializer stops at the first
//! mistake and this one must tell all of them.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Source;
use super::units::{parse_duration, parse_size};

/// A table whose keys are taken one by one; what is left at [`Section::finish`] is unknown.
#[derive(Debug)]
pub(super) struct Section<'d> {
    source: &'d Source,
    path: String,
    span: Range<usize>,
    entries: Vec<Value<'d>>,
    asked: Vec<&'static str>,
}

/// A value with its place in the file.
#[derive(Debug, Clone)]
pub(super) struct Value<'d> {
    source: &'d Source,
    /// Last part of `path`.
    pub(super) name: String,
    /// Dotted, as messages name it.
    pub(super) path: String,
    key_span: Range<usize>,
    node: &'d Spanned<DeValue<'d>>,
}

impl<'d> Section<'d> {
    pub(super) fn root(source: &'d Source, document: &'d Spanned<DeTable<'d>>) -> Self {
        Self::new(source, String::new(), document.span(), document.get_ref())
    }

    fn new(source: &'d Source, path: String, span: Range<usize>, table: &'d DeTable<'d>) -> Self {
        let mut entries: Vec<_> = table
            .iter()
            .map(|(key, node)| {
                let name = key.get_ref().to_string();
                Value { source, path: joined(&path, &name), name, key_span: key.span(), node }
            })
            .collect();
        // The parser's map is sorted by name; faults and shards come in the order of the file.
        entries.sort_by_key(|entry| entry.key_span.start);
        Self { source, path, span, entries, asked: Vec::new() }
    }

    /// The value of `key`, if the file has it.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value<'d>> {
        self.asked.push(key);
        let entry_idx = self.entries.iter().position(|entry| entry.name == key);
        let entry = entry_idx.map(|idx| self.entries.remove(idx));
        self.source.remember_key(joined(&self.path, key), entry.as_ref().map(|entry| entry.key_span.start));
        entry
    }

    /// The value of a key that must be there.
    pub(super) fn need(&mut self, key: &'static str) -> Option<Value<'d>> {
        let value = self.take(key);
        if value.is_none() {
            self.fault(format!("{}: key \"{key}\" is missing", self.shown_path()));
        }
        value
    }

    /// The table of `key`; an empty one where the file has none.
    pub(super) fn section(&mut self, key: &'static str) -> Self {
        let nothing = Self {
            source: self.source,
            path: joined(&self.path, key),
            span: self.span.clone(),
            entries: Vec::new(),
            asked: Vec::new(),
        };
        self.take(key).and_then(|value| value.table()).unwrap_or(nothing)
    }

    pub(super) fn string(&mut self, key: &'static str) -> Option<String> {
        self.take(key)?.string().map(str::to_owned)
    }

    pub(super) fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.take(key).and_then(|value| value.duration()).unwrap_or(default)
    }

    /// A duration of which zero would make no sense.
    pub(super) fn positive_duration(&mut self, key: &'static str, default: Duration) -> Duration {
        let Some(value) = self.take(key) else { return default };
        match value.duration() {
            Some(Duration::ZERO) => {
                value.fault("must be more than zero");
                default
            }
            duration => duration.unwrap_or(default),
        }
    }

    pub(super) fn size(&mut self, key: &'static str, default: u64) -> u64 {
        let Some(value) = self.take(key) else { return default };
        value.string().and_then(|text| value.understood(parse_size(text))).unwrap_or(default)
    }

    pub(super) fn integer(&mut self, key: &'static str, range: RangeInclusive<u32>, default: u32) -> u32 {
        self.take(key).and_then(|value| value.integer(range)).unwrap_or(default)
    }

    /// A number from 0 to 1.
    pub(super) fn ratio(&mut self, key: &'static str, default: f64) -> f64 {
        let Some(value) = self.take(key) else { return default };
        let number = match value.node.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => integer.as_str().parse().ok(),
            _ => None,
        };
        let ratio = number.filter(|ratio: &f64| (0.0..=1.0).contains(ratio));
        if ratio.is_none() {
            value.fault("must be a number from 0 to 1");
        }
        ratio.unwrap_or(default)
    }

    pub(super) fn boolean(&mut self, key: &'static str) -> bool {
        self.boolean_or(key, false)
    }

    pub(super) fn boolean_or(&mut self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.take(key) else { return default };
        match value.node.get_ref() {
            DeValue::Boolean(boolean) => *boolean,
            _ => {
                value.fault("must be true or false");
                default
            }
        }
    }

    /// Every entry in the order of the file, for tables whose keys are names.
    pub(super) fn into_entries(self) -> Vec<Value<'d>> {
        self.entries
    }

    /// Ends the reading: keys that were not asked for are faults.
    pub(super) fn finish(self) {
        for entry in &self.entries {
            let place = if self.path.is_empty() { String::new() } else { format!(" in {}", self.path) };
            let message = format!("unknown key \"{}\"{place}; known are {}", entry.name, self.asked.join(", "));
            self.source.fault(&entry.key_span, message);
        }
    }

    pub(super) fn fault(&self, message: impl Into<String>) {
        self.source.fault(&self.span, message);
    }

    pub(super) fn shown_path(&self) -> &str {
        &self.path
    }

    pub(super) fn source(&self) -> &'d Source {
        self.source
    }
}

impl<'d> Value<'d> {
    /// The one of `all` whose word this is; else a fault, which says what it is not and, by a plural, what there is.
    pub(super) fn one_of<T: Copy, const N: usize>(
        &self,
        all: [T; N],
        word_of: fn(T) -> &'static str,
        (what, plural): (&str, &str),
    ) -> Option<T> {
        let word = self.string()?;
        let found = all.into_iter().find(|each| word_of(*each) == word);
        if found.is_none() {
            self.fault(format!("\"{word}\" is not {what}; {plural} are {}", all.map(word_of).join(", ")));
        }
        found
    }

    pub(super) fn string(&self) -> Option<&'d str> {
        match self.node.get_ref() {
            DeValue::String(text) => Some(text),
            _ => self.wrong_type("a string"),
        }
    }

    pub(super) fn integer(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.any_integer().and_then(|number| u32::try_from(number).ok()).filter(|number| range.contains(number));
        if number.is_none() {
            self.fault(format!("must be an integer from {} to {}", range.start(), range.end()));
        }
        number
    }

    /// The value where it is an integer at all. No fault otherwise.
    pub(super) fn any_integer(&self) -> Option<i64> {
        match self.node.get_ref() {
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix()).ok(),
            _ => None,
        }
    }

    pub(super) fn duration(&self) -> Option<Duration> {
        match self.node.get_ref() {
            DeValue::String(text) => self.understood(parse_duration(text)),
            _ => self.understood(parse_duration("")),
        }
    }

    pub(super) fn table(&self) -> Option<Section<'d>> {
        match self.node.get_ref() {
            DeValue::Table(table) => Some(Section::new(self.source, self.path.clone(), self.node.span(), table)),
            _ => self.wrong_type("a table"),
        }
    }

    /// The elements of an array, each under the array's own path.
    pub(super) fn list(&self) -> Option<Vec<Self>> {
        match self.node.get_ref() {
            DeValue::Array(elements) => Some(elements.iter().map(|node| self.element(node)).collect()),
            _ => self.wrong_type("an array"),
        }
    }

    /// The elements of an array, or the value itself as the only one.
    pub(super) fn one_or_many(&self) -> Vec<Self> {
        match self.node.get_ref() {
            DeValue::Array(elements) => elements.iter().map(|node| self.element(node)).collect(),
            _ => vec![self.clone()],
        }
    }

    pub(super) fn is_string(&self) -> bool {
        self.node.get_ref().is_str()
    }

    pub(super) fn is_table(&self) -> bool {
        self.node.get_ref().is_table()
    }

    /// A fault of this value; the message goes on after its path.
    pub(super) fn fault(&self, message: impl AsRef<str>) {
        self.source.fault(&self.key_span, format!("{}: {}", self.path, message.as_ref()));
    }

    pub(super) fn understood<T>(&self, result: Result<T, impl AsRef<str>>) -> Option<T> {
        result.map_err(|message| self.fault(message)).ok()
    }

    fn element(&self, node: &'d Spanned<DeValue<'d>>) -> Self {
        Self { key_span: node.span(), node, ..self.clone() }
    }

    fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        self.fault(format!("must be {expected}"));
        None
    }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
