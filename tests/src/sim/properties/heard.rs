//! What nodes believe of each other, held against what the wires really brought and what really ran: accusations, their
//! time, and controllers that do not run.

use crate::sim::clock::MS;
use crate::sim::faults;
use crate::sim::ghost::broken;
use crate::sim::plan;
use crate::sim::rules::Rule;
use crate::sim::stats::Count;
use crate::sim::world::World;
use heartbeat_common::frame;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::core::node::{Node, Verdict};

/// A peer that was called Down while somebody watched for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accusation {
    /// By whom.
    pub by: usize,
    /// Whom.
    pub peer: usize,
    /// After how long a silence, by its own clock, ns.
    pub silent: u64,
}

impl World {
    /// When a node last heard a peer on any path, by its own CLOCK_MONOTONIC; 0: never.
    fn heard_at(&self, place: usize, peer: usize) -> u64 {
        let newest = |network| self.nodes[place].kernel.ticks[self.plan.path_to(place, peer, network)].heard_ns.get();
        (0..self.plan.networks).map(newest).max().unwrap_or(0)
    }

    /// Says whether a node's daemon has run in time for so long that its verdicts are.
    fn in_time(&self, place: usize) -> bool {
        let node = &self.nodes[place];
        let Some(process) = &node.process else { return false };
        let mono = node.clock.mono(self.now);
        let since = |at: u64| at == 0 || mono.saturating_sub(at) >= 3 * self.plan.detection_ns();
        // Who sends nothing counts no miss, and knows nothing of a time in which its machine slept.
        let asks = mono <= process.pacer.due + self.plan.delay_ns();
        asks && since(process.began) && since(process.late_at) && since(node.gap.woke) && since(node.gap.resumed)
    }

    /// Returns how long a timely observer takes to call a silent peer Down: the detection time, one delay of phase, the way
    /// there and back, and a round of its controller.
    #[must_use]
    pub fn verdict_within(&self) -> u64 {
        let round = self.plan.delay_ns() / 2;
        self.plan.detection_ns() + self.plan.delay_ns() + round + 2 * MS
    }

    /// A detector calls a peer Down: it was silent for the detection time, by its own clock, and not for much longer.
    pub fn accused(&mut self, place: usize, peer: usize) {
        let known =
            |network| self.nodes[place].kernel.ticks[self.plan.path_to(place, peer, network)].peer_incarnation.get();
        let incarnation = (0..self.plan.networks).map(known).max().unwrap_or(0);
        self.ghost.accuse(place, peer, incarnation);
        self.ghost.judged.add(Rule::S7);
        let heard = self.heard_at(place, peer);
        let silent = self.nodes[place].clock.mono(self.now).saturating_sub(heard);
        if heard != 0 && silent < self.plan.detection_ns() {
            self.check(broken("S7", format!("{} was accused after {silent} ns of silence", plan::name(peer))));
        }
        // A newer incarnation is accused for its own silence, which begins with its start; and what a thread reads that stops
        // while it signs is sent late, without a word of that.
        let began = self.nodes[peer].started;
        let since = self.now.saturating_sub(silent);
        let same = began != 0 && since > began;
        // The end of the faults does not end a silence in which that was.
        let sends =
            !self.player.has(faults::SIGNING) || self.player.over && !self.nodes[place].signed_late_since(since);
        if heard != 0 && same && self.in_time(place) && sends {
            self.ghost.judged.add(Rule::L1);
            if silent > self.verdict_within() {
                self.check(broken("L1", format!("{} was accused only after {silent} ns", plan::name(peer))));
            }
        }
        self.accusations.push(Accusation { by: place, peer, silent });
        self.cut_off_first(place);
    }

    /// "If every peer falls silent on every path at once, 'I am cut off' is said first."
    fn cut_off_first(&mut self, place: usize) {
        let node = &self.nodes[place];
        let Some(process) = &node.process else { return };
        let mono = node.clock.mono(self.now);
        let silent = |(id, judged): (NodeId, &Node)| {
            let heard = self.heard_at(place, plan::place(id));
            let watched = heard >= process.began && judged.verdict() != Verdict::Left;
            watched && mono.saturating_sub(heard) >= self.plan.detection_ns()
        };
        // Who ran late itself does not take for silence what it was not there to hear.
        let late = process.late_at != 0 && mono - process.late_at < 2 * self.plan.detection_ns();
        // A frame of an earlier life that is played again counts as heard to the kernel, and to no controller.
        let again = |at: &u64| *at != 0 && self.now <= *at + 2 * self.plan.detection_ns();
        if late || node.replayed.iter().any(again) || !process.controller.nodes().all(silent) {
            return;
        }
        let told = process.told_isolated;
        self.ghost.judged.add(Rule::L8);
        if !told {
            self.check(broken("L8", format!("{} hears nobody, and did not say that it is cut off", plan::name(place))));
        }
    }

    /// Returns how long ago a node's controller last made a round, by its machine's own clock, ns.
    #[must_use]
    pub fn true_age(&self, place: usize) -> u64 {
        self.nodes[place].clock.mono(self.now).saturating_sub(self.nodes[place].ran)
    }

    /// A kernel answers: what it says of its controller's age is not less than it is.
    pub fn answers(&mut self, place: usize, dynamic: u64) {
        let Some(said) = frame::age_ns(dynamic) else { return };
        self.ghost.judged.add(Rule::S8);
        let age = self.true_age(place);
        if said + (1 << frame::AGE_SHIFT) < age {
            let what = format!("{} makes its controller {said} ns old, which is {age} ns old", plan::name(place));
            self.check(broken("S8", what));
        }
    }

    /// What a node believes of its peers after a round: nobody is up whose controller hangs.
    pub fn believes(&mut self, place: usize) {
        // Who holds a frame back that never arrived, and plays it later, makes its author as young as it was then.
        if self.player.has(faults::REPLAY) && !self.player.over {
            return;
        }
        // What was on its way as the controller stopped, and what is still believed of it.
        let slack = 2 * self.plan.detection_ns() + 2 * self.net.worst_ns + self.plan.delay_ns();
        let (stall, hang) = (self.plan.stall_limit.as_nanos() as u64, self.plan.hang_limit.as_nanos() as u64);
        let stopped = |world: &Self, peer: usize| {
            let age = world.true_age(peer);
            world.nodes[peer].up && world.nodes[peer].clock.runs() && age > stall + slack
        };
        if !(0..self.plan.nodes).any(|peer| peer != place && stopped(self, peer)) || !self.in_time(place) {
            return;
        }
        let Some(process) = &self.nodes[place].process else { return };
        let verdicts: Vec<(usize, Verdict)> =
            process.controller.nodes().map(|(id, judged)| (plan::place(id), judged.verdict())).collect();
        for (peer, verdict) in verdicts {
            // A frame played before the faults were over may arrive after that, and is believed for as long as any other.
            // So is one of a time that a snapshot has taken back.
            let last = self.nodes[place].replayed[peer].max(self.nodes[peer].restored_at);
            if !stopped(self, peer) || last != 0 && self.now <= last + slack {
                continue;
            }
            let age = self.true_age(peer);
            self.ghost.judged.add(Rule::S8);
            self.stats.add(Count::ZombiesSeen);
            if verdict == Verdict::Up || verdict == Verdict::Stalled && age > hang + slack {
                let what = format!("{} is {verdict:?}, and its controller {age} ns old", plan::name(peer));
                self.check(broken("S8", what));
            }
        }
    }
}
