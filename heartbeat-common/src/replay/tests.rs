//! The window against a set of everything ever taken.

use super::Window;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::vec::Vec;

/// What the window ought to accept.
fn accepts(taken: &BTreeSet<u64>, sequence: u64) -> bool {
    let newest = taken.last().copied().unwrap_or(0);
    sequence != 0 && !taken.contains(&sequence) && (sequence > newest || newest - sequence < 64)
}

fn agree(sequences: &[u64]) {
    let mut window = Window::default();
    let mut taken = BTreeSet::new();
    for sequence in sequences {
        let expected = accepts(&taken, *sequence);
        assert_eq!(window.accepts(*sequence), expected, "{sequence} after {taken:?}");
        if expected {
            window = window.taken(*sequence);
            taken.insert(*sequence);
            assert!(!window.accepts(*sequence), "{sequence} twice");
        }
        assert_eq!(window.top, taken.last().copied().unwrap_or(0));
    }
}

#[test]
fn empty_takes_all_but_zero() {
    assert!(!Window::default().accepts(0));
    for sequence in [1, 2, 63, 64, 65, 1 << 32, u64::MAX] {
        assert!(Window::default().accepts(sequence));
    }
}

#[test]
fn edges() {
    agree(&[1, 64, 65, 1, 2, 128, 65, 64, 129, 66, 0]);
    agree(&[63, 64, 0, 1, 127, 63, 64, 128]);
    let top = u64::MAX;
    agree(&[top - 64, top - 1, top, top - 63, top - 64, top - 65, 0, 1, top, top - 62]);
    agree(&[top, 1, top - 1, top - 63, top - 64]);
}

#[test]
fn every_pair_of_the_first_three_hundred() {
    for first in 0..300 {
        for second in 0..300 {
            agree(&[first, second, first, second]);
        }
    }
}

fn walk(base: u64) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(0..200u64, 1..300).prop_map(move |steps| {
        let mut at = base;
        steps
            .into_iter()
            .map(|step| {
                // Mostly about the newest, slowly rising.
                at = at.saturating_add(step / 50);
                at.saturating_add(step).saturating_sub(100)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn agrees_with_a_set(sequences in walk(90)) {
        agree(&sequences);
    }

    #[test]
    fn agrees_near_the_end_of_the_numbers(sequences in walk(u64::MAX - 250)) {
        agree(&sequences);
    }

    #[test]
    fn agrees_over_leaps(sequences in prop::collection::vec(prop_oneof![any::<u64>(), 0..130u64], 0..60)) {
        agree(&sequences);
    }
}
