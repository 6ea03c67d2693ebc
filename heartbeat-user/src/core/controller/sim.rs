//! A world in virtual time for tests: this node's kernel, pacer and decider around the real core, and its peers.
//! It checks what must hold at every step; it decides nothing for the core.

use super::*;
use crate::core::ids::NetworkId;
use crate::core::path::{ATTEMPTS, Attempt};
use crate::core::settings::{NetworkSpec, NodeSpec, PathSettings};
use heartbeat_common::frame::{self, Kind};
use heartbeat_common::tick::Tick;

pub const MS: u64 = 1_000_000;
pub const LAN: PathSettings =
    PathSettings { delay: Duration::from_millis(100), threshold: 5, lost: 2, unreachable: 4, failed: 5 };
/// Round trip.
const RTT: u64 = 80_000;
/// When the world begins, ns.
pub const START: u64 = 1_000_000 * MS;

/// Settings of `peers` peers (1 and up) on `networks` networks.
pub fn settings(peers: u16, networks: u16, rule: PathSettings) -> Settings {
    let nodes = (1..=peers).map(|id| NodeSpec { id: NodeId(id), name: format!("n{id}") }).collect();
    let nets = (1..=networks).map(|id| NetworkSpec { id: NetworkId(id), name: format!("net{id}") }).collect();
    let path = |network: u16, node: u16| PathSpec {
        node: NodeId(node),
        network: NetworkId(network),
        local: format!("10.{network}.0.100").parse().unwrap(),
        peer: format!("10.{network}.0.{node}").parse().unwrap(),
        settings: rule,
    };
    let paths = (1..=peers).flat_map(|node| (1..=networks).map(move |network| (network, node)));
    Settings {
        incarnation: 50,
        hash: 0x5e7,
        nodes,
        networks: nets,
        paths: paths.map(|(network, node)| path(network, node)).collect(),
        stall_limit: rule.detection_time(),
        hang_limit: Duration::from_secs(60),
        lateness_budget: Duration::from_millis(25),
    }
}

/// A span of time in ms after the start.
pub type Span = (u64, u64);

fn within(spans: &[Span], now: u64) -> Option<u64> {
    spans.iter().find(|(from, to)| (START + from * MS..START + to * MS).contains(&now)).map(|(_, to)| START + to * MS)
}

type Shown = (Tick<u64>, [Attempt; ATTEMPTS], bool, bool);

pub struct Wire {
    pub tick: Tick<u64>,
    pub attempts: [Attempt; ATTEMPTS],
    delay: u64,
    paced: u64,
    extra: u64,
    next_send: u64,
    next_probe: u64,
    echoes: Vec<u64>,
    /// What the core was shown of it last.
    shown: Option<Shown>,
    /// Departures so far, paced ones.
    pub departures: Vec<u64>,
    /// Neither probes nor echoes pass.
    pub cut: Vec<Span>,
    /// The neighbour does not resolve: nothing leaves.
    pub unresolved: Vec<Span>,
    pub usable: bool,
    pub mute: bool,
}

pub struct World {
    pub now: u64,
    pub core: Controller,
    pub wires: Vec<Wire>,
    /// This node's pacer and decider do not run.
    pub stopped: Vec<Span>,
    /// Its decider alone does not run.
    pub decider_stopped: Vec<Span>,
    /// The decider wakes this much too late, always, ns.
    pub sloth: u64,
    /// The pacer is this much late for one probe after the other, round and round, ns; it catches up.
    pub jitter: Vec<u64>,
    pub events: Vec<Event>,
    bursts: Vec<(NodeId, u64)>,
    wake: u64,
}

impl World {
    /// `phases` (ms) of this node's and the peers' probes on each path.
    pub fn new(settings: Settings, phases: impl Fn(usize) -> (u64, u64)) -> Self {
        let wires = settings.paths.iter().enumerate().map(|(index, spec)| Wire {
            tick: Tick { peer_incarnation: 7, ..Tick::default() },
            attempts: Default::default(),
            delay: spec.settings.delay.as_nanos() as u64,
            paced: 0,
            extra: 1,
            next_send: START + phases(index).0 * MS,
            next_probe: START + phases(index).1 * MS,
            echoes: Vec::new(),
            shown: None,
            departures: Vec::new(),
            cut: Vec::new(),
            unresolved: Vec::new(),
            usable: true,
            mute: false,
        });
        Self {
            now: START,
            wires: wires.collect(),
            core: Controller::new(settings, MonoTime(START)),
            stopped: Vec::new(),
            decider_stopped: Vec::new(),
            sloth: 0,
            jitter: vec![0],
            events: Vec::new(),
            bursts: Vec::new(),
            wake: START,
        }
    }

    /// Cuts every path of a peer for a span.
    pub fn cut(&mut self, node: u16, span: Span) {
        for (wire, spec) in self.wires.iter_mut().zip(&self.core.settings().paths) {
            if spec.node == NodeId(node) {
                wire.cut.push(span);
            }
        }
    }

    /// Runs until `ms` after the start.
    pub fn run(&mut self, ms: u64) {
        let end = START + ms * MS;
        loop {
            let decider = [&self.stopped[..], &self.decider_stopped[..]].concat();
            let wake = self.wake + self.sloth;
            let wake = within(&decider, wake).unwrap_or(wake);
            let mut next = (wake, None);
            for (index, wire) in self.wires.iter().enumerate() {
                let late = self.jitter[(wire.paced >> 1) as usize % self.jitter.len()];
                let send = within(&self.stopped, wire.next_send + late).unwrap_or(wire.next_send + late);
                let echo = wire.echoes.first().copied().unwrap_or(u64::MAX);
                for (time, what) in [(echo, 0), (wire.next_probe, 1), (send, 2)] {
                    // What the kernel and the pacer do at an instant comes before what the decider does at it.
                    if time <= next.0 {
                        next = (time, Some((index, what)));
                    }
                }
            }
            if next.0 > end {
                return;
            }
            self.now = next.0;
            match next.1 {
                None => self.decide(),
                Some((index, 0)) => {
                    self.wires[index].echoes.remove(0);
                    self.hear(index);
                }
                Some((index, 1)) => {
                    self.wires[index].next_probe += self.wires[index].delay;
                    if within(&self.wires[index].cut, self.now).is_none() {
                        let tick = &mut self.wires[index].tick;
                        tick.probes += 1;
                        tick.answers += 1;
                        // The peer has had this node's answer to its probe before.
                        tick.returned_ns = self.now - RTT;
                        self.hear(index);
                    }
                }
                Some((index, _)) => {
                    self.send(index, true);
                    let wire = &mut self.wires[index];
                    wire.next_send = (wire.next_send + wire.delay).max(self.now + 1);
                }
            }
        }
    }

    fn hear(&mut self, index: usize) {
        let tick = &mut self.wires[index].tick;
        tick.heard_ns = self.now;
        tick.peer_dynamic = frame::dynamic(Kind::Echo, 0, 0, 0);
        tick.peer_dynamic_ns = self.now;
    }

    fn send(&mut self, index: usize, paced: bool) {
        let now = self.now;
        let wire = &mut self.wires[index];
        let sequence = if paced {
            wire.paced += 2;
            wire.attempts[(wire.paced >> 1 & 7) as usize] = Attempt { sequence: wire.paced, ns: now };
            wire.paced
        } else {
            wire.extra += 2;
            wire.extra
        };
        if !wire.usable || wire.mute || within(&wire.unresolved, now).is_some() {
            return;
        }
        let slot = &mut wire.tick.departed[(sequence & 7) as usize];
        (slot.sequence, slot.ns) = (sequence, now);
        if paced {
            wire.departures.push(now);
        }
        if within(&wire.cut, now).is_none() && within(&wire.cut, now + RTT).is_none() {
            wire.echoes.push(now + RTT);
        }
    }

    fn decide(&mut self) {
        let (due, now) = (MonoTime(self.wake), MonoTime(self.now));
        self.core.handle(Input::Late { source: LateSource::Decider, due, ran: now }, now);
        self.observe();
        while let Some(command) = self.core.poll_command() {
            if let Command::Burst { node } = command {
                let paths = self.core.settings().paths.clone();
                for (index, _) in paths.iter().enumerate().filter(|(_, spec)| spec.node == node) {
                    self.send(index, false);
                }
                self.bursts.push((node, self.now));
                self.core.handle(Input::BurstSent { node, sent: now }, now);
            }
        }
        self.check_timeout();
        let smallest = self.wires.iter().map(|wire| wire.delay).min().unwrap();
        let rest = self.now + smallest / 2;
        self.wake = self.core.poll_timeout().map_or(rest, |time| time.0.min(rest));
        assert!(self.wake > self.now, "the core wants to run again at once, for ever");
    }

    fn observe(&mut self) {
        let news = |wire: &mut Wire| {
            let shown = Some((wire.tick, wire.attempts, wire.usable, wire.mute));
            std::mem::replace(&mut wire.shown, shown) != shown
        };
        let news: Vec<bool> = self.wires.iter_mut().map(news).collect();
        observe(&mut self.core, &self.wires, self.now, |index| news[index]);
        while let Some(event) = self.core.poll_event() {
            if let EventBody::NodeDown { node, .. } = &event.body {
                self.check_accusation(node.node_id);
            }
            self.events.push(event);
        }
    }

    /// Nobody is accused without a burst one delay before, nor within a detection time of being heard.
    fn check_accusation(&self, node: NodeId) {
        let mut heard = 0;
        let mut delay = 0;
        for ((_, spec, path), wire) in self.core.paths().zip(&self.wires).filter(|((_, spec, _), _)| spec.node == node)
        {
            let rule = path.rule();
            let silence = self.now - wire.tick.heard_ns.max(START);
            assert!(silence >= rule.detection_time().as_nanos() as u64, "{node} accused after {silence} ns");
            let since = wire.departures.iter().filter(|&&at| at > wire.tick.heard_ns).count();
            assert!(path.misses() as usize <= since);
            assert_eq!(spec.node, node);
            heard = heard.max(wire.tick.heard_ns);
            delay = delay.max(wire.delay);
        }
        let burst = self.bursts.iter().any(|(to, at)| *to == node && *at > heard && at + delay <= self.now);
        assert!(burst, "{node} accused without a burst");
    }

    /// Nothing changes before the core's own deadline, as long as the facts stay; so a look that is left out where
    /// nothing is said to have changed would have changed nothing.
    fn check_timeout(&self) {
        let timeout = self.core.poll_timeout().unwrap_or(MonoTime(self.now + 3_600_000 * MS));
        assert!(timeout.0 > self.now);
        for time in [self.now, self.now + (timeout.0 - self.now) / 2, timeout.0 - 1] {
            let mut early = self.core.clone();
            observe(&mut early, &self.wires, time, |_| true);
            assert_eq!((early.poll_event(), early.poll_command()), (None, None), "before {timeout}");
            assert_eq!(early.poll_timeout(), self.core.poll_timeout());
            let counts = |core: &Controller| core.paths().map(|(_, _, path)| path.count()).collect::<Vec<_>>();
            assert_eq!(counts(&early), counts(&self.core));
        }
    }

    /// Names of the events so far, with the node where there is one.
    pub fn told(&self) -> Vec<String> {
        let line = |event: &Event| {
            let json = serde_json::to_value(event).unwrap();
            json["node"].as_str().map_or(event.name().to_string(), |node| format!("{} {node}", event.name()))
        };
        self.events.iter().map(line).collect()
    }

    pub fn named(&self, name: &str) -> Vec<&Event> {
        self.events.iter().filter(|event| event.name() == name).collect()
    }
}

fn observe(core: &mut Controller, wires: &[Wire], now: u64, changed: impl Fn(usize) -> bool) {
    let inputs: Vec<PathInput<'_>> = wires
        .iter()
        .enumerate()
        .map(|(index, wire)| PathInput {
            tick: &wire.tick,
            attempts: &wire.attempts,
            usable: wire.usable,
            mute: wire.mute,
            answers_in_kernel: true,
            changed: changed(index),
        })
        .collect();
    core.observe(MonoTime(now), &inputs);
}
