//! Grants and banks: what a node's frames and page hold of its vote and lease, and from which moment on.

use super::world::World;
use crate::core::agreement::document::Document;
use crate::core::agreement::install::mark;
use crate::core::agreement::message::{Message, Setting};
use crate::core::agreement::types::{Bank, Command, Input, PageView, Request, Standing};
use crate::core::agreement::voter::State;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::Refused;
use heartbeat_common::view::Order;

/// Three members; what they commanded until then is forgotten.
fn formed() -> World {
    let mut world = World::formed(3);
    world.nodes.values_mut().for_each(|node| node.log.clear());
    world
}

fn banks(world: &World, at: u16) -> Vec<Bank> {
    let bank = |command: &Command| match command {
        Command::Install(bank) => Some((**bank).clone()),
        _ => None,
    };
    world.nodes[&at].log.iter().filter_map(bank).collect()
}

fn standings(world: &World, at: u16) -> Vec<Standing> {
    let said = |command: &Command| match command {
        Command::Standing(standing) => Some((**standing).clone()),
        _ => None,
    };
    world.nodes[&at].log.iter().filter_map(said).collect()
}

/// The marks that a node set or cleared, by `of`, in its order.
fn marks(world: &World, at: u16, of: fn(&Command) -> Option<u64>) -> Vec<u64> {
    world.nodes[&at].log.iter().filter_map(of).collect()
}

const GRANTED: fn(&Command) -> Option<u64> = |command| match command {
    Command::SetGranting(mark) => Some(*mark),
    _ => None,
};
const CLEARED: fn(&Command) -> Option<u64> = |command| match command {
    Command::ClearGrants(mark) => Some(*mark),
    _ => None,
};

/// The members have decided on another lease, and the frames of all are those of the view before.
fn decided_before_any_frame_says_it() -> World {
    let mut world = formed();
    world.frames_wait = true;
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(2_000, |world| world.view(3).lease.lease_ms == 700);
    world.run(100);
    world
}

#[test]
fn no_grant_goes_out_before_every_frame_carries_it() {
    let mut world = decided_before_any_frame_says_it();
    assert_eq!(marks(&world, 3, GRANTED), [0; 0]);
    world.change_frames();
    assert_eq!(marks(&world, 3, GRANTED), [mark(world.view(3).name())]);
}

#[test]
fn whose_kernel_obeyed_a_fence_grants_nothing_more() {
    let mut world = decided_before_any_frame_says_it();
    let fenced = world.nodes[&3].incarnation;
    let page = PageView {
        acting: Err(Refused::Fenced),
        lease_until_ns: 0,
        fenced,
        fenced_by: None,
        fenced_at: MonoTime::ZERO,
    };
    world.nodes.get_mut(&3).unwrap().kernel.fenced = fenced;
    world.input(3, Input::Page(page));
    world.change_frames();
    assert_eq!(marks(&world, 3, GRANTED), [0; 0]);
}

/// The own vote counts for a lease from the moment in which its grants are cleared: a second one would be later.
#[test]
fn the_grants_of_a_view_are_cleared_once() {
    let mut world = formed();
    let before = mark(world.view(1).name());
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(2_000, |world| world.settled(3) && world.view(1).lease.lease_ms == 700);
    for node in 1..=3 {
        assert_eq!(marks(&world, node, CLEARED), [before], "node {node}");
    }
}

/// What it cleared it does not say again after a restart, also where no acceptance got to its disk.
#[test]
fn no_frame_carries_grants_that_were_cleared() {
    let mut world = formed();
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| world.nodes[&2].kernel.granting == 0);
    world.kill_controller(2);
    world.nodes.get_mut(&2).unwrap().log.clear();
    world.restart_controller(2);
    let first = standings(&world, 2).swap_remove(0);
    assert!(first.votes && first.member);
    assert_eq!((first.mark, first.grants), (0, vec![]));
}

fn votes(view: &Document, state: &State) -> bool {
    view.votes.iter().any(|vote| vote.id == state.vote)
}

#[test]
fn a_vote_that_a_view_does_not_name_is_no_part_of_it() {
    let mut world = formed();
    world.crash(3);
    world.run_until(3_000, |world| world.settled(2));
    world.lose_disk(3);
    world.start(3);
    world.nodes.get_mut(&3).unwrap().log.clear();
    world.run_until(5_000, |world| world.settled(3));
    let state: State = borsh::from_slice(world.nodes[&3].disk.as_ref().unwrap()).unwrap();
    let named = |order: Order| votes(&world.views[&order], &state);
    let (banks, standings) = (banks(&world, 3), standings(&world, 3));
    let own: Vec<(bool, bool)> = banks.iter().map(|bank| (named(bank.view.order), bank.own_mark != 0)).collect();
    assert_eq!(own, [(false, false), (true, true)]);
    let said: Vec<_> = standings.iter().map(|one| (one.votes, one.mark != 0, one.grants.len())).collect();
    assert_eq!(said, [(false, false, 0), (true, true, 2)]);
    assert_eq!(banks.iter().map(|bank| (bank.member, bank.carry)).collect::<Vec<_>>(), [(false, false), (true, false)]);
}

#[test]
fn no_lease_goes_on_at_who_was_or_is_no_member() {
    let mut world = formed();
    world.no_fences = true;
    world.request(1, 5, Request::Fence(NodeId(3)));
    world.run_until(3_000, |world| banks(world, 3).len() == 1);
    let out = banks(&world, 3).swap_remove(0);
    assert!(!out.member && !out.carry, "it goes out by this view");
    world.run_until(3_000, |world| world.nodes[&3].ended.is_some());
    world.start(3);
    world.nodes.get_mut(&3).unwrap().log.clear();
    world.run_until(5_000, |world| world.settled(3));
    let last = banks(&world, 3).pop().unwrap();
    assert!(last.member && !last.carry, "it comes in by this one");
}

#[test]
fn what_was_accepted_and_is_not_known_to_be_cleared_is_cleared_by_the_next_controller() {
    let mut world = formed();
    let before = mark(world.view(2).name());
    world.lose = |message, _, _| matches!(message, Message::Accepted { .. } | Message::Decided(_));
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| {
        borsh::from_slice::<State>(world.nodes[&2].disk.as_ref().unwrap()).unwrap().accepted.is_some()
    });
    world.kill_controller(2);
    // A page that is not of this disk, whatever made it so.
    let this = world.nodes.get_mut(&2).unwrap();
    (this.kernel.cleared, this.kernel.granting) = (0, before);
    this.log.clear();
    world.restart_controller(2);
    assert_eq!(marks(&world, 2, CLEARED), [before]);
    let bank = banks(&world, 2).swap_remove(0);
    assert!(bank.member && !bank.carry, "no date outlives the acceptance");
}
