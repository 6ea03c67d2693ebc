//! Fences to a node whose userspace is stopped: from the moment in which the sender says that it sends one to the moment
//! in which the victim's page shows that its kernel has obeyed. The page is watched by a loop that does nothing else.

use super::views::{Series, states};
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::sink::{RootPage, page_pin};
use crate::lab::{Crew, Sink, awake, monotonic_ns, views};
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use heartbeat_common::lease::{Words, word};
use heartbeat_user::io::realtime;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::{Duration, Instant};

const C: usize = 2;
/// The kernel obeys within this, ms.
const BAR_MS: f64 = 1.0;
/// Above the daemons' threads: the watcher must not wait for them.
const PRIORITY: u8 = 70;

/// One fence.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fence {
    /// From the first sender's event to the victim's kernel obeying, ms.
    obeyed_ms: f64,
    /// From asking for it to the same, ms.
    asked_ms: f64,
}

/// Watches the page of c until its incarnation is fenced, and returns when, CLOCK_MONOTONIC ns.
fn obeyed(crew: &Crew) -> Result<impl FnOnce() -> Result<u64> + Send + use<>> {
    let page = RootPage::open(&page_pin(&crew.lab, C))?;
    Ok(move || {
        realtime::fifo(PRIORITY).context("SCHED_FIFO for the watcher")?;
        let (own, end) = (page.get(word::INCARNATION), Instant::now() + Duration::from_secs(10));
        while page.get(word::FENCED) < own {
            ensure!(Instant::now() < end, "nobody fenced c");
            // A short sleep: on two processors a loop would starve the sender itself.
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(monotonic_ns())
    })
}

fn fence(crew: &mut Crew, sink: &Sink, random: &mut Random) -> Result<Fence> {
    crew.daemon(C).stop()?;
    views::pause_at_random(random, Duration::from_millis(200));
    let mark = crew.mark()?;
    let watch = obeyed(crew)?;
    let watching = std::thread::spawn(move || {
        realtime::no_timer_slack();
        watch()
    });
    let asked = monotonic_ns();
    let done = crew.daemon(0).ctl(&["fence", "c", &crew.cluster.name])?;
    ensure!(done.status.success(), "heartbeatctl fence: {done:?}");
    let at = watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let mut sent = Vec::new();
    for by in [0, 1] {
        let said = crew.await_said_of(&mark, by, "fence_sent", C)?;
        sent.push(said["noticed_ns"].as_u64().context("when it was sent")?);
    }
    let first = sent.into_iter().min().context("a fence")?;
    ensure!(sink.acting(C).is_err(), "it may still act");
    crew.daemon(C).resume()?;
    crew.await_left_out(C)?;
    crew.start_at_once(C)?;
    crew.await_view(&[0, 1, 2])?;
    let ms = |from: u64| (at as f64 - from as f64) / 1e6;
    Ok(Fence { obeyed_ms: ms(first), asked_ms: ms(asked) })
}

fn series(count: usize) -> Result<Series<Fence>> {
    let states = states()?;
    let (mut crew, sink) = Crew::formed_on(3, states.path())?;
    let mut random = Random::new(crate::xdp::now());
    let all = (0..count).map(|_| fence(&mut crew, &sink, &mut random)).collect::<Result<Vec<_>>>()?;
    Series::of(all, &crew, &sink)
}

/// `fence`: a fence sent to the victim's kernel obeying, its userspace stopped.
pub fn run(context: &Context) -> Result<Found> {
    let (steps, each) = context.choose((1, 6), (4, 250));
    let measure = |step| context.step(&format!("fence-{step}"), || series(each));
    let series = Series::join((0..steps).map(measure).collect::<Result<Vec<_>>>()?);
    let mut raw = String::from("obeyed_ms,asked_ms\n");
    for Fence { obeyed_ms, asked_ms } in &series.all {
        writeln!(raw, "{obeyed_ms},{asked_ms}")?;
    }
    context.raw("fence.csv", &raw)?;
    let times = stats::sorted(series.all.iter().map(|one| one.obeyed_ms).collect());
    let asked: Vec<f64> = series.all.iter().map(|one| one.asked_ms).collect();
    let mut figures = vec![
        Figure::new("fences", times.len() as f64, "", context.choose(Bar::Shown, Bar::AtLeast(1000.0))),
        Figure::new("sent to obeyed, p99.9", stats::percentile(&times, 0.999), "ms", Bar::AtMost(BAR_MS)),
        Figure::new("sent to obeyed, median", stats::percentile(&times, 0.5), "ms", Bar::Shown),
        Figure::new("sent to obeyed, most", stats::percentile(&times, 1.0), "ms", Bar::Shown),
        Figure::new("asked for to obeyed, median", stats::median(&asked), "ms", Bar::Shown),
    ];
    figures.extend(series.figures());
    let notes = vec![
        "the victim's daemon is stopped (SIGSTOP). The time begins with the first sender's event, which comes before the \
         frame leaves, and ends with the page as a watcher sees it, every 20 us: both make it longer than it is"
            .to_owned(),
        "on veth pairs XDP runs in the sender's softirq".to_owned(),
        awake::NOTE.to_owned(),
    ];
    Ok(Found { figures, notes })
}
