//! What becomes of a frame by its headers alone.

use crate::bench::{Bench, PATHS};
use heartbeat_common::counter::Counter;
use heartbeat_tests::reference::LEN;
use heartbeat_tests::xdp::now;

#[test]
fn every_truncation() {
    let Some(mut bench) = Bench::new("every_truncation") else { return };
    for path in 0..PATHS {
        let bytes = bench.probe(path).bytes();
        let port = bytes.len() - LEN - 8 + 4;
        for length in 14..bytes.len() {
            // Whose port cannot be seen, is not ours.
            let counted = (length >= port).then_some(Counter::DropLength);
            assert_eq!(bench.expect(&bytes[..length], counted), None, "{length} bytes");
        }
        bench.expect(&bytes, Some(Counter::Answered)).expect("whole, it is answered");
        // And behind options and extension headers.
        let mut frame = bench.probe(path);
        frame.options = if frame.ipv6 { vec![] } else { vec![1; 8] };
        frame.extensions = if frame.ipv6 { vec![(0, vec![0; 8]), (44, vec![0; 8]), (60, vec![0; 8])] } else { vec![] };
        let bytes = frame.bytes();
        for length in 14..=bytes.len() {
            assert_eq!(bench.both.receive(&bytes[..length]).expect("both sides agree").1, None);
        }
    }
}

#[test]
fn every_bit() {
    let Some(mut bench) = Bench::new("every_bit") else { return };
    for path in 0..PATHS {
        let length = bench.probe(path).bytes().len();
        for bit in 0..length * 8 {
            let mut bytes = bench.probe(path).bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (_, answer) = bench.both.receive(&bytes).expect("both sides agree");
            assert!(answer.is_none() || bit / 8 < length - LEN, "bit {bit} of the frame is not under the tag");
            let mut bytes = bench.echo(path, now()).bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (judged, answer) = bench.both.receive(&bytes).expect("both sides agree");
            assert_eq!(answer, None, "an echo is never answered");
            assert!(judged.counted != Some(Counter::EchoTimely) || bit / 8 < length - LEN, "bit {bit} of an echo");
        }
    }
    bench.both.compare_counters().expect("the kernel counted the same");
}

#[test]
fn hop_limits() {
    let Some(mut bench) = Bench::new("hop_limits") else { return };
    for path in 0..PATHS {
        for least in [255, 200, 1] {
            bench.both.change(path, |settings| settings.min_hop_limit = least).expect("configured");
            for hop_limit in 0..=255 {
                let mut frame = bench.probe(path);
                frame.hop_limit = hop_limit;
                let counter = if hop_limit < least { Counter::DropHopLimit } else { Counter::Answered };
                bench.expect(&frame.bytes(), Some(counter));
            }
        }
    }
}

#[test]
fn what_is_not_ours_is_passed_untouched() {
    let Some(mut bench) = Bench::new("what_is_not_ours_is_passed_untouched") else { return };
    for path in 0..PATHS {
        for change in 0..7 {
            let mut frame = bench.probe(path);
            match change {
                0 => frame.ports[1] = 53,
                1 => (frame.ports[0], frame.ports[1]) = (3343, 3342),
                2 => frame.protocol = 6,
                3 if frame.ipv6 => frame.extensions = vec![(44, vec![0, 0, 0, 8, 0, 0, 0, 9])],
                3 => frame.fragment = 5,
                4 if frame.ipv6 => frame.extensions = vec![(60, vec![0; 8]); 6],
                4 => frame.tags = vec![(0x8100, 1); 5],
                5 if frame.ipv6 => frame.extensions = vec![(50, vec![0; 8])],
                5 => frame.fragment = 0x2001,
                _ => frame.payload.clear(),
            }
            let bytes = frame.bytes();
            if change == 6 {
                // Too short for a port even.
                assert_eq!(bench.expect(&bytes[..bytes.len() - 6], None), None);
            } else {
                assert_eq!(bench.expect(&bytes, None), None, "change {change}");
            }
        }
        for ethertype in [0x0806u16, 0x88cc, 0x05dc, 0] {
            let mut bytes = bench.probe(0).bytes();
            bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            assert_eq!(bench.expect(&bytes, None), None);
        }
        // An IP version that is not its ethertype's, and an IPv4 header shorter than it can be.
        let mut bytes = bench.probe(0).bytes();
        bytes[14] = 0x65;
        bench.expect(&bytes, None);
        bytes[14] = 0x44;
        bench.expect(&bytes, None);
        let mut bytes = bench.probe(1).bytes();
        bytes[14] = 0x40;
        bench.expect(&bytes, None);
    }
}

#[test]
fn tags_of_every_kind() {
    let Some(mut bench) = Bench::new("tags_of_every_kind") else { return };
    let ours = Counter::DropLayer2;
    let cases: [(&[(u16, u16)], Counter); 9] = [
        (&[(0x8100, 10)], Counter::DropVlan),
        (&[(0x8100, 0)], ours),
        (&[(0x8100, 0xe000)], ours),
        (&[(0x88a8, 10)], ours),
        (&[(0x88a8, 10), (0x8100, 10)], ours),
        (&[(0x8100, 10), (0x8100, 10)], ours),
        (&[(0x8100, 10), (0x8100, 10), (0x8100, 10)], ours),
        (&[(0x8100, 10), (0x88a8, 10), (0x8100, 10), (0x88a8, 1)], ours),
        (&[(0x8100, 20)], Counter::DropVlan),
    ];
    for path in [0, 1] {
        for (tags, counter) in &cases {
            let mut frame = bench.probe(path);
            frame.tags = tags.to_vec();
            bench.dropped(&frame, *counter);
        }
    }
    for path in [2, 3] {
        let mut frame = bench.probe(path);
        frame.tags.clear();
        bench.dropped(&frame, Counter::DropVlan);
        let mut frame = bench.probe(path);
        frame.tags[0].1 ^= 1;
        bench.dropped(&frame, Counter::DropVlan);
        let frame = bench.probe(path);
        bench.answered(&frame);
    }
}

#[test]
fn options_fragments_and_extension_headers() {
    let Some(mut bench) = Bench::new("options_fragments_and_extension_headers") else { return };
    for length in 1..=10 {
        let mut frame = bench.probe(0);
        frame.options = vec![1; 4 * length];
        bench.dropped(&frame, Counter::DropLayer3);
    }
    for (fragment, counter) in [(0x2000, Counter::DropFragment), (0x6000, Counter::DropFragment)] {
        let mut frame = bench.probe(0);
        frame.fragment = fragment;
        bench.dropped(&frame, counter);
    }
    let fragment = (44, vec![0, 0, 0, 1, 0, 0, 0, 1]);
    let atomic = (44, vec![0; 8]);
    let extension = |kind, units: u8| (kind, [vec![0, units], vec![0; 6 + 8 * usize::from(units)]].concat());
    let cases = [
        (vec![extension(0, 0)], Counter::DropLayer3),
        (vec![extension(60, 3)], Counter::DropLayer3),
        (vec![extension(43, 1)], Counter::DropLayer3),
        (vec![extension(135, 0)], Counter::DropLayer3),
        (vec![(51, vec![0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])], Counter::DropLayer3),
        (vec![extension(60, 0); 5], Counter::DropLayer3),
        (vec![fragment.clone()], Counter::DropFragment),
        (vec![atomic], Counter::DropFragment),
        (vec![extension(0, 0), fragment.clone(), extension(60, 0)], Counter::DropFragment),
    ];
    for (extensions, counter) in cases {
        let mut frame = bench.probe(1);
        frame.extensions = extensions;
        bench.dropped(&frame, counter);
    }
}

#[test]
fn lengths() {
    let Some(mut bench) = Bench::new("lengths") else { return };
    for path in 0..PATHS {
        for error in [1, 2, 8, 0xffff, 0x8000] {
            let mut frame = bench.probe(path);
            frame.ip_length_error = error;
            bench.dropped(&frame, Counter::DropLength);
            let mut frame = bench.probe(path);
            frame.udp_length_error = error;
            bench.dropped(&frame, Counter::DropLength);
        }
        for length in [0, 1, LEN - 1, LEN + 1, 1200] {
            let mut frame = bench.probe(path);
            frame.payload.resize(length, 0);
            bench.dropped(&frame, Counter::DropLength);
        }
        // Bytes behind the packet belong to the link; they are no part of the heartbeat.
        let mut frame = bench.probe(path);
        frame.trailer = 4;
        bench.answered(&frame);
    }
}

#[test]
fn group_addresses_are_refused() {
    let Some(mut bench) = Bench::new("group_addresses_are_refused") else { return };
    for path in 0..PATHS {
        for end in 0..2 {
            for first in [0xff, 0x01, 0x33] {
                let mut frame = bench.probe(path);
                frame.macs[end][0] = first;
                bench.dropped(&frame, Counter::DropLayer2);
            }
        }
    }
}

#[test]
fn a_frame_stays_in_its_address_family() {
    let Some(mut bench) = Bench::new("a_frame_stays_in_its_address_family") else { return };
    let mut frame = bench.probe(0);
    frame.ipv6 = true;
    bench.dropped(&frame, Counter::DropUnlisted);
    frame.ipv6 = false;
    bench.answered(&frame);
}
