//! What an echo carries, and that its checksums are right.

use crate::bench::{Bench, PATHS, assert_checksums};
use heartbeat_common::frame;
use heartbeat_tests::reference::parse::{Parsed, parse};
use heartbeat_tests::reference::{LEN, answer};
use heartbeat_tests::xdp::{now, world};

#[test]
fn an_answer_is_the_probe_turned_round() {
    let Some(mut bench) = Bench::new("an_answer_is_the_probe_turned_round") else { return };
    for path in 0..PATHS {
        let mut frame = bench.probe(path);
        if let Some((_, tag)) = frame.tags.first_mut() {
            *tag |= 0xb000;
        }
        let bytes = frame.bytes();
        let answer = bench.answered(&frame);
        assert_eq!(answer.len(), bytes.len(), "out is never more than in");
        assert_eq!(answer[..6], bytes[6..12]);
        assert_eq!(answer[6..12], bytes[..6]);
        let (Parsed::Plain(probe), Parsed::Plain(echo)) = (parse(&bytes), parse(&answer)) else { panic!("both plain") };
        assert_eq!((echo.source, echo.destination), (probe.destination, probe.source));
        assert_eq!((echo.hop_limit, echo.vlan), (255, probe.vlan));
        assert_eq!(answer[12..echo.ip], bytes[12..probe.ip], "tags are kept with their priority");
        let payload = &answer[echo.udp + 8..];
        assert_eq!(payload[..56], bytes[probe.udp + 8..][..56], "what an echo returns");
        assert_checksums(&answer);
    }
}

#[test]
fn an_answers_checksum_owes_nothing_to_the_probes() {
    let Some(mut bench) = Bench::new("an_answers_checksum_owes_nothing_to_the_probes") else { return };
    for path in 0..PATHS {
        for checksum in [Some(0), Some(0xffff), Some(0x1234), Some(1), None] {
            let mut frame = bench.probe(path);
            frame.checksum = checksum;
            assert_checksums(&bench.answered(&frame));
        }
        // What a sender with checksum offload leaves: the folded sum of the pseudo header alone.
        let mut frame = bench.probe(path);
        let bytes = frame.bytes();
        let Parsed::Plain(plain) = parse(&bytes) else { panic!("plain") };
        let from = if plain.ipv6 { plain.ip + 8 } else { plain.ip + 12 };
        let pseudo = [&bytes[from..plain.udp], &[0, 17, 0, (8 + LEN) as u8]].concat();
        frame.checksum = Some(!answer::checksum(&pseudo));
        assert_checksums(&bench.answered(&frame));
        // Many contents, so that carries of every kind occur.
        for _ in 0..2000 {
            let mut heartbeat = bench.heartbeat(path);
            (heartbeat.words[6], heartbeat.words[7]) = (bench.random.word(), bench.random.word());
            let frame = bench.wrap(path, &heartbeat);
            let (_, answer) = bench.both.receive(&frame.bytes()).expect("both sides agree");
            assert_checksums(&answer.expect("an answer"));
        }
    }
}

#[test]
fn an_answer_tells_age_and_flags() {
    let Some(mut bench) = Bench::new("an_answer_tells_age_and_flags") else { return };
    let cases = [(0, 0), (now(), 0xfc), (now() - 5_000_000_000, frame::FLAG_QUORATE), (now() + 1_000_000_000, 0)];
    for (progress, flags) in cases {
        (bench.both.node.progress_ns, bench.both.node.flags) = (progress, flags);
        world::install_own(&bench.both.rig, &bench.both.node);
        let probe = bench.probe(0);
        let bytes = bench.answered(&probe);
        let mut payload = [0; LEN];
        payload.copy_from_slice(&bytes[42..]);
        let dynamic = frame::from_bytes(&payload)[frame::word::DYNAMIC];
        assert_eq!(frame::flags(dynamic), flags | 1);
        match frame::age_ns(dynamic) {
            None => assert_eq!(progress, 0),
            Some(age) => {
                assert!(age <= now().saturating_sub(progress) && age + 100_000_000 >= now().saturating_sub(progress))
            }
        }
    }
}
