//! How much of its CPU the responder may take: a thread under SCHED_FIFO that never waits keeps everybody of lower
//! priority off, and whoever can send to our port could make it do so, without any key.

use crate::core::time::MonoTime;
use std::time::Duration;

/// Time over which the use of the CPU is measured, at least.
const WINDOW: Duration = Duration::from_millis(10);
/// Rest after a window in which nine tenths or more went to this thread: what is below gets one part in eleven at
/// least, and an echo comes 1 ms later than it might, under a flood that fills socket buffers anyway.
const REST: Duration = Duration::from_millis(1);

/// Measures windows. Being found waiting now and then says little: a flood just below what the thread can do lets it
/// wait for a moment after each datagram. So the time on the CPU counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    began: MonoTime,
    used: Duration,
}

impl Pace {
    /// Begins to measure; `used` is the thread's time on its CPU so far.
    pub const fn new(now: MonoTime, used: Duration) -> Self {
        Self { began: now, used }
    }

    /// Returns how long to rest now, if at all. `used` is asked only at the end of a window.
    pub fn rest(&mut self, now: MonoTime, used: impl FnOnce() -> Duration) -> Option<Duration> {
        let window = now.since(self.began);
        if window < WINDOW {
            return None;
        }
        let before = std::mem::replace(self, Self::new(now, used()));
        let busy = self.used.saturating_sub(before.used);
        (busy * 10 >= window * 9).then_some(REST)
    }

    /// Begins a window after a rest.
    pub const fn rested(&mut self, now: MonoTime) {
        self.began = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_thread_that_never_waits_rests_once_in_each_window() {
        let (mut pace, mut now, mut used, mut rested) = (Pace::new(MonoTime(0), Duration::ZERO), 0, 0, 0);
        while now < 1_100 * MS {
            (now, used) = (now + MS / 10, used + MS / 10);
            if let Some(rest) = pace.rest(MonoTime(now), || Duration::from_nanos(used)) {
                let rest = rest.as_nanos() as u64;
                (now, rested) = (now + rest, rested + rest);
                pace.rested(MonoTime(now));
            }
        }
        assert_eq!(rested, 100 * MS, "one part in eleven");
    }

    #[test]
    fn one_that_waits_for_more_than_a_tenth_never_rests() {
        let mut pace = Pace::new(MonoTime(0), Duration::ZERO);
        assert_eq!(pace.rest(MonoTime(9 * MS), || unreachable!()), None);
        assert_eq!(pace.rest(MonoTime(10 * MS), || Duration::from_micros(8_999)), None);
        assert_eq!(pace.rest(MonoTime(20 * MS), || Duration::from_micros(17_999)), Some(REST), "a new window");
        // A long wait for a datagram counts, and so does a time in which others kept it off.
        assert_eq!(pace.rest(MonoTime(900 * MS), || Duration::from_millis(30)), None);
    }
}
