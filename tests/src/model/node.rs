//! One node: the shipping agreement, its disk and its kernel, and what a step of it comes to. It knows no other node;
//! what it sends and what it did to its disk are handed back.

use super::cluster::HUNG;
use super::kernel::{Dates, Kernel, LEASE_MS, NODES, QUANTUM_MS, index};
use super::shared::Shared;
use heartbeat_common::lease::{Refused, Token};
use heartbeat_common::view::{Name, Order, VoteId};
use heartbeat_user::core::agreement::document::{Document, Member, QuorumTerms};
use heartbeat_user::core::agreement::message::{Message, Report};
use heartbeat_user::core::agreement::types::{
    Adopted, Command, Configured, Ending, Input, PageView, PeerFacts, QuarantineTerms, Request, Setup, Times, Timing,
};
use heartbeat_user::core::agreement::voter::State;
use heartbeat_user::core::agreement::{Agreement, mark};
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::core::time::MonoTime;
use std::collections::VecDeque;
use std::time::Duration;

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Node {
    /// Its incarnation.
    pub incarnation: u64,
    /// Which controller of it this is.
    pub generation: u32,
    /// How often a controller was started: vote ids are made of it.
    starts: u64,
    /// The controller; none: it does not run.
    pub controller: Option<Agreement>,
    /// What is durable.
    pub disk: Option<State>,
    /// The kernel.
    pub kernel: Kernel,
    /// The newest report that left.
    pub said: Option<Shared<Report>>,
    /// Incarnation and serial of the newest report heard of each node.
    heard: [(u64, u64); NODES],
}

impl Node {
    /// Says whether a report is newer than what this node has read of its author.
    #[must_use]
    pub fn has_not_read(&self, report: &Report) -> bool {
        (report.author.incarnation, report.serial) > self.heard[index(report.author.node.0)]
    }
}

/// What is under way to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Load {
    /// A message between controllers, other than a report.
    Message(Message),
    /// A fence, of a decided view.
    Fence(Member, Name),
}

/// What happens to a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// A round of its loop: it looks at its ticks, reads the newest reports, looks at its page.
    Round {
        /// It did not run for a while.
        late: bool,
        /// What ticks and detector say.
        facts: Vec<PeerFacts>,
        /// The newest report of each peer.
        reports: Vec<Shared<Report>>,
    },
    /// A message comes.
    Deliver(Member, Shared<Load>),
    /// A fence comes to its kernel.
    Fence(Member, Order),
    /// Its machine loses power.
    Power,
    /// Its controller dies; the kernel goes on.
    Kill,
    /// Its disk is lost, while it is down.
    LoseDisk,
    /// It starts: with its page where the kernel and the disk are still there, else under a new incarnation.
    Start,
    /// Somebody asks.
    Request(Request),
}

/// How a step is cut off by a crash, before its first write is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cut {
    /// It is not.
    Whole,
    /// The machine loses power.
    Power,
    /// The controller dies.
    Kill,
}

/// A rule that a step broke by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A promise was answered that the disk does not hold.
    Promise,
    /// An acceptance was answered that the disk does not hold.
    Acceptance,
    /// A value was proposed under an attempt that the own disk has not promised.
    Proposal,
    /// An acceptance was asked to be written while grants were going out.
    Grants,
    /// A bank was made of a view that is not on disk.
    Bank,
    /// The state to be written does not fit together.
    State,
}

/// What a step came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The node after it.
    pub node: Shared<Node>,
    /// What it sent, but for reports.
    pub sent: Vec<(usize, Shared<Load>)>,
    /// Views that came to be installed on its disk, under its vote.
    pub installed: Vec<(VoteId, Shared<Document>)>,
    /// Acceptances that came to be on its disk: by which vote, upon which view, of which document.
    pub accepted: Vec<(VoteId, Name, Name)>,
    /// The rule that it broke.
    pub fault: Option<Fault>,
}

/// A node whose step is going on.
struct Run<'a> {
    node: Node,
    own: u16,
    nodes: usize,
    dates: &'a Dates,
    now: u8,
    cut: Cut,
    /// The crash came.
    over: bool,
    outcome: Outcome,
    later: VecDeque<Input>,
    writes: VecDeque<State>,
}

/// Takes a step of node `own` of `nodes` at quantum `now`, whose kernel has `dates`. `None`: there is nothing to cut.
#[must_use]
pub fn step(
    node: &Shared<Node>,
    own: usize,
    nodes: usize,
    dates: &Dates,
    now: u8,
    step: &Step,
    cut: Cut,
) -> Option<Outcome> {
    let outcome =
        Outcome { node: node.clone(), sent: Vec::new(), installed: Vec::new(), accepted: Vec::new(), fault: None };
    let mut run = Run {
        node: Node::clone(node),
        own: own as u16 + 1,
        nodes,
        dates,
        now,
        cut,
        over: false,
        outcome,
        later: VecDeque::new(),
        writes: VecDeque::new(),
    };
    run.step(step);
    if cut != Cut::Whole && !run.over {
        return None;
    }
    run.outcome.node = Shared::new(run.node);
    Some(run.outcome)
}

impl Run<'_> {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Round { late, facts, reports } => {
                if *late {
                    self.feed(Input::Late);
                }
                self.feed(Input::Facts(facts.clone()));
                for report in reports {
                    self.hear(report);
                }
                let acting = self.node.kernel.acting(self.node.incarnation, self.dates, self.now);
                let acting = acting.map(|order| Token { order: order.0, incarnation: self.node.incarnation });
                let fenced = self.node.kernel.fenced;
                self.feed(Input::Page(PageView {
                    acting,
                    lease_until_ns: 0,
                    fenced,
                    fenced_by: None,
                    fenced_at: MonoTime::ZERO,
                }));
                self.feed(Input::Tick);
            }
            Step::Deliver(from, load) => {
                if let Load::Message(message) = &**load {
                    self.feed(Input::Message(*from, Box::new(message.clone())));
                }
            }
            Step::Fence(victim, order) => {
                self.node.kernel.fence(self.node.incarnation, victim.incarnation, *order);
            }
            Step::Power => self.crash(Cut::Power),
            Step::Kill => self.crash(Cut::Kill),
            Step::LoseDisk => self.node.disk = None,
            Step::Start => self.start(),
            Step::Request(request) => self.feed(Input::Request(1, request.clone())),
        }
    }

    fn hear(&mut self, report: &Report) {
        if self.node.has_not_read(report) {
            self.node.heard[index(report.author.node.0)] = (report.author.incarnation, report.serial);
            self.feed(Input::Message(report.author, Box::new(Message::Report(Box::new(report.clone())))));
        }
    }

    fn crash(&mut self, kind: Cut) {
        self.node.controller = None;
        self.node.said = None;
        self.node.heard = [(0, 0); NODES];
        if kind == Cut::Power {
            self.node.kernel = Kernel::default();
        }
    }

    fn times(&self) -> Times {
        let ns = u64::from(self.now) * QUANTUM_MS * 1_000_000;
        Times { mono: MonoTime(ns), boot_ns: ns, raw_ns: ns }
    }

    fn start(&mut self) {
        self.node.starts += 1;
        let kernel = &self.node.kernel;
        let adopts = kernel.up && !kernel.stopped && self.node.disk.is_some() && self.node.incarnation != 0;
        let adopted = adopts.then(|| Adopted {
            bank: (kernel.view.order.0, kernel.view.digest[0]),
            in_force: kernel.in_force,
            cleared: kernel.cleared,
            member: kernel.member,
            slept: false,
            acting: false,
        });
        if adopts {
            self.node.generation += 1;
        } else {
            // Without a page or without its disk it comes back as a newer incarnation; how far it was fenced is kept
            // where the kernel ran on.
            let fenced = if kernel.up { kernel.fenced } else { 0 };
            self.node.incarnation += 1;
            self.node.generation = 0;
            self.node.kernel = Kernel { up: true, fenced, ..Kernel::default() };
        }
        let setup = setup(self.own, self.nodes, &self.node);
        let times = self.times();
        self.node.controller = Some(match self.node.disk.clone() {
            Some(state) => Agreement::resume(setup, state, adopted, times),
            None => Agreement::new(setup, times),
        });
        self.carry_out();
    }

    fn feed(&mut self, input: Input) {
        self.later.push_back(input);
        while let Some(input) = self.later.pop_front() {
            let times = self.times();
            let Some(controller) = &mut self.node.controller else { return };
            controller.handle(input, times);
            self.carry_out();
        }
    }

    /// Carries out commands in their order; what is to be written is durable once they are, and reported then.
    fn carry_out(&mut self) {
        while let Some(controller) = &mut self.node.controller {
            while controller.poll_event().is_some() {}
            if let Some(command) = controller.poll_command() {
                self.one(command);
            } else if let Some(state) = self.writes.pop_front() {
                self.durable(state);
            } else {
                return;
            }
        }
        // It ended, or the crash came.
        self.later.clear();
        self.writes.clear();
    }

    fn one(&mut self, command: Command) {
        let kernel = &mut self.node.kernel;
        match command {
            Command::Send(to, message) => self.send(to, *message),
            Command::Write(state) => self.write(*state),
            Command::ClearGrants(mark) => kernel.clear(mark, self.now),
            Command::Install(bank) => {
                kernel.install(&bank, self.dates, self.now);
                if self.node.disk.as_ref().is_none_or(|disk| disk.register.view != bank.view) {
                    self.outcome.fault = Some(Fault::Bank);
                }
            }
            Command::SetGranting(mark) => {
                if kernel.fenced < self.node.incarnation && kernel.own_mark == mark && kernel.cleared != mark {
                    kernel.granting = mark;
                }
            }
            Command::InForce(order) => kernel.in_force = order,
            Command::Hold(bits) => kernel.hold = bits,
            Command::Standing(standing) => {
                kernel.say(&standing);
                self.later.push_back(Input::StandingDone(standing.view.order));
            }
            Command::Fence(victim, view) => {
                let to = index(victim.node.0);
                self.outcome.sent.push((to, Shared::new(Load::Fence(victim, view))));
            }
            Command::StopServices => self.later.push_back(Input::ServicesStopped),
            Command::Exit(ending) => self.exit(ending),
            Command::Burst | Command::Answer(..) => {}
        }
    }

    fn exit(&mut self, _: Ending) {
        self.node.controller = None;
        self.node.said = None;
        self.node.heard = [(0, 0); NODES];
        self.node.kernel.stopped = true;
        self.node.kernel.granting = 0;
    }

    fn send(&mut self, to: NodeId, message: Message) {
        self.check(&message);
        match message {
            // It goes to all alike. What it passes on of others is lost.
            Message::Report(report) if report.author.node.0 == self.own => {
                if self.node.said.as_ref().is_none_or(|said| **said != *report) {
                    self.node.said = Some(Shared::new(*report));
                }
            }
            Message::Report(_) => {}
            message => self.outcome.sent.push((index(to.0), Shared::new(Load::Message(message)))),
        }
    }

    /// Nothing is answered or proposed that the own disk does not hold.
    fn check(&mut self, message: &Message) {
        let disk = self.node.disk.as_ref().map(|disk| disk.register);
        let on_disk = |view: &Name| disk.filter(|register| register.view == *view);
        let fault = match message {
            Message::Promised { view, ballot, .. } => {
                on_disk(view).is_none_or(|register| register.promised < *ballot).then_some(Fault::Promise)
            }
            Message::Accepted { view, ballot, .. } => {
                on_disk(view).is_none_or(|register| register.accepted < *ballot).then_some(Fault::Acceptance)
            }
            Message::Accept { view, ballot, .. } => {
                on_disk(view).is_none_or(|register| register.promised < *ballot).then_some(Fault::Proposal)
            }
            _ => None,
        };
        self.outcome.fault = self.outcome.fault.or(fault);
    }

    fn write(&mut self, state: State) {
        if state.check().is_err() {
            self.outcome.fault = Some(Fault::State);
        }
        let given = self.node.kernel.granting;
        if state.register.has_accepted() && given == mark(state.register.view) {
            self.outcome.fault = Some(Fault::Grants);
        }
        if self.cut == Cut::Whole {
            self.writes.push_back(state);
        } else {
            self.crash(self.cut);
            self.over = true;
        }
    }

    fn durable(&mut self, state: State) {
        let before = self.node.disk.as_ref().map(|disk| disk.register);
        if before.is_none_or(|before| before.view != state.register.view) {
            self.outcome.installed.push((state.vote, Shared::new(state.installed.clone())));
        }
        if let Some(document) = &state.accepted {
            self.outcome.accepted.push((state.vote, state.register.view, document.name()));
        }
        let sequence = state.sequence;
        self.node.disk = Some(state);
        // Told after all that was asked for before, and before anything else.
        let times = self.times();
        if let Some(controller) = &mut self.node.controller {
            controller.handle(Input::Written(sequence), times);
        }
    }
}

fn setup(own: u16, nodes: usize, node: &Node) -> Setup {
    let ms = Duration::from_millis;
    Setup {
        own: Member { node: NodeId(own), incarnation: node.incarnation },
        generation: node.generation,
        configured: (1..=nodes as u16).map(|node| Configured { node: NodeId(node), weight: 1 }).collect(),
        settings: 5,
        lease_ms: LEASE_MS as u32,
        stop_ms: 0,
        quorum: QuorumTerms { dynamic: true, lower_priority: None },
        timing: Timing {
            tick: ms(50),
            opening: ms(500),
            stage: ms(500),
            pruning: ms(500),
            control_limit: ms(1_000),
            hang: ms(u64::from(HUNG) * QUANTUM_MS),
            detection: ms(500),
            // Rounds are a quantum apart, and that is no pause.
            delay: ms(QUANTUM_MS),
            leave: ms(5_000),
        },
        quarantine: QuarantineTerms { threshold: 0, duration: ms(7_200_000) },
        own_ends: 0,
        join_only: false,
        fresh_vote: VoteId([u64::from(own), node.starts]),
        remembered: 0,
        seed: u64::from(own) * 77,
    }
}

/// Says why a node does not act, for people.
pub fn acting(node: &Node, dates: &Dates, now: u8) -> Result<Order, Refused> {
    node.kernel.acting(node.incarnation, dates, now)
}
