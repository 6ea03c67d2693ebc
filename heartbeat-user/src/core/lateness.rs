//! How late this node itself ran: told as events of its own, and kept as the reason not to accuse anybody yet.
//! It judges no peer.

use crate::core::event::LateSource;
use crate::core::time::{MonoTime, nanos};
use std::time::Duration;

/// At most one lateness event a source in this time.
pub const EVENT_GAP: Duration = Duration::from_secs(1);

/// Seconds of lateness remembered for status and evidence.
const SECONDS: usize = 60;

/// What one event says of a source's lateness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Who ran late.
    pub source: LateSource,
    /// When it ran at its latest.
    pub at: MonoTime,
    /// The most by which it ran late.
    pub max: Duration,
    /// How often it ran late by more than the budget.
    pub count: u32,
}

/// One source's lateness that was not told yet.
#[derive(Clone, Debug, Default)]
struct Episode {
    quiet_until: Option<MonoTime>,
    count: u32,
    max: Duration,
    at: MonoTime,
}

impl Episode {
    fn add(&mut self, late: Duration, ran: MonoTime) {
        self.count = self.count.saturating_add(1);
        if late >= self.max {
            self.max = late;
            self.at = ran;
        }
    }

    fn tell(&mut self, source: LateSource, now: MonoTime) -> Option<Report> {
        if self.quiet_until.is_some_and(|until| now < until) {
            return None;
        }
        if self.count == 0 {
            self.quiet_until = None;
            return None;
        }
        let report = Report { source, at: self.at, max: self.max, count: self.count };
        *self = Self { quiet_until: Some(now + EVENT_GAP), ..Self::default() };
        Some(report)
    }

    fn timeout(&self) -> Option<MonoTime> {
        if self.count > 0 { self.quiet_until } else { None }
    }
}

/// The lateness of this node's own threads.
#[derive(Clone, Debug)]
pub struct Lateness {
    pacer: Episode,
    decider: Episode,
    mark: Option<MonoTime>,
    seconds: [(u64, u64); SECONDS],
}

impl Default for Lateness {
    fn default() -> Self {
        Self { pacer: Episode::default(), decider: Episode::default(), mark: None, seconds: [(0, 0); SECONDS] }
    }
}

impl Lateness {
    /// Takes note that `source`, due at `due`, ran at `ran`.
    pub fn note(&mut self, source: LateSource, due: MonoTime, ran: MonoTime, budget: Duration) {
        let late = ran.since(due);
        let second = ran.0 / 1_000_000_000;
        let slot = &mut self.seconds[(second % SECONDS as u64) as usize];
        if slot.0 != second {
            *slot = (second, 0);
        }
        slot.1 = slot.1.max(nanos(late));
        if late > budget {
            self.mark = self.mark.max(Some(ran));
            match source {
                LateSource::Pacer => self.pacer.add(late, ran),
                LateSource::Decider => self.decider.add(late, ran),
            }
        }
    }

    /// Returns when this node last ran late: what was believed before then is believed no more.
    #[must_use]
    pub const fn mark(&self) -> Option<MonoTime> {
        self.mark
    }

    /// Returns what is to be told at `now`: at most one report of each source.
    pub fn tell(&mut self, now: MonoTime) -> impl Iterator<Item = Report> {
        let pacer = self.pacer.tell(LateSource::Pacer, now);
        let decider = self.decider.tell(LateSource::Decider, now);
        pacer.into_iter().chain(decider)
    }

    /// Returns when [`Self::tell`] will have something to tell.
    #[must_use]
    pub fn timeout(&self) -> Option<MonoTime> {
        [self.pacer.timeout(), self.decider.timeout()].into_iter().flatten().min()
    }

    /// Returns the most by which this node ran late from `from` (to the second) until `now`, a minute back at most.
    #[must_use]
    pub fn worst(&self, from: MonoTime, now: MonoTime) -> Duration {
        let last = now.0 / 1_000_000_000;
        let first = (from.0 / 1_000_000_000).max(last.saturating_sub(SECONDS as u64 - 1));
        let seen = self.seconds.iter().filter(|(second, _)| (first..=last).contains(second));
        Duration::from_nanos(seen.map(|&(_, late)| late).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(25);
    const MS: u64 = 1_000_000;

    fn late(lateness: &mut Lateness, ran_ms: u64, by_ms: u64) {
        lateness.note(LateSource::Pacer, MonoTime((ran_ms - by_ms) * MS), MonoTime(ran_ms * MS), BUDGET);
    }

    #[test]
    fn lateness_within_the_budget_is_shown_but_never_told() {
        let mut lateness = Lateness::default();
        late(&mut lateness, 1_000, 25);
        assert_eq!(lateness.tell(MonoTime(1_000 * MS)).count(), 0);
        assert_eq!(lateness.mark(), None);
        assert_eq!(lateness.worst(MonoTime::ZERO, MonoTime(1_500 * MS)), BUDGET);
    }

    #[test]
    fn an_episode_is_told_at_once_and_then_once_a_second() {
        let mut lateness = Lateness::default();
        late(&mut lateness, 1_000, 26);
        let first: Vec<_> = lateness.tell(MonoTime(1_000 * MS)).collect();
        assert_eq!((first[0].count, first[0].max), (1, Duration::from_millis(26)));
        assert_eq!(lateness.timeout(), None);
        late(&mut lateness, 1_100, 90);
        late(&mut lateness, 1_200, 40);
        assert_eq!(lateness.tell(MonoTime(1_999 * MS)).count(), 0);
        assert_eq!(lateness.timeout(), Some(MonoTime(2_000 * MS)));
        let second: Vec<_> = lateness.tell(MonoTime(2_000 * MS)).collect();
        assert_eq!((second[0].count, second[0].max), (2, Duration::from_millis(90)));
        assert_eq!(second[0].at, MonoTime(1_100 * MS));
        assert_eq!(lateness.tell(MonoTime(3_000 * MS)).count(), 0);
        assert_eq!(lateness.timeout(), None);
        assert_eq!(lateness.mark(), Some(MonoTime(1_200 * MS)));
    }

    #[test]
    fn sources_are_told_apart() {
        let mut lateness = Lateness::default();
        late(&mut lateness, 1_000, 26);
        lateness.note(LateSource::Decider, MonoTime(0), MonoTime(1_000 * MS), BUDGET);
        let told: Vec<_> = lateness.tell(MonoTime(1_000 * MS)).map(|report| report.source).collect();
        assert_eq!(told, [LateSource::Pacer, LateSource::Decider]);
    }

    #[test]
    fn a_minute_is_remembered_and_no_more() {
        let mut lateness = Lateness::default();
        late(&mut lateness, 5_000, 400);
        late(&mut lateness, 9_000, 30);
        let worst = |from: u64, now: u64| lateness.worst(MonoTime(from * MS), MonoTime(now * MS));
        assert_eq!(worst(0, 9_000), Duration::from_millis(400));
        assert_eq!(worst(6_000, 9_000), Duration::from_millis(30));
        assert_eq!(worst(0, 64_999), Duration::from_millis(400));
        assert_eq!(worst(0, 65_000), Duration::from_millis(30));
        assert_eq!(worst(0, 69_000), Duration::ZERO);
    }
}
