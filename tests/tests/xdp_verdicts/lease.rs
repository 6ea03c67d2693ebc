//! What the kernel writes into the lease's page: dates by returned stamps, and the end of it all by a fence.

use crate::bench::{Bench, MARK, OWN, PATHS, PEER, VIEW, assert_checksums};
use heartbeat_common::counter::Counter;
use heartbeat_common::fence::ACK_GAP_NS;
use heartbeat_common::frame;
use heartbeat_common::lease::word;
use heartbeat_tests::reference::{self, LEN};
use heartbeat_tests::xdp::{Heartbeat, now};

/// The words of the heartbeat in an answer.
fn words(answer: &[u8]) -> [u64; frame::WORDS] {
    let mut payload = [0; LEN];
    payload.copy_from_slice(&answer[answer.len() - LEN..]);
    frame::from_bytes(&payload)
}

#[test]
fn a_probe_renews_by_the_stamp_that_it_brings_back() {
    let Some(mut bench) = Bench::new("a_probe_renews_by_the_stamp_that_it_brings_back") else { return };
    bench.install_view();
    for path in 0..PATHS {
        let stamp = now() - 1_000_000;
        for (brought, date) in [(stamp, stamp), (stamp - 1, stamp), (0, stamp), (stamp + 9, stamp + 9)] {
            let mut heartbeat = bench.heartbeat(path);
            heartbeat.words[7] = brought;
            let frame = bench.wrap(path, &heartbeat);
            bench.answered(&frame);
            assert_eq!(bench.date(path), date);
        }
        let mut heartbeat = bench.heartbeat(path);
        (heartbeat.words[7], heartbeat.words[13]) = (stamp + 99, heartbeat.words[13] ^ 1);
        let frame = bench.wrap(path, &heartbeat);
        bench.answered(&frame);
        assert_eq!(bench.date(path), stamp + 9, "a grant that is not expected");
        // A probe that asks who this is renews nothing, whatever it brings.
        let mut heartbeat = bench.heartbeat(path);
        (heartbeat.words[7], heartbeat.words[4]) = (stamp + 99, OWN - 1);
        let frame = bench.wrap(path, &heartbeat);
        bench.expect(&frame.bytes(), Some(Counter::AnsweredHandshake));
        assert_eq!(bench.date(path), stamp + 9);
    }
    assert_eq!(bench.both.rig.lease.get(0, word::AHEAD), 0);
}

#[test]
fn an_echo_renews_by_when_its_probe_was_sent() {
    let Some(mut bench) = Bench::new("an_echo_renews_by_when_its_probe_was_sent") else { return };
    bench.install_view();
    for path in 0..PATHS {
        let sent = now() - 3_000_000;
        let frame = bench.echo(path, sent);
        bench.dropped(&frame, Counter::EchoTimely);
        assert_eq!(bench.date(path), sent);
    }
    // Late ones too, which are no life.
    bench.both.change(0, |settings| settings.answer_within_ns = 1_000).expect("configured");
    let sent = now() - 1_000_000;
    let frame = bench.echo(0, sent);
    bench.dropped(&frame, Counter::EchoLate);
    assert_eq!(bench.date(0), sent);
}

#[test]
fn a_stamp_of_the_future_is_told_and_not_taken() {
    let Some(mut bench) = Bench::new("a_stamp_of_the_future_is_told_and_not_taken") else { return };
    for by_echo in [false, true] {
        bench.both.set_page(|page| *page = reference::Page::default());
        bench.install_view();
        let ahead = now() + 60_000_000_000;
        let mut heartbeat = bench.heartbeat(0);
        (heartbeat.words[7], heartbeat.words[13]) = (ahead, heartbeat.words[13] ^ 1);
        let frame = bench.wrap(0, &heartbeat);
        bench.answered(&frame);
        assert_eq!(bench.both.rig.lease.get(0, word::AHEAD), 0, "without the grant it says nothing");
        if by_echo {
            let frame = bench.echo(0, ahead);
            bench.expect(&frame.bytes(), Some(Counter::EchoTimely));
        } else {
            let mut heartbeat = bench.heartbeat(0);
            heartbeat.words[7] = ahead;
            let frame = bench.wrap(0, &heartbeat);
            bench.answered(&frame);
        }
        assert_eq!((bench.both.rig.lease.get(0, word::AHEAD), bench.date(0)), (1, 0));
    }
}

#[test]
fn a_grant_goes_out_only_under_its_mark() {
    let Some(mut bench) = Bench::new("a_grant_goes_out_only_under_its_mark") else { return };
    bench.install_view();
    for path in 0..PATHS {
        let grant = bench.settings(path).standing[4];
        for (granting, fenced, sent) in
            [(MARK, 0, grant), (0, 0, 0), (MARK + 1, 0, 0), (MARK, OWN - 1, grant), (MARK, OWN, 0), (MARK, OWN + 1, 0)]
        {
            bench.both.set_page(|page| (page.granting, page.fenced) = (granting, fenced));
            let frame = bench.probe(path);
            let answer = bench.answered(&frame);
            assert_checksums(&answer);
            let flags = frame::flags(words(&answer)[frame::word::DYNAMIC]) & frame::FLAG_FENCED;
            assert_eq!((words(&answer)[13], flags != 0), (sent, fenced >= OWN), "{granting} {fenced}");
        }
    }
}

#[test]
fn a_fence_is_obeyed_without_a_controller() {
    let Some(mut bench) = Bench::new("a_fence_is_obeyed_without_a_controller") else { return };
    for path in 0..PATHS {
        bench.both.set_page(|page| *page = reference::Page::default());
        bench.install_view();
        let fence = |bench: &Bench, victim, order| {
            let heartbeat = Heartbeat::fence(&bench.settings(path), 0, PEER, victim, order);
            bench.wrap(path, &heartbeat)
        };
        let frame = fence(&bench, OWN, VIEW);
        bench.dropped(&frame, Counter::DropFenceView);
        let page = |bench: &Bench| [word::FENCED, word::GRANTING].map(|word| bench.both.rig.lease.get(0, word));
        assert_eq!(page(&bench), [0, MARK]);
        bench.both.fence_answered(path, 0);
        let frame = fence(&bench, OWN, VIEW + 1);
        let answer = bench.expect(&frame.bytes(), Some(Counter::Fenced)).expect("an acknowledgement");
        assert_eq!(page(&bench), [OWN, 0]);
        assert_checksums(&answer);
        let told = words(&answer);
        assert_eq!((told[8] >> 48, told[4], told[9]), (3, OWN, OWN));
        // Again within a millisecond it is not acknowledged, and then it is.
        bench.both.fence_answered(path, now() + 1_000_000_000);
        bench.dropped(&frame, Counter::DropFenceLimit);
        bench.both.fence_answered(path, now() - ACK_GAP_NS);
        bench.expect(&frame.bytes(), Some(Counter::Fenced)).expect("an acknowledgement");
        // What is told to everybody else from now on.
        let probe = bench.probe(path);
        let answer = bench.answered(&probe);
        assert_ne!(frame::flags(words(&answer)[8]) & frame::FLAG_FENCED, 0);
        assert_eq!(words(&answer)[13], 0);
    }
}

#[test]
fn a_newer_incarnation_only_acknowledges() {
    let Some(mut bench) = Bench::new("a_newer_incarnation_only_acknowledges") else { return };
    bench.install_view();
    let heartbeat = Heartbeat::fence(&bench.settings(0), 0, PEER, OWN - 1, VIEW + 1);
    let frame = bench.wrap(0, &heartbeat);
    let answer = bench.expect(&frame.bytes(), Some(Counter::FenceAcked)).expect("an acknowledgement");
    assert_eq!((words(&answer)[4], words(&answer)[9]), (OWN - 1, OWN));
    let lease = &bench.both.rig.lease;
    assert_eq!((lease.get(0, word::FENCED), lease.get(0, word::GRANTING)), (0, MARK));
}

#[test]
fn an_acknowledgement_is_taken_and_never_answered() {
    let Some(mut bench) = Bench::new("an_acknowledgement_is_taken_and_never_answered") else { return };
    for (victim, gated, acked) in [(PEER - 1, 0, PEER - 1), (PEER, 1, PEER), (PEER - 1, 0, PEER)] {
        let mut heartbeat = Heartbeat::acknowledgement(&bench.settings(0), 0, PEER, victim);
        heartbeat.words[15] = gated;
        let frame = bench.wrap(0, &heartbeat);
        bench.dropped(&frame, Counter::FenceTakenAck);
        let tick = bench.both.rig.tick(0);
        assert_eq!((tick.fence_acked, tick.fence_acked_flags), (acked, u64::from(acked == PEER)));
    }
    assert_eq!(bench.both.rig.tick(0).heard_ns, 0, "nor is it life");
}
