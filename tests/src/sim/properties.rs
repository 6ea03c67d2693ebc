//! What must hold at every event, told in terms of what the world itself saw. Each is checked where it can begin to be
//! broken; none asks the core.

mod evidence;
mod heard;
mod told;

pub use evidence::{Gap, Grants};
pub use heard::Accusation;

use super::ghost::{Violation, broken};
use super::net::Frame;
use super::plan;
use super::rules::Rule;
use super::stats::Count;
use super::world::World;
use heartbeat_common::fence::words;
use heartbeat_common::lease::{Token, Words, word};
use heartbeat_common::view::Order;
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::agreement::voter::State;

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
        let held = self.nodes[place].service.stop_ns > 0 && self.nodes[place].clock.runs();
        let running = self.nodes[place].service.runs(self.now).filter(|_| held);
        let token = self.acting(place).or(running)?;
        Some(Acting { member: member(place, token.incarnation), order: Order(token.order) })
    }

    /// A node's page allows something else than before the event.
    pub fn permission_changed(&mut self, place: usize, before: Option<Token>, after: Option<Token>) {
        self.say(place, || format!("may act: {before:?} -> {after:?}"));
        let Some(token) = after else { return };
        self.rests_on_grants(place, token);
        if self.blind() {
            return;
        }
        let Some(own) = self.acts_now(place) else { return };
        // What acts on a time that no clock of its machine shows has the token for its only guard.
        let promised = |world: &Self, acting: &Acting| !world.is_stale(acting.member);
        let others = if promised(self, &own) { 0..self.nodes.len() } else { 0..0 };
        for other in others.filter(|other| *other != place) {
            if let Some(theirs) = self.acts_now(other).filter(|theirs| promised(self, theirs)) {
                self.ghost.judged.add(Rule::S3);
                let holds = act_together(own, theirs, |order, member| self.ghost.has_member(order, member));
                self.check(holds);
            }
        }
        let own = act_together(own, own, |order, member| self.ghost.has_member(order, member));
        self.check(own);
    }

    /// Says whether somebody went on by force in this world: who acts together is then not promised.
    #[must_use]
    pub const fn blind(&self) -> bool {
        self.ghost.forced > 0
    }

    /// What runs under the lease does something to the outside. Whoever receives it tells what comes too late by its token
    /// alone, however late it is; only what rests on a time that no clock shows may come to that.
    pub fn acts(&mut self, place: usize) {
        let Some(token) = self.acting(place) else { return };
        self.stats.add(Count::Acts);
        self.rests_on_grants(place, token);
        self.ghost.judged.add(Rule::S4);
        let (own, newest) = (member(place, token.incarnation), Order(self.sink.highest()));
        let stale = self.is_stale(own);
        if stale {
            self.stats.add(Count::ActsStale);
        }
        let let_through = self.sink.act(place, token);
        self.nodes[place].service.acts += 1;
        let fault = if let_through {
            let names = self.ghost.has_member(Order(token.order), own) == Some(true);
            (!names).then_some("has the token of a view that does not name it")
        } else {
            self.nodes[place].service.refused += 1;
            self.stats.add(Count::ActsRefused);
            if stale {
                self.stats.add(Count::ActsStaleRefused);
            }
            let is_member = self.ghost.has_member(newest, own) == Some(true);
            (!is_member && !stale).then_some("came after it was over")
        };
        if let Some(fault) = fault.filter(|_| !self.blind()) {
            self.check(broken("S4", format!("an act of {} under {token:?} {fault}", plan::name(place))));
        }
    }

    /// A view comes into force: whom it left out has stopped by now.
    pub fn comes_into_force(&mut self, place: usize, order: Order) {
        self.ghost.judged.add(Rule::InForce);
        let Some(view) = self.ghost.view(order) else {
            return self.check(broken("S3", format!("{order:?} comes into force, which was not decided")));
        };
        let runs = |owed: Member| {
            let other = plan::place(owed.node);
            let same = |acting: Acting| acting.member == owed;
            self.acts_now(other).is_some_and(same) && !self.is_stale(owed)
        };
        let found = view.document.owed.iter().map(|owed| owed.member).find(|owed| runs(*owed));
        if let Some(owed) = found
            && !self.blind()
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
        if changes {
            self.ghost.judged.add(Rule::Clear);
        }
        if changes && granting {
            self.check(broken("clear", format!("{} writes while its grants stand", plan::name(place))));
        }
    }

    /// A node says that it has stopped: nothing of it may run.
    pub fn says_stopped(&mut self, place: usize) {
        self.ghost.judged.add(Rule::Stopped);
        if self.nodes[place].service.runs(self.now).is_some() {
            self.check(broken("stopped", format!("{} says stopped while it runs", plan::name(place))));
        }
    }

    /// A node's kernel obeys a fence, which its answer repeats.
    pub fn obeys(&mut self, place: usize, frame: &Frame) {
        self.stats.add(Count::FencesObeyed);
        let digest = [0, 1, 2].map(|word| frame[words::DIGEST + word]);
        let right = self.ghost.obeys(member(place, frame[words::VICTIM]), frame[words::ORDER], digest);
        self.check(right);
        if self.acting(place).is_some() {
            self.check(broken("S6", format!("{} acts on after a fence", plan::name(place))));
        }
    }
}

const fn member(place: usize, incarnation: u64) -> Member {
    Member { node: plan::id(place), incarnation }
}

#[cfg(test)]
mod tests;
