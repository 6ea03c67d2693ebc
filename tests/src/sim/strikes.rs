//! What each class of faults does to a world, and how it ends. It draws from what it is given, and decides nothing else.

use super::clock::{Halt, MS, SECOND};
use super::faults::*;
use super::heap::{Event, THREADS};
use super::node::Node;
use super::plan;
use super::world::World;
use crate::xdp::random::Random;
use heartbeat_user::core::agreement::message::Setting;
use heartbeat_user::core::agreement::types::Request;

/// The shortest time for which a machine stands still.
const HALT_MIN: u64 = 25 * MS;

impl World {
    /// Has the first fault of each class drawn.
    pub fn start_faults(&mut self) {
        for class in (0..CLASSES).filter(|class| self.plan.faults.has(*class) && *class != SIGNING) {
            let gap = self.player.gaps[class];
            let at = self.now + 2 * SECOND + self.player.randoms[class].below(2 * gap);
            self.heap.at(at, Event::Draw(class as u8));
        }
    }

    /// Ends every fault that can be ended at once, and draws no more.
    pub fn heal(&mut self) {
        self.player.over = true;
        // No machine sleeps for a moment only, and what has to notice a sleep counts on that.
        let asleep = self.nodes.iter().filter(|node| !node.clock.runs()).map(|node| node.halted_at + HALT_MIN);
        if let Some(until) = asleep.max() {
            self.run_until(until.max(self.now));
        }
        for number in 0..self.player.ends.len() {
            self.fault(number as u32);
        }
        self.net.heal();
        for place in 0..self.nodes.len() {
            self.nodes[place].paused = [0; THREADS];
            self.nodes[place].disk.hangs_until = 0;
            self.nodes[place].disk.fails = false;
            self.nodes[place].disk.fails_late = false;
            if std::mem::take(&mut self.nodes[place].join_only) {
                self.crash_process(place, Some(50 * MS));
            }
            if !self.nodes[place].up {
                self.boot(place);
            } else if self.nodes[place].process.is_none() {
                let life = self.nodes[place].life;
                self.nodes[place].stays_down = false;
                self.heap.at(self.now + 100 * MS, Event::Start(place as u8, life));
            }
        }
        // A thread that was paused would else do what it was kept from only when its pause would have ended.
        self.heap.release(self.now);
    }

    /// A fault of a class comes, and the next one is foreseen.
    pub fn draw_fault(&mut self, class: u8) {
        if self.player.over {
            return;
        }
        let class = usize::from(class);
        let mut random = self.player.randoms[class].clone();
        let patient = self.plan.patient && matches!(class, LONG_PAUSE | MACHINE_PAUSED);
        let lasts = match class {
            LONG_PAUSE if patient => SECOND + random.below(89 * SECOND),
            MACHINE_PAUSED if patient => SECOND + random.below(59 * SECOND),
            _ => random.pick(&[50, 300, 1_000, 3_000]) * MS / 2 + random.below(2_000 * MS),
        };
        if let Some(end) = self.play(class, lasts, &mut random) {
            self.stats.faults[class] += 1;
            self.player.ends.push(end);
            let number = self.player.ends.len() as u32 - 1;
            self.heap.at(self.now + lasts, Event::Fault(number));
        }
        let gap = if patient { 40 * SECOND } else { self.player.gaps[class] };
        let next = self.now + gap / 4 + random.below(gap * 3 / 2);
        self.player.randoms[class] = random;
        self.heap.at(next, Event::Draw(class as u8));
    }

    fn play(&mut self, class: usize, lasts: u64, random: &mut Random) -> Option<End> {
        let node = random.below(self.plan.nodes as u64) as usize;
        if self.trace {
            self.say(node, || format!("fault: {} for {} ms", NAMES[class], lasts / MS));
        }
        match class {
            LOSS..=DAMAGE => Some(self.disturb(class, random)),
            ONE_WAY..=ONE_KIND_CUT => Some(self.cut(class, node, random)),
            INTRANSITIVE => self.cut_pairs(random),
            THREAD_PAUSED => {
                self.nodes[node].paused[random.below(THREADS as u64) as usize] = self.now + lasts;
                Some(End::Nothing)
            }
            DAEMON_PAUSED => {
                self.nodes[node].paused = [self.now + lasts; THREADS];
                Some(End::Nothing)
            }
            LONG_PAUSE => {
                let longest = self.longest_lease().max((self.plan.hang_limit.as_nanos() as u64).min(5 * SECOND));
                let more = if self.plan.patient { 0 } else { longest };
                self.nodes[node].paused = [self.now + more + lasts; THREADS];
                Some(End::Nothing)
            }
            SLEEP | MACHINE_PAUSED => self.stand_still(class, node, lasts),
            HANDOVER => {
                self.nodes[node].process.as_ref()?;
                // It closes its connections and gives up its disk; kernel, page and what runs go on.
                self.crash_process(node, Some(20 * MS + random.below(300 * MS)));
                Some(End::Nothing)
            }
            FORCED => {
                if self.nodes[node].process.is_none() || self.acting(node).is_some() {
                    return None;
                }
                self.request(node, Request::Force)?;
                Some(End::Nothing)
            }
            DAEMON_KILLED => {
                self.nodes[node].process.as_ref()?;
                self.crash_process(node, Some(random.below(lasts + 1)));
                Some(End::Nothing)
            }
            MACHINE_FALLS | DISK_LOST => self.fall(class, node),
            DISK_FAILS => {
                let may = self.can_lose(node);
                let disk = &mut self.nodes[node].disk;
                if random.one_in(3) {
                    disk.fails_late = may;
                } else {
                    disk.fails = may;
                }
                may.then_some(End::Nothing)
            }
            DISK_HANGS => {
                self.nodes[node].disk.hangs_until = self.now + lasts;
                Some(End::Nothing)
            }
            LEAVE => {
                self.request(node, Request::Leave)?;
                Some(End::Start(node))
            }
            JOIN_ONLY => {
                self.nodes[node].process.as_ref()?;
                self.nodes[node].join_only = true;
                self.crash_process(node, Some(random.below(300 * MS)));
                Some(End::MayStand(node))
            }
            REQUEST => self.ask(node, random),
            REPLAY => {
                for _ in 0..random.below(40) {
                    if let Some(flight) = self.net.replay(random) {
                        let slot = self.net.hold(flight);
                        let at = self.now + random.below(300 * MS);
                        let replayed = &mut self.nodes[usize::from(flight.to)].replayed[usize::from(flight.from)];
                        *replayed = at.max(*replayed);
                        self.heap.at(at, Event::Frame(slot));
                    }
                }
                Some(End::Nothing)
            }
            SLEWED => self.slew(node, random),
            PUT_BACK | SPOILED => self.spoil(class, node, lasts, random),
            FORGED => {
                for _ in 0..random.below(40) {
                    if let Some(flight) = self.net.forge(random) {
                        let slot = self.net.hold(flight);
                        self.heap.at(self.now + random.below(300 * MS), Event::Frame(slot));
                    }
                }
                Some(End::Nothing)
            }
            SNAPSHOT => {
                let whole = self.nodes[node].up && self.nodes[node].clock.runs();
                whole.then(|| End::Restore(Box::new(Node { taken_at: self.now, ..self.nodes[node].clone() })))
            }
            UNSEEN => {
                if !self.nodes[node].up {
                    return None;
                }
                self.run_on(node);
                self.crash_machine(node);
                if self.nodes[node].disk.put_back(1 + random.below(4) as usize) {
                    self.ghost.comes_back(node);
                }
                Some(End::Boot(node))
            }
            _ => None,
        }
    }

    /// Slews the disciplined clocks of a machine, a little or as hard as it can be done.
    fn slew(&mut self, node: usize, random: &mut Random) -> Option<End> {
        if !self.nodes[node].up || !self.nodes[node].clock.runs() || self.nodes[node].process.is_none() {
            return None;
        }
        let ppb = random.pick(&[500_000, 5_000_000, 80_000_000]) * random.pick(&[-1, 1]);
        self.slewed_by(node, ppb);
        Some(End::Slewed(node))
    }

    /// A daemon is killed, and what it comes back to is an older copy of its file, or a damaged one.
    fn spoil(&mut self, class: usize, node: usize, lasts: u64, random: &mut Random) -> Option<End> {
        if !self.nodes[node].up || self.nodes[node].process.is_none() || !self.can_lose(node) {
            return None;
        }
        self.crash_process(node, Some(random.below(lasts + 1)));
        if class == SPOILED {
            self.nodes[node].disk.damage = Some(random.word());
        } else if !self.nodes[node].disk.put_back(1 + random.below(4) as usize) {
            return None;
        }
        self.ghost.forget(node);
        Some(End::Nothing)
    }

    fn disturb(&mut self, class: usize, random: &mut Random) -> End {
        let from = random.below(self.plan.nodes as u64) as usize;
        let to = (from + 1 + random.below(self.plan.nodes as u64 - 1) as usize) % self.plan.nodes;
        let network = random.below(self.plan.networks as u64) as usize;
        let rate = random.pick(&[20, 200, 600]);
        let wire = self.net.wire(from, to, network);
        let what = match class {
            LOSS => Wrong::Loss(rate),
            DELAY => Wrong::Delay(random.pick(&[5, 60, 150, 400]) * MS),
            DOUBLE => Wrong::Double(rate),
            _ => Wrong::Damage(rate),
        };
        match what {
            Wrong::Loss(rate) => wire.loss += rate,
            Wrong::Double(rate) => wire.double += rate,
            Wrong::Damage(rate) => wire.damage += rate,
            Wrong::Delay(more) => {
                wire.delay += more;
                wire.jitter += more / 2;
                let worst = wire.delay + wire.jitter + MS;
                self.net.worst_ns = self.net.worst_ns.max(worst);
            }
        }
        End::Wire { from, to, network, what }
    }

    fn stand_still(&mut self, class: usize, node: usize, lasts: u64) -> Option<End> {
        if !self.nodes[node].up || !self.nodes[node].clock.runs() {
            return None;
        }
        let halt = if class == MACHINE_PAUSED { Halt::Pause } else { Halt::Sleep };
        self.halt(node, halt, self.now + lasts);
        Some(End::RunOn(node))
    }

    fn fall(&mut self, class: usize, node: usize) -> Option<End> {
        if !self.nodes[node].up || class == DISK_LOST && !self.can_lose(node) {
            return None;
        }
        self.run_on(node);
        self.crash_machine(node);
        if class == DISK_LOST {
            self.nodes[node].disk.lose();
            self.ghost.forget(node);
            self.ghost.forget_incarnation(node);
        }
        Some(End::Boot(node))
    }

    /// Says whether the votes of the newest view are a majority without this node's: no cluster outlives the loss of
    /// more.
    #[must_use]
    pub fn can_lose(&self, node: usize) -> bool {
        self.recoverable_without(Some(node))
    }

    /// Says whether the votes of the newest view that are on a disk are a majority.
    #[must_use]
    pub fn recoverable_without(&self, node: Option<usize>) -> bool {
        let kept = |vote| {
            let has = |other: &Node| other.disk.agreement.as_ref().is_some_and(|state| state.vote == vote);
            self.nodes.iter().any(|other| Some(other.place) != node && other.disk.is_whole() && has(other))
        };
        let enough = |order| {
            self.ghost.view(order).is_some_and(|view| {
                let document = &view.document;
                let weight =
                    document.votes.iter().filter(|vote| kept(vote.id)).map(|vote| u32::from(vote.weight)).sum();
                document.is_majority(weight)
            })
        };
        // The view before too: the newest may not be known to anybody yet.
        let newest = self.ghost.newest;
        let before = self.ghost.view(newest).and_then(|view| self.ghost.before(view)).map(|view| view.name.order);
        enough(newest) && before.is_none_or(enough)
    }

    fn ask(&mut self, node: usize, random: &mut Random) -> Option<End> {
        let stop = self.plan.stop_ms;
        let other = plan::id(random.below(self.plan.nodes as u64) as usize);
        let request = match random.below(8) {
            0 | 1 => Request::Set(Setting::LeaseMs(random.pick(&[400, 500, 800, 2_000]).max(stop + 300))),
            2 => Request::Set(Setting::LowerPriority(Some(other))),
            3 => Request::Set(Setting::Dynamic(random.one_in(2))),
            4 => Request::Fence(other),
            5 => Request::Set(Setting::StopMs(random.pick(&[0, 30, 60, 100]))),
            6 => Request::Set(Setting::Weight(other, u8::from(!random.one_in(3)))),
            _ => Request::ClearQuarantine(other),
        };
        self.request(node, request)?;
        Some(End::Nothing)
    }

    /// A fault is over.
    pub fn fault(&mut self, number: u32) {
        match std::mem::replace(&mut self.player.ends[number as usize], End::Nothing) {
            End::Nothing => {}
            End::Wire { from, to, network, what } => {
                let wire = self.net.wire(from, to, network);
                match what {
                    Wrong::Loss(rate) => wire.loss = wire.loss.saturating_sub(rate),
                    Wrong::Double(rate) => wire.double = wire.double.saturating_sub(rate),
                    Wrong::Damage(rate) => wire.damage = wire.damage.saturating_sub(rate),
                    Wrong::Delay(more) => {
                        wire.delay = wire.delay.saturating_sub(more);
                        wire.jitter = wire.jitter.saturating_sub(more / 2);
                    }
                }
            }
            End::Cut { pairs, classes } => {
                for (from, to) in pairs {
                    self.net.set_cut(from, to, classes, false);
                }
            }
            End::RunOn(node) => self.run_on(node),
            End::Boot(node) if !self.nodes[node].up => self.boot(node),
            End::Start(node) if self.nodes[node].stays_down => {
                self.nodes[node].stays_down = false;
                let life = self.nodes[node].life;
                self.heap.at(self.now, Event::Start(node as u8, life));
            }
            End::MayStand(node) => {
                if std::mem::take(&mut self.nodes[node].join_only) {
                    self.crash_process(node, Some(50 * MS));
                }
            }
            End::Slewed(node) => self.slewed_by(node, 0),
            End::Restore(node) if !self.player.over => self.restore(*node),
            End::Boot(_) | End::Start(_) | End::Restore(_) => {}
        }
    }
}
