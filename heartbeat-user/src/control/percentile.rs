//! Percentiles of a histogram by powers of two. It reads one copy of a histogram and nothing else.

use super::RttUs;
use heartbeat_common::maps::{BUCKETS, Histogram};

/// Returns the round trip in nanoseconds that a share `quantile` (0 to 1) of the samples does not exceed; `None` of an
/// empty histogram.
///
/// The histogram knows only how many samples fell between `2^n` and `2^(n+1)`: inside its bucket the value is
/// interpolated as if the samples lay evenly, so it is off by less than a factor of two. A quantile of 1 is the upper
/// edge of the highest bucket hit; the last bucket, which takes all above, is read as if it ended at twice its start.
#[must_use]
pub fn percentile_ns(histogram: &Histogram, quantile: f64) -> Option<f64> {
    let samples = samples(histogram);
    if samples == 0 {
        return None;
    }
    let wanted = quantile.clamp(0.0, 1.0) * samples as f64;
    let mut below = 0.0;
    let mut last = None;
    for (index, count) in histogram.buckets.iter().enumerate().filter(|(_, count)| **count > 0) {
        let count = *count as f64;
        let low = lower_edge(index);
        let high = 2f64.powi(index as i32 + 1);
        if below + count >= wanted {
            return Some(low + (high - low) * ((wanted - below) / count));
        }
        below += count;
        last = Some(high);
    }
    // Sums of rounded counts may end just short of `wanted`.
    last
}

/// Returns the round trips of a path as they are shown; `None` before the first.
#[must_use]
pub fn round_trips(histogram: &Histogram) -> Option<RttUs> {
    let at = |quantile| percentile_ns(histogram, quantile).map(|ns| (ns / 10.0).round() / 100.0);
    Some(RttUs {
        p50: at(0.5)?,
        p90: at(0.9)?,
        p99: at(0.99)?,
        p999: at(0.999)?,
        max: at(1.0)?,
        samples: u64::try_from(samples(histogram)).unwrap_or(u64::MAX),
    })
}

fn samples(histogram: &Histogram) -> u128 {
    histogram.buckets.iter().map(|count| u128::from(*count)).sum()
}

/// Bucket 0 also takes 0 ns.
fn lower_edge(index: usize) -> f64 {
    debug_assert!(index < BUCKETS);
    if index == 0 { 0.0 } else { 2f64.powi(index as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartbeat_common::maps::bucket;
    use proptest::prelude::*;

    fn histogram(samples: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram { buckets: [0; BUCKETS] };
        for ns in samples {
            histogram.buckets[bucket(ns)] += 1;
        }
        histogram
    }

    #[test]
    fn interpolates_inside_a_bucket() {
        assert_eq!(percentile_ns(&histogram([]), 0.5), None);
        let mut one = histogram([]);
        one.buckets[10] = 100;
        assert_eq!(percentile_ns(&one, 0.0), Some(1024.0));
        assert_eq!(percentile_ns(&one, 0.25), Some(1280.0));
        assert_eq!(percentile_ns(&one, 1.0), Some(2048.0));
        one.buckets[12] = 100;
        assert_eq!(percentile_ns(&one, 0.5), Some(2048.0));
        assert_eq!(percentile_ns(&one, 0.75), Some(6144.0));
        assert_eq!(percentile_ns(&one, 1.0), Some(8192.0));
    }

    #[test]
    fn edges() {
        assert_eq!(percentile_ns(&histogram([0]), 1.0), Some(2.0));
        assert_eq!(percentile_ns(&histogram([u64::MAX]), 1.0), Some(2f64.powi(BUCKETS as i32)));
        let full = Histogram { buckets: [u64::MAX; BUCKETS] };
        assert_eq!(percentile_ns(&full, 1.0), Some(2f64.powi(BUCKETS as i32)));
        assert_eq!(round_trips(&full).map(|rtt| rtt.samples), Some(u64::MAX));
        assert_eq!(round_trips(&histogram([])), None);
    }

    #[test]
    fn shown_in_microseconds() {
        let rtt = round_trips(&histogram(std::iter::repeat_n(40_000, 1000))).expect("there are samples");
        assert_eq!(rtt.samples, 1000);
        assert_eq!(rtt.max, 65.54);
        assert_eq!(rtt.p50, 49.15);
        assert!(rtt.p50 < rtt.p90 && rtt.p90 < rtt.p99 && rtt.p99 < rtt.p999 && rtt.p999 <= rtt.max);
    }

    proptest! {
        /// Against the samples themselves: never off by a factor of two, and rising with the quantile.
        #[test]
        fn close_to_the_samples(mut samples in proptest::collection::vec(2u64..1 << 34, 1..300), q in 0.0..=1.0f64) {
            let ours = percentile_ns(&histogram(samples.iter().copied()), q).unwrap();
            samples.sort_unstable();
            let rank = ((q * samples.len() as f64).ceil() as usize).clamp(1, samples.len());
            let exact = samples[rank - 1] as f64;
            prop_assert!(ours <= exact * 2.0 && ours >= exact / 2.0, "{} against {}", ours, exact);
            prop_assert!(percentile_ns(&histogram(samples.iter().copied()), q / 2.0).unwrap() <= ours);
        }
    }
}
