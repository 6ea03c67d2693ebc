//! What the page of the lease says to people: who has granted when, and for how long that lasts. Whether this node may
//! act is judged by [`heartbeat_common::lease::acting`] alone; this adds dates and what is left.

use crate::core::ids::NodeId;
use heartbeat_common::lease::{self, Refused, SLOTS, Token, Words, bank, word};
use std::time::Duration;

/// What the page of the lease says at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseFacts {
    /// What acts carry now, or why there are none.
    pub acting: Result<Token, Refused>,
    /// For how long it may go on if nobody grants again; zero: it may not act.
    pub left: Duration,
    /// Age of the own vote's newest grant: zero while it stands; `None`: there is none in this view.
    pub own: Option<Duration>,
    /// The same of each other vote that a node holds, by this node's own stamp, in the order asked for.
    pub others: Vec<(NodeId, Option<Duration>)>,
}

/// One vote's last word in the active bank.
struct Granted {
    /// How long ago; `None`: never, or not in this view.
    ago_ns: Option<u64>,
    /// Until when it counts, CLOCK_BOOTTIME ns; zero where `ago_ns` is absent.
    end: u64,
    weight: u64,
}

impl LeaseFacts {
    /// Reads a page at `now` (CLOCK_BOOTTIME ns). `slots`: the place in the page of each peer that may vote, and which
    /// peer it is. A page that is replaced meanwhile may give dates of one view beside the judgement of the next.
    #[must_use]
    pub fn read<W: Words>(page: &W, now: u64, slots: &[(usize, NodeId)]) -> Self {
        let at = lease::active_bank(page);
        let used = usize::try_from(page.get(at + bank::SLOTS_USED)).unwrap_or(SLOTS).min(SLOTS);
        let other = |slot: usize| {
            if slot < used {
                granted(page, at, page.get(at + bank::DATES + slot), lease::weight(page, at, slot), now)
            } else {
                Granted { ago_ns: None, end: 0, weight: 0 }
            }
        };
        let ago = |granted: &Granted| granted.ago_ns.map(Duration::from_nanos);
        let others = slots.iter().map(|(slot, node)| (*node, ago(&other(*slot)))).collect();
        let own = own_vote(page, at, now);
        let own_ago = ago(&own);
        let majority = majority_end((0..used).map(other).chain([own]), page.get(at + bank::TOTAL_WEIGHT));
        let end = page.get(at + bank::CARRY_UNTIL_NS).max(majority);
        let acting = lease::acting(page, now);
        let left = if acting.is_ok() { Duration::from_nanos(end.saturating_sub(now)) } else { Duration::ZERO };
        Self { acting, left, own: own_ago, others }
    }
}

/// The own vote: its grant is of now while it stands.
fn own_vote<W: Words>(page: &W, at: usize, now: u64) -> Granted {
    let weight = page.get(at + bank::OWN_WEIGHT);
    let mark = page.get(at + bank::OWN_MARK);
    if mark != 0 && page.get(word::GRANTING) == mark {
        return Granted { ago_ns: Some(0), end: now.saturating_add(page.get(at + bank::ACT_NS)), weight };
    }
    let date = if mark == 0 { 0 } else { page.get(at + bank::OWN_DATE_NS) };
    granted(page, at, date, weight, now)
}

fn granted<W: Words>(page: &W, at: usize, date: u64, weight: u64, now: u64) -> Granted {
    if date == 0 || date < page.get(at + bank::FLOOR_NS) {
        return Granted { ago_ns: None, end: 0, weight };
    }
    let given = date.saturating_add(page.get(at + bank::BOOT_OFFSET_NS));
    Granted { ago_ns: Some(now.saturating_sub(given)), end: lease::end_of(page, at, date), weight }
}

/// Returns when the last majority of votes ends, if nobody grants again; zero: there is none.
fn majority_end(votes: impl Iterator<Item = Granted>, total: u64) -> u64 {
    let mut votes: Vec<Granted> = votes.filter(|vote| vote.ago_ns.is_some()).collect();
    votes.sort_by_key(|vote| std::cmp::Reverse(vote.end));
    let mut sum = 0_u64;
    for vote in &votes {
        sum = sum.saturating_add(vote.weight);
        if sum.saturating_mul(2) > total {
            return vote.end;
        }
    }
    0
}

#[cfg(test)]
mod tests;
