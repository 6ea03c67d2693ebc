//! The events of the agreement: numbers, names, levels and fields. They say what happened; they decide nothing.
//!
//! Numbers follow Windows clusters where the meaning is the same (1006 to 5398); everything else is numbered from
//! 20100.

use super::cause::{ControlPlace, JoinCause, NotActing, RemovalCause, StopProof};
use super::declare::events;
use super::{Level, NodeName, PathEvidence};
use crate::core::ids::NodeId;
use heartbeat_common::view::Order;
use serde::{Serialize, Serializer};
use std::fmt;

/// A view by what it is ordered by: `FORCE.NUMBER`, as in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewId(pub Order);

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0.force(), self.0.number())
    }
}

impl Serialize for ViewId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A node under one of its incarnations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemberName {
    /// Its name.
    pub node: String,
    /// Its number.
    pub node_id: NodeId,
    /// Its incarnation.
    pub incarnation: u64,
}

impl fmt::Display for MemberName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (incarnation {})", self.node, self.incarnation)
    }
}

/// Why a view left somebody out, and what that rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Why.
    pub cause: RemovalCause,
    /// Names of the members of that view that judged so themselves, by their own reports.
    pub judges: Vec<String>,
    /// Names of its other members: they did not judge so, or could not say.
    pub others: Vec<String>,
    /// How long it had been silent for the one who heard it last, ms; 4294967295: that one never heard it.
    pub silent_ms: u32,
    /// How old its controller last said to be, ms.
    pub controller_age_ms: u32,
}

events! {
    /// What happened in the agreement. Times are in the units of the names, views `FORCE.NUMBER`.
    ViewEvent {
        /// A view left a member out.
        NodeRemoved = 1135 "node_removed" Error {
            /// Who.
            #[serde(flatten)] member: MemberName,
            /// The view that left it out; where that is not known, the first one known to be without it.
            view: ViewId,
            /// Why; absent: a view that this node has not seen left it out.
            #[serde(flatten)] judgement: Option<Judgement>,
            /// What this node itself had sent to it and heard of it, on each path.
            #[serde(skip_serializing_if = "Vec::is_empty")] paths: Vec<PathEvidence>,
        }
        /// This node may not act any more: it stops what it runs.
        QuorumLost = 1177 "quorum_lost" Error {
            /// The view installed.
            view: ViewId,
            /// Why.
            cause: NotActing,
            /// Names of the holders of votes that are not heard.
            missing: Vec<String>,
            /// How long after the end of the lease (`at_ns`) that was noticed, ms.
            noticed_after_ms: u64,
        }
        /// This node's kernel obeyed a fence.
        Fenced = 1118 "fenced" Error {
            /// Name of the node that sent it; absent: not known.
            by: Option<String>,
            /// Its number, likewise.
            by_id: Option<NodeId>,
            /// The view that left this node out; absent: not known.
            view: Option<ViewId>,
            /// Why it did; absent: not known here.
            cause: Option<RemovalCause>,
        }
        /// A view left this node out.
        LeftOut = 1006 "left_out" Error {
            /// Which.
            view: ViewId,
            /// Names of the nodes that stayed.
            stayed: Vec<String>,
            /// Why; absent: the view does not say.
            #[serde(flatten)] judgement: Option<Judgement>,
        }
        /// A node that wants to join may not.
        JoinRefused = 1070 "join_refused" Error {
            /// Who.
            #[serde(flatten)] member: MemberName,
            /// Why.
            cause: JoinCause,
        }
        /// Another node knows of a newer view than this node holds: this one does not stand for the cluster.
        StateNotNewest = 1561 "state_not_newest" Warning {
            /// The view held.
            held: ViewId,
            /// The newest one told of.
            newest: ViewId,
            /// Name of the node that told.
            told_by: String,
        }
        /// The votes that are there do not make a majority.
        WaitsForVotes = 5398 "waits_for_votes" Error {
            /// The view.
            view: ViewId,
            /// Weight that a majority needs.
            votes_needed: u32,
            /// Weight that is there.
            votes_available: u32,
            /// Names of those that have the rest.
            missing: Vec<String>,
        }
        /// The other side was started by force: this one stops and joins it.
        OtherSideForced = 5396 "other_side_is_forced" Error {
            /// The view held here.
            held: ViewId,
            /// The one that wins.
            other: ViewId,
        }
        /// A node may not join for a while.
        NodeQuarantined = 1672 "node_quarantined" Warning {
            /// Who.
            #[serde(flatten)] node: NodeName,
            /// Its ungraceful ends within an hour.
            ends: u8,
            /// For how long, ms.
            remaining_ms: u64,
        }
        /// A node in quarantine wanted to join.
        QuarantineRefused = 1675 "join_refused_by_quarantine" Warning {
            /// Who.
            #[serde(flatten)] node: NodeName,
            /// For how long yet, ms.
            remaining_ms: u64,
        }
        /// This node is in quarantine.
        OwnQuarantine = 1676 "quarantined" Error {
            /// Its ungraceful ends within an hour.
            ends: u8,
            /// For how long yet, by this node's clock, ms.
            remaining_ms: u64,
        }
        /// This node stops, since its disk no longer keeps what it promised.
        StoppedForConsistency = 1073 "stopped_for_consistency" Error {}
        /// A view was decided, and is on this node's disk.
        ViewInstalled = 20100 "view_installed" Info {
            /// Its name.
            view: ViewId,
            /// First 8 bytes of the digest of its document, 16 hex digits.
            digest: String,
            /// Names of its members.
            members: Vec<String>,
            /// Names of those whose votes weigh in it.
            voters: Vec<String>,
            /// Name of the node that was asked for it; absent: nobody was.
            asked_of: Option<String>,
        }
        /// All that the view left out are known to have stopped: its members may take over.
        ViewInForce = 20101 "view_in_force" Info {
            /// Which.
            view: ViewId,
            /// How long after its installation, ms.
            after_ms: u64,
        }
        /// The way to the next view has begun.
        RegroupStarted = 20102 "regroup_started" Info {
            /// Which regroup upon this view.
            turn: u64,
            /// Why, as a clause.
            trigger: String,
        }
        /// It waits for nodes.
        RegroupWaits = 20103 "regroup_waits" Warning {
            /// The view that is to be followed; absent: this node knows of none.
            view: Option<ViewId>,
            /// Names of the nodes that it waits for.
            waits_for: Vec<String>,
        }
        /// A node is a member.
        NodeJoined = 20104 "node_joined" Info {
            /// Who.
            #[serde(flatten)] member: MemberName,
            /// The view.
            view: ViewId,
        }
        /// A member has left by itself.
        NodeLeftView = 20105 "node_left_view" Info {
            /// Who.
            #[serde(flatten)] member: MemberName,
            /// The view without it; where there is none yet, the last one it was in.
            view: ViewId,
            /// Whether a view without it was decided, so that nobody waits for its vote.
            handed_over: bool,
        }
        /// This node may act.
        LeaseGained = 20106 "lease_gained" Info {
            /// The view that its acts carry.
            view: ViewId,
        }
        /// This node leaves and acts no more: it stops what it runs.
        LeaseGivenUp = 20107 "lease_given_up" Info {
            /// The view installed.
            view: ViewId,
        }
        /// This node orders a left-out node's kernel to stop it.
        FenceSent = 20108 "fence_sent" Warning {
            /// Whom.
            #[serde(flatten)] member: MemberName,
            /// The view that left it out.
            view: ViewId,
        }
        /// The kernel of a left-out node has obeyed.
        FenceAcknowledged = 20109 "fence_acknowledged" Info {
            /// Whose.
            #[serde(flatten)] member: MemberName,
            /// Whether it gates all that its node runs, so that this has stopped already.
            gated: bool,
        }
        /// A left-out node is known to have stopped.
        KnownStopped = 20110 "known_stopped" Info {
            /// Who.
            #[serde(flatten)] member: MemberName,
            /// How that is known.
            proof: StopProof,
        }
        /// The disk failed: this node has no vote any more.
        VoteForfeited = 20111 "vote_forfeited" Error {}
        /// The disk holds an older state than it held before.
        OlderState = 20112 "older_state" Error {
            /// Number of the state found.
            sequence: u64,
            /// Number of the newest one seen.
            seen: u64,
            /// Name of the node that saw it.
            seen_by: String,
        }
        /// This node was judged dead or hung, and goes on.
        Hole = 20113 "judged_dead" Warning {
            /// The view that left it out.
            view: ViewId,
            /// It was judged hung, its kernel answering; else silent on every path.
            hung: bool,
            /// How long its controller had made no progress, or it had been silent for the one who heard it last, ms.
            lost_ms: u64,
        }
        /// This node waits before it asks to join.
        RestartBackoff = 20114 "restart_backoff" Warning {
            /// Its ungraceful ends within an hour.
            ends: u8,
            /// How long, ms.
            wait_ms: u64,
        }
        /// A node in quarantine may join again.
        QuarantineCleared = 20115 "quarantine_cleared" Info {
            /// Who.
            #[serde(flatten)] node: NodeName,
        }
        /// A view changed a setting.
        ViewSettingChanged = 20116 "view_setting_changed" Info {
            /// The view.
            view: ViewId,
            /// Which setting, and its value; absent: this node was not asked for it, and installed the view alone.
            setting: Option<String>,
            /// Name of the node that was asked for it.
            asked_of: String,
        }
        /// This node goes on alone, by an operator's word.
        ForcedQuorum = 20117 "forced_quorum" Error {
            /// The view.
            view: ViewId,
        }
        /// Some members do not hear each other, and no others can do without them.
        NoConnectedMajority = 20118 "no_connected_majority" Warning {
            /// The view, which stays.
            view: ViewId,
            /// Names of those that are not connected with everybody.
            apart: Vec<String>,
        }
        /// One node's disk alone is the cluster.
        LastDisk = 20119 "last_disk" Warning {
            /// Whose.
            #[serde(flatten)] node: NodeName,
            /// The view.
            view: ViewId,
        }
        /// Messages of a node do not pass, though its controller runs.
        ControlLost = 20120 "control_lost" Warning {
            /// Whose.
            #[serde(flatten)] node: NodeName,
            /// Where the fault is, as far as it can be told from here.
            location: ControlPlace,
        }
        /// Messages of a node pass again.
        ControlRestored = 20121 "control_restored" Info {
            /// Whose.
            #[serde(flatten)] node: NodeName,
        }
        /// A hook did not run, or failed.
        HookFailed = 20122 "hook_failed" Warning {
            /// Its file.
            hook: String,
            /// Number of the event that it was for.
            event_id: u32,
            /// What went wrong, as a clause.
            reason: String,
        }
        /// A clock of this node runs out of its bounds.
        ClockOutOfBounds = 20123 "clock_out_of_bounds" Error {}
        /// A peer returned a stamp of the future.
        TimeWentBack = 20124 "time_went_back" Error {}
        /// A person has asked for a change of the cluster.
        ChangeAsked = 20125 "change_asked" Info {
            /// What, as a clause.
            change: String,
            /// By which user.
            uid: u32,
            /// What became of it, in one sentence.
            outcome: String,
        }
    }
}

impl ViewEvent {
    /// Returns how grave it is. A removal that nobody has to look into is less grave than others.
    #[must_use]
    pub const fn level(&self) -> Level {
        match self {
            Self::NodeRemoved { judgement: Some(Judgement { cause: RemovalCause::Left, .. }), .. } => Level::Info,
            Self::NodeRemoved { judgement: Some(Judgement { cause: RemovalCause::Restarted, .. }), .. } => {
                Level::Warning
            }
            other => other.declared_level(),
        }
    }
}
