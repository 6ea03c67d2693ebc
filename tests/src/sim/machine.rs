//! Machines and the daemons on them: how they start, fall, sleep and go on, and how their clocks run. What a daemon does
//! in between is told elsewhere.

use super::clock::{Clock, Halt, MS, SECOND};
use super::heap::{Event, THREADS, Thread};
use super::kernel::Kernel;
use super::node::Node;
use super::properties::Gap;
use super::service::Service;
use super::stats::Count;
use super::world::World;

impl World {
    /// Starts a machine that is off.
    pub fn boot(&mut self, place: usize) {
        let (now, drift) = (self.now, self.player.drift(place));
        let uptime = SECOND + self.random.below(1_000 * SECOND);
        let boot = [self.random.word(), self.random.word()];
        let wait = self.random.below(500 * MS);
        let node = &mut self.nodes[place];
        node.up = true;
        node.clock = Clock::new(now, uptime, drift.0, drift.1);
        node.boot = boot;
        node.life += 1;
        node.kernel = Kernel::new(self.plan.paths());
        node.pins = None;
        node.service = Service { serial: node.service.serial + 1, ..Default::default() };
        node.stays_down = false;
        node.gap = Gap { open: true, ..Gap::default() };
        node.unseen.clear();
        node.ran = uptime;
        let life = node.life;
        self.say(place, || "machine starts".to_owned());
        self.heap.at(now + wait, Event::Start(place as u8, life));
    }

    /// A daemon ends without a word, and its manager starts it again.
    pub fn crash_process(&mut self, place: usize, restart_after: Option<u64>) {
        if self.nodes[place].process.is_none() {
            return;
        }
        self.say(place, || "daemon is killed".to_owned());
        self.end_process(place, true, restart_after);
        for peer in 0..self.nodes.len() {
            self.lose_connection(place, peer);
        }
    }

    /// Ends a daemon's life. `completes`: what the disk had begun is finished.
    pub fn end_process(&mut self, place: usize, completes: bool, restart_after: Option<u64>) {
        let now = self.now;
        self.ghost.withdraws(place, None, now);
        let node = &mut self.nodes[place];
        node.process = None;
        node.life += 1;
        let before = node.disk.agreement.as_ref().map(|state| state.sequence);
        node.disk.crash(completes);
        let life = node.life;
        if let Some(after) = restart_after {
            self.heap.at(now + after, Event::Start(place as u8, life));
        }
        let state = self.nodes[place].disk.agreement.clone();
        if let Some(state) = state.filter(|state| Some(state.sequence) != before) {
            let seen = self.ghost.durable(place, &state, now);
            self.check(seen);
        }
    }

    /// A machine falls.
    pub fn crash_machine(&mut self, place: usize) {
        if !self.nodes[place].up {
            return;
        }
        self.say(place, || "machine falls".to_owned());
        let completes = self.random.one_in(2);
        self.end_process(place, completes, None);
        let damage = self.random.word();
        let node = &mut self.nodes[place];
        if node.disk.older {
            // The page that knew of it falls too. What nobody can see is played in worlds of its own.
            node.disk.damage = Some(damage);
        }
        node.up = false;
        node.learnt = 0;
        node.kernel = Kernel::new(self.plan.paths());
        node.halted_until = 0;
        node.service = Service { serial: node.service.serial + 1, ..Default::default() };
        self.note_grants(place);
    }

    /// A machine sleeps, or is paused from outside.
    pub fn halt(&mut self, place: usize, halt: Halt, until: u64) {
        let node = &mut self.nodes[place];
        if node.up && node.clock.runs() {
            node.clock.halt(self.now, halt);
            node.halted_until = until;
            node.halted_at = self.now;
            self.say(place, || format!("{halt:?} begins"));
        }
    }

    /// It runs on.
    pub fn run_on(&mut self, place: usize) {
        let node = &mut self.nodes[place];
        if !node.clock.runs() {
            let paused = node.clock.is_paused();
            node.clock.run_on(self.now);
            node.halted_until = 0;
            let (mono, stood) = (node.clock.mono(self.now), (node.halted_at, self.now));
            if paused {
                // No stamp shows it: what a sleep before it asks for is asked for on.
                node.unseen.push(stood);
                node.gap = Gap { open: true, resumed: mono, ..node.gap };
            } else {
                node.gap =
                    Gap { open: true, woke: mono, slept: stood.1 - stood.0, looked: false, resumed: node.gap.resumed };
            }
            // What is gated looks at the page before it does anything; CLOCK_MONOTONIC went on from where it stopped.
            self.wake_threads(place);
            self.say(place, || "runs on".to_owned());
            self.wakes(place);
        }
    }

    /// Slews the disciplined clocks of a machine by so much beside its drift, billionths.
    pub fn slewed_by(&mut self, place: usize, ppb: i64) {
        let drift = self.player.drift(place).0;
        let node = &mut self.nodes[place];
        node.clock.slew(self.now, drift + ppb);
        self.say(place, || format!("clock runs wrong by {ppb}"));
        self.wake_threads(place);
    }

    /// Foresees anew when the threads of a daemon are due: a clock goes on from elsewhere, or at another rate.
    fn wake_threads(&mut self, place: usize) {
        let node = &self.nodes[place];
        let (life, due) = (node.life, node.process.as_ref().map(|process| [process.pacer.due, process.due]));
        for (thread, due) in [Thread::Pacer, Thread::Decider].into_iter().zip(due.into_iter().flatten()) {
            self.heap.at(node.clock.when_mono(due, self.now), Event::Wake(place as u8, thread, life));
        }
    }

    /// A machine goes on from a snapshot: memory and disk are those of then.
    pub fn restore(&mut self, mut snapshot: Node) {
        let (now, place) = (self.now, snapshot.place);
        if !self.nodes[place].up {
            return;
        }
        self.say(place, || "goes on from a snapshot".to_owned());
        self.stats.add(Count::Restored);
        snapshot.clock.restore(snapshot.taken_at, now, &self.nodes[place].clock);
        snapshot.life = self.nodes[place].life.max(snapshot.life) + 1;
        snapshot.service.serial = self.nodes[place].service.serial.max(snapshot.service.serial) + 1;
        (snapshot.halted_until, snapshot.paused) = (0, [0; THREADS]);
        // By its own clocks the time since then has not been.
        snapshot.unseen.push((snapshot.taken_at, now));
        snapshot.gap = Gap { open: true, resumed: snapshot.clock.mono(now), ..snapshot.gap };
        snapshot.restored_at = now;
        if let Some(process) = &mut snapshot.process {
            process.pacer.paths.iter_mut().for_each(|path| path.half = None);
        }
        let incarnation = snapshot.disk.identity.map_or(0, |disk| disk.kept.incarnation);
        self.ghost.stands_again(place, snapshot.taken_at);
        self.nodes[place] = snapshot;
        self.ghost.comes_back(place);
        self.ghost.goes_back(place, incarnation);
        self.note_grants(place);
        for peer in 0..self.nodes.len() {
            self.lose_connection(place, peer);
        }
        let life = self.nodes[place].life;
        self.wake_threads(place);
        self.heap.at(now, Event::Disk(place as u8, life));
        self.heap.at(now + 2 * MS, Event::Wake(place as u8, Thread::Keeper, life));
        if self.nodes[place].process.is_none() {
            self.heap.at(now, Event::Start(place as u8, life));
        }
        self.look_at_page(place, now);
    }
}
