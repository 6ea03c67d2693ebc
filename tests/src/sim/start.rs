//! The start of a played daemon, in the shipped order: who it is, what of the old one has to go, the page, the cores, the
//! threads. Who it is is decided by the identity that ships.

use super::clock::MS;
use super::disk::Found as OnDisk;
use super::heap::{Event, Thread};
use super::node::{Look, Pacer, Process, Say, Told};
use super::plan::{self, NODES_MAX};
use super::stats::Count;
use super::world::World;
use heartbeat_common::frame::{FLAG_FENCED, FLAG_LEAVING, FLAG_STOPPED};
use heartbeat_common::lease::{self, Words, word};
use heartbeat_common::view::VoteId;
use heartbeat_user::core::agreement::Agreement;
use heartbeat_user::core::agreement::document::{Member, QuorumTerms};
use heartbeat_user::core::agreement::types::{Configured, QuarantineTerms, Setup, Timing};
use heartbeat_user::core::agreement::voter::State;
use heartbeat_user::core::controller::Controller;
use heartbeat_user::core::facts::Facts;
use heartbeat_user::core::identity::{self, Disk, Found, Identity, Kept};
use heartbeat_user::io::agreement::begin;
use heartbeat_user::io::agreement::clocks::Clocks;
use heartbeat_user::io::disk::Owner;
use std::collections::VecDeque;
use std::time::Duration;

impl World {
    /// A daemon starts on a machine that runs.
    pub fn start(&mut self, place: usize, life: u32) {
        let now = self.now;
        let node = &self.nodes[place];
        if !node.up || node.life != life || node.process.is_some() {
            return;
        }
        if node.halted_until > now {
            return self.heap.at(node.halted_until, Event::Start(place as u8, life));
        }
        let seed = self.random.word() as u32;
        let state = self.read_state(place);
        let Ok(identity) = identity::decide(&self.found(place, seed)) else { return };
        if !identity.adopt && self.nodes[place].service.runs(now).is_some() {
            // Nobody acts under the page of the old one from here on, and what it ran has to be gone before the new one
            // is heard.
            self.nodes[place].kernel.page.set(word::CLOSED, 1);
            self.look_at_page(place, now);
            return self.heap.at(now + 20 * MS, Event::Start(place as u8, life));
        }
        self.stats.add(if identity.adopt { Count::Adopted } else { Count::Started });
        if self.nodes[place].vote_lost {
            self.stats.add(Count::StatesLost);
        }
        self.say(place, || format!("starts: {identity:?}"));
        let rises = self.ghost.takes(place, &identity);
        self.check(rises);
        self.take_on(place, &identity);
        self.run_daemon(place, &identity, state);
    }

    /// Reads the agreement's state before anything is decided: where it is lost, nothing of the old incarnation goes on.
    fn read_state(&mut self, place: usize) -> Option<State> {
        let node = &mut self.nodes[place];
        let remembered = lease::remembered(&node.kernel.page, node.boot);
        (node.remembered, node.vote_lost) = (remembered.sequence, false);
        let owner = Owner { node: plan::id(place), state_id: node.state_id() };
        match node.disk.read(owner, remembered) {
            OnDisk::Absent => None,
            OnDisk::Whole(state) => Some(*state),
            OnDisk::Lost(lost) => {
                node.vote_lost = true;
                self.say(place, || format!("the agreement's file: {lost}"));
                None
            }
        }
    }

    /// What there is to decide by.
    fn found(&mut self, place: usize, seed: u32) -> Found {
        let node = &mut self.nodes[place];
        // A disk that was lost and filled again by the others says which incarnation of this node they know.
        let admitted = node.disk.admitted(plan::id(place));
        let newest_own = node.disk.identity.map_or(0, |disk| disk.kept.incarnation);
        if admitted > newest_own {
            node.learnt = node.learnt.max(admitted);
        }
        // What the kernel has told the peers counts like what the disk says.
        let told_left = node.pins.is_some() && node.kernel.flags & (FLAG_LEAVING | FLAG_STOPPED | FLAG_FENCED) != 0;
        let disk = node.disk.identity.map(|disk| Disk { left: disk.left || told_left, ..disk });
        Found { disk, pins: node.pins, boot: node.boot, learnt: node.learnt, vote_lost: node.vote_lost, seed }
    }

    /// Puts the identity on disk, and then into the kernel.
    fn take_on(&mut self, place: usize, identity: &Identity) {
        let fresh = self.random.word();
        let node = &mut self.nodes[place];
        let state_id = node.disk.identity.map_or(fresh, |disk| disk.kept.state_id);
        let Identity { incarnation, generation, adopt, .. } = *identity;
        let kept = Kept { incarnation, generation, state_id, boot: node.boot };
        node.disk.identity = Some(Disk { kept, left: false });
        node.pins = Some(kept);
        node.learnt = 0;
        if !adopt {
            node.kernel.renew();
            node.kernel.progress_ns = node.clock.mono(self.now);
            node.ran = node.kernel.progress_ns;
        }
        node.gap.open = true;
        node.started = self.now;
        node.adopted = adopt && lease::is_of(&node.kernel.page, incarnation, node.boot);
        if !node.adopted {
            lease::begin(&node.kernel.page, incarnation, node.boot);
        }
        node.kernel.attached = true;
        node.kernel.flags = 0;
        let say = Say::nothing(incarnation, generation, self.plan.settings_of(place));
        for path in 0..self.plan.paths() {
            let spec = self.plan.path_spec(place, path);
            let (peer, _) = self.plan.peer_of(place, path);
            node.kernel.tell(path, &spec, &say, peer);
        }
    }

    fn run_daemon(&mut self, place: usize, identity: &Identity, state: Option<State>) {
        let now = self.now;
        let setup = self.setup(place, identity);
        let times = self.times(place);
        let node = &mut self.nodes[place];
        let adopted = node.adopted.then(|| begin::adopted(&node.kernel.page, times, node.kernel.progress_ns));
        begin::remember(&node.kernel.page, state.as_ref(), setup.fresh_vote);
        let agreement = match state {
            Some(state) => Agreement::resume(setup, state, adopted, times),
            None => Agreement::new(setup, times),
        };
        let say = Say::nothing(identity.incarnation, identity.generation, self.plan.settings_of(place));
        let process = Process {
            incarnation: identity.incarnation,
            generation: identity.generation,
            controller: Controller::new(self.plan.settings(place, identity.incarnation), times.mono),
            agreement,
            looks: vec![Look::default(); self.plan.paths()],
            facts: Facts::default(),
            clocks: Clocks::begun(times),
            pacer: Pacer::new(&self.plan, place, &say, times.mono.0, &mut self.random),
            due: times.mono.0,
            inbox: VecDeque::new(),
            standing: None,
            stops: false,
            nonce: 0,
            requests: 0,
            began: times.mono.0,
            late_at: 0,
            told_isolated: false,
            told: Told::default(),
            greeted: 0,
            known: [0; NODES_MAX],
        };
        node.life += 1;
        let life = node.life;
        node.process = Some(process);
        for peer in 0..self.plan.nodes {
            // Whatever a peer still holds of a daemon before ends with this one's first word.
            self.lose_connection(place, peer);
        }
        self.carry_agreement(place);
        self.heap.at(now + 20_000, Event::Wake(place as u8, Thread::Decider, life));
        self.heap.at(now + 30 * MS, Event::Wake(place as u8, Thread::Pacer, life));
        self.look_at_page(place, now);
    }

    fn setup(&mut self, place: usize, identity: &Identity) -> Setup {
        let plan = &self.plan;
        let detection = plan.rule.detection_time();
        let hour = 3_600_000 * MS;
        let weight = |node: usize| u8::from(plan.weightless != Some(node));
        let ends = self.nodes[place].ends.iter().filter(|at| self.now - **at < hour).count();
        Setup {
            own: Member { node: plan::id(place), incarnation: identity.incarnation },
            generation: identity.generation,
            configured: (0..plan.nodes).map(|node| Configured { node: plan::id(node), weight: weight(node) }).collect(),
            settings: plan.settings_of(place),
            lease_ms: plan.lease_ms,
            stop_ms: plan.stop_ms,
            quorum: QuorumTerms { dynamic: plan.dynamic, lower_priority: plan.lower_priority.map(plan::id) },
            timing: Timing {
                tick: Duration::from_millis(20),
                opening: detection,
                stage: Duration::from_millis(200),
                pruning: Duration::from_secs(1),
                control_limit: plan.control_limit(),
                hang: plan.hang_limit,
                detection,
                delay: plan.rule.delay,
                leave: Duration::from_secs(5),
            },
            quarantine: QuarantineTerms { threshold: plan.quarantine_threshold, duration: plan.quarantine },
            own_ends: ends.min(2) as u8,
            join_only: self.nodes[place].join_only,
            fresh_vote: VoteId([self.random.word() | 1, self.random.word()]),
            remembered: self.nodes[place].remembered,
            seed: self.random.word(),
        }
    }
}
