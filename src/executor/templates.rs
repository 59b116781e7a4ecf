//! The template cache: one per worker, bounded, keyed by fingerprint, view and settings.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashMap;

use crate::plan::Template;
use crate::session::bonds::Bonds;
use crate::session::unpooled::Leftover;
use crate::sql::{Classified, Fingerprint, Literal};

/// Templates in each of two generations. When the young one is full it becomes the old one; what is used again moves back.
const GENERATION_CAPACITY: usize = 10_000;

/// Most bytes of text in each.
const GENERATION_TEXT_BYTES: usize = 16 * 1024 * 1024;

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
    /// Of the texts in `young`.
    n_bytes: usize,
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
        let len = entry.sql.len();
        if self.young.len() >= GENERATION_CAPACITY || self.n_bytes + len > GENERATION_TEXT_BYTES {
            self.old = std::mem::take(&mut self.young);
            self.n_bytes = 0;
        }
        self.n_bytes += len;
        if let Some(replaced) = self.young.insert(key, entry) {
            self.n_bytes -= replaced.sql.len();
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Context, PlanSettings, analyze, assumed_schema};
    use crate::sql::fingerprint;

    const CONFIG: &str =
        "[auth]\nmethod = \"trust\"\n[databases.d]\n[[databases.d.shards]]\nname = \"s\"\nnodes = [{ host = \"h\" }]\n";

    fn template() -> Arc<CachedTemplate> {
        let config = crate::config::Config::parse(CONFIG, std::path::Path::new("trunkline.toml")).unwrap();
        let topology = config.databases["d"].topology.clone();
        let (schema, settings) = (assumed_schema(&topology), PlanSettings::default());
        let template = analyze("SELECT 1", &[], &Context { topology: &topology, schema: &schema, settings: &settings }).unwrap();
        Arc::new(CachedTemplate { template, leftover: Leftover::NOTHING, reads_catalog: false, is_settings_only: false })
    }

    fn insert(cache: &TemplateCache, sql: &str, template: &Arc<CachedTemplate>) {
        let mut print = Fingerprint::default();
        fingerprint(sql.as_bytes(), true, &mut print);
        cache.insert(sql, &print, 0, template);
    }

    fn has(cache: &TemplateCache, sql: &str) -> bool {
        let mut print = Fingerprint::default();
        fingerprint(sql.as_bytes(), true, &mut print);
        cache.get(sql, &print, 0).is_some()
    }

    #[test]
    fn long_texts_leave_room_for_others_and_what_is_used_stays() {
        let (cache, template) = (TemplateCache::default(), template());
        insert(&cache, "SELECT used", &template);
        let long = |n: usize| format!("SELECT {} AS n{n}", "a".repeat(MAX_TEXT_LEN - 100));
        let n_long = 3 * GENERATION_TEXT_BYTES / MAX_TEXT_LEN;
        for n in 0..n_long {
            insert(&cache, &long(n), &template);
            assert!(has(&cache, "SELECT used"), "{n}");
        }
        assert!(!has(&cache, &long(0)) && has(&cache, &long(n_long - 1)));
    }
}
