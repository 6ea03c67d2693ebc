//! The cluster as the checker sees it: nodes, what is under way, what kernels know of each other, and what may yet go
//! wrong; and what comes of each thing that happens. What may happen is in [`super::moves`]. See [`super`] for what is left
//! out.

use super::bounds::Bounds;
use super::kernel::{Dates, NODES, QUANTUM_MS};
use super::moves::Action;
use super::node::{Cut, Load, Node, Outcome, Step, step};
use super::packet::{Net, Packet};
use super::shared::{Shared, Table, digest};
use super::watch::{Reached, Watch, past};
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::agreement::message::Health;
use heartbeat_user::core::agreement::types::PeerFacts;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::core::time::MonoTime;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Quanta without a round after which a controller is called stalled.
const STALLED: u8 = 2;
/// And after which it is called hung.
pub const HUNG: u8 = 4;

/// What a kernel knows of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Seen {
    /// The newest incarnation.
    pub incarnation: u8,
    /// First quantum of it.
    pub since: u8,
    /// Quantum in which it was last heard; 0: never.
    pub heard: u8,
    /// Since which quantum both hear each other; 0: not now.
    pub both: u8,
    /// Highest incarnation whose fence it acknowledged.
    pub acked: u8,
}

/// What may yet happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Left {
    /// Crashes: of a machine, or of a controller.
    pub crashes: u8,
    /// Of these, in the middle of a step.
    pub cuts: u8,
    /// Starts.
    pub starts: u8,
    /// Disks lost.
    pub disks: u8,
    /// Stalls.
    pub stalls: u8,
    /// Messages that come twice.
    pub doubles: u8,
    /// Deviations from the order in which things happen when nothing is amiss: a message that is held back, a round out
    /// of its turn, a quantum that ends before everything has arrived.
    pub deviations: u8,
    /// Of all these together at most so many.
    pub together: u8,
    /// Quanta.
    pub quanta: u8,
}

impl Left {
    /// Nothing, and no time for it.
    pub const NOTHING: Self =
        Self { crashes: 0, cuts: 0, starts: 0, disks: 0, stalls: 0, doubles: 0, deviations: 0, together: 0, quanta: 0 };

    /// Returns how much it is, each by itself.
    #[must_use]
    pub const fn sum(self) -> u8 {
        self.crashes + self.starts + self.disks + self.stalls + self.doubles + self.deviations
    }

    /// Returns it with so much together, or with all where it is no more.
    #[must_use]
    pub const fn at_most(self, most: u8) -> Self {
        let sum = self.sum();
        Self { together: if most < sum { most } else { sum }, ..self }
    }

    /// Returns what may happen now: where nothing more may together, nothing of each.
    #[must_use]
    pub const fn open(self) -> Self {
        if self.together > 0 { self } else { Self { quanta: self.quanta, ..Self::NOTHING } }
    }
}

/// The state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// The quantum.
    pub now: u8,
    /// All nodes; the first is node 1.
    pub nodes: Vec<Shared<Node>>,
    /// What each kernel has of each other vote.
    pub dates: [Dates; NODES],
    /// What each kernel knows of each peer.
    pub seen: [[Seen; NODES]; NODES],
    /// Quantum of the last round of each controller.
    pub ran: [u8; NODES],
    /// A bit for each node whose controller makes no progress.
    pub stalled: u8,
    /// A bit for each whose next round is late.
    pub late: u8,
    /// What is under way, in no order.
    pub net: Net,
    /// What may yet go wrong.
    pub left: Left,
    /// The record.
    pub watch: Watch,
}

/// What all states have in common.
pub struct World {
    /// How far the check goes.
    pub bounds: Bounds,
    steps: Table<Option<Arc<Outcome>>>,
    nodes: Table<Shared<Node>>,
    /// Nothing happens any more: the time for the check is over.
    pub(super) over: AtomicBool,
}

/// Most steps and nodes remembered: about 10 KiB each.
const STEPS_MAX: usize = 250_000;
const NODES_MAX: usize = 100_000;

impl World {
    /// Makes a world.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, steps: Table::new(STEPS_MAX), nodes: Table::new(NODES_MAX), over: AtomicBool::new(false) }
    }

    /// Lets nothing happen any more, so that the checker comes to its end; or lets everything happen again.
    pub fn stop(&self, over: bool) {
        self.over.store(over, Ordering::Relaxed);
    }

    /// Returns how many steps and nodes are remembered.
    #[must_use]
    pub fn remembered(&self) -> (usize, usize) {
        (self.steps.known(), self.nodes.known())
    }

    fn outcome(&self, state: &Cluster, own: usize, what: &Step, cut: Cut) -> Option<Arc<Outcome>> {
        let (node, dates, now) = (&state.nodes[own], &state.dates[own], state.now);
        let key = digest(&(node.digest(), own, dates, now, what, cut));
        self.steps.get(key, || {
            let mut outcome = step(node, own, state.nodes.len(), dates, now, what, cut)?;
            let same = outcome.node.clone();
            outcome.node = self.nodes.get(same.digest(), || same);
            Some(Arc::new(outcome))
        })
    }

    /// Returns the state after an action; `None`: it changes nothing that it should.
    #[must_use]
    pub fn next(&self, last: &Cluster, action: Action) -> Option<Cluster> {
        let mut state = last.clone();
        let deviates = match action {
            Action::Pass | Action::Round(_) => self.usual(last) != Some(action),
            Action::Hold(_) => true,
            _ => false,
        };
        state.left.deviations -= u8::from(deviates);
        match action {
            Action::Hold(place) => state.net.hold(place),
            Action::Power(own) | Action::Kill(own) => {
                state.left.crashes -= 1;
                let kind = if matches!(action, Action::Power(_)) { Step::Power } else { Step::Kill };
                self.step(&mut state, own, &kind, Cut::Whole)?;
            }
            Action::LoseDisk(own) => {
                state.left.disks -= 1;
                state.watch.past[own] |= past::DISK;
                self.step(&mut state, own, &Step::LoseDisk, Cut::Whole)?;
            }
            Action::Start(own) => {
                state.left.starts -= 1;
                let node = &state.nodes[own];
                state.watch.started(!node.kernel.stopped, node.disk.is_none());
                state.ran[own] = state.now.saturating_sub(1);
                self.step(&mut state, own, &Step::Start, Cut::Whole)?;
            }
            Action::Stall(own) => {
                state.left.stalls -= 1;
                state.stalled |= 1 << own;
            }
            Action::Resume(own) => {
                state.stalled &= !(1 << own);
                if state.ran[own] + 1 < state.now {
                    state.late |= 1 << own;
                    state.watch.reach(Reached::Resumed);
                }
            }
            Action::Pass => {
                state.left.quanta -= 1;
                state.now += 1;
            }
            Action::Round(own) => self.round(&mut state, own, Cut::Whole)?,
            Action::CutRound(own, cut) => self.round(&mut state, own, cut)?,
            Action::Deliver(place) => self.deliver(&mut state, place, Cut::Whole, false)?,
            Action::Double(place) => self.deliver(&mut state, place, Cut::Whole, true)?,
            Action::CutDelivery(place, cut) => self.deliver(&mut state, place, cut, false)?,
        }
        state.left.together -= last.left.sum() - state.left.sum();
        self.exchange(&mut state);
        let Cluster { nodes, dates, stalled, now, watch, .. } = &mut state;
        watch.look(nodes, dates, *stalled, *now);
        Some(state)
    }

    /// Takes a step of a node, and takes in what it leads to.
    pub fn step(&self, state: &mut Cluster, own: usize, what: &Step, cut: Cut) -> Option<()> {
        let outcome = self.outcome(state, own, what, cut)?;
        let before = state.nodes[own].incarnation as u8;
        let (ran, view) = (state.nodes[own].controller.is_some(), state.nodes[own].kernel.view);
        state.nodes[own] = outcome.node.clone();
        for (to, load) in &outcome.sent {
            let to_incarnation = state.nodes[*to].incarnation as u8;
            let fence = matches!(**load, Load::Fence(..));
            // Without a controller there is no connection, and without a machine nobody hears a fence.
            if state.nodes[*to].controller.is_some() || fence && state.nodes[*to].kernel.up {
                let to = (*to as u8, if fence { 0 } else { to_incarnation });
                state.net.send(Packet::new((own as u8, before), to, load.clone()));
            }
        }
        // Connections end with the controller.
        if ran && outcome.node.controller.is_none() {
            state.net.ended(own);
            let kind = if outcome.node.kernel.up { past::KILLED } else { past::POWER };
            state.watch.past[own] |= if outcome.node.kernel.stopped { 0 } else { kind };
            state.stalled &= !(1 << own);
            state.late &= !(1 << own);
            if cut != Cut::Whole {
                state.left.crashes -= 1;
                state.left.cuts -= 1;
                state.watch.past[own] |= past::CUT;
            }
        }
        if !outcome.node.kernel.up {
            state.dates[own] = [0; NODES];
            state.seen[own] = [Seen::default(); NODES];
        }
        // A new bank has no dates.
        if outcome.node.kernel.view != view {
            state.dates[own] = [0; NODES];
        }
        let decided = state.watch.changes();
        state.watch.take(&outcome, state.stalled);
        if state.watch.changes() != decided {
            state.net.decided();
        }
        Some(())
    }

    fn round(&self, state: &mut Cluster, own: usize, cut: Cut) -> Option<()> {
        let facts =
            (0..state.nodes.len()).filter(|peer| *peer != own).map(|peer| self.fact(state, own, peer)).collect();
        let said = |peer: usize| state.nodes[peer].said.clone().filter(|_| peer != own);
        let reports = (0..state.nodes.len()).filter_map(said).collect();
        let late = state.late >> own & 1 == 1;
        state.late &= !(1 << own);
        state.ran[own] = state.now;
        self.step(state, own, &Step::Round { late, facts, reports }, cut)
    }

    fn deliver(&self, state: &mut Cluster, place: usize, cut: Cut, twice: bool) -> Option<()> {
        state.left.doubles -= u8::from(twice);
        let Cluster { net, watch, .. } = &mut *state;
        let packet = net.come(place, twice, watch);
        let (from, to) = (usize::from(packet.from.0), usize::from(packet.to.0));
        let sender = Member { node: NodeId(from as u16 + 1), incarnation: u64::from(packet.from.1) };
        match &*packet.load {
            Load::Message(_) => self.step(state, to, &Step::Deliver(sender, packet.load.clone()), cut),
            Load::Fence(victim, view) => {
                self.step(state, to, &Step::Fence(*victim, view.order), cut)?;
                let there = &state.nodes[to];
                let acked = there.incarnation > victim.incarnation || there.kernel.fenced >= victim.incarnation;
                if acked && state.nodes[from].kernel.up && state.nodes[from].incarnation == sender.incarnation {
                    let seen = &mut state.seen[from][to];
                    seen.acked = seen.acked.max(victim.incarnation as u8);
                }
                Some(())
            }
        }
    }

    /// Kernels hear each other at once, and give and date what grants they can: nobody has a longer lease than so.
    fn exchange(&self, state: &mut Cluster) {
        for a in 0..state.nodes.len() {
            for b in (0..state.nodes.len()).filter(|b| *b != a) {
                let (here, there) = (&state.nodes[a], &state.nodes[b]);
                let seen = &mut state.seen[a][b];
                if !here.kernel.up || !there.kernel.up {
                    seen.both = 0;
                    continue;
                }
                let incarnation = there.incarnation as u8;
                if incarnation > seen.incarnation {
                    *seen = Seen { incarnation, since: state.now, acked: seen.acked, ..Seen::default() };
                }
                seen.heard = state.now;
                if seen.both == 0 {
                    seen.both = state.now;
                }
                let grant = there.kernel.grant_to(there.incarnation, a);
                if grant != 0 && grant == here.kernel.expected[b] {
                    state.dates[a][b] = state.now;
                }
            }
        }
    }

    fn fact(&self, state: &Cluster, own: usize, peer: usize) -> PeerFacts {
        let (seen, there) = (&state.seen[own][peer], &state.nodes[peer]);
        let age = state.now - state.ran[peer];
        let at = |quantum: u8| MonoTime(u64::from(quantum) * QUANTUM_MS * 1_000_000);
        let health = match () {
            () if seen.heard == 0 => Health::Unknown,
            () if seen.heard < state.now => Health::Down,
            () if there.kernel.stopped => Health::Left,
            () if age >= HUNG => Health::Hung,
            () if age >= STALLED => Health::Stalled,
            () => Health::Up,
        };
        PeerFacts {
            node: NodeId(peer as u16 + 1),
            incarnation: u64::from(seen.incarnation),
            incarnation_since: at(seen.since),
            older_heard: MonoTime::ZERO,
            health,
            heard: at(seen.heard),
            both_ways_since: (seen.both != 0).then(|| at(seen.both)),
            controller_age: None,
            generation: 0,
            stopped: there.kernel.up && there.kernel.stopped,
            fence_acked: u64::from(seen.acked),
            gated: true,
            quorate: false,
            accepted: 0,
            answered: 0,
            tried: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nothing_more_may_happen_together_nothing_of_any_kind_may() {
        let left = Left { crashes: 2, cuts: 1, starts: 1, deviations: 1, quanta: 3, ..Left::NOTHING };
        assert_eq!((left.at_most(9).together, left.at_most(3).together), (4, 3), "a cut is a crash");
        assert_eq!(left.at_most(1).open(), left.at_most(1));
        assert_eq!(left.at_most(0).open(), Left { quanta: 3, ..Left::NOTHING });
    }
}
