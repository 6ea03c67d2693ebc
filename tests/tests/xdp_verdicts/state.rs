//! What earlier frames make of a later one: windows, incarnations, lateness.

use crate::bench::{Bench, DELAY, OWN, PATHS, PEER, assert_checksums};
use heartbeat_common::counter::Counter;
use heartbeat_common::frame;
use heartbeat_tests::xdp::{Heartbeat, now};

#[test]
fn replays_and_the_window() {
    let Some(mut bench) = Bench::new("replays_and_the_window") else { return };
    for path in 0..PATHS {
        let with = |bench: &mut Bench, sequence| {
            let mut heartbeat = bench.heartbeat(path);
            heartbeat.words[5] = sequence;
            bench.wrap(path, &heartbeat)
        };
        let top = u64::MAX - 1;
        let order = [
            (0, false),
            (100, true),
            (100, false),
            (37, true),
            (36, false),
            (101, true),
            (38, true),
            (37, false),
            (top, true),
        ];
        for (sequence, good) in order {
            let frame = with(&mut bench, sequence);
            let counter = if good { Counter::Answered } else { Counter::DropReplay };
            bench.expect(&frame.bytes(), Some(counter));
        }
        for (sequence, good) in
            [(top - 63, true), (top - 64, false), (u64::MAX, true), (top - 62, true), (u64::MAX, false)]
        {
            let frame = with(&mut bench, sequence);
            let counter = if good { Counter::Answered } else { Counter::DropReplay };
            bench.expect(&frame.bytes(), Some(counter));
        }
    }
}

#[test]
fn handshakes_rise_and_leave_no_tick() {
    let Some(mut bench) = Bench::new("handshakes_rise_and_leave_no_tick") else { return };
    for named in [0, OWN - 1, OWN + 1, u64::MAX] {
        let mut heartbeat = bench.heartbeat(0);
        heartbeat.words[4] = named;
        let frame = bench.wrap(0, &heartbeat);
        bench.expect(&frame.bytes(), Some(Counter::AnsweredHandshake)).expect("an answer");
        bench.dropped(&frame, Counter::DropReplay);
        let tick = bench.both.rig.tick(0);
        assert_eq!((tick.heard_ns, tick.peer_incarnation, tick.probe_top), (0, 0, 0));
    }
}

#[test]
fn a_newer_incarnation_begins_anew() {
    let Some(mut bench) = Bench::new("a_newer_incarnation_begins_anew") else { return };
    for _ in 0..5 {
        let frame = bench.probe(0);
        bench.answered(&frame);
    }
    let mut heartbeat = bench.heartbeat(0);
    (heartbeat.words[3], heartbeat.words[9], heartbeat.words[5]) = (PEER + 1, PEER + 1, 2);
    let first = bench.wrap(0, &heartbeat);
    bench.answered(&first);
    bench.dropped(&first, Counter::DropReplay);
    // The older one is told so, once in a while, and its echoes are not taken.
    let old = bench.probe(0);
    let answer = bench.expect(&old.bytes(), Some(Counter::AnsweredStale)).expect("a stale echo");
    assert_eq!(answer[42 + 120..42 + 128], (PEER + 1).to_le_bytes(), "the newest known");
    assert_eq!(answer[42 + 70] & 7, 5, "an echo, flagged stale");
    assert_checksums(&answer);
    bench.both.stale_answered(0, now() + DELAY);
    bench.dropped(&old, Counter::DropStaleLimit);
    bench.both.stale_answered(0, now() - 10_000_000);
    let echo = bench.echo(0, now());
    bench.dropped(&echo, Counter::DropIncarnation);
    bench.expect(&old.bytes(), Some(Counter::AnsweredStale)).expect("a stale echo");
    // An echo of a newer one is a proof of it as well.
    bench.author[0] = PEER + 2;
    let echo = bench.echo(0, now());
    bench.dropped(&echo, Counter::EchoTimely);
    assert_eq!(bench.both.rig.tick(0).peer_incarnation, PEER + 2);
}

#[test]
fn a_stale_echo_tells_its_prober() {
    let Some(mut bench) = Bench::new("a_stale_echo_tells_its_prober") else { return };
    for (notice, newest) in [(OWN + 5, OWN + 5), (OWN + 3, OWN + 5)] {
        bench.sequence += 2;
        let mut echo = Heartbeat::echo(&bench.settings(0), 0, &bench.author, bench.sequence, now(), 1);
        echo.words[8] |= 4 << 48;
        echo.words[15] = notice;
        let frame = bench.wrap(0, &echo);
        bench.dropped(&frame, Counter::EchoTimely);
        assert_eq!(bench.both.rig.tick(0).stale_newest, newest);
    }
}

#[test]
fn a_frame_that_was_overtaken_changes_nothing_newer() {
    let Some(mut bench) = Bench::new("a_frame_that_was_overtaken_changes_nothing_newer") else { return };
    let old = bench.probe(0);
    bench.author[5] ^= 1;
    let mut heartbeat = bench.heartbeat(0);
    heartbeat.words[8] = u64::from(frame::FLAG_LEAVING) << 48;
    let new = bench.wrap(0, &heartbeat);
    bench.answered(&new);
    let before = bench.both.rig.tick(0);
    bench.answered(&old);
    let after = bench.both.rig.tick(0);
    assert_eq!((after.peer_dynamic, after.standing), (before.peer_dynamic, before.standing));
    assert!(after.heard_ns > before.heard_ns, "it is life all the same");
}

#[test]
fn a_late_echo_is_no_life_and_no_news() {
    let Some(mut bench) = Bench::new("a_late_echo_is_no_life_and_no_news") else { return };
    let first = bench.echo(0, now());
    bench.dropped(&first, Counter::EchoTimely);
    let before = bench.both.rig.tick(0);
    let late = bench.echo(0, now() - DELAY - 1);
    bench.dropped(&late, Counter::EchoLate);
    let after = bench.both.rig.tick(0);
    assert_eq!(
        (after.heard_ns, after.echo_ns, after.peer_dynamic_ns),
        (before.heard_ns, before.echo_ns, before.peer_dynamic_ns)
    );
    assert!(after.round_trip_ns > DELAY);
}
