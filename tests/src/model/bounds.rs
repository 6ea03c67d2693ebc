//! How far a check goes, by name: what may go wrong, how often, and how long the cluster is watched.

use super::cluster::Left;
use super::watch::Reached;
use std::time::Duration;

/// Walks that a sampled search begins at the ends of.
#[derive(Clone, Copy, Debug)]
pub struct Walks {
    /// How many walks at most, each with a seed of its own; what ends too early is left out.
    pub count: u32,
    /// Faults and deviations on the way: at least so many.
    pub fewest: u8,
    /// And at most so many, as is drawn.
    pub most: u8,
    /// So many more may come afterwards, in every way in which they can.
    pub after: u8,
}

/// Bounds of one check.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Its name.
    pub name: &'static str,
    /// It takes hours: CI does not run it.
    pub long: bool,
    /// Nodes, all members at the beginning.
    pub nodes: usize,
    /// What may happen: in any one history, of each kind so much, and so much together from the beginning on.
    pub left: Left,
    /// Where else the search begins, part by part, until there are states enough; none: only at the cluster just formed.
    pub walks: Option<Walks>,
    /// Most messages under way at once; a state with more is not looked at any further.
    pub net: usize,
    /// Views decided after the first; a state with more is not looked at any further.
    pub views: usize,
    /// It has to come to its end before that.
    pub time: Duration,
    /// So many distinct states it has to come to.
    pub states: u64,
    /// What it has to come across.
    pub reaches: &'static [Reached],
    /// In so many states each.
    pub each: u64,
}

/// Nothing goes wrong.
const PEACE: Left = Left { quanta: 4, ..Left::NOTHING };
/// Two crashes, one of them in the middle of a step, and one start.
const CRASHED: Left = Left { crashes: 2, cuts: 1, starts: 1, ..PEACE };
/// Two crashes, and two starts.
const RESTARTED: Left = Left { crashes: 2, starts: 2, ..PEACE };
/// The same, and one of the crashes in the middle of a step.
const RESTARTED_CUT: Left = Left { cuts: 1, ..RESTARTED };
/// A crash, a lost disk, a start.
const REBORN: Left = Left { crashes: 1, starts: 1, disks: 1, ..PEACE };
/// A crash, a stall, a message that comes twice.
const STALLED: Left = Left { crashes: 1, stalls: 1, doubles: 1, quanta: 5, ..PEACE };
/// A crash, a start, and a deviation: a message out of order or lost, a round out of turn, a quantum that ends early.
const UNORDERED: Left = Left { crashes: 1, starts: 1, deviations: 1, ..PEACE };
/// A crash and a deviation.
const DISORDERED: Left = Left { starts: 0, ..UNORDERED };
/// All kinds of faults.
const WIDE: Left =
    Left { crashes: 2, cuts: 1, starts: 3, disks: 1, stalls: 1, doubles: 2, deviations: 3, quanta: 7, ..Left::NOTHING };

const BY_CRASHES: &[Reached] =
    &[Reached::TwoViews, Reached::Recovered, Reached::Adopted, Reached::LeftOutActs, Reached::ClearedOnly];
const BY_RESTARTS: &[Reached] =
    &[Reached::TwoViews, Reached::Recovered, Reached::Adopted, Reached::LeftOutActs, Reached::TwoRestarts];
const BY_REBIRTH: &[Reached] =
    &[Reached::TwoViews, Reached::Recovered, Reached::Rejoined, Reached::Adopted, Reached::LeftOutActs];
const BY_STALLS: &[Reached] =
    &[Reached::TwoViews, Reached::StalledKept, Reached::LeftOutActs, Reached::Resumed, Reached::Doubled];
const BY_DISORDER: &[Reached] = &[Reached::TwoViews, Reached::LeftOutActs, Reached::Overtaken, Reached::Across];
/// Without a start there is nobody to take in again.
const BY_LITTLE_DISORDER: &[Reached] = &[Reached::LeftOutActs, Reached::Overtaken, Reached::Across];
const BY_ALL: &[Reached] = &[
    Reached::TwoViews,
    Reached::Recovered,
    Reached::Rejoined,
    Reached::StalledKept,
    Reached::Adopted,
    Reached::LeftOutActs,
    Reached::ClearedOnly,
    Reached::TwoRestarts,
    Reached::Emptied,
    Reached::Resumed,
    Reached::Doubled,
    Reached::Overtaken,
    Reached::Across,
    Reached::All,
    Reached::AllAct,
];

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One that holds every history within its bounds.
const fn whole(name: &'static str, nodes: usize, left: Left, reaches: &'static [Reached]) -> Bounds {
    Bounds {
        name,
        long: false,
        nodes,
        left: left.at_most(u8::MAX),
        walks: None,
        net: 12,
        views: 4,
        time: seconds(900),
        states: 10_000,
        reaches,
        each: 1,
    }
}

/// One that holds every history with two faults of any kinds, and what is around the ends of walks.
const fn wide(name: &'static str, nodes: usize) -> Bounds {
    Bounds {
        name,
        long: false,
        nodes,
        left: WIDE.at_most(2),
        walks: Some(Walks { count: 20_000, fewest: 3, most: 10, after: 2 }),
        net: 12,
        views: 4,
        time: seconds(900),
        states: 10_000_000,
        reaches: BY_ALL,
        each: 100,
    }
}

/// What CI has no time for.
const fn long(bounds: Bounds) -> Bounds {
    let states = if bounds.walks.is_some() { 250_000_000 } else { bounds.states };
    Bounds { long: true, time: seconds(36_000), states, ..bounds }
}

/// All bounds. What is not long, CI runs: within ten minutes on two CPUs.
pub const BOUNDS: &[Bounds] = &[
    whole("three-crashed", 3, CRASHED, BY_CRASHES),
    whole("three-restarted", 3, RESTARTED, BY_RESTARTS),
    whole("three-reborn", 3, REBORN, BY_REBIRTH),
    whole("three-stalled", 3, STALLED, BY_STALLS),
    whole("three-unordered", 3, UNORDERED, BY_DISORDER),
    wide("three", 3),
    whole("four-reborn", 4, REBORN, BY_REBIRTH),
    whole("four-stalled", 4, STALLED, BY_STALLS),
    whole("four-unordered", 4, DISORDERED, BY_LITTLE_DISORDER),
    wide("four", 4),
    long(whole("three-restarted-cut", 3, RESTARTED_CUT, BY_RESTARTS)),
    long(whole("four-restarted", 4, RESTARTED, BY_RESTARTS)),
    long(whole("four-unordered-long", 4, UNORDERED, BY_DISORDER)),
    long(wide("three-long", 3)),
    long(wide("four-long", 4)),
];
