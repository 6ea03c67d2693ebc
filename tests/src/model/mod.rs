//! The model check: the shipping agreement under everything that can happen in another order, by stateright. It decides
//! nothing and plays no packets: what the kernel's program does with a frame is judged by `xdp` and the simulator.
//!
//! A node is the very `Agreement` that ships, its disk, and a kernel that always answers. A step feeds one input and
//! carries out all that follows from it, the write included; a crash may cut it off before the first write is durable.
//! Messages between controllers are a set in no order. Things happen in one usual order (whatever is under way arrives,
//! whoever has something to read runs, then time passes) and deviate from it as often as the bounds say: a message is
//! held back, to come at any later time or never, or comes twice; a round is out of its turn; time passes too early. Each
//! fault comes at any time. Within the bounds every such history is looked at, where there is time for all.
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
pub mod node;
pub mod shared;
pub mod watch;

use anyhow::Context;
use bounds::{BOUNDS, Bounds};
use cluster::{Action, Cluster, World};
use stateright::{Checker, HasDiscoveries, Model, Property};
use std::thread::sleep;
use std::time::{Duration, Instant};
use watch::{Broken, Reached};

/// How often the checker is looked at, and how often it is said how far it is.
const LOOK: Duration = Duration::from_millis(200);
const SAY: Duration = Duration::from_secs(30);

/// The model, as the checker wants it.
pub struct Views {
    world: World,
}

/// A sometimes-property, by what it is about.
type Name = (&'static str, fn(&Views, &Cluster) -> bool);

const fn reached(state: &Cluster, what: Reached) -> bool {
    state.watch.reached & what as u16 != 0
}

const SOMETIMES: [(Reached, Name); 8] = [
    (Reached::TwoViews, ("two views are decided, one after the other", |_, s| reached(s, Reached::TwoViews))),
    (Reached::Recovered, ("who lost power acts in the newest view again", |_, s| reached(s, Reached::Recovered))),
    (Reached::Rejoined, ("who lost its disk acts in the newest view again", |_, s| reached(s, Reached::Rejoined))),
    (
        Reached::StalledKept,
        ("who was stalled stays and acts in the newest view", |_, s| reached(s, Reached::StalledKept)),
    ),
    (Reached::Adopted, ("a controller that came back acts in a later view", |_, s| reached(s, Reached::Adopted))),
    (
        Reached::LeftOutActs,
        ("somebody acts who is left out of the newest view", |_, s| reached(s, Reached::LeftOutActs)),
    ),
    (Reached::Doubled, ("a message comes twice", |_, s| reached(s, Reached::Doubled))),
    (Reached::ClearedOnly, ("a view is decided after a step was cut off", |_, s| reached(s, Reached::ClearedOnly))),
];

impl Model for Views {
    type State = Cluster;
    type Action = Action;

    fn init_states(&self) -> Vec<Cluster> {
        vec![self.world.formed()]
    }

    fn actions(&self, state: &Cluster, actions: &mut Vec<Action>) {
        self.world.actions(state, actions);
    }

    fn next_state(&self, last: &Cluster, action: Action) -> Option<Cluster> {
        self.world.next(last, action)
    }

    fn within_boundary(&self, state: &Cluster) -> bool {
        let bounds = &self.world.bounds;
        state.net.len() <= bounds.net && state.watch.changes() <= bounds.views
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("S1: one document of each order, each following the one before", |_, state: &Cluster| {
                state.watch.broken != Some(Broken::Agreement)
            }),
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
        ];
        let wanted = SOMETIMES.iter().filter(|(what, _)| self.world.bounds.reaches.contains(what));
        properties.extend(wanted.map(|(_, (name, condition))| Property::sometimes(name, *condition)));
        properties
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

/// Waits for the checker, and ends it when it has looked at as many states as it has to, where it need not look at all,
/// or when its time is over. Returns whether it had come to its end by then.
fn watched<C: Checker<Views>>(checker: &C, bounds: Bounds, begun: Instant) -> bool {
    let mut said = begun;
    while !checker.is_done() {
        sleep(LOOK);
        if said.elapsed() >= SAY {
            said = Instant::now();
            let (unique, seconds) = (checker.unique_state_count(), begun.elapsed().as_secs());
            println!("{}: {unique} distinct states after {seconds} s, {} deep", bounds.name, checker.max_depth());
        }
        let enough = !bounds.whole && checker.unique_state_count() >= bounds.states;
        if enough || begun.elapsed() >= bounds.time {
            checker.model().world.stop(true);
            return false;
        }
    }
    true
}

fn check(bounds: Bounds, threads: usize) -> bool {
    println!("== {}: {} nodes, {:?}", bounds.name, bounds.nodes, bounds.left);
    let begun = Instant::now();
    let model = Views { world: World::new(bounds) };
    let checker = model.checker().threads(threads).finish_when(HasDiscoveries::AnyFailures).spawn_dfs();
    let whole = watched(&checker, bounds, begun);
    let checker = checker.join();
    // The ways to what was found are walked once more.
    checker.model().world.stop(false);
    let seconds = begun.elapsed().as_secs_f64();
    let (unique, generated) = (checker.unique_state_count(), checker.state_count());
    let (steps, nodes) = checker.model().world.remembered();
    println!(
        "{}: {unique} distinct states of {generated} generated, {} deep, in {seconds:.0} s ({:.0} a second), {}",
        bounds.name,
        checker.max_depth(),
        unique as f64 / seconds,
        if whole { "all there are within the bounds" } else { "not all there are" },
    );
    println!("{}: {nodes} nodes and {steps} steps of them", bounds.name);
    let mut good = unique >= bounds.states && (whole || !bounds.whole);
    if !good {
        let all = if bounds.whole { ", and all there are" } else { "" };
        println!("{}: FAILED: {} distinct states are wanted{all}", bounds.name, bounds.states);
    }
    let found = checker.discoveries();
    for property in checker.model().properties() {
        let failure = property.expectation.discovery_is_failure();
        let there = found.contains_key(property.name);
        let held = there != failure;
        good &= held;
        println!("  {} {}", if held { "ok    " } else { "FAILED" }, property.name);
        if let (true, Some(path)) = (failure && there, found.get(property.name)) {
            for action in path.clone().into_actions() {
                println!("    {action:?}");
            }
        }
    }
    good
}
