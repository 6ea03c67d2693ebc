//! Each property broken by hand: what the watch must not miss.

use super::*;
use crate::sim::clock::{Clock, MS};
use crate::sim::faults;
use crate::sim::service;
use crate::sim::{Plan, plan};
use heartbeat_common::lease::{self, bank};
use heartbeat_common::view::{Name, VoteId};
use heartbeat_user::core::agreement::document::{
    Document, Holder, LeaseTerms, Owed, QuorumTerms, Reason, SCHEMA, Vote,
};
use heartbeat_user::core::agreement::event::Grounds;
use heartbeat_user::core::agreement::types::{Bank, Command};
use heartbeat_user::core::ids::NodeId;
use heartbeat_user::io::agreement::page;
use std::time::Duration;

fn acting(node: usize, incarnation: u64, number: u64) -> Acting {
    Acting { member: member(node, incarnation), order: Order(number) }
}

#[test]
fn acting_beside_a_view_that_left_it_out_is_seen() {
    // Views 1 and 2 have both nodes, view 3 only the second.
    let is_member = |order: Order, member: Member| match order.0 {
        1 | 2 => Some(member.incarnation == 10),
        3 => Some(member.node == plan::id(1)),
        _ => None,
    };
    let check = |i, j| act_together(i, j, is_member).err().map(|violation| violation.property);
    assert_eq!(check(acting(0, 10, 1), acting(1, 10, 2)), None, "a member of both");
    assert_eq!(check(acting(0, 10, 2), acting(1, 10, 3)), Some("S3"), "left out");
    assert_eq!(check(acting(1, 10, 3), acting(0, 10, 2)), Some("S3"), "whoever is looked at first");
    assert_eq!(check(acting(0, 9, 2), acting(1, 10, 2)), Some("S3"), "an older incarnation");
    assert_eq!(check(acting(0, 10, 7), acting(1, 10, 2)), Some("S3"), "a view that was never decided");
}

fn document(number: u64, members: &[usize], owed: &[usize]) -> Document {
    let one = |node: &usize| Vote {
        holder: Holder::Node(plan::id(*node)),
        id: VoteId([*node as u64 + 1, 9]),
        configured: 1,
        weight: 1,
    };
    let left_out_by = Order(number);
    Document {
        schema: SCHEMA,
        instance: [1, 2],
        order: Order(number),
        parent: [0; 4],
        members: members.iter().map(|node| member(*node, 10)).collect(),
        votes: members.iter().map(one).collect(),
        admitted: (0..2).map(|node| member(node, 10)).collect(),
        owed: owed.iter().map(|node| Owed { member: member(*node, 10), left_out_by }).collect(),
        lease: LeaseTerms { lease_ms: 500, stop_ms: 0, longest_ms: 500 },
        quorum: QuorumTerms { dynamic: true, lower_priority: None },
        quarantined: Vec::new(),
        removals: Vec::new(),
        change: None,
        witness: Vec::new(),
        settings: Vec::new(),
    }
}

/// A world in which both nodes act by their own vote alone, under a view of `document`.
fn both_act(document: &Document) -> World {
    let mut world = World::new(Plan { stop_ms: 100, ..Plan::calm(2) });
    world.ghost.durable(0, &State::new(VoteId([1, 9]), document.clone()), world.now).unwrap();
    for place in 0..2 {
        world.nodes[place].up = true;
        let node = &world.nodes[place];
        let page = &node.kernel.page;
        lease::begin(page, 10, [1, 1]);
        let bank = Bank {
            view: Name { order: document.order, digest: [3; 4] },
            lease: Duration::from_millis(500),
            act: Duration::from_millis(500),
            own_mark: 77,
            own_weight: 1,
            total_weight: 1,
            member: true,
            carry: false,
            slots: Vec::new(),
        };
        page::install(page, &bank, &world.slots, world.times(place));
        assert!(lease::grant(page, 77));
        page.set(word::IN_FORCE, document.order.0);
        world.grants.note(place, document.name().digest[0].max(1), world.now);
    }
    world
}

fn broken_property(world: &World) -> Option<&'static str> {
    world.violation.as_ref().map(|violation| violation.property)
}

#[test]
fn a_page_that_allows_too_much_is_seen_at_once() {
    let mut world = both_act(&document(1, &[0, 1], &[]));
    let token = world.acting(0);
    assert!(token.is_some());
    world.permission_changed(0, None, token);
    assert_eq!(broken_property(&world), None);
    let mut world = both_act(&document(1, &[1], &[]));
    let token = world.acting(1);
    world.permission_changed(1, None, token);
    assert_eq!(broken_property(&world), Some("S3"));
}

#[test]
fn what_runs_on_after_its_lease_is_seen() {
    let mut world = both_act(&document(1, &[1], &[0]));
    // The page of the first is over, and what it ran takes its time.
    world.nodes[0].kernel.page.set(word::CLOSED, 1);
    let token = Token { order: 1, incarnation: 10 };
    world.nodes[0].service.state = service::State::Stopping(token, world.now + MS);
    world.nodes[0].service.stop_ns = MS;
    let after = world.acting(1);
    world.permission_changed(1, None, after);
    assert_eq!(broken_property(&world), Some("S3"));
    world.violation = None;
    world.comes_into_force(1, Order(1));
    assert_eq!(broken_property(&world), Some("in force"));
    world.violation = None;
    world.says_stopped(0);
    assert_eq!(broken_property(&world), Some("stopped"));
    world.violation = None;
    world.now += MS;
    world.permission_changed(1, None, after);
    world.comes_into_force(1, Order(1));
    world.says_stopped(0);
    assert_eq!(broken_property(&world), None, "it has stopped");
}

#[test]
fn a_view_in_force_that_was_not_decided_is_seen() {
    let mut world = both_act(&document(1, &[0, 1], &[]));
    world.comes_into_force(0, Order(2));
    assert_eq!(broken_property(&world), Some("S3"));
}

#[test]
fn an_acceptance_written_while_grants_stand_is_seen() {
    let mut world = both_act(&document(1, &[0, 1], &[]));
    let state = State::new(VoteId([1, 9]), document(1, &[0, 1], &[]));
    world.nodes[0].disk.agreement = Some(Box::new(state.clone()));
    world.before_write(0, &state);
    assert_eq!(broken_property(&world), None, "nothing was accepted");
    let mut accepted = state;
    accepted.register.accepted.round = 4;
    world.before_write(0, &accepted);
    assert_eq!(broken_property(&world), Some("clear"));
    world.violation = None;
    lease::clear_grants(&world.nodes[0].kernel.page, 5);
    world.before_write(0, &accepted);
    assert_eq!(broken_property(&world), None);
}

#[test]
fn an_act_that_comes_too_late_is_seen() {
    let mut world = both_act(&document(1, &[1], &[]));
    world.unasked = &["lease"];
    assert!(world.sink.act(1, Token { order: 5, incarnation: 10 }));
    world.acts(0);
    assert_eq!(broken_property(&world), Some("S4"));
    world.violation = None;
    world.ghost.admit_by_hand(Order(5), member(1, 10));
    world.acts(1);
    assert_eq!(broken_property(&world), None, "a member that is behind is refused, and no more");
    assert_eq!(world.stats.of(Count::ActsRefused), 2);
}

/// Both act in a view of both until the second one's grants end; then the first one's hypervisor holds its machine for 3 s.
fn woken(ms_before: u64, ms_after: u64) -> World {
    let mut world = both_act(&document(1, &[0, 1], &[]));
    world.grants.note(1, 0, world.now);
    let held = world.now + ms_before * MS;
    world.now = held + (3_000 + ms_after) * MS;
    world.nodes[0].unseen.push((held, held + 3_000 * MS));
    // Meanwhile the second one acts in a view of its own.
    world.nodes[1].kernel.page.set(word::IN_FORCE, 2);
    world.ghost.admit_by_hand(Order(2), member(1, 10));
    world.unasked = &["lease"];
    world
}

#[test]
fn only_what_rests_on_a_time_that_no_clock_shows_is_left_to_its_token() {
    let stale = |world: &World| [0, 1].map(|place| world.is_stale(member(place, 10)));
    assert_eq!(stale(&woken(400, 90)), [true, false]);
    assert_eq!(stale(&woken(400, 110)), [false, false], "its lease is over by its own clock too");
    assert_eq!(stale(&woken(600, 0)), [false, false], "it was over before the pause");
    let mut world = woken(400, 90);
    world.grants.note(1, world.nodes[0].kernel.page.get(word::GRANTING).max(1), world.now);
    assert_eq!(stale(&world), [true, false], "grants in another view are none");
    world.nodes[0].unseen.clear();
    assert_eq!(stale(&world), [false, false], "nobody was held");
}

#[test]
fn what_rests_on_a_vote_that_has_forgotten_is_left_to_its_token() {
    let mut world = both_act(&document(1, &[0, 1], &[]));
    let stale = |world: &World| [0, 1].map(|place| world.is_stale(member(place, 10)));
    assert_eq!(stale(&world), [false, false]);
    world.ghost.comes_back(1);
    assert_eq!(stale(&world), [true, true], "no majority without it");
    let mut world = both_act(&document(1, &[0, 1], &[]));
    world.grants.note(1, 0, world.now);
    world.now += 501 * MS;
    world.ghost.comes_back(1);
    assert_eq!(stale(&world), [true, true], "within what a lease may last");
    world.now += 5 * MS;
    assert_eq!(stale(&world), [false, false], "and not beyond");
}

#[test]
fn whoever_wakes_from_a_pause_is_refused_by_its_token_and_not_accused_for_it() {
    let acts_beside = |world: &mut World| {
        let token = world.acting(1);
        world.permission_changed(1, None, token);
        broken_property(world)
    };
    let mut world = woken(400, 90);
    assert_eq!(acts_beside(&mut world), None);
    assert!(world.sink.act(1, Token { order: 2, incarnation: 10 }));
    world.acts(0);
    assert_eq!(broken_property(&world), None);
    assert_eq!((world.stats.of(Count::ActsStale), world.stats.of(Count::ActsStaleRefused)), (1, 1));
    // After its lease it is what it was without any pause.
    let mut world = woken(400, 110);
    assert_eq!(acts_beside(&mut world), Some("S3"));
    world.violation = None;
    assert!(world.sink.act(1, Token { order: 2, incarnation: 10 }));
    world.acts(0);
    assert_eq!(broken_property(&world), Some("S4"));
    // Nor does a pause excuse a token that no sink can refuse.
    let mut world = woken(400, 90);
    world.nodes[0].kernel.page.set(word::IN_FORCE, 2);
    world.acts(0);
    assert_eq!(broken_property(&world), Some("S4"));
}

#[test]
fn what_a_view_left_out_may_run_on_only_by_a_time_that_no_clock_shows() {
    for (ms_after, expected) in [(90, None), (110, Some("in force"))] {
        let view = document(1, &[0, 1], &[0]);
        let mut world = both_act(&view);
        world.grants.note(1, 0, world.now);
        world.nodes[0].unseen.push((world.now + 400 * MS, world.now + 3_400 * MS));
        world.now += (3_400 + ms_after) * MS;
        world.comes_into_force(1, Order(1));
        assert_eq!(broken_property(&world), expected, "{ms_after} ms");
    }
}

/// Asks, so many milliseconds later, what the first node's acting rests on.
fn rests(world: &mut World, ms: u64) -> Option<&'static str> {
    world.now += ms * MS;
    world.rests_on_grants(0, Token { order: 1, incarnation: 10 });
    broken_property(world)
}

#[test]
fn acting_without_grants_of_a_majority_is_seen() {
    let mut world = both_act(&document(1, &[0, 1], &[]));
    assert_eq!(rests(&mut world, 10_000), None, "grants that stand do not age");
    world.grants.note(1, 0, world.now);
    assert_eq!(rests(&mut world, 500), None, "one lease after the last of them");
    assert_eq!(rests(&mut world, 5), Some("lease"));
    assert_eq!((world.ghost.judged.of(Rule::Lease), world.ghost.judged.of(Rule::S5)), (3, 0));
    world.violation = None;
    world.nodes[0].gap.open = true;
    assert_eq!(rests(&mut world, 0), Some("S5"), "the first act after a gap");
    let mut world = both_act(&document(1, &[1], &[]));
    assert_eq!(rests(&mut world, 0), Some("lease"), "no member");
}

#[test]
fn a_grant_that_the_same_turn_clears_was_given() {
    let view = document(1, &[0, 1], &[]);
    let mark = view.name().digest[0].max(1);
    let mut world = both_act(&view);
    world.grants = Grants::default();
    world.grants.note(1, mark, world.now);
    let page = &world.nodes[0].kernel.page;
    page.clear(word::GRANTING);
    page.set(lease::active_bank(page) + bank::OWN_MARK, mark);
    assert_eq!(rests(&mut world, 0), Some("lease"), "not given yet");
    world.violation = None;
    world.carry(0, Command::SetGranting(mark));
    world.carry(0, Command::ClearGrants(mark));
    world.note_grants(0);
    assert_eq!(rests(&mut world, 500), None, "one lease from then on");
    world.carry(0, Command::SetGranting(mark));
    assert_eq!(rests(&mut world, 5), Some("lease"), "a grant that is refused counts for nothing");
}

#[test]
fn acting_on_stamps_from_before_a_sleep_is_seen() {
    let after = |woke: u64, slept: u64, looked: bool, clear_at: Option<u64>| {
        let mut world = both_act(&document(1, &[0, 1], &[]));
        world.now += 200 * MS;
        let page = &world.nodes[0].kernel.page;
        let active = lease::active_bank(page);
        let floor = page.get(active + bank::FLOOR_NS);
        if let Some(ms) = clear_at {
            page.clear(word::GRANTING);
            page.set(active + bank::OWN_DATE_NS, floor + ms * MS);
        }
        world.nodes[0].gap = Gap { open: true, woke: floor + woke * MS, slept: slept * MS, looked, resumed: 0 };
        let broken = rests(&mut world, 0);
        assert_eq!(world.ghost.judged.of(Rule::S5), 1);
        broken
    };
    assert_eq!(after(100, 1, true, None), Some("S5"), "its controller has looked since, and goes on by the old bank");
    assert_eq!(after(0, 1, true, None), None, "the bank was made afterwards");
    assert_eq!(after(100, 700, false, None), None, "an own grant that stands has no age");
    assert_eq!(after(100, 290, false, Some(50)), None, "150 ms awake and 290 ms asleep");
    assert_eq!(after(100, 400, false, Some(50)), Some("S5"), "150 ms awake and 400 ms asleep");
    assert_eq!(after(100, 400, false, Some(150)), None, "a stamp from after the sleep");
}

#[test]
fn a_controller_that_is_made_younger_is_seen() {
    let mut world = World::new(Plan::calm(2));
    world.nodes[0].clock = Clock::new(world.now, 10_000 * MS, 0, 0);
    world.nodes[0].ran = 9_950 * MS;
    world.answers(0, 50);
    world.answers(0, heartbeat_common::frame::age_since(0, 0));
    assert_eq!(broken_property(&world), None, "50 ms, or not known");
    world.answers(0, 40);
    assert_eq!(broken_property(&world), Some("S8"));
    assert_eq!(world.ghost.judged.of(Rule::S8), 2);
}

#[test]
fn an_accusation_without_silence_is_seen() {
    let mut world = World::new(Plan::calm(2));
    world.nodes[0].clock = Clock::new(world.now, 10_000 * MS, 0, 0);
    world.nodes[0].kernel.ticks[0].heard_ns.set(9_600 * MS);
    world.accused(0, 1);
    assert_eq!(broken_property(&world), Some("S7"));
    world.violation = None;
    world.nodes[0].kernel.ticks[0].heard_ns.set(9_500 * MS);
    world.accused(0, 1);
    assert_eq!(broken_property(&world), None);
}

/// Two nodes that hear each other, after the faults of these classes.
fn after_faults(classes: &[usize]) -> World {
    let mut plan = Plan::calm(2);
    plan.faults.classes = classes.iter().map(|class| 1 << class).sum();
    let mut world = World::new(plan);
    world.player.over = true;
    world.begin();
    world.run_ms(5_000);
    assert_eq!(broken_property(&world), None);
    world
}

#[test]
fn what_is_up_by_a_replayed_frame_is_believed_no_longer_than_any_other() {
    let believes = |age: u64, replayed: Option<u64>| {
        let mut world = after_faults(&[faults::REPLAY]);
        world.nodes[1].ran = world.nodes[1].clock.mono(world.now) - age * MS;
        world.nodes[0].replayed[1] = replayed.map_or(0, |ms| world.now - ms * MS);
        world.believes(0);
        broken_property(&world)
    };
    assert_eq!(believes(1_000, None), None);
    assert_eq!(believes(3_000, None), Some("S8"));
    assert_eq!(believes(3_000, Some(1_000)), None, "two detection times");
    assert_eq!(believes(3_000, Some(1_500)), Some("S8"));
}

#[test]
fn only_a_silence_with_a_probe_that_was_signed_late_may_last() {
    let accuses = |signed: Option<u64>, waits: bool| {
        let mut world = after_faults(&[faults::SIGNING]);
        world.unasked = &["L8"];
        let path = world.plan.path_to(0, 1, 0);
        let node = &mut world.nodes[0];
        node.kernel.ticks[path].heard_ns.set(node.clock.mono(world.now) - 700 * MS);
        node.signed_late = signed.map_or(0, |ms| world.now - ms * MS);
        if waits {
            node.process.as_mut().unwrap().pacer.paths[path].half = Some((0, 0, 0, 0));
        }
        world.accused(0, 1);
        assert_eq!(world.ghost.judged.of(Rule::S7), 1);
        broken_property(&world)
    };
    assert_eq!(accuses(None, false), Some("L1"));
    assert_eq!(accuses(Some(800), false), Some("L1"), "before the silence");
    assert_eq!(accuses(Some(600), false), None);
    assert_eq!(accuses(None, true), None, "it has not left yet");
}

mod told;

fn grounds(reason: Reason, judges: &[u16]) -> Grounds {
    let judges = judges.iter().map(|node| NodeId(*node)).collect();
    Grounds { reason, silent_ms: 600, controller_age_ms: 0, judges, others: Vec::new() }
}

#[test]
fn a_removal_without_cause_is_seen() {
    let view = document(1, &[1], &[]);
    let mut world = both_act(&view);
    world.told_removal(1, view.name(), Order(1), member(0, 10));
    assert_eq!(broken_property(&world), None);
    world.told_removal(1, view.name(), Order(1), member(0, 10));
    assert_eq!(broken_property(&world), Some("S14"), "told twice");
    let mut world = both_act(&view);
    world.told_removal(1, view.name(), Order(2), member(0, 10));
    assert_eq!(broken_property(&world), Some("S14"), "no view before it");
    let view = document(1, &[0, 1], &[]);
    let mut world = both_act(&view);
    world.told_removal(1, view.name(), Order(1), member(0, 10));
    assert_eq!(broken_property(&world), Some("S14"), "it is a member");
    let mut world = both_act(&document(1, &[1], &[]));
    world.removed(1, Order(1), member(0, 10), Some(&grounds(Reason::Down, &[1])));
    assert_eq!(broken_property(&world), Some("S7"), "nobody saw it silent");
    let mut world = both_act(&document(1, &[1], &[]));
    world.ghost.accuse(1, 0, 10);
    world.removed(1, Order(1), member(0, 10), Some(&grounds(Reason::Down, &[])));
    assert_eq!(broken_property(&world), Some("S7"), "nobody is named who judged it");
    let mut world = both_act(&document(1, &[1], &[]));
    world.ghost.accuse(1, 0, 10);
    world.removed(1, Order(1), member(0, 10), Some(&grounds(Reason::Down, &[1])));
    assert_eq!(broken_property(&world), None);
}
