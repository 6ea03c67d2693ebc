//! Waits, on a thread of its own, until all that this node runs has stopped, and reports it to the deciding thread, which
//! waits for nobody. It stops nothing: what runs sees the page.

use crate::io::clock;
use crate::io::decider::Orders;
use crate::io::ran::Ran;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Who waits, at most one at a time.
#[derive(Clone)]
pub struct Stopper {
    ran: Arc<Ran>,
    orders: Orders,
    /// How often it was asked.
    asked: Arc<AtomicU64>,
    waits: Arc<AtomicBool>,
}

impl Stopper {
    /// Makes one that waits for `ran` and reports to `orders`.
    #[must_use]
    pub fn new(ran: Arc<Ran>, orders: Orders) -> Self {
        Self { ran, orders, asked: Arc::default(), waits: Arc::default() }
    }

    /// Takes note of a view's time to stop.
    pub fn stop_time_is(&self, ms: u32) {
        self.ran.stop_time_is(ms);
    }

    /// Begins to wait. Nobody may act here from this moment on.
    pub fn begin(&self) {
        self.ran.over_since(clock::now());
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.run();
    }

    fn run(&self) {
        if self.waits.swap(true, Ordering::AcqRel) {
            return;
        }
        let own = self.clone();
        let thread = std::thread::Builder::new().name("hb-stop".to_owned()).spawn(move || own.wait());
        if let Err(error) = thread {
            self.waits.store(false, Ordering::Release);
            log::error!("nobody can wait for what runs to stop: {error}");
        }
    }

    fn wait(&self) {
        let seen = self.asked.load(Ordering::Acquire);
        let stopped = self.ran.wait();
        if let Err(what) = &stopped {
            log::error!("what this node ran has not stopped in time: {what}; it will not be said to have");
        }
        self.waits.store(false, Ordering::Release);
        if self.asked.load(Ordering::Acquire) == seen {
            self.orders.services_stopped(stopped.is_ok());
        } else {
            // Asked again meanwhile: what was found is of a moment before that.
            self.run();
        }
    }
}
