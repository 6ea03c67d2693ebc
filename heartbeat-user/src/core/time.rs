//! Time as the core knows it: CLOCK_MONOTONIC nanoseconds that come in as arguments. It reads no clock.

use serde::Serialize;
use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant of this host's CLOCK_MONOTONIC, in nanoseconds; the kernel's stamps are of the same clock.
/// Arithmetic saturates at both ends: a nonsensical stamp may give a useless instant, never a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct MonoTime(pub u64);

impl MonoTime {
    /// The clock's zero; as a kernel stamp it means "never".
    pub const ZERO: Self = Self(0);

    /// Returns the time from `earlier` to this instant; zero if it is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Returns a duration in nanoseconds, at most `u64::MAX` (584 years).
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a duration in whole milliseconds, at most `u64::MAX`.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Add<Duration> for MonoTime {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(nanos(rhs)))
    }
}

impl Sub<Duration> for MonoTime {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(rhs)))
    }
}

impl fmt::Display for MonoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09} s", self.0 / 1_000_000_000, self.0 % 1_000_000_000)
    }
}

/// A duration in the unit in which people read it.
#[derive(Clone, Copy, Debug)]
pub struct Human(pub Duration);

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0.as_nanos();
        if ns < 1_000_000 {
            write!(f, "{} us", ns / 1_000)
        } else if ns < 10_000_000_000 {
            write!(f, "{} ms", ns / 1_000_000)
        } else {
            write!(f, "{}.{} s", ns / 1_000_000_000, ns / 100_000_000 % 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        assert_eq!(MonoTime(u64::MAX - 1) + Duration::from_secs(9), MonoTime(u64::MAX));
        assert_eq!(MonoTime(5) + Duration::MAX, MonoTime(u64::MAX));
        assert_eq!(MonoTime(5) - Duration::from_nanos(6), MonoTime::ZERO);
        assert_eq!(MonoTime(5).since(MonoTime(7)), Duration::ZERO);
        assert_eq!(MonoTime(7).since(MonoTime(5)), Duration::from_nanos(2));
    }

    #[test]
    fn people_read_units() {
        assert_eq!(MonoTime(12_000_000_345).to_string(), "12.000000345 s");
        assert_eq!(Human(Duration::from_micros(7)).to_string(), "7 us");
        assert_eq!(Human(Duration::from_millis(9_999)).to_string(), "9999 ms");
        assert_eq!(Human(Duration::from_millis(61_250)).to_string(), "61.2 s");
    }
}
