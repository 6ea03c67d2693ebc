//! Faults of what others put onto the wire (floods, other clusters, other keys, the same identity twice, old frames)
//! and of very many peers, under real daemons. It forges no tag and guesses no key.

use heartbeat_tests::lab::play::{PATIENCE, number, pause};
use heartbeat_tests::lab::relay::{Recorded, Way};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Daemon, Lab, Mark, Options, Play, Port, Spec, wait_for};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const B: Port = Port { node: 1, network: 0 };
const NOTHING: Vec<String> = Vec::new();

/// Processor time that a daemon has used.
fn cpu(daemon: &Daemon) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Lines in a daemon's log.
fn lines(daemon: &Daemon) -> usize {
    daemon.log().lines().count()
}

#[test]
fn fault_40_a_flood_costs_the_controller_nothing_and_kills_nobody() {
    if !root_or_skip("fault_40_a_flood_costs_the_controller_nothing_and_kills_nobody") {
        return;
    }
    let play = Play::lan(Spec::new(3, 1)).unwrap();
    let socket = play.lab.node(2).enter(|| UdpSocket::bind(("10.77.1.3", 0))).unwrap().unwrap();
    let victim = play.daemon(0).unwrap();
    let idle = cpu(victim);
    pause(3000);
    let idle = cpu(victim) - idle;
    let (mark, before) = (play.mark().unwrap(), play.drops(0).unwrap());
    let log = lines(victim);
    let busy = cpu(victim);
    let end = Instant::now() + Duration::from_secs(3);
    let mut sent = 0_u64;
    while Instant::now() < end {
        for _ in 0..200 {
            sent += u64::from(socket.send_to(&[0x42; 144], ("10.77.1.1", 3343)).is_ok());
            // The other half is on a port of nobody's.
            let _ = socket.send_to(&[0x42; 144], ("10.77.1.1", 9));
        }
    }
    let busy = cpu(victim) - busy;
    let dropped = play.drops(0).unwrap() - before;
    println!("{sent} frames in 3 s on the heartbeat port, {dropped} dropped; controller {busy:?}, idle {idle:?}");
    assert!(sent > 10_000 && dropped > 10_000, "{sent} sent, {dropped} dropped");
    // 5 % of one processor above what it needs anyway.
    assert!(busy < idle + Duration::from_millis(150), "{busy:?} under the flood, {idle:?} without");
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
    assert!(lines(victim) - log < 20, "{} lines of log", lines(victim) - log);
    play.wait_up(&[0, 1, 2]).unwrap();
}

/// A cluster of which node c is started with something of its own; a and b must be up, and c must stay outside.
fn outsider(change: impl FnOnce(&mut Cluster), counter: &str) {
    let lab = Lab::new(Spec::new(3, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let mut other = cluster.clone();
    change(&mut other);
    let mut play = Play::idle(lab, cluster);
    play.launch(0, &Options::default()).unwrap();
    play.launch(1, &Options::default()).unwrap();
    play.wait_up(&[0, 1]).unwrap();
    play.daemons[2] = Some(Daemon::start(&play.lab, 2, &other, &Options::default()).unwrap());
    let (mark, before) = (play.mark().unwrap(), play.counter(0, counter).unwrap());
    let log = lines(play.daemon(0).unwrap());
    pause(3000);
    let counted = play.counter(0, counter).unwrap() - before;
    assert!(counted >= 15, "{counted} of c's 30 probes counted as {counter}");
    for node in [0, 1] {
        assert!(play.peer(node, 2).unwrap()["incarnation"].is_null(), "c was believed");
        assert!(play.peer(2, node).unwrap()["incarnation"].is_null(), "c believed an answer");
    }
    let about_each_other = |line: &String| {
        line.starts_with("a: ") && line.ends_with(" b") || line.starts_with("b: ") && line.ends_with(" a")
    };
    let verdicts = play.verdicts(&mark).unwrap();
    assert!(!verdicts.iter().any(about_each_other), "{verdicts:?}");
    assert!(!verdicts.iter().any(|line| line.contains("node_up")), "{verdicts:?}");
    let log = lines(play.daemon(0).unwrap()) - log;
    assert!(log < 15, "{log} lines of log in three seconds");
    play.wait_up(&[0, 1]).unwrap();
}

#[test]
fn fault_85_another_cluster_at_a_listed_address_is_dropped_and_counted() {
    if !root_or_skip("fault_85_another_cluster_at_a_listed_address_is_dropped_and_counted") {
        return;
    }
    outsider(|cluster| cluster.id = "00000000000000ab".to_owned(), "drop_cluster");
}

#[test]
fn fault_85_two_clusters_on_one_wire_know_nothing_of_each_other() {
    if !root_or_skip("fault_85_two_clusters_on_one_wire_know_nothing_of_each_other") {
        return;
    }
    let lab = Lab::new(Spec::new(4, 1)).unwrap();
    let one = Cluster::new(&lab, "lan");
    let mut two = one.clone();
    two.id = "00000000000000ab".to_owned();
    two.key_file = lab.scratch().join("other.key");
    let mut play = Play::idle(lab, one);
    for (node, cluster) in [(0, play.cluster.clone()), (1, play.cluster.clone()), (2, two.clone()), (3, two)] {
        play.daemons[node] = Some(Daemon::start(&play.lab, node, &cluster, &Options::default()).unwrap());
    }
    play.wait_up(&[0, 1]).unwrap();
    play.wait_up(&[2, 3]).unwrap();
    // Both list the same addresses, so that each hears the other's probes.
    pause(2000);
    assert!(play.counter(0, "drop_cluster").unwrap() > 10 && play.counter(2, "drop_cluster").unwrap() > 10);
    for (by, about) in [(0, 2), (2, 0), (1, 3), (3, 1)] {
        assert!(play.peer(by, about).unwrap()["incarnation"].is_null());
    }
}

#[test]
fn fault_88_a_node_with_another_key_stands_alone() {
    if !root_or_skip("fault_88_a_node_with_another_key_stands_alone") {
        return;
    }
    outsider(|cluster| cluster.key_file = cluster.key_file.with_file_name("other.key"), "drop_tag");
}

#[test]
fn fault_84_an_identity_used_twice_is_named_and_makes_no_ping_pong() {
    if !root_or_skip("fault_84_an_identity_used_twice_is_named_and_makes_no_ping_pong") {
        return;
    }
    let lab = Lab::new(Spec::new(3, 1)).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let mut play = Play::idle(lab, cluster);
    play.launch(0, &Options::default()).unwrap();
    play.launch(1, &Options::default()).unwrap();
    play.wait_up(&[0, 1]).unwrap();
    // b has restarted once: its incarnation is above that of a machine that was copied before.
    assert!(play.daemons[1].take().unwrap().terminate(PATIENCE).unwrap().success());
    play.launch(1, &Options::default()).unwrap();
    play.wait_up(&[0, 1]).unwrap();
    let mark = play.mark().unwrap();
    // c's machine comes with b's address, and so takes itself for b.
    play.lab.node(2).ip("address del 10.77.1.3/24 dev net1\naddress add 10.77.1.2/24 dev net1\n").unwrap();
    // It does not ask whether the address is free, as where nobody can be asked.
    let unasked =
        Options { daemon: vec![("address_conflict_detection".to_owned(), "false".to_owned())], ..Options::default() };
    play.launch(2, &unasked).unwrap();
    assert_eq!(play.daemon(2).unwrap().ask("status").unwrap()["node"], "b");
    pause(4000);
    let about_b = |mark: &Mark, name: &str| {
        let said = play.since(mark, 0).unwrap();
        said.iter().filter(|event| event["node"] == "b" && event["event"] == name).count()
    };
    // The newcomer learns of its past; each of the two may take the other for a past of its own, once.
    let restarted = about_b(&mark, "node_restarted");
    assert!((1..=3).contains(&restarted), "b restarted {restarted} times");
    assert_eq!(about_b(&mark, "node_down"), 0);
    let settled = play.mark().unwrap();
    pause(3000);
    assert_eq!(play.verdicts(&settled).unwrap(), NOTHING, "the two go on taking turns");
    let named = [1, 2].iter().map(|by| play.said(&mark, *by, "second_address").unwrap()).sum::<usize>();
    assert!(named >= 1, "nobody says that there are two");
}

#[test]
fn fault_113_64_peers_at_10_ms_are_kept() {
    if !root_or_skip("fault_113_64_peers_at_10_ms_are_kept") {
        return;
    }
    // 64 paths of one node to another: each of 8 addresses to each of 8. To kernel and pacing thread a path is a path.
    let lab = Lab::new(Spec { addresses: 8, ..Spec::new(2, 1) }).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("same_subnet_delay_ms", 10).with("same_subnet_threshold", 5);
    let play = Play::up(lab, cluster).unwrap();
    let mark = play.mark().unwrap();
    let sum = |field: &str| -> u64 {
        let answer = play.daemon(0).unwrap().ask("paths").unwrap();
        let rows = answer["paths"].as_array().unwrap();
        assert_eq!(rows.len(), 64);
        rows.iter().map(|row| number(row, field).unwrap()).sum()
    };
    let (echoes, departed, used) = (sum("echoes"), sum("departed"), cpu(play.daemon(0).unwrap()));
    let start = Instant::now();
    pause(5000);
    let took = start.elapsed().as_secs_f64();
    let (echoes, departed) = ((sum("echoes") - echoes) as f64 / took, (sum("departed") - departed) as f64 / took);
    let share = (cpu(play.daemon(0).unwrap()) - used).as_secs_f64() / took * 100.0;
    println!(
        "64 paths at 10 ms: {departed:.0} probes and {echoes:.0} timely echoes a second, {share:.0} % of a processor"
    );
    // 6400 are wanted; a machine with other work loses some of its own turns, and says so.
    assert!(departed > 5500.0, "{departed:.0} probes a second");
    assert!(echoes > departed * 0.9, "{echoes:.0} echoes of {departed:.0} probes");
    // A node whose machine was taken away for longer than the stall limit (50 ms here) was stalled in truth, and says
    // of itself that it ran late; of a node that did not, nothing at all may be said.
    let stood_still = |node: usize| {
        let events = play.since(&mark, node).unwrap();
        events.iter().any(|event| event["event"] == "local_lateness" && number(event, "max_us").unwrap() >= 40_000)
    };
    let late: Vec<&str> = [0, 1].into_iter().filter(|node| stood_still(*node)).map(|node| play.name(node)).collect();
    let of_late = |said: &String| {
        let about = late.iter().any(|name| said.ends_with(&format!(" {name}")));
        about && (said.contains("node_stalled") || said.contains("node_recovered"))
    };
    let (excused, unfounded): (Vec<_>, Vec<_>) = play.verdicts(&mark).unwrap().into_iter().partition(of_late);
    println!("said of nodes that stood still: {excused:?}");
    assert_eq!(unfounded, NOTHING);
}

#[test]
fn greetings_replayed_to_a_rebooted_node_step_nothing_down() {
    if !root_or_skip("greetings_replayed_to_a_rebooted_node_step_nothing_down") {
        return;
    }
    let mut play = Play::lan(Spec { relays: vec![(B, 5)], ..Spec::new(2, 1) }).unwrap();
    play.lab.relay(B).unwrap().record();
    pause(2500);
    let mut frames = play.lab.relay(B).unwrap().recorded();
    frames.retain(|frame| frame.way == Way::Out && frame.bytes.len() == 14 + 28 + heartbeat_common::frame::LEN);
    // a forgets how far it had heard, and all that it hears from then on is what b once said.
    for node in [1, 0] {
        play.daemons[node].take().unwrap().kill().unwrap();
        std::fs::remove_dir_all(play.lab.pin_dir(node).join("heartbeatd")).unwrap();
    }
    play.launch(0, &Options::default()).unwrap();
    let mark = play.mark().unwrap();
    pause(1000);
    let before = play.counter(0, "answered_handshake").unwrap();
    play.lab.relay(B).unwrap().replay(&frames);
    pause(2500);
    let answered = play.counter(0, "answered_handshake").unwrap() - before;
    assert!(answered >= 10, "only {answered} old probes were taken for greetings");
    assert_eq!(play.said(&mark, 0, "echoes_lost").unwrap(), 0);
    assert_eq!(play.said(&mark, 0, "node_up").unwrap(), 0);
    assert_eq!(play.fast_path(0, "net1").unwrap()["mode"], "native");
    play.launch(1, &Options::default()).unwrap();
    play.wait_up(&[0, 1]).unwrap();
    pause(1500);
    assert_eq!(play.fast_path(0, "net1").unwrap()["mode"], "native");
}

#[test]
fn old_frames_replayed_across_a_reboot_refresh_nothing() {
    if !root_or_skip("old_frames_replayed_across_a_reboot_refresh_nothing") {
        return;
    }
    let mut play = Play::lan(Spec { relays: vec![(B, 5)], ..Spec::new(2, 1) }).unwrap();
    let relay = |play: &Play, frames: &[Recorded]| play.lab.relay(B).unwrap().replay(frames);
    play.lab.relay(B).unwrap().record();
    pause(2500);
    let mut frames = play.lab.relay(B).unwrap().recorded();
    frames.retain(|frame| frame.way == Way::Out && frame.bytes.len() == 14 + 28 + heartbeat_common::frame::LEN);
    assert!(frames.len() > 30, "{} frames recorded", frames.len());
    let old = number(&play.peer(0, 1).unwrap(), "incarnation").unwrap();

    // The machine goes down: daemon, programs and maps at once.
    let (mark, replays) = (play.mark().unwrap(), play.counter(0, "drop_replay").unwrap());
    play.daemons[1].take().unwrap().kill().unwrap();
    std::fs::remove_dir_all(play.lab.pin_dir(1).join("heartbeatd")).unwrap();
    relay(&play, &frames);
    play.wait_said(&mark, 0, "node_down", 1).unwrap();
    pause(1000);
    let dropped = play.counter(0, "drop_replay").unwrap() - replays;
    assert!(dropped >= 10, "only {dropped} replayed frames were dropped");
    let silent = number(&play.path(0, 1, 0).unwrap(), "last_heard_ms_ago").unwrap();
    assert!(silent >= 1000, "a replayed frame counted as life {silent} ms ago");
    assert_eq!(play.said(&mark, 0, "node_up").unwrap(), 0);

    // It comes back, and the recorder goes on.
    relay(&play, &frames);
    play.launch(1, &Options::default()).unwrap();
    play.wait_up(&[0, 1]).unwrap();
    let new = number(&play.peer(0, 1).unwrap(), "incarnation").unwrap();
    assert!(new > old, "incarnation {old} then {new}");

    // All the old frames within a moment: next to none of its probes is answered.
    pause(2600);
    let stale = || (play.counter(0, "answered_stale").unwrap(), play.counter(0, "drop_stale_limit").unwrap());
    let (before, mark) = (stale(), play.mark().unwrap());
    let mut burst = frames.clone();
    burst.iter_mut().for_each(|frame| frame.at_ns = frames[0].at_ns);
    relay(&play, &burst);
    wait_for(PATIENCE, "stale probes to be refused", || {
        let now = stale();
        if now.1 >= before.1 + 10 { Ok(()) } else { Err(format!("{before:?} then {now:?}")) }
    })
    .unwrap();
    pause(1000);
    let answered = stale().0 - before.0;
    assert!((1..=frames.len() as u64 / 3).contains(&answered), "{answered} stale echoes for {} frames", frames.len());
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
    assert_eq!(number(&play.peer(0, 1).unwrap(), "incarnation").unwrap(), new);
    assert_eq!(number(&play.daemon(1).unwrap().ask("status").unwrap(), "incarnation").unwrap(), new);
}
