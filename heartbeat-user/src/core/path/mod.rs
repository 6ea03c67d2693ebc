//! One path: counts what its peer failed to answer, and climbs the ladder of the path's states. It judges no node.
//!
//! ```text
//! Unknown --heard--> Up --lost--> Lost --unreachable--> Unreachable --failed--> Failed
//!                    ^             |                        |                     |
//!                    +---- heard --+------------------------+---------------------+
//! ```
//!
//! Every probe is judged once. It *missed* if the kernel saw it leave, one delay has passed since, and the kernel has
//! heard nothing of the peer since it left; it is *unsent* if the send call was made, one delay has passed, and the
//! kernel did not see it leave. A probe of which the kernel no longer has a record (this node looked too late) is
//! neither: what was not seen is not held against the peer.

mod probes;
#[cfg(test)]
mod tests;

use crate::core::echoes::{EchoCheck, EchoLoss};
use crate::core::settings::PathSettings;
use crate::core::time::{MonoTime, nanos};
use heartbeat_common::tick::Tick;
use probes::{Judged, Probes};
use serde::Serialize;
use std::time::Duration;

/// Send calls remembered.
pub const ATTEMPTS: usize = 8;

/// A send call, paced (even) sequences only, whether or not it succeeded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The probe's sequence; 0: none.
    pub sequence: u64,
    /// When the call was made, CLOCK_MONOTONIC ns.
    pub ns: u64,
}

/// What is known of a path at one observation.
///
/// The time of the observation must be read *before* the tick is copied, or found unchanged since it was: were it read
/// after, a pause in between would make time pass that the copy knows nothing of, and an answer that came meanwhile would
/// look like silence.
#[derive(Clone, Copy, Debug)]
pub struct PathInput<'a> {
    /// The kernel's record, copied whole.
    pub tick: &'a Tick<u64>,
    /// The latest send calls, a ring by `(sequence >> 1) & 7`.
    pub attempts: &'a [Attempt; ATTEMPTS],
    /// The interface is present and up, and its program or responder runs. An unusable path hears nothing; it counts
    /// as unsent once a delay, whatever the attempts.
    pub usable: bool,
    /// Another process has the port: probes are heard and answered by the kernel, and none can be sent. Such a path says
    /// nothing of its peer's silence.
    pub mute: bool,
    /// XDP answers the peer's probes, so that echoes can be lost unseen.
    pub answers_in_kernel: bool,
    /// Something above may differ from the observation before. False saves the work of judging the same facts again.
    pub changed: bool,
}

#[cfg(test)]
impl<'a> PathInput<'a> {
    /// A path that can be used and is answered by XDP, looked at anew.
    pub(crate) const fn fresh(tick: &'a Tick<u64>, attempts: &'a [Attempt; ATTEMPTS]) -> Self {
        Self { tick, attempts, usable: true, mute: false, answers_in_kernel: true, changed: true }
    }
}

/// The ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PathState {
    /// Not heard since this controller began, and not silent for long enough to say more.
    Unknown,
    /// Heard.
    Up,
    /// A few probes in a row were not answered.
    Lost,
    /// More of them.
    Unreachable,
    /// Still more, or the own interface cannot be used.
    Failed,
}

/// A step on the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub from: PathState,
    pub to: PathState,
    /// When it happened: the time of a probe's miss, or the stamp of what was heard.
    pub at: MonoTime,
    /// When the path was last heard before that.
    pub silent_since: MonoTime,
}

/// What an observation changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub steps: Vec<Step>,
    /// Answers that did not arrive, once an episode.
    pub echoes_lost: Option<EchoLoss>,
}

/// What one path amounts to.
#[derive(Clone, Debug)]
pub struct Path {
    rule: PathSettings,
    started: MonoTime,
    /// Time of the latest observation.
    observed: MonoTime,
    state: PathState,
    since: MonoTime,
    usable: bool,
    mute: bool,
    /// It is mute, and its peer asks nothing on it either: it takes no part in a verdict.
    aside: bool,
    heard: u64,
    misses: u32,
    unsent: u32,
    last_counted: u64,
    virtual_due: Option<MonoTime>,
    probes: Probes,
    echoes: EchoCheck,
    echoes_due: Option<MonoTime>,
    departed: u64,
    round_trip: u64,
}

impl Path {
    pub(crate) fn new(settings: PathSettings, now: MonoTime) -> Self {
        Self {
            rule: settings.sane(),
            started: now,
            observed: now,
            state: PathState::Unknown,
            since: now,
            usable: true,
            mute: false,
            aside: false,
            heard: 0,
            misses: 0,
            unsent: 0,
            last_counted: 0,
            virtual_due: None,
            probes: Probes::default(),
            echoes: EchoCheck::default(),
            echoes_due: None,
            departed: 0,
            round_trip: 0,
        }
    }

    /// Returns the rung of the ladder.
    #[must_use]
    pub const fn state(&self) -> PathState {
        self.state
    }

    /// Returns since when it is there.
    #[must_use]
    pub const fn since(&self) -> MonoTime {
        self.since
    }

    /// Says whether nothing can be asked on it, though its interface runs: another process has the port.
    #[must_use]
    pub const fn mute(&self) -> bool {
        self.mute
    }

    /// Says whether it takes no part in a verdict: nothing can be asked on it, and nothing was heard of late.
    #[must_use]
    pub const fn aside(&self) -> bool {
        self.aside
    }

    /// Says whether it can be used from this side.
    #[must_use]
    pub const fn usable(&self) -> bool {
        self.usable
    }

    /// Returns the probes in a row that left and were not answered.
    #[must_use]
    pub const fn misses(&self) -> u32 {
        self.misses
    }

    /// Returns the probes in a row that did not leave.
    #[must_use]
    pub const fn unsent(&self) -> u32 {
        self.unsent
    }

    /// Returns what the thresholds are compared with.
    #[must_use]
    pub const fn count(&self) -> u32 {
        self.misses.saturating_add(self.unsent)
    }

    /// Returns when the peer was last heard on it, by the kernel's stamp; 0: never.
    #[must_use]
    pub const fn heard(&self) -> MonoTime {
        MonoTime(self.heard)
    }

    /// Says whether the peer was heard on it since this controller watches it.
    #[must_use]
    pub const fn was_heard(&self) -> bool {
        self.heard != 0 && self.heard >= self.started.0
    }

    /// Returns when a paced probe was last seen to leave; 0: never.
    #[must_use]
    pub const fn last_departure(&self) -> MonoTime {
        MonoTime(self.departed)
    }

    /// Returns the round trip of the newest echo in ns; 0: none yet.
    #[must_use]
    pub const fn round_trip_ns(&self) -> u64 {
        self.round_trip
    }

    /// Returns the rule in force.
    #[must_use]
    pub const fn rule(&self) -> PathSettings {
        self.rule
    }

    /// Says whether the peer has proved, within the last detection time, that an echo of this node arrived.
    pub(crate) fn echoes_arrive(&self, now: MonoTime) -> bool {
        self.echoes.proved_since(now, self.rule.detection_time())
    }

    pub(crate) const fn started(&self) -> MonoTime {
        self.started
    }

    /// Says whether the threshold is reached and the detection time has passed: a pacer that was late catches up, and
    /// its probes, closer to each other than a delay, must make no verdict earlier.
    #[must_use]
    pub fn silent(&self) -> bool {
        self.over_threshold() && self.observed >= self.silent_due()
    }

    const fn over_threshold(&self) -> bool {
        self.count() >= self.rule.threshold
    }

    /// When the peer has not been heard for the detection time.
    fn silent_due(&self) -> MonoTime {
        self.started.max(self.heard()) + self.rule.detection_time()
    }

    /// Says whether one more miss would reach it.
    #[must_use]
    pub const fn suspect(&self) -> bool {
        self.count().saturating_add(1) >= self.rule.threshold
    }

    /// Judges what can be judged at `now`.
    pub(crate) fn observe(&mut self, now: MonoTime, input: &PathInput<'_>) -> Changes {
        let mut changes = Changes::default();
        let due = self.timeout();
        self.observed = self.observed.max(now);
        if !input.changed && due.is_none_or(|due| now < due) {
            return changes;
        }
        self.round_trip = input.tick.round_trip_ns;
        self.note_usable(now, input, &mut changes);
        self.note_heard(input.tick.heard_ns, &mut changes);
        if self.usable {
            self.departed = self.departed.max(self.probes.admit(input, self.started, nanos(self.rule.delay)));
            for judged in self.probes.judge(now, self.heard) {
                self.count_probe(judged, &mut changes);
            }
        } else {
            self.probes.skip(input);
            self.count_virtual(now, &mut changes);
        }
        self.aside = self.mute && now >= self.aside_due();
        let detection = self.rule.detection_time();
        changes.echoes_lost = self.echoes.observe(now, input.tick, input.answers_in_kernel, detection);
        self.echoes_due = self.echoes.timeout(input.tick, detection);
        changes
    }

    /// Returns when the same input would change something.
    pub(crate) fn timeout(&self) -> Option<MonoTime> {
        let aside = (self.mute && !self.aside).then(|| self.aside_due());
        let silent = (self.over_threshold() && !self.silent()).then(|| self.silent_due());
        [self.probes.timeout(), self.virtual_due, self.echoes_due, aside, silent].into_iter().flatten().min()
    }

    /// When a mute path has heard nothing for longer than a detection time.
    fn aside_due(&self) -> MonoTime {
        MonoTime(self.heard) + self.rule.detection_time() + Duration::from_nanos(1)
    }

    /// Takes a new rule. The silence counted so far is carried over as time, and what is carried over never reaches
    /// the threshold by itself: it takes new probes, judged by the new rule, to accuse. Probes on their way keep the
    /// old delay, or are not judged at all where the new one is longer.
    pub(crate) fn reconfigure(&mut self, settings: PathSettings) {
        let rule = settings.sane();
        if rule == self.rule {
            return;
        }
        let (old, new) = (nanos(self.rule.delay), nanos(rule.delay));
        let cap = rule.threshold - 2;
        let carry = |count: u32| u64::from(count).saturating_mul(old) / new;
        let fit = |count: u64, cap: u32| u32::try_from(count).unwrap_or(u32::MAX).min(cap);
        self.misses = fit(carry(self.misses), cap);
        self.unsent = fit(carry(self.unsent), cap - self.misses);
        if new > old {
            self.probes.forget();
        }
        self.rule = rule;
    }

    fn note_usable(&mut self, now: MonoTime, input: &PathInput<'_>, changes: &mut Changes) {
        let (usable, mute) = (input.usable && !input.mute, input.usable && input.mute);
        if (usable, mute) == (self.usable, self.mute) {
            return;
        }
        (self.usable, self.mute) = (usable, mute);
        self.probes.forget();
        self.virtual_due = (!usable && !mute).then(|| now + self.rule.delay);
        if mute {
            // What is counted from here on would be held against a peer that was asked nothing.
            (self.misses, self.unsent) = (0, 0);
        }
        // What the own interface does is known for certain: no probe need be waited for.
        if !usable && self.state != PathState::Failed {
            self.step(PathState::Failed, now, changes);
        }
    }

    fn note_heard(&mut self, heard: u64, changes: &mut Changes) {
        if heard <= self.heard {
            return;
        }
        let silent_since = MonoTime(self.heard);
        self.heard = heard;
        self.misses = 0;
        self.unsent = 0;
        self.last_counted = 0;
        // A record from before this controller's time is remembered, but proves nothing of now.
        if self.was_heard() && self.usable && self.state != PathState::Up {
            let at = MonoTime(heard);
            changes.steps.push(Step { from: self.state, to: PathState::Up, at, silent_since });
            (self.state, self.since) = (PathState::Up, at);
        }
    }

    /// Probes that queued behind the neighbour's resolution leave together, and a late pacer catches up: they are one
    /// question asked several times, and count once.
    fn count_probe(&mut self, judged: Judged, changes: &mut Changes) {
        let stamp = judged.stamp();
        if self.last_counted != 0 && stamp.saturating_sub(self.last_counted) < nanos(self.rule.delay) / 2 {
            return;
        }
        self.last_counted = stamp;
        match judged {
            Judged::Missed { .. } => self.misses = self.misses.saturating_add(1),
            Judged::Unsent { .. } => self.unsent = self.unsent.saturating_add(1),
        }
        self.climb(judged.due(), changes);
    }

    /// An unusable path has nothing to count, and must not hold back a verdict for ever. It counts by the clock, and
    /// only once an observation: time in which this node did not run is not held against anybody.
    fn count_virtual(&mut self, now: MonoTime, changes: &mut Changes) {
        let Some(due) = self.virtual_due.filter(|due| now >= *due) else { return };
        let next = due + self.rule.delay;
        self.virtual_due = Some(if next > now { next } else { now + self.rule.delay });
        self.unsent = self.unsent.saturating_add(1);
        self.climb(due, changes);
    }

    fn climb(&mut self, at: MonoTime, changes: &mut Changes) {
        let count = self.count();
        if self.state == PathState::Unknown && !self.over_threshold() {
            return;
        }
        let rungs = [
            (PathState::Lost, self.rule.lost),
            (PathState::Unreachable, self.rule.unreachable),
            (PathState::Failed, self.rule.failed),
        ];
        for (rung, bar) in rungs {
            if rung > self.state && count >= bar {
                self.step(rung, at, changes);
            }
        }
    }

    fn step(&mut self, to: PathState, at: MonoTime, changes: &mut Changes) {
        changes.steps.push(Step { from: self.state, to, at, silent_since: MonoTime(self.heard) });
        (self.state, self.since) = (to, at);
    }
}
