//! How long something took, round by round, held against what the settings promise; and the moments of the nodes' own
//! events that this is measured by. All stamps are CLOCK_MONOTONIC, which the nodes of a lab share. It makes nothing
//! happen.
//!
//! The machines that tests run on are shared: any one round may be held up by them, most are not. So every round has to
//! be in time but for [`SLACK`], and the middle one without it.

use super::acts::order;
use super::crew::{Mark, event_name};
use super::views::{FORMING, LOOK};
use super::wait::wait_every;
use super::{Crew, monotonic_ns};
use anyhow::{Context, Result, ensure};
use heartbeat_common::view::Order;
use serde_json::Value;
use std::time::{Duration, Instant};

/// By how much a single round may be late: two clusters are played on two processors that others use too.
pub const SLACK: Duration = Duration::from_secs(2);
/// The middle of fewer rounds than this says nothing.
const FEW: usize = 5;
/// Between two looks at nodes with which nothing is to happen.
const SELDOM: Duration = Duration::from_millis(200);

/// Delay of the profile `lan`.
pub const DELAY: Duration = Duration::from_millis(100);
/// Its detection time: five delays.
pub const DETECTION: Duration = Duration::from_millis(500);
/// Its lease, which is as long.
pub const LEASE: Duration = DETECTION;
/// Within this a fault is in a view on every node that stays: the detection time, the delay that a probe may be away
/// from the fault's beginning, and a regroup of two delays and 200 ms.
pub const VIEW: Duration = Duration::from_millis(500 + 100 + 400);
/// Within this all who can talk are of one mind, whatever happened.
pub const CONVERGENCE: Duration = Duration::from_millis(3 * 1000);
/// Its control limit: for so long messages of a node whose controller runs may fail to pass.
pub const CONTROL_LIMIT: Duration = Duration::from_millis(1000);

/// How long something took, in every round.
#[derive(Debug)]
pub struct Timely {
    what: String,
    least: Duration,
    most: Duration,
    rounds: Vec<Duration>,
}

impl Timely {
    /// Nothing yet; `most` is what the settings promise.
    #[must_use]
    pub fn new(what: &str, most: Duration) -> Self {
        Self { what: what.to_owned(), least: Duration::ZERO, most, rounds: Vec::new() }
    }

    /// It may not come sooner, in the middle round.
    #[must_use]
    pub fn not_before(mut self, least: Duration) -> Self {
        self.least = least;
        self
    }

    /// Takes a round, from one moment to another, ns; an end before the beginning took no time.
    ///
    /// # Errors
    /// If it is later than even a busy machine makes it.
    pub fn add(&mut self, from_ns: u64, to_ns: u64) -> Result<()> {
        let took = Duration::from_nanos(to_ns.saturating_sub(from_ns));
        self.rounds.push(took);
        let Self { what, most, .. } = self;
        ensure!(took <= *most + SLACK, "{what}: {took:?}, where {most:?} are promised");
        Ok(())
    }

    /// Says that the middle round was in time, and prints it.
    ///
    /// # Errors
    /// If it was not, or there was no round.
    pub fn judge(&self) -> Result<()> {
        let Self { what, least, most, .. } = self;
        let mut rounds = self.rounds.clone();
        rounds.sort_unstable();
        let last = rounds.last().with_context(|| format!("{what}: not once"))?;
        let middle = rounds[(rounds.len() - 1) / 2];
        println!("{what}: {middle:?} in the middle of {}, {last:?} at most; promised: {most:?}", rounds.len());
        let in_time = (*least..=*most).contains(&middle) || rounds.len() < FEW;
        ensure!(in_time, "{what}: {middle:?} in the middle, where {least:?} to {most:?} are promised: {rounds:?}");
        Ok(())
    }
}

/// The moment of an event, ns.
///
/// # Errors
/// If it has none.
pub fn noticed(event: &Value) -> Result<u64> {
    event["noticed_ns"].as_u64().with_context(|| format!("no moment in {event}"))
}

/// When a node that said this found itself out, and was started again after it, ns.
fn returned(said: &[Value]) -> Result<u64> {
    let names = || said.iter().map(event_name).collect::<Vec<_>>().join(", ");
    let out = said.iter().position(|event| matches!(event_name(event), "left_out" | "fenced"));
    let out = out.with_context(names)?;
    ensure!(said[out..].iter().any(|event| event_name(event) == "started"), "{}", names());
    noticed(&said[out])
}

impl Crew {
    /// When the last of `nodes` said `name` of this view since, ns. What is shown already may be written a little later, so
    /// that it is waited for.
    ///
    /// # Errors
    /// If one does not say it in time.
    pub fn all_told(&self, mark: &Mark, nodes: &[usize], name: &str, view: Order) -> Result<u64> {
        wait_every(LOOK, FORMING, &format!("{nodes:?} to say {name} of {view:?}"), || -> Result<u64> {
            let mut last = 0;
            for node in nodes {
                let said = self.said(mark, *node, name)?;
                let found = said.iter().find(|event| order(&event["view"]).is_ok_and(|order| order == view));
                last = last.max(noticed(found.with_context(|| format!("node {node}: {said:?}"))?)?);
            }
            Ok(last)
        })
    }

    /// When the last of `nodes` installed this view since, ns.
    ///
    /// # Errors
    /// If one does not in time.
    pub fn all_installed(&self, mark: &Mark, nodes: &[usize], view: Order) -> Result<u64> {
        self.all_told(mark, nodes, "view_installed", view)
    }

    /// Waits until a node has found itself out since, has ended for it and was started again, and returns when it found
    /// that, ns.
    ///
    /// # Errors
    /// If it does not in time, or ends otherwise.
    pub fn await_return(&mut self, mark: &Mark, node: usize) -> Result<u64> {
        let what = format!("node {} to find itself out, and to be started again", self.name(node));
        wait_every(LOOK, FORMING, &what, || -> Result<u64> {
            self.tend()?;
            returned(&self.since(mark, node)?)
        })
    }

    /// Sees that for so long none of `nodes` holds another view than this one.
    ///
    /// # Errors
    /// If one does.
    pub fn stays(&mut self, nodes: &[usize], view: Order, long: Duration) -> Result<()> {
        let end = Instant::now() + long;
        while Instant::now() < end {
            self.tend()?;
            for node in nodes {
                let stands = self.stands(*node)?;
                ensure!(stands.view == view, "node {node} was to stay in {view:?}: {stands:?}");
            }
            std::thread::sleep(SELDOM);
        }
        Ok(())
    }

    /// Sees that none of `nodes` stopped acting between a moment, ns, and now.
    ///
    /// # Errors
    /// If one did.
    pub fn acted_on(&self, sink: &super::Sink, nodes: &[usize], from_ns: u64) -> Result<()> {
        let (acts, now) = (sink.acts(), monotonic_ns());
        for node in nodes {
            let breaks: Vec<_> = acts.breaks_of(*node, from_ns, now).collect();
            ensure!(breaks.is_empty(), "node {node} stopped acting: {breaks:?}");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const MS: u64 = 1_000_000;

    fn rounds(took_ms: &[u64]) -> Timely {
        let mut timely = Timely::new("it", Duration::from_millis(100)).not_before(Duration::from_millis(50));
        took_ms.iter().for_each(|took| timely.add(7, 7 + took * MS).unwrap());
        timely
    }

    #[test]
    fn the_middle_round_has_to_be_in_time() {
        rounds(&[60, 1900, 70, 90, 60]).judge().unwrap();
        assert!(rounds(&[60, 101, 102, 103, 60]).judge().is_err(), "most are late");
        assert!(rounds(&[60, 49, 48, 47, 60]).judge().is_err(), "most are early");
        assert!(rounds(&[]).judge().is_err(), "nothing was measured");
        rounds(&[1900]).judge().unwrap();
    }

    #[test]
    fn who_returns_has_found_itself_out_and_was_started_after_it() {
        let said = |name: &str, at: u64| json!({"event": name, "noticed_ns": at});
        let (out, started) = (said("left_out", 7), said("started", 9));
        assert_eq!(returned(&[said("quorum_lost", 5), out.clone(), started.clone()]).unwrap(), 7);
        assert_eq!(returned(&[said("fenced", 6), said("stopped", 8), started.clone()]).unwrap(), 6);
        assert!(returned(&[started, out]).is_err(), "it has not come back yet");
        assert!(returned(&[said("quorum_lost", 5)]).unwrap_err().to_string().contains("quorum_lost"));
    }

    #[test]
    fn no_round_may_be_later_than_a_busy_machine_makes_it() {
        let mut timely = rounds(&[]);
        timely.add(0, 2_100 * MS).unwrap();
        assert!(timely.add(0, 2_101 * MS).is_err());
        timely.add(9, 8).unwrap();
        assert_eq!(timely.rounds.last(), Some(&Duration::ZERO));
    }
}
