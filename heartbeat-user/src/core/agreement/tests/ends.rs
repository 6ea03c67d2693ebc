//! What a node remembers of others across views: as far as it is to be believed, and no longer than it is of use.

use super::world::World;
use crate::core::agreement::document::{Member, Quarantined};
use crate::core::agreement::ends::Ends;
use crate::core::agreement::message::Report;
use crate::core::agreement::stops::Clocks;
use crate::core::ids::NodeId;
use heartbeat_common::lease::SLOTS;
use heartbeat_common::view::VoteId;

const fn at(ms: u64) -> Clocks {
    Clocks { boot_ns: ms * 1_000_000, raw_ns: ms * 1_000_000 }
}

const fn vote(number: u64) -> VoteId {
    VoteId([number, 1])
}

#[test]
fn the_newest_state_of_a_vote_is_remembered_unless_nobody_could_have_come_so_far() {
    let mut ends = Ends::default();
    let news = [(vote(1), 5), (vote(1), 5), (vote(1), 4), (vote(1), 6), (vote(1), u64::MAX), (VoteId::NONE, 7)];
    assert_eq!(news.map(|(vote, sequence)| ends.remember(vote, sequence)), [true, false, false, true, false, false]);
    assert_eq!(ends.remembers(), [(vote(1), 6)]);
}

#[test]
fn no_more_votes_are_remembered_than_a_view_has() {
    let mut ends = Ends::default();
    let slots = SLOTS as u64;
    assert!((1..=slots).all(|number| ends.remember(vote(number), 1)));
    assert!(!ends.remember(vote(slots + 1), 1));
    assert!(ends.remember(vote(slots), 2), "of those that are there what is newer");
}

#[test]
fn another_quarantine_of_a_node_begins_anew() {
    let mut view = World::formed(3).view(1);
    view.quarantined = vec![Quarantined { node: NodeId(3), exits: 3 }];
    let mut ends = Ends::default();
    ends.quarantine(&view, at(1_000));
    let served = |ends: &Ends, view: &_| ends.served(view, at(5_000))[0].served_ms;
    assert_eq!(served(&ends, &view), 4_000);
    ends.quarantine(&view, at(3_000));
    assert_eq!(served(&ends, &view), 4_000, "the same goes on");
    let newest = view.admitted.iter_mut().find(|member| member.node == NodeId(3)).unwrap();
    *newest = Member { incarnation: newest.incarnation + 1, ..*newest };
    ends.quarantine(&view, at(3_000));
    assert_eq!(served(&ends, &view), 2_000);
}

/// What each of them remembers is told in its reports; nobody counts by what was heard last.
#[test]
fn of_ends_that_are_told_the_highest_number_counts() {
    let world = World::formed(3);
    let agreement = world.nodes[&1].agreement.as_ref().unwrap();
    let told = [2, 3, 1].map(|count| {
        let report = agreement.own_report();
        Report { ends: vec![(NodeId(3), count)], ..report }
    });
    assert_eq!(agreement.ends_told(told.iter())[&NodeId(3)], 3);
}
