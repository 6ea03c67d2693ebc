//! The configuration: text to typed, checked settings, or every fault in it at once. It opens files only in
//! `load`, and never applies a part of a configuration.
//!
//! The same file is meant for every node: which of the nodes this host is, [`find_self`] tells from its addresses.

mod check;
mod fault;
mod file;
mod place;
mod plan;
mod quorum;
mod read;
mod schema;
mod section;
mod settings;
mod subnet;
#[cfg(test)]
mod tests;

pub use fault::{ConfigErrors, Fault, FaultKind};
pub use file::{FileError, LoadError, load};
pub(crate) use file::{open_regular, read_limited};
pub use place::fault_at;
pub use plan::{PathPlan, SelfError, find_self, paths_for, settings_hash};
pub use quorum::{Budget, Quorum, Regroup};
pub use read::parse;
pub use schema::{ALIASES, TABLES};
pub use subnet::Subnet;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/heartbeatd/heartbeatd.toml";
/// Largest configuration file, bytes.
pub const SIZE_MAX: u64 = 1 << 20;

/// A configuration in which no rule is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which cluster this is.
    pub cluster: Cluster,
    /// Delays, thresholds and limits.
    pub settings: Settings,
    /// What the daemon does on its own host.
    pub daemon: Daemon,
    /// Overrides by name of a local interface.
    pub interfaces: BTreeMap<String, InterfaceOverride>,
    /// Networks, by id.
    pub networks: Vec<Network>,
    /// Nodes, by id.
    pub nodes: Vec<Node>,
}

/// Which cluster this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Name, for people: 1 to 32 of `a-z`, `0-9` and `-`.
    pub name: String,
    /// Id on the wire, not 0. Frames of another id are dropped.
    pub id: u64,
    /// The key file, an absolute path.
    pub key_file: PathBuf,
}

/// A named set of delays and thresholds, which single settings override.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// 100 ms x 5.
    Lan,
    /// 1200 ms x 6, with the ladder of 2, 4 and 6 ticks.
    Wsfc2003,
    /// 1000 ms x 5.
    Wsfc2008,
    /// 1000 ms x 10, and 1000 ms x 20 across subnets.
    Wsfc2016,
}

impl Profile {
    /// Every profile, as written.
    pub const ALL: [Self; 4] = [Self::Lan, Self::Wsfc2003, Self::Wsfc2008, Self::Wsfc2016];

    /// Returns the profile's name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wsfc2003 => "wsfc-2003",
            Self::Wsfc2008 => "wsfc-2008",
            Self::Wsfc2016 => "wsfc-2016",
        }
    }

    /// Returns delay in ms and threshold, for same-subnet and for cross-subnet paths.
    #[must_use]
    pub const fn values(self) -> [(u64, u64); 2] {
        match self {
            Self::Lan => [(100, 5), (100, 5)],
            Self::Wsfc2003 => [(1200, 6), (1200, 6)],
            Self::Wsfc2008 => [(1000, 5), (1000, 5)],
            Self::Wsfc2016 => [(1000, 10), (1000, 20)],
        }
    }
}

/// What decides when a path counts as lost, unreachable, failed or silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathThresholds {
    /// Probe interval, and a probe's time to be answered: 1 to 10 000 ms.
    pub delay: Duration,
    /// Consecutive misses tolerated: 2 to 120.
    pub threshold: u32,
    /// Misses at which a path is lost.
    pub lost: u32,
    /// Misses at which a path is unreachable; above `lost`.
    pub unreachable: u32,
    /// Misses at which a path has failed; above `unreachable`.
    pub failed: u32,
}

/// Delays, thresholds and limits: what must be the same on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The profile that the other values come from where they were not given.
    pub profile: Profile,
    /// Paths whose ends lie in one configured subnet.
    pub same_subnet: PathThresholds,
    /// Every other path.
    pub cross_subnet: PathThresholds,
    /// Controller age beyond which a node is stalled.
    pub stall_limit: Duration,
    /// Controller age beyond which a node is hung; above `stall_limit`. A watchdog must be longer than this.
    pub hang_limit: Duration,
    /// Own lateness beyond which this node accuses nobody before it has probed again.
    pub lateness_budget: Duration,
    /// Lowest hop limit taken on cross-subnet paths (sent is 255): 1 to 255.
    pub cross_subnet_min_hop_limit: u8,
    /// How views are decided, and how long they may be acted in.
    pub quorum: Quorum,
    /// How long the steps to the next view take at most.
    pub regroup: Regroup,
}

impl Settings {
    /// Returns the thresholds of same-subnet or of cross-subnet paths.
    #[must_use]
    pub const fn path(&self, same_subnet: bool) -> &PathThresholds {
        if same_subnet { &self.same_subnet } else { &self.cross_subnet }
    }

    /// Returns the lowest hop limit that is taken: 255 within a subnet, where no router is on the way.
    #[must_use]
    pub const fn min_hop_limit(&self, same_subnet: bool) -> u8 {
        if same_subnet { u8::MAX } else { self.cross_subnet_min_hop_limit }
    }

    /// Returns delay x threshold of same-subnet or of cross-subnet paths.
    #[must_use]
    pub fn detection_time(&self, same_subnet: bool) -> Duration {
        let path = self.path(same_subnet);
        path.delay * path.threshold
    }

    /// Returns the longer of the two detection times.
    #[must_use]
    pub fn longest_detection_time(&self) -> Duration {
        self.detection_time(true).max(self.detection_time(false))
    }

    /// Returns the longer of the two delays.
    #[must_use]
    pub fn longest_delay(&self) -> Duration {
        self.same_subnet.delay.max(self.cross_subnet.delay)
    }
}

/// How frames are to be answered on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPath {
    /// Native XDP, else generic XDP, else in userspace; each step down is an event.
    Auto,
    /// Native XDP or not at all.
    Native,
    /// Generic XDP or not at all.
    Generic,
    /// In userspace.
    Off,
}

impl FastPath {
    /// Every value, as written.
    pub const ALL: [Self; 4] = [Self::Auto, Self::Native, Self::Generic, Self::Off];

    /// Returns the value's name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

/// What the daemon does on its own host. Peers need not agree on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// How frames are answered, where no interface says otherwise.
    pub fast_path: FastPath,
    /// Directory of pins, on a bpffs.
    pub pin_dir: PathBuf,
    /// Directory of what outlives a reboot.
    pub state_dir: PathBuf,
    /// Directory of the control socket.
    pub run_dir: PathBuf,
    /// Directory of the lock that keeps a second daemon out.
    pub lock_dir: PathBuf,
    /// The event file.
    pub event_log: PathBuf,
    /// Size at which the event file is rotated, KiB.
    pub event_log_max_kib: u64,
    /// Event files kept, the current one included.
    pub event_log_files: u32,
    /// SCHED_FIFO priority of the pacing thread; 0: leave the scheduler alone.
    pub realtime_priority: u8,
    /// Lock all memory.
    pub lock_memory: bool,
    /// Before a new incarnation speaks, ask whether another machine has this node's addresses.
    pub address_conflict_detection: bool,
    /// Group that may read over the control socket; `None`: root and the daemon's user alone.
    pub socket_group: Option<String>,
    /// Pin of the page that says whether this node may act, for whoever runs under it; not in `pin_dir`.
    pub lease_pin: PathBuf,
    /// How long a node that leaves waits for the view without it: 1 to 600 s.
    pub leave_timeout: Duration,
    /// Watchdog device that is fed while this node may act; `None`: none is.
    pub watchdog_device: Option<PathBuf>,
    /// What is run at events.
    pub hooks: Hooks,
}

/// What is run at events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooks {
    /// The programs, absolute paths, at most 16, in this order.
    pub programs: Vec<PathBuf>,
    /// The events that they are run at; empty: every one.
    pub events: Vec<HookEvent>,
    /// How long a program may run: 1 to 3600 s.
    pub timeout: Duration,
}

/// An event that programs are run at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HookEvent {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
}

impl Config {
    /// Returns how frames are to be answered on a local interface.
    #[must_use]
    pub fn fast_path(&self, interface: &str) -> FastPath {
        self.interfaces.get(interface).map_or(self.daemon.fast_path, |over| over.fast_path)
    }

    /// Returns where the daemon of this configuration listens for heartbeatctl.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.daemon.run_dir.join("control.sock")
    }

    /// Returns a node by its id.
    #[must_use]
    pub fn node(&self, id: u16) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// Returns a network by its id.
    #[must_use]
    pub fn network(&self, id: u16) -> Option<&Network> {
        self.networks.iter().find(|network| network.id == id)
    }
}

/// What one local interface does differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceOverride {
    /// How frames are answered here.
    pub fast_path: FastPath,
}

/// What a network is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Not used: no heartbeats (WSFC 0).
    None,
    /// Between nodes only (WSFC 1).
    Internal,
    /// For clients. It carries heartbeats, so that its interfaces are watched (WSFC 2).
    Client,
    /// Between nodes and for clients (WSFC 3).
    Both,
}

impl Role {
    /// Every role; the index is WSFC's number.
    pub const ALL: [Self; 4] = [Self::None, Self::Internal, Self::Client, Self::Both];

    /// Returns the role's name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Internal => "internal",
            Self::Client => "client",
            Self::Both => "both",
        }
    }

    /// Says whether heartbeats go over a network of this role.
    #[must_use]
    pub const fn is_monitored(self) -> bool {
        !matches!(self, Self::None)
    }
}

/// A network: its subnets are one broadcast domain, or routed to each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Id on the wire, 1 to 65535.
    pub id: u16,
    /// Name, for people and events.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Its subnets; no two of the configuration overlap.
    pub subnets: Vec<Subnet>,
    /// VLAN id that its frames carry when they reach the packet path; 0: untagged.
    pub vlan: u16,
}

/// A cluster member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Id on the wire, 1 to 65535.
    pub id: u16,
    /// Name, for people and events.
    pub name: String,
    /// Its addresses, each with the id of the network that it lies in, sorted.
    pub addresses: Vec<(u16, IpAddr)>,
    /// What its vote weighs: 0 or 1.
    pub weight: u8,
}
