use super::*;
use crate::view::Order;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::vec::Vec;

fn view(number: u64, digest: u64) -> Name {
    Name { order: Order::new(0, number).unwrap(), digest: [digest, 0, 0, 0] }
}

fn ballot(round: u64, node: u16) -> Ballot {
    Ballot { round, node, incarnation: 1 }
}

#[test]
fn a_promise_keeps_older_attempts_out_and_tells_what_was_accepted() {
    let open = Register::open(view(3, 1));
    let (promised, told) = open.promise(view(3, 1), ballot(2, 1)).unwrap();
    assert_eq!(told, Promise { accepted: Ballot::NONE, value: [0; 4] });
    assert_eq!(promised.promise(view(3, 1), ballot(1, 9)), Err(Refusal::Promised(ballot(2, 1))));
    assert_eq!(promised.accept(view(3, 1), ballot(1, 9), [7; 4]), Err(Refusal::Promised(ballot(2, 1))));
    let accepted = promised.accept(view(3, 1), ballot(2, 1), [7; 4]).unwrap();
    assert!(accepted.has_accepted() && !promised.has_accepted());
    let (_, told) = accepted.promise(view(3, 1), ballot(3, 1)).unwrap();
    assert_eq!(told, Promise { accepted: ballot(2, 1), value: [7; 4] });
}

#[test]
fn what_was_answered_is_answered_again_without_a_change() {
    let (promised, told) = Register::open(view(3, 1)).promise(view(3, 1), ballot(2, 1)).unwrap();
    assert_eq!(promised.promise(view(3, 1), ballot(2, 1)), Ok((promised, told)));
    let accepted = promised.accept(view(3, 1), ballot(2, 1), [7; 4]).unwrap();
    assert_eq!(accepted.accept(view(3, 1), ballot(2, 1), [7; 4]), Ok(accepted));
    assert_eq!(accepted.accept(view(3, 1), ballot(2, 1), [8; 4]), Err(Refusal::OtherValue));
}

#[test]
fn a_newer_attempt_is_accepted_unpromised_and_counts_as_promised() {
    let accepted = Register::open(view(3, 1)).accept(view(3, 1), ballot(5, 2), [7; 4]).unwrap();
    assert_eq!(accepted.promised, ballot(5, 2));
    assert_eq!(accepted.accept(view(3, 1), ballot(4, 9), [8; 4]), Err(Refusal::Promised(ballot(5, 2))));
}

#[test]
fn another_view_is_refused_by_what_it_lacks() {
    let register = Register::open(view(3, 1));
    for other in [view(2, 1), view(3, 2)] {
        assert_eq!(register.promise(other, ballot(1, 1)), Err(Refusal::OlderView(view(3, 1))));
        assert_eq!(register.accept(other, ballot(1, 1), [7; 4]), Err(Refusal::OlderView(view(3, 1))));
    }
    assert_eq!(register.promise(view(4, 1), ballot(1, 1)), Err(Refusal::NewerView));
    assert_eq!(register.accept(view(4, 1), ballot(1, 1), [7; 4]), Err(Refusal::NewerView));
}

#[test]
fn no_attempt_is_no_attempt() {
    let register = Register::open(view(3, 1));
    assert!(register.promise(view(3, 1), Ballot::NONE).is_err());
    assert!(register.accept(view(3, 1), Ballot::NONE, [7; 4]).is_err());
}

/// A step of a proposer; the index says which acceptor takes it, and steps may be lost, doubled and overtaken.
#[derive(Clone, Debug)]
enum Step {
    Prepare { proposer: u16, acceptor: usize },
    Accept { proposer: u16, acceptor: usize },
    Retry { proposer: u16 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u16..3, 0usize..5).prop_map(|(proposer, acceptor)| Step::Prepare { proposer, acceptor }),
        4 => (0u16..3, 0usize..5).prop_map(|(proposer, acceptor)| Step::Accept { proposer, acceptor }),
        1 => (0u16..3).prop_map(|proposer| Step::Retry { proposer }),
    ]
}

/// A proposer that keeps to the rules, upon whatever the acceptors told it.
#[derive(Clone, Default)]
struct Proposer {
    round: u64,
    promises: BTreeMap<usize, Promise>,
    value: Option<[u64; 4]>,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is lost, doubled or overtaken, no two values are accepted by majorities.
    #[test]
    fn at_most_one_value_is_decided(steps in proptest::collection::vec(step(), 1..120)) {
        let name = view(1, 1);
        let mut registers = [Register::open(name); 5];
        let mut proposers: Vec<Proposer> =
            (0..3).map(|_| Proposer { round: 1, ..Proposer::default() }).collect();
        let mut history: BTreeMap<Ballot, (Vec<usize>, [u64; 4])> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Prepare { proposer, acceptor } => {
                    let me = &mut proposers[proposer as usize];
                    if let Ok((register, promise)) = registers[acceptor].promise(name, ballot(me.round, proposer)) {
                        registers[acceptor] = register;
                        // An answer that comes after the value was chosen changes nothing.
                        if me.value.is_none() {
                            me.promises.insert(acceptor, promise);
                        }
                    }
                }
                Step::Accept { proposer, acceptor } => {
                    let me = &mut proposers[proposer as usize];
                    if me.promises.len() < 3 {
                        continue;
                    }
                    let newest = me.promises.values().max_by_key(|promise| promise.accepted).copied().unwrap();
                    let own = [u64::from(proposer) + 100, me.round, 0, 0];
                    let value =
                        *me.value.get_or_insert(if newest.accepted == Ballot::NONE { own } else { newest.value });
                    if let Ok(register) = registers[acceptor].accept(name, ballot(me.round, proposer), value) {
                        registers[acceptor] = register;
                        let voters = history.entry(ballot(me.round, proposer)).or_insert_with(|| (Vec::new(), value));
                        prop_assert_eq!(voters.1, value);
                        if !voters.0.contains(&acceptor) {
                            voters.0.push(acceptor);
                        }
                    }
                }
                Step::Retry { proposer } => {
                    let me = &mut proposers[proposer as usize];
                    *me = Proposer { round: me.round + 1, ..Proposer::default() };
                }
            }
        }
        let decided: Vec<[u64; 4]> =
            history.values().filter(|(voters, _)| voters.len() >= 3).map(|(_, value)| *value).collect();
        prop_assert!(decided.windows(2).all(|pair| pair[0] == pair[1]), "{decided:?}");
    }
}
