//! The last question before an accusation: when it is asked, when it counts, and when its time is over.
//! It sends nothing.

use super::{Next, Silence};
use crate::core::lateness::Lateness;
use crate::core::time::MonoTime;
use std::time::Duration;

/// A burst that this node outran by its own lateness is asked for again. After this many, at least a delay apart, the
/// newest counts even if this node runs late after it: one that is late all the time must not hide a death for ever.
const PATIENCE: u32 = 3;

/// Bursts towards one peer since it was last heard; a word of the peer makes it new.
#[derive(Clone, Debug, Default)]
pub(super) struct Burst {
    /// A burst was asked of the shell and not confirmed yet.
    asked: Option<MonoTime>,
    /// The newest burst sent.
    sent: Option<MonoTime>,
    suspect_from: Option<MonoTime>,
    /// Bursts sent since the peer became suspect, at least a delay apart.
    tries: u32,
    /// When the last of them was sent.
    tried: MonoTime,
    /// A burst's time to be answered.
    delay: Duration,
}

impl Burst {
    /// Returns when the newest one was sent.
    pub(super) const fn sent(&self) -> Option<MonoTime> {
        self.sent
    }

    /// Takes note that the burst asked for was sent.
    pub(super) fn note_sent(&mut self, sent: MonoTime) {
        // A burst asked for before the peer was last heard proves nothing of now.
        if self.asked.is_none_or(|asked| sent < asked) {
            return;
        }
        self.asked = None;
        self.sent = Some(sent);
        if self.suspect_from.is_some() && (self.tries == 0 || sent >= self.tried + self.delay) {
            self.tries = self.tries.saturating_add(1);
            self.tried = sent;
        }
    }

    /// Decides what is next for a peer whose paths stand as `silence` says.
    pub(super) fn next(&mut self, now: MonoTime, silence: &Silence, late: &Lateness) -> Next {
        self.delay = silence.delay;
        if !silence.suspect {
            (self.suspect_from, self.tries) = (None, 0);
        } else if self.suspect_from.is_none() {
            self.suspect_from = Some(now);
        }
        if self.verdict_time(silence, late).is_some_and(|time| time <= now) {
            return Next::Accuse;
        }
        if !self.wanted(silence, late) || self.asked.is_some_and(|asked| now < asked + silence.delay) {
            return Next::Nothing;
        }
        self.asked = Some(now);
        Next::Burst
    }

    /// Returns when the same silence would lead to something new; `now` where it would at once.
    pub(super) fn timeout(&self, now: MonoTime, silence: &Silence, late: &Lateness) -> Option<MonoTime> {
        let again = self.wanted(silence, late).then(|| self.asked.map_or(now, |asked| asked + silence.delay));
        [again, self.verdict_time(silence, late)].into_iter().flatten().min()
    }

    /// Returns the burst that counts: sent since the peer became suspect, and since this node last ran late.
    fn fresh(&self, late: &Lateness) -> Option<MonoTime> {
        let from = self.suspect_from?;
        self.sent.filter(|sent| *sent >= from && (Some(*sent) >= late.mark() || self.tries >= PATIENCE))
    }

    /// Says whether a burst is missing. A late observer asks at once, as soon as anything was missed at all.
    fn wanted(&self, silence: &Silence, late: &Lateness) -> bool {
        if silence.suspect { self.fresh(late).is_none() } else { silence.counting && late.mark() > self.sent }
    }

    /// Returns when nothing holds the verdict back any more, if the peer stays silent and this node on time.
    fn verdict_time(&self, silence: &Silence, late: &Lateness) -> Option<MonoTime> {
        let sent = self.fresh(late).filter(|_| silence.silent)?;
        Some((sent + silence.delay).max(silence.started + silence.detection))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::event::LateSource;

    const DELAY: Duration = Duration::from_nanos(100);
    const SILENT: Silence = Silence {
        counting: true,
        fading: true,
        suspect: true,
        silent: true,
        delay: DELAY,
        detection: Duration::from_nanos(500),
        started: MonoTime(0),
    };
    const SUSPECT: Silence = Silence { silent: false, ..SILENT };

    fn late(lateness: &mut Lateness, ran: u64) {
        lateness.note(LateSource::Decider, MonoTime(0), MonoTime(ran), Duration::ZERO);
    }

    #[test]
    fn a_verdict_waits_for_silence_a_burst_and_one_delay() {
        let late = Lateness::default();
        let mut burst = Burst::default();
        assert_eq!(burst.next(MonoTime(999), &Silence { suspect: false, ..SUSPECT }, &late), Next::Nothing);
        assert_eq!(burst.next(MonoTime(1_000), &SUSPECT, &late), Next::Burst);
        burst.note_sent(MonoTime(1_010));
        assert_eq!(burst.next(MonoTime(2_000), &SUSPECT, &late), Next::Nothing);
        let mut at_once = burst.clone();
        assert_eq!(at_once.next(MonoTime(1_110), &SILENT, &late), Next::Accuse);
        assert_eq!(burst.next(MonoTime(1_109), &SILENT, &late), Next::Nothing);
        assert_eq!(burst.timeout(MonoTime(1_109), &SILENT, &late), Some(MonoTime(1_110)));
    }

    #[test]
    fn a_verdict_waits_for_a_detection_time_after_the_start() {
        let (late, young) = (Lateness::default(), Silence { started: MonoTime(900), ..SILENT });
        let mut burst = Burst::default();
        assert_eq!(burst.next(MonoTime(1_000), &young, &late), Next::Burst);
        burst.note_sent(MonoTime(1_000));
        assert_eq!(burst.next(MonoTime(1_399), &young, &late), Next::Nothing);
        assert_eq!(burst.next(MonoTime(1_400), &young, &late), Next::Accuse);
    }

    #[test]
    fn an_unsent_burst_is_asked_for_again_and_accuses_nobody() {
        let late = Lateness::default();
        let mut burst = Burst::default();
        assert_eq!(burst.next(MonoTime(1_000), &SILENT, &late), Next::Burst);
        assert_eq!(burst.next(MonoTime(1_099), &SILENT, &late), Next::Nothing);
        assert_eq!(burst.timeout(MonoTime(1_099), &SILENT, &late), Some(MonoTime(1_100)));
        assert_eq!(burst.next(MonoTime(1_100), &SILENT, &late), Next::Burst);
        burst.note_sent(MonoTime(1_099));
        assert_eq!(burst.next(MonoTime(1_199), &SILENT, &late), Next::Nothing, "a report older than the question");
        assert_eq!(burst.next(MonoTime(1_200), &SILENT, &late), Next::Burst);
    }

    #[test]
    fn lateness_after_a_burst_voids_it_twice_and_then_no_more() {
        let mut lateness = Lateness::default();
        let mut burst = Burst::default();
        for round in 0..2 {
            let at = 1_000 + round * 5_000;
            assert_eq!(burst.next(MonoTime(at), &SILENT, &lateness), Next::Burst);
            burst.note_sent(MonoTime(at));
            late(&mut lateness, at + 5_000);
            assert_eq!(burst.timeout(MonoTime(at + 5_000), &SILENT, &lateness), Some(MonoTime(at + 5_000)));
        }
        assert_eq!(burst.next(MonoTime(11_000), &SILENT, &lateness), Next::Burst);
        burst.note_sent(MonoTime(11_000));
        late(&mut lateness, 11_099);
        assert_eq!(burst.next(MonoTime(11_099), &SILENT, &lateness), Next::Nothing);
        assert_eq!(burst.next(MonoTime(11_100), &SILENT, &lateness), Next::Accuse);
    }

    #[test]
    fn bursts_within_a_delay_are_one_try() {
        let mut lateness = Lateness::default();
        let mut burst = Burst::default();
        for at in [1_000, 1_010, 1_020, 1_030, 1_040] {
            assert_eq!(burst.next(MonoTime(at), &SILENT, &lateness), Next::Burst);
            burst.note_sent(MonoTime(at));
            late(&mut lateness, at + 5);
        }
        assert_eq!(burst.tries, 1);
    }

    #[test]
    fn a_late_observer_asks_as_soon_as_anything_was_missed() {
        let mut lateness = Lateness::default();
        let mut burst = Burst::default();
        let few = Silence { suspect: false, fading: false, ..SUSPECT };
        assert_eq!(burst.next(MonoTime(900), &few, &lateness), Next::Nothing);
        late(&mut lateness, 1_000);
        assert_eq!(burst.next(MonoTime(1_000), &Silence { counting: false, ..few }, &lateness), Next::Nothing);
        assert_eq!(burst.next(MonoTime(1_000), &few, &lateness), Next::Burst);
        burst.note_sent(MonoTime(1_001));
        assert_eq!(burst.next(MonoTime(1_200), &few, &lateness), Next::Nothing);
        assert_eq!(burst.next(MonoTime(1_300), &SUSPECT, &lateness), Next::Burst, "it was not suspect then");
    }
}
