//! Every graph of five nodes, random larger ones against a plain search, and the order of preferences one by one.

use super::*;
use proptest::prelude::*;

const ONE: Candidate = Candidate { weight: 1, low: false };

/// Symmetric hearing from pairs.
fn pairs(count: usize, pairs: &[(usize, usize)]) -> Vec<u64> {
    let mut hears = vec![0; count];
    for &(a, b) in pairs {
        hears[a] |= 1 << b;
        hears[b] |= 1 << a;
    }
    hears
}

fn is_clique(set: u64, hears: &[u64]) -> bool {
    bits(set).all(|a| bits(set).all(|b| a == b || hears[a] >> b & 1 == 1 && hears[b] >> a & 1 == 1))
}

/// The best set by trying every one.
fn plainly(candidates: &[Candidate], hears: &[u64]) -> u64 {
    let mut best = Search::new(candidates, hears);
    for set in 0..1_u64 << candidates.len() {
        if is_clique(set, hears) {
            best.offer(set);
        }
    }
    best.best.unwrap_or(0)
}

#[test]
fn preferences_come_in_their_order() {
    // Weight before number: {0} has two votes, {1, 2} one each and a third would make more nodes only.
    let heavy = [Candidate { weight: 3, low: false }, ONE, ONE];
    assert_eq!(select(&heavy, &pairs(3, &[(1, 2)])).set, 0b001);
    // Number before connectivity.
    let mute = [ONE, ONE, Candidate { weight: 0, low: false }, ONE];
    assert_eq!(select(&mute, &pairs(4, &[(0, 1), (1, 2), (0, 2), (1, 3)])).set, 0b0111);
    // Connectivity: both pairs weigh the same, 2 hears a third.
    assert_eq!(select(&[ONE; 5], &pairs(5, &[(0, 1), (2, 3), (2, 4)])).set, 0b01100);
    // Priority, then the lowest ids.
    let low = [Candidate { weight: 1, low: true }, ONE, ONE, ONE];
    assert_eq!(select(&low, &pairs(4, &[(0, 1), (2, 3)])).set, 0b1100);
    assert_eq!(select(&[ONE; 4], &pairs(4, &[(0, 1), (2, 3)])).set, 0b0011);
}

#[test]
fn whoever_is_heard_one_way_only_is_not_connected() {
    // 2 hears everybody and nobody hears it; then it is heard and hears nobody.
    assert_eq!(select(&[ONE; 3], &[0b010, 0b001, 0b011]).set, 0b011);
    assert_eq!(select(&[ONE; 3], &[0b110, 0b101, 0b000]).set, 0b011);
}

#[test]
fn nobody_and_everybody() {
    assert_eq!(select(&[], &[]), Selection { set: 0, weight: 0, exact: true });
    assert_eq!(select(&[ONE; 3], &[0; 3]).set, 0b001);
    let all = select(&[ONE; 64], &[u64::MAX; 64]);
    assert_eq!(all, Selection { set: u64::MAX, weight: 64, exact: true });
}

/// Each of the 2^20 ways in which five nodes can hear each other, as each of the survivors sees it: one answer, fully
/// connected, and never two that could both decide.
#[test]
fn every_directed_graph_of_five_nodes() {
    for graph in 0..1_u32 << 20 {
        let hears: [u64; 5] = std::array::from_fn(|a| {
            let others = (0..5).filter(|&b| b != a).enumerate();
            others.filter(|(bit, _)| graph >> (a * 4 + bit) & 1 == 1).fold(0, |set, (_, b)| set | 1 << b)
        });
        let mut quorate = None;
        for node in 0..5 {
            // A node knows the reports of those that it is connected with both ways, over others too.
            let known = component(node, &hears);
            let told: Vec<u64> = (0..5).map(|a| if known >> a & 1 == 1 { hears[a] & known } else { 0 }).collect();
            let candidates: [Candidate; 5] =
                std::array::from_fn(|a| Candidate { weight: u32::from(known >> a & 1 == 1), low: false });
            let selection = select(&candidates, &told);
            assert!(selection.exact && is_clique(selection.set, &hears), "{graph:05x}");
            if selection.weight >= 3 {
                assert_eq!(*quorate.get_or_insert(selection.set), selection.set, "{graph:05x} at {node}");
            }
        }
        // Whoever is in it finds itself in it.
        if let Some(set) = quorate {
            for node in bits(set) {
                assert_eq!(component(node, &hears) & set, set, "{graph:05x} at {node}");
            }
        }
    }
}

/// The nodes that a node reaches over pairs that hear each other.
fn component(node: usize, hears: &[u64; 5]) -> u64 {
    let mut known = 1 << node;
    loop {
        let mut more = known;
        for a in bits(known) {
            more |= bits(hears[a]).filter(|&b| hears[b] >> a & 1 == 1).fold(0, |set, b| set | 1 << b);
        }
        if more == known {
            return known;
        }
        known = more;
    }
}

#[test]
fn a_tangle_ends_in_time_with_a_connected_set() {
    // Twenty-one triples in which nobody hears the own two others: 3^21 largest sets.
    let hears: Vec<u64> = (0..63_u64).map(|a| !(7 << (a / 3 * 3))).collect();
    let selection = select(&[ONE; 63], &hears);
    assert!(!selection.exact && is_clique(selection.set, &hears));
    assert_eq!(selection.weight, 21);
}

proptest! {
    #[test]
    fn the_search_finds_what_trying_every_set_finds(
        weights in proptest::collection::vec((0u32..3, any::<bool>()), 0..11),
        seed in proptest::collection::vec(any::<u64>(), 11),
    ) {
        let candidates: Vec<Candidate> =
            weights.into_iter().map(|(weight, low)| Candidate { weight, low }).collect();
        let hears: Vec<u64> = (0..candidates.len()).map(|a| seed[a] | seed[(a + 1) % 11]).collect();
        prop_assert_eq!(select(&candidates, &hears).set, plainly(&candidates, &hears));
    }

    #[test]
    fn a_healthy_cluster_with_a_few_faults_is_searched_exactly(
        // Each that meets no other doubles the number of largest sets: of twenty and more the search may give up.
        faults in proptest::collection::vec((0usize..64, 0usize..64), 0..13),
    ) {
        let mut hears = vec![u64::MAX; 64];
        for (a, b) in faults {
            hears[a] &= !(1 << b);
        }
        let selection = select(&[ONE; 64], &hears);
        prop_assert!(selection.exact && is_clique(selection.set, &hears));
        prop_assert!(selection.weight >= 52);
    }
}
