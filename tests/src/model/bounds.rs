//! How far a check goes, by name: what may go wrong, how often, and how long the cluster is watched.

use super::cluster::Left;
use super::watch::Reached;
use std::time::Duration;

/// Bounds of one check.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Its name.
    pub name: &'static str,
    /// It takes hours: CI does not run it.
    pub long: bool,
    /// Nodes, all members at the beginning.
    pub nodes: usize,
    /// What may happen.
    pub left: Left,
    /// Most messages under way at once; a state with more is not looked at any further.
    pub net: usize,
    /// Views decided after the first; a state with more is not looked at any further.
    pub views: usize,
    /// It ends after so long, whatever is left.
    pub time: Duration,
    /// So many distinct states it has to come to.
    pub states: usize,
    /// What it has to come across.
    pub reaches: &'static [Reached],
}

/// Everything, for a check that has a whole night.
const ALL: &[Reached] = &[
    Reached::TwoViews,
    Reached::Recovered,
    Reached::Rejoined,
    Reached::StalledKept,
    Reached::Adopted,
    Reached::LeftOutActs,
    Reached::Doubled,
    Reached::ClearedOnly,
];

const FAULTS: Left = Left { crashes: 2, cuts: 1, starts: 2, disks: 1, stalls: 1, doubles: 1, quanta: 7 };

/// All bounds; the first of each number of nodes is what CI runs.
pub const BOUNDS: &[Bounds] = &[
    Bounds {
        name: "three",
        long: false,
        nodes: 3,
        left: FAULTS,
        net: 8,
        views: 3,
        time: Duration::from_secs(280),
        states: 10_000_000,
        reaches: ALL,
    },
    Bounds {
        name: "four",
        long: false,
        nodes: 4,
        left: FAULTS,
        net: 8,
        views: 3,
        time: Duration::from_secs(280),
        states: 10_000_000,
        reaches: ALL,
    },
];
