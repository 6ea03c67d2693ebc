//! What each class of faults does to a world, and how it ends. It draws from what it is given, and decides nothing else.

use super::clock::{Halt, MS, SECOND};
use super::faults::*;
use super::heap::{Event, THREADS};
use super::net::{CLASSES as FRAME_CLASSES, Class};
use super::node::Node;
use super::plan;
use super::world::World;
use crate::xdp::random::Random;
use heartbeat_user::core::agreement::message::Setting;
use heartbeat_user::core::agreement::types::Request;

/// Everything between two nodes.
const ALL: &[Class] = &FRAME_CLASSES;

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
        for number in 0..self.player.ends.len() {
            self.fault(number as u32);
        }
        self.net.heal();
        for place in 0..self.nodes.len() {
            self.nodes[place].paused = [0; THREADS];
            self.nodes[place].disk.hangs_until = 0;
            self.nodes[place].disk.fails = false;
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
        let lasts = random.pick(&[50, 300, 1_000, 3_000]) * MS / 2 + random.below(2_000 * MS);
        if let Some(end) = self.play(class, lasts, &mut random) {
            self.stats.faults[class] += 1;
            self.player.ends.push(end);
            let number = self.player.ends.len() as u32 - 1;
            self.heap.at(self.now + lasts, Event::Fault(number));
        }
        let gap = self.player.gaps[class];
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
                self.nodes[node].paused = [self.now + longest + lasts; THREADS];
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
                self.nodes[node].disk.fails = may;
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

    fn cut(&mut self, class: usize, node: usize, random: &mut Random) -> End {
        let others = || (0..self.plan.nodes).filter(move |other| *other != node);
        let other = others().nth(random.below(self.plan.nodes as u64 - 1) as usize).unwrap_or(0);
        let both = |pairs: Vec<(usize, usize)>| pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        let of_node: Vec<_> = others().map(|other| (node, other)).collect();
        let (pairs, classes): (Vec<_>, &'static [Class]) = match class {
            ONE_WAY => (vec![(node, other)], ALL),
            PARTITION => {
                let side = random.word();
                let apart = |(a, b): &(usize, usize)| (side >> a ^ side >> b) & 1 == 1;
                let pairs = (0..self.plan.nodes).flat_map(|a| (0..self.plan.nodes).map(move |b| (a, b)));
                (pairs.filter(apart).collect(), ALL)
            }
            ISOLATED => (both(of_node), ALL),
            MESSAGES_CUT if random.one_in(2) => (both(vec![(node, other)]), &[Class::Messages]),
            MESSAGES_CUT => (both(of_node), &[Class::Messages]),
            _ if random.one_in(2) => (vec![(node, other)], &[Class::Asked]),
            _ => (both(vec![(node, other)]), &[Class::Answered]),
        };
        for (from, to) in &pairs {
            self.net.set_cut(*from, *to, classes, true);
        }
        End::Cut { pairs, classes }
    }

    /// Cuts pairs of nodes in both directions, so that some hear each other only through a third.
    fn cut_pairs(&mut self, random: &mut Random) -> Option<End> {
        let pairs = intransitive(self.plan.nodes, random)?;
        let pairs: Vec<_> = pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        for (from, to) in &pairs {
            self.net.set_cut(*from, *to, ALL, true);
        }
        Some(End::Cut { pairs, classes: ALL })
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
            End::Slewed(node) => self.slewed_by(node, 0),
            End::Restore(node) if !self.player.over => self.restore(*node),
            End::Boot(_) | End::Start(_) | End::Restore(_) => {}
        }
    }
}

/// Draws pairs that do not hear each other, so that hearing is not transitive among so many nodes; `None`: it always is.
fn intransitive(nodes: usize, random: &mut Random) -> Option<Vec<(usize, usize)>> {
    if nodes < 3 {
        return None;
    }
    let all: Vec<(usize, usize)> = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect();
    match random.below(3) {
        0 => Some(vec![all[random.below(all.len() as u64) as usize]]),
        // In a ring of three everybody hears everybody.
        1 if nodes > 3 => {
            let neighbours = |(a, b): &(usize, usize)| b - a == 1 || b - a == nodes - 1;
            Some(all.into_iter().filter(|pair| !neighbours(pair)).collect())
        }
        _ => loop {
            let cut: Vec<_> = all.iter().copied().filter(|_| random.one_in(2)).collect();
            if is_intransitive(nodes, &cut) {
                return Some(cut);
            }
        },
    }
}

/// Says whether there are two that do not hear each other, and a third that hears both.
fn is_intransitive(nodes: usize, cut: &[(usize, usize)]) -> bool {
    let hears = |a: usize, b: usize| a != b && !cut.contains(&(a.min(b), a.max(b)));
    cut.iter().any(|(a, b)| (0..nodes).any(|third| hears(*a, third) && hears(third, *b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn who_hears_whom_is_drawn_so_that_some_need_a_third() {
        let mut random = Random::new(5);
        assert_eq!(intransitive(2, &mut random), None);
        for nodes in 3..=5 {
            let drawn: BTreeSet<_> = (0..300).filter_map(|_| intransitive(nodes, &mut random)).collect();
            assert!(drawn.iter().all(|cut| is_intransitive(nodes, cut)), "{nodes}");
            assert!(drawn.iter().any(|cut| cut.len() == 1) && drawn.len() >= 3, "{nodes}: {drawn:?}");
        }
        let ring = vec![(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)];
        assert!((0..50).any(|_| intransitive(5, &mut random) == Some(ring.clone())));
        assert!(!is_intransitive(4, &[(0, 2), (0, 3), (1, 2), (1, 3)]), "two sides");
        assert!(!is_intransitive(3, &[]), "nothing is cut");
    }
}
