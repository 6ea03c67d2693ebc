//! Whoever waits says for whom: for votes, for those who would have to propose, for the connections without which it may
//! not join.

use super::world::World;
use crate::core::agreement::AgreementEvent;
use crate::core::ids::NodeId;

/// For whom a node waits now, by its status.
fn waits_for(world: &World, node: u16) -> Vec<u16> {
    let status = world.nodes[&node].agreement.as_ref().unwrap().status();
    status.waits_for.iter().map(|node| node.0).collect()
}

/// For whom it has told that it waits since `from` of its events.
fn told_since(world: &World, node: u16, from: usize) -> Vec<Vec<u16>> {
    let told = |event: &AgreementEvent| match event {
        AgreementEvent::RegroupWaits { waits_for, .. } => Some(waits_for.iter().map(|node| node.0).collect()),
        _ => None,
    };
    world.nodes[&node].events[from..].iter().filter_map(told).collect()
}

fn told(world: &World, node: u16) -> usize {
    world.nodes[&node].events.len()
}

/// Neither frames nor messages pass from the one to the other.
fn cut(world: &mut World, ways: &[(u16, u16)]) {
    world.deaf.extend(ways);
    world.mute.extend(ways);
}

#[test]
fn who_hears_a_majority_and_is_heard_by_nobody_says_for_whom_it_waits() {
    let mut world = World::formed(3);
    let from = told(&world, 1);
    // For all that 1 knows, 2 and 3 may go on together.
    cut(&mut world, &[(1, 2), (1, 3), (2, 3), (3, 2)]);
    world.run(4_000);
    assert_eq!(waits_for(&world, 1), [2, 3], "{}", world.describe());
    assert_eq!(told_since(&world, 1, from), [[2, 3]], "and it tells that: {}", world.describe());
    world.run(9_000);
    assert_eq!(told_since(&world, 1, from), [[2, 3], [2, 3]], "again after 10 s: {}", world.describe());
}

/// 1 and 2 speak with each other, 3 and 4, and 5 with nobody. For all that a part knows the others may be a majority.
#[test]
fn a_part_whose_messages_reach_no_majority_waits_for_the_others_and_says_so() {
    let mut world = World::formed(5);
    let (before, from) = (world.view(1).order, told(&world, 1));
    let part = |node: u16| node.div_ceil(2);
    let apart = (1..=5).flat_map(|a| (1..=5).map(move |b| (a, b))).filter(|(a, b)| part(*a) != part(*b));
    world.mute.extend(apart);
    world.run(6_000);
    assert_eq!(world.view(1).order, before, "{}", world.describe());
    for (node, waits) in [(1, vec![3, 4, 5]), (3, vec![1, 2, 5]), (5, vec![1, 2, 3, 4])] {
        let named = waits_for(&world, node);
        assert!(waits.iter().all(|other| named.contains(other)), "{node}: {}", world.describe());
        assert!(world.acting(node).is_ok(), "{node}: {}", world.describe());
    }
    assert!(!told_since(&world, 1, from).is_empty(), "{}", world.describe());
}

/// 5 is dead, and a view without it could be proposed, with 3 and 4 in it; of these nothing is heard but their kernels.
#[test]
fn who_lacks_the_reports_of_members_that_stand_still_waits_for_them_and_says_so() {
    let mut world = World::new(5);
    world.dynamic = false;
    world.form();
    let (before, from) = (world.view(1).order, told(&world, 1));
    [3, 4].into_iter().for_each(|node| world.stall(node, true));
    world.run(500);
    world.crash(5);
    world.run_until(3_000, |world| waits_for(world, 1) == [3, 4]);
    world.run_until(3_000, |world| told_since(world, 1, from) == [[3, 4]]);
    assert_eq!(world.view(1).order, before, "{}", world.describe());
    [3, 4].into_iter().for_each(|node| world.stall(node, false));
    world.run_until(3_000, |world| world.members(1) == [1, 2, 3, 4]);
    assert!(waits_for(&world, 1).is_empty(), "{}", world.describe());
}

#[test]
fn nobody_waits_for_itself() {
    let mut world = World::new(4);
    world.dynamic = false;
    world.form();
    let from = told(&world, 1);
    // 1 hears 3 and 4, who do not hear it; 2 is dead to all.
    cut(&mut world, &[(1, 3), (1, 4), (1, 2), (2, 1), (2, 3), (3, 2), (2, 4), (4, 2)]);
    world.run(4_000);
    assert_eq!(waits_for(&world, 1), [2, 3, 4], "{}", world.describe());
    let votes = |event: &AgreementEvent| match event {
        AgreementEvent::WaitsForVotes { needed, available, missing, .. } => {
            Some((*needed, *available, missing.clone()))
        }
        _ => None,
    };
    let asked: Vec<_> = world.nodes[&1].events[from..].iter().filter_map(votes).collect();
    assert_eq!(asked, [(3, 1, vec![NodeId(2), NodeId(3), NodeId(4)])], "{}", world.describe());
}

#[test]
fn who_asks_to_join_names_the_members_that_it_is_not_connected_with() {
    // Frames do not pass between 2 and 3, or messages alone do not, in one direction or in the other.
    let ways: [(&[(u16, u16)], bool); 4] =
        [(&[(2, 3), (3, 2)], true), (&[(2, 3), (3, 2)], false), (&[(2, 3)], false), (&[(3, 2)], false)];
    for (ways, frames) in ways {
        let mut world = World::formed(3);
        world.crash(3);
        world.run_until(5_000, |world| world.settled(2));
        world.mute.extend(ways);
        if frames {
            world.deaf.extend(ways);
        }
        world.start(3);
        let from = told(&world, 3);
        world.run(3_000);
        assert_eq!(waits_for(&world, 3), [2], "{ways:?} {frames}: {}", world.describe());
        assert_eq!(told_since(&world, 3, from).last(), Some(&vec![2]), "{ways:?} {frames}: {}", world.describe());
        world.heal();
        world.run_until(5_000, |world| world.settled(3));
        assert!(waits_for(&world, 3).is_empty(), "{}", world.describe());
    }
}

#[test]
fn who_asks_to_join_and_hears_nobody_waits_for_all_members() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(5_000, |world| world.settled(2));
    world.split(&[3]);
    world.start(3);
    world.run(3_000);
    assert_eq!(waits_for(&world, 3), [1, 2], "{}", world.describe());
}
