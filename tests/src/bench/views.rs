//! How long a cluster takes from a machine's death to the next view, and until others may take over what it ran. Machines
//! die by cuts in the switch; times are those of the nodes' own events, on the one clock of this machine.

use super::death::side_by_side;
use super::svg::Plot;
use super::withheld::Withheld;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::crew::Mark;
use crate::lab::{Crew, Sink, Span, awake, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use heartbeat_common::view::Order;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt::Write;
use std::time::Duration;

/// Clusters of three that die side by side.
const LABS: usize = 2;
/// A new view is due on every survivor after this, ms.
const VIEW_MS: f64 = 1000.0;
/// Taking over is allowed after this: twice the detection time and 200 ms.
const TAKE_OVER_MS: f64 = 1200.0;
/// From the last verdict to the new view, ms.
const VERDICT_MS: f64 = 20.0;
/// Name of the figure that every scenario of views has.
const BROKEN: &str = "acts at the same time that break the rule of views";

/// One death as the survivors went through it. Times in ms.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Death {
    /// From the cut to the last survivor's verdict.
    verdict_ms: f64,
    /// From the cut to the new view on the last survivor.
    view_ms: f64,
    /// From the cut until it was in force on the last survivor.
    in_force_ms: f64,
    /// From the cut to the first act in the new view.
    act_ms: f64,
    /// What the hypervisor withheld from all processors together meanwhile.
    withheld_ms: f64,
}

impl Death {
    fn decision_ms(&self) -> f64 {
        self.view_ms - self.verdict_ms
    }
}

/// What a series found: measurements, and how many acts broke the rule of views.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series<T> {
    pub all: Vec<T>,
    pub broken: usize,
    /// Acts that the sink took or refused.
    pub acts: u64,
    /// Longest time in which the sink did not look, ms.
    pub gap_ms: f64,
}

impl<T> Series<T> {
    /// Closes a series: what the nodes did meanwhile is judged.
    pub fn of(all: Vec<T>, crew: &Crew, sink: &Sink) -> Result<Self> {
        let acts = sink.acts();
        let faults = acts.faults(&crew.all_views()?);
        faults.iter().for_each(|fault| println!("  BROKEN: {fault}"));
        Ok(Self { all, broken: faults.len(), acts: acts.count, gap_ms: acts.longest_gap_ns as f64 / 1e6 })
    }

    /// Puts several together.
    pub fn join(all: Vec<Self>) -> Self {
        let mut joined = Self { all: Vec::new(), broken: 0, acts: 0, gap_ms: 0.0 };
        for one in all {
            joined.all.extend(one.all);
            joined.broken += one.broken;
            joined.acts += one.acts;
            joined.gap_ms = joined.gap_ms.max(one.gap_ms);
        }
        joined
    }

    /// The figures that every series has.
    pub fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::new(BROKEN, self.broken as f64, "", Bar::AtMost(0.0)),
            Figure::new("acts that came to the sink", self.acts as f64, "", Bar::AtLeast(1.0)),
            Figure::new("longest time in which the sink did not look", self.gap_ms, "ms", Bar::Shown),
        ]
    }
}

/// The moment of a node's first event of this name since, that is of `view`, CLOCK_MONOTONIC ns.
pub fn moment(crew: &Crew, mark: &Mark, by: usize, name: &str, view: Order) -> Result<u64> {
    let said = crew.said(mark, by, name)?;
    let of_view = |event: &&Value| crate::lab::acts::order(&event["view"]).is_ok_and(|order| order == view);
    let event = said.iter().find(of_view).with_context(|| format!("no {name} of {view:?} by {by}: {said:?}"))?;
    event["noticed_ns"].as_u64().with_context(|| format!("no moment in {event}"))
}

/// Milliseconds from the beginning of a cut.
pub fn since(cut: Span, at_ns: u64) -> f64 {
    (at_ns as f64 - cut.before_ns as f64) / 1e6
}

fn die(crew: &mut Crew, sink: &Sink, random: &mut Random) -> Result<Death> {
    let count = crew.lab.spec().nodes.len();
    let all: Vec<usize> = (0..count).collect();
    crew.all_up()?;
    let before = crew.await_view(&all)?;
    let dead = random.below(count as u64) as usize;
    let rest: Vec<usize> = all.iter().copied().filter(|node| *node != dead).collect();
    let mark = crew.mark()?;
    views::pause_at_random(random, Duration::from_millis(300));
    let withheld = Withheld::now();
    let cut = crew.lab.cut_all(dead)?;
    // Asking would take the processors from the daemons that are measured.
    std::thread::sleep(Duration::from_millis(1500));
    let withheld_ms = withheld.ms_since();
    let view = crew.await_view(&rest)?;
    ensure!(Some(view) == before.next(), "{view:?} follows {before:?}");
    let latest = |name: &str| -> Result<f64> {
        let moments = rest.iter().map(|by| moment(crew, &mark, *by, name, view)).collect::<Result<Vec<_>>>()?;
        Ok(since(cut, moments.into_iter().max().unwrap_or_default()))
    };
    let verdict = |by: &usize| -> Result<u64> {
        let down = crew.await_said_of(&mark, *by, "node_down", dead)?;
        down["noticed_ns"].as_u64().with_context(|| format!("no moment in {down}"))
    };
    let verdicts = rest.iter().map(verdict).collect::<Result<Vec<_>>>()?;
    let acts = sink.acts();
    let first = rest.iter().filter_map(|node| acts.first_from(*node, view)).min().context("nobody acts")?;
    let death = Death {
        verdict_ms: since(cut, verdicts.into_iter().max().unwrap_or_default()),
        view_ms: latest("view_installed")?,
        in_force_ms: latest("view_in_force")?,
        act_ms: since(cut, first),
        withheld_ms,
    };
    crew.lab.heal()?;
    crew.await_view(&all)?;
    Ok(death)
}

fn series(nodes: usize, index: usize, count: usize) -> Result<Series<Death>> {
    let states = states()?;
    let (mut crew, sink) = Crew::formed_on(nodes, states.path())?;
    let mut random = Random::new(crate::xdp::now() ^ index as u64);
    let all = (0..count).map(|_| die(&mut crew, &sink, &mut random)).collect::<Result<Vec<_>>>()?;
    Series::of(all, &crew, &sink)
}

/// A place for the nodes' states on a disk, as they have it in life.
pub fn states() -> Result<tempfile::TempDir> {
    tempfile::tempdir_in("/var/tmp").context("a place for states on a disk")
}

/// 1000 deaths among three, in steps; both scenarios read them.
fn of_three(context: &Context) -> Result<Series<Death>> {
    let (steps, each) = context.choose((1, 4), (5, 100));
    let measure = |step| {
        let all = context.step(&format!("views-three-{step}"), || side_by_side(LABS, |index| series(3, index, each)));
        all.map(Series::join)
    };
    let all = Series::join((0..steps).map(measure).collect::<Result<Vec<_>>>()?);
    raw(context, "views-three.csv", &all.all)?;
    Ok(all)
}

fn raw(context: &Context, name: &str, deaths: &[Death]) -> Result<()> {
    let mut raw = String::from("verdict_ms,view_ms,in_force_ms,act_ms,withheld_ms\n");
    for Death { verdict_ms, view_ms, in_force_ms, act_ms, withheld_ms } in deaths {
        writeln!(raw, "{verdict_ms},{view_ms},{in_force_ms},{act_ms},{withheld_ms}")?;
    }
    context.raw(name, &raw)
}

fn spread(name: &str, values: &[f64]) -> Vec<Figure> {
    let sorted = stats::sorted(values.to_vec());
    [("least", 0.0), ("median", 0.5), ("p99", 0.99), ("most", 1.0)]
        .map(|(word, of)| Figure::new(format!("{name}, {word}"), stats::percentile(&sorted, of), "ms", Bar::Shown))
        .into()
}

fn notes() -> Vec<String> {
    vec![
        "machines die by cutting all their ports in the switch; who was cut off finds itself left out, ends, and is \
         started again"
            .to_owned(),
        "times are of the nodes' own events, CLOCK_MONOTONIC, which all of them share here".to_owned(),
        "the nodes' states are on this machine's disk, below /var/tmp".to_owned(),
        awake::NOTE.to_owned(),
    ]
}

/// `view-death`: three nodes, `lan`: a machine's death to the new view installed on every survivor.
pub fn view_death(context: &Context) -> Result<Found> {
    let series = of_three(context)?;
    let times: Vec<f64> = series.all.iter().map(|death| death.view_ms).collect();
    let within = times.iter().filter(|time| **time <= VIEW_MS).count();
    let mut figures = vec![
        Figure::new("deaths", times.len() as f64, "", context.choose(Bar::Shown, Bar::AtLeast(1000.0))),
        Figure::new("of them without a view within 1000 ms", (times.len() - within) as f64, "", Bar::AtMost(0.0)),
    ];
    figures.extend(spread("death to the new view on every survivor", &times));
    figures.extend(series.figures());
    context.plot(
        "view-death.svg",
        &Plot {
            title: "Time from a machine's death".to_owned(),
            axes: ["ms".to_owned(), "share of deaths".to_owned()],
            series: vec![
                ("verdict".to_owned(), distribution(&series.all, |death| death.verdict_ms)),
                ("new view".to_owned(), distribution(&series.all, |death| death.view_ms)),
                ("take-over".to_owned(), distribution(&series.all, |death| death.in_force_ms)),
            ],
            ..Plot::default()
        },
    )?;
    Ok(Found { figures, notes: notes() })
}

fn distribution(deaths: &[Death], value: fn(&Death) -> f64) -> Vec<(f64, f64)> {
    stats::distribution(deaths.iter().map(value).collect())
}

/// `take-over`: a machine's death until its work may be taken over, no stop time set.
pub fn take_over(context: &Context) -> Result<Found> {
    let series = of_three(context)?;
    let times: Vec<f64> = series.all.iter().map(|death| death.in_force_ms).collect();
    let p99 = stats::percentile(&stats::sorted(times.clone()), 0.99);
    let mut figures = vec![
        Figure::new("deaths", times.len() as f64, "", Bar::Shown),
        Figure::new("death to take-over allowed on every survivor, p99", p99, "ms", Bar::AtMost(TAKE_OVER_MS)),
    ];
    figures.extend(spread("death to take-over allowed", &times));
    let acts: Vec<f64> = series.all.iter().map(|death| death.act_ms).collect();
    figures.extend(spread("death to the first act in the new view", &acts));
    figures.extend(series.figures());
    Ok(Found { figures, notes: notes() })
}

/// `view-verdict`: five nodes: the last survivor's verdict to the new view on every survivor.
pub fn view_verdict(context: &Context) -> Result<Found> {
    let (steps, each) = context.choose((1, 4), (5, 100));
    let measure = |step| context.step(&format!("views-five-{step}"), || series(5, 0, each));
    let series = Series::join((0..steps).map(measure).collect::<Result<Vec<_>>>()?);
    raw(context, "views-five.csv", &series.all)?;
    let times: Vec<f64> = series.all.iter().map(Death::decision_ms).collect();
    let p99 = stats::percentile(&stats::sorted(times.clone()), 0.99);
    let mut figures = vec![
        Figure::new("deaths", times.len() as f64, "", Bar::Shown),
        Figure::new("last verdict to the view on every survivor, p99", p99, "ms", Bar::AtMost(VERDICT_MS)),
    ];
    figures.extend(spread("last verdict to the view", &times));
    let fsync = context.step("views-fsync", fsync_p99)?;
    figures.push(Figure::new("one durable write on this disk, p99", fsync, "ms", Bar::Shown));
    figures.extend(series.figures());
    let mut notes = notes();
    notes.push("three durable writes, one after another, are part of it: promise, acceptance, installation".to_owned());
    Ok(Found { figures, notes })
}

/// What one durable write of a small file takes where the nodes' states are, ms.
fn fsync_p99() -> Result<f64> {
    let directory = states()?;
    let mut times = Vec::new();
    for number in 0..200_u32 {
        let at = std::time::Instant::now();
        let file = std::fs::File::create(directory.path().join("new"))?;
        std::io::Write::write_all(&mut &file, &number.to_le_bytes().repeat(2048))?;
        file.sync_all()?;
        std::fs::rename(directory.path().join("new"), directory.path().join("old"))?;
        std::fs::File::open(directory.path())?.sync_all()?;
        times.push(at.elapsed().as_secs_f64() * 1e3);
    }
    Ok(stats::percentile(&stats::sorted(times), 0.99))
}
