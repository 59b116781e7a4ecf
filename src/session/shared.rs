//! Values that many sessions have alike, kept once.

use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::HashSet;

/// Fewest values that are looked through for those that nobody uses any more.
const MIN_SWEPT: usize = 64;

/// One of each value that sessions use at this moment. Bounded by that: what was given up is swept when as many have come again.
#[derive(Debug)]
pub struct Shared<T: ?Sized>(Mutex<Kept<T>>);

#[derive(Debug)]
struct Kept<T: ?Sized> {
    values: HashSet<Arc<T>>,
    sweep_at: usize,
}

impl<T: ?Sized> Default for Shared<T> {
    fn default() -> Self {
        Self(Mutex::new(Kept { values: HashSet::default(), sweep_at: MIN_SWEPT }))
    }
}

impl<T: ?Sized + Hash + Eq> Shared<T> {
    /// Puts the one that others have in the place of an equal value.
    pub fn share(&self, value: &mut Arc<T>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match kept.values.get(&**value) {
            Some(known) => value.clone_from(known),
            None => kept.insert(Arc::clone(value)),
        }
    }
}

impl Shared<str> {
    /// The text as others have it.
    pub fn text(&self, text: &str) -> Arc<str> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.values.get(text) {
            return Arc::clone(known);
        }
        let text: Arc<str> = text.into();
        kept.insert(Arc::clone(&text));
        text
    }
}

impl<T: ?Sized + Hash + Eq> Kept<T> {
    fn insert(&mut self, value: Arc<T>) {
        if self.values.len() >= self.sweep_at {
            self.values.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.values.len() * 2).max(MIN_SWEPT);
        }
        self.values.insert(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_become_one_that_goes_with_its_last_user() {
        let shared = Shared::default();
        let (mut one, mut other) = (Arc::new(vec![1]), Arc::new(vec![1]));
        shared.share(&mut one);
        shared.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other));
        for n in 0..10_000 {
            shared.share(&mut Arc::new(vec![n, n]));
        }
        assert!(shared.0.lock().unwrap().values.len() <= MIN_SWEPT);
        shared.share(&mut other);
        assert!(Arc::ptr_eq(&one, &other), "what is used stays");
    }

    #[test]
    fn equal_texts_are_one() {
        let names = Shared::default();
        assert!(Arc::ptr_eq(&names.text("shop"), &names.text("shop")));
    }
}
