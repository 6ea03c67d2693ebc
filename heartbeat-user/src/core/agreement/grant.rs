//! The grant: one word that says "this vote has accepted no successor of that view", for one incarnation of one asker.
//! Userspace computes it on both sides; the kernel only carries and compares it.

use crate::core::ids::NodeId;
use heartbeat_common::view::{Name, VoteId};
use sha2::{Digest, Sha256};

/// Returns the word by which `vote` grants in `view` to an incarnation of a node. Never 0, which is no grant.
///
/// It is under the MAC of the frame that carries it, so it need not be secret; it must only differ where any of the five
/// does.
#[must_use]
pub fn word(instance: [u64; 2], view: Name, vote: VoteId, asker: NodeId, incarnation: u64) -> u64 {
    let mut hash = Sha256::new();
    hash.update(b"heartbeat grant 1");
    let name = [view.order.0, view.digest[0], view.digest[1], view.digest[2], view.digest[3]];
    for word in instance.into_iter().chain(name).chain(vote.0).chain([u64::from(asker.0), incarnation]) {
        hash.update(word.to_le_bytes());
    }
    let hash = hash.finalize();
    let (words, _) = hash.as_chunks::<8>();
    words.first().map_or(1, |first| u64::from_le_bytes(*first)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use heartbeat_common::view::Order;

    #[test]
    fn it_is_bound_to_all_that_it_is_for() {
        let view = Name { order: Order::new(0, 3).unwrap(), digest: [1, 2, 3, 4] };
        let other = Name { digest: [1, 2, 3, 5], ..view };
        let newer = Name { order: Order::new(0, 4).unwrap(), ..view };
        let vote = VoteId([8, 9]);
        let all = [
            word([1, 1], view, vote, NodeId(2), 10),
            word([1, 2], view, vote, NodeId(2), 10),
            word([1, 1], other, vote, NodeId(2), 10),
            word([1, 1], newer, vote, NodeId(2), 10),
            word([1, 1], view, VoteId([8, 10]), NodeId(2), 10),
            word([1, 1], view, vote, NodeId(3), 10),
            word([1, 1], view, vote, NodeId(2), 11),
        ];
        let different: std::collections::BTreeSet<u64> = all.into_iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(!different.contains(&0));
        assert_eq!(all[0], word([1, 1], view, vote, NodeId(2), 10));
    }
}
