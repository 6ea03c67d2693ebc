//! An observer that stands still while a peer dies: when it runs again it must date the death by its kernel's stamps
//! and accuse nobody else. It stops the observer alone; the deaths are cuts in the switch.

use super::death::{PATIENCE, side_by_side, wait_event, wait_up};
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::{Cluster, Daemon, Lab, Options, Spec};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

const LABS: usize = 2;
const STOPPED: Duration = Duration::from_secs(5);
const DELAY_MS: f64 = 100.0;

/// One death behind the observer's back.
#[derive(Debug, Serialize, Deserialize)]
struct Behind {
    /// By how much the recorded time is off the span of the cut, ms.
    off_ms: f64,
    /// From running again to the verdict, ms.
    verdict_ms: f64,
    /// Live peers accused.
    accused: usize,
}

fn die(index: usize, count: usize) -> Result<Vec<Behind>> {
    let lab = Lab::new(Spec::new(3, 2))?;
    let cluster = Cluster::new(&lab, "lan");
    let daemons: Vec<Daemon> =
        (0..3).map(|node| Daemon::start(&lab, node, &cluster, &Options::default())).collect::<Result<_>>()?;
    let (observer, dying) = (&daemons[0], daemons[1].name());
    let mut random = Random::new(crate::xdp::now() ^ index as u64);
    let mut all = Vec::new();
    let mut log = observer.follow()?;
    for _ in 0..count {
        wait_up(observer)?;
        let before = Duration::from_millis(1000 + random.below(2000));
        observer.stop()?;
        std::thread::sleep(before);
        let span = lab.cut_all(1)?;
        std::thread::sleep(STOPPED.saturating_sub(before));
        let resumed = crate::lab::monotonic_ns();
        observer.resume()?;
        let mut events = log.wait(PATIENCE, "node_down")?;
        // Long enough for a false accusation that is only late to show.
        std::thread::sleep(Duration::from_secs(1));
        events.extend(log.read()?);
        let downs: Vec<_> = events.iter().filter(|event| event["event"] == "node_down").collect();
        let accused = downs.iter().filter(|event| event["node"] != dying).count();
        let down = downs.first().context("it was waited for")?;
        let at = |key: &str| down[key].as_u64().with_context(|| format!("no {key} in {down}"));
        let recorded = at("silent_since_ns")?;
        let off = span.before_ns.saturating_sub(recorded).max(recorded.saturating_sub(span.after_ns));
        let verdict_ms = at("noticed_ns")?.saturating_sub(resumed) as f64 / 1e6;
        all.push(Behind { off_ms: off as f64 / 1e6, verdict_ms, accused });
        lab.heal()?;
        wait_event(&mut log, "node_up")?;
    }
    Ok(all)
}

pub fn run(context: &Context) -> Result<Found> {
    let each = context.choose(1, 25);
    let all: Vec<Behind> = context
        .step("observer-stopped", || side_by_side(LABS, |index| die(index, each)))?
        .into_iter()
        .flatten()
        .collect();
    let mut raw = String::from("off_ms,verdict_ms,accused\n");
    for Behind { off_ms, verdict_ms, accused } in &all {
        writeln!(raw, "{off_ms},{verdict_ms},{accused}")?;
    }
    context.raw("observer-stopped.csv", &raw)?;
    let of = |value: fn(&Behind) -> f64| all.iter().map(value).collect::<Vec<f64>>();
    let figures = vec![
        Figure::new(
            "recorded time of death, most off",
            stats::most(&of(|one| one.off_ms)),
            "ms",
            Bar::AtMost(DELAY_MS),
        ),
        Figure::new("live peers accused", of(|one| one.accused as f64).iter().sum(), "", Bar::AtMost(0.0)),
        Figure::new("deaths", all.len() as f64, "", Bar::Shown),
        Figure::new("verdict after running again, most", stats::most(&of(|one| one.verdict_ms)), "ms", Bar::Shown),
    ];
    Ok(Found { figures, notes: Vec::new() })
}
