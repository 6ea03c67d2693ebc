//! How a node's part ends where the view that ends it meets a disk that is slow or fails, another forced start, or a
//! restart.

use super::world::{DETECTION, World};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::document::Reason;
use crate::core::agreement::message::{Message, Setting};
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

#[test]
fn a_failed_write_forfeits_the_vote_and_ends_the_node() {
    let mut world = World::formed(3);
    world.nodes.get_mut(&2).unwrap().disk_fails = true;
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(8_000, |world| world.nodes[&2].ended == Some(Ending::Forfeited));
    assert!(world.nodes[&2].events.contains(&AgreementEvent::VoteForfeited));
    world.run_until(3_000, |world| world.members(1) == [1, 3] && world.members(3) == [1, 3]);
}

#[test]
fn who_cannot_write_a_view_is_left_out_of_the_next_by_its_own_word() {
    let mut world = World::formed(3);
    let leave = world.setup(2).timing.leave.as_millis() as u64;
    // A view is decided without its vote, and fails to get to its disk.
    world.nodes.get_mut(&2).unwrap().disk_fails = true;
    world.lose = |message, _, to| to == 2 && matches!(message, Message::Prepare { .. } | Message::Accept { .. });
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    let forfeited = |world: &World| world.nodes[&2].events.contains(&AgreementEvent::VoteForfeited);
    world.run_until(3_000, |world| forfeited(world) && world.view(1).lease.lease_ms == 700);
    let before = world.view(1).order;
    assert!(world.view(2).order < before && world.members(1) == [1, 2, 3]);
    // It is waited for neither until it gives up leaving, nor by others.
    world.run_until(leave / 2, |world| world.members(1) == [1, 3] && world.members(3) == [1, 3]);
    assert_eq!(Some(world.view(1).order), before.next());
    assert_eq!(world.view(1).removals[0].reason, Reason::Left);
    world.run_until(leave / 4, |world| world.nodes[&2].ended == Some(Ending::Forfeited));
}

#[test]
fn who_forfeits_a_vote_that_all_need_waits_for_no_view_without_it() {
    let mut world = World::new(4);
    world.dynamic = false;
    world.form();
    for node in [1, 2] {
        world.nodes.get_mut(&node).unwrap().disk_fails = true;
    }
    world.request(3, 5, Request::Set(Setting::LeaseMs(700)));
    let over = |world: &World, node: u16| world.nodes[&node].events.contains(&AgreementEvent::VoteForfeited);
    world.run_until(3_000, |world| over(world, 1) && over(world, 2));
    // Three of four votes are needed: until one of the two is back there is nothing to wait for.
    let ended = |world: &World, node: u16| world.nodes[&node].ended == Some(Ending::Forfeited);
    world.run_until(1_000, |world| ended(world, 1) || ended(world, 2));
}
