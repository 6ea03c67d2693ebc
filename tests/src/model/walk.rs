//! Where a search begins that cannot look at everything: at the cluster just formed, and at states that seeded walks come
//! to, with faults of all kinds behind them. It judges nothing; what is behind a state is in its record.

use super::bounds::Walks;
use super::cluster::{Cluster, World};
use super::moves::Action;
use crate::xdp::random::Random;
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

/// Walks of one part of a search.
const PART: u32 = 8;

impl World {
    /// Returns where a part of the search begins, always at the same states: the first at the cluster just formed, each
    /// other at the ends of the next few walks. None: there is no such part.
    #[must_use]
    pub fn roots(&self, part: u32) -> Option<Vec<Root>> {
        let formed = self.formed();
        let Some(before) = part.checked_sub(1) else { return Some(vec![Root { state: formed, way: Vec::new() }]) };
        let walks = self.bounds.walks?;
        let first = before * PART;
        let seeds = first..(first + PART).min(walks.count);
        let walk = |seed: u32| self.walk(&formed, walks, &mut Random::new(u64::from(seed)));
        (!seeds.is_empty()).then(|| seeds.filter_map(walk).collect())
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

    const FEW: Walks = Walks { count: 12, fewest: 2, most: 6, after: 1 };

    fn world(walks: Option<Walks>) -> World {
        let wide = BOUNDS.iter().find(|bounds| bounds.walks.is_some()).expect("some are sampled");
        World::new(Bounds { walks, ..*wide })
    }

    fn roots(world: &World) -> Vec<Root> {
        world.roots(1).expect("there are walks")
    }

    #[test]
    fn walks_lead_always_to_the_same_states_with_faults_behind_them() {
        let (world, again) = (world(Some(FEW)), world(Some(FEW)));
        let (roots, same) = (roots(&world), roots(&again));
        assert!(roots.len() > 4, "{} of 12 walks came to an end in time", roots.len());
        assert!(roots.iter().map(|root| &root.state).eq(same.iter().map(|root| &root.state)));
        for root in &roots {
            let spent = world.bounds.left.sum() - root.state.left.sum();
            assert!((2..=6).contains(&spent), "{spent} faults");
            assert_eq!(root.state.left.together, 1, "one more may come");
        }
    }

    #[test]
    fn the_way_to_a_root_can_be_walked_again() {
        let world = world(Some(FEW));
        for root in roots(&world) {
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
    fn the_first_part_begins_at_the_beginning_and_there_are_as_many_as_walks() {
        let some = world(Some(Walks { count: PART + 1, ..FEW }));
        let first = some.roots(0).expect("there always is one");
        assert!(first.len() == 1 && first[0].way.is_empty());
        assert!(some.roots(2).is_some_and(|roots| roots.len() <= 1));
        assert!(some.roots(3).is_none() && world(None).roots(1).is_none());
    }
}
