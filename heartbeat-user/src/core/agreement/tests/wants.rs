//! What is asked for: who asked learns what became of it, and nobody else waits for what may not be done, or cannot be.

use super::world::{DETECTION, World};
use crate::core::agreement::message::Setting;
use crate::core::agreement::types::{Outcome, Refusal, Request, Timing};
use crate::core::ids::NodeId;
use std::time::Duration;

#[test]
fn nobody_forces_who_hears_a_quorate_node_though_that_does_not_hear_it() {
    let mut world = World::formed(3);
    world.split(&[3]);
    world.run_until(5_000, |world| world.settled(2));
    // The others' frames arrive again, and nothing else does.
    world.deaf.retain(|(from, _)| *from == 3);
    world.run(100);
    world.request(3, 1, Request::Force);
    assert_eq!(world.outcome(3, 1), Some(Outcome::Refused(Refusal::QuorateHeard)));
    // Silent for the detection time they may be dead.
    world.split(&[3]);
    world.run(600);
    world.request(3, 2, Request::Force);
    assert_eq!(world.view(3).order.force(), 0, "it is not on disk yet");
    world.run(50);
    assert_eq!(world.view(3).order.force(), 1);
}

#[test]
fn nobody_forces_before_it_had_time_to_hear_a_quorate_node() {
    let mut world = World::formed(3);
    world.split(&[3]);
    world.run_until(5_000, |world| world.settled(2));
    let refused = |world: &World, number: u64| match world.outcome(3, number) {
        Some(Outcome::Refused(why)) => Some(why),
        _ => None,
    };
    // A controller that is new under the same incarnation knows no more than one of a new incarnation.
    for (number, reborn) in [(1, false), (3, true)] {
        if reborn {
            world.crash(3);
            world.start(3);
        } else {
            world.kill_controller(3);
            world.restart_controller(3);
        }
        world.run(DETECTION - 20);
        world.request(3, number, Request::Force);
        assert_eq!(refused(&world, number), Some(Refusal::PeersUnheard));
        assert_eq!(world.view(3).order.force(), 0);
    }
    // Nor may one that stood still: what it hears now it has not seen yet.
    world.run(50);
    world.stall(3, true);
    world.run(1_000);
    world.stall(3, false);
    world.request(3, 5, Request::Force);
    assert_eq!(refused(&world, 5), Some(Refusal::PeersUnheard));
    world.run(50);
    world.request(3, 6, Request::Force);
    world.run(50);
    assert_eq!(world.view(3).order.force(), 1);
}

#[test]
fn nobody_creates_a_cluster_who_hears_a_quorate_node_though_that_does_not_hear_it() {
    let mut world = World::new(3);
    world.start(1);
    world.start(2);
    world.request(1, 1, Request::Init { instance: [7, 7] });
    world.run_until(20_000, |world| world.settled(2));
    world.split(&[3]);
    world.deaf.retain(|(from, _)| *from == 3);
    world.start(3);
    world.request(3, 2, Request::Init { instance: [8, 8] });
    world.run_until(2_000, |world| world.outcome(3, 2).is_some());
    assert_eq!(world.outcome(3, 2), Some(Outcome::Refused(Refusal::PeerHasView)));
}

#[test]
fn a_cluster_that_nobody_could_speak_of_in_time_is_not_created_and_why_is_said() {
    let mut world = World::new(3);
    world.start(1);
    let setup = world.setup(1);
    let timing = Timing { detection: Duration::from_secs(20), ..setup.timing };
    let agreement = world.nodes.get_mut(&1).unwrap().agreement.as_mut().unwrap();
    agreement.reconfigure(setup.settings, timing, setup.quarantine);
    world.request(1, 1, Request::Init { instance: [7, 7] });
    world.run_until(11_000, |world| world.outcome(1, 1).is_some());
    assert_eq!(world.outcome(1, 1), Some(Outcome::Refused(Refusal::PeersUnheard)));
    world.run(9_500);
    world.request(1, 2, Request::Init { instance: [7, 7] });
    world.run_until(1_000, |world| world.life(1) == Some(crate::core::agreement::Life::Member));
}

/// The only vote that the one wish would leave is one that does not answer.
#[test]
fn a_wish_that_nobody_can_fulfil_now_holds_up_no_other() {
    let mut world = World::formed(3);
    world.request(2, 1, Request::Set(Setting::LowerPriority(Some(NodeId(3)))));
    world.run_until(3_000, |world| (1..=3).all(|node| world.view(node).quorum.lower_priority == Some(NodeId(3))));
    world.run(200);
    world.stall(1, true);
    world.run(500);
    world.request(2, 2, Request::Set(Setting::Weight(NodeId(2), 0)));
    world.run(500);
    world.request(3, 3, Request::Set(Setting::LeaseMs(700)));
    world.run_until(2_000, |world| world.view(2).lease.lease_ms == 700);
    assert_eq!(world.outcome(2, 2), None);
    world.stall(1, false);
    world.run_until(3_000, |world| matches!(world.outcome(2, 2), Some(Outcome::Decided(_))));
}

#[test]
fn a_change_that_would_leave_no_vote_is_refused_when_that_is_known() {
    let mut world = World::formed(3);
    world.crash(3);
    world.run_until(3_000, |world| world.settled(2));
    // Of the two votes each would leave the other; 3 keeps its own, and is no member.
    world.request(1, 1, Request::Set(Setting::Weight(NodeId(2), 0)));
    world.request(2, 2, Request::Set(Setting::Weight(NodeId(1), 0)));
    world.run_until(2_000, |world| world.outcome(1, 1).is_some() && world.outcome(2, 2).is_some());
    assert!(matches!(world.outcome(1, 1), Some(Outcome::Decided(_))));
    assert_eq!(world.outcome(2, 2), Some(Outcome::Refused(Refusal::NoVotes)));
    world.request(2, 3, Request::Set(Setting::Weight(NodeId(1), 0)));
    assert_eq!(world.outcome(2, 3), Some(Outcome::Refused(Refusal::NoVotes)));
    world.start(3);
    world.run_until(5_000, |world| world.settled(3));
    world.request(2, 4, Request::Set(Setting::Weight(NodeId(1), 0)));
    world.run_until(2_000, |world| matches!(world.outcome(2, 4), Some(Outcome::Decided(_))));
}

#[test]
fn a_request_is_answered_by_the_view_that_fulfils_it() {
    let mut world = World::formed(3);
    world.request(2, 7, Request::Set(Setting::LeaseMs(800)));
    world.run_until(2_000, |world| world.outcome(2, 7).is_some());
    assert_eq!(world.outcome(2, 7), Some(Outcome::Decided(world.view(2).order)));
    assert_eq!(world.view(1).lease.longest_ms, 800);
    world.request(2, 8, Request::Set(Setting::LeaseMs(800)));
    assert_eq!(world.outcome(2, 8), Some(Outcome::Done));
    world.request(2, 9, Request::Set(Setting::LeaseMs(200)));
    assert_eq!(world.outcome(2, 9), Some(Outcome::Refused(Refusal::Lease)));
    world.split(&[2]);
    world.run(1_000);
    world.request(2, 10, Request::Set(Setting::LeaseMs(900)));
    world.run(11_000);
    assert_eq!(world.outcome(2, 10), Some(Outcome::NoQuorum));
}

#[test]
fn what_makes_no_sense_is_refused_at_once_and_by_its_reason() {
    let mut world = World::formed(3);
    let mut number = 10;
    let mut refused = |world: &mut World, request| {
        number += 1;
        world.request(1, number, request);
        match world.outcome(1, number) {
            Some(Outcome::Refused(why)) => Some(why),
            _ => None,
        }
    };
    for (request, why) in [
        (Request::Fence(NodeId(1)), Refusal::UnknownNode),
        (Request::Fence(NodeId(9)), Refusal::UnknownNode),
        (Request::Set(Setting::LowerPriority(Some(NodeId(9)))), Refusal::UnknownNode),
        (Request::Set(Setting::Weight(NodeId(9), 1)), Refusal::UnknownNode),
        (Request::Set(Setting::Weight(NodeId(3), 2)), Refusal::NoVotes),
        (Request::Set(Setting::LeaseMs(u32::MAX)), Refusal::Lease),
    ] {
        assert_eq!(refused(&mut world, request.clone()), Some(why), "{request:?}");
    }
    world.run(2_000);
    assert!(world.settled(3));
}

#[test]
fn no_more_is_wished_at_once_than_a_report_holds() {
    let mut world = World::formed(3);
    world.split(&[3]);
    for number in 1..=17 {
        world.request(3, number, Request::Set(Setting::LeaseMs(600 + number as u32)));
    }
    assert_eq!((world.outcome(3, 16), world.outcome(3, 17)), (None, Some(Outcome::Refused(Refusal::Busy))));
}

#[test]
fn nobody_goes_on_by_force_who_leaves() {
    let mut world = World::formed(3);
    world.split(&[3]);
    world.run_until(5_000, |world| world.settled(2));
    world.request(3, 1, Request::Leave);
    world.request(3, 2, Request::Force);
    assert_eq!(world.outcome(3, 2), Some(Outcome::Refused(Refusal::Ending)));
}

/// What an earlier controller of the same incarnation was asked for may have been decided since.
#[test]
fn no_controller_uses_the_numbers_of_the_one_before() {
    let mut world = World::formed(3);
    world.split(&[3]);
    let mut wished = |number| {
        world.request(3, number, Request::Set(Setting::LeaseMs(700)));
        let wish = world.nodes[&3].agreement.as_ref().unwrap().own_report().wishes[0].id;
        world.restart_controller(3);
        wish
    };
    let (one, next) = (wished(1), wished(2));
    assert!(next.by == one.by && next.sequence > one.sequence, "{one:?} {next:?}");
}
