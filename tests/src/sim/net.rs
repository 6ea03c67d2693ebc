//! The network between the nodes: what becomes of a frame on its way. It loses, delays, doubles, damages and reorders as
//! it was told, and remembers some of what passed for whoever replays it; it reads no frame.

use super::clock::MS;
use crate::xdp::random::Random;
use heartbeat_common::frame::{self, Kind, WORDS, word};

/// A frame's words.
pub type Frame = [u64; WORDS];

/// What a cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Probes and fences.
    Asked,
    /// Echoes and acknowledgements.
    Answered,
    /// Connections between controllers.
    Messages,
}

/// Every class.
pub const CLASSES: [Class; 3] = [Class::Asked, Class::Answered, Class::Messages];

/// One direction between two nodes on one network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// Frames lost, in thousands.
    pub loss: u16,
    /// Frames doubled, in thousands.
    pub double: u16,
    /// Frames damaged, in thousands.
    pub damage: u16,
    /// Time on the way, ns.
    pub delay: u64,
    /// Up to so much more, drawn for each frame: what comes later may overtake.
    pub jitter: u64,
    /// How many cuts there are of each class.
    pub cuts: [u8; CLASSES.len()],
}

/// A frame on its way.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    /// Who sent it, by place.
    pub from: u8,
    /// Whom it reaches.
    pub to: u8,
    /// On which network, by place.
    pub network: u8,
    /// It.
    pub frame: Frame,
}

/// Frames remembered for replay.
const MEMORY: usize = 64;

/// All wires, and what is on them.
#[derive(Clone, Debug)]
pub struct Net {
    nodes: usize,
    networks: usize,
    wires: Vec<Wire>,
    flights: Vec<Flight>,
    free: Vec<u32>,
    memory: Vec<Flight>,
    remembered: usize,
    /// Frames lost, doubled, damaged and cut so far.
    pub lost: u64,
    /// The longest that any frame can have been on its way so far, ns.
    pub worst_ns: u64,
    /// See `lost`.
    pub doubled: u64,
    /// See `lost`.
    pub damaged: u64,
    /// See `lost`.
    pub cut: u64,
}

/// Time on an undisturbed wire.
const DELAY: u64 = MS / 25;

impl Net {
    /// Connects `nodes` nodes by `networks` networks.
    #[must_use]
    pub fn new(nodes: usize, networks: usize) -> Self {
        let wire = Wire { delay: DELAY, jitter: DELAY / 4, ..Wire::default() };
        Self {
            nodes,
            networks,
            wires: vec![wire; nodes * nodes * networks],
            flights: Vec::with_capacity(64),
            free: Vec::with_capacity(64),
            memory: Vec::with_capacity(MEMORY),
            remembered: 0,
            lost: 0,
            worst_ns: 2 * DELAY,
            doubled: 0,
            damaged: 0,
            cut: 0,
        }
    }

    /// Returns the wire from one node to another.
    pub fn wire(&mut self, from: usize, to: usize, network: usize) -> &mut Wire {
        &mut self.wires[(from * self.nodes + to) * self.networks + network]
    }

    fn wire_of(&self, from: usize, to: usize, network: usize) -> Wire {
        self.wires[(from * self.nodes + to) * self.networks + network]
    }

    /// Returns how many networks there are.
    #[must_use]
    pub const fn networks(&self) -> usize {
        self.networks
    }

    /// Makes every wire as it was at first.
    pub fn heal(&mut self) {
        self.wires.fill(Wire { delay: DELAY, jitter: DELAY / 4, ..Wire::default() });
    }

    /// Cuts a class in one direction on every network; or takes one cut away.
    pub fn set_cut(&mut self, from: usize, to: usize, classes: &[Class], cut: bool) {
        for network in 0..self.networks {
            for class in classes {
                let count = &mut self.wire(from, to, network).cuts[*class as usize];
                *count = if cut { count.saturating_add(1) } else { count.saturating_sub(1) };
            }
        }
    }

    /// Says whether messages pass in one direction, on whichever network.
    #[must_use]
    pub fn messages_pass(&self, from: usize, to: usize) -> bool {
        (0..self.networks).any(|network| self.wire_of(from, to, network).cuts[Class::Messages as usize] == 0)
    }

    /// Returns how long a message is on its way.
    pub fn message_delay(&self, from: usize, to: usize, random: &mut Random) -> u64 {
        let wire = self.wire_of(from, to, 0);
        // A stream of records loses nothing: what the wire loses comes later.
        let again = if random.below(1000) < u64::from(wire.loss) { 200 * MS } else { 0 };
        wire.delay + random.below(wire.jitter + 1) + again
    }

    /// Sends a frame. Gives each copy that arrives, and when.
    pub fn send(
        &mut self,
        now: u64,
        flight: &Flight,
        class: Class,
        random: &mut Random,
        mut arrives: impl FnMut(u64, u32),
    ) {
        self.remember(flight);
        let wire = self.wire_of(flight.from.into(), flight.to.into(), flight.network.into());
        if wire.cuts[class as usize] > 0 {
            self.cut += 1;
            return;
        }
        // One draw decides in the undisturbed case.
        let draw = random.word();
        if wire.loss > 0 && draw % 1000 < u64::from(wire.loss) {
            self.lost += 1;
            return;
        }
        let copies = if wire.double > 0 && (draw >> 20) % 1000 < u64::from(wire.double) { 2 } else { 1 };
        self.doubled += copies - 1;
        for copy in 0..copies {
            let mut flight = *flight;
            if wire.damage > 0 && (draw >> 40) % 1000 < u64::from(wire.damage) {
                let bit = random.below(WORDS as u64 * 64);
                flight.frame[bit as usize / 64] ^= 1 << (bit % 64);
                self.damaged += 1;
            }
            let jitter = if copy == 0 { (draw >> 8) % (wire.jitter + 1) } else { random.below(wire.jitter + MS) };
            let slot = self.hold(flight);
            arrives(now + wire.delay + jitter, slot);
        }
    }

    /// Puts a frame on its way by hand.
    pub fn hold(&mut self, flight: Flight) -> u32 {
        match self.free.pop() {
            Some(slot) => {
                self.flights[slot as usize] = flight;
                slot
            }
            None => {
                self.flights.push(flight);
                self.flights.len() as u32 - 1
            }
        }
    }

    /// Takes a frame that has arrived.
    pub fn take(&mut self, slot: u32) -> Flight {
        self.free.push(slot);
        self.flights[slot as usize]
    }

    fn remember(&mut self, flight: &Flight) {
        // One in sixteen: what is replayed is then old and new.
        self.remembered += 1;
        if !self.remembered.is_multiple_of(16) {
            return;
        }
        if self.memory.len() < MEMORY {
            self.memory.push(*flight);
        } else {
            self.memory[self.remembered / 16 % MEMORY] = *flight;
        }
    }

    /// Returns a frame that nobody sent: the head of one that passed, its kind and what it says made up.
    pub fn forge(&self, random: &mut Random) -> Option<Flight> {
        if self.memory.is_empty() {
            return None;
        }
        let mut flight = self.memory[random.below(self.memory.len() as u64) as usize];
        let kinds = [Kind::Probe, Kind::Echo, Kind::Fence, Kind::FenceAck];
        flight.frame[word::DYNAMIC] = frame::dynamic(random.pick(&kinds), 0, 0, 0);
        flight.frame[word::TAG] = random.word();
        flight.frame[word::TAG_HIGH] = if random.one_in(2) { random.word() } else { 0 };
        for _ in 0..random.below(3) {
            let at = random.pick(&[word::SEQUENCE, word::SENT, word::STAMP, word::GRANT, word::STANDING]);
            flight.frame[at] = flight.frame[at].wrapping_add(random.below(1 << 20));
        }
        Some(flight)
    }

    /// Returns a frame that passed earlier, as somebody who recorded it would send it again: mostly as it was.
    pub fn replay(&self, random: &mut Random) -> Option<Flight> {
        if self.memory.is_empty() {
            return None;
        }
        let mut flight = self.memory[random.below(self.memory.len() as u64) as usize];
        match random.below(4) {
            0 => flight.frame[random.below(WORDS as u64) as usize] = random.word(),
            1 => std::mem::swap(&mut flight.from, &mut flight.to),
            _ => {}
        }
        Some(flight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn send(net: &mut Net, count: usize) -> Vec<Flight> {
        let mut random = Random::new(1);
        let flight = Flight { from: 0, to: 1, network: 0, frame: [7; WORDS] };
        let mut slots = Vec::new();
        for _ in 0..count {
            net.send(0, &flight, Class::Asked, &mut random, |_, slot| slots.push(slot));
        }
        slots.into_iter().map(|slot| net.take(slot)).collect()
    }

    #[test]
    fn it_does_what_it_was_told_and_nothing_else() {
        let mut net = Net::new(2, 1);
        let arrived = send(&mut net, 1000);
        assert!(arrived.len() == 1000 && arrived.iter().all(|flight| flight.frame == [7; WORDS]));
        net.wire(0, 1, 0).loss = 250;
        let arrived = send(&mut net, 4000).len();
        assert!((2800..3200).contains(&arrived), "{arrived}");
        net.heal();
        net.wire(0, 1, 0).damage = 1000;
        assert!(
            send(&mut net, 50)
                .iter()
                .all(|flight| { flight.frame.iter().map(|word| (word ^ 7).count_ones()).sum::<u32>() == 1 })
        );
        net.heal();
        net.wire(0, 1, 0).double = 1000;
        assert_eq!(send(&mut net, 50).len(), 100);
        assert_eq!((net.damaged, net.doubled), (50, 50));
    }

    #[test]
    fn a_cut_is_of_one_direction_and_class() {
        let mut net = Net::new(2, 2);
        net.set_cut(0, 1, &[Class::Asked], true);
        net.set_cut(0, 1, &[Class::Asked], true);
        net.set_cut(0, 1, &[Class::Asked], false);
        assert!(send(&mut net, 20).is_empty());
        assert!(net.messages_pass(0, 1));
        let mut arrived = 0;
        let back = Flight { from: 1, to: 0, network: 0, frame: [0; WORDS] };
        net.send(0, &back, Class::Asked, &mut Random::new(2), |_, _| arrived += 1);
        let echo = Flight { from: 0, to: 1, network: 0, frame: [0; WORDS] };
        net.send(0, &echo, Class::Answered, &mut Random::new(3), |_, _| arrived += 1);
        assert_eq!(arrived, 2);
        net.set_cut(0, 1, &[Class::Messages], true);
        assert!(!net.messages_pass(0, 1) && net.messages_pass(1, 0));
    }
}
