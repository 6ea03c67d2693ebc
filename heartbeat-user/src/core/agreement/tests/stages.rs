//! The stages of a regroup, as a node shows them, and for whom it waits in each.

use super::world::{DETECTION, ROUND, World};
use crate::core::agreement::Stage;
use std::collections::BTreeMap;

/// A node's stage, and for whom it waits.
fn shown(world: &World, node: u16) -> (Stage, Vec<u16>) {
    let status = world.nodes[&node].agreement.as_ref().unwrap().status();
    (status.stage, status.waits_for.iter().map(|node| node.0).collect())
}

/// Lets time pass until it is so. Returns the stages of these nodes on the way, each once for as long as it lasts.
fn stages(world: &mut World, nodes: &[u16], so: impl Fn(&World) -> bool) -> BTreeMap<u16, Vec<Stage>> {
    let mut seen: BTreeMap<u16, Vec<Stage>> = nodes.iter().map(|node| (*node, vec![shown(world, *node).0])).collect();
    let end = world.now + 10_000;
    while !so(world) {
        assert!(world.now < end, "{}", world.describe());
        world.run(ROUND);
        for (node, seen) in &mut seen {
            let stage = shown(world, *node).0;
            if seen.last() != Some(&stage) {
                seen.push(stage);
            }
        }
    }
    seen
}

#[test]
fn a_death_leads_who_proposes_and_who_votes_through_the_stages_of_mscs() {
    let mut world = World::formed(3);
    world.crash(3);
    let seen = stages(&mut world, &[1, 2], |world| world.settled(2));
    use Stage::{Activate, Cleanup, Closing, Pruning, Stabilized};
    assert_eq!(seen[&1], [Stabilized, Activate, Pruning, Cleanup, Stabilized], "it may propose at once");
    assert_eq!(seen[&2], [Stabilized, Activate, Closing, Pruning, Cleanup, Stabilized], "it is the other's turn");
}

#[test]
fn reports_that_are_missing_are_waited_for_in_activate() {
    let mut world = World::formed(4);
    // 3's messages do not pass any more, and nobody can know that yet.
    for other in [1, 2, 4] {
        world.mute.extend([(3, other), (other, 3)]);
    }
    world.crash(4);
    world.run(DETECTION + 10 * ROUND);
    assert_eq!(shown(&world, 1), (Stage::Activate, vec![3]), "{}", world.describe());
}

#[test]
fn votes_that_are_missing_are_waited_for_in_closing() {
    let mut world = World::formed(3);
    world.split(&[3]);
    world.run(3_000);
    for _ in 0..200 {
        world.run(ROUND);
        assert_eq!(shown(&world, 3), (Stage::Closing, vec![1, 2]), "at {}", world.now);
    }
    // Whoever waits has not proposed anything, and ends nobody's grants.
    assert!(world.nodes[&3].agreement.as_ref().unwrap().status().granting);
}

#[test]
fn who_is_heard_and_might_yet_be_connected_is_waited_for_in_closing() {
    let mut world = World::formed(3);
    world.deaf.extend([(2, 3), (3, 2)]);
    world.mute.extend([(2, 3), (3, 2)]);
    let mut waited = 0;
    while world.members(1).len() == 3 {
        assert!(world.now < 30_000, "{}", world.describe());
        world.run(ROUND);
        waited += u32::from(shown(&world, 1) == (Stage::Closing, vec![3]));
    }
    assert!(waited >= 10, "for two delays, but for the rounds that reports take: {waited}");
}
