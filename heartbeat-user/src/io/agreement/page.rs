//! Turns the core's description of an installed view into the page's. It reads no clock and decides nothing.

use crate::core::agreement::types::{Bank, Times};
use crate::core::ids::NodeId;
use crate::core::time::nanos;
use heartbeat_common::lease::{self, SLOTS, Vote, Words, bank};
use std::collections::BTreeMap;

/// Makes `view` the active bank of the page. `slots`: the place of each node's vote; `now` was read before.
pub fn install<W: Words>(page: &W, view: &Bank, slots: &BTreeMap<NodeId, usize>, now: Times) {
    let mut votes = [Vote::default(); SLOTS];
    for slot in &view.slots {
        // A vote without a place is never heard; it counts in the total all the same.
        if let Some(vote) = slots.get(&slot.node).and_then(|place| votes.get_mut(*place)) {
            *vote = Vote { weight: slot.weight, expected: slot.expected };
        }
    }
    lease::install(
        page,
        &lease::Bank {
            order: view.view.order.0,
            digest: view.view.digest[0],
            lease_ns: nanos(view.lease),
            act_ns: nanos(view.act),
            floor_ns: now.mono.0,
            boot_offset_ns: now.boot_ns.saturating_sub(now.mono.0),
            carry_until_ns: if view.carry { carried(page, view, now) } else { 0 },
            own_mark: view.own_mark,
            own_weight: view.own_weight,
            total_weight: view.total_weight,
            member: view.member,
            votes,
        },
    );
}

/// Returns until when the lease holds by the dates of the active bank, or held, and by what the view before left over,
/// CLOCK_BOOTTIME ns; 0: there was none.
pub fn lease_until<W: Words>(page: &W) -> u64 {
    page.get(lease::active_bank(page) + bank::CARRY_UNTIL_NS).max(lease::until(page))
}

/// Until when the lease of the active bank goes on by what it holds now: a grant of the own that still stands ends with
/// this installation. What runs on by it may be given more time to stop by `view` than by the one before: it has to begin
/// so much sooner, for others wait for no more than the lease.
fn carried<W: Words>(page: &W, view: &Bank, now: Times) -> u64 {
    let active = lease::active_bank(page);
    let act = page.get(active + bank::ACT_NS);
    let longest = now.boot_ns.saturating_add(act);
    let until = page.get(active + bank::CARRY_UNTIL_NS).max(lease::until(page)).min(longest);
    let stop = nanos(view.lease.saturating_sub(view.act));
    let before = page.get(active + bank::LEASE_NS).saturating_sub(act);
    until.saturating_sub(stop.saturating_sub(before))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::agreement::types::Slot;
    use crate::core::time::MonoTime;
    use heartbeat_common::lease::word;
    use heartbeat_common::view::{Name, Order};
    use std::cell::Cell;
    use std::time::Duration;

    struct Plain(Vec<Cell<u64>>);

    impl Words for Plain {
        fn get(&self, index: usize) -> u64 {
            self.0[index].get()
        }
        fn set(&self, index: usize, value: u64) {
            self.0[index].set(value);
        }
        fn raise(&self, index: usize, value: u64) {
            self.0[index].set(self.0[index].get().max(value));
        }
        fn clear(&self, index: usize) {
            self.0[index].set(0);
        }
    }

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Times {
        // The host has slept for a second since it started.
        Times { mono: MonoTime(ms * MS), boot_ns: (ms + 1_000) * MS, raw_ns: ms * MS }
    }

    fn view(number: u64, carry: bool) -> Bank {
        Bank {
            view: Name { order: Order::new(0, number).unwrap(), digest: [number; 4] },
            lease: Duration::from_millis(500),
            act: Duration::from_millis(400),
            own_mark: number,
            own_weight: 1,
            total_weight: 3,
            member: true,
            carry,
            slots: vec![
                Slot { node: NodeId(2), weight: 1, expected: 20 + number },
                Slot { node: NodeId(3), weight: 1, expected: 30 + number },
            ],
        }
    }

    fn page() -> (Plain, BTreeMap<NodeId, usize>) {
        let page = Plain((0..lease::WORDS).map(|_| Cell::new(0)).collect());
        lease::begin(&page, 9, [1, 2]);
        (page, [(NodeId(1), 0), (NodeId(2), 1), (NodeId(3), 2)].into())
    }

    fn acts(page: &Plain, ms: u64) -> bool {
        lease::acting(page, at(ms).boot_ns).is_ok()
    }

    #[test]
    fn a_lease_goes_on_across_a_view_for_as_long_as_its_dates_allow() {
        let (page, slots) = page();
        install(&page, &view(1, false), &slots, at(10_000));
        page.set(word::IN_FORCE, 1);
        assert!(!acts(&page, 10_000));
        assert!(lease::grant(&page, 1));
        lease::renew(&page, 1, 21, 10_050 * MS, 10_060 * MS);
        assert!(acts(&page, 10_449) && !acts(&page, 10_450));
        page.clear(word::GRANTING);
        page.set(lease::active_bank(&page) + bank::OWN_DATE_NS, 10_100 * MS);
        install(&page, &view(2, true), &slots, at(10_200));
        assert!(acts(&page, 10_449), "the other's date is the older of the two that make a majority");
        assert!(!acts(&page, 10_450));
        install(&page, &view(3, false), &slots, at(10_300));
        assert!(!acts(&page, 10_301), "nothing is left to one that was no member");
    }

    #[test]
    fn a_lease_that_goes_on_ends_sooner_by_the_time_to_stop_that_is_added() {
        for (act, end) in [(300, 10_350), (400, 10_450), (500, 10_450)] {
            let (page, slots) = page();
            install(&page, &view(1, false), &slots, at(10_000));
            page.set(word::IN_FORCE, 1);
            assert!(lease::grant(&page, 1));
            lease::renew(&page, 1, 21, 10_050 * MS, 10_060 * MS);
            let next = Bank { act: Duration::from_millis(act), ..view(2, true) };
            install(&page, &next, &slots, at(10_200));
            assert!(acts(&page, end - 1) && !acts(&page, end), "with {} ms to stop", 500 - act);
        }
    }

    #[test]
    fn an_own_grant_that_stands_ends_one_lease_after_the_installation() {
        let (page, slots) = page();
        let alone = Bank { total_weight: 1, slots: Vec::new(), ..view(1, false) };
        install(&page, &alone, &slots, at(10_000));
        page.set(word::IN_FORCE, 1);
        assert!(lease::grant(&page, 1));
        assert!(acts(&page, 900_000), "alone with the vote there is no end");
        install(&page, &view(2, true), &slots, at(900_000));
        assert!(acts(&page, 900_399) && !acts(&page, 900_400));
    }

    #[test]
    fn stamps_from_before_the_installation_count_nothing() {
        let (page, slots) = page();
        install(&page, &view(1, false), &slots, at(10_000));
        page.set(word::IN_FORCE, 1);
        assert!(lease::grant(&page, 1));
        lease::renew(&page, 1, 21, 9_999 * MS, 10_001 * MS);
        assert!(!acts(&page, 10_001));
        lease::renew(&page, 2, 31, 10_000 * MS, 10_001 * MS);
        assert!(acts(&page, 10_001));
    }
}
