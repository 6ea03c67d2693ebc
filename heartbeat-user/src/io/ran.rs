//! What this node runs under its lease, and how it is known that none of it runs any more: units bound to the quorate
//! target, as the service manager has them, and whatever hooks of an earlier controller have left. Where no manager is
//! asked, the time to stop has to pass. It stops nothing but such hooks: what runs stops by the page.

use crate::core::time::MonoTime;
use crate::io::hooks::Shelter;
use crate::io::{clock, manager};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// What units bind to that may run only while this node may act.
const TARGET: &str = "heartbeat-quorate.target";
/// How often the manager is asked.
const LOOK: Duration = Duration::from_millis(250);
/// What takes longer than the time to stop by so much is not waited for: nothing is said to have stopped then.
const GRACE: Duration = Duration::from_secs(10);

/// What runs on this node beside heartbeatd.
pub struct Ran {
    /// How long it may take to stop: the configuration's, or that of a view if it is longer, ms.
    stop_ms: AtomicU64,
    /// Where hooks run.
    shelter: Shelter,
    /// Since when this node has not acted without a break, ns; 0: it acts.
    since: Mutex<MonoTime>,
    /// Not everything had stopped by the time that was given.
    left_running: AtomicBool,
}

impl Ran {
    /// Begins with nothing that acts. `stop_time` is the configuration's.
    #[must_use]
    pub fn new(stop_time: Duration, shelter: Shelter) -> Self {
        let stop_ms = AtomicU64::new(u64::try_from(stop_time.as_millis()).unwrap_or(u64::MAX));
        Self { stop_ms, shelter, since: Mutex::new(clock::now()), left_running: AtomicBool::new(false) }
    }

    /// Where hooks run.
    #[must_use]
    pub const fn shelter(&self) -> &Shelter {
        &self.shelter
    }

    /// Takes note of a view's time to stop. It never shrinks: what began under the longer one may still stop.
    pub fn stop_time_is(&self, ms: u32) {
        self.stop_ms.fetch_max(ms.into(), Ordering::AcqRel);
    }

    /// Takes note that from this moment nobody may act here.
    pub fn over_since(&self, now: MonoTime) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Waits until nothing runs. It takes the time to stop and a little more at most, and is for threads that may wait.
    ///
    /// # Errors
    /// Says what still runs; from then on [`Self::has_stopped`] is false, until a later wait succeeds.
    pub fn wait(&self) -> Result<(), String> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = Duration::from_millis(self.stop_ms.load(Ordering::Acquire));
        let stopped = wait(since, stop, state_of_target, clock::now, std::thread::sleep);
        self.left_running.store(stopped.is_err(), Ordering::Release);
        stopped
    }

    /// The same for what an earlier controller ran, its hooks too.
    ///
    /// # Errors
    /// Says what still runs.
    pub fn wait_for_earlier(&self) -> Result<(), String> {
        self.wait()?;
        self.end_earlier_hooks()
    }

    /// Kills what hooks of an earlier controller have left, and waits until it is gone.
    ///
    /// # Errors
    /// If something is not.
    pub fn end_earlier_hooks(&self) -> Result<(), String> {
        self.shelter.clear(GRACE).map_err(|error| format!("hooks of an earlier heartbeatd do not end: {error}"))
    }

    /// Says that nothing was found running when it was last waited for.
    #[must_use]
    pub fn has_stopped(&self) -> bool {
        !self.left_running.load(Ordering::Acquire)
    }
}

/// Asks the service manager for the target's state; `None` where there is no manager, or none that says.
fn state_of_target() -> Option<String> {
    manager::is_there().then(|| manager::of_unit("ActiveState", TARGET)).flatten()
}

fn wait(
    since: MonoTime,
    stop: Duration,
    ask: impl Fn() -> Option<String>,
    now: impl Fn() -> MonoTime,
    sleep: impl Fn(Duration),
) -> Result<(), String> {
    let until = now() + stop + GRACE;
    loop {
        let state = ask();
        let passed = now().since(since);
        if is_over(state.as_deref(), passed, stop) {
            return Ok(());
        }
        if now() >= until {
            return Err(format!("{TARGET} is {}", state.as_deref().unwrap_or("not known")));
        }
        let left = if state.is_none() { stop.saturating_sub(passed) } else { LOOK };
        sleep(left.min(LOOK));
    }
}

/// Says whether nothing runs any more. A manager that knows the target knows when what is bound to it has stopped;
/// else only time tells.
fn is_over(target: Option<&str>, passed: Duration, stop: Duration) -> bool {
    match target {
        Some(state) => matches!(state, "inactive" | "failed"),
        None => passed >= stop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const S: Duration = Duration::from_secs(1);

    /// Waits on a clock of its own, with the target in these states, a look each, the last one for ever. Returns what
    /// came of it, and how long it took.
    fn waited(stop: Duration, states: &[Option<&str>]) -> (Result<(), String>, Duration) {
        let (time, look) = (Cell::new(MonoTime(1_000_000_000)), Cell::new(0));
        let ask = || {
            let state = states[look.get().min(states.len() - 1)];
            look.set(look.get() + 1);
            state.map(str::to_owned)
        };
        let result = wait(time.get(), stop, ask, || time.get(), |pause| time.set(time.get() + pause));
        (result, time.get().since(MonoTime(1_000_000_000)))
    }

    #[test]
    fn without_a_manager_the_time_to_stop_has_to_pass() {
        assert_eq!(waited(Duration::ZERO, &[None]), (Ok(()), Duration::ZERO));
        assert_eq!(waited(3 * S, &[None]), (Ok(()), 3 * S));
    }

    #[test]
    fn the_manager_s_word_is_waited_for_and_believed() {
        assert_eq!(waited(3 * S, &[Some("inactive")]), (Ok(()), Duration::ZERO));
        assert_eq!(waited(Duration::ZERO, &[Some("active"), Some("deactivating"), Some("failed")]), (Ok(()), 2 * LOOK));
        let (result, took) = waited(2 * S, &[Some("deactivating")]);
        assert!(result.unwrap_err().contains("deactivating") && took >= 2 * S + GRACE);
    }

    #[test]
    fn what_did_not_stop_is_remembered_until_it_has() {
        let ran = Ran::new(Duration::ZERO, Shelter::Session);
        assert!(ran.has_stopped());
        ran.left_running.store(true, Ordering::Release);
        assert!(!ran.has_stopped());
        ran.stop_time_is(30);
        ran.stop_time_is(20);
        assert_eq!(ran.stop_ms.load(Ordering::Acquire), 30);
    }
}
