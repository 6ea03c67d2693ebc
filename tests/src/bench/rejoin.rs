//! A machine that starts anew and joins again: how long it takes until it may act, and what that costs those that stayed.
//! What they lose is read from their own counters.

use super::death::side_by_side;
use super::series::{DELAY_MS, Series, check_profile};
use super::views::{moment, states};
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::crew::event_name;
use crate::lab::{Crew, Probes, Sink, awake, monotonic_ns, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

const LABS: usize = 2;
/// Two regroups of twice a delay and 200 ms each, and two delays.
const BAR_MS: f64 = 2.0 * (2.0 * DELAY_MS + 200.0) + 2.0 * DELAY_MS;

/// One return.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Return {
    /// It was back before anybody called it down.
    quick: bool,
    /// From its event that it has started, which comes before its first frame, until it may act, ms.
    member_ms: f64,
    /// From the start of its process to the same, ms.
    launched_ms: f64,
    /// Views that were decided from its start until then.
    views: u64,
    /// Probes between those that stayed that were not answered in their time.
    lost: u64,
    /// What those that stayed said of themselves and of each other that is no good news, and their starts.
    events: usize,
}

/// Counts what a node that stayed said that it ought not: that it started, lost its quorum or heard nobody, and verdicts on
/// the other one that stayed or on the paths to it.
fn bad_news(said: &[Value], other: &str) -> usize {
    let verdicts = ["node_down", "node_hung", "node_left", "node_restarted", "node_removed"];
    let bad = |event: &&Value| match event_name(event) {
        "started" | "quorum_lost" | "isolated" => true,
        name if name.starts_with("path_") || verdicts.contains(&name) => event["node"] == other,
        _ => false,
    };
    said.iter().filter(bad).count()
}

fn reboot(crew: &mut Crew, sink: &Sink, quick: bool, random: &mut Random) -> Result<Return> {
    let node = random.below(3) as usize;
    let rest = [(node + 1) % 3, (node + 2) % 3];
    views::pause_at_random(random, Duration::from_millis(300));
    let probes = Probes::between(crew, rest)?;
    let mark = crew.mark()?;
    crew.machine_dies(node, sink)?;
    if !quick {
        let mut sorted = rest;
        sorted.sort_unstable();
        crew.await_view(&sorted)?;
    }
    crew.lab.heal()?;
    let held = crew.stands(rest[0])?.view;
    let launched = monotonic_ns();
    crew.start_at_once(node)?;
    // Asking would take the processors from the daemons that are measured.
    std::thread::sleep(Duration::from_millis(1500));
    let view = crew.await_view(&[0, 1, 2])?;
    let own: Vec<Value> =
        crew.since(&mark, node)?.into_iter().filter(|event| event["noticed_ns"].as_u64() >= Some(launched)).collect();
    let moments = |name: &str| -> Vec<u64> {
        own.iter().filter(|event| event_name(event) == name).filter_map(|event| event["noticed_ns"].as_u64()).collect()
    };
    let started = moments("started");
    ensure!(started.len() == 1, "it starts once: {started:?}");
    let gained = moments("lease_gained").last().copied().context("its lease")?;
    let acts = moment(&own, "view_in_force", view)?.max(gained);
    let lost = probes.lost(crew)?;
    let (mut events, mut down) = (0, false);
    for by in rest {
        let other = crew.name(if by == rest[0] { rest[1] } else { rest[0] });
        let said = crew.since(&mark, by)?;
        events += bad_news(&said, other);
        down |= said.iter().any(|event| event_name(event) == "node_down" && event["node"] == crew.name(node));
    }
    Ok(Return {
        quick: !down,
        member_ms: (acts as f64 - started[0] as f64) / 1e6,
        launched_ms: (acts as f64 - launched as f64) / 1e6,
        views: view.number().saturating_sub(held.number()),
        lost,
        events,
    })
}

fn series(index: usize, count: usize) -> Result<Series<Return>> {
    let states = states()?;
    let (mut crew, sink) = Crew::formed_on(3, states.path())?;
    check_profile(&crew)?;
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
    let mut raw = String::from("quick,member_ms,launched_ms,views,lost,events\n");
    for Return { quick, member_ms, launched_ms, views, lost, events } in &series.all {
        writeln!(raw, "{quick},{member_ms},{launched_ms},{views},{lost},{events}")?;
    }
    context.raw("rejoin.csv", &raw)?;
    let times: Vec<f64> = series.all.iter().map(|one| one.member_ms).collect();
    let launched: Vec<f64> = series.all.iter().map(|one| one.launched_ms).collect();
    let sum = |value: fn(&Return) -> f64| series.all.iter().map(value).sum::<f64>();
    let most = |value: fn(&Return) -> f64| stats::most(&series.all.iter().map(value).collect::<Vec<_>>());
    let mut figures = vec![
        Figure::new("returns", times.len() as f64, "", Bar::AtLeast((steps * each * LABS) as f64)),
        Figure::new("of them before anybody called it down", sum(|one| f64::from(u8::from(one.quick))), "", Bar::Shown),
        Figure::new("start to member that acts, most", stats::most(&times), "ms", Bar::AtMost(BAR_MS)),
        Figure::new("start to member that acts, median", stats::median(&times), "ms", Bar::Shown),
        Figure::new("start of its process to the same, median", stats::median(&launched), "ms", Bar::Shown),
        Figure::new("start of its process to the same, most", stats::most(&launched), "ms", Bar::Shown),
        Figure::new("regroups from its start, most", most(|one| one.views as f64), "", Bar::AtMost(2.0)),
        Figure::new("heartbeats lost among those that stayed", sum(|one| one.lost as f64), "", Bar::AtMost(0.0)),
        Figure::new(
            "their starts, and what they said of each other",
            sum(|one| one.events as f64),
            "",
            Bar::AtMost(0.0),
        ),
    ];
    figures.extend(series.figures());
    let notes = vec![
        "a machine ends with its process, its programs and its pages; only its disk stays. By turns it is started at \
         once, and after the others have a view without it"
            .to_owned(),
        format!(
            "the bar is two regroups of 2 delays + 200 ms each, and 2 delays: {BAR_MS} ms, from the event `started`, which \
             comes before its first frame. What a start does before that is in the time from the start of its process"
        ),
        "a heartbeat counts as lost that left and was not answered in its time".to_owned(),
        awake::NOTE.to_owned(),
    ];
    Ok(Found { figures, notes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_they_say_of_the_machine_that_returns_is_no_bad_news() {
        let said = |event: &str, node: &str| json!({"event": event, "node": node});
        let good =
            [said("path_failed", "c"), said("node_down", "c"), said("view_installed", ""), said("node_joined", "c")];
        assert_eq!(bad_news(&good, "b"), 0);
        for bad in [said("path_lost", "b"), said("node_removed", "b"), said("started", "a"), said("isolated", "")] {
            assert_eq!(bad_news(&[said("node_up", "c"), bad.clone()], "b"), 1, "{bad}");
        }
    }
}
