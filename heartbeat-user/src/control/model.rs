//! What answers hold: one node's knowledge as programs read it. Units are in the names; times of day are RFC 3339.
//! It is layout and counting only.

use super::view::ViewGlance;
use super::words::words;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One line of the event log, as it was written: an object with at least `time` (RFC 3339), `level`, `id`, `event`
/// (a stable name) and `message` (one sentence), and what else belongs to that event.
pub type EventRecord = serde_json::Value;

words! {
    /// The verdict on a peer.
    NodeState {
        Unknown = "unknown" "Not heard yet.",
        Up = "up" "Its kernel answers and its controller makes progress.",
        Stalled = "stalled" "Its kernel answers, its controller makes no progress.",
        Hung = "hung" "Stalled past the hang limit.",
        Left = "left" "It said that it leaves, has stopped, was fenced or was given up.",
        Down = "down" "Silent on every path for the detection time.",
    }
}
words! {
    /// The state of a path.
    PathState {
        Unknown = "unknown" "Not heard yet.",
        Up = "up" "Answers come.",
        Lost = "lost" "A few answers are missing.",
        Unreachable = "unreachable" "More are missing.",
        Failed = "failed" "As many are missing as the threshold allows.",
    }
}
words! {
    /// Who answers on an interface.
    Mode {
        Native = "native" "XDP in the driver.",
        Generic = "generic" "XDP after the driver.",
        Userspace = "userspace" "The userspace responder.",
        Detached = "detached" "Nobody: the interface is not there, or the programs were detached.",
    }
}
words! {
    /// What the configuration asks for.
    Wanted {
        Auto = "auto" "The best that there is.",
        Native = "native" "Native XDP or nothing.",
        Generic = "generic" "Generic XDP or nothing.",
        Off = "off" "The userspace responder.",
    }
}
words! {
    /// Who answers for a peer.
    Responder {
        Kernel = "kernel" "Its kernel.",
        Userspace = "userspace" "Its userspace.",
    }
}
words! {
    /// What a network is for.
    Role {
        Internal = "internal" "Cluster traffic alone.",
        Both = "both" "Cluster and clients.",
        Client = "client" "Clients; watched, but not trusted with more.",
        None = "none" "Not used.",
    }
}

/// A node at a glance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of heartbeatd.
    pub version: String,
    /// Name of the cluster.
    pub cluster: String,
    /// Id of the cluster: 16 hex digits.
    pub cluster_id: String,
    /// Name of this node.
    pub node: String,
    /// Its id.
    pub node_id: u16,
    /// Its incarnation.
    pub incarnation: u64,
    /// Generation of its controller.
    pub generation: u64,
    /// Time since this controller started.
    pub uptime_ms: u64,
    /// What it detects with.
    pub settings: SettingsStatus,
    /// Time since the deciding loop last proved progress to the kernel; absent before the first time.
    pub controller_age_ms: Option<u64>,
    /// How the pacing thread keeps its time.
    pub pacing: PacingStatus,
    /// How the deciding loop keeps its time.
    pub deciding: LoopStatus,
    /// Who answers on each interface.
    pub fast_path: Vec<FastPathStatus>,
    /// How many peers are in which state.
    pub nodes: NodesSummary,
    /// How many paths are in which state.
    pub paths: PathsSummary,
    /// True while every peer is silent on every path: this node is cut off.
    pub isolated: bool,
    /// The view and this node's place in it; absent: there is none, since the cluster was not initialised.
    #[serde(default)]
    pub view: Option<ViewGlance>,
    /// What a person should know, one sentence each.
    pub warnings: Vec<String>,
}

/// What a node detects with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettingsStatus {
    /// Name of the profile.
    pub profile: String,
    /// For peers on the same subnet.
    pub same_subnet: DetectionStatus,
    /// For peers on other subnets.
    pub cross_subnet: DetectionStatus,
    /// Controller age from which a peer is stalled.
    pub stall_limit_ms: u64,
    /// Controller age from which a peer is hung.
    pub hang_limit_ms: u64,
}

/// A detection time and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetectionStatus {
    /// Probe interval.
    pub delay_ms: u64,
    /// Consecutive misses.
    pub threshold: u32,
    /// Their product.
    pub detection_time_ms: u64,
}

/// How the pacing thread keeps its time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PacingStatus {
    /// Its real-time policy, such as `fifo 50`, or why it has none.
    pub realtime: String,
    /// Whether its memory is locked.
    pub memory_locked: bool,
    /// How late it ran.
    #[serde(flatten)]
    pub own: LoopStatus,
}

/// How a loop keeps its time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoopStatus {
    /// How late it ran, over all its rounds.
    pub lateness_us: LatenessUs,
    /// How often it ran later than the budget.
    pub late_events: u64,
}

/// Lateness in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatenessUs {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// Who answers on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPathStatus {
    /// Name of the interface.
    pub interface: String,
    /// Who answers.
    pub mode: Mode,
    /// What the configuration asks for.
    pub wanted: Wanted,
    /// Why it is not better, or absent.
    pub reason: Option<String>,
    /// Why no program stamps departures here, and what tells them instead; absent: one does, or none is meant to.
    pub unstamped: Option<String>,
    /// Whether a tagged frame can be told from an untagged one here; absent: it could not be found out.
    pub vlan_tag_visible: Option<bool>,
    /// Whether the interface receives in threads, which a real-time hog can starve; absent: unknown.
    pub threaded_napi: Option<bool>,
}

impl FastPathStatus {
    /// Says that less answers here than the configuration wants.
    #[must_use]
    pub const fn fallen_back(&self) -> bool {
        !matches!(
            (self.wanted, self.mode),
            (Wanted::Auto | Wanted::Native, Mode::Native)
                | (Wanted::Generic, Mode::Generic)
                | (Wanted::Off, Mode::Userspace)
        )
    }
}

/// How many peers are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodesSummary {
    /// Configured peers.
    pub total: u32,
    /// Peers that are unknown.
    pub unknown: u32,
    /// Peers that are up.
    pub up: u32,
    /// Peers that are stalled.
    pub stalled: u32,
    /// Peers that are hung.
    pub hung: u32,
    /// Peers that have left.
    pub left: u32,
    /// Peers that are down.
    pub down: u32,
}

impl NodesSummary {
    /// Counts `nodes`.
    #[must_use]
    pub fn of(nodes: &[NodeStatus]) -> Self {
        let mut summary = Self::default();
        for node in nodes {
            summary.total += 1;
            *match node.state {
                NodeState::Unknown => &mut summary.unknown,
                NodeState::Up => &mut summary.up,
                NodeState::Stalled => &mut summary.stalled,
                NodeState::Hung => &mut summary.hung,
                NodeState::Left => &mut summary.left,
                NodeState::Down => &mut summary.down,
            } += 1;
        }
        summary
    }
}

/// How many paths are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathsSummary {
    /// Configured paths.
    pub total: u32,
    /// Paths that are unknown.
    pub unknown: u32,
    /// Paths that are up.
    pub up: u32,
    /// Paths that are lost.
    pub lost: u32,
    /// Paths that are unreachable.
    pub unreachable: u32,
    /// Paths that have failed.
    pub failed: u32,
}

impl PathsSummary {
    /// Counts `paths`.
    #[must_use]
    pub fn of(paths: &[PathStatus]) -> Self {
        let mut summary = Self::default();
        for path in paths {
            summary.total += 1;
            *match path.state {
                PathState::Unknown => &mut summary.unknown,
                PathState::Up => &mut summary.up,
                PathState::Lost => &mut summary.lost,
                PathState::Unreachable => &mut summary.unreachable,
                PathState::Failed => &mut summary.failed,
            } += 1;
        }
        summary
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u16,
    /// The verdict.
    pub state: NodeState,
    /// Since when, by the kernel's stamps; absent for a state that was never left.
    pub since: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// Its newest incarnation heard; absent: none.
    pub incarnation: Option<u64>,
    /// Generation of its controller; absent: not heard.
    pub generation: Option<u64>,
    /// Age of its controller as its newest frame said, and the time since; absent: not known.
    pub controller_age_ms: Option<u64>,
    /// What its newest frame said: `leaving`, `stopped`, `fenced`, `gave_up`, `member`, `quorate`.
    pub flags: Vec<String>,
    /// Paths to it that are up.
    pub paths_up: u32,
    /// Paths to it.
    pub paths_total: u32,
    /// Time since it was last heard on any path; absent: never.
    pub last_heard_ms_ago: Option<u64>,
    /// Who answers for it; absent: not heard.
    pub responder: Option<Responder>,
    /// Whether it runs with the same settings as this node; absent: not heard.
    pub settings_agree: Option<bool>,
}

/// One path.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathStatus {
    /// Name of its network.
    pub network: String,
    /// What that network is for.
    pub role: Role,
    /// Local interface; absent: no interface has the local address.
    pub interface: Option<String>,
    /// Local address.
    pub local: std::net::IpAddr,
    /// Name of the peer.
    pub peer_node: String,
    /// Its address.
    pub peer_address: std::net::IpAddr,
    /// Whether both lie in one subnet.
    pub same_subnet: bool,
    /// The state.
    pub state: PathState,
    /// Since when; absent for a state that was never left.
    pub since: Option<Timestamp>,
    /// Who answers here.
    pub mode: Mode,
    /// Consecutive probes that left and were not answered.
    pub misses: u32,
    /// Consecutive probes that never left.
    pub unsent: u32,
    /// Probe interval.
    pub delay_ms: u64,
    /// Consecutive misses tolerated.
    pub threshold: u32,
    /// Time since the peer was last heard here; absent: never.
    pub last_heard_ms_ago: Option<u64>,
    /// Round trips; absent: none yet.
    pub rtt_us: Option<RttUs>,
    /// Probes given to the kernel.
    pub sent: u64,
    /// Probes that the kernel saw leave.
    pub departed: u64,
    /// Answers within their time.
    pub echoes: u64,
    /// Answers after their time.
    pub late_echoes: u64,
    /// Probes of the peer that were answered here.
    pub probes_answered: u64,
    /// Probes that left and were never answered, per hundred; absent: none is known to have left.
    pub loss_percent: Option<f64>,
    /// VLAN id that its frames carry; 0: untagged.
    pub vlan: u16,
}

/// Round trips in microseconds, from a histogram by powers of two: see [`super::round_trips`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RttUs {
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Upper edge of the highest bucket hit.
    pub max: f64,
    /// Round trips counted.
    pub samples: u64,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterRow {
    /// Its stable name.
    pub name: String,
    /// Its value.
    pub value: u64,
    /// What it counts.
    pub meaning: String,
}

impl Status {
    /// Returns what is not as it should be, one phrase each; empty: all is well.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.isolated {
            faults.push("cut off: every peer is silent on every path".to_owned());
        }
        faults.extend(self.view.as_ref().and_then(ViewGlance::fault));
        let nodes = &self.nodes;
        for (count, word) in [
            (nodes.down, NodeState::Down),
            (nodes.hung, NodeState::Hung),
            (nodes.stalled, NodeState::Stalled),
            (nodes.left, NodeState::Left),
            (nodes.unknown, NodeState::Unknown),
        ] {
            if count > 0 {
                faults.push(format!("{count} of {} peers {word}", nodes.total));
            }
        }
        if self.paths.failed > 0 {
            faults.push(format!("{} of {} paths failed", self.paths.failed, self.paths.total));
        }
        for fast in self.fast_path.iter().filter(|fast| fast.fallen_back()) {
            faults.push(format!("{} is {}, wanted {}", fast.interface, fast.mode, fast.wanted));
        }
        faults
    }
}
