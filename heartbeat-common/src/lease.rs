//! The lease: whether this node may act, told by one page that kernel, controller and services share. It says what each
//! word means and judges the page in one pass; it reads no clock and no map by itself.
//!
//! The page holds two *banks*, each a whole description of one installed view. The controller writes the bank that is
//! not active and makes it active by one store; the kernel writes dates into the active one. So a controller that is
//! stopped anywhere leaves a whole page, and a reader needs no lock.
//!
//! A *date* is a stamp of this node's own CLOCK_MONOTONIC that a voter returned together with its grant: never a time of
//! receipt. The lease itself runs on CLOCK_BOOTTIME, by an offset that is fixed in the bank: the true offset only grows
//! (by sleeps), so no date is taken for later than it was.

mod control;

pub use control::{
    Bank, Remembered, Vote, begin, clear_grants, grant, install, is_of, remember_state, remember_vote, remembered,
    until,
};

use core::cell::Cell;

/// Words of the page.
pub const WORDS: usize = 512;
/// Bytes of the page.
pub const LEN: usize = WORDS * 8;
/// The first word: "HBLEASE2", little-endian. It changes with the layout.
pub const MAGIC: u64 = u64::from_le_bytes(*b"HBLEASE2");
/// Votes that a view may have: 64 nodes, the rest for witnesses.
pub const SLOTS: usize = 96;
/// Most nodes in a view; their slots come first.
pub const NODES_MAX: usize = 64;

/// Words of the header.
pub mod word {
    /// [`super::MAGIC`].
    pub const MAGIC: usize = 0;
    /// The incarnation that may act; 0: nobody. Written last of all at start.
    pub const INCARNATION: usize = 1;
    /// Highest incarnation of this node that was fenced: all not above it is over. Only grows.
    pub const FENCED: usize = 2;
    /// Mark of the view whose grants this vote gives; 0: none. Cleared by one store, before an acceptance is written.
    pub const GRANTING: usize = 3;
    /// How often a bank was made active; the lowest bit says which one is.
    pub const ACTIVE: usize = 4;
    /// Not 0: this page is over, another one has to be opened.
    pub const CLOSED: usize = 5;
    /// Order of the last view in force here, which tokens carry; 0: none, nobody acts.
    pub const IN_FORCE: usize = 6;
    /// Sequence of the newest durable state of the vote in [`VOTE`]: an older copy of the disk is told by it.
    pub const DISK_SEQUENCE: usize = 7;
    /// Mark of the last view whose grants were cleared: they are never given again.
    pub const CLEARED: usize = 8;
    /// Reasons of this node's own not to act ([`super::hold`]).
    pub const HOLD: usize = 9;
    /// Not 0: a peer returned a stamp of the future, so this memory is that of an older snapshot.
    pub const AHEAD: usize = 10;
    /// Boot id of the machine start that the page belongs to, two words.
    pub const BOOT: usize = 11;
    /// When the page is over unless its controller says otherwise before, CLOCK_BOOTTIME ns; 0: never. For a page that no
    /// kernel looks after: an own grant in it would stand for ever once its controller is gone.
    pub const LIVES_UNTIL: usize = 13;
    /// The vote whose state was last given to the disk in this machine start, two words; 0: none is remembered. A state of
    /// another one is from before that, however high its sequence.
    pub const VOTE: usize = 14;
    /// Where the two banks begin.
    pub const BANKS: usize = 16;
}

/// Words of a bank, from its beginning.
pub mod bank {
    use super::SLOTS;
    /// Order of the view.
    pub const ORDER: usize = 0;
    /// First word of its digest.
    pub const DIGEST: usize = 1;
    /// Length of the lease, ns.
    pub const LEASE_NS: usize = 2;
    /// The same less the time to stop what runs, ns: for so long a date allows to act.
    pub const ACT_NS: usize = 3;
    /// Older dates do not count, CLOCK_MONOTONIC ns.
    pub const FLOOR_NS: usize = 4;
    /// CLOCK_BOOTTIME less CLOCK_MONOTONIC as the bank was made, ns.
    pub const BOOT_OFFSET_NS: usize = 5;
    /// Until when the lease of the view before still holds, CLOCK_BOOTTIME ns.
    pub const CARRY_UNTIL_NS: usize = 6;
    /// What `GRANTING` is while the own vote grants in this view; never 0 in a bank with an own vote.
    pub const OWN_MARK: usize = 7;
    /// When the own grants were cleared, CLOCK_MONOTONIC ns; 0: they were not.
    pub const OWN_DATE_NS: usize = 8;
    /// All weights together.
    pub const TOTAL_WEIGHT: usize = 9;
    /// Weight of the own vote.
    pub const OWN_WEIGHT: usize = 10;
    /// Not 0: this incarnation is a member of the view.
    pub const MEMBER: usize = 11;
    /// Slots in use; at most [`SLOTS`].
    pub const SLOTS_USED: usize = 12;
    /// Weights of the slots, eight to a word.
    pub const WEIGHTS: usize = 16;
    /// The grant that each slot's vote gives this incarnation in this view; 0: none is expected.
    pub const EXPECTED: usize = WEIGHTS + SLOTS / 8;
    /// The newest date of each slot's vote, CLOCK_MONOTONIC ns; 0: none.
    pub const DATES: usize = EXPECTED + SLOTS;
    /// Words of a bank.
    pub const WORDS: usize = DATES + SLOTS;
}

const _: () = assert!(word::BANKS + 2 * bank::WORDS <= WORDS);

/// Bits of [`word::HOLD`].
pub mod hold {
    /// A clock of this node runs out of its bounds.
    pub const CLOCK: u64 = 1 << 0;
    /// The disk state is lost or forfeited.
    pub const DISK: u64 = 1 << 1;
    /// The node is leaving.
    pub const LEAVING: u64 = 1 << 2;
    /// The node was left out and stops what it runs.
    pub const STOPPING: u64 = 1 << 3;
    /// All of them.
    pub const ALL: u64 = CLOCK | DISK | LEAVING | STOPPING;
}

/// Access to the words of a page, wherever it is mapped. Every access is one of a whole word, `get` with acquire order
/// and `set` with release order where threads share the page. What is provided serves a page that one thread has alone;
/// where it is shared, `raise` and `clear` are atomic, and full barriers.
pub trait Words {
    /// Returns word `index`, which is below [`WORDS`].
    fn get(&self, index: usize) -> u64;
    /// Replaces word `index`, which is below [`WORDS`].
    fn set(&self, index: usize, value: u64);
    /// Raises word `index` to `value` unless it is as high. It may fail where others do the same all the time, so who
    /// depends on it reads again.
    fn raise(&self, index: usize, value: u64) {
        if value > self.get(index) {
            self.set(index, value);
        }
    }
    /// Makes word `index` 0.
    fn clear(&self, index: usize) {
        self.set(index, 0);
    }
}

/// A page in the memory of one thread.
impl Words for [Cell<u64>; WORDS] {
    #[inline(always)]
    fn get(&self, index: usize) -> u64 {
        self[index].get()
    }
    #[inline(always)]
    fn set(&self, index: usize, value: u64) {
        self[index].set(value);
    }
}

/// What an outward act carries: a receiver keeps the highest order seen and refuses lower ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token {
    /// The last view in force.
    pub order: u64,
    /// The incarnation that acts.
    pub incarnation: u64,
}

/// Why this node may not act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// This is no page of this layout.
    NoPage,
    /// The page is over: open the new one.
    Closed,
    /// No incarnation runs under it.
    Nobody,
    /// The incarnation was fenced.
    Fenced,
    /// Reasons of the node's own, as bits of [`hold`].
    Held(u64),
    /// Its memory is that of an older snapshot.
    Ahead,
    /// The incarnation is no member of the view installed here.
    NoMember,
    /// No view has come into force since it joined.
    NotInForce,
    /// Votes with a fresh date make no majority.
    Expired,
    /// The bank was replaced each time that it was read: ask again.
    Unsteady,
}

/// How often a page that changes under the reader is read again. Each change is a whole installation of a view.
const ATTEMPTS: usize = 4;

/// Returns where the active bank begins.
#[inline(always)]
pub fn active_bank<W: Words>(page: &W) -> usize {
    bank_of(page.get(word::ACTIVE))
}

#[inline(always)]
const fn bank_of(active: u64) -> usize {
    word::BANKS + (active & 1) as usize * bank::WORDS
}

/// Says whether this node may act at `now` (CLOCK_BOOTTIME ns), and under which token. It is the one judge: kernel,
/// controller and services ask it.
///
/// # Errors
/// Says why not; the first reason of those in [`Refused`]'s order.
pub fn acting<W: Words>(page: &W, now: u64) -> Result<Token, Refused> {
    for _ in 0..ATTEMPTS {
        let active = page.get(word::ACTIVE);
        let judged = judge(page, bank_of(active), now);
        if page.get(word::ACTIVE) == active {
            return judged;
        }
    }
    Err(Refused::Unsteady)
}

fn judge<W: Words>(page: &W, bank: usize, now: u64) -> Result<Token, Refused> {
    if page.get(word::MAGIC) != MAGIC {
        return Err(Refused::NoPage);
    }
    let lives_until = page.get(word::LIVES_UNTIL);
    if page.get(word::CLOSED) != 0 || lives_until != 0 && now >= lives_until {
        return Err(Refused::Closed);
    }
    let incarnation = page.get(word::INCARNATION);
    if incarnation == 0 {
        return Err(Refused::Nobody);
    }
    if page.get(word::FENCED) >= incarnation {
        return Err(Refused::Fenced);
    }
    let held = page.get(word::HOLD);
    if held != 0 {
        return Err(Refused::Held(held));
    }
    if page.get(word::AHEAD) != 0 {
        return Err(Refused::Ahead);
    }
    if page.get(bank + bank::MEMBER) == 0 {
        return Err(Refused::NoMember);
    }
    let order = page.get(word::IN_FORCE);
    if order == 0 {
        return Err(Refused::NotInForce);
    }
    let token = Token { order, incarnation };
    if now < page.get(bank + bank::CARRY_UNTIL_NS) || granted(page, bank, now) {
        Ok(token)
    } else {
        Err(Refused::Expired)
    }
}

/// Says whether the votes with a date within the lease make a majority: one pass, nothing sorted.
fn granted<W: Words>(page: &W, bank: usize, now: u64) -> bool {
    let used = page.get(bank + bank::SLOTS_USED);
    let used = if used > SLOTS as u64 { SLOTS } else { used as usize };
    let mut sum = if own_counts(page, bank, now) { page.get(bank + bank::OWN_WEIGHT) } else { 0 };
    let mut slot = 0;
    while slot < used {
        if counts(page, bank, page.get(bank + bank::DATES + slot), now) {
            sum = u64::saturating_add(sum, weight(page, bank, slot));
        }
        slot += 1;
    }
    sum.saturating_mul(2) > page.get(bank + bank::TOTAL_WEIGHT)
}

/// The own vote counts while its grant stands and, as any other vote's last grant would, for one lease after it was
/// cleared: the moment of the clear lies before the acceptance is written.
fn own_counts<W: Words>(page: &W, bank: usize, now: u64) -> bool {
    let mark = page.get(bank + bank::OWN_MARK);
    mark != 0 && (page.get(word::GRANTING) == mark || counts(page, bank, page.get(bank + bank::OWN_DATE_NS), now))
}

fn counts<W: Words>(page: &W, bank: usize, date: u64, now: u64) -> bool {
    date != 0 && date >= page.get(bank + bank::FLOOR_NS) && end_of(page, bank, date) > now
}

/// Returns until when a date of this bank counts, CLOCK_BOOTTIME ns.
#[must_use]
pub fn end_of<W: Words>(page: &W, bank: usize, date: u64) -> u64 {
    date.saturating_add(page.get(bank + bank::BOOT_OFFSET_NS)).saturating_add(page.get(bank + bank::ACT_NS))
}

/// Returns the weight of a slot below [`SLOTS`].
#[must_use]
pub fn weight<W: Words>(page: &W, bank: usize, slot: usize) -> u64 {
    page.get(bank + bank::WEIGHTS + slot / 8) >> (slot % 8 * 8) & 0xff
}

/// Renews the lease by what a frame at `now` brought: the grant that its author gave, and the own stamp that it
/// returned, both CLOCK_MONOTONIC ns. A grant that is not the one expected changes nothing.
#[inline(always)]
pub fn renew<W: Words>(page: &W, slot: usize, grant: u64, date: u64, now: u64) {
    if grant == 0 || slot >= SLOTS {
        return;
    }
    let bank = active_bank(page);
    if page.get(bank + bank::EXPECTED + slot) != grant {
        return;
    }
    if date > now {
        page.set(word::AHEAD, 1);
    } else if date > page.get(bank + bank::DATES + slot) {
        // Two CPUs may do so at once: what is lost is the newer date, and the lease is shorter for it, never longer.
        page.set(bank + bank::DATES + slot, date);
    }
}

/// Says whether an incarnation of this node was fenced: everything under it is over.
#[inline(always)]
pub fn fenced<W: Words>(page: &W, incarnation: u64) -> bool {
    page.get(word::FENCED) >= incarnation
}

/// Says whether the own vote grants under `mark` at this moment. Whoever sends a grant asks this after it has the stamp
/// that goes with it: the other way round, the last grant would date a newer stamp.
#[inline(always)]
pub fn grants<W: Words>(page: &W, mark: u64, incarnation: u64) -> bool {
    page.get(word::GRANTING) == mark && !fenced(page, incarnation)
}

#[cfg(test)]
mod tests;
