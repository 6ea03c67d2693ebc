//! Names: of views, of who votes in them, of the attempts to decide the next one. It holds and orders them; what a
//! view contains, and who may decide it, is told elsewhere.

/// The order of views: force count (16 bits) above number (48 bits). A forced start raises the force count, each other
/// decision the number by one; number 0 is no view.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Order(pub u64);

/// Bits of the number in an [`Order`].
const NUMBER_BITS: u32 = 48;

impl Order {
    /// No view.
    pub const NONE: Self = Self(0);

    /// Packs both; a number beyond its 48 bits gives `None`, for it would count as a force.
    #[must_use]
    pub const fn new(force: u16, number: u64) -> Option<Self> {
        if number >> NUMBER_BITS == 0 { Some(Self((force as u64) << NUMBER_BITS | number)) } else { None }
    }

    /// Returns how many forced starts led here.
    #[must_use]
    pub const fn force(self) -> u16 {
        (self.0 >> NUMBER_BITS) as u16
    }

    /// Returns the number within its force count.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0 & ((1 << NUMBER_BITS) - 1)
    }

    /// Says whether this is a view at all.
    #[must_use]
    pub const fn is_view(self) -> bool {
        self.number() != 0
    }

    /// Returns the order of the view that is decided upon this one; `None` after the last number there is.
    #[must_use]
    pub const fn next(self) -> Option<Self> {
        Self::new(self.force(), self.number() + 1)
    }
}

/// A view's name. Two views are the same only if all of it is equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Name {
    /// What views are ordered by.
    pub order: Order,
    /// SHA-256 of the view's document, as little-endian words.
    pub digest: [u64; 4],
}

impl Name {
    /// The name of no view.
    pub const NONE: Self = Self { order: Order::NONE, digest: [0; 4] };
}

/// Who votes: a disk state, not a node. Random, made with the state, never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct VoteId(pub [u64; 2]);

impl VoteId {
    /// No vote.
    pub const NONE: Self = Self([0; 2]);

    /// Says whether this is a vote at all.
    #[must_use]
    pub const fn is_vote(self) -> bool {
        self.0[0] | self.0[1] != 0
    }
}

/// One attempt to decide the successor of a view; ordered by round, then node, then incarnation. Its author writes its
/// own promise to disk before it sends a value under it, so none ever carries two values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "user", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Ballot {
    /// Raised above every one seen; 0: no attempt.
    pub round: u64,
    /// The proposer.
    pub node: u16,
    /// Its incarnation.
    pub incarnation: u64,
}

impl Ballot {
    /// No attempt; below every other.
    pub const NONE: Self = Self { round: 0, node: 0, incarnation: 0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_force_outweighs_every_number() {
        let ordinary = Order::new(0, (1 << 48) - 1).unwrap();
        let forced = Order::new(1, 1).unwrap();
        assert!(forced > ordinary && ordinary.next().is_none());
        assert_eq!((forced.force(), forced.number(), forced.next()), (1, 1, Order::new(1, 2)));
        assert_eq!(Order::new(0, 1 << 48), None);
        assert!(!Order::NONE.is_view() && !Order::new(3, 0).unwrap().is_view() && forced.is_view());
    }

    #[test]
    fn ballots_are_ordered_by_round_node_and_incarnation() {
        let ballot = |round, node, incarnation| Ballot { round, node, incarnation };
        assert!(
            ballot(2, 0, 0) > ballot(1, 9, 9) && ballot(1, 2, 0) > ballot(1, 1, 9) && ballot(1, 1, 2) > ballot(1, 1, 1)
        );
        assert!(ballot(1, 0, 0) > Ballot::NONE);
    }
}
