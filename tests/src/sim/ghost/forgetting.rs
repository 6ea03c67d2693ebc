//! Disks and memory of an earlier time that come back unseen: which votes may have forgotten what, and what that excuses.
//! "A vote belongs to a disk state": what it did upon views decided by then is promised nothing of, all else stands.

use super::{Ghost, Violation, broken};
use heartbeat_common::view::Order;
use heartbeat_user::core::agreement::document::{Document, Holder};

impl Ghost {
    /// Takes note that a disk of an earlier time came back, and that nobody can know it.
    pub fn comes_back(&mut self, node: usize) {
        self.forget(node);
        self.forgot[node] = self.newest;
    }

    /// Says whether a node's vote may have forgotten what it did upon a view.
    #[must_use]
    pub fn may_forget(&self, node: usize, upon: Order) -> bool {
        upon.is_view() && self.forgot.get(node).is_some_and(|newest| upon <= *newest)
    }

    /// Says whether any vote of a view may have forgotten what it did upon it.
    #[must_use]
    pub fn is_forgotten(&self, view: &Document) -> bool {
        let forgets = |holder| match holder {
            Holder::Node(node) => self.may_forget(usize::from(node.0) - 1, view.order),
            Holder::Witness(_) => false,
        };
        self.forgets() && view.votes.iter().any(|vote| vote.weight > 0 && forgets(vote.holder))
    }

    /// Says whether a disk of an earlier time came back at all.
    #[must_use]
    pub fn forgets(&self) -> bool {
        self.forgot.iter().any(|view| view.is_view())
    }

    /// A view has two successors. That is impossible as long as "a vote belongs to a disk state".
    pub(super) fn two_successors(&mut self, of: [u64; 4], what: String) -> Result<(), Violation> {
        let parent = self.views().find(|view| view.name.digest == of);
        if parent.is_some_and(|parent| self.is_forgotten(&parent.document)) {
            self.void = true;
            return Ok(());
        }
        broken("S1", what)
    }
}
