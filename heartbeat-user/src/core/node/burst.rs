//! The last question before an accusation: when it is asked, when it counts, and when its time is over.
//! It sends nothing.

use super::{Next, Silence};
use crate::core::lateness::Lateness;
use crate::core::time::MonoTime;

/// Bursts towards one peer since it was last heard; a word of the peer makes it new.
#[derive(Clone, Debug, Default)]
pub(super) struct Burst {
    /// A burst was asked of the shell and not confirmed yet.
    asked: Option<MonoTime>,
    /// The newest burst sent.
    sent: Option<MonoTime>,
    /// The first burst sent since the peer became suspect.
    first: Option<MonoTime>,
    suspect_from: Option<MonoTime>,
    silent_from: Option<MonoTime>,
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
        if self.suspect_from.is_some() && self.first.is_none() {
            self.first = Some(sent);
        }
    }

    /// Decides what is next for a peer whose paths stand as `silence` says.
    pub(super) fn next(&mut self, now: MonoTime, silence: &Silence, late: &Lateness) -> Next {
        if !silence.suspect {
            (self.suspect_from, self.first) = (None, None);
        }
        if !silence.silent {
            self.silent_from = None;
        }
        if silence.suspect && self.suspect_from.is_none() {
            self.suspect_from = Some(now);
        }
        if silence.silent && self.silent_from.is_none() {
            self.silent_from = Some(now);
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

    /// Returns when the same silence would lead to something new.
    pub(super) fn timeout(&self, now: MonoTime, silence: &Silence, late: &Lateness) -> Option<MonoTime> {
        let again = self.wanted(silence, late).then(|| self.asked.map_or(now, |asked| asked + silence.delay));
        [again, self.verdict_time(silence, late)].into_iter().flatten().min()
    }

    /// Says whether a burst counts: sent since the peer became suspect, and since this node last ran late.
    fn fresh(&self, late: &Lateness) -> Option<MonoTime> {
        self.sent.filter(|sent| self.suspect_from.is_some_and(|from| *sent >= from) && Some(*sent) >= late.mark())
    }

    fn wanted(&self, silence: &Silence, late: &Lateness) -> bool {
        if silence.suspect { self.fresh(late).is_none() } else { silence.counting && late.mark() > self.sent }
    }

    /// Returns when nothing holds the verdict back any more, if the peer stays silent and this node on time.
    fn verdict_time(&self, silence: &Silence, late: &Lateness) -> Option<MonoTime> {
        let silent_from = self.silent_from?;
        let fresh = self.fresh(late).map(|sent| sent + silence.delay);
        // A node that runs late again and again would void each burst in turn and hide a death for ever. So a burst
        // counts in the end, even if this node ran late after it: after the worst lateness seen plus what brings the
        // delay of the verdict to one detection time.
        let patience = late.worst_since(silent_from) + silence.detection.saturating_sub(silence.delay);
        let overdue = self.first.map(|first| (first + silence.delay).max(silent_from + patience));
        let answered = [fresh, overdue].into_iter().flatten().min()?;
        Some(answered.max(silence.started + silence.detection))
    }
}
