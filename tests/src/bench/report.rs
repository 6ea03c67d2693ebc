//! Results as files, as a table on the screen, and as Markdown. It says of each figure whether its bar is met, and
//! leaves none out.

use super::{Bar, Context, Figure, Found, SCENARIOS, put};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::fs;
use std::time::Duration;

/// A scenario's result, as kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Layout of this file.
    schema: u32,
    scenario: String,
    quick: bool,
    command: String,
    seconds: f64,
    machine: String,
    #[serde(flatten)]
    found: Found,
}

impl Record {
    /// Puts together what is kept of a scenario.
    pub fn new(scenario: &str, context: &Context, found: Found, took: Duration) -> Self {
        let quick = context.choose(" --quick", "");
        Self {
            schema: 1,
            scenario: scenario.to_owned(),
            quick: context.quick,
            command: format!("cargo xtask bench{quick} --only {scenario}"),
            seconds: took.as_secs_f64(),
            machine: machine(),
            found,
        }
    }

    /// Prints figures and notes.
    pub fn print(&self) {
        for figure in &self.found.figures {
            println!(
                "  {:<58} {:>12} {:<4} {:<12} {}",
                figure.name,
                shown(figure),
                figure.unit,
                bar(figure),
                met(figure)
            );
        }
        self.found.notes.iter().for_each(|note| println!("  note: {note}"));
    }
}

fn shown(figure: &Figure) -> String {
    let Some(value) = figure.value else { return "none".to_owned() };
    let digits = if value.fract() == 0.0 { 0 } else { 2 };
    format!("{value:.digits$}")
}

fn bar(figure: &Figure) -> String {
    match figure.bar {
        Bar::AtMost(bar) => format!("at most {bar}"),
        Bar::AtLeast(bar) => format!("at least {bar}"),
        Bar::Shown => "-".to_owned(),
    }
}

fn met(figure: &Figure) -> &'static str {
    match (figure.bar, figure.met()) {
        (Bar::Shown, _) => "",
        (_, true) => "met",
        (_, false) => "NOT MET",
    }
}

fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, usize::from);
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1).map(str::to_owned));
    let load: String = read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" ");
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{cpus} CPUs, {}, Linux {}, load {load}", model.unwrap_or_default(), kernel.trim())
}

/// Returns the figures of a row that an earlier run of this size has measured.
pub fn figures_of(context: &Context, scenario: &str) -> Result<Vec<Figure>> {
    let path = context.file(&format!("{scenario}.json"));
    let kept = fs::read(&path).with_context(|| format!("{scenario} is not measured yet"))?;
    let record: Record = serde_json::from_slice(&kept).with_context(|| format!("reading {}", path.display()))?;
    Ok(record.found.figures)
}

/// Writes the summary of all that is there of a run's size, and prints which bars are not met. Returns whether all are.
pub fn summarise(context: &Context, failed: &[&str]) -> Result<bool> {
    let mut text = String::from("| what | measured | bar | met | command |\n|---|---|---|---|---|\n");
    let mut notes = String::new();
    let mut missed = Vec::new();
    for scenario in SCENARIOS {
        let path = context.file(&format!("{}.json", scenario.name));
        let Ok(kept) = fs::read(&path) else { continue };
        let record: Record = serde_json::from_slice(&kept).with_context(|| format!("reading {}", path.display()))?;
        for figure in &record.found.figures {
            let met = met(figure);
            let measured = format!("{} {}", shown(figure), figure.unit);
            let (name, bar) = (&figure.name, bar(figure));
            writeln!(text, "| {}: {name} | {measured} | {bar} | {met} | `{}` |", scenario.name, record.command)?;
            if !figure.met() {
                missed.push(format!("{}: {name}: {measured}, bar {bar}", scenario.name));
            }
        }
        for note in &record.found.notes {
            writeln!(notes, "- {}: {note}", scenario.name)?;
        }
        writeln!(notes, "- {}: {:.0} s on {}", scenario.name, record.seconds, record.machine)?;
    }
    for name in failed {
        writeln!(text, "| {name} | not measured | | NOT MET | |")?;
    }
    put(&context.file("summary.md"), format!("{text}\n{notes}").as_bytes())?;
    missed.iter().for_each(|line| println!("NOT MET  {line}"));
    Ok(missed.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_names_what_is_not_met() {
        let out = tempfile::tempdir().unwrap();
        let context = Context { quick: true, out: out.path().to_owned(), again: false };
        let figures = vec![
            Figure::new("good", 1.0, "ns", Bar::AtMost(2.0)),
            Figure::new("bad", 3.25, "ns", Bar::AtMost(2.0)),
            Figure::new("lost", f64::NAN, "ns", Bar::Shown),
        ];
        let found = Found { figures, notes: vec!["a word".to_owned()] };
        let record = Record::new("xdp-cost", &context, found, Duration::from_secs(1));
        put(&context.file("xdp-cost.json"), &serde_json::to_vec(&record).unwrap()).unwrap();
        assert!(!summarise(&context, &["death"]).unwrap());
        let text = fs::read_to_string(context.file("summary.md")).unwrap();
        for line in ["good | 1 ns | at most 2 | met", "bad | 3.25 ns | at most 2 | NOT MET", "lost | none ns", "a word"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(text.contains("| death | not measured"));
    }
}
