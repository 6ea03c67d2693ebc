//! What is told of an end, with all of its fields: by who was left out, of who is kept out, each thing once and in order.

use super::world::{DETECTION, World};
use crate::core::agreement::AgreementEvent;
use crate::core::agreement::document::Reason;
use crate::core::agreement::event::Grounds;
use crate::core::agreement::message::Setting;
use crate::core::agreement::types::{Ending, Request};
use crate::core::event::{Event, NodeNames, tell};
use crate::core::ids::NodeId;
use crate::core::time::MonoTime;
use serde_json::{Value, json};
use std::time::Duration;

/// An event as people and programs are told it.
fn line(event: &AgreementEvent) -> Value {
    let names = ["a", "b", "c"].iter().zip(1..).map(|(name, node)| (NodeId(node), (*name).to_owned())).collect();
    let body = tell(event.clone(), &NodeNames::new(names)).into();
    serde_json::to_value(Event { at: MonoTime::ZERO, noticed: MonoTime::ZERO, body }).unwrap()
}

/// What a node has told under one of these numbers, in its order.
fn told(world: &World, at: u16, ids: &[u64]) -> Vec<Value> {
    let lines = world.nodes[&at].events.iter().map(line);
    lines.filter(|line| line["id"].as_u64().is_some_and(|id| ids.contains(&id))).collect()
}

fn numbers(lines: &[Value]) -> Vec<u64> {
    lines.iter().filter_map(|line| line["id"].as_u64()).collect()
}

/// No fence reaches it: it learns by the view itself that it is out.
#[test]
fn who_was_left_out_and_not_fenced_says_by_which_view_why_and_who_stayed() {
    let mut world = World::formed(3);
    world.no_fences = true;
    world.split(&[3]);
    world.run_until(5_000, |world| world.members(1) == [1, 2] && world.settled(2));
    let view = world.view(1);
    world.heal();
    world.run_until(2_000, |world| world.nodes[&3].ended == Some(Ending::Out));
    let told = told(&world, 3, &[1006, 1118]);
    assert_eq!(numbers(&told), [1006], "once, and no fence");
    let removal = &view.removals[0];
    assert!((DETECTION..=DETECTION + 100).contains(&u64::from(removal.silent_ms)), "{removal:?}");
    for (field, value) in [
        ("name", json!("left_out")),
        ("level", json!("error")),
        ("view", json!(format!("0.{}", view.order.number()))),
        ("stayed", json!(["a", "b"])),
        ("cause", json!("down")),
        ("judges", json!(["a", "b"])),
        ("others", json!([])),
        ("silent_ms", json!(removal.silent_ms)),
        ("controller_age_ms", json!(removal.controller_age_ms)),
    ] {
        assert_eq!(told[0][field], value, "{field}: {}", told[0]);
    }
    let grounds = Grounds {
        reason: Reason::Down,
        silent_ms: removal.silent_ms,
        controller_age_ms: removal.controller_age_ms,
        judges: vec![NodeId(1), NodeId(2)],
        others: vec![],
    };
    let stayed = vec![NodeId(1), NodeId(2)];
    let left_out = AgreementEvent::LeftOut { view: view.order, grounds: Some(grounds), stayed };
    assert!(world.nodes[&3].events.contains(&left_out), "{:?}", world.nodes[&3].events);
}

/// Removal, quarantine, refusal, what a node says of its own quarantine, its end, and that it joined.
const OF_QUARANTINE: [u64; 6] = [1135, 1672, 1675, 1676, 20_115, 20_104];

#[test]
fn a_quarantine_is_told_once_and_in_order_by_everybody_whom_it_concerns() {
    let mut world = World::formed(3);
    for _ in 0..3 {
        world.run_until(5_000, |world| world.settled(3));
        world.nodes.values_mut().for_each(|node| node.events.clear());
        world.crash(3);
        world.run_until(5_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
        world.start(3);
    }
    world.run(10_000);
    let of = |world: &World, at: u16| told(world, at, &OF_QUARANTINE);
    for at in [1, 2] {
        let told = of(&world, at);
        assert_eq!(numbers(&told), [1135, 1672, 1675], "{told:?}");
        assert!(told.iter().all(|line| (&line["node"], &line["node_id"]) == (&json!("c"), &json!(3))), "{told:?}");
        assert_eq!((&told[1]["ends"], &told[1]["remaining_ms"]), (&json!(3), &json!(7_200_000)), "{}", told[1]);
        let left = told[2]["remaining_ms"].as_u64().unwrap();
        assert!((7_190_000..7_200_000).contains(&left), "by then some of it has passed: {}", told[2]);
    }
    let own = of(&world, 3);
    assert_eq!(numbers(&own), [1135, 1676], "its older incarnation was removed, the newer is kept out: {own:?}");
    assert_eq!((&own[1]["ends"], &own[1]["remaining_ms"]), (&json!(3), &json!(7_200_000)), "{}", own[1]);
    // A newer incarnation asks once more: of that, and of nothing else, is told again.
    world.crash(3);
    world.run(2_000);
    world.start(3);
    world.run(5_000);
    for at in [1, 2] {
        assert_eq!(numbers(&of(&world, at)), [1135, 1672, 1675, 1675]);
    }
    assert_eq!(numbers(&of(&world, 3)), [1135, 1676]);
    world.request(1, 9, Request::ClearQuarantine(NodeId(3)));
    world.run_until(5_000, |world| world.settled(3));
    world.run(2_000);
    for at in [1, 2] {
        assert_eq!(numbers(&of(&world, at)), [1135, 1672, 1675, 1675, 20_115, 20_104]);
    }
    assert_eq!(numbers(&of(&world, 3)), [1135, 1676, 20_115, 20_104]);
}

/// Whoever has been out for longer than the others hold it back says for how long it waits yet.
#[test]
fn a_refusal_says_how_much_of_the_quarantine_is_left() {
    let mut world = World::formed(3);
    world.quarantine = Duration::from_secs(60);
    for node in [1, 2] {
        let setup = world.setup(node);
        let agreement = world.nodes.get_mut(&node).unwrap().agreement.as_mut().unwrap();
        agreement.reconfigure(setup.settings, setup.timing, setup.quarantine);
    }
    for _ in 0..3 {
        world.run_until(5_000, |world| world.settled(3));
        world.crash(3);
        world.run_until(5_000, |world| world.members(1) == [1, 2] && world.members(2) == [1, 2]);
        world.start(3);
    }
    world.crash(3);
    world.run(30_000);
    world.nodes.values_mut().for_each(|node| node.events.clear());
    world.start(3);
    world.run(2_000);
    for at in [1, 2] {
        let told = told(&world, at, &OF_QUARANTINE);
        assert_eq!(numbers(&told), [1675]);
        let left = told[0]["remaining_ms"].as_u64().unwrap();
        assert!((29_000..30_000).contains(&left), "{}", told[0]);
    }
}

#[test]
fn a_view_of_which_a_killed_controller_did_not_come_to_tell_is_told_by_the_next_one() {
    let mut world = World::formed(3);
    let next = world.view(2).order.next().unwrap();
    world.nodes.get_mut(&2).unwrap().dies_with = Some(next);
    world.crash(3);
    world.run_until(5_000, |world| world.nodes[&2].agreement.is_none());
    assert!(told(&world, 2, &[1135]).is_empty(), "the one that was killed");
    world.restart_controller(2);
    world.run_until(5_000, |world| world.settled(2));
    let mut gone = told(&world, 2, &[1135]);
    assert_eq!(gone.len(), 1, "{gone:?}");
    let mut by_another = told(&world, 1, &[1135]);
    for line in gone.iter_mut().chain(&mut by_another) {
        line["paths"].take();
    }
    assert_eq!(gone, by_another, "with the same words");
    let installed = told(&world, 2, &[20100]);
    world.kill_controller(2);
    world.run(20);
    world.restart_controller(2);
    world.run(1_000);
    assert_eq!((told(&world, 2, &[1135]).len(), told(&world, 2, &[20100])), (1, installed), "and once");
}

/// The bank of a view that gives time to stop is made once no frame says otherwise: a controller that told of it may be
/// killed before that.
#[test]
fn a_view_whose_bank_waits_is_told_once() {
    let mut world = World::formed(3);
    let next = world.view(2).order.next().unwrap();
    world.frames_wait = true;
    world.request(1, 7, Request::Set(Setting::StopMs(100)));
    world.run_until(2_000, |world| world.view(2).order == next);
    let once = told(&world, 2, &[20_100]);
    world.kill_controller(2);
    world.run(20);
    world.restart_controller(2);
    world.run(1_000);
    assert_eq!(told(&world, 2, &[20_100]), once, "{}", world.describe());
}
