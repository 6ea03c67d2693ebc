//! How much one peer may say, and how often somebody may call: buckets, which fill with time. It tells how long to wait
//! before the next message is read; it reads no clock and waits for nothing.

use crate::core::time::{MonoTime, nanos};
use std::time::Duration;

/// Messages a second from one peer, in the long run.
pub const MESSAGES_PER_S: u64 = 64;
/// Messages that may come at once.
pub const MESSAGES_BURST: u64 = 128;
/// Bytes a second from one peer, in the long run; as many may come at once.
pub const BYTES_PER_S: u64 = 1 << 20;

const NS_PER_S: u64 = 1_000_000_000;

/// One quantity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// When all that was taken will be paid for.
    paid_at: MonoTime,
    unit_ns: u64,
    burst_ns: u64,
}

impl Bucket {
    /// Begins full: `burst` units may come at once, and `per_s` a second in the long run.
    pub(super) const fn new(per_s: u64, burst: u64) -> Self {
        let unit_ns = NS_PER_S / per_s;
        Self { paid_at: MonoTime::ZERO, unit_ns, burst_ns: unit_ns * burst }
    }

    /// Takes units at `now`, there or not, and returns how long it takes until there are as many.
    pub(super) fn take(&mut self, now: MonoTime, units: u64) -> Duration {
        let cost = Duration::from_nanos(self.unit_ns.saturating_mul(units));
        self.paid_at = self.paid_at.max(now) + cost;
        self.paid_at.since(now).saturating_sub(Duration::from_nanos(self.burst_ns))
    }

    /// Takes one unit at `now` if it is there.
    pub(super) fn try_take(&mut self, now: MonoTime) -> bool {
        let mut after = *self;
        let is_there = after.take(now, 1).is_zero();
        if is_there {
            *self = after;
        }
        is_there
    }
}

/// What one peer has said lately.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    messages: Bucket,
    bytes: Bucket,
}

impl Default for Rate {
    fn default() -> Self {
        Self { messages: Bucket::new(MESSAGES_PER_S, MESSAGES_BURST), bytes: Bucket::new(BYTES_PER_S, BYTES_PER_S) }
    }
}

impl Rate {
    /// Counts a message of `len` bytes read at `now`, and returns for how long nothing more is to be read.
    #[must_use]
    pub fn take(&mut self, now: MonoTime, len: usize) -> Duration {
        self.messages.take(now, 1).max(self.bytes.take(now, len as u64))
    }
}

/// Returns whether `wait` is long enough to be worth a timer; shorter ones are made up for by the next.
#[must_use]
pub fn is_worth_waiting(wait: Duration) -> bool {
    nanos(wait) >= 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate_holds() {
        let mut rate = Rate::default();
        let start = MonoTime(5_000_000_000);
        for message in 0..MESSAGES_BURST {
            assert_eq!(rate.take(start, 100), Duration::ZERO, "message {message}");
        }
        let second = Duration::from_secs(1);
        assert_eq!(rate.take(start, 100), second / 64);
        // Having waited as it was told, each further message costs the same again.
        assert_eq!(rate.take(start + second / 64, 100), second / 64);
        // A pause fills the bucket to its brim and no further.
        let later = start + second * 3600;
        let free = (0..10_000).take_while(|_| rate.take(later, 100).is_zero()).count();
        assert_eq!(free as u64, MESSAGES_BURST);
    }

    #[test]
    fn long_messages_are_held_by_their_bytes() {
        let mut rate = Rate::default();
        let start = MonoTime(1);
        let free = (0..1000).take_while(|_| rate.take(start, 40 * 1024).is_zero()).count();
        assert!((25..=26).contains(&free), "{free} of 40 KiB in 1 MiB");
        assert!(!rate.take(start, usize::MAX).is_zero());
        // The clock's end is no reason to panic.
        let _ = rate.take(MonoTime(u64::MAX), usize::MAX);
    }
}
