//! Whether messages pass: between members they do until they have failed to, and whoever comes has to show it; a
//! controller that never had the time to speak has failed at nothing.

use super::world::World;
use crate::core::agreement::document::Reason;
use crate::core::agreement::message::{Health, Setting};
use crate::core::agreement::peer::{Peer, Tie};
use crate::core::agreement::types::Request;
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use std::time::Duration;

/// A service manager that starts a controller again and again has each killed before it can say a word.
#[test]
fn a_controller_that_is_killed_again_and_again_lost_no_messages() {
    let mut world = World::formed(3);
    world.run(1_000);
    // Three times the control limit; none of them lives for as long as a message takes.
    for _ in 0..30 {
        world.kill_controller(3);
        world.run(90);
        world.mute.extend([(3, 1), (3, 2)]);
        world.restart_controller(3);
        world.run(10);
    }
    world.mute.clear();
    for node in [1, 2] {
        assert_eq!(world.members(node), [1, 2, 3], "{}", world.describe());
    }
    world.run_until(3_000, |world| world.settled(3));
}

/// A node that only ever begins is as much use as one that hangs.
#[test]
fn a_node_whose_controllers_never_speak_goes_once_one_would_have_hung() {
    let mut world = World::formed(3);
    world.run(1_000);
    world.mute.extend([(3, 1), (3, 2)]);
    for lives in 0..40 {
        world.kill_controller(3);
        world.run(20);
        world.restart_controller(3);
        world.run(680);
        let gone = world.members(1) == [1, 2];
        assert!(!gone || lives >= 13, "gone after {lives} lives");
        if gone {
            return;
        }
    }
    panic!("{}", world.describe());
}

/// One controller that runs and cannot speak is another matter.
#[test]
fn one_that_goes_on_and_is_not_heard_of_goes_for_its_messages() {
    let mut world = World::formed(3);
    world.run(1_000);
    world.mute.extend([(3, 1), (3, 2)]);
    world.run_until(4_000, |world| world.members(1) == [1, 2]);
    let view = world.view(1);
    let removal = view.removals.iter().find(|removal| removal.member.node.0 == 3).unwrap();
    assert_eq!(removal.reason, Reason::NoMessages);
}

#[test]
fn a_member_that_stands_still_and_cannot_speak_keeps_nobody_out() {
    let mut world = World::formed(3);
    world.stall_limit = 100;
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
    // One vote decides, whoever stands still.
    world.request(1, 5, Request::Set(Setting::Weight(NodeId(2), 0)));
    world.run_until(3_000, |world| world.outcome(1, 5).is_some());
    world.stall(2, true);
    world.start(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2, 3]);
}

/// Who joins and stood still before it spoke is no better known for that.
#[test]
fn only_a_member_may_be_silent_because_it_stands_still() {
    let (limit, now) = (Duration::from_secs(1), MonoTime(5_000_000_000));
    let mut peer = Peer::new(NodeId(3), MonoTime::ZERO);
    (peer.facts.incarnation, peer.message_at) = (20, now);
    let passes =
        |peer: &Peer| [Tie::Members, Tie::Joining, Tie::Strangers].map(|tie| peer.messages_pass(tie, now, limit));
    peer.facts.health = Health::Stalled;
    assert_eq!(passes(&peer), [true, true, false]);
    peer.facts.health = Health::Up;
    assert_eq!(passes(&peer), [true, false, false]);
    peer.spoke_as = 10;
    assert_eq!(passes(&peer), [true, false, false], "an older incarnation of it did");
    peer.spoke_as = 20;
    assert_eq!(passes(&peer), [true; 3]);
    peer.message_at = MonoTime(4_000_000_000);
    assert_eq!(passes(&peer), [false; 3], "too long ago");
}

/// It comes back as a newer incarnation, of which nobody has missed a message yet. That lets nobody in.
#[test]
fn whoever_comes_shows_each_member_that_messages_pass_both_ways() {
    let (one, two) = ((3, 2), (2, 3));
    for lost in [one, two] {
        let mut world = World::formed(3);
        world.crash(3);
        world.run_until(3_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
        world.mute.insert(lost);
        world.start(3);
        for _ in 0..400 {
            world.run(10);
            assert_eq!(world.members(1), [1, 2], "{lost:?}: {}", world.describe());
        }
        world.mute.clear();
        world.run_until(5_000, |world| world.settled(3));
    }
}
