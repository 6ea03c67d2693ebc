//! What leaves is on disk, grants are cleared before an acceptance is, and a crash anywhere keeps every answer true.

use super::*;
use crate::core::agreement::document::{Holder, LeaseTerms, Member, QuorumTerms, SCHEMA, Vote};
use heartbeat_common::view::Order;
use proptest::prelude::*;
use std::collections::BTreeMap;

const A: NodeId = NodeId(1);

fn first() -> Document {
    let member = Member { node: A, incarnation: 5 };
    Document {
        schema: SCHEMA,
        instance: [1, 2],
        order: Order::new(0, 1).unwrap(),
        parent: [0; 4],
        members: vec![member],
        votes: vec![Vote { holder: Holder::Node(A), id: VoteId([7, 7]), configured: 1, weight: 1 }],
        admitted: vec![member],
        owed: Vec::new(),
        lease: LeaseTerms { lease_ms: 500, stop_ms: 0, longest_ms: 500 },
        quorum: QuorumTerms { dynamic: true, lower_priority: None },
        quarantined: Vec::new(),
        removals: Vec::new(),
        change: None,
        witness: Vec::new(),
        settings: Vec::new(),
    }
}

/// One of several possible successors.
fn after(document: &Document, which: u8) -> Document {
    let (order, parent) = (document.order.next().unwrap(), document.name().digest);
    Document { order, parent, settings: vec![which], ..document.clone() }
}

fn ballot(round: u64) -> Ballot {
    Ballot { round, node: 1, incarnation: 5 }
}

fn resumed() -> (Voter, Name) {
    let state = State::new(VoteId([7, 7]), first());
    state.check().unwrap();
    let view = state.installed.name();
    (Voter::resume(state), view)
}

#[test]
fn a_promise_is_answered_once_it_is_on_disk() {
    let (mut voter, view) = resumed();
    let effects = voter.prepare(A, view, ballot(1));
    let [Effect::Write(state)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((state.register.promised, state.sequence), (ballot(1), 2));
    assert!(voter.may_grant() == voter.settled(), "a promise clears no grant");
    let promise = Promise { accepted: Ballot::NONE, value: [0; 4] };
    let reply = Reply::Promised { ballot: ballot(1), promise, document: None };
    assert_eq!(voter.written(2), [Effect::Answer { to: A, view, reply: reply.clone() }]);
    assert_eq!(voter.prepare(A, view, ballot(1)), [Effect::Answer { to: A, view, reply }], "asked again");
}

#[test]
fn grants_are_cleared_before_an_acceptance_is_written() {
    let (mut voter, view) = resumed();
    let document = after(&first(), 1);
    let effects = voter.accept(A, view, ballot(1), &document);
    assert!(matches!(&effects[..], [Effect::ClearGrants, Effect::Write(_)]), "{effects:?}");
    assert!(!voter.may_grant());
    let value = document.name().digest;
    let reply = Reply::Accepted { ballot: ballot(1), value };
    assert_eq!(voter.written(2), [Effect::Answer { to: A, view, reply }]);
    assert!(!voter.may_grant(), "the next view brings new ones");
    let effects = voter.install(&document);
    assert!(matches!(&effects[..], [Effect::ClearGrants, Effect::Write(_)]), "{effects:?}");
    assert!(!voter.may_grant());
    assert_eq!(voter.written(3), [Effect::Installed]);
    assert!(voter.may_grant());
}

#[test]
fn what_comes_while_the_disk_is_busy_is_written_together_and_answered_after() {
    let (mut voter, view) = resumed();
    let document = after(&first(), 1);
    assert_eq!(voter.prepare(A, view, ballot(1)).len(), 1);
    assert_eq!(voter.prepare(NodeId(2), view, ballot(2)), []);
    assert_eq!(voter.accept(NodeId(2), view, ballot(2), &document), [Effect::ClearGrants]);
    let effects = voter.written(2);
    let [Effect::Answer { to: A, .. }, Effect::Write(state)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((state.register.accepted, state.sequence), (ballot(2), 4));
    let [Effect::Answer { reply: Reply::Accepted { .. }, .. }] = &voter.written(4)[..] else { panic!() };
    assert_eq!(voter.written(4), [], "told twice");
}

#[test]
fn a_document_that_does_not_follow_the_view_is_not_accepted() {
    let (mut voter, view) = resumed();
    let good = after(&first(), 1);
    let far = Document { order: Order::new(0, 3).unwrap(), ..good.clone() };
    let foreign = Document { parent: [9; 4], ..good.clone() };
    assert_eq!(voter.accept(A, view, ballot(1), &far), []);
    assert_eq!(voter.accept(A, view, ballot(1), &foreign), []);
    assert_eq!(voter.install(&first()), [], "it is not newer");
}

#[test]
fn a_failed_write_ends_the_vote() {
    let (mut voter, view) = resumed();
    assert_eq!(voter.prepare(A, view, ballot(1)).len(), 1);
    assert_eq!(voter.failed(), [Effect::ClearGrants]);
    assert!(voter.forfeited() && !voter.may_grant());
    assert_eq!(voter.written(2), []);
    assert_eq!(voter.prepare(A, view, ballot(2)), []);
    assert_eq!(voter.accept(A, view, ballot(2), &after(&first(), 1)), []);
    assert_eq!(voter.install(&after(&first(), 1)), []);
}

#[test]
fn a_state_whose_parts_do_not_fit_is_refused() {
    let state = State::new(VoteId([7, 7]), first());
    type Break = fn(&mut State);
    let breaks: [Break; 5] = [
        |s| s.vote = VoteId::NONE,
        |s| s.sequence = 0,
        |s| s.register.view.digest[0] ^= 1,
        |s| s.accepted = Some(first()),
        |s| s.register.accepted = ballot(1),
    ];
    for break_it in breaks {
        let mut broken = state.clone();
        break_it(&mut broken);
        assert!(broken.check().is_err());
    }
}

#[derive(Clone, Debug)]
enum Step {
    Prepare(u64),
    Accept(u64, u8),
    Install(u8),
    Written,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..6).prop_map(Step::Prepare),
        4 => (1u64..6, 0u8..2).prop_map(|(round, which)| Step::Accept(round, which)),
        1 => (0u8..2).prop_map(Step::Install),
        4 => Just(Step::Written),
        1 => Just(Step::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is asked, and wherever it crashes: each answer was true of the disk when it left, and stays so; and no
    /// acceptance reaches the disk before the grants were cleared.
    #[test]
    fn answers_outlive_every_crash(steps in proptest::collection::vec(step(), 1..60)) {
        let (mut voter, _) = resumed();
        let mut disk = voter.state().clone();
        let mut on_its_way: Option<State> = None;
        let mut granting = true;
        // By view: the highest promise answered, and what was accepted by ballot.
        let mut promised: BTreeMap<Name, Ballot> = BTreeMap::new();
        let mut accepted: BTreeMap<(Name, Ballot), [u64; 4]> = BTreeMap::new();
        for step in steps {
            let view = voter.state().register.view;
            let installed = voter.state().installed.clone();
            let effects = match step {
                Step::Prepare(round) => voter.prepare(A, view, ballot(round)),
                Step::Accept(round, which) => voter.accept(A, view, ballot(round), &after(&installed, which)),
                Step::Install(which) => voter.install(&after(&installed, which)),
                Step::Written => match on_its_way.take() {
                    Some(state) => {
                        disk = state;
                        voter.written(disk.sequence)
                    }
                    None => Vec::new(),
                },
                Step::Crash => {
                    on_its_way = None;
                    voter = Voter::resume(disk.clone());
                    prop_assert!(disk.check().is_ok());
                    granting = voter.may_grant();
                    Vec::new()
                }
            };
            for effect in effects {
                match effect {
                    Effect::ClearGrants => granting = false,
                    Effect::Write(state) => {
                        prop_assert!(on_its_way.is_none(), "one write at a time");
                        prop_assert!(!granting || !state.register.has_accepted());
                        on_its_way = Some(*state);
                    }
                    Effect::Answer { view, reply: Reply::Promised { ballot, .. }, .. } => {
                        prop_assert!(disk.register.view == view && disk.register.promised >= ballot);
                        let top = promised.entry(view).or_default();
                        *top = (*top).max(ballot);
                    }
                    Effect::Answer { view, reply: Reply::Accepted { ballot, value }, .. } => {
                        prop_assert!(disk.register.view == view && disk.register.accepted >= ballot);
                        prop_assert!(promised.get(&view).is_none_or(|top| *top <= ballot || accepted.contains_key(&(view, ballot))));
                        prop_assert_eq!(*accepted.entry((view, ballot)).or_insert(value), value);
                    }
                    Effect::Answer { .. } => {}
                    Effect::Installed => {
                        prop_assert!(disk.installed == voter.state().installed);
                        granting = voter.may_grant();
                    }
                }
            }
        }
    }
}

#[test]
fn a_write_that_hangs_keeps_one_answer_for_each_proposer() {
    const B: NodeId = NodeId(2);
    let (mut voter, view) = resumed();
    let document = after(&first(), 1);
    for round in 1..=100 {
        voter.prepare(A, view, ballot(round));
        voter.prepare(B, view, Ballot { node: 2, ..ballot(round) });
    }
    let last = Ballot { node: 2, ..ballot(100) };
    assert_eq!(voter.waiting.len(), 2);
    voter.accept(B, view, last, &document);
    // The question of before, again.
    voter.prepare(B, view, last);
    assert_eq!(voter.waiting.len(), 2);
    let mut answers = Vec::new();
    while let Some(sequence) = voter.writing {
        answers.extend(voter.written(sequence).into_iter().filter(|effect| matches!(effect, Effect::Answer { .. })));
    }
    let promise = Promise { accepted: Ballot::NONE, value: [0; 4] };
    let promised = Reply::Promised { ballot: ballot(100), promise, document: None };
    let accepted = Reply::Accepted { ballot: last, value: document.name().digest };
    let expected = [(A, promised), (B, accepted)].map(|(to, reply)| Effect::Answer { to, view, reply });
    assert_eq!(answers, expected, "the newest of each, once it is on disk");
}

#[test]
fn only_the_state_that_was_being_written_is_taken_for_written() {
    let (mut voter, view) = resumed();
    voter.prepare(A, view, ballot(1));
    assert_eq!((voter.written(3), voter.written(1), voter.durable()), (vec![], vec![], 1));
    assert_eq!(voter.written(2).len(), 1);
    assert_eq!((voter.durable(), voter.may_grant()), (2, true));
    voter.failed();
    assert!(!voter.may_grant(), "what the disk holds is not known any more");
}

#[test]
fn a_state_whose_parts_do_not_belong_together_is_none() {
    let whole = State::new(VoteId([7, 7]), first());
    let member = |node| Member { node: NodeId(node), incarnation: 5 };
    let served = |node| Served { member: member(node), served_ms: 1, boot_ns: 1 };
    let other = after(&first(), 1);
    let value = other.name().digest;
    let accepted = Register { accepted: ballot(1), value, ..whole.register };
    let votes = |numbers: &[u64]| numbers.iter().map(|number| (VoteId([*number, 0]), 1)).collect();
    let many: Vec<u64> = (1..=SLOTS as u64 + 1).collect();
    assert_eq!(State { register: accepted, accepted: Some(other.clone()), ..whole.clone() }.check(), Ok(()));
    for (what, broken) in [
        ("of no sequence", State { sequence: 0, ..whole.clone() }),
        ("of another view", State { register: Register::open(other.name()), ..whole.clone() }),
        ("another value", State { register: accepted, accepted: Some(after(&first(), 2)), ..whole.clone() }),
        ("votes out of order", State { remembers: votes(&[2, 1]), ..whole.clone() }),
        ("too many votes", State { remembers: votes(&many), ..whole.clone() }),
        ("nodes twice", State { quarantines: vec![served(2), served(2)], ..whole.clone() }),
        ("too many nodes", State { quarantines: (0..=NODES_MAX as u16).map(served).collect(), ..whole }),
    ] {
        assert!(broken.check().is_err(), "{what}");
    }
}
