//! What is believed of one peer, by itself: under which incarnation, by which report, since when, and for how long.

use super::scene::says;
use crate::core::agreement::build::first;
use crate::core::agreement::document::{LeaseTerms, Member, QuorumTerms};
use crate::core::agreement::message::{Health, Report};
use crate::core::agreement::peer::{Peer, Tie};
use crate::core::agreement::types::{PeerFacts, Timing};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use heartbeat_common::view::VoteId;
use std::time::Duration;

/// How long messages may fail to pass.
const LIMIT: Duration = Duration::from_millis(1_000);
const DETECTION: Duration = Duration::from_millis(500);
const DELAY: Duration = Duration::from_millis(100);

const TIMING: Timing = Timing {
    tick: DELAY,
    opening: DETECTION,
    stage: DETECTION,
    pruning: DETECTION,
    control_limit: LIMIT,
    hang: Duration::from_secs(5),
    detection: DETECTION,
    delay: DELAY,
    leave: LIMIT,
};

const fn at(ms: u64) -> MonoTime {
    MonoTime(ms * 1_000_000)
}

const fn member(incarnation: u64) -> Member {
    Member { node: NodeId(2), incarnation }
}

fn peer() -> Peer {
    Peer::new(NodeId(2), at(0))
}

/// It is heard both ways since then, under this incarnation.
fn up(incarnation: u64, since: u64) -> PeerFacts {
    let (heard, both_ways_since) = (at(since), Some(at(since)));
    let facts = PeerFacts { incarnation, incarnation_since: heard, heard, both_ways_since, ..peer().facts };
    PeerFacts { health: Health::Up, ..facts }
}

fn report(incarnation: u64, serial: u64) -> Report {
    let lease = LeaseTerms { lease_ms: 500, stop_ms: 0, longest_ms: 500 };
    let quorum = QuorumTerms { dynamic: true, lower_priority: None };
    let view = first(member(incarnation), VoteId([1, 2]), [7, 7], lease, quorum);
    Report { serial, ..says(&view, member(incarnation), &[]) }
}

#[test]
fn a_newer_incarnation_inherits_nothing_but_what_was_acknowledged() {
    let mut peer = peer();
    peer.look(PeerFacts { fence_acked: 6, ..up(7, 100) }, at(100), &TIMING);
    assert!(peer.take(&report(7, 1)));
    assert!(!peer.messages_pass(Tie::Members, at(1_100), LIMIT));
    peer.look(up(8, 1_100), at(1_100), &TIMING);
    assert_eq!((peer.report.clone(), peer.facts.fence_acked), (None, 6));
    assert!(peer.messages_pass(Tie::Members, at(1_100), LIMIT), "it had no time yet to say anything");
    assert!(!peer.take(&report(7, 9)), "what the older one said comes late");
    let one_way = |incarnation| PeerFacts { both_ways_since: None, ..up(incarnation, 1_100) };
    for (incarnation, now, since) in [(8, 1_200, 1_200), (8, 1_300, 1_200), (9, 1_400, 1_400)] {
        peer.look(one_way(incarnation), at(now), &TIMING);
        assert_eq!(peer.apart_since, Some(at(since)), "at {now}");
    }
}

#[test]
fn the_newest_report_counts_and_none_behind_which_no_later_one_could_come() {
    let mut peer = peer();
    peer.look(up(7, 100), at(100), &TIMING);
    let mut taken = |serial| peer.take(&report(7, serial));
    assert_eq!([u64::MAX, 4, 4, 3, u64::MAX, 5].map(&mut taken), [false, true, false, false, false, true]);
    assert_eq!(peer.newest(), 7);
    assert!(peer.take(&report(9, 1)), "whom others have heard is not heard here yet");
    assert_eq!(peer.newest(), 9);
}

#[test]
fn who_fell_silent_or_left_says_of_quorum_nothing_any_more() {
    let mut peer = peer();
    let mut says = |health| {
        peer.look(PeerFacts { quorate: true, health, ..up(7, 100) }, at(100), &TIMING);
        peer.says_quorate()
    };
    assert_eq!([Health::Up, Health::Stalled, Health::Hung].map(&mut says), [true; 3]);
    assert_eq!([Health::Down, Health::Left, Health::GaveUp].map(&mut says), [false; 3]);
}

#[test]
fn an_older_incarnation_makes_two_of_a_node_only_if_it_is_heard_beside_the_newer() {
    let mut peer = peer();
    let mut older = |ms| {
        peer.look(PeerFacts { older_heard: at(ms), ..up(8, 1_000) }, at(1_200), &TIMING);
        [1_200, 1_650].map(|now| (peer.doubled(at(now), DETECTION), peer.ripened(at(now), DELAY)))
    };
    assert_eq!(older(990), [(false, true), (false, true)], "that was before");
    assert_eq!(older(1_150), [(true, false), (false, true)]);
    peer.look(PeerFacts { heard: MonoTime::ZERO, ..up(8, 1_000) }, at(1_200), &TIMING);
    assert!(!peer.ripened(at(1_600), DELAY), "known by its greeting alone");
}

#[test]
fn who_is_heard_has_longer_to_speak_of_a_cluster() {
    let mut peer = peer();
    let said = |peer: &Peer| [499, 500, 999, 1_000].map(|now| peer.said_all(at(now), DETECTION, LIMIT));
    assert_eq!(said(&peer), [false, true, true, true]);
    peer.look(up(7, 100), at(100), &TIMING);
    assert_eq!(said(&peer), [false, false, false, true]);
    assert!(peer.take(&report(7, 1)));
    assert_eq!(said(&peer), [true; 4]);
}

#[test]
fn a_controller_that_began_a_moment_ago_is_unsure_of_whom_it_hears_and_of_nobody_else() {
    let mut peer = peer();
    let mut edge = |facts, now| {
        peer.look(facts, at(now), &TIMING);
        let hears = peer.hears(Tie::Members, at(now), LIMIT, DETECTION);
        (hears.health, hears.both_ways_ms)
    };
    let one_way = PeerFacts { both_ways_since: None, ..up(7, 100) };
    assert_eq!(edge(one_way, 499), (Health::Unknown, 0), "it may not have asked yet");
    assert_eq!(edge(PeerFacts { health: Health::Stalled, ..one_way }, 499), (Health::Stalled, 0));
    assert_eq!(edge(up(7, 499), 499), (Health::Up, 1), "both ways, since just now");
    assert_eq!(edge(one_way, 500), (Health::Up, 0));
}

/// Each of its controllers has the time of one, as long as it may be that one of them speaks.
#[test]
fn controllers_that_only_begin_are_waited_for_as_long_as_one_that_hangs() {
    let mut peer = peer();
    let begins = |peer: &mut Peer, generation: u32, ms: u64| {
        peer.look(PeerFacts { generation, ..up(7, 100) }, at(ms), &TIMING);
        peer.messages_pass(Tie::Members, at(ms), LIMIT)
    };
    assert!((0..9).all(|one| begins(&mut peer, one, 100 + u64::from(one) * 600)));
    assert!(!begins(&mut peer, 9, 100 + 5_900), "none of them has spoken for too long");
    (peer.spoke_at, peer.message_at) = (at(6_000), at(6_000));
    assert!(begins(&mut peer, 10, 7_500) && begins(&mut peer, 11, 9_000), "one has, and others may be killed again");
}
