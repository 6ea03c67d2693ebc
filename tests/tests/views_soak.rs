//! All faults of views by turns, at random and at a low rate, for as long as a run may take: one rule, no leak.

use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::views::pause_at_random;
use heartbeat_tests::lab::wait::starvation_or_skip;
use heartbeat_tests::lab::{Direction, Fault, Port, Sink};
use heartbeat_tests::xdp::random::Random;
use std::fs;
use std::time::{Duration, Instant};

const NODES: usize = 5;
/// An ordinary run, and a long one.
const LENGTHS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(1800));

/// Resident memory of a node's daemon, KiB; and how many descriptors it has.
fn size(crew: &Crew, node: usize) -> (u64, usize) {
    let process = format!("/proc/{}", crew.daemon(node).pid());
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = line.trim().trim_end_matches(" kB").parse().unwrap();
    (memory, fs::read_dir(format!("{process}/fd")).unwrap().count())
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

#[test]
fn fault_114_under_all_faults_by_turns_the_rule_of_views_holds_and_nothing_leaks() {
    let name = "fault_114_under_all_faults_by_turns_the_rule_of_views_holds_and_nothing_leaks";
    if !starvation_or_skip(name) {
        return;
    }
    let long = std::env::var_os("HEARTBEAT_LONG").is_some_and(|value| value == "1");
    let end = Instant::now() + if long { LENGTHS.1 } else { LENGTHS.0 };
    let mut random = Random::new(Random::seed(name));
    let (mut crew, sink) = Crew::formed(NODES).unwrap();
    let all: Vec<usize> = (0..NODES).collect();
    let mut troubles = std::collections::BTreeMap::new();
    let mut sizes: Vec<Option<(u32, u64, usize)>> = vec![None; NODES];
    while Instant::now() < end {
        *troubles.entry(trouble(&mut crew, &sink, &mut random)).or_insert(0) += 1;
        crew.lab.heal().unwrap();
        crew.await_view(&all).unwrap();
        for node in &all {
            let (pid, (memory, descriptors)) = (crew.daemon(*node).pid(), size(&crew, *node));
            match sizes[*node] {
                // A daemon that has met a few faults has its size; one that has just begun has not.
                Some((seen, first, open)) if seen == pid => {
                    assert!(memory <= first + first / 4 + 2048, "node {node} grew from {first} to {memory} KiB");
                    assert!(descriptors <= open + 8, "node {node}: {open}, then {descriptors} descriptors");
                }
                _ => sizes[*node] = Some((pid, memory, descriptors)),
            }
        }
    }
    println!("{troubles:?}");
    assert!(troubles.len() > 2, "too little happened: {troubles:?}");
    let acts = crew.audit(&sink).unwrap();
    println!(
        "{} acts, {} refused, the sink's longest gap was {} us",
        acts.count,
        acts.refused.len(),
        acts.longest_gap_ns / 1000
    );
}
