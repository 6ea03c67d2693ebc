//! What acting rests on, by what the world itself saw: until when each vote's grants really stood, and how old stamps
//! really are. Neither the dates of a page nor its clocks are believed.

use crate::sim::clock::MS;
use crate::sim::faults;
use crate::sim::ghost::broken;
use crate::sim::plan::{self, NODES_MAX};
use crate::sim::rules::Rule;
use crate::sim::world::World;
use heartbeat_common::lease::{self, Token, Words, bank, word};
use heartbeat_common::view::Name;
use heartbeat_user::core::agreement::document::{DRIFT_PPM, Document, Holder, Member};
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
}

impl World {
    /// Takes note of whether a machine's page grants.
    pub fn note_grants(&mut self, place: usize) {
        let node = &self.nodes[place];
        let mark = if node.up { node.kernel.page.get(word::GRANTING) } else { 0 };
        self.grants.note(place, mark, self.now);
    }

    /// Something acts: a majority of one view, in which it is a member, granted within that view's lease.
    pub fn rests_on_grants(&mut self, place: usize, token: Token) {
        if self.blind() || !self.ghost.newest.is_view() {
            return;
        }
        let own = Member { node: plan::id(place), incarnation: token.incarnation };
        let granted = self
            .ghost
            .views()
            .rev()
            .any(|view| view.document.members.contains(&own) && self.granted(&view.document, view.name));
        let gap = std::mem::take(&mut self.nodes[place].gap.open);
        self.ghost.judged.add(Rule::Lease);
        if !granted {
            let rule = if gap { "S5" } else { "lease" };
            return self.check(broken(rule, format!("{own:?} acts, and no majority granted within a lease")));
        }
        if gap {
            self.ghost.judged.add(Rule::S5);
            self.after_sleep(place);
        }
    }

    /// By how much a lease may last longer than it says, true time.
    fn slack(&self, lease: u64) -> u64 {
        let slewed = if self.player.has(faults::SLEWED) { lease / 10 } else { 0 };
        2 * MS + lease * 2 * DRIFT_PPM / 1_000_000 + slewed
    }

    fn granted(&self, view: &Document, name: Name) -> bool {
        let (mark, lease) = (name.digest[0].max(1), u64::from(view.lease.lease_ms) * MS);
        let from = self.now.saturating_sub(lease + self.slack(lease));
        let stood = |holder| match holder {
            Holder::Node(node) => self.grants.last(plan::place(node), mark, self.now).is_some_and(|last| last >= from),
            Holder::Witness(_) => false,
        };
        let votes = view.votes.iter().filter(|vote| vote.weight > 0 && stood(vote.holder));
        view.is_majority(votes.map(|vote| u32::from(vote.weight)).sum())
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
