//! Detector and lease under the played kernel, network and clocks; the views are installed by hand, so that nothing here
//! depends on how they are agreed.

use heartbeat_common::lease::{self, Words, word};
use heartbeat_common::view::{Name, Order, VoteId};
use heartbeat_tests::sim::clock::{Halt, MS};
use heartbeat_tests::sim::heap::Thread;
use heartbeat_tests::sim::net::Class;
use heartbeat_tests::sim::{Plan, World, node, plan};
use heartbeat_user::core::agreement::grant;
use heartbeat_user::core::agreement::types::{Bank, Slot, Standing};
use heartbeat_user::core::event::EventBody;
use heartbeat_user::core::node::Verdict;
use heartbeat_user::io::agreement::page;
use std::time::Duration;

const MARK: u64 = 0x6d61_726b;
const EVERYTHING: &[Class] = &[Class::Asked, Class::Answered, Class::Messages];

fn view() -> Name {
    Name { order: Order(1), digest: [5; 4] }
}

/// A world whose daemons run and hear each other.
fn acquainted(nodes: usize) -> World {
    let mut world = World::new(Plan::calm(nodes));
    world.log.keep = true;
    world.begin();
    world.run_ms(3_000);
    world
}

/// The same, in which everybody is a member of one view, and grants in it.
fn leased(nodes: usize) -> World {
    let mut world = acquainted(nodes);
    for asker in 0..nodes {
        let member = world.member(asker).expect("a daemon");
        world.ghost.admit_by_hand(view().order, member);
    }
    let word = |vote: usize, asker: usize, world: &World| {
        let member = world.member(asker).expect("a daemon");
        grant::word([1, 1], view(), VoteId([vote as u64 + 1, 1]), member.node, member.incarnation)
    };
    for place in 0..nodes {
        let others = || (0..nodes).filter(|other| *other != place);
        let slot = |other| Slot { node: plan::id(other), weight: 1, expected: word(other, place, &world) };
        let slots = others().map(slot).collect();
        let bank = Bank {
            view: view(),
            lease: Duration::from_millis(500),
            act: Duration::from_millis(500),
            own_mark: MARK,
            own_weight: 1,
            total_weight: nodes as u32,
            member: true,
            carry: false,
            slots,
        };
        let grants = others().map(|other| (plan::id(other), word(place, other, &world))).collect();
        let standing = Standing { view: view(), mark: MARK, grants, member: true, votes: true, stops_at_once: true };
        grant_by(&mut world, place, &bank, &standing);
    }
    world.run_ms(300);
    world
}

fn grant_by(world: &mut World, place: usize, bank: &Bank, standing: &Standing) {
    let times = world.times(place);
    let node = &mut world.nodes[place];
    page::install(&node.kernel.page, bank, &world.slots, times);
    assert!(lease::grant(&node.kernel.page, MARK));
    node.kernel.page.set(word::IN_FORCE, 1);
    let process = node.process.as_mut().expect("a daemon");
    for (path, (peer, _)) in standing.grants.iter().enumerate() {
        let say = node::Say::of(process.incarnation, process.generation, 0x5e7, standing, *peer);
        node.kernel.restand(path, &say);
        process.pacer.paths[path].signer = say.signer(&world.plan.path_spec(place, path));
    }
}

/// Cuts everything between a node and the others.
fn cut_off(world: &mut World, node: usize) {
    for other in (0..world.nodes.len()).filter(|other| *other != node) {
        world.net.set_cut(node, other, EVERYTHING, true);
        world.net.set_cut(other, node, EVERYTHING, true);
    }
}

/// Runs in steps of a millisecond until the node does not act. Returns after how many.
fn ms_until_it_stops(world: &mut World, node: usize, most: u64) -> u64 {
    for ms in 0..most {
        if world.acting(node).is_none() {
            return ms;
        }
        world.run_ms(1);
    }
    panic!("node {node} acts after {most} ms");
}

fn downs(world: &World) -> Vec<(u64, usize, u16)> {
    let down = |(at, by, event): &(u64, usize, heartbeat_user::core::event::Event)| match &event.body {
        EventBody::NodeDown { node, .. } => Some((*at, *by, node.node_id.0)),
        _ => None,
    };
    world.log.events.iter().filter_map(down).collect()
}

#[test]
fn everybody_hears_everybody() {
    let mut world = acquainted(5);
    world.run_ms(5_000);
    assert_eq!(downs(&world), []);
    for node in &world.nodes {
        let process = node.process.as_ref().expect("a daemon");
        assert!(process.controller.nodes().all(|(_, peer)| peer.verdict() == Verdict::Up));
    }
}

#[test]
fn a_death_is_seen_by_everybody_in_time() {
    let mut world = acquainted(5);
    let died = world.now;
    world.crash_machine(3);
    world.run_ms(2_000);
    let downs = downs(&world);
    let mut judges: Vec<_> = downs.iter().map(|(_, by, of)| (*by, *of)).collect();
    judges.sort_unstable();
    assert_eq!(judges, [(0, 4), (1, 4), (2, 4), (4, 4)]);
    for (at, ..) in downs {
        let after = (at - died) / MS;
        assert!((400..=660).contains(&after), "{after} ms");
    }
}

#[test]
fn a_starved_daemon_loses_neither_its_place_nor_its_lease() {
    let mut world = leased(3);
    world.nodes[1].paused = [world.now + 5_000 * MS; 5];
    for _ in 0..450 {
        world.run_ms(10);
        assert!(world.acting(1).is_some(), "at {}", world.now);
    }
    assert_eq!(downs(&world), []);
    let verdict = |world: &World| {
        let process = world.nodes[0].process.as_ref().expect("a daemon");
        process.controller.nodes().find(|(id, _)| *id == plan::id(1)).map(|(_, peer)| peer.verdict())
    };
    assert_eq!(verdict(&world), Some(Verdict::Stalled));
    world.run_ms(1_500);
    assert_eq!(verdict(&world), Some(Verdict::Up));
}

#[test]
fn a_node_that_is_cut_off_stops_in_time_though_nobody_runs() {
    for starved in [false, true] {
        let mut world = leased(3);
        if starved {
            world.nodes[2].paused = [world.now + 5_000 * MS; 5];
        }
        cut_off(&mut world, 2);
        let after = ms_until_it_stops(&mut world, 2, 1_000);
        assert!((300..=501).contains(&after), "{after} ms, starved: {starved}");
        assert!(world.acting(0).is_some() && world.acting(1).is_some());
    }
}

#[test]
fn late_frames_buy_no_lease() {
    let mut world = leased(3);
    for other in [1, 2] {
        for (from, to) in [(0, other), (other, 0)] {
            world.net.wire(from, to, 0).delay = 700 * MS;
        }
    }
    ms_until_it_stops(&mut world, 0, 1_000);
    for _ in 0..300 {
        world.run_ms(10);
        assert!(world.acting(0).is_none(), "an answer that took longer than a lease is dated by its question");
    }
    let echoes: u64 = world.nodes[0].kernel.ticks.iter().map(|tick| tick.late_echoes.get()).sum();
    assert!(echoes > 20, "answers do come: {echoes}");
}

#[test]
fn a_vote_that_clears_its_grants_ends_the_leases_that_need_it() {
    let mut world = leased(3);
    for voter in [1, 2] {
        let node = &world.nodes[voter];
        lease::clear_grants(&node.kernel.page, node.clock.mono(world.now));
    }
    assert!(ms_until_it_stops(&mut world, 0, 600) <= 501);
    world.run_ms(1_000);
    assert!(world.acting(0).is_none() && world.acting(1).is_none());
    let heard = world.nodes[0].kernel.ticks[0].heard_ns.get();
    let mono = world.nodes[0].clock.mono(world.now);
    assert!(mono - heard < 150 * MS, "they answer on, and an echo alone is no grant");
}

#[test]
fn a_probe_signed_late_carries_no_grant_that_was_cleared() {
    let mut world = leased(3);
    // Both voters stop after they have read the stamp; meanwhile their grants are cleared.
    for voter in [1, 2] {
        let process = world.nodes[voter].process.as_mut().expect("a daemon");
        process.pacer.due = u64::MAX;
    }
    world.run_ms(150);
    let dates = |world: &World| {
        let page = &world.nodes[0].kernel.page;
        let bank = lease::active_bank(page);
        [1, 2].map(|slot| page.get(bank + lease::bank::DATES + slot))
    };
    let sign = |world: &mut World, clear: bool| {
        for voter in [1, 2] {
            let path = world.plan.path_to(voter, 0, 0);
            let node = &mut world.nodes[voter];
            let stamp = node.kernel.ticks[path].peer_stamp.get() + 1;
            let (peer, mono) = (node.kernel.ticks[path].peer_incarnation.get(), node.clock.mono(world.now));
            if clear {
                lease::clear_grants(&node.kernel.page, mono);
            }
            let paced = &mut node.process.as_mut().expect("a daemon").pacer.paths[path];
            paced.sequence += 2;
            paced.half = Some((paced.sequence, mono, peer, stamp));
            world.sign_late(voter, path, world.nodes[voter].life);
        }
    };
    // This node asks nothing either, so that those probes are all that could renew its lease.
    world.nodes[0].process.as_mut().expect("a daemon").pacer.due = u64::MAX;
    world.run_ms(150);
    let before = dates(&world);
    sign(&mut world, true);
    world.run_ms(5);
    assert_eq!(dates(&world), before, "the probes came, and renewed nothing");
}

#[test]
fn sleep_uses_the_lease_up_and_a_pause_from_outside_is_not_seen() {
    for (halt, acts) in [(Halt::Sleep, false), (Halt::Pause, true)] {
        let mut world = leased(3);
        for node in [1, 2] {
            world.nodes[node].paused[Thread::Pacer as usize] = world.now + 20_000 * MS;
        }
        let until = world.now + 2_000 * MS;
        world.halt(0, halt, until);
        world.run_until(until);
        assert_eq!(world.acting(0).is_some(), acts, "{halt:?}");
    }
}

#[test]
fn an_adopting_daemon_keeps_its_name_and_a_reborn_one_begins_with_nothing() {
    let mut world = leased(3);
    let incarnation = world.member(0).map(|member| member.incarnation);
    world.crash_process(0, Some(200 * MS));
    world.run_ms(150);
    assert!(world.acting(0).is_some() && world.nodes[0].process.is_none());
    world.run_ms(500);
    assert_eq!(world.member(0).map(|member| member.incarnation), incarnation);
    world.crash_machine(0);
    world.boot(0);
    world.run_ms(2_000);
    assert!(world.member(0).map(|member| member.incarnation) > incarnation);
    assert!(world.acting(0).is_none(), "a new incarnation begins with an empty page");
}
