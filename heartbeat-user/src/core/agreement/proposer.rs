//! One attempt to decide the view that follows: whom it has asked, who has answered, and what that makes of it. It knows
//! the votes of the view that it follows; when to attempt, and what to propose, is decided elsewhere.
//!
//! ```text
//! Asking --a majority promised, the own vote among it--> Choosing --> Proposing --a majority accepted--> Decided
//!    `------------------- refused for a newer attempt, view or promise -------------------------> Beaten
//! ```

use super::document::Document;
use heartbeat_common::acceptor::Promise;
use heartbeat_common::view::{Ballot, Name, VoteId};
use std::collections::{BTreeMap, BTreeSet};

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Promises are missing.
    Asking,
    /// A majority has promised; nothing was accepted before, so that the proposer may choose.
    Choosing,
    /// This document is to be accepted.
    Proposing(Box<Document>),
    /// It was, by a majority.
    Decided(Box<Document>),
}

/// An attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    view: Name,
    ballot: Ballot,
    own_vote: VoteId,
    /// Weights upon the successor of the view.
    weights: BTreeMap<VoteId, u32>,
    total: u32,
    promised: BTreeSet<VoteId>,
    /// The newest acceptance told, and its document.
    newest: Option<(Ballot, Box<Document>)>,
    accepted: BTreeSet<VoteId>,
    stage: Stage,
}

impl Proposer {
    /// Begins an attempt upon the view of `document`. `own_vote` is this node's, whether or not it has a weight: its
    /// promise is waited for, because only what is on the own disk keeps an attempt from being made twice.
    #[must_use]
    pub fn begin(document: &Document, ballot: Ballot, own_vote: VoteId) -> Self {
        let weights: BTreeMap<VoteId, u32> =
            document.votes.iter().map(|vote| (vote.id, u32::from(vote.weight))).collect();
        Self {
            view: document.name(),
            ballot,
            own_vote,
            total: document.total_weight(),
            weights,
            promised: BTreeSet::new(),
            newest: None,
            accepted: BTreeSet::new(),
            stage: Stage::Asking,
        }
    }

    /// Returns the view that it follows.
    #[must_use]
    pub const fn view(&self) -> Name {
        self.view
    }

    /// Returns its ballot.
    #[must_use]
    pub const fn ballot(&self) -> Ballot {
        self.ballot
    }

    /// Returns how far it is.
    #[must_use]
    pub const fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Returns the votes that have not answered the present stage: who is to be asked again, and waited for.
    pub fn missing(&self) -> impl Iterator<Item = VoteId> {
        let answered = match self.stage {
            Stage::Asking => &self.promised,
            _ => &self.accepted,
        };
        self.weights.iter().filter(|(id, weight)| **weight > 0 && !answered.contains(id)).map(|(id, _)| *id)
    }

    /// Takes a promise. A document that is not the one accepted by its digest is no answer.
    pub fn promised(
        &mut self,
        view: Name,
        ballot: Ballot,
        vote: VoteId,
        promise: &Promise,
        document: Option<Document>,
    ) {
        if (view, ballot) != (self.view, self.ballot) || self.stage != Stage::Asking {
            return;
        }
        if promise.accepted != Ballot::NONE {
            let Some(document) = document.filter(|document| document.name().digest == promise.value) else { return };
            if self.newest.as_ref().is_none_or(|(newest, _)| promise.accepted > *newest) {
                self.newest = Some((promise.accepted, Box::new(document)));
            }
        }
        self.promised.insert(vote);
        if self.promised.contains(&self.own_vote) && self.is_majority(&self.promised) {
            self.stage = match self.newest.take() {
                Some((_, document)) => Stage::Proposing(document),
                None => Stage::Choosing,
            };
        }
    }

    /// Chooses what to propose, where a choice is left; false where none is.
    pub fn choose(&mut self, document: Document) -> bool {
        let free = self.stage == Stage::Choosing;
        if free {
            self.stage = Stage::Proposing(Box::new(document));
        }
        free
    }

    /// Takes an acceptance. Returns whether it was the one that decided.
    pub fn accepted(&mut self, view: Name, ballot: Ballot, vote: VoteId, value: [u64; 4]) -> bool {
        let Stage::Proposing(document) = &self.stage else { return false };
        if (view, ballot) != (self.view, self.ballot) || document.name().digest != value {
            return false;
        }
        let document = document.clone();
        self.accepted.insert(vote);
        let decided = self.is_majority(&self.accepted);
        if decided {
            self.stage = Stage::Decided(document);
        }
        decided
    }

    fn is_majority(&self, votes: &BTreeSet<VoteId>) -> bool {
        let sum: u32 = votes.iter().filter_map(|id| self.weights.get(id)).sum();
        sum.saturating_mul(2) > self.total
    }
}

#[cfg(test)]
mod tests;
