//! Each proof by itself, and that nothing else is one.

use super::*;
use crate::core::agreement::document::{LeaseTerms, Owed, QuorumTerms, SCHEMA};
use heartbeat_common::view::Order;

const fn member(node: u16, incarnation: u64) -> Member {
    Member { node: NodeId(node), incarnation }
}

const B: Member = member(2, 20);
const C: Member = member(3, 30);

/// A view that owes these.
fn view(number: u64, owed: &[Member], longest_ms: u32, stop_ms: u32) -> Document {
    let order = Order::new(0, number).unwrap();
    Document {
        schema: SCHEMA,
        instance: [1, 2],
        order,
        parent: [0; 4],
        members: vec![member(1, 10)],
        votes: Vec::new(),
        admitted: Vec::new(),
        owed: owed.iter().map(|member| Owed { member: *member, left_out_by: order }).collect(),
        lease: LeaseTerms { lease_ms: 500, stop_ms, longest_ms },
        quorum: QuorumTerms { dynamic: true, lower_priority: None },
        quarantined: Vec::new(),
        removals: Vec::new(),
        change: None,
        witness: Vec::new(),
        settings: Vec::new(),
    }
}

const fn at(ms: u64) -> Clocks {
    Clocks { boot_ns: ms * 1_000_000, raw_ns: ms * 1_000_000 }
}

fn owing(owed: &[Member]) -> Stops {
    let mut stops = Stops::default();
    stops.install(&view(2, owed, 500, 100), Duration::ZERO, at(1_000));
    stops
}

#[test]
fn the_wait_is_the_longest_lease_and_the_drift_of_two_clocks_on_both_clocks() {
    let mut stops = owing(&[B]);
    assert_eq!(stops.advance(at(1_500)), []);
    assert!(!stops.in_force());
    // A host that slept has not waited: the other clock stood still.
    assert_eq!(stops.advance(Clocks { boot_ns: at(9_000).boot_ns, raw_ns: at(1_100).raw_ns }), []);
    assert_eq!(stops.advance(Clocks { boot_ns: at(1_100).boot_ns, raw_ns: at(9_000).raw_ns }), []);
    assert_eq!(stops.advance(at(1_501)), [(B, How::Waited)]);
    assert!(stops.in_force());
    assert_eq!(stops.advance(at(1_502)), [], "told once");
}

#[test]
fn an_owed_wait_is_kept_across_views_and_grows_with_the_lease() {
    let mut stops = owing(&[B]);
    stops.install(&view(3, &[B, C], 500, 100), Duration::ZERO, at(1_400));
    assert_eq!(stops.advance(at(1_501)), [(B, How::Waited)]);
    assert_eq!(stops.waited_for().collect::<Vec<_>>(), [C]);
    assert_eq!(stops.advance(at(1_901)), [(C, How::Waited)]);
    let mut stops = owing(&[B]);
    stops.install(&view(3, &[B], 2_000, 100), Duration::ZERO, at(1_400));
    assert_eq!(stops.advance(at(3_002)), []);
    assert_eq!(stops.advance(at(3_003)), [(B, How::Waited)]);
    // A shorter lease shortens no wait that was begun.
    let mut stops = Stops::default();
    stops.install(&view(2, &[B], 2_000, 100), Duration::ZERO, at(1_000));
    stops.install(&view(3, &[B], 500, 100), Duration::ZERO, at(1_100));
    assert_eq!(stops.advance(at(2_999)), []);
}

#[test]
fn what_itself_said_and_what_a_member_tells_are_proof_for_that_incarnation_alone() {
    let mut stops = owing(&[B, C]);
    stops.said(member(2, 21));
    stops.told(member(3, 29));
    assert_eq!(stops.known().count(), 0);
    stops.said(B);
    stops.told(C);
    assert_eq!(stops.known().collect::<Vec<_>>(), [(B, How::Said), (C, How::Told)]);
    assert!(stops.in_force());
}

#[test]
fn a_newer_incarnation_proves_the_older_and_not_itself() {
    let mut stops = owing(&[B]);
    stops.restarted(NodeId(2), 20);
    stops.restarted(NodeId(3), 99);
    assert!(!stops.in_force());
    stops.restarted(NodeId(2), 21);
    assert_eq!(stops.known().collect::<Vec<_>>(), [(B, How::Restarted)]);
}

#[test]
fn an_obeyed_fence_is_proof_for_all_up_to_the_incarnation_fenced() {
    let mut stops = owing(&[B, C]);
    stops.fenced(NodeId(2), 19);
    assert_eq!(stops.known().count(), 0, "an older incarnation was fenced");
    stops.fenced(NodeId(2), 20);
    assert_eq!(stops.known().collect::<Vec<_>>(), [(B, How::Fenced)]);
    stops.fenced(NodeId(3), 31);
    assert_eq!(stops.known().collect::<Vec<_>>(), [(B, How::Fenced), (C, How::Fenced)]);
}

#[test]
fn what_a_slewed_clock_may_add_is_waited_for_as_well() {
    let mut stops = Stops::default();
    stops.install(&view(2, &[B], 500, 0), Duration::from_millis(5), at(1_000));
    assert_eq!(stops.advance(at(1_505)), []);
    assert_eq!(stops.remaining(at(1_505)), Some(Duration::from_millis(1)));
    assert_eq!(stops.advance(at(1_506)), [(B, How::Waited)]);
}

#[test]
fn who_is_owed_no_more_is_forgotten() {
    let mut stops = owing(&[B, C]);
    stops.install(&view(3, &[], 500, 100), Duration::ZERO, at(1_100));
    assert!(stops.in_force());
    assert_eq!(stops.known().count(), 0);
}

#[test]
fn what_was_waited_for_can_be_proved_and_a_proof_stays() {
    let mut stops = owing(&[B]);
    stops.advance(at(9_000));
    stops.said(B);
    assert_eq!(stops.known().collect::<Vec<_>>(), [(B, How::Said)]);
    stops.told(B);
    assert_eq!(stops.known().collect::<Vec<_>>(), [(B, How::Said)]);
}

#[test]
fn a_wait_has_room_for_a_clock_that_is_slewed_until_its_owner_sees_it() {
    let windows = SLEW_WINDOW.as_nanos() * 2 * u128::from(SLEW_PPM) / 1_000_000;
    assert_eq!(slack(Duration::ZERO).as_nanos(), windows);
    assert_eq!(slack(Duration::from_millis(100)).as_nanos(), windows + 5_000_000);
}
