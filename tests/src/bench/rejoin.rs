//! A machine that starts anew and joins again: how long it takes until it may act, and what that costs those that stayed.
//! What they lose is read from their own counters.

use super::death::side_by_side;
use super::views::{Series, moment, states};
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::play::number;
use crate::lab::{Crew, Sink, awake, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

const LABS: usize = 2;
/// Two regroups of twice a delay and 200 ms each, and two delays.
const BAR_MS: f64 = 2.0 * (2.0 * 100.0 + 200.0) + 2.0 * 100.0;

/// One return.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Return {
    /// It was back before it was called down.
    quick: bool,
    /// From its start until it may act, ms.
    member_ms: f64,
    /// Views that were decided from its start until then.
    views: u64,
    /// Probes between those that stayed that were not answered.
    lost: u64,
    /// Starts, and events of paths, among those that stayed.
    events: usize,
}

/// Sums of (probes seen leaving, answers) between two nodes, both ways.
fn between(crew: &Crew, nodes: [usize; 2]) -> Result<(u64, u64)> {
    let mut sum = (0, 0);
    for (by, about) in [(nodes[0], nodes[1]), (nodes[1], nodes[0])] {
        let answer = crew.daemon(by).ask("paths")?;
        let rows = answer["paths"].as_array().context("`paths` in the answer")?;
        for row in rows.iter().filter(|row| row["peer_node"] == crew.name(about)) {
            sum = (sum.0 + number(row, "departed")?, sum.1 + number(row, "echoes")?);
        }
    }
    Ok(sum)
}

/// Probes that may be on their way at either reading: one on each of four paths.
const UNDER_WAY: u64 = 4;

fn reboot(crew: &mut Crew, sink: &Sink, quick: bool, random: &mut Random) -> Result<Return> {
    let node = random.below(3) as usize;
    let rest = [(node + 1) % 3, (node + 2) % 3];
    views::pause_at_random(random, Duration::from_millis(300));
    let before = between(crew, rest)?;
    let mark = crew.mark()?;
    crew.machine_dies(node, sink)?;
    if !quick {
        let mut sorted = rest;
        sorted.sort_unstable();
        crew.await_view(&sorted)?;
    }
    crew.lab.heal()?;
    let held = crew.stands(rest[0])?.view;
    crew.start_at_once(node)?;
    // Asking would take the processors from the daemons that are measured.
    std::thread::sleep(Duration::from_millis(1500));
    let view = crew.await_view(&[0, 1, 2])?;
    let started = crew.said(&mark, node, "started")?;
    let started = started.last().and_then(|event| event["noticed_ns"].as_u64()).context("its start")?;
    let in_force = moment(crew, &mark, node, "view_in_force", view)?;
    let gained = crew.said(&mark, node, "lease_gained")?;
    let gained = gained.last().and_then(|event| event["noticed_ns"].as_u64()).context("its lease")?;
    let after = between(crew, rest)?;
    ensure!(after.0 > before.0, "the others ask each other");
    let lost = (after.0 - before.0).saturating_sub(after.1 - before.1 + UNDER_WAY);
    let mut events = 0;
    for by in rest {
        let other = crew.name(if by == rest[0] { rest[1] } else { rest[0] });
        let said = crew.since(&mark, by)?;
        let bad = said.iter().filter(|event| {
            let name = event["event"].as_str().unwrap_or_default();
            name == "started" || name.starts_with("path_") && event["node"] == other
        });
        events += bad.count();
    }
    let member_ms = (in_force.max(gained) as f64 - started as f64) / 1e6;
    Ok(Return { quick, member_ms, views: view.number() - held.number(), lost, events })
}

fn series(index: usize, count: usize) -> Result<Series<Return>> {
    let states = states()?;
    let (mut crew, sink) = Crew::formed_on(3, states.path())?;
    let mut random = Random::new(crate::xdp::now() ^ index as u64);
    let all = (0..count).map(|round| reboot(&mut crew, &sink, round % 2 == 0, &mut random));
    let all = all.collect::<Result<Vec<_>>>()?;
    Series::of(all, &crew, &sink)
}

/// `rejoin`: a reboot until the node is a member again.
pub fn run(context: &Context) -> Result<Found> {
    let (steps, each) = context.choose((1, 3), (2, 50));
    let measure = |step| {
        let all = context.step(&format!("rejoin-{step}"), || side_by_side(LABS, |index| series(index, each)));
        all.map(Series::join)
    };
    let series = Series::join((0..steps).map(measure).collect::<Result<Vec<_>>>()?);
    let mut raw = String::from("quick,member_ms,views,lost,events\n");
    for Return { quick, member_ms, views, lost, events } in &series.all {
        writeln!(raw, "{quick},{member_ms},{views},{lost},{events}")?;
    }
    context.raw("rejoin.csv", &raw)?;
    let times: Vec<f64> = series.all.iter().map(|one| one.member_ms).collect();
    let sum = |value: fn(&Return) -> f64| series.all.iter().map(value).sum::<f64>();
    let most = |value: fn(&Return) -> f64| stats::most(&series.all.iter().map(value).collect::<Vec<_>>());
    let mut figures = vec![
        Figure::new("returns", times.len() as f64, "", Bar::Shown),
        Figure::new("of them quicker than a verdict", sum(|one| f64::from(u8::from(one.quick))), "", Bar::Shown),
        Figure::new("start to member that acts, most", stats::most(&times), "ms", Bar::AtMost(BAR_MS)),
        Figure::new("start to member that acts, median", stats::median(&times), "ms", Bar::Shown),
        Figure::new("regroups from its start, most", most(|one| one.views as f64), "", Bar::AtMost(2.0)),
        Figure::new("heartbeats lost among those that stayed", sum(|one| one.lost as f64), "", Bar::AtMost(0.0)),
        Figure::new("their starts and path events", sum(|one| one.events as f64), "", Bar::AtMost(0.0)),
    ];
    figures.extend(series.figures());
    let notes = vec![
        "a machine ends with its process, its programs and its pages; only its disk stays. By turns it is back before it \
         is called down, and after the others have a view without it"
            .to_owned(),
        format!("the bar is two regroups of 2 delays + 200 ms each, and 2 delays: {BAR_MS} ms"),
        awake::NOTE.to_owned(),
    ];
    Ok(Found { figures, notes })
}
