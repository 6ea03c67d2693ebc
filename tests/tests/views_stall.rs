//! Controllers that stand still, are killed, or are killed again and again, while their kernels answer: within the hang
//! limit nothing changes and the lease holds; beyond it the node goes, and what wakes up acts in nothing.

use heartbeat_tests::lab::crew::Crew;
use heartbeat_tests::lab::timely::{DELAY, VIEW};
use heartbeat_tests::lab::views::{pause_at_random, rounds};
use heartbeat_tests::lab::wait::starvation_or_skip;
use heartbeat_tests::lab::{Freezer, Options, Sink, Timely, monotonic_ns, safety};
use std::time::Duration;

const C: usize = 2;
/// Hang limit of the clusters here, s: a daemon starts within it on a busy machine too.
const HANG_S: u64 = 6;
/// Age counts from the last progress, which a controller proves every quarter of a second at the latest.
const PROGRESS: Duration = Duration::from_millis(250);

/// Three nodes that call a controller hung after [`HANG_S`].
fn crew() -> (Crew, Sink) {
    let mut crew = Crew::idle(3).unwrap();
    crew.cluster = crew.cluster.clone().with("hang_limit_s", HANG_S);
    let sink = crew.form().unwrap();
    (crew, sink)
}

/// A time below the hang limit, and mostly above the stall limit.
fn short(random: &mut heartbeat_tests::xdp::random::Random) -> Duration {
    Duration::from_millis(300 + random.below(HANG_S * 1000 / 2))
}

/// What `during` does to c changes no view and interrupts no lease, of nobody.
fn nothing_changes(crew: &mut Crew, sink: &Sink, during: impl FnOnce(&mut Crew)) {
    let (before, mark, from) = (crew.stands(0).unwrap().view, crew.mark().unwrap(), monotonic_ns());
    during(crew);
    assert_eq!(crew.await_view(&[0, 1, 2]).unwrap(), before, "no other view");
    let (acts, to) = (sink.acts(), monotonic_ns());
    for node in 0..3 {
        let breaks: Vec<_> = acts.breaks_of(node, from, to).collect();
        assert!(breaks.is_empty(), "node {node}: {breaks:?}");
        assert!(acts.last(node).unwrap() > to - 1_000_000_000, "node {node} acts");
    }
    for by in [0, 1] {
        assert!(crew.said(&mark, by, "node_removed").unwrap().is_empty());
    }
}

/// How long it takes from the moment in which a controller stands still until it is in no view: the hang limit, and no
/// longer than a dead machine from there.
fn hung(what: &str) -> Timely {
    let limit = Duration::from_secs(HANG_S);
    Timely::new(what, limit + VIEW).not_before(limit - PROGRESS - DELAY)
}

/// c is taken out as hung while `during` keeps it from running, in time and once by each of the others, and is awake again
/// afterwards: it acts in nothing, finds itself out and ends.
fn hangs(
    (crew, sink): (&mut Crew, &Sink),
    out: &mut Timely,
    during: impl FnOnce(&mut Crew),
    after: impl FnOnce(&mut Crew),
) {
    let (before, mark, from) = (crew.stands(0).unwrap().view, crew.mark().unwrap(), monotonic_ns());
    during(crew);
    let view = crew.await_view(&[0, 1]).unwrap();
    assert_eq!(Some(view), before.next());
    out.add(from, crew.all_installed(&mark, &[0, 1], view).unwrap()).unwrap();
    for by in [0, 1] {
        let removed = crew.await_said_of(&mark, by, "node_removed", C).unwrap();
        assert_eq!(removed["cause"], "hung", "{removed}");
    }
    let old = crew.incarnation(C).unwrap();
    // What is out may not act, though it does not know yet.
    sink.stopped(C).unwrap();
    after(crew);
    crew.await_view(&[0, 1, 2]).unwrap();
    assert!(crew.incarnation(C).unwrap() > old, "no silent resurrection");
    // It stopped before anybody took over, and waking up it did not even once act on what it knew.
    let acts = sink.acts();
    let taken = [0, 1].iter().filter_map(|node| acts.first_from(*node, view)).min().expect("the others act");
    let last = acts.of(C).filter(|one| one.act.token.incarnation == old).map(|one| one.last_ns).max();
    let last = last.expect("it acted while it was a member");
    safety::ensure(last < taken, || format!("it acted until {last}, the others from {taken} in {view:?}")).unwrap();
    for by in [0, 1] {
        let removed = crew.said(&mark, by, "node_removed").unwrap();
        assert_eq!(removed.len(), 1, "one removal, and nobody else's: {removed:?}");
    }
}

/// Nobody is removed, nothing is interrupted; the next controller takes over what its kernel has, which each of the others
/// sees once.
#[test]
fn fault_41_killed_and_restarted_it_goes_on_as_the_same_incarnation_under_the_same_lease() {
    let name = "fault_41_killed_and_restarted_it_goes_on_as_the_same_incarnation_under_the_same_lease";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 500);
    let (mut crew, sink) = crew();
    for _ in 0..count {
        let (old, mark) = (crew.incarnation(C).unwrap(), crew.mark().unwrap());
        nothing_changes(&mut crew, &sink, |crew| {
            pause_at_random(&mut random, Duration::from_millis(100));
            crew.take(C).kill().unwrap();
            pause_at_random(&mut random, Duration::from_millis(1000));
            crew.start(C, &Options::default()).unwrap();
        });
        assert_eq!(crew.incarnation(C).unwrap(), old);
        crew.await_said(&mark, C, "controller_adopted").unwrap();
        for by in [0, 1] {
            let new = crew.await_said_of(&mark, by, "controller_restarted", C).unwrap();
            assert_eq!(new["new_generation"].as_u64(), new["old_generation"].as_u64().map(|old| old + 1), "{new}");
            assert_eq!(crew.said(&mark, by, "controller_restarted").unwrap().len(), 1, "once");
        }
        crew.nobody_removed(&mark).unwrap();
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_41_killed_for_good_it_is_out_as_hung_and_comes_back_as_a_newer_incarnation() {
    let name = "fault_41_killed_for_good_it_is_out_as_hung_and_comes_back_as_a_newer_incarnation";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, _) = rounds(name, 200);
    let (mut crew, sink) = crew();
    let mut out = hung("killed for good, until it is in no view");
    for _ in 0..count {
        let after = |crew: &mut Crew| {
            // The start after the kill finds itself out; the next one joins.
            crew.start_at_once(C).unwrap();
        };
        hangs((&mut crew, &sink), &mut out, |crew| crew.take(C).kill().map(drop).unwrap(), after);
    }
    out.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_44_stopped_for_less_than_the_hang_limit_it_stays_and_acts() {
    let name = "fault_44_stopped_for_less_than_the_hang_limit_it_stays_and_acts";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 500);
    let (mut crew, sink) = crew();
    for _ in 0..count {
        let length = short(&mut random);
        nothing_changes(&mut crew, &sink, |crew| {
            crew.daemon(C).stop().unwrap();
            std::thread::sleep(length);
            crew.daemon(C).resume().unwrap();
        });
    }
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_45_stopped_for_longer_it_is_out_and_acts_in_nothing_when_it_wakes() {
    let name = "fault_45_stopped_for_longer_it_is_out_and_acts_in_nothing_when_it_wakes";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 500);
    let (mut crew, sink) = crew();
    let mut out = hung("stopped, until it is in no view");
    for _ in 0..count {
        let length = Duration::from_millis(random.below(500));
        let mark = crew.mark().unwrap();
        hangs(
            (&mut crew, &sink),
            &mut out,
            |crew| crew.daemon(C).stop().unwrap(),
            |crew| {
                std::thread::sleep(length);
                crew.daemon(C).resume().unwrap();
                crew.await_left_out(C).unwrap();
                let said = crew.since(&mark, C).unwrap();
                assert!(said.iter().any(|event| event["event"] == "fenced" && event["id"] == 1118), "{said:?}");
                crew.start_at_once(C).unwrap();
            },
        );
    }
    out.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_46_frozen_it_is_as_stopped() {
    let name = "fault_46_frozen_it_is_as_stopped";
    if !starvation_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 500);
    let (mut crew, sink) = crew();
    let freezer = Freezer::new(&crew.lab, "freeze").unwrap();
    freezer.add(crew.daemon(C).pid()).unwrap();
    for _ in 0..count {
        let length = short(&mut random);
        nothing_changes(&mut crew, &sink, |_| {
            freezer.freeze().unwrap();
            std::thread::sleep(length);
            freezer.thaw().unwrap();
        });
    }
    let mut out = hung("frozen, until it is in no view");
    hangs((&mut crew, &sink), &mut out, |_| freezer.freeze().unwrap(), |_| freezer.thaw().unwrap());
    out.judge().unwrap();
    crew.audit(&sink).unwrap();
}
