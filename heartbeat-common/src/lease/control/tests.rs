extern crate std;

use super::*;
use crate::lease::{Refused, Token, acting, hold, renew};
use core::cell::Cell;
use proptest::prelude::*;
use std::vec::Vec;

type Page = [Cell<u64>; WORDS];

const BOOT: [u64; 2] = [3, 4];
const OFFSET: u64 = 10_000;

fn page() -> Page {
    let page = core::array::from_fn(|index| Cell::new(index as u64));
    begin(&page, 5, BOOT);
    page
}

/// A view of three: the own vote, and those of slots 1 and 2.
fn view(order: u64, floor_ns: u64) -> Bank {
    let mut bank = Bank {
        order,
        digest: order + 1,
        lease_ns: 500,
        act_ns: 400,
        floor_ns,
        boot_offset_ns: OFFSET,
        own_mark: order * 100,
        own_weight: 1,
        total_weight: 3,
        member: true,
        ..Bank::default()
    };
    bank.votes[1] = Vote { weight: 1, expected: order * 10 + 1 };
    bank.votes[2] = Vote { weight: 1, expected: order * 10 + 2 };
    bank
}

#[test]
fn a_new_incarnation_begins_with_an_empty_page() {
    let page = page();
    install(&page, &view(9, 0));
    assert!(grant(&page, 900));
    page.set(word::IN_FORCE, 9);
    page.set(word::HOLD, hold::DISK);
    page.set(word::CLOSED, 1);
    page.set(word::FENCED, 5);
    begin(&page, 6, BOOT);
    assert!(is_of(&page, 6, BOOT));
    let left: Vec<_> = (0..WORDS).filter(|index| page.get(*index) != 0).collect();
    assert_eq!(left, [word::MAGIC, word::INCARNATION, word::FENCED, word::BOOT, word::BOOT + 1]);
    assert_eq!(acting(&page, 1), Err(Refused::NoMember));
    // What stands in memory that never was a page says nothing of fences.
    page.set(word::MAGIC, 1);
    begin(&page, 7, BOOT);
    assert_eq!(page.get(word::FENCED), 0);
}

#[test]
fn what_is_remembered_of_the_disk_outlives_an_incarnation_and_no_machine_start() {
    let page = page();
    assert_eq!(remembered(&page, BOOT), Remembered::default());
    let (one, two) = (VoteId([1, 2]), VoteId([1, 3]));
    remember_vote(&page, one);
    remember_state(&page, 9);
    remember_state(&page, 7);
    assert_eq!(remembered(&page, BOOT), Remembered { vote: one, sequence: 9 });
    begin(&page, 6, BOOT);
    assert_eq!(remembered(&page, BOOT), Remembered { vote: one, sequence: 9 });
    remember_vote(&page, two);
    assert_eq!(remembered(&page, BOOT), Remembered { vote: two, sequence: 9 });
    assert_eq!(remembered(&page, [3, 5]), Remembered::default(), "another machine start");
    begin(&page, 7, [3, 5]);
    assert_eq!(remembered(&page, [3, 5]), Remembered::default());
    remember_vote(&page, one);
    page.set(word::MAGIC, MAGIC + 1);
    assert_eq!(remembered(&page, [3, 5]), Remembered::default(), "no page of this layout");
    begin(&page, 8, [3, 5]);
    assert_eq!(remembered(&page, [3, 5]), Remembered::default());
}

#[test]
fn a_page_is_kept_by_the_same_incarnation_of_the_same_boot_alone() {
    let page = page();
    assert!(is_of(&page, 5, BOOT));
    assert!(!is_of(&page, 6, BOOT) && !is_of(&page, 4, BOOT) && !is_of(&page, 5, [3, 5]) && !is_of(&page, 5, [2, 4]));
    page.set(word::CLOSED, 1);
    assert!(!is_of(&page, 5, BOOT));
    page.set(word::CLOSED, 0);
    page.set(word::MAGIC, MAGIC + 1);
    assert!(!is_of(&page, 5, BOOT));
}

#[test]
fn an_installed_view_is_the_one_that_counts() {
    let page = page();
    install(&page, &view(9, 1_000));
    page.set(word::IN_FORCE, 9);
    assert!(grant(&page, 900));
    renew(&page, 1, 91, 2_000, 2_010);
    assert_eq!(acting(&page, 2_010 + OFFSET), Ok(Token { order: 9, incarnation: 5 }));
    install(&page, &view(10, 2_500));
    assert_eq!(acting(&page, 2_010 + OFFSET), Err(Refused::Expired), "its dates are its own");
    renew(&page, 1, 91, 2_600, 2_610);
    assert_eq!(acting(&page, 2_610 + OFFSET), Err(Refused::Expired), "a grant of the view before");
    renew(&page, 1, 101, 2_600, 2_610);
    renew(&page, 2, 102, 2_600, 2_610);
    assert!(acting(&page, 2_610 + OFFSET).is_ok());
    // The bank of the first view is used again, and nothing of it is left.
    install(&page, &view(11, 3_000));
    assert_eq!(page.get(active_bank(&page) + bank::DATES + 1), 0);
    assert_eq!(page.get(word::ACTIVE), 3);
}

/// Stops the controller after each of its stores.
#[test]
fn a_controller_stopped_inside_an_install_keeps_a_whole_page() {
    struct Stopping<'a>(&'a Page, Cell<usize>);
    impl Words for Stopping<'_> {
        fn get(&self, index: usize) -> u64 {
            self.0.get(index)
        }
        fn set(&self, index: usize, value: u64) {
            if self.1.get() > 0 {
                self.1.set(self.1.get() - 1);
                self.0.set(index, value);
            }
        }
    }
    let whole = |page: &Page| {
        let at = active_bank(page);
        (0..bank::WORDS).map(|index| page.get(at + index)).collect::<Vec<_>>()
    };
    let fresh = page();
    install(&fresh, &view(10, 3_000));
    let fresh = whole(&fresh);
    let (mut before, mut after) = (0, 0);
    for stores in 0..400 {
        let page = page();
        install(&page, &view(9, 1_000));
        renew(&page, 1, 91, 2_000, 2_010);
        let old = whole(&page);
        install(&Stopping(&page, Cell::new(stores)), &view(10, 3_000));
        match whole(&page) {
            found if found == old => before += 1,
            found if found == fresh => after += 1,
            found => panic!("after {stores} stores: {found:?}"),
        }
    }
    assert!(before > 200 && after > 100, "{before} {after}");
}

#[test]
fn a_cleared_grant_is_never_given_again_for_that_view() {
    let page = page();
    install(&page, &view(9, 1_000));
    assert!(!grant(&page, 0) && !grant(&page, 901), "no grant but that of the view installed");
    assert!(grant(&page, 900));
    clear_grants(&page, 2_000);
    assert_eq!((page.get(word::GRANTING), page.get(word::CLEARED)), (0, 900));
    assert!(!grant(&page, 900));
    assert_eq!(page.get(word::GRANTING), 0);
    // Cleared again, it keeps the date of the first time.
    clear_grants(&page, 5_000);
    assert_eq!(page.get(active_bank(&page) + bank::OWN_DATE_NS), 2_000);
    install(&page, &view(10, 2_500));
    assert!(!grant(&page, 900) && grant(&page, 1_000));
}

#[test]
fn who_is_fenced_or_closed_grants_nothing() {
    for (index, value) in [(word::FENCED, 5), (word::FENCED, 6), (word::CLOSED, 1)] {
        let page = page();
        install(&page, &view(9, 1_000));
        page.set(index, value);
        assert!(!grant(&page, 900));
        assert_eq!(page.get(word::GRANTING), 0);
    }
}

/// The kernel obeys a fence just as the deciding thread raises the grants.
#[test]
fn a_fence_that_comes_between_takes_the_grant_back() {
    struct Fenced<'a>(&'a Page);
    impl Words for Fenced<'_> {
        fn get(&self, index: usize) -> u64 {
            self.0.get(index)
        }
        fn set(&self, index: usize, value: u64) {
            if index == word::GRANTING && value != 0 {
                self.0.raise(word::FENCED, 5);
                self.0.clear(word::GRANTING);
            }
            self.0.set(index, value);
        }
    }
    let page = page();
    install(&page, &view(9, 1_000));
    assert!(!grant(&Fenced(&page), 900));
    assert_eq!(page.get(word::GRANTING), 0);
}

/// The own vote is dated by a moment before the clear, and the clear comes before anything that its caller writes then.
#[test]
fn the_own_vote_is_dated_before_the_acceptance() {
    struct Recorded<'a>(&'a Page, std::cell::RefCell<Vec<usize>>);
    impl Words for Recorded<'_> {
        fn get(&self, index: usize) -> u64 {
            self.0.get(index)
        }
        fn set(&self, index: usize, value: u64) {
            self.1.borrow_mut().push(index);
            self.0.set(index, value);
        }
    }
    let page = page();
    install(&page, &view(9, 1_000));
    assert!(grant(&page, 900));
    let own_date = active_bank(&page) + bank::OWN_DATE_NS;
    let recorded = Recorded(&page, Vec::new().into());
    clear_grants(&recorded, 2_000);
    assert_eq!(*recorded.1.borrow(), [own_date, word::GRANTING, word::CLEARED]);
    assert_eq!(page.get(own_date), 2_000);
}

#[test]
fn a_lease_alone_with_its_vote_has_no_end_until_that_is_cleared() {
    let page = page();
    install(&page, &Bank { total_weight: 1, votes: [Vote::default(); SLOTS], ..view(9, 1_000) });
    assert_eq!(until(&page), 0);
    assert!(grant(&page, 900));
    assert_eq!(until(&page), u64::MAX);
    clear_grants(&page, 2_000);
    assert_eq!(until(&page), 2_000 + OFFSET + 400);
}

proptest! {
    /// The end that is computed is the end that the judge sees.
    #[test]
    fn the_lease_ends_when_it_is_said_to_end(
        votes in proptest::collection::vec((0u8..3, 0u64..4_000), 0..SLOTS),
        own in 0u64..3,
        own_date in 900u64..4_000,
    ) {
        let page = page();
        let mut bank = view(9, 1_000);
        bank.votes = [Vote::default(); SLOTS];
        bank.total_weight = 1;
        for (slot, (weight, _)) in votes.iter().enumerate() {
            bank.votes[slot] = Vote { weight: *weight, expected: slot as u64 + 1 };
            bank.total_weight += u32::from(*weight);
        }
        install(&page, &bank);
        page.set(word::IN_FORCE, 9);
        for (slot, (_, date)) in votes.iter().enumerate() {
            renew(&page, slot, slot as u64 + 1, *date, 5_000);
        }
        if own > 0 {
            prop_assert!(grant(&page, 900));
        }
        if own > 1 {
            clear_grants(&page, own_date);
        }
        let end = until(&page);
        let acts = |now| acting(&page, now).is_ok();
        if end != 0 {
            prop_assert!(acts(end - 1));
        }
        prop_assert!(end == u64::MAX || !acts(end));
        // Nor does it come back later.
        prop_assert!(end == u64::MAX || (0..10).all(|more| !acts(end + more * 500)));
    }
}
