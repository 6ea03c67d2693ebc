//! Who must have stopped before the view is in force: proofs taken from facts and reports, fences sent for those that
//! are missing, and the moment in which none is. It takes no word of another's wait.

use super::document::{Document, Member, Reason};
use super::engine::Agreement;
use super::event::AgreementEvent;
use super::stops::How;
use super::types::Command;
use crate::core::time::MonoTime;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Between two fences, once the longest lease is surely over.
const LATER_FENCES: Duration = Duration::from_secs(1);

/// Fences on their way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Fences {
    /// When each victim was last sent one.
    sent: BTreeMap<Member, MonoTime>,
    acknowledged: BTreeSet<Member>,
    /// They left by themselves, or were given up by their service manager, and stop in their own time.
    graceful: BTreeSet<Member>,
    /// It was told that they have stopped.
    told: BTreeSet<Member>,
    /// It was told that they are sent fences.
    told_sent: BTreeSet<Member>,
}

impl Fences {
    pub fn install(&mut self, view: &Document) {
        let left = view.removals.iter().filter(|removal| matches!(removal.reason, Reason::Left | Reason::GaveUp));
        self.graceful.extend(left.map(|removal| removal.member));
        let owed = |member: &Member| view.owed.iter().any(|owed| owed.member == *member);
        self.graceful.retain(owed);
        self.acknowledged.retain(owed);
        self.told.retain(owed);
        self.told_sent.retain(owed);
        self.sent.retain(|member, _| owed(member));
    }

    /// Takes over from the controller before, which held this view: it has told that fences were sent, and where the view
    /// is in force also what became of them.
    pub fn taken_over(&mut self, view: &Document, in_force: bool) {
        let owed = view.owed.iter().map(|owed| owed.member);
        self.told_sent.extend(owed.clone());
        if in_force {
            self.told.extend(owed);
        }
    }
}

impl Agreement {
    /// Takes every proof that facts and reports hold. A report tells what its author knows by proof; that somebody has
    /// waited long enough is no proof for anybody else.
    pub(super) fn prove_stops(&mut self) {
        if self.stops.owes_nothing() {
            return;
        }
        let (now, delay, clocks) = (self.now.mono, self.setup.timing.delay, self.now.clocks());
        self.stops.restarted(self.setup.own.node, self.setup.own.incarnation);
        for peer in self.peers.values() {
            let facts = &peer.facts;
            if facts.stopped {
                self.stops.said(peer.member());
            }
            if peer.ripened(now, delay) {
                self.stops.restarted(facts.node, facts.incarnation);
            }
            if facts.fence_acked != 0 && facts.gated {
                self.stops.fenced(facts.node, facts.fence_acked);
            }
        }
        let Some(held) = &self.held else { return };
        let reports = self.peers.values().filter_map(|peer| peer.report.as_ref());
        for report in reports.filter(|report| held.document.members.contains(&report.author)) {
            report.stopped.iter().for_each(|member| self.stops.told(*member));
        }
        self.tell_acknowledged();
        let _ = self.stops.advance(clocks);
        // Whoever waits to join waits for nobody's stop.
        let member = self.membership().is_some();
        let known: Vec<_> = self.stops.known().filter(|_| member).collect();
        for (member, how) in known {
            if self.fences.told.insert(member) {
                self.tell(AgreementEvent::KnownStopped { member, how });
            }
        }
    }

    fn tell_acknowledged(&mut self) {
        let acknowledged = |victim: &Member| {
            let facts = self.peers.get(&victim.node)?.facts;
            (facts.fence_acked >= victim.incarnation).then_some((*victim, facts.gated))
        };
        let answered: Vec<(Member, bool)> = self.fences.sent.keys().filter_map(acknowledged).collect();
        for (victim, gated) in answered {
            if self.fences.acknowledged.insert(victim) && !self.fences.told.contains(&victim) {
                self.tell(AgreementEvent::FenceAcknowledged { victim, gated });
            }
        }
    }

    /// Says that the view is in force, once everybody it left out is known to have stopped. Whoever is no member acts in
    /// none, and nobody does whose bank is still that of the view before.
    pub(super) fn come_into_force(&mut self) {
        let early = self.page.bank_due.is_some() || !self.stops.in_force();
        if early || self.membership().is_none_or(|held| held.in_force) {
            return;
        }
        let now = self.now.clocks();
        let Some(held) = &mut self.held else { return };
        held.in_force = true;
        let (view, after) = (held.name.order, now.since(held.since));
        let forced = view.force() > self.page.in_force.force();
        self.page.in_force = view;
        self.commands.push_back(Command::InForce(view));
        if forced {
            self.make_bank(false);
        }
        self.tell(AgreementEvent::ViewInForce { view, after });
    }

    /// Sends fences for the view held, which is decided, to all that it owes: until they are acknowledged or proved.
    pub(super) fn send_fences(&mut self) {
        let Some(held) = self.membership() else { return };
        let (name, now, gap) = (held.name, self.now.mono, self.fence_gap());
        let owed: Vec<Member> = held.document.owed.iter().map(|owed| owed.member).collect();
        for victim in owed {
            let due = self.fences.sent.get(&victim).is_none_or(|sent| now.since(*sent) >= gap);
            if !due || !self.wants_fence(victim) {
                continue;
            }
            self.fences.sent.insert(victim, now);
            if self.fences.told_sent.insert(victim) {
                self.tell(AgreementEvent::FenceSent { victim, view: name.order });
            }
            self.commands.push_back(Command::Fence(victim, name));
        }
    }

    fn wants_fence(&self, victim: Member) -> bool {
        let proved = self.stops.known().any(|(member, how)| member == victim && how != How::Waited);
        !proved
            && !self.fences.acknowledged.contains(&victim)
            && !self.fences.graceful.contains(&victim)
            && self.peers.contains_key(&victim.node)
    }

    fn fence_gap(&self) -> Duration {
        let early = self.held.as_ref().is_some_and(|held| self.passed(held.mono) < held.document.lease.surely_over());
        if early { self.setup.timing.delay } else { LATER_FENCES }
    }

    pub(super) fn fence_timeout(&self) -> Option<MonoTime> {
        let gap = self.fence_gap();
        let member = self.membership().is_some();
        let open = self.fences.sent.iter().filter(|(victim, _)| member && self.wants_fence(**victim));
        open.map(|(_, sent)| *sent + gap).min()
    }
}
