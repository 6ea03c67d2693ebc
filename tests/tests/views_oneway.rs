//! Networks that fail by halves and by turns: one way, for just about the detection time, again and again. All nodes come
//! to one view, and none goes to and fro.

use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::timely::{CONVERGENCE, DETECTION};
use heartbeat_tests::lab::views::{is_long, pause_at_random, rounds};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Fault, Port, Timely, monotonic_ns};
use std::time::Duration;

/// For so long the last round's fault lasts: whoever is kept out asks all the time. An ordinary run, and a long one.
const LASTS: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(600));

/// Both ends are of one mind within the time to converge, by one view: one removal, told once by each who stays. For as
/// long as the loss lasts, nobody who stays stops acting, and no other view follows.
#[test]
fn fault_06_one_way_loss_parts_the_two_once_and_they_do_not_take_turns() {
    let name = "fault_06_one_way_loss_parts_the_two_once_and_they_do_not_take_turns";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 200);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut agreed = Timely::new("one-way loss until both ends know who goes", CONVERGENCE);
    for round in 1..=count {
        let from = random.below(3) as usize;
        let to = (from + 1 + random.below(2) as usize) % 3;
        let goes = from.max(to);
        let kept: Vec<usize> = (0..3).filter(|node| *node != goes).collect();
        let (before, mark) = (crew.stands(0).unwrap().view, crew.mark().unwrap());
        let at = |node: usize, network| Port { node, network };
        let faults: Vec<Fault> = (0..2).map(|network| Fault::OneWay(at(from, network), at(to, network))).collect();
        pause_at_random(&mut random, Duration::from_millis(200));
        let lost = crew.lab.inject(&faults).unwrap();
        let view = crew.await_view(&kept).unwrap();
        assert_eq!(Some(view), before.next(), "one change of view");
        let installed = crew.all_installed(&mark, &kept, view).unwrap();
        let found = crew.await_return(&mark, goes).unwrap();
        agreed.add(lost.before_ns, installed.max(found)).unwrap();
        let settled = monotonic_ns();
        let long = if is_long() { LASTS.1 } else { LASTS.0 };
        // It is not heard both ways, and stays out.
        crew.stays(&kept, view, if round == count { long } else { DETECTION * 4 }).unwrap();
        crew.acted_on(&sink, &kept, settled).unwrap();
        for by in &kept {
            let removed = crew.said(&mark, *by, "node_removed").unwrap();
            assert!(removed.len() == 1 && removed[0]["node"] == crew.name(goes), "one alone, and once: {removed:?}");
            assert!(crew.said(&mark, *by, "node_joined").unwrap().is_empty(), "nobody comes back by half a network");
        }
        crew.lab.heal().unwrap();
        assert_eq!(Some(crew.await_view(&[0, 1, 2]).unwrap()), view.next());
    }
    agreed.judge().unwrap();
    crew.audit(&sink).unwrap();
}

/// All three are of one mind within the time to converge: nobody is removed, or one is, and each knows it, itself too.
#[test]
fn fault_11_a_cable_that_is_back_just_in_time_leads_to_one_verdict_on_all_nodes() {
    let name = "fault_11_a_cable_that_is_back_just_in_time_leads_to_one_verdict_on_all_nodes";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut agreed = Timely::new("a cable out for about the detection time, until all know who goes", CONVERGENCE);
    let (mut kept, mut removed) = (0, 0);
    for _ in 0..count {
        let (before, mark) = (crew.stands(0).unwrap().view, crew.mark().unwrap());
        pause_at_random(&mut random, Duration::from_millis(200));
        let cut = crew.lab.cut_all(2).unwrap();
        // Around what is needed for a verdict: threshold, the last probe's own time, and one more question.
        std::thread::sleep(Duration::from_millis(490) + Duration::from_millis(random.below(160)));
        crew.lab.heal().unwrap();
        std::thread::sleep(DETECTION * 2);
        let view = crew.await_view(&[0, 1, 2]).unwrap();
        let told: Vec<usize> = (0..2).map(|by| crew.said(&mark, by, "node_removed").unwrap().len()).collect();
        assert!(told[0] == told[1] && told[0] <= 1, "the others are at one: {told:?}");
        let changes = view.number() - before.number();
        assert_eq!(changes, 2 * told[0] as u64, "out and in again, or nothing");
        if told[0] == 0 {
            kept += 1;
            continue;
        }
        removed += 1;
        let installed = crew.all_installed(&mark, &[0, 1], before.next().unwrap()).unwrap();
        agreed.add(cut.before_ns, installed.max(crew.await_return(&mark, 2).unwrap())).unwrap();
    }
    println!("{name}: {kept} times kept, {removed} times removed");
    if removed > 0 {
        agreed.judge().unwrap();
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_17_a_link_that_flaps_takes_a_node_out_once_at_most() {
    let name = "fault_17_a_link_that_flaps_takes_a_node_out_once_at_most";
    if !root_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 60);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mark = crew.mark().unwrap();
    for _ in 0..count {
        crew.lab.cut_all(2).unwrap();
        std::thread::sleep(Duration::from_millis(700));
        crew.lab.heal().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        crew.tend().unwrap();
    }
    // It never hears all for a whole detection time, and so is not taken in between.
    for by in [0, 1] {
        let removed = crew.said(&mark, by, "node_removed").unwrap();
        assert!(removed.len() == 1, "{removed:?}");
    }
    crew.await_view(&[0, 1, 2]).unwrap();
    crew.audit(&sink).unwrap();
}
