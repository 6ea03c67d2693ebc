//! What is left of before: of a pause, of a controller that was killed at a bad moment, of a peer that counts wildly.
//! None of it may be taken for the present, and none may hold up what follows.

use super::world::{LEASE, World};
use crate::core::agreement::document::Document;
use crate::core::agreement::message::{Message, Report, Setting};
use crate::core::agreement::types::{Command, Input, Request};
use crate::core::agreement::voter::State;
use heartbeat_common::acceptor::{Promise, Refusal};
use heartbeat_common::view::{Ballot, Order, VoteId};

#[test]
fn a_kill_between_in_force_and_the_bank_leaves_a_node_that_acts() {
    let mut world = World::forced();
    world.run_until(2_000, |world| world.acting(3).is_ok());
    // The bank that came with the view is there yet, and the one that lets this node act in it is not.
    let bank = world.nodes.get_mut(&3).unwrap().kernel.bank.as_mut().unwrap();
    (bank.member, bank.carry) = (false, false);
    world.kill_controller(3);
    world.run(50);
    assert!(world.acting(3).is_err());
    world.restart_controller(3);
    world.run_until(200, |world| world.acting(3).is_ok());
    let bank = world.nodes[&3].kernel.bank.as_ref().unwrap();
    assert!(!bank.carry, "there was no lease that could go on");
}

/// Before its view is in force a forced node acts in nothing, also where its controller comes back meanwhile.
#[test]
fn a_kill_before_in_force_gives_a_forced_node_nothing() {
    let mut world = World::forced();
    world.run(50);
    world.kill_controller(3);
    world.run(50);
    world.restart_controller(3);
    for _ in 0..LEASE / 10 {
        assert!(world.acting(3).is_err());
        world.run(10);
    }
    world.run_until(100, |world| world.acting(3).is_ok());
}

/// Its promises came when it ran again, and what it knew of the others is from before: it proposes nothing by that.
#[test]
fn reports_from_before_a_pause_choose_no_view() {
    let mut world = World::formed(3);
    world.run(1_000);
    world.lose = |message, _, to| to == 1 && matches!(message, Message::Promised { .. });
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    let disk =
        |world: &World, node: u16| -> State { borsh::from_slice(world.nodes[&node].disk.as_ref().unwrap()).unwrap() };
    world.run_until(1_000, |world| disk(world, 2).register.promised != Ballot::NONE);
    let register = disk(&world, 2).register;
    world.stall(1, true);
    world.lose = |_, _, to| to == 1;
    world.run(200);
    world.stall(1, false);
    world.nodes.get_mut(&1).unwrap().log.clear();
    let facts = world.facts(1);
    world.input(1, Input::Facts(facts));
    let promise = Promise { accepted: Ballot::NONE, value: [0; 4] };
    for node in [2, 3] {
        let vote = disk(&world, node).vote;
        let promised =
            Message::Promised { view: register.view, ballot: register.promised, vote, promise, document: None };
        world.input(1, Input::Message(world.member(node), Box::new(promised)));
    }
    let cleared = |command: &Command| matches!(command, Command::ClearGrants(_));
    assert!(!world.nodes[&1].log.iter().any(cleared), "{:?}", world.nodes[&1].log);
    world.lose = |_, _, _| false;
    world.run_until(3_000, |world| world.view(1).lease.lease_ms == 700);
}

/// What node 3 would say next.
fn next_report(world: &World) -> Report {
    let report = world.nodes[&3].agreement.as_ref().unwrap().own_report();
    Report { serial: report.serial + 1, ..report }
}

fn say(world: &mut World, to: u16, message: Message) {
    let from = world.member(3);
    world.input(to, Input::Message(from, Box::new(message)));
}

#[test]
fn a_round_that_leaps_blocks_no_register() {
    let mut world = World::formed(3);
    let before = world.view(1);
    let ballot = Ballot { round: u64::MAX, node: 3, incarnation: world.member(3).incarnation };
    for node in [1, 2] {
        say(&mut world, node, Message::Prepare { view: before.name(), ballot });
        let report = Report { round: u64::MAX, ..next_report(&world) };
        say(&mut world, node, Message::Report(Box::new(report)));
        let refusal = Refusal::Promised(ballot);
        say(&mut world, node, Message::Refused { view: before.name(), ballot, refusal });
    }
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
    assert_eq!(Some(world.view(1).order), before.order.next());
}

#[test]
fn turns_and_serials_that_leap_are_not_believed() {
    let mut world = World::formed(3);
    let turn = world.nodes[&1].agreement.as_ref().unwrap().status().turn;
    let report = Report { turn: u64::MAX, ..next_report(&world) };
    say(&mut world, 1, Message::Report(Box::new(report)));
    assert_eq!(world.nodes[&1].agreement.as_ref().unwrap().status().turn, turn);
    let report = Report { serial: u64::MAX, leaving: true, ..next_report(&world) };
    say(&mut world, 1, Message::Report(Box::new(report)));
    world.run(3_000);
    assert!(world.settled(3), "what it says next counts: {}", world.describe());
}

/// Nobody would hear it ever again.
#[test]
fn a_serial_that_leaps_silences_nobody() {
    let mut world = World::formed(3);
    for node in [1, 2] {
        let report = Report { serial: u64::MAX, ..next_report(&world) };
        say(&mut world, node, Message::Report(Box::new(report)));
    }
    world.request(3, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| world.view(1).lease.lease_ms == 700);
}

/// A service manager that starts a controller again and again, while others do not hear it, makes no liar of it.
#[test]
fn a_controller_of_whatever_generation_is_believed() {
    let mut world = World::formed(3);
    world.kill_controller(3);
    world.nodes.get_mut(&3).unwrap().generation = u32::MAX / 2 - 1;
    world.restart_controller(3);
    world.request(3, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(2_000, |world| world.view(1).lease.lease_ms == 700);
}

#[test]
fn a_sequence_that_leaps_takes_nobodys_vote() {
    let mut world = World::formed(3);
    let vote = |world: &World, node: u16| -> VoteId {
        borsh::from_slice::<State>(world.nodes[&node].disk.as_ref().unwrap()).unwrap().vote
    };
    let (one, three) = (vote(&world, 1), vote(&world, 3));
    let report = Report { remembers: vec![(one, u64::MAX)], sequence: u64::MAX, ..next_report(&world) };
    assert_eq!(report.vote, three);
    say(&mut world, 1, Message::Report(Box::new(report)));
    world.run(3_000);
    assert!(world.settled(3), "{}", world.describe());
    assert!(world.nodes.values().all(|node| node.ended.is_none()));
}

#[test]
fn a_view_whose_order_leaps_is_not_believed() {
    let mut world = World::formed(3);
    let view = world.view(1);
    for order in [Order::new(0, (1 << 48) - 1), Order::new(u16::MAX, 9)] {
        let wild = Document { order: order.unwrap(), ..view.clone() };
        wild.check().unwrap();
        say(&mut world, 1, Message::Decided(Box::new(wild)));
        world.run(100);
        assert_eq!(world.view(1), view);
    }
    let next = Document { order: view.order.next().unwrap(), parent: view.name().digest, ..view };
    say(&mut world, 1, Message::Decided(Box::new(next.clone())));
    world.run(100);
    assert_eq!(world.view(1), next);
}

#[test]
fn whoever_was_away_for_many_forced_starts_follows_them() {
    let mut world = World::formed(3);
    let view = world.view(1);
    let order = Order::new(9_000, 12).unwrap();
    say(&mut world, 1, Message::Decided(Box::new(Document { order, ..view })));
    world.run(50);
    assert_eq!(world.view(1).order, order);
}
