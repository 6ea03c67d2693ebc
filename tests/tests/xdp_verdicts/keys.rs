//! Whose tag fits where: rotation, reflection, other paths.

use crate::bench::{Bench, OWN, PATHS};
use heartbeat_common::counter::Counter;
use heartbeat_tests::reference::Verdict;
use heartbeat_tests::reference::parse::{Parsed, parse};
use heartbeat_tests::xdp::{Frame, Heartbeat, now, world};

#[test]
fn a_key_that_was_replaced_opens_nothing() {
    let Some(mut bench) = Bench::new("a_key_that_was_replaced_opens_nothing") else { return };
    // All keys of the slot, those of the exchanges alone, those of the standings alone.
    for replaced in 0..3 {
        let frames = [bench.probe(0), bench.echo(0, now()), bench.probe(0), bench.echo(0, now())];
        bench.answered(&frames[0]);
        bench.dropped(&frames[1], Counter::EchoTimely);
        // Everything about the old keys is now cached in the tick; the same slot gets others.
        let (old, mut keys) = (bench.settings(0).slots[0].expect("slot 0 holds a key"), world::keys(&mut bench.random));
        match replaced {
            1 => (keys.peer_standing, keys.own_standing) = (old.peer_standing, old.own_standing),
            2 => (keys.theirs, keys.mine) = (old.theirs, old.mine),
            _ => {}
        }
        bench.both.change(0, |settings| settings.slots[0] = Some(keys)).expect("configured");
        bench.dropped(&frames[2], Counter::DropTag);
        bench.dropped(&frames[3], Counter::DropTag);
        let frame = bench.probe(0);
        bench.answered(&frame);
    }
    // A slot that is emptied holds no key, whatever is cached.
    let frame = bench.probe(0);
    bench.both.change(0, |settings| settings.slots[0] = None).expect("configured");
    bench.dropped(&frame, Counter::DropKeySlot);
}

#[test]
fn both_slots_are_taken_while_a_key_rotates() {
    let Some(mut bench) = Bench::new("both_slots_are_taken_while_a_key_rotates") else { return };
    let second = world::keys(&mut bench.random);
    bench.both.change(0, |settings| settings.slots[1] = Some(second)).expect("configured");
    for _ in 0..3 {
        let frame = bench.probe(0);
        bench.answered(&frame);
        let mut heartbeat = bench.heartbeat(0);
        heartbeat.words[0] |= 1 << 40;
        let settings = bench.settings(0);
        let frame = Frame::to_node(&settings, &heartbeat.signed(&settings, &second));
        bench.answered(&frame);
        // The other slot's key does not fit.
        heartbeat.words[5] += 1;
        let wrong = settings.slots[0].expect("slot 0 holds a key");
        let frame = Frame::to_node(&settings, &heartbeat.signed(&settings, &wrong));
        bench.dropped(&frame, Counter::DropTag);
    }
}

#[test]
fn nothing_is_reflected_or_turned_against_its_sender() {
    let Some(mut bench) = Bench::new("nothing_is_reflected_or_turned_against_its_sender") else { return };
    for path in 0..PATHS {
        let probe = bench.probe(path);
        let answer = bench.answered(&probe);
        // The echo came back to its own author, and the same with its addresses turned.
        assert_eq!(bench.expect(&answer, Some(Counter::DropUnlisted)), None);
        let Parsed::Plain(plain) = parse(&answer) else { panic!("plain") };
        let back = Frame::to_node(&bench.settings(path), &answer[plain.udp + 8..]);
        bench.dropped(&back, Counter::DropIds);
        // A probe relabelled as an echo, and an echo as a probe: first the kind alone, then the constants as well.
        let settings = bench.settings(path);
        let (probe, echo) = (bench.heartbeat(path), Heartbeat::echo(&settings, 0, &bench.author, 900, now(), 1));
        for (from, to, kind) in [(&probe, &echo, 1), (&echo, &probe, 0)] {
            let mut frame = bench.wrap(path, from);
            frame.payload[70] = kind;
            bench.dropped(&frame, Counter::DropIds);
            frame.payload[16..40].copy_from_slice(&to.bytes()[16..40]);
            bench.dropped(&frame, Counter::DropTag);
        }
    }
}

#[test]
fn another_pair_network_or_cluster_does_not_fit() {
    let Some(mut bench) = Bench::new("another_pair_network_or_cluster_does_not_fit") else { return };
    for path in 0..PATHS {
        // Good on one path, moved to another with every field made to look right: the tag is over them.
        let other = (path + 1) % PATHS;
        let heartbeat = bench.heartbeat(path);
        let settings = bench.settings(other);
        let frame = Frame::to_node(&settings, &bench.wrap(path, &heartbeat).payload);
        bench.dropped(&frame, Counter::DropCluster);
        let mut moved = bench.wrap(path, &heartbeat);
        let target = Heartbeat::probe(&settings, 0, &bench.author, OWN, bench.sequence).bytes();
        moved.payload[8..24].copy_from_slice(&target[8..24]);
        let frame = Frame::to_node(&settings, &moved.payload);
        bench.dropped(&frame, Counter::DropTag);
        let signer = settings.slots[0].expect("slot 0 holds a key");
        let right = Frame::to_node(
            &settings,
            &Heartbeat::probe(&settings, 0, &bench.author, OWN, bench.sequence).signed(&settings, &signer),
        );
        assert!(matches!(bench.both.receive(&right.bytes()).expect("agree").0.verdict, Verdict::Transmit(_)));
    }
}
