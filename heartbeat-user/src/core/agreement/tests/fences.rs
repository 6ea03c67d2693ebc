//! For how long fences are sent, and what a node makes of one that its own kernel obeyed.

use super::world::{World, times};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::document::Member;
use crate::core::agreement::message::Message;
use crate::core::agreement::types::{Command, Input, PageView};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::Refused;

/// How many fences node 1 has sent.
fn sent(world: &World) -> usize {
    world.nodes[&1].log.iter().filter(|command| matches!(command, Command::Fence(..))).count()
}

fn acknowledged(world: &World, victim: Member) -> usize {
    let told = |event: &&AgreementEvent| matches!(event, AgreementEvent::FenceAcknowledged { victim: told, .. } if *told == victim);
    world.nodes[&1].events.iter().filter(told).count()
}

/// To have waited is no proof: its kernel may come back, and is to obey then.
#[test]
fn whoever_is_only_waited_for_is_fenced_on() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(5_000, |world| world.settled(2));
    world.run(1_000);
    let before = sent(&world);
    world.run(3_000);
    assert!((2..=4).contains(&(sent(&world) - before)), "one a second, by now");
}

#[test]
fn whose_kernel_has_obeyed_is_fenced_no_more() {
    let mut world = World::formed(3);
    let victim = world.member(3);
    world.stall(3, true);
    world.run_until(20_000, |world| acknowledged(world, victim) == 1);
    let before = sent(&world);
    world.run(3_000);
    assert_eq!((sent(&world), acknowledged(&world, victim)), (before, 1));
}

/// The view that says why it was fenced may not have reached it.
#[test]
fn whoever_is_fenced_asks_all_others_why() {
    let mut world = World::formed(3);
    world.run(1_000);
    let (now, fenced, order) = (times(world.now), world.nodes[&3].incarnation, world.view(3).order);
    let agreement = world.nodes.get_mut(&3).unwrap().agreement.as_mut().unwrap();
    let acting = Err(Refused::Fenced);
    let page = PageView { acting, lease_until_ns: 0, fenced, fenced_by: None, fenced_at: MonoTime::ZERO };
    agreement.handle(Input::Page(page), now);
    let commands: Vec<Command> = std::iter::from_fn(|| agreement.poll_command()).collect();
    for node in [1, 2] {
        let asked = Command::Send(NodeId(node), Box::new(Message::Fetch(order)));
        assert!(commands.contains(&asked), "{commands:?}");
    }
}

/// Nothing that the side before the forced start left is taken for its own.
#[test]
fn no_lease_goes_on_into_a_forced_start() {
    let mut world = World::forced();
    world.run_until(2_000, |world| world.nodes[&3].kernel.in_force.force() == 1);
    let bank = world.nodes[&3].kernel.bank.as_ref().unwrap();
    assert!(bank.member && !bank.carry);
}
