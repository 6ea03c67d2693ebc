//! What is told: to whom, once, in view order, and true.

use super::scene::{CALM, judge_reports, says};
use super::world::{LEASE, World};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::closing::Verdict;
use crate::core::agreement::document::{Member, Reason};
use crate::core::agreement::event::{ControlFault, Grounds};
use crate::core::agreement::message::Message;
use crate::core::agreement::parted::Patience;
use crate::core::agreement::types::{Input, PageView, Request};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::lease::Refused;
use heartbeat_common::view::Order;

/// Every 1135 that a node told: the view, who, and why.
fn removals(world: &World, at: u16) -> Vec<(Order, Member, Option<Grounds>)> {
    let removal = |event: &AgreementEvent| match event {
        AgreementEvent::NodeRemoved { view, member, grounds } => Some((*view, *member, grounds.clone())),
        _ => None,
    };
    world.nodes[&at].events.iter().filter_map(removal).collect()
}

fn nodes(nodes: &[NodeId]) -> Vec<u16> {
    nodes.iter().map(|node| node.0).collect()
}

/// Node 2 has no part in the view any more, so places in the view are not places in the configuration.
#[test]
fn judges_are_named_by_the_view_and_not_by_the_configuration() {
    let mut world = World::formed(4);
    world.crash(2);
    world.run_until(3_000, |world| world.members(1) == [1, 3, 4]);
    world.crash(4);
    world.run_until(3_000, |world| world.members(1) == [1, 3] && world.members(3) == [1, 3]);
    for at in [1, 3] {
        let (_, member, grounds) = removals(&world, at).pop().unwrap();
        let grounds = grounds.unwrap();
        assert_eq!((member.node.0, grounds.reason), (4, Reason::Down));
        assert_eq!((nodes(&grounds.judges), nodes(&grounds.others)), (vec![1, 3], vec![]));
    }
}

/// Node 4 is cut off from node 1 alone: 2 and 3 hear it, and agree to go on without it.
#[test]
fn whoever_only_agrees_to_a_view_is_no_judge() {
    let mut world = World::formed(4);
    world.deaf.extend([(1, 4), (4, 1)]);
    world.mute.extend([(1, 4), (4, 1)]);
    world.run_until(5_000, |world| [1, 2, 3].iter().all(|node| world.members(*node) == [1, 2, 3]));
    let (_, member, grounds) = removals(&world, 2).pop().unwrap();
    let grounds = grounds.unwrap();
    assert_eq!((member.node.0, grounds.reason), (4, Reason::NotConnected));
    assert_eq!((nodes(&grounds.judges), nodes(&grounds.others)), (vec![1], vec![2, 3]));
}

/// Node 2 knows of an incarnation of node 4 that is long over, and never heard this one; node 3 has heard of none.
#[test]
fn whoever_heard_an_older_incarnation_alone_is_no_judge_of_this_one() {
    let view = World::formed(4).view(1);
    let all = view.members.clone();
    let report = |author: usize, of: u64| {
        let others = all.iter().filter(|member| **member != all[author]);
        let edge = |member: &Member| {
            if *member == all[3] { (Member { incarnation: of, ..*member }, false) } else { (*member, true) }
        };
        says(&view, all[author], &others.map(edge).collect::<Vec<_>>())
    };
    let reports = [report(0, all[3].incarnation), report(1, all[3].incarnation - 1), report(2, 0)];
    let Verdict::Propose(plan) = judge_reports(&view, &reports, CALM) else { panic!("no view is proposed") };
    let [removal] = &plan.removals[..] else { panic!("{:?}", plan.removals) };
    assert_eq!((removal.member, removal.reason, removal.judges), (all[3], Reason::Down, 0b101));
}

/// Nobody that stays hears node 4 both ways. Node 3 comes back with its vote: it does, and had no message of it yet.
#[test]
fn who_comes_back_with_a_vote_does_not_say_why_a_member_goes() {
    let view = World::formed(4).view(1);
    let all = view.members.clone();
    let back = Member { incarnation: all[2].incarnation + 10, ..all[2] };
    let one_way = |author: usize, other: usize| {
        let mut report = says(&view, all[author], &[(all[other], true), (back, true), (all[3], true)]);
        report.hears[2].both_ways_ms = 0;
        report
    };
    let mut third = says(&view, back, &[(all[0], true), (all[1], true), (all[3], true)]);
    third.hears[2].messages_pass = false;
    let reports = [one_way(0, 1), one_way(1, 0), third];
    let patience = Patience { over: true, ..CALM };
    let Verdict::Propose(plan) = judge_reports(&view, &reports, patience) else { panic!("no view is proposed") };
    assert_eq!(plan.members, [all[0], all[1], back]);
    let of_4 = plan.removals.iter().find(|removal| removal.member == all[3]).unwrap();
    assert_eq!((of_4.reason, of_4.judges), (Reason::NotConnected, 0b11));
}

/// Node 4's controller has just begun and cannot say who is up; node 3 is removed by the word of an operator.
#[test]
fn an_operators_word_has_no_judges() {
    let mut world = World::formed(3);
    world.request(1, 5, Request::Fence(NodeId(3)));
    world.run_until(3_000, |world| world.members(2) == [1, 2]);
    let (_, _, grounds) = removals(&world, 2).pop().unwrap();
    let grounds = grounds.unwrap();
    assert_eq!((grounds.reason, nodes(&grounds.judges)), (Reason::Fenced, vec![]));
}

/// Node 5 stands still while the others lose two members by two views.
#[test]
fn a_node_that_skips_views_tells_each_of_their_removals_once() {
    let mut world = World::formed(5);
    let (first, second) = (world.member(3), world.member(4));
    let before = world.view(5).order;
    world.run(1_000);
    world.nodes.get_mut(&5).unwrap().events.clear();
    world.stall(5, true);
    world.gated = false;
    world.no_fences = true;
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2, 4, 5]);
    let view = world.view(1).order;
    world.crash(4);
    world.run_until(3_000, |world| world.members(1) == [1, 2, 5]);
    let newest = world.view(1).order;
    assert!(view > before && newest > view);
    world.stall(5, false);
    world.run_until(3_000, |world| world.view(5).order >= newest);
    world.run(2_000);
    let told: Vec<_> =
        removals(&world, 5).into_iter().map(|(view, member, why)| (view, member, why.is_some())).collect();
    assert_eq!(told, [(view, first, false), (newest, second, true)]);
}

/// Its own end has events of its own.
#[test]
fn who_is_left_out_tells_no_removal_of_itself() {
    let mut world = World::formed(3);
    world.request(1, 5, Request::Fence(NodeId(3)));
    world.run_until(5_000, |world| world.nodes[&3].ended.is_some());
    assert_eq!(removals(&world, 3), []);
    let out = |event: &AgreementEvent| matches!(event, AgreementEvent::LeftOut { .. } | AgreementEvent::Fenced { .. });
    assert_eq!(world.nodes[&3].events.iter().filter(|event| out(event)).count(), 1);
}

fn lost(world: &World, at: u16) -> Vec<(Refused, u64)> {
    let lost = |event: &AgreementEvent| match event {
        AgreementEvent::QuorumLost { why, ended, .. } => Some((*why, ended.0 / 1_000_000)),
        _ => None,
    };
    world.nodes[&at].events.iter().filter_map(lost).collect()
}

fn holes(world: &World, at: u16) -> usize {
    world.nodes[&at].events.iter().filter(|event| matches!(event, AgreementEvent::Hole { .. })).count()
}

/// Stopped while its lease runs out, a controller notices that long after; it tells the date that the kernel has.
#[test]
fn a_loss_of_quorum_is_told_once_and_dated_by_the_kernel_however_late_it_is_noticed() {
    let mut world = World::formed(3);
    assert_eq!(lost(&world, 3), [], "nothing is lost at a start");
    world.split(&[3]);
    let cut = world.now;
    world.stall(3, true);
    world.run(5_000);
    assert!(world.acting(3).is_err() && lost(&world, 3).is_empty());
    world.stall(3, false);
    world.run(1_000);
    let told = lost(&world, 3);
    let [(Refused::Expired, ended)] = told[..] else { panic!("{told:?}") };
    assert!((cut..=cut + LEASE).contains(&ended), "{ended}, cut off at {cut}");
    world.heal();
    world.run_until(3_000, |world| world.nodes[&3].ended.is_some());
    assert_eq!(lost(&world, 3).len(), 1, "a view that leaves out who had stopped ends no lease");
    assert_eq!(holes(&world, 3), 1, "it was judged dead, and was not");
}

#[test]
fn a_node_that_leaves_loses_no_quorum() {
    let mut world = World::formed(3);
    world.request(3, 4, Request::Leave);
    world.run_until(2_000, |world| world.nodes[&3].ended.is_some());
    assert_eq!(lost(&world, 3), []);
    let given_up = |event: &&AgreementEvent| matches!(event, AgreementEvent::LeaseGivenUp { .. });
    assert_eq!(world.nodes[&3].events.iter().filter(given_up).count(), 1);
}

/// It acted when the order came: that it may not any more is a loss; that it was dead is not true.
#[test]
fn an_operators_fence_ends_the_lease_and_calls_nobody_dead() {
    let mut world = World::formed(3);
    world.request(1, 5, Request::Fence(NodeId(3)));
    world.run_until(5_000, |world| world.nodes[&3].ended.is_some());
    assert_eq!(lost(&world, 3).len(), 1);
    assert_eq!(holes(&world, 3), 0);
}

/// The controller that takes over repeats nothing of what the one before has told.
#[test]
fn a_controller_that_takes_over_tells_nothing_again() {
    let mut world = World::formed(4);
    world.gated = true;
    world.crash(4);
    world.run_until(5_000, |world| world.settled(3));
    world.run(2_000);
    world.kill_controller(2);
    world.nodes.get_mut(&2).unwrap().events.clear();
    world.run(100);
    world.restart_controller(2);
    world.run(3_000);
    assert_eq!(world.nodes[&2].events, []);
}

/// No controller ran while the lease ended: the next one tells it. Told once, it is not told by the one after that.
#[test]
fn a_lease_that_ended_without_a_controller_is_told_by_the_next_one() {
    let mut world = World::formed(3);
    world.kill_controller(3);
    let killed = world.now;
    world.split(&[3]);
    world.run(3_000);
    world.restart_controller(3);
    world.run(500);
    let told = lost(&world, 3);
    let [(Refused::Expired, ended)] = told[..] else { panic!("{told:?}") };
    assert!((killed..=killed + LEASE).contains(&ended), "{ended}, killed at {killed}");
    world.restart_controller(3);
    world.run(500);
    assert_eq!(lost(&world, 3).len(), 1);
}

/// A page that is being replaced is no loss.
#[test]
fn an_unsteady_page_tells_nothing() {
    let mut world = World::formed(1);
    world.nodes.get_mut(&1).unwrap().events.clear();
    let page = PageView {
        acting: Err(Refused::Unsteady),
        lease_until_ns: 0,
        fenced: 0,
        fenced_by: None,
        fenced_at: MonoTime::ZERO,
    };
    world.input(1, Input::Page(page));
    world.run(200);
    assert_eq!(world.nodes[&1].events, []);
}

/// Of what a kernel noted, the first is what ended the lease.
#[test]
fn a_fence_names_its_sender_and_dates_the_end_of_the_lease() {
    let mut world = World::formed(3);
    world.run(1_000);
    let (now, own) = (world.now, world.nodes[&3].incarnation);
    world.no_fences = true;
    world.lose = |message, _, to| to == 3 && matches!(message, Message::Decided(_));
    world.request(1, 5, Request::Fence(NodeId(3)));
    world.run_until(3_000, |world| world.members(1) == [1, 2]);
    world.run(50);
    let page = PageView {
        acting: Err(Refused::Fenced),
        lease_until_ns: (now + 90) * 1_000_000,
        fenced: own,
        fenced_by: Some(NodeId(2)),
        fenced_at: MonoTime((now + 40) * 1_000_000),
    };
    world.nodes.get_mut(&3).unwrap().kernel.fenced = own;
    world.input(3, Input::Page(page));
    assert_eq!(lost(&world, 3), [(Refused::Fenced, now + 40)]);
    let victim = world.member(3);
    world.run_until(3_000, |world| world.nodes[&3].ended.is_some());
    let fenced = AgreementEvent::Fenced { by: Some(NodeId(2)), view: None, reason: None };
    assert!(world.nodes[&3].events.contains(&fenced), "{}", world.describe());
    // The view comes with the next start, and says why.
    world.lose = |_, _, _| false;
    world.nodes.get_mut(&3).unwrap().events.clear();
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
    let told: Vec<_> = removals(&world, 3).into_iter().filter(|(_, member, _)| *member == victim).collect();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].2.as_ref().map(|grounds| grounds.reason), Some(Reason::Fenced));
}

fn control(world: &World, at: u16) -> Vec<(u16, ControlFault)> {
    let lost = |event: &AgreementEvent| match event {
        AgreementEvent::ControlLost { node, fault } => Some((node.0, *fault)),
        _ => None,
    };
    world.nodes[&at].events.iter().filter_map(lost).collect()
}

/// Node 3's messages pass to and from nobody: for the others that is node 3's fault, and for itself it is its own.
#[test]
fn lost_messages_are_the_fault_of_whoever_lost_those_of_all() {
    let mut world = World::formed(3);
    world.run(1_000);
    world.mute.extend([(1, 3), (3, 1), (2, 3), (3, 2)]);
    world.run_until(5_000, |world| world.members(1) == [1, 2]);
    assert_eq!(control(&world, 1), [(3, ControlFault::There)]);
    assert_eq!(control(&world, 2), [(3, ControlFault::There)]);
    assert_eq!(control(&world, 3), [(1, ControlFault::Here), (2, ControlFault::Here)]);
    let mut pair = World::formed(2);
    pair.run(1_000);
    pair.mute.extend([(1, 2), (2, 1)]);
    pair.run(1_500);
    assert_eq!(control(&pair, 1), [(2, ControlFault::NotDetermined)]);
}

/// A controller that begins anew has its own time to speak. That is no message yet.
#[test]
fn messages_pass_again_once_one_came() {
    let mut pair = World::formed(2);
    pair.run(1_000);
    pair.mute.extend([(1, 2), (2, 1)]);
    pair.run(1_500);
    let restored = |pair: &World| pair.nodes[&1].events.contains(&AgreementEvent::ControlRestored { node: NodeId(2) });
    pair.kill_controller(2);
    pair.run(50);
    pair.restart_controller(2);
    pair.run(1_500);
    assert_eq!((control(&pair, 1).len(), restored(&pair)), (1, false), "{}", pair.describe());
    pair.input(1, Input::Late);
    pair.run(500);
    assert!(!restored(&pair), "nor is it one that this node did not run for a while");
    pair.mute.clear();
    pair.run_until(3_000, restored);
    assert_eq!(control(&pair, 1).len(), 1);
}

/// Its disk has a vote that could stand for the cluster, were it not behind.
#[test]
fn a_disk_that_is_behind_is_told_once_at_a_start() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(5_000, |world| world.settled(2));
    let behind = |world: &World, at: u16| {
        let told = |event: &&AgreementEvent| matches!(event, AgreementEvent::StateNotNewest { .. });
        world.nodes[&at].events.iter().filter(told).count()
    };
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
    assert_eq!([1, 2, 3].map(|at| behind(&world, at)), [0, 0, 1]);
}
