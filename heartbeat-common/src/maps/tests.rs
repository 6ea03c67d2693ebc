//! The buckets of a round trip.

use super::{BUCKETS, bucket};
use proptest::prelude::*;

#[test]
fn edges() {
    assert_eq!((bucket(0), bucket(1), bucket(2), bucket(3), bucket(4)), (0, 0, 1, 1, 2));
    for power in 1..64 {
        assert_eq!(bucket((1 << power) - 1), (power - 1).min(BUCKETS - 1));
        assert_eq!(bucket(1 << power), power.min(BUCKETS - 1));
    }
    assert_eq!(bucket(u64::MAX), BUCKETS - 1);
}

proptest! {
    #[test]
    fn is_the_binary_logarithm(ns in 1..u64::MAX) {
        prop_assert_eq!(bucket(ns), (ns.ilog2() as usize).min(BUCKETS - 1));
    }
}
