//! Attempts against real voters, with everything lost, doubled and overtaken: one document is decided, whoever asks.

use super::*;
use crate::core::agreement::document::{Holder, LeaseTerms, Member, QuorumTerms, SCHEMA, Vote};
use crate::core::agreement::voter::{Effect, Reply, State, Voter};
use crate::core::ids::NodeId;
use heartbeat_common::view::Order;
use proptest::prelude::*;

fn vote_id(node: u16) -> VoteId {
    VoteId([u64::from(node) + 1, 1])
}

/// A view of so many nodes, each with a vote of these weights.
fn view(weights: &[u8]) -> Document {
    let members: Vec<Member> =
        (0..weights.len()).map(|node| Member { node: NodeId(node as u16), incarnation: 5 }).collect();
    let vote = |(node, weight): (usize, &u8)| Vote {
        holder: Holder::Node(NodeId(node as u16)),
        id: vote_id(node as u16),
        configured: 1,
        weight: *weight,
    };
    Document {
        schema: SCHEMA,
        instance: [1, 2],
        order: Order::new(0, 1).unwrap(),
        parent: [0; 4],
        votes: weights.iter().enumerate().map(vote).collect(),
        admitted: members.clone(),
        members,
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

fn after(document: &Document, which: u8) -> Document {
    let (order, parent) = (document.order.next().unwrap(), document.name().digest);
    Document { order, parent, settings: vec![which], ..document.clone() }
}

fn ballot(round: u64, node: u16) -> Ballot {
    Ballot { round, node, incarnation: 5 }
}

const NOTHING: Promise = Promise { accepted: Ballot::NONE, value: [0; 4] };

#[test]
fn nothing_is_proposed_before_the_own_promise_is_on_disk() {
    let document = view(&[1, 1, 1]);
    let mut attempt = Proposer::begin(&document, ballot(1, 0), vote_id(0));
    attempt.promised(document.name(), ballot(1, 0), vote_id(1), &NOTHING, None);
    attempt.promised(document.name(), ballot(1, 0), vote_id(2), &NOTHING, None);
    assert_eq!(attempt.stage(), &Stage::Asking);
    attempt.promised(document.name(), ballot(1, 0), vote_id(0), &NOTHING, None);
    assert_eq!(attempt.stage(), &Stage::Choosing);
}

#[test]
fn votes_without_weight_and_votes_not_named_make_no_majority() {
    let document = view(&[1, 1, 1, 0]);
    let mut attempt = Proposer::begin(&document, ballot(1, 0), vote_id(0));
    for vote in [vote_id(0), vote_id(3), VoteId([99, 99])] {
        attempt.promised(document.name(), ballot(1, 0), vote, &NOTHING, None);
        assert_eq!(attempt.stage(), &Stage::Asking);
    }
    assert_eq!(attempt.missing().collect::<Vec<_>>(), [vote_id(1), vote_id(2)]);
}

#[test]
fn the_newest_acceptance_told_is_taken_over() {
    let document = view(&[1, 1, 1]);
    let (old, new) = (after(&document, 1), after(&document, 2));
    let mut attempt = Proposer::begin(&document, ballot(9, 0), vote_id(0));
    let told = |accepted, document: &Document| Promise { accepted, value: document.name().digest };
    let name = document.name();
    attempt.promised(name, ballot(9, 0), vote_id(1), &told(ballot(4, 1), &new), Some(new.clone()));
    attempt.promised(name, ballot(9, 0), vote_id(2), &told(ballot(3, 1), &new), Some(old.clone()));
    assert_eq!(attempt.stage(), &Stage::Asking, "a document that is not the one named is no answer");
    attempt.promised(name, ballot(9, 0), vote_id(0), &told(ballot(3, 1), &old), Some(old));
    assert_eq!(attempt.stage(), &Stage::Proposing(Box::new(new.clone())));
    assert!(!attempt.choose(after(&document, 3)), "no choice is left");
    assert!(!attempt.accepted(name, ballot(9, 0), vote_id(1), [0; 4]), "another value");
    assert!(!attempt.accepted(name, ballot(9, 0), vote_id(1), new.name().digest));
    assert!(!attempt.accepted(name, ballot(9, 0), vote_id(1), new.name().digest), "told twice, counted once");
    assert!(attempt.accepted(name, ballot(9, 0), vote_id(2), new.name().digest));
    assert_eq!(attempt.stage(), &Stage::Decided(Box::new(new)));
}

#[derive(Clone, Debug)]
enum Step {
    /// The attempt of a node asks, or proposes, to a voter; the answer comes at once or never.
    Ask { node: u16, voter: usize, lost: bool },
    /// A node gives its attempt up for a newer one.
    Retry { node: u16 },
    /// A node loses its memory, and keeps its disk.
    Crash { node: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0u16..3, 0usize..5, any::<bool>()).prop_map(|(node, voter, lost)| Step::Ask { node, voter, lost }),
        1 => (0u16..3).prop_map(|node| Step::Retry { node }),
        1 => (0u16..3).prop_map(|node| Step::Crash { node }),
    ]
}

/// What a voter answers, with its disk at once.
fn answers(voter: &mut Voter, mut effects: Vec<Effect>) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some(effect) = effects.pop() {
        match effect {
            Effect::Write(state) => effects.extend(voter.written(state.sequence)),
            Effect::Answer { reply, .. } => replies.push(reply),
            Effect::ClearGrants | Effect::Installed => {}
        }
    }
    replies
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn one_document_is_decided(
        weights in prop_oneof![Just(vec![1, 1, 1, 0, 0]), Just(vec![1, 1, 1, 1, 1]), Just(vec![1, 0, 0, 0, 0])],
        steps in proptest::collection::vec(step(), 1..150),
    ) {
        let document = view(&weights);
        let name = document.name();
        let mut voters: Vec<Voter> =
            (0..5).map(|node| Voter::resume(State::new(vote_id(node), document.clone()))).collect();
        // After a crash an attempt's round is the one above what the own disk has promised.
        let begin = |voters: &[Voter], node: u16| {
            let round = voters[usize::from(node)].state().register.promised.round + 1;
            Proposer::begin(&document, ballot(round, node), vote_id(node))
        };
        let mut attempts: Vec<Proposer> = (0..3).map(|node| begin(&voters, node)).collect();
        let mut decided: Option<Document> = None;
        for (count, step) in steps.into_iter().enumerate() {
            match step {
                Step::Ask { node, voter: to, lost } => {
                    let attempt = &mut attempts[usize::from(node)];
                    let ballot = attempt.ballot();
                    if attempt.stage() == &Stage::Choosing {
                        attempt.choose(after(&document, count as u8));
                    }
                    let effects = match attempt.stage() {
                        Stage::Proposing(value) => voters[to].accept(NodeId(node), name, ballot, value),
                        _ => voters[to].prepare(NodeId(node), name, ballot),
                    };
                    for reply in answers(&mut voters[to], effects).into_iter().filter(|_| !lost) {
                        match reply {
                            Reply::Promised { ballot, promise, document } => {
                                attempt.promised(name, ballot, vote_id(to as u16), &promise, document.map(|d| *d));
                            }
                            Reply::Accepted { ballot, value } => {
                                attempt.accepted(name, ballot, vote_id(to as u16), value);
                            }
                            Reply::Refused { .. } => {}
                        }
                    }
                    if let Stage::Decided(value) = attempt.stage() {
                        let first = decided.get_or_insert_with(|| (**value).clone());
                        prop_assert_eq!(&**value, first);
                    }
                }
                Step::Retry { node } | Step::Crash { node } => {
                    let top = voters.iter().map(|voter| voter.state().register.promised.round).max().unwrap_or(0);
                    let mut attempt = begin(&voters, node);
                    if matches!(step, Step::Retry { .. }) {
                        attempt = Proposer::begin(&document, ballot(top + 1, node), vote_id(node));
                    }
                    attempts[usize::from(node)] = attempt;
                }
            }
        }
    }
}
