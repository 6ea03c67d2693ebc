//! What the deciding thread can be told, and the way to tell it. Who only wakes it never waits; who asks it something
//! waits for a limited time.

use super::Plan;
use crate::config::Config;
use crate::core::agreement::Status;
use crate::core::agreement::types::{Outcome, Request};
use crate::core::settings::Settings;
use crate::io::agreement::Hands;
use crate::io::agreement::begin::{Terms, terms};
use crate::io::disk::Report;
use crate::io::keeper;
use crate::io::snapshot::Snapshot;
use crate::keys::{FenceSigner, KeyRing};
use heartbeat_common::view::Order as ViewOrder;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;

/// What the thread can be told.
pub(super) enum Order {
    Show(SyncSender<Snapshot>),
    Incarnation(u64),
    Settings(Box<Settings>),
    Keeper(SyncSender<keeper::Order>),
    /// Decide together with others from now on.
    Agreement(Box<Hands>),
    Wake,
    Wrote(Report),
    /// What was to be said of this view was, or was not; and which announcement it was.
    Announced(ViewOrder, bool, u64),
    ServicesStopped(bool),
    Disarm,
    Terms(Box<(Terms, KeyRing, Vec<FenceSigner>)>),
    Request(Request, SyncSender<Outcome>),
    View(SyncSender<Status>),
    /// Claim from now on, or no more, that all that acts here asks the page first.
    Gated(bool, oneshot::Sender<()>),
    Stop,
}

/// A way to tell it.
#[derive(Clone)]
pub struct Orders {
    pub(super) queue: SyncSender<Order>,
    pub(super) plan: Arc<Plan>,
}

impl Orders {
    /// Tells it that this node runs under a new incarnation.
    pub fn incarnation(&self, own: u64) {
        let _ = self.queue.send(Order::Incarnation(own));
    }

    /// Puts new settings and keys into force. `fences` are the makers of fences under these keys, by path.
    pub fn settings(&self, config: &Config, keys: KeyRing, fences: Vec<FenceSigner>) {
        // The core keeps its own incarnation; the number here is replaced by it.
        let _ = self.queue.send(Order::Settings(Box::new(self.plan.settings(config, 0))));
        let _ = self.queue.send(Order::Terms(Box::new((terms(config), keys, fences))));
    }

    /// Tells it where the keeper takes orders.
    pub fn keeper(&self, keeper: SyncSender<keeper::Order>) {
        let _ = self.queue.send(Order::Keeper(keeper));
    }

    /// Gives it the agreement to drive.
    pub fn agreement(&self, hands: Box<Hands>) {
        let _ = self.queue.send(Order::Agreement(hands));
    }

    /// Wakes it: messages have come. Waits for nothing; if its queue is full it is awake.
    pub fn wake(&self) {
        let _ = self.queue.try_send(Order::Wake);
    }

    /// Tells it how a write of the agreement's state ended.
    pub fn wrote(&self, report: Report) {
        let _ = self.queue.send(Order::Wrote(report));
    }

    /// Tells it that all that this node runs has stopped or, not `stopped`, that this was waited for in vain.
    pub fn services_stopped(&self, stopped: bool) {
        let _ = self.queue.send(Order::ServicesStopped(stopped));
    }

    /// Has the machine's watchdog disarmed: nothing runs here any more, and this daemon ends.
    pub fn disarm(&self) {
        let _ = self.queue.send(Order::Disarm);
    }

    /// Asks the agreement for something, and waits at most `limit` for what becomes of it. `None`: no word of it.
    #[must_use]
    pub fn request(&self, request: Request, limit: Duration) -> Option<Outcome> {
        let (answer, wait) = sync_channel(1);
        self.queue.try_send(Order::Request(request, answer)).ok()?;
        wait.recv_timeout(limit).ok()
    }

    /// Asks how the agreement stands, and waits at most `limit`. `None`: there is none, or no answer.
    #[must_use]
    pub fn view(&self, limit: Duration) -> Option<Status> {
        let (answer, wait) = sync_channel(1);
        self.queue.try_send(Order::View(answer)).ok()?;
        wait.recv_timeout(limit).ok()
    }

    /// Asks for a picture of everything, and waits at most `limit`: a loop that makes no progress does not answer.
    #[must_use]
    pub fn show(&self, limit: Duration) -> Option<Snapshot> {
        let (answer, wait) = sync_channel(1);
        self.queue.try_send(Order::Show(answer)).ok()?;
        wait.recv_timeout(limit).ok()
    }

    /// Has this node claim, or claim no more, that all that acts here asks the page first. `done` is told once every frame
    /// says so, if it is a claim no more. Says whether the order was taken; it waits for nothing.
    #[must_use]
    pub fn gated(&self, gated: bool, done: oneshot::Sender<()>) -> bool {
        self.queue.try_send(Order::Gated(gated, done)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::AgreementDoor as _;
    use crate::io::agreement::door::Door;
    use crate::io::memory::Shared;

    #[test]
    fn an_answer_at_the_limit_is_heard_at_the_door() {
        let (queue, orders) = sync_channel(1);
        let plan = Arc::new(Plan { own: 1, paths: Vec::new() });
        let shared = Arc::new(Shared::new(None, 1).unwrap());
        let door = Door { orders: Orders { queue, plan }, shared, slots: Vec::new() };
        let limit = Duration::from_millis(50);
        // The thread withdraws a request when its time is over, and says so then.
        let deciding = std::thread::spawn(move || {
            let Ok(Order::Request(Request::Leave, answer)) = orders.recv() else { panic!("no request came") };
            std::thread::sleep(limit + Duration::from_millis(100));
            answer.try_send(Outcome::NoQuorum)
        });
        assert_eq!(door.request(Request::Leave, limit).ok(), Some(Outcome::NoQuorum));
        assert!(deciding.join().unwrap().is_ok());
    }
}
