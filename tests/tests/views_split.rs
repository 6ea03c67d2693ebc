//! Networks that fall apart into groups that do not hear each other: who goes on, who stops, and that it stops before
//! anybody takes over. Real daemons, one clock; a sink takes what the nodes do by the tokens of their pages.

use heartbeat_common::view::Order;
use heartbeat_tests::lab::crew::{Crew, Mark};
use heartbeat_tests::lab::timely::{CONVERGENCE, DETECTION, LEASE, VIEW};
use heartbeat_tests::lab::views::{FORMING, LEFT_OUT, Stands, pause_at_random, rounds};
use heartbeat_tests::lab::wait::{root_or_skip, wait_every};
use heartbeat_tests::lab::{Sink, Span, Timely, safety, wait_for};
use heartbeat_tests::xdp::random::Random;
use std::time::Duration;

/// How long it takes who has no majority to act no more: its lease, by itself.
struct Inactive(Timely);

impl Inactive {
    fn new() -> Self {
        Self(Timely::new("parted, until who has no majority acts no more", LEASE))
    }

    /// Takes a round: each of `nodes` has stopped by now.
    fn add(&mut self, cut: Span, sink: &Sink, nodes: &[usize]) {
        let acts = sink.acts();
        let last = nodes.iter().map(|node| acts.last(*node).expect("it acted before")).max();
        // The newest date that a lease can have is of a probe sent before the cut.
        self.0.add(cut.after_ns, last.unwrap()).unwrap();
    }
}

/// What is promised where a majority stays together: a view of its own, and that the others are inactive, both in time.
struct Parted {
    view: Timely,
    inactive: Inactive,
}

impl Parted {
    fn new() -> Self {
        let view = Timely::new("parted, until the majority has a view of its own", VIEW);
        Self { view, inactive: Inactive::new() }
    }

    fn judge(&self) {
        self.view.judge().unwrap();
        self.inactive.0.judge().unwrap();
    }
}

/// Waits until a node may not act, and says so.
fn stops(crew: &Crew, mark: &Mark, node: usize) -> Stands {
    let stands = crew.await_stands(node, "to stop acting", |stands| !stands.acting).unwrap();
    let lost = crew.await_said(mark, node, "quorum_lost").unwrap();
    assert_eq!(lost["id"], 1177, "{lost}");
    stands
}

/// Parts the nodes of a cluster at a random moment, `gone` against the rest, and lets them come together again.
fn part((crew, sink): (&mut Crew, &Sink), gone: &[usize], random: &mut Random, parted: &mut Parted) {
    let all: Vec<usize> = (0..crew.lab.spec().nodes.len()).collect();
    let stay: Vec<usize> = all.iter().copied().filter(|node| !gone.contains(node)).collect();
    let before = crew.stands(stay[0]).unwrap().view;
    let mark = crew.mark().unwrap();
    pause_at_random(random, Duration::from_millis(200));
    let cut = crew.lab.partition(&[gone, &stay]).unwrap();
    let view = crew.await_view(&stay).unwrap();
    assert_eq!(Some(view), before.next(), "one change of view, whoever went");
    parted.view.add(cut.before_ns, crew.all_installed(&mark, &stay, view).unwrap()).unwrap();
    for node in gone {
        stops(crew, &mark, *node);
        for by in &stay {
            let removed = crew.await_said_of(&mark, *by, "node_removed", *node).unwrap();
            assert_eq!((&removed["id"], &removed["cause"]), (&1135.into(), &"down".into()), "{removed}");
        }
    }
    sink.acts().gave_way(gone, &stay, view).unwrap();
    parted.inactive.add(cut, sink, gone);
    crew.lab.heal().unwrap();
    crew.await_view(&all).unwrap();
    for node in &stay {
        assert_eq!(crew.said(&mark, *node, "quorum_lost").unwrap().len(), 0, "the majority never stops");
    }
}

#[test]
fn fault_01_of_three_and_two_the_two_stop_before_the_three_take_over() {
    let name = "fault_01_of_three_and_two_the_two_stop_before_the_three_take_over";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(5).unwrap();
    let mut parted = Parted::new();
    for _ in 0..count {
        let first = random.below(5) as usize;
        let second = (first + 1 + random.below(4) as usize) % 5;
        let mut gone = [first, second];
        gone.sort_unstable();
        part((&mut crew, &sink), &gone, &mut random, &mut parted);
    }
    parted.judge();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_05_one_node_cut_off_stops_before_the_others_take_over_and_joins_again() {
    let name = "fault_05_one_node_cut_off_stops_before_the_others_take_over_and_joins_again";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut parted = Parted::new();
    for _ in 0..count {
        let gone = random.below(3) as usize;
        part((&mut crew, &sink), &[gone], &mut random, &mut parted);
    }
    parted.judge();
    let acts = crew.audit(&sink).unwrap();
    println!("{} acts, the sink's longest gap was {} us", acts.count, acts.longest_gap_ns / 1000);
}

#[test]
fn fault_03_two_and_two_without_a_witness_both_stop_and_say_why_and_go_on_when_they_meet() {
    let name = "fault_03_two_and_two_without_a_witness_both_stop_and_say_why_and_go_on_when_they_meet";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let mut crew = Crew::idle(4).unwrap();
    // With votes that follow membership an odd number of them is kept, and one side goes on: see the next test.
    crew.cluster = crew.cluster.clone().with("dynamic_quorum", false);
    let sink = crew.form().unwrap();
    let view = crew.stands(0).unwrap().view;
    let mut inactive = Inactive::new();
    for _ in 0..count {
        let mark = crew.mark().unwrap();
        let other = 1 + random.below(3) as usize;
        let one: Vec<usize> = vec![0, other];
        let two: Vec<usize> = (1..4).filter(|node| *node != other).collect();
        pause_at_random(&mut random, Duration::from_millis(200));
        let cut = crew.lab.partition(&[&one, &two]).unwrap();
        for (side, missing) in [(&one, &two), (&two, &one)] {
            for node in side {
                stops(&crew, &mark, *node);
                let names: Vec<String> = missing.iter().map(|node| crew.name(*node).to_owned()).collect();
                crew.await_stands(*node, "to wait for the others", |stands| stands.waits_for == names).unwrap();
                let waits = crew.await_said(&mark, *node, "waits_for_votes").unwrap();
                assert_eq!(
                    (&waits["id"], &waits["votes_needed"], &waits["votes_available"]),
                    (&5398.into(), &3.into(), &2.into()),
                    "{waits}"
                );
            }
        }
        inactive.add(cut, &sink, &[0, 1, 2, 3]);
        crew.lab.heal().unwrap();
        assert_eq!(crew.await_view(&[0, 1, 2, 3]).unwrap(), view, "nothing had to change");
        // It is said once in ten seconds that a regroup waits: the next round wants to hear it again.
        std::thread::sleep(Duration::from_secs(10));
    }
    inactive.0.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_03_where_votes_follow_membership_exactly_one_of_two_halves_goes_on() {
    let name = "fault_03_where_votes_follow_membership_exactly_one_of_two_halves_goes_on";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let mut crew = Crew::idle(4).unwrap();
    crew.cluster = crew.cluster.clone().with("lower_quorum_priority_node", "\"b\"");
    let sink = crew.form().unwrap();
    let mut parted = Parted::new();
    for _ in 0..count {
        // b has no vote: whoever is with b stops.
        let with = [0, 2, 3][random.below(3) as usize];
        let mut gone = [1, with];
        gone.sort_unstable();
        part((&mut crew, &sink), &gone, &mut random, &mut parted);
    }
    parted.judge();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_04_of_two_and_two_and_one_nobody_goes_on() {
    let name = "fault_04_of_two_and_two_and_one_nobody_goes_on";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(5).unwrap();
    let view = crew.stands(0).unwrap().view;
    let mut inactive = Inactive::new();
    for _ in 0..count {
        let mark = crew.mark().unwrap();
        let alone = random.below(5) as usize;
        let rest: Vec<usize> = (1..5).map(|step| (alone + step) % 5).collect();
        pause_at_random(&mut random, Duration::from_millis(200));
        let cut = crew.lab.partition(&[&[alone], &rest[..2], &rest[2..]]).unwrap();
        (0..5).for_each(|node| drop(stops(&crew, &mark, node)));
        std::thread::sleep(DETECTION * 2);
        (0..5).for_each(|node| drop(crew.stands_idle(node).unwrap()));
        inactive.add(cut, &sink, &[0, 1, 2, 3, 4]);
        crew.lab.heal().unwrap();
        assert_eq!(crew.await_view(&[0, 1, 2, 3, 4]).unwrap(), view, "nothing was decided");
    }
    inactive.0.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_07_two_that_do_not_hear_each_other_are_parted_once_and_by_rule() {
    let name = "fault_07_two_that_do_not_hear_each_other_are_parted_once_and_by_rule";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(3).unwrap();
    let mut stable = Timely::new("two that do not hear each other, until all three know who goes", CONVERGENCE);
    for _ in 0..count {
        let hub = random.below(3) as usize;
        let (one, two) = ((hub + 1) % 3, (hub + 2) % 3);
        // Connected as well as each other: the lower ids stay.
        let (stays, goes) = (one.min(two), one.max(two));
        let mut kept = [hub, stays];
        kept.sort_unstable();
        let (before, mark) = (crew.stands(0).unwrap().view, crew.mark().unwrap());
        pause_at_random(&mut random, Duration::from_millis(200));
        let cut = crew.lab.partition(&[&[one], &[two]]).unwrap();
        let view = crew.await_view(&kept).unwrap();
        assert_eq!(Some(view), before.next());
        let removed = crew.await_said_of(&mark, hub, "node_removed", goes).unwrap();
        assert!(["not_connected", "down"].contains(&removed["cause"].as_str().unwrap()), "{removed}");
        let installed = crew.all_installed(&mark, &kept, view).unwrap();
        let found = crew.await_return(&mark, goes).unwrap();
        stable.add(cut.before_ns, installed.max(found)).unwrap();
        // It hears the hub alone, and so does not come in, however long it asks.
        std::thread::sleep(DETECTION * 4);
        assert_eq!(crew.await_view(&kept).unwrap(), view, "no ping-pong");
        sink.acts().gave_way(&[goes], &kept, view).unwrap();
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1, 2]).unwrap();
    }
    stable.judge().unwrap();
    crew.audit(&sink).unwrap();
}

#[test]
fn fault_08_in_a_ring_in_which_each_hears_its_neighbours_alone_nobody_is_sent_away() {
    let name = "fault_08_in_a_ring_in_which_each_hears_its_neighbours_alone_nobody_is_sent_away";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(5).unwrap();
    let view = crew.stands(0).unwrap().view;
    for _ in 0..count {
        let mark = crew.mark().unwrap();
        pause_at_random(&mut random, Duration::from_millis(200));
        // All in one moment: between two of these cuts there are three that all hear each other, and may go on alone.
        crew.lab.part(&[0, 1, 2, 3, 4].map(|node| (node, (node + 2) % 5))).unwrap();
        // Three that all hear each other do not exist, so nobody can do without the others, and all say that they wait.
        for node in 0..5 {
            let waits = |stands: &Stands| stands.stage == "closing" && !stands.waits_for.is_empty();
            let told = |name: &str| !crew.said(&mark, node, name).unwrap().is_empty();
            if !told("no_connected_majority") {
                crew.await_stands(node, "to wait for those that it does not hear", waits).unwrap();
            }
        }
        std::thread::sleep(DETECTION * 2);
        for node in 0..5 {
            let stands = crew.stands(node).unwrap();
            assert!(stands.acting && stands.view == view, "each hears a majority's grants: {stands:?}");
        }
        crew.lab.heal().unwrap();
        assert_eq!(crew.await_view(&[0, 1, 2, 3, 4]).unwrap(), view);
        wait_for(Duration::from_secs(10), "all to be connected", || crew.all_up()).unwrap();
    }
    crew.audit(&sink).unwrap();
}

/// Whose vote is the one of two goes on, whoever that is: in time, and after the other one has stopped, which it does within
/// its lease. The other one fences nobody.
#[test]
fn fault_109_of_two_alone_exactly_one_goes_on_each_time() {
    let name = "fault_109_of_two_alone_exactly_one_goes_on_each_time";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(2).unwrap();
    let mut parted = Timely::new("two parted, until one has a view of its own", VIEW);
    for _ in 0..count {
        // Of an even number one loses its vote.
        let (stays, goes) = if random.below(2) == 0 { (0, 1) } else { (1, 0) };
        let set = crew.daemon(0).ctl(&["set", "lower_quorum_priority_node", crew.name(goes)]).unwrap();
        assert!(set.status.success(), "{set:?}");
        let (before, mark) = (crew.await_view(&[0, 1]).unwrap(), crew.mark().unwrap());
        pause_at_random(&mut random, Duration::from_millis(200));
        let cut = crew.lab.partition(&[&[0], &[1]]).unwrap();
        let view = crew.await_view(&[stays]).unwrap();
        assert_eq!(Some(view), before.next());
        parted.add(cut.before_ns, crew.all_installed(&mark, &[stays], view).unwrap()).unwrap();
        stops(&crew, &mark, goes);
        sink.acts().gave_way(&[goes], &[stays], view).unwrap();
        let last = sink.acts().last(goes).unwrap();
        assert!(last <= cut.after_ns + LEASE.as_nanos() as u64, "it acted {} ns after the cut", last - cut.after_ns);
        let fenced = crew.said(&mark, goes, "fence_sent").unwrap();
        safety::ensure(fenced.is_empty(), || format!("a minority fences nobody: {fenced:?}")).unwrap();
        crew.lab.heal().unwrap();
        crew.await_view(&[0, 1]).unwrap();
    }
    parted.judge().unwrap();
    let acts = crew.audit(&sink).unwrap();
    assert!(acts.of(0).count() > 0 && crew.runs(1));
}

/// The node that is out ended for that; the other one acts alone, and acted only once that one had stopped.
fn one_is_left(crew: &mut Crew, sink: &Sink, before: Order) -> usize {
    let goes = wait_every(Duration::from_millis(20), FORMING, "one of two to end", || {
        let ended = [0, 1].map(|node| crew.ended(node).unwrap());
        match ended {
            [Some(_), Some(_)] => Err("both did".to_owned()),
            [None, None] => Err("none did".to_owned()),
            [Some(status), None] => Ok((0, status)),
            [None, Some(status)] => Ok((1, status)),
        }
    });
    let (goes, status) = goes.unwrap();
    let stays = 1 - goes;
    assert_eq!(status.code(), Some(LEFT_OUT), "{status}");
    drop(crew.take(goes));
    let view = crew.await_view(&[stays]).unwrap();
    assert_eq!(Some(view), before.next(), "one was asked for in vain");
    sink.acts().gave_way(&[goes], &[stays], view).unwrap();
    // Whoever is left is not ended by what the other one still asked for.
    crew.stays(&[stays], view, DETECTION * 2).unwrap();
    stays
}

#[test]
fn fault_109_of_two_that_are_told_to_fence_each_other_at_once_exactly_one_is_left() {
    let name = "fault_109_of_two_that_are_told_to_fence_each_other_at_once_exactly_one_is_left";
    if !root_or_skip(name) {
        return;
    }
    let (count, mut random) = rounds(name, 1000);
    let (mut crew, sink) = Crew::formed(2).unwrap();
    let mut left = [0, 0];
    for _ in 0..count {
        let before = crew.await_view(&[0, 1]).unwrap();
        let apart = Duration::from_micros(random.below(20_000));
        let first = random.below(2) as usize;
        let orders = std::thread::scope(|scope| {
            let order = |by: usize| {
                let about = crew.name(1 - by);
                std::thread::sleep(if by == first { Duration::ZERO } else { apart });
                crew.daemon(by).ctl(&["fence", about, "lab"]).unwrap()
            };
            let (one, other) = (scope.spawn(move || order(0)), scope.spawn(move || order(1)));
            [one.join().unwrap(), other.join().unwrap()]
        });
        assert!(orders.iter().any(|order| order.status.success()), "{orders:?}");
        let stays = one_is_left(&mut crew, &sink, before);
        left[stays] += 1;
        crew.start_at_once(1 - stays).unwrap();
        crew.await_view(&[0, 1]).unwrap();
    }
    println!("{name}: a was left {} times, b {}", left[0], left[1]);
    crew.audit(&sink).unwrap();
}
