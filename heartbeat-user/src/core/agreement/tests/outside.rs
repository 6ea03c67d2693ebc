//! Nodes that hold votes and are no members, or may not become ones: what they say counts for as much as it should.

use super::scene::{CALM, judge_reports, says};
use super::world::World;
use crate::core::agreement::closing::Verdict;
use crate::core::agreement::document::Member;
use crate::core::agreement::event::JoinFault;
use crate::core::agreement::message::{Message, Report};
use crate::core::agreement::{AgreementEvent, Stage};
use crate::core::ids::NodeId;
use std::time::Duration;

/// Three nodes formed a cluster; 2 is dead, and 3 is back with settings that are not those of the view.
fn back_with_other_settings() -> World {
    let mut world = World::formed(3);
    world.crash(2);
    world.crash(3);
    world.run(50);
    world.start(3);
    let setup = world.setup(3);
    let agreement = world.nodes.get_mut(&3).unwrap().agreement.as_mut().unwrap();
    agreement.reconfigure(setup.settings + 1, setup.timing, setup.quarantine);
    world
}

#[test]
fn whoever_is_no_member_judges_joiners_by_a_member_s_settings() {
    let mut world = back_with_other_settings();
    // The member cannot propose, so that it would be the other's turn.
    world.lose = |message, from, _| from == 1 && matches!(message, Message::Prepare { .. });
    for _ in 0..60 {
        world.run(100);
        assert_ne!(world.view(1).members.last(), Some(&world.member(3)), "{}", world.describe());
    }
    let why = JoinFault::Settings;
    let refused = AgreementEvent::JoinRefused { node: world.member(3), why };
    assert!(world.nodes[&1].events.contains(&refused));
}

#[test]
fn a_vote_counts_also_where_its_holder_may_not_be_a_member() {
    let mut world = back_with_other_settings();
    world.run_until(3_000, |world| world.members(1) == [1] && world.acting(1).is_ok());
    world.run_until(200, |world| world.members(3) == [1]);
}

/// The only member dies as another one is about to join, with what it said in that regroup still there; the third may not
/// join. The two have votes enough without it.
#[test]
fn what_the_only_member_said_before_it_died_keeps_nobody_from_going_on() {
    let mut world = World::new(3);
    world.dynamic = false;
    world.form();
    for _ in 0..3 {
        world.run_until(20_000, |world| world.settled(3));
        world.crash(3);
        world.run_until(5_000, |world| world.members(1) == [1, 2]);
        world.start(3);
    }
    assert_eq!(world.view(1).quarantined.len(), 1);
    world.run(1_000);
    world.crash(2);
    world.run_until(5_000, |world| world.members(1) == [1] && world.members(3) == [1]);
    world.start(2);
    world.run_until(20_000, |world| {
        let report = |node| world.nodes[&node].agreement.as_ref().unwrap().own_report();
        report(2).joins && report(2).turn == report(1).turn && report(2).turn == report(3).turn
    });
    world.run(100);
    assert_eq!(world.members(1), [1], "{}", world.describe());
    world.crash(1);
    world.run_until(10_000, |world| world.members(2) == [2] && world.members(3) == [2] && world.acting(2).is_ok());
}

#[test]
fn where_no_member_is_left_a_joiner_needs_the_settings_that_most_votes_have() {
    let mut world = World::formed(3);
    for node in 1..=3 {
        world.crash(node);
    }
    world.run(50);
    for node in 1..=3 {
        world.start(node);
    }
    let setup = world.setup(3);
    let agreement = world.nodes.get_mut(&3).unwrap().agreement.as_mut().unwrap();
    agreement.reconfigure(setup.settings + 1, setup.timing, setup.quarantine);
    // The others cannot propose, so that it would be the stranger's turn.
    world.lose = |message, from, _| from != 3 && matches!(message, Message::Prepare { .. });
    for _ in 0..60 {
        world.run(100);
        assert!(!world.view(3).members.contains(&world.member(3)), "{}", world.describe());
    }
    world.lose = |_, _, _| false;
    world.run_until(5_000, |world| world.members(1) == [1, 2] && world.acting(1).is_ok() && world.acting(2).is_ok());
}

#[test]
fn a_quarantine_ends_though_every_controller_restarts_again_and_again() {
    let mut world = World::formed(3);
    world.quarantine = Duration::from_secs(10);
    for node in [1, 2] {
        let setup = world.setup(node);
        let agreement = world.nodes.get_mut(&node).unwrap().agreement.as_mut().unwrap();
        agreement.reconfigure(setup.settings, setup.timing, setup.quarantine);
    }
    while world.view(1).quarantined.is_empty() {
        world.run_until(5_000, |world| world.settled(3));
        world.crash(3);
        world.run_until(5_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
        world.start(3);
    }
    let begun = world.now;
    let restart = |world: &mut World, node: u16| {
        world.kill_controller(node);
        world.run(100);
        world.restart_controller(node);
    };
    while world.now < begun + 9_000 {
        restart(&mut world, 1);
        world.run(700);
        restart(&mut world, 2);
        world.run(700);
        assert_eq!(world.view(1).quarantined.len(), 1, "{} ms", world.now - begun);
    }
    while world.now < begun + 11_500 {
        restart(&mut world, 1);
        world.run(400);
        restart(&mut world, 2);
        world.run(400);
    }
    assert_eq!(world.view(1).quarantined, []);
    world.run_until(5_000, |world| world.settled(3));
}

#[test]
fn whoever_left_and_is_silent_now_votes_no_more() {
    let view = World::formed(3).view(1);
    let [one, two, three] = view.members[..] else { panic!("three members") };
    let to = |author: Member, others: [(Member, bool); 2]| says(&view, author, &others);
    let leaves = Report { leaving: true, ..to(three, [(one, true), (two, false)]) };
    // It goes by its own word, and is heard: its vote is the second of three.
    let verdict = judge_reports(&view, &[to(one, [(two, false), (three, true)]), leaves.clone()], CALM);
    assert!(matches!(&verdict, Verdict::Propose(plan) if plan.members == [one]), "{verdict:?}");
    // What it said is there yet, and it is not.
    let verdict = judge_reports(&view, &[to(one, [(two, false), (three, false)]), leaves], CALM);
    assert_eq!(verdict, Verdict::Waits { available: 1, missing: vec![NodeId(2), NodeId(3)] });
}

#[test]
fn a_node_that_only_joins_is_counted_on_by_nobody_who_forms_a_view() {
    let mut world = World::formed(3);
    (1..=3).for_each(|node| world.crash(node));
    world.run(50);
    world.join_only.insert(2);
    world.start(1);
    world.start(2);
    world.run(1_500);
    for _ in 0..30 {
        world.run(100);
        let status = world.nodes[&1].agreement.as_ref().unwrap().status();
        assert_eq!((status.stage, &status.waits_for[..]), (Stage::Closing, &[NodeId(2), NodeId(3)][..]));
    }
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
}

#[test]
fn settings_of_one_that_may_not_join_keep_nobody_out_where_votes_are_equal() {
    let mut world = World::new(4);
    world.dynamic = false;
    world.form();
    while world.view(2).quarantined.is_empty() {
        world.run_until(5_000, |world| world.settled(4));
        world.crash(1);
        world.run_until(5_000, |world| (2..=4).all(|node| world.members(node) == [2, 3, 4]));
        world.start(1);
    }
    world.run(500);
    (1..=4).for_each(|node| world.crash(node));
    world.run(50);
    let other = |world: &mut World, node: u16| {
        world.start(node);
        let setup = world.setup(node);
        let agreement = world.nodes.get_mut(&node).unwrap().agreement.as_mut().unwrap();
        agreement.reconfigure(setup.settings + 1, setup.timing, setup.quarantine);
    };
    // One vote is in quarantine, with settings that one other has; two others have theirs.
    other(&mut world, 1);
    other(&mut world, 2);
    world.start(3);
    world.start(4);
    world.run_until(5_000, |world| world.members(3) == [3, 4] && world.acting(3).is_ok() && world.acting(4).is_ok());
}
