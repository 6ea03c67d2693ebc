//! Frames that lie in several buffers, as those of a large MTU do: the program reads the first alone.

use crate::bench::{Bench, PATHS, assert_checksums};
use heartbeat_common::counter::Counter;
use heartbeat_tests::lab::wait::skip;
use heartbeat_tests::reference::LEN;
use heartbeat_tests::xdp::Action;

/// Says whether the kernel splits frames where it is told to, as kernels from 6.18 on do.
fn splits_as_told() -> bool {
    let name = nix::sys::utsname::uname().expect("a kernel has a name");
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(18))
}

/// Bytes of a first buffer that the kernel makes, at most: a page less what it keeps for itself.
const FIRST_MAX: usize = 4096 - 256;

#[test]
fn a_frame_larger_than_a_buffer_ends_as_a_small_one() {
    let Some(mut bench) = Bench::new("a_frame_larger_than_a_buffer_ends_as_a_small_one") else { return };
    for path in 0..PATHS {
        for length in [FIRST_MAX, 8900, 12_000] {
            let large = |bench: &mut Bench| {
                let mut frame = bench.probe(path);
                frame.payload.resize(length, 0x42);
                frame
            };
            let frame = large(&mut bench);
            bench.dropped(&frame, Counter::DropLength);
            let mut frame = large(&mut bench);
            frame.tags = vec![(0x8100, 10), (0x8100, 20)];
            bench.dropped(&frame, Counter::DropLayer2);
            let mut frame = large(&mut bench);
            (frame.fragment, frame.options) = (0x2000, vec![]);
            frame.extensions = if frame.ipv6 { vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])] } else { vec![] };
            bench.dropped(&frame, Counter::DropFragment);
            // Not on our port: untouched, each byte of each buffer.
            for ports in [[3343, 53], [3343, 3342], [53, 53]] {
                let mut frame = large(&mut bench);
                frame.ports = ports;
                assert_eq!(bench.expect(&frame.bytes(), None), None, "{length} bytes, ports {ports:?}");
            }
            // A heartbeat with much of the link's own behind it is a heartbeat.
            let mut frame = bench.probe(path);
            frame.trailer = length;
            assert_checksums(&bench.answered(&frame));
        }
    }
}

#[test]
fn a_heartbeat_that_is_not_whole_in_the_first_buffer_is_never_believed() {
    let name = "a_heartbeat_that_is_not_whole_in_the_first_buffer_is_never_believed";
    let Some(mut bench) = Bench::new(name) else { return };
    if !splits_as_told() {
        skip(name, "needs a kernel of 6.18, which splits a frame where it is told to");
        return;
    }
    for path in 0..PATHS {
        let bytes = bench.probe(path).bytes();
        let port = bytes.len() - LEN - 8 + 4;
        let counted = |bench: &Bench, counter: Counter| bench.both.rig.counters().expect("counters")[counter as usize];
        let before = counted(&bench, Counter::DropLength);
        let tick = bench.both.rig.tick(path as u32);
        let mut out = vec![0; 4096];
        for linear in 14..bytes.len() {
            let ran = bench.both.rig.receive_split(&bytes, &mut out, linear).expect("runs");
            // As the frame that ends there: whose port cannot be seen, is not ours.
            let ends = if linear >= port { Action::Drop } else { Action::Pass };
            assert_eq!((ran.action, &out[..ran.length]), (ends, &bytes[..]), "{linear} bytes in the first buffer");
        }
        let dropped = counted(&bench, Counter::DropLength) - before;
        assert_eq!(dropped as usize, bytes.len() - port);
        assert_eq!(bench.both.rig.tick(path as u32), tick, "something of it was believed");
        let ran = bench.both.rig.receive_split(&bytes, &mut out, bytes.len()).expect("runs");
        assert_eq!(ran.action, Action::Transmit, "whole in the first buffer it is answered");
    }
}
