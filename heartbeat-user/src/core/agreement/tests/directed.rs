//! Rules whose breach only one schedule shows: each is played here, by itself.

use super::world::{LEASE, World};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::closing::join_fault;
use crate::core::agreement::document::Member;
use crate::core::agreement::event::JoinFault;
use crate::core::agreement::message::{Message, Report, Setting};
use crate::core::agreement::proposer::{Proposer, Stage};
use crate::core::agreement::stops::How;
use crate::core::agreement::types::{Ending, Outcome, Request};
use crate::core::agreement::voter::State;
use crate::core::ids::NodeId;
use heartbeat_common::acceptor::Promise;
use heartbeat_common::view::{Ballot, VoteId};

fn disk(world: &World, node: u16) -> State {
    borsh::from_slice(world.nodes[&node].disk.as_ref().expect("it has a disk")).unwrap()
}

/// Nobody has died, and the request was withdrawn: only that something was accepted asks for a decision.
#[test]
fn whoever_has_accepted_finishes_the_register() {
    let mut world = World::formed(3);
    let before = world.view(2).order;
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.lose = |message, _, to| {
        to == 3 && matches!(message, Message::Accept { .. })
            || matches!(message, Message::Accepted { .. } | Message::Decided(_))
    };
    world.run_until(3_000, |world| disk(world, 2).register.has_accepted());
    // Its answer is on its way yet.
    world.run(50);
    world.lose = |message, _, _| matches!(message, Message::Prepare { .. } | Message::Accept { .. });
    world.run(11_000);
    assert_eq!((world.outcome(1, 5), world.view(2).order), (Some(Outcome::NoQuorum), before));
    world.lose = |_, _, _| false;
    world.run_until(6_000, |world| [1, 2, 3].iter().all(|node| world.view(*node).lease.lease_ms == 700));
    assert_eq!(Some(world.view(2).order), before.next());
}

/// Two lives of one node may both find that no round was used: their attempts differ all the same.
#[test]
fn a_ballot_names_the_incarnation() {
    let mut world = World::formed(3);
    world.lose = |message, _, _| matches!(message, Message::Accept { .. });
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| disk(world, 1).register.promised != Ballot::NONE);
    let promised = disk(&world, 1).register.promised;
    assert_eq!((promised.node, promised.incarnation), (1, world.nodes[&1].incarnation));
}

#[test]
fn an_empty_disk_begins_with_a_vote_of_its_own() {
    let mut world = World::formed(3);
    let old = disk(&world, 3).vote;
    world.crash(3);
    world.lose_disk(3);
    world.start(3);
    world.run_until(2_000, |world| world.nodes[&3].disk.is_some());
    let (vote, view) = (disk(&world, 3).vote, world.view(3));
    assert!(vote != old && vote.is_vote());
    assert_eq!((view.weight_of(old), view.weight_of(vote)), (1, 0), "the view that it fetched names the old one");
}

/// Its kernel obeyed, and its controller is not there to say that what it ran has stopped: that may run to the end of the
/// lease.
#[test]
fn an_acknowledged_fence_proves_nothing_where_the_kernel_does_not_gate() {
    let mut world = World::formed(3);
    let victim = world.member(3);
    world.stall(3, true);
    world.run_until(20_000, |world| world.members(1) == [1, 2]);
    let (decided, view) = (world.now, world.view(1).order);
    let acknowledged = AgreementEvent::FenceAcknowledged { victim, gated: false };
    world.run_until(LEASE / 2, |world| world.nodes[&1].events.contains(&acknowledged));
    while world.now < decided + LEASE {
        assert_ne!(world.nodes[&1].kernel.in_force, view, "{} ms after the decision", world.now - decided);
        world.run(10);
    }
    world.run_until(100, |world| world.nodes[&1].kernel.in_force == view);
    assert!(world.nodes[&1].events.contains(&AgreementEvent::KnownStopped { member: victim, how: How::Waited }));
}

/// The vote alone that the next view would have is one that does not answer: nobody could go on from there.
#[test]
fn no_reconfiguration_before_the_new_votes_hold_the_view() {
    let mut world = World::formed(3);
    world.request(2, 1, Request::Set(Setting::LowerPriority(Some(NodeId(3)))));
    world.run_until(3_000, |world| (1..=3).all(|node| world.view(node).quorum.lower_priority == Some(NodeId(3))));
    world.run(200);
    let before = world.view(2).order;
    world.stall(1, true);
    world.run(500);
    // Of the votes of 1 and 3, which remain, that of 3 goes first: the vote of 1 alone would decide.
    world.request(2, 2, Request::Set(Setting::Weight(NodeId(2), 0)));
    world.run(3_000);
    assert_eq!((world.view(2).order, world.view(3).order), (before, before));
    world.stall(1, false);
    world.run_until(3_000, |world| world.view(2).order > before);
    assert_eq!(world.view(2).votes.iter().map(|vote| vote.weight).collect::<Vec<_>>(), [1, 0, 0]);
}

#[test]
fn an_older_copy_of_the_disk_has_no_vote() {
    let mut world = World::formed(3);
    let copy = world.nodes[&3].disk.clone();
    let view = world.view(3).order;
    // The others make it promise something that the copy does not know, upon the same view.
    world.lose = |message, _, _| matches!(message, Message::Accept { .. });
    world.request(1, 5, Request::Set(Setting::LeaseMs(700)));
    world.run_until(3_000, |world| disk(world, 3).register.promised != Ballot::NONE);
    world.run(1_000);
    world.crash(3);
    let this = world.nodes.get_mut(&3).unwrap();
    this.disk = copy;
    this.events.clear();
    world.start(3);
    world.run_until(8_000, |world| world.nodes[&3].ended == Some(Ending::Forfeited));
    assert_eq!(disk(&world, 3).installed.order, view);
    let told = |event: &AgreementEvent| matches!(event, AgreementEvent::OlderState { .. });
    assert!(world.nodes[&3].events.iter().any(told));
    assert!(world.nodes[&3].events.contains(&AgreementEvent::VoteForfeited));
}

fn report(author: Member, settings: u64) -> Report {
    Report {
        author,
        serial: 1,
        turn: 1,
        view: heartbeat_common::view::Name::NONE,
        vote: VoteId([3, 3]),
        sequence: 1,
        accepted: Ballot::NONE,
        round: 0,
        settings,
        leaving: false,
        cannot_apply: false,
        joins: true,
        hears: Vec::new(),
        stopped: Vec::new(),
        ends: Vec::new(),
        wishes: Vec::new(),
        remembers: Vec::new(),
    }
}

#[test]
fn an_incarnation_that_was_left_out_is_refused_for_good() {
    let mut world = World::formed(3);
    let old = world.member(3);
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2]);
    for lease_ms in [600, 700] {
        let view = world.view(1);
        assert_eq!(view.admitted_of(NodeId(3)), old.incarnation, "it never shrinks");
        let refused = |incarnation| join_fault(&view, &report(Member { incarnation, ..old }, 5), 5);
        assert_eq!(refused(old.incarnation - 1), Some(JoinFault::LeftOut));
        assert_eq!(refused(old.incarnation), Some(JoinFault::LeftOut));
        assert_eq!(refused(old.incarnation + 1), None);
        world.request(1, u64::from(lease_ms), Request::Set(Setting::LeaseMs(lease_ms)));
        world.run_until(3_000, |world| world.view(1).lease.lease_ms == lease_ms);
    }
}

#[test]
fn half_of_the_votes_is_no_majority() {
    let mut view = World::formed(3).view(1);
    view.votes.truncate(2);
    assert_eq!((view.total_weight(), view.is_majority(1), view.is_majority(2)), (2, false, true));
    let ballot = Ballot { round: 1, node: 1, incarnation: 10 };
    let own = view.votes[0].id;
    let mut attempt = Proposer::begin(&view, ballot, own);
    let nothing = Promise { accepted: Ballot::NONE, value: [0; 4] };
    attempt.promised(view.name(), ballot, own, &nothing, None);
    assert_eq!(attempt.stage(), &Stage::Asking);
    attempt.promised(view.name(), ballot, view.votes[1].id, &nothing, None);
    assert_eq!(attempt.stage(), &Stage::Choosing);
}
