//! The form is canonical, its bounds hold, and no bytes can do harm.

use super::*;
use proptest::prelude::*;

fn member(node: u16, incarnation: u64) -> Member {
    Member { node: NodeId(node), incarnation }
}

fn vote(node: u16, weight: u8) -> Vote {
    Vote { holder: Holder::Node(NodeId(node)), id: VoteId([u64::from(node) + 1, 7]), configured: 1, weight }
}

/// Three members, one that was left out, and one in quarantine.
fn document() -> Document {
    let order = Order::new(0, 4).unwrap();
    Document {
        schema: SCHEMA,
        instance: [3, 4],
        order,
        parent: [1, 2, 3, 4],
        members: vec![member(1, 10), member(2, 20), member(3, 30)],
        votes: vec![vote(1, 1), vote(2, 1), vote(3, 1)],
        admitted: vec![member(1, 10), member(2, 20), member(3, 30), member(9, 90)],
        owed: vec![Owed { member: member(9, 90), left_out_by: order }],
        lease: LeaseTerms { lease_ms: 500, stop_ms: 100, longest_ms: 500 },
        quorum: QuorumTerms { dynamic: true, lower_priority: None },
        quarantined: vec![Quarantined { node: NodeId(9), exits: 3 }],
        removals: vec![Removal {
            member: member(9, 90),
            reason: Reason::Down,
            silent_ms: 510,
            controller_age_ms: 20,
            judges: 7,
        }],
        change: Some(ChangeId { by: member(2, 20), sequence: 5 }),
        witness: Vec::new(),
        settings: vec![1, 2, 3],
    }
}

#[test]
fn what_was_written_is_read_and_names_the_view() {
    let document = document();
    assert_eq!(Document::decode(&document.encode()), Ok(document.clone()));
    let other = Document { settings: vec![1, 2, 4], ..document.clone() };
    assert_eq!(document.name().order, other.name().order);
    assert_ne!(document.name(), other.name());
    assert!(document.encode().len() < 600, "{}", document.encode().len());
}

/// A name is on other nodes' disks: the form must not change unseen.
#[test]
fn the_form_is_pinned() {
    assert_eq!(document().name().digest[0], 589_830_071_836_329_508, "schema 1");
}

/// Each reason has its number on every disk, and no other one is read.
#[test]
fn reasons_keep_their_numbers() {
    let of = |number: u8| borsh::from_slice::<Reason>(&[number]).ok();
    for (number, reason) in [(0, Reason::Down), (3, Reason::Left), (8, Reason::Forced), (9, Reason::GaveUp)] {
        assert_eq!(of(number), Some(reason));
        assert_eq!(borsh::to_vec(&reason).unwrap(), [number]);
    }
    assert_eq!(of(10), None);
}

#[test]
fn each_broken_rule_is_told() {
    type Break = fn(&mut Document);
    let breaks: [(Break, &str); 20] = [
        (|d| d.schema = 2, "version 2"),
        (|d| d.order = Order::NONE, "number is 0"),
        (|d| d.members.clear(), "no members"),
        (|d| d.members.swap(0, 1), "members are not in order"),
        (|d| d.members[1] = d.members[0], "members are not in order"),
        (|d| d.members = (0..65).map(|node| member(node, 1)).collect(), "members are too many"),
        (|d| d.members[0].incarnation = 9, "not the newest admitted"),
        (|d| d.admitted.swap(0, 1), "admitted nodes are not in order"),
        (|d| d.votes.swap(0, 1), "votes are not in order"),
        (|d| d.votes[0].id = d.votes[1].id, "one id"),
        (|d| d.votes[0].id = VoteId::NONE, "no id"),
        (|d| d.votes[0].weight = 2, "weight"),
        (|d| d.votes.clear(), "nobody has a vote"),
        (|d| d.owed[0].member = member(9, 91), "never had"),
        (|d| d.owed[0].member = member(1, 10), "left out a member"),
        (|d| d.owed[0].left_out_by = Order::new(0, 5).unwrap(), "later view"),
        (|d| d.removals[0].member = member(1, 10), "removed a member"),
        (|d| d.lease.stop_ms = 500, "whole lease"),
        (|d| d.lease.longest_ms = 499, "longest lease"),
        (|d| d.settings = vec![0; 8193], "section"),
    ];
    for (break_it, said) in breaks {
        let mut document = document();
        break_it(&mut document);
        let fault = document.check().unwrap_err().to_string();
        assert!(fault.contains(said), "{fault} does not say {said:?}");
        assert!(Document::decode(&document.encode()).is_err());
    }
}

#[test]
fn bytes_too_many_or_too_few_are_no_document() {
    let bytes = document().encode();
    assert_eq!(Document::decode(&bytes[..bytes.len() - 1]), Err(DocumentFault::Malformed));
    assert_eq!(Document::decode(&[&bytes[..], &[0]].concat()), Err(DocumentFault::Malformed));
    assert_eq!(Document::decode(&vec![1; LEN_MAX + 1]), Err(DocumentFault::TooLong));
    assert_eq!(Document::decode(&[9, 0, 1]), Err(DocumentFault::Schema(9)));
}

#[test]
fn the_longest_lease_shrinks_only_when_the_older_ones_are_over() {
    let long = LeaseTerms { lease_ms: 20_000, stop_ms: 0, longest_ms: 20_000 };
    let short = long.after(500, 0, Duration::from_secs(1));
    assert_eq!((short.lease_ms, short.longest_ms), (500, 20_000), "the view before may still run");
    let later = short.after(500, 0, Duration::from_millis(20_008));
    assert_eq!(later.longest_ms, 20_000);
    let over = short.after(500, 0, short.surely_over());
    assert_eq!(over.longest_ms, 500);
    assert_eq!(
        short.surely_over(),
        Duration::from_millis(20_027),
        "20 s, the drift of both clocks and what one is slewed"
    );
    let longer = over.after(3_000, 0, Duration::ZERO);
    assert_eq!((longer.lease_ms, longer.longest_ms), (3_000, 3_000));
}

proptest! {
    #[test]
    fn no_bytes_can_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0usize..400, to in any::<u8>()) {
        let _ = Document::decode(&bytes);
        let mut good = document().encode();
        let index = at % good.len();
        good[index] = to;
        if let Ok(read) = Document::decode(&good) {
            prop_assert_eq!(read.encode(), good, "one value, one form");
        }
    }
}
