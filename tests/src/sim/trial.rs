//! One fault in a healthy cluster, drawn from the seed: what it is to lead to, and within which time. It is judged by what
//! reached disks and pages, and by what detectors told.

use super::clock::{MS, SECOND};
use super::ghost::broken;
use super::heap::THREADS;
use super::plan;
use super::properties::Accusation;
use super::rules::Rule;
use super::stats::Count;
use super::world::World;
use crate::xdp::random::Random;
use heartbeat_common::view::Order;
use heartbeat_user::core::agreement::document::{Document, Holder};
use heartbeat_user::core::event::EventBody;

/// In such steps a trial is looked at.
const STEP: u64 = 10 * MS;
/// Hang limits that are waited for.
const HANG_MAX: u64 = 5 * SECOND;

/// What is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The machine of this node falls.
    Death(usize),
    /// It falls, and is started again at once.
    Restart(usize),
    /// No thread of this node's daemon runs any more.
    Hang(usize),
    /// Its daemon is gone, and nobody starts it again.
    Gone(usize),
    /// Nothing passes between these nodes, a bit for each, and all others.
    Split(u64),
    /// Likewise, but for heartbeats: these do.
    Muted(u64),
}

impl World {
    /// Draws a trial, and sees it through. It is left as it came to be: faults and all.
    pub fn tried(&mut self) {
        let mut random = Random::new(self.plan.seed ^ 0x0074_7269_616c);
        let node = random.below(self.plan.nodes as u64) as usize;
        let hangs = self.plan.hang_limit.as_nanos() as u64 <= HANG_MAX;
        if self.plan.nodes < 2 {
            return;
        }
        let all = self.everybody();
        // Drawn by itself: the other trials of a seed stay what they are.
        let mutes = Random::new(self.plan.seed ^ 0x006d_7574_6564).one_in(6);
        let trial = match random.below(10) {
            _ if mutes => Trial::Muted(1 + random.below(all - 1)),
            0..=2 => Trial::Death(node),
            // Whoever falls may be quarantined for that, and is then not let in.
            3..=5 if self.plan.quarantine_threshold == 0 => Trial::Restart(node),
            3..=5 => Trial::Death(node),
            6 if hangs => Trial::Hang(node),
            7 if hangs => Trial::Gone(node),
            _ => Trial::Split(1 + random.below(all - 1)),
        };
        self.play_trial(trial);
    }

    /// Sees a trial through.
    pub fn play_trial(&mut self, trial: Trial) {
        if self.trace {
            self.say(0, || format!("trial: {trial:?}"));
        }
        self.stats.add(match trial {
            Trial::Death(_) => Count::TrialDeaths,
            Trial::Restart(_) => Count::TrialRestarts,
            Trial::Hang(_) | Trial::Gone(_) => Count::TrialHangs,
            Trial::Split(_) => Count::TrialSplits,
            Trial::Muted(_) => Count::TrialMutes,
        });
        self.accusations.clear();
        match trial {
            Trial::Death(node) => {
                self.crash_machine(node);
                if self.left_by(1 << node, self.d()) {
                    self.accused_in_time(node);
                    self.taken_over(1 << node);
                }
            }
            Trial::Restart(node) => self.restarted(node),
            Trial::Hang(node) => {
                self.nodes[node].paused = [self.now + 600 * SECOND; THREADS];
                self.stands(node);
            }
            Trial::Gone(node) => {
                self.end_process(node, true, None);
                for peer in 0..self.nodes.len() {
                    self.lose_connection(node, peer);
                }
                self.stands(node);
            }
            Trial::Split(side) => self.split(side),
            Trial::Muted(side) => self.mute(side),
        }
    }

    /// Members of the newest view that are not among `out`, a bit for each; none, if they have no majority of its votes.
    pub(super) fn majority_without(&self, out: u64) -> Vec<usize> {
        let Some(view) = self.newest_document() else { return Vec::new() };
        let is_in = |place: &usize| out >> place & 1 == 0;
        let votes = view.votes.iter().filter(|vote| match vote.holder {
            Holder::Node(node) => is_in(&plan::place(node)),
            Holder::Witness(_) => false,
        });
        let weight = votes.map(|vote| u32::from(vote.weight)).sum();
        let members = view.members.iter().map(|member| plan::place(member.node)).filter(is_in);
        if view.is_majority(weight) { members.collect() } else { Vec::new() }
    }

    /// Plays until `done`, for `within` at most. Says whether it came to that.
    pub(super) fn comes(&mut self, within: u64, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + within;
        while self.violation.is_none() {
            if done(self) {
                return true;
            }
            if self.now >= end {
                return false;
            }
            self.run_until((self.now + STEP).min(end));
        }
        false
    }

    pub(super) fn installed(&self, place: usize) -> Order {
        self.nodes[place].disk.agreement.as_ref().map_or(Order::NONE, |state| state.installed.order)
    }

    /// Those that are left have a view without `out` on their disks within `within`. Says whether there was anybody to do
    /// so, and did.
    fn left_by(&mut self, out: u64, within: u64) -> bool {
        let survivors = self.majority_without(out);
        if survivors.is_empty() {
            self.stats.add(Count::TrialsWithoutMajority);
            return false;
        }
        let is_out = |view: &Document| view.members.iter().all(|member| out >> plan::place(member.node) & 1 == 0);
        if self.newest_document().is_none_or(is_out) {
            return false;
        }
        let began = self.now;
        let done = self.comes(within, |world| {
            let newest = world.ghost.newest;
            world.newest_document().is_some_and(is_out)
                && survivors.iter().all(|place| world.installed(*place) == newest)
        });
        if self.violation.is_none() {
            self.ghost.judged.add(Rule::L1);
            self.stats.left_within(self.now - began);
            if !done {
                let what = format!("{out:b} is not left out by {survivors:?} after {} ns", self.now - began);
                self.check(broken("L1", what));
            }
        }
        done && self.violation.is_none()
    }

    /// Every accusation came within its window, and there was one.
    fn accused_in_time(&mut self, node: usize) {
        let window = self.plan.detection_ns() - self.plan.delay_ns()..=self.verdict_within();
        let of_node: Vec<Accusation> =
            self.accusations.iter().copied().filter(|accusation| accusation.peer == node).collect();
        self.ghost.judged.add(Rule::L1);
        let off = of_node.iter().find(|accusation| !window.contains(&accusation.silent)).copied();
        if off.is_some() || of_node.is_empty() {
            self.check(broken("L1", format!("{} died, and was accused by {of_node:?}", plan::name(node))));
        }
        let other = self.accusations.iter().find(|accusation| accusation.peer != node).copied();
        if let Some(other) = other {
            self.check(broken("L1", format!("{} died, and so: {other:?}", plan::name(node))));
        }
    }

    /// Those that are left act in a view without `out` within the longest lease and a regroup of that view.
    pub(super) fn taken_over(&mut self, out: u64) {
        let (survivors, newest) = (self.majority_without(out), self.ghost.newest);
        let within = self.longest_lease() + 2 * self.plan.delay_ns() + 200 * MS;
        let began = self.now;
        let act = |world: &Self, place: &usize| world.acting(*place).is_some_and(|token| token.order >= newest.0);
        let done = self.comes(within, |world| survivors.iter().all(|place| act(world, place)));
        if self.violation.is_none() {
            self.ghost.judged.add(Rule::L2);
            self.stats.taken_over_within(self.now - began);
            if !done {
                let idle: Vec<_> = survivors.iter().filter(|place| !act(self, place)).collect();
                self.check(broken("L2", format!("{idle:?} do not act in {newest:?} after {within} ns")));
            }
        }
    }

    /// Nothing of a daemon runs any more, and its kernel answers: it is left out within the hang limit and D.
    fn stands(&mut self, node: usize) {
        let hang = self.plan.hang_limit.as_nanos() as u64;
        let began = self.now;
        let out = 1 << node;
        if self.left_by(out, hang + self.d()) {
            self.ghost.judged.add(Rule::S8);
            if self.now < began + hang - self.plan.delay_ns() {
                self.check(broken("S8", format!("{} is left out before its limit", plan::name(node))));
            }
            self.taken_over(out);
        }
    }

    /// The side with a majority of the votes goes on, in its time; both sides' leases are watched anyway.
    fn split(&mut self, side: u64) {
        let all = self.everybody();
        self.split_off(side);
        let stays = if self.majority_without(!side & all).is_empty() { !side & all } else { side };
        let out = !stays & all;
        if self.left_by(out, self.d()) {
            self.taken_over(out);
        }
    }

    /// A machine that falls and is started at once is a member again in its time, and the others notice nothing of each
    /// other.
    fn restarted(&mut self, node: usize) {
        let before = self.ghost.newest;
        let daemons = |world: &Self| -> Vec<_> {
            let others = world.nodes.iter().filter(|other| other.place != node);
            others.map(|other| other.process.as_ref().map(|own| (own.incarnation, own.generation))).collect()
        };
        let (survivors, ran) = (self.majority_without(1 << node), daemons(self));
        if survivors.is_empty() || self.is_stranger(node) {
            self.stats.add(Count::TrialsWithoutMajority);
            self.crash_machine(node);
            return;
        }
        self.log.keep = true;
        self.log.events.clear();
        let ends = self.nodes[node].ends.len().min(2);
        self.crash_machine(node);
        self.boot(node);
        let began = self.now;
        let within = self.restarts_within(ends);
        let done = self.comes(within, |world| world.ghost.newest > before && world.settled().is_ok());
        let events = std::mem::take(&mut self.log.events);
        self.log.keep = false;
        if self.violation.is_some() {
            return;
        }
        self.ghost.judged.add(Rule::L3);
        self.stats.back_within(self.now - began);
        let third = plan::id(node);
        let bad = events.iter().filter(|(_, by, _)| *by != node).find(|(.., event)| match &event.body {
            EventBody::NodeDown { node, .. } => node.node_id != third,
            EventBody::PathLost { link, .. }
            | EventBody::PathUnreachable { link, .. }
            | EventBody::PathFailed { link, .. } => link.node_id != third,
            EventBody::Isolated { .. } => self.plan.nodes > 2,
            _ => false,
        });
        let rose = self.ghost.newest.number() - before.number();
        let fault = if !done {
            Some(format!("{} is not back after {within} ns: {:?}", plan::name(node), self.settled()))
        } else if let Some((at, by, event)) = bad {
            Some(format!("{} told at {at}: {event}", plan::name(*by)))
        } else if daemons(self) != ran {
            Some(format!("others were started again: {ran:?}, {:?}", daemons(self)))
        } else if rose > 2 {
            Some(format!("it took {rose} views"))
        } else {
            None
        };
        if let Some(what) = fault {
            self.check(broken("L3", what));
        }
    }

    /// Two regroups and two delays after its start, which takes a while: each regroup that lets a node in opens with a
    /// detection time of hearing each other. Who ended badly before waits first.
    fn restarts_within(&self, ends: usize) -> u64 {
        let starts = 600 * MS;
        let back_off = if ends == 0 { 0 } else { SECOND << ends };
        starts + back_off + 2 * self.d() + self.plan.detection_ns() + 2 * self.plan.delay_ns() + self.longest_lease()
    }
}
