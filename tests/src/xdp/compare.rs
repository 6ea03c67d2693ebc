//! Compares what the kernel recorded with what the reference says it ought to have. It names each field that differs.

use super::Rig;
use crate::reference::{Facts, Page};
use heartbeat_common::lease::{bank, word};
use heartbeat_common::maps::Histogram;
use heartbeat_common::tick::{Departure, Tick};

/// Names the fields in which `tick` differs from `facts`; empty if it does not.
#[must_use]
pub fn differences(tick: &Tick<u64>, facts: &Facts) -> String {
    let expected = expected(tick, facts);
    if *tick == expected {
        return String::new();
    }
    let (is, ought) = (format!("{tick:#?}"), format!("{expected:#?}"));
    let lines = is.lines().zip(ought.lines()).filter(|(is, ought)| is != ought);
    lines.map(|(is, ought)| format!("\n  kernel {}, reference {}", is.trim(), ought.trim())).collect()
}

/// The tick that `facts` make; what the reference does not know (lock, cached MAC states) is taken from `tick`.
fn expected(tick: &Tick<u64>, facts: &Facts) -> Tick<u64> {
    Tick {
        lock: tick.lock & !1,
        heard_ns: facts.heard_ns,
        peer_incarnation: facts.peer_incarnation,
        probe_ns: facts.probe_ns,
        probe_top: facts.probes_taken.newest(),
        probe_bits: facts.probes_taken.bits(),
        echo_ns: facts.echo_ns,
        echo_top: facts.echoes_taken.newest(),
        echo_bits: facts.echoes_taken.bits(),
        round_trip_ns: facts.round_trip_ns,
        answered_ns: facts.answered_ns,
        returned_ns: facts.returned_ns,
        peer_stamp: facts.peer_stamp,
        peer_dynamic: facts.peer_dynamic,
        peer_dynamic_ns: facts.peer_dynamic_ns,
        stale_newest: facts.stale_newest,
        stale_answered_ns: facts.stale_answered_ns,
        handshake_incarnation: facts.handshake.0,
        handshake_sequence: facts.handshake.1,
        probes: facts.probes,
        answers: facts.answers,
        echoes: facts.echoes,
        late_echoes: facts.late_echoes,
        departures: facts.departures,
        standing: facts.standing,
        standing_digest: tick.standing_digest,
        standing_mark: tick.standing_mark,
        theirs: tick.theirs,
        mine: tick.mine,
        departed: facts.departed.map(|(sequence, ns)| Departure { sequence, ns }),
        older_heard_ns: facts.older_heard_ns,
        fence_answered_ns: facts.fence_answered_ns,
        fence_acked: facts.fence_acked.0,
        fence_acked_by: facts.fence_acked.1,
        fence_acked_flags: facts.fence_acked.2,
        fence_acked_ns: facts.fence_acked.3,
    }
}

/// Names the words in which the kernel's page differs from `page`: all that the packet path may write, and of the dates
/// that of `slot`; empty if none does.
#[must_use]
pub fn page_differences(rig: &Rig, page: &Page, slot: u32) -> String {
    let words = [
        ("incarnation", word::INCARNATION, page.incarnation),
        ("fenced", word::FENCED, page.fenced),
        ("granting", word::GRANTING, page.granting),
        ("ahead", word::AHEAD, u64::from(page.ahead)),
    ];
    let bank = word::BANKS + (rig.lease.get(0, word::ACTIVE) & 1) as usize * bank::WORDS;
    let vote = page.votes.get(slot as usize).map(|(_, date)| ("date", bank + bank::DATES + slot as usize, *date));
    let differs = |(_, index, ought): &(&str, usize, u64)| rig.lease.get(0, *index) != *ought;
    let tell = |(name, index, ought)| format!("\n  {name}: kernel {}, reference {ought}", rig.lease.get(0, index));
    words.into_iter().chain(vote).filter(differs).map(tell).collect()
}

/// Says whether a histogram is as it ought to be.
#[must_use]
pub fn same_histogram(histogram: &Histogram, facts: &Facts) -> bool {
    histogram.buckets == facts.histogram.0
}
