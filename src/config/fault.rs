//! Faults of a configuration, collected while it is read: a file is judged whole, never up to its first mistake.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub file: PathBuf,
    /// One-based; `None` where something is missing from the whole file.
    pub line: Option<usize>,
    pub message: String,
}

/// `file:line: message`, the form that editors jump to.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A file being read: its lines, what is wrong with it, and which keys were looked for.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    /// Byte offset of each line's start.
    line_starts: Vec<usize>,
    faults: RefCell<Vec<Fault>>,
    /// Byte offset of each key that was looked for, by dotted path; `None` for those that the file does not have.
    keys: RefCell<BTreeMap<String, Option<usize>>>,
}

impl Source {
    pub(super) fn new(path: &Path, text: &str) -> Self {
        let after_newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(idx, _)| idx + 1);
        Self {
            path: path.to_owned(),
            line_starts: std::iter::once(0).chain(after_newlines).collect(),
            faults: RefCell::default(),
            keys: RefCell::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A fault of the bytes `span`.
    pub(super) fn fault(&self, span: &Range<usize>, message: impl Into<String>) {
        self.push(Some(self.line_of(span.start)), message.into());
    }

    /// A fault of the first of these dotted keys that the file has, or of the file.
    pub(super) fn fault_of_key(&self, keys: &[&str], message: impl Into<String>) {
        let line = {
            let known = self.keys.borrow();
            keys.iter().find_map(|key| known.get(*key).copied().flatten()).map(|offset| self.line_of(offset))
        };
        self.push(line, message.into());
    }

    /// A fault of the file as a whole.
    pub(super) fn fault_of_file(&self, message: impl Into<String>) {
        self.push(None, message.into());
    }

    /// Takes over the faults of another file.
    pub(super) fn absorb(&self, faults: Vec<Fault>) {
        self.faults.borrow_mut().extend(faults);
    }

    pub(super) fn remember_key(&self, path: String, offset: Option<usize>) {
        let mut keys = self.keys.borrow_mut();
        let known = keys.entry(path).or_default();
        *known = known.or(offset);
    }

    /// Whether the file has this dotted key, once it was looked for.
    pub(super) fn has_key(&self, path: &str) -> bool {
        self.keys.borrow().get(path).is_some_and(Option::is_some)
    }

    /// The faults in the order of their lines, each once: a level of a nested key is judged once for each branch.
    pub(super) fn into_faults(self) -> Vec<Fault> {
        let mut faults = self.faults.into_inner();
        faults.sort_by(|a, b| (a.file != self.path, &a.file, a.line).cmp(&(b.file != self.path, &b.file, b.line)));
        let mut unique: Vec<Fault> = Vec::with_capacity(faults.len());
        for fault in faults {
            if !unique.contains(&fault) {
                unique.push(fault);
            }
        }
        unique
    }

    fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    fn push(&self, line: Option<usize>, message: String) {
        self.faults.borrow_mut().push(Fault { file: self.path.clone(), line, message });
    }
}
