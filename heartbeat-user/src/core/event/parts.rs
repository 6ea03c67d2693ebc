//! What events are made of: names, causes, places and evidence. It holds values only.

use crate::core::ids::{NetworkId, NodeId, PathId};
use crate::core::time::MonoTime;
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;

/// How grave an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be, or back to it.
    Info,
    /// Somebody should look, not at once.
    Warning,
    /// Something does not work.
    Error,
}

/// A node by number and name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeName {
    /// Its name.
    pub node: String,
    /// Its number.
    pub node_id: NodeId,
}

/// A path by everything it goes by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Link {
    /// Index of the path.
    pub path: PathId,
    /// The peer's name.
    pub node: String,
    /// The peer's number.
    pub node_id: NodeId,
    /// The network's name.
    pub network: String,
    /// The network's number.
    pub network_id: NetworkId,
    /// This node's address.
    pub local_address: IpAddr,
    /// The peer's address.
    pub peer_address: IpAddr,
}

/// Which of this node's threads ran late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LateSource {
    /// The one that sends probes.
    Pacer,
    /// The one that decides.
    Decider,
}

/// Where the fault of a failed path is, as far as it can be told from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FailLocation {
    /// Other peers answer on the same network through the same local interface.
    PeerInterface,
    /// The local interface is absent or down, or nothing answers on it.
    OwnInterface,
    /// The network or the own interface: nobody answers through it.
    NotDetermined,
}

/// Who answers probes on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EchoMode {
    /// XDP in the driver.
    Native,
    /// XDP in the stack.
    Generic,
    /// The responder in userspace.
    Userspace,
}

/// One of the kernel programs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// The one that receives and answers.
    Xdp,
    /// The one that stamps the departure of probes.
    Egress,
}

/// The likely cause of a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Probes left and were not answered.
    PeerSilent,
    /// No probe left this node.
    CannotSend,
    /// Every peer fell silent: this node may be cut off.
    Isolated,
}

/// What a peer last said of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PeerSaid {
    /// When it said so; 0: never.
    pub peer_said_ns: MonoTime,
    /// Its incarnation; 0: none was ever proved.
    pub incarnation: u64,
    /// Generation of its controller; 0: not known.
    pub generation: u32,
    /// Controller age, ms; absent where it did not fit or was not known.
    pub controller_age_ms: Option<u64>,
    /// It said that it was leaving.
    pub leaving: bool,
    /// It said that its controller had stopped for good.
    pub stopped: bool,
    /// It said that it obeyed a fence.
    pub fenced: bool,
    /// It said that its service manager gave up starting its controller.
    pub gave_up: bool,
}

/// What was sent and heard on one path of a silent peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathEvidence {
    /// Index of the path.
    pub path: PathId,
    /// The network's name.
    pub network: String,
    /// The peer's address.
    pub peer_address: IpAddr,
    /// Probes that left and were not answered, in a row.
    pub misses: u32,
    /// Probes that did not leave, in a row.
    pub unsent: u32,
    /// When the peer was last heard on it; 0: never.
    pub last_heard_ns: MonoTime,
    /// When a probe last left on it; 0: never.
    pub last_departure_ns: MonoTime,
    /// Round trip of the newest echo, ns; 0: none yet.
    pub round_trip_ns: u64,
}

/// What the verdict Down rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// When the peer was last heard on any path, by the kernel's stamp: its time of death. 0: never heard.
    pub silent_since_ns: MonoTime,
    /// The likely cause.
    pub cause: Cause,
    /// True: it was never heard at all.
    pub never_heard: bool,
    /// When the last burst was sent.
    pub burst_ns: MonoTime,
    /// The most by which this node itself ran late meanwhile, us (a minute back at most).
    pub own_lateness_us: u64,
    /// What the peer last said.
    #[serde(flatten)]
    pub said: PeerSaid,
    /// Every path.
    pub paths: Vec<PathEvidence>,
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.node)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {} ({} to {})", self.node, self.network, self.local_address, self.peer_address)
    }
}

impl fmt::Display for LateSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pacer => "pacing thread",
            Self::Decider => "deciding thread",
        })
    }
}

impl fmt::Display for FailLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerInterface => "the fault is at the peer's interface, since other peers answer here",
            Self::OwnInterface => {
                "the fault is at this node's own interface, which is absent, down or without responder"
            }
            Self::NotDetermined => {
                "the fault is in the network or at this node's own interface, which could not be determined"
            }
        })
    }
}

impl fmt::Display for EchoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native XDP",
            Self::Generic => "generic XDP",
            Self::Userspace => "the userspace responder",
        })
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xdp => "XDP program",
            Self::Egress => "egress program",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PeerSilent => "probes left this node and none was answered",
            Self::CannotSend => "no probe could leave this node towards it",
            Self::Isolated => "every peer fell silent, so this node itself may be cut off",
        })
    }
}
