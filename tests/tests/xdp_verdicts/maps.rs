//! What the maps make of a frame: routes, configurations, a lock, departures.

use crate::bench::{Bench, PATHS, PEER};
use heartbeat_common::counter::Counter;
use heartbeat_common::maps::{CONFS_MAX, Hint, Route, RouteKey};
use heartbeat_common::path::PathConf;
use heartbeat_tests::reference::{LEN, PORT};
use heartbeat_tests::xdp::rig::Action;
use heartbeat_tests::xdp::{Frame, Heartbeat, LOOPBACK, now, world};

#[test]
fn another_interface_is_another_path() {
    let Some(mut bench) = Bench::new("another_interface_is_another_path") else { return };
    let mut settings = bench.settings(0);
    settings.ifindex = LOOPBACK + 1000;
    bench.both.rig.route(world::route_key(&settings), Route { path: 0, conf: 0 }).expect("a route");
    let mut frame = bench.probe(0);
    frame.addresses[0][14] ^= 0x40;
    settings.peer[14] ^= 0x40;
    bench.both.rig.route(world::route_key(&settings), Route { path: 0, conf: 0 }).expect("a route");
    bench.dropped(&frame, Counter::DropUnlisted);
    // The explicit interface is the one that counts.
    let frame = bench.probe(0).bytes();
    let mut out = vec![0; 2048];
    let ran = bench.both.rig.receive_by(&frame, &mut out, LOOPBACK).expect("runs");
    assert_eq!(ran.action, Action::Transmit);
}

#[test]
fn a_tick_that_stays_locked_loses_the_frame() {
    let Some(mut bench) = Bench::new("a_tick_that_stays_locked_loses_the_frame") else { return };
    for frame in [bench.probe(0), bench.echo(0, now())] {
        let before = bench.both.rig.tick(0);
        bench.both.rig.ticks.set(0, 0, before.lock | 1);
        let mut out = vec![0; 2048];
        let ran = bench.both.rig.receive(&frame.bytes(), &mut out).expect("runs");
        assert_eq!(ran.action, Action::Drop);
        bench.both.rig.ticks.set(0, 0, before.lock);
        assert_eq!(bench.both.rig.tick(0), before, "nothing was recorded");
    }
    assert_eq!(bench.both.rig.counters().expect("counters")[Counter::Contended as usize], 2);
}

#[test]
fn a_route_that_leads_nowhere_is_our_own_fault() {
    let Some(mut bench) = Bench::new("a_route_that_leads_nowhere_is_our_own_fault") else { return };
    let key = world::route_key(&bench.settings(0));
    bench.both.rig.hint(&key, Hint::default()).expect("a hint");
    for route in [Route { path: 0, conf: CONFS_MAX }, Route { path: CONFS_MAX, conf: 0 }] {
        bench.both.rig.route(key, route).expect("a route");
        let bytes = bench.probe(0).bytes();
        let mut out = vec![0; 2048];
        assert_eq!(bench.both.rig.receive(&bytes, &mut out).expect("runs").action, Action::Drop);
    }
    assert_eq!(bench.both.rig.counters().expect("counters")[Counter::Internal as usize], 2);
}

#[test]
fn a_hint_decides_nothing() {
    let Some(mut bench) = Bench::new("a_hint_decides_nothing") else { return };
    let confs = [0, 1, PATHS as u32, CONFS_MAX - 1, CONFS_MAX, u32::MAX - 1, u32::MAX];
    for (conf, path) in confs.into_iter().flat_map(|conf| (0..PATHS).map(move |path| (conf, path))) {
        let key = world::route_key(&bench.settings(path));
        bench.both.rig.hint(&key, Hint::at(conf)).expect("a hint");
        let bytes = bench.probe(path).bytes();
        bench.expect(&bytes, Some(Counter::Answered)).expect("an answer");
        let mut unlisted = bench.probe(path);
        unlisted.addresses[0][15] ^= 0x80;
        bench.dropped(&unlisted, Counter::DropUnlisted);
    }
    // Another path's configuration, whose triple differs in one part alone.
    let other = PATHS as u32;
    let parts: [fn(&mut RouteKey); 5] = [
        |key| key.source[0] ^= 1,
        |key| key.source[1] ^= 1 << 32,
        |key| key.destination[0] ^= 1,
        |key| key.destination[1] ^= 1 << 32,
        |key| key.ifindex += 1,
    ];
    for (path, part) in (0..PATHS).flat_map(|path| parts.map(|part| (path, part))) {
        let settings = bench.settings(path);
        let key = world::route_key(&settings);
        let mut conf = PathConf { key, path: other, ..world::conf(&settings) };
        part(&mut conf.key);
        bench.both.rig.configure(other, &conf).expect("a configuration");
        bench.both.rig.hint(&key, Hint::at(other)).expect("a hint");
        let bytes = bench.probe(path).bytes();
        bench.expect(&bytes, Some(Counter::Answered)).expect("an answer");
        assert_eq!(bench.both.rig.tick(other).probes, 0, "taken for the other path's");
    }
    bench.both.compare_counters().expect("the kernel counted the same");
}

#[test]
fn a_departure_dates_the_round_trip() {
    let Some(mut bench) = Bench::new("a_departure_dates_the_round_trip") else { return };
    for path in 0..PATHS {
        let settings = bench.settings(path);
        let keys = settings.slots[0].expect("slot 0 holds a key");
        bench.sequence += 2;
        let own = Heartbeat::own_probe(&settings, 0, PEER, bench.sequence);
        let frame = Frame::from_node(&settings, &own.signed(&settings, &keys));
        assert_eq!(bench.both.depart(&frame.bytes()).expect("both sides agree"), Some(Counter::Departed));
        // The frame says that it was sent an hour ago; the kernel saw it leave just now.
        let echo = Heartbeat::echo(&settings, 0, &bench.author, bench.sequence, 1, 1);
        let echo = bench.wrap(path, &echo);
        bench.dropped(&echo, Counter::EchoTimely);
    }
}

#[test]
fn what_departs_unstamped() {
    let Some(mut bench) = Bench::new("what_departs_unstamped") else { return };
    let settings = bench.settings(0);
    let mut frame = Frame::from_node(&settings, &[0; LEN]);
    assert_eq!(bench.both.depart(&frame.bytes()).expect("agree"), Some(Counter::Departed), "it signs nothing itself");
    frame.addresses[1][15] ^= 0x40;
    assert_eq!(bench.both.depart(&frame.bytes()).expect("agree"), Some(Counter::DepartedUnknown));
    frame.ports[1] = 53;
    assert_eq!(bench.both.depart(&frame.bytes()).expect("agree"), None);
    let mut echo = Frame::from_node(&settings, &[0; LEN]);
    echo.payload[70] = 1;
    assert_eq!(bench.both.depart(&echo.bytes()).expect("agree"), None, "an echo is no departure");
    bench.both.compare_counters().expect("the kernel counted the same");
}

#[test]
fn a_frame_of_foreign_length_from_our_port_leaves_unseen() {
    let Some(mut bench) = Bench::new("a_frame_of_foreign_length_from_our_port_leaves_unseen") else { return };
    for path in 0..PATHS {
        let settings = bench.settings(path);
        // What a header more or less makes up for has a heartbeat's length on the wire, and is none either.
        for length in [0, 1, LEN - 24, LEN - 20, LEN - 4, LEN - 1, LEN + 1, LEN + 4, LEN + 20, LEN + 24, 1200, 3000] {
            for to in [PORT, 53] {
                let mut frame = Frame::from_node(&settings, &vec![0; length]);
                frame.ports[1] = to;
                // It leaves: what the program returned is checked there.
                assert_eq!(bench.both.depart(&frame.bytes()).expect("agree"), None, "{length} bytes to port {to}");
            }
        }
        let tick = bench.both.rig.tick(path as u32);
        assert_eq!((tick.departures, tick.departed), Default::default(), "a departure was recorded");
    }
    bench.both.compare_counters().expect("the kernel counted nothing");
}
