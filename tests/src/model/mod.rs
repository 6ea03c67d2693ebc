//! The model check: the shipping agreement under everything that can happen in another order, by stateright. It decides
//! nothing and plays no packets: what the kernel's program does with a frame is judged by `xdp` and the simulator.
//!
//! A node is the very `Agreement` that ships, its disk, and a kernel that always answers. A step feeds one input and
//! carries out all that follows from it, the write included; a crash may cut it off before the first write is durable.
//! Messages between controllers are a set in no order. Things happen in one usual order (whatever is under way arrives,
//! whoever has something to read runs, then time passes) and deviate from it as often as the bounds say: a message is
//! held back, to come at any later time or never, or comes twice; a round is out of its turn; time passes too early. Each
//! fault comes at any time.
//!
//! **Whole bounds** look at every such history that they hold. Of all kinds of faults at once there are too many, so
//! those bounds are **sampled**: seeded walks lead into histories with up to so many faults behind them, and from the end
//! of each walk every history is looked at in which so many more faults come, of any kind and at any time. A search that
//! were cut off instead would see one corner, since it goes deep first. Which states there are depends on neither threads
//! nor time, in both: two runs count the same.
//!
//! **Time** is counted in quanta of 600 ms, as long as every time-out of the `lan` profile and a little more, on one clock
//! for all. Within a quantum everything happens in every order; between two of them, whatever was running is over. So
//! who acts is judged by the page's own arithmetic: a date counts in its quantum, a wait ends in the next one, and only
//! the order of clear, decision, learning and acting within and across quanta is left open. Every controller that is not
//! stalled runs at least once in each quantum.
//!
//! Left out, and looked for elsewhere (simulator, namespaces, directed tests):
//! - drift and steps of clocks, sleep, times shorter than a quantum, leases of different lengths;
//! - frames: kernels hear each other at once, no grant is late or lost (nobody has a longer lease than so), and a fence
//!   and its acknowledgement pass together or not at all;
//! - of a node's reports only the newest is on its way; it is read in the reader's next round, and none is passed on;
//! - a disk that is slow, fails, or shows an older state; forced starts, leaving, changes of settings, quarantine;
//! - what the checker forgets: states are told apart by 64 bits of their digest.

pub mod bounds;
pub mod cluster;
mod form;
pub mod kernel;
pub mod moves;
pub mod node;
pub mod packet;
pub mod shared;
pub mod situations;
pub mod walk;
pub mod watch;

use anyhow::Context;
use bounds::{BOUNDS, Bounds};
use cluster::{Cluster, World};
use moves::{Action, Beyond};
use situations::{SITUATIONS, Tally};
use stateright::{Checker, HasDiscoveries, Model, Path, Property};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};
use walk::Root;
use watch::Broken;

/// How often the checker is looked at, and how often it is said how far it is.
const LOOK: Duration = Duration::from_millis(50);
const SAY: Duration = Duration::from_secs(30);

/// The model, as the checker wants it.
pub struct Views {
    world: Arc<World>,
    roots: Vec<Root>,
    tally: Arc<Tally>,
}

impl Model for Views {
    type State = Cluster;
    type Action = Action;

    fn init_states(&self) -> Vec<Cluster> {
        self.roots.iter().map(|root| root.state.clone()).collect()
    }

    fn actions(&self, state: &Cluster, actions: &mut Vec<Action>) {
        self.world.actions(state, actions);
    }

    fn next_state(&self, last: &Cluster, action: Action) -> Option<Cluster> {
        self.world.next(last, action)
    }

    fn within_boundary(&self, state: &Cluster) -> bool {
        let beyond = self.world.beyond(state);
        match beyond {
            Some(Beyond::Net) => self.tally.net.fetch_add(1, Ordering::Relaxed),
            Some(Beyond::Views) => self.tally.views.fetch_add(1, Ordering::Relaxed),
            None => 0,
        };
        beyond.is_none()
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            // Every state is judged by each property once, so by this one all are counted.
            Property::always(
                "S1: one document of each order, each following the one before",
                |views: &Self, state: &Cluster| {
                    views.tally.count(state);
                    state.watch.broken != Some(Broken::Agreement)
                },
            ),
            Property::always("S2: a majority of the old votes has accepted it on disk", |_, state: &Cluster| {
                state.watch.broken != Some(Broken::OldVotes)
            }),
            Property::always("S2: a majority of its own votes held the view before", |_, state: &Cluster| {
                state.watch.broken != Some(Broken::NewVotes)
            }),
            Property::always("no incarnation that was left out is admitted again", |_, state: &Cluster| {
                state.watch.broken != Some(Broken::Readmitted)
            }),
            Property::always("3.5: nobody acts beside a view in force that lacks him", |_, state: &Cluster| {
                state.watch.broken != Some(Broken::Acting)
            }),
            Property::always("nothing is answered or granted that the disk does not bear out", |_, state: &Cluster| {
                !matches!(state.watch.broken, Some(Broken::Step(_)))
            }),
        ]
    }
}

/// Returns the bounds of CI, or the long ones, for so many nodes or all.
#[must_use]
pub fn chosen(nodes: Option<usize>, long: bool) -> Vec<Bounds> {
    let fits = |bounds: &&Bounds| bounds.long == long && nodes.is_none_or(|nodes| nodes == bounds.nodes);
    BOUNDS.iter().filter(fits).copied().collect()
}

/// Returns the bounds of this name.
///
/// # Errors
/// If there are none.
pub fn named(name: &str) -> anyhow::Result<Vec<Bounds>> {
    let found = BOUNDS.iter().find(|bounds| bounds.name == name);
    let all = || BOUNDS.iter().map(|bounds| bounds.name).collect::<Vec<_>>().join(", ");
    found.map(|bounds| vec![*bounds]).with_context(|| format!("no bounds are called `{name}`; there are {}", all()))
}

/// Runs checks, on so many threads; true: all that has to hold does, and everything was come across that was to be.
#[must_use]
pub fn run(chosen: &[Bounds], threads: usize) -> bool {
    // All of them, though one fails.
    chosen.iter().filter(|bounds| !check(**bounds, threads)).count() == 0
}

/// Waits for the checker, and ends it when its time is over. Returns whether it had come to its end by then.
fn watched<C: Checker<Views>>(checker: &C, bounds: Bounds, begun: Instant) -> bool {
    let mut said = begun;
    while !checker.is_done() {
        sleep(LOOK);
        if said.elapsed() >= SAY {
            said = Instant::now();
            let (distinct, seconds) = (checker.model().tally.distinct(), begun.elapsed().as_secs());
            println!("{}: {distinct} distinct states after {seconds} s", bounds.name);
        }
        if begun.elapsed() >= bounds.time {
            checker.model().world.stop(true);
            return false;
        }
    }
    true
}

fn check(bounds: Bounds, threads: usize) -> bool {
    let name = bounds.name;
    println!("== {name}: {} nodes, {:?}", bounds.nodes, bounds.left);
    let begun = Instant::now();
    let (world, tally) = (Arc::new(World::new(bounds)), Arc::new(Tally::default()));
    let (mut part, mut begins, mut generated, mut deep) = (0, 0, 0, 0);
    let (mut held, mut whole, mut enough) = (true, true, false);
    while let Some(roots) = world.roots(part).filter(|_| held && whole && !enough) {
        (part, begins) = (part + 1, begins + roots.len());
        let model = Views { world: Arc::clone(&world), roots, tally: Arc::clone(&tally) };
        let checker = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_dfs();
        whole = watched(&checker, bounds, begun);
        let checker = checker.join();
        // The ways to what was found are walked once more.
        world.stop(false);
        (generated, deep) = (generated + checker.state_count(), deep.max(checker.max_depth()));
        for (property, path) in checker.discoveries() {
            println!("  FAILED {property}");
            tell(checker.model(), &path);
            held = false;
        }
        enough = tally.distinct() >= bounds.states;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let distinct = tally.distinct();
    if let Some(walks) = bounds.walks {
        println!("{name}: {part} parts of {walks:?}, from {begins} states");
    }
    println!(
        "{name}: {distinct} distinct states of {generated} generated, {deep} deep, in {seconds:.0} s ({:.0} a second), {}",
        distinct as f64 / seconds,
        if whole && held { "all there are" } else { "NOT all there are" },
    );
    let (net, views) = (tally.net.load(Ordering::Relaxed), tally.views.load(Ordering::Relaxed));
    let (steps, nodes) = world.remembered();
    println!(
        "{name}: {nodes} nodes and {steps} steps of them; {net} steps to too many messages, {views} to too many views"
    );
    if !whole || !enough {
        println!("{name}: FAILED: {} distinct states are wanted, and all there are", bounds.states);
    }
    let mut reached = true;
    for (what, situation) in SITUATIONS.iter().filter(|(what, _)| bounds.reaches.contains(what)) {
        let states = tally.of(*what);
        let word = if states >= bounds.each { "ok    " } else { "FAILED" };
        println!("  {word} {situation} ({states} states)");
        reached &= states >= bounds.each;
    }
    println!("{name}: {}", if held { "whatever has to hold does" } else { "FAILED: see above" });
    held && whole && enough && reached
}

/// Prints a way, from the cluster just formed.
fn tell(model: &Views, path: &Path<Cluster, Action>) {
    let begin = path.clone().into_states().into_iter().next();
    let root = model.roots.iter().find(|root| Some(&root.state) == begin.as_ref());
    let way = root.map(|root| root.way.clone()).unwrap_or_default();
    for action in way.into_iter().chain(path.clone().into_actions()) {
        println!("    {action:?}");
    }
}
