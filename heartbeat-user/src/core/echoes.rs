//! Says whether this node's echoes arrive, from what its peers' probes bring back. It steps nothing down itself.

use crate::core::time::MonoTime;
use heartbeat_common::frame::STANDING_USERSPACE;
use heartbeat_common::tick::Tick;
use std::time::Duration;

/// Probes of the peer that must have been answered, and own echoes that must have come, before a verdict.
pub const EVIDENCE: u64 = 5;

/// Time after which echoes that are still lost are told again: by then a lesser mode was tried, and fails as well.
pub const AGAIN: Duration = Duration::from_secs(30);

/// Answers that went nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoLoss {
    /// How many.
    pub answers: u64,
    /// The way to the peer is open, so it is this node's way of answering that fails. Else the way may be cut.
    pub open: bool,
}

/// Watches one path. XDP_TX can lose every echo while all of this node's counters rise; the peer knows better:
/// each of its probes returns this node's stamp of the last echo that it received.
///
/// Where the echoes of both vanish (two machines of one make), neither hears more than probes. A peer that names this
/// incarnation has had a probe of it, and has answered: that no echo ever came, while such probes do, says that the
/// peer's answers are lost like this node's. Greetings, which name no incarnation or an older one, say nothing: whoever
/// recorded them can replay them to a node that forgot how far it had heard.
///
/// Where the echoes of both stop in the midst of things, the two look like a network that lets nothing through from here
/// any more: that is told, and blamed on no mode.
#[derive(Clone, Debug, Default)]
pub struct EchoCheck {
    running: bool,
    /// What was told last, and when.
    told: Option<(MonoTime, EchoLoss)>,
    since: MonoTime,
    returned: u64,
    answers: u64,
    echoes: u64,
    incarnation: u64,
    /// Echoes seen by the last look, late ones too.
    came: u64,
    /// No echo of this incarnation of the peer ever came, nor a stamp.
    unheard: bool,
}

impl EchoCheck {
    /// Looks at a tick at `now`. Returns the answers that went nowhere, at most once in [`AGAIN`]: in the last `detection`
    /// time the peer was answered at least [`EVIDENCE`] times by this node's kernel and returned no newer stamp, and it
    /// answered this node as often, or not at all.
    pub fn observe(
        &mut self,
        now: MonoTime,
        tick: &Tick<u64>,
        in_kernel: bool,
        detection: Duration,
    ) -> Option<EchoLoss> {
        self.note_what_came(tick);
        let fresh = tick.returned_ns != self.returned || tick.answers < self.answers || tick.echoes < self.echoes;
        if !in_kernel || !self.running || fresh {
            *self = Self {
                running: in_kernel,
                told: None,
                since: now,
                returned: tick.returned_ns,
                answers: tick.answers,
                echoes: tick.echoes,
                ..*self
            };
            return None;
        }
        if !self.enough(tick) || now < self.due(tick, detection) {
            return None;
        }
        // The peer went silent meanwhile: nothing is proved, so the window begins again.
        let last = if self.unheard || !self.answered(tick) { tick.probe_ns } else { tick.echo_ns };
        if now.since(MonoTime(last)) > detection {
            *self = Self { since: now, answers: tick.answers, echoes: tick.echoes, ..*self };
            return None;
        }
        let loss = EchoLoss { answers: tick.answers - self.answers, open: self.open(tick) };
        self.told = Some((now, loss));
        Some(loss)
    }

    fn note_what_came(&mut self, tick: &Tick<u64>) {
        let came = tick.echoes.saturating_add(tick.late_echoes);
        self.unheard = if self.running {
            let nothing = tick.returned_ns == self.returned && came == self.came;
            nothing && (self.unheard || tick.peer_incarnation > self.incarnation)
        } else {
            tick.returned_ns == 0 && came == 0
        };
        self.came = came;
        self.incarnation = tick.peer_incarnation;
    }

    /// Says whether a newer stamp was returned within the `detection` time before `now`.
    #[must_use]
    pub fn proved_since(&self, now: MonoTime, detection: Duration) -> bool {
        self.running && self.told.is_none() && self.returned != 0 && now.since(self.since) <= detection
    }

    fn enough(&self, tick: &Tick<u64>) -> bool {
        let answers = tick.answers.saturating_sub(self.answers);
        answers >= EVIDENCE && (self.unheard || self.answered(tick) || !answers_in_userspace(tick))
    }

    /// What is lost is lost on an open way.
    const fn open(&self, tick: &Tick<u64>) -> bool {
        self.unheard || self.answered(tick)
    }

    /// The peer answered often enough.
    const fn answered(&self, tick: &Tick<u64>) -> bool {
        tick.echoes.saturating_sub(self.echoes) >= EVIDENCE
    }

    /// Returns when the same tick would lead to a verdict.
    #[must_use]
    pub fn timeout(&self, tick: &Tick<u64>, detection: Duration) -> Option<MonoTime> {
        (self.running && self.enough(tick)).then(|| self.due(tick, detection))
    }

    fn due(&self, tick: &Tick<u64>, detection: Duration) -> MonoTime {
        let open = self.open(tick);
        let due = match self.told {
            // That the way is open after all is news.
            Some((told, loss)) if loss.open || !open => told + AGAIN,
            _ => self.since + detection,
        };
        // While a few echoes come it is too soon to say that none does.
        let none = MonoTime(tick.echo_ns) + detection;
        if open || none < due { due } else { none }
    }
}

/// A starved responder is late with its answers, and with what it hears.
const fn answers_in_userspace(tick: &Tick<u64>) -> bool {
    (tick.standing[1] >> 32) as u16 & STANDING_USERSPACE != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const DETECTION: Duration = Duration::from_nanos(500);

    fn tick(count: u64, echo_ns: u64, returned_ns: u64) -> Tick<u64> {
        Tick { answers: count, echoes: count, echo_ns, returned_ns, ..Tick::default() }
    }

    /// Answers lost on an open way, and on one that may be cut.
    fn sure(answers: u64) -> Option<EchoLoss> {
        Some(EchoLoss { answers, open: true })
    }

    fn unsure(answers: u64) -> Option<EchoLoss> {
        Some(EchoLoss { answers, open: false })
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
        assert_eq!(early.observe(MonoTime(1_500), &tick(15, 1_490, 7), true, DETECTION), sure(5));
        assert_eq!(early.observe(MonoTime(1_600), &tick(16, 1_590, 7), true, DETECTION), None);
        let again = MonoTime(1_500) + AGAIN;
        assert_eq!(early.timeout(&tick(16, 1_590, 7), DETECTION), Some(again));
        assert_eq!(early.observe(MonoTime(again.0 - 1), &tick(90, again.0 - 9, 7), true, DETECTION), None);
        assert_eq!(early.observe(again, &tick(90, again.0 - 9, 7), true, DETECTION), sure(80));
    }

    #[test]
    fn a_returned_stamp_ends_the_episode() {
        let mut check = started();
        assert_eq!(check.observe(MonoTime(1_500), &tick(15, 1_490, 8), true, DETECTION), None);
        assert!(check.proved_since(MonoTime(2_000), DETECTION) && !check.proved_since(MonoTime(2_001), DETECTION));
        assert!(!EchoCheck::default().proved_since(MonoTime(0), DETECTION));
        assert_eq!(check.observe(MonoTime(1_999), &tick(20, 1_990, 8), true, DETECTION), None);
        assert_eq!(check.observe(MonoTime(2_000), &tick(20, 1_990, 8), true, DETECTION), sure(5));
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

    /// A tick with so many answers, the last at `probe_ns`, under an incarnation of the peer.
    fn asked(answers: u64, probe_ns: u64, incarnation: u64) -> Tick<u64> {
        Tick { answers, probe_ns, peer_incarnation: incarnation, ..Tick::default() }
    }

    #[test]
    fn a_peer_that_asks_by_name_and_was_never_heard_to_answer_has_no_echoes_either() {
        let mut check = EchoCheck::default();
        assert_eq!(check.observe(MonoTime(1_000), &asked(0, 0, 0), true, DETECTION), None);
        assert_eq!(check.observe(MonoTime(1_400), &asked(4, 1_390, 3), true, DETECTION), None);
        assert_eq!(check.timeout(&asked(4, 1_390, 3), DETECTION), None, "four are not enough");
        assert_eq!(check.observe(MonoTime(1_499), &asked(5, 1_490, 3), true, DETECTION), None);
        assert_eq!(check.timeout(&asked(5, 1_490, 3), DETECTION), Some(MonoTime(1_500)));
        let mut silent = check.clone();
        assert_eq!(silent.observe(MonoTime(1_991), &asked(5, 1_490, 3), true, DETECTION), None, "it fell silent");
        assert_eq!(silent.timeout(&asked(5, 1_490, 3), DETECTION), None);
        assert_eq!(check.observe(MonoTime(1_500), &asked(5, 1_490, 3), true, DETECTION), sure(5));
        assert_eq!(check.observe(MonoTime(1_600), &asked(6, 1_590, 3), true, DETECTION), None, "told once");
    }

    #[test]
    fn one_echo_however_late_or_one_stamp_says_that_the_way_may_be_cut() {
        let late = |tick: Tick<u64>| Tick { late_echoes: 1, ..tick };
        let timely = |tick: Tick<u64>| Tick { echoes: 1, echo_ns: 900, ..tick };
        let returned = |tick: Tick<u64>| Tick { returned_ns: 7, ..tick };
        for heard in [late, timely, returned] {
            // Heard by an earlier controller, or by this one.
            for first in [heard(asked(0, 0, 3)), asked(0, 0, 3)] {
                let mut check = EchoCheck::default();
                assert_eq!(check.observe(MonoTime(1_000), &first, true, DETECTION), None);
                assert_eq!(check.observe(MonoTime(1_100), &heard(asked(1, 1_090, 3)), true, DETECTION), None);
                let now = heard(asked(20, 1_690, 3));
                let loss = check.observe(MonoTime(1_700), &now, true, DETECTION);
                assert!(loss.is_some_and(|loss| !loss.open), "{first:?}: {loss:?}");
            }
        }
    }

    #[test]
    fn where_the_echoes_of_both_stop_in_the_midst_of_things_it_is_told_and_blamed_on_no_mode() {
        let tick = |answers, probe_ns, echo_ns| Tick { probe_ns, peer_incarnation: 3, ..tick(answers, echo_ns, 7) };
        let with = |echoes, tick: Tick<u64>| Tick { echoes, ..tick };
        let mut check = EchoCheck::default();
        assert_eq!(check.observe(MonoTime(1_000), &tick(10, 990, 1_000), true, DETECTION), None);
        // One echo was on its way; then none came, for a detection time.
        let none = with(11, tick(16, 1_500, 1_100));
        assert_eq!(check.observe(MonoTime(1_500), &none, true, DETECTION), None);
        assert_eq!(check.timeout(&none, DETECTION), Some(MonoTime(1_600)));
        let mut userspace = check.clone();
        let theirs = Tick { standing: [3, u64::from(STANDING_USERSPACE) << 32, 0, 0, 0, 0, 0], ..none };
        assert_eq!(userspace.timeout(&theirs, DETECTION), None);
        assert_eq!(userspace.observe(MonoTime(1_600), &theirs, true, DETECTION), None, "a responder may be starved");
        assert_eq!(check.observe(MonoTime(1_600), &none, true, DETECTION), unsure(6));
        let mut opened = check.clone();
        let echoed = with(15, tick(20, 1_890, 1_890));
        assert_eq!(opened.timeout(&echoed, DETECTION), Some(MonoTime(1_500)), "the way is open after all");
        assert_eq!(opened.observe(MonoTime(1_900), &echoed, true, DETECTION), sure(10));
        assert_eq!(opened.timeout(&echoed, DETECTION), Some(MonoTime(1_900) + AGAIN));
        assert_eq!(check.observe(MonoTime(1_700), &tick(17, 1_690, 1_100), true, DETECTION), None, "told once");
    }

    #[test]
    fn a_newer_incarnation_of_the_peer_begins_unheard() {
        let heard = |answers, probe_ns, incarnation| Tick {
            echoes: 9,
            echo_ns: 990,
            returned_ns: 7,
            ..asked(answers, probe_ns, incarnation)
        };
        let mut check = EchoCheck::default();
        check.observe(MonoTime(1_000), &heard(10, 990, 3), true, DETECTION);
        let (mut older, mut learnt) = (check.clone(), check.clone());
        assert_eq!(older.observe(MonoTime(1_500), &heard(16, 1_490, 3), true, DETECTION), unsure(6));
        assert_eq!(check.observe(MonoTime(1_400), &heard(11, 1_390, 4), true, DETECTION), None);
        assert_eq!(check.observe(MonoTime(1_500), &heard(16, 1_490, 4), true, DETECTION), sure(6));
        // The echo by which the newer incarnation was learnt was heard.
        let echoed = |answers, probe_ns| Tick { echoes: 10, echo_ns: 1_390, ..heard(answers, probe_ns, 4) };
        assert_eq!(learnt.observe(MonoTime(1_400), &echoed(11, 1_390), true, DETECTION), None);
        assert_eq!(learnt.observe(MonoTime(1_889), &echoed(20, 1_880), true, DETECTION), None);
        assert_eq!(learnt.observe(MonoTime(1_890), &echoed(20, 1_880), true, DETECTION), unsure(10));
    }

    #[test]
    fn greetings_prove_nothing() {
        let greeted = |sequence| Tick { handshake_incarnation: 3, handshake_sequence: sequence, ..asked(0, 0, 0) };
        let mut check = EchoCheck::default();
        for n in 0..100 {
            assert_eq!(check.observe(MonoTime(1_000 + 100 * n), &greeted(10 + 2 * n), true, DETECTION), None);
            assert_eq!(check.timeout(&greeted(10 + 2 * n), DETECTION), None);
        }
    }
}
