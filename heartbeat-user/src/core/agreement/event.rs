//! What happened in the agreement, for people and machines. Each is told once. Numbers, levels and sentences are given
//! elsewhere.

use super::document::{ChangeId, Document, Member, Reason, Removal};
use super::message::Setting;
use super::stops::How;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::{NODES_MAX, Refused};
use heartbeat_common::view::{Name, Order};
use std::time::Duration;

/// Why a regroup began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Trigger {
    /// A member has gone, for this reason.
    Member(Member, Reason),
    /// Somebody may join.
    Joiner(Member),
    /// Somebody asked for a change.
    Wish(ChangeId),
    /// A value was accepted, and no decision of it was heard; or grants were cleared for one.
    Unfinished,
    /// This node holds a vote of the view, and is no member of it under its incarnation.
    Start,
    /// A quarantine is over.
    Release(NodeId),
    /// This node leaves.
    Leave,
    /// Another node began it.
    Joined(NodeId),
}

/// Why a node may not join.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JoinFault {
    /// Its settings are others.
    Settings,
    /// It is in quarantine.
    Quarantined,
    /// This incarnation was a member, and was left out.
    LeftOut,
    /// Its older incarnation is still heard: two nodes have one identity.
    Doubled,
    /// A view has no room for more nodes.
    Full,
}

/// Where the fault is if messages of a node do not pass, as far as it can be told from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ControlFault {
    /// Those of others pass.
    There,
    /// Those of others do not pass either.
    Here,
    /// There are no others.
    NotDetermined,
}

/// Why a view left a member out, and what that rests on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grounds {
    /// Why.
    pub reason: Reason,
    /// How long it had been silent for the one who heard it last, ms; [`u32::MAX`]: that one never heard it.
    pub silent_ms: u32,
    /// How old its controller last said to be, ms.
    pub controller_age_ms: u32,
    /// Members of the view that called it so by their own reports, by node.
    pub judges: Vec<NodeId>,
    /// Its other members, by node.
    pub others: Vec<NodeId>,
}

impl Grounds {
    /// Returns what `view` says of one of its removals.
    #[must_use]
    pub fn of(view: &Document, removal: &Removal) -> Self {
        let places = view.members.iter().enumerate();
        let judged = |place: usize| place < NODES_MAX && removal.judges >> place & 1 == 1;
        let (judges, others): (Vec<_>, Vec<_>) = places.partition(|(place, _)| judged(*place));
        let nodes = |members: Vec<(usize, &Member)>| members.into_iter().map(|(_, member)| member.node).collect();
        Self {
            reason: removal.reason,
            silent_ms: removal.silent_ms,
            controller_age_ms: removal.controller_age_ms,
            judges: nodes(judges),
            others: nodes(others),
        }
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AgreementEvent {
    /// 1135: a view left a member out.
    NodeRemoved {
        /// The view that left it out; where that is not known, the first one that this node knows to be without it.
        view: Order,
        /// Who.
        member: Member,
        /// Why; `None`: a view that this node has not seen left it out, and later ones do not say.
        grounds: Option<Grounds>,
    },
    /// 1177: this node may not act any more.
    QuorumLost {
        /// The view installed.
        view: Order,
        /// Why.
        why: Refused,
        /// Holders of votes that are not heard.
        missing: Vec<NodeId>,
        /// When that was, by the dates in the page; where it does not show that, when it was noticed.
        ended: MonoTime,
    },
    /// 1118: this node's kernel obeyed a fence.
    Fenced {
        /// Who sent it, as far as it is known.
        by: Option<NodeId>,
        /// The view that left this node out, as far as it is known.
        view: Option<Order>,
        /// Why it did, as far as it is known.
        reason: Option<Reason>,
    },
    /// 1006: a view left this node out.
    LeftOut {
        /// Which.
        view: Order,
        /// Why, and what that rests on; `None`: the view does not say.
        grounds: Option<Grounds>,
        /// Who stayed.
        stayed: Vec<NodeId>,
    },
    /// 1070: a node that wants to join may not. Told once for each incarnation and reason.
    JoinRefused {
        /// Who.
        node: Member,
        /// Why.
        why: JoinFault,
    },
    /// 1561: somebody knows of a newer view than the one by which this node could have stood for the cluster.
    StateNotNewest {
        /// The view held.
        held: Order,
        /// The newest one told.
        newest: Order,
        /// Who told.
        told_by: NodeId,
    },
    /// 5398: votes that are there do not suffice.
    WaitsForVotes {
        /// The view.
        view: Order,
        /// Weight that a majority needs.
        needed: u32,
        /// Weight that is there.
        available: u32,
        /// Who has the rest.
        missing: Vec<NodeId>,
    },
    /// 5396: the other side was started by force.
    OtherSideForced {
        /// The view held here.
        own: Order,
        /// The one that wins.
        other: Order,
    },
    /// 1672: a node may not join for a while.
    Quarantined {
        /// Who.
        node: NodeId,
        /// Its ungraceful ends within an hour.
        ends: u8,
        /// For how long.
        remaining: Duration,
    },
    /// 1675: a node in quarantine wants to join.
    QuarantineRefused {
        /// Who.
        node: NodeId,
        /// For how long yet.
        remaining: Duration,
    },
    /// 1676: this node is in quarantine.
    OwnQuarantine {
        /// Its ungraceful ends within an hour.
        ends: u8,
        /// For how long yet.
        remaining: Duration,
    },
    /// 1073: this node stops because its disk failed.
    StoppedForConsistency,
    /// 20100: a view was decided, and is on this node's disk.
    ViewInstalled {
        /// Its name.
        view: Name,
        /// Its members.
        members: Vec<Member>,
        /// Who has a vote.
        voters: Vec<NodeId>,
        /// The request that it fulfils.
        change: Option<ChangeId>,
    },
    /// 20101: all that the view left out are known to have stopped.
    ViewInForce {
        /// Which.
        view: Order,
        /// How long after its installation.
        after: Duration,
    },
    /// 20102: a regroup began.
    RegroupStarted {
        /// Which one.
        turn: u64,
        /// Why.
        trigger: Trigger,
    },
    /// 20103: a regroup waits. Told at most once in 10 s.
    RegroupWaits {
        /// The view that is to be followed; [`Order::NONE`]: none is known.
        view: Order,
        /// For whom.
        waits_for: Vec<NodeId>,
    },
    /// 20104: a node is a member.
    NodeJoined {
        /// The view.
        view: Order,
        /// Who.
        member: Member,
    },
    /// 20105: a member left by itself.
    NodeLeftView {
        /// The view without it; where this node left without one, the last it was in.
        view: Order,
        /// Who.
        member: Member,
        /// Its vote was handed over.
        handed_over: bool,
    },
    /// 20106: this node may act.
    LeaseGained {
        /// The view that tokens carry.
        view: Order,
    },
    /// 20107: this node acted, and does not any more since it leaves.
    LeaseGivenUp {
        /// The view installed.
        view: Order,
    },
    /// 20108: this node sends fences.
    FenceSent {
        /// To whom.
        victim: Member,
        /// For which view.
        view: Order,
    },
    /// 20109: a kernel acknowledged one.
    FenceAcknowledged {
        /// Whose.
        victim: Member,
        /// It gates all that its node runs.
        gated: bool,
    },
    /// 20110: somebody left out is known to have stopped.
    KnownStopped {
        /// Who.
        member: Member,
        /// How it is known.
        how: How,
    },
    /// 20111: the disk failed, and this vote is over.
    VoteForfeited,
    /// 20112: the disk holds an older state than it held before.
    OlderState {
        /// Its sequence.
        sequence: u64,
        /// The sequence that was seen before.
        seen: u64,
        /// Who saw it.
        seen_by: NodeId,
    },
    /// 20113: this node was judged dead or hung, and goes on.
    Hole {
        /// The view that left it out.
        view: Order,
        /// Its controller was called hung; else it was silent on every path.
        hung: bool,
        /// How long its controller had made no progress, or it had been silent for the one who heard it last.
        lost: Duration,
    },
    /// 20114: this node waits before it asks to join.
    RestartBackoff {
        /// Its ungraceful ends within an hour.
        ends: u8,
        /// How long.
        wait: Duration,
    },
    /// 20115: a node may join again.
    QuarantineCleared {
        /// Who.
        node: NodeId,
    },
    /// 20116: a view changed what it holds.
    ViewSettingChanged {
        /// The view.
        view: Order,
        /// Who asked for it.
        change: ChangeId,
        /// What, where this node knows it.
        setting: Option<Setting>,
    },
    /// 20117: this node goes on alone, by an operator's word.
    ForcedQuorum {
        /// The view.
        view: Order,
    },
    /// 20118: some members do not hear each other, and no others can do without them: all stay.
    NoConnectedMajority {
        /// The view.
        view: Order,
        /// Who is not connected with everybody.
        apart: Vec<NodeId>,
    },
    /// 20119: one node's disk alone is the cluster.
    LastDisk {
        /// The view.
        view: Order,
        /// Whose.
        node: NodeId,
    },
    /// 20120: messages of a node whose controller runs do not pass.
    ControlLost {
        /// Whose.
        node: NodeId,
        /// Where the fault is.
        fault: ControlFault,
    },
    /// 20121: they pass again.
    ControlRestored {
        /// Whose.
        node: NodeId,
    },
    /// 20123: a clock of this node runs out of its bounds: it does not act.
    ClockOutOfBounds,
    /// 20124: a peer knows what is this node's future: this memory is that of an older snapshot.
    TimeWentBack,
}
