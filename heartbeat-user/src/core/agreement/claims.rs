//! What the frames of this node claim of what runs here: that it stops at once, so that a fence which its kernel obeyed is
//! proof enough. It is claimed no sooner and no longer than it is so by every lease that may still run. Whether all that
//! runs asks its kernel is judged elsewhere.

use super::document::Document;
use super::engine::Agreement;
use heartbeat_common::view::Order;
use std::time::Duration;

impl Agreement {
    /// Makes the bank of the view held, at once where it may be. A kernel that obeys a fence acknowledges it with the claim
    /// that its frames make: where this view gives what runs time to stop, and frames may still say that it takes none, they
    /// are changed first. Until then the node goes on by the bank before, as one does that has not installed the view yet.
    pub(super) fn make_bank_in_turn(&mut self, carry: bool) {
        let carry = carry && self.page.bank_due != Some(false);
        let gives_time = self.held.as_ref().is_some_and(|held| held.document.lease.stop_ms > 0);
        if gives_time && self.page.claims {
            self.page.bank_due = Some(carry);
        } else {
            self.make_bank(carry);
        }
    }

    /// Every frame says what the standing of this view does, with its grants.
    pub(super) fn standing_done(&mut self, order: Order) {
        self.page.standing = order;
        let held = self.held.as_ref().filter(|held| held.name.order == order);
        if held.is_some_and(|held| held.document.lease.stop_ms > 0) {
            self.page.claims = false;
            if let Some(carry) = self.page.bank_due {
                self.make_bank(carry);
            }
        }
    }

    /// What ran by a view's lease may go on for as long, and be stopped in the time which that gave it: a later view that
    /// gives none takes nothing back.
    pub(super) fn linger(&mut self, view: &Document) {
        self.page.lingers = Some((self.now.clocks(), view.lease.surely_over() + self.slewed()));
    }

    /// Says that what runs stops at once, where that is so, as soon as nothing can run by an older lease.
    pub(super) fn outlast(&mut self) {
        if self.lingers_for() != Some(Duration::ZERO) {
            return;
        }
        self.page.lingers = None;
        if self.held.as_ref().is_some_and(|held| held.document.lease.stop_ms == 0) {
            self.say_standing();
        }
    }

    /// Returns for how long something may still run by an older lease.
    pub(super) fn lingers_for(&self) -> Option<Duration> {
        let (since, wait) = self.page.lingers?;
        Some(wait.saturating_sub(self.now.clocks().since(since)))
    }
}
