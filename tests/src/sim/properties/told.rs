//! What the agreements tell people: each change once, in order, with a cause.

use crate::sim::ghost::broken;
use crate::sim::node::Told;
use crate::sim::plan;
use crate::sim::rules::Rule;
use crate::sim::stats::Count;
use crate::sim::world::World;
use heartbeat_common::lease;
use heartbeat_common::view::{Name, Order};
use heartbeat_user::core::agreement::AgreementEvent;
use heartbeat_user::core::agreement::document::{Document, Member, Reason};
use heartbeat_user::core::agreement::event::Grounds;

impl World {
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
                self.told_view(place, *view);
            }
            AgreementEvent::NodeJoined { .. } => self.stats.add(Count::Joined),
            AgreementEvent::NodeLeftView { handed_over, member, .. } => {
                self.stats.add(Count::LeftView);
                let own = self.member(place) == Some(*member);
                if *handed_over
                    && !own
                    && let Some(process) = self.nodes[place].process.as_mut()
                {
                    process.told.count += 1;
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
            AgreementEvent::Quarantined { .. } => self.stats.add(Count::Quarantined),
            AgreementEvent::ViewSettingChanged { .. } => self.stats.add(Count::Changed),
            AgreementEvent::KnownStopped { .. } => self.stats.add(Count::StoppedSaid),
            _ => {}
        }
        if self.log.keep {
            self.log.agreed.push((self.now, place, event));
        }
    }

    /// A view is told: after all whom it left out, each once, and in order.
    fn told_view(&mut self, place: usize, name: Name) {
        // What becomes of this incarnation itself is told by other events.
        let own = self.member(place);
        let others = |view: &Document| view.removals.iter().filter(|one| Some(one.member) != own).count();
        let removed = self.ghost.named(name).map_or(0, |view| others(&view.document));
        self.ghost.judged.add(Rule::S14);
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        let Told { view: before, count, removals } =
            std::mem::replace(&mut process.told, Told { view: name, ..Told::default() });
        // Of two that forced starts made the lower digest wins, also over one that was told.
        let wins = name.order == before.order && name.digest < before.digest;
        if name.order <= before.order && !wins {
            self.check(broken("S14", format!("{} tells {name:?} after {before:?}", plan::name(place))));
        }
        if count != removed {
            let what = format!("{} tells {count} of {removed} removals by {:?}", plan::name(place), name.order);
            self.check(broken("S14", what));
        }
        for (by, victim) in removals {
            self.told_removal(place, name, by, victim);
        }
    }

    /// A member was told to be left out by a view that the one called `name` follows, or by itself. Each node tells it once.
    pub(super) fn told_removal(&mut self, place: usize, name: Name, by: Order, victim: Member) {
        let incarnation = self.member(place).map_or(0, |member| member.incarnation);
        self.ghost.judged.add(Rule::S14);
        let Some(view) = self.ghost.in_line(name, by) else {
            return self
                .check(broken("S14", format!("{victim:?} is told to be left out by {by:?}, not before {name:?}")));
        };
        let (by, is_member) = (view.name, view.document.members.contains(&victim));
        if !self.ghost.tells_removal(place, incarnation, by, victim) {
            self.check(broken("S14", format!("{} tells twice that {by:?} left {victim:?} out", plan::name(place))));
        }
        if is_member {
            self.check(broken("S14", format!("{victim:?} is told to be left out by {by:?}, and is not")));
        }
    }

    /// A member is told to be out. Whom a view says to have been silent was silent for somebody.
    pub(super) fn removed(&mut self, place: usize, view: Order, victim: Member, grounds: Option<&Grounds>) {
        // Removals by views that it skipped come before those of the one that it tells next, which say why. That one shows
        // in whose line they are.
        let own = self.member(place) == Some(victim);
        if let Some(process) = self.nodes[place].process.as_mut() {
            process.told.count += usize::from(grounds.is_some() && !own);
            process.told.removals.push((view, victim));
        }
        let down = grounds.filter(|grounds| grounds.reason == Reason::Down);
        if down.is_some() {
            self.ghost.judged.add(Rule::S7);
        }
        if down.is_some_and(|down| down.judges.is_empty() || !self.ghost.was_accused(plan::place(victim.node))) {
            self.check(broken("S7", format!("{victim:?} was left out for silence, and nobody saw it silent")));
        }
    }
}
