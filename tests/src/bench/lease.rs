//! Leases of nodes whose userspace does not run: held without a gap while the peers ask, over in time once they are cut
//! off. Three ways to starve, in real time; what the nodes might do is read from their pages all the while, and that they
//! really starved from what their peers say of them.

use super::series::{DELAY_MS, LEASE_MS, Series, check_profile};
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::crew::Mark;
use crate::lab::field::{ALL, Field, VICTIMS};
use crate::lab::wait::wait_every;
use crate::lab::{monotonic_ns, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

/// Nodes that are never starved, and judge the others.
const JUDGES: [usize; 2] = [0, 1];
/// Names of the ways, in the order of the victims.
const WAYS: [&str; 3] = ["stopped", "quota", "FIFO hog"];
/// For so long at least a node is starved before it is cut off: two periods of the quota, in each of which it stands for
/// longer than the limit from which on it is called stalled.
const STARVED: Duration = Duration::from_millis(2000);
/// The last act may come this long before the end of a window: the sink looks more often.
const LAST_LOOK_NS: u64 = 100_000_000;

/// One victim's one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Window {
    way: usize,
    seconds: f64,
    /// Its peers called it stalled.
    starved: bool,
    /// It might act at each look, and none came after the end that the page had shown at the one before.
    held: bool,
}

/// One node that was cut off while it was starved.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cut {
    way: usize,
    /// Its peers called it stalled before it was cut off.
    starved: bool,
    /// From the end of the cutting to its last act, ms; below 0: it had stopped before.
    last_ms: f64,
    /// From the same to the end of its lease as its page showed it at the last act, or to that act if it came later.
    ended_ms: f64,
    /// It acted until it was cut off.
    held: bool,
}

/// Says whether peers that run called a node stalled since the mark, by `until`, CLOCK_MONOTONIC ns.
fn stalled(field: &Field, mark: &Mark, node: usize, until: u64) -> Result<bool> {
    let name = field.crew.name(node);
    let said = JUDGES.iter().map(|by| field.crew.said(mark, *by, "node_stalled")).collect::<Result<Vec<_>>>()?.concat();
    Ok(said.iter().any(|event| event["node"] == name && event["noticed_ns"].as_u64().is_some_and(|at| at <= until)))
}

/// Waits until the peers that run show every node up: whoever is stalled from before is not called so again.
fn recovered(field: &Field) -> Result<()> {
    for (by, about) in JUDGES.into_iter().flat_map(|by| VICTIMS.map(|about| (by, about))) {
        wait_every(Duration::from_millis(100), views::FORMING, "the starved ones to run again", || -> Result<()> {
            let peer = field.crew.peer(by, about)?;
            ensure!(peer["state"] == "up", "{peer}");
            Ok(())
        })?;
    }
    Ok(())
}

fn windows(count: usize, length: Duration) -> Result<Series<Window>> {
    let field = Field::new()?;
    check_profile(&field.crew)?;
    let mut all = Vec::new();
    for _ in 0..count {
        recovered(&field)?;
        let mark = field.crew.mark()?;
        let most = length + Duration::from_secs(10);
        let starved = VICTIMS.iter().map(|node| field.starve(*node, most)).collect::<Result<Vec<_>>>()?;
        let from = monotonic_ns();
        std::thread::sleep(length);
        let (to, acts) = (monotonic_ns(), field.sink.acts());
        for (node, starved) in VICTIMS.into_iter().zip(starved) {
            field.feed(node, starved)?;
        }
        for (way, node) in VICTIMS.into_iter().enumerate() {
            let one = acts.of(node).any(|one| one.first_ns < from && one.last_ns + LAST_LOOK_NS > to);
            let held = one && acts.breaks_of(node, from, to).next().is_none() && acts.unsure_of(node, from, to) == 0;
            let starved = stalled(&field, &mark, node, to)?;
            all.push(Window { way, seconds: (to - from) as f64 / 1e9, starved, held });
        }
        // What is owed to the rest: rounds that were missed.
        std::thread::sleep(Duration::from_secs(2));
    }
    Series::of(all, &field.crew, &field.sink)
}

fn cuts(count: usize) -> Result<Series<Cut>> {
    let mut field = Field::new()?;
    check_profile(&field.crew)?;
    let mut random = Random::new(crate::xdp::now());
    let mut all = Vec::new();
    for round in 0..count {
        let way = round % VICTIMS.len();
        let node = VICTIMS[way];
        let others: Vec<usize> = ALL.into_iter().filter(|other| *other != node).collect();
        recovered(&field)?;
        let mark = field.crew.mark()?;
        let fetters = field.starve(node, Duration::from_secs(60))?;
        std::thread::sleep(STARVED);
        views::pause_at_random(&mut random, Duration::from_millis(500));
        let cut = field.crew.lab.cut_all(node)?;
        std::thread::sleep(Duration::from_millis(1500));
        let acts = field.sink.acts();
        let (last, until) = acts.last(node).zip(acts.until(node)).context("it acted")?;
        let starved = stalled(&field, &mark, node, cut.before_ns)?;
        field.crew.await_view(&others)?;
        field.feed(node, fetters)?;
        let ms = |at: u64| (at as f64 - cut.after_ns as f64) / 1e6;
        let (last_ms, ended_ms) = (ms(last), ms(until.max(last)));
        all.push(Cut { way, starved, last_ms, ended_ms, held: last >= cut.before_ns });
        field.crew.lab.heal()?;
        field.start_again(node)?;
        field.crew.await_view(&ALL)?;
    }
    Series::of(all, &field.crew, &field.sink)
}

/// `lease-starved`.
pub fn run(context: &Context) -> Result<Found> {
    let (steps, each, length) = context.choose((1, 1, 4), (4, 25, 30));
    let length = Duration::from_secs(length);
    let held = (0..steps).map(|step| context.step(&format!("lease-held-{step}"), || windows(each, length)));
    let held = Series::join(held.collect::<Result<Vec<_>>>()?);
    // Of each way as many: a multiple of three in each step.
    let (cut_steps, cut_each) = context.choose((1, 3), (10, 30));
    let cut = (0..cut_steps).map(|step| context.step(&format!("lease-cut-{step}"), || cuts(cut_each)));
    let cut = Series::join(cut.collect::<Result<Vec<_>>>()?);
    let mut raw = String::from("way,seconds,starved,held\n");
    for Window { way, seconds, starved, held } in &held.all {
        writeln!(raw, "{},{seconds},{starved},{held}", WAYS[*way])?;
    }
    context.raw("lease-held.csv", &raw)?;
    let mut raw = String::from("way,starved,last_act_after_cut_ms,lease_ended_after_cut_ms,held\n");
    for Cut { way, starved, last_ms, ended_ms, held } in &cut.all {
        writeln!(raw, "{},{starved},{last_ms},{ended_ms},{held}", WAYS[*way])?;
    }
    context.raw("lease-cut.csv", &raw)?;
    let mut figures = Vec::new();
    for (way, name) in WAYS.iter().enumerate() {
        let windows: Vec<&Window> = held.all.iter().filter(|window| window.way == way).collect();
        let cuts: Vec<&Cut> = cut.all.iter().filter(|cut| cut.way == way).collect();
        figures.extend(of_windows(name, &windows, steps * each));
        figures.extend(of_cuts(name, &cuts, cut_steps * cut_each / WAYS.len()));
    }
    figures.extend(held.figures());
    let broken = cut.figures().into_iter().map(|figure| Figure { name: format!("cut off: {}", figure.name), ..figure });
    figures.extend(broken);
    let notes = vec![
        "five nodes, two of which are never starved; in each window three are, each in its way".to_owned(),
        "a node's page is read every half millisecond, by the same function that a service calls. A gap is a look at which \
         it might not act, and also a look that came after the end that the page had shown at the look before"
            .to_owned(),
        "the end of a lease is the one that the page showed at the last act: nothing renews it after the cut".to_owned(),
        "a starved node has been called stalled by a peer".to_owned(),
        "on veth pairs XDP runs on the sender's CPU, so a hog starves userspace alone here".to_owned(),
    ];
    Ok(Found { figures, notes })
}

fn count<T>(all: &[&T], fits: impl Fn(&T) -> bool) -> f64 {
    all.iter().filter(|one| fits(one)).count() as f64
}

fn of_windows(way: &str, all: &[&Window], wanted: usize) -> Vec<Figure> {
    vec![
        Figure::new(format!("{way}: windows"), all.len() as f64, "", Bar::AtLeast(wanted as f64)),
        Figure::new(format!("{way}: windows not starved"), count(all, |one| !one.starved), "", Bar::AtMost(0.0)),
        Figure::new(
            format!("{way}: windows with a gap in the lease"),
            count(all, |one| !one.held),
            "",
            Bar::AtMost(0.0),
        ),
    ]
}

fn of_cuts(way: &str, all: &[&Cut], wanted: usize) -> Vec<Figure> {
    let bar = LEASE_MS + DELAY_MS;
    let ends: Vec<f64> = all.iter().map(|one| one.ended_ms).collect();
    vec![
        Figure::new(format!("{way}: cut off"), all.len() as f64, "", Bar::AtLeast(wanted as f64)),
        Figure::new(format!("{way}: cut off, not starved"), count(all, |one| !one.starved), "", Bar::AtMost(0.0)),
        Figure::new(format!("{way}: cut off without a lease"), count(all, |one| !one.held), "", Bar::AtMost(0.0)),
        Figure::new(
            format!("{way}: cut off, lease beyond lease + 1 delay"),
            count(all, |one| one.ended_ms > bar),
            "",
            Bar::AtMost(0.0),
        ),
        Figure::new(format!("{way}: end of the lease after the cut, most"), stats::most(&ends), "ms", Bar::AtMost(bar)),
        Figure::new(format!("{way}: end of the lease after the cut, least"), stats::least(&ends), "ms", Bar::Shown),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_and_cuts_of_nodes_that_ran_or_had_no_lease_meet_no_bar() {
        let met = |figures: Vec<Figure>| figures.iter().all(Figure::met);
        let window = |starved, held| Window { way: 0, seconds: 30.0, starved, held };
        assert!(met(of_windows("", &[&window(true, true)], 1)) && !met(of_windows("", &[&window(true, true)], 2)));
        assert!(!met(of_windows("", &[&window(false, true)], 1)) && !met(of_windows("", &[&window(true, false)], 1)));
        let cut = |starved, held, ended_ms| Cut { way: 0, starved, last_ms: 1.0, ended_ms, held };
        assert!(met(of_cuts("", &[&cut(true, true, 599.0)], 1)) && !met(of_cuts("", &[], 0)));
        for bad in [cut(false, true, 500.0), cut(true, false, 500.0), cut(true, true, 601.0)] {
            assert!(!met(of_cuts("", &[&bad], 1)), "{bad:?}");
        }
    }
}
