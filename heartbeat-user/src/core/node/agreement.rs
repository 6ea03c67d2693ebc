//! Whether a peer runs with the same settings as this node, by the hash that both send. It tells a difference that
//! lasts, once, and its end; it judges no peer by it.

use crate::core::time::MonoTime;
use std::time::Duration;

/// How long a difference must last before it is told: nodes are not reloaded all in one moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// They differ, since then.
    Differ(MonoTime),
    /// They agree again, and had differed since then.
    Agree(MonoTime),
}

/// What is known of a peer's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Agreement {
    /// The last word; `None` before there was one.
    agrees: Option<bool>,
    /// Since when they differ without a break in which the peer was not Up.
    from: Option<MonoTime>,
    /// A difference since then was told, and its end was not.
    told: Option<MonoTime>,
}

impl Agreement {
    /// Takes in what a peer that is Up says at `now`.
    pub(crate) fn note(&mut self, now: MonoTime, agrees: bool) -> Option<Told> {
        self.agrees = Some(agrees);
        if agrees {
            self.from = None;
            return self.told.take().map(Told::Agree);
        }
        let from = *self.from.get_or_insert(now);
        if self.told.is_some() || now < from + PATIENCE {
            return None;
        }
        self.told = Some(from);
        Some(Told::Differ(from))
    }

    /// Takes note that the peer is not Up, or says nothing of its settings: what it said before is getting old.
    pub(crate) fn pause(&mut self) {
        self.from = None;
    }

    /// Returns when a difference that goes on is told.
    pub(crate) fn timeout(&self) -> Option<MonoTime> {
        if self.told.is_some() { None } else { self.from.map(|from| from + PATIENCE) }
    }

    /// Returns whether the settings were the same at the last word; `None` before there was one.
    pub(crate) const fn agrees(&self) -> Option<bool> {
        self.agrees
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    #[test]
    fn a_difference_is_told_once_when_it_has_lasted_and_once_when_it_ends() {
        let mut agreement = Agreement::default();
        assert_eq!((agreement.agrees(), agreement.timeout()), (None, None));
        assert_eq!(agreement.note(at(1_000), false), None);
        assert_eq!((agreement.agrees(), agreement.timeout()), (Some(false), Some(at(6_000))));
        assert_eq!(agreement.note(at(5_999), false), None);
        assert_eq!(agreement.note(at(6_000), false), Some(Told::Differ(at(1_000))));
        assert_eq!(agreement.timeout(), None);
        assert_eq!(agreement.note(at(60_000), false), None, "once");
        assert_eq!(agreement.note(at(61_000), true), Some(Told::Agree(at(1_000))));
        assert_eq!(agreement.note(at(62_000), true), None);
        assert_eq!(agreement.agrees(), Some(true));
    }

    #[test]
    fn a_short_difference_and_one_of_a_peer_that_is_not_up_are_not_told() {
        let mut agreement = Agreement::default();
        assert_eq!(agreement.note(at(0), false), None);
        assert_eq!(agreement.note(at(4_000), true), None, "one node was reloaded before the other");
        assert_eq!(agreement.note(at(5_000), false), None);
        agreement.pause();
        assert_eq!(agreement.timeout(), None);
        assert_eq!(agreement.note(at(11_000), false), None, "counted from the peer's return");
        assert_eq!(agreement.note(at(16_000), false), Some(Told::Differ(at(11_000))));
        agreement.pause();
        assert_eq!(agreement.note(at(30_000), false), None, "it was told, and has not ended");
        assert_eq!(agreement.note(at(40_000), true), Some(Told::Agree(at(11_000))));
    }
}
