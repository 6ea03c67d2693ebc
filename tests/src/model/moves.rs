//! What may happen next in a cluster: in the usual order where nothing is amiss, and else whatever the bounds leave. What
//! comes of it is in [`super::cluster`].

use super::cluster::{Cluster, World};
use super::node::{Cut, Load, Node};
use super::packet::Packet;
use super::shared::Shared;
use std::sync::atomic::Ordering;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Time passes.
    Pass,
    /// A round of a controller.
    Round(usize),
    /// A message comes.
    Deliver(usize),
    /// A message is held back: it comes late, out of order, or never.
    Hold(usize),
    /// A message comes, and will come again.
    Double(usize),
    /// A node starts.
    Start(usize),
    /// A stalled controller goes on.
    Resume(usize),
    /// A controller stops making progress.
    Stall(usize),
    /// A disk is lost.
    LoseDisk(usize),
    /// A round is cut off at its first write.
    CutRound(usize, Cut),
    /// So is what a message leads to.
    CutDelivery(usize, Cut),
    /// A machine loses power.
    Power(usize),
    /// A controller dies.
    Kill(usize),
}

/// Why a state is not looked at any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// More is under way than the bounds look at.
    Net,
    /// More views were decided.
    Views,
}

impl World {
    /// Says whether a state is beyond the bounds.
    #[must_use]
    pub fn beyond(&self, state: &Cluster) -> Option<Beyond> {
        let views = (state.watch.changes() > self.bounds.views).then_some(Beyond::Views);
        views.or((state.net.len() > self.bounds.net).then_some(Beyond::Net))
    }

    /// Lists what may happen: the usual first, faults last, which the checker takes up first.
    pub fn actions(&self, state: &Cluster, actions: &mut Vec<Action>) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        let usual = self.usual(state);
        actions.extend(usual);
        let mut others = Vec::new();
        self.harmless(state, &mut others);
        actions.extend(others.into_iter().filter(|action| Some(*action) != usual));
        for own in 0..state.nodes.len() {
            self.faults(state, own, actions);
        }
    }

    /// Returns what happens next when nothing is amiss: whatever is under way arrives, whoever has something to read or
    /// has not run yet runs, and then time passes.
    pub fn usual(&self, state: &Cluster) -> Option<Action> {
        let arrives = state.net.iter().position(|packet| !packet.is_held() && self.deliverable(state, packet));
        let round = || (0..state.nodes.len()).find(|own| self.wants_round(state, *own)).map(Action::Round);
        let pass = || (state.left.quanta > 0).then_some(Action::Pass);
        arrives.map(Action::Deliver).or_else(round).or_else(pass)
    }

    fn awake(&self, state: &Cluster, own: usize) -> bool {
        state.nodes[own].controller.is_some() && state.stalled >> own & 1 == 0
    }

    fn wants_round(&self, state: &Cluster, own: usize) -> bool {
        let news = |peer: &Shared<Node>| peer.said.as_ref().is_some_and(|said| state.nodes[own].has_not_read(said));
        let others = state.nodes.iter().enumerate().filter(|(peer, _)| *peer != own);
        self.awake(state, own) && (state.ran[own] < state.now || others.map(|(_, peer)| peer).any(news))
    }

    /// What is no fault: all of it where deviations are left, else only what was held back.
    fn harmless(&self, state: &Cluster, actions: &mut Vec<Action>) {
        let left = state.left.open();
        let deviates = left.deviations > 0;
        if deviates && left.quanta > 0 && self.all_ran(state) {
            actions.push(Action::Pass);
        }
        if deviates {
            actions.extend((0..state.nodes.len()).filter(|own| self.wants_round(state, *own)).map(Action::Round));
        }
        for (place, packet) in state.net.iter().enumerate().filter(|(_, packet)| self.deliverable(state, packet)) {
            let message = packet.is_message();
            if packet.is_held() {
                actions.push(Action::Deliver(place));
            } else if deviates {
                actions.push(Action::Hold(place));
            }
            if message && left.doubles > 0 {
                actions.push(Action::Double(place));
            }
        }
        for own in 0..state.nodes.len() {
            let runs = state.nodes[own].controller.is_some();
            if left.starts > 0 && !runs {
                actions.push(Action::Start(own));
            }
            if runs && !self.awake(state, own) {
                actions.push(Action::Resume(own));
            }
        }
    }

    fn faults(&self, state: &Cluster, own: usize, actions: &mut Vec<Action>) {
        let (left, node) = (state.left.open(), &state.nodes[own]);
        let awake = self.awake(state, own);
        if left.stalls > 0 && awake {
            actions.push(Action::Stall(own));
        }
        if left.disks > 0 && node.controller.is_none() && node.disk.is_some() {
            actions.push(Action::LoseDisk(own));
        }
        if left.crashes == 0 {
            return;
        }
        if left.cuts > 0 && self.wants_round(state, own) {
            actions.extend([Cut::Power, Cut::Kill].map(|cut| Action::CutRound(own, cut)));
        }
        if left.cuts > 0 && awake {
            let here = |(_, packet): &(usize, &Packet)| {
                let message = packet.is_message();
                usize::from(packet.to.0) == own && message && self.deliverable(state, packet)
            };
            for (place, _) in state.net.iter().enumerate().filter(here) {
                actions.extend([Cut::Power, Cut::Kill].map(|cut| Action::CutDelivery(place, cut)));
            }
        }
        if node.kernel.up && !node.kernel.stopped {
            actions.push(Action::Power(own));
            if node.controller.is_some() {
                actions.push(Action::Kill(own));
            }
        }
    }

    /// Every controller that makes progress has had its round: else it would be stalled.
    fn all_ran(&self, state: &Cluster) -> bool {
        (0..state.nodes.len()).all(|own| !self.awake(state, own) || state.ran[own] == state.now)
    }

    fn deliverable(&self, state: &Cluster, packet: &Packet) -> bool {
        let to = usize::from(packet.to.0);
        match *packet.load {
            // A connection of an incarnation that is no more brings nothing.
            Load::Message(_) => self.awake(state, to) && state.nodes[to].incarnation == u64::from(packet.to.1),
            Load::Fence(..) => state.nodes[to].kernel.up,
        }
    }
}
