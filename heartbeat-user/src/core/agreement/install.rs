//! A view on disk, and what the page holds of it: the bank, the grants, the reasons not to act. It carries out what the
//! vote asks for, in its order, and raises grants by the disk alone.

use super::closing::is_member;
use super::document::{Document, Holder, Member, Vote};
use super::ending::Course;
use super::engine::{Agreement, Held};
use super::event::AgreementEvent;
use super::grant;
use super::message::Message;
use super::stops::{Clocks, slack};
use super::types::{Adopted, Bank, Command, Ending, PageView, Slot, Standing};
use super::voter::{Effect, Reply, State, Voter};
use crate::core::ids::NodeId;
use heartbeat_common::lease::{Refused, hold};
use heartbeat_common::view::{Name, Order};
use std::time::Duration;

/// What the page holds, as far as this node has asked for it or seen it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Page {
    /// The grants of the held view go out.
    pub granting: bool,
    /// Mark of the last view whose grants were cleared.
    pub cleared: u64,
    /// The last view in force.
    pub in_force: Order,
    /// Reasons not to act.
    pub hold: u64,
    /// The view that every path's standing names.
    pub standing: Order,
    /// This node may act, by the last look.
    pub acting: bool,
    /// The highest incarnation of this node that was fenced.
    pub fenced: u64,
    pub fenced_by: Option<NodeId>,
    /// This memory is that of an older snapshot, and that was told.
    pub ahead: bool,
    /// Since when, and for how long, something may run by a lease that gave it time to stop, whatever the view held gives.
    pub lingers: Option<(Clocks, Duration)>,
    /// Frames may say that what runs stops at once.
    pub claims: bool,
    /// A bank is made once they do not any more: with the lease of the one before, or without.
    pub bank_due: Option<bool>,
}

/// Returns the mark of a view: what GRANTING is while its grants go out. Never 0.
#[must_use]
pub fn mark(view: Name) -> u64 {
    view.digest[0].max(1)
}

impl Agreement {
    /// Takes up the state on disk: first of all what the page may hold of it.
    pub(super) fn take_up(&mut self, adopted: Option<Adopted>) {
        let now = self.now.clocks();
        let Some(voter) = &mut self.voter else { return };
        let document = voter.state().installed.clone();
        self.ends.quarantine(&document, now);
        voter.serve(self.ends.served(&document, now));
        let (name, begun) = (voter.state().register.view, voter.state().register.has_accepted());
        self.page.in_force = adopted.map_or(Order::NONE, |page| page.in_force);
        self.page.cleared = adopted.map_or(0, |page| page.cleared);
        self.page.acting = adopted.is_some_and(|page| page.acting);
        // What the disk shows was cleared before it was written. A page that does not say so is not of this state: its
        // grants end, and its bank is made anew, so that no date outlives the acceptance.
        let foreign = begun && adopted.is_some() && self.page.cleared != mark(name);
        if foreign {
            self.page.cleared = mark(name);
            self.commands.push_back(Command::ClearGrants(mark(name)));
        }
        // By a bank from before a sleep every stamp taken afterwards is too old: the lease would never hold again.
        let slept = adopted.is_some_and(|page| page.slept);
        let whole = !foreign && !slept;
        let same =
            |page: Adopted| page.bank == (name.order.0, name.digest[0]) && page.member == self.acts_in(&document);
        // Whoever was killed between a view that came into force and the bank that lets it act in it left the older bank.
        let kept = whole && adopted.is_some_and(same);
        // The page's lease goes on only where this incarnation had one: until a view came into force, it had none.
        let carry = whole && self.page.in_force.is_view() && adopted.is_some_and(|page| page.member);
        if adopted.is_some_and(|page| page.member) {
            // How long stopping took by the banks before is not known any more, nor how long ago the last of them ended.
            self.linger(&document);
        }
        // Nor what frames say. Where nothing is to go on by the bank that is there, it is not kept for that.
        self.page.claims = whole && adopted.is_some();
        self.hold_view(document.clone(), name, (!kept).then_some(carry));
        // The controller before was killed with this view on disk, before it told of it: it told, and then made the bank. The
        // bank of a view that gives time to stop may come later, and shows nothing.
        if document.lease.stop_ms == 0 && adopted.is_some_and(|page| Order(page.bank.0) < name.order) {
            self.tell_view(&document, name);
        }
        let (in_force, own) = (self.page.in_force, self.setup.own);
        if let Some(held) = &mut self.held {
            held.in_force = in_force == held.name.order;
        }
        if kept {
            self.fences.taken_over(&document, in_force == document.order);
        }
        // That a view was in force under this incarnation shows that it was a member once, be it on a side that lost.
        if out_of(&document, own) || in_force.is_view() && !is_member(&document, own) {
            // What it means for this node was told when the view was learned, before it was written.
            self.go_out(false);
        }
        if adopted.is_some() {
            // What held the controller before was its own: it may have been killed while it left, and this one does not.
            self.commands.push_back(Command::Hold(self.page.hold));
        }
    }

    /// Makes a view that is on disk the one held. `bank`: make a bank for it, with the lease of the one before or not.
    fn hold_view(&mut self, document: Document, name: Name, bank: Option<bool>) {
        let since = self.now.clocks();
        self.stops.install(&document, self.slewed(), since);
        self.fences.install(&document);
        self.page.granting = false;
        self.page.standing = Order::NONE;
        self.regroup.installed(self.now.mono);
        self.attempt = None;
        self.held = Some(Held { document, name, since, mono: self.now.mono, in_force: false });
        if let Some(carry) = bank {
            self.make_bank_in_turn(carry);
        }
        self.say_standing();
        self.commands.push_back(Command::Burst);
    }

    /// By how much a clock may be slewed beyond its rate before its owner's next round sees that.
    pub(super) fn slewed(&self) -> Duration {
        slack(self.setup.timing.delay)
    }

    /// Says whether the bank of a view lets this node act. Who goes on by force acts in nothing until the longest lease of
    /// all the others is over, and the view in force.
    fn acts_in(&self, view: &Document) -> bool {
        is_member(view, self.setup.own) && view.order.force() <= self.page.in_force.force()
    }

    pub(super) fn make_bank(&mut self, carry: bool) {
        let Some(held) = &self.held else { return };
        self.page.bank_due = None;
        let (own, vote, view) = (self.setup.own, self.own_vote(), &held.document);
        let slot = |one: &Vote| match one.holder {
            Holder::Node(node) if node != own.node => Some(Slot {
                node,
                weight: one.weight,
                expected: grant::word(view.instance, held.name, one.id, own.node, own.incarnation),
            }),
            Holder::Node(_) | Holder::Witness(_) => None,
        };
        let member = self.acts_in(view);
        let bank = Bank {
            view: held.name,
            lease: Duration::from_millis(u64::from(view.lease.lease_ms)),
            act: Duration::from_millis(u64::from(view.lease.lease_ms.saturating_sub(view.lease.stop_ms))),
            own_mark: if votes_in(view, vote) { mark(held.name) } else { 0 },
            own_weight: u8::try_from(view.weight_of(vote)).unwrap_or(0),
            total_weight: view.total_weight(),
            member,
            carry: carry && member,
            slots: view.votes.iter().filter_map(slot).collect(),
        };
        self.commands.push_back(Command::Install(Box::new(bank)));
    }

    /// Says in every frame which view is held, with the grants that go with it: to its members alone, under the
    /// incarnations that it names.
    pub(super) fn say_standing(&mut self) {
        let Some(held) = &self.held else { return };
        let (view, name, own, vote) = (&held.document, held.name, self.setup.own, self.own_vote());
        let votes = votes_in(view, vote);
        let begun = self.voter.as_ref().is_none_or(|voter| voter.state().register.has_accepted());
        let may = votes && !begun && self.page.cleared != mark(name);
        let word =
            |member: &Member| (member.node, grant::word(view.instance, name, vote, member.node, member.incarnation));
        let others = view.members.iter().filter(|member| member.node != own.node);
        let standing = Standing {
            view: name,
            mark: if may { mark(name) } else { 0 },
            grants: if may { others.map(word).collect() } else { Vec::new() },
            member: is_member(view, own),
            votes,
            stops_at_once: view.lease.stop_ms == 0 && self.page.lingers.is_none(),
        };
        self.page.claims |= standing.stops_at_once;
        self.commands.push_back(Command::Standing(Box::new(standing)));
    }

    /// Lets grants go out, if the disk allows them: the view held is the newest on disk, nothing was accepted upon it,
    /// and its grants were never cleared.
    pub(super) fn give_grants(&mut self) {
        let (Some(held), Some(voter)) = (&self.held, &self.voter) else { return };
        let mark = mark(held.name);
        let may = voter.may_grant() && voter.state().register.view == held.name;
        let ready = self.page.standing == held.name.order && self.page.cleared != mark;
        let unfenced = self.page.fenced < self.setup.own.incarnation;
        if !self.page.granting && may && ready && unfenced && votes_in(&held.document, voter.state().vote) {
            self.page.granting = true;
            self.commands.push_back(Command::SetGranting(mark));
        }
    }

    /// Clears the grants of the view held, once: the own vote counts for a lease from then, and from no later moment.
    fn clear_grants(&mut self) {
        let Some(held) = &self.held else { return };
        let mark = mark(held.name);
        if self.page.cleared == mark {
            return;
        }
        self.page.granting = false;
        self.page.cleared = mark;
        self.commands.push_back(Command::ClearGrants(mark));
    }

    /// Carries out what the vote asks for, in its order.
    pub(super) fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::ClearGrants => self.clear_grants(),
                Effect::Write(state) => {
                    self.writing = Some(self.now.mono);
                    self.commands.push_back(Command::Write(state));
                }
                Effect::Answer { to, view, reply } => self.answer(to, view, reply),
                Effect::Installed => self.installed(),
            }
        }
    }

    fn answer(&mut self, to: NodeId, view: Name, reply: Reply) {
        let vote = self.own_vote();
        let message = match reply {
            Reply::Promised { ballot, promise, document } => {
                Message::Promised { view, ballot, vote, promise, document }
            }
            Reply::Accepted { ballot, value } => Message::Accepted { view, ballot, vote, value },
            Reply::Refused { ballot, refusal } => Message::Refused { view, ballot, refusal },
        };
        if to == self.setup.own.node {
            self.answered(message);
        } else {
            self.send(to, message);
        }
    }

    /// Takes a view that was decided: it is written, and held once it is on disk.
    pub(super) fn learn(&mut self, document: Document) {
        let quarantines = self.ends.served(&document, self.now.clocks());
        let Some(voter) = &mut self.voter else {
            let state = State {
                quarantines,
                // Where nobody remembers how far the disk was, its copies are told by their vote.
                sequence: self.setup.remembered.saturating_add(1),
                remembers: self.ends.remembers(),
                ..State::new(self.setup.fresh_vote, document)
            };
            let (voter, effects) = Voter::begin(state);
            self.voter = Some(voter);
            self.carry_out(effects);
            return;
        };
        if document.instance != voter.state().installed.instance {
            return;
        }
        if voter.yields_to(&document) {
            voter.serve(quarantines);
        }
        let effects = voter.install(&document);
        if effects.is_empty() {
            self.handed_over(&document);
            return;
        }
        let (own, other) = (self.held_order(), document.order);
        let without = !is_member(&document, self.setup.own);
        let loses = without && self.membership().is_some();
        // Of views that follow each other the later one knows whom the earlier one had.
        let parted = loses && !out_of(&document, self.setup.own);
        if without && own.is_view() && (other.force() > own.force() || other == own || parted) {
            self.tell(AgreementEvent::OtherSideForced { own, other });
        }
        // What this node runs is stopped at once; the disk can wait. Whoever was a member on the side that lost has acted
        // as such: it ends, also where the side that won never knew this incarnation.
        if loses || out_of(&document, self.setup.own) {
            self.left_out(&document);
        }
        self.carry_out(effects);
    }

    fn installed(&mut self) {
        let Some(voter) = &self.voter else { return };
        let (document, name) = (voter.state().installed.clone(), voter.state().register.view);
        let before = self.held.take();
        let carry = before.as_ref().is_some_and(|held| is_member(&held.document, self.setup.own));
        if let Some(held) = before.as_ref().filter(|held| carry && held.document.lease.stop_ms > 0) {
            self.linger(&held.document);
        }
        self.note_ends(&document);
        self.tell_changes(before.as_ref(), &document, name);
        // A node that lost its disk may have taken an incarnation that is none above those that were admitted. Who
        // leaves anyway goes on leaving.
        if self.course == Course::Runs && out_of(&document, self.setup.own) {
            self.go_out(false);
        }
        self.hold_view(document, name, Some(carry));
        self.report_now();
        self.requests_installed();
        self.replay();
    }

    /// Looks at the page: whether this node may act, and whether its kernel obeyed a fence.
    pub(super) fn look_at_page(&mut self, view: &PageView) {
        // A page that is being replaced says nothing.
        if view.acting.is_ok() != self.page.acting && view.acting != Err(Refused::Unsteady) {
            self.page.acting = view.acting.is_ok();
            match view.acting {
                Ok(token) => self.tell(AgreementEvent::LeaseGained { view: Order(token.order) }),
                Err(why) => self.lost(why, view),
            }
        }
        self.page.fenced = self.page.fenced.max(view.fenced);
        self.page.fenced_by = self.page.fenced_by.or(view.fenced_by);
        if view.acting == Err(Refused::Ahead) {
            self.set_back();
        }
        if self.page.fenced >= self.setup.own.incarnation {
            self.page.granting = false;
            self.go_out(true);
        }
    }

    /// After a sleep only stamps taken afterwards count: the bank is made anew, and nothing of the lease goes on.
    pub(super) fn slept(&mut self) {
        self.make_bank(false);
        if self.held.is_some() {
            self.commands.push_back(Command::Burst);
        }
        self.late();
    }

    /// The disk failed: what it holds is not known any more. This vote is over, and the node ends.
    pub(super) fn forfeit(&mut self) {
        self.writing = None;
        let Some(voter) = &mut self.voter else { return };
        if voter.forfeited() {
            return;
        }
        let effects = voter.failed();
        self.carry_out(effects);
        self.attempt = None;
        self.hold(hold::DISK, true);
        self.tell(AgreementEvent::VoteForfeited);
        self.tell(AgreementEvent::StoppedForConsistency);
        self.leave(Ending::Forfeited);
    }
}

fn votes_in(view: &Document, vote: heartbeat_common::view::VoteId) -> bool {
    view.votes.iter().any(|one| one.id == vote)
}

/// Says whether an incarnation was a member once, and is none of this view: it never will be again.
pub(super) fn out_of(view: &Document, own: Member) -> bool {
    !is_member(view, own) && view.admitted_of(own.node) >= own.incarnation
}
