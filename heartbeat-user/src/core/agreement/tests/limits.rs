//! What is held against a node, and its limits: how many are kept out or sent away by judgement at once, how long a bad
//! end counts, how long who ended badly waits.

use super::world::{ROUND, World, times};
use crate::core::agreement::document::{Document, Reason};
use crate::core::agreement::message::Setting;
use crate::core::agreement::types::{Input, Outcome, Request, Setup};
use crate::core::agreement::voter::State;
use crate::core::agreement::{Agreement, AgreementEvent};
use crate::core::ids::NodeId;
use heartbeat_common::view::Order;
use std::ops::Bound;
use std::time::Duration;

const HOUR: u64 = 3_600_000;

/// Waits until these are the members of one view, and act.
fn go_on(world: &mut World, members: &[u16]) {
    world.run_until(10_000, |world| {
        members.iter().all(|node| world.members(*node) == members && world.acting(*node).is_ok())
    });
}

/// Lets members lose their power at once, and starts them again when the others are without them. Returns when that was.
fn end_badly(world: &mut World, nodes: &[u16]) -> u64 {
    let rest: Vec<u16> = world.members(1).into_iter().filter(|node| !nodes.contains(node)).collect();
    nodes.iter().for_each(|node| world.crash(*node));
    world.run_until(5_000, |world| rest.iter().all(|node| world.members(*node) == rest));
    let out = world.now;
    nodes.iter().for_each(|node| world.start(*node));
    out
}

/// Who is in quarantine by the view that a node holds, after how many bad ends.
fn kept_out(world: &World, at: u16) -> Vec<(u16, u8)> {
    world.view(at).quarantined.iter().map(|one| (one.node.0, one.exits)).collect()
}

#[test]
fn a_quarter_of_the_members_or_one_is_put_into_quarantine_at_once() {
    let cases: [(u16, &[u16], &[u16]); 3] = [(8, &[6, 7, 8], &[6, 7]), (7, &[6, 7], &[6]), (4, &[3, 4], &[3])];
    for (nodes, bad, kept) in cases {
        let mut world = World::formed(nodes);
        let all: Vec<u16> = (1..=nodes).collect();
        for _ in 0..3 {
            go_on(&mut world, &all);
            assert_eq!(kept_out(&world, 1), [], "of {nodes}, before the third end");
            end_badly(&mut world, bad);
        }
        let rest: Vec<u16> = all.iter().copied().filter(|node| !kept.contains(node)).collect();
        go_on(&mut world, &rest);
        world.run(2_000);
        let expected: Vec<(u16, u8)> = kept.iter().map(|node| (*node, 3)).collect();
        for node in &rest {
            assert_eq!((world.members(*node), kept_out(&world, *node)), (rest.clone(), expected.clone()), "of {nodes}");
        }
    }
}

#[test]
fn who_is_in_quarantine_already_takes_the_place_of_the_next() {
    let mut world = World::formed(3);
    for _ in 0..3 {
        go_on(&mut world, &[1, 2, 3]);
        end_badly(&mut world, &[3]);
    }
    for _ in 0..3 {
        go_on(&mut world, &[1, 2]);
        end_badly(&mut world, &[2]);
    }
    go_on(&mut world, &[1, 2]);
    assert_eq!(kept_out(&world, 1), [(3, 3)], "2 ended as often, and there is room for one");
}

/// Whom each view after `from` sent away for `reason`.
fn sent_away(world: &World, from: Order, reason: Reason) -> Vec<Vec<u16>> {
    let views = world.views.range((Bound::Excluded(from), Bound::Unbounded));
    let gone = |view: &Document| {
        let removals = view.removals.iter().filter(|removal| removal.reason == reason);
        removals.map(|removal| removal.member.node.0).collect()
    };
    views.map(|(_, view)| gone(view)).collect()
}

#[test]
fn a_quarter_of_the_members_or_one_is_sent_away_as_hung_at_once() {
    type Case = (u16, &'static [u16], &'static [&'static [u16]]);
    let cases: [Case; 2] = [(8, &[6, 7, 8], &[&[6, 7], &[8]]), (4, &[3, 4], &[&[3], &[4]])];
    for (nodes, hung, views) in cases {
        let mut world = World::formed(nodes);
        let before = world.view(1).order;
        hung.iter().for_each(|node| world.stall(*node, true));
        let rest: Vec<u16> = (1..=nodes).filter(|node| !hung.contains(node)).collect();
        world.run_until(20_000, |world| rest.iter().all(|node| world.members(*node) == rest));
        assert_eq!(sent_away(&world, before, Reason::Hung), views, "of {nodes}");
    }
}

/// Stops all messages between two parts of a world, while frames pass.
fn mute_between(world: &mut World, one: &[u16], other: &[u16]) {
    let pairs = one.iter().flat_map(|a| other.iter().flat_map(move |b| [(*a, *b), (*b, *a)]));
    world.mute.extend(pairs);
}

fn is_told_apart(world: &World, node: u16) -> bool {
    let apart = |event: &AgreementEvent| matches!(event, AgreementEvent::NoConnectedMajority { .. });
    world.nodes[&node].events.iter().any(apart)
}

#[test]
fn whose_messages_do_not_pass_are_sent_away_a_quarter_of_the_members_or_one_at_once() {
    type Case = (u16, &'static [u16], &'static [&'static [u16]]);
    let cases: [Case; 6] = [
        (3, &[3], &[&[3]]),
        (4, &[3, 4], &[&[3], &[4]]),
        (5, &[4, 5], &[&[4], &[5]]),
        (7, &[5, 6, 7], &[&[5], &[6], &[7]]),
        (8, &[7, 8], &[&[7, 8]]),
        (8, &[6, 7, 8], &[&[6, 7], &[8]]),
    ];
    for (nodes, muted, views) in cases {
        let rest: Vec<u16> = (1..=nodes).filter(|node| !muted.contains(node)).collect();
        // They speak with each other, or with nobody at all.
        for together in [true, false] {
            let mut world = World::formed(nodes);
            let before = world.view(1).order;
            mute_between(&mut world, &rest, muted);
            if !together {
                mute_between(&mut world, muted, muted);
            }
            world.run_until(6_000, |world| rest.iter().all(|node| world.members(*node) == rest));
            assert_eq!(sent_away(&world, before, Reason::NoMessages), views, "of {nodes}: {}", world.describe());
            world.run(2_000);
            for node in &rest {
                assert_eq!(world.members(*node), rest, "of {nodes}: {}", world.describe());
                assert!(world.acting(*node).is_ok(), "of {nodes}: {}", world.describe());
                assert!(!is_told_apart(&world, *node), "some can do without them: {}", world.describe());
            }
            muted.iter().for_each(|node| assert!(world.acting(*node).is_err(), "{node}: {}", world.describe()));
        }
    }
}

#[test]
fn who_has_the_fewest_whose_messages_pass_goes_first() {
    let mut world = World::formed(5);
    let before = world.view(1).order;
    // 4 still speaks with 1, and 5 with nobody.
    mute_between(&mut world, &[2, 3, 5], &[4]);
    mute_between(&mut world, &[1, 2, 3], &[5]);
    world.run_until(6_000, |world| world.members(1) == [1, 2, 3]);
    assert_eq!(sent_away(&world, before, Reason::NoMessages), [[5], [4]], "{}", world.describe());
}

/// Of four votes that of 4 is not counted, as it stood still when the view was made. Were 2 to go first, who has none, the
/// next view would leave out that of 5 instead, and 1 and 5 would be no majority any more.
#[test]
fn who_has_a_vote_goes_before_who_has_none() {
    let mut world = World::formed(5);
    let asks = |world: &mut World, number, setting| {
        world.request(1, number, Request::Set(setting));
        world.run_until(6_000, |world| matches!(world.outcome(1, number), Some(Outcome::Decided(_))));
    };
    asks(&mut world, 1, Setting::Weight(NodeId(2), 0));
    world.stall(4, true);
    asks(&mut world, 2, Setting::LeaseMs(600));
    world.stall(4, false);
    world.run(1_000);
    assert_eq!(world.view(1).votes.iter().map(|vote| vote.weight).collect::<Vec<_>>(), [1, 0, 1, 0, 1]);
    let before = world.view(1).order;
    mute_between(&mut world, &[1, 5], &[2, 3, 4]);
    go_on(&mut world, &[1, 5]);
    assert_eq!(sent_away(&world, before, Reason::NoMessages), [[3], [4], [2]], "{}", world.describe());
}

#[test]
fn where_messages_connect_no_majority_all_stay_and_that_is_told() {
    let mut world = World::new(4);
    world.dynamic = false;
    world.form();
    let before = world.view(1).order;
    mute_between(&mut world, &[1, 2], &[3, 4]);
    world.run(6_000);
    assert_eq!(world.view(1).order, before, "{}", world.describe());
    for node in 1..=4 {
        assert!(world.acting(node).is_ok() && is_told_apart(&world, node), "{node}: {}", world.describe());
    }
}

#[test]
fn a_bad_end_counts_for_an_hour_to_the_moment() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(5_000, |world| world.members(1) == [1, 2]);
    let noted = world.now;
    let told = |ms: u64| {
        let mut later = world.nodes[&1].agreement.clone().unwrap();
        later.handle(Input::Tick, times(noted + ms));
        later.own_ends()
    };
    assert_eq!(told(HOUR - 1), [(NodeId(3), 1)]);
    assert_eq!(told(HOUR), []);
}

#[test]
fn only_bad_ends_within_one_hour_lead_to_quarantine() {
    // The third end is known a detection time after the crash, and some rounds of messages.
    for (age, kept) in [(HOUR - 2_000, vec![(3, 3)]), (HOUR, vec![])] {
        let mut world = World::formed(3);
        let first = end_badly(&mut world, &[3]);
        go_on(&mut world, &[1, 2, 3]);
        end_badly(&mut world, &[3]);
        go_on(&mut world, &[1, 2, 3]);
        // Nothing happens for the better part of an hour.
        world.now = first + age - 1_000;
        world.run(1_000);
        assert!(world.settled(3), "{}", world.describe());
        end_badly(&mut world, &[3]);
        assert_eq!(kept_out(&world, 1), kept, "{age} ms after the first");
    }
}

/// What is on a node's disk.
fn on_disk(world: &World, node: u16) -> State {
    borsh::from_slice(world.nodes[&node].disk.as_ref().unwrap()).unwrap()
}

/// Starts a node that ended badly so often within the hour.
fn start_after(world: &mut World, node: u16, ends: u8) {
    world.start(node);
    let setup = Setup { own_ends: ends, ..world.setup(node) };
    let agreement = Agreement::resume(setup, on_disk(world, node), None, times(world.now));
    world.nodes.get_mut(&node).unwrap().agreement = Some(agreement);
    // What it asks for at its start is done with what it asks for now.
    world.input(node, Input::Tick);
}

fn backoffs<'a>(events: impl IntoIterator<Item = &'a AgreementEvent>) -> Vec<(u8, Duration)> {
    let told = |event: &AgreementEvent| match event {
        AgreementEvent::RestartBackoff { ends, wait } => Some((*ends, *wait)),
        _ => None,
    };
    events.into_iter().filter_map(told).collect()
}

#[test]
fn who_ended_badly_asks_to_join_only_after_a_wait_that_grows_and_says_so() {
    for (ends, seconds) in [(0, 0), (1, 2), (2, 4), (5, 32), (6, 60), (200, 60)] {
        let mut world = World::formed(3);
        world.crash(3);
        world.run_until(5_000, |world| world.settled(2));
        let before = world.view(1).order;
        start_after(&mut world, 3, ends);
        let told = if ends == 0 { vec![] } else { vec![(ends, Duration::from_secs(seconds))] };
        assert_eq!(backoffs(&world.nodes[&3].events), told);
        if seconds > 0 {
            world.run(seconds * 1_000 - ROUND);
            assert_eq!(world.view(1).order, before, "it has not asked within {seconds} s: {}", world.describe());
        }
        world.run_until(1_500, |world| world.settled(3));
        assert_eq!(backoffs(&world.nodes[&3].events), told, "it is told once");
    }
}

#[test]
fn a_member_whose_controller_is_taken_over_waits_for_nothing() {
    let world = World::formed(3);
    let setup = Setup { own_ends: 3, generation: 1, ..world.setup(3) };
    let mut agreement = Agreement::resume(setup, on_disk(&world, 3), None, times(world.now));
    let events: Vec<AgreementEvent> = std::iter::from_fn(|| agreement.poll_event()).collect();
    assert_eq!(backoffs(&events), []);
}
