//! For whom this node waits, and when that is told: for votes, for answers, for what others would decide, for the
//! connections without which it may not join. It decides nothing and sends nothing.

use super::closing::Plan;
use super::document::{Document, Holder};
use super::engine::Agreement;
use super::event::AgreementEvent;
use super::message::{Health, Report};
use super::peer::Peer;
use crate::core::ids::NodeId;
use heartbeat_common::view::VoteId;
use std::time::Duration;

/// How often it is said that a regroup waits.
const SAY_WAITS: Duration = Duration::from_secs(10);

impl Agreement {
    /// Votes are missing: `available` is what is there, of `missing` the rest is wanted.
    pub(super) fn wait_for_votes(&mut self, available: u32, missing: Vec<NodeId>) {
        let Some(held) = &self.held else { return };
        let (view, needed) = (held.name.order, held.document.total_weight() / 2 + 1);
        let (available, missing) = self.as_seen_here(&held.document, available, missing);
        self.regroup.waits_for.clone_from(&missing);
        if self.may_say() {
            self.tell(AgreementEvent::RegroupWaits { view, waits_for: missing.clone() });
            self.tell(AgreementEvent::WaitsForVotes { view, needed, available, missing });
        }
    }

    /// The largest part that could go on together may be one without this node: whom it hears, and who does not hear it.
    /// It does not wait for itself then, but for all with whom it is not connected, and only of itself and of the others
    /// it has votes.
    fn as_seen_here(&self, view: &Document, available: u32, missing: Vec<NodeId>) -> (u32, Vec<NodeId>) {
        let own = self.setup.own.node;
        if !missing.contains(&own) {
            return (available, missing);
        }
        let apart = |node: NodeId| self.peers.get(&node).is_none_or(|peer| peer.facts.both_ways_since.is_none());
        let voters = view.votes.iter().filter(|vote| vote.weight > 0).filter_map(|vote| match vote.holder {
            Holder::Node(node) if node != own => Some((node, u32::from(vote.weight))),
            Holder::Node(_) | Holder::Witness(_) => None,
        });
        let (apart, weights): (Vec<NodeId>, Vec<u32>) = voters.filter(|(node, _)| apart(*node)).unzip();
        if apart.is_empty() {
            let others: Vec<NodeId> = missing.iter().copied().filter(|node| *node != own).collect();
            return (available, if others.is_empty() { missing } else { others });
        }
        (view.total_weight() - weights.iter().sum::<u32>(), apart)
    }

    /// Says whose answers an attempt waits for: `open` are votes of the view held. The dead, and those that have no
    /// controller any more, are named only where nobody else is waited for.
    pub(super) fn wait_for_answers(&mut self, open: &[VoteId]) {
        let Some(held) = &self.held else { return };
        let own = self.setup.own.node;
        let holders = held.document.votes.iter().filter(|vote| open.contains(&vote.id)).map(|vote| vote.holder);
        let nodes = holders.filter_map(|holder| match holder {
            Holder::Node(node) if node != own => Some(node),
            Holder::Node(_) | Holder::Witness(_) => None,
        });
        let health = |node: &NodeId| self.peers.get(node).map_or(Health::Down, |peer| peer.facts.health);
        let down = |node: &NodeId| matches!(health(node), Health::Down | Health::GaveUp);
        let (dead, alive): (Vec<NodeId>, Vec<NodeId>) = nodes.partition(down);
        self.regroup.waits_for = if alive.is_empty() { dead } else { alive };
        self.say_waits();
    }

    /// There is something to propose. Others may have to, where this node is not to be in that view; or the reports of
    /// some of it are missing, without which nobody may. Either may last, where they do not hear this node.
    pub(super) fn wait_for_proposal(&mut self, plan: &Plan) {
        // Whoever did not answer an attempt is waited for until one is answered.
        if self.regroup.tries > 0 {
            return;
        }
        let own = self.setup.own.node;
        let others = plan.members.iter().map(|member| member.node).filter(|node| *node != own);
        self.regroup.waits_for = if !plan.ranks.contains(&own) {
            others.collect()
        } else if self.document_of(plan).is_none() {
            let reporters = self.reporters();
            others.filter(|node| !reporters.contains(node)).collect()
        } else {
            Vec::new()
        };
        if self.passed(self.regroup.since) >= self.setup.timing.control_limit {
            self.say_waits();
        }
    }

    /// Nobody regroups, and this node is no member and asks to be one: it waits for those members with whom it is not
    /// connected both ways, or between whom and it messages do not pass. A member knows of its own connection to it alone;
    /// whoever wants to come can name them all.
    pub(super) fn wait_to_join(&mut self) {
        if self.regroup.active || self.held.is_none() || self.membership().is_some() {
            return;
        }
        self.regroup.waits_for = self.unconnected();
        if self.passed(self.regroup.since) >= self.setup.timing.control_limit {
            self.say_waits();
        }
    }

    fn unconnected(&self) -> Vec<NodeId> {
        let (Some(held), own) = (&self.held, self.own_report()) else { return Vec::new() };
        if !own.joins {
            return Vec::new();
        }
        let detection = self.setup.timing.detection.as_millis();
        let hears = |report: &Report, node: NodeId, incarnation: u64| {
            report.hears.iter().any(|hears| {
                (hears.peer.node, hears.peer.incarnation) == (node, incarnation)
                    && u128::from(hears.both_ways_ms) >= detection
                    && hears.messages_pass
            })
        };
        let apart = |node: NodeId, incarnation: u64| {
            let says = |peer: &Peer| {
                peer.report.as_ref().is_some_and(|report| {
                    report.author.incarnation == incarnation
                        && hears(report, self.setup.own.node, self.setup.own.incarnation)
                })
            };
            !hears(&own, node, incarnation) || !self.peers.get(&node).is_some_and(says)
        };
        let members = held.document.members.iter().filter(|member| apart(member.node, member.incarnation));
        members.map(|member| member.node).collect()
    }

    fn say_waits(&mut self) {
        if !self.regroup.waits_for.is_empty() && self.may_say() {
            let (view, waits_for) = (self.held_order(), self.regroup.waits_for.clone());
            self.tell(AgreementEvent::RegroupWaits { view, waits_for });
        }
    }

    fn may_say(&mut self) -> bool {
        let due = self.regroup.told_waits.is_none_or(|told| self.passed(told) >= SAY_WAITS);
        if due {
            self.regroup.told_waits = Some(self.now.mono);
        }
        due
    }
}
