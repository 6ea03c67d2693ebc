//! The one way from the control socket to the agreement that the deciding thread drives. It names what can be asked
//! there, and what is answered; it asks nothing by itself.

use super::{LeaseFacts, Refusal};
use crate::core::agreement::Status;
use crate::core::agreement::types::{Outcome, Request};
use std::time::Duration;

/// What the deciding thread answers about views. Its calls come from threads that may wait.
pub trait AgreementDoor: Send + Sync + 'static {
    /// Returns how the agreement stands. A node without a view answers too.
    ///
    /// # Errors
    /// A refusal, where the thread did not answer within a second.
    fn view(&self) -> Result<Status, Refusal>;

    /// Returns what the page of the lease says now.
    ///
    /// # Errors
    /// A refusal, where there is no page.
    fn quorum(&self) -> Result<LeaseFacts, Refusal>;

    /// Has a request decided, and returns what became of it: at the latest after `limit`, when it is withdrawn, and a
    /// second more, in which that is answered.
    ///
    /// # Errors
    /// A refusal, where the thread did not answer.
    fn request(&self, request: Request, limit: Duration) -> Result<Outcome, Refusal>;
}
