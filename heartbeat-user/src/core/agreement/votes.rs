//! Who decides the next view: the weights that a view gives its votes. It is a function of who is a member and what is
//! configured; it looks at no disk and no peer.

use super::document::Holder;
use crate::core::ids::NodeId;

/// A vote that could be given weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Votable {
    /// Who holds it.
    pub holder: Holder,
    /// What it weighs by configuration: 0 or 1.
    pub configured: u8,
    /// Its holder is in the view to come.
    pub member: bool,
    /// Its holder's kernel answers, and its controller makes no progress.
    pub stalled: bool,
}

/// Returns the weights of votes, in their order. With dynamic votes only members have one; without, all that are named
/// keep theirs. Of an even number that is not 0 the node of lower priority loses its vote, if it has one. Else dynamic
/// votes are made odd, so that no split is even: a stalled one is lost, or the one with the highest id.
#[must_use]
pub fn assign(votes: &[Votable], dynamic: bool, lower_priority: Option<NodeId>) -> Vec<u8> {
    let mut weights: Vec<u8> =
        votes.iter().map(|vote| if vote.member || !dynamic { vote.configured.min(1) } else { 0 }).collect();
    let total: u32 = weights.iter().map(|weight| u32::from(*weight)).sum();
    if total == 0 || total % 2 == 1 {
        return weights;
    }
    let low = |vote: &Votable| lower_priority.is_some_and(|node| vote.holder == Holder::Node(node));
    let node = |vote: &Votable| matches!(vote.holder, Holder::Node(_));
    // A witness loses its vote last of all: it is there for the even split.
    let loser = (0..votes.len())
        .filter(|&index| weights[index] == 1 && (dynamic || low(&votes[index])))
        .max_by_key(|&index| (low(&votes[index]), node(&votes[index]), votes[index].stalled, votes[index].holder));
    if let Some(index) = loser {
        weights[index] = 0;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(members: usize, all: usize) -> Vec<Votable> {
        let one = |node: usize| Votable {
            holder: Holder::Node(NodeId(node as u16)),
            configured: 1,
            member: node < members,
            stalled: false,
        };
        (0..all).map(one).collect()
    }

    #[test]
    fn dynamic_votes_go_down_to_the_last_node_standing() {
        let expected: [&[u8]; 6] =
            [&[0; 5], &[1, 0, 0, 0, 0], &[1, 0, 0, 0, 0], &[1, 1, 1, 0, 0], &[1, 1, 1, 0, 0], &[1; 5]];
        for (members, weights) in expected.iter().enumerate() {
            assert_eq!(assign(&votes(members, 5), true, None), *weights, "{members} members");
        }
    }

    #[test]
    fn static_votes_stay_with_whom_they_were_given_to() {
        assert_eq!(assign(&votes(2, 5), false, None), [1; 5]);
        assert_eq!(assign(&votes(2, 4), false, None), [1; 4], "two halves stop, both of them");
        assert_eq!(assign(&votes(2, 4), false, Some(NodeId(1))), [1, 0, 1, 1]);
        assert_eq!(assign(&votes(2, 5), false, Some(NodeId(1))), [1; 5]);
    }

    #[test]
    fn an_even_number_is_made_odd_by_priority_then_health_then_id() {
        let mut four = votes(4, 4);
        assert_eq!(assign(&four, true, None), [1, 1, 1, 0]);
        four[1].stalled = true;
        assert_eq!(assign(&four, true, None), [1, 0, 1, 1]);
        assert_eq!(assign(&four, true, Some(NodeId(0))), [0, 1, 1, 1]);
        four[0].configured = 0;
        assert_eq!(assign(&four, true, Some(NodeId(0))), [0, 1, 1, 1], "three are odd already");
        assert_eq!(assign(&four[..3], true, Some(NodeId(0))), [0, 0, 1], "it has no vote to lose");
    }

    #[test]
    fn a_witness_keeps_its_vote() {
        let mut votes = votes(3, 3);
        votes.push(Votable { holder: Holder::Witness(0), configured: 1, member: true, stalled: false });
        assert_eq!(assign(&votes, true, None), [1, 1, 0, 1]);
    }
}
