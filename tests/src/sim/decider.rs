//! The deciding thread of a played daemon: rounds as the shipped one makes them, around the cores that ship. What comes
//! in between two rounds is handed to the agreement at once.

use super::clock::MS;
use super::heap::{Event, Thread};
use super::node::Paced;
use super::plan::{self, NETWORKS_MAX};
use super::stats::Count;
use super::world::World;
use heartbeat_common::frame;
use heartbeat_common::lease::{self, Words, word};
use heartbeat_user::core::agreement::message::Message;
use heartbeat_user::core::agreement::types::{Input, PageView, Times};
use heartbeat_user::core::controller::{self, Command};
use heartbeat_user::core::event::{EventBody, LateSource};
use heartbeat_user::core::facts::PeerLook;
use heartbeat_user::core::path::PathInput;
use heartbeat_user::core::time::{MonoTime, nanos};
use heartbeat_user::io::agreement::page;
use std::collections::VecDeque;
use std::time::Duration;

/// Shortest time between two rounds, as in the shipped thread.
const ROUND_MIN: Duration = Duration::from_millis(1);

impl World {
    /// Reads a node's clocks.
    #[must_use]
    pub fn times(&self, place: usize) -> Times {
        let clock = &self.nodes[place].clock;
        Times { mono: clock.mono_time(self.now), boot_ns: clock.boot(self.now), raw_ns: clock.raw(self.now) }
    }

    fn round(&self) -> Duration {
        let delay = self.plan.rule.delay;
        (delay.min(self.plan.stall_limit / 4) / 2).clamp(ROUND_MIN, Duration::from_millis(250))
    }

    /// The thread was woken: by time, or by what waits for it.
    pub fn decide(&mut self, place: usize, life: u32) {
        let now = self.now;
        let node = &self.nodes[place];
        if !node.is(life) {
            return;
        }
        if let Some(until) = node.held(Thread::Decider, now) {
            return self.heap.hold(until, Event::Wake(place as u8, Thread::Decider, life));
        }
        let times = self.times(place);
        let Some(process) = node.process.as_ref() else { return };
        let due = times.mono.0 >= process.due;
        if !due && process.inbox.is_empty() {
            return;
        }
        // What is no message is obeyed before the round, however late that is.
        self.take_orders(place, times);
        if due {
            self.stats.add(Count::Rounds);
            self.turn(place, times);
        }
        self.take_inbox(place, times);
        if !self.nodes[place].is(life) {
            return;
        }
        let round = self.round();
        let node = &mut self.nodes[place];
        let Some(process) = node.process.as_mut() else { return };
        if due {
            node.kernel.progress_ns = times.mono.0;
            node.ran = times.mono.0;
            node.gap.looked = true;
            process.due = (times.mono + round).0;
        }
        let earliest = times.mono + ROUND_MIN;
        let wanted = [process.controller.poll_timeout(), process.agreement.poll_timeout()];
        if let Some(timeout) = wanted.into_iter().flatten().min() {
            process.due = process.due.min(timeout.max(earliest).0);
        }
        let at = node.clock.when_mono(process.due, now) + 10_000 + self.random.below(60_000);
        self.heap.at(at, Event::Wake(place as u8, Thread::Decider, life));
    }

    /// One round, in the order of the shipped one.
    fn turn(&mut self, place: usize, times: Times) {
        let late = self.note_lateness(place, times);
        self.ghost.makes_round(place, self.now, nanos(self.plan.stall_limit) / 2);
        self.observe(place, times.mono);
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        let seen = process.clocks.compare(times);
        if late {
            self.stats.add(Count::LateRounds);
            self.feed(place, Input::Late, times);
        }
        if seen.slept {
            self.stats.add(Count::SleepsNoticed);
            self.feed(place, Input::Slept, times);
        }
        if let Some(out) = seen.news {
            self.stats.add(Count::ClocksOut);
            self.feed(place, Input::ClockOut(out), times);
        }
        self.look_at_facts(place, times);
        self.take_inbox(place, times);
        self.look_at_own_page(place, times);
        self.feed(place, Input::Tick, times);
    }

    fn note_lateness(&mut self, place: usize, times: Times) -> bool {
        let budget = Duration::from_millis(25);
        let delay = self.plan.rule.delay;
        let node = &mut self.nodes[place];
        let Some(process) = node.process.as_mut() else { return false };
        let mut note = |source, due: MonoTime, ran: MonoTime| {
            process.controller.handle(controller::Input::Late { source, due, ran }, times.mono);
            ran.since(due) > budget
        };
        // Longer than a delay without a round: a gap, whatever the machine's clocks say of it.
        node.gap.open |= times.mono.since(MonoTime(process.due)) > delay;
        let late = note(LateSource::Decider, MonoTime(process.due), times.mono);
        let paced = process.pacer.late.take();
        if let Some((due, ran)) = paced {
            note(LateSource::Pacer, MonoTime(due), MonoTime(ran));
        }
        if late || paced.is_some() {
            process.late_at = times.mono.0;
        }
        late
    }

    fn observe(&mut self, place: usize, mono: MonoTime) {
        let node = &mut self.nodes[place];
        let Some(process) = node.process.as_mut() else { return };
        let paced = &process.pacer.paths;
        for (path, look) in process.looks.iter_mut().enumerate() {
            look.refresh(&node.kernel, path, paced[path].newest_attempt());
        }
        let inputs: Vec<PathInput<'_>> = process
            .looks
            .iter()
            .zip(paced)
            .map(|(look, paced)| PathInput {
                tick: &look.tick,
                attempts: &paced.attempts,
                usable: true,
                mute: false,
                answers_in_kernel: true,
                changed: look.changed,
            })
            .collect();
        process.controller.observe(mono, &inputs);
        self.tell_events(place);
        self.carry_controller(place);
    }

    fn tell_events(&mut self, place: usize) {
        while let Some(process) = self.nodes[place].process.as_mut()
            && let Some(event) = process.controller.poll_event()
        {
            match &event.body {
                EventBody::NodeDown { node, .. } => {
                    self.stats.add(Count::Down);
                    self.accused(place, plan::place(node.node_id));
                }
                EventBody::NodeUp { node, .. } | EventBody::NodeRestarted { node, .. } => {
                    self.ghost.withdraws(place, Some(plan::place(node.node_id)), self.now);
                }
                EventBody::Isolated { .. } => {
                    self.stats.add(Count::Isolated);
                    process.told_isolated = true;
                }
                EventBody::IsolationEnded { .. } => process.told_isolated = false,
                _ => {}
            }
            if self.trace {
                self.say(place, || format!("{event}"));
            }
            if self.log.keep {
                self.log.events.push((self.now, place, event));
            }
        }
    }

    fn carry_controller(&mut self, place: usize) {
        while let Some(process) = self.nodes[place].process.as_mut()
            && let Some(command) = process.controller.poll_command()
        {
            let life = self.nodes[place].life;
            match command {
                Command::Burst { node } => {
                    let at = self.now + 10_000;
                    self.heap.at(at, Event::Burst(place as u8, plan::place(node) as u8, life));
                }
                Command::Reincarnate { above } => {
                    self.stats.add(Count::Reincarnated);
                    self.nodes[place].learnt = self.nodes[place].learnt.max(above);
                    self.crash_process(place, Some(50 * MS));
                }
                Command::StepDown { .. } => {}
            }
        }
    }

    fn look_at_facts(&mut self, place: usize, times: Times) {
        let (detection, networks) = (self.plan.rule.detection_time(), self.plan.networks);
        let node = &mut self.nodes[place];
        let Some(process) = node.process.as_mut() else { return };
        let mut all = Vec::with_capacity(self.plan.nodes);
        for (rank, (id, judged)) in process.controller.nodes().enumerate() {
            let mut ticks = [&process.looks[rank * networks].tick; NETWORKS_MAX];
            for (tick, look) in ticks.iter_mut().zip(&process.looks[rank * networks..(rank + 1) * networks]) {
                *tick = &look.tick;
            }
            let paced = &process.pacer.paths[rank * networks..(rank + 1) * networks];
            let tried = paced.iter().map(Paced::newest_attempt).max().unwrap_or(0);
            let look = PeerLook { id, node: judged, detection, tried };
            all.push(process.facts.of(times.mono, look, &ticks[..networks]));
        }
        let newest: Vec<(usize, u64)> = all.iter().map(|fact| (plan::place(fact.node), fact.incarnation)).collect();
        for (peer, incarnation) in newest {
            self.heard(place, peer, incarnation);
        }
        self.believes(place);
        self.feed(place, Input::Facts(all), times);
    }

    /// A connection with an older incarnation of a peer ends once a newer one is heard, or spoken of.
    fn heard(&mut self, place: usize, peer: usize, incarnation: u64) {
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        let incarnation = process.agreement.newest_of(plan::id(peer)).max(incarnation);
        process.known[peer] = process.known[peer].max(incarnation);
        let older = self.links.pipe(peer, place).author.is_some_and(|author| author.incarnation < incarnation);
        if older && self.links.pair(place, peer).open {
            self.lose_connection(place, peer);
        }
    }

    fn look_at_own_page(&mut self, place: usize, times: Times) {
        let kernel = &mut self.nodes[place].kernel;
        let acting = lease::acting(&kernel.page, times.boot_ns);
        let quorate = if acting.is_ok() { frame::FLAG_QUORATE } else { 0 };
        kernel.flags = kernel.flags & !frame::FLAG_QUORATE | quorate;
        let view = PageView {
            acting,
            lease_until_ns: page::lease_until(&kernel.page),
            fenced: kernel.page.get(word::FENCED),
            fenced_by: None,
            fenced_at: MonoTime::ZERO,
        };
        self.feed(place, Input::Page(view), times);
    }

    fn take_orders(&mut self, place: usize, times: Times) {
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        let is_order = |input: &Input| !matches!(input, Input::Message(..) | Input::Connected(_) | Input::Lost(_));
        if !process.inbox.iter().any(is_order) {
            return;
        }
        let (orders, rest): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut process.inbox).into_iter().partition(is_order);
        process.inbox = rest;
        for order in orders {
            self.feed(place, order, times);
        }
    }

    fn take_inbox(&mut self, place: usize, times: Times) {
        while let Some(process) = self.nodes[place].process.as_mut()
            && let Some(input) = process.inbox.pop_front()
        {
            self.feed(place, input, times);
        }
    }

    /// Hands something to the agreement, and carries out what it asks for.
    pub fn feed(&mut self, place: usize, input: Input, times: Times) {
        let Some(process) = self.nodes[place].process.as_mut() else { return };
        if self.trace && !matches!(input, Input::Facts(_) | Input::Page(_) | Input::Tick) {
            println!("{:>12.6} {} <- {input:?}", (self.now - super::world::START) as f64 / 1e9, plan::name(place));
        }
        let author = match &input {
            Input::Message(_, message) => match &**message {
                // Members pass reports of others on.
                Message::Report(report) => Some(report.author),
                _ => None,
            },
            _ => None,
        };
        if let Input::Message(from, _) = &input {
            self.ghost.passes(*from, process.agreement.setup().own);
        }
        process.agreement.handle(input, times);
        self.hears = author;
        self.carry_agreement(place);
        self.hears = None;
    }

    /// Returns the delay as the core has it.
    #[must_use]
    pub fn delay(&self) -> u64 {
        nanos(self.plan.rule.delay)
    }
}
