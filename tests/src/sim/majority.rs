//! A majority alone after the last fault: nodes that hold one are healed, and all others stay cut off or dead. "Any
//! connected core with a majority reaches one view, at any history": whatever disks, votes and leases the others have.

use super::clock::SECOND;
use super::ghost::broken;
use super::phases::{CALM, LOOK, REST};
use super::plan;
use super::rules::Rule;
use super::stats::Count;
use super::world::World;
use crate::xdp::random::Random;
use heartbeat_common::lease::{Words, hold, word};
use heartbeat_user::core::agreement::document::Document;
use heartbeat_user::core::agreement::voter::State;

/// The longest that a node asks for a view without it, and a second to stop what it runs.
const LEAVE_MAX: u64 = 6 * SECOND;

impl World {
    /// Ends all faults, but for those that keep some away from a drawn majority; and plays until that is one view, alone,
    /// in which it acts. Where disks of an earlier time came back, or somebody went on by force, none is drawn: who holds
    /// which votes is then not known by the disks.
    pub fn core_settles(&mut self) {
        if self.violation.is_some() || self.ghost.void || self.ghost.forgets() || self.ghost.forced > 0 {
            return;
        }
        self.heal();
        let mut random = Random::new(self.plan.seed ^ 0x636f_7265);
        let all = self.everybody();
        let cores: Vec<u64> = (1..all).filter(|core| self.is_core(*core)).collect();
        if cores.is_empty() {
            return;
        }
        let core = random.pick(&cores);
        let dead = random.word() & all & !core;
        self.settles_alone(core, dead);
    }

    /// Keeps all nodes but these, a bit for each, away from them, some of them dead; and plays until these are one view.
    pub fn settles_alone(&mut self, core: u64, dead: u64) {
        if self.trace {
            self.say(0, || format!("core: {core:b}, dead: {dead:b}"));
        }
        self.stats.add(Count::Cores);
        self.split_off(core);
        for place in (0..self.nodes.len()).filter(|place| dead >> place & 1 == 1) {
            self.crash_machine(place);
        }
        self.run_until(self.now + REST);
        if self.violation.is_some() {
            return;
        }
        // What was begun with the others in it may have been decided since, by reports from before they were cut off.
        if !self.is_core(core) {
            self.stats.add(Count::CoresLost);
            return;
        }
        self.last_fault = self.now;
        let (leaving, given_up) = (self.leaving(core), self.now + LEAVE_MAX);
        while let Err(fault) = self.is_settled_alone(core) {
            self.bring_back(core);
            // Who leaves for want of a disk and is needed for the view without it gives up only after a while.
            if self.now < given_up && leaving.iter().any(|(place, life)| self.nodes[*place].life == *life) {
                self.last_fault = self.now;
            }
            if self.violation.is_some() {
                return;
            }
            if self.now >= self.last_fault + self.converges_within() {
                self.ghost.judged.add(Rule::L4);
                return self.check(broken("L4", format!("the majority {core:b} alone: {fault}")));
            }
            self.run_until(self.now + LOOK);
        }
        self.ghost.judged.add(Rule::L4);
        self.stats.core_settled_within(self.now - self.last_fault);
        self.run_until(self.now + CALM);
        // A quarantine of one that is away may end meanwhile, which is one more view.
        if !self.comes(self.d(), |world| world.is_settled_alone(core).is_ok()) && self.violation.is_none() {
            let fault = self.is_settled_alone(core);
            self.check(broken("L4", format!("the majority {core:b} alone was one view, and then: {fault:?}")));
        }
        // What the operator had to ask for here is no part of what comes.
        self.clears = 0;
    }

    /// Says whether the disks of some nodes, a bit for each, are a majority in every view that they may have to follow: the
    /// newest that one of them holds, all that were decided after it, and whatever one of them has accepted upon the newest,
    /// as that may have to be finished.
    fn is_core(&self, core: u64) -> bool {
        let newest = self.ghost.newest;
        let of_core = self.nodes.iter().filter(|node| core >> node.place & 1 == 1 && node.disk.is_whole());
        let states: Vec<&State> = of_core.filter_map(|node| node.disk.agreement.as_deref()).collect();
        let decides = |view: &Document| {
            let votes = view.votes.iter().filter(|vote| states.iter().any(|state| state.vote == vote.id));
            view.is_majority(votes.map(|vote| u32::from(vote.weight)).sum())
        };
        let Some(held) = states.iter().map(|state| state.installed.order).max() else { return false };
        let mut decided = self.ghost.views().filter(|view| view.name.order >= held);
        let mut accepted = states.iter().filter_map(|state| state.accepted.as_ref()).filter(|view| view.order > newest);
        newest.is_view() && decided.all(|view| decides(&view.document)) && accepted.all(decides)
    }

    /// Some nodes are the members of one view, and act in it.
    fn is_settled_alone(&self, core: u64) -> Result<(), String> {
        self.settled_among(core)?;
        let newest = self.ghost.newest;
        let outside = |place: &usize| core >> place & 1 == 0;
        let mut members =
            self.newest_document().into_iter().flat_map(|view| &view.members).map(|one| plan::place(one.node));
        if let Some(place) = members.find(outside) {
            return Err(format!("{} is a member of {newest:?} yet", plan::name(place)));
        }
        let mut own = (0..self.nodes.len()).filter(|place| !outside(place) && !self.is_stranger(*place));
        match own.find(|place| self.acting(*place).is_none_or(|token| token.order != newest.0)) {
            Some(place) => Err(format!("{} does not act in {newest:?} yet", plan::name(place))),
            None => Ok(()),
        }
    }

    /// Daemons of some nodes that leave, by what their pages say, each in its present life.
    fn leaving(&self, core: u64) -> Vec<(usize, u32)> {
        let leaves = |place: &usize| {
            let node = &self.nodes[*place];
            core >> place & 1 == 1 && node.process.is_some() && node.kernel.page.get(word::HOLD) & hold::LEAVING != 0
        };
        (0..self.nodes.len()).filter(leaves).map(|place| (place, self.nodes[place].life)).collect()
    }
}
