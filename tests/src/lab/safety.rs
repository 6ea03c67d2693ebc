//! What no machine may break, however busy it is: nobody acts beside those that took over from it, a view has one digest,
//! each change is told once. Whoever judges one of these does it here, and a breach is marked in the test's output: it is
//! not made good by a second run that goes well, so `cargo xtask test`, which looks for the mark, gives none.
//!
//! How long something took is judged elsewhere: a machine that loses turns makes stamps late, and changes no order.

use super::acts::{Acts, Views};
use super::views::Stands;
use super::{Crew, Sink};
use anyhow::{Context, Error, Result, anyhow};
use heartbeat_common::lease::Refused;
use heartbeat_common::view::Order;
use std::fmt::Display;

/// Begins the line of a breach. `cargo xtask test` knows it by this.
pub const MARK: &str = "SAFETY: ";

/// Marks a breach, and returns it as an error.
#[must_use]
pub fn breach(what: impl Display) -> Error {
    let what = format!("{what:#}");
    // A test that fails is shown with what it printed.
    println!("{MARK}{}", what.replace('\n', " "));
    anyhow!(what)
}

/// Says that a rule of safety holds; `what` says how it is broken.
///
/// # Errors
/// If it does not: a breach.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(breach(what())) }
}

impl Acts {
    /// Says that nothing that came to the sink breaks the rule of views.
    ///
    /// # Errors
    /// If something does: a breach.
    pub fn keep_the_rule(&self, views: &Views) -> Result<()> {
        let faults = self.faults(views);
        ensure(faults.is_empty(), || faults.join("; ")).with_context(|| format!("{:#?}", self.stretches))
    }

    /// Says that each of `gone` acted for the last time before any of `stay` acted in `view`, which is without them.
    ///
    /// # Errors
    /// If one acted later: a breach. If one never acted, or nobody acts in that view.
    pub fn gave_way(&self, gone: &[usize], stay: &[usize], view: Order) -> Result<()> {
        let taken = stay.iter().filter_map(|node| self.first_from(*node, view)).min();
        let taken = taken.with_context(|| format!("nobody of {stay:?} acts in {view:?}: {:#?}", self.stretches))?;
        for node in gone {
            let last = self.last(*node).with_context(|| format!("node {node} never acted"))?;
            ensure(last < taken, || format!("node {node} acted until {last}, {view:?} was acted in from {taken}"))?;
        }
        Ok(())
    }
}

impl Sink {
    /// Says that a node may not act, which is known to have stopped, and returns why.
    ///
    /// # Errors
    /// If it may: a breach.
    pub fn stopped(&self, node: usize) -> Result<Refused> {
        match self.acting(node) {
            Err(why) => Ok(why),
            Ok(token) => Err(breach(format!("node {node} was to have stopped, and may act: {token:?}"))),
        }
    }
}

impl Crew {
    /// Says how a node stands that has no majority or is in no view, and so does not act.
    ///
    /// # Errors
    /// If it does: a breach. If it does not answer.
    pub fn stands_idle(&self, node: usize) -> Result<Stands> {
        let stands = self.stands(node)?;
        ensure(!stands.acting, || format!("node {} was not to act: {stands:?}", self.name(node)))?;
        Ok(stands)
    }
}

#[cfg(test)]
mod tests {
    use super::super::acts::Act;
    use super::*;
    use heartbeat_common::lease::Token;
    use std::process::Command;

    /// Asks the next test to fail.
    const ASKED: &str = "HEARTBEAT_TEST_BREACH";

    /// By itself it breaks nothing: see the next one.
    #[test]
    fn breaks_a_rule_where_that_is_asked_for() {
        let asked = std::env::var_os(ASKED).is_some();
        ensure(!asked, || "it was asked for\nby a test".to_owned()).context("in a context").unwrap();
    }

    #[test]
    fn a_breach_has_a_line_of_its_own_in_what_is_shown_of_a_captured_test() {
        for threads in ["--test-threads=1", "--test-threads=2"] {
            let mut test = Command::new(std::env::current_exe().unwrap());
            test.args(["--exact", "lab::safety::tests::breaks_a_rule_where_that_is_asked_for", threads]);
            let output = test.env(ASKED, "1").env_remove("RUST_TEST_NOCAPTURE").output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(!output.status.success() && said.contains("1 failed"), "{said}");
            let marked: Vec<&str> = said.lines().filter(|line| line.starts_with(MARK)).collect();
            assert_eq!(marked, ["SAFETY: it was asked for by a test"], "{said}");
        }
    }

    #[test]
    fn a_breach_says_all_that_led_to_it() {
        let error = anyhow!("two digests").context("node b");
        assert_eq!(breach(error).to_string(), "node b: two digests");
        ensure(true, || unreachable!("nothing is broken")).unwrap();
    }

    #[test]
    fn whoever_is_gone_acts_for_the_last_time_before_anybody_acts_without_it() {
        let act = |node, order| Act { node, token: Token { order, incarnation: 9 } };
        let mut acts = Acts::default();
        acts.take(act(2, 1), 1, 5);
        acts.take(act(0, 1), 1, 6);
        let gave_way = |acts: &Acts, gone: &[usize]| acts.gave_way(gone, &[0, 1], Order(2));
        assert!(gave_way(&acts, &[2]).is_err(), "nobody took over");
        acts.take(act(0, 2), 1, 7);
        gave_way(&acts, &[2]).unwrap();
        assert!(gave_way(&acts, &[2, 3]).is_err(), "one of them was never seen");
        acts.take(act(2, 1), 1, 7);
        assert!(gave_way(&acts, &[2]).is_err(), "at the same moment is too late");
    }
}
