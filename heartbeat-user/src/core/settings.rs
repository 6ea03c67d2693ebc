//! What the core must be told: nodes, networks, paths, thresholds and limits. It holds values; text is turned into
//! them, and checked, elsewhere.

use crate::core::ids::{NetworkId, NodeId};
use std::net::IpAddr;
use std::time::Duration;

/// The smallest delay that the core works with; a smaller one is taken as this.
pub const DELAY_MIN: Duration = Duration::from_micros(100);

/// The smallest threshold that the core works with: one miss alone never accuses.
pub const THRESHOLD_MIN: u32 = 2;

/// When a path counts as lost, unreachable, failed and silent. All counts are consecutive misses and unsent probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathSettings {
    /// Probe interval, and a probe's time to be answered. At least [`DELAY_MIN`].
    pub delay: Duration,
    /// Count at which the path is silent. At least [`THRESHOLD_MIN`].
    pub threshold: u32,
    /// Count at which the path is Lost. At least 1.
    pub lost: u32,
    /// Count at which the path is Unreachable, above `lost`.
    pub unreachable: u32,
    /// Count at which the path is Failed, above `unreachable`.
    pub failed: u32,
}

impl PathSettings {
    /// Returns delay x threshold.
    #[must_use]
    pub fn detection_time(&self) -> Duration {
        self.delay.saturating_mul(self.threshold)
    }

    /// Returns the same with every value brought into the range that the core works with.
    #[must_use]
    pub fn sane(mut self) -> Self {
        self.delay = self.delay.max(DELAY_MIN);
        self.threshold = self.threshold.max(THRESHOLD_MIN);
        self.lost = self.lost.max(1);
        self.unreachable = self.unreachable.max(self.lost);
        self.failed = self.failed.max(self.unreachable);
        self
    }
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: String,
}

/// A network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSpec {
    /// Its number.
    pub id: NetworkId,
    /// Its name.
    pub name: String,
}

/// A path: one local interface to one peer address on a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathSpec {
    /// The peer.
    pub node: NodeId,
    /// The network.
    pub network: NetworkId,
    /// Address of the local interface; paths with the same network and address share it.
    pub local: IpAddr,
    /// The peer's address.
    pub peer: IpAddr,
    /// Its thresholds.
    pub settings: PathSettings,
}

impl PathSpec {
    /// Says whether `other` is the same path, whatever its thresholds.
    #[must_use]
    pub fn same_path(&self, other: &Self) -> bool {
        (self.node, self.network, self.local, self.peer) == (other.node, other.network, other.local, other.peer)
    }
}

/// Everything the core must be told. The own node is not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// This node's incarnation.
    pub incarnation: u64,
    /// Hash of what every node must have the same, as its frames say it; 0: not compared.
    pub hash: u64,
    /// The peers, each once.
    pub nodes: Vec<NodeSpec>,
    /// The networks, each once.
    pub networks: Vec<NetworkSpec>,
    /// The paths, in the order of their ticks.
    pub paths: Vec<PathSpec>,
    /// Controller age above which an answering peer is Stalled.
    pub stall_limit: Duration,
    /// Controller age above which it is Hung; above `stall_limit`.
    pub hang_limit: Duration,
    /// Own lateness up to this is no lateness.
    pub lateness_budget: Duration,
}
