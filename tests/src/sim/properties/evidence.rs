//! What acting rests on, by what the world itself saw: until when each vote's grants really stood, and how old stamps
//! really are. Neither the dates of a page nor its clocks are believed.

use crate::sim::clock::MS;
use crate::sim::faults;
use crate::sim::ghost::{Decided, broken};
use crate::sim::plan::{self, NODES_MAX};
use crate::sim::rules::Rule;
use crate::sim::world::World;
use heartbeat_common::lease::{self, Token, Words, bank, word};
use heartbeat_user::core::agreement::document::{DRIFT_PPM, Holder, Member};
use std::collections::BTreeMap;

/// Until when each vote's grants stood.
#[derive(Clone, Debug, Default)]
pub struct Grants {
    /// The mark that each machine's page grants under now; 0: none.
    standing: [u64; NODES_MAX],
    /// When a mark's grants ended, true time.
    ended: BTreeMap<(u64, usize), u64>,
}

impl Grants {
    /// Takes note of what a machine's page grants under from `now` on.
    pub fn note(&mut self, place: usize, mark: u64, now: u64) {
        let before = std::mem::replace(&mut self.standing[place], mark);
        if before != mark && before != 0 {
            self.ended.insert((before, place), now);
        }
    }

    /// Returns the last moment, up to `now`, in which a machine granted under a mark; `None`: it never did.
    #[must_use]
    pub fn last(&self, place: usize, mark: u64, now: u64) -> Option<u64> {
        if self.standing[place] == mark { Some(now) } else { self.ended.get(&(mark, place)).copied() }
    }
}

/// What the world knows of the gaps in a node's life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gap {
    /// It stood still, or was started, and has not acted since.
    pub open: bool,
    /// CLOCK_MONOTONIC when its machine last woke up; 0: it never slept.
    pub woke: u64,
    /// How long it had slept, ns.
    pub slept: u64,
    /// Its controller has made a round since.
    pub looked: bool,
    /// CLOCK_MONOTONIC when its hypervisor last let its machine go on; 0: it was never held.
    pub resumed: u64,
}

impl World {
    /// Takes note of whether a machine's page grants.
    pub fn note_grants(&mut self, place: usize) {
        let node = &self.nodes[place];
        let mark = if node.up { node.kernel.page.get(word::GRANTING) } else { 0 };
        self.grants.note(place, mark, self.now);
    }

    /// Something acts: a majority of one view, in which it is a member, granted within that view's lease, by the clocks of
    /// its own machine.
    pub fn rests_on_grants(&mut self, place: usize, token: Token) {
        if self.blind() || !self.ghost.newest.is_view() {
            return;
        }
        let own = Member { node: plan::id(place), incarnation: token.incarnation };
        let granted = self.views_of(own).any(|view| self.granted(view, self.own_lease(place, view), |_| true));
        let gap = std::mem::take(&mut self.nodes[place].gap.open);
        self.ghost.judged.add(Rule::Lease);
        if !granted && !self.is_brought_back(own) {
            let rule = if gap { "S5" } else { "lease" };
            return self.check(broken(rule, format!("{own:?} acts, and no majority granted within a lease")));
        }
        if gap {
            self.ghost.judged.add(Rule::S5);
            self.after_sleep(place);
        }
    }

    /// "A pause of the whole virtual machine shows in none of these clocks: there the wait proves nothing and the token at
    /// the receiver is the only guard." Says whether an incarnation acts on such time alone, or by the word of a vote that
    /// has forgotten what it did: a majority granted within a lease by the clocks of its machine, and in truth none did of
    /// votes that know what they do.
    #[must_use]
    pub fn is_stale(&self, own: Member) -> bool {
        let place = plan::place(own.node);
        if !self.nodes[place].has_unseen() && !self.ghost.forgets() {
            return false;
        }
        if self.is_brought_back(own) {
            return true;
        }
        let excepted = |view: &Decided| {
            let (from, lease) = (self.own_lease(place, view), lease_of(view));
            let is_older = from + lease + self.slack(lease) < self.now;
            (is_older || self.ghost.is_forgotten(&view.document)) && self.granted(view, from, |_| true)
        };
        let in_truth = |view: &Decided| {
            let knows = |place| !self.ghost.may_forget(place, view.name.order);
            self.granted(view, self.now.saturating_sub(lease_of(view)), knows)
        };
        self.views_of(own).any(excepted) && !self.views_of(own).any(in_truth)
    }

    /// Says whether a snapshot brought an incarnation back less than a lease ago, by clocks that have passed again what it
    /// took back: it may have said meanwhile that it stopped, acts on by what it was granted before, and takes what is
    /// played again of then for new.
    fn is_brought_back(&self, own: Member) -> bool {
        let node = &self.nodes[plan::place(own.node)];
        let taken_back: u64 = node.unseen.iter().map(|(from, to)| to - from).sum();
        let over = |view: &Decided| node.restored_at + taken_back + lease_of(view) + self.slack(lease_of(view));
        node.restored_at > 0 && self.views_of(own).any(|view| self.now < over(view))
    }

    /// Views that an incarnation is a member of, the newest first.
    fn views_of(&self, own: Member) -> impl Iterator<Item = &Decided> {
        self.ghost.views().rev().filter(move |view| view.document.members.contains(&own))
    }

    /// When, at the earliest, somebody granted a lease under which a machine may act now: one that this view gives.
    fn own_lease(&self, place: usize, view: &Decided) -> u64 {
        let lease = lease_of(view);
        self.nodes[place].ran_for(lease + self.slack(lease), self.now)
    }

    /// By how much a lease may last longer than it says, true time.
    fn slack(&self, lease: u64) -> u64 {
        let slewed = if self.player.has(faults::SLEWED) { lease / 10 } else { 0 };
        2 * MS + lease * 2 * DRIFT_PPM / 1_000_000 + slewed
    }

    /// Says whether a majority of a view granted in it at some moment from `from` on; of those alone, by place, that count.
    fn granted(&self, view: &Decided, from: u64, counts: impl Fn(usize) -> bool) -> bool {
        let mark = view.name.digest[0].max(1);
        let last = |place| self.grants.last(place, mark, self.now).filter(|_| counts(place));
        let stood = |holder| match holder {
            Holder::Node(node) => last(plan::place(node)).is_some_and(|last| last >= from),
            Holder::Witness(_) => false,
        };
        let votes = view.document.votes.iter().filter(|vote| vote.weight > 0 && stood(vote.holder));
        view.document.is_majority(votes.map(|vote| u32::from(vote.weight)).sum())
    }

    /// "After a sleep a node acts only on a lease made wholly of stamps taken afterwards": from its controller's first
    /// round on. Until then the sleep counts in the age of the stamps from before it.
    fn after_sleep(&mut self, place: usize) {
        let node = &self.nodes[place];
        let (gap, page) = (node.gap, &node.kernel.page);
        if gap.woke == 0 {
            return;
        }
        let active = lease::active_bank(page);
        let (mono, boot) = (node.clock.mono(self.now), node.clock.boot(self.now));
        if gap.looked {
            if page.get(active + bank::FLOOR_NS) < gap.woke {
                self.check(broken("S5", format!("{} acts on stamps from before its sleep", plan::name(place))));
            }
            return;
        }
        let carried = boot < page.get(active + bank::CARRY_UNTIL_NS);
        let act = page.get(active + bank::ACT_NS);
        let fresh = |date: u64| {
            let slept = if date < gap.woke { gap.slept } else { 0 };
            date != 0 && mono.saturating_sub(date) + slept <= act + self.slack(act)
        };
        let mark = page.get(active + bank::OWN_MARK);
        let stands = mark != 0 && page.get(word::GRANTING) == mark || fresh(page.get(active + bank::OWN_DATE_NS));
        let own = if stands { page.get(active + bank::OWN_WEIGHT) } else { 0 };
        let used = page.get(active + bank::SLOTS_USED) as usize;
        let slots = (0..used).filter(|slot| fresh(page.get(active + bank::DATES + slot)));
        let sum = own + slots.map(|slot| lease::weight(page, active, slot)).sum::<u64>();
        if !carried && 2 * sum <= page.get(active + bank::TOTAL_WEIGHT) {
            self.check(broken("S5", format!("{} acts on stamps that its sleep has used up", plan::name(place))));
        }
    }
}

/// The lease of a view, ns.
fn lease_of(view: &Decided) -> u64 {
    u64::from(view.document.lease.lease_ms) * MS
}
