//! The benchmark: a table of scenarios, each with what it measures, the bar it must meet and how long it may take.
//! It compares figures with bars; it never changes a bar to fit a figure.

use anyhow::{Result, bail};
use std::path::PathBuf;
use std::time::Duration;

/// What a scenario is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// True for a run that must be done in five minutes in all: fewer samples, the same bars.
    pub quick: bool,
    /// Where figures, raw data and plots go.
    pub out: PathBuf,
}

/// How a figure is held against its bar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// The figure is at most this.
    AtMost(f64),
    /// The figure is at least this.
    AtLeast(f64),
    /// Shown, without a bar.
    Shown,
}

impl Bar {
    /// True if `value` meets the bar. A figure that is no number meets none.
    #[must_use]
    pub fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(bar) => value <= bar,
            Self::AtLeast(bar) => value >= bar,
            Self::Shown => true,
        }
    }
}

/// One measured number.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// What was measured, stable over runs.
    pub name: String,
    /// The value, in `unit`.
    pub value: f64,
    /// Unit of value and bar, such as `ns`.
    pub unit: &'static str,
    /// What it must meet.
    pub bar: Bar,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name for `--only`.
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Longest a full run may take; a quick run is given a tenth.
    pub limit: Duration,
    /// Measures, and writes raw data below the context's directory.
    pub run: fn(&Context) -> Result<Vec<Figure>>,
}

/// Every scenario, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[];

/// Picks scenarios by name; all of them without one.
///
/// # Errors
/// Fails for a name that is in no row, with the names that are.
pub fn pick(only: Option<&str>) -> Result<Vec<Scenario>> {
    let Some(name) = only else { return Ok(SCENARIOS.to_vec()) };
    match SCENARIOS.iter().find(|scenario| scenario.name == name) {
        Some(scenario) => Ok(vec![*scenario]),
        None => {
            let names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
            bail!("no scenario is called {name}; there are: {}", names.join(", "))
        }
    }
}

/// Runs scenarios and prints their figures. Returns whether every bar was met.
///
/// # Errors
/// Fails when nothing is there to run, or a scenario cannot measure.
pub fn run(only: Option<&str>, context: &Context) -> Result<bool> {
    let scenarios = pick(only)?;
    if scenarios.is_empty() {
        bail!("this build has no scenarios");
    }
    let mut met = true;
    for scenario in scenarios {
        println!("{}: {}", scenario.name, scenario.summary);
        for figure in (scenario.run)(context)? {
            let good = figure.bar.met(figure.value);
            met &= good;
            let verdict = if good { "" } else { "  NOT MET" };
            println!("  {:<48} {:>14.3} {} {:?}{verdict}", figure.name, figure.value, figure.unit, figure.bar);
        }
    }
    Ok(met)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_no_number_meets_no_bar() {
        assert!(Bar::AtMost(2.0).met(2.0) && !Bar::AtMost(2.0).met(2.1));
        assert!(Bar::AtLeast(2.0).met(2.0) && !Bar::AtLeast(2.0).met(1.9));
        assert!(!Bar::AtMost(2.0).met(f64::NAN) && !Bar::AtLeast(2.0).met(f64::NAN));
    }

    #[test]
    fn an_unknown_scenario_is_named() {
        assert!(pick(Some("no-such")).unwrap_err().to_string().contains("no-such"));
    }
}
