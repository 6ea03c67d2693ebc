//! The feeder where two threads reach it: the deciding thread, which feeds and disarms and waits for nobody, and the
//! keeper's, which changes the time-out and may wait for the driver. It decides nothing about the device.

use super::{Feeder, Watchdog};
use crate::lease::{Refused, Token};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// A feeder that threads share. All clones are one.
#[derive(Clone)]
pub struct Guard(Arc<Mutex<Feeder<Box<dyn Watchdog>>>>);

impl Guard {
    /// Shares a feeder.
    #[must_use]
    pub fn new(feeder: Feeder<Box<dyn Watchdog>>) -> Self {
        Self(Arc::new(Mutex::new(feeder)))
    }

    /// As [`Feeder::is_armed`], for threads that may wait.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.wait().is_armed()
    }

    /// As [`Feeder::handle`], and waits for no other thread. `None`: another one has the device just now, so nothing was
    /// done. Time-outs are far longer than that, and whoever changes one feeds the device by it.
    pub fn handle(&self, judged: Result<Token, Refused>) -> Option<anyhow::Result<()>> {
        Some(self.try_lock()?.handle(judged))
    }

    /// As [`Feeder::everything_stopped`], and waits for no other thread. `None`: it is to be said again.
    pub fn everything_stopped(&self) -> Option<anyhow::Result<()>> {
        Some(self.try_lock()?.everything_stopped())
    }

    /// As [`Feeder::retime`], for threads that may wait.
    ///
    /// # Errors
    /// If the device cannot have it: the former limit and time-out stay.
    pub fn retime(&self, hang_limit: Duration) -> anyhow::Result<()> {
        self.wait().retime(hang_limit)
    }

    fn wait(&self) -> MutexGuard<'_, Feeder<Box<dyn Watchdog>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Feeder<Box<dyn Watchdog>>>> {
        match self.0.try_lock() {
            Ok(feeder) => Some(feeder),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
