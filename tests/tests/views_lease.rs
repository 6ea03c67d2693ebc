//! The lease of nodes whose userspace does not run: kept by the kernel while the peers ask, gone in time when they are
//! cut off. And views that change, or have to wait, while somebody is starved.

use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::field::{ALL, Field, STOPPED, Starved, VICTIMS};
use heartbeat_tests::lab::monotonic_ns;
use heartbeat_tests::lab::views::{pause_at_random, rounds};
use heartbeat_tests::lab::wait::starvation_or_skip;
use std::time::Duration;

/// Lease of the profile.
const LEASE_NS: u64 = 500_000_000;
const STARVED: Duration = Duration::from_secs(30);

#[test]
fn starved_for_thirty_seconds_stopped_held_or_pushed_aside_no_node_loses_its_lease() {
    let name = "starved_for_thirty_seconds_stopped_held_or_pushed_aside_no_node_loses_its_lease";
    if !starvation_or_skip(name) {
        return;
    }
    let field = Field::new().unwrap();
    let view = field.crew.stands(0).unwrap().view;
    let (mark, from) = (field.crew.mark().unwrap(), monotonic_ns());
    let most = STARVED + Duration::from_secs(10);
    let starved: Vec<Starved> = VICTIMS.map(|node| field.starve(node, most).unwrap()).into();
    std::thread::sleep(STARVED);
    let (acts, to) = (field.sink.acts(), monotonic_ns());
    for (node, starved) in VICTIMS.into_iter().zip(starved) {
        field.feed(node, starved).unwrap();
    }
    for node in 0..5 {
        let breaks: Vec<_> = acts.breaks_of(node, from, to).collect();
        assert!(breaks.is_empty(), "node {node}: {breaks:?}");
        let one = acts.of(node).find(|one| one.first_ns < from && one.last_ns > to - LEASE_NS);
        assert!(one.is_some_and(|one| one.act.token.order == view.0), "{:?}", acts.of(node).collect::<Vec<_>>());
    }
    println!("{} acts, the sink's longest gap was {} us", acts.count, acts.longest_gap_ns / 1000);
    let Field { mut crew, sink, .. } = field;
    assert_eq!(crew.await_view(&ALL).unwrap(), view, "no view changed for it");
    assert!(crew.said(&mark, 0, "node_stalled").unwrap().iter().any(|event| event["node"] == "c"), "it was real");
    for node in 0..5 {
        assert!(crew.said(&mark, node, "quorum_lost").unwrap().is_empty());
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn cut_off_while_it_is_starved_a_node_is_out_of_its_lease_in_time() {
    let name = "cut_off_while_it_is_starved_a_node_is_out_of_its_lease_in_time";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 300);
    let mut field = Field::new().unwrap();
    for round in 0..count {
        let node = VICTIMS[(round % 3) as usize];
        let others: Vec<usize> = (0..5).filter(|other| *other != node).collect();
        let starved = field.starve(node, Duration::from_secs(60)).unwrap();
        pause_at_random(&mut random, Duration::from_millis(1000));
        let cut = field.crew.lab.cut_all(node).unwrap();
        let view = field.crew.await_view(&others).unwrap();
        let acts = field.sink.acts();
        let last = acts.last(node).unwrap();
        assert!(last >= cut.before_ns, "it acted until it was cut off");
        // The newest date that it can have is of a probe sent before the cut.
        let after_ms = last.saturating_sub(cut.after_ns) / 1_000_000;
        assert!(last <= cut.after_ns + LEASE_NS, "it acted {after_ms} ms after the cut");
        acts.gave_way(&[node], &others, view).unwrap();
        field.feed(node, starved).unwrap();
        field.crew.lab.heal().unwrap();
        field.start_again(node).unwrap();
        field.crew.await_view(&ALL).unwrap();
    }
    field.crew.audit(&field.sink).unwrap();
}

#[test]
fn of_five_one_is_starved_and_one_dies_and_the_view_follows_without_waiting_for_the_starved_one() {
    let name = "of_five_one_is_starved_and_one_dies_and_the_view_follows_without_waiting_for_the_starved_one";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(5).unwrap();
    for _ in 0..count {
        let dead = [0, 1, 3, 4][random.below(4) as usize];
        let rest: Vec<usize> = (0..5).filter(|node| *node != dead).collect();
        let awake: Vec<usize> = rest.iter().copied().filter(|node| *node != STOPPED).collect();
        let (before, mark) = (crew.stands(awake[0]).unwrap().view, crew.mark().unwrap());
        crew.daemon(STOPPED).stop().unwrap();
        pause_at_random(&mut random, Duration::from_millis(1000));
        crew.machine_dies(dead, &sink).unwrap();
        let view = crew.await_view_of(&awake, &rest).unwrap();
        assert_eq!(Some(view), before.next());
        for by in &awake {
            assert_eq!(crew.said(&mark, *by, "node_removed").unwrap().len(), 1, "the dead one alone");
        }
        crew.daemon(STOPPED).resume().unwrap();
        assert_eq!(crew.await_view(&rest).unwrap(), view, "it takes the view up, and acts in it");
        crew.lab.heal().unwrap();
        crew.start_at_once(dead).unwrap();
        crew.await_view(&[0, 1, 2, 3, 4]).unwrap();
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn of_three_one_is_starved_and_one_dies_and_the_regroup_waits_for_the_starved_vote() {
    let name = "of_three_one_is_starved_and_one_dies_and_the_regroup_waits_for_the_starved_vote";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    for _ in 0..count {
        let before = crew.stands(0).unwrap().view;
        crew.daemon(1).stop().unwrap();
        pause_at_random(&mut random, Duration::from_millis(500));
        let cut = crew.lab.cut_all(STOPPED).unwrap();
        let waits = |stands: &heartbeat_tests::lab::views::Stands| stands.waits_for == ["b"];
        crew.await_stands(0, "to say that it waits for b", waits).unwrap();
        pause_at_random(&mut random, Duration::from_millis(1500));
        let stands = crew.stands(0).unwrap();
        assert_eq!((stands.view, stands.waits_for.as_slice()), (before, &["b".to_owned()][..]), "nothing is decided");
        let acts = sink.acts();
        let last = acts.last(STOPPED).unwrap();
        assert!(last <= cut.after_ns + LEASE_NS, "c acted {} ms after the cut", (last - cut.after_ns) / 1_000_000);
        crew.daemon(1).resume().unwrap();
        let view = crew.await_view(&[0, 1]).unwrap();
        assert_eq!(Some(view), before.next());
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
    }
    crew.audit(&sink).unwrap();
}
