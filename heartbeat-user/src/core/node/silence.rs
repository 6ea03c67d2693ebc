//! How long a peer has been silent, by all of its paths together. It counts no probes, and accuses nobody.

use crate::core::path::Path;
use crate::core::time::MonoTime;
use std::time::Duration;

/// How a peer's paths stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Silence {
    /// Every path has missed at least one probe.
    pub counting: bool,
    /// Every path is within two misses of its threshold: enough to ask whether all peers fell silent together.
    pub fading: bool,
    /// One more miss on each path, at most, and all have reached their threshold.
    pub suspect: bool,
    /// All have.
    pub silent: bool,
    /// Longest delay of a path: a burst's time to be answered.
    pub delay: Duration,
    /// Longest detection time of a path.
    pub detection: Duration,
    /// The latest time at which a path began to be watched.
    pub started: MonoTime,
}

impl Silence {
    /// Sums up paths; `None` if there are none. The caller leaves out what takes no part in a verdict.
    pub(crate) fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Option<Self> {
        paths.fold(None, |sum: Option<Self>, path| {
            let rule = path.rule();
            let count = path.count();
            let one = Self {
                counting: count >= 1,
                fading: count >= 1 && count.saturating_add(2) >= rule.threshold,
                suspect: path.suspect(),
                silent: path.silent(),
                delay: rule.delay,
                detection: rule.detection_time(),
                started: path.started(),
            };
            Some(sum.map_or(one, |sum| Self {
                counting: sum.counting && one.counting,
                fading: sum.fading && one.fading,
                suspect: sum.suspect && one.suspect,
                silent: sum.silent && one.silent,
                delay: sum.delay.max(one.delay),
                detection: sum.detection.max(one.detection),
                started: sum.started.max(one.started),
            }))
        })
    }
}
