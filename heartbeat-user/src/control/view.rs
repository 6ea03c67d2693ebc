//! What answers about views and votes hold: names, units and times as programs read them. It is layout and arithmetic
//! on itself; who is a member and who may act is decided elsewhere.

use super::words::words;
use heartbeat_common::view::{Name, Order};
use serde::{Deserialize, Serialize};
use std::fmt;

words! {
    /// What this node is to the cluster.
    Life {
        NoView = "no_view" "It holds no view, and waits for a node that lists it.",
        Observer = "observer" "It holds a view that it is no member of, and asks to join.",
        Installed = "installed" "It is a member of the view that it holds, which is not in force here yet.",
        Member = "member" "It is a member of a view in force.",
        Leaving = "leaving" "It was told to leave, or was told to end.",
        Out = "out" "It was left out or fenced: it stops what it runs, and ends.",
    }
}
words! {
    /// How far the way to the next view is, by the stages of MSCS.
    Stage {
        Stabilized = "stabilized" "There is none under way.",
        Activate = "activate" "Reports are collected.",
        Closing = "closing" "They were judged, and no view is proposed yet: votes are missing, or who hears whom changes.",
        Pruning = "pruning" "The next view is being decided: votes are asked for.",
        Cleanup = "cleanup" "It is decided, and is being installed, or is not in force yet.",
    }
}
words! {
    /// Why a view left a member out.
    RemovalReason {
        Down = "down" "It was silent on every path.",
        Hung = "hung" "Its controller made no progress for the hang limit.",
        Restarted = "restarted" "It came back under a newer incarnation.",
        Left = "left" "It left by itself.",
        NotConnected = "not_connected" "It and others that stay did not hear each other both ways.",
        NoMessages = "no_messages" "Its messages did not pass, though its controller ran.",
        CannotApply = "cannot_apply" "It said that it cannot apply what was decided.",
        Fenced = "fenced" "An operator asked for it.",
        Forced = "forced" "An operator forced a start without it.",
        GaveUp = "gave_up" "Its service manager gave up starting its controller.",
    }
}

/// What views are ordered by: force count, then number. It is written as `FORCE.NUMBER`, as in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewNumber {
    /// How many forced starts led to it.
    pub force: u16,
    /// Its number; 0: no view.
    pub number: u64,
}

impl fmt::Display for ViewNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.force, self.number)
    }
}

impl From<Order> for ViewNumber {
    fn from(order: Order) -> Self {
        Self { force: order.force(), number: order.number() }
    }
}

/// A view's name: what it is ordered by, and the beginning of its document's digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewRef {
    /// How many forced starts led to it.
    pub force: u16,
    /// Its number.
    pub number: u64,
    /// First 8 bytes of the digest of its document: 16 hex digits.
    pub digest: String,
}

impl ViewRef {
    /// Returns what it is ordered by.
    #[must_use]
    pub const fn number(&self) -> ViewNumber {
        ViewNumber { force: self.force, number: self.number }
    }
}

impl From<&Name> for ViewRef {
    fn from(name: &Name) -> Self {
        // The words are little-endian: swapped, the first one reads as the bytes stand.
        let digest = format!("{:016x}", name.digest[0].swap_bytes());
        Self { force: name.order.force(), number: name.order.number(), digest }
    }
}

impl fmt::Display for ViewRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// A node under one of its incarnations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u16,
    /// Its incarnation.
    pub incarnation: u64,
}

/// An incarnation that was left out, which the view does not know to have stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedStatus {
    /// Who.
    #[serde(flatten)]
    pub member: MemberStatus,
    /// The view that left it out, `FORCE.NUMBER`.
    pub left_out_by: String,
    /// Whether this node knows by now that it has stopped.
    pub stopped: bool,
}

/// Who was left out by the view, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovalStatus {
    /// Who.
    #[serde(flatten)]
    pub member: MemberStatus,
    /// Why.
    pub reason: RemovalReason,
    /// Names of the nodes that judged so.
    pub judges: Vec<String>,
    /// How long it had been silent for the one who heard it last, ms.
    pub silent_ms: u32,
    /// How old its controller last said to be, ms.
    pub controller_age_ms: u32,
}

/// A node that may not join for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuarantineStatus {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u16,
    /// How often it ended ungracefully within an hour.
    pub exits: u8,
    /// For how long yet, by the asked node's clock, ms.
    pub remaining_ms: u64,
}

/// The view that this node holds: what its members have agreed on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewDocument {
    /// Its name.
    #[serde(flatten)]
    pub name: ViewRef,
    /// The members, by id.
    pub members: Vec<MemberStatus>,
    /// Whom it left out, by id.
    pub removals: Vec<RemovalStatus>,
    /// What is left out, and was not known to have stopped when it was decided, by id.
    pub owed: Vec<OwedStatus>,
    /// Who may not join, by id.
    pub quarantined: Vec<QuarantineStatus>,
}

/// Answer to `view`: what this node holds, whether it is in force, and what it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewStatus {
    /// What this node is to the cluster.
    pub life: Life,
    /// The view that it holds; absent: none.
    pub view: Option<ViewDocument>,
    /// The last view in force here, `FORCE.NUMBER`; absent: none yet.
    pub in_force: Option<String>,
    /// How far the way to the next view is.
    pub stage: Stage,
    /// Whom or what it waits for, one phrase each: for the next view, for this one to be in force, to join.
    pub waits_for: Vec<String>,
    /// Whether it may act now.
    pub acting: bool,
    /// Why it may not; absent: it may.
    pub not_acting: Option<String>,
    /// What its acts carry, `FORCE.NUMBER.INCARNATION`; absent: it may not act.
    pub token: Option<String>,
}

impl ViewStatus {
    /// Says whether the view held is in force here.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        is_in_force(self.view.as_ref().map(|view| &view.name), self.in_force.as_deref())
    }
}

fn is_in_force(held: Option<&ViewRef>, in_force: Option<&str>) -> bool {
    held.is_some_and(|held| in_force == Some(&held.to_string()))
}

/// A vote upon the next view, and what it last granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteStatus {
    /// Who holds it: a node's name, or `witness` and its place.
    pub holder: String,
    /// The node's id; absent for a witness.
    pub id: Option<u16>,
    /// What it weighs by configuration: 0 or 1.
    pub configured: u8,
    /// What it weighs in this view.
    pub weight: u8,
    /// Whether it is this node's own.
    pub own: bool,
    /// Age of its newest grant to this node, by this node's own stamp, ms; absent: none in this view. The own vote's
    /// grant is as new as now while it stands.
    pub granted_ms_ago: Option<u64>,
}

/// How long things take at most with the settings in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BudgetStatus {
    /// From a node's death to the verdict on it.
    pub detection_ms: u64,
    /// From there to the view without it, where disks and network are quick.
    pub view_ms: u64,
    /// From there until that view is in force, if nothing proves sooner that the node has stopped.
    pub in_force_ms: u64,
}

impl BudgetStatus {
    /// Returns the time from a node's death until others may take over, ms.
    #[must_use]
    pub const fn takeover_ms(&self) -> u64 {
        self.detection_ms.saturating_add(self.view_ms).saturating_add(self.in_force_ms)
    }
}

/// Answer to `quorum`: votes, the lease that they give, and what that costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuorumStatus {
    /// The view that they are votes of.
    pub view: ViewRef,
    /// Whether votes follow membership, down to the last node standing.
    pub dynamic: bool,
    /// Name of the node that loses its vote first where their number is even; absent: none.
    pub lower_priority: Option<String>,
    /// The votes, by holder.
    pub votes: Vec<VoteStatus>,
    /// All weights together.
    pub votes_total: u32,
    /// How much of it is a majority.
    pub votes_needed: u32,
    /// How much of it has granted within the lease, less the time to stop.
    pub votes_fresh: u32,
    /// Length of the lease, and the death timer.
    pub lease_ms: u64,
    /// How much of it stopping takes.
    pub stop_ms: u64,
    /// The longest lease that may still run anywhere.
    pub longest_ms: u64,
    /// For how much longer this node may act if nobody grants again; absent: it may not act.
    pub lease_left_ms: Option<u64>,
    /// Name of the node whose disk alone is the cluster; absent: there is no such node.
    pub last_disk: Option<String>,
    /// How long things take.
    pub budget: BudgetStatus,
}

/// View and lease in `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ViewGlance {
    /// What this node is to the cluster.
    pub life: Life,
    /// The view that it holds; absent: none.
    pub held: Option<ViewRef>,
    /// Names of its members.
    pub members: Vec<String>,
    /// The last view in force here, `FORCE.NUMBER`; absent: none yet.
    pub in_force: Option<String>,
    /// How far the way to the next view is.
    pub stage: Stage,
    /// Whom or what this node waits for, one phrase each.
    pub waits_for: Vec<String>,
    /// Whether it may act now.
    pub acting: bool,
    /// Why it may not; absent: it may.
    pub not_acting: Option<String>,
    /// Length of the lease; absent: there is no view.
    pub lease_ms: Option<u64>,
    /// For how much longer it may act if nobody grants again; absent: it may not act.
    pub lease_left_ms: Option<u64>,
    /// Names of those whose votes weigh.
    pub vote_holders: Vec<String>,
    /// Name of the node whose disk alone is the cluster; absent: there is no such node.
    pub last_disk: Option<String>,
    /// Who may not join, by id.
    pub quarantined: Vec<QuarantineStatus>,
}

impl ViewGlance {
    /// Makes it of the two long answers; there are no votes where there is no view.
    #[must_use]
    pub fn of(view: ViewStatus, quorum: Option<&QuorumStatus>) -> Self {
        let (held, members, quarantined) = view.view.map_or_else(Default::default, |document| {
            let members = document.members.into_iter().map(|member| member.name).collect();
            (Some(document.name), members, document.quarantined)
        });
        let weighs = |quorum: &QuorumStatus| {
            quorum.votes.iter().filter(|vote| vote.weight > 0).map(|vote| vote.holder.clone()).collect()
        };
        Self {
            life: view.life,
            held,
            members,
            in_force: view.in_force,
            stage: view.stage,
            waits_for: view.waits_for,
            acting: view.acting,
            not_acting: view.not_acting,
            lease_ms: quorum.map(|quorum| quorum.lease_ms),
            lease_left_ms: quorum.and_then(|quorum| quorum.lease_left_ms),
            vote_holders: quorum.map(weighs).unwrap_or_default(),
            last_disk: quorum.and_then(|quorum| quorum.last_disk.clone()),
            quarantined,
        }
    }

    /// Says whether the view held is in force here.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        is_in_force(self.held.as_ref(), self.in_force.as_deref())
    }

    /// Returns what is not as it should be, as a phrase; `None`: nothing.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let waits = || if self.waits_for.is_empty() { String::new() } else { format!(": waits for {}", self.waits()) };
        let Some(held) = &self.held else {
            return Some(format!("no view{}", waits()));
        };
        if !self.acting {
            let why = self.not_acting.as_ref().map_or_else(waits, |why| format!(": {why}"));
            return Some(format!("may not act in view {held}{why}"));
        }
        (!self.is_in_force()).then(|| format!("view {held} is not in force{}", waits()))
    }

    /// Returns whom or what it waits for, in one phrase.
    #[must_use]
    pub fn waits(&self) -> String {
        self.waits_for.join(", ")
    }
}
