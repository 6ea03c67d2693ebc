//! A picture of what the core believes and what the ticks held, taken by the deciding thread for whoever asks. It is a
//! copy; nothing is decided from it.

use crate::core::event::PeerSaid;
use crate::core::ids::{NodeId, PathId};
use crate::core::node::Verdict;
use crate::core::path::PathState;
use crate::core::settings::PathSettings;
use crate::core::time::MonoTime;
use heartbeat_common::maps::Histogram;
use heartbeat_common::tick::Tick;
use std::time::Duration;

/// Everything at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// When it was taken.
    pub now: MonoTime,
    /// This node's incarnation.
    pub incarnation: u64,
    /// No peer is heard at all.
    pub isolated: bool,
    /// Stall limit in force.
    pub stall_limit: Duration,
    /// Hang limit in force.
    pub hang_limit: Duration,
    /// The peers.
    pub nodes: Vec<NodeView>,
    /// The paths, by index.
    pub paths: Vec<PathView>,
}

/// One peer.
#[derive(Clone, Debug)]
pub struct NodeView {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// What is believed of it.
    pub verdict: Verdict,
    /// Since when.
    pub since: MonoTime,
    /// Why.
    pub reason: String,
    /// What it last said of itself.
    pub said: PeerSaid,
    /// It runs with the same settings as this node; `None`: it did not say.
    pub settings_agree: Option<bool>,
    /// When it was last heard; 0: never.
    pub heard: MonoTime,
}

/// One path.
#[derive(Clone, Debug)]
pub struct PathView {
    /// Its index.
    pub id: PathId,
    /// The peer.
    pub node: NodeId,
    /// Its thresholds in force.
    pub rule: PathSettings,
    /// Its state.
    pub state: PathState,
    /// Since when.
    pub since: MonoTime,
    /// Consecutive misses.
    pub misses: u32,
    /// Consecutive probes that did not leave.
    pub unsent: u32,
    /// Its tick.
    pub tick: Tick<u64>,
    /// Its round trips.
    pub histogram: Histogram,
    /// Probes handed to the kernel.
    pub sent: u64,
}
