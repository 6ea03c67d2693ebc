//! The requests, and the frame around each answer. It is layout only.

use super::change::SettingChange;
use super::{CounterRow, EventRecord, NodeStatus, PathStatus, Refusal};
use serde::{Deserialize, Serialize};

/// Version of the answers. It rises when a field changes its meaning or goes; new fields leave it.
pub const SCHEMA: u32 = 1;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// [`super::Status`].
    Status {},
    /// Every peer.
    Nodes {},
    /// Every path.
    Paths {},
    /// Every counter.
    Counters {},
    /// Events, those in the log and, with `follow`, those to come.
    Events {
        /// Only events from then on, wall-clock milliseconds since 1970; absent: all that the log holds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since_unix_ms: Option<i64>,
        /// Whether to go on.
        #[serde(default)]
        follow: bool,
    },
    /// The next stop is part of a restart.
    Handover {},
    /// Detach the kernel programs.
    Detach {},
    /// [`super::ViewStatus`].
    View {},
    /// [`super::QuorumStatus`].
    Quorum {},
    /// Create the cluster, once, with this node as its only member.
    Init {
        /// Name of the cluster, typed by whoever asks.
        cluster: String,
    },
    /// Leave the cluster and end.
    Leave {},
    /// Remove a node from the view, and stop it by its kernel.
    Fence {
        /// Name or id of the node.
        node: String,
        /// Name of the cluster, typed by whoever asks.
        cluster: String,
    },
    /// Let a node join again before its quarantine is over.
    ClearQuarantine {
        /// Name or id of the node.
        node: String,
    },
    /// Change a setting of the view.
    Set {
        /// Which one, and its value.
        setting: SettingChange,
    },
    /// Go on without a majority.
    ForceQuorum {
        /// Name of the cluster, typed by whoever asks.
        cluster: String,
    },
}

impl Request {
    /// Returns what is asked, without its arguments.
    #[must_use]
    pub const fn verb(&self) -> Verb {
        match self {
            Self::Status {} => Verb::Status,
            Self::Nodes {} => Verb::Nodes,
            Self::Paths {} => Verb::Paths,
            Self::Counters {} => Verb::Counters,
            Self::Events { .. } => Verb::Events,
            Self::Handover {} => Verb::Handover,
            Self::Detach {} => Verb::Detach,
            Self::View {} => Verb::View,
            Self::Quorum {} => Verb::Quorum,
            Self::Init { .. } => Verb::Init,
            Self::Leave {} => Verb::Leave,
            Self::Fence { .. } => Verb::Fence,
            Self::ClearQuarantine { .. } => Verb::ClearQuarantine,
            Self::Set { .. } => Verb::Set,
            Self::ForceQuorum { .. } => Verb::ForceQuorum,
        }
    }
}

/// A request without its arguments: what permissions are given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One node at a glance.
    Status,
    /// Its peers.
    Nodes,
    /// Its paths.
    Paths,
    /// What happened.
    Events,
    /// How frames ended.
    Counters,
    /// Announce a restart.
    Handover,
    /// Detach the kernel programs.
    Detach,
    /// What its members have agreed on.
    View,
    /// Votes and the lease that they give.
    Quorum,
    /// Create the cluster.
    Init,
    /// Leave it and end.
    Leave,
    /// Remove a node, and stop it.
    Fence,
    /// Let a node join again.
    ClearQuarantine,
    /// Change a setting of the view.
    Set,
    /// Go on without a majority.
    ForceQuorum,
}

impl Verb {
    /// Every verb.
    pub const ALL: [Self; 15] = [
        Self::Status,
        Self::Nodes,
        Self::Paths,
        Self::Events,
        Self::Counters,
        Self::Handover,
        Self::Detach,
        Self::View,
        Self::Quorum,
        Self::Init,
        Self::Leave,
        Self::Fence,
        Self::ClearQuarantine,
        Self::Set,
        Self::ForceQuorum,
    ];

    /// Says whether it asks for a change of the cluster, which its members have to decide first.
    #[must_use]
    pub const fn is_change(self) -> bool {
        matches!(self, Self::Init | Self::Leave | Self::Fence | Self::ClearQuarantine | Self::Set | Self::ForceQuorum)
    }

    /// Returns the word used in requests and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Nodes => "nodes",
            Self::Paths => "paths",
            Self::Events => "events",
            Self::Counters => "counters",
            Self::Handover => "handover",
            Self::Detach => "detach",
            Self::View => "view",
            Self::Quorum => "quorum",
            Self::Init => "init",
            Self::Leave => "leave",
            Self::Fence => "fence",
            Self::ClearQuarantine => "clear-quarantine",
            Self::Set => "set",
            Self::ForceQuorum => "force-quorum",
        }
    }
}

/// An answer: the schema number, then the fields of `body`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer<T> {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What was asked for, or [`ErrorBody`].
    #[serde(flatten)]
    pub body: T,
}

impl<T> Answer<T> {
    /// Frames `body`.
    pub const fn new(body: T) -> Self {
        Self { schema: SCHEMA, body }
    }
}

/// What was taken off by `heartbeatctl` itself, where no heartbeatd runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DetachedBody {
    /// What was done, in one sentence.
    pub done: String,
    /// The pins and directories that were removed.
    pub removed: Vec<String>,
}

/// Declares the bodies that hold one named field.
macro_rules! bodies {
    ($($name:ident { $field:ident: $type:ty } $text:literal;)*) => {
        $(
            #[doc = $text]
            #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
            pub struct $name {
                #[doc = $text]
                pub $field: $type,
            }
        )*
    };
}

bodies! {
    NodesBody { nodes: Vec<NodeStatus> } "Every peer, by id.";
    PathsBody { paths: Vec<PathStatus> } "Every path, in the configuration's order.";
    CountersBody { counters: Vec<CounterRow> } "Every counter, in its fixed order.";
    EventsBody { events: Vec<EventRecord> } "Events, oldest first.";
    EventBody { event: EventRecord } "One event of a stream.";
    DoneBody { done: String } "What was done, in one sentence.";
    ErrorBody { error: Refusal } "Why nothing was done.";
}
