//! What becomes of a node whose service manager gave up starting its controller: it is out as soon as one that leaves, by
//! the word of its kernel, and that is a bad end.

use super::scene::{CALM, judge_reports, says};
use super::world::{DETECTION, LEASE, World};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::closing::Verdict;
use crate::core::agreement::document::{Document, Member, Reason};
use crate::core::agreement::message::{Health, Report};
use crate::core::agreement::types::{Command, Request};
use crate::core::ids::NodeId;

fn without_the_third(world: &World) -> bool {
    [1, 2].iter().all(|node| world.members(*node) == [1, 2])
}

/// Why node 3 went, by each 1135 that a node told.
fn removals(world: &World, at: u16) -> Vec<Option<Reason>> {
    let reason = |event: &AgreementEvent| match event {
        AgreementEvent::NodeRemoved { member, grounds, .. } if member.node == NodeId(3) => {
            Some(grounds.as_ref().map(|grounds| grounds.reason))
        }
        _ => None,
    };
    world.nodes[&at].events.iter().filter_map(reason).collect()
}

fn ends(world: &World, at: u16) -> Vec<(NodeId, u8)> {
    world.nodes[&at].agreement.as_ref().unwrap().own_ends()
}

fn in_force(world: &World) -> bool {
    let held = world.view(1).order;
    world.nodes[&1].agreement.as_ref().unwrap().status().in_force == held
}

fn fenced(world: &World) -> bool {
    let sent = |command: &Command| matches!(command, Command::Fence(..));
    world.nodes.values().any(|node| node.log.iter().any(sent))
}

#[test]
fn who_is_given_up_is_out_at_once_without_a_judge_or_a_fence_and_that_counts() {
    let mut world = World::formed(3);
    let gone = world.member(3);
    world.give_up(3, true);
    world.run_until(DETECTION / 2, |world| without_the_third(world) && in_force(world));
    let [removal] = world.view(1).removals[..] else { panic!("{:?}", world.view(1).removals) };
    assert_eq!((removal.member, removal.reason, removal.judges), (gone, Reason::GaveUp, 0));
    world.run(DETECTION * 2);
    for at in [1, 2] {
        assert_eq!(removals(&world, at), [Some(Reason::GaveUp)], "node {at}");
        let left = |event: &AgreementEvent| matches!(event, AgreementEvent::NodeLeftView { .. });
        assert!(!world.nodes[&at].events.iter().any(left), "it did not leave by itself");
        assert_eq!(ends(&world, at), [(NodeId(3), 1)], "node {at}");
    }
    assert!(!fenced(&world));
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
}

#[test]
fn while_something_of_it_runs_its_lease_is_waited_for() {
    let mut world = World::formed(3);
    world.give_up(3, false);
    world.run_until(DETECTION / 2, without_the_third);
    let decided = world.now;
    world.run_until(LEASE * 2, in_force);
    assert!(world.now - decided >= LEASE - DETECTION / 2, "{} ms", world.now - decided);
    assert!(!fenced(&world));
    let mut world = World::formed(3);
    world.give_up(3, false);
    world.run_until(DETECTION / 2, without_the_third);
    assert!(!in_force(&world));
    world.nodes.get_mut(&3).unwrap().kernel.stopped = true;
    let took = world.run_until(LEASE, in_force);
    assert!(took < LEASE / 4, "it says that it has stopped: {took} ms");
}

/// Lets node 3 end three times, and come back each time.
fn ends_three_times(world: &mut World, end: fn(&mut World)) {
    for _ in 0..3 {
        world.run_until(10_000, |world| world.settled(3));
        end(world);
        world.run_until(10_000, without_the_third);
        world.start(3);
    }
}

#[test]
fn who_is_given_up_three_times_is_in_quarantine_and_who_leaves_three_times_is_not() {
    let mut world = World::formed(3);
    ends_three_times(&mut world, |world| world.give_up(3, true));
    world.run(5_000);
    for at in [1, 2] {
        let kept: Vec<(NodeId, u8)> = world.view(at).quarantined.iter().map(|one| (one.node, one.exits)).collect();
        assert_eq!((world.members(at), kept), (vec![1, 2], vec![(NodeId(3), 3)]), "node {at}");
    }
    let mut world = World::formed(3);
    ends_three_times(&mut world, |world| {
        world.request(3, 4, Request::Leave);
        world.run_until(5_000, |world| world.nodes[&3].ended.is_some());
    });
    world.run_until(10_000, |world| world.settled(3));
    assert_eq!((world.view(1).quarantined.len(), ends(&world, 1)), (0, vec![]));
}

/// What these reports of the other members come to for the last member of a view, of which each says this. `own`: what
/// that one said last.
fn judged(view: &Document, said: &[Health], own: Option<Report>) -> Verdict {
    let all = &view.members;
    let last = *all.last().unwrap();
    let report = |(author, health): (&Member, &Health)| {
        let others: Vec<(Member, bool)> = all.iter().filter(|one| *one != author).map(|one| (*one, true)).collect();
        let mut report = says(view, *author, &others);
        let edge = report.hears.iter_mut().find(|hears| hears.peer == last).unwrap();
        edge.health = *health;
        report
    };
    let reports: Vec<Report> = all.iter().zip(said).map(report).chain(own).collect();
    judge_reports(view, &reports, CALM)
}

#[test]
fn one_that_heard_it_given_up_will_do_and_what_it_said_itself_comes_first() {
    let view = World::formed(3).view(1);
    let [one, two, three] = view.members[..] else { panic!("{:?}", view.members) };
    let reasons = |said: [Health; 2], own| match judged(&view, &said, own) {
        Verdict::Propose(plan) => plan.removals.iter().map(|removal| (removal.reason, removal.judges)).collect(),
        _ => Vec::new(),
    };
    assert_eq!(reasons([Health::GaveUp, Health::GaveUp], None), [(Reason::GaveUp, 0)]);
    assert_eq!(reasons([Health::GaveUp, Health::Up], None), [(Reason::GaveUp, 0)]);
    assert_eq!(reasons([Health::Left, Health::GaveUp], None), [(Reason::GaveUp, 0)], "the one read in between");
    assert_eq!(reasons([Health::Left, Health::Left], None), [(Reason::Left, 0)]);
    let leaving = Report { leaving: true, ..says(&view, three, &[(one, true), (two, true)]) };
    assert_eq!(reasons([Health::GaveUp, Health::GaveUp], Some(leaving)), [(Reason::Left, 0)], "it was leaving");
}

#[test]
fn a_vote_whose_node_was_given_up_answers_nobody_and_is_not_counted() {
    let mut world = World::new(2);
    world.dynamic = false;
    world.form();
    let view = world.view(1);
    let [one, two] = view.members[..] else { panic!("{:?}", view.members) };
    // What its controller said before it died stands, and nothing comes after it.
    let last_word = || Some(says(&view, two, &[(one, true)]));
    assert!(matches!(judged(&view, &[Health::Left], last_word()), Verdict::Propose(_)), "who leaves still votes");
    let verdict = judged(&view, &[Health::GaveUp], last_word());
    let Verdict::Waits { available: 1, missing } = &verdict else { panic!("{verdict:?}") };
    assert_eq!(missing, &[NodeId(2)]);
}
