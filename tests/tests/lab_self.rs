//! The lab's faults, each proven against a plain UDP echo: a fault that does nothing fails its test. It tests no
//! heartbeat.

use heartbeat_tests::lab::relay::{Rules, Way};
use heartbeat_tests::lab::wait::root_or_skip;
use heartbeat_tests::lab::{Answer, Cluster, Direction, Echo, Fault, Lab, Options, Port, Spec, leaks_tagged, wait_for};
use std::time::Duration;

const A: Port = Port { node: 0, network: 0 };
const B: Port = Port { node: 1, network: 0 };
const GAP: Duration = Duration::from_millis(2);

/// Two nodes on one network, with an echo in the second; the neighbours know each other.
fn pair(spec: Spec) -> (Lab, Echo) {
    let lab = Lab::new(spec).unwrap();
    let echo = Echo::start(&lab, B, false).unwrap();
    assert_eq!(ask(&lab, &echo, 5).len(), 5, "nothing is wrong yet");
    (lab, echo)
}

fn ask(lab: &Lab, echo: &Echo, count: u64) -> Vec<Answer> {
    echo.ask(lab, 0, count, GAP, 64).unwrap()
}

#[test]
fn a_cut_stops_both_ways_and_heals() {
    if !root_or_skip("a_cut_stops_both_ways_and_heals") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 2));
    let received = echo.received();
    let span = lab.cut(&[A]).unwrap();
    assert!(span.before_ns < span.after_ns);
    assert!(ask(&lab, &echo, 20).is_empty());
    assert_eq!(echo.received(), received);
    let other = Echo::start(&lab, Port { node: 1, network: 1 }, false).unwrap();
    assert_eq!(ask(&lab, &other, 5).len(), 5, "the other network is whole");
    lab.heal().unwrap();
    assert_eq!(ask(&lab, &echo, 20).len(), 20);
}

#[test]
fn a_one_way_cut_stops_one_way() {
    if !root_or_skip("a_one_way_cut_stops_one_way") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    for (fault, arrives) in [
        (Fault::Cut(A, Direction::FromNode), false),
        (Fault::Cut(A, Direction::ToNode), true),
        (Fault::OneWay(A, B), false),
        (Fault::OneWay(B, A), true),
    ] {
        let received = echo.received();
        lab.inject(std::slice::from_ref(&fault)).unwrap();
        assert!(ask(&lab, &echo, 20).is_empty(), "{fault:?}");
        assert_eq!(echo.received() - received, if arrives { 20 } else { 0 }, "{fault:?}");
        lab.repair(&[fault]).unwrap();
        assert_eq!(ask(&lab, &echo, 5).len(), 5, "repaired");
    }
}

#[test]
fn all_ports_of_a_node_are_cut_at_once_and_fast() {
    if !root_or_skip("all_ports_of_a_node_are_cut_at_once_and_fast") {
        return;
    }
    let (lab, first) = pair(Spec::new(3, 3));
    let rest: Vec<Echo> = (1..3).map(|network| Echo::start(&lab, Port { node: 1, network }, false).unwrap()).collect();
    rest.iter().for_each(|echo| assert_eq!(ask(&lab, echo, 5).len(), 5));
    let mut spans = Vec::new();
    for _ in 0..20 {
        let span = lab.cut_all(0).unwrap();
        spans.push(span.after_ns - span.before_ns);
        lab.heal().unwrap();
    }
    lab.cut_all(0).unwrap();
    for echo in std::iter::once(&first).chain(&rest) {
        assert!(ask(&lab, echo, 5).is_empty());
    }
    assert_eq!(first.ask(&lab, 2, 5, GAP, 64).unwrap().len(), 5, "the others still hear each other");
    spans.sort_unstable();
    println!("cut_all of 3 ports: median {} us, most {} us", spans[10] / 1000, spans[19] / 1000);
    assert!(spans[10] < 100_000_000, "the median cut took {} us", spans[10] / 1000);
}

#[test]
fn a_partition_parts_groups_alone() {
    if !root_or_skip("a_partition_parts_groups_alone") {
        return;
    }
    let lab = Lab::new(Spec::new(4, 2)).unwrap();
    let echoes: Vec<Echo> = (0..4).map(|node| Echo::start(&lab, Port { node, network: 1 }, false).unwrap()).collect();
    lab.partition(&[&[0, 1], &[2]]).unwrap();
    for (from, to, heard) in [(0, 1, true), (0, 2, false), (2, 1, false), (3, 0, true), (3, 2, true), (2, 3, true)] {
        let answers = echoes[to].ask(&lab, from, 5, GAP, 64).unwrap().len();
        assert_eq!(answers, if heard { 5 } else { 0 }, "{from} to {to}");
    }
}

#[test]
fn loss_stays_within_bounds() {
    if !root_or_skip("loss_stays_within_bounds") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    let received = echo.received();
    lab.inject(&[Fault::Loss(A, Direction::FromNode, 500)]).unwrap();
    let answers = echo.ask(&lab, 0, 400, Duration::from_micros(300), 64).unwrap().len();
    // Six standard deviations of 400 fair coins are 60.
    assert!((140..=260).contains(&answers), "{answers} of 400");
    assert_eq!(echo.received() - received, answers as u64, "the way back is whole");
}

#[test]
fn a_duplicate_comes_twice() {
    if !root_or_skip("a_duplicate_comes_twice") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    let received = echo.received();
    lab.inject(&[Fault::Duplicate(A)]).unwrap();
    let answers = ask(&lab, &echo, 20);
    assert_eq!(echo.received() - received, 20, "only frames to the node are doubled");
    assert_eq!(answers.len(), 40);
    assert!((0..20).all(|number| answers.iter().filter(|answer| answer.number == number).count() == 2));
    lab.heal().unwrap();
    assert_eq!(ask(&lab, &echo, 20).len(), 20);
}

#[test]
fn a_length_is_dropped_alone() {
    if !root_or_skip("a_length_is_dropped_alone") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    // 100 bytes of payload behind 28 bytes of headers.
    lab.inject(&[Fault::Length(A, Direction::Both, 128, 128)]).unwrap();
    for (payload, heard) in [(99, 5), (100, 0), (101, 5)] {
        assert_eq!(echo.ask(&lab, 0, 5, GAP, payload).unwrap().len(), heard, "{payload}");
    }
}

#[test]
fn blocked_neighbours_cannot_be_found() {
    if !root_or_skip("blocked_neighbours_cannot_be_found") {
        return;
    }
    let lab = Lab::new(Spec { ipv6: true, ..Spec::new(2, 1) }).unwrap();
    for six in [false, true] {
        let echo = Echo::start(&lab, B, six).unwrap();
        lab.node(0).ip("neighbour flush dev net1\n").unwrap();
        lab.inject(&[Fault::Neighbours(A)]).unwrap();
        assert!(ask(&lab, &echo, 5).is_empty(), "IPv6: {six}");
        lab.heal().unwrap();
        let patience = Duration::from_millis(1500);
        assert!(!echo.ask_patiently(&lab, 0, 2, GAP, 64, patience).unwrap().is_empty(), "IPv6: {six}");
        lab.inject(&[Fault::Neighbours(A)]).unwrap();
        assert_eq!(ask(&lab, &echo, 5).len(), 5, "a neighbour that is known is reached, IPv6: {six}");
        lab.heal().unwrap();
    }
}

#[test]
fn a_narrow_link_passes_what_fits() {
    if !root_or_skip("a_narrow_link_passes_what_fits") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    lab.set_rate(B, Some(64)).unwrap();
    let flood = echo.ask(&lab, 0, 100, Duration::from_millis(1), 1000).unwrap().len();
    assert!(flood < 20, "{flood} of 100 kB passed 64 kbit/s");
    lab.set_rate(B, None).unwrap();
    assert_eq!(echo.ask(&lab, 0, 100, Duration::from_millis(1), 1000).unwrap().len(), 100);
}

#[test]
fn a_small_mtu_stops_large_frames() {
    if !root_or_skip("a_small_mtu_stops_large_frames") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    lab.set_mtu(B, 576).unwrap();
    assert!(echo.ask(&lab, 0, 5, GAP, 900).unwrap().is_empty());
    assert_eq!(echo.ask(&lab, 0, 5, GAP, 500).unwrap().len(), 5);
    let large = Lab::new(Spec { mtu: 9000, ..Spec::new(2, 1) }).unwrap();
    let echo = Echo::start(&large, B, false).unwrap();
    assert_eq!(echo.ask(&large, 0, 5, GAP, 8900).unwrap().len(), 5, "one frame of 9000 bytes passes");
}

#[test]
fn links_go_and_come_back() {
    if !root_or_skip("links_go_and_come_back") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    for (name, down, up) in [
        (
            "carrier",
            Box::new(|| lab.set_carrier(A, false)) as Box<dyn Fn() -> _>,
            Box::new(|| lab.set_carrier(A, true)) as Box<dyn Fn() -> _>,
        ),
        ("interface", Box::new(|| lab.set_interface(A, false)), Box::new(|| lab.set_interface(A, true))),
        ("deletion", Box::new(|| lab.delete_interface(A)), Box::new(|| lab.add_interface(A))),
    ] {
        down().unwrap();
        assert!(ask(&lab, &echo, 5).is_empty(), "{name}");
        up().unwrap();
        wait_for(Duration::from_secs(5), name, || if ask(&lab, &echo, 5).len() == 5 { Ok(()) } else { Err("silent") })
            .unwrap();
    }
}

#[test]
fn faults_outlive_an_interface_that_comes_back() {
    if !root_or_skip("faults_outlive_an_interface_that_comes_back") {
        return;
    }
    let (lab, echo) = pair(Spec::new(2, 1));
    lab.inject(&[Fault::Duplicate(A)]).unwrap();
    lab.delete_interface(A).unwrap();
    lab.add_interface(A).unwrap();
    ask(&lab, &echo, 5);
    assert_eq!(ask(&lab, &echo, 10).len(), 20);
}

#[test]
fn every_port_of_the_switch_passes_by_xdp() {
    if !root_or_skip("every_port_of_the_switch_passes_by_xdp") {
        return;
    }
    let lab = Lab::new(Spec { relays: vec![(A, 1)], ..Spec::new(2, 2) }).unwrap();
    let shown = lab.switch().run("ip", &["-json", "-details", "link", "show"]).unwrap();
    let links: Vec<serde_json::Value> = serde_json::from_str(&shown).unwrap();
    let native = |name: &str| {
        let link = links.iter().find(|link| link["ifname"] == name).unwrap();
        // Mode 1 is the driver's own.
        link["xdp"]["mode"] == 1 && link["xdp"]["prog"]["id"].is_u64()
    };
    for facing in ["r-a-net1", "a-net2", "b-net1", "b-net2"] {
        assert!(native(facing), "{facing} in {shown}");
    }
    let plain = Lab::new(Spec { pass: false, ..Spec::new(1, 1) }).unwrap();
    let shown = plain.switch().run("ip", &["-json", "-details", "link", "show"]).unwrap();
    assert!(!shown.contains("\"prog\""), "{shown}");
}

#[test]
fn napi_becomes_a_thread() {
    if !root_or_skip("napi_becomes_a_thread") {
        return;
    }
    let lab = Lab::new(Spec::new(2, 1)).unwrap();
    assert_eq!(lab.set_threaded_napi(B, true).unwrap(), "1");
    let threads = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        all.filter(|entry| {
            std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with("napi/net1-"))
        })
        .count()
    };
    assert!(threads() >= 1);
    assert_eq!(lab.set_threaded_napi(B, false).unwrap(), "0");
}

fn relayed() -> (Lab, Echo) {
    pair(Spec { relays: vec![(A, 7)], ..Spec::new(2, 1) })
}

#[test]
fn a_relay_delays_and_reorders() {
    if !root_or_skip("a_relay_delays_and_reorders") {
        return;
    }
    let (lab, echo) = relayed();
    let relay = lab.relay(A).unwrap();
    let delay = Duration::from_millis(30);
    relay.set(Way::Out, Rules { delay, ..Rules::default() });
    let answers = ask(&lab, &echo, 20);
    assert_eq!(answers.len(), 20);
    assert!(answers.iter().all(|answer| answer.round_trip >= delay));
    assert!(answers.is_sorted_by_key(|answer| answer.number), "delay alone keeps the order");

    relay.set(Way::Out, Rules { reorder_per_mille: 300, reorder_by: Duration::from_millis(7), ..Rules::default() });
    let answers = ask(&lab, &echo, 100);
    assert_eq!(answers.len(), 100);
    assert!(!answers.is_sorted_by_key(|answer| answer.number));
    assert!(relay.counts().reordered > 5);

    relay.set(Way::Out, Rules { jitter: Duration::from_millis(20), ..Rules::default() });
    let mut trips: Vec<Duration> = ask(&lab, &echo, 60).iter().map(|answer| answer.round_trip).collect();
    trips.sort_unstable();
    assert!(trips[50] - trips[10] > Duration::from_millis(4), "{:?} to {:?}", trips[10], trips[50]);
}

#[test]
fn a_relay_corrupts_loses_and_repeats() {
    if !root_or_skip("a_relay_corrupts_loses_and_repeats") {
        return;
    }
    let (lab, echo) = relayed();
    let relay = lab.relay(A).unwrap();
    let port = Some(heartbeat_tests::lab::echo::ECHO_PORT);
    relay.set(Way::In, Rules { corrupt_per_mille: 1000, only_port: port, ..Rules::default() });
    relay.record();
    assert!(ask(&lab, &echo, 20).is_empty(), "no checksum lets a flipped bit pass");
    assert!(relay.counts().corrupted >= 20);
    let recorded = relay.recorded();
    assert!(recorded.iter().filter(|frame| frame.way == Way::Out).count() >= 20);

    relay.set(Way::In, Rules { loss_per_mille: 500, ..Rules::default() });
    let answers = ask(&lab, &echo, 200).len();
    assert!((58..=142).contains(&answers), "{answers} of 200");

    relay.set(Way::In, Rules { duplicate_per_mille: 1000, ..Rules::default() });
    assert_eq!(ask(&lab, &echo, 20).len(), 40);
    relay.set(Way::In, Rules { duplicate_per_mille: 1000, only_port: Some(9), ..Rules::default() });
    assert_eq!(ask(&lab, &echo, 20).len(), 20, "another port's rules");
}

#[test]
fn a_relay_replays_what_it_recorded() {
    if !root_or_skip("a_relay_replays_what_it_recorded") {
        return;
    }
    let (lab, echo) = relayed();
    let relay = lab.relay(A).unwrap();
    relay.record();
    assert_eq!(ask(&lab, &echo, 10).len(), 10);
    let mut frames = relay.recorded();
    frames.retain(|frame| frame.way == Way::Out && frame.bytes.len() == 14 + 28 + 64);
    assert_eq!(frames.len(), 10);
    let received = echo.received();
    relay.replay(&frames);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(echo.received() - received, 10);
}

#[test]
fn ipv6_passes_and_names_do_not_clash() {
    if !root_or_skip("ipv6_passes_and_names_do_not_clash") {
        return;
    }
    let spec = Spec { ipv6: true, ipv4: false, ..Spec::new(2, 1) };
    let (one, two) = (Lab::new(spec.clone()).unwrap(), Lab::new(spec).unwrap());
    for lab in [&one, &two] {
        let echo = Echo::start(lab, B, true).unwrap();
        assert_eq!(ask(lab, &echo, 5).len(), 5);
    }
    let tag = two.tag().to_owned();
    assert!(!leaks_tagged(&tag).is_empty());
    drop(two);
    assert_eq!(leaks_tagged(&tag), []);
    assert!(!leaks_tagged(one.tag()).is_empty(), "one lab's end is not another's");
}

#[test]
fn the_configuration_is_one_that_heartbeatd_takes() {
    if !root_or_skip("the_configuration_is_one_that_heartbeatd_takes") {
        return;
    }
    let lab = Lab::new(Spec { ipv6: true, ..Spec::new(3, 2) }).unwrap();
    let cluster = Cluster::new(&lab, "lan").with("same_subnet_delay_ms", 50).with("same_subnet_delay_ms", 40);
    let options = Options {
        fast_path: "off".to_owned(),
        daemon: vec![("realtime_priority".to_owned(), "0".to_owned())],
        extra: "[interface.net2]\nfast_path = \"generic\"".to_owned(),
        ..Options::default()
    };
    let text = cluster.render(&lab, 1, &options);
    let config = heartbeat_user::config::parse("lab.toml", text.as_bytes()).unwrap();
    assert_eq!(config.settings.same_subnet.delay, Duration::from_millis(40));
    assert_eq!((config.networks.len(), config.nodes.len(), config.interfaces.len()), (2, 3, 1));
    assert_eq!(config.daemon.pin_dir, lab.pin_dir(1).join("heartbeatd"));
    assert_eq!(heartbeat_user::config::find_self(&config, &lab.addresses(B)).unwrap(), 2);
}
