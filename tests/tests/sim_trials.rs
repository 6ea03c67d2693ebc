//! One fault in a healthy cluster: each leads to what it is to lead to, in time; and what comes too late, or touches others,
//! is seen.

use heartbeat_common::lease::{Words, word};
use heartbeat_tests::sim::clock::{MS, SECOND};
use heartbeat_tests::sim::heap::{THREADS, Thread};
use heartbeat_tests::sim::net::Class;
use heartbeat_tests::sim::rules::Rule;
use heartbeat_tests::sim::stats::Count;
use heartbeat_tests::sim::trial::Trial;
use heartbeat_tests::sim::world::START;
use heartbeat_tests::sim::{Plan, World, plan};
use heartbeat_user::core::agreement::message::Setting;
use heartbeat_user::core::agreement::types::Request;
use std::time::Duration;

const EVERYTHING: &[Class] = &[Class::Asked, Class::Answered, Class::Messages];

/// A cluster in which everybody is a member and acts.
fn formed(plan: Plan) -> World {
    let mut world = World::new(plan);
    world.begin();
    world.run_until(START + SECOND);
    world.create();
    world.run_ms(6_000);
    assert_eq!((world.violation.clone(), world.settled()), (None, Ok(())));
    world
}

fn five() -> World {
    formed(Plan { hang_limit: Duration::from_secs(2), ..Plan::calm(5) })
}

fn broken(world: &World) -> Option<&'static str> {
    world.violation.as_ref().map(|violation| violation.property)
}

#[test]
fn every_trial_holds_and_is_judged() {
    let trials = [
        (Trial::Death(1), [Rule::L1, Rule::L2]),
        (Trial::Restart(2), [Rule::L3, Rule::L3]),
        (Trial::Hang(0), [Rule::S8, Rule::L2]),
        (Trial::Gone(3), [Rule::S8, Rule::L2]),
        (Trial::Split(0b10010), [Rule::L1, Rule::L2]),
        (Trial::Split(0b01101), [Rule::L1, Rule::L2]),
        (Trial::Muted(0b10000), [Rule::Limbo, Rule::L2]),
        (Trial::Muted(0b10010), [Rule::Limbo, Rule::L2]),
        (Trial::Muted(0b01101), [Rule::Limbo, Rule::L2]),
    ];
    for (trial, rules) in trials {
        let mut world = five();
        let before = rules.map(|rule| world.ghost.judged.of(rule));
        world.play_trial(trial);
        assert_eq!(world.violation, None, "{trial:?}");
        let after = rules.map(|rule| world.ghost.judged.of(rule));
        assert!(after[0] > before[0] && after[1] > before[1], "{trial:?}: {before:?} {after:?}");
        assert!(world.settles(), "{trial:?}: {:?}", world.violation);
    }
}

#[test]
fn a_death_that_is_not_left_out_in_time_is_seen() {
    let mut world = five();
    for node in 0..4 {
        world.nodes[node].paused[Thread::Disk as usize] = world.now + 5 * SECOND;
    }
    world.play_trial(Trial::Death(4));
    assert_eq!(broken(&world), Some("L1"));
}

#[test]
fn messages_that_do_not_pass_and_for_which_nobody_goes_are_seen() {
    let mut world = five();
    for node in 0..3 {
        world.nodes[node].paused[Thread::Disk as usize] = world.now + 9 * SECOND;
    }
    world.play_trial(Trial::Muted(0b00111));
    assert_eq!(broken(&world), Some("limbo"));
}

#[test]
fn where_messages_part_the_votes_evenly_nobody_goes() {
    for (nodes, side) in [(2, 0b01), (4, 0b0101)] {
        let mut world = formed(Plan { dynamic: false, ..Plan::calm(nodes) });
        let before = world.ghost.newest;
        world.play_trial(Trial::Muted(side));
        assert_eq!((world.violation.clone(), world.ghost.newest), (None, before));
        assert_eq!((world.stats.of(Count::MutedAllStay), world.ghost.judged.of(Rule::Limbo)), (1, 1));
        assert!(world.settles(), "{:?}", world.violation);
    }
}

/// Of four votes one is not counted: that of a member that stood still when the view was made. It runs again, and the next
/// view would leave out the vote of another instead.
#[test]
fn who_goes_first_takes_no_majority_from_those_who_stay() {
    let mut world = formed(Plan { weightless: Some(1), ..Plan::calm(5) });
    world.nodes[3].paused = [world.now + 3 * SECOND; THREADS];
    world.run_ms(1_500);
    world.request(0, Request::Set(Setting::LeaseMs(600)));
    world.run_ms(6_000);
    assert_eq!((world.violation.clone(), world.settled()), (None, Ok(())));
    let newest = world.ghost.view(world.ghost.newest).expect("a view");
    assert_eq!(newest.document.votes.iter().map(|vote| vote.weight).collect::<Vec<_>>(), [1, 0, 1, 0, 1]);
    world.play_trial(Trial::Muted(0b10001));
    assert_eq!((world.violation.clone(), world.ghost.judged.of(Rule::Limbo)), (None, 1));
    assert!(world.settles(), "{:?}", world.violation);
}

#[test]
fn a_majority_alone_is_one_view_be_the_others_cut_off_or_dead() {
    for (core, dead) in [(0b00111, 0), (0b11100, 0b00011), (0b01111, 0b10000), (0b11010, 0b00100)] {
        let mut world = five();
        world.settles_alone(core, dead);
        assert_eq!(world.violation, None, "{core:b}");
        let newest = world.ghost.view(world.ghost.newest).expect("a view");
        let members = newest.document.members.iter().fold(0, |set, member| set | 1 << plan::place(member.node));
        let counts = (world.stats.of(Count::Cores), world.stats.of(Count::CoresLost), world.ghost.judged.of(Rule::L4));
        assert_eq!((members, counts), (core, (1, 0, 1)));
        assert!(world.settles(), "{core:b}: {:?}", world.violation);
    }
}

#[test]
fn a_majority_alone_that_is_no_view_is_seen() {
    let mut world = five();
    world.net.set_cut(0, 1, EVERYTHING, true);
    world.net.set_cut(1, 0, EVERYTHING, true);
    world.settles_alone(0b00111, 0);
    assert_eq!(broken(&world), Some("L4"));
}

#[test]
fn an_accusation_that_comes_late_is_seen() {
    for (silent, expected) in [(560, None), (640, None), (660, Some("L1"))] {
        let mut world = five();
        let mono = world.nodes[0].clock.mono(world.now);
        let path = world.plan.path_to(0, 1, 0);
        world.nodes[0].kernel.ticks[path].heard_ns.set(mono - silent * MS);
        world.accused(0, 1);
        assert_eq!(broken(&world), expected, "{silent} ms");
    }
}

#[test]
fn whoever_accuses_all_without_a_word_of_being_cut_off_is_seen() {
    let mut world = five();
    let mono = world.nodes[0].clock.mono(world.now);
    for tick in &world.nodes[0].kernel.ticks {
        tick.heard_ns.set(mono - 560 * MS);
    }
    world.accused(0, 1);
    assert_eq!(broken(&world), Some("L8"));
    world.violation = None;
    world.nodes[0].process.as_mut().expect("a daemon").told_isolated = true;
    world.accused(0, 2);
    assert_eq!(broken(&world), None);
}

#[test]
fn a_majority_that_does_not_act_in_time_is_seen() {
    let mut world = five();
    // It says in no frame that it has the new view, so that nobody else has its grant.
    for node in 0..4 {
        world.nodes[node].paused[Thread::Keeper as usize] = world.now + 30 * SECOND;
    }
    world.play_trial(Trial::Death(4));
    assert_eq!(broken(&world), Some("L2"));
}

#[test]
fn a_restart_that_touches_others_is_seen() {
    let mut world = five();
    world.net.set_cut(0, 1, EVERYTHING, true);
    world.net.set_cut(1, 0, EVERYTHING, true);
    world.play_trial(Trial::Restart(4));
    assert_eq!(broken(&world), Some("L3"));
}

#[test]
fn whoever_never_acts_again_is_seen() {
    let mut world = five();
    // Its page is over, and its controller does not know.
    world.nodes[1].kernel.page.set(word::CLOSED, 1);
    assert!(!world.settles());
    assert_eq!(broken(&world), Some("L4"));
}

#[test]
fn a_controller_that_stands_and_is_called_up_is_seen() {
    let mut world = five();
    world.nodes[2].paused = [world.now + 1_500 * MS; THREADS];
    world.run_ms(1_400);
    assert_eq!(world.violation, None, "it is stalled for all");
    let mono = world.nodes[2].clock.mono(world.now);
    world.believes(0);
    assert_eq!(world.violation, None);
    // It has in fact stood for longer than the others believe.
    world.nodes[2].ran = mono - 3 * SECOND;
    let mut up = five();
    up.nodes[2].ran = up.nodes[2].clock.mono(up.now) - 3 * SECOND;
    up.believes(0);
    assert_eq!(broken(&up), Some("S8"), "it is up for them");
    world.believes(0);
    assert_eq!(broken(&world), None, "stalled is right until the hang limit is over");
    world.nodes[2].ran = mono - 5 * SECOND;
    world.believes(0);
    assert_eq!(broken(&world), Some("S8"), "and wrong after it");
}
