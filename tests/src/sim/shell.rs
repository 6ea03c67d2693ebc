//! What carries out the agreement's commands on a played machine, in their order: messages, disk, page, standing, what
//! runs, the end. It decides nothing; what each command must not be is checked as it comes.

use super::clock::MS;
use super::disk;
use super::ghost::broken;
use super::heap::{Event, Thread};
use super::kernel::Page;
use super::link;
use super::node::{Restanding, Say};
use super::plan;
use super::service;
use super::stats::Count;
use super::world::World;
use heartbeat_common::fence;
use heartbeat_common::frame;
use heartbeat_common::lease::{self, Words, bank, word};
use heartbeat_user::core::agreement::document::Member;
use heartbeat_user::core::agreement::message::Message;
use heartbeat_user::core::agreement::types::{Command, Ending, Input, Standing};
use heartbeat_user::core::agreement::voter::State;
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::io::agreement::page;
use heartbeat_user::keys::FenceSigner;
use heartbeat_user::lease::{Holder, Move};

impl World {
    /// Takes what the agreement wants done and told.
    pub fn carry_agreement(&mut self, place: usize) {
        while let Some(process) = self.nodes[place].process.as_mut()
            && let Some(event) = process.agreement.poll_event()
        {
            self.agreed(place, event);
        }
        while let Some(process) = self.nodes[place].process.as_mut()
            && let Some(command) = process.agreement.poll_command()
        {
            if self.trace {
                self.say(place, || format!("-> {}", shown(&command)));
            }
            self.carry(place, command);
        }
    }

    /// Carries out one command.
    pub fn carry(&mut self, place: usize, command: Command) {
        let now = self.now;
        let mono = self.nodes[place].clock.mono(now);
        match command {
            Command::Send(to, message) => self.send_message(place, to, *message),
            Command::Write(state) => self.write(place, state),
            Command::ClearGrants(mark) => {
                self.stats.add(Count::Cleared);
                let page = &self.nodes[place].kernel.page;
                lease::clear_grants(page, mono);
                // Also where none was given yet: none is to be given later.
                page.set(word::CLEARED, mark);
            }
            Command::Install(bank) => {
                self.stats.add(Count::Banks);
                let times = self.times(place);
                page::install(&self.nodes[place].kernel.page, &bank, &self.slots, times);
                self.look_at_page(place, now);
            }
            Command::SetGranting(mark) => {
                let _ = lease::grant(&self.nodes[place].kernel.page, mark);
                // The same turn may clear it again.
                self.note_grants(place);
            }
            Command::InForce(order) => {
                self.stats.add(Count::InForce);
                self.comes_into_force(place, order);
                self.nodes[place].kernel.page.raise(word::IN_FORCE, order.0);
                self.look_at_page(place, now);
            }
            Command::Hold(bits) => self.nodes[place].kernel.page.set(word::HOLD, bits),
            Command::Standing(standing) => self.restand(place, standing),
            Command::Burst => {
                let life = self.nodes[place].life;
                for peer in (0..self.plan.nodes).filter(|peer| *peer != place) {
                    self.heap.at(now + 10_000, Event::Burst(place as u8, peer as u8, life));
                }
            }
            Command::Fence(victim, view) => self.fence(place, victim, view),
            Command::StopServices => {
                self.stats.add(Count::StopServices);
                if let Some(process) = self.nodes[place].process.as_mut() {
                    process.stops = true;
                }
                self.stop_service(place);
            }
            Command::Answer(number, outcome) => {
                self.stats.add(Count::Answers);
                self.say(place, || format!("request {number}: {outcome:?}"));
                self.log.answers.push((now, place, number, outcome));
            }
            Command::Exit(ending) => self.exit(place, ending),
        }
    }

    fn send_message(&mut self, from: usize, to: NodeId, message: Message) {
        let to = plan::place(to);
        if matches!(message, Message::Prepare { .. } | Message::Accept { .. }) && self.waits_to_join(from) {
            self.check(broken("S2", format!("{} is to join only, and proposes", plan::name(from))));
        }
        if let Message::Accept { view, ballot, .. } = &message {
            let asked = self.ghost.asks_to_accept(*view, *ballot);
            self.check(asked);
        }
        if from == to || !self.links.pair(from, to).open {
            self.stats.add(Count::MessagesLost);
            return;
        }
        // The form is the shipping one's: now and then a message goes through its bytes.
        let message = if self.random.one_in(16) {
            Message::decode(&message.encode()).expect("what was encoded is decoded")
        } else {
            message
        };
        if self.links.pipe(from, to).queue.len() >= link::QUEUE_MAX {
            self.stats.add(Count::MessagesLost);
            return self.lose_connection(from, to);
        }
        let delay = self.net.message_delay(from, to, &mut self.random);
        let at = self.links.pipe(from, to).send(self.now + delay, message);
        self.heap.at(at, Event::Message(from as u8, to as u8));
    }

    /// Says whether a node was started to join only, and is no member yet.
    fn waits_to_join(&self, place: usize) -> bool {
        let node = &self.nodes[place];
        let installed = node.disk.agreement.as_ref().map(|state| &state.installed);
        let is_member = |own: Member| installed.is_some_and(|view| view.members.contains(&own));
        node.join_only && !self.member(place).is_some_and(is_member)
    }

    fn write(&mut self, place: usize, state: Box<State>) {
        self.before_write(place, &state);
        lease::remember_vote(&self.nodes[place].kernel.page, state.vote);
        if self.nodes[place].disk.order(state) {
            self.begin_write(place);
        }
    }

    fn begin_write(&mut self, place: usize) {
        let latency = MS / 2 + self.random.below(2 * MS);
        let life = self.nodes[place].life;
        self.heap.at(self.now + latency, Event::Disk(place as u8, life));
    }

    /// The disk thread gets one step further.
    pub fn disk_step(&mut self, place: usize, life: u32) {
        let now = self.now;
        let node = &mut self.nodes[place];
        if !node.is(life) {
            return;
        }
        let until = node.held(Thread::Disk, now).unwrap_or(0).max(node.disk.hangs_until);
        if until > now {
            return self.heap.hold(until, Event::Disk(place as u8, life));
        }
        match node.disk.advance() {
            None => {}
            Some(disk::Outcome::Goes) => self.begin_write(place),
            Some(disk::Outcome::Durable(sequence)) => {
                self.stats.add(Count::Writes);
                let state = node.disk.agreement.clone();
                lease::remember_state(&node.kernel.page, sequence);
                if let Some(state) = state {
                    let seen = self.ghost.durable(place, &state, now);
                    self.check(seen);
                }
                self.tell(place, Input::Written(sequence));
                if self.nodes[place].disk.begin_next() {
                    self.begin_write(place);
                }
            }
            Some(disk::Outcome::Failed(sequence)) => {
                self.stats.add(Count::WritesFailed);
                node.disk.queued = None;
                // Whatever the disk said of it, the next start finds it.
                let there = node.disk.agreement.clone().filter(|state| state.sequence == sequence);
                if let Some(state) = there {
                    self.stats.add(Count::WritesFailedLate);
                    let seen = self.ghost.durable(place, &state, now);
                    self.check(seen);
                }
                self.tell(place, Input::WriteFailed);
            }
        }
    }

    fn restand(&mut self, place: usize, standing: Box<Standing>) {
        let at = self.now + 50_000 + self.random.below(MS);
        let node = &mut self.nodes[place];
        let member = if standing.member { frame::FLAG_MEMBER } else { 0 };
        node.kernel.flags = node.kernel.flags & !frame::FLAG_MEMBER | member;
        if let Some(process) = node.process.as_mut() {
            process.standing = Some(Restanding { standing, at });
            self.heap.at(at, Event::Wake(place as u8, Thread::Keeper, node.life));
        }
    }

    /// The keeper writes configurations and signers anew.
    pub fn keep(&mut self, place: usize, life: u32) {
        let now = self.now;
        let node = &mut self.nodes[place];
        if !node.is(life) {
            return;
        }
        if let Some(until) = node.held(Thread::Keeper, now) {
            return self.heap.hold(until, Event::Wake(place as u8, Thread::Keeper, life));
        }
        let settings = self.plan.settings_of(place);
        let Some(process) = node.process.as_mut() else { return };
        if process.standing.as_ref().is_none_or(|waiting| waiting.at > now) {
            return;
        }
        let Some(Restanding { standing, .. }) = process.standing.take() else { return };
        for path in 0..self.plan.paths() {
            let (peer, _) = self.plan.peer_of(place, path);
            let say = Say::of(process.incarnation, process.generation, settings, &standing, plan::id(peer));
            node.kernel.restand(path, &say);
            process.pacer.paths[path].signer = say.signer(&self.plan.path_spec(place, path));
        }
        self.stats.add(Count::Standings);
        self.tell(place, Input::StandingDone(standing.view.order));
    }

    /// Looks at the page with the holder's eyes at `at`.
    pub fn look_at_page(&mut self, place: usize, at: u64) {
        let service = &mut self.nodes[place].service;
        service.serial += 1;
        let serial = service.serial;
        self.heap.at(at, Event::Service(place as u8, serial));
    }

    /// The holder looks, or what it stopped has stopped.
    pub fn service(&mut self, place: usize, serial: u32) {
        let now = self.now;
        let node = &mut self.nodes[place];
        if !node.up || node.service.serial != serial {
            return;
        }
        if node.halted_until > now {
            let until = node.halted_until;
            return self.look_at_page(place, until);
        }
        if let service::State::Stopping(_, until) = node.service.state {
            if until > now {
                return self.look_at_page(place, until);
            }
            node.service.state = service::State::Stopped;
            node.service.holder = Holder::default();
        }
        let boot = node.clock.boot(now);
        let judged = lease::acting(&node.kernel.page, boot);
        let stopping = node.process.as_ref().is_some_and(|process| process.stops);
        if stopping {
            return match node.service.state {
                service::State::Running(_) => self.stop_service(place),
                _ => {
                    self.services_stopped(place);
                    self.look_at_page(place, now + 50 * MS);
                }
            };
        }
        match node.service.holder.step(judged, heartbeat_user::lease::end(&node.kernel.page), boot) {
            Move::LookAt(at) => {
                let mut at = node.clock.when_boot(at, now).max(now + 1000);
                if let (service::State::Running(_), Ok(token)) = (node.service.state, judged) {
                    node.service.state = service::State::Running(token);
                    node.service.stop_ns = node.service.stop_ns.min(stop_of(&node.kernel.page));
                    // An act each delay, as if something was always going on.
                    at = at.min(now + self.plan.delay_ns());
                    self.acts(place);
                }
                self.look_at_page(place, at);
            }
            Move::Ready(token) => {
                node.service.state = service::State::Running(token);
                node.service.stop_ns = stop_of(&node.kernel.page);
                self.stats.add(Count::ServiceStarts);
                self.acts(place);
                self.look_at_page(place, now + 1000);
            }
            Move::Reopen => self.look_at_page(place, now + 200 * MS),
            Move::Over(_) => self.stop_service(place),
        }
    }

    /// A machine runs on: what its lease does not cover any more does nothing from here on.
    pub fn wakes(&mut self, place: usize) {
        if self.acting(place).is_none() {
            let service = &mut self.nodes[place].service;
            service.state = service::State::Stopped;
            service.holder = Holder::default();
        }
        self.look_at_page(place, self.now);
    }

    fn stop_service(&mut self, place: usize) {
        let (now, stop) = (self.now, self.nodes[place].service.stop_ns);
        let takes = if stop == 0 { 0 } else { stop / 2 + self.random.below(stop / 2) };
        let node = &mut self.nodes[place];
        if let service::State::Running(token) = node.service.state {
            node.service.state = service::State::Stopping(token, now + takes);
        }
        self.look_at_page(place, now + takes);
    }

    fn services_stopped(&mut self, place: usize) {
        if let Some(process) = self.nodes[place].process.as_mut()
            && std::mem::take(&mut process.stops)
        {
            self.tell(place, Input::ServicesStopped);
        }
    }

    /// The daemon ends: what it says of itself is on disk before it says it.
    fn exit(&mut self, place: usize, ending: Ending) {
        self.stats.add(match ending {
            Ending::Left => Count::Left,
            Ending::Out | Ending::Removed => Count::Out,
            Ending::Forfeited => Count::Forfeited,
        });
        self.says_stopped(place);
        let now = self.now;
        let node = &mut self.nodes[place];
        if let Some(identity) = &mut node.disk.identity {
            identity.left = true;
        }
        node.kernel.page.set(word::CLOSED, 1);
        node.kernel.page.clear(word::GRANTING);
        node.kernel.flags |= frame::FLAG_STOPPED | frame::FLAG_LEAVING;
        let life = node.life;
        for peer in (0..self.plan.nodes).filter(|peer| *peer != place) {
            self.burst(place, peer, life);
        }
        let after = match ending {
            Ending::Left => None,
            Ending::Out | Ending::Removed | Ending::Forfeited => Some(200 * MS + self.random.below(800 * MS)),
        };
        self.nodes[place].stays_down = ending == Ending::Left;
        // As the real shell has it: an operator's order is nothing that the next start waits for.
        if matches!(ending, Ending::Out | Ending::Forfeited) {
            self.nodes[place].ends.push(now);
        }
        self.crash_process(place, after);
        // Peers that were not reached by that ask within their delay, and are answered once more.
        let life = self.nodes[place].life;
        self.heap.at(now + 2 * self.plan.delay_ns(), Event::Detach(place as u8, life));
    }

    fn fence(&mut self, place: usize, victim: Member, view: heartbeat_common::view::Name) {
        self.stats.add(Count::Fences);
        let Some(by) = self.member(place) else { return };
        let right = self.ghost.fences(by, victim, view);
        self.check(right);
        self.ghost.sends_fence(victim, view);
        let to = plan::place(victim.node);
        let node = &mut self.nodes[place];
        let boot_ns = node.clock.boot(self.now);
        let Some(process) = node.process.as_mut() else { return };
        process.nonce += 1;
        let order = fence::Order {
            sender: by.incarnation,
            victim: victim.incarnation,
            view,
            nonce: boot_ns.wrapping_add(process.nonce),
            reason: fence::Reason::Silent,
        };
        for network in 0..self.plan.networks {
            let path = self.plan.path_to(place, to, network);
            let signer = FenceSigner::new(plan::ring(), &self.plan.path_spec(place, path));
            process.pacer.frames.push((path, signer.fence(&order)));
        }
        self.heap.at(self.now + 10_000, Event::Wake(place as u8, Thread::Pacer, node.life));
    }
}

/// How much of the lease stopping takes, by the active bank, ns.
fn stop_of(page: &Page) -> u64 {
    let active = lease::active_bank(page);
    page.get(active + bank::LEASE_NS).saturating_sub(page.get(active + bank::ACT_NS))
}

/// A command in a line.
fn shown(command: &Command) -> String {
    match command {
        Command::Write(state) => {
            let (view, accepted) = (state.installed.order, state.register.accepted);
            format!(
                "Write({}, {view:?}, promised {:?}, accepted {accepted:?})",
                state.sequence, state.register.promised
            )
        }
        other => format!("{other:?}"),
    }
}
