//! Times that no clock shows, and memory of an earlier time: those that are left go on, what a machine does then on its
//! old lease is refused by its token, and its node comes back as a newer incarnation. Every property is checked at every
//! event as well.

use heartbeat_tests::sim::clock::{Halt, SECOND};
use heartbeat_tests::sim::net::Class;
use heartbeat_tests::sim::node::Node;
use heartbeat_tests::sim::stats::Count;
use heartbeat_tests::sim::world::START;
use heartbeat_tests::sim::{Plan, World};

const EVERYTHING: &[Class] = &[Class::Asked, Class::Answered, Class::Messages];
/// The node that something is done to.
const C: usize = 2;

/// A cluster of three in which everybody is a member and acts.
fn formed() -> World {
    let mut world = World::new(Plan::calm(3));
    world.begin();
    world.run_until(START + SECOND);
    world.create();
    world.run_ms(6_000);
    assert_eq!((world.violation.clone(), world.settled()), (None, Ok(())));
    world
}

fn incarnation(world: &World) -> u64 {
    world.member(C).expect("a daemon").incarnation
}

fn members(world: &World) -> Vec<u16> {
    let newest = world.ghost.view(world.ghost.newest).expect("a view");
    newest.document.members.iter().map(|member| member.node.0).collect()
}

/// What the third node does next is refused, each act of it, and not for long.
fn is_refused(world: &mut World) {
    let service = |world: &World| (world.nodes[C].service.acts, world.nodes[C].service.refused);
    let counts = |world: &World| (world.stats.of(Count::ActsStale), world.stats.of(Count::ActsStaleRefused));
    let (acts, refused) = service(world);
    let (stale, stale_refused) = counts(world);
    let began = world.now;
    while world.acting(C).is_some() {
        world.run_ms(1);
        assert_eq!(world.violation, None);
        assert!(world.now < began + SECOND, "it acts on");
    }
    let (acts, refused) = (service(world).0 - acts, service(world).1 - refused);
    assert!(acts > 0 && refused == acts, "{refused} of {acts} acts were refused");
    assert_eq!((counts(world).0 - stale, counts(world).1 - stale_refused), (acts, acts));
}

/// Everybody is a member again and acts, the third node as a newer incarnation than `before`.
fn comes_back(world: &mut World, before: u64) {
    let end = world.now + 20 * SECOND;
    while world.settled().is_err() && world.now < end {
        world.run_ms(10);
        assert_eq!(world.violation, None);
    }
    assert_eq!((world.settled(), members(world)), (Ok(()), vec![1, 2, 3]));
    assert!(incarnation(world) > before);
}

#[test]
fn fault_57_of_a_machine_that_was_paused_no_act_passes_and_the_others_go_on() {
    for seconds in [2, 20, 60] {
        let mut world = formed();
        let before = incarnation(&world);
        let until = world.now + seconds * SECOND;
        world.halt(C, Halt::Pause, until);
        while world.now + 10_000_000 < until {
            world.run_ms(10);
            assert_eq!(world.violation, None);
            assert!(world.acting(0).is_some() && world.acting(1).is_some(), "{seconds} s: those that are left go on");
        }
        assert_eq!(members(&world), [1, 2]);
        assert!(world.acting(C).is_some(), "nothing that it can look at has changed");
        world.run_on(C);
        is_refused(&mut world);
        comes_back(&mut world, before);
    }
}

#[test]
fn fault_59_of_an_incarnation_that_a_snapshot_brings_back_no_act_passes() {
    let mut world = formed();
    let snapshot = Node { taken_at: world.now, ..world.nodes[C].clone() };
    world.run_ms(300);
    world.crash_machine(C);
    world.run_ms(2_000);
    assert_eq!(members(&world), [1, 2]);
    world.boot(C);
    comes_back(&mut world, snapshot.process.as_ref().expect("a daemon").incarnation);
    let newest = incarnation(&world);
    // The machine goes on as it was before its fall.
    world.restore(snapshot);
    assert!(incarnation(&world) < newest);
    is_refused(&mut world);
    comes_back(&mut world, newest);
}

#[test]
fn fault_59_of_a_member_that_was_left_out_since_its_snapshot_no_act_passes() {
    let mut world = formed();
    let before = incarnation(&world);
    let snapshot = Node { taken_at: world.now, ..world.nodes[C].clone() };
    let cut = |world: &mut World, cut: bool| {
        for (from, to) in [(0, C), (C, 0), (1, C), (C, 1)] {
            world.net.set_cut(from, to, EVERYTHING, cut);
        }
    };
    cut(&mut world, true);
    world.run_ms(3_000);
    assert_eq!((members(&world), world.acting(C)), (vec![1, 2], None));
    world.restore(snapshot);
    assert!(world.acting(C).is_some(), "its lease is as it was then");
    is_refused(&mut world);
    cut(&mut world, false);
    comes_back(&mut world, before);
}
