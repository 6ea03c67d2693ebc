//! Says whether this node's echoes arrive, from what its peers' probes bring back. It steps nothing down itself.

use crate::core::time::MonoTime;
use heartbeat_common::tick::Tick;
use std::time::Duration;

/// Probes of the peer that must have been answered, and own echoes that must have come, before a verdict.
pub const EVIDENCE: u64 = 5;

/// Time after which echoes that are still lost are told again: by then a lesser mode was tried, and fails as well.
pub const AGAIN: Duration = Duration::from_secs(30);

/// Watches one path. XDP_TX can lose every echo while all of this node's counters rise; the peer knows better:
/// each of its probes returns this node's stamp of the last echo that it received.
#[derive(Clone, Debug, Default)]
pub struct EchoCheck {
    running: bool,
    told: Option<MonoTime>,
    since: MonoTime,
    returned: u64,
    answers: u64,
    echoes: u64,
}

impl EchoCheck {
    /// Looks at a tick at `now`. Returns the number of answers that went nowhere, at most once in [`AGAIN`]: in the last
    /// `detection` time the peer answered this node, was answered at least [`EVIDENCE`] times by its kernel, and
    /// returned no newer stamp.
    pub fn observe(&mut self, now: MonoTime, tick: &Tick<u64>, in_kernel: bool, detection: Duration) -> Option<u64> {
        let fresh = tick.returned_ns != self.returned || tick.answers < self.answers || tick.echoes < self.echoes;
        if !in_kernel || !self.running || fresh {
            *self = Self {
                running: in_kernel,
                told: None,
                since: now,
                returned: tick.returned_ns,
                answers: tick.answers,
                echoes: tick.echoes,
            };
            return None;
        }
        if !self.enough(tick) || now < self.due(detection) {
            return None;
        }
        // The peer went silent meanwhile: nothing is proved, so the window begins again.
        if now.since(MonoTime(tick.echo_ns)) > detection {
            *self = Self { since: now, answers: tick.answers, echoes: tick.echoes, ..*self };
            return None;
        }
        self.told = Some(now);
        Some(tick.answers - self.answers)
    }

    fn enough(&self, tick: &Tick<u64>) -> bool {
        tick.answers.saturating_sub(self.answers) >= EVIDENCE && tick.echoes.saturating_sub(self.echoes) >= EVIDENCE
    }

    /// Returns when the same tick would lead to a verdict.
    #[must_use]
    pub fn timeout(&self, tick: &Tick<u64>, detection: Duration) -> Option<MonoTime> {
        (self.running && self.enough(tick)).then(|| self.due(detection))
    }

    fn due(&self, detection: Duration) -> MonoTime {
        self.told.map_or(self.since + detection, |told| told + AGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETECTION: Duration = Duration::from_nanos(500);

    fn tick(count: u64, echo_ns: u64, returned_ns: u64) -> Tick<u64> {
        Tick { answers: count, echoes: count, echo_ns, returned_ns, ..Tick::default() }
    }

    fn started() -> EchoCheck {
        let mut check = EchoCheck::default();
        assert_eq!(check.observe(MonoTime(1_000), &tick(10, 1_000, 7), true, DETECTION), None);
        check
    }

    #[test]
    fn lost_echoes_are_told_after_a_detection_time_and_five_answers_and_seldom_again() {
        let mut check = started();
        assert_eq!(check.observe(MonoTime(1_400), &tick(14, 1_400, 7), true, DETECTION), None);
        assert_eq!(check.observe(MonoTime(1_600), &tick(14, 1_600, 7), true, DETECTION), None);
        let mut early = started();
        assert_eq!(early.observe(MonoTime(1_499), &tick(15, 1_490, 7), true, DETECTION), None);
        assert_eq!(early.timeout(&tick(15, 1_490, 7), DETECTION), Some(MonoTime(1_500)));
        assert_eq!(early.observe(MonoTime(1_500), &tick(15, 1_490, 7), true, DETECTION), Some(5));
        assert_eq!(early.observe(MonoTime(1_600), &tick(16, 1_590, 7), true, DETECTION), None);
        let again = MonoTime(1_500) + AGAIN;
        assert_eq!(early.timeout(&tick(16, 1_590, 7), DETECTION), Some(again));
        assert_eq!(early.observe(MonoTime(again.0 - 1), &tick(90, again.0 - 9, 7), true, DETECTION), None);
        assert_eq!(early.observe(again, &tick(90, again.0 - 9, 7), true, DETECTION), Some(80));
    }

    #[test]
    fn a_returned_stamp_ends_the_episode() {
        let mut check = started();
        assert_eq!(check.observe(MonoTime(1_500), &tick(15, 1_490, 8), true, DETECTION), None);
        assert_eq!(check.observe(MonoTime(1_999), &tick(20, 1_990, 8), true, DETECTION), None);
        assert_eq!(check.observe(MonoTime(2_000), &tick(20, 1_990, 8), true, DETECTION), Some(5));
    }

    #[test]
    fn silence_of_the_peer_and_a_userspace_responder_prove_nothing() {
        let mut check = started();
        let quiet = tick(15, 1_100, 7);
        assert_eq!(check.observe(MonoTime(1_601), &quiet, true, DETECTION), None);
        assert_eq!(check.timeout(&quiet, DETECTION), None, "a spent window must not wake its owner for ever");
        let mut check = started();
        assert_eq!(check.observe(MonoTime(1_500), &tick(15, 1_490, 7), false, DETECTION), None);
        assert_eq!(check.observe(MonoTime(1_600), &tick(16, 1_590, 7), true, DETECTION), None);
    }
}
