//! The document of the next view, from the one before and what a regroup came to. It says what would be decided; it
//! proposes nothing.

use super::closing::Plan;
use super::document::{
    Document, Holder, LEASE_MS, LeaseTerms, Member, Owed, Quarantined, QuorumTerms, Reason, Removal, SCHEMA, Vote,
};
use super::message::{Setting, Wish};
use super::votes::{Votable, assign};
use crate::core::ids::NodeId;
use heartbeat_common::view::{Name, Order, VoteId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Most nodes in quarantine at once, whatever their number.
const QUARANTINED_MAX: usize = 16;

/// What the proposer knows beside the plan.
pub struct Knowledge<'a> {
    /// The vote of each node that has reported.
    pub votes: &'a BTreeMap<NodeId, VoteId>,
    /// What a vote weighs that is new, by node.
    pub configured: &'a BTreeMap<NodeId, u8>,
    /// Who is known to have stopped, by proofs that hold for everybody.
    pub stopped: &'a BTreeSet<Member>,
    /// For how long the view before has been installed here.
    pub installed_for: Duration,
    /// Ungraceful ends of each node within an hour, this view's not among them.
    pub ends: &'a BTreeMap<NodeId, u8>,
    /// At so many of them a node is quarantined; 0: never.
    pub threshold: u8,
    /// Whose quarantine is over.
    pub released: &'a BTreeSet<NodeId>,
}

/// Returns the first view of a cluster, of one node and its vote.
#[must_use]
pub fn first(own: Member, vote: VoteId, instance: [u64; 2], lease: LeaseTerms, quorum: QuorumTerms) -> Document {
    Document {
        schema: SCHEMA,
        instance,
        order: Order(1),
        parent: [0; 4],
        members: vec![own],
        votes: vec![Vote { holder: Holder::Node(own.node), id: vote, configured: 1, weight: 1 }],
        admitted: vec![own],
        owed: Vec::new(),
        lease,
        quorum,
        quarantined: Vec::new(),
        removals: Vec::new(),
        change: None,
        witness: Vec::new(),
        settings: Vec::new(),
    }
}

/// Returns the view that a node alone forms by an operator's word; `None` after the last force count or number.
#[must_use]
pub fn forced(view: &Document, name: Name, own: Member, vote: VoteId) -> Option<Document> {
    let order = Order::new(view.order.force().checked_add(1)?, view.order.next()?.number())?;
    let left = view.members.iter().filter(|member| member.node != own.node);
    let removal = |member: &Member| Removal {
        member: *member,
        reason: Reason::Forced,
        silent_ms: 0,
        controller_age_ms: 0,
        judges: 0,
    };
    Some(Document {
        order,
        parent: name.digest,
        members: vec![own],
        votes: vec![Vote { holder: Holder::Node(own.node), id: vote, configured: 1, weight: 1 }],
        admitted: admitted(view, &[own]),
        owed: owed(view, order, &[own], &BTreeSet::new()),
        quarantined: Vec::new(),
        removals: left.map(removal).collect(),
        change: None,
        ..view.clone()
    })
}

/// Returns the view that a plan makes; `None` where it would break a rule, or there are no numbers left.
#[must_use]
pub fn next(view: &Document, name: Name, plan: &Plan, known: &Knowledge<'_>) -> Option<Document> {
    let wish = plan.wish.map(|wished| wished.wish);
    let base = match wish {
        Some(Wish::Change(setting)) => changed(view, setting)?,
        Some(Wish::Without(_) | Wish::Release(_)) | None => view.clone(),
    };
    let order = view.order.next()?;
    let document = Document {
        order,
        parent: name.digest,
        votes: votes(&base, plan, known),
        admitted: admitted(view, &plan.members),
        owed: owed(view, order, &plan.members, known.stopped),
        lease: view.lease.after(base.lease.lease_ms, base.lease.stop_ms, known.installed_for),
        quarantined: quarantined(view, plan, known, wish),
        removals: plan.removals.clone(),
        change: plan.wish.map(|wished| wished.id),
        members: plan.members.clone(),
        ..base
    };
    document.check().is_ok().then_some(document)
}

/// Returns the view with one setting changed; `None` where that changes nothing or breaks a rule. Only its terms of
/// lease and quorum and its configured weights are meant.
#[must_use]
pub fn changed(view: &Document, setting: Setting) -> Option<Document> {
    let mut base = view.clone();
    match setting {
        Setting::LeaseMs(ms) => base.lease.lease_ms = ms,
        Setting::StopMs(ms) => base.lease.stop_ms = ms,
        Setting::Weight(node, weight) => {
            base.votes.iter_mut().find(|vote| vote.holder == Holder::Node(node))?.configured = weight;
        }
        Setting::LowerPriority(node) => base.quorum.lower_priority = node,
        Setting::Dynamic(dynamic) => base.quorum.dynamic = dynamic,
    }
    let weighs = base.votes.iter().any(|vote| vote.configured == 1);
    let bounded = base.votes.iter().all(|vote| vote.configured <= 1);
    let lease = LEASE_MS.contains(&base.lease.lease_ms) && base.lease.stop_ms < base.lease.lease_ms;
    (base != *view && weighs && bounded && lease).then_some(base)
}

/// Says whether somebody would have a vote in a view of the same members with this setting.
#[must_use]
pub fn keeps_votes(view: &Document, setting: Setting) -> bool {
    let Some(base) = changed(view, setting) else { return true };
    let votable = |vote: &Vote| {
        let member = match vote.holder {
            Holder::Node(node) => view.incarnation_of(node).is_some(),
            Holder::Witness(_) => true,
        };
        Votable { holder: vote.holder, configured: vote.configured, member, stalled: false }
    };
    let votables: Vec<Votable> = base.votes.iter().map(votable).collect();
    assign(&votables, base.quorum.dynamic, base.quorum.lower_priority).iter().any(|weight| *weight > 0)
}

fn votes(base: &Document, plan: &Plan, known: &Knowledge<'_>) -> Vec<Vote> {
    let mut votes: BTreeMap<Holder, Vote> = base.votes.iter().map(|vote| (vote.holder, *vote)).collect();
    for member in &plan.members {
        let holder = Holder::Node(member.node);
        let Some(id) = known.votes.get(&member.node).copied().filter(|id| id.is_vote()) else { continue };
        let configured = known.configured.get(&member.node).copied().unwrap_or(1).min(1);
        votes.entry(holder).or_insert(Vote { holder, id, configured, weight: 0 }).id = id;
    }
    let mut votes: Vec<Vote> = votes.into_values().collect();
    let votable = |vote: &Vote| {
        let (member, stalled) = match vote.holder {
            Holder::Node(node) => (plan.members.iter().any(|member| member.node == node), plan.stalled.contains(&node)),
            Holder::Witness(_) => (true, false),
        };
        Votable { holder: vote.holder, configured: vote.configured, member, stalled }
    };
    let votables: Vec<Votable> = votes.iter().map(votable).collect();
    let weights = assign(&votables, base.quorum.dynamic, base.quorum.lower_priority);
    for (vote, weight) in votes.iter_mut().zip(weights) {
        vote.weight = weight;
    }
    votes
}

fn admitted(view: &Document, members: &[Member]) -> Vec<Member> {
    let mut admitted: BTreeMap<NodeId, u64> =
        view.admitted.iter().map(|member| (member.node, member.incarnation)).collect();
    for member in members {
        let newest = admitted.entry(member.node).or_insert(0);
        *newest = (*newest).max(member.incarnation);
    }
    admitted.into_iter().map(|(node, incarnation)| Member { node, incarnation }).collect()
}

/// What is owed: all that was, and whoever is a member no more, but for those who are known to have stopped. That a
/// node was let in again under a newer incarnation is such a proof: every member had heard it before.
fn owed(view: &Document, order: Order, members: &[Member], stopped: &BTreeSet<Member>) -> Vec<Owed> {
    let left = view.members.iter().map(|member| Owed { member: *member, left_out_by: order });
    let mut owed: Vec<Owed> = view.owed.iter().copied().chain(left).collect();
    owed.retain(|owed| {
        let newer = |one: &Member| one.node == owed.member.node && one.incarnation > owed.member.incarnation;
        let returned = owed.left_out_by != order && view.members.iter().any(newer);
        !members.contains(&owed.member) && !returned && !stopped.contains(&owed.member)
    });
    owed.sort_unstable_by_key(|owed| owed.member);
    owed.dedup_by_key(|owed| owed.member);
    owed
}

/// Who ended ungracefully too often may not join for a while; of the members at most a quarter, or one, at once.
fn quarantined(view: &Document, plan: &Plan, known: &Knowledge<'_>, wish: Option<Wish>) -> Vec<Quarantined> {
    let stays = |one: &Quarantined| !known.released.contains(&one.node) && wish != Some(Wish::Release(one.node));
    let mut list: Vec<Quarantined> = view.quarantined.iter().copied().filter(stays).collect();
    let limit = (view.members.len() / 4).clamp(1, QUARANTINED_MAX);
    for removal in plan.removals.iter().filter(|removal| is_ungraceful(removal.reason)) {
        let node = removal.member.node;
        let exits = known.ends.get(&node).copied().unwrap_or(0).saturating_add(1);
        let due = known.threshold > 0 && exits >= known.threshold;
        let back = plan.members.iter().any(|member| member.node == node);
        if due && !back && list.len() < limit && list.iter().all(|one| one.node != node) {
            list.push(Quarantined { node, exits });
        }
    }
    list.sort_unstable();
    list
}

/// Says whether a removal for this reason counts as an ungraceful end.
#[must_use]
pub const fn is_ungraceful(reason: Reason) -> bool {
    match reason {
        Reason::Left | Reason::Fenced | Reason::Forced => false,
        Reason::Down
        | Reason::Hung
        | Reason::Restarted
        | Reason::NotConnected
        | Reason::NoMessages
        | Reason::CannotApply
        | Reason::GaveUp => true,
    }
}
