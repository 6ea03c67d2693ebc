//! What a view on disk changed and what the page shows, told in view order and each thing once. It decides nothing and
//! sends nothing.

use super::closing::is_member;
use super::document::{Document, Holder, Member, Reason, Vote};
use super::ending::Course;
use super::engine::{Agreement, Held, only_voter};
use super::event::{AgreementEvent, ControlFault, Grounds};
use super::message::Health;
use super::peer::{Peer, Tie};
use super::types::{Command, PageView, Times};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::Refused;
use heartbeat_common::view::{Name, Order};

impl Agreement {
    /// Tells what a view that is on disk now has changed since the one held before.
    pub(super) fn tell_changes(&mut self, before: Option<&Held>, view: &Document, name: Name) {
        let order = view.order;
        let skipped = before.map(|held| gone_unseen(&held.document, held.name, view)).unwrap_or_default();
        for (view, member) in skipped {
            self.tell_removal(view, member, None);
        }
        self.tell_view(view, name);
        let old = before.map(|held| &held.document);
        for member in view.members.iter().filter(|member| old.is_none_or(|old| !old.members.contains(member))) {
            self.tell(AgreementEvent::NodeJoined { view: order, member: *member });
        }
        if let Some(change) = view.change {
            let setting = self.setting_of(change);
            self.tell(AgreementEvent::ViewSettingChanged { view: order, change, setting });
        }
        let last = only_voter(view);
        if let Some(node) = last.filter(|_| old.and_then(only_voter) != last) {
            self.tell(AgreementEvent::LastDisk { view: order, node });
        }
        self.tell_quarantine(old, view);
    }

    /// Tells what a view says of itself: whom it leaves out, and that it is on disk.
    pub(super) fn tell_view(&mut self, view: &Document, name: Name) {
        let order = view.order;
        for removal in &view.removals {
            let member = removal.member;
            if removal.reason == Reason::Left {
                self.tell(AgreementEvent::NodeLeftView { view: order, member, handed_over: true });
            } else {
                self.tell_removal(order, member, Some(Grounds::of(view, removal)));
            }
        }
        let voter = |vote: &Vote| match vote.holder {
            Holder::Node(node) if vote.weight > 0 => Some(node),
            Holder::Node(_) | Holder::Witness(_) => None,
        };
        let members = view.members.clone();
        let voters = view.votes.iter().filter_map(voter).collect();
        self.tell(AgreementEvent::ViewInstalled { view: name, members, voters, change: view.change });
    }

    /// Tells a removal; not this incarnation's own, which it says at its end by an event of its own, unless it leaves.
    fn tell_removal(&mut self, view: Order, member: Member, grounds: Option<Grounds>) {
        if member != self.setup.own || matches!(self.course, Course::Leaving { .. }) {
            self.tell(AgreementEvent::NodeRemoved { view, member, grounds });
        }
    }

    /// Takes in that this node acted and may not any more: it is told, and what it runs is stopped.
    pub(super) fn lost(&mut self, why: Refused, page: &PageView) {
        let Some(held) = &self.held else { return };
        let unheard = |node: &NodeId| self.peers.get(node).is_none_or(|peer| peer.facts.both_ways_since.is_none());
        let voters = held.document.votes.iter().filter(|vote| vote.weight > 0);
        let nodes = voters.filter_map(|vote| match vote.holder {
            Holder::Node(node) if node != self.setup.own.node => Some(node),
            Holder::Node(_) | Holder::Witness(_) => None,
        });
        let (view, missing) = (held.name.order, nodes.filter(unheard).collect());
        let (why, ended) = self.end_of_lease(why, page);
        self.tell(if matches!(self.course, Course::Leaving { .. }) {
            AgreementEvent::LeaseGivenUp { view }
        } else {
            AgreementEvent::QuorumLost { view, why, missing, ended }
        });
        self.commands.push_back(Command::StopServices);
    }

    /// Tells whose messages do not pass any more, though its controller runs, and where the fault is by what comes from
    /// others; and whose pass again.
    pub(super) fn tell_control(&mut self) {
        let (now, limit) = (self.now.mono, self.setup.timing.control_limit);
        let members = self.held.as_ref().map(|held| held.document.members.clone()).unwrap_or_default();
        let able = |peer: &Peer, member: &Member| {
            peer.facts.both_ways_since.is_some() && peer.facts.incarnation == member.incarnation
        };
        let spoke: Vec<(NodeId, MonoTime)> = members
            .iter()
            .filter_map(|member| self.peers.get(&member.node).filter(|peer| able(peer, member)))
            .filter(|peer| peer.facts.health == Health::Up)
            .map(|peer| (peer.facts.node, peer.message_at))
            .collect();
        for member in members {
            let Some(peer) = self.peers.get_mut(&member.node) else { continue };
            let able = able(peer, &member);
            let lost = able && !peer.messages_pass(Tie::Members, now, limit);
            // That there is time for one again is no message.
            let silent = peer.control_lost.is_some_and(|since| peer.spoke_at < since);
            if lost == peer.control_lost.is_some() || !lost && (!able || silent) {
                continue;
            }
            peer.control_lost = lost.then_some(now);
            let (node, last) = (member.node, peer.message_at);
            // Who was cut off at the same time said its last word at about the same time too.
            let (passing, silent): (Vec<MonoTime>, Vec<MonoTime>) = spoke
                .iter()
                .filter(|(other, _)| *other != node)
                .map(|(_, spoke)| *spoke)
                .partition(|spoke| spoke.since(last) >= limit / 2);
            let fault = match (passing.is_empty(), silent.is_empty()) {
                (false, _) => ControlFault::There,
                (true, false) => ControlFault::Here,
                (true, true) => ControlFault::NotDetermined,
            };
            self.tell(if lost {
                AgreementEvent::ControlLost { node, fault }
            } else {
                AgreementEvent::ControlRestored { node }
            });
        }
    }

    /// Tells that a newer view was learned than the one by which this node could have stood for the cluster.
    pub(super) fn tell_not_newest(&mut self, view: &Document, told_by: NodeId) {
        let (Some(held), Some(voter)) = (&self.held, &self.voter) else { return };
        let newest = voter.state().installed.order;
        let stands = !is_member(&held.document, self.setup.own)
            && held.document.weight_of(self.own_vote()) > 0
            && self.course == Course::Runs;
        if stands && view.instance == held.document.instance && view.order > newest {
            let held = held.name.order;
            self.tell(AgreementEvent::StateNotNewest { held, newest: view.order, told_by });
        }
    }

    /// Returns why the lease ended and when: what the kernel noted first. This node may have noticed it much later, and
    /// then there are more reasons by now.
    fn end_of_lease(&self, why: Refused, page: &PageView) -> (Refused, MonoTime) {
        let Times { mono, boot_ns, .. } = self.now;
        let dated = (1..boot_ns).contains(&page.lease_until_ns);
        let expired = dated.then(|| MonoTime(mono.0.saturating_sub(boot_ns - page.lease_until_ns)));
        let fenced = page.fenced >= self.setup.own.incarnation && page.fenced_at != MonoTime::ZERO;
        let fenced = fenced.then_some(page.fenced_at);
        let first = [expired.map(|at| (at, Refused::Expired)), fenced.map(|at| (at, Refused::Fenced))];
        let first = first.into_iter().flatten().min_by_key(|(at, _)| *at).filter(|(at, _)| *at < mono);
        first.map_or((why, mono), |(at, why)| (why, at))
    }
}

/// Returns whom views between the one held and a later one have left out, as far as the later one shows it, with the
/// first view that is known to be without each; in view order. It names those who are not known to have stopped, joined
/// in between though they may have; of the others it shows only that they are no members.
fn gone_unseen(old: &Document, held: Name, view: &Document) -> Vec<(Order, Member)> {
    if view.parent == held.digest {
        return Vec::new();
    }
    let told = |member: &Member| view.removals.iter().any(|removal| removal.member == *member);
    let by = |member: &Member| view.owed.iter().find(|owed| owed.member == *member).map(|owed| owed.left_out_by);
    let lost = old.members.iter().filter(|member| !is_member(view, **member));
    let mut gone: Vec<(Order, Member)> =
        lost.map(|member| (by(member).filter(|by| *by > old.order).unwrap_or(view.order), *member)).collect();
    let passed = view.owed.iter().filter(|owed| owed.left_out_by > old.order && !old.members.contains(&owed.member));
    gone.extend(passed.map(|owed| (owed.left_out_by, owed.member)));
    gone.retain(|(_, member)| !told(member));
    gone.sort_unstable();
    gone
}
