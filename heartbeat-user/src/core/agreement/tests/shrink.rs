//! Dynamic votes through whole view changes: a cluster goes down to the last node standing, one by one, and back up.

use super::world::World;
use heartbeat_common::view::Order;

/// What the votes of five nodes weigh while so many are members, if those with the highest ids go first.
const WEIGHTS: [[u8; 5]; 5] = [[1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1; 5]];

/// These are the members of one view that is in force for each of them, and act under it.
fn stand(world: &World, members: &[u16]) -> bool {
    let newest = world.view(members[0]).order;
    members.iter().all(|node| {
        let status = world.nodes[node].agreement.as_ref().unwrap().status();
        let one = world.members(*node) == members && world.view(*node).order == newest && status.in_force == newest;
        one && world.acting(*node).map(|token| token.order) == Ok(newest.0)
    })
}

fn weights(world: &World, at: u16) -> Vec<u8> {
    world.view(at).votes.iter().map(|vote| vote.weight).collect()
}

/// Waits until `members` stand in the view after `before`; `go_on` of them act all the while.
fn step(world: &mut World, before: Order, members: &[u16], go_on: &[u16]) {
    world.run_until(5_000, |world| {
        for node in go_on {
            assert!(world.acting(*node).is_ok(), "{node} stopped on the way to {members:?}: {}", world.describe());
        }
        stand(world, members)
    });
    let view = world.view(members[0]);
    assert_eq!(Some(view.order), before.next(), "one view for one change: {}", world.describe());
    assert_eq!(view.total_weight() % 2, 1, "an odd number of votes: {:?}", view.votes);
}

/// Lets nodes go in this order, then come back, the last to go first. Returns the weights at each step.
fn walk(order: &[u16]) -> (World, Vec<Vec<u8>>) {
    let mut world = World::formed(5);
    let mut members: Vec<u16> = (1..=5).collect();
    let mut seen = vec![weights(&world, members[0])];
    for gone in order {
        let before = world.view(members[0]).order;
        members.retain(|node| node != gone);
        world.crash(*gone);
        step(&mut world, before, &members, &members);
        seen.push(weights(&world, members[0]));
    }
    for back in order.iter().rev() {
        let (before, go_on) = (world.view(members[0]).order, members.clone());
        members.push(*back);
        members.sort_unstable();
        world.start(*back);
        step(&mut world, before, &members, &go_on);
        seen.push(weights(&world, members[0]));
    }
    (world, seen)
}

#[test]
fn five_go_down_to_one_and_back_and_are_quorate_at_each_step() {
    let (world, seen) = walk(&[5, 4, 3, 2]);
    let sizes = [5, 4, 3, 2, 1, 2, 3, 4, 5];
    let expected: Vec<Vec<u8>> = sizes.iter().map(|size| WEIGHTS[size - 1].to_vec()).collect();
    assert_eq!(seen, expected);
    assert!(world.settled(5));
}

#[test]
fn whoever_goes_first_the_last_node_with_a_vote_goes_on() {
    for order in [[1, 2, 3, 5], [3, 1, 5, 4], [2, 5, 3, 4]] {
        let (world, _) = walk(&order);
        assert!(world.settled(5), "{order:?}");
    }
}

#[test]
fn of_the_last_two_the_one_without_a_vote_waits_for_the_other() {
    let mut world = World::formed(5);
    let steps: [(u16, &[u16]); 3] = [(1, &[2, 3, 4, 5]), (2, &[3, 4, 5]), (3, &[4, 5])];
    for (gone, rest) in steps {
        world.crash(gone);
        world.run_until(5_000, |world| stand(world, rest));
    }
    let status = |world: &World| world.nodes[&5].agreement.as_ref().unwrap().status();
    assert_eq!((weights(&world, 5), status(&world).last_disk.map(|node| node.0)), (vec![0, 0, 0, 1, 0], Some(4)));
    let before = world.view(5).order;
    world.crash(4);
    world.run(5_000);
    assert!(world.acting(5).is_err() && world.view(5).order == before, "{}", world.describe());
    assert_eq!(status(&world).waits_for.iter().map(|node| node.0).collect::<Vec<_>>(), [4]);
    world.start(4);
    world.run_until(5_000, |world| stand(world, &[4, 5]));
}
