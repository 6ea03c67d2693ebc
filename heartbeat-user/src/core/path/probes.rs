//! The paced probes of one path that wait for judgement: admits what was sent, hands out each one once when its time
//! is over. It counts nothing.

use super::PathInput;
use crate::core::time::MonoTime;
use heartbeat_common::tick::{DEPARTURES, Tick};
use std::collections::VecDeque;

/// Probes that wait at most; the oldest are given up, unjudged, for newer ones.
const WAITING_MAX: usize = 16;

/// A paced probe that waits.
#[derive(Clone, Copy, Debug)]
struct Probe {
    sequence: u64,
    /// When it left, or, while that is not known, when the send call was made.
    stamp: u64,
    left: bool,
    /// Its time to be answered: the delay in force when it was sent.
    delay: u64,
}

impl Probe {
    const fn due(&self) -> u64 {
        self.stamp.saturating_add(self.delay)
    }
}

/// A probe whose time is over without a word of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// It left and was not answered.
    Missed { stamp: u64, due: u64 },
    /// It did not leave.
    Unsent { stamp: u64, due: u64 },
}

impl Judged {
    pub(super) const fn stamp(self) -> u64 {
        match self {
            Self::Missed { stamp, .. } | Self::Unsent { stamp, .. } => stamp,
        }
    }

    pub(super) const fn due(self) -> MonoTime {
        match self {
            Self::Missed { due, .. } | Self::Unsent { due, .. } => MonoTime(due),
        }
    }
}

/// What the kernel's ring says of a probe.
enum Record {
    Left(u64),
    NotYet,
    Overwritten,
}

fn record(tick: &Tick<u64>, sequence: u64) -> Record {
    let slot = &tick.departed[(sequence & (DEPARTURES as u64 - 1)) as usize];
    if slot.sequence == sequence {
        Record::Left(slot.ns)
    } else if slot.sequence > sequence {
        Record::Overwritten
    } else {
        Record::NotYet
    }
}

const fn paced(sequence: u64) -> bool {
    sequence != 0 && sequence & 1 == 0
}

/// The waiting probes, by sequence.
#[derive(Clone, Debug, Default)]
pub(super) struct Probes {
    waiting: VecDeque<Probe>,
    /// Highest sequence admitted: what is not above it was judged or is waiting.
    top: u64,
}

impl Probes {
    /// Admits what was sent since `started` and updates what waits. Returns the newest departure seen (0: none).
    pub(super) fn admit(&mut self, input: &PathInput<'_>, started: MonoTime, delay: u64) -> u64 {
        let tick = input.tick;
        self.waiting.retain_mut(|probe| match record(tick, probe.sequence) {
            _ if probe.left => true,
            Record::Left(ns) => {
                // It left after its time: it was unsent, whatever became of it later.
                if ns <= probe.due() {
                    (probe.stamp, probe.left) = (ns, true);
                }
                true
            }
            Record::NotYet => true,
            Record::Overwritten => false,
        });
        let mut newest = 0;
        let mut found: [Option<Probe>; DEPARTURES + super::ATTEMPTS] = [None; DEPARTURES + super::ATTEMPTS];
        let mut slots = found.iter_mut();
        let mut add = |probe: Probe| {
            if probe.sequence > self.top
                && let Some(slot) = slots.next()
            {
                *slot = Some(probe);
            }
        };
        for departure in &tick.departed {
            if paced(departure.sequence) && departure.ns >= started.0 {
                newest = newest.max(departure.ns);
                add(Probe { sequence: departure.sequence, stamp: departure.ns, left: true, delay });
            }
        }
        for attempt in input.attempts {
            if paced(attempt.sequence)
                && attempt.ns >= started.0
                && matches!(record(tick, attempt.sequence), Record::NotYet)
            {
                add(Probe { sequence: attempt.sequence, stamp: attempt.ns, left: false, delay });
            }
        }
        found.sort_unstable_by_key(|probe| probe.map_or(u64::MAX, |probe| probe.sequence));
        for probe in found.into_iter().flatten() {
            self.top = self.top.max(probe.sequence);
            if self.waiting.len() == WAITING_MAX {
                self.waiting.pop_front();
            }
            self.waiting.push_back(probe);
        }
        newest
    }

    /// Takes note of what was sent, so that it is never judged.
    pub(super) fn skip(&mut self, input: &PathInput<'_>) {
        let attempts = input.attempts.iter().map(|attempt| attempt.sequence);
        let departures = input.tick.departed.iter().map(|departure| departure.sequence);
        self.top = attempts.chain(departures).filter(|sequence| paced(*sequence)).fold(self.top, u64::max);
        self.waiting.clear();
    }

    /// Forgets what waits: it is not judged.
    pub(super) fn forget(&mut self) {
        self.waiting.clear();
    }

    /// Takes out every probe whose time is over at `now` and returns those without an answer, in the order of their
    /// stamps; `heard` is when the peer was last heard.
    pub(super) fn judge(&mut self, now: MonoTime, heard: u64) -> Vec<Judged> {
        let mut judged = Vec::new();
        self.waiting.retain(|probe| {
            if probe.left && heard >= probe.stamp {
                return false;
            }
            let (stamp, due) = (probe.stamp, probe.due());
            if due > now.0 {
                return true;
            }
            if heard < stamp {
                judged.push(if probe.left { Judged::Missed { stamp, due } } else { Judged::Unsent { stamp, due } });
            }
            false
        });
        judged.sort_by_key(|judged| judged.stamp());
        judged
    }

    /// Returns when the next probe's time is over.
    pub(super) fn timeout(&self) -> Option<MonoTime> {
        self.waiting.iter().map(|probe| MonoTime(probe.due())).min()
    }
}
