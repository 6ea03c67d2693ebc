//! What the agreement says of itself when it is asked: for people, and for tests.

use super::document::{Document, Member};
use crate::core::ids::NodeId;
use heartbeat_common::view::Order;
use std::time::Duration;

/// What this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Life {
    /// It holds no view: it waits for a node that does, or for the cluster to be created.
    NoView,
    /// It holds a view, and is no member of it under this incarnation.
    Observer,
    /// It is a member; no view has come into force here since it joined.
    Installed,
    /// It is a member, and a view is in force.
    Member,
    /// It leaves.
    Leaving,
    /// It was left out or fenced, and ends.
    Out,
}

/// How far a regroup is, by the stages of MSCS. For whom it waits is said beside it, by [`Status::waits_for`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Reports are collected.
    Activate,
    /// They were judged, and no ballot is on its way: votes are missing, who hears whom still changes, or it is another
    /// node's turn to propose.
    Closing,
    /// A ballot is on its way: votes are asked for.
    Pruning,
    /// A view is being installed, or is not in force yet.
    Cleanup,
    /// Nothing is to be done.
    Stabilized,
}

/// The agreement as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What this node is.
    pub life: Life,
    /// The view on its disk.
    pub view: Option<Document>,
    /// The last view in force here; [`Order::NONE`]: none.
    pub in_force: Order,
    /// Who was left out and is not known to have stopped.
    pub owed: Vec<Member>,
    /// How far the regroup is.
    pub stage: Stage,
    /// Which regroup it is.
    pub turn: u64,
    /// For whom it waits.
    pub waits_for: Vec<NodeId>,
    /// The node whose disk alone is the cluster.
    pub last_disk: Option<NodeId>,
    /// This node may act, by the last look at the page.
    pub acting: bool,
    /// The disk failed, and this vote is over.
    pub forfeited: bool,
    /// This vote grants in its view.
    pub granting: bool,
    /// For how long each quarantine of the view lasts yet, by this node's own clock, by node.
    pub quarantines: Vec<(NodeId, Duration)>,
}
