//! Which paths have their hint at which place of the hint table. It remembers; `paths` writes the table.

use heartbeat_common::maps::RouteKey;
use std::collections::{BTreeMap, BTreeSet};

/// The paths of each place that any has.
#[derive(Debug, Default)]
pub(super) struct Places(BTreeMap<u32, BTreeSet<usize>>);

impl Places {
    /// Notes that a path has its place where this triple has it.
    pub fn put(&mut self, key: &RouteKey, path: usize) {
        self.0.entry(key.hint()).or_default().insert(path);
    }

    /// Notes that it no longer has.
    pub fn take(&mut self, key: &RouteKey, path: usize) {
        if let Some(paths) = self.0.get_mut(&key.hint()) {
            paths.remove(&path);
            if paths.is_empty() {
                self.0.remove(&key.hint());
            }
        }
    }

    /// The first path at this triple's place, whose configuration the hint is to name.
    pub fn first(&self, key: &RouteKey) -> Option<usize> {
        self.0.get(&key.hint())?.first().copied()
    }
}
