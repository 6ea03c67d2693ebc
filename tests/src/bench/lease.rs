//! Leases of nodes whose userspace does not run: held without a gap while the peers ask, over in time once they are cut
//! off. Three ways to starve, in real time; what the nodes might do is read from their pages all the while.

use super::views::Series;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::field::{ALL, Field, VICTIMS};
use crate::lab::{monotonic_ns, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

/// Lease and delay of the profile, ms.
const LEASE_MS: f64 = 500.0;
const DELAY_MS: f64 = 100.0;
/// Names of the ways, in the order of the victims.
const WAYS: [&str; 3] = ["stopped", "quota", "FIFO hog"];

/// One victim's one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Window {
    way: usize,
    seconds: f64,
    /// It might act at each look.
    held: bool,
    /// Looks at it, in which it might.
    looks_gap_ms: f64,
}

/// One node that was cut off while it was starved.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cut {
    way: usize,
    /// From the end of the cutting to its last act, ms; below 0: it had stopped before.
    last_ms: f64,
    /// It acted until it was cut off.
    held: bool,
}

fn windows(count: usize, length: Duration) -> Result<Series<Window>> {
    let field = Field::new()?;
    let mut all = Vec::new();
    for _ in 0..count {
        let most = length + Duration::from_secs(10);
        let starved = VICTIMS.iter().map(|node| field.starve(*node, most)).collect::<Result<Vec<_>>>()?;
        let from = monotonic_ns();
        std::thread::sleep(length);
        let (to, acts) = (monotonic_ns(), field.sink.acts());
        for (node, starved) in VICTIMS.into_iter().zip(starved) {
            field.feed(node, starved)?;
        }
        for (way, node) in VICTIMS.into_iter().enumerate() {
            let one = acts.of(node).find(|one| one.first_ns < from && one.last_ns + 100_000_000 > to);
            let held = one.is_some() && acts.breaks_of(node, from, to).next().is_none();
            let seconds = (to - from) as f64 / 1e9;
            all.push(Window { way, seconds, held, looks_gap_ms: acts.longest_gap_ns as f64 / 1e6 });
        }
        // What is owed to the rest: rounds that were missed.
        std::thread::sleep(Duration::from_secs(2));
    }
    Series::of(all, &field.crew, &field.sink)
}

fn cuts(count: usize) -> Result<Series<Cut>> {
    let mut field = Field::new()?;
    let mut random = Random::new(crate::xdp::now());
    let mut all = Vec::new();
    for round in 0..count {
        let way = round % VICTIMS.len();
        let node = VICTIMS[way];
        let others: Vec<usize> = ALL.into_iter().filter(|other| *other != node).collect();
        let starved = field.starve(node, Duration::from_secs(60))?;
        std::thread::sleep(Duration::from_millis(500));
        views::pause_at_random(&mut random, Duration::from_millis(500));
        let cut = field.crew.lab.cut_all(node)?;
        std::thread::sleep(Duration::from_millis(1500));
        let last = field.sink.acts().last(node).context("it acted")?;
        field.crew.await_view(&others)?;
        field.feed(node, starved)?;
        all.push(Cut { way, last_ms: (last as f64 - cut.after_ns as f64) / 1e6, held: last >= cut.before_ns });
        field.crew.lab.heal()?;
        field.start_again(node)?;
        field.crew.await_view(&ALL)?;
    }
    Series::of(all, &field.crew, &field.sink)
}

/// `lease-starved`.
pub fn run(context: &Context) -> Result<Found> {
    let (steps, each, length) = context.choose((1, 1, 5), (4, 25, 30));
    let length = Duration::from_secs(length);
    let held = (0..steps).map(|step| context.step(&format!("lease-held-{step}"), || windows(each, length)));
    let held = Series::join(held.collect::<Result<Vec<_>>>()?);
    let (steps, each) = context.choose((1, 3), (3, 34));
    let cut = (0..steps).map(|step| context.step(&format!("lease-cut-{step}"), || cuts(each)));
    let cut = Series::join(cut.collect::<Result<Vec<_>>>()?);
    let mut raw = String::from("way,seconds,held\n");
    for Window { way, seconds, held, .. } in &held.all {
        writeln!(raw, "{},{seconds},{held}", WAYS[*way])?;
    }
    context.raw("lease-held.csv", &raw)?;
    let mut raw = String::from("way,last_act_after_cut_ms,held\n");
    for Cut { way, last_ms, held } in &cut.all {
        writeln!(raw, "{},{last_ms},{held}", WAYS[*way])?;
    }
    context.raw("lease-cut.csv", &raw)?;
    let mut figures = Vec::new();
    let least = |count: f64| context.choose(Bar::Shown, Bar::AtLeast(count));
    for (way, name) in WAYS.iter().enumerate() {
        let of_way: Vec<&Window> = held.all.iter().filter(|window| window.way == way).collect();
        let lost = of_way.iter().filter(|window| !window.held).count();
        figures.push(Figure::new(format!("windows, {name}"), of_way.len() as f64, "", least(100.0)));
        figures.push(Figure::new(
            format!("of them with a gap in the lease, {name}"),
            lost as f64,
            "",
            Bar::AtMost(0.0),
        ));
    }
    let late = cut.all.iter().filter(|one| one.last_ms > LEASE_MS + DELAY_MS).count();
    let before = cut.all.iter().filter(|one| !one.held).count();
    let times: Vec<f64> = cut.all.iter().map(|one| one.last_ms).collect();
    figures.extend([
        Figure::new("nodes cut off while starved", cut.all.len() as f64, "", least(100.0)),
        Figure::new("of them acting beyond lease + 1 delay", late as f64, "", Bar::AtMost(0.0)),
        Figure::new("of them without a lease before the cut", before as f64, "", Bar::AtMost(0.0)),
        Figure::new("last act after the cut, most", stats::most(&times), "ms", Bar::AtMost(LEASE_MS + DELAY_MS)),
        Figure::new("last act after the cut, least", stats::least(&times), "ms", Bar::Shown),
    ]);
    figures.extend(held.figures());
    let broken = cut.figures().into_iter().map(|figure| Figure { name: format!("cut off: {}", figure.name), ..figure });
    figures.extend(broken);
    let notes = vec![
        "five nodes, two of which are never starved; in each window three are, each in its way".to_owned(),
        "a node's page is read every half millisecond, by the same function that a service calls".to_owned(),
        "on veth pairs XDP runs on the sender's CPU, so a hog starves userspace alone here".to_owned(),
    ];
    Ok(Found { figures, notes })
}
