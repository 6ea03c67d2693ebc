//! Tests of departure reports and of what a batch says of refused frames, on the loopback device of a network of the
//! test's own.

use super::*;
use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread whose network holds the loopback device alone.
fn in_own_network(test: impl FnOnce() + Send + 'static) {
    let run = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; the test needs root");
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip");
        assert!(up.success());
        test();
    };
    std::thread::spawn(run).join().expect("the test's thread");
}

fn heartbeat(kind: Kind, sequence: u64) -> [u64; frame::WORDS] {
    let mut words = [0; frame::WORDS];
    words[word::HEAD] = frame::head(0);
    words[word::SEQUENCE] = sequence;
    words[word::DYNAMIC] = frame::dynamic(kind, 0, 0, 0);
    words
}

fn reports(fd: &OwnedFd) -> Vec<Option<Departed>> {
    std::iter::from_fn(|| next_departure(fd)).collect()
}

fn only_probes_are_reported(local: &str) {
    let local: IpAddr = local.parse().expect("an address");
    let fd = open(local, "lo").expect("a socket");
    report_departures(&fd).expect("reports");
    let mut batch = Batch::new(2);
    let mut send = |kind, sequences: &[u64], report| {
        batch.clear();
        for sequence in sequences {
            batch.push(&heartbeat(kind, *sequence), &port_of(local));
        }
        assert_eq!(batch.send(&fd, 0, report).0, 0);
        assert_eq!(batch.taken(), vec![true; sequences.len()]);
    };
    // An echo leaves by the same socket, before, between and after: it is reported never.
    send(Kind::Echo, &[2], false);
    send(Kind::Probe, &[4, 6], true);
    send(Kind::Echo, &[8], false);
    send(Kind::Probe, &[10], true);
    let expected: Vec<_> = [4, 6, 10].map(|sequence| Some(Departed { to: local, sequence })).into();
    assert_eq!(reports(&fd), expected);
}

#[test]
fn only_probes_are_reported_ipv4() {
    in_own_network(|| only_probes_are_reported("127.0.0.1"));
}

#[test]
fn only_probes_are_reported_ipv6() {
    in_own_network(|| only_probes_are_reported("::1"));
}

#[test]
fn a_refused_frame_is_named_and_shifts_no_report() {
    in_own_network(|| {
        let local: IpAddr = [127, 0, 0, 1].into();
        let fd = open(local, "lo").expect("a socket");
        report_departures(&fd).expect("reports");
        let mut batch = Batch::new(3);
        batch.push(&heartbeat(Kind::Probe, 2), &port_of(local));
        // A socket may not send a broadcast unasked.
        batch.push(&heartbeat(Kind::Probe, 4), &port_of([255, 255, 255, 255].into()));
        batch.push(&heartbeat(Kind::Probe, 6), &port_of(local));
        let (refused, error) = batch.send(&fd, 0, true);
        assert_eq!((refused, error.is_some()), (1, true));
        assert_eq!(batch.taken(), [true, false, true]);
        let sequences: Vec<_> = reports(&fd).into_iter().flatten().map(|departed| departed.sequence).collect();
        assert_eq!(sequences, [2, 6]);
    });
}

#[test]
fn a_report_that_is_no_probe_of_ours_is_told_apart() {
    let mut bytes = vec![0; 14 + 20 + 8];
    bytes[14] = 0x45;
    bytes[30..34].copy_from_slice(&[10, 0, 0, 7]);
    bytes[34..36].copy_from_slice(&PORT.to_be_bytes());
    let of = |bytes: &[u8], kind| {
        let mut bytes = bytes.to_vec();
        bytes.extend_from_slice(&frame::to_bytes(&heartbeat(kind, 12)));
        departed(&bytes)
    };
    assert_eq!(of(&bytes, Kind::Probe), Some(Departed { to: [10, 0, 0, 7].into(), sequence: 12 }));
    assert_eq!(of(&bytes, Kind::Echo), None);
    assert_eq!(departed(&bytes), None);
    bytes[34] ^= 1;
    assert_eq!(of(&bytes, Kind::Probe), None);
    assert_eq!(of(&[], Kind::Probe), None);
}
