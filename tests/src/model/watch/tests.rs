//! Each property can fail: a history that breaks it, made by hand.

use super::*;
use heartbeat_user::core::agreement::build::first;
use heartbeat_user::core::agreement::document::{Holder, LeaseTerms, QuorumTerms, Vote};

fn member(node: u16, incarnation: u64) -> Member {
    Member { node: NodeId(node), incarnation }
}

fn vote(node: u16) -> VoteId {
    VoteId([u64::from(node), 1])
}

/// Three members, each with a vote.
fn view() -> Document {
    let lease = LeaseTerms { lease_ms: 500, stop_ms: 0, longest_ms: 500 };
    let quorum = QuorumTerms { dynamic: true, lower_priority: None };
    let one = first(member(1, 1), vote(1), [7, 7], lease, quorum);
    let named = |node: u16| Vote { holder: Holder::Node(NodeId(node)), id: vote(node), configured: 1, weight: 1 };
    let members: Vec<Member> = (1..=3).map(|node| member(node, 1)).collect();
    Document { votes: (1..=3).map(named).collect(), admitted: members.clone(), members, ..one }
}

fn after(view: &Document, members: &[Member]) -> Document {
    let (order, parent) = (view.order.next().unwrap(), view.name().digest);
    Document { order, parent, members: members.to_vec(), ..view.clone() }
}

/// A record that has just begun.
pub fn record() -> Watch {
    watch()
}

fn watch() -> Watch {
    Watch::new(Shared::new(view()), (1..=3).map(vote).collect())
}

fn outcome() -> Outcome {
    Outcome {
        node: Shared::new(Node::default()),
        sent: Vec::new(),
        installed: Vec::new(),
        accepted: Vec::new(),
        fault: None,
    }
}

/// These votes accept the document, and the first of them installs it.
fn decide(watch: &mut Watch, document: &Document, votes: &[u16]) {
    let of = watch.newest().name();
    for node in votes {
        watch.take(&Outcome { accepted: vec![(vote(*node), of, document.name())], ..outcome() }, 0);
    }
    let installed = vec![(vote(votes[0]), Shared::new(document.clone()))];
    watch.take(&Outcome { installed, ..outcome() }, 0);
}

const TWO: [u16; 2] = [1, 2];

#[test]
fn a_lawful_history_breaks_nothing() {
    let mut watch = watch();
    let next = after(&view(), &[member(1, 1), member(2, 1)]);
    decide(&mut watch, &next, &TWO);
    watch.take(&Outcome { installed: vec![(vote(2), Shared::new(next.clone()))], ..outcome() }, 0);
    let third = after(&next, &[member(1, 1), member(2, 1), member(3, 2)]);
    decide(&mut watch, &third, &TWO);
    assert_eq!((watch.broken, watch.changes()), (None, 2));
    assert_ne!(watch.reached & Reached::TwoViews as u16, 0);
}

#[test]
fn two_documents_of_one_order_are_seen() {
    let mut watch = watch();
    decide(&mut watch, &after(&view(), &[member(1, 1), member(2, 1)]), &TWO);
    let other = after(&view(), &[member(2, 1), member(3, 1)]);
    watch.take(&Outcome { installed: vec![(vote(3), Shared::new(other))], ..outcome() }, 0);
    assert_eq!(watch.broken, Some(Broken::Agreement));
}

#[test]
fn a_view_that_skips_one_is_seen() {
    let mut watch = watch();
    let far = after(&after(&view(), &[member(1, 1)]), &[member(1, 1)]);
    decide(&mut watch, &far, &TWO);
    assert_eq!(watch.broken, Some(Broken::Agreement));
}

#[test]
fn a_view_without_a_majority_of_the_old_votes_is_seen() {
    let mut watch = watch();
    decide(&mut watch, &after(&view(), &[member(1, 1)]), &[1]);
    assert_eq!(watch.broken, Some(Broken::OldVotes));
}

#[test]
fn a_view_that_no_majority_of_its_own_votes_could_go_on_from_is_seen() {
    let mut watch = watch();
    let mut next = after(&view(), &[member(1, 1), member(2, 1)]);
    for one in &mut next.votes {
        one.id.0[1] = 9;
    }
    decide(&mut watch, &next, &TWO);
    assert_eq!(watch.broken, Some(Broken::NewVotes));
}

#[test]
fn who_was_left_out_and_is_admitted_again_is_seen() {
    let mut watch = watch();
    let next = after(&view(), &[member(1, 1), member(2, 1)]);
    decide(&mut watch, &next, &TWO);
    watch.take(&Outcome { installed: vec![(vote(2), Shared::new(next.clone()))], ..outcome() }, 0);
    decide(&mut watch, &after(&next, &view().members), &TWO);
    assert_eq!(watch.broken, Some(Broken::Readmitted));
}

#[test]
fn a_fault_of_a_step_is_kept() {
    let mut watch = watch();
    watch.take(&Outcome { fault: Some(Fault::Promise), ..outcome() }, 0);
    watch.take(&Outcome { fault: Some(Fault::Grants), ..outcome() }, 0);
    assert_eq!(watch.broken, Some(Broken::Step(Fault::Promise)), "the first is told");
}

/// A node that acts, alone with a vote that has no end.
fn acts(view: &Document) -> Shared<Node> {
    let mut node = Node::default();
    node.incarnation = 1;
    let kernel = &mut node.kernel;
    (kernel.up, kernel.member, kernel.total, kernel.own_weight) = (true, true, 1, 1);
    (kernel.own_mark, kernel.granting, kernel.in_force) = (5, 5, view.order);
    Shared::new(node)
}

#[test]
fn two_who_act_side_by_side_are_seen() {
    let next = after(&view(), &[member(1, 1), member(2, 1)]);
    let dates = [[0; NODES]; NODES];
    let idle = Shared::new(Node::default());
    for (third, broken) in [(acts(&view()), Some(Broken::Acting)), (idle.clone(), None)] {
        let mut watch = watch();
        decide(&mut watch, &next, &TWO);
        watch.look(&[acts(&next), idle.clone(), third], &dates, 0, 9);
        assert_eq!(watch.broken, broken);
    }
    let mut watch = watch();
    decide(&mut watch, &next, &TWO);
    watch.look(&[acts(&view()), idle.clone(), acts(&view())], &dates, 0, 9);
    assert_eq!(watch.broken, None, "all act in the view before, which has them");
    assert_ne!(watch.reached & Reached::LeftOutActs as u16, 0);
}

/// All that has to come together, but for the two views.
fn all_but_views(watch: &mut Watch) {
    watch.started(true, true);
    for what in [Reached::Resumed, Reached::Doubled, Reached::Overtaken] {
        watch.reach(what);
    }
    watch.started(false, false);
    assert_eq!(watch.reached & Reached::TwoRestarts as u16, 0, "one of them had ended by itself");
    watch.started(true, false);
    assert_eq!(watch.reached & KINDS, KINDS & !(Reached::TwoViews as u16));
}

#[test]
fn all_is_said_of_a_history_that_has_each_kind() {
    let mut watch = watch();
    all_but_views(&mut watch);
    assert_eq!(watch.reached & Reached::All as u16, 0);
    watch.reach(Reached::TwoViews);
    assert_ne!(watch.reached & Reached::All as u16, 0);
}

#[test]
fn all_act_where_nobody_is_missing() {
    let mut watch = watch();
    let dates = [[0; NODES]; NODES];
    let (one, idle) = (acts(&view()), Shared::new(Node::default()));
    watch.look(&[one.clone(), one.clone()], &dates, 0, 9);
    all_but_views(&mut watch);
    watch.reach(Reached::TwoViews);
    let all_act = |watch: &Watch| watch.reached & Reached::AllAct as u16 != 0;
    assert!(!all_act(&watch), "they acted before");
    watch.look(&[one.clone(), idle], &dates, 0, 9);
    watch.look(&[one.clone(), one.clone()], &dates, 2, 9);
    assert!(!all_act(&watch), "one does not act, or is stalled");
    watch.look(&[one.clone(), one], &dates, 0, 9);
    assert!(all_act(&watch));
}
