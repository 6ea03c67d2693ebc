//! The pacing thread of a played daemon: it sends what is due, once, and bursts when it is told, in the order of the
//! shipped one: first the stamp that a probe brings back is read, and then whether this vote grants.

use super::clock::MS;
use super::faults;
use super::heap::{Event, Thread};
use super::net::{Class, Flight, Frame};
use super::stats::Count;
use super::world::World;
use heartbeat_common::frame;
use heartbeat_common::lease;
use heartbeat_user::core::path::{ATTEMPTS, Attempt};

impl World {
    /// A look at what is due.
    pub fn pace(&mut self, place: usize, life: u32) {
        let (now, delay) = (self.now, self.plan.delay_ns());
        let node = &mut self.nodes[place];
        if !node.is(life) {
            return;
        }
        if let Some(until) = node.held(Thread::Pacer, now) {
            return self.heap.hold(until, Event::Wake(place as u8, Thread::Pacer, life));
        }
        let mono = node.clock.mono(now);
        let Some(process) = node.process.as_mut() else { return };
        let frames = std::mem::take(&mut process.pacer.frames);
        let pacer = &mut process.pacer;
        for (path, frame) in frames {
            let (to, network) = self.plan.peer_of(place, path);
            let flight = Flight { from: place as u8, to: to as u8, network: network as u8, frame };
            let heap = &mut self.heap;
            let arrives = |at, slot| heap.at(at, Event::Frame(slot));
            self.net.send(now, &flight, Class::Asked, &mut self.random, arrives);
        }
        if mono < pacer.due {
            return;
        }
        let late = mono - pacer.due;
        if late > 25 * MS && pacer.late.is_none_or(|(due, ran)| late > ran - due) {
            pacer.late = Some((pacer.due, mono));
        }
        pacer.due += (late / delay + 1) * delay;
        let due = pacer.due;
        for path in 0..self.plan.paths() {
            self.probe(place, path, true);
        }
        let at = self.nodes[place].clock.when_mono(due, now) + 10_000 + self.random.below(60_000);
        self.heap.at(at, Event::Wake(place as u8, Thread::Pacer, life));
    }

    /// A burst to one peer.
    pub fn burst(&mut self, place: usize, peer: usize, life: u32) {
        let node = &self.nodes[place];
        if !node.is(life) {
            return;
        }
        if let Some(until) = node.held(Thread::Pacer, self.now) {
            return self.heap.hold(until, Event::Burst(place as u8, peer as u8, life));
        }
        for network in 0..self.plan.networks {
            let path = self.plan.path_to(place, peer, network);
            self.probe(place, path, false);
        }
        let node = &mut self.nodes[place];
        let sent = node.clock.mono_time(self.now);
        if let Some(process) = node.process.as_mut() {
            let input = heartbeat_user::core::controller::Input::BurstSent { node: super::plan::id(peer), sent };
            process.controller.handle(input, sent);
        }
    }

    /// Asks on one path. Sometimes the thread stops in the middle.
    fn probe(&mut self, place: usize, path: usize, paced: bool) {
        let now = self.now;
        let stops = self.player.stops_between();
        let node = &mut self.nodes[place];
        let mono = node.clock.mono(now);
        let Some(process) = node.process.as_mut() else { return };
        let paced_path = &mut process.pacer.paths[path];
        if paced {
            paced_path.sequence = (paced_path.sequence + 2) & !1;
            let slot = (paced_path.sequence >> 1) as usize % ATTEMPTS;
            paced_path.attempts[slot] = Attempt { sequence: paced_path.sequence, ns: mono };
        } else {
            paced_path.sequence = (paced_path.sequence + 1) | 1;
        }
        let tick = &node.kernel.ticks[path];
        let known = tick.peer_incarnation.get();
        let (peer, stamp) =
            if known == 0 { (tick.handshake_incarnation.get(), 0) } else { (known, tick.peer_stamp.get()) };
        let half = (paced_path.sequence, mono, peer, stamp);
        match stops {
            None => self.sign_and_send(place, path, half),
            Some(pause) => {
                self.stats.faults[faults::SIGNING] += 1;
                self.stats.add(Count::StoppedSigning);
                paced_path.half = Some(half);
                let life = node.life;
                self.heap.at(now + pause, Event::Sign(place as u8, path as u32, life));
            }
        }
    }

    /// The rest of a probe whose thread was stopped in the middle.
    pub fn sign_late(&mut self, place: usize, path: usize, life: u32) {
        if !self.nodes[place].is(life) {
            return;
        }
        if let Some(until) = self.nodes[place].held(Thread::Pacer, self.now) {
            return self.heap.hold(until, Event::Sign(place as u8, path as u32, life));
        }
        let half = self.nodes[place].process.as_mut().and_then(|process| process.pacer.paths[path].half.take());
        if let Some(half) = half {
            self.nodes[place].signed_late = self.now;
            self.sign_and_send(place, path, half);
        }
    }

    fn sign_and_send(&mut self, place: usize, path: usize, half: (u64, u64, u64, u64)) {
        let node = &mut self.nodes[place];
        let mono = node.clock.mono(self.now);
        let (kernel, Some(process)) = (&node.kernel, node.process.as_mut()) else { return };
        let (sequence, sent, peer, stamp) = half;
        let signer = &mut process.pacer.paths[path].signer;
        signer.expect_peer(peer);
        // The stamp was read before, at whatever time; the page is read now.
        let (own, page) = (signer.incarnation(), &kernel.page);
        let fenced = if lease::fenced(page, own) { frame::FLAG_FENCED } else { 0 };
        let (age, flags) = (frame::age_since(kernel.progress_ns, mono), kernel.flags | fenced);
        let frame: Frame = if lease::grants(page, signer.mark(), own) {
            signer.probe(sequence, sent, peer, stamp, age, flags)
        } else {
            signer.bare_probe(sequence, sent, peer, stamp, age, flags)
        };
        // The egress program sees it leave.
        kernel.depart(path, sequence, mono);
        let (to, network) = self.plan.peer_of(place, path);
        self.stats.add(Count::Probes);
        let flight = Flight { from: place as u8, to: to as u8, network: network as u8, frame };
        self.send(&flight, Class::Asked);
    }
}
