//! What the page shows, or the machine's clocks, and what a controller makes of it: of the one that it finds at its start,
//! and of what it sees later on.

use super::world::World;
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::message::Setting;
use crate::core::agreement::peer::Tie;
use crate::core::agreement::types::{Command, Ending, Input, PageView, Request};
use crate::core::time::MonoTime;
use heartbeat_common::lease::{Refused, hold};
use heartbeat_common::view::Order;
use std::time::Duration;

/// Says whether the bank of node 3 makes it a member, and lets the lease of the one before go on.
fn bank(world: &World) -> (bool, bool) {
    let bank = world.nodes[&3].kernel.bank.as_ref().unwrap();
    (bank.member, bank.carry)
}

fn told(world: &World, event: &AgreementEvent) -> usize {
    world.nodes[&3].events.iter().filter(|told| *told == event).count()
}

#[test]
fn a_bank_that_lets_a_node_act_too_early_is_made_anew() {
    let mut world = World::forced();
    world.run(50);
    assert_eq!(bank(&world), (false, false));
    // No controller made this one, and no view is in force by which it might have.
    world.nodes.get_mut(&3).unwrap().kernel.bank.as_mut().unwrap().member = true;
    world.kill_controller(3);
    world.restart_controller(3);
    assert_eq!(bank(&world), (false, false));
    assert!(world.acting(3).is_err());
}

#[test]
fn no_lease_goes_on_where_no_view_was_in_force() {
    let mut world = World::formed(3);
    let mut restart = |in_force| {
        world.kill_controller(3);
        let kernel = &mut world.nodes.get_mut(&3).unwrap().kernel;
        kernel.in_force = in_force;
        // The bank is of an older view than the disk: it is made anew either way.
        kernel.bank.as_mut().unwrap().view.digest[0] ^= 1;
        world.restart_controller(3);
        bank(&world)
    };
    assert_eq!(restart(Order(1)), (true, true));
    assert_eq!(restart(Order::NONE), (true, false));
}

/// Frames of before the restart may still say that what runs stops at once.
#[test]
fn a_restart_gives_no_time_to_stop_before_frames_say_so_unless_nothing_goes_on() {
    for (slept, given) in [(false, 0), (true, 50)] {
        let mut world = World::formed(3);
        world.frames_wait = true;
        world.slept = slept;
        world.request(1, 5, Request::Set(Setting::StopMs(50)));
        world.run_until(2_000, |world| world.view(3).lease.stop_ms == 50);
        let time = |world: &World| {
            let bank = world.nodes[&3].kernel.bank.as_ref().unwrap();
            bank.lease - bank.act
        };
        assert_eq!(time(&world), Duration::ZERO);
        world.kill_controller(3);
        world.restart_controller(3);
        assert_eq!(time(&world), Duration::from_millis(given), "slept: {slept}");
        world.change_frames();
        assert_eq!(time(&world), Duration::from_millis(50));
    }
}

#[test]
fn a_clock_that_runs_out_of_bounds_holds_the_node_and_is_told_once() {
    let mut world = World::formed(3);
    for _ in 0..2 {
        world.input(3, Input::ClockOut(true));
        assert_eq!(world.nodes[&3].kernel.hold, hold::CLOCK);
    }
    assert!(world.acting(3).is_err());
    world.input(3, Input::ClockOut(false));
    assert!(world.acting(3).is_ok());
    assert_eq!(told(&world, &AgreementEvent::ClockOutOfBounds), 1);
}

#[test]
fn a_node_whose_time_went_back_ends_and_says_why_once() {
    let mut world = World::formed(3);
    let page = PageView {
        acting: Err(Refused::Ahead),
        lease_until_ns: 0,
        fenced: 0,
        fenced_by: None,
        fenced_at: MonoTime::ZERO,
    };
    world.input(3, Input::Page(page));
    world.input(3, Input::Page(page));
    assert_eq!(told(&world, &AgreementEvent::TimeWentBack), 1);
    assert_eq!(world.nodes[&3].kernel.hold, hold::STOPPING);
    world.run_until(1_000, |world| world.nodes[&3].ended == Some(Ending::Out));
}

#[test]
fn after_a_sleep_nothing_of_the_lease_goes_on_and_nobody_is_judged_by_what_was_seen_before() {
    let mut world = World::formed(3);
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(2_000, |world| world.settled(3) && world.view(3).lease.lease_ms == 700);
    assert_eq!(bank(&world), (true, true));
    world.nodes.get_mut(&3).unwrap().log.clear();
    world.input(3, Input::Slept);
    assert_eq!(bank(&world), (true, false));
    assert!(world.nodes[&3].log.contains(&Command::Burst), "all are asked at once");
    let limit = world.setup(3).timing.control_limit;
    let agreement = world.nodes[&3].agreement.as_ref().unwrap();
    assert!(!agreement.looked && agreement.peers.values().all(|peer| !peer.fresh));
    assert!(agreement.peers.values().all(|peer| peer.messages_pass(
        Tie::Members,
        agreement.now.mono + limit / 2,
        limit
    )));
}

#[test]
fn a_disk_that_failed_holds_the_node() {
    let mut world = World::formed(3);
    world.mute.extend([(3, 1), (3, 2)]);
    world.nodes.get_mut(&3).unwrap().disk_fails = true;
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(2_000, |world| !world.nodes[&3].disk_fails);
    assert_eq!(world.nodes[&3].kernel.hold & hold::DISK, hold::DISK);
    assert!(world.acting(3).is_err());
    let report = world.nodes[&3].agreement.as_ref().unwrap().own_report();
    assert!(report.cannot_apply && !report.vote.is_vote());
}

/// Whatever it is, what was decided is not in force there: the others are to go on without it.
#[test]
fn who_writes_for_longer_than_messages_may_take_says_that_it_cannot_apply() {
    let mut world = World::formed(3);
    let limit = world.setup(3).timing.control_limit.as_millis() as u64;
    world.nodes.get_mut(&3).unwrap().disk_hangs = true;
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(1_000, |world| world.nodes[&3].agreement.as_ref().unwrap().writing.is_some());
    let cannot = |world: &World| world.nodes[&3].agreement.as_ref().unwrap().own_report().cannot_apply;
    world.run(limit - 10);
    assert!(!cannot(&world));
    world.run(10);
    assert!(cannot(&world));
}
