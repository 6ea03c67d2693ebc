//! One fault each in whole clusters: what it is to lead to, and when. Every property is checked at every event as well.

use heartbeat_tests::sim::clock::{Halt, MS, SECOND};
use heartbeat_tests::sim::faults::{Faults, MACHINE_PAUSED};
use heartbeat_tests::sim::heap::{THREADS, Thread};
use heartbeat_tests::sim::net::Class;
use heartbeat_tests::sim::node::Node;
use heartbeat_tests::sim::stats::Count;
use heartbeat_tests::sim::world::START;
use heartbeat_tests::sim::{Plan, World, plan};
use heartbeat_user::core::agreement::AgreementEvent;
use heartbeat_user::core::agreement::document::Reason;
use heartbeat_user::core::agreement::message::Setting;
use heartbeat_user::core::agreement::types::Request;
use heartbeat_user::core::event::EventBody;
use std::time::Duration;

const EVERYTHING: &[Class] = &[Class::Asked, Class::Answered, Class::Messages];

/// A cluster in which everybody is a member and acts, but those that are not let in.
fn formed(plan: Plan) -> World {
    let odd = plan.odd_settings;
    let nodes = plan.nodes;
    let mut world = World::new(plan);
    // No fault but the one that is played.
    world.player.over = true;
    world.log.keep = true;
    world.begin();
    world.run_until(START + SECOND);
    world.create();
    world.run_ms(6_000);
    assert_eq!(world.violation, None);
    for node in (0..nodes).filter(|node| Some(*node) != odd) {
        assert!(world.acting(node).is_some(), "{} does not act: {:?}", plan::name(node), world.ghost.newest);
    }
    world
}

fn members(world: &World) -> Vec<u16> {
    let newest = world.ghost.view(world.ghost.newest).expect("a view");
    newest.document.members.iter().map(|member| member.node.0).collect()
}

fn removals(world: &World) -> Vec<(u16, Reason)> {
    let newest = world.ghost.view(world.ghost.newest).expect("a view");
    newest.document.removals.iter().map(|removal| (removal.member.node.0, removal.reason)).collect()
}

fn cut(world: &mut World, pairs: &[(usize, usize)], classes: &[Class], cut: bool) {
    for (a, b) in pairs {
        world.net.set_cut(*a, *b, classes, cut);
    }
}

/// Both directions between two sets.
fn between(one: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    one.iter().flat_map(|a| other.iter().flat_map(|b| [(*a, *b), (*b, *a)])).collect()
}

/// Runs in steps of a millisecond until `done`. Returns after how many.
fn ms_until(world: &mut World, most: u64, done: impl Fn(&World) -> bool) -> u64 {
    for ms in 0..most {
        if done(world) {
            return ms;
        }
        world.run_ms(1);
        assert_eq!(world.violation, None);
    }
    panic!("it does not come to that within {most} ms: {:?}", world.ghost.view(world.ghost.newest));
}

fn all_act(world: &World) -> bool {
    (0..world.nodes.len()).all(|node| world.acting(node).is_some_and(|token| token.order == world.ghost.newest.0))
}

#[test]
fn whoever_is_cut_off_says_so_before_it_accuses_anybody() {
    let mut world = formed(Plan::calm(4));
    world.log.events.clear();
    cut(&mut world, &between(&[0], &[1, 2, 3]), EVERYTHING, true);
    world.run_ms(2_000);
    let told: Vec<&str> = world
        .log
        .events
        .iter()
        .filter(|(_, by, _)| *by == 0)
        .filter_map(|(_, _, event)| match &event.body {
            EventBody::Isolated { .. } => Some("isolated"),
            EventBody::NodeDown { .. } => Some("down"),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["isolated", "down", "down", "down"]);
    assert_eq!(members(&world), [2, 3, 4]);
}

#[test]
fn a_restart_touches_nobody_else() {
    let mut world = formed(Plan::calm(5));
    let before = world.ghost.newest;
    world.log.events.clear();
    world.crash_machine(2);
    world.boot(2);
    let took = ms_until(&mut world, 10_000, |world| {
        members(world).len() == 5 && all_act(world) && world.ghost.newest > before
    });
    assert!(took < 4_000, "{took} ms");
    assert!(world.ghost.newest.number() <= before.number() + 2, "{:?}", world.ghost.newest);
    let third = plan::id(2);
    for (_, by, event) in world.log.events.iter().filter(|(_, by, _)| *by != 2) {
        match &event.body {
            EventBody::NodeDown { node, .. } => assert_eq!(node.node_id, third, "accused by {by}"),
            EventBody::PathLost { link, .. } | EventBody::PathFailed { link, .. } => assert_eq!(link.node_id, third),
            _ => {}
        }
    }
}

#[test]
fn a_hung_controller_is_left_out_and_its_kernel_obeys_at_once() {
    let mut world = formed(Plan { hang_limit: Duration::from_secs(2), ..Plan::calm(3) });
    let before = world.ghost.newest;
    world.nodes[2].paused = [world.now + 20 * SECOND; THREADS];
    let took = ms_until(&mut world, 4_000, |world| world.ghost.newest > before);
    assert!((1_900..=2_900).contains(&took), "{took} ms");
    assert_eq!(removals(&world), [(3, Reason::Hung)]);
    let fenced = ms_until(&mut world, 500, |world| world.acting(2).is_none());
    assert!(fenced < 100, "{fenced} ms");
    let force = ms_until(&mut world, 500, |world| world.acting(0).is_some_and(|token| token.order > before.0));
    assert!(force < 200, "its kernel gates all it runs, so that {force} ms are no wait for a lease");
    assert!(world.stats.of(Count::FencesAcknowledged) > 0);
}

#[test]
fn who_takes_time_to_stop_is_waited_for_though_its_kernel_obeyed() {
    let mut world = formed(Plan { stop_ms: 100, ..Plan::calm(3) });
    let before = world.ghost.newest;
    world.request(0, Request::Fence(plan::id(2)));
    ms_until(&mut world, 3_000, |world| world.ghost.newest > before);
    ms_until(&mut world, 500, |world| world.stats.of(Count::FencesAcknowledged) > 0 || world.acting(2).is_none());
    let force = ms_until(&mut world, 2_000, |world| world.acting(0).is_some_and(|token| token.order > before.0));
    assert!(force <= 600, "{force} ms");
    assert_eq!(world.violation, None);
}

#[test]
fn an_older_disk_is_no_vote_and_its_node_joins_anew() {
    let mut world = formed(Plan::calm(3));
    world.crash_process(2, Some(200 * MS));
    assert!(world.nodes[2].disk.put_back(2));
    world.ghost.forget(2);
    ms_until(&mut world, 10_000, |world| world.stats.of(Count::StatesLost) == 1 && all_act(world));
    assert_eq!(members(&world), [1, 2, 3]);
    // Its new state counts from one again, and the page goes with it: the next start finds nothing wrong.
    world.crash_process(2, Some(200 * MS));
    world.run_ms(5_000);
    assert_eq!(world.stats.of(Count::StatesLost), 1);
    assert!(all_act(&world));
}

#[test]
fn a_write_that_failed_though_its_file_is_there_ends_its_node_and_the_next_start_takes_it_up() {
    let mut world = formed(Plan::calm(3));
    let incarnation = world.member(2).map(|member| member.incarnation);
    world.nodes[2].disk.fails_late = true;
    world.request(0, Request::Set(Setting::LeaseMs(700)));
    ms_until(&mut world, 3_000, |world| world.stats.of(Count::WritesFailedLate) == 1);
    let written = world.nodes[2].disk.agreement.as_ref().map(|state| state.sequence);
    ms_until(&mut world, 3_000, |world| world.stats.of(Count::Forfeited) == 1);
    assert_eq!(world.nodes[2].disk.agreement.as_ref().map(|state| state.sequence), written, "nothing is taken back");
    ms_until(&mut world, 20_000, |world| all_act(world) && members(world).len() == 3);
    assert!(world.member(2).map(|member| member.incarnation) > incarnation);
    assert_eq!(world.stats.of(Count::StatesLost), 0);
}

#[test]
fn whoever_is_to_join_only_never_stands_for_the_cluster() {
    let mut world = formed(Plan::calm(3));
    let before = world.ghost.newest;
    let start = |world: &mut World, place: usize, join_only: bool| {
        world.crash_machine(place);
        world.nodes[place].join_only = join_only;
        world.boot(place);
    };
    for place in 0..3 {
        world.crash_machine(place);
    }
    for place in 0..3 {
        start(&mut world, place, true);
    }
    world.run_ms(10_000);
    assert_eq!((world.violation.clone(), world.ghost.newest), (None, before), "nobody stands");
    for place in 0..2 {
        start(&mut world, place, false);
    }
    ms_until(&mut world, 20_000, |world| all_act(world) && members(world).len() == 3);
}

#[test]
fn a_machine_that_goes_on_from_a_snapshot_stops_and_comes_back_as_a_newer_incarnation() {
    let mut world = formed(Plan::calm(3));
    let incarnation = world.member(2).map(|member| member.incarnation);
    let snapshot = Node { taken_at: world.now, ..world.nodes[2].clone() };
    world.run_ms(3_000);
    world.restore(snapshot);
    ms_until(&mut world, 1_000, |world| world.stats.of(Count::TimeWentBack) > 0);
    assert!(world.acting(2).is_none());
    ms_until(&mut world, 20_000, |world| all_act(world) && members(world).len() == 3);
    assert!(world.member(2).map(|member| member.incarnation) > incarnation);
}

#[test]
fn a_slewed_clock_holds_its_node_and_nobody_else() {
    for ppb in [80_000_000, -80_000_000] {
        let mut world = formed(Plan::calm(3));
        let before = world.ghost.newest;
        world.slewed_by(1, ppb);
        let held = ms_until(&mut world, 300, |world| world.acting(1).is_none());
        assert!(held <= 120, "{held} ms at {ppb}");
        world.run_ms(1_500);
        assert!(world.acting(1).is_none() && world.acting(0).is_some() && world.acting(2).is_some());
        world.slewed_by(1, 0);
        ms_until(&mut world, 4_000, |world| world.acting(1).is_some());
        assert_eq!(world.ghost.newest, before, "it stayed a member");
    }
}

#[test]
fn of_an_even_split_the_side_with_the_odd_vote_goes_on() {
    let mut world = formed(Plan { lower_priority: Some(0), ..Plan::calm(4) });
    let before = world.ghost.newest;
    cut(&mut world, &between(&[0, 1], &[2, 3]), EVERYTHING, true);
    ms_until(&mut world, 3_000, |world| {
        (2..4).all(|node| world.acting(node).is_some_and(|token| token.order > before.0))
    });
    assert_eq!(members(&world), [3, 4], "the first has no vote");
    assert!(world.acting(0).is_none() && world.acting(1).is_none());
}

#[test]
fn a_regroup_waits_for_a_starved_vote_and_nobody_acts_beyond_the_lease() {
    let mut world = formed(Plan::calm(3));
    let before = world.ghost.newest;
    world.nodes[1].paused = [world.now + 6 * SECOND; THREADS];
    world.run_ms(1_000);
    world.crash_machine(2);
    // The starved one's kernel goes on to grant, so both that are left go on to act in the view that they have.
    for _ in 0..400 {
        world.run_ms(10);
        assert_eq!((world.violation.clone(), world.ghost.newest), (None, before));
        assert!(world.acting(0).is_some() && world.acting(1).is_some());
    }
    let waits = |(_, by, event): &(u64, usize, AgreementEvent)| match event {
        AgreementEvent::RegroupWaits { waits_for, .. } if *by == 0 => waits_for.contains(&plan::id(1)),
        _ => false,
    };
    let pruning = world.log.agreed.iter().any(waits) || world.stats.of(Count::Regroups) > 0;
    assert!(pruning, "{:?}", world.log.agreed.last());
    ms_until(&mut world, 4_000, |world| world.ghost.newest > before && members(world) == [1, 2]);
    ms_until(&mut world, 4_000, |world| (0..2).all(|node| world.acting(node).is_some()));
}

#[test]
fn with_one_starved_of_five_a_death_is_followed_at_once() {
    let mut world = formed(Plan::calm(5));
    let before = world.ghost.newest;
    world.nodes[1].paused = [world.now + 8 * SECOND; THREADS];
    world.run_ms(1_000);
    world.crash_machine(4);
    let took = ms_until(&mut world, 3_000, |world| world.ghost.newest > before);
    assert!(took <= 1_000, "{took} ms");
    assert_eq!(members(&world), [1, 2, 3, 4], "a stalled member stays");
    ms_until(&mut world, 12_000, |world| (0..4).all(|node| world.acting(node).is_some()));
}

#[test]
fn a_node_with_other_settings_is_not_let_in() {
    let mut world = formed(Plan { odd_settings: Some(2), ..Plan::calm(3) });
    world.run_ms(5_000);
    assert_eq!((members(&world), world.violation.clone()), (vec![1, 2], None));
    let refused = world.log.agreed.iter().filter(|(_, _, event)| matches!(event, AgreementEvent::JoinRefused { .. }));
    assert_eq!(refused.count(), 2, "both members say why, once");
}

#[test]
fn where_the_one_with_other_settings_went_on_by_force_the_others_are_not_let_in() {
    let mut world = formed(Plan { odd_settings: Some(2), ..Plan::calm(3) });
    assert_eq!([0, 1, 2].map(|node| world.is_stranger(node)), [false, false, true]);
    cut(&mut world, &between(&[2], &[0, 1]), EVERYTHING, true);
    world.run_ms(3_000);
    world.request(2, Request::Force);
    world.run_ms(3_000);
    cut(&mut world, &between(&[2], &[0, 1]), EVERYTHING, false);
    assert!(world.settles(), "{:?}", world.violation);
    assert_eq!((members(&world), world.ghost.newest.force()), (vec![3], 1));
    assert_eq!([0, 1, 2].map(|node| world.is_stranger(node)), [true, true, false]);
}

#[test]
fn a_ring_in_which_each_hears_two_neighbours_takes_over_nothing_twice() {
    let mut world = formed(Plan::calm(5));
    let before = world.ghost.newest;
    let pairs: Vec<(usize, usize)> = (0..5).flat_map(|a| [(a, (a + 2) % 5), ((a + 2) % 5, a)]).collect();
    cut(&mut world, &pairs, EVERYTHING, true);
    world.run_ms(10_000);
    assert_eq!(world.violation, None);
    assert!(world.ghost.newest.number() <= before.number() + 2, "{:?}", world.ghost.newest);
    cut(&mut world, &pairs, EVERYTHING, false);
    ms_until(&mut world, 20_000, |world| all_act(world) && members(world).len() == 5);
}

#[test]
fn messages_that_do_not_pass_end_in_one_decision_and_frames_that_do_not_in_another() {
    for classes in [&[Class::Messages][..], &[Class::Asked, Class::Answered][..]] {
        let mut world = formed(Plan::calm(3));
        let before = world.ghost.newest;
        cut(&mut world, &between(&[2], &[0, 1]), classes, true);
        let took = ms_until(&mut world, 6_000, |world| world.ghost.newest > before);
        assert!(took <= 3_000, "{took} ms");
        assert_eq!(members(&world), [1, 2], "{classes:?}");
        world.run_ms(10_000);
        assert!(world.ghost.newest.number() <= before.number() + 1, "one decision");
        cut(&mut world, &between(&[2], &[0, 1]), classes, false);
        ms_until(&mut world, 20_000, |world| all_act(world) && members(world).len() == 3);
    }
}

#[test]
fn three_ungraceful_ends_lead_to_a_quarantine_that_ends_by_itself() {
    let mut world = formed(Plan { quarantine_threshold: 3, ..Plan::calm(3) });
    for _ in 0..3 {
        let before = world.ghost.newest;
        world.crash_machine(2);
        ms_until(&mut world, 3_000, |world| world.ghost.newest > before && members(world) == [1, 2]);
        world.run_ms(1_000);
        world.boot(2);
        world.run_ms(6_000);
    }
    assert_eq!(members(&world), [1, 2], "it is kept out");
    let newest = world.ghost.view(world.ghost.newest).expect("a view");
    assert_eq!(newest.document.quarantined.iter().map(|one| one.node.0).collect::<Vec<_>>(), [3]);
    let left = ms_until(&mut world, 80_000, |world| members(world).len() == 3);
    assert!((45_000..70_000).contains(&left), "{left} ms");
}

#[test]
fn who_sleeps_through_its_removal_does_nothing_when_it_wakes() {
    let mut world = formed(Plan::calm(3));
    let until = world.now + 5 * SECOND;
    world.halt(2, Halt::Sleep, until);
    world.run_until(until);
    assert_eq!(members(&world), [1, 2]);
    let acts = world.nodes[2].service.acts;
    world.run_on(2);
    ms_until(&mut world, 20_000, |world| all_act(world) && members(world).len() == 3);
    assert_eq!(world.violation, None);
    assert!(world.stats.of(Count::Out) > 0, "it ended, and came back as a newer incarnation");
    assert_eq!(world.nodes[2].service.refused, 0, "{acts} acts before");
}

/// A machine that its hypervisor holds, which none of its clocks shows. The others go on without it in time; nothing but its
/// token guards what it does on waking, and no act of it is let through once somebody has acted in the view without it.
#[test]
fn fault_57_a_machine_that_was_paused_from_outside_is_out_in_time_and_what_it_does_on_waking_is_refused() {
    for seconds in [1, 2, 5, 20, 60] {
        // Who acts together is not promised of such worlds.
        let mut world =
            formed(Plan { faults: Faults { classes: 1 << MACHINE_PAUSED, ..Faults::NONE }, ..Plan::calm(3) });
        let (before, incarnation) = (world.ghost.newest, world.member(2).map(|member| member.incarnation));
        let until = world.now + seconds * SECOND;
        world.halt(2, Halt::Pause, until);
        let took = ms_until(&mut world, 1_000, |world| world.ghost.newest > before);
        assert!(took >= 400, "{took} ms");
        assert_eq!((members(&world), removals(&world)), (vec![1, 2], vec![(3, Reason::Down)]));
        world.run_until(until);
        let did = |world: &World| (world.nodes[2].service.acts, world.nodes[2].service.refused);
        let (acts, refused) = did(&world);
        let taken_over = world.acting(0).is_some_and(|token| token.order > before.0);
        world.run_on(2);
        assert!(world.acting(2).is_some(), "by its clocks no time has passed");
        // It is fenced, or what is left of its lease is over.
        ms_until(&mut world, 500, |world| world.acting(2).is_none());
        let (acts, refused) = (did(&world).0 - acts, did(&world).1 - refused);
        assert_eq!(taken_over, seconds > 1, "the longest lease is waited for");
        assert!(!taken_over || acts > 0 && refused == acts, "{acts} acts, {refused} of them refused");
        ms_until(&mut world, 20_000, |world| all_act(world) && members(world).len() == 3);
        assert!(world.member(2).map(|member| member.incarnation) > incarnation);
        assert_eq!(world.violation, None);
    }
}

#[test]
fn who_was_starved_reads_what_came_meanwhile_before_it_accuses() {
    let mut world = formed(Plan::calm(3));
    let before = world.ghost.newest;
    // Its deciding thread alone stands still for longer than messages may fail to pass; what comes waits for it.
    world.nodes[1].paused[Thread::Decider as usize] = world.now + 3 * SECOND;
    world.run_ms(6_000);
    assert_eq!((world.violation.clone(), world.ghost.newest), (None, before), "nobody was accused");
}
