//! The template cache: one per worker, bounded, keyed by fingerprint, view and settings.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;

use crate::plan::Template;
use crate::session::bonds::Bonds;
use crate::session::unpooled::Leftover;
use crate::sql::{Classified, Fingerprint, Literal};

/// Templates in each of two generations. When the young one is full it becomes the old one; what is used again moves back.
const GENERATION_CAPACITY: usize = 4_096;

/// Longest text that is cached.
const MAX_TEXT_LEN: usize = 64 * 1024;

/// A template with what the executor knows of its text.
#[derive(Debug)]
pub struct CachedTemplate {
    pub template: Template,
    pub leftover: Leftover,
    pub reads_catalog: bool,
    /// It does nothing but change settings: any shard will do.
    pub is_settings_only: bool,
}

impl CachedTemplate {
    /// SELECT, INSERT, UPDATE, DELETE and the like that leave nothing in their session: nothing but their route is to be known.
    pub fn is_plain(&self) -> bool {
        self.leftover == Leftover::NOTHING && matches!(self.template.class(), Classified::Query)
    }

    /// Whether it leaves nothing in its session but, perhaps, last values of sequences.
    pub fn leaves_nothing_but_sequences(&self) -> bool {
        let leftover = Leftover { bonds: self.leftover.bonds.without(Bonds::MOVES_SEQUENCES), ..self.leftover };
        leftover == Leftover::NOTHING
    }
}

#[derive(Debug, Clone)]
struct Entry {
    sql: Box<str>,
    literals: Box<[Literal]>,
    cached: Arc<CachedTemplate>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<u64, Entry>,
    old: HashMap<u64, Entry>,
}

/// Templates by fingerprint. A hit is verified byte by byte outside the literals, so a colliding hash is only a miss.
#[derive(Debug, Default)]
pub struct TemplateCache {
    generations: Mutex<Generations>,
}

impl TemplateCache {
    /// The template of a text with this fingerprint under the context whose hash is `context`.
    pub fn get(&self, sql: &str, fingerprint: &Fingerprint, context: u64) -> Option<Arc<CachedTemplate>> {
        let key = fingerprint.hash ^ context;
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = generations.young.get(&key) {
            return is_same_shape(entry, sql, fingerprint).then(|| Arc::clone(&entry.cached));
        }
        let entry = generations.old.remove(&key)?;
        let cached = is_same_shape(&entry, sql, fingerprint).then(|| Arc::clone(&entry.cached));
        generations.insert(key, entry);
        cached
    }

    pub fn insert(&self, sql: &str, fingerprint: &Fingerprint, context: u64, cached: &Arc<CachedTemplate>) {
        if !fingerprint.is_complete || sql.len() > MAX_TEXT_LEN {
            return;
        }
        let entry = Entry { sql: sql.into(), literals: fingerprint.literals.as_slice().into(), cached: Arc::clone(cached) };
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        generations.insert(fingerprint.hash ^ context, entry);
    }
}

impl Generations {
    fn insert(&mut self, key: u64, entry: Entry) {
        if self.young.len() >= GENERATION_CAPACITY {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

/// Whether a text equals the cached one but for the values of its literals, and may use its template.
fn is_same_shape(entry: &Entry, sql: &str, fingerprint: &Fingerprint) -> bool {
    if !entry.cached.template.is_shareable() {
        return *entry.sql == *sql;
    }
    if entry.literals.len() != fingerprint.literals.len() {
        return false;
    }
    let (ours, theirs) = (sql.as_bytes(), entry.sql.as_bytes());
    let (mut our_start, mut their_start) = (0, 0);
    for (our, their) in fingerprint.literals.iter().zip(&entry.literals) {
        if our.kind != their.kind || ours.get(our_start..our.start) != theirs.get(their_start..their.start) {
            return false;
        }
        (our_start, their_start) = (our.end, their.end);
    }
    ours.get(our_start..) == theirs.get(their_start..)
}
