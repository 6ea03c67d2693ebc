//! What grants are given, and what a lease is renewed by.

use super::*;

/// A view of which both are members, with the words by which each vote grants to the other.
fn install(node: &mut Node, slot: u32, expected: u64, given: u64) {
    lease::begin(&node.page, node.conf.standing[0], [1, 2]);
    let mut view = lease::Bank {
        order: 9,
        act_ns: 1_000_000,
        own_mark: 77,
        own_weight: 1,
        total_weight: 2,
        member: true,
        ..lease::Bank::default()
    };
    view.votes[slot as usize] = lease::Vote { weight: 1, expected };
    lease::install(&node.page, &view);
    assert!(lease::grant(&node.page, 77));
    node.page[lease::word::IN_FORCE].set(9);
    // As the controller would tell the packet path.
    let before = node.conf.standing;
    let standing = core::array::from_fn(|index| match word::STANDING + index {
        word::GRANT => given,
        word::VIEW_NUMBER => 9,
        _ => before[index],
    });
    (node.conf.standing, node.conf.grant_mark, node.conf.vote_slot) = (standing, 77, slot);
    for each in &mut node.conf.slots {
        each.own_digest = standing_digest(each.own_standing_key, &standing);
        for (old, new) in before.iter().zip(&standing) {
            each.echo_sum = each.echo_sum - checksum::of(*old) + checksum::of(*new);
        }
    }
}

/// Slots of the two votes.
const SLOT_OF_A: u32 = 3;
const SLOT_OF_B: u32 = 95;
const A_TO_B: u64 = 0xab;
const B_TO_A: u64 = 0xba;

fn members() -> (Node, Node) {
    let (mut a, mut b) = acquainted();
    install(&mut a, SLOT_OF_B, B_TO_A, A_TO_B);
    install(&mut b, SLOT_OF_A, A_TO_B, B_TO_A);
    (a, b)
}

fn date(node: &Node) -> u64 {
    node.page[lease::active_bank(&node.page) + lease::bank::DATES + node.conf.vote_slot as usize].get()
}

#[test]
fn a_delayed_echo_buys_no_lease() {
    let (a, b) = members();
    let (_, echo) = b.answer(&a.probe(B, 10, 5_000), 6_000).unwrap();
    assert_eq!(echo[word::GRANT], B_TO_A);
    a.take(&echo, 5_000 + 900_000).unwrap();
    assert_eq!(date(&a), 5_000, "dated by the probe that it answers");
    assert!(lease::acting(&a.page, 5_000 + 999_999).is_ok());
    assert!(lease::acting(&a.page, 5_000 + 1_000_000).is_err());
    // A late echo renews like any other; it is only no life.
    let (_, echo) = b.answer(&a.probe(B, 12, 7_000), 8_000).unwrap();
    assert!(matches!(a.take(&echo, 8_000 + DELAY), Ok(Outcome::Taken(Counter::EchoLate, _))));
    assert_eq!(date(&a), 7_000);
}

#[test]
fn a_delayed_probe_buys_no_lease() {
    let (a, b) = members();
    // B's own stamp of its last echo to A, which A returns, was 1500: see `acquainted`.
    b.answer(&a.probe(B, 10, 5_000), 900_000).unwrap();
    assert_eq!(date(&b), 1_500, "dated by the stamp that it returns");
    let mut late = a.probe(B, 12, 5_000);
    late[word::STAMP] = 1_400;
    b.answer(&a.sign(late), 2_000_000).unwrap();
    assert_eq!(date(&b), 1_500);
}

#[test]
fn echoes_alone_keep_no_lease() {
    let (a, b) = members();
    lease::clear_grants(&b.page, 4_000);
    let (counter, echo) = b.answer(&a.probe(B, 10, 5_000), 6_000).unwrap();
    assert_eq!((counter, echo[word::GRANT]), (Counter::Answered, 0));
    assert_eq!(a.take(&echo, 6_500), Ok(Outcome::Taken(Counter::EchoTimely, 1_500)), "it is life all the same");
    assert_eq!(date(&a), 0);
}

#[test]
fn an_acceptance_ends_every_grant_first() {
    let (a, b) = members();
    for (sequence, cleared) in [(10, false), (12, true), (14, true)] {
        if cleared {
            lease::clear_grants(&b.page, 5_500);
        }
        let (_, echo) = b.answer(&a.probe(B, sequence, 5_000), 6_000).unwrap();
        assert_eq!(echo[word::GRANT], if cleared { 0 } else { B_TO_A });
        let digest = standing_digest(b.conf.slots[0].own_standing_key, &standing_of(&echo));
        assert_eq!(digest == b.conf.slots[0].own_digest, !cleared, "what is not said is not under the tag either");
        assert!(a.take(&echo, 6_500).is_ok());
    }
    // The next view's grants are other words under another mark, and these do not come back.
    b.page[lease::word::GRANTING].set(78);
    let (_, echo) = b.answer(&a.probe(B, 16, 5_000), 6_000).unwrap();
    assert_eq!(echo[word::GRANT], 0);
}

#[test]
fn a_grant_of_another_view_counts_nothing() {
    let (a, b) = members();
    a.page[lease::active_bank(&a.page) + lease::bank::EXPECTED + SLOT_OF_B as usize].set(B_TO_A + 1);
    let (_, echo) = b.answer(&a.probe(B, 10, 5_000), 6_000).unwrap();
    a.take(&echo, 6_500).unwrap();
    assert_eq!(date(&a), 0);
}

#[test]
fn only_what_names_this_incarnation_renews() {
    let (a, b) = members();
    let mut stranger = a.probe(B + 1, 10, 5_000);
    stranger[word::STAMP] = 1_400;
    assert_eq!(b.answer(&a.sign(stranger), 6_000).unwrap().0, Counter::AnsweredHandshake);
    assert_eq!(date(&b), 0);
    let newer = Node::new(NODE_A, A + 1);
    b.answer(&newer.probe(B, 2, 1), 7_000).unwrap();
    let mut stale = a.probe(B, 12, 5_000);
    stale[word::STAMP] = 1_400;
    let (counter, echo) = b.answer(&a.sign(stale), 20_000_000).unwrap();
    assert_eq!((counter, echo[word::GRANT]), (Counter::AnsweredStale, 0), "nor is an older one granted anything");
    assert_eq!((date(&b), b.tick.older_heard_ns.get()), (0, 20_000_000));
    // Told again at once, or not.
    let again = a.probe(B, 14, 5_000);
    assert_eq!(b.take(&again, 20_000_001), Err(Counter::DropStaleLimit));
    assert_eq!(b.tick.older_heard_ns.get(), 20_000_001);
}

#[test]
fn a_stamp_ahead_of_this_clock_ends_all_acts() {
    let (a, b) = members();
    let (_, echo) = b.answer(&a.probe(B, 10, 9_000), 6_000).unwrap();
    a.take(&echo, 8_999).unwrap();
    let mut probe = a.probe(B, 12, 5_000);
    probe[word::STAMP] = 6_001;
    b.take(&a.sign(probe), 6_000).unwrap();
    for (node, before) in [(&a, 0), (&b, 1_500)] {
        assert_eq!(lease::acting(&node.page, 6_000), Err(lease::Refused::Ahead));
        assert_eq!(date(node), before, "nor is it taken");
    }
}

#[test]
fn a_fenced_node_says_so_and_grants_nothing() {
    let (a, b) = members();
    b.page[lease::word::FENCED].set(B);
    let (_, echo) = b.answer(&a.probe(B, 10, 5_000), 6_000).unwrap();
    let flags = frame::flags(echo[word::DYNAMIC]);
    assert_eq!((echo[word::GRANT], flags), (0, frame::FLAG_FENCED | frame::FLAG_QUORATE | 1));
    a.take(&echo, 6_500).unwrap();
    assert_eq!(frame::flags(a.tick.peer_dynamic.get()) & frame::FLAG_FENCED, frame::FLAG_FENCED);
    // Fenced means "not above it".
    b.page[lease::word::FENCED].set(B - 1);
    let (_, echo) = b.answer(&a.probe(B, 12, 5_000), 6_000).unwrap();
    assert_eq!(echo[word::GRANT], B_TO_A);
}
