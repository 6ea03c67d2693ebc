//! The cluster as the checker sees it: nodes, what is under way, what kernels know of each other, and what may yet go
//! wrong; and what may happen next. See [`super`] for what is left out.

use super::bounds::Bounds;
use super::kernel::{Dates, NODES, QUANTUM_MS};
use super::node::{Cut, Load, Node, Outcome, Step, step};
use super::shared::{Shared, Table, digest};
use super::watch::{Reached, Watch, past};
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::agreement::message::Health;
use heartbeat_user::core::agreement::types::PeerFacts;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::core::time::MonoTime;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Quanta without a round after which a controller is called stalled, and hung.
const STALLED: u8 = 2;
const HUNG: u8 = 4;

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

/// A message, or a fence, under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Node and incarnation that sent it.
    pub from: (u8, u8),
    /// Node and incarnation that it is for: a connection is between two of them.
    pub to: (u8, u8),
    /// What.
    pub load: Shared<Load>,
    /// It comes whenever it likes, or never.
    pub held: bool,
}

impl Packet {
    fn key(&self) -> (u128, (u8, u8), (u8, u8)) {
        (self.load.digest(), self.from, self.to)
    }
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
    /// Quanta.
    pub quanta: u8,
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
    pub net: Vec<Packet>,
    /// What may yet go wrong.
    pub left: Left,
    /// The record.
    pub watch: Watch,
}

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

/// What all states have in common.
pub struct World {
    /// How far the check goes.
    pub bounds: Bounds,
    steps: Table<Option<Arc<Outcome>>>,
    nodes: Table<Shared<Node>>,
    /// Nothing happens any more: the time for the check is over.
    over: AtomicBool,
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
        let arrives = state.net.iter().position(|packet| !packet.held && self.deliverable(state, packet));
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
        let left = &state.left;
        let deviates = left.deviations > 0;
        if deviates && left.quanta > 0 && self.all_ran(state) {
            actions.push(Action::Pass);
        }
        if deviates {
            actions.extend((0..state.nodes.len()).filter(|own| self.wants_round(state, *own)).map(Action::Round));
        }
        for (place, packet) in state.net.iter().enumerate().filter(|(_, packet)| self.deliverable(state, packet)) {
            let message = matches!(*packet.load, Load::Message(_));
            if packet.held {
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
        let (left, node) = (&state.left, &state.nodes[own]);
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
                let message = matches!(*packet.load, Load::Message(_));
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
            Action::Hold(place) => state.net[place].held = true,
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
                state.ran[own] = state.now.saturating_sub(1);
                self.step(&mut state, own, &Step::Start, Cut::Whole)?;
            }
            Action::Stall(own) => {
                state.left.stalls -= 1;
                state.stalled |= 1 << own;
            }
            Action::Resume(own) => {
                state.stalled &= !(1 << own);
                state.late |= u8::from(state.ran[own] + 1 < state.now) << own;
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
                let packet = Packet { from: (own as u8, before), to, load: load.clone(), held: false };
                if let Err(place) = state.net.binary_search_by_key(&packet.key(), Packet::key) {
                    state.net.insert(place, packet);
                }
            }
        }
        // Connections end with the controller.
        if ran && outcome.node.controller.is_none() {
            let gone = own as u8;
            state.net.retain(|packet| packet.to.0 != gone || matches!(*packet.load, Load::Fence(..)));
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
        state.watch.take(&outcome, state.stalled);
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
        let packet = state.net[place].clone();
        if twice {
            state.left.doubles -= 1;
            state.watch.reach(Reached::Doubled);
        } else {
            state.net.remove(place);
        }
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
            stopped: there.kernel.up && there.kernel.stopped,
            fence_acked: u64::from(seen.acked),
            gated: true,
            quorate: false,
        }
    }
}
