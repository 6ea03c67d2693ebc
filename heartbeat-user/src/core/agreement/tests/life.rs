//! How clusters form, grow, lose members and come back.

use super::world::{LEASE, World};
use crate::core::agreement::document::Reason;
use crate::core::agreement::types::{Ending, Outcome, Refusal, Request};
use crate::core::agreement::{AgreementEvent, Life};
use heartbeat_common::view::Order;

fn removed(world: &World, at: u16, who: u16) -> Vec<Reason> {
    let reason = |event: &AgreementEvent| match event {
        AgreementEvent::NodeRemoved { member, grounds, .. } if member.node.0 == who => Some(grounds.as_ref()?.reason),
        _ => None,
    };
    world.nodes[&at].events.iter().filter_map(reason).collect()
}

#[test]
fn a_cluster_of_one_is_created_by_command_and_acts() {
    let mut world = World::new(1);
    world.start(1);
    world.run(2_000);
    assert_eq!((world.life(1), world.acting(1).is_ok()), (Some(Life::NoView), false), "an empty disk forms nothing");
    world.request(1, 9, Request::Init { instance: [7, 7] });
    world.run(100);
    assert_eq!(world.outcome(1, 9), Some(Outcome::Decided(Order(1))));
    assert_eq!(world.acting(1).map(|token| token.order), Ok(1));
    assert_eq!(world.life(1), Some(Life::Member));
    world.request(1, 10, Request::Init { instance: [8, 8] });
    assert_eq!(world.outcome(1, 10), Some(Outcome::Refused(Refusal::HasView)));
}

#[test]
fn whoever_lost_its_disk_creates_nothing_beside_the_cluster_it_has_not_heard_yet() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run(5_000);
    world.lose_disk(3);
    world.start(3);
    world.request(3, 9, Request::Init { instance: [8, 8] });
    world.run(2_000);
    assert_eq!(world.outcome(3, 9), Some(Outcome::Refused(Refusal::PeerHasView)));
    assert_eq!(world.view(3).instance, [7, 7]);
}

#[test]
fn a_cluster_is_created_by_one_of_three_whose_peers_are_not_up() {
    let mut world = World::new(3);
    world.start(1);
    world.request(1, 9, Request::Init { instance: [7, 7] });
    let time = world.run_until(10_000, |world| world.outcome(1, 9).is_some());
    assert_eq!(world.outcome(1, 9), Some(Outcome::Decided(Order(1))));
    let detection = world.setup(1).timing.detection.as_millis() as u64;
    assert!((detection..=detection + 100).contains(&time), "{time} ms");
}

#[test]
fn two_and_three_nodes_join_and_act() {
    let world = World::formed(3);
    assert_eq!(world.members(3), [1, 2, 3]);
    assert!(world.view(1).order <= Order(3), "each join is one view: {:?}", world.view(1).order);
    let granting = |node: u16| world.nodes[&node].agreement.as_ref().unwrap().status().granting;
    assert!((1..=3).all(granting));
    for node in 4..=5 {
        assert_eq!(World::formed(node).members(1).len(), usize::from(node));
    }
}

#[test]
fn a_death_gives_one_view_without_it_that_is_in_force_after_the_wait() {
    let mut world = World::formed(3);
    let before = world.view(1).order;
    world.crash(3);
    let decided = world.run_until(2_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
    assert!(decided <= 500 + 200, "{decided} ms from the crash");
    assert_eq!(world.view(1).order, before.next().unwrap());
    assert_eq!(removed(&world, 1, 3), [Reason::Down]);
    assert_eq!(removed(&world, 2, 3), [Reason::Down]);
    let status = world.nodes[&1].agreement.as_ref().unwrap().status();
    assert_eq!((status.in_force, status.owed.len()), (before, 1), "decided, and not in force");
    assert!(world.acting(1).is_ok() && world.acting(2).is_ok(), "the lease goes on across the view");
    let waited = world.run_until(2_000, |world| world.settled(2));
    assert!((LEASE - 20..=LEASE + 60).contains(&waited), "{waited} ms of wait");
    world.run(3_000);
    assert_eq!(world.view(1).order, before.next().unwrap(), "one view, and peace");
}

#[test]
fn two_deaths_at_once_of_five_are_one_view() {
    let mut world = World::formed(5);
    let before = world.view(1).order;
    world.crash(2);
    world.crash(4);
    world.run_until(3_000, |world| [1, 3, 5].iter().all(|node| world.members(*node) == [1, 3, 5]));
    assert_eq!(world.view(1).order, before.next().unwrap());
}

#[test]
fn a_restarted_node_is_a_member_again_after_two_views() {
    let mut world = World::formed(3);
    let before = world.view(1).order;
    world.crash(3);
    world.run(100);
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
    assert!(world.view(1).order.number() <= before.number() + 2);
    assert_eq!(world.view(3).owed, [], "its older incarnation is known to have stopped");
    assert_eq!(removed(&world, 1, 3), [Reason::Restarted]);
}

#[test]
fn a_node_that_leaves_is_handed_over_and_known_to_have_stopped() {
    let mut world = World::formed(3);
    let before = world.view(1).order;
    world.request(3, 4, Request::Leave);
    let took = world.run_until(2_000, |world| world.nodes[&3].ended.is_some());
    assert!(took <= 300, "{took} ms");
    assert_eq!((world.nodes[&3].ended, world.outcome(3, 4)), (Some(Ending::Left), Some(Outcome::Done)));
    let took = world.run_until(2_000, |world| world.settled(2));
    assert!(took < 200, "no wait: it said that it has stopped ({took} ms)");
    assert_eq!(world.view(1).order, before.next().unwrap());
    let left = |event: &AgreementEvent| matches!(event, AgreementEvent::NodeLeftView { handed_over: true, .. });
    assert!(world.nodes[&1].events.iter().any(left));
}

#[test]
fn the_holder_of_the_only_vote_hands_it_over_as_it_leaves() {
    let mut world = World::formed(2);
    assert_eq!(world.view(1).votes.iter().map(|vote| vote.weight).collect::<Vec<_>>(), [1, 0]);
    world.request(1, 4, Request::Leave);
    world.run_until(3_000, |world| world.members(2) == [2] && world.acting(2).is_ok());
    world.run(100);
    assert_eq!(world.nodes[&1].ended, Some(Ending::Left));
}

#[test]
fn a_cold_start_is_one_view_upon_the_newest_held() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(3_000, |world| world.settled(2));
    let before = world.view(1).order;
    world.crash(1);
    world.crash(2);
    world.run(2_000);
    for node in [3, 2, 1] {
        world.start(node);
        world.run(70);
    }
    world.run_until(10_000, |world| world.settled(3));
    assert_eq!(world.view(1).order, before.next().unwrap(), "{}", world.describe());
}

#[test]
fn a_cold_start_without_a_majority_waits_and_says_for_whom() {
    let mut world = World::formed(3);
    for node in 1..=3 {
        world.crash(node);
    }
    world.run(1_000);
    world.start(2);
    world.run(5_000);
    assert!(world.acting(2).is_err());
    let status = world.nodes[&2].agreement.as_ref().unwrap().status();
    assert_eq!(status.waits_for.iter().map(|node| node.0).collect::<Vec<_>>(), [1, 3]);
    world.start(3);
    world.run_until(5_000, |world| world.members(2) == [2, 3] && world.acting(2).is_ok());
}

#[test]
fn who_was_left_out_stops_and_ends_and_returns_as_a_newer_incarnation() {
    let mut world = World::formed(3);
    world.split(&[3]);
    world.run_until(5_000, |world| world.members(1) == [1, 2] && world.settled(2));
    assert!(world.acting(3).is_err(), "its lease is over before anybody takes over");
    assert_eq!(world.life(3), Some(Life::Member), "a minority waits");
    world.heal();
    world.run_until(2_000, |world| world.nodes[&3].ended == Some(Ending::Out));
    let out = |event: &&AgreementEvent| {
        matches!(event, AgreementEvent::LeftOut { .. } | AgreementEvent::Fenced { .. } | AgreementEvent::Hole { .. })
    };
    assert!(world.nodes[&3].events.iter().any(|event| out(&event)));
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
}

#[test]
fn a_stalled_member_stays_and_blocks_nobody() {
    let mut world = World::formed(5);
    world.stall(2, true);
    world.run(1_000);
    assert_eq!(world.members(1), [1, 2, 3, 4, 5]);
    world.crash(5);
    world.run_until(3_000, |world| world.members(1) == [1, 2, 3, 4]);
    world.run(2_000);
    world.stall(2, false);
    world.run_until(3_000, |world| world.settled(4));
}

#[test]
fn a_hung_member_is_left_out_and_fenced() {
    let mut world = World::formed(3);
    world.stall(3, true);
    world.run_until(20_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
    assert_eq!(removed(&world, 2, 3), [Reason::Hung]);
    world.run(300);
    assert_eq!(world.nodes[&3].kernel.fenced, world.nodes[&3].incarnation, "its kernel obeyed");
}
