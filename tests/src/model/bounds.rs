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
    /// It has to come to its end before that: all there is within the bounds was looked at.
    pub whole: bool,
    /// So many distinct states it has to come to; where it need not come to its end, it ends there.
    pub states: usize,
    /// What it has to come across.
    pub reaches: &'static [Reached],
}

/// All faults at once, each as often as it may: more than a night can look at.
const WIDE: Left = Left { crashes: 2, cuts: 1, starts: 2, disks: 1, stalls: 1, doubles: 1, deviations: 1, quanta: 6 };
/// Nothing goes wrong.
const PEACE: Left = Left { crashes: 0, cuts: 0, starts: 0, disks: 0, stalls: 0, doubles: 0, deviations: 0, quanta: 4 };
/// Two crashes, one of them in the middle of a step, and one start.
const CRASHED: Left = Left { crashes: 2, cuts: 1, starts: 1, ..PEACE };
/// A crash, a lost disk, a start.
const REBORN: Left = Left { crashes: 1, starts: 1, disks: 1, ..PEACE };
/// A crash, a stall, a message that comes twice.
const STALLED: Left = Left { crashes: 1, stalls: 1, doubles: 1, quanta: 5, ..PEACE };

const BY_CRASHES: &[Reached] =
    &[Reached::TwoViews, Reached::Recovered, Reached::Adopted, Reached::LeftOutActs, Reached::ClearedOnly];
const BY_REBIRTH: &[Reached] =
    &[Reached::TwoViews, Reached::Recovered, Reached::Rejoined, Reached::Adopted, Reached::LeftOutActs];
const BY_STALLS: &[Reached] = &[Reached::TwoViews, Reached::StalledKept, Reached::LeftOutActs, Reached::Doubled];

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One that comes to its end: its states are looked at, all of them.
const fn whole(name: &'static str, nodes: usize, left: Left, reaches: &'static [Reached]) -> Bounds {
    Bounds {
        name,
        long: false,
        nodes,
        left,
        net: 12,
        views: 4,
        time: seconds(900),
        whole: true,
        states: 10_000,
        reaches,
    }
}

/// One that does not: so many of its states.
const fn wide(name: &'static str, nodes: usize, long: bool, time: Duration, states: usize) -> Bounds {
    let reaches = if long { BY_REBIRTH } else { &[Reached::LeftOutActs] };
    Bounds { name, long, nodes, left: WIDE, net: 12, views: 4, time, whole: false, states, reaches }
}

/// All bounds. What is not long, CI runs: within ten minutes on two CPUs.
pub const BOUNDS: &[Bounds] = &[
    whole("three-crashed", 3, CRASHED, BY_CRASHES),
    whole("three-reborn", 3, REBORN, BY_REBIRTH),
    whole("three-stalled", 3, STALLED, BY_STALLS),
    wide("three", 3, false, seconds(900), 10_000_000),
    whole("four-reborn", 4, REBORN, BY_REBIRTH),
    whole("four-stalled", 4, STALLED, BY_STALLS),
    wide("four", 4, false, seconds(900), 10_000_000),
    wide("three-long", 3, true, seconds(36_000), 500_000_000),
    wide("four-long", 4, true, seconds(36_000), 500_000_000),
];
