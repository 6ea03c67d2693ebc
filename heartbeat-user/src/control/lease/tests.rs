//! What a page says to people, beside the one judge. It starts nothing.

use super::*;
use heartbeat_common::lease::{MAGIC, WORDS, active_bank, renew};
use proptest::prelude::*;
use std::cell::Cell;

struct Page([Cell<u64>; WORDS]);

impl Words for Page {
    fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }
    fn set(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

const ACT: u64 = 400;
const OFFSET: u64 = 10_000;
const FLOOR: u64 = 1_000;
const MARK: u64 = 77;
const SLOT_NODES: [(usize, NodeId); 2] = [(1, NodeId(2)), (2, NodeId(3))];

/// Three votes: the own one in no slot, which grants, and those of slots 1 and 2, which have not granted yet.
fn page() -> Page {
    let page = Page([const { Cell::new(0) }; WORDS]);
    for (index, value) in [
        (word::MAGIC, MAGIC),
        (word::INCARNATION, 5),
        (word::FENCED, 4),
        (word::GRANTING, MARK),
        (word::ACTIVE, 6),
        (word::IN_FORCE, 9),
    ] {
        page.set(index, value);
    }
    let at = active_bank(&page);
    for (index, value) in [
        (bank::ACT_NS, ACT),
        (bank::FLOOR_NS, FLOOR),
        (bank::BOOT_OFFSET_NS, OFFSET),
        (bank::OWN_MARK, MARK),
        (bank::TOTAL_WEIGHT, 3),
        (bank::OWN_WEIGHT, 1),
        (bank::MEMBER, 1),
        (bank::SLOTS_USED, 3),
        (bank::WEIGHTS, 0x0001_0100),
        (bank::EXPECTED + 1, 501),
        (bank::EXPECTED + 2, 502),
    ] {
        page.set(at + index, value);
    }
    page
}

fn ns(ns: u64) -> Duration {
    Duration::from_nanos(ns)
}

#[test]
fn ages_are_by_own_stamps_and_the_rest_is_what_the_majority_has_left() {
    let page = page();
    renew(&page, 1, 501, 2_000, 2_010);
    renew(&page, 2, 502, 2_100, 2_110);
    let now = 2_200 + OFFSET;
    let facts = LeaseFacts::read(&page, now, &SLOT_NODES);
    assert_eq!(facts.acting, Ok(Token { order: 9, incarnation: 5 }));
    assert_eq!(facts.own, Some(Duration::ZERO), "it stands");
    assert_eq!(facts.others, [(NodeId(2), Some(ns(200))), (NodeId(3), Some(ns(100)))]);
    assert_eq!(facts.left, ns(2_100 + ACT + OFFSET - now), "the own vote and the newer of two make a majority");
}

#[test]
fn who_has_not_granted_in_this_view_has_no_age() {
    let page = page();
    let at = active_bank(&page);
    page.set(at + bank::DATES + 1, FLOOR - 1);
    let facts = LeaseFacts::read(&page, 2_200 + OFFSET, &[(1, NodeId(2)), (2, NodeId(3)), (SLOTS, NodeId(4))]);
    assert_eq!(facts.others, [(NodeId(2), None), (NodeId(3), None), (NodeId(4), None)]);
    assert_eq!((facts.acting, facts.left), (Err(Refused::Expired), Duration::ZERO));
    page.set(word::GRANTING, 0);
    assert_eq!(LeaseFacts::read(&page, 2_200 + OFFSET, &[]).own, None);
    page.set(at + bank::OWN_DATE_NS, 2_150);
    assert_eq!(LeaseFacts::read(&page, 2_200 + OFFSET, &[]).own, Some(ns(50)), "dated by the clear");
}

#[test]
fn a_vote_alone_is_its_own_majority_while_it_stands_and_a_carry_counts() {
    let page = page();
    let at = active_bank(&page);
    page.set(at + bank::TOTAL_WEIGHT, 1);
    assert_eq!(LeaseFacts::read(&page, 2_200 + OFFSET, &[]).left, ns(ACT));
    page.set(word::GRANTING, 0);
    page.set(at + bank::CARRY_UNTIL_NS, 2_300 + OFFSET);
    assert_eq!(LeaseFacts::read(&page, 2_200 + OFFSET, &[]).left, ns(100));
}

proptest! {
    /// What is left ends exactly when the one judge says no, if nobody grants again.
    #[test]
    fn what_is_left_is_what_the_judge_will_say(
        one in 0_u64..3_000, two in 0_u64..3_000, carry in 0_u64..3_000, standing: bool, cleared in 0_u64..3_000,
        now in 1_000_u64..4_000,
    ) {
        let page = page();
        let at = active_bank(&page);
        page.set(at + bank::DATES + 1, one);
        page.set(at + bank::DATES + 2, two);
        page.set(at + bank::CARRY_UNTIL_NS, carry + OFFSET);
        page.set(at + bank::OWN_DATE_NS, cleared);
        page.set(word::GRANTING, if standing { MARK } else { 0 });
        let now = now + OFFSET;
        let facts = LeaseFacts::read(&page, now, &SLOT_NODES);
        prop_assert_eq!(facts.acting, lease::acting(&page, now));
        prop_assert_eq!(facts.left.is_zero(), facts.acting.is_err());
        if facts.acting.is_ok() {
            let end = now + u64::try_from(facts.left.as_nanos()).unwrap();
            // The own vote counts as granted now: it would be granted later too while it stands.
            if standing {
                page.set(word::GRANTING, 0);
                page.set(at + bank::OWN_DATE_NS, now - OFFSET);
            }
            prop_assert!(lease::acting(&page, end - 1).is_ok());
            prop_assert!(lease::acting(&page, end).is_err());
        }
    }
}
