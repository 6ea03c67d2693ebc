//! Runs worlds by seed: faults first and safety, then none and liveness. It prints what a failing seed needs to be played
//! again, and counts what all of them went through.

use super::clock::{MS, SECOND};
use super::faults;
use super::ghost::Violation;
use super::heap::Event;
use super::plan::{self, Plan};
use super::stats::{Count, Stats};
use super::world::{START, World};
use heartbeat_common::lease;
use heartbeat_user::core::agreement::types::Request;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A world that broke a property.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its seed.
    pub seed: u64,
    /// What did not hold, first of all.
    pub violation: Violation,
    /// When, after the world began.
    pub at: Duration,
    /// Classes of faults without which it still happens are off.
    pub plan: Plan,
}

/// What a run of many worlds came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Counts of all.
    pub stats: Stats,
    /// Worlds that broke a property, in order of their seeds.
    pub failures: Vec<Failure>,
    /// How long it took.
    pub took: Duration,
}

/// Longest time between two orders to create the cluster, until it is.
const INIT_AGAIN: u64 = 500 * MS;
/// What a fault that was drawn last can take to end by itself, and daemons to start.
const SETTLE: u64 = 6 * SECOND;

/// Plays a world, and returns it as it was at the end or at the first violation.
#[must_use]
pub fn play(plan: &Plan, trace: bool) -> World {
    let mut world = World::new(plan.clone());
    world.trace = trace;
    world.stats.add(Count::Worlds);
    world.begin();
    world.heap.at(START + SECOND, Event::Script(0));
    world.run_until(START + plan.safety_ns);
    if world.violation.is_none() {
        world.heal();
        world.run_until(world.now + SETTLE);
        // Whoever left in the meantime comes back once more.
        world.heal();
        let end = world.now + converges_within(plan);
        world.run_until(end);
    }
    if world.violation.is_none() && !world.player.void() {
        settled(&mut world);
    }
    world.stats.simulated_ns = world.now - START;
    for _ in world.ghost.views() {
        world.stats.add(Count::Decided);
    }
    world
}

/// Returns how long a cluster without faults may take until all are members and act: three detection times, twice the
/// longest lease that may still run, the opening of two regroups, and a daemon's back-off after its ends.
#[must_use]
pub fn converges_within(plan: &Plan) -> u64 {
    let longest = u64::from(plan.lease_ms.max(2_000)) * MS;
    5 * plan.detection_ns() + 2 * longest + 8 * SECOND
}

/// "After the heal one view, all healthy nodes members and acting."
fn settled(world: &mut World) {
    if world.ghost.newest.number() != 0 && !world.recoverable_without(None) {
        world.stats.add(Count::Unrecoverable);
        return;
    }
    let newest = world.ghost.newest;
    for place in 0..world.nodes.len() {
        let name = plan::name(place);
        let node = &world.nodes[place];
        let installed = node.disk.agreement.as_ref().map(|state| state.installed.order);
        let own = world.member(place);
        let is_member = own.is_some_and(|own| world.ghost.has_member(newest, own) == Some(true));
        let fault = if own.is_none() {
            format!("{name} does not run")
        } else if installed != Some(newest) {
            format!("{name} holds {installed:?}, and {newest:?} was decided")
        } else if !is_member {
            format!("{name} is no member of {newest:?}")
        } else if let Err(why) = lease::acting(&node.kernel.page, node.clock.boot(world.now)) {
            format!("{name} does not act in {newest:?}: {why:?}")
        } else {
            continue;
        };
        world.check(super::ghost::broken("L4", fault));
        return;
    }
    world.stats.add(Count::Settled);
}

impl World {
    /// The operator creates the cluster, once: on the first node, again only while nothing came of it.
    pub fn create(&mut self) {
        if self.ghost.newest.is_view() {
            return;
        }
        let instance = [self.random.word(), self.random.word()];
        self.request(0, Request::Init { instance });
        self.heap.at(self.now + INIT_AGAIN, Event::Script(0));
    }
}

/// Plays one world.
#[must_use]
pub fn world(plan: Plan) -> (Stats, Option<Failure>) {
    let seed = plan.seed;
    let world = play(&plan, false);
    let at = Duration::from_nanos(world.now - START);
    let failure = world.violation.map(|violation| Failure { seed, violation, at, plan });
    (world.stats, failure)
}

/// Switches classes of faults off one by one, as long as the same property breaks.
#[must_use]
pub fn shrink(failure: &Failure) -> Failure {
    let mut best = failure.clone();
    let breaks = |plan: &Plan| {
        let world = play(plan, false);
        let at = Duration::from_nanos(world.now - START);
        let same = world.violation.filter(|violation| violation.property == failure.violation.property);
        same.map(|violation| Failure { seed: failure.seed, violation, at, plan: plan.clone() })
    };
    let mut off = |change: &dyn Fn(&mut Plan)| {
        let mut plan = best.plan.clone();
        change(&mut plan);
        if plan != best.plan
            && let Some(smaller) = breaks(&plan)
        {
            best = smaller;
        }
    };
    for class in 0..faults::CLASSES {
        off(&|plan| plan.faults.classes &= !(1 << class));
    }
    best
}

/// How far a run of many worlds is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Worlds played.
    pub played: u64,
    /// Of so many.
    pub of: u64,
    /// Simulated time, ns.
    pub simulated_ns: u64,
    /// Real time.
    pub took: Duration,
    /// Worlds that broke a property.
    pub failures: usize,
}

/// How often progress is told.
const TELL: Duration = Duration::from_secs(10);

/// Plays `count` seeds from `first` on, on `threads` threads, each as `draw` has it; stops early after `failures_max`
/// failures. `tell` is called now and then.
#[must_use]
pub fn many(
    first: u64,
    count: u64,
    threads: usize,
    failures_max: usize,
    draw: &(dyn Fn(u64) -> Plan + Sync),
    tell: &(dyn Fn(&Progress) + Sync),
) -> Outcome {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let sum = Mutex::new((Outcome::default(), Duration::ZERO));
    let add = |stats: &Stats, failure: Option<Failure>| {
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        let (outcome, told) = &mut *sum;
        outcome.stats.merge(stats);
        outcome.failures.extend(failure);
        let (took, failures) = (began.elapsed(), outcome.failures.len());
        if failures >= failures_max {
            next.store(count, Ordering::Relaxed);
        }
        if took >= *told + TELL {
            *told = took;
            let (played, simulated_ns) = (outcome.stats.of(Count::Worlds), outcome.stats.simulated_ns);
            tell(&Progress { played, of: count, simulated_ns, took, failures });
        }
    };
    let play = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            let (stats, failure) = world(draw(first + index));
            add(&stats, failure);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(play);
        }
    });
    let (mut outcome, _) = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
    outcome.failures.sort_by_key(|failure| failure.seed);
    outcome.took = began.elapsed();
    outcome
}
