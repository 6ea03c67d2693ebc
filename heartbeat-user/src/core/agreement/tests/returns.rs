//! Controllers that come back, after a pause or by a restart, and changes that meet: what they find must not be taken
//! for what it was.

use super::world::{World, times};
use crate::core::agreement::message::{Message, Setting};
use crate::core::agreement::stops::slack;
use crate::core::agreement::types::{Command, Input, Outcome, Refusal, Request};
use crate::core::agreement::voter::State;
use crate::core::ids::NodeId;
use heartbeat_common::lease::hold;
use std::time::Duration;

#[test]
fn a_daemon_killed_while_it_leaves_is_a_member_that_acts_again() {
    let mut world = World::formed(3);
    // Nobody hears it ask.
    world.mute.extend([(3, 1), (3, 2)]);
    world.request(3, 5, Request::Leave);
    assert_eq!(world.nodes[&3].kernel.hold, hold::LEAVING);
    world.kill_controller(3);
    world.run(50);
    world.heal();
    world.restart_controller(3);
    assert_eq!(world.nodes[&3].kernel.hold, 0, "what held the controller before was its own");
    assert!(world.acting(3).is_ok(), "its lease was never lost");
    world.run(2_000);
    assert!(world.settled(3));
}

#[test]
fn a_daemon_killed_while_it_leaves_is_not_held_by_that_with_nothing_on_its_disk() {
    let mut world = World::new(3);
    for node in [1, 2, 3] {
        world.start(node);
    }
    world.mute.extend([(3, 1), (3, 2)]);
    world.request(3, 5, Request::Leave);
    assert_eq!(world.nodes[&3].kernel.hold, hold::LEAVING);
    world.kill_controller(3);
    world.heal();
    world.restart_controller(3);
    assert_eq!(world.nodes[&3].kernel.hold, 0, "what held the controller before was its own");
}

#[test]
fn a_change_right_after_a_controller_came_back_leaves_nobody_out() {
    for after in [0, 10, 40, 90, 150] {
        let mut world = World::formed(3);
        world.run(1_000);
        let (before, member) = (world.view(1), world.member(3));
        world.kill_controller(3);
        world.run(30);
        world.restart_controller(3);
        world.run(after);
        world.request(1, 7, Request::Set(Setting::LeaseMs(700)));
        world.run(1_500);
        assert_eq!(world.member(3), member, "after {after} ms: {}", world.describe());
        assert_eq!(
            world.view(1).order,
            before.order.next().unwrap(),
            "after {after} ms: one change, the one asked for"
        );
        assert!(world.settled(3), "after {after} ms: {}", world.describe());
    }
}

#[test]
fn what_comes_first_after_a_pause_accuses_nobody() {
    let mut world = World::formed(3);
    let limit = world.setup(3).timing.control_limit;
    world.run(1_000);
    // Its thread stood still for longer than messages may fail; the kernel answered on, and theirs wait to be read.
    world.now += limit.as_millis() as u64 * 2;
    let late = world.now;
    world.nodes.get_mut(&3).unwrap().log.clear();
    let agreement = world.nodes.get_mut(&3).unwrap().agreement.as_mut().unwrap();
    agreement.handle(Input::Tick, times(late));
    let mut accused = Vec::new();
    while let Some(command) = agreement.poll_command() {
        if let Command::Send(_, message) = command
            && let Message::Report(report) = *message
        {
            accused.extend(report.hears.into_iter().filter(|hears| !hears.messages_pass));
        }
    }
    assert_eq!(accused, [], "nothing that was seen before the pause says anything about now");
}

#[test]
fn what_is_remembered_of_other_votes_outlives_everybodys_memory() {
    let mut world = World::formed(3);
    let older = world.nodes[&3].disk.clone();
    for lease in [600, 700] {
        world.request(1, lease.into(), Request::Set(Setting::LeaseMs(lease)));
        world.run(1_000);
    }
    let state: State = borsh::from_slice(world.nodes[&1].disk.as_ref().unwrap()).unwrap();
    assert!(!state.remembers.is_empty());
    // All fall, and one of them comes back with an older disk.
    for node in 1..=3 {
        world.crash(node);
    }
    world.nodes.get_mut(&3).unwrap().disk = older;
    for node in 1..=3 {
        world.start(node);
    }
    world.run_until(5_000, |world| {
        world.nodes[&3].agreement.as_ref().is_none_or(|agreement| agreement.status().forfeited)
    });
}

#[test]
fn of_two_changes_of_one_thing_the_second_is_told_of_the_first() {
    let mut world = World::formed(3);
    world.request(1, 7, Request::Set(Setting::LeaseMs(800)));
    world.request(2, 8, Request::Set(Setting::LeaseMs(900)));
    world.request(3, 9, Request::Set(Setting::LowerPriority(Some(NodeId(3)))));
    world.run(3_000);
    let conflict = Some(Outcome::Refused(Refusal::Conflict));
    let (one, other) = (world.outcome(1, 7), world.outcome(2, 8));
    let decided = |outcome: &Option<Outcome>| matches!(outcome, Some(Outcome::Decided(_)));
    assert!(decided(&one) && other == conflict || one == conflict && decided(&other), "{one:?} {other:?}");
    assert_eq!(world.view(1).lease.lease_ms, if decided(&one) { 800 } else { 900 });
    assert!(decided(&world.outcome(3, 9)), "another thing is no conflict");
    world.request(2, 10, Request::Set(Setting::LeaseMs(1_000)));
    world.run(2_000);
    assert!(decided(&world.outcome(2, 10)), "whoever has seen it may change it");
}

#[test]
fn a_view_owes_the_lease_and_what_a_slewed_clock_may_add() {
    let mut world = World::formed(3);
    world.no_fences = true;
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2]);
    let learned = world.now;
    world.run_until(3_000, |world| world.nodes[&1].kernel.in_force == world.view(1).order);
    let waited = Duration::from_millis(world.now - learned);
    let timing = world.setup(1).timing;
    assert!(waited >= Duration::from_millis(super::world::LEASE) + slack(timing.delay), "{waited:?}");
}

#[test]
fn a_page_from_before_a_sleep_is_given_another_bank() {
    let mut world = World::formed(3);
    world.request(1, 7, Request::Set(Setting::LeaseMs(700)));
    world.run(1_000);
    let carry = |world: &World| world.nodes[&2].kernel.bank.as_ref().unwrap().carry;
    let mut restart = |slept| {
        world.slept = slept;
        world.kill_controller(2);
        world.run(20);
        world.restart_controller(2);
        (carry(&world), world.acting(2).is_ok())
    };
    assert_eq!(restart(false), (true, true), "its lease goes on");
    assert!(!restart(true).0, "nothing of the lease of before");
    world.run(1_000);
    assert!(world.acting(2).is_ok() && world.settled(3));
}
