//! Who does not hear whom: what the classes of faults that cut wires draw. It plays nothing else.

use super::faults::*;
use super::net::{CLASSES as FRAME_CLASSES, Class};
use super::world::World;
use crate::xdp::random::Random;

/// Everything between two nodes.
const ALL: &[Class] = &FRAME_CLASSES;

impl World {
    /// Cuts what a class of faults cuts, with a drawn node.
    pub(super) fn cut(&mut self, class: usize, node: usize, random: &mut Random) -> End {
        let others = || (0..self.plan.nodes).filter(move |other| *other != node);
        let other = others().nth(random.below(self.plan.nodes as u64 - 1) as usize).unwrap_or(0);
        let both = |pairs: Vec<(usize, usize)>| pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        let of_node: Vec<_> = others().map(|other| (node, other)).collect();
        let (pairs, classes): (Vec<_>, &'static [Class]) = match class {
            ONE_WAY => (vec![(node, other)], ALL),
            PARTITION => {
                let side = random.word();
                let apart = |(a, b): &(usize, usize)| (side >> a ^ side >> b) & 1 == 1;
                let pairs = (0..self.plan.nodes).flat_map(|a| (0..self.plan.nodes).map(move |b| (a, b)));
                (pairs.filter(apart).collect(), ALL)
            }
            ISOLATED => (both(of_node), ALL),
            MESSAGES_CUT if random.one_in(2) => (both(vec![(node, other)]), &[Class::Messages]),
            MESSAGES_CUT => (both(of_node), &[Class::Messages]),
            _ if random.one_in(2) => (vec![(node, other)], &[Class::Asked]),
            _ => (both(vec![(node, other)]), &[Class::Answered]),
        };
        for (from, to) in &pairs {
            self.net.set_cut(*from, *to, classes, true);
        }
        End::Cut { pairs, classes }
    }

    /// Cuts everything between these nodes, a bit for each, and all others.
    pub(super) fn split_off(&mut self, side: u64) {
        self.part(side, ALL);
    }

    /// Cuts classes between two sides, in both directions.
    pub(super) fn part(&mut self, side: u64, classes: &[Class]) {
        for a in 0..self.plan.nodes {
            for b in (0..self.plan.nodes).filter(|b| (side >> a ^ side >> b) & 1 == 1) {
                self.net.set_cut(a, b, classes, true);
            }
        }
    }

    /// Cuts pairs of nodes in both directions, so that some hear each other only through a third.
    pub(super) fn cut_pairs(&mut self, random: &mut Random) -> Option<End> {
        let pairs = intransitive(self.plan.nodes, random)?;
        let pairs: Vec<_> = pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        for (from, to) in &pairs {
            self.net.set_cut(*from, *to, ALL, true);
        }
        Some(End::Cut { pairs, classes: ALL })
    }
}

/// Draws pairs that do not hear each other, so that hearing is not transitive among so many nodes; `None`: it always is.
fn intransitive(nodes: usize, random: &mut Random) -> Option<Vec<(usize, usize)>> {
    if nodes < 3 {
        return None;
    }
    let all: Vec<(usize, usize)> = (0..nodes).flat_map(|a| (a + 1..nodes).map(move |b| (a, b))).collect();
    match random.below(3) {
        0 => Some(vec![all[random.below(all.len() as u64) as usize]]),
        // In a ring of three everybody hears everybody.
        1 if nodes > 3 => {
            let neighbours = |(a, b): &(usize, usize)| b - a == 1 || b - a == nodes - 1;
            Some(all.into_iter().filter(|pair| !neighbours(pair)).collect())
        }
        _ => loop {
            let cut: Vec<_> = all.iter().copied().filter(|_| random.one_in(2)).collect();
            if is_intransitive(nodes, &cut) {
                return Some(cut);
            }
        },
    }
}

/// Says whether there are two that do not hear each other, and a third that hears both.
fn is_intransitive(nodes: usize, cut: &[(usize, usize)]) -> bool {
    let hears = |a: usize, b: usize| a != b && !cut.contains(&(a.min(b), a.max(b)));
    cut.iter().any(|(a, b)| (0..nodes).any(|third| hears(*a, third) && hears(third, *b)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn who_hears_whom_is_drawn_so_that_some_need_a_third() {
        let mut random = Random::new(5);
        assert_eq!(intransitive(2, &mut random), None);
        for nodes in 3..=5 {
            let drawn: BTreeSet<_> = (0..300).filter_map(|_| intransitive(nodes, &mut random)).collect();
            assert!(drawn.iter().all(|cut| is_intransitive(nodes, cut)), "{nodes}");
            assert!(drawn.iter().any(|cut| cut.len() == 1) && drawn.len() >= 3, "{nodes}: {drawn:?}");
        }
        let ring = vec![(0, 2), (0, 3), (1, 3), (1, 4), (2, 4)];
        assert!((0..50).any(|_| intransitive(5, &mut random) == Some(ring.clone())));
        assert!(!is_intransitive(4, &[(0, 2), (0, 3), (1, 2), (1, 3)]), "two sides");
        assert!(!is_intransitive(3, &[]), "nothing is cut");
    }
}
