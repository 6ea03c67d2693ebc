//! How late a loop of ours ran: a histogram that its thread writes and anybody reads. It counts; `core::lateness` judges.

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets by power of two of microseconds.
const BUCKETS: usize = 32;

/// Lateness of one loop.
#[derive(Debug)]
pub struct LatenessRecord {
    buckets: [AtomicU64; BUCKETS],
    max_ns: AtomicU64,
    late: AtomicU64,
}

/// A summary, microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LatenessSummary {
    /// Median, the upper end of its bucket.
    pub p50_us: u64,
    /// 99th percentile, likewise.
    pub p99_us: u64,
    /// Largest.
    pub max_us: u64,
    /// How often it was beyond the budget.
    pub late: u64,
    /// How many were recorded.
    pub count: u64,
}

impl Default for LatenessRecord {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU64::new(0)), max_ns: AtomicU64::new(0), late: AtomicU64::new(0) }
    }
}

impl LatenessRecord {
    /// Records one wake-up, `late_ns` after it was due. Says whether that is beyond `budget_ns`.
    pub fn note(&self, late_ns: u64, budget_ns: u64) -> bool {
        let us = late_ns / 1000;
        let bucket = (u64::BITS - us.leading_zeros()) as usize;
        self.buckets[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
        self.max_ns.fetch_max(late_ns, Ordering::Relaxed);
        let beyond = late_ns > budget_ns;
        if beyond {
            self.late.fetch_add(1, Ordering::Relaxed);
        }
        beyond
    }

    /// Summarises what was recorded.
    #[must_use]
    pub fn summary(&self) -> LatenessSummary {
        let counts: Vec<u64> = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect();
        let count: u64 = counts.iter().sum();
        let max_us = self.max_ns.load(Ordering::Relaxed) / 1000;
        let at = |share: u64| -> u64 {
            let wanted = (count * share).div_ceil(100).max(1);
            let mut seen = 0;
            for (bucket, found) in counts.iter().enumerate() {
                seen += found;
                if seen >= wanted {
                    return ((1_u64 << bucket) - 1).min(max_us);
                }
            }
            max_us
        };
        let late = self.late.load(Ordering::Relaxed);
        if count == 0 {
            return LatenessSummary::default();
        }
        LatenessSummary { p50_us: at(50), p99_us: at(99), max_us, late, count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_brackets_what_was_recorded() {
        let record = LatenessRecord::default();
        for _ in 0..99 {
            assert!(!record.note(50_000, 1_000_000));
        }
        assert!(record.note(30_000_000, 1_000_000));
        let summary = record.summary();
        assert_eq!((summary.count, summary.late, summary.max_us), (100, 1, 30_000));
        assert!((50..=63).contains(&summary.p50_us), "{summary:?}");
        assert!((50..=63).contains(&summary.p99_us), "{summary:?}");
    }

    #[test]
    fn nothing_recorded_is_all_zero() {
        assert_eq!(LatenessRecord::default().summary(), LatenessSummary::default());
    }
}
