//! What frames claim of a node whose view gives what runs time to stop, or gave: never that it stops at once.

use super::world::{LEASE, World};
use crate::core::agreement::message::Setting;
use crate::core::agreement::types::{Command, Request};
use crate::core::ids::NodeId;
use std::time::Duration;

fn claims(world: &World) -> bool {
    world.nodes[&3].kernel.standing.as_ref().is_some_and(|said| said.stops_at_once)
}

/// How much time the active bank of node 3 gives what runs to stop.
fn given(world: &World) -> Duration {
    let bank = world.nodes[&3].kernel.bank.as_ref().unwrap();
    bank.lease - bank.act
}

/// Has the members decide on this time to stop.
fn set_stop(world: &mut World, number: u64, stop_ms: u32) {
    world.request(1, number, Request::Set(Setting::StopMs(stop_ms)));
    world.run_until(2_000, |world| world.view(3).lease.stop_ms == stop_ms && world.settled(3));
}

#[test]
fn no_kernel_gates_what_an_older_lease_gave_time_to_stop() {
    let mut world = World::formed(3);
    assert!(claims(&world));
    set_stop(&mut world, 5, 50);
    assert!(!claims(&world));
    set_stop(&mut world, 6, 0);
    assert!(!claims(&world), "what ran by the view before may be stopping");
    // The same goes for the view that leaves it out.
    world.nodes.get_mut(&3).unwrap().log.clear();
    world.request(1, 7, Request::Fence(NodeId(3)));
    world.run(200);
    assert_eq!(world.members(1), [1, 2]);
    let says = |command: &Command| matches!(command, Command::Standing(standing) if standing.stops_at_once);
    assert!(!world.nodes[&3].log.iter().any(says));
}

#[test]
fn a_kernel_gates_again_once_no_older_lease_lasts() {
    let mut world = World::formed(3);
    set_stop(&mut world, 5, 50);
    set_stop(&mut world, 6, 0);
    let took = world.run_until(2_000, claims);
    assert!(took + 100 >= LEASE, "{took} ms");
    world.run(500);
    assert!(world.settled(3), "saying so once more costs nothing");
}

#[test]
fn no_bank_gives_time_to_stop_while_frames_claim_that_none_is_taken() {
    let mut world = World::formed(3);
    assert!(claims(&world) && given(&world).is_zero());
    world.frames_wait = true;
    world.request(1, 5, Request::Set(Setting::StopMs(50)));
    world.run_until(2_000, |world| world.view(3).lease.stop_ms == 50);
    world.run(100);
    assert!(given(&world).is_zero(), "frames of before are still on their way");
    assert!((1..=3).all(|node| world.acting(node).is_ok()), "by the bank before");
    world.change_frames();
    assert_eq!(given(&world), Duration::from_millis(50));
    let bank = world.nodes[&3].kernel.bank.as_ref().unwrap();
    assert!(bank.carry, "and its lease went on");
    for _ in 0..100 {
        assert!((1..=3).all(|node| world.acting(node).is_ok()), "{}", world.describe());
        world.run(10);
    }
    assert!(world.settled(3));
    // What gives less time, or as much, waits for nothing.
    world.frames_wait = true;
    world.request(1, 6, Request::Set(Setting::StopMs(60)));
    world.run_until(2_000, |world| given(world) == Duration::from_millis(60));
}

#[test]
fn a_restart_forgets_no_time_to_stop_that_an_older_lease_gave() {
    let mut world = World::formed(3);
    set_stop(&mut world, 5, 50);
    set_stop(&mut world, 6, 0);
    assert!(!claims(&world));
    world.kill_controller(3);
    world.run(50);
    world.restart_controller(3);
    let took = world.run_until(2_000, claims);
    assert!(took + 100 >= LEASE, "{took} ms");
    assert!(world.settled(3));
}
