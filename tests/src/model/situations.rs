//! What a check has to come across, or it has shown nothing; and how many of its states are so.

use super::Views;
use super::cluster::Cluster;
use super::watch::Reached;
use std::sync::atomic::{AtomicU64, Ordering};

/// A situation: its name, and whether a state is one, for the checker.
type Situation = (&'static str, fn(&Views, &Cluster) -> bool);

const fn reached(state: &Cluster, what: Reached) -> bool {
    state.watch.reached & what as u16 != 0
}

/// All situations.
pub const SITUATIONS: [(Reached, Situation); 15] = [
    (Reached::TwoViews, ("two views are decided, one after the other", |_, s| reached(s, Reached::TwoViews))),
    (Reached::Recovered, ("who lost power acts in the newest view again", |_, s| reached(s, Reached::Recovered))),
    (Reached::Rejoined, ("who lost its disk acts in the newest view again", |_, s| reached(s, Reached::Rejoined))),
    (
        Reached::StalledKept,
        ("who was stalled stays and acts in the newest view", |_, s| reached(s, Reached::StalledKept)),
    ),
    (Reached::Adopted, ("a controller that came back acts in a later view", |_, s| reached(s, Reached::Adopted))),
    (
        Reached::LeftOutActs,
        ("somebody acts who is left out of the newest view", |_, s| reached(s, Reached::LeftOutActs)),
    ),
    (Reached::ClearedOnly, ("a view is decided after a step was cut off", |_, s| reached(s, Reached::ClearedOnly))),
    (Reached::TwoRestarts, ("two crashes, and a start after each", |_, s| reached(s, Reached::TwoRestarts))),
    (Reached::Emptied, ("a node starts with an empty disk", |_, s| reached(s, Reached::Emptied))),
    (Reached::Resumed, ("a controller goes on after a stall", |_, s| reached(s, Reached::Resumed))),
    (Reached::Doubled, ("a message comes a second time", |_, s| reached(s, Reached::Doubled))),
    (Reached::Overtaken, ("a message comes after one that was sent later", |_, s| reached(s, Reached::Overtaken))),
    (Reached::Across, ("a message comes that a view was decided before", |_, s| reached(s, Reached::Across))),
    (
        Reached::All,
        (
            "in one history: two views, two crashes and starts, a lost disk, a stall, a message twice, one out of order",
            |_, s| reached(s, Reached::All),
        ),
    ),
    (Reached::AllAct, ("after all of that every node acts in the newest view", |_, s| reached(s, Reached::AllAct))),
];

/// How many distinct states there are of each situation, and how many steps were not taken.
#[derive(Default)]
pub struct Tally {
    /// By the situation's bit.
    states: [AtomicU64; u16::BITS as usize],
    /// Steps to a state with more under way than the bounds look at.
    pub net: AtomicU64,
    /// Steps to a state with more views than they look at.
    pub views: AtomicU64,
}

impl Tally {
    /// Counts a state; each is looked at once.
    pub fn count(&self, state: &Cluster) {
        let mut reached = state.watch.reached;
        while reached != 0 {
            self.states[reached.trailing_zeros() as usize].fetch_add(1, Ordering::Relaxed);
            reached &= reached - 1;
        }
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
    fn every_situation_is_one_bit_and_is_counted_by_it() {
        let mut state = World::new(BOUNDS[0]).formed();
        let tally = Tally::default();
        for (what, _) in SITUATIONS {
            state.watch.reached = what as u16;
            tally.count(&state);
            assert_eq!(tally.of(what), 1, "{what:?}");
        }
        state.watch.reached = KINDS;
        tally.count(&state);
        assert_eq!((tally.of(Reached::TwoViews), tally.of(Reached::Doubled), tally.of(Reached::Across)), (2, 2, 1));
    }

    #[test]
    fn every_sampled_search_has_to_come_to_all_situations() {
        for bounds in BOUNDS.iter().filter(|bounds| !bounds.walks.is_empty()) {
            assert!(SITUATIONS.iter().all(|(what, _)| bounds.reaches.contains(what)), "{}", bounds.name);
            assert!(bounds.states >= 10_000_000 && bounds.each > 1, "{}", bounds.name);
        }
    }
}
