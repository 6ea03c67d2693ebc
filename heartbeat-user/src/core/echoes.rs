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
///
/// A peer that never had an echo of this incarnation cannot even name it: it greets, again and again, and is answered
/// each time. Where the echoes of both vanish (two machines of one make), such greetings are all that either hears.
#[derive(Clone, Debug, Default)]
pub struct EchoCheck {
    running: bool,
    told: Option<MonoTime>,
    since: MonoTime,
    returned: u64,
    answers: u64,
    echoes: u64,
    /// The newest greeting, which incarnation greets, when it was noticed, and how many were since `since`, at least.
    greeting: (u64, u64),
    greeted: MonoTime,
    greetings: u64,
}

impl EchoCheck {
    /// Looks at a tick at `now`. Returns the number of answers that went nowhere, at most once in [`AGAIN`]: in the last
    /// `detection` time the peer answered this node, was answered at least [`EVIDENCE`] times by its kernel, and
    /// returned no newer stamp; or it greeted and was answered as often, and asked nothing else.
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
                greeting: greeting(tick),
                ..Self::default()
            };
            return None;
        }
        if greeting(tick) > self.greeting {
            self.greeting = greeting(tick);
            self.greeted = now;
            self.greetings += 1;
        }
        if !self.enough(tick) || now < self.due(detection) {
            return None;
        }
        // The peer went silent meanwhile: nothing is proved, so the window begins again.
        let last = if self.greeted_only(tick) { self.greeted } else { MonoTime(tick.echo_ns) };
        if now.since(last) > detection {
            *self = Self { since: now, answers: tick.answers, echoes: tick.echoes, greetings: 0, ..*self };
            return None;
        }
        self.told = Some(now);
        Some(if self.greeted_only(tick) { self.greetings } else { tick.answers - self.answers })
    }

    /// Says whether a newer stamp was returned within the `detection` time before `now`.
    #[must_use]
    pub fn proved_since(&self, now: MonoTime, detection: Duration) -> bool {
        self.running && self.told.is_none() && self.returned != 0 && now.since(self.since) <= detection
    }

    fn enough(&self, tick: &Tick<u64>) -> bool {
        let answers = tick.answers.saturating_sub(self.answers);
        answers >= EVIDENCE && tick.echoes.saturating_sub(self.echoes) >= EVIDENCE || self.greeted_only(tick)
    }

    fn greeted_only(&self, tick: &Tick<u64>) -> bool {
        self.greetings >= EVIDENCE && tick.answers == self.answers
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

/// The newest greeting in a tick: whose, and which.
const fn greeting(tick: &Tick<u64>) -> (u64, u64) {
    (tick.handshake_incarnation, tick.handshake_sequence)
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
        assert!(check.proved_since(MonoTime(2_000), DETECTION) && !check.proved_since(MonoTime(2_001), DETECTION));
        assert!(!EchoCheck::default().proved_since(MonoTime(0), DETECTION));
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

    #[test]
    fn a_peer_that_greets_for_ever_never_had_an_echo() {
        let greeting = |sequence| Tick { handshake_incarnation: 3, handshake_sequence: sequence, ..Tick::default() };
        let mut check = EchoCheck::default();
        assert_eq!(check.observe(MonoTime(1_000), &greeting(10), true, DETECTION), None);
        for n in 1..5 {
            assert_eq!(check.observe(MonoTime(1_000 + 100 * n), &greeting(10 + 2 * n), true, DETECTION), None);
        }
        assert_eq!(check.timeout(&greeting(18), DETECTION), None, "four greetings are not enough");
        assert_eq!(check.observe(MonoTime(1_499), &greeting(20), true, DETECTION), None);
        assert_eq!(check.timeout(&greeting(20), DETECTION), Some(MonoTime(1_500)));
        assert_eq!(check.observe(MonoTime(1_500), &greeting(20), true, DETECTION), Some(5));
        assert_eq!(check.observe(MonoTime(1_600), &greeting(22), true, DETECTION), None, "told once");
    }

    #[test]
    fn greetings_prove_nothing_once_the_peer_asked_by_name_or_fell_silent() {
        let mut check = EchoCheck::default();
        let tick = |sequence, answers| Tick { handshake_sequence: sequence, answers, ..Tick::default() };
        check.observe(MonoTime(1_000), &tick(10, 0), true, DETECTION);
        for n in 1..=5 {
            check.observe(MonoTime(1_000 + 20 * n), &tick(10 + 2 * n, 0), true, DETECTION);
        }
        let mut named = check.clone();
        assert_eq!(named.observe(MonoTime(1_500), &tick(20, 1), true, DETECTION), None);
        assert_eq!(check.observe(MonoTime(1_700), &tick(20, 0), true, DETECTION), None, "silent for a detection time");
        assert_eq!(check.timeout(&tick(20, 0), DETECTION), None);
    }
}
