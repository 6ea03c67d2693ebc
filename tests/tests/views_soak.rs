//! All faults of views by turns, at random and at a low rate, for as long as a run may take: one rule, no leak.

use heartbeat_tests::lab::crew::{Crew, programs};
use heartbeat_tests::lab::views::{is_long, pause_at_random};
use heartbeat_tests::lab::wait::{starvation_or_skip, wait_every};
use heartbeat_tests::lab::{Direction, Fault, Port, Sink};
use heartbeat_tests::xdp::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const NODES: usize = 5;
/// An ordinary run, and a long one.
const LENGTHS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1800));

/// Memory that a daemon may gain beside one per cent, KiB: what its allocator does not give back.
const GAIN: u64 = 1024;
/// Each event that it keeps to be shown may take so much, KiB; it keeps 4096 at most.
const EVENT: (u64, u64) = (1, 4096);
/// After so many faults a daemon has its size.
const WARM: u32 = 5;
/// How long a daemon may take until it has what it had before a fault.
const CALM: Duration = Duration::from_secs(20);

/// What a node has of what could leak.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Holds {
    /// Descriptors of its daemon, by what they lead to, and threads, by name; without numbers.
    counts: BTreeMap<String, usize>,
    /// Names of its pins.
    pins: BTreeSet<String>,
    /// Programs on its interfaces: XDP, egress.
    programs: (usize, usize),
}

impl Holds {
    fn of(crew: &Crew, node: usize) -> Self {
        let process = format!("/proc/{}", crew.daemon(node).pid());
        let entries = |path: String| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        // What ends meanwhile is not there any more.
        let leads = |path: PathBuf| fs::read_link(path).ok().map(|to| to.to_string_lossy().into_owned());
        let comm = |path: PathBuf| fs::read_to_string(path.join("comm")).ok();
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        // Clients of the control socket are served by threads that the runtime ends some time later: four at most.
        let own = |name: &String| !name.starts_with("tokio");
        let descriptors = entries(format!("{process}/fd")).filter_map(leads);
        let threads = entries(format!("{process}/task")).filter_map(comm).filter(own);
        let mut counts = BTreeMap::new();
        for what in descriptors.chain(threads) {
            *counts.entry(what.replace(|letter: char| letter.is_ascii_digit(), "")).or_insert(0) += 1;
        }
        let pins = entries(crew.pins(node).display().to_string()).map(name).collect();
        Self { counts, pins, programs: programs(&crew.lab, node).unwrap() }
    }

    /// What is there that was not there before, or more of it; pins and programs have to be the same.
    fn beyond(&self, before: &Self) -> Option<String> {
        let more = |(what, count): &(&String, &usize)| before.counts.get(*what).is_none_or(|then| then < *count);
        let more: Vec<_> = self.counts.iter().filter(more).collect();
        let same = self.pins == before.pins && self.programs == before.programs;
        (!more.is_empty() || !same).then(|| format!("more than before: {more:?}: {before:#?}, then {self:#?}"))
    }
}

/// Memory of its own that a node's daemon has, KiB, and how many events it has told.
fn memory(crew: &Crew, node: usize) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{}/status", crew.daemon(node).pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, crew.events(node).unwrap().len() as u64)
}

/// What a daemon had when it was first looked at.
struct First {
    pid: u32,
    /// Faults that it has gone through.
    faults: u32,
    holds: Holds,
    /// Its memory once it was warm, as [`memory`] has it.
    warm: Option<(u64, u64)>,
}

impl First {
    /// Looks at a daemon that has just begun, when what it has does not change any more.
    fn look(crew: &Crew, node: usize) -> Self {
        let mut last = None;
        let holds = wait_every(Duration::from_millis(500), CALM, "a new daemon to have come to rest", || {
            let now = Holds::of(crew, node);
            if last.replace(now.clone()).as_ref() == Some(&now) { Ok(now) } else { Err(format!("{now:?}")) }
        });
        Self { pid: crew.daemon(node).pid(), faults: 0, holds: holds.unwrap(), warm: None }
    }

    /// Sees that it has no more than it had before a fault, once it has come to rest. Returns whether its memory was
    /// judged too.
    fn has_no_leak(&mut self, crew: &Crew, node: usize) -> bool {
        self.faults += 1;
        let calm = wait_every(Duration::from_millis(50), CALM, "a daemon to have what it had", || {
            Holds::of(crew, node).beyond(&self.holds).map_or(Ok(()), Err)
        });
        calm.unwrap_or_else(|error| panic!("node {node}: {error:#}"));
        if self.faults < WARM {
            return false;
        }
        let (now, told) = memory(crew, node);
        let (then, told_then) = *self.warm.get_or_insert((now, told));
        let allowed = then + then / 100 + GAIN + EVENT.0 * told.saturating_sub(told_then).min(EVENT.1);
        assert!(now <= allowed, "node {node} grew from {then} to {now} KiB, of which {allowed} are allowed");
        true
    }
}

/// One fault at random, and its end.
fn trouble(crew: &mut Crew, sink: &Sink, random: &mut Random) -> &'static str {
    let node = random.below(NODES as u64) as usize;
    let other = (node + 1 + random.below(NODES as u64 - 1) as usize) % NODES;
    let time = Duration::from_millis(100 + random.below(2500));
    let network = random.below(2) as usize;
    let at = |node| Port { node, network };
    match random.below(11) {
        0 => {
            crew.lab.cut_all(node).unwrap();
            std::thread::sleep(time);
            "cut off"
        }
        1 => {
            let rest: Vec<usize> = (0..NODES).filter(|one| *one != node && *one != other).collect();
            crew.lab.partition(&[&[node, other], &rest]).unwrap();
            std::thread::sleep(time);
            "parted"
        }
        2 => {
            let faults = [0, 1].map(|network| Fault::OneWay(Port { node, network }, Port { node: other, network }));
            crew.lab.inject(&faults).unwrap();
            std::thread::sleep(time);
            "one way"
        }
        3 => {
            crew.lab.inject(&[Fault::Loss(at(node), Direction::Both, 100), Fault::Duplicate(at(other))]).unwrap();
            std::thread::sleep(time);
            "loss and duplicates"
        }
        4 => {
            crew.daemon(node).stop().unwrap();
            std::thread::sleep(time);
            crew.daemon(node).resume().unwrap();
            "stopped"
        }
        5 => {
            crew.daemon(node).stop().unwrap();
            crew.lab.cut_all(node).unwrap();
            std::thread::sleep(time);
            crew.daemon(node).resume().unwrap();
            "stopped and cut off"
        }
        6 => {
            crew.take(node).kill().unwrap();
            pause_at_random(random, time);
            crew.start_at_once(node).unwrap();
            "killed"
        }
        7 => {
            crew.machine_dies(node, sink).unwrap();
            pause_at_random(random, time);
            crew.lab.heal().unwrap();
            crew.start_at_once(node).unwrap();
            "machine died"
        }
        8 => {
            let ended = crew.take(node).terminate(Duration::from_secs(20)).unwrap();
            assert!(ended.success(), "{ended}");
            pause_at_random(random, time);
            crew.start_at_once(node).unwrap();
            "left"
        }
        9 => {
            let fenced = crew.daemon(node).ctl(&["fence", crew.name(other), "lab"]).unwrap();
            assert!(fenced.status.success(), "{fenced:?}");
            "fenced"
        }
        _ => {
            crew.lab.cut_network(network).unwrap();
            std::thread::sleep(time);
            "one network"
        }
    }
}

/// Half an hour in a long run. By the simulator, the same for days of virtual time: see `cargo xtask sim`.
#[test]
fn fault_114_under_all_faults_by_turns_the_rule_of_views_holds_and_nothing_leaks() {
    let name = "fault_114_under_all_faults_by_turns_the_rule_of_views_holds_and_nothing_leaks";
    if !starvation_or_skip(name) {
        return;
    }
    let end = Instant::now() + if is_long() { LENGTHS.1 } else { LENGTHS.0 };
    let mut random = Random::new(Random::seed(name));
    let (mut crew, sink) = Crew::formed(NODES).unwrap();
    let all: Vec<usize> = (0..NODES).collect();
    let mut troubles = BTreeMap::new();
    let mut firsts: [Option<First>; NODES] = Default::default();
    let mut judged = 0;
    while Instant::now() < end {
        *troubles.entry(trouble(&mut crew, &sink, &mut random)).or_insert(0) += 1;
        crew.lab.heal().unwrap();
        crew.await_view(&all).unwrap();
        for (node, first) in firsts.iter_mut().enumerate() {
            match first.as_mut().filter(|first| first.pid == crew.daemon(node).pid()) {
                Some(first) => judged += u32::from(first.has_no_leak(&crew, node)),
                None => *first = Some(First::look(&crew, node)),
            }
        }
    }
    println!("{troubles:?}; the memory of a daemon was judged {judged} times");
    assert!(judged > 0 || !is_long(), "no daemon lasted for long enough");
    assert!(troubles.len() > 2, "too little happened: {troubles:?}");
    let acts = crew.audit(&sink).unwrap();
    println!(
        "{} acts, {} refused, the sink's longest gap was {} us",
        acts.count,
        acts.refused.len(),
        acts.longest_gap_ns / 1000
    );
}
