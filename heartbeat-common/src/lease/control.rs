//! The controller's side of the page: what it writes, in which order. Every function leaves a whole page wherever it is
//! stopped. It decides nothing about views and reads no clock.

use super::{MAGIC, SLOTS, WORDS, Words, active_bank, bank, bank_of, counts, end_of, fenced, weight, word};
use crate::view::VoteId;

/// One vote of a view, other than the own one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Vote {
    /// Its weight; 0: it does not count.
    pub weight: u8,
    /// The grant that it gives the own incarnation in this view; 0: none is expected.
    pub expected: u64,
}

/// An installed view, as a bank tells it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Bank {
    /// Order of the view.
    pub order: u64,
    /// First word of its digest.
    pub digest: u64,
    /// Length of the lease, ns.
    pub lease_ns: u64,
    /// The same less the time to stop what runs, ns.
    pub act_ns: u64,
    /// Older dates do not count, CLOCK_MONOTONIC ns: the moment of the installation, or of the end of a sleep.
    pub floor_ns: u64,
    /// CLOCK_BOOTTIME less CLOCK_MONOTONIC, the latter read after the former, ns.
    pub boot_offset_ns: u64,
    /// Until when the lease of the view before still holds, CLOCK_BOOTTIME ns; see [`until`].
    pub carry_until_ns: u64,
    /// Mark of the own vote's grants in this view; 0: there is no own vote in it.
    pub own_mark: u64,
    /// Weight of the own vote.
    pub own_weight: u8,
    /// All weights of the view together, also of votes that have no slot here.
    pub total_weight: u32,
    /// Whether this incarnation is a member.
    pub member: bool,
    /// The other votes, by slot.
    pub votes: [Vote; SLOTS],
}

impl Default for Bank {
    fn default() -> Self {
        Self {
            order: 0,
            digest: 0,
            lease_ns: 0,
            act_ns: 0,
            floor_ns: 0,
            boot_offset_ns: 0,
            carry_until_ns: 0,
            own_mark: 0,
            own_weight: 0,
            total_weight: 0,
            member: false,
            votes: [Vote::default(); SLOTS],
        }
    }
}

/// What a page remembers of the state on this node's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Remembered {
    /// The vote whose state was last given to the disk; none: of no vote is that known.
    pub vote: VoteId,
    /// Sequence of the newest state that is known to have been on disk; 0: none is.
    pub sequence: u64,
}

/// Begins the page of a new incarnation. Nothing of an older one is left in it, but for how far it was fenced, and what is
/// remembered of the disk in this machine start: who is killed right after this must find that again.
pub fn begin<W: Words>(page: &W, incarnation: u64, boot: [u64; 2]) {
    // Nobody acts from here on, until the incarnation is there.
    page.clear(word::INCARNATION);
    page.clear(word::GRANTING);
    let known = page.get(word::MAGIC) == MAGIC;
    let of_this_boot = known && is_of_boot(page, boot);
    let disk = [word::DISK_SEQUENCE, word::VOTE, word::VOTE + 1];
    for index in 0..WORDS {
        let stays = known && index == word::FENCED || of_this_boot && disk.contains(&index);
        if !stays {
            page.set(index, 0);
        }
    }
    page.set(word::BOOT, boot[0]);
    page.set(word::BOOT + 1, boot[1]);
    page.set(word::MAGIC, MAGIC);
    page.set(word::INCARNATION, incarnation);
}

/// Says whether the page is that of this very incarnation in this machine start: only then is its lease kept.
pub fn is_of<W: Words>(page: &W, incarnation: u64, boot: [u64; 2]) -> bool {
    page.get(word::MAGIC) == MAGIC
        && page.get(word::INCARNATION) == incarnation
        && is_of_boot(page, boot)
        && page.get(word::CLOSED) == 0
}

fn is_of_boot<W: Words>(page: &W, boot: [u64; 2]) -> bool {
    [page.get(word::BOOT), page.get(word::BOOT + 1)] == boot
}

/// Returns what the page remembers of the disk; nothing, if it is of another machine start: the disk may have been put back
/// in between by whoever had the right to.
#[must_use]
pub fn remembered<W: Words>(page: &W, boot: [u64; 2]) -> Remembered {
    if page.get(word::MAGIC) != MAGIC || !is_of_boot(page, boot) {
        return Remembered::default();
    }
    let vote = VoteId([page.get(word::VOTE), page.get(word::VOTE + 1)]);
    Remembered { vote, sequence: page.get(word::DISK_SEQUENCE) }
}

/// Remembers the vote whose states go to disk from here on: before the first of them does, so that none of an earlier vote
/// passes for newer. Whoever is killed between the two words leaves a vote that nobody has, and loses the own one by that.
pub fn remember_vote<W: Words>(page: &W, vote: VoteId) {
    for (index, half) in vote.0.into_iter().enumerate() {
        if page.get(word::VOTE + index) != half {
            page.set(word::VOTE + index, half);
        }
    }
}

/// Remembers that a state of this sequence is on disk, or was.
pub fn remember_state<W: Words>(page: &W, sequence: u64) {
    page.raise(word::DISK_SEQUENCE, sequence);
}

/// Makes a view the one that counts: writes the bank that is not active, and then makes it active by one store.
pub fn install<W: Words>(page: &W, view: &Bank) {
    let next = page.get(word::ACTIVE).wrapping_add(1);
    let at = bank_of(next);
    let used = view.votes.iter().rposition(|vote| vote.weight != 0).map_or(0, |last| last + 1);
    let words = [
        (bank::ORDER, view.order),
        (bank::DIGEST, view.digest),
        (bank::LEASE_NS, view.lease_ns),
        (bank::ACT_NS, view.act_ns),
        (bank::FLOOR_NS, view.floor_ns),
        (bank::BOOT_OFFSET_NS, view.boot_offset_ns),
        (bank::CARRY_UNTIL_NS, view.carry_until_ns),
        (bank::OWN_MARK, view.own_mark),
        (bank::OWN_DATE_NS, 0),
        (bank::TOTAL_WEIGHT, u64::from(view.total_weight)),
        (bank::OWN_WEIGHT, u64::from(view.own_weight)),
        (bank::MEMBER, u64::from(view.member)),
        (bank::SLOTS_USED, used as u64),
    ];
    for (index, value) in words {
        page.set(at + index, value);
    }
    for (index, votes) in view.votes.chunks(8).enumerate() {
        let weights = votes.iter().rev().fold(0, |word, vote| word << 8 | u64::from(vote.weight));
        page.set(at + bank::WEIGHTS + index, weights);
    }
    for (slot, vote) in view.votes.iter().enumerate() {
        page.set(at + bank::EXPECTED + slot, vote.expected);
        page.set(at + bank::DATES + slot, 0);
    }
    page.set(word::ACTIVE, next);
}

/// Clears all grants of the own vote, at once and for good in this view. `now` is CLOCK_MONOTONIC ns, read before: until
/// then the own vote counts as any other vote's last grant would. Whatever is written to disk after this call was
/// written after the clear.
pub fn clear_grants<W: Words>(page: &W, now: u64) {
    let mark = page.get(word::GRANTING);
    if mark == 0 {
        return;
    }
    let bank = active_bank(page);
    if page.get(bank + bank::OWN_MARK) == mark {
        page.set(bank + bank::OWN_DATE_NS, now);
    }
    page.clear(word::GRANTING);
    page.set(word::CLEARED, mark);
}

/// Lets the own vote grant in the view of the active bank. Refused, and false, if that is not the view of `mark`, its
/// grants were cleared before, or this incarnation is over.
pub fn grant<W: Words>(page: &W, mark: u64) -> bool {
    let incarnation = page.get(word::INCARNATION);
    let over = || page.get(word::CLOSED) != 0 || fenced(page, incarnation);
    let fits = mark != 0 && page.get(active_bank(page) + bank::OWN_MARK) == mark && page.get(word::CLEARED) != mark;
    if !fits || over() {
        return false;
    }
    page.set(word::GRANTING, mark);
    // The kernel may have been fenced meanwhile, and its clear have come before this store.
    if over() {
        page.clear(word::GRANTING);
        return false;
    }
    true
}

/// Returns until when the lease of the active bank holds if no vote is heard of any more, CLOCK_BOOTTIME ns; 0: it does
/// not. An own vote that grants has no end by itself: alone with a majority, the lease has none (`u64::MAX`). What the
/// view before left over is not in it, and neither is any other reason not to act.
pub fn until<W: Words>(page: &W) -> u64 {
    let bank = active_bank(page);
    let used = (page.get(bank + bank::SLOTS_USED) as usize).min(SLOTS);
    let own = own_end(page, bank);
    let end = |slot: usize| {
        let date = page.get(bank + bank::DATES + slot);
        if counts(page, bank, date, 0) { end_of(page, bank, date) } else { 0 }
    };
    // The latest of the ends until which a majority holds.
    let holds = |until: u64| {
        let votes = (0..used).filter(|slot| end(*slot) >= until).map(|slot| weight(page, bank, slot));
        let own = if own >= until { page.get(bank + bank::OWN_WEIGHT) } else { 0 };
        let sum = votes.fold(own, u64::saturating_add);
        sum.saturating_mul(2) > page.get(bank + bank::TOTAL_WEIGHT)
    };
    (0..used).map(end).chain([own]).filter(|until| *until != 0 && holds(*until)).max().unwrap_or(0)
}

fn own_end<W: Words>(page: &W, bank: usize) -> u64 {
    let mark = page.get(bank + bank::OWN_MARK);
    let date = page.get(bank + bank::OWN_DATE_NS);
    if mark != 0 && page.get(word::GRANTING) == mark {
        u64::MAX
    } else if mark != 0 && counts(page, bank, date, 0) {
        end_of(page, bank, date)
    } else {
        0
    }
}

#[cfg(test)]
mod tests;
