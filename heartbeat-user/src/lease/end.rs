//! Until when a lease holds as its dates stand: what the holder sleeps for and people are shown. Whether a node may act
//! is judged elsewhere; this only looks ahead.

use heartbeat_common::lease::{SLOTS, Words, active_bank, bank, end_of, weight, word};

/// Returns the first moment, CLOCK_BOOTTIME ns, at which the active bank's dates and what is carried over from the view
/// before give no lease any more; `u64::MAX` if the own vote is a majority by itself and the kernel keeps the page. Reasons not to act that do not
/// come from dates are not looked at.
#[must_use]
pub fn end<W: Words>(page: &W) -> u64 {
    let bank = active_bank(page);
    let counted = |date: u64| date != 0 && date >= page.get(bank + bank::FLOOR_NS);
    let used = usize::try_from(page.get(bank + bank::SLOTS_USED)).unwrap_or(SLOTS).min(SLOTS);
    let mut votes: Vec<(u64, u64)> = (0..used)
        .map(|slot| (page.get(bank + bank::DATES + slot), weight(page, bank, slot)))
        .filter(|(date, _)| counted(*date))
        .map(|(date, weight)| (end_of(page, bank, date), weight))
        .collect();
    let (mark, own) = (page.get(bank + bank::OWN_MARK), page.get(bank + bank::OWN_DATE_NS));
    if mark != 0 && page.get(word::GRANTING) == mark {
        votes.push((u64::MAX, page.get(bank + bank::OWN_WEIGHT)));
    } else if mark != 0 && counted(own) {
        votes.push((end_of(page, bank, own), page.get(bank + bank::OWN_WEIGHT)));
    }
    votes.sort_unstable_by(|one, other| other.cmp(one));
    let total = page.get(bank + bank::TOTAL_WEIGHT);
    let mut sum = 0_u64;
    let granted = votes.into_iter().find_map(|(end, weight)| {
        sum = sum.saturating_add(weight);
        (sum.saturating_mul(2) > total).then_some(end)
    });
    let end = granted.unwrap_or(0).max(page.get(bank + bank::CARRY_UNTIL_NS));
    match page.get(word::LIVES_UNTIL) {
        0 => end,
        lives_until => end.min(lives_until),
    }
}
