//! The acceptor: what one vote has promised and accepted of the one decision that follows its view. A pure function
//! from register to register; it reads no clock, writes no disk and knows no network. Who calls it has the new register
//! on disk before the answer leaves, and clears all grants of this vote before it writes an acceptance.
//!
//! It is the acceptor of single-decree Paxos (L. Lamport, "Paxos Made Simple", 2001, section 2.2), one register for
//! each view: nothing of an older view's register outlives it.

use crate::view::{Ballot, Name};

/// The register of one vote upon one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "user", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Register {
    /// The view whose successor is decided; the vote holds it on disk.
    pub view: Name,
    /// No older attempt is answered.
    pub promised: Ballot,
    /// The attempt under which `value` was accepted; [`Ballot::NONE`]: nothing was.
    pub accepted: Ballot,
    /// Digest of the document accepted; the document itself is kept beside the register.
    pub value: [u64; 4],
}

/// What a promise tells the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub struct Promise {
    /// The newest attempt accepted; [`Ballot::NONE`]: none.
    pub accepted: Ballot,
    /// What was accepted under it.
    pub value: [u64; 4],
}

/// Why an attempt is not answered as it wished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "user", derive(borsh::BorshSerialize, borsh::BorshDeserialize))]
pub enum Refusal {
    /// It is about an older view, or about another one of the same order: the view held is named.
    OlderView(Name),
    /// It is about a newer view, which has to be fetched and installed before.
    NewerView,
    /// This newer attempt was promised.
    Promised(Ballot),
    /// Another value was accepted under the very same attempt: somebody broke the rule that an attempt has one.
    OtherValue,
}

impl Register {
    /// Begins the register upon a view just installed.
    #[must_use]
    pub const fn open(view: Name) -> Self {
        Self { view, promised: Ballot::NONE, accepted: Ballot::NONE, value: [0; 4] }
    }

    /// Says whether a successor was accepted: then this vote grants nothing in this view any more.
    #[must_use]
    pub fn has_accepted(&self) -> bool {
        self.accepted != Ballot::NONE
    }

    /// Promises to take no attempt older than `ballot`.
    ///
    /// # Errors
    /// If the view is another one, or this attempt or a newer one was promised; the same one again is answered again,
    /// unchanged, because the answer may have been lost.
    pub fn promise(&self, view: Name, ballot: Ballot) -> Result<(Self, Promise), Refusal> {
        self.fits(view)?;
        if ballot < self.promised || ballot == Ballot::NONE {
            return Err(Refusal::Promised(self.promised));
        }
        let promise = Promise { accepted: self.accepted, value: self.value };
        Ok((Self { promised: ballot, ..*self }, promise))
    }

    /// Accepts a value under `ballot`.
    ///
    /// # Errors
    /// If the view is another one, a newer attempt was promised, or another value was accepted under this very one. The
    /// same value again is answered again, unchanged.
    pub fn accept(&self, view: Name, ballot: Ballot, value: [u64; 4]) -> Result<Self, Refusal> {
        self.fits(view)?;
        if ballot < self.promised || ballot == Ballot::NONE {
            return Err(Refusal::Promised(self.promised));
        }
        if self.accepted == ballot && self.value != value {
            return Err(Refusal::OtherValue);
        }
        Ok(Self { promised: ballot, accepted: ballot, value, ..*self })
    }

    fn fits(&self, view: Name) -> Result<(), Refusal> {
        if view == self.view {
            Ok(())
        } else if view.order > self.view.order {
            Err(Refusal::NewerView)
        } else {
            Err(Refusal::OlderView(self.view))
        }
    }
}

#[cfg(test)]
mod tests;
