//! Each rule broken by hand: what the record must not miss.

use super::*;
use heartbeat_common::acceptor::Register;
use heartbeat_user::core::agreement::document::{Holder, LeaseTerms, QuorumTerms, Reason, Removal, SCHEMA, Vote};

const fn vote(node: usize) -> VoteId {
    VoteId([node as u64 + 1, 9])
}

fn member(node: usize) -> Member {
    Member { node: NodeId(node as u16 + 1), incarnation: 10 }
}

fn vote_of(node: usize) -> Vote {
    Vote { holder: Holder::Node(member(node).node), id: vote(node), configured: 1, weight: 1 }
}

fn document(number: u64, parent: [u64; 4], members: &[usize]) -> Document {
    Document {
        schema: SCHEMA,
        instance: [1, 2],
        order: Order::new(0, number).unwrap(),
        parent,
        members: members.iter().map(|node| member(*node)).collect(),
        votes: members.iter().map(|node| vote_of(*node)).collect(),
        admitted: (0..3).map(member).collect(),
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

const fn ballot(round: u64) -> Ballot {
    Ballot { round, node: 1, incarnation: 10 }
}

/// Three nodes with the first view on their disks.
fn begun() -> (Ghost, Vec<State>) {
    let first = document(1, [0; 4], &[0, 1, 2]);
    let states: Vec<_> = (0..3).map(|node| State::new(vote(node), first.clone())).collect();
    let mut ghost = Ghost::new(vec![7; 3]);
    for (node, state) in states.iter().enumerate() {
        ghost.durable(node, state, 1).unwrap();
    }
    (ghost, states)
}

fn accepts(state: &State, round: u64, value: &Document) -> State {
    let digest = value.name().digest;
    let register = Register { promised: ballot(round), accepted: ballot(round), value: digest, ..state.register };
    State { sequence: state.sequence + 1, register, accepted: Some(value.clone()), ..state.clone() }
}

fn promises(state: &State, round: u64) -> State {
    let register = Register { promised: ballot(round), ..state.register };
    State { sequence: state.sequence + 1, register, ..state.clone() }
}

fn property(outcome: Result<(), Violation>) -> &'static str {
    outcome.expect_err("a violation").property
}

#[test]
fn an_ordinary_decision_is_seen_when_a_majority_has_it_on_disk() {
    let (mut ghost, states) = begun();
    let next = document(2, states[0].register.view.digest, &[0, 1]);
    ghost.durable(0, &accepts(&states[0], 1, &next), 2).unwrap();
    assert_eq!(ghost.newest, Order::new(0, 1).unwrap());
    ghost.durable(1, &accepts(&states[1], 1, &next), 3).unwrap();
    assert_eq!((ghost.newest, ghost.view(ghost.newest).unwrap().at), (Order::new(0, 2).unwrap(), 3));
    let installed = State { sequence: 9, ..State::new(vote(1), next) };
    ghost.durable(1, &installed, 4).unwrap();
    assert_eq!(ghost.has_member(ghost.newest, member(1)), Some(true));
    assert_eq!(ghost.has_member(ghost.newest, member(2)), Some(false));
}

#[test]
fn a_view_that_no_majority_accepted_is_seen() {
    let (mut ghost, states) = begun();
    let next = document(2, states[0].register.view.digest, &[0, 1]);
    ghost.durable(0, &accepts(&states[0], 1, &next), 2).unwrap();
    let installed = State { sequence: 9, ..State::new(vote(0), next) };
    assert_eq!(property(ghost.durable(0, &installed, 3)), "S2");
}

#[test]
fn two_views_of_one_order_are_seen() {
    let (mut ghost, states) = begun();
    let digest = states[0].register.view.digest;
    let (one, other) = (document(2, digest, &[0, 1]), document(2, digest, &[1, 2]));
    ghost.durable(0, &accepts(&states[0], 1, &one), 2).unwrap();
    let both = accepts(&states[1], 1, &one);
    ghost.durable(1, &both, 2).unwrap();
    ghost.durable(2, &accepts(&states[2], 2, &other), 2).unwrap();
    assert_eq!(property(ghost.durable(1, &accepts(&both, 2, &other), 3)), "S1");
    let (mut ghost, _) = begun();
    let stray = State { sequence: 9, ..State::new(vote(0), document(1, [7; 4], &[0])) };
    assert_eq!(property(ghost.durable(0, &stray, 3)), "S1");
}

#[test]
fn two_successors_are_no_fault_of_the_others_where_a_vote_has_forgotten_the_first() {
    let (mut ghost, states) = begun();
    let digest = states[0].register.view.digest;
    let (one, other) = (document(2, digest, &[0, 1]), document(2, digest, &[1, 2]));
    ghost.durable(0, &accepts(&states[0], 1, &one), 2).unwrap();
    ghost.durable(1, &accepts(&states[1], 1, &one), 2).unwrap();
    ghost.comes_back(1);
    assert!(!ghost.void && ghost.forgets() && !ghost.may_forget(0, ghost.newest));
    let second = Order::new(0, 2).unwrap();
    assert!(ghost.may_forget(1, second) && !ghost.may_forget(1, second.next().unwrap()), "what came later it knows");
    ghost.durable(1, &states[1], 3).unwrap();
    ghost.durable(2, &accepts(&states[2], 2, &other), 3).unwrap();
    ghost.durable(1, &accepts(&states[1], 2, &other), 3).unwrap();
    assert!(ghost.void);
    let (mut ghost, _) = begun();
    ghost.comes_back(0);
    let values = [document(2, digest, &[0, 1]), document(2, digest, &[1, 2])];
    ghost.durable(0, &accepts(&states[0], 1, &values[0]), 2).unwrap();
    ghost.durable(1, &accepts(&states[1], 1, &values[1]), 2).unwrap();
    assert!(ghost.void, "its author has forgotten the first value");
}

#[test]
fn a_ballot_with_two_values_is_seen() {
    let (mut ghost, states) = begun();
    let digest = states[0].register.view.digest;
    ghost.durable(0, &accepts(&states[0], 1, &document(2, digest, &[0, 1])), 2).unwrap();
    let other = accepts(&states[1], 1, &document(2, digest, &[1, 2]));
    assert_eq!(property(ghost.durable(1, &other, 3)), "S9");
}

#[test]
fn a_state_that_goes_back_is_seen() {
    let (mut ghost, states) = begun();
    let promised = promises(&states[0], 5);
    ghost.durable(0, &promised, 2).unwrap();
    assert_eq!(property(ghost.clone().durable(0, &states[0], 3)), "S9");
    let weaker = State { sequence: promised.sequence + 1, ..promises(&states[0], 4) };
    assert_eq!(property(ghost.clone().durable(0, &weaker, 3)), "S9");
    ghost.forget(0);
    ghost.durable(0, &states[0], 3).unwrap();
}

#[test]
fn a_view_whose_votes_do_not_hold_the_one_before_is_seen() {
    let (mut ghost, states) = begun();
    let before = document(2, states[0].register.view.digest, &[0, 1]);
    let strangers = Document { votes: [5, 6, 7].map(vote_of).to_vec(), ..before };
    ghost.durable(0, &accepts(&states[0], 1, &strangers), 2).unwrap();
    assert_eq!(property(ghost.durable(1, &accepts(&states[1], 1, &strangers), 2)), "S2");
}

#[test]
fn asking_for_acceptance_without_a_majority_of_promises_is_seen() {
    let (mut ghost, states) = begun();
    let view = states[0].register.view;
    ghost.durable(0, &promises(&states[0], 3), 2).unwrap();
    assert_eq!(property(ghost.asks_to_accept(view, ballot(3))), "S2");
    ghost.durable(2, &promises(&states[2], 3), 2).unwrap();
    ghost.asks_to_accept(view, ballot(3)).unwrap();
    assert_eq!(property(ghost.asks_to_accept(view, ballot(4))), "S2", "another ballot");
}

#[test]
fn a_fence_that_no_view_orders_is_seen() {
    let (mut ghost, states) = begun();
    let first = states[0].register.view;
    assert_eq!(property(ghost.fences(member(0), member(2), first)), "S6", "a member of that view");
    let next = document(2, first.digest, &[0, 1]);
    assert_eq!(property(ghost.fences(member(0), member(2), next.name())), "S6", "not decided");
    for node in [0, 1] {
        ghost.durable(node, &accepts(&states[node], 1, &next), 2).unwrap();
    }
    ghost.fences(member(0), member(2), next.name()).unwrap();
    assert_eq!(property(ghost.fences(member(2), member(0), next.name())), "S6", "by whom it left out");
    let reborn = Member { incarnation: 11, ..member(2) };
    assert_eq!(property(ghost.fences(member(0), reborn, next.name())), "S6", "an incarnation that it never had");
}

#[test]
fn a_fence_that_is_obeyed_for_another_view_or_incarnation_is_seen() {
    let (mut ghost, states) = begun();
    let view = states[0].register.view;
    let [one, two, three, _] = view.digest;
    ghost.sends_fence(member(2), view);
    ghost.obeys(member(2), view.order.0, [one, two, three]).unwrap();
    assert_eq!(property(ghost.obeys(member(2), view.order.0 + 1, [one, two, three])), "S6", "another view");
    assert_eq!(property(ghost.obeys(member(2), view.order.0, [one, two, three ^ 1])), "S6", "of another line");
    assert_eq!(property(ghost.obeys(member(1), view.order.0, [one, two, three])), "S6", "another node");
    let reborn = Member { incarnation: 11, ..member(2) };
    assert_eq!(property(ghost.obeys(reborn, view.order.0, [one, two, three])), "S6", "another incarnation");
}

#[test]
fn whom_a_view_leaves_out_for_silence_was_silent_for_each_that_it_names() {
    const S: u64 = 1_000_000_000;
    // The last view was decided after 10 s.
    let decides = |judges: u64, words: &[(usize, u64, Option<u64>)]| {
        let (mut ghost, states) = begun();
        let second = document(2, states[0].register.view.digest, &[0, 1, 2]);
        ghost.durable(0, &accepts(&states[0], 1, &second), 10 * S).unwrap();
        ghost.durable(1, &accepts(&states[1], 1, &second), 10 * S).unwrap();
        for (by, incarnation, until) in words {
            ghost.accuse(*by, 2, *incarnation);
            if let Some(at) = until {
                ghost.withdraws(*by, Some(2), *at);
            }
        }
        let removal = Removal { member: member(2), reason: Reason::Down, silent_ms: 600, controller_age_ms: 0, judges };
        let third = Document { removals: vec![removal], ..document(3, second.name().digest, &[0, 1]) };
        let install = |node: usize| State { sequence: 9, ..State::new(vote(node), second.clone()) };
        for node in [0, 1] {
            ghost.durable(node, &install(node), 11 * S).unwrap();
        }
        ghost.durable(0, &accepts(&install(0), 1, &third), 12 * S).unwrap();
        ghost.durable(1, &accepts(&install(1), 1, &third), 12 * S).err().map(|violation| violation.property)
    };
    assert_eq!(decides(0b11, &[(0, 10, None), (1, 10, None)]), None);
    assert_eq!(decides(0b01, &[(0, 10, None)]), None, "the other one only agreed");
    assert_eq!(decides(0b00, &[(0, 10, None)]), Some("S7"), "nobody is named");
    assert_eq!(decides(0b11, &[(0, 10, None)]), Some("S7"), "one of them never said so");
    assert_eq!(decides(0b01, &[(0, 9, None)]), Some("S7"), "of an older incarnation");
    assert_eq!(decides(0b01, &[(0, 11, None)]), None, "a newer one is a proof of its end");
    assert_eq!(decides(0b01, &[(0, 10, Some(11 * S))]), None, "it said so in this view");
    assert_eq!(decides(0b01, &[(0, 10, Some(7 * S))]), Some("S7"), "it heard it again before");
}

#[test]
fn whoever_joins_without_messages_to_and_from_each_member_is_seen() {
    const S: u64 = 1_000_000_000;
    // Node 2 comes back under a newer incarnation, by a view decided at 20 s.
    let joins = |passed: &[(usize, usize)], rounds: &[(usize, u64)]| {
        let (mut ghost, states) = begun();
        let back = |node| if node == 2 { Member { incarnation: 11, ..member(2) } } else { member(node) };
        let mut second = document(2, states[0].register.view.digest, &[0, 1, 2]);
        (second.members[2], second.admitted[2]) = (back(2), back(2));
        passed.iter().for_each(|(from, to)| ghost.passes(back(*from), back(*to)));
        (0..3).for_each(|node| ghost.makes_round(node, 10 * S, S / 2));
        let steady = (1..=10).flat_map(|tenth| (0..3).map(move |node| (node, 10 * S + tenth * S / 2)));
        let last = rounds.iter().map(|(node, _)| *node).collect::<Vec<_>>();
        for (node, at) in steady.chain((15..20).flat_map(|s| (0..3).map(move |node| (node, s * S)))) {
            if !last.contains(&node) {
                ghost.makes_round(node, at, S);
            }
        }
        rounds.iter().for_each(|(node, at)| ghost.makes_round(*node, *at, S));
        ghost.durable(0, &accepts(&states[0], 1, &second), 20 * S - 1).unwrap();
        ghost.durable(1, &accepts(&states[1], 1, &second), 20 * S - 1).err().map(|violation| violation.property)
    };
    let all = [(2, 0), (0, 2), (2, 1), (1, 2)];
    assert_eq!(joins(&all, &[]), None);
    for missing in 0..all.len() {
        let rest: Vec<_> = all.iter().copied().filter(|pair| *pair != all[missing]).collect();
        assert_eq!(joins(&rest, &[]), Some("joins"), "{:?} is missing", all[missing]);
    }
    assert_eq!(joins(&all[..2], &[(1, 11 * S)]), None, "node 1 stands still, and cannot speak");
    assert_eq!(joins(&all[..2], &[(1, 18 * S), (1, 19 * S)]), None, "it did so a moment ago");
}

#[test]
fn a_removal_told_twice_is_seen() {
    let (mut ghost, _) = begun();
    let second = Name { order: Order(2), digest: [2; 4] };
    let removed = Change::Removed(member(2));
    assert!(ghost.tells(0, 10, second, removed) && ghost.tells(1, 10, second, removed));
    assert!(ghost.tells(0, 10, second, Change::Left(member(2))), "another change");
    assert!(!ghost.tells(0, 10, second, removed));
}

#[test]
fn members_with_other_settings_are_seen() {
    let (mut ghost, states) = begun();
    ghost.settings[2] = 8;
    let digest = states[0].register.view.digest;
    let next = |members: &[usize]| document(2, digest, members);
    let decide = |ghost: &mut Ghost, value: &Document| {
        ghost.durable(0, &accepts(&states[0], 1, value), 2).unwrap();
        ghost.durable(1, &accepts(&states[1], 1, value), 2)
    };
    let before = ghost.judged.of(Rule::S11);
    assert_eq!(property(decide(&mut ghost.clone(), &next(&[1, 2]))), "S11");
    decide(&mut ghost, &next(&[0, 1])).unwrap();
    assert_eq!(ghost.judged.of(Rule::S11), before + 1);
}

#[test]
fn two_forced_starts_are_told_apart_and_the_lower_digest_wins() {
    let (mut ghost, states) = begun();
    let digest = states[0].register.view.digest;
    let order = Order::new(1, 2).unwrap();
    let alone = |node: usize| Document { order, ..document(2, digest, &[node]) };
    for node in [0, 2] {
        let state = State { sequence: 9, ..State::new(vote(node), alone(node)) };
        ghost.durable(node, &state, 2).unwrap();
    }
    let lower = [0, 2].map(|node| alone(node).name()).into_iter().min_by_key(|name| name.digest).unwrap();
    assert_eq!((ghost.newest, ghost.view(order).unwrap().name, ghost.forced), (order, lower, 2));
    let next =
        |node: usize| Document { order: order.next().unwrap(), ..document(3, alone(node).name().digest, &[node]) };
    for node in [0, 2] {
        let state = State::new(vote(node), alone(node));
        ghost.durable(node, &State { sequence: 20, ..accepts(&state, 1, &next(node)) }, 3).unwrap();
    }
    assert_eq!(ghost.views().filter(|view| view.name.order.number() == 3).count(), 2);
    for node in [0, 2] {
        let (own, line) = (alone(node).name(), next(node).name());
        assert_eq!(ghost.in_line(line, order).unwrap().name, own, "its own line's, whichever wins");
        assert_eq!(ghost.in_line(own, order).unwrap().name, own);
        assert_eq!(ghost.in_line(line, Order::new(0, 1).unwrap()).unwrap().name.digest, digest);
        assert!(ghost.in_line(own, line.order).is_none() && ghost.in_line(line, Order::new(0, 2).unwrap()).is_none());
    }
    let stray = State { sequence: 9, ..State::new(vote(1), Document { order, ..document(2, digest, &[0, 1]) }) };
    assert_eq!(property(ghost.durable(1, &stray, 4)), "S2", "a forced start is alone");
}
