//! The thread that writes: it takes a state, puts it on disk and says how that went. The deciding thread gives it
//! orders and never waits for it. Once a write has failed it writes nothing more.

use super::{AgreementFile, Step, WriteFault};
use crate::core::agreement::voter::State;
use crate::io::clock;
use anyhow::Context;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// The state of this sequence is on disk.
    Written {
        /// The state's.
        sequence: u64,
        /// How long that took.
        took: Duration,
    },
    /// It is not known to be there. Every later order is answered so, and the disk is left alone.
    Failed {
        /// The state's.
        sequence: u64,
        /// What failed, at the first failure.
        step: Step,
        /// What the system said to that.
        errno: i32,
    },
}

/// The thread's end that orders come by. Dropped, it ends the thread once that has nothing under way; nobody waits for
/// a disk that does not answer.
#[derive(Debug)]
pub struct Writer {
    desk: Arc<Desk>,
}

#[derive(Debug, Default)]
struct Desk {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    next: Option<Box<State>>,
    aside: bool,
    closed: bool,
}

/// What the thread is told.
enum Order {
    Write(Box<State>),
    SetAside,
}

impl Desk {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an order; `None` when there will be no more.
    fn next(&self) -> Option<Order> {
        let mut slot = self.slot();
        loop {
            if let Some(state) = slot.next.take() {
                return Some(Order::Write(state));
            }
            if std::mem::take(&mut slot.aside) {
                return Some(Order::SetAside);
            }
            if slot.closed {
                return None;
            }
            slot = self.changed.wait(slot).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Writer {
    /// Starts the thread. `report` is called on it, once for each state that it took.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(file: AgreementFile, report: impl FnMut(Report) + Send + 'static) -> anyhow::Result<Self> {
        let desk = Arc::new(Desk::default());
        let own = desk.clone();
        std::thread::Builder::new()
            .name("hb-disk".to_owned())
            .spawn(move || run(&own, &file, report))
            .context("start the thread that writes the agreement")?;
        Ok(Self { desk })
    }

    /// Orders a state to be written. One that waits and was not begun is replaced: a newer state holds all that the
    /// older does, and only what is written is reported.
    pub fn write(&self, state: Box<State>) {
        self.desk.slot().next = Some(state);
        self.desk.changed.notify_one();
    }

    /// Orders the file to be set aside, after what waits to be written: it is no vote any more, and the next start is not
    /// to take it for one. Where that fails it is logged: whoever told of it tells the next start again.
    pub fn set_aside(&self) {
        self.desk.slot().aside = true;
        self.desk.changed.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.desk.slot().closed = true;
        self.desk.changed.notify_one();
    }
}

fn run(desk: &Desk, file: &AgreementFile, mut report: impl FnMut(Report)) {
    let mut failed: Option<(Step, i32)> = None;
    file.prepare();
    while let Some(order) = desk.next() {
        let state = match order {
            Order::Write(state) => state,
            Order::SetAside => {
                match file.set_aside() {
                    Ok(aside) => aside.iter().for_each(|to| log::warn!("the older copy is now {}", to.display())),
                    Err(fault) => log::error!("the older copy stays where it is: {fault}"),
                }
                continue;
            }
        };
        let sequence = state.sequence;
        let begun = clock::now();
        let outcome = match failed {
            Some(failed) => Err(failed),
            None => file.write(&state).map_err(|fault: WriteFault| (fault.step, fault.errno())),
        };
        failed = outcome.err();
        report(match failed {
            None => Report::Written { sequence, took: clock::now().since(begun) },
            Some((step, errno)) => Report::Failed { sequence, step, errno },
        });
        if failed.is_none() {
            file.prepare();
        }
    }
}
