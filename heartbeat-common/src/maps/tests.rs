//! The buckets of a round trip, and where hints are kept.

extern crate std;

use super::{BUCKETS, HINTS_MAX, Hint, RouteKey, bucket};
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

#[test]
fn a_hint_names_its_configuration_and_none_names_nothing() {
    for conf in [0, 1, 2047, u32::MAX - 1] {
        assert_eq!(Hint::at(conf).conf(), conf);
        assert_ne!(Hint::at(conf), Hint::default());
    }
    assert_eq!(Hint::default().conf(), u32::MAX);
}

/// A cluster's own addresses: neighbours in one or two subnets. Triples that share a place are found without the hint,
/// so few of them may.
#[test]
fn neighbouring_addresses_have_places_of_their_own() {
    let v4 = |address: u32| [0, u64::from(address.to_be()) << 32 | 0xffff_0000];
    let v6 = |host: u64| [0xfd00_u64.to_be(), host.to_be()];
    for spread in [1, 4, 256] {
        for ipv6 in [false, true] {
            let address = |host: u32| if ipv6 { v6(u64::from(host)) } else { v4(0x0a00_0000 + host) };
            let place = |peer: u32, ifindex| {
                let key = RouteKey { source: address(peer * spread), destination: address(1), ifindex, zero: 0 };
                key.hint()
            };
            let mut places: std::vec::Vec<_> = (2..66).flat_map(|peer| [place(peer, 2), place(peer, 3)]).collect();
            assert!(places.iter().all(|place| *place < HINTS_MAX));
            places.sort_unstable();
            places.dedup();
            assert!(places.len() >= 124, "{} places for 128 triples, {spread} apart, IPv6 {ipv6}", places.len());
        }
    }
}
