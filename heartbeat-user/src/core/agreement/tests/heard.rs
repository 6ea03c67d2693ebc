//! What becomes of a single message: what is answered, what is passed on, and what is believed of it.

use super::world::{World, times};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::document::{Document, Member};
use crate::core::agreement::event::JoinFault;
use crate::core::agreement::message::{Message, Report, Setting};
use crate::core::agreement::types::{Command, Input, Request, Setup};
use crate::core::agreement::voter::State;
use crate::core::agreement::{Agreement, Life};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::acceptor::Refusal;
use heartbeat_common::view::{Ballot, Name, Order};

/// A cluster in which nothing happens.
fn at_rest() -> World {
    let mut world = World::formed(3);
    world.run(1_000);
    world
}

fn core(world: &World, at: u16) -> &Agreement {
    world.nodes[&at].agreement.as_ref().unwrap()
}

/// Has node 1 hear this of `from`; returns whom it sends what then.
fn hear(world: &mut World, from: Member, message: Message) -> Vec<(u16, Message)> {
    let now = times(world.now);
    let agreement = world.nodes.get_mut(&1).unwrap().agreement.as_mut().unwrap();
    agreement.handle(Input::Message(from, Box::new(message)), now);
    let commands = std::iter::from_fn(|| agreement.poll_command());
    let sent = commands.filter_map(|command| match command {
        Command::Send(to, message) => Some((to.0, *message)),
        _ => None,
    });
    sent.collect()
}

/// What a node would say next, by what node 1 has heard of it.
fn next_report(world: &World, of: u16) -> Report {
    let report = core(world, of).own_report();
    let known = core(world, 1).peers[&NodeId(of)].report.as_ref().map_or(0, |known| known.serial);
    Report { serial: report.serial.max(known) + 1, ..report }
}

/// Has node 1 hear a report of node 3 by way of `from`.
fn hear_report(world: &mut World, from: u16, report: Report) -> Vec<(u16, Message)> {
    let from = world.member(from);
    hear(world, from, Message::Report(Box::new(report)))
}

#[test]
fn a_view_is_sent_to_who_asks_for_a_newer_one_than_it_has() {
    let mut world = at_rest();
    let (from, order) = (world.member(3), world.view(1).order);
    assert_eq!(hear(&mut world, from, Message::Fetch(order)), []);
    let sent = hear(&mut world, from, Message::Fetch(Order(order.0 - 1)));
    assert_eq!(sent, [(3, Message::Decided(Box::new(world.view(1))))]);
}

#[test]
fn who_is_behind_is_sent_the_view_and_who_is_ahead_is_asked_for_it_once_a_tick() {
    let mut world = at_rest();
    let held = world.view(1).order;
    let behind = Name { order: Order(held.0 - 1), digest: [9; 4] };
    let ahead = Name { order: held.next().unwrap(), digest: [9; 4] };
    for (view, by, answer) in [
        (behind, 3, vec![(3, Message::Decided(Box::new(world.view(1))))]),
        (behind, 2, vec![]),
        (ahead, 3, vec![(3, Message::Fetch(held))]),
        (ahead, 2, vec![(2, Message::Fetch(held))]),
    ] {
        let report = Report { view, ..next_report(&world, 3) };
        assert_eq!(hear_report(&mut world, by, report.clone()), answer, "{view:?} by {by}");
        let again = Report { serial: report.serial + 1, ..report };
        assert_eq!(hear_report(&mut world, by, again), [], "at once");
        world.run(200);
    }
}

/// Whoever asks upon an older view learns by the refusal that there is a newer one.
#[test]
fn who_refuses_for_a_newer_view_is_asked_for_it() {
    let mut world = at_rest();
    let (from, view) = (world.member(3), world.view(1).name());
    let refusal = Refusal::OlderView(Name { order: view.order.next().unwrap(), ..view });
    let refused = Message::Refused { view, ballot: Ballot::NONE, refusal };
    assert_eq!(hear(&mut world, from, refused), [(3, Message::Fetch(view.order))]);
}

#[test]
fn rounds_are_those_of_the_view_held() {
    let mut world = at_rest();
    let (own, round) = (world.view(1).name(), core(&world, 1).regroup.round);
    let other = Name { digest: [9; 4], ..own };
    for (view, expected) in [(other, round), (own, round + 5)] {
        let report = Report { view, round: round + 5, ..next_report(&world, 3) };
        hear_report(&mut world, 3, report);
        assert_eq!(core(&world, 1).regroup.round, expected);
    }
}

#[test]
fn nobody_takes_a_view_of_another_cluster() {
    let mut world = at_rest();
    let (from, view) = (world.member(3), world.view(1));
    let order = view.order.next().unwrap();
    let parent = view.name().digest;
    let next = Document { order, parent, ..view };
    for (instance, taken) in [([8, 8], false), ([7, 7], true)] {
        hear(&mut world, from, Message::Decided(Box::new(Document { instance, ..next.clone() })));
        let installed = core(&world, 1).voter.as_ref().unwrap().state().installed.order;
        assert_eq!(installed == order, taken, "{instance:?}");
    }
}

/// Two nodes with one identity are both heard: neither may join, and why is told.
#[test]
fn who_is_doubled_is_refused_by_name() {
    let mut world = at_rest();
    world.crash(3);
    world.run_until(3_000, |world| world.settled(2));
    world.run(1_000);
    world.mute.extend([(3, 1), (3, 2)]);
    world.start(3);
    world.run(1_000);
    let mut facts = world.facts(1);
    let fact = facts.iter_mut().find(|fact| fact.node == NodeId(3)).unwrap();
    fact.older_heard = MonoTime(world.now * 1_000_000);
    world.input(1, Input::Facts(facts));
    let (why, node) = (JoinFault::Doubled, world.member(3));
    let report = Report { joins: true, ..next_report(&world, 3) };
    world.input(1, Input::Message(node, Box::new(Message::Report(Box::new(report)))));
    assert!(world.nodes[&1].events.contains(&AgreementEvent::JoinRefused { node, why }), "{}", world.describe());
}

/// A connection that stands anew may have lost the last report: what it brings is one that counts.
#[test]
fn a_connection_brings_a_report_that_is_newer() {
    let mut world = at_rest();
    let serial = core(&world, 1).regroup.serial;
    let (peer, now) = (world.member(3), times(world.now));
    let agreement = world.nodes.get_mut(&1).unwrap().agreement.as_mut().unwrap();
    agreement.handle(Input::Connected(peer), now);
    let sent: Vec<Command> = std::iter::from_fn(|| agreement.poll_command()).collect();
    let [Command::Send(NodeId(3), message)] = &sent[..] else { panic!("{sent:?}") };
    assert!(matches!(&**message, Message::Report(report) if report.serial > serial), "{message:?}");
}

/// The state that it lost may have been told of by others: a fresh one begins above it.
#[test]
fn a_fresh_state_begins_above_all_that_is_remembered() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(3_000, |world| world.settled(2));
    world.lose_disk(3);
    world.start(3);
    let setup = Setup { remembered: 900, ..world.setup(3) };
    world.nodes.get_mut(&3).unwrap().agreement = Some(Agreement::new(setup, times(world.now)));
    world.run_until(3_000, |world| world.life(3) == Some(Life::Observer));
    let state: State = borsh::from_slice(world.nodes[&3].disk.as_ref().unwrap()).unwrap();
    assert!(state.sequence > 900, "{}", state.sequence);
}

/// An attempt upon a view that has to be fetched first is answered once that is on disk.
#[test]
fn an_attempt_upon_a_view_not_held_yet_is_answered_when_it_is() {
    let mut world = World::formed(3);
    world.lose = |message, _, to| to == 3 && matches!(message, Message::Decided(_));
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(2_000, |world| world.view(1).lease.lease_ms == 700);
    let (from, view) = (world.member(1), world.view(1));
    let ballot = Ballot { round: 7, node: 1, incarnation: from.incarnation };
    world.input(3, Input::Message(from, Box::new(Message::Prepare { view: view.name(), ballot })));
    world.lose = |message, _, _| matches!(message, Message::Prepare { .. });
    world.input(3, Input::Message(from, Box::new(Message::Decided(Box::new(view.clone())))));
    world.run(100);
    let state: State = borsh::from_slice(world.nodes[&3].disk.as_ref().unwrap()).unwrap();
    assert_eq!((state.installed, state.register.promised), (view, ballot));
}

/// How often node 3, which is cut off, has said that it waits.
#[test]
fn that_votes_are_missing_is_said_every_ten_seconds() {
    let mut world = World::formed(3);
    world.split(&[3]);
    let mut waits = |ms| {
        world.run(ms);
        let waits = |event: &&AgreementEvent| matches!(event, AgreementEvent::RegroupWaits { .. });
        world.nodes[&3].events.iter().filter(waits).count()
    };
    assert_eq!([9_000, 9_000, 9_000].map(&mut waits), [1, 2, 3]);
}
