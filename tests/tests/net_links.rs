//! Faults of links, addresses and interfaces under real daemons: each is shown to have happened, and then to have led
//! to what is promised. It damages no frame on its way.

use heartbeat_tests::lab::play::{PATIENCE, number, pause};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Cluster, Direction, Echo, Fault, Lab, Play, Port, Spec, monotonic_ns, wait_for};
use serde_json::Value;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

const A: Port = Port { node: 0, network: 0 };
const B: Port = Port { node: 1, network: 0 };
const C: Port = Port { node: 2, network: 0 };
/// Within what a device that vanished is noticed: two delays, and what this machine may take to say so.
const NOTICED_NS: u64 = 300_000_000;
const NOTHING: Vec<String> = Vec::new();

#[test]
fn fault_18_one_of_two_networks_down_is_no_node_down() {
    if !root_or_skip("fault_18_one_of_two_networks_down_is_no_node_down") {
        return;
    }
    let play = Play::lan(Spec::new(3, 2)).unwrap();
    let mark = play.mark().unwrap();
    let cut = play.lab.cut_network(0).unwrap();
    for (by, about) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        let on = |event: &Value| event["network"] == "net1" && event["node"] == play.name(about);
        for step in ["path_lost", "path_unreachable", "path_failed"] {
            let event = play.wait_event(&mark, by, step, on).unwrap();
            assert!(number(&event, "at_ns").unwrap() < cut.after_ns + 700_000_000, "{event}");
        }
    }
    pause(1000);
    assert!(play.lab.dropped().unwrap() > 50);
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
    play.lab.heal().unwrap();
    play.wait_event(&mark, 0, "path_up", |event| event["network"] == "net1").unwrap();
    play.wait_up(&[0, 1, 2]).unwrap();
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn fault_19_a_node_without_networks_is_down_once_and_knows_itself_cut_off() {
    if !root_or_skip("fault_19_a_node_without_networks_is_down_once_and_knows_itself_cut_off") {
        return;
    }
    let play = Play::lan(Spec::new(3, 2)).unwrap();
    let mark = play.mark().unwrap();
    let cut = play.lab.cut_all(2).unwrap();
    for by in [0, 1] {
        let down = play.wait_said(&mark, by, "node_down", 2).unwrap();
        let silent = number(&down, "silent_since_ns").unwrap();
        let late_us = number(&down, "own_lateness_us").unwrap();
        let took = (number(&down, "noticed_ns").unwrap() - silent) / 1000;
        // Beyond its budget an observer asks once more before it accuses, and gives that one delay.
        let asked = if late_us > 25_000 { 100_000 } else { 0 };
        assert!((500_000..650_000 + late_us + asked).contains(&took), "down after {took} us: {down}");
        assert!(silent <= cut.after_ns, "{down}");
        assert_eq!(down["cause"], "peer_silent", "{down}");
    }
    play.wait_event(&mark, 2, "isolated", |_| true).unwrap();
    pause(1000);
    let mut verdicts = play.verdicts(&mark).unwrap();
    verdicts.sort_unstable();
    let isolated_first = play.since(&mark, 2).unwrap();
    let order: Vec<_> = isolated_first.iter().filter_map(|event| event["event"].as_str()).collect();
    let place = |wanted: &str| order.iter().position(|name| *name == wanted).unwrap();
    assert!(place("isolated") < place("node_down"), "{order:?}");
    let expected = ["a: node_down c", "b: node_down c", "c: isolated itself", "c: node_down a", "c: node_down b"];
    assert_eq!(verdicts, expected);
    play.lab.heal().unwrap();
    play.wait_up(&[0, 1, 2]).unwrap();
}

#[test]
fn fault_17_a_link_that_flaps_takes_no_node_away() {
    if !root_or_skip("fault_17_a_link_that_flaps_takes_no_node_away") {
        return;
    }
    let play = Play::lan(Spec::new(2, 2)).unwrap();
    let mark = play.mark().unwrap();
    for _ in 0..4 {
        let cycle = play.mark().unwrap();
        play.lab.set_carrier(A, false).unwrap();
        play.wait_event(&cycle, 0, "path_failed", |event| event["location"] == "own_interface").unwrap();
        play.wait_event(&cycle, 1, "path_lost", |_| true).unwrap();
        play.lab.set_carrier(A, true).unwrap();
        play.wait_event(&cycle, 0, "path_restored", |_| true).unwrap();
    }
    play.wait_up(&[0, 1]).unwrap();
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn fault_20_a_removed_address_takes_its_paths_and_gives_them_back() {
    if !root_or_skip("fault_20_a_removed_address_takes_its_paths_and_gives_them_back") {
        return;
    }
    let play = Play::lan(Spec::new(2, 2)).unwrap();
    let mark = play.mark().unwrap();
    let pid = play.daemon(0).unwrap().pid();
    play.lab.node(0).ip("address del 10.77.1.1/24 dev net1\n").unwrap();
    play.wait_event(&mark, 0, "interface_gone", |event| event["interface"] == "net1").unwrap();
    let failed = play.wait_event(&mark, 0, "path_failed", |event| event["network"] == "net1").unwrap();
    assert_eq!(failed["location"], "own_interface", "{failed}");
    let sockets = play.lab.node(0).run("ss", &["-nua"]).unwrap();
    assert!(sockets.contains("10.77.2.1") && !sockets.contains("127.0.0.1"), "{sockets}");
    assert!(!sockets.contains("10.77.1.1"), "a socket of an address that is gone: {sockets}");
    play.lab.node(0).ip("address add 10.77.1.1/24 dev net1\n").unwrap();
    play.wait_event(&mark, 0, "interface_appeared", |event| event["interface"] == "net1").unwrap();
    play.wait_up(&[0, 1]).unwrap();
    assert_eq!(play.daemon(0).unwrap().pid(), pid);
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn fault_20_an_address_that_moves_to_an_interface_before_its_own_beats_there() {
    if !root_or_skip("fault_20_an_address_that_moves_to_an_interface_before_its_own_beats_there") {
        return;
    }
    let play = Play::lan(Spec { addresses: 2, ..Spec::new(2, 2) }).unwrap();
    let mark = play.mark().unwrap();
    for (node, address) in [(0, "10.77.2.3"), (1, "10.77.2.4")] {
        let index = |name: &str| play.lab.node(node).enter(|| nix::net::if_::if_nametoindex(name)).unwrap().unwrap();
        assert!(index("net1") < index("net2"), "the address is to move to the lower index");
        // In one go: no look at the addresses is to fall between.
        let batch = format!("address del {address}/24 dev net2\naddress add {address}/24 dev net1\n");
        play.lab.node(node).ip(&batch).unwrap();
    }
    pause(1500);
    for (node, address) in [(0, "10.77.2.3"), (1, "10.77.2.4")] {
        let sockets = play.lab.node(node).run("ss", &["-nua"]).unwrap();
        assert!(sockets.contains(&format!("{address}%net1:")), "{sockets}");
    }
    // The path between the two beats on the other network; those to addresses that stayed cannot.
    for (node, local, peer) in [(0, "10.77.2.3", "10.77.2.4"), (1, "10.77.2.4", "10.77.2.3")] {
        wait_for(PATIENCE, "the path of the moved addresses", || {
            let shown = play.daemon(node).unwrap().ask("paths").unwrap();
            let mut paths = shown["paths"].as_array().unwrap().iter();
            let path = paths.find(|path| path["local"] == local && path["peer_address"] == peer).unwrap();
            if path["state"] == "up" && path["interface"] == "net1" { Ok(()) } else { Err(path.clone()) }
        })
        .unwrap();
    }
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn fault_21_a_peers_new_mac_address_is_no_death() {
    if !root_or_skip("fault_21_a_peers_new_mac_address_is_no_death") {
        return;
    }
    let play = Play::lan(Spec::new(2, 1)).unwrap();
    let mark = play.mark().unwrap();
    let old = play.lab.mac(B).unwrap();
    play.lab.node(1).ip("link set net1 address 02:77:00:00:00:99\n").unwrap();
    assert_ne!(play.lab.mac(B).unwrap(), old);
    let before = (play.echoes(0, 1).unwrap(), play.echoes(1, 0).unwrap());
    pause(2000);
    let grown = (play.echoes(0, 1).unwrap() - before.0, play.echoes(1, 0).unwrap() - before.1);
    assert!(grown.0 >= 10 && grown.1 >= 10, "{grown:?} echoes in two seconds");
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
    play.wait_up(&[0, 1]).unwrap();
}

#[test]
fn fault_22_a_stolen_mac_address_takes_one_path_and_heals() {
    if !root_or_skip("fault_22_a_stolen_mac_address_takes_one_path_and_heals") {
        return;
    }
    let play = Play::lan(Spec::new(3, 2)).unwrap();
    let mark = play.mark().unwrap();
    let (thief, mac) = (play.lab.wire(C).unwrap(), play.lab.mac(B).unwrap());
    // A frame to nobody, in b's name, from c's port: the bridge then takes c's port for b's.
    let mut frame = vec![0x02, 0, 0, 0, 0, 0x42];
    frame.extend(mac);
    frame.extend([0x88, 0xb5]);
    frame.resize(60, 0);
    let end = Instant::now() + Duration::from_secs(2);
    let mut stolen = false;
    while Instant::now() < end {
        for _ in 0..20 {
            thief.send(&frame).unwrap();
            pause(3);
        }
        let table = play.lab.switch().run("bridge", &["-json", "fdb", "show", "br", "br-net1"]).unwrap();
        let rows: Vec<Value> = serde_json::from_str(&table).unwrap();
        let text = mac.map(|byte| format!("{byte:02x}")).join(":");
        stolen |= rows.iter().any(|row| row["mac"] == *text && row["ifname"] == "c-net1");
    }
    assert!(stolen, "the bridge never took c's port for b's");
    let misled = play.counter(2, "drop_unlisted").unwrap();
    assert!(misled > 0, "no heartbeat was misled to c");
    pause(300);
    play.wait_up(&[0, 1, 2]).unwrap();
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn fault_23_heartbeats_pass_an_mtu_of_576() {
    if !root_or_skip("fault_23_heartbeats_pass_an_mtu_of_576") {
        return;
    }
    let play = Play::lan(Spec { ipv6: true, ..Spec::new(2, 1) }).unwrap();
    let echo = Echo::start(&play.lab, B, false).unwrap();
    let large = |count: u64| echo.ask(&play.lab, 0, count, Duration::from_millis(2), 900).unwrap().len();
    assert_eq!(large(3), 3);
    let mark = play.mark().unwrap();
    for port in [A, B] {
        play.lab.set_mtu(port, 576).unwrap();
    }
    assert_eq!(large(3), 0, "the ports still pass large frames");
    let before = play.echoes(0, 1).unwrap();
    pause(1500);
    assert!(play.echoes(0, 1).unwrap() - before >= 8);
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
    play.wait_up(&[0, 1]).unwrap();
    // Ethernet, IPv6, UDP and the frame itself, with a VLAN tag.
    const { assert!(14 + 4 + 40 + 8 + heartbeat_common::frame::LEN <= 512) };
}

#[test]
fn fault_31_echoes_that_vanish_silently_are_noticed_and_stepped_down() {
    if !root_or_skip("fault_31_echoes_that_vanish_silently_are_noticed_and_stepped_down") {
        return;
    }
    let play = Play::lan(Spec::new(2, 1)).unwrap();
    assert_eq!(play.fast_path(0, "net1").unwrap()["mode"], "native");
    let mark = play.mark().unwrap();
    let before = play.echoes(1, 0).unwrap();
    play.lab.take_pass(A);
    let lost = play.wait_event(&mark, 0, "echoes_lost", |event| event["node"] == "b").unwrap();
    let taken = (number(&lost, "answers").unwrap(), play.echoes(1, 0).unwrap() - before);
    assert!(taken.0 >= 5, "{lost}");
    let step = play.wait_event(&mark, 0, "step_down_mode", |event| event["interface"] == "net1").unwrap();
    assert_eq!((&step["from"], &step["to"]), (&"native".into(), &"generic".into()), "{step}");
    let row = play.fast_path(0, "net1").unwrap();
    assert_eq!(row["mode"], "generic", "{row}");
    assert!(row["reason"].as_str().is_some_and(|reason| reason.contains("do not arrive")), "{row}");
    let before = play.echoes(1, 0).unwrap();
    wait_for(PATIENCE, "echoes of a by the generic program", || {
        let now = play.echoes(1, 0).unwrap();
        if now > before + 5 { Ok(()) } else { Err(format!("{before} then {now}")) }
    })
    .unwrap();
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING, "probes went both ways all the while");
    play.wait_up(&[0, 1]).unwrap();
}

#[test]
fn fault_31_a_node_whose_echoes_vanish_from_the_start_steps_down() {
    if !root_or_skip("fault_31_a_node_whose_echoes_vanish_from_the_start_steps_down") {
        return;
    }
    // No port has a program, so the echoes of both nodes vanish.
    let lab = Lab::new(Spec { pass: false, ..Spec::new(2, 1) }).unwrap();
    let cluster = Cluster::new(&lab, "lan");
    let play = Play::up(lab, cluster).unwrap();
    for node in [0, 1] {
        wait_for(PATIENCE, "the generic program to answer, with its reason", || {
            let row = play.fast_path(node, "net1").unwrap();
            if row["mode"] == "generic" && row["reason"].is_string() { Ok(()) } else { Err(row) }
        })
        .unwrap();
    }
}

#[test]
fn fault_32_generic_mode_works_and_is_shown() {
    if !root_or_skip("fault_32_generic_mode_works_and_is_shown") {
        return;
    }
    let play = Play::lan_by(Spec { ipv6: true, ..Spec::new(2, 1) }, "generic").unwrap();
    let mark = play.mark().unwrap();
    let shown = play.lab.node(0).run("ip", &["-json", "-details", "link", "show", "net1"]).unwrap();
    let links: Vec<Value> = serde_json::from_str(&shown).unwrap();
    // Mode 2 is the network stack's own.
    assert_eq!(links[0]["xdp"]["mode"], 2, "{shown}");
    let row = play.fast_path(0, "net1").unwrap();
    assert_eq!((&row["mode"], &row["wanted"]), (&"generic".into(), &"generic".into()));
    // The daemon stands still, and its kernel goes on answering.
    play.daemon(0).unwrap().stop().unwrap();
    let before = play.echoes(1, 0).unwrap();
    pause(1500);
    let grown = play.echoes(1, 0).unwrap() - before;
    play.daemon(0).unwrap().resume().unwrap();
    assert!(grown >= 8, "{grown} echoes in 1.5 s");
    assert_eq!(play.said(&mark, 1, "node_down").unwrap(), 0);
    play.wait_up(&[0, 1]).unwrap();
}

#[test]
fn fault_33_blocked_neighbour_discovery_is_no_death() {
    if !root_or_skip("fault_33_blocked_neighbour_discovery_is_no_death") {
        return;
    }
    let play = Play::lan(Spec::new(2, 1)).unwrap();
    for node in [0, 1] {
        // What takes minutes by default: entries go stale at once and are given up within two seconds.
        for (key, value) in [("base_reachable_time_ms", "500"), ("delay_first_probe_time", "1"), ("ucast_solicit", "1")]
        {
            play.lab.node(node).sysctl(&format!("ipv4/neigh/net1/{key}"), value).unwrap();
        }
    }
    // A second address of b, which no heartbeat keeps: it shows that the block works.
    play.lab.node(1).ip("address add 10.77.1.202/24 dev net1\n").unwrap();
    let socket = play.lab.node(0).enter(|| UdpSocket::bind(("10.77.1.1", 0))).unwrap().unwrap();
    let neighbour = |address: &str| play.lab.node(0).run("ip", &["neigh", "show", address]).unwrap();
    let poke = || drop(socket.send_to(b"?", ("10.77.1.202", 9)));
    poke();
    wait_for(PATIENCE, "the second address to be found", || {
        poke();
        let shown = neighbour("10.77.1.202");
        if shown.contains("lladdr") { Ok(()) } else { Err(shown) }
    })
    .unwrap();
    let mark = play.mark().unwrap();
    play.lab.inject(&[Fault::Neighbours(A), Fault::Neighbours(B)]).unwrap();
    wait_for(PATIENCE, "the second address to be lost", || {
        poke();
        pause(100);
        let shown = neighbour("10.77.1.202");
        if shown.contains("FAILED") || shown.contains("INCOMPLETE") { Ok(()) } else { Err(shown) }
    })
    .unwrap();
    let before = (play.echoes(0, 1).unwrap(), play.echoes(1, 0).unwrap());
    pause(4000);
    let grown = (play.echoes(0, 1).unwrap() - before.0, play.echoes(1, 0).unwrap() - before.1);
    assert!(grown.0 >= 30 && grown.1 >= 30, "{grown:?} echoes in four seconds; {}", neighbour("10.77.1.2"));
    assert!(play.lab.dropped().unwrap() > 0, "no request was blocked");
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn fault_34_a_duplicate_address_is_never_credited_to_the_wrong_node() {
    if !root_or_skip("fault_34_a_duplicate_address_is_never_credited_to_the_wrong_node") {
        return;
    }
    let play = Play::lan(Spec::new(3, 2)).unwrap();
    let mark = play.mark().unwrap();
    let incarnation = play.peer(0, 1).unwrap()["incarnation"].clone();
    let before = play.counter(2, "drop_unlisted").unwrap();
    // c takes b's address on net1, and a is made to believe it.
    play.lab.node(2).ip("address add 10.77.1.2/24 dev net1\n").unwrap();
    let mac = play.lab.mac(C).unwrap().map(|byte| format!("{byte:02x}")).join(":");
    play.lab.node(0).ip(&format!("neighbour replace 10.77.1.2 lladdr {mac} dev net1 nud permanent\n")).unwrap();
    pause(2000);
    let misled = play.counter(2, "drop_unlisted").unwrap() - before;
    assert!(misled >= 10, "only {misled} probes went to the wrong node");
    // c answers none of them, so that nothing from c counts as b's; b's own probes show that it lives.
    let first = play.echoes(0, 1).unwrap();
    pause(500);
    assert_eq!(play.echoes(0, 1).unwrap(), first, "an echo for a probe that b never had");
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
    play.lab.inject(&[Fault::Cut(B, Direction::Both)]).unwrap();
    play.wait_event(&mark, 0, "path_failed", |event| event["node"] == "b" && event["network"] == "net1").unwrap();
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING, "the second network carries b");
    assert_eq!(play.peer(0, 1).unwrap()["incarnation"], incarnation);
    play.lab.heal().unwrap();
    play.lab.node(2).ip("address del 10.77.1.2/24 dev net1\n").unwrap();
    play.lab.node(0).ip("neighbour del 10.77.1.2 dev net1\n").unwrap();
    play.wait_up(&[0, 1, 2]).unwrap();
}

#[test]
fn fault_35_an_interface_that_is_pulled_out_comes_back() {
    if !root_or_skip("fault_35_an_interface_that_is_pulled_out_comes_back") {
        return;
    }
    // Where the kernel answers, the program's link tells that the device is gone; else the device itself has to.
    for (fast_path, mode) in [("auto", "native"), ("off", "userspace")] {
        pull_out(fast_path, mode);
    }
}

fn pull_out(fast_path: &str, mode: &str) {
    let play = Play::lan_by(Spec::new(2, 2), fast_path).unwrap();
    let mark = play.mark().unwrap();
    let pid = play.daemon(0).unwrap().pid();
    play.lab.delete_interface(A).unwrap();
    let pulled = monotonic_ns();
    let gone = play.wait_event(&mark, 0, "interface_gone", |event| event["interface"] == "net1").unwrap();
    assert!(number(&gone, "noticed_ns").unwrap() < pulled + NOTICED_NS, "{gone}");
    play.wait_event(&mark, 0, "path_failed", |event| event["location"] == "own_interface").unwrap();
    play.lab.add_interface(A).unwrap();
    let back = Instant::now();
    play.wait_event(&mark, 0, "link_attached", |event| event["interface"] == "net1").unwrap();
    play.wait_up(&[0, 1]).unwrap();
    assert!(back.elapsed() < Duration::from_secs(5), "attached after {:?}", back.elapsed());
    assert_eq!(play.fast_path(0, "net1").unwrap()["mode"], mode);
    assert_eq!(play.daemon(0).unwrap().pid(), pid);
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
}

#[test]
fn fault_36_an_interface_moved_away_takes_no_program_along() {
    if !root_or_skip("fault_36_an_interface_moved_away_takes_no_program_along") {
        return;
    }
    let mut play = Play::lan(Spec::new(3, 2)).unwrap();
    let other = play.daemons[2].take().unwrap();
    assert!(other.terminate(PATIENCE).unwrap().success());
    play.wait_up(&[0, 1]).unwrap();
    let mark = play.mark().unwrap();
    play.lab.node(2).ip("link set net1 name mine\n").unwrap();
    let target = play.lab.node(2).name().to_owned();
    play.lab.node(0).ip(&format!("link set net1 netns {target}\n")).unwrap();
    let moved = monotonic_ns();
    let gone = play.wait_event(&mark, 0, "interface_gone", |event| event["interface"] == "net1").unwrap();
    assert!(number(&gone, "noticed_ns").unwrap() < moved + NOTICED_NS, "{gone}");
    wait_for(PATIENCE, "the program to leave the moved interface", || {
        let shown = play.lab.node(2).run("ip", &["-json", "-details", "link", "show", "net1"]).unwrap();
        if shown.contains("\"prog\"") { Err(shown) } else { Ok(()) }
    })
    .unwrap();
    play.wait_event(&mark, 0, "path_failed", |event| event["network"] == "net1").unwrap();
    let verdicts = play.verdicts(&mark).unwrap();
    assert_eq!(verdicts, NOTHING, "the second network carries both");
}

#[test]
fn fault_37_a_renamed_interface_goes_on_beating() {
    if !root_or_skip("fault_37_a_renamed_interface_goes_on_beating") {
        return;
    }
    let play = Play::lan(Spec::new(2, 1)).unwrap();
    let mark = play.mark().unwrap();
    play.lab.node(0).ip("link set net1 txqueuelen 77\nlink set net1 name heart\n").unwrap();
    let shown = play.lab.node(0).run("ip", &["link", "show", "heart"]).unwrap();
    assert!(shown.contains("qlen 77"), "{shown}");
    let before = (play.echoes(0, 1).unwrap(), play.echoes(1, 0).unwrap());
    pause(2000);
    let grown = (play.echoes(0, 1).unwrap() - before.0, play.echoes(1, 0).unwrap() - before.1);
    assert!(grown.0 >= 12 && grown.1 >= 12, "{grown:?} echoes in two seconds");
    assert_eq!(play.verdicts(&mark).unwrap(), NOTHING);
    for event in ["path_lost", "interface_gone", "link_detached_foreign"] {
        assert_eq!(play.said(&mark, 0, event).unwrap(), 0, "{event}");
    }
    play.wait_up(&[0, 1]).unwrap();
    let row = play.fast_path(0, "heart").unwrap();
    assert_eq!(row["mode"], "native", "status knows the new name: {row}");
}
