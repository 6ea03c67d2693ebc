//! What a start takes over: of the page that a controller before has left, of the disk, and what it says before it knows
//! more.

use super::*;
use crate::config::parse;
use crate::core::agreement::types::Standing;
use crate::core::time::MonoTime;
use crate::io::agreement::carry::announced;
use crate::io::disk::{self, Lost};
use heartbeat_common::frame::{STANDING_GATED, STANDING_VOTES, STANDING_WAITS};
use heartbeat_common::lease::{Bank, Vote, hold, remembered};
use heartbeat_common::view::Name;
use std::cell::Cell;

const MS: u64 = 1_000_000;

/// The page of a member of a view in force with two votes; the other one was heard at 10.1 s, and the lease has 500 ms.
fn page() -> [Cell<u64>; lease::WORDS] {
    let page: [Cell<u64>; lease::WORDS] = std::array::from_fn(|_| Cell::new(0));
    lease::begin(&page, 9, [1, 2]);
    let mut votes = [Vote::default(); lease::SLOTS];
    votes[1] = Vote { weight: 1, expected: 21 };
    let (lease_ns, act_ns, floor_ns) = (500 * MS, 500 * MS, 10_000 * MS);
    let bank = Bank { order: 1, digest: 33, lease_ns, act_ns, floor_ns, boot_offset_ns: 1_000 * MS, ..Bank::default() };
    lease::install(&page, &Bank { own_mark: 7, own_weight: 1, total_weight: 2, member: true, votes, ..bank });
    page.set(word::IN_FORCE, 1);
    assert!(lease::grant(&page, 7));
    lease::renew(&page, 1, 21, 10_100 * MS, 10_101 * MS);
    page
}

/// The host has slept for a second since it started.
fn at(ms: u64) -> Times {
    Times { mono: MonoTime(ms * MS), boot_ns: (ms + 1_000) * MS, raw_ns: ms * MS }
}

#[test]
fn who_acted_when_its_controller_last_ran_is_known_by_the_dates() {
    let page = page();
    let acting = |progress: u64| adopted(&page, at(12_000), progress * MS).acting;
    assert!(acting(10_599), "the lease ended without a controller");
    assert!(!acting(10_600) && !acting(11_000), "the controller before has told of its end");
    assert!(acting(0));
    page.set(word::HOLD, hold::LEAVING);
    assert!(!acting(10_599), "whoever left has ended it by itself");
    page.set(word::HOLD, 0);
    page.set(word::IN_FORCE, 0);
    assert!(!acting(10_599), "it never acted");
}

#[test]
fn a_lease_that_goes_on_is_taken_over() {
    assert!(adopted(&page(), at(10_300), 10_200 * MS).acting);
}

#[test]
fn a_page_is_taken_over_as_it_is() {
    let page = page();
    page.set(word::CLEARED, 5);
    let kept = Adopted { bank: (1, 33), in_force: Order(1), cleared: 5, member: true, slept: false, acting: true };
    assert_eq!(adopted(&page, at(10_300), 10_200 * MS), kept);
    assert_eq!(adopted(&page, at(10_300), u64::MAX), kept, "nobody has proved progress in time to come");
    let woken = Times { boot_ns: 11_800 * MS, ..at(10_300) };
    assert!(adopted(&page, woken, 10_200 * MS).slept, "since its bank was made");
    lease::install(&page, &Bank { order: 2, member: false, ..Bank::default() });
    let left = adopted(&page, at(10_300), 10_200 * MS);
    assert_eq!((left.bank, left.member, left.acting), ((2, 0), false, false));
}

#[test]
fn the_page_remembers_the_vote_that_is_on_disk_or_that_none_is() {
    let (state, fresh) = (disk::tests::state(), VoteId([3, 4]));
    let known = |page: &[Cell<u64>; lease::WORDS]| {
        let known = remembered(page, [1, 2]);
        (known.vote, known.sequence)
    };
    let began_with = page();
    remember(&began_with, Some(&state), fresh);
    assert_eq!(known(&began_with), (state.vote, state.sequence));
    remember(&began_with, None, fresh);
    assert_eq!(known(&began_with), (state.vote, state.sequence), "it was lost since, and another one is no news");
    let without = page();
    remember(&without, None, fresh);
    assert_eq!(known(&without), (fresh, 0), "none that is put back later is believed");
}

const EXAMPLE: &str = include_str!("../../../../../packaging/heartbeatd.toml");

/// Begins node 1 with this, by the example's configuration with so many nodes.
fn begun(nodes: usize, taken: TakenUp) -> Option<Begun> {
    let node = |id: usize| format!("[[node]]\nname = \"n{id}\"\nid = {id}\naddresses = [\"10.1.0.{id}\"]\n");
    let text = EXAMPLE.to_owned() + &(4..=nodes).map(node).collect::<String>();
    let config = parse("t.toml", text.as_bytes()).unwrap_or_else(|errors| panic!("{errors}"));
    let page = Page::private().unwrap();
    page.take_on(5, [1, 2], false);
    begin(Beginning {
        config: &config,
        own: Member { node: NodeId(1), incarnation: 5 },
        generation: 1,
        taken,
        remembered: Remembered { vote: VoteId([7, 7]), sequence: 9 },
        own_ends: 0,
        adopted: false,
        progress_ns: 0,
        join_only: false,
        page: &page,
    })
    .unwrap()
}

#[test]
fn a_start_says_of_its_view_what_is_known_and_claims_nothing() {
    let state = disk::tests::state();
    let said = begun(3, TakenUp::Resumed(Box::new(state.clone()))).unwrap().announced().unwrap();
    assert_eq!((said.order, said.digest), (state.installed.order.0, state.installed.name().digest[0]));
    assert_eq!(said.flags, STANDING_VOTES);
    assert_eq!(begun(3, TakenUp::Absent).unwrap().announced(), None);
}

#[test]
fn a_fresh_vote_begins_above_what_the_page_remembers() {
    let lost = TakenUp::Lost { why: Lost::Gone(9), aside: None };
    assert_eq!(begun(3, lost).unwrap().agreement.setup().remembered, 9);
}

#[test]
fn more_nodes_than_a_view_holds_have_no_agreement() {
    assert!(begun(64, TakenUp::Absent).is_some() && begun(65, TakenUp::Absent).is_none());
}

#[test]
fn frames_claim_that_what_runs_asks_its_page_only_where_it_does_and_stops_at_once() {
    let flags = |gated, stops_at_once, member| {
        let view = Name { order: Order(1), digest: [1; 4] };
        let standing = Standing { view, mark: 0, grants: Vec::new(), member, votes: true, stops_at_once };
        announced(&standing, gated).flags
    };
    assert_eq!(flags(true, true, true), STANDING_VOTES | STANDING_GATED);
    for (gated, stops_at_once) in [(true, false), (false, true), (false, false)] {
        assert_eq!(flags(gated, stops_at_once, true), STANDING_VOTES);
    }
    assert_eq!(flags(false, false, false), STANDING_VOTES | STANDING_WAITS);
}
