use super::open::refuse_shifted;
use super::*;
use heartbeat_common::lease::{MAGIC, SLOTS, WORDS, Words, acting, active_bank, bank, word};
use proptest::prelude::*;
use std::cell::Cell;

struct Memory([Cell<u64>; WORDS]);

impl Words for Memory {
    fn get(&self, index: usize) -> u64 {
        self.0[index].get()
    }
    fn set(&self, index: usize, value: u64) {
        self.0[index].set(value);
    }
}

const TOKEN: Token = Token { order: 1 << 48 | 7, incarnation: 12 };

fn memory() -> Memory {
    let page = Memory([const { Cell::new(0) }; WORDS]);
    page.set(word::MAGIC, MAGIC);
    page.set(word::INCARNATION, TOKEN.incarnation);
    page.set(word::IN_FORCE, TOKEN.order);
    page.set(active_bank(&page) + bank::MEMBER, 1);
    page
}

proptest! {
    /// The end is the first moment that the judge refuses, whatever the dates and weights.
    #[test]
    fn the_end_is_where_the_judge_turns(
        votes in proptest::collection::vec((0u64..4, 0u64..300), 0..=SLOTS),
        own in (any::<bool>(), 0u64..3, 0u64..300),
        floor in 0u64..40,
        total in 1u64..40,
        carry in 0u64..700,
        lives_until in prop_oneof![Just(0u64), 1u64..700],
    ) {
        let page = memory();
        let at = active_bank(&page);
        let (granting, own_weight, own_date) = own;
        for (index, value) in [
            (bank::ACT_NS, 100),
            (bank::BOOT_OFFSET_NS, 200),
            (bank::FLOOR_NS, floor),
            (bank::TOTAL_WEIGHT, total),
            (bank::OWN_MARK, 5),
            (bank::OWN_WEIGHT, own_weight),
            (bank::OWN_DATE_NS, own_date),
            (bank::CARRY_UNTIL_NS, carry),
            (bank::SLOTS_USED, votes.len() as u64),
        ] {
            page.set(at + index, value);
        }
        page.set(word::GRANTING, if granting { 5 } else { 0 });
        page.set(word::LIVES_UNTIL, lives_until);
        for (slot, (weight, date)) in votes.iter().enumerate() {
            page.set(at + bank::DATES + slot, *date);
            let word = at + bank::WEIGHTS + slot / 8;
            page.set(word, page.get(word) | weight << (slot % 8 * 8));
        }
        let end = end(&page);
        prop_assert!(end == 0 || acting(&page, end - 1).is_ok(), "{end}");
        let over = if end == lives_until && end != 0 { Refused::Closed } else { Refused::Expired };
        prop_assert!(end == u64::MAX || acting(&page, end) == Err(over), "{end}");
    }

    #[test]
    fn no_page_makes_the_end_fail(words in proptest::collection::vec(any::<u64>(), WORDS)) {
        let page = Memory(std::array::from_fn(|index| Cell::new(words[index])));
        let _ = super::end(&page);
    }
}

const LOOK: u64 = 50_000_000;

#[test]
fn a_holder_is_ready_once_and_over_at_the_first_refusal() {
    let mut holder = Holder::default();
    assert_eq!(holder.step(Err(Refused::Nobody), 0, 1_000), Move::LookAt(1_000 + LOOK));
    assert_eq!(holder.step(Ok(TOKEN), u64::MAX, 2_000), Move::Ready(TOKEN));
    assert_eq!(holder.step(Ok(TOKEN), u64::MAX, 3_000), Move::LookAt(3_000 + LOOK), "a fence has no date");
    assert_eq!(holder.step(Ok(TOKEN), 3_500, 3_100), Move::LookAt(3_500), "the end of the lease is looked at when due");
    assert_eq!(holder.step(Ok(TOKEN), 3_000, 3_100), Move::LookAt(3_100), "it has just been renewed");
    let later = Token { order: TOKEN.order + 1, ..TOKEN };
    assert_eq!(holder.step(Ok(later), u64::MAX, 4_000), Move::LookAt(4_000 + LOOK), "a later view, the same life");
    for refused in [Refused::Expired, Refused::Fenced, Refused::Closed, Refused::Held(held::LEAVING)] {
        let ended = holder.clone().step(Err(refused), 0, 5_000);
        assert_eq!(ended, Move::Over(Ended::Refused(refused)));
    }
}

#[test]
fn a_holder_outlives_no_incarnation() {
    let mut holder = Holder::default();
    assert_eq!(holder.step(Ok(TOKEN), u64::MAX, 0), Move::Ready(TOKEN));
    let reborn = Token { incarnation: 13, ..TOKEN };
    assert_eq!(holder.step(Ok(reborn), u64::MAX, 0), Move::Over(Ended::Reborn(13)));
}

#[test]
fn a_page_that_is_over_is_opened_anew_only_before_it_is_held() {
    let mut holder = Holder::default();
    assert_eq!(holder.step(Err(Refused::Closed), 0, 0), Move::Reopen);
    assert_eq!(holder.step(Ok(TOKEN), 9, 0), Move::Ready(TOKEN));
    assert_eq!(holder.step(Err(Refused::Closed), 0, 0), Move::Over(Ended::Refused(Refused::Closed)));
}

#[test]
fn tokens_and_reasons_are_told() {
    assert_eq!(text(TOKEN), "1.7.12");
    assert_eq!(view_text(TOKEN), "1.7");
    assert_eq!(reason(Refused::Fenced), "this node was fenced");
    let both = reason(Refused::Held(held::DISK | held::LEAVING | 1 << 40));
    assert!(both.contains("disk state") && both.contains("leaving") && both.contains("later version"), "{both}");
}

#[test]
fn a_shifted_clock_is_refused() {
    let process = tempfile::tempdir().unwrap();
    let refused = |process: &tempfile::TempDir| refuse_shifted(process.path()).unwrap_err().to_string();
    assert!(refused(&process).contains("time namespace"), "no /proc: nobody can tell");
    std::fs::write(process.path().join("stat"), "").unwrap();
    refuse_shifted(process.path()).expect("a kernel without time namespaces");
    let offsets = process.path().join("timens_offsets");
    std::fs::write(&offsets, "monotonic           0         0\nboottime            0         0\n").unwrap();
    refuse_shifted(process.path()).unwrap();
    for line in ["boottime -5 0", "boottime 0 1", "monotonic 3 0"] {
        std::fs::write(&offsets, format!("monotonic 0 0\n{line}\n")).unwrap();
        assert!(refused(&process).contains(line), "{line}");
    }
}
