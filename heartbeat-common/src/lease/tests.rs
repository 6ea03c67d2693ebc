use super::*;
use proptest::prelude::*;

type Page = [Cell<u64>; WORDS];

const ACT: u64 = 400;
const OFFSET: u64 = 10_000;
const FLOOR: u64 = 1_000;
const MARK: u64 = 77;

/// Three votes of weight one: the own one, and slots 1 and 2. Nothing is dated.
fn page() -> Page {
    let page = [const { Cell::new(0) }; WORDS];
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
    let bank = active_bank(&page);
    for (index, value) in [
        (bank::ORDER, 9),
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
        page.set(bank + index, value);
    }
    page
}

const TOKEN: Token = Token { order: 9, incarnation: 5 };

#[test]
fn a_majority_of_fresh_dates_holds_until_the_newest_is_one_lease_old() {
    let page = page();
    assert_eq!(acting(&page, FLOOR + OFFSET), Err(Refused::Expired));
    renew(&page, 1, 501, 2_000, 2_010);
    assert_eq!(acting(&page, 2_010 + OFFSET), Ok(TOKEN));
    assert_eq!(acting(&page, 2_000 + ACT - 1 + OFFSET), Ok(TOKEN));
    assert_eq!(acting(&page, 2_000 + ACT + OFFSET), Err(Refused::Expired));
}

#[test]
fn only_the_expected_grant_renews_and_no_date_goes_back() {
    let page = page();
    let bank = active_bank(&page);
    for (slot, grant) in [(1, 502), (1, 0), (0, 501), (3, 501), (SLOTS, 501)] {
        renew(&page, slot, grant, 2_000, 2_010);
    }
    assert!((0..SLOTS).all(|slot| page.get(bank + bank::DATES + slot) == 0));
    renew(&page, 1, 501, 2_000, 2_010);
    renew(&page, 1, 501, 1_900, 2_020);
    assert_eq!(page.get(bank + bank::DATES + 1), 2_000);
    assert_eq!(page.get(word::AHEAD), 0);
}

#[test]
fn a_stamp_of_the_future_ends_all_acts() {
    let page = page();
    renew(&page, 1, 501, 2_000, 2_010);
    renew(&page, 2, 999, 9_000, 2_010);
    assert_eq!(acting(&page, 2_010 + OFFSET), Ok(TOKEN), "a grant that is not expected says nothing");
    renew(&page, 2, 502, 9_000, 2_010);
    assert_eq!(acting(&page, 2_010 + OFFSET), Err(Refused::Ahead));
}

#[test]
fn the_own_vote_counts_while_granting_and_for_one_lease_after_the_clear() {
    let page = page();
    let bank = active_bank(&page);
    renew(&page, 1, 501, 2_000, 2_010);
    page.set(word::GRANTING, 0);
    assert_eq!(acting(&page, 2_010 + OFFSET), Err(Refused::Expired));
    page.set(bank + bank::OWN_DATE_NS, 1_900);
    assert_eq!(acting(&page, 1_900 + ACT - 1 + OFFSET), Ok(TOKEN));
    assert_eq!(acting(&page, 1_900 + ACT + OFFSET), Err(Refused::Expired));
    // A bank without an own vote has no mark, and "granting nothing" must not pass for it.
    page.set(bank + bank::OWN_MARK, 0);
    assert_eq!(acting(&page, 2_010 + OFFSET), Err(Refused::Expired));
}

#[test]
fn a_page_that_no_kernel_keeps_ends_with_its_controller() {
    let page = page();
    // Alone with the vote: no date ends this lease.
    page.set(active_bank(&page) + bank::TOTAL_WEIGHT, 1);
    assert_eq!(acting(&page, u64::MAX), Ok(TOKEN));
    page.set(word::LIVES_UNTIL, 30_000);
    assert_eq!(acting(&page, 29_999), Ok(TOKEN));
    assert_eq!(acting(&page, 30_000), Err(Refused::Closed));
    begin(&page, 6, [1, 2]);
    assert_eq!(page.get(word::LIVES_UNTIL), 0);
}

#[test]
fn a_lease_of_the_view_before_is_carried_over() {
    let page = page();
    page.set(active_bank(&page) + bank::CARRY_UNTIL_NS, 50_000);
    assert_eq!(acting(&page, 49_999), Ok(TOKEN));
    assert_eq!(acting(&page, 50_000), Err(Refused::Expired));
}

#[test]
fn each_reason_not_to_act_is_told_and_outweighs_a_valid_lease() {
    let cases: [(usize, u64, Refused); 8] = [
        (word::MAGIC, 1, Refused::NoPage),
        (word::CLOSED, 1, Refused::Closed),
        (word::INCARNATION, 0, Refused::Nobody),
        (word::FENCED, 5, Refused::Fenced),
        (word::HOLD, hold::DISK, Refused::Held(hold::DISK)),
        (word::AHEAD, 1, Refused::Ahead),
        (word::BANKS + bank::MEMBER, 0, Refused::NoMember),
        (word::IN_FORCE, 0, Refused::NotInForce),
    ];
    for (index, value, reason) in cases {
        let page = page();
        renew(&page, 1, 501, 2_000, 2_010);
        assert_eq!(acting(&page, 2_010 + OFFSET), Ok(TOKEN));
        page.set(index, value);
        assert_eq!(acting(&page, 2_010 + OFFSET), Err(reason));
    }
}

#[test]
fn dates_below_the_floor_do_not_count() {
    let page = page();
    renew(&page, 1, 501, FLOOR - 1, 2_010);
    assert_eq!(acting(&page, FLOOR + OFFSET), Err(Refused::Expired));
    renew(&page, 1, 501, FLOOR, 2_010);
    assert_eq!(acting(&page, FLOOR + OFFSET), Ok(TOKEN));
}

#[test]
fn the_other_bank_is_not_looked_at() {
    let page = page();
    renew(&page, 1, 501, 2_000, 2_010);
    page.set(word::ACTIVE, 7);
    assert_eq!(acting(&page, 2_010 + OFFSET), Err(Refused::NoMember));
    renew(&page, 1, 501, 2_005, 2_010);
    assert_eq!(page.get(word::BANKS + bank::DATES + 1), 2_000);
}

/// The lease as it is defined: the dates sorted, the newest that a majority has.
fn defined(weights: &[u8], dates: &[u64], own: bool, now: u64) -> bool {
    let fresh: u64 = weights
        .iter()
        .zip(dates)
        .filter(|(_, date)| **date >= FLOOR && **date + OFFSET + ACT > now)
        .map(|(weight, _)| u64::from(*weight))
        .sum();
    let total: u64 = 1 + weights.iter().map(|weight| u64::from(*weight)).sum::<u64>();
    2 * (fresh + u64::from(own)) > total
}

proptest! {
    #[test]
    fn the_pass_is_the_definition(
        votes in proptest::collection::vec((0u8..3, 0u64..4_000), 0..SLOTS),
        own in any::<bool>(),
        now in 0u64..5_000,
    ) {
        let page = page();
        let bank = active_bank(&page);
        let (weights, dates): (std::vec::Vec<u8>, std::vec::Vec<u64>) = votes.into_iter().unzip();
        page.set(bank + bank::SLOTS_USED, weights.len() as u64);
        for index in 0..SLOTS / 8 {
            let word = (0..8).map(|byte| u64::from(*weights.get(index * 8 + byte).unwrap_or(&9)) << (8 * byte)).sum();
            page.set(bank + bank::WEIGHTS + index, word);
        }
        for (slot, date) in dates.iter().enumerate() {
            page.set(bank + bank::DATES + slot, *date);
        }
        page.set(bank + bank::TOTAL_WEIGHT, 1 + weights.iter().map(|weight| u64::from(*weight)).sum::<u64>());
        page.set(word::GRANTING, if own { MARK } else { 0 });
        let acts = acting(&page, now + OFFSET).is_ok();
        prop_assert_eq!(acts, defined(&weights, &dates, own, now + OFFSET));
    }

    /// Whatever stands in the page, judging it ends and says something.
    #[test]
    fn no_page_can_do_harm(words in proptest::collection::vec(any::<u64>(), WORDS), now in any::<u64>()) {
        let page: Page = core::array::from_fn(|index| Cell::new(words[index]));
        let _ = acting(&page, now);
        page.set(word::MAGIC, MAGIC);
        let _ = acting(&page, now);
        renew(&page, 3, words[9], words[10], now);
    }
}
