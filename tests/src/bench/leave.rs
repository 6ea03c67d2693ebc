//! A node that leaves, over ways of a known length: how long it takes until every other node's kernel has heard that it
//! leaves, and until there is a view without it. Round trips between two nodes of a lab are too short to reckon in, since
//! userspace takes as long: relays hold each frame, of heartbeats and messages alike.

use super::series::Series;
use super::views::states;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::relay::{Rules, Way};
use crate::lab::{Cluster, Crew, Lab, Port, Sink, Spec, awake, monotonic_ns, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::Duration;

/// How long the relay of a node holds what it sends: one way, and twice that the round trip.
const HELD: Duration = Duration::from_millis(20);
/// The shortest round trip that there is then, ms. What is measured is longer by what userspace takes.
const ROUND_TRIP_MS: f64 = 40.0;
/// Everybody knows within so many round trips.
const ROUND_TRIPS: f64 = 2.0;
const NODES: usize = 3;

/// One leaving. Times from the moment in which the node is asked to, ms.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Left {
    /// Until the last kernel had a frame that says so, by its stamp.
    heard_ms: f64,
    /// Until the last controller knew that.
    known_ms: f64,
    /// Until the view without it was installed on the last node.
    view_ms: f64,
    /// Fences that were sent, and verdicts that it is silent.
    accused: usize,
}

fn leave(crew: &mut Crew, random: &mut Random) -> Result<Left> {
    let node = random.below(NODES as u64) as usize;
    let rest: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
    views::pause_at_random(random, Duration::from_millis(200));
    let mark = crew.mark()?;
    let asked = monotonic_ns();
    let ended = crew.take(node).terminate(Duration::from_secs(20))?;
    ensure!(ended.success(), "node {node} ended with {ended}");
    let view = crew.await_view(&rest)?;
    let (mut heard, mut known, mut accused) = (0, 0, 0);
    for by in &rest {
        let left = crew.await_said_of(&mark, *by, "node_left", node)?;
        let stamp = |key: &str| left[key].as_u64().with_context(|| format!("no {key} in {left}"));
        heard = heard.max(stamp("at_ns")?);
        known = known.max(stamp("noticed_ns")?);
        accused += crew.said(&mark, *by, "fence_sent")?.len() + crew.said(&mark, *by, "node_down")?.len();
    }
    let installed = crew.all_installed(&mark, &rest, view)?;
    crew.start_at_once(node)?;
    crew.await_view(&[0, 1, 2])?;
    let ms = |at: u64| (at as f64 - asked as f64) / 1e6;
    Ok(Left { heard_ms: ms(heard), known_ms: ms(known), view_ms: ms(installed), accused })
}

/// A cluster of nodes that hear each other after a while.
fn formed(states: &std::path::Path) -> Result<(Crew, Sink)> {
    let ports = (0..NODES).map(|node| Port { node, network: 0 });
    let relays = ports.clone().zip(1..).collect();
    let lab = Lab::new(Spec { relays, ..Spec::new(NODES, 1) })?;
    let cluster = Cluster::new(&lab, "lan").with("quarantine_threshold", 0);
    let mut crew = Crew::new(lab, Cluster { states: Some(states.to_owned()), ..cluster });
    for port in ports {
        let relay = crew.lab.relay(port).context("a relay at every port")?;
        relay.set(Way::Out, Rules { delay: HELD, ..Rules::default() });
    }
    let sink = crew.form()?;
    Ok((crew, sink))
}

fn series(count: usize) -> Result<Series<Left>> {
    let states = states()?;
    let (mut crew, sink) = formed(states.path())?;
    let mut random = Random::new(crate::xdp::now());
    let all = (0..count).map(|_| leave(&mut crew, &mut random)).collect::<Result<Vec<_>>>()?;
    Series::of(all, &crew, &sink)
}

/// `leave`: a node asked to leave until every other one knows.
pub fn run(context: &Context) -> Result<Found> {
    let (steps, each) = context.choose((1, 5), (4, 50));
    let measure = |step| context.step(&format!("leave-{step}"), || series(each));
    let series = Series::join((0..steps).map(measure).collect::<Result<Vec<_>>>()?);
    let mut raw = String::from("heard_ms,known_ms,view_ms,accused\n");
    for Left { heard_ms, known_ms, view_ms, accused } in &series.all {
        writeln!(raw, "{heard_ms},{known_ms},{view_ms},{accused}")?;
    }
    context.raw("leave.csv", &raw)?;
    let trips =
        |value: fn(&Left) -> f64| stats::sorted(series.all.iter().map(|one| value(one) / ROUND_TRIP_MS).collect());
    let (heard, known, view) = (trips(|one| one.heard_ms), trips(|one| one.known_ms), trips(|one| one.view_ms));
    let accused: usize = series.all.iter().map(|one| one.accused).sum();
    let figure = |name: &str, sorted: &[f64], of, bar| Figure::new(name, stats::percentile(sorted, of), "RTT", bar);
    let mut figures = vec![
        Figure::new("leavings", series.all.len() as f64, "", Bar::Shown),
        figure("asked to leave, to the last kernel that heard it, p99", &heard, 0.99, Bar::AtMost(ROUND_TRIPS)),
        figure("asked to leave, to the last kernel that heard it, median", &heard, 0.5, Bar::Shown),
        figure("asked to leave, to the last node that knew it, p99", &known, 0.99, Bar::AtMost(ROUND_TRIPS)),
        figure("asked to leave, to the last node that knew it, median", &known, 0.5, Bar::Shown),
        figure("asked to leave, to the view without it everywhere, median", &view, 0.5, Bar::Shown),
        figure("asked to leave, to the view without it everywhere, most", &view, 1.0, Bar::Shown),
        Figure::new("fences and verdicts of silence", accused as f64, "", Bar::AtMost(0.0)),
    ];
    figures.extend(series.figures());
    let notes = vec![
        format!(
            "a round trip between two nodes takes at least {ROUND_TRIP_MS} ms, by relays; times are in such round trips, \
             and what userspace takes is in them"
        ),
        "a node is asked by SIGTERM. When it was heard is the stamp of the hearer's kernel".to_owned(),
        "the view without it is decided among those that stay, by several round trips more; nothing waits for a detection \
         time"
            .to_owned(),
        awake::NOTE.to_owned(),
    ];
    Ok(Found { figures, notes })
}
