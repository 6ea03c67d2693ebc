//! What must hold at every event, told in terms of what the world itself saw. Each is checked where it can begin to be
//! broken; none asks the core.

use super::ghost::{Violation, broken};
use super::plan;
use super::stats::Count;
use super::world::World;
use heartbeat_common::lease::{self, Token, Words, word};
use heartbeat_common::view::Order;
use heartbeat_user::core::agreement::AgreementEvent;
use heartbeat_user::core::agreement::document::{Document, Member, Reason};
use heartbeat_user::core::agreement::event::Grounds;
use heartbeat_user::core::agreement::voter::State;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::core::node::{Node, Verdict};

/// An incarnation that acts, and under which view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acting {
    /// Who.
    pub member: Member,
    /// The view of its token.
    pub order: Order,
}

/// "If i acts in view a and j acts in view b >= a at the same time, then i, with its incarnation, is a member of b."
/// `is_member` says whether an incarnation is one of a view; `None`: there is no such view.
///
/// # Errors
/// If it does not hold of this pair.
pub fn act_together(i: Acting, j: Acting, is_member: impl Fn(Order, Member) -> Option<bool>) -> Result<(), Violation> {
    let (older, newer) = if i.order <= j.order { (i, j) } else { (j, i) };
    if i.order == j.order {
        // Each is the older one of the two.
        let theirs = is_member(i.order, j.member);
        if theirs != Some(true) {
            return broken("S3", format!("{:?} acts in {:?}: a member of it: {theirs:?}", j.member, j.order));
        }
    }
    match is_member(newer.order, older.member) {
        Some(true) => Ok(()),
        Some(false) => broken(
            "S3",
            format!("{:?} acts in {:?} while {:?} acts in {:?}", older.member, older.order, newer.member, newer.order),
        ),
        None => broken("S3", format!("{:?} acts in {:?}, which was not decided", newer.member, newer.order)),
    }
}

impl World {
    /// Returns who acts on a machine: by the page, or because what runs there has not stopped yet.
    fn acts_now(&self, place: usize) -> Option<Acting> {
        // On a machine that stands still nothing runs.
        // What is given no time to stop asks the page before each act.
        let held = self.plan.stop_ms > 0 && self.nodes[place].clock.runs();
        let running = self.nodes[place].service.runs(self.now).filter(|_| held);
        let token = self.acting(place).or(running)?;
        Some(Acting { member: member(place, token.incarnation), order: Order(token.order) })
    }

    /// A node's page allows something else than before the event.
    pub fn permission_changed(&mut self, place: usize, before: Option<Token>, after: Option<Token>) {
        self.say(place, || format!("may act: {before:?} -> {after:?}"));
        if after.is_none() || self.player.blind() {
            return;
        }
        let Some(own) = self.acts_now(place) else { return };
        for other in 0..self.nodes.len() {
            if other == place {
                continue;
            }
            if let Some(theirs) = self.acts_now(other) {
                self.stats.add(Count::PairsChecked);
                let holds = act_together(own, theirs, |order, member| self.ghost.has_member(order, member));
                self.check(holds);
            }
        }
        let own = act_together(own, own, |order, member| self.ghost.has_member(order, member));
        self.check(own);
    }

    /// What runs under the lease does something to the outside.
    pub fn acts(&mut self, place: usize) {
        let Some(token) = self.acting(place) else { return };
        self.stats.add(Count::Acts);
        let let_through = self.sink.act(place, token);
        let service = &mut self.nodes[place].service;
        service.acts += 1;
        if let_through {
            return;
        }
        service.refused += 1;
        self.stats.add(Count::ActsRefused);
        let newest = Order(self.sink.highest());
        let is_member = self.ghost.has_member(newest, member(place, token.incarnation)) == Some(true);
        if !is_member && !self.player.blind() {
            self.check(broken("S4", format!("an act of {} under {token:?} came after it was over", plan::name(place))));
        }
    }

    /// A view comes into force: whom it left out has stopped by now.
    pub fn comes_into_force(&mut self, place: usize, order: Order) {
        let Some(view) = self.ghost.view(order) else {
            return self.check(broken("S3", format!("{order:?} comes into force, which was not decided")));
        };
        let runs = |owed: Member| {
            let other = plan::place(owed.node);
            let same = |acting: Acting| acting.member == owed;
            self.acts_now(other).is_some_and(same)
        };
        let found = view.document.owed.iter().map(|owed| owed.member).find(|owed| runs(*owed));
        if let Some(owed) = found
            && !self.player.blind()
        {
            let by = plan::name(place);
            self.check(broken("in force", format!("{order:?} comes into force at {by} while {owed:?} acts")));
        }
    }

    /// A state is about to be written: its grants are cleared before an acceptance or a new view is.
    pub fn before_write(&mut self, place: usize, state: &State) {
        let node = &self.nodes[place];
        let granting = node.kernel.page.get(word::GRANTING) != 0;
        let before = node.disk.writing.as_ref().map(|write| &write.state).or(node.disk.agreement.as_ref());
        let changes = before.is_none_or(|old| {
            old.register.accepted != state.register.accepted || old.register.view != state.register.view
        });
        if changes && granting {
            self.check(broken("clear", format!("{} writes while its grants stand", plan::name(place))));
        }
    }

    /// A node says that it has stopped: nothing of it may run.
    pub fn says_stopped(&mut self, place: usize) {
        if self.nodes[place].service.runs(self.now).is_some() {
            self.check(broken("stopped", format!("{} says stopped while it runs", plan::name(place))));
        }
    }

    /// A node's kernel obeys a fence.
    pub fn obeys(&mut self, place: usize) {
        self.stats.add(Count::FencesObeyed);
        let fenced = self.nodes[place].kernel.page.get(word::FENCED);
        let right = self.ghost.obeys(member(place, fenced));
        self.check(right);
        if self.acting(place).is_some() {
            self.check(broken("S6", format!("{} acts on after a fence", plan::name(place))));
        }
    }

    /// A detector calls a peer Down: it was silent for the detection time, by its own clock.
    pub fn accused(&mut self, place: usize, peer: usize) {
        self.ghost.accuse(peer);
        let node = &self.nodes[place];
        let newest = |network| node.kernel.ticks[self.plan.path_to(place, peer, network)].heard_ns.get();
        let heard = (0..self.plan.networks).map(newest).max().unwrap_or(0);
        let silent = node.clock.mono(self.now).saturating_sub(heard);
        if heard != 0 && silent < self.plan.detection_ns() {
            self.check(broken("S7", format!("{} was accused after {silent} ns of silence", plan::name(peer))));
        }
        self.cut_off_first(place);
    }

    /// "If every peer falls silent on every path at once, 'I am cut off' is said first."
    fn cut_off_first(&mut self, place: usize) {
        let node = &self.nodes[place];
        let Some(process) = &node.process else { return };
        let mono = node.clock.mono(self.now);
        let silent = |(id, judged): (NodeId, &Node)| {
            let newest = |network| node.kernel.ticks[self.plan.path_to(place, plan::place(id), network)].heard_ns.get();
            let heard = (0..self.plan.networks).map(newest).max().unwrap_or(0);
            let watched = heard >= process.began && judged.verdict() != Verdict::Left;
            watched && mono.saturating_sub(heard) >= self.plan.detection_ns()
        };
        // Who ran late itself does not take for silence what it was not there to hear.
        let late = process.late_at != 0 && mono - process.late_at < 2 * self.plan.detection_ns();
        if !late && process.controller.nodes().all(silent) && !process.told_isolated {
            self.check(broken("L8", format!("{} hears nobody, and did not say that it is cut off", plan::name(place))));
        }
    }

    /// An agreement tells something.
    pub fn agreed(&mut self, place: usize, event: AgreementEvent) {
        self.say(place, || format!("told {event:?}"));
        match &event {
            AgreementEvent::NodeRemoved { view, member, grounds } => {
                self.stats.add(Count::Removed);
                self.removed(place, *view, *member, grounds.as_ref());
            }
            AgreementEvent::ViewInstalled { view, .. } => {
                self.stats.add(Count::Installed);
                self.told_view(place, view.order);
            }
            AgreementEvent::NodeJoined { .. } => self.stats.add(Count::Joined),
            AgreementEvent::NodeLeftView { handed_over, member, .. } => {
                self.stats.add(Count::LeftView);
                let own = self.member(place) == Some(*member);
                if *handed_over
                    && !own
                    && let Some(process) = self.nodes[place].process.as_mut()
                {
                    process.told.1 += 1;
                }
            }
            AgreementEvent::RegroupStarted { .. } => self.stats.add(Count::Regroups),
            AgreementEvent::RegroupWaits { .. } => self.stats.add(Count::Waits),
            AgreementEvent::LeaseGained { .. } => self.stats.add(Count::LeaseGained),
            AgreementEvent::QuorumLost { .. } => self.stats.add(Count::LeaseLost),
            AgreementEvent::LeftOut { .. } => self.stats.add(Count::LeftOut),
            AgreementEvent::OlderState { seen, .. } => {
                self.stats.add(Count::OlderState);
                // The next start is to know what this one was told: else it would take the same copy up again.
                lease::remember_state(&self.nodes[place].kernel.page, *seen);
            }
            AgreementEvent::TimeWentBack => self.stats.add(Count::TimeWentBack),
            AgreementEvent::ControlLost { .. } => self.stats.add(Count::ControlLost),
            AgreementEvent::FenceAcknowledged { .. } => self.stats.add(Count::FencesAcknowledged),
            AgreementEvent::Fenced { .. } => self.stats.add(Count::FencedSelf),
            AgreementEvent::KnownStopped { .. } => self.stats.add(Count::StoppedSaid),
            _ => {}
        }
        if self.log.keep {
            self.log.agreed.push((self.now, place, event));
        }
    }

    /// A view is told: after all whom it left out, each once, and in order.
    fn told_view(&mut self, place: usize, order: Order) {
        // What becomes of this incarnation itself is told by other events.
        let own = self.member(place);
        let others = |view: &Document| view.removals.iter().filter(|one| Some(one.member) != own).count();
        let removed = self.ghost.view(order).map_or(0, |view| others(&view.document));
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        let (before, told) = std::mem::replace(&mut process.told, (order, 0));
        if order <= before {
            self.check(broken("S14", format!("{} tells {order:?} after {before:?}", plan::name(place))));
        }
        if told as usize != removed {
            let what = format!("{} tells {told} of {removed} removals by {order:?}", plan::name(place));
            self.check(broken("S14", what));
        }
    }

    /// A member is told to be out. Each node tells it once; and whom it says to have been silent was silent for
    /// somebody.
    fn removed(&mut self, place: usize, view: Order, victim: Member, grounds: Option<&Grounds>) {
        let incarnation = self.member(place).map_or(0, |member| member.incarnation);
        // Removals by views that it skipped come before those of the one that it tells next, which say why.
        let own = self.member(place) == Some(victim);
        if let Some(process) = self.nodes[place].process.as_mut().filter(|_| grounds.is_some() && !own) {
            process.told.1 += 1;
        }
        if !self.ghost.tells_removal(place, incarnation, view, victim) {
            self.check(broken("S14", format!("{} tells twice that {view:?} left {victim:?} out", plan::name(place))));
        }
        if self.ghost.has_member(view, victim) != Some(false) {
            self.check(broken("S14", format!("{victim:?} is told to be left out by {view:?}, and is not")));
        }
        let down = grounds.filter(|grounds| grounds.reason == Reason::Down);
        if down.is_some_and(|down| down.judges.is_empty() || !self.ghost.was_accused(plan::place(victim.node))) {
            self.check(broken("S7", format!("{victim:?} was left out for silence, and nobody saw it silent")));
        }
    }
}

const fn member(place: usize, incarnation: u64) -> Member {
    Member { node: plan::id(place), incarnation }
}

#[cfg(test)]
mod tests;
