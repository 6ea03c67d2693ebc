//! What is told: to whom, once, in view order, and true.

use super::world::World;
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::document::{Member, Reason};
use crate::core::agreement::event::Grounds;
use crate::core::agreement::types::Request;
use crate::core::ids::NodeId;
use heartbeat_common::view::Order;

/// Every 1135 that a node told: the view, who, and why.
fn removals(world: &World, at: u16) -> Vec<(Order, Member, Option<Grounds>)> {
    let removal = |event: &AgreementEvent| match event {
        AgreementEvent::NodeRemoved { view, member, grounds } => Some((*view, *member, grounds.clone())),
        _ => None,
    };
    world.nodes[&at].events.iter().filter_map(removal).collect()
}

fn nodes(nodes: &[NodeId]) -> Vec<u16> {
    nodes.iter().map(|node| node.0).collect()
}

/// Node 2 has no part in the view any more, so places in the view are not places in the configuration.
#[test]
fn judges_are_named_by_the_view_and_not_by_the_configuration() {
    let mut world = World::formed(4);
    world.crash(2);
    world.run_until(3_000, |world| world.members(1) == [1, 3, 4]);
    world.crash(4);
    world.run_until(3_000, |world| world.members(1) == [1, 3] && world.members(3) == [1, 3]);
    for at in [1, 3] {
        let (_, member, grounds) = removals(&world, at).pop().unwrap();
        let grounds = grounds.unwrap();
        assert_eq!((member.node.0, grounds.reason), (4, Reason::Down));
        assert_eq!((nodes(&grounds.judges), nodes(&grounds.others)), (vec![1, 3], vec![]));
    }
}

/// Node 4 is cut off from node 1 alone: 2 and 3 hear it, and agree to go on without it.
#[test]
fn whoever_only_agrees_to_a_view_is_no_judge() {
    let mut world = World::formed(4);
    world.deaf.extend([(1, 4), (4, 1)]);
    world.mute.extend([(1, 4), (4, 1)]);
    world.run_until(5_000, |world| [1, 2, 3].iter().all(|node| world.members(*node) == [1, 2, 3]));
    let (_, member, grounds) = removals(&world, 2).pop().unwrap();
    let grounds = grounds.unwrap();
    assert_eq!((member.node.0, grounds.reason), (4, Reason::NotConnected));
    assert_eq!((nodes(&grounds.judges), nodes(&grounds.others)), (vec![1], vec![2, 3]));
}

/// Node 4's controller has just begun and cannot say who is up; node 3 is removed by the word of an operator.
#[test]
fn an_operators_word_has_no_judges() {
    let mut world = World::formed(3);
    world.request(1, 5, Request::Fence(NodeId(3)));
    world.run_until(3_000, |world| world.members(2) == [1, 2]);
    let (_, _, grounds) = removals(&world, 2).pop().unwrap();
    let grounds = grounds.unwrap();
    assert_eq!((grounds.reason, nodes(&grounds.judges)), (Reason::Fenced, vec![]));
}

/// Node 5 stands still while the others lose two members by two views.
#[test]
fn a_node_that_skips_views_tells_each_of_their_removals_once() {
    let mut world = World::formed(5);
    let (first, second) = (world.member(3), world.member(4));
    let before = world.view(5).order;
    world.run(1_000);
    world.nodes.get_mut(&5).unwrap().events.clear();
    world.stall(5, true);
    world.gated = false;
    world.no_fences = true;
    world.crash(3);
    world.run_until(3_000, |world| world.members(1) == [1, 2, 4, 5]);
    let view = world.view(1).order;
    world.crash(4);
    world.run_until(3_000, |world| world.members(1) == [1, 2, 5]);
    let newest = world.view(1).order;
    assert!(view > before && newest > view);
    world.stall(5, false);
    world.run_until(3_000, |world| world.view(5).order >= newest);
    world.run(2_000);
    let told: Vec<_> =
        removals(&world, 5).into_iter().map(|(view, member, why)| (view, member, why.is_some())).collect();
    assert_eq!(told, [(view, first, false), (newest, second, true)]);
}

/// Its own end has events of its own.
#[test]
fn who_is_left_out_tells_no_removal_of_itself() {
    let mut world = World::formed(3);
    world.request(1, 5, Request::Fence(NodeId(3)));
    world.run_until(5_000, |world| world.nodes[&3].ended.is_some());
    assert_eq!(removals(&world, 3), []);
    let out = |event: &AgreementEvent| matches!(event, AgreementEvent::LeftOut { .. } | AgreementEvent::Fenced { .. });
    assert_eq!(world.nodes[&3].events.iter().filter(|event| out(event)).count(), 1);
}
