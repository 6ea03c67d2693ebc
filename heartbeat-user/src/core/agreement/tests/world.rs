//! A cluster in memory: messages in a queue, disks as states, kernels that give grants and date them, time that passes
//! when it is told to. Loss, cuts, stalls and crashes are the test's. What may never happen is looked for at each step.

mod carry;
mod kernel;

use crate::core::agreement::document::{Document, Member, QuorumTerms};
use crate::core::agreement::message::Message;
use crate::core::agreement::types::{
    Adopted, Command, Configured, Ending, Input, Outcome, PageView, QuarantineTerms, Request, Setup, Standing, Times,
    Timing,
};
use crate::core::agreement::voter::State;
use crate::core::agreement::{Agreement, AgreementEvent, Life};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::{Refused, Token};
use heartbeat_common::view::{Order, VoteId};
use kernel::{Kernel, Seen};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// One round of everybody, ms; also the way of a message.
pub const ROUND: u64 = 10;
pub const DETECTION: u64 = 500;
pub const LEASE: u64 = 500;

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub incarnation: u64,
    pub generation: u32,
    pub agreement: Option<Agreement>,
    pub disk: Option<Vec<u8>>,
    /// What is being written, and until when.
    writes: VecDeque<(u64, State)>,
    /// Writes do not return.
    pub disk_hangs: bool,
    /// The next write fails.
    pub disk_fails: bool,
    /// Its controller is killed once a view of this order is on its disk, and before it knows that.
    pub dies_with: Option<Order>,
    pub kernel: Kernel,
    pub stalled_since: Option<u64>,
    /// It acted when its controller last looked.
    pub acted: bool,
    /// The newest probe that it tried to send.
    pub tried: u64,
    /// Its controller began a moment ago, and has no answer to what it asked before this.
    answered_from: u64,
    pub events: Vec<AgreementEvent>,
    pub log: Vec<Command>,
    pub ended: Option<Ending>,
    /// What its frames do not say yet.
    standing_due: Option<Standing>,
    seen: BTreeMap<u16, Seen>,
}

pub struct World {
    pub now: u64,
    pub nodes: BTreeMap<u16, Node>,
    queue: VecDeque<(u64, Member, u16, Message)>,
    /// Frames from the one do not reach the other.
    pub deaf: BTreeSet<(u16, u16)>,
    /// Messages from the one do not reach the other.
    pub mute: BTreeSet<(u16, u16)>,
    /// Messages that are lost by their content.
    pub lose: fn(&Message, u16, u16) -> bool,
    /// Every document ever installed, by order.
    pub views: BTreeMap<Order, Document>,
    pub dynamic: bool,
    pub gated: bool,
    /// No fence arrives anywhere.
    pub no_fences: bool,
    /// After how long without progress a controller counts as stalled, ms.
    pub stall_limit: u64,
    /// How long a quarantine lasts.
    pub quarantine: Duration,
    /// Controllers that start find that their machines slept since their page's bank was made.
    pub slept: bool,
    /// Frames go on as they are, until [`Self::change_frames`].
    pub frames_wait: bool,
    /// Whoever starts only joins.
    pub join_only: BTreeSet<u16>,
}

impl World {
    pub fn new(nodes: u16) -> Self {
        let nodes = (1..=nodes).map(|node| (node, Node::default())).collect();
        Self {
            now: 1_000,
            nodes,
            queue: VecDeque::new(),
            deaf: BTreeSet::new(),
            mute: BTreeSet::new(),
            lose: |_, _, _| false,
            views: BTreeMap::new(),
            dynamic: true,
            gated: false,
            no_fences: false,
            stall_limit: 300,
            quarantine: Duration::from_secs(7_200),
            slept: false,
            frames_wait: false,
            join_only: BTreeSet::new(),
        }
    }

    /// A cluster of so many nodes, all of them members, that act.
    pub fn formed(nodes: u16) -> Self {
        let mut world = Self::new(nodes);
        world.form();
        world
    }

    /// Three nodes, of which the third was cut off and left out; the others have lost their power since, and it was just
    /// told to go on alone.
    pub fn forced() -> Self {
        let mut world = Self::formed(3);
        world.split(&[3]);
        world.run_until(5_000, |world| world.settled(2));
        world.crash(1);
        world.crash(2);
        world.run(600);
        world.request(3, 1, Request::Force);
        world
    }

    /// Starts all nodes, creates the cluster, and waits until all are members that act.
    pub fn form(&mut self) {
        let nodes = self.nodes.len() as u16;
        for node in 1..=nodes {
            self.start(node);
        }
        self.request(1, 1, Request::Init { instance: [7, 7] });
        self.run_until(20_000, |world| world.settled(nodes));
    }

    /// All of 1 to `nodes` are members of one view that is in force, and act.
    pub fn settled(&self, nodes: u16) -> bool {
        (1..=nodes).all(|node| {
            let Some(agreement) = &self.nodes[&node].agreement else { return false };
            let status = agreement.status();
            let view = status.view.as_ref().map(|view| (view.members.len(), view.order));
            let first = self.nodes[&1].agreement.as_ref().and_then(|one| one.status().view).map(|view| view.order);
            view.is_some_and(|(members, order)| {
                members == usize::from(nodes) && status.in_force == order && Some(order) == first
            }) && self.acting(node).is_ok()
        })
    }

    pub fn setup(&self, node: u16) -> Setup {
        let this = &self.nodes[&node];
        let configured = self.nodes.keys().map(|node| Configured { node: NodeId(*node), weight: 1 }).collect();
        Setup {
            own: Member { node: NodeId(node), incarnation: this.incarnation },
            generation: this.generation,
            configured,
            settings: 5,
            lease_ms: LEASE as u32,
            stop_ms: 0,
            quorum: QuorumTerms { dynamic: self.dynamic, lower_priority: None },
            timing: Timing {
                tick: Duration::from_millis(50),
                opening: Duration::from_millis(500),
                stage: Duration::from_millis(500),
                pruning: Duration::from_millis(500),
                control_limit: Duration::from_millis(1_000),
                hang: Duration::from_secs(10),
                detection: Duration::from_millis(DETECTION),
                delay: Duration::from_millis(100),
                leave: Duration::from_secs(5),
            },
            quarantine: QuarantineTerms { threshold: 3, duration: self.quarantine },
            own_ends: 0,
            join_only: self.join_only.contains(&node),
            fresh_vote: VoteId([u64::from(node), self.now]),
            remembered: 0,
            seed: u64::from(node) * 77,
        }
    }

    /// Starts a node under a new incarnation, with what its disk holds.
    pub fn start(&mut self, node: u16) {
        let now = self.now;
        let this = self.nodes.get_mut(&node).unwrap();
        this.incarnation += 10;
        this.generation = 0;
        this.kernel = Kernel { up: true, ..Kernel::default() };
        this.stalled_since = None;
        this.ended = None;
        this.seen.clear();
        self.boot(node, None, now);
    }

    /// Starts a node's controller anew, under the incarnation and with the page that are there.
    pub fn restart_controller(&mut self, node: u16) {
        let this = self.nodes.get_mut(&node).unwrap();
        this.generation += 1;
        this.stalled_since = None;
        this.answered_from = self.now + 100;
        this.seen.values_mut().for_each(|seen| seen.both_since = None);
        let kernel = &this.kernel;
        let bank = kernel.bank.as_ref().map_or((0, 0), |bank| (bank.view.order.0, bank.view.digest[0]));
        let member = kernel.bank.as_ref().is_some_and(|bank| bank.member);
        let (in_force, cleared) = (kernel.in_force, kernel.cleared);
        let adopted = Adopted { bank, in_force, cleared, member, slept: self.slept, acting: this.acted };
        self.boot(node, Some(adopted), self.now);
    }

    fn boot(&mut self, node: u16, adopted: Option<Adopted>, now: u64) {
        let setup = self.setup(node);
        let this = self.nodes.get_mut(&node).unwrap();
        this.writes.clear();
        let agreement = match &this.disk {
            Some(bytes) => {
                let state: State = borsh::from_slice(bytes).unwrap();
                state.check().unwrap();
                Agreement::resume(setup, state, adopted, times(now))
            }
            None => Agreement::new(setup, times(now)),
        };
        this.agreement = Some(agreement);
        self.carry_out(node);
    }

    /// A node's controller dies; its kernel answers on.
    pub fn kill_controller(&mut self, node: u16) {
        let now = self.now;
        let this = self.nodes.get_mut(&node).unwrap();
        this.agreement = None;
        this.writes.clear();
        this.stalled_since = Some(now);
    }

    /// A node loses power.
    pub fn crash(&mut self, node: u16) {
        let this = self.nodes.get_mut(&node).unwrap();
        this.agreement = None;
        this.writes.clear();
        this.kernel = Kernel::default();
    }

    /// A node goes on as it was then: memory, disk and kernel.
    pub fn restore(&mut self, node: u16, then: Node) {
        self.nodes.insert(node, then);
    }

    /// What a node's disk held is gone.
    pub fn lose_disk(&mut self, node: u16) {
        self.nodes.get_mut(&node).unwrap().disk = None;
    }

    /// Its controller stops making progress, or goes on.
    pub fn stall(&mut self, node: u16, stalled: bool) {
        let now = self.now;
        self.nodes.get_mut(&node).unwrap().stalled_since = stalled.then_some(now);
    }

    /// Nothing passes between these and the others.
    pub fn split(&mut self, side: &[u16]) {
        let nodes: Vec<u16> = self.nodes.keys().copied().collect();
        for a in &nodes {
            for b in nodes.iter().filter(|b| side.contains(a) != side.contains(b)) {
                self.deaf.insert((*a, *b));
                self.mute.insert((*a, *b));
            }
        }
    }

    pub fn heal(&mut self) {
        self.deaf.clear();
        self.mute.clear();
    }

    pub fn acting(&self, node: u16) -> Result<Token, Refused> {
        let this = &self.nodes[&node];
        this.kernel.acting(this.incarnation, self.now)
    }

    pub fn life(&self, node: u16) -> Option<Life> {
        self.nodes[&node].agreement.as_ref().map(|agreement| agreement.status().life)
    }

    pub fn view(&self, node: u16) -> Document {
        self.nodes[&node].agreement.as_ref().unwrap().status().view.unwrap()
    }

    pub fn members(&self, node: u16) -> Vec<u16> {
        self.view(node).members.iter().map(|member| member.node.0).collect()
    }

    pub fn member(&self, node: u16) -> Member {
        Member { node: NodeId(node), incarnation: self.nodes[&node].incarnation }
    }

    pub fn request(&mut self, node: u16, number: u64, request: Request) {
        self.input(node, Input::Request(number, request));
    }

    pub fn outcome(&self, node: u16, number: u64) -> Option<Outcome> {
        self.nodes[&node].log.iter().find_map(|command| match command {
            Command::Answer(answered, outcome) if *answered == number => Some(outcome.clone()),
            _ => None,
        })
    }

    /// Lets so many ms pass.
    pub fn run(&mut self, ms: u64) {
        for _ in 0..ms / ROUND {
            self.round();
        }
    }

    /// Lets time pass until it is so; fails after so many ms.
    pub fn run_until(&mut self, ms: u64, so: impl Fn(&Self) -> bool) -> u64 {
        let start = self.now;
        while !so(self) {
            assert!(self.now < start + ms, "not so after {ms} ms: {}", self.describe());
            self.round();
        }
        self.now - start
    }

    pub fn describe(&self) -> String {
        let line = |(node, this): (&u16, &Node)| {
            let status = this.agreement.as_ref().map(Agreement::status);
            let short = status.map(|status| {
                let view = status.view.map(|view| (view.order, view.members, view.owed));
                (status.life, status.stage, status.turn, status.waits_for, status.in_force, view)
            });
            let last: Vec<_> = this.events.iter().rev().take(6).collect();
            format!("\n{node}: {short:?} acting {:?}\n  {last:?}", self.acting(*node))
        };
        self.nodes.iter().map(line).collect()
    }

    fn round(&mut self) {
        self.now += ROUND;
        self.deliver();
        self.exchange();
        let nodes: Vec<u16> = self.nodes.keys().copied().collect();
        for node in nodes {
            if self.nodes[&node].stalled_since.is_some() || self.nodes[&node].agreement.is_none() {
                continue;
            }
            self.write(node);
            self.nodes.get_mut(&node).unwrap().tried += 2;
            let facts = self.facts(node);
            self.input(node, Input::Facts(facts));
            let this = &self.nodes[&node];
            let acting = this.kernel.acting(this.incarnation, self.now);
            self.nodes.get_mut(&node).unwrap().acted = acting.is_ok();
            let this = &self.nodes[&node];
            self.input(
                node,
                Input::Page(PageView {
                    acting,
                    lease_until_ns: this.kernel.lease_until().saturating_mul(1_000_000),
                    fenced: this.kernel.fenced,
                    fenced_by: None,
                    fenced_at: MonoTime::ZERO,
                }),
            );
        }
        self.check();
    }

    /// Whoever acts under a token is a member of every view, not older, under which somebody acts; one order has one view.
    fn check(&self) {
        let acting: Vec<(u16, Token)> =
            self.nodes.keys().filter_map(|node| Some((*node, self.acting(*node).ok()?))).collect();
        for (a, one) in &acting {
            for (b, other) in acting.iter().filter(|(_, other)| other.order >= one.order) {
                let view = &self.views[&Order(other.order)];
                let inside = view.incarnation_of(NodeId(*a)) == Some(one.incarnation);
                assert!(inside, "{a} acts in {one:?} and {b} in {other:?}: {}", self.describe());
            }
        }
        for this in self.nodes.values() {
            let held = this.agreement.as_ref().and_then(|agreement| agreement.status().view);
            if let Some(view) = held.filter(|view| view.order.force() == 0) {
                assert_eq!(self.views.get(&view.order), Some(&view), "two views of one order");
            }
        }
    }
}

const fn ms(ms: u64) -> MonoTime {
    MonoTime(ms * 1_000_000)
}

pub fn times(now: u64) -> Times {
    Times { mono: ms(now), boot_ns: now * 1_000_000, raw_ns: now * 1_000_000 }
}
