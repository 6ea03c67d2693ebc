//! Faults of what a network does to frames (loss, delay, order, repetition, damage, want of room) under real daemons:
//! each is shown to have happened, and then to have led to what is promised. It tests no link that goes away.

use heartbeat_tests::lab::play::{name, number, pause};
use heartbeat_tests::lab::relay::{Rules, Way};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Direction, Echo, Fault, Lab, Play, Port, Spec};
use std::time::Duration;

const A: Port = Port { node: 0, network: 0 };
const B: Port = Port { node: 1, network: 0 };
/// The heartbeat port, to which relays' rules are narrowed.
const PORT: Option<u16> = Some(heartbeat_common::frame::PORT);

fn relayed(port: Port) -> Play {
    Play::lan(Spec { relays: vec![(port, 11)], ..Spec::new(2, 1) }).unwrap()
}

#[test]
fn fault_06_one_way_loss_makes_one_verdict_and_no_ping_pong() {
    if !root_or_skip("fault_06_one_way_loss_makes_one_verdict_and_no_ping_pong") {
        return;
    }
    let play = Play::lan(Spec::new(3, 1)).unwrap();
    let mark = play.mark().unwrap();
    play.lab.inject(&[Fault::OneWay(A, B)]).unwrap();
    play.wait_said(&mark, 1, "node_down", 0).unwrap();
    // Nothing shows a whether its program or the network loses its answers: it is told, and no mode is left for it.
    play.wait_event(&mark, 0, "echoes_lost", |event| event["node"] == "b").unwrap();
    pause(3000);
    assert_eq!(play.said(&mark, 0, "step_down_mode").unwrap(), 0);
    assert!(play.lab.dropped().unwrap() > 20, "nothing was lost on the way from a to b");
    // b hears nothing of a; a still hears b's probes, and so does not call b dead; c hears both.
    let verdicts = play.verdicts(&mark).unwrap();
    assert_eq!(verdicts, ["b: node_down a"]);
    assert_eq!(play.peer(0, 1).unwrap()["state"], "up");
    let before = number(&play.path(0, 1, 0).unwrap(), "echoes").unwrap();
    pause(300);
    assert_eq!(number(&play.path(0, 1, 0).unwrap(), "echoes").unwrap(), before, "no echo can have come to a");
    play.lab.heal().unwrap();
    play.wait_said(&mark, 1, "node_up", 0).unwrap();
    play.wait_up(&[0, 1, 2]).unwrap();
    assert_eq!(play.verdicts(&mark).unwrap(), ["b: node_down a", "b: node_up a"]);
}

#[test]
fn one_way_loss_from_the_start_is_not_laid_to_the_program() {
    if !root_or_skip("one_way_loss_from_the_start_is_not_laid_to_the_program") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    // b could not ask for a's address: it knows it.
    let link = lab.node(0).run("ip", &["-json", "link", "show", "net1"]).unwrap();
    let link: serde_json::Value = serde_json::from_str(&link).unwrap();
    let known =
        format!("neighbour replace 10.77.1.1 dev net1 lladdr {} nud permanent", link[0]["address"].as_str().unwrap());
    lab.node(1).ip(&known).unwrap();
    lab.inject(&[Fault::OneWay(A, B)]).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let play = Play::start(lab, cluster).unwrap();
    let mark = play.mark().unwrap();
    let before = play.counter(0, "answered_handshake").unwrap();
    pause(2500);
    let greeted = play.counter(0, "answered_handshake").unwrap() - before;
    assert!(greeted >= 15, "only {greeted} greetings came to a");
    assert!(play.lab.dropped().unwrap() > 20, "nothing was lost on the way from a to b");
    assert_eq!(play.said(&mark, 0, "echoes_lost").unwrap(), 0);
    assert_eq!(play.fast_path(0, "net1").unwrap()["mode"], "native");
    play.lab.heal().unwrap();
    play.wait_up(&[0, 1]).unwrap();
    pause(1500);
    assert_eq!(play.fast_path(0, "net1").unwrap()["mode"], "native");
}

#[test]
fn fault_09_random_loss_makes_no_more_removals_than_chance() {
    if !root_or_skip("fault_09_random_loss_makes_no_more_removals_than_chance") {
        return;
    }
    let lab = Lab::new(Spec::new(3, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("same_subnet_delay_ms", 50).with("same_subnet_threshold", 10);
    let play = Play::up(lab, cluster).unwrap();
    let mark = play.mark().unwrap();
    let loss =
        |per_mille| (0..3).map(move |node| Fault::Loss(Port { node, network: 0 }, Direction::FromNode, per_mille));
    // A probe or its echo is lost with 1 - (1 - p)^2, ten in a row and all that the peer sends besides: at 10 % less
    // than 6e-8 a probe, so that 1000 probes lead to a removal once in 10^4 runs. 10 % is lost at one end of each way.
    for per_mille in [10, 100] {
        play.lab.heal().unwrap();
        play.lab.inject(&loss(per_mille).collect::<Vec<_>>()).unwrap();
        pause(4000);
        let (lost, least) = (play.lab.dropped().unwrap(), u64::from(per_mille) * 2 / 5);
        assert!(lost > least, "{lost} frames lost at {per_mille} of 1000");
    }
    assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
    let shown = play.path(0, 1, 0).unwrap();
    assert!(shown["loss_percent"].as_f64().unwrap() > 1.0, "the loss is shown: {shown}");
    play.lab.heal().unwrap();
    play.wait_up(&[0, 1, 2]).unwrap();
}

#[test]
fn fault_10_a_burst_shorter_than_the_threshold_is_no_death() {
    if !root_or_skip("fault_10_a_burst_shorter_than_the_threshold_is_no_death") {
        return;
    }
    let play = Play::lan(Spec::new(3, 1)).unwrap();
    let (mut tried, mut good, mut lost_paths) = (0, 0, 0);
    while good < 4 {
        tried += 1;
        assert!(tried < 20, "no burst could be ended in time");
        let mark = play.mark().unwrap();
        let cut = play.lab.cut_all(2).unwrap();
        pause(270);
        let dropped = play.lab.dropped().unwrap();
        let healed = play.lab.heal().unwrap();
        pause(700);
        // Four delays is the bound of the promise; a burst that this machine made longer proves nothing.
        if healed.after_ns - cut.before_ns < 395_000_000 {
            good += 1;
            assert!(dropped > 5, "only {dropped} frames were lost");
            assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
            lost_paths += play.said(&mark, 0, "path_lost").unwrap();
        }
        play.wait_up(&[0, 1, 2]).unwrap();
    }
    assert!(lost_paths > 0, "not one burst was long enough to be noticed at all");
}

#[test]
fn fault_12_a_delay_is_measured_and_a_late_echo_is_no_life_and_no_death() {
    if !root_or_skip("fault_12_a_delay_is_measured_and_a_late_echo_is_no_life_and_no_death") {
        return;
    }
    let play = relayed(B);
    let relay = play.lab.relay(B).unwrap();
    let mark = play.mark().unwrap();
    let delayed = |ms| Rules { delay: Duration::from_millis(ms), only_port: PORT, ..Rules::default() };
    // Half a delay: every echo is within its time.
    relay.set(Way::Out, delayed(50));
    pause(2500);
    let half = play.path(0, 1, 0).unwrap();
    let rtt = half["rtt_us"]["p90"].as_f64().unwrap();
    assert!((32_000.0..135_000.0).contains(&rtt), "{half}");
    assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
    // Twice the delay: no echo is, and only b's own probes say that it lives.
    relay.set(Way::Out, delayed(200));
    pause(800);
    let before = play.path(0, 1, 0).unwrap();
    pause(2000);
    let after = play.path(0, 1, 0).unwrap();
    let grown = |field: &str| number(&after, field).unwrap() - number(&before, field).unwrap();
    assert_eq!(grown("echoes"), 0, "a late echo counted as timely");
    assert!(grown("late_echoes") >= 10, "{before} {after}");
    assert!(grown("probes_answered") >= 10);
    assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
    relay.set(Way::Out, Rules::default());
    play.wait_up(&[0, 1]).unwrap();
}

#[test]
fn fault_12_late_echoes_alone_do_not_keep_a_peer_alive() {
    if !root_or_skip("fault_12_late_echoes_alone_do_not_keep_a_peer_alive") {
        return;
    }
    let mut play = relayed(B);
    // b's controller stops, so that its kernel's echoes are all there is of b; then these become late.
    play.daemons[1].as_mut().unwrap().stop().unwrap();
    let mark = play.mark().unwrap();
    play.wait_said(&mark, 0, "node_stalled", 1).unwrap();
    assert_eq!(play.said(&mark, 0, "node_down").unwrap(), 0);
    let relay = play.lab.relay(B).unwrap();
    let delay = Duration::from_millis(250);
    relay.set(Way::Out, Rules { delay, only_port: PORT, ..Rules::default() });
    play.wait_said(&mark, 0, "node_down", 1).unwrap();
    let shown = play.path(0, 1, 0).unwrap();
    pause(500);
    let later = play.path(0, 1, 0).unwrap();
    assert!(number(&later, "late_echoes").unwrap() > number(&shown, "late_echoes").unwrap(), "{shown} {later}");
    relay.set(Way::Out, Rules::default());
    play.wait_said(&mark, 0, "node_up", 1).unwrap();
    play.daemons[1].as_mut().unwrap().resume().unwrap();
    play.wait_up(&[0, 1]).unwrap();
}

#[test]
fn fault_13_reordered_frames_are_each_judged_by_their_own_probe() {
    if !root_or_skip("fault_13_reordered_frames_are_each_judged_by_their_own_probe") {
        return;
    }
    let play = relayed(B);
    let relay = play.lab.relay(B).unwrap();
    let mark = play.mark().unwrap();
    let (jitter, reorder_by) = (Duration::from_millis(40), Duration::from_millis(250));
    let rules = Rules { jitter, reorder_per_mille: 300, reorder_by, only_port: PORT, ..Rules::default() };
    let before = play.path(0, 1, 0).unwrap();
    relay.set(Way::Out, rules);
    relay.set(Way::In, Rules { jitter, only_port: PORT, ..Rules::default() });
    pause(4000);
    let after = play.path(0, 1, 0).unwrap();
    let grown = |field: &str| number(&after, field).unwrap() - number(&before, field).unwrap();
    assert!(relay.counts().reordered > 10, "{:?}", relay.counts());
    assert!(grown("late_echoes") >= 3, "echoes that were held for two delays are late: {after}");
    assert!(grown("echoes") >= 10, "the others are timely: {after}");
    assert!(grown("echoes") + grown("late_echoes") <= grown("departed") + 3, "an echo counted twice: {after}");
    assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
}

#[test]
fn fault_14_a_duplicate_is_counted_and_changes_nothing() {
    if !root_or_skip("fault_14_a_duplicate_is_counted_and_changes_nothing") {
        return;
    }
    let play = Play::lan(Spec::new(2, 1)).unwrap();
    let mark = play.mark().unwrap();
    let (path, drops) = (play.path(0, 1, 0).unwrap(), play.counter(0, "drop_replay").unwrap());
    let sent = number(&play.path(1, 0, 0).unwrap(), "departed").unwrap();
    play.lab.inject(&[Fault::Duplicate(A)]).unwrap();
    pause(2500);
    let copies = play.lab.duplicated().unwrap();
    play.lab.heal().unwrap();
    let dropped = play.counter(0, "drop_replay").unwrap() - drops;
    assert!(copies > 30, "only {copies} frames were doubled");
    // Between the reading of the count and the end of the doubling a few more are made.
    assert!(dropped + 4 >= copies * 9 / 10 && dropped <= copies + 4, "{dropped} dropped of {copies} copies");
    let now = play.path(0, 1, 0).unwrap();
    let grown = |field: &str| number(&now, field).unwrap() - number(&path, field).unwrap();
    let asked = number(&play.path(1, 0, 0).unwrap(), "departed").unwrap() - sent;
    assert!(grown("probes_answered") <= asked + 1, "a probe was answered twice: {now}");
    assert!(grown("echoes") <= grown("departed") + 1, "an echo counted twice: {now}");
    assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
}

#[test]
fn fault_15_a_damaged_frame_is_dropped_and_counted() {
    if !root_or_skip("fault_15_a_damaged_frame_is_dropped_and_counted") {
        return;
    }
    let play = relayed(A);
    let relay = play.lab.relay(A).unwrap();
    let mark = play.mark().unwrap();
    let (drops, tags) = (play.drops(1).unwrap(), play.counter(1, "drop_tag").unwrap());
    let before = play.peer(1, 0).unwrap();
    let corrupted = relay.counts().corrupted;
    relay.set(Way::Out, Rules { corrupt_per_mille: 300, only_port: PORT, ..Rules::default() });
    pause(5000);
    relay.set(Way::Out, Rules::default());
    pause(200);
    let corrupted = relay.counts().corrupted - corrupted;
    let dropped = play.drops(1).unwrap() - drops;
    assert!(corrupted >= 15, "only {corrupted} frames were damaged");
    // What lies outside the tag (a checksum, the identification, the class of service) may be damaged unnoticed.
    assert!(dropped >= corrupted / 2, "{dropped} dropped of {corrupted} damaged");
    assert!(play.counter(1, "drop_tag").unwrap() > tags);
    assert_eq!(play.peer(1, 0).unwrap()["incarnation"], before["incarnation"]);
    assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
}

#[test]
fn fault_16_a_link_of_64_kbit_carries_two_nodes() {
    if !root_or_skip("fault_16_a_link_of_64_kbit_carries_two_nodes") {
        return;
    }
    let play = Play::lan(Spec::new(2, 1)).unwrap();
    let echo = Echo::start(&play.lab, B, false).unwrap();
    let gap = Duration::from_millis(1);
    assert_eq!(echo.ask(&play.lab, 0, 5, gap, 100).unwrap().len(), 5);
    let mark = play.mark().unwrap();
    for port in [A, B] {
        play.lab.set_rate(port, Some(64)).unwrap();
    }
    let flood = echo.ask(&play.lab, 0, 30, gap, 1000).unwrap().len();
    assert!(flood < 15, "{flood} of 30 kB passed a link of 64 kbit/s at once");
    let before = play.path(0, 1, 0).unwrap();
    pause(3000);
    let after = play.path(0, 1, 0).unwrap();
    let grown = |field: &str| number(&after, field).unwrap() - number(&before, field).unwrap();
    assert!(grown("echoes") * 10 >= grown("departed") * 9, "{before} {after}");
    assert_eq!(play.verdicts(&mark).unwrap(), Vec::<String>::new());
}

#[test]
fn the_ladder_of_2003_climbs_at_two_four_and_six_ticks() {
    if !root_or_skip("the_ladder_of_2003_climbs_at_two_four_and_six_ticks") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 2)).unwrap();
    let cluster = Cluster::new(&lab, "wsfc-2003");
    let play = Play::up(lab, cluster).unwrap();
    let mark = play.mark().unwrap();
    let cut = play.lab.cut_network(0).unwrap();
    let failed = play.wait_event(&mark, 0, "path_failed", |event| event["network"] == "net1").unwrap();
    let said = play.since(&mark, 0).unwrap();
    let at = |id: u64| number(said.iter().find(|event| event["id"] == id).unwrap(), "at_ns").unwrap();
    let ticks = |from: u64, to: u64| (to - from) as f64 / 1.2e9;
    let (lost, unreachable, failed_at) = (at(1123), at(1126), number(&failed, "at_ns").unwrap());
    // Two ticks count from the last answer, at most one tick before the cut.
    assert!((0.9..3.1).contains(&ticks(cut.before_ns, lost)), "lost after {} ticks", ticks(cut.before_ns, lost));
    assert!((1.9..2.1).contains(&ticks(lost, unreachable)), "unreachable {} ticks later", ticks(lost, unreachable));
    assert!((1.9..2.1).contains(&ticks(unreachable, failed_at)), "failed {} ticks on", ticks(unreachable, failed_at));
    assert!(said.iter().all(|event| !name(event).starts_with("node_")), "{said:?}");
}
