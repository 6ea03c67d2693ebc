//! How a node's part ends where the view that ends it meets a slow disk, another forced start, or a restart.

use super::world::{DETECTION, World};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::types::{Ending, Request};
use crate::core::agreement::voter::State;
use crate::core::ids::NodeId;
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

#[test]
fn a_member_of_the_side_that_loses_ends_though_the_other_never_knew_it() {
    let mut world = World::formed(3);
    world.split(&[1]);
    world.run_until(5_000, |world| world.members(2) == [2, 3]);
    world.crash(3);
    world.run(100);
    world.start(3);
    world.run_until(5_000, |world| world.members(2) == [2, 3] && world.acting(3).is_ok());
    let member = world.member(3);
    world.request(1, 1, Request::Force);
    world.run(50);
    assert!(world.view(1).admitted_of(NodeId(3)) < member.incarnation);
    world.heal();
    world.run_until(1_000, |world| world.nodes[&3].ended == Some(Ending::Out));
    let forced = |event: &AgreementEvent| matches!(event, AgreementEvent::OtherSideForced { .. });
    assert!(world.nodes[&3].events.iter().any(forced));
    // It was a member of the view that the operator went on from: by that order it is out.
    world.run_until(1_000, |world| world.nodes[&2].ended == Some(Ending::Removed) && world.acting(1).is_ok());
    world.start(2);
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
    assert!(world.member(3).incarnation > member.incarnation);
}

/// Nodes 1 and 3 are each started by force upon the same view, and have met; who of them lost, and who won.
fn two_forced() -> (World, u16, u16) {
    let mut world = World::formed(3);
    (1..=3).for_each(|node| world.crash(node));
    world.split(&[3]);
    world.start(1);
    world.start(3);
    // Before, none of them may say that it hears nobody.
    world.run(DETECTION);
    world.request(1, 1, Request::Force);
    world.request(3, 1, Request::Force);
    world.run(50);
    let (one, three) = (world.view(1).name(), world.view(3).name());
    assert_eq!((one.order, one.order.force()), (three.order, 1));
    let (winner, loser) = if one.digest < three.digest { (1, 3) } else { (3, 1) };
    let view = world.view(winner);
    world.views.insert(view.order, view);
    world.heal();
    (world, winner, loser)
}

#[test]
fn of_two_forced_starts_of_one_order_the_higher_digest_ends() {
    let (mut world, winner, loser) = two_forced();
    let incarnation = world.member(loser).incarnation;
    world.run_until(1_000, |world| world.nodes[&loser].ended == Some(Ending::Out));
    let forced = |event: &AgreementEvent| matches!(event, AgreementEvent::OtherSideForced { .. });
    assert!(world.nodes[&loser].events.iter().any(forced));
    assert!(!world.nodes[&winner].events.iter().any(forced));
    world.start(loser);
    world.run_until(5_000, |world| world.members(winner).len() == 2 && world.acting(loser).is_ok());
    assert!(world.member(loser).incarnation > incarnation);
}

#[test]
fn whoever_lost_and_was_killed_before_it_ended_ends_when_it_is_back() {
    let mut world = World::formed(3);
    world.split(&[1]);
    world.run_until(5_000, |world| world.members(2) == [2, 3]);
    world.crash(3);
    world.run(100);
    world.start(3);
    world.run_until(5_000, |world| world.members(2) == [2, 3] && world.acting(3).is_ok());
    world.request(1, 1, Request::Force);
    world.run(50);
    world.heal();
    let forced = world.view(1).order;
    world.run_until(500, |world| on_disk(world, 3) == forced || world.nodes[&3].ended.is_some());
    // What it left is as if it had been killed in that moment.
    let this = world.nodes.get_mut(&3).unwrap();
    this.kernel.stopped = false;
    this.ended = None;
    world.kill_controller(3);
    world.restart_controller(3);
    world.run_until(200, |world| world.nodes[&3].ended == Some(Ending::Out));
}
