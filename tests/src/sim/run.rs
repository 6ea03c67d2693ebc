//! Runs many worlds by seed: it keeps what a failing seed needs to be played again, and counts what all of them went
//! through.

use super::faults;
use super::ghost::Violation;
use super::phases::play;
use super::plan::Plan;
use super::stats::{Count, Stats};
use super::world::START;
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
