//! The whole played cluster: true time, what comes next, the network, the machines, and what watches them. It hands each
//! event to whom it is for, and has the properties checked after it.

use super::clock::{MS, SECOND};
use super::faults::Player;
use super::ghost::{Ghost, Violation};
use super::heap::{Event, Heap, Thread};
use super::link::{Links, Stuck};
use super::net::{Class, Flight, Net};
use super::node::Node;
use super::plan::{self, Plan};
use super::properties::{Accusation, Grants};
use super::service::Sink;
use super::stats::{Count, Stats};
use crate::xdp::random::Random;
use heartbeat_common::counter::Counter;
use heartbeat_common::frame;
use heartbeat_common::lease::{self, Token, Words, word};
use heartbeat_user::core::agreement::AgreementEvent;
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::agreement::types::{Input, Outcome as Answer, Request};
use heartbeat_user::core::controller;
use heartbeat_user::core::event::Event as Told;
use heartbeat_user::core::ids::NodeId;
use std::collections::BTreeMap;

/// When a world begins, true time.
pub const START: u64 = 1_000 * SECOND;

/// What a test may watch: everything that a node's cores told.
#[derive(Debug, Default)]
pub struct Log {
    /// Keep it at all: long runs do not.
    pub keep: bool,
    /// What the detectors told: when, by whom.
    pub events: Vec<(u64, usize, Told)>,
    /// What the agreements told.
    pub agreed: Vec<(u64, usize, AgreementEvent)>,
    /// What became of requests.
    pub answers: Vec<(u64, usize, u64, Answer)>,
}

/// A played cluster.
#[derive(Debug)]
pub struct World {
    /// How it was drawn.
    pub plan: Plan,
    /// True time.
    pub now: u64,
    /// What comes.
    pub heap: Heap,
    /// Frames.
    pub net: Net,
    /// Messages.
    pub links: Links,
    /// Machines.
    pub nodes: Vec<Node>,
    /// Draws everything but faults.
    pub random: Random,
    /// Draws and plays faults.
    pub player: Player,
    /// What was seen.
    pub ghost: Ghost,
    /// Until when each vote's grants stood.
    pub grants: Grants,
    /// When the last fault ended, true time.
    pub last_fault: u64,
    /// When the operator last asked for quarantines to end.
    pub cleared_at: u64,
    /// How often.
    pub clears: u32,
    /// Who was called Down since somebody last began to watch for it.
    pub accusations: Vec<Accusation>,
    /// Rules that a test broke on purpose, and does not ask about.
    pub unasked: &'static [&'static str],
    /// Takes acts.
    pub sink: Sink,
    /// The place of each node's vote in a page.
    pub slots: BTreeMap<NodeId, usize>,
    /// Counts.
    pub stats: Stats,
    /// What was told.
    pub log: Log,
    /// The first property that did not hold.
    pub violation: Option<Violation>,
    /// Print what happens.
    pub trace: bool,
    /// Whose report an agreement is handed.
    pub(super) hears: Option<Member>,
    /// What each node's last look at its own page was, before an event.
    before: Option<Token>,
}

impl World {
    /// Builds a world in which every machine is off.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let nodes = plan.nodes;
        Self {
            now: START,
            heap: Heap::default(),
            net: Net::new(nodes, plan.networks),
            links: Links::new(nodes),
            nodes: (0..nodes).map(|place| Node::new(place, &plan)).collect(),
            random: Random::new(plan.seed),
            player: Player::new(&plan),
            ghost: Ghost::new((0..nodes).map(|place| plan.settings_of(place)).collect()),
            grants: Grants::default(),
            last_fault: 0,
            cleared_at: 0,
            clears: 0,
            accusations: Vec::new(),
            unasked: &[],
            sink: Sink::default(),
            slots: plan.slots(),
            stats: Stats::default(),
            log: Log::default(),
            violation: None,
            trace: false,
            hears: None,
            before: None,
            plan,
        }
    }

    /// Says what happens, if anybody listens.
    pub fn say(&self, node: usize, what: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6} {} {}", (self.now - START) as f64 / SECOND as f64, plan::name(node), what());
        }
    }

    /// Notes the first violation.
    pub fn check(&mut self, outcome: Result<(), Violation>) {
        if let Err(violation) = outcome
            && self.violation.is_none()
            && !self.ghost.void
            && !self.unasked.contains(&violation.property)
        {
            if self.trace {
                println!("{:>12.6} {violation:?}", (self.now - START) as f64 / SECOND as f64);
            }
            self.violation = Some(violation);
        }
    }

    /// Starts every machine, and connects whoever can be.
    pub fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            self.boot(node);
            for peer in node + 1..self.nodes.len() {
                let at = self.now + self.random.below(100 * MS);
                self.heap.at(at, Event::Connect(node as u8, peer as u8));
            }
        }
        self.start_faults();
    }

    /// Plays until true time `end`, or until a property does not hold.
    pub fn run_until(&mut self, end: u64) {
        while self.violation.is_none() {
            let Some((time, event)) = self.heap.next(end) else { break };
            self.now = time;
            self.stats.events += 1;
            self.happen(event);
        }
        if self.violation.is_none() {
            self.now = self.now.max(end);
        }
    }

    /// Plays for so many milliseconds.
    pub fn run_ms(&mut self, ms: u64) {
        self.run_until(self.now + ms * MS);
    }

    fn happen(&mut self, event: Event) {
        let node = match event {
            Event::Frame(slot) => return self.frame(slot),
            Event::Connect(a, b) => return self.connect(a.into(), b.into()),
            Event::Fault(number) => return self.fault(number),
            Event::Draw(class) => return self.draw_fault(class),
            Event::Message(from, to) => return self.message(from.into(), to.into()),
            Event::Script(_) => return self.create(),
            Event::Wake(node, ..)
            | Event::Burst(node, ..)
            | Event::Sign(node, ..)
            | Event::Disk(node, _)
            | Event::Service(node, _)
            | Event::Detach(node, _)
            | Event::Start(node, _) => usize::from(node),
        };
        self.look_before(node);
        match event {
            Event::Wake(_, Thread::Pacer, life) => self.pace(node, life),
            Event::Wake(_, Thread::Decider, life) => self.decide(node, life),
            Event::Wake(_, Thread::Keeper, life) => self.keep(node, life),
            Event::Burst(_, peer, life) => self.burst(node, peer.into(), life),
            Event::Sign(_, path, life) => self.sign_late(node, path as usize, life),
            Event::Disk(_, life) => self.disk_step(node, life),
            Event::Service(_, serial) => self.service(node, serial),
            Event::Start(_, life) => self.start(node, life),
            Event::Detach(_, life) if self.nodes[node].life == life => self.nodes[node].kernel.attached = false,
            _ => {}
        }
        self.look_after(node);
    }

    /// Returns under which token a node acts now, by its page.
    #[must_use]
    pub fn acting(&self, node: usize) -> Option<Token> {
        let node = &self.nodes[node];
        if !node.up {
            return None;
        }
        lease::acting(&node.kernel.page, node.clock.boot(self.now)).ok()
    }

    /// Remembers whether a node acts, before something happens to it.
    pub fn look_before(&mut self, node: usize) {
        self.before = self.acting(node);
    }

    /// Checks what a change of a node's permission means for all.
    pub fn look_after(&mut self, node: usize) {
        self.note_grants(node);
        let after = self.acting(node);
        if after != self.before {
            self.permission_changed(node, self.before, after);
        }
    }

    fn frame(&mut self, slot: u32) {
        let mut flight = self.net.take(slot);
        let (from, to) = (usize::from(flight.from), usize::from(flight.to));
        if !self.nodes[to].up || !self.nodes[to].clock.runs() || from == to {
            return;
        }
        self.look_before(to);
        let path = self.plan.path_to(to, from, flight.network.into());
        let node = &mut self.nodes[to];
        let mono = node.clock.mono(self.now);
        let (ahead, fenced) = (node.kernel.page.get(word::AHEAD), node.kernel.page.get(word::FENCED));
        let taken = node.kernel.take(path, &mut flight.frame, mono);
        self.stats.count(taken.counter);
        if node.kernel.page.get(word::AHEAD) != ahead {
            self.stats.add(Count::FoundAhead);
        }
        // It obeys one that comes too soon after another as well, and answers it with nothing.
        if taken.counter == Counter::Fenced || self.nodes[to].kernel.page.get(word::FENCED) != fenced {
            self.obeys(to, &flight.frame);
        }
        if taken.answers {
            if !matches!(taken.counter, Counter::Fenced | Counter::FenceAcked) {
                self.answers(to, flight.frame[frame::word::DYNAMIC]);
            }
            let echo = Flight { from: flight.to, to: flight.from, ..flight };
            self.send(&echo, Class::Answered);
        }
        self.look_after(to);
    }

    /// Puts a frame on its wire.
    pub fn send(&mut self, flight: &Flight, class: Class) {
        let heap = &mut self.heap;
        self.net.send(self.now, flight, class, &mut self.random, |at, slot| heap.at(at, Event::Frame(slot)));
    }

    /// Asks something of a node's agreement. Returns the request's number; `None`: no daemon runs.
    pub fn request(&mut self, place: usize, request: Request) -> Option<u64> {
        let process = self.nodes[place].process.as_mut()?;
        process.requests += 1;
        let number = process.requests;
        self.say(place, || format!("asked for {request:?}"));
        self.tell(place, Input::Request(number, request));
        Some(number)
    }

    /// Hands something to a node's deciding thread.
    pub fn tell(&mut self, place: usize, input: Input) {
        let at = self.now + 10_000 + self.random.below(40_000);
        let node = &mut self.nodes[place];
        if let Some(process) = &mut node.process {
            process.inbox.push_back(input);
            self.heap.at(at, Event::Wake(place as u8, Thread::Decider, node.life));
        }
    }

    fn connect(&mut self, a: usize, b: usize) {
        let again = self.now + 50 * MS + self.random.below(200 * MS);
        self.heap.at(again, Event::Connect(a as u8, b as u8));
        if self.links.pair(a, b).open || !self.may_connect(a, b) {
            return;
        }
        if self.outrun(a, b) || self.outrun(b, a) {
            return;
        }
        self.links.close(a, b);
        self.links.pair(a, b).open = true;
        for (node, peer) in [(a, b), (b, a)] {
            let Some(member) = self.member(peer) else { continue };
            if let Some(process) = &mut self.nodes[node].process {
                process.known[peer] = member.incarnation;
                process.greeted |= 1 << peer;
            }
            self.links.pipe(peer, node).author = Some(member);
            self.tell(node, Input::Connected(member));
        }
    }

    /// Says whether `to` knows a newer incarnation of `node` than the one that greets it. Then there is no connection,
    /// and `node` hears why.
    fn outrun(&mut self, node: usize, to: usize) -> bool {
        let newest = self.nodes[to].process.as_ref().map_or(0, |process| process.known[node]);
        let mono = self.nodes[node].clock.mono_time(self.now);
        let Some(process) = &mut self.nodes[node].process else { return false };
        if process.incarnation >= newest {
            return false;
        }
        let took = process.greeted >> to & 1 == 1;
        process.controller.handle(controller::Input::Outrun { newest, took }, mono);
        self.stats.add(Count::Outrun);
        self.say(node, || format!("{} knows its incarnation {newest}", plan::name(to)));
        true
    }

    /// Returns a node under the incarnation that runs.
    #[must_use]
    pub fn member(&self, place: usize) -> Option<Member> {
        let process = self.nodes[place].process.as_ref()?;
        Some(Member { node: plan::id(place), incarnation: process.incarnation })
    }

    fn may_connect(&self, a: usize, b: usize) -> bool {
        let runs = |node: &Node| node.process.is_some() && node.held(Thread::Link, self.now).is_none();
        runs(&self.nodes[a]) && runs(&self.nodes[b]) && self.net.messages_pass(a, b) && self.net.messages_pass(b, a)
    }

    /// Breaks a connection, if there is one, and tells both.
    pub fn lose_connection(&mut self, a: usize, b: usize) {
        if a == b || !self.links.close(a, b) {
            return;
        }
        self.tell(a, Input::Lost(plan::id(b)));
        self.tell(b, Input::Lost(plan::id(a)));
    }

    fn message(&mut self, from: usize, to: usize) {
        let (now, passes) = (self.now, self.net.messages_pass(from, to));
        let receives = self.nodes[to].process.is_some() && self.nodes[to].held(Thread::Link, now).is_none();
        let pipe = self.links.pipe(from, to);
        if pipe.queue.front().is_none_or(|(at, _)| *at > now) {
            return;
        }
        if !passes || !receives {
            match pipe.stuck(now) {
                Stuck::Waits => {}
                Stuck::Again(at) => self.heap.at(at, Event::Message(from as u8, to as u8)),
                Stuck::Over => self.lose_connection(from, to),
            }
            return;
        }
        let Some(author) = pipe.author else { return };
        while let Some(message) = self.links.pipe(from, to).take(now) {
            self.stats.add(Count::Messages);
            self.tell(to, Input::Message(author, Box::new(message)));
        }
        if let Some((at, _)) = self.links.pipe(from, to).queue.front() {
            self.heap.at(*at, Event::Message(from as u8, to as u8));
        }
    }
}
