//! Fences to a node whose userspace is stopped: from the moment in which one is sent to the moment in which the victim's
//! kernel obeys. The first is the kernel's stamp at a sender's device, or the sender's own word where that came sooner; the
//! second the stamp that the victim's kernel left of its answer. A loop that watches the victim's page sees that it has
//! really obeyed.

use super::series::{Series, check_profile};
use super::views::states;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::sink::{RootPage, page_pin};
use crate::lab::{Crew, Sink, Tap, awake, monotonic_ns, views};
use crate::xdp::mapping::Mapping;
use crate::xdp::random::Random;
use anyhow::{Context as _, Result, ensure};
use heartbeat_common::lease::{Words, word};
use heartbeat_common::maps;
use heartbeat_common::tick::Tick;
use heartbeat_user::io::{realtime, sys};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const C: usize = 2;
/// Who sends.
const SENDERS: [usize; 2] = [0, 1];
/// Paths of the victim: two peers on two networks.
const PATHS: usize = 4;
/// The kernel obeys within this, ms.
const BAR_MS: f64 = 1.0;
/// By so much the stamps of a sender's device may come after those of the victim, for what is not exact in comparing two
/// clocks, ns.
const CLOCKS_NS: u64 = 20_000;
/// Above the daemons' threads: the watcher must not wait for them.
const PRIORITY: u8 = 70;

/// One fence. Times in ms.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Fence {
    /// From sending, as the first sender's kernel or controller has it, to the victim's kernel obeying.
    obeyed_ms: f64,
    /// From the same to the watcher seeing it in the page.
    seen_ms: f64,
    /// From asking for it to the victim's kernel obeying.
    asked_ms: f64,
}

impl Fence {
    /// Puts the stamps together, CLOCK_MONOTONIC ns: `left` at the senders' devices, `said` by their controllers, which may
    /// say it before or after the frame leaves.
    fn of(asked: u64, left: &[u64], said: &[u64], obeyed: u64, seen: u64) -> Result<Self> {
        let first_left = left.iter().copied().min().context("no fence left a device")?;
        let first = said.iter().copied().chain([first_left]).min().unwrap_or(first_left);
        ensure!(first >= asked, "one was sent {} ns before it was asked for", asked - first);
        ensure!(obeyed + CLOCKS_NS >= first_left, "obeyed {} ns before one left", first_left - obeyed);
        ensure!(seen >= obeyed, "seen {} ns before it was obeyed", obeyed - seen);
        let ms = |from: u64, to: u64| to.saturating_sub(from) as f64 / 1e6;
        Ok(Self { obeyed_ms: ms(first, obeyed), seen_ms: ms(first, seen), asked_ms: ms(asked, obeyed) })
    }
}

/// Watches the page of c until its incarnation is fenced, and returns when it saw that, CLOCK_MONOTONIC ns.
fn seen(crew: &Crew) -> Result<(u64, impl FnOnce() -> Result<u64> + Send + use<>)> {
    let page = RootPage::open(&page_pin(&crew.lab, C))?;
    let own = page.get(word::INCARNATION);
    ensure!(own != 0 && page.get(word::FENCED) < own, "c is fenced already");
    let watch = move || -> Result<u64> {
        realtime::fifo(PRIORITY).context("SCHED_FIFO for the watcher")?;
        let end = Instant::now() + Duration::from_secs(10);
        while page.get(word::FENCED) < own {
            ensure!(Instant::now() < end, "nobody fenced c");
            // A short sleep: on two processors a loop would starve the sender itself.
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(monotonic_ns())
    };
    Ok((own, watch))
}

/// When c's kernel first answered a fence since, by its own stamp, CLOCK_MONOTONIC ns. It obeys in the same run.
fn obeyed(crew: &Crew, since: u64) -> Result<u64> {
    let pin = crew.pins(C).join(maps::TICKS);
    let fd = sys::object_get(&pin).with_context(|| format!("opening {}", pin.display()))?;
    let ticks = Mapping::new(fd.as_fd(), size_of::<Tick<u64>>(), PATHS)?;
    let stamps = (0..PATHS).map(|path| ticks.get(path, offset_of!(Tick<u64>, fence_answered_ns) / 8));
    stamps.filter(|stamp| *stamp >= since).min().context("c's kernel answered no fence")
}

fn fence(crew: &mut Crew, sink: &Sink, taps: &mut [Tap], random: &mut Random) -> Result<Fence> {
    crew.daemon(C).stop()?;
    views::pause_at_random(random, Duration::from_millis(200));
    let mark = crew.mark()?;
    let (victim, watch) = seen(crew)?;
    let watching = std::thread::spawn(move || {
        realtime::no_timer_slack();
        watch()
    });
    taps.iter_mut().try_for_each(Tap::forget)?;
    let asked = monotonic_ns();
    let done = crew.daemon(0).ctl(&["fence", "c", &crew.cluster.name])?;
    ensure!(done.status.success(), "heartbeatctl fence: {done:?}");
    let seen = watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let obeyed = obeyed(crew, asked)?;
    let mut said = Vec::new();
    for by in SENDERS {
        let event = crew.await_said_of(&mark, by, "fence_sent", C)?;
        said.push(event["noticed_ns"].as_u64().context("when it was sent")?);
    }
    let left = taps.iter().map(|tap| tap.fences(victim)).collect::<Result<Vec<_>>>()?.concat();
    ensure!(sink.acting(C).is_err(), "it may still act");
    crew.daemon(C).resume()?;
    crew.await_left_out(C)?;
    crew.start_at_once(C)?;
    crew.await_view(&[0, 1, 2])?;
    Fence::of(asked, &left, &said, obeyed, seen)
}

fn series(count: usize) -> Result<Series<Fence>> {
    let states = states()?;
    let (mut crew, sink) = Crew::formed_on(3, states.path())?;
    check_profile(&crew)?;
    let mut taps = SENDERS.iter().map(|node| Tap::new(&crew.lab, *node)).collect::<Result<Vec<_>>>()?;
    let mut random = Random::new(crate::xdp::now());
    let all = (0..count).map(|_| fence(&mut crew, &sink, &mut taps, &mut random)).collect::<Result<Vec<_>>>()?;
    Series::of(all, &crew, &sink)
}

/// `fence`: a fence sent to the victim's kernel obeying, its userspace stopped.
pub fn run(context: &Context) -> Result<Found> {
    let (steps, each) = context.choose((1, 3), (8, 125));
    let measure = |step| context.step(&format!("fence-{step}"), || series(each));
    let series = Series::join((0..steps).map(measure).collect::<Result<Vec<_>>>()?);
    let mut raw = String::from("obeyed_ms,seen_ms,asked_ms\n");
    for Fence { obeyed_ms, seen_ms, asked_ms } in &series.all {
        writeln!(raw, "{obeyed_ms},{seen_ms},{asked_ms}")?;
    }
    context.raw("fence.csv", &raw)?;
    let times = stats::sorted(series.all.iter().map(|one| one.obeyed_ms).collect());
    let seen = stats::sorted(series.all.iter().map(|one| one.seen_ms).collect());
    let asked: Vec<f64> = series.all.iter().map(|one| one.asked_ms).collect();
    // Microseconds: most of them are few.
    let us = |name: &str, ms: f64, bar: Bar| Figure::new(name, ms * 1e3, "us", bar);
    let (p999, half, most) = (0.999, 0.5, 1.0);
    let mut figures = vec![
        Figure::new("fences", times.len() as f64, "", Bar::AtLeast((steps * each) as f64)),
        us("sent to obeyed, p99.9", stats::percentile(&times, p999), Bar::AtMost(BAR_MS * 1e3)),
        us("sent to obeyed, median", stats::percentile(&times, half), Bar::Shown),
        us("sent to obeyed, most", stats::percentile(&times, most), Bar::Shown),
        us("sent to seen in the page by a watcher, p99.9", stats::percentile(&seen, p999), Bar::Shown),
        Figure::new("asked for to obeyed, median", stats::median(&asked), "ms", Bar::Shown),
    ];
    figures.extend(series.figures());
    let notes = vec![
        "the victim's daemon is stopped (SIGSTOP). The time begins with the kernel's stamp of the first fence at a \
         sender's device, or with a sender's event where that came sooner, and ends with the stamp of the victim's kernel \
         of the run in which it obeyed"
            .to_owned(),
        "the watcher looks at the victim's page every 20 us, and its own wake-up is in what it sees".to_owned(),
        "on veth pairs XDP runs in the sender's softirq".to_owned(),
        awake::NOTE.to_owned(),
    ];
    Ok(Found { figures, notes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_timed_from_what_was_first_known_of_its_sending() {
        let fence = |left: &[u64], said: &[u64]| Fence::of(1_000_000, left, said, 2_100_000, 2_150_000);
        let event_first = fence(&[2_050_000], &[2_000_000, 3_000_000]).unwrap();
        assert_eq!((event_first.obeyed_ms, event_first.seen_ms, event_first.asked_ms), (0.1, 0.15, 1.1));
        assert_eq!(fence(&[2_090_000, 2_050_000], &[2_200_000]).unwrap().obeyed_ms, 0.05, "the frame first");
        assert!(fence(&[], &[2_000_000]).is_err(), "no frame left");
        assert!(fence(&[2_130_000], &[2_140_000]).is_err(), "obeyed before it was sent");
        assert!(fence(&[900_000], &[]).is_err(), "sent before it was asked for");
        assert!(Fence::of(1, &[2], &[2], 5, 4).is_err(), "seen before it was obeyed");
    }
}
