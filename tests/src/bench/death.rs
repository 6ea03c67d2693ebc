//! Deaths of machines at random phase: all ports of one cut at once in the switch. It measures from the last answer,
//! as the observer's kernel stamped it, to the verdict; no process is killed.

use super::svg::Plot;
use super::withheld::Withheld;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::wait::wait_every;
use crate::lab::{Cluster, Daemon, Follower, Lab, Options, Spec, awake};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// Clusters that die side by side.
const LABS: usize = 3;
/// Late runs that are listed with the figures.
const LISTED: usize = 20;
/// The verdict is due between these after the last answer, ms.
const DUE_MS: (f64, f64) = (500.0, 650.0);
/// Own lateness beyond which a run is listed, ms.
const LATE_MS: f64 = 25.0;
/// A run from whose processors less than this was withheld had its processors: no lateness beyond [`LATE_MS`] is made
/// of it.
const WITHHELD_MS: f64 = LATE_MS;
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One death as its observer saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Death {
    lab: usize,
    /// From the last answer to the verdict, ms.
    verdict_ms: f64,
    /// From the last answer to the cut (the middle of its span), ms: at most about one delay.
    phase_ms: f64,
    /// The observer's own lateness meanwhile, ms.
    lateness_ms: f64,
    /// What the hypervisor withheld from all processors together from before the last answer until the verdict was
    /// seen, ms.
    withheld_ms: f64,
}

/// Waits until `daemon` shows every peer up on every path.
pub fn wait_up(daemon: &Daemon) -> Result<()> {
    wait_every(Duration::from_millis(50), PATIENCE, &format!("node {} to show its peers up", daemon.name()), || {
        let answer = daemon.ask("nodes")?;
        let nodes = answer["nodes"].as_array().context("`nodes` in the answer")?;
        ensure!(nodes.iter().all(|node| node["state"] == "up" && node["paths_up"] == node["paths_total"]), "{answer}");
        Ok::<_, anyhow::Error>(())
    })
}

/// Waits for an event of a name and returns the first such.
pub fn wait_event(events: &mut Follower, name: &str) -> Result<Value> {
    let came = events.wait(PATIENCE, name)?;
    came.into_iter().find(|event| event["event"] == name).with_context(|| format!("no {name} in what came"))
}

fn die(lab_index: usize, count: usize) -> Result<Vec<Death>> {
    let lab = Lab::new(Spec::new(2, 2))?;
    let cluster = Cluster::new(&lab, "lan");
    let start = |node| Daemon::start(&lab, node, &cluster, &Options::default());
    let (observer, _victim) = (start(0)?, start(1)?);
    let mut random = Random::new(crate::xdp::now() ^ lab_index as u64);
    let mut events = observer.follow()?;
    let mut deaths = Vec::new();
    for _ in 0..count {
        wait_up(&observer)?;
        let withheld = Withheld::now();
        std::thread::sleep(Duration::from_micros(150_000 + random.below(200_000)));
        let span = lab.cut_all(1)?;
        let down = wait_event(&mut events, "node_down")?;
        let at = |key: &str| down[key].as_u64().with_context(|| format!("no {key} in {down}"));
        let silent = at("silent_since_ns")? as f64;
        deaths.push(Death {
            lab: lab_index,
            verdict_ms: (at("noticed_ns")? as f64 - silent) / 1e6,
            phase_ms: (f64::midpoint(span.before_ns as f64, span.after_ns as f64) - silent) / 1e6,
            lateness_ms: at("own_lateness_us")? as f64 / 1e3,
            withheld_ms: withheld.ms_since(),
        });
        lab.heal()?;
        wait_event(&mut events, "node_up")?;
    }
    Ok(deaths)
}

/// Runs `work` for `0..count` side by side.
pub fn side_by_side<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..count)
            .map(|index| {
                scope.spawn({
                    let work = &work;
                    move || work(index)
                })
            })
            .collect();
        let ended =
            running.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        ended.collect()
    })
}

/// A part of a whole, in percent.
fn share(part: usize, whole: usize) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

pub fn run(context: &Context) -> Result<Found> {
    // Full: 1008 deaths in steps of 252.
    let (steps, each) = context.choose((1, 10), (4, 84));
    let mut deaths: Vec<Death> = Vec::new();
    for step in 0..steps {
        let more = context.step(&format!("death-{step}"), || side_by_side(LABS, |index| die(index, each)))?;
        deaths.extend(more.into_iter().flatten());
    }
    let mut raw = String::from("lab,verdict_ms,phase_ms,lateness_ms,withheld_ms\n");
    for Death { lab, verdict_ms, phase_ms, lateness_ms, withheld_ms } in &deaths {
        writeln!(raw, "{lab},{verdict_ms},{phase_ms},{lateness_ms},{withheld_ms}")?;
    }
    context.raw("death.csv", &raw)?;
    let verdicts = |late: bool| deaths.iter().filter(move |death| (death.lateness_ms > LATE_MS) == late);
    let due = |death: &&Death| death.verdict_ms >= DUE_MS.0 && death.verdict_ms <= DUE_MS.1;
    let early = deaths.iter().filter(|death| death.verdict_ms < DUE_MS.0).count();
    let outside = verdicts(false).filter(|death| !due(death)).count();
    let times: Vec<f64> = deaths.iter().map(|death| death.verdict_ms).collect();
    context.plot(
        "death.svg",
        &Plot {
            title: "Time from the last answer to the verdict".to_owned(),
            axes: ["cut after the last answer, ms".to_owned(), "verdict, ms".to_owned()],
            dots: true,
            series: [("observer on time", false), ("observer late", true)]
                .map(|(name, late)| {
                    (name.to_owned(), verdicts(late).map(|death| (death.phase_ms, death.verdict_ms)).collect())
                })
                .to_vec(),
            ..Plot::default()
        },
    )?;
    let mut found = Found::default();
    let mut put =
        |name: &str, value: f64, unit: &str, bar: Bar| found.figures.push(Figure::new(name, value, unit, bar));
    put("deaths", deaths.len() as f64, "", Bar::Shown);
    put("verdicts before 500 ms", early as f64, "", Bar::AtMost(0.0));
    put("verdicts outside 500..650 ms, observer on time", outside as f64, "", Bar::AtMost(0.0));
    put(
        "share of runs with own lateness above 25 ms",
        share(verdicts(true).count(), deaths.len()),
        "%",
        Bar::AtMost(1.0),
    );
    // A program cannot be on time with a processor that it is not given: the same share of the runs that had theirs.
    let had: Vec<&Death> = deaths.iter().filter(|death| death.withheld_ms < WITHHELD_MS).collect();
    let late = had.iter().filter(|death| death.lateness_ms > LATE_MS).count();
    put("runs in which the hypervisor withheld less than 25 ms", had.len() as f64, "", Bar::Shown);
    put("share of them with own lateness above 25 ms", share(late, had.len()), "%", Bar::AtMost(1.0));
    put("least", stats::least(&times), "ms", Bar::Shown);
    put("median", stats::median(&times), "ms", Bar::Shown);
    put("most", stats::most(&times), "ms", Bar::Shown);
    for death in verdicts(true).take(LISTED) {
        let Death { verdict_ms, lateness_ms, .. } = death;
        found.notes.push(format!("observer late by {lateness_ms:.1} ms: verdict after {verdict_ms:.1} ms"));
    }
    if verdicts(true).count() > LISTED {
        found.notes.push("more of them, each with its lateness, are in death.csv".to_owned());
    }
    found
        .notes
        .push(format!("{LABS} clusters of two nodes on two networks die side by side; times are the kernel's stamps"));
    found.notes.push(awake::NOTE.to_owned());
    Ok(found)
}
