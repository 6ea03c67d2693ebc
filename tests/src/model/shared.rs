//! Values that many states have in common: kept once, hashed once, compared by their digest. And what was computed of
//! them: a step of a node is a function of the node and its input, so no step is taken twice.

use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::HashMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

/// Returns 128 bits that differ where values do.
pub fn digest<T: Hash>(value: &T) -> u128 {
    let mut hasher = SipHasher13::new();
    value.hash(&mut hasher);
    hasher.finish128().as_u128()
}

/// A value kept once.
pub struct Shared<T>(Arc<(u128, T)>);

impl<T: Hash> Shared<T> {
    /// Keeps a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new((digest(&value), value)))
    }
}

impl<T> Shared<T> {
    /// Returns its digest.
    pub fn digest(&self) -> u128 {
        self.0.0
    }
}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.1
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest() == other.digest()
    }
}

impl<T> Eq for Shared<T> {}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest() as u64);
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.1.fmt(f)
    }
}

/// Parts of a table: threads that look at different ones do not wait for each other.
const PARTS: usize = 64;

type Part<V> = Mutex<HashMap<u128, V>>;

/// What was computed, by the digest of what it was computed from. It may forget; then it is computed again.
pub struct Table<V> {
    parts: Vec<Part<V>>,
    /// Entries of a part at which it begins anew.
    most: usize,
}

impl<V: Clone> Table<V> {
    /// Makes a table of about so many entries at most.
    pub fn new(most: usize) -> Self {
        Self { parts: (0..PARTS).map(|_| Mutex::default()).collect(), most: most.div_ceil(PARTS) }
    }

    /// Returns what belongs to `key`, computing it where it is not known. Two threads may compute the same at once.
    pub fn get(&self, key: u128, compute: impl FnOnce() -> V) -> V {
        let part = &self.parts[key as usize % PARTS];
        if let Some(found) = part.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return found.clone();
        }
        let value = compute();
        let mut part = part.lock().unwrap_or_else(PoisonError::into_inner);
        if part.len() >= self.most {
            part.clear();
        }
        part.entry(key).or_insert(value).clone()
    }

    /// Returns how many entries there are.
    pub fn known(&self) -> usize {
        self.parts.iter().map(|part| part.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_and_others_are_not() {
        let (one, same, other) = (Shared::new(vec![1, 2]), Shared::new(vec![1, 2]), Shared::new(vec![2, 1]));
        assert!(one == same && one != other);
        assert_eq!((one.len(), digest(&one)), (2, digest(&same)));
    }

    #[test]
    fn a_table_computes_once_and_may_forget() {
        let table = Table::new(PARTS);
        assert_eq!(table.get(5, || 1), 1);
        assert_eq!(table.get(5, || 2), 1, "known");
        assert_eq!(table.get(5 + PARTS as u128, || 3), 3, "the part is full, and begins anew");
        assert_eq!((table.known(), table.get(5, || 4)), (1, 4));
    }
}
