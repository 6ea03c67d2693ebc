//! The benchmark: a table of scenarios, each with what it measures and the bars it must meet. It compares figures with
//! bars; it never changes a bar to fit a figure.

mod death;
mod fastest;
mod fence;
mod handover;
mod lease;
mod leave;
mod observer;
mod overlap;
mod paths;
mod prober;
mod rejoin;
mod report;
mod round_trip;
mod series;
mod simulator;
mod starvation;
mod stats;
mod svg;
mod views;
mod withheld;
mod xdp_cost;

pub use starvation::{Counted, Field, Pair, Plan, starve};

use anyhow::{Context as _, Result, bail, ensure};
use report::Record;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use withheld::Withheld;

/// What a scenario is given.
#[derive(Clone, Debug)]
pub struct Context {
    /// True for a run of minutes: fewer samples, the same bars.
    pub quick: bool,
    /// Where figures, raw data and plots go.
    pub out: PathBuf,
    /// Measure again what has been measured before.
    pub again: bool,
}

impl Context {
    /// One of two values, by whether the run is quick.
    #[must_use]
    pub fn choose<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    fn size(&self) -> &'static str {
        self.choose("quick", "full")
    }

    /// Measures one step, or takes what an earlier run of the same size wrote of it. No step is longer than 30 minutes,
    /// so that little is lost where a run is broken off.
    ///
    /// # Errors
    /// Fails as `measure`, or when its result cannot be kept.
    pub fn step<T: Serialize + DeserializeOwned>(&self, name: &str, measure: impl FnOnce() -> Result<T>) -> Result<T> {
        let path = self.file(&format!("{name}.step.json"));
        if !self.again
            && let Ok(text) = fs::read(&path)
            && let Ok(kept) = serde_json::from_slice(&text)
        {
            println!("  {name}: measured before");
            return Ok(kept);
        }
        let (begun, withheld) = (Instant::now(), Withheld::now());
        let result = measure().with_context(|| format!("step {name}"))?;
        let (seconds, withheld) = (begun.elapsed().as_secs_f64(), withheld.percent_since());
        println!("  {name}: {seconds:.1} s, {withheld:.1} % of the processors' time withheld by the hypervisor");
        put(&path, &serde_json::to_vec(&result)?)?;
        Ok(result)
    }

    /// A file of this run's size in the output directory.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.out.join(self.size()).join(name)
    }

    /// Writes raw data.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub fn raw(&self, name: &str, text: &str) -> Result<()> {
        put(&self.file(name), text.as_bytes())
    }

    /// Draws lines into a file.
    ///
    /// # Errors
    /// Fails when the file cannot be written.
    pub(crate) fn plot(&self, name: &str, plot: &svg::Plot) -> Result<()> {
        put(&self.file(name), plot.render().as_bytes())
    }
}

/// Writes a file whole or not at all.
fn put(path: &Path, bytes: &[u8]) -> Result<()> {
    let new = path.with_extension("new");
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| fs::write(&new, bytes));
    written.and_then(|()| fs::rename(&new, path)).with_context(|| format!("writing {}", path.display()))
}

/// How a figure is held against its bar.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured, stable over runs.
    pub name: String,
    /// The value, in `unit`; `None`: it could not be had, which meets no bar.
    pub value: Option<f64>,
    /// Unit of value and bar, such as `ns`.
    pub unit: String,
    /// What it must meet.
    pub bar: Bar,
}

impl Figure {
    /// A figure; infinite and undefined values count as not had.
    pub fn new(name: impl Into<String>, value: f64, unit: &str, bar: Bar) -> Self {
        let value = value.is_finite().then_some(value);
        Self { name: name.into(), value, unit: unit.to_owned(), bar }
    }

    /// True if it meets its bar.
    #[must_use]
    pub fn met(&self) -> bool {
        self.bar.met(self.value.unwrap_or(f64::NAN))
    }
}

/// What a scenario found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Found {
    /// Its figures.
    pub figures: Vec<Figure>,
    /// What a reader of the figures must know.
    pub notes: Vec<String>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Name for `--only`.
    pub name: &'static str,
    /// One line for people.
    pub summary: &'static str,
    /// Measures, and writes raw data below the context's directory.
    pub run: fn(&Context) -> Result<Found>,
}

/// Every scenario, in the order in which they run.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "xdp-cost", summary: "what the packet path costs above a bare XDP_TX", run: xdp_cost::run },
    Scenario { name: "round-trip", summary: "round trips, idle and starved by turns", run: round_trip::run },
    Scenario { name: "starvation", summary: "starved victims are never called down", run: starvation::run },
    Scenario { name: "death", summary: "a dead machine is noticed in time (lan)", run: death::run },
    Scenario { name: "handover", summary: "a restart by handover loses no answer", run: handover::run },
    Scenario { name: "observer-stopped", summary: "a stopped observer dates a death aright", run: observer::run },
    Scenario { name: "fastest-profile", summary: "shortest delay that holds on loaded cores", run: fastest::run },
    Scenario { name: "view-death", summary: "a dead machine is out of the view in time (lan)", run: views::view_death },
    Scenario {
        name: "view-verdict",
        summary: "from the last verdict to the view, five nodes",
        run: views::view_verdict,
    },
    Scenario {
        name: "take-over",
        summary: "a dead machine's work may be taken over in time (lan)",
        run: views::take_over,
    },
    Scenario { name: "rejoin", summary: "a reboot until the node is a member again", run: rejoin::run },
    Scenario { name: "fence", summary: "a stopped node's kernel obeys a fence", run: fence::run },
    Scenario { name: "leave", summary: "a node that leaves is known to do so by all", run: leave::run },
    Scenario {
        name: "lease-starved",
        summary: "a starved node keeps its lease, and loses it when cut off",
        run: lease::run,
    },
    Scenario { name: "simulator", summary: "how fast the simulator goes for five nodes", run: simulator::run },
    Scenario { name: overlap::NAME, summary: "acts beside a view that left them out, in all", run: overlap::run },
    Scenario { name: "paths-128", summary: "CPU and memory of 128 paths at 10 ms", run: paths::run },
];

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

/// Runs scenarios, prints their figures and writes the summary. What an earlier run of the same size finished is not
/// measured again, unless that is asked for. Returns whether every bar was met.
///
/// # Errors
/// Fails without root, or when results cannot be written. A scenario that cannot measure is a bar not met; the others
/// still run.
pub fn run(only: Option<&str>, context: &Context) -> Result<bool> {
    ensure!(nix::unistd::geteuid().is_root(), "the benchmark needs root, for network namespaces and kernel programs");
    let begun = Instant::now();
    let mut failed = Vec::new();
    for scenario in pick(only)? {
        let path = context.file(&format!("{}.json", scenario.name));
        println!("{}: {}", scenario.name, scenario.summary);
        // What only adds up is made anew: a part of it may be new.
        if !context.again && path.exists() && scenario.name != overlap::NAME {
            println!("  measured before; --again measures anew");
            continue;
        }
        let (at, withheld) = (Instant::now(), Withheld::now());
        match (scenario.run)(context) {
            Ok(mut found) => {
                let percent = withheld.percent_since();
                found.figures.push(Figure::new(WITHHELD, percent, "%", Bar::Shown));
                let record = Record::new(scenario.name, context, found, at.elapsed());
                record.print();
                put(&path, &serde_json::to_vec_pretty(&record)?)?;
            }
            Err(error) => {
                println!("  NOT MEASURED: {error:#}");
                failed.push(scenario.name);
            }
        }
        pause();
    }
    let met = report::summarise(context, &failed)?;
    println!("{:.0} s in all; summary: {}", begun.elapsed().as_secs_f64(), context.file("summary.md").display());
    Ok(met && failed.is_empty())
}

/// What no figure of ours can be blamed for.
const WITHHELD: &str = "processor time withheld by the hypervisor, in this run's part of it";

/// Lets the machine come to rest between scenarios.
fn pause() {
    std::thread::sleep(Duration::from_millis(300));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_that_is_no_number_meets_no_bar() {
        assert!(Bar::AtMost(2.0).met(2.0) && !Bar::AtMost(2.0).met(2.1));
        assert!(Bar::AtLeast(2.0).met(2.0) && !Bar::AtLeast(2.0).met(1.9));
        assert!(!Figure::new("x", f64::NAN, "ns", Bar::AtMost(2.0)).met());
        assert!(!Figure::new("x", f64::INFINITY, "ns", Bar::AtLeast(2.0)).met());
    }

    #[test]
    fn an_unknown_scenario_is_named() {
        assert!(pick(Some("no-such")).unwrap_err().to_string().contains("no-such"));
    }

    #[test]
    fn a_finished_step_is_not_measured_again() {
        let out = tempfile::tempdir().unwrap();
        let mut context = Context { quick: true, out: out.path().to_owned(), again: false };
        assert_eq!(context.step("one", || Ok(1)).unwrap(), 1);
        assert_eq!(context.step("one", || Ok(2)).unwrap(), 1);
        assert!(context.step("two", || -> Result<u32> { bail!("broken") }).is_err());
        assert_eq!(context.step("two", || Ok(3)).unwrap(), 3, "a step that failed is measured");
        context.again = true;
        assert_eq!(context.step("one", || Ok(4)).unwrap(), 4);
        context = Context { quick: false, again: false, ..context };
        assert_eq!(context.step("one", || Ok(5)).unwrap(), 5, "a quick run's result stands for no full one");
    }
}
