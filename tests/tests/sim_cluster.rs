//! Whole clusters in virtual time: scripts with one fault each, and some seeds with all of them. Every property is
//! checked at every event; what is asserted here is what the script is for.

use heartbeat_tests::sim::clock::{Halt, MS, SECOND};
use heartbeat_tests::sim::heap::Thread;
use heartbeat_tests::sim::net::Class;
use heartbeat_tests::sim::stats::Count;
use heartbeat_tests::sim::world::START;
use heartbeat_tests::sim::{Plan, World, phases, plan, run};
use heartbeat_user::core::agreement::types::Request;

const EVERYTHING: &[Class] = &[Class::Asked, Class::Answered, Class::Messages];

/// A cluster that was created on its first node, and that all others have joined.
fn formed(plan: Plan) -> World {
    let nodes = plan.nodes;
    let mut world = World::new(plan);
    world.log.keep = true;
    world.begin();
    world.run_until(START + SECOND);
    world.create();
    world.run_ms(6_000);
    holds(&world);
    for node in 0..nodes {
        assert!(world.acting(node).is_some(), "{} does not act: {:?}", plan::name(node), world.ghost.newest);
    }
    world
}

fn holds(world: &World) {
    assert_eq!(world.violation, None);
}

fn members(world: &World) -> Vec<u16> {
    let newest = world.ghost.view(world.ghost.newest).expect("a view");
    newest.document.members.iter().map(|member| member.node.0).collect()
}

fn cut(world: &mut World, side: &[usize], cut: bool) {
    for a in 0..world.nodes.len() {
        for b in 0..world.nodes.len() {
            if side.contains(&a) != side.contains(&b) {
                world.net.set_cut(a, b, EVERYTHING, cut);
            }
        }
    }
}

/// Runs in steps of a millisecond until `done`. Returns after how many.
fn ms_until(world: &mut World, most: u64, done: impl Fn(&World) -> bool) -> u64 {
    for ms in 0..most {
        if done(world) {
            return ms;
        }
        world.run_ms(1);
        holds(world);
    }
    panic!("it does not come to that within {most} ms");
}

#[test]
fn clusters_of_one_to_seven_form_and_act() {
    for nodes in [1, 2, 3, 4, 5, 7] {
        let world = formed(Plan::calm(nodes));
        assert_eq!(members(&world).len(), nodes);
    }
}

#[test]
fn a_dead_member_is_left_out_and_its_place_is_taken_in_time() {
    let mut world = formed(Plan::calm(5));
    let before = world.ghost.newest;
    world.crash_machine(4);
    let decided = ms_until(&mut world, 2_000, |world| world.ghost.newest > before);
    assert!((400..=800).contains(&decided), "decided after {decided} ms");
    let newest = world.ghost.newest;
    let in_force = ms_until(&mut world, 2_000, |world| {
        (0..4).all(|node| world.acting(node).is_some_and(|token| token.order == newest.0))
    });
    assert!((300..=700).contains(&in_force), "in force {in_force} ms after the decision");
    assert_eq!(members(&world), [1, 2, 3, 4]);
}

#[test]
fn a_majority_goes_on_and_a_minority_stops_before_it_is_replaced() {
    let mut world = formed(Plan::calm(5));
    let before = world.ghost.newest;
    cut(&mut world, &[0, 1], true);
    ms_until(&mut world, 3_000, |world| {
        (2..5).all(|node| world.acting(node).is_some_and(|token| token.order > before.0))
    });
    assert!(world.acting(0).is_none() && world.acting(1).is_none());
    assert_eq!(members(&world), [3, 4, 5]);
    cut(&mut world, &[0, 1], false);
    ms_until(&mut world, 20_000, |world| (0..5).all(|node| world.acting(node).is_some()));
    assert_eq!(members(&world), [1, 2, 3, 4, 5]);
}

#[test]
fn a_starved_member_stays_one() {
    let mut world = formed(Plan::calm(3));
    let before = world.ghost.newest;
    world.nodes[1].paused = [world.now + 10 * SECOND; 5];
    world.run_ms(9_000);
    holds(&world);
    assert_eq!(world.ghost.newest, before);
    assert!(world.acting(1).is_some());
}

#[test]
fn a_daemon_that_is_killed_and_comes_back_is_no_change() {
    let mut world = formed(Plan::calm(3));
    let before = world.ghost.newest;
    world.crash_process(2, Some(300 * MS));
    world.run_ms(5_000);
    holds(&world);
    assert_eq!(world.ghost.newest, before);
    assert!((0..3).all(|node| world.acting(node).is_some()));
}

#[test]
fn a_cluster_that_was_off_comes_back_by_itself() {
    let mut world = formed(Plan::calm(3));
    for node in 0..3 {
        world.crash_machine(node);
    }
    for node in 0..3 {
        world.boot(node);
    }
    ms_until(&mut world, 20_000, |world| (0..3).all(|node| world.acting(node).is_some()));
    assert_eq!(members(&world), [1, 2, 3]);
}

#[test]
fn who_leaves_is_waited_for_no_longer_than_it_takes() {
    let mut world = formed(Plan::calm(3));
    let before = world.ghost.newest;
    world.request(2, Request::Leave);
    ms_until(&mut world, 1_000, |world| {
        (0..2).all(|node| world.acting(node).is_some_and(|token| token.order > before.0))
    });
    assert_eq!(members(&world), [1, 2]);
    assert_eq!(world.stats.of(Count::Down), 0);
}

#[test]
fn a_clock_beyond_its_bounds_is_seen_to_break_the_rule() {
    let broken = (0..5).any(|seed| {
        let mut world = formed(Plan { seed, ..Plan::calm(3) });
        // What it acts on is seen to be too old before that; here it is about what follows.
        world.unasked = &["lease", "S5"];
        // What it takes for half a second lasts for two: a detection time, a regroup and the wait are over before.
        let now = world.now;
        world.nodes[2].clock.slew(now, -750_000_000);
        world.nodes[2].paused = [now + 10 * SECOND; 5];
        world.run_ms(200);
        cut(&mut world, &[2], true);
        world.run_ms(3_000);
        world.violation.is_some_and(|violation| violation.property == "S3" || violation.property == "in force")
    });
    assert!(broken, "the wait of the others is too short for it");
}

#[test]
fn some_seeds_hold() {
    let outcome = run::many(0, 12, 2, 1, &Plan::draw, &|_| {});
    assert_eq!(outcome.failures.len(), 0, "{:?}", outcome.failures);
}

#[test]
fn a_seed_is_one_run() {
    let play = |seed| {
        let world = phases::play(&Plan::draw(seed), false);
        (world.stats.events, world.now, world.ghost.newest, world.stats.of(Count::Messages), world.violation)
    };
    assert_eq!(play(3), play(3));
    assert_ne!(play(3).0, play(4).0);
}

#[test]
fn a_daemon_that_was_not_there_as_its_machine_slept_has_a_lease_again() {
    let mut world = formed(Plan { lease_ms: 300, ..Plan::calm(3) });
    // For longer than the lease, and not as long as the detection time. It is killed then, so that no controller sees it.
    world.halt(1, Halt::Sleep, world.now + 2 * SECOND);
    world.run_ms(100);
    world.crash_process(1, Some(10 * MS));
    world.run_ms(250);
    world.run_on(1);
    let adopted = world.stats.of(Count::Adopted);
    world.run_ms(2_000);
    holds(&world);
    assert_eq!(world.stats.of(Count::Adopted), adopted + 1, "its page goes on");
    assert_eq!(members(&world), [1, 2, 3], "it slept for less than the detection time");
    assert!(world.acting(1).is_some(), "what it was granted afterwards counts");
}

#[test]
fn a_sleep_between_a_start_and_its_first_round_is_seen() {
    let mut world = formed(Plan { lease_ms: 300, ..Plan::calm(3) });
    let adopted = world.stats.of(Count::Adopted);
    world.crash_process(1, Some(10 * MS));
    // The new daemon takes the page up, and its machine sleeps before it has looked at any clock a second time.
    world.nodes[1].paused[Thread::Decider as usize] = world.now + 200 * MS;
    world.run_ms(50);
    assert_eq!(world.stats.of(Count::Adopted), adopted + 1);
    world.halt(1, Halt::Sleep, world.now + 2 * SECOND);
    world.run_ms(350);
    world.run_on(1);
    world.run_ms(2_000);
    holds(&world);
    assert_eq!(members(&world), [1, 2, 3], "it slept for less than the detection time");
    assert!(world.acting(1).is_some(), "its bank was made anew, so that stamps from afterwards count");
}
