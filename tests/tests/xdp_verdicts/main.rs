//! Each way a frame can end, one by one, through BPF_PROG_TEST_RUN and beside the reference. Nothing is attached.

mod answers;
mod bench;
mod buffers;
mod headers;
mod keys;
mod lease;
mod maps;
mod state;

use bench::{Bench, DELAY, OWN, PATHS, PEER, VIEW, assert_checksums};
use heartbeat_common::counter::Counter;
use heartbeat_tests::xdp::{Heartbeat, now};

/// A frame that ends in `counter`, after what must come before it. `None`: not on the receive path.
fn case(bench: &mut Bench, path: usize, counter: Counter) -> Option<Vec<u8>> {
    use Counter as C;
    let mut frame = bench.probe(path);
    let mut heartbeat = bench.heartbeat(path);
    match counter {
        C::Answered => {}
        C::AnsweredStale | C::DropStaleLimit => {
            bench.answered(&frame);
            let mut stale = || {
                let mut heartbeat = bench.heartbeat(path);
                heartbeat.words[3] = PEER - 1;
                heartbeat.words[9] = PEER - 1;
                bench.wrap(path, &heartbeat)
            };
            let (first, second) = (stale(), stale());
            frame = second;
            if counter == C::DropStaleLimit {
                bench.expect(&first.bytes(), Some(C::AnsweredStale)).expect("a stale echo");
                bench.both.stale_answered(path, now() + DELAY);
            }
        }
        C::AnsweredHandshake => {
            heartbeat.words[4] = OWN - 1;
            frame = bench.wrap(path, &heartbeat);
        }
        C::EchoTimely => frame = bench.echo(path, now()),
        C::EchoLate => frame = bench.echo(path, now() - DELAY - 1),
        C::DropLayer2 => frame.tags = vec![(0x8100, 10), (0x8100, 20)],
        C::DropVlan => frame.tags = vec![(0x8100, 99)],
        C::DropLayer3 if frame.ipv6 => frame.extensions = vec![(60, vec![0; 8])],
        C::DropLayer3 => frame.options = vec![1; 4],
        C::DropFragment if frame.ipv6 => frame.extensions = vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])],
        C::DropFragment => frame.fragment = 0x2000,
        C::DropPort => frame.ports[0] = 3344,
        C::DropLength => frame.udp_length_error = 1,
        C::DropHopLimit => frame.hop_limit = 254,
        C::DropUnlisted => frame.addresses[0][15] ^= 0x40,
        C::DropMagic => frame.payload[0] ^= 1,
        C::DropVersion => frame.payload[4] = 2,
        C::DropCluster => frame.payload[8] ^= 1,
        C::DropIds => frame.payload[16] ^= 1,
        C::DropKeySlot => frame.payload[5] = 1,
        C::DropKind => frame.payload[70] |= 2,
        C::DropReserved => frame.payload[6] = 1,
        C::DropReplay => {
            bench.answered(&frame);
        }
        C::DropTag => frame.payload[128] ^= 1,
        C::DropIncarnation => {
            heartbeat = Heartbeat::echo(&bench.settings(path), 0, &bench.author, 2, now(), 1);
            heartbeat.words[3] = OWN - 1;
            frame = bench.wrap(path, &heartbeat);
        }
        C::Fenced
        | C::FenceAcked
        | C::DropFenceTag
        | C::DropFenceView
        | C::DropFenceIncarnation
        | C::DropFenceLimit => {
            bench.install_view();
            let victim = match counter {
                C::FenceAcked => OWN - 1,
                C::DropFenceIncarnation => OWN + 1,
                _ => OWN,
            };
            let order = if counter == C::DropFenceView { VIEW } else { VIEW + 1 };
            heartbeat = Heartbeat::fence(&bench.settings(path), 0, PEER, victim, order);
            frame = bench.wrap(path, &heartbeat);
            frame.payload[143] ^= u8::from(counter == C::DropFenceTag);
            if counter == C::DropFenceLimit {
                bench.both.fence_answered(path, now() + DELAY);
            }
        }
        C::FenceTakenAck => {
            heartbeat = Heartbeat::acknowledgement(&bench.settings(path), 0, PEER, PEER);
            frame = bench.wrap(path, &heartbeat);
        }
        C::ChecksumZero if frame.ipv6 => frame.checksum = Some(0),
        // Outside IPv6 it is never counted; these end otherwise than in a count of a received frame.
        C::ChecksumZero | C::Contended | C::Internal | C::Departed | C::DepartedUnknown => {
            return None;
        }
    }
    Some(frame.bytes())
}

#[test]
fn each_counter_has_a_case() {
    let Some(mut bench) = Bench::new("each_counter_has_a_case") else { return };
    for path in 0..PATHS {
        for counter in Counter::ALL {
            bench.both.forget(path);
            let Some(bytes) = case(&mut bench, path, *counter) else { continue };
            // A frame without checksum is counted as such and then ends as any other.
            let ends = if *counter == Counter::ChecksumZero { Counter::Answered } else { *counter };
            let answer = bench.expect(&bytes, Some(ends));
            let probes = [Counter::Answered, Counter::AnsweredHandshake, Counter::AnsweredStale];
            let answers = [&probes[..], &[Counter::Fenced, Counter::FenceAcked]].concat();
            assert_eq!(answer.is_some(), answers.contains(&ends), "{}", counter.name());
            if let Some(answer) = answer {
                assert_checksums(&answer);
            }
        }
    }
    for counter in Counter::ALL {
        use Counter as C;
        let elsewhere = [C::Contended, C::Internal, C::Departed, C::DepartedUnknown];
        assert!(elsewhere.contains(counter) || bench.both.counted[*counter as usize] > 0, "{}", counter.name());
    }
}
