//! How a node's part ends where the view that ends it meets a slow disk, another forced start, or a restart.

use super::world::World;
use crate::core::agreement::types::Ending;
use crate::core::agreement::voter::State;
use heartbeat_common::view::Order;

fn on_disk(world: &World, node: u16) -> Order {
    let bytes = world.nodes[&node].disk.as_ref().expect("it has a disk");
    borsh::from_slice::<State>(bytes).unwrap().installed.order
}

/// Node 3 is about to come back with an older disk, under an incarnation below one that was admitted since; nobody who
/// runs now has ever heard that one.
fn behind_its_own_time() -> World {
    let mut world = World::formed(3);
    let old = world.nodes[&3].disk.clone();
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2]);
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
    for node in 1..=3 {
        world.crash(node);
    }
    world.start(1);
    world.start(2);
    world.run_until(5_000, |world| world.settled(2));
    let this = world.nodes.get_mut(&3).unwrap();
    this.disk = old;
    this.incarnation -= 15;
    world
}

#[test]
fn whoever_is_out_ends_once_the_view_without_it_is_on_disk() {
    let mut world = behind_its_own_time();
    let newest = world.view(1).order;
    world.nodes.get_mut(&3).unwrap().disk_hangs = true;
    world.start(3);
    world.run(300);
    assert_eq!(world.nodes[&3].ended, None, "the view that it was told of is on its way to the disk");
    assert!(on_disk(&world, 3) < newest);
    world.nodes.get_mut(&3).unwrap().disk_hangs = false;
    world.run_until(200, |world| world.nodes[&3].ended == Some(Ending::Out));
    assert_eq!(on_disk(&world, 3), newest, "it does not come back to the view before");
}

#[test]
fn a_disk_that_hangs_or_failed_holds_up_no_end() {
    let mut world = behind_its_own_time();
    world.nodes.get_mut(&3).unwrap().disk_hangs = true;
    world.start(3);
    let stage = world.setup(3).timing.stage.as_millis() as u64;
    world.run_until(stage + 300, |world| world.nodes[&3].ended == Some(Ending::Out));
    let mut world = behind_its_own_time();
    world.nodes.get_mut(&3).unwrap().disk_fails = true;
    world.start(3);
    let took = world.run_until(stage, |world| world.nodes[&3].ended == Some(Ending::Out));
    assert!(took < 300, "{took} ms");
}
