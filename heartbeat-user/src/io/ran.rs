//! What this node runs under its lease, and how it is known that none of it runs any more: units bound to the quorate
//! target, as the service manager has them, and whatever hooks of an earlier controller have left. Where there is no
//! manager, the time to stop has to pass; one that does not answer proves nothing. It stops nothing but such hooks: what
//! runs stops by the page.

use crate::core::time::MonoTime;
use crate::io::hooks::Shelter;
use crate::io::manager::Properties;
use crate::io::{clock, manager};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What units bind to that may run only while this node may act.
const TARGET: &str = "heartbeat-quorate.target";
/// The properties that name who stops with a unit.
const BOUND: [&str; 3] = ["BoundBy", "RequiredBy", "ConsistsOf"];
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
}

impl Ran {
    /// Begins with nothing that acts. `stop_time` is the configuration's.
    #[must_use]
    pub fn new(stop_time: Duration, shelter: Shelter) -> Self {
        let stop_ms = AtomicU64::new(u64::try_from(stop_time.as_millis()).unwrap_or(u64::MAX));
        Self { stop_ms, shelter, since: Mutex::new(clock::now()) }
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

    /// Returns how long [`Self::wait`] takes at most: the time to stop, by the configuration or by a view, and a little more.
    #[must_use]
    pub fn longest(&self) -> Duration {
        Duration::from_millis(self.stop_ms.load(Ordering::Acquire)).saturating_add(GRACE)
    }

    /// Returns how long [`Self::wait_for_earlier`] takes at most: hooks are ended after all else has stopped.
    #[must_use]
    pub fn longest_earlier(&self) -> Duration {
        self.longest().saturating_add(GRACE)
    }

    /// Waits until nothing runs. It takes the time to stop and a little more at most, and is for threads that may wait.
    ///
    /// # Errors
    /// Says what still runs.
    pub fn wait(&self) -> Result<(), String> {
        self.wait_asking(look_at_target)
    }

    fn wait_asking(&self, ask: impl Fn() -> Target) -> Result<(), String> {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = Duration::from_millis(self.stop_ms.load(Ordering::Acquire));
        wait(since, stop, ask, clock::now, std::thread::sleep)
    }

    /// The same for what an earlier controller ran, its hooks too. With `nothing_ran`, of which the caller has other
    /// evidence, a manager that is slow or mute while the machine starts is no reason to wait; its word still counts.
    ///
    /// # Errors
    /// Says what still runs.
    pub fn wait_for_earlier(&self, nothing_ran: bool) -> Result<(), String> {
        self.wait_asking(|| unless_mute(look_at_target(), nothing_ran))?;
        self.end_earlier_hooks()
    }

    /// Kills what hooks of an earlier controller have left, and waits until it is gone.
    ///
    /// # Errors
    /// If something is not.
    pub fn end_earlier_hooks(&self) -> Result<(), String> {
        self.shelter.clear(GRACE).map_err(|error| format!("hooks of an earlier heartbeatd do not end: {error}"))
    }
}

/// What is known of the target, and of all that stops with it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    /// There is no service manager, so there is no target: only time tells.
    None,
    /// The manager does not answer. It may be that all runs.
    Unknown,
    /// This runs, or has not quite stopped: a unit and its state.
    Up(String),
    /// All of it has stopped, by the manager's own word.
    Down,
}

/// Asks the service manager for the target and for each unit that stops with it. A unit that is not ordered after the
/// target may stop later than that does.
fn look_at_target() -> Target {
    if manager::is_there() { judge(TARGET, manager::of_units) } else { Target::None }
}

fn judge(target: &str, ask: impl Fn(&[&str], &[&str]) -> Option<Vec<Properties>>) -> Target {
    const STATE: &str = "ActiveState";
    let wanted: Vec<&str> = [STATE].into_iter().chain(BOUND).collect();
    let Some(found) = ask(&wanted, &[target]).and_then(|mut told| told.pop()) else { return Target::Unknown };
    let lists = BOUND.iter().filter_map(|list| found.get(*list));
    let units: Vec<&str> = lists.flat_map(|list| list.split_whitespace()).collect();
    let bound = if units.is_empty() { Some(Vec::new()) } else { ask(&[STATE], &units) };
    let Some(bound) = bound.filter(|bound| bound.len() == units.len()) else { return Target::Unknown };
    for (unit, found) in std::iter::once(target).chain(units).zip(std::iter::once(&found).chain(&bound)) {
        match found.get(STATE).map(String::as_str) {
            Some("inactive" | "failed") => {}
            Some(state) if !state.is_empty() => return Target::Up(format!("{unit} is {state}")),
            _ => return Target::Unknown,
        }
    }
    Target::Down
}

/// Takes a manager that says nothing for none, where `nothing_ran`.
fn unless_mute(found: Target, nothing_ran: bool) -> Target {
    if nothing_ran && found == Target::Unknown { Target::None } else { found }
}

fn wait(
    since: MonoTime,
    stop: Duration,
    ask: impl Fn() -> Target,
    now: impl Fn() -> MonoTime,
    sleep: impl Fn(Duration),
) -> Result<(), String> {
    let until = now() + stop + GRACE;
    loop {
        let target = ask();
        let passed = now().since(since);
        let pause = match target {
            Target::Down => return Ok(()),
            Target::None if passed >= stop => return Ok(()),
            Target::None => (stop - passed).min(LOOK),
            Target::Unknown | Target::Up(_) => LOOK,
        };
        if now() >= until {
            return Err(match target {
                Target::Up(what) => what,
                _ => format!("{TARGET} is not known: the service manager does not answer"),
            });
        }
        sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const S: Duration = Duration::from_secs(1);

    fn up(what: &str) -> Target {
        Target::Up(what.to_owned())
    }

    /// Waits on a clock of its own, with the target in these states, a look each, the last one for ever. Returns what
    /// came of it, and how long it took.
    fn waited(stop: Duration, states: &[Target]) -> (Result<(), String>, Duration) {
        let (time, look) = (Cell::new(MonoTime(1_000_000_000)), Cell::new(0));
        let ask = || {
            let state = states[look.get().min(states.len() - 1)].clone();
            look.set(look.get() + 1);
            state
        };
        let result = wait(time.get(), stop, ask, || time.get(), |pause| time.set(time.get() + pause));
        (result, time.get().since(MonoTime(1_000_000_000)))
    }

    #[test]
    fn without_a_manager_the_time_to_stop_has_to_pass() {
        assert_eq!(waited(Duration::ZERO, &[Target::None]), (Ok(()), Duration::ZERO));
        assert_eq!(waited(3 * S, &[Target::None]), (Ok(()), 3 * S));
    }

    #[test]
    fn the_manager_s_word_is_waited_for_and_believed() {
        assert_eq!(waited(3 * S, &[Target::Down]), (Ok(()), Duration::ZERO));
        let stopping = [up("the target is active"), up("the target is deactivating"), Target::Down];
        assert_eq!(waited(Duration::ZERO, &stopping), (Ok(()), 2 * LOOK));
        let (result, took) = waited(2 * S, &[up("the target is deactivating")]);
        assert!(result.unwrap_err().contains("deactivating") && took >= 2 * S + GRACE);
    }

    #[test]
    fn a_manager_that_does_not_answer_is_no_proof_of_a_stop() {
        for stop in [Duration::ZERO, 2 * S] {
            let (result, took) = waited(stop, &[Target::Unknown]);
            assert!(result.unwrap_err().contains("does not answer"));
            assert!(took >= stop + GRACE && took <= stop + GRACE + LOOK, "{took:?}");
        }
        // But where nothing can run, which other evidence shows.
        assert_eq!(waited(Duration::ZERO, &[unless_mute(Target::Unknown, true)]), (Ok(()), Duration::ZERO));
        assert_eq!(unless_mute(Target::Unknown, false), Target::Unknown);
        assert_eq!(unless_mute(up("t is active"), true), up("t is active"));
        // It was stuck for a while, and answers by then.
        assert_eq!(waited(S, &[Target::Unknown, Target::Unknown, Target::Down]), (Ok(()), 2 * LOOK));
    }

    /// Judges what a manager says that knows these units: name, state and who is bound to it.
    fn judged(units: &[(&str, &str, &str)]) -> Target {
        judge("t", |properties, asked| {
            let of = |name: &&str| {
                let (_, state, bound) = units.iter().find(|(unit, ..)| unit == name)?;
                let value = |property: &str| match property {
                    "ActiveState" => *state,
                    "BoundBy" => *bound,
                    _ => "",
                };
                Some(properties.iter().map(|each| ((*each).to_owned(), value(each).to_owned())).collect())
            };
            asked.iter().map(of).collect()
        })
    }

    #[test]
    fn all_that_is_bound_to_the_target_has_to_be_down() {
        assert_eq!(judged(&[("t", "inactive", "")]), Target::Down);
        assert_eq!(judged(&[("t", "active", "")]), up("t is active"));
        let with = |state| judged(&[("t", "inactive", "a b"), ("a", "failed", ""), ("b", state, "")]);
        assert_eq!(with("inactive"), Target::Down);
        assert_eq!(with("deactivating"), up("b is deactivating"), "the target may be down before it");
        assert_eq!(with(""), Target::Unknown, "no word is no good word");
        assert_eq!(judged(&[("t", "inactive", "a")]), Target::Unknown, "it says nothing of the unit");
        assert_eq!(judged(&[]), Target::Unknown);
    }

    #[test]
    fn the_longest_time_to_stop_holds() {
        let ran = Ran::new(Duration::ZERO, Shelter::Session);
        ran.stop_time_is(30);
        ran.stop_time_is(20);
        assert_eq!(ran.stop_ms.load(Ordering::Acquire), 30);
    }
}
