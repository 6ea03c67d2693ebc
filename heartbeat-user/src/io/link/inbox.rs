//! Where the link's thread leaves events, and the deciding thread takes them. The one that takes never waits: where the
//! other is just leaving something, there is nothing yet, and the waker is called a moment later.

use super::queue::Incoming;
use super::{Count, Counts, LinkEvent, Waker};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

/// The place itself.
pub(super) struct Inbox {
    queue: Mutex<Incoming>,
    waker: Waker,
    counts: Arc<Counts>,
}

impl Inbox {
    pub(super) fn new(waker: Waker, counts: Arc<Counts>) -> Self {
        Self { queue: Mutex::default(), waker, counts }
    }

    /// Leaves an event. The waker comes after the lock: whoever found it taken is woken for it.
    pub(super) fn leave(&self, event: LinkEvent) {
        let lost = self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(event);
        self.counts.add_many(Count::Untaken, lost);
        (self.waker)();
    }
}

/// The deciding thread's end.
pub struct LinkEvents(Arc<Inbox>);

impl LinkEvents {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self(inbox)
    }

    /// Takes the next event, without waiting; `None`: none is there, or the waker is about to be called.
    #[must_use]
    pub fn try_recv(&self) -> Option<LinkEvent> {
        match self.0.queue.try_lock() {
            Ok(mut queue) => queue.pop(),
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner().pop(),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
