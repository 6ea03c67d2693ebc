//! The rules that may not bend, each by itself.

use super::world::{LEASE, World};
use crate::core::agreement::document::Reason;
use crate::core::agreement::message::Message;
use crate::core::agreement::message::Setting;
use crate::core::agreement::types::{Command, Ending, Input, Outcome, Refusal, Request};
use crate::core::agreement::{AgreementEvent, Life, Stage};
use crate::core::ids::NodeId;

fn grants(world: &World, node: u16) -> u64 {
    world.nodes[&node].kernel.granting
}

#[test]
fn a_minority_waits_accepts_nothing_fences_nobody_and_keeps_its_grants() {
    let mut world = World::formed(3);
    world.split(&[3]);
    let mark = grants(&world, 3);
    world.run(5_000);
    let here = &world.nodes[&3];
    assert_eq!(grants(&world, 3), mark);
    assert!(!here.log.iter().any(|command| matches!(command, Command::Fence(..))));
    let status = here.agreement.as_ref().unwrap().status();
    assert_eq!(status.waits_for.iter().map(|node| node.0).collect::<Vec<_>>(), [1, 2]);
    assert!(here.events.iter().any(|event| matches!(event, AgreementEvent::QuorumLost { .. })));
    assert_eq!(world.life(3), Some(Life::Member));
}

#[test]
fn the_minority_stops_acting_before_anybody_takes_over() {
    let mut world = World::formed(3);
    world.split(&[3]);
    let stopped = world.run_until(3_000, |world| world.acting(3).is_err());
    assert!(stopped <= LEASE + 20, "{stopped}");
    // The world's own check runs in each round: nobody acts beside a view that lacks him.
    world.run_until(3_000, |world| world.settled(2));
}

#[test]
fn an_acceptance_ends_every_grant_first() {
    let mut world = World::formed(3);
    for node in world.nodes.values_mut() {
        node.log.clear();
    }
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
    for node in [1, 2] {
        let log = &world.nodes[&node].log;
        let accepted = |command: &Command| matches!(command, Command::Write(state) if state.accepted.is_some());
        let write = log.iter().position(accepted).expect("it accepted");
        let clear = log.iter().position(|command| matches!(command, Command::ClearGrants(_)));
        assert!(clear.is_some_and(|clear| clear < write), "node {node}: {log:?}");
        let granted = log.iter().position(|command| matches!(command, Command::SetGranting(_)));
        let install = log.iter().position(|command| matches!(command, Command::Install(_)));
        assert!(granted > install && install > Some(write), "new grants come with the new view alone");
    }
}

#[test]
fn an_acceptance_ends_grants_to_those_that_stay() {
    let mut world = World::formed(3);
    world.lose = |message, _, _| matches!(message, Message::Accepted { .. } | Message::Decided(_));
    world.crash(3);
    world.run_until(3_000, |world| grants(world, 2) == 0 || grants(world, 1) == 0);
    world.run(200);
    assert_eq!((grants(&world, 1), grants(&world, 2)), (0, 0), "to each other neither grants any more");
    assert_eq!(world.members(1), [1, 2, 3]);
}

#[test]
fn a_lost_ballot_gives_no_grant_back() {
    let mut world = World::formed(3);
    // Nobody's value reaches anybody else: whoever accepted its own steps back, again and again.
    world.lose = |message, _, _| matches!(message, Message::Accept { .. } | Message::Decided(_));
    world.crash(3);
    world.run_until(3_000, |world| grants(world, 1) == 0);
    let view = world.view(1).order;
    for _ in 0..200 {
        world.run(10);
        assert_eq!((world.view(1).order, grants(&world, 1)), (view, 0));
    }
    world.lose = |_, _, _| false;
    world.run_until(5_000, |world| world.settled(2));
    assert_ne!(grants(&world, 1), 0, "the next view brings new ones");
}

#[test]
fn an_orphaned_acceptance_is_finished_within_a_stage() {
    let mut world = World::formed(3);
    // The first in rank dies once its value is with one other: that one alone knows of it.
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.lose = |message, from, to| {
        matches!(message, Message::Accept { .. }) && (from, to) == (1, 3)
            || from == 2 && to == 1 && matches!(message, Message::Accepted { .. })
    };
    world.run_until(3_000, |world| grants(world, 2) == 0);
    world.crash(1);
    world.lose = |_, _, _| false;
    let took =
        world.run_until(4_000, |world| world.view(2).lease.lease_ms == 700 && world.view(3).lease.lease_ms == 700);
    assert!(took <= 700, "{took} ms");
}

#[test]
fn a_restart_after_an_acceptance_grants_nothing() {
    let mut world = World::formed(3);
    world.lose = |message, _, _| matches!(message, Message::Accepted { .. } | Message::Decided(_));
    world.crash(3);
    world.run_until(3_000, |world| grants(world, 2) == 0 && grants(world, 1) == 0);
    world.run(50);
    world.kill_controller(2);
    world.nodes.get_mut(&2).unwrap().log.clear();
    world.restart_controller(2);
    world.run(300);
    assert_eq!(grants(&world, 2), 0);
    let log = &world.nodes[&2].log;
    assert!(!log.iter().any(|command| matches!(command, Command::SetGranting(_))));
    let standing = log.iter().find_map(|command| match command {
        Command::Standing(standing) => Some(standing.clone()),
        _ => None,
    });
    assert_eq!(standing.map(|standing| (standing.mark, standing.grants.len())), Some((0, 0)));
}

#[test]
fn a_clear_without_an_acceptance_on_disk_is_remembered_and_a_decision_is_owed() {
    let mut world = World::formed(3);
    let before = world.view(1).order;
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.lose = |message, from, to| from == 1 && to == 3 && matches!(message, Message::Accept { .. });
    world.run_until(3_000, |world| grants(world, 2) == 0);
    // Its acceptance never reaches the disk.
    world.kill_controller(2);
    world.lose = |_, _, _| false;
    world.restart_controller(2);
    world.run_until(5_000, |world| world.view(2).order > before && world.settled(3));
    assert_ne!(grants(&world, 2), 0);
}

#[test]
fn a_restarted_controller_of_the_same_incarnation_is_no_gap() {
    let mut world = World::formed(3);
    let before = world.view(1).order;
    world.kill_controller(2);
    for _ in 0..20 {
        world.run(10);
        assert!(world.acting(2).is_ok(), "its kernel goes on");
    }
    world.restart_controller(2);
    for _ in 0..200 {
        world.run(10);
        assert!(world.acting(2).is_ok() && world.acting(1).is_ok());
    }
    assert_eq!(world.view(1).order, before, "nobody was told to leave");
}

#[test]
fn the_wait_begins_when_the_decision_is_learned() {
    let mut world = World::formed(3);
    world.crash(3);
    // Node 2 learns of the view long after node 1.
    world.lose = |message, _, to| to == 2 && matches!(message, Message::Decided(_));
    world.run_until(3_000, |world| world.members(1) == [1, 2]);
    let view = world.view(1).order;
    world.run(1_500);
    assert_eq!(world.nodes[&1].kernel.in_force, view);
    assert_eq!(world.members(2), [1, 2, 3]);
    world.lose = |_, _, _| false;
    world.run_until(1_000, |world| world.members(2) == [1, 2]);
    world.run(LEASE - 50);
    assert_ne!(world.nodes[&2].kernel.in_force, view, "another one's wait proves nothing");
    world.run(150);
    assert_eq!(world.nodes[&2].kernel.in_force, view);
}

#[test]
fn another_ones_wait_proves_nothing() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(3_000, |world| world.settled(2));
    assert_eq!(world.view(1).owed.len(), 1);
    world.request(1, 8, Request::Set(Setting::LeaseMs(600)));
    world.run_until(3_000, |world| world.view(2).lease.lease_ms == 600);
    assert_eq!(world.view(1).owed.len(), 1, "what is owed is copied from view to view");
    world.crash(2);
    world.run(1_000);
    world.start(2);
    let start = world.now;
    world.run_until(5_000, |world| world.acting(2).is_ok());
    assert!(world.now > start + 600, "who comes back waits for the dead one anew, by its own clock");
}

#[test]
fn what_is_owed_is_copied_from_view_to_view() {
    let mut world = World::formed(5);
    world.crash(5);
    world.run_until(3_000, |world| world.members(1).len() == 4);
    world.crash(4);
    world.run_until(3_000, |world| world.members(1).len() == 3);
    let owed: Vec<u16> = world.view(1).owed.iter().map(|owed| owed.member.node.0).collect();
    assert_eq!(owed, [4, 5]);
    assert!(world.view(1).owed[1].left_out_by < world.view(1).owed[0].left_out_by);
}

#[test]
fn left_out_means_never_again() {
    let mut world = World::formed(3);
    world.no_fences = true;
    world.stall(3, true);
    world.run_until(20_000, |world| world.members(1) == [1, 2]);
    // Its fences are lost, and its controller runs again under the old incarnation.
    world.stall(3, false);
    world.run(3_000);
    assert_eq!(world.nodes[&3].ended, Some(Ending::Out));
    assert_eq!(world.members(1), [1, 2]);
}

#[test]
fn no_fence_before_the_decision() {
    let mut world = World::formed(3);
    world.lose = |message, _, _| matches!(message, Message::Accepted { .. } | Message::Decided(_));
    world.split(&[3]);
    world.run(3_000);
    let fences = |command: &Command| matches!(command, Command::Fence(..));
    assert!(!world.nodes[&1].log.iter().any(fences) && !world.nodes[&2].log.iter().any(fences));
    world.lose = |_, _, _| false;
    world.run_until(3_000, |world| world.members(1) == [1, 2]);
    world.run(100);
    assert!(world.nodes[&1].log.iter().any(fences));
}

#[test]
fn an_acknowledged_fence_ends_the_wait_where_the_kernel_gates() {
    let mut world = World::formed(3);
    world.gated = true;
    world.request(1, 3, Request::Fence(crate::core::ids::NodeId(3)));
    let took = world.run_until(2_000, |world| world.settled(2));
    assert!(took < 300, "{took} ms, and no lease to wait for");
    assert!(matches!(world.outcome(1, 3), Some(Outcome::Decided(_))));
    assert_eq!(world.nodes[&3].kernel.fenced, world.nodes[&3].incarnation);
    world.run(1_000);
    assert_eq!(world.nodes[&3].ended, Some(Ending::Removed), "an operator's order is no fault of the victim's");
}

#[test]
fn an_empty_disk_has_no_vote_and_grants_nothing() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run(200);
    world.lose_disk(3);
    world.start(3);
    world.nodes.get_mut(&3).unwrap().log.clear();
    world.run_until(2_000, |world| world.life(3) == Some(Life::Observer));
    let vote = world.nodes[&3].agreement.as_ref().unwrap().status();
    assert!(!vote.granting);
    for _ in 0..500 {
        world.run(10);
        if world.settled(3) {
            break;
        }
        let named = world.view(1).incarnation_of(crate::core::ids::NodeId(3)) == Some(world.nodes[&3].incarnation);
        assert!(named || grants(&world, 3) == 0, "no grant before a view names the new vote");
    }
    assert!(world.settled(3));
    assert_ne!(grants(&world, 3), 0);
}

#[test]
fn a_control_black_hole_ends_in_one_decision() {
    let mut world = World::formed(3);
    for other in [1, 2] {
        world.mute.insert((3, other));
        world.mute.insert((other, 3));
    }
    world.run_until(5_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
    assert_eq!(world.view(1).removals.first().map(|removal| removal.reason), Some(Reason::NoMessages));
    world.run(2_000);
    assert_eq!(world.members(1), [1, 2]);
    assert!(world.acting(1).is_ok() && world.acting(3).is_err());
}

#[test]
fn a_controller_that_stands_still_is_not_left_out_for_its_silence() {
    let mut world = World::formed(3);
    // It counts as stalled only after messages should have passed long since.
    world.stall_limit = 5_000;
    let before = world.view(1).order;
    for stall in [990, 1_200, 4_000] {
        world.stall(3, true);
        world.run(stall);
        world.stall(3, false);
        world.run(1_500);
        assert_eq!(world.view(1).order, before, "after {stall} ms");
    }
    assert!(world.settled(3));
}

#[test]
fn who_does_not_answer_is_named_while_the_regroup_waits_for_it() {
    let mut world = World::formed(3);
    world.stall(2, true);
    world.crash(3);
    world.run(3_000);
    for _ in 0..300 {
        world.run(10);
        let status = world.nodes[&1].agreement.as_ref().unwrap().status();
        assert_eq!((status.stage, status.waits_for), (Stage::Pruning, vec![NodeId(2)]), "at {}", world.now);
    }
    let waits = |event: &AgreementEvent| matches!(event, AgreementEvent::RegroupWaits { waits_for, .. } if *waits_for == [NodeId(2)]);
    assert!(world.nodes[&1].events.iter().any(waits));
    world.stall(2, false);
    world.run_until(3_000, |world| world.settled(2));
    assert!(world.nodes[&1].agreement.as_ref().unwrap().status().waits_for.is_empty());
}

#[test]
fn a_one_way_cut_ends_in_one_decision() {
    let mut world = World::formed(3);
    world.deaf.insert((3, 2));
    world.run_until(5_000, |world| world.settled(2) || world.members(1) == [1, 2]);
    world.run(3_000);
    assert_eq!(world.members(1), [1, 2]);
}

#[test]
fn a_forced_start_waits_before_it_acts_and_its_side_wins_when_they_meet() {
    let mut world = World::formed(3);
    world.split(&[3]);
    world.run_until(5_000, |world| world.settled(2));
    world.request(3, 1, Request::Force);
    world.run(50);
    assert_eq!(world.members(3), [3]);
    assert_eq!(world.view(3).order.force(), 1);
    assert!(world.acting(3).is_err(), "it acts after the longest lease that it knows of");
    assert_eq!(world.view(3).owed.len(), 2);
    world.run(LEASE - 50);
    assert!(world.acting(3).is_err());
    world.request(1, 2, Request::Force);
    assert_eq!(world.outcome(1, 2), Some(Outcome::Refused(Refusal::NotWaiting)));
    world.heal();
    world.run_until(1_000, |world| (1..=2).all(|node| world.nodes[&node].ended == Some(Ending::Removed)));
    world.run_until(1_000, |world| world.acting(3).is_ok());
    world.start(1);
    world.start(2);
    world.run_until(5_000, |world| world.settled(3));
}

#[test]
fn a_report_of_an_older_incarnation_is_ignored() {
    let mut world = World::formed(2);
    let old = world.member(2);
    world.crash(2);
    world.start(2);
    world.run_until(5_000, |world| world.settled(2));
    let view = world.view(1);
    world.input(
        1,
        Input::Message(
            old,
            Box::new(Message::Decided(Box::new({
                let mut other = view.clone();
                other.order = view.order.next().unwrap();
                other.parent = view.name().digest;
                other
            }))),
        ),
    );
    world.run(100);
    assert_eq!(world.view(1).order, view.order);
}
