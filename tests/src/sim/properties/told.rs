//! What the agreements tell people: each change once, in order, with a cause.

use crate::sim::ghost::{Change, broken};
use crate::sim::plan;
use crate::sim::rules::Rule;
use crate::sim::stats::Count;
use crate::sim::world::World;
use heartbeat_common::lease;
use heartbeat_common::view::{Name, Order};
use heartbeat_user::core::agreement::AgreementEvent;
use heartbeat_user::core::agreement::document::{Document, Member, Reason, Removal};
use heartbeat_user::core::agreement::event::Grounds;
use heartbeat_user::core::ids::NodeId;

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
            AgreementEvent::NodeJoined { view, member } => {
                self.stats.add(Count::Joined);
                if let Some(process) = self.nodes[place].process.as_mut() {
                    process.told.joins += 1;
                }
                self.told_change(place, Some(*view), Change::Joined(*member));
            }
            AgreementEvent::NodeLeftView { view, handed_over, member } => {
                self.stats.add(Count::LeftView);
                self.told_leave(place, *view, *member, *handed_over);
            }
            AgreementEvent::RegroupStarted { .. } => self.stats.add(Count::Regroups),
            AgreementEvent::RegroupWaits { .. } => self.stats.add(Count::Waits),
            AgreementEvent::ViewInForce { view, .. } => self.told_in_force(place, *view),
            AgreementEvent::LeaseGained { view } => {
                self.stats.add(Count::LeaseGained);
                self.told_acting(place, *view, true);
            }
            AgreementEvent::QuorumLost { view, .. } => {
                self.stats.add(Count::LeaseLost);
                self.told_acting(place, *view, false);
            }
            AgreementEvent::LeaseGivenUp { view } => self.told_acting(place, *view, false),
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
            AgreementEvent::Quarantined { node, .. } => {
                self.stats.add(Count::Quarantined);
                self.told_change(place, None, Change::Quarantined(*node));
            }
            AgreementEvent::OwnQuarantine { .. } => {
                self.told_change(place, None, Change::Quarantined(plan::id(place)));
            }
            AgreementEvent::QuarantineRefused { node, .. } => self.told_refusal(place, *node),
            AgreementEvent::QuarantineCleared { node } => self.told_change(place, None, Change::Cleared(*node)),
            AgreementEvent::ViewSettingChanged { view, .. } => {
                self.stats.add(Count::Changed);
                self.told_change(place, Some(*view), Change::Setting);
            }
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
        let told = &mut process.told;
        let (before, count) = (std::mem::replace(&mut told.view, name), std::mem::take(&mut told.count));
        let (removals, left) = (std::mem::take(&mut told.removals), std::mem::take(&mut told.left));
        let (joins, due) = (std::mem::take(&mut told.joins), std::mem::take(&mut told.joins_due));
        if let (Some(old), Some(view)) = (self.ghost.named(before), self.ghost.named(name)) {
            let new = |member: &&Member| !old.document.members.contains(member);
            told.joins_due = Some(view.document.members.iter().filter(new).count());
        }
        if due.is_some_and(|due| due != joins) {
            let what = format!("{} told {joins} of {due:?} joins by {:?}", plan::name(place), before.order);
            self.check(broken("S14", what));
        }
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
        for (by, member) in left {
            let view = self.ghost.named(name).filter(|view| view.name.order == by);
            let said = |one: &Removal| one.member == member && one.reason == Reason::Left;
            if !view.is_some_and(|view| view.document.removals.iter().any(said)) {
                self.check(broken("S14", format!("{member:?} is told to have left by {by:?}, and has not")));
            }
            self.told_change(place, None, Change::Left(member));
        }
    }

    /// A change by the view that was told last is told: once, and it is one.
    fn told_change(&mut self, place: usize, by: Option<Order>, change: Change) {
        let Some(process) = &self.nodes[place].process else { return };
        let (incarnation, name) = (process.incarnation, process.told.view);
        self.ghost.judged.add(Rule::S14);
        let who = plan::name(place);
        if by.is_some_and(|by| by != name.order) {
            self.check(broken("S14", format!("{who} tells {change:?} by {by:?} after {:?}", name.order)));
        }
        if !self.ghost.tells(place, incarnation, name, change) {
            self.check(broken("S14", format!("{who} tells {change:?} by {:?} twice", name.order)));
        }
        let is_one = self.ghost.named(name).is_some_and(|view| {
            let view = &view.document;
            let kept_out = |node: NodeId| view.quarantined.iter().any(|one| one.node == node);
            match change {
                Change::Joined(member) => view.members.contains(&member),
                Change::Left(member) | Change::Removed(member) => !view.members.contains(&member),
                Change::Quarantined(node) => kept_out(node),
                Change::Cleared(node) => !kept_out(node),
                Change::Setting => view.change.is_some(),
            }
        });
        if !is_one {
            self.check(broken("S14", format!("{who} tells {change:?} by {:?}, which is none", name.order)));
        }
    }

    /// A node in quarantine is told to ask: once for each of its incarnations.
    fn told_refusal(&mut self, place: usize, node: NodeId) {
        self.ghost.judged.add(Rule::S14);
        let author = self.hears.filter(|author| author.node == node);
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        match author {
            Some(author) if !process.told.refused.contains(&author) => process.told.refused.push(author),
            _ => self.check(broken("S14", format!("{} tells twice that {node:?} is refused", plan::name(place)))),
        }
    }

    /// Somebody is told to have left: by the view that is told next, or, without any, this node itself.
    fn told_leave(&mut self, place: usize, view: Order, member: Member, handed_over: bool) {
        let own = self.member(place) == Some(member);
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        if handed_over {
            process.told.count += usize::from(!own);
            return process.told.left.push((view, member));
        }
        let (incarnation, name) = (process.incarnation, process.told.view);
        self.ghost.judged.add(Rule::S14);
        if !own || !self.ghost.tells(place, incarnation, name, Change::Left(member)) {
            self.check(broken("S14", format!("{} tells without a view that {member:?} left", plan::name(place))));
        }
    }

    /// A view is told to be in force: the one told last, and later than any before.
    fn told_in_force(&mut self, place: usize, view: Order) {
        self.ghost.judged.add(Rule::S14);
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        let (held, before) = (process.told.view.order, std::mem::replace(&mut process.told.in_force, view));
        if view <= before || held.is_view() && view != held {
            let what = format!("{} tells {view:?} in force after {before:?}, and holds {held:?}", plan::name(place));
            self.check(broken("S14", what));
        }
    }

    /// A node tells that it may act, or that it may not any more: by turns, and in order of views.
    fn told_acting(&mut self, place: usize, view: Order, acts: bool) {
        self.ghost.judged.add(Rule::S14);
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        let told = &mut process.told;
        let (held, before, acted) = (told.view.order, told.acts.replace(acts), told.acted);
        let in_order = if acts { view >= acted } else { !held.is_view() || view == held };
        told.acted = acted.max(if acts { view } else { Order::NONE });
        if before == Some(acts) || !in_order {
            let what = format!("{} tells {acts} of acting under {view:?} after {before:?}", plan::name(place));
            self.check(broken("S14", what));
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
        if !self.ghost.tells(place, incarnation, by, Change::Removed(victim)) {
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
        if down.is_some_and(|down| down.judges.is_empty() || !self.ghost.was_accused(victim)) {
            self.check(broken("S7", format!("{victim:?} was left out for silence, and nobody saw it silent")));
        }
    }
}
