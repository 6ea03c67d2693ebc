//! Which bursts count as asked: what the pacing thread's record says of each path, made one word for a peer. It does no
//! I/O.

/// A burst that the kernel refused on a usable path is not taken for asked, but for so many bursts in a row: a path that
/// can never be asked must not hide a death for ever.
const REFUSALS_MAX: u32 = 2;

/// The newest burst on a path.
#[derive(Clone, Copy)]
pub(super) struct PathBurst {
    /// When it was tried.
    pub(super) tried: u64,
    /// When the kernel last took one.
    pub(super) taken: u64,
    /// The path can be used.
    pub(super) usable: bool,
}

/// Which of a peer's bursts count as asked.
#[derive(Default)]
pub(super) struct Bursts {
    /// The newest one looked at.
    seen: u64,
    /// How many before it the kernel refused, in a row.
    refused: u32,
}

impl Bursts {
    /// Returns when a burst went out that was not reported yet: tried on every path, and taken by the kernel on every
    /// path that can be used.
    pub(super) fn news(&mut self, paths: impl Iterator<Item = PathBurst> + Clone) -> Option<u64> {
        let tried = paths.clone().map(|path| path.tried).min().unwrap_or(0);
        if tried <= self.seen {
            return None;
        }
        self.seen = tried;
        let refused = paths.clone().any(|path| path.usable && path.taken < path.tried);
        if refused && self.refused < REFUSALS_MAX {
            self.refused += 1;
            return None;
        }
        self.refused = 0;
        Some(tried)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn burst(tried: u64, taken: u64, usable: bool) -> PathBurst {
        PathBurst { tried, taken, usable }
    }

    #[test]
    fn a_burst_counts_when_it_was_taken_on_every_path() {
        let mut bursts = Bursts::default();
        let mut news = |a, b| bursts.news([a, b].into_iter());
        assert_eq!(news(burst(0, 0, true), burst(0, 0, true)), None);
        assert_eq!(news(burst(10, 10, true), burst(0, 0, true)), None, "not tried on the second path yet");
        assert_eq!(news(burst(10, 10, true), burst(10, 10, true)), Some(10));
        assert_eq!(news(burst(10, 10, true), burst(10, 10, true)), None, "reported once");
        assert_eq!(news(burst(20, 20, true), burst(20, 10, false)), Some(20), "an unusable path holds nothing up");
    }

    #[test]
    fn a_refused_burst_is_not_believed_but_hides_no_death_for_ever() {
        let mut bursts = Bursts::default();
        let mut refused = |at| bursts.news([burst(at, at, true), burst(at, 0, true)].into_iter());
        let told: Vec<_> = (1..=6).map(|at| refused(at * 10)).collect();
        assert_eq!(told, [None, None, Some(30), None, None, Some(60)]);
        assert_eq!(refused(60), None, "one burst is looked at once");
    }
}
