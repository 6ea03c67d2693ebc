//! Where the control socket asks for views: it passes questions to the deciding thread, waits for the answer, and reads
//! the page itself. It decides nothing.

use super::clocks;
use crate::control::{AgreementDoor, ErrorCode, LeaseFacts, Refusal};
use crate::core::agreement::Status;
use crate::core::agreement::types::{Outcome, Request};
use crate::core::ids::NodeId;
use crate::io::decider::Orders;
use crate::io::memory::Shared;
use std::sync::Arc;
use std::time::Duration;

/// How long the deciding thread may take to show what it knows.
const ANSWER: Duration = Duration::from_secs(1);

/// The door.
pub struct Door {
    /// The deciding thread.
    pub orders: Orders,
    /// Shared memory, the page in it.
    pub shared: Arc<Shared>,
    /// The place of each peer's vote in the page.
    pub slots: Vec<(usize, NodeId)>,
}

impl AgreementDoor for Door {
    fn view(&self) -> Result<Status, Refusal> {
        self.orders.view(ANSWER).ok_or_else(|| {
            Refusal::new(
                ErrorCode::Failed,
                format!("the deciding loop did not answer within {} ms", ANSWER.as_millis()),
            )
        })
    }

    fn quorum(&self) -> Result<LeaseFacts, Refusal> {
        Ok(LeaseFacts::read(self.shared.page(), clocks::now().boot_ns, &self.slots))
    }

    fn request(&self, request: Request, limit: Duration) -> Result<Outcome, Refusal> {
        // The thread itself gives a request up at the limit: who waited no longer than that would miss its word of it.
        let limit = limit + ANSWER;
        self.orders.request(request, limit).ok_or_else(|| {
            let message =
                format!("nothing was heard of the request within {} s; it may still be decided", limit.as_secs());
            Refusal::new(ErrorCode::Failed, message)
        })
    }
}
