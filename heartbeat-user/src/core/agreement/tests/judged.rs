//! What single words in the reports of a regroup come to: who may propose, who may come, whose wish and whose vote counts.

use super::scene::{CALM, judge_reports, says};
use super::world::World;
use crate::core::agreement::closing::{Plan, Verdict};
use crate::core::agreement::document::{ChangeId, Document, Member, Reason};
use crate::core::agreement::message::{Health, Hears, Report, Setting, Wish, Wished};
use crate::core::ids::NodeId;
use heartbeat_common::view::VoteId;

/// The view that is left when these of so many nodes are gone, and all nodes: those under a newer incarnation.
fn view_without(gone: &[u16], of: u16) -> (Document, Vec<Member>) {
    let mut world = World::formed(of);
    let rest: Vec<u16> = (1..=of).filter(|node| !gone.contains(node)).collect();
    for node in gone {
        world.crash(*node);
        world.run_until(5_000, |world| !world.members(rest[0]).contains(node));
    }
    let newer = |node: u16| u64::from(gone.contains(&node)) * 10;
    let member = |node: u16| Member { incarnation: world.member(node).incarnation + newer(node), ..world.member(node) };
    (world.view(rest[0]), (1..=of).map(member).collect())
}

/// What each of these reports who hears each other one of `all`.
fn all_hear(view: &Document, all: &[Member], reporting: &[u16]) -> Vec<Report> {
    let report = |node: &u16| {
        let author = all[usize::from(*node) - 1];
        let others: Vec<(Member, bool)> = all.iter().filter(|one| **one != author).map(|one| (*one, true)).collect();
        says(view, author, &others)
    };
    reporting.iter().map(report).collect()
}

/// Changes what the report of one says of another.
fn edge(reports: &mut [Report], of: u16, to: u16) -> &mut Hears {
    let report = reports.iter_mut().find(|report| report.author.node == NodeId(of)).unwrap();
    report.hears.iter_mut().find(|hears| hears.peer.node == NodeId(to)).unwrap()
}

fn plan(view: &Document, reports: &[Report]) -> Plan {
    match judge_reports(view, reports, CALM) {
        Verdict::Propose(plan) => plan,
        other => panic!("{other:?}"),
    }
}

fn members(plan: &Plan) -> Vec<u16> {
    plan.members.iter().map(|member| member.node.0).collect()
}

fn ranks(plan: &Plan) -> Vec<u16> {
    plan.ranks.iter().map(|node| node.0).collect()
}

fn wished(by: Member, lease_ms: u32) -> Vec<Wished> {
    vec![Wished { id: ChangeId { by, sequence: 1 }, wish: Wish::Change(Setting::LeaseMs(lease_ms)) }]
}

#[test]
fn members_that_have_reported_propose_before_all_others() {
    let (view, all) = view_without(&[], 3);
    let mut reports = all_hear(&view, &all, &[2, 3]);
    reports[0].wishes = wished(all[1], 700);
    assert_eq!(ranks(&plan(&view, &reports)), [2, 3, 1], "1 is heard, and has said nothing yet");
    let (view, all) = view_without(&[1], 3);
    let plan = plan(&view, &all_hear(&view, &all, &[1, 2, 3]));
    assert_eq!((members(&plan), ranks(&plan)), (vec![1, 2, 3], vec![2, 3, 1]), "1 is no member yet");
}

#[test]
fn who_joins_hears_all_and_is_heard_by_all_as_what_it_is() {
    let (view, all) = view_without(&[3, 4], 4);
    let with = |change: fn(&mut [Report])| {
        let mut reports = all_hear(&view, &all, &[1, 2, 3, 4]);
        change(&mut reports);
        members(&plan(&view, &reports))
    };
    assert_eq!(with(|_| {}), [1, 2, 3, 4]);
    assert_eq!(with(|all| all[2].joins = false), [1, 2, 4]);
    assert_eq!(with(|all| all[2].leaving = true), [1, 2, 4]);
    assert_eq!(with(|all| edge(all, 2, 3).both_ways_ms = 0), [1, 2, 4], "a member does not hear it");
    assert_eq!(with(|all| edge(all, 3, 2).both_ways_ms = 0), [1, 2, 4], "it does not hear a member");
    assert_eq!(with(|all| edge(all, 2, 3).both_ways_ms = 499), [1, 2, 4], "not for a detection time yet");
    assert_eq!(with(|all| edge(all, 2, 3).peer.incarnation -= 1), [1, 2, 4], "another one of that node");
    assert_eq!(with(|all| edge(all, 3, 4).both_ways_ms = 0), [1, 2, 3], "of two that do not hear each other one");
}

#[test]
fn only_members_wish_and_only_for_what_changes_something() {
    let (view, all) = view_without(&[3], 3);
    let with = |by: usize, lease_ms: u32| {
        let mut reports = all_hear(&view, &all, &[1, 2, 3]);
        reports[2].joins = false;
        reports[by].wishes = wished(all[by], lease_ms);
        judge_reports(&view, &reports, CALM)
    };
    let same = Verdict::Same { apart: Vec::new() };
    assert_eq!((with(1, view.lease.lease_ms), with(2, 700)), (same.clone(), same));
    let Verdict::Propose(plan) = with(1, 700) else { panic!("nothing is proposed") };
    assert_eq!(plan.wish.map(|wish| wish.id.by), Some(all[1]));
}

#[test]
fn a_member_that_lost_its_vote_weighs_nothing() {
    let (view, all) = view_without(&[], 3);
    let mut reports = all_hear(&view, &all[..2], &[1, 2]);
    for report in &mut reports {
        report.hears.push(Hears { peer: all[2], health: Health::Down, both_ways_ms: 0, ..report.hears[0] });
    }
    assert_eq!(members(&plan(&view, &reports)), [1, 2]);
    reports[1].vote = VoteId([9, 9]);
    let verdict = judge_reports(&view, &reports, CALM);
    assert!(matches!(&verdict, Verdict::Waits { available: 1, .. }), "{verdict:?}");
}

#[test]
fn who_hangs_goes_by_the_word_of_all_that_hear_it() {
    let (view, all) = view_without(&[], 3);
    let with = |one: Health, other: Health| {
        let mut reports = all_hear(&view, &all, &[1, 2]);
        edge(&mut reports, 1, 3).health = one;
        let hears = edge(&mut reports, 2, 3);
        (hears.health, hears.both_ways_ms) = (other, u32::from(other == Health::Hung || other == Health::Up));
        match judge_reports(&view, &reports, CALM) {
            Verdict::Propose(plan) => plan.removals.iter().map(|removal| removal.reason).collect(),
            _ => Vec::new(),
        }
    };
    assert_eq!(with(Health::Hung, Health::Hung), [Reason::Hung]);
    assert_eq!(with(Health::Hung, Health::Down), [Reason::Hung], "whoever does not hear it cannot say");
    assert_eq!(with(Health::Hung, Health::Up), []);
}
