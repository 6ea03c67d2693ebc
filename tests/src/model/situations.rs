//! What a check has to come across, or it has shown nothing; and how many of its states are so.

use super::cluster::Cluster;
use super::shared::digest;
use super::watch::Reached;
use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// All situations, by name.
pub const SITUATIONS: [(Reached, &str); 15] = [
    (Reached::TwoViews, "two views are decided, one after the other"),
    (Reached::Recovered, "who lost power acts in the newest view again"),
    (Reached::Rejoined, "who lost its disk acts in the newest view again"),
    (Reached::StalledKept, "who was stalled stays and acts in the newest view"),
    (Reached::Adopted, "a controller that came back acts in a later view"),
    (Reached::LeftOutActs, "somebody acts who is left out of the newest view"),
    (Reached::ClearedOnly, "a view is decided after a step was cut off"),
    (Reached::TwoRestarts, "two crashes, and a start after each"),
    (Reached::Emptied, "a node starts with an empty disk"),
    (Reached::Resumed, "a controller goes on after a stall"),
    (Reached::Doubled, "a message comes a second time"),
    (Reached::Overtaken, "a message comes after one that was sent later"),
    (Reached::Across, "a message comes that a view was decided before"),
    (
        Reached::All,
        "in one history: two views, two crashes and starts, a lost disk, a stall, a message twice, one out of order",
    ),
    (Reached::AllAct, "after all of that every node acts in the newest view"),
];

/// Parts of the set of states: threads that look at different ones do not wait for each other.
const PARTS: usize = 64;

/// How many distinct states there are, of each situation too, and how many steps were not taken.
pub struct Tally {
    /// Digests of the states.
    known: Vec<Mutex<HashSet<u64>>>,
    /// How many there are.
    distinct: AtomicU64,
    /// By the situation's bit.
    states: [AtomicU64; u16::BITS as usize],
    /// Steps to a state with more under way than the bounds look at.
    pub net: AtomicU64,
    /// Steps to a state with more views than they look at.
    pub views: AtomicU64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            known: (0..PARTS).map(|_| Mutex::default()).collect(),
            distinct: AtomicU64::new(0),
            states: Default::default(),
            net: AtomicU64::new(0),
            views: AtomicU64::new(0),
        }
    }
}

impl Tally {
    /// Counts a state, however often it is come to.
    pub fn count(&self, state: &Cluster) {
        let digest = digest(state) as u64;
        let part = &self.known[digest as usize % PARTS];
        if !part.lock().unwrap_or_else(PoisonError::into_inner).insert(digest) {
            return;
        }
        self.distinct.fetch_add(1, Ordering::Relaxed);
        let mut reached = state.watch.reached;
        while reached != 0 {
            self.states[reached.trailing_zeros() as usize].fetch_add(1, Ordering::Relaxed);
            reached &= reached - 1;
        }
    }

    /// Returns how many states there are.
    #[must_use]
    pub fn distinct(&self) -> u64 {
        self.distinct.load(Ordering::Relaxed)
    }

    /// Returns how many states are of this situation.
    #[must_use]
    pub fn of(&self, what: Reached) -> u64 {
        self.states[(what as u16).trailing_zeros() as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bounds::BOUNDS;
    use crate::model::cluster::World;
    use crate::model::watch::KINDS;

    #[test]
    fn every_situation_is_one_bit_and_a_state_is_counted_once() {
        let mut state = World::new(BOUNDS[0]).formed();
        let tally = Tally::default();
        for (what, _) in SITUATIONS {
            state.watch.reached = what as u16;
            tally.count(&state);
            tally.count(&state);
            assert_eq!(tally.of(what), 1, "{what:?}");
        }
        state.watch.reached = KINDS;
        tally.count(&state);
        assert_eq!((tally.of(Reached::TwoViews), tally.of(Reached::Doubled), tally.of(Reached::Across)), (2, 2, 1));
        assert_eq!(tally.distinct(), SITUATIONS.len() as u64 + 1);
    }

    #[test]
    fn every_sampled_search_has_to_come_to_all_situations() {
        for bounds in BOUNDS.iter().filter(|bounds| bounds.walks.is_some()) {
            assert!(SITUATIONS.iter().all(|(what, _)| bounds.reaches.contains(what)), "{}", bounds.name);
            assert!(bounds.states >= 10_000_000 && bounds.each > 1, "{}", bounds.name);
        }
    }
}
