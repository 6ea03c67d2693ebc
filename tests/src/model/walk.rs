//! Where a search begins that cannot look at everything: at the cluster just formed, and at states that seeded walks come
//! to, with faults of all kinds behind them. It judges nothing; what is behind a state is in its record.

use super::bounds::Walks;
use super::cluster::{Cluster, World};
use super::moves::Action;
use super::shared::digest;
use crate::xdp::random::Random;
use std::collections::BTreeSet;
use std::mem::{Discriminant, discriminant};

/// A state to begin at.
#[derive(Clone, Debug)]
pub struct Root {
    /// The state.
    pub state: Cluster,
    /// The way to it, from the cluster just formed.
    pub way: Vec<Action>,
}

/// Of so many steps of a walk one is out of the usual, as is drawn for each walk: faults close together, or far apart.
const GAPS: [u64; 4] = [2, 4, 8, 16];

impl World {
    /// Returns where the search begins, each state once and always the same ones: the cluster just formed, and where the
    /// bounds ask for walks, the ends of these.
    #[must_use]
    pub fn roots(&self) -> Vec<Root> {
        let formed = self.formed();
        let mut known = BTreeSet::new();
        let mut roots = vec![Root { state: formed.clone(), way: Vec::new() }];
        for (number, walks) in self.bounds.walks.iter().enumerate() {
            for seed in 0..walks.count {
                let mut random = Random::new((number as u64) << 32 | u64::from(seed));
                let root = self.walk(&formed, *walks, &mut random);
                roots.extend(root.filter(|root| known.insert(digest(&root.state))));
            }
        }
        roots
    }

    /// Walks until so much went wrong as is drawn. None: time was over before that.
    fn walk(&self, formed: &Cluster, walks: Walks, random: &mut Random) -> Option<Root> {
        let mut root = Root { state: formed.clone(), way: Vec::new() };
        let before = walks.fewest + random.below(u64::from(walks.most - walks.fewest) + 1) as u8;
        let gap = random.pick(&GAPS);
        root.state.left = self.bounds.left.at_most(before);
        while root.state.left.together > 0 {
            let usual = self.usual(&root.state)?;
            let action = if random.one_in(gap) { self.unusual(&root.state, usual, random) } else { usual };
            // It may come to nothing: a step has no write to be cut off at, or leads beyond the bounds.
            if let Some(next) = self.next(&root.state, action).filter(|next| self.beyond(next).is_none()) {
                root.state = next;
                root.way.push(action);
            } else if action == usual {
                return None;
            }
        }
        root.state.left = root.state.left.at_most(walks.after);
        Some(root)
    }

    /// Draws something out of the usual: first of which kind, since some kinds are many.
    fn unusual(&self, state: &Cluster, usual: Action, random: &mut Random) -> Action {
        let mut actions = Vec::new();
        self.actions(state, &mut actions);
        actions.retain(|action| *action != usual);
        let mut kinds: Vec<Discriminant<Action>> = Vec::new();
        for kind in actions.iter().map(discriminant) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if kinds.is_empty() {
            return usual;
        }
        let kind = random.pick(&kinds);
        actions.retain(|action| discriminant(action) == kind);
        random.pick(&actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::bounds::{BOUNDS, Bounds};

    const FEW: &[Walks] = &[Walks { count: 12, fewest: 2, most: 6, after: 1 }];

    fn world(walks: &'static [Walks]) -> World {
        let wide = BOUNDS.iter().find(|bounds| !bounds.walks.is_empty()).expect("some are sampled");
        World::new(Bounds { walks, ..*wide })
    }

    #[test]
    fn walks_lead_always_to_the_same_states_with_faults_behind_them() {
        let (world, again) = (world(FEW), world(FEW));
        let (roots, same) = (world.roots(), again.roots());
        assert!(roots.len() > 6, "{} of 12 walks came to an end in time", roots.len() - 1);
        assert!(roots.iter().map(|root| &root.state).eq(same.iter().map(|root| &root.state)));
        assert!(roots[0].way.is_empty());
        for root in &roots[1..] {
            let spent = world.bounds.left.sum() - root.state.left.sum();
            assert!((2..=6).contains(&spent), "{spent} faults");
            assert_eq!(root.state.left.together, 1, "one more may come");
        }
    }

    #[test]
    fn the_way_to_a_root_can_be_walked_again() {
        let world = world(FEW);
        for root in world.roots() {
            let mut state = world.formed();
            state.left = world.bounds.left.at_most(u8::MAX);
            for action in &root.way {
                state = world.next(&state, *action).expect("it happened before");
            }
            state.left = root.state.left;
            assert_eq!(state, root.state);
        }
    }

    #[test]
    fn without_walks_there_is_the_beginning_alone() {
        assert_eq!(world(&[]).roots().len(), 1);
    }
}
