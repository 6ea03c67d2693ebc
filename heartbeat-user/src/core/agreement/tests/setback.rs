//! A node that goes on from an older snapshot: its peers tell it what it has forgotten, and it ends; and what looks like
//! that and is none of it.

use super::world::World;
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::message::{Health, Message, Report, Setting};
use crate::core::agreement::types::{Command, Ending, Input, Request};

fn own_report(world: &World, node: u16) -> Report {
    world.nodes[&node].agreement.as_ref().unwrap().own_report()
}

fn went_back(world: &World, node: u16) -> bool {
    world.nodes[&node].events.contains(&AgreementEvent::TimeWentBack)
}

fn say(world: &mut World, from: u16, to: u16, report: Report) {
    let from = world.member(from);
    world.input(to, Input::Message(from, Box::new(Message::Report(Box::new(report)))));
}

/// What the others know, and it does not any more, is its own report.
#[test]
fn whoever_is_set_back_hears_what_it_said_and_ends() {
    let mut world = World::formed(3);
    world.run(1_000);
    let then = world.nodes[&3].clone();
    // A regroup makes everybody report.
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| world.view(3).lease.lease_ms == 700);
    world.run(500);
    assert!(own_report(&world, 3).serial > then.agreement.as_ref().unwrap().own_report().serial);
    world.restore(3, then);
    world.request(1, 6, Request::Set(Setting::LeaseMs(800)));
    world.run_until(3_000, |world| world.nodes[&3].ended.is_some());
    assert!(went_back(&world, 3) && world.nodes[&3].ended == Some(Ending::Out));
    assert!(![1, 2].iter().any(|node| went_back(&world, *node)));
    world.start(3);
    // Its disk is of then too, and older than what the others remember of it: it comes back without.
    world.run_until(3_000, |world| world.nodes[&3].ended == Some(Ending::Forfeited));
    world.lose_disk(3);
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
}

/// No report of it was lost, but its probes go on where they were: those of its future were accepted already.
#[test]
fn whoever_sends_probes_once_more_ends_by_what_peers_accepted() {
    for tells in [true, false] {
        let mut world = World::formed(3);
        world.run(1_000);
        let (now, own) = (world.nodes[&3].tried, world.member(3));
        let mut report = Report { serial: own_report(&world, 1).serial + 1, ..own_report(&world, 1) };
        let edge = report.hears.iter_mut().find(|hears| hears.peer == own).unwrap();
        edge.accepted = now + if tells { 1_010 } else { 990 };
        say(&mut world, 1, 3, report);
        assert!(!went_back(&world, 3), "what was tried since the last look is not known yet");
        world.run(20);
        assert_eq!(went_back(&world, 3), tells, "bursts are numbered too");
    }
}

#[test]
fn an_answer_to_what_was_not_sent_is_a_sign_too() {
    let mut world = World::formed(3);
    world.run(1_000);
    let mut facts = world.facts(3);
    facts[0].answered = facts[0].tried + 990;
    world.input(3, Input::Facts(facts.clone()));
    assert!(!went_back(&world, 3));
    facts[0].answered = facts[0].tried + 1_010;
    world.input(3, Input::Facts(facts.clone()));
    assert!(!went_back(&world, 3), "it may have been sent since what was tried was read");
    facts[0].tried += 20;
    world.input(3, Input::Facts(facts.clone()));
    assert!(!went_back(&world, 3));
    facts[0].answered += 20;
    (0..2).for_each(|_| world.input(3, Input::Facts(facts.clone())));
    assert!(went_back(&world, 3));
}

/// A controller that has not sent anything yet knows of no number at all.
#[test]
fn before_its_first_probe_a_controller_compares_nothing() {
    let mut world = World::formed(3);
    let mut facts = world.facts(3);
    facts.iter_mut().for_each(|fact| (fact.tried, fact.answered) = (0, 1 << 40));
    (0..2).for_each(|_| world.input(3, Input::Facts(facts.clone())));
    assert!(!went_back(&world, 3));
}

/// What was overtaken on its way, or is of an earlier incarnation or somebody else, is nobody's future.
#[test]
fn what_comes_late_or_is_anothers_sets_nobody_back() {
    let mut world = World::formed(3);
    let old = own_report(&world, 3);
    world.run(500);
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| world.view(3).lease.lease_ms == 700);
    say(&mut world, 3, 1, old);
    world.run(100);
    let mut earlier = own_report(&world, 3);
    earlier.author.incarnation -= 10;
    earlier.serial += 1_000;
    say(&mut world, 1, 3, earlier);
    let mut known = own_report(&world, 3);
    known.hears[0].health = Health::Up;
    say(&mut world, 1, 3, known);
    world.run(1_000);
    assert!(world.settled(3) && !went_back(&world, 3), "{}", world.describe());
}

/// Only who says it itself is answered: a report that others pass on may be old without anybody's fault.
#[test]
fn an_old_report_is_given_back_to_its_author_alone() {
    let mut world = World::formed(3);
    let old = own_report(&world, 3);
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| world.view(3).lease.lease_ms == 700);
    world.run(200);
    let known = own_report(&world, 3).serial;
    let returned = |world: &mut World, from: u16| {
        let from = world.member(from);
        let now = super::world::times(world.now);
        let agreement = world.nodes.get_mut(&1).unwrap().agreement.as_mut().unwrap();
        agreement.handle(Input::Message(from, Box::new(Message::Report(Box::new(old.clone())))), now);
        let sent: Vec<_> = std::iter::from_fn(|| agreement.poll_command()).collect();
        let is = |command: &Command| {
            let Command::Send(to, message) = command else { return None };
            let Message::Report(report) = &**message else { return None };
            (report.author == old.author).then_some((to.0, report.serial))
        };
        sent.iter().filter_map(is).collect::<Vec<_>>()
    };
    assert_eq!(returned(&mut world, 2), []);
    assert_eq!(returned(&mut world, 3), [(3, known)]);
}
