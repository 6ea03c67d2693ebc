//! Networks that break and heal edge by edge: nobody who is heard is sent away for what is seen on the way, and whoever
//! does not hear everybody for good is parted from the others once, in bounded time.

use super::scene::{judge_reports, says};
use super::world::{DETECTION, World};
use crate::core::agreement::Stage;
use crate::core::agreement::closing::Verdict;
use crate::core::agreement::document::{Document, Member, Reason};
use crate::core::agreement::message::{Health, Report};
use crate::core::agreement::parted::{Edges, Parted, Patience};
use crate::core::agreement::types::Timing;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::view::Order;
use std::time::Duration;

/// Twice the longest delay: for so long who hears whom must have stayed the same.
const SETTLING: u64 = 200;
/// In a ring of five these do not hear each other.
const CHORDS: [(u16, u16); 5] = [(1, 3), (2, 4), (3, 5), (4, 1), (5, 2)];

fn cut(world: &mut World, a: u16, b: u16) {
    world.deaf.extend([(a, b), (b, a)]);
    world.mute.extend([(a, b), (b, a)]);
}

fn mend(world: &mut World, a: u16, b: u16) {
    for way in [(a, b), (b, a)] {
        world.deaf.remove(&way);
        world.mute.remove(&way);
    }
}

fn orders(world: &World) -> Vec<Order> {
    world.nodes.keys().map(|node| world.view(*node).order).collect()
}

fn static_votes(nodes: u16) -> World {
    let mut world = World::new(nodes);
    world.dynamic = false;
    world.form();
    world
}

#[test]
fn a_ring_that_breaks_and_heals_edge_by_edge_sends_nobody_away() {
    for gap in [10, 60, 150] {
        let mut world = World::formed(5);
        let before = orders(&world);
        for (a, b) in CHORDS {
            cut(&mut world, a, b);
            world.run(gap);
        }
        world.run(3_000);
        assert_eq!(orders(&world), before, "broken, {gap} ms apart: {}", world.describe());
        let waits = |node: &u16| !world.nodes[node].agreement.as_ref().unwrap().status().waits_for.is_empty();
        assert!((1..=5).all(|node| waits(&node)), "each says whom it waits for: {}", world.describe());
        for (a, b) in CHORDS {
            mend(&mut world, a, b);
            world.run(gap);
        }
        world.run(3_000);
        assert_eq!(orders(&world), before, "healed, {gap} ms apart: {}", world.describe());
        assert!(world.settled(5));
    }
}

#[test]
fn two_halves_that_meet_edge_by_edge_go_on_together() {
    // Whoever is heard last is nearly a majority's to leave out.
    for order in [[(1, 3), (2, 3), (1, 4), (2, 4)], [(1, 3), (1, 4), (2, 4), (2, 3)], [(2, 4), (1, 3), (2, 3), (1, 4)]]
    {
        for gap in [20, 100, 180] {
            let mut world = static_votes(4);
            let before = orders(&world);
            world.split(&[1, 2]);
            world.run(5_000);
            assert!((1..=4).all(|node| world.acting(node).is_err()));
            for (a, b) in order {
                mend(&mut world, a, b);
                world.run(gap);
            }
            world.run(3_000);
            assert_eq!(orders(&world), before, "{order:?}, {gap} ms apart: {}", world.describe());
            assert!(world.settled(4));
        }
    }
}

#[test]
fn whoever_is_heard_last_where_votes_come_back_stays() {
    let mut world = World::formed(5);
    let before = orders(&world);
    world.split(&[1, 2]);
    world.split(&[3, 4]);
    world.run(5_000);
    assert!((1..=5).all(|node| world.acting(node).is_err()));
    for a in [1, 2] {
        for b in [3, 4] {
            mend(&mut world, a, b);
        }
    }
    // Four of five hear each other, and nobody hears the fifth yet.
    world.run(SETTLING - 50);
    world.heal();
    world.run(3_000);
    assert_eq!(orders(&world), before, "{}", world.describe());
    assert!(world.settled(5));
}

#[test]
fn two_that_never_hear_each_other_are_parted_once_and_in_time() {
    for (hub, goes) in [(1, 3), (2, 3), (3, 2)] {
        let mut world = World::formed(3);
        let before = world.view(hub).order;
        let others: Vec<u16> = (1..=3).filter(|node| *node != hub).collect();
        cut(&mut world, others[0], others[1]);
        let kept: Vec<u16> = (1..=3).filter(|node| *node != goes).collect();
        let took = world.run_until(2_000, |world| kept.iter().all(|node| world.members(*node) == kept));
        assert!((DETECTION + SETTLING..DETECTION + SETTLING + 150).contains(&took), "{took} ms");
        assert_eq!(Some(world.view(hub).order), before.next());
        assert_eq!(world.view(hub).removals[0].reason, Reason::NotConnected);
        world.run(3_000);
        assert_eq!(Some(world.view(hub).order), before.next(), "once");
    }
}

#[test]
fn who_hears_whom_that_never_rests_is_waited_for_no_longer_than_messages_may_fail() {
    let mut world = World::formed(5);
    let limit = world.setup(1).timing.control_limit.as_millis() as u64;
    cut(&mut world, 1, 2);
    let mut took = 0;
    while world.members(3).len() == 5 {
        assert!(took < DETECTION + limit + 300, "no decision after {took} ms: {}", world.describe());
        if took % 300 == 0 {
            cut(&mut world, 4, 5);
        } else if took % 150 == 0 {
            mend(&mut world, 4, 5);
        }
        world.run(10);
        took += 10;
    }
    assert!(took > DETECTION + SETTLING, "it was waited for, {took} ms");
}

#[test]
fn whoever_is_silent_to_all_is_waited_for_by_nobody() {
    let mut world = World::formed(5);
    world.crash(5);
    let took = world.run_until(2_000, |world| (1..5).all(|node| world.members(node) == [1, 2, 3, 4]));
    assert!(took < DETECTION + SETTLING - 50, "{took} ms");
    // Two that hear each other, and nobody else.
    world.split(&[3, 4]);
    world.run(DETECTION);
    let kept = |world: &World| world.members(1) == [1, 2] && world.members(2) == [1, 2];
    let took = world.run_until(2_000, kept);
    assert!(took < SETTLING - 50, "{took} ms after the verdict");
}

#[test]
fn a_death_beside_a_broken_edge_is_one_view() {
    let mut world = World::formed(5);
    let before = world.view(1).order;
    cut(&mut world, 2, 4);
    world.run(80);
    world.crash(5);
    let took = world.run_until(3_000, |world| [1, 2, 3].iter().all(|node| world.members(*node) == [1, 2, 3]));
    assert!(took < DETECTION + SETTLING + 200, "{took} ms");
    assert_eq!(Some(world.view(1).order), before.next());
}

/// Two halves meet: 3 is heard at once, 4 a moment later, and by then messages between `muted` do not pass yet.
fn meet(muted: &[(u16, u16)]) -> World {
    let mut world = static_votes(4);
    world.split(&[1, 2]);
    world.run(5_000);
    mend(&mut world, 1, 3);
    mend(&mut world, 2, 3);
    world.run(100);
    world.heal();
    for (a, b) in muted {
        world.mute.extend([(*a, *b), (*b, *a)]);
    }
    world
}

#[test]
fn whose_report_is_outdated_is_not_sent_away_by_it() {
    let mut world = meet(&[(1, 4), (2, 4), (3, 4)]);
    let before = orders(&world);
    world.run(700);
    assert_eq!(orders(&world), before, "{}", world.describe());
    world.heal();
    world.run(2_000);
    assert_eq!(orders(&world), before, "{}", world.describe());
    assert!(world.settled(4));
}

#[test]
fn what_is_news_reaches_those_whose_messages_do_not_pass_yet() {
    let mut world = meet(&[(1, 4), (2, 4)]);
    let before = orders(&world);
    let took = world.run_until(700, |world| {
        let stage = |node: u16| world.nodes[&node].agreement.as_ref().unwrap().status().stage;
        (1..=4).all(|node| stage(node) == Stage::Stabilized)
    });
    assert!(took <= SETTLING, "{took} ms");
    assert_eq!(orders(&world), before, "{}", world.describe());
}

/// Judges what `nodes` report, where these pairs do not hear each other; `lasted` is what was so for two delays.
fn judged(view: &Document, nodes: &[Member], apart: &[(u16, u16)], lasted: Option<&Edges>) -> Verdict {
    let both = |a: u16, b: u16| !apart.contains(&(a, b)) && !apart.contains(&(b, a));
    let report = |author: &Member| {
        let others = nodes.iter().filter(|node| *node != author);
        says(view, *author, &others.map(|node| (*node, both(author.node.0, node.node.0))).collect::<Vec<_>>())
    };
    let reports: Vec<Report> = nodes.iter().map(report).collect();
    judge_reports(view, &reports, Patience { lasted, over: false, wary: false })
}

fn unsettled(verdict: Verdict) -> (Vec<u16>, Edges) {
    match verdict {
        Verdict::Unsettled { nodes, edges } => (nodes.iter().map(|node| node.0).collect(), edges),
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn what_lasted_before_says_nothing_of_what_is_seen_now() {
    let view = World::formed(4).view(1);
    let (nodes, before) = unsettled(judged(&view, &view.members, &[(3, 4)], None));
    assert_eq!(nodes, [4]);
    assert!(matches!(judged(&view, &view.members, &[(3, 4)], Some(&before)), Verdict::Propose(_)));
    let (nodes, now) = unsettled(judged(&view, &view.members, &[(1, 2)], Some(&before)));
    assert!(nodes == [2] && now != before);
}

#[test]
fn a_member_that_is_heard_is_waited_for_where_others_come_back_with_their_votes_too() {
    let view = World::formed(5).view(1);
    let mut nodes = view.members.clone();
    for back in &mut nodes[2..] {
        back.incarnation += 10;
    }
    let apart = [(2, 3), (2, 4)];
    let (parted, edges) = unsettled(judged(&view, &nodes, &apart, None));
    assert_eq!(parted, [2]);
    let Verdict::Propose(plan) = judged(&view, &nodes, &apart, Some(&edges)) else { panic!("it lasted") };
    assert_eq!(plan.members.iter().map(|member| member.node.0).collect::<Vec<_>>(), [1, 3, 4, 5]);
}

#[test]
fn what_the_dead_said_last_contradicts_nobody() {
    let view = World::formed(5).view(1);
    let (dead, alive) = view.members.split_last().unwrap();
    let to = |author: &Member, heard: &[Member]| {
        let others = view.members.iter().filter(|member| *member != author);
        says(&view, *author, &others.map(|other| (*other, heard.contains(other))).collect::<Vec<_>>())
    };
    let mut reports: Vec<Report> = alive.iter().map(|author| to(author, alive)).collect();
    // It came back with the votes that were missing, said whom it hears, and died.
    reports.push(to(dead, alive));
    let wary = |lasted| Patience { lasted, over: false, wary: true };
    let (nodes, edges) = unsettled(judge_reports(&view, &reports, wary(None)));
    assert_eq!(nodes, [5], "it might be about to be heard");
    let Verdict::Propose(plan) = judge_reports(&view, &reports, wary(Some(&edges))) else { panic!("it lasted") };
    assert_eq!(plan.members, alive);
    // Where somebody hears it, both ways are about to follow.
    reports[0].hears.iter_mut().filter(|hears| hears.peer == *dead).for_each(|hears| hears.health = Health::Up);
    let (nodes, edges) = unsettled(judge_reports(&view, &reports, wary(None)));
    assert_eq!(unsettled(judge_reports(&view, &reports, wary(Some(&edges)))), (nodes, edges.clone()));
}

#[test]
fn a_pause_is_no_time_in_which_it_was_waited() {
    let (delay, limit) = (Duration::from_millis(SETTLING / 2), Duration::from_millis(1_000));
    let timing = Timing { delay, control_limit: limit, ..World::new(1).setup(1).timing };
    let view = World::formed(4).view(1);
    let (_, edges) = unsettled(judged(&view, &view.members, &[(3, 4)], None));
    let (begun, back) = (MonoTime::ZERO, MonoTime::ZERO + limit * 3);
    let mut parted = Parted::default();
    parted.note(edges.clone(), begun);
    assert!(parted.patience(begun + limit, &timing).over);
    parted.late(back);
    let patience = parted.patience(back, &timing);
    assert!(!patience.over && patience.lasted.is_none());
    assert!(!parted.patience(back + limit - delay, &timing).over && parted.patience(back + limit, &timing).over);
    assert_eq!(parted.patience(back + delay * 2, &timing).lasted, Some(&edges));
    // A regroup that begins anew has been waited through all the same.
    parted.begin_again(back + limit / 2);
    assert!(parted.patience(back + limit, &timing).over);
}

#[test]
fn whoever_ran_late_waits_anew_for_who_hears_whom() {
    let mut world = World::formed(5);
    cut(&mut world, 1, 2);
    let waits = |world: &World| {
        let status = world.nodes[&3].agreement.as_ref().unwrap().status();
        status.stage != Stage::Stabilized && status.waits_for == [NodeId(2)]
    };
    world.run_until(DETECTION + 200, waits);
    // Everybody stands still for longer than messages may fail to pass.
    let limit = world.setup(1).timing.control_limit.as_millis() as u64;
    (1..=5).for_each(|node| world.stall(node, true));
    world.run(limit + 300);
    mend(&mut world, 1, 2);
    cut(&mut world, 4, 5);
    (1..=5).for_each(|node| world.stall(node, false));
    let before = world.view(3).order;
    world.run(SETTLING - 50);
    assert_eq!(world.view(3).order, before, "{}", world.describe());
}
