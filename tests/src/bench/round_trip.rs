//! Round trips, idle and starved by turns in one run. It says how much longer they take when the victim is starved; how
//! long they take at all on a wire is no question for veth pairs.

use super::prober::{self, Prober, Trips};
use super::svg::Plot;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::awake::{self, hold};
use crate::lab::ns::run as command;
use crate::lab::{Cluster, Daemon, Hog, Lab, Options, Port, Spec, wait_for};
use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

/// CPU that is starved, with every victim and its NAPI threads on it.
const CPU: usize = 1;
/// Hogs of normal priority at once.
const HOGS: usize = 3;

/// How victims receive, and what starves them besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Softirq,
    Threaded,
    ThreadedRaised,
    ThreadedFifo,
}

impl Condition {
    const ALL: [Self; 4] = [Self::Softirq, Self::Threaded, Self::ThreadedRaised, Self::ThreadedFifo];

    const fn name(self) -> &'static str {
        match self {
            Self::Softirq => "softirq",
            Self::Threaded => "threaded NAPI, normal hogs",
            Self::ThreadedRaised => "threaded NAPI at SCHED_FIFO 1, normal hogs",
            Self::ThreadedFifo => "threaded NAPI, FIFO hog",
        }
    }

    const fn short(self) -> &'static str {
        match self {
            Self::Softirq => "softirq",
            Self::Threaded => "threaded-all",
            Self::ThreadedRaised => "threaded-raised",
            Self::ThreadedFifo => "threaded-fifo",
        }
    }

    /// The victims: name, `fast_path`, realtime priority.
    const fn victims(self) -> &'static [(&'static str, &'static str, u8)] {
        const ALL: &[(&str, &str, u8)] = &[
            ("native", "native", 50),
            ("generic", "generic", 50),
            ("userspace nice 0", "off", 0),
            ("userspace SCHED_FIFO", "off", 50),
        ];
        match self {
            Self::Softirq | Self::Threaded => ALL,
            Self::ThreadedRaised => ALL.split_at(2).0,
            Self::ThreadedFifo => ALL.split_at(1).0,
        }
    }
}

/// What one rate under one condition gave: for each victim the windows, idle and starved by turns.
#[derive(Serialize, Deserialize)]
struct Cell {
    windows: Vec<Vec<Trips>>,
}

/// The victims of one condition, `each` of a kind, kind after kind.
struct Victims {
    daemons: Vec<Daemon>,
    prober: Prober,
    condition: Condition,
    each: usize,
    lab: Lab,
}

impl Victims {
    fn start(condition: Condition, each: usize) -> Result<Self> {
        let kinds = condition.victims().iter().flat_map(|kind| std::iter::repeat_n(kind, each));
        let count = condition.victims().len() * each;
        let lab = Lab::new(Spec::new(count + 1, 1))?;
        // The victims probe each other too; once in ten seconds is little enough not to be seen.
        let cluster = Cluster::new(&lab, "lan").with("same_subnet_delay_ms", 10_000);
        let mut daemons = Vec::new();
        for (node, (_, fast_path, priority)) in (1..).zip(kinds) {
            let daemon = vec![("realtime_priority".to_owned(), priority.to_string())];
            let options = Options { fast_path: (*fast_path).to_owned(), cpu: Some(CPU), daemon, ..Options::default() };
            daemons.push(Daemon::start(&lab, node, &cluster, &options)?);
        }
        let peers: Vec<usize> = (1..=count).collect();
        if condition != Condition::Softirq {
            let threads = thread_napi(&lab, &peers)?;
            if condition == Condition::ThreadedRaised {
                threads.into_iter().try_for_each(raise)?;
            }
        }
        let prober = Prober::new(&lab, &cluster, 0, &peers)?;
        Ok(Self { daemons, prober, condition, each, lab })
    }

    /// Runs one window; a starved one stops the daemons that XDP answers for and takes their CPU. Returns the round trips
    /// of each kind.
    fn window(&mut self, starved: bool, period: Duration, length: Duration) -> Result<Vec<Trips>> {
        let mut hogs = Vec::new();
        if starved {
            let (count, fifo) = if self.condition == Condition::ThreadedFifo { (1, Some(99)) } else { (HOGS, None) };
            for _ in 0..count {
                hogs.push(Hog::start(&self.lab, CPU, fifo, length + Duration::from_secs(5))?);
            }
        }
        for (daemons, (_, fast_path, _)) in self.daemons.chunks(self.each).zip(self.condition.victims()) {
            if starved && *fast_path != "off" {
                daemons.iter().try_for_each(Daemon::stop)?;
            }
        }
        let prober = &mut self.prober;
        let work = || -> Result<Vec<Trips>> {
            Prober::settle_thread()?;
            prober.meet()?;
            prober.run(period, length, &|| false)
        };
        let joined = std::thread::scope(|scope| scope.spawn(work).join());
        let trips = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        drop(hogs);
        self.daemons.iter().try_for_each(Daemon::resume)?;
        // What was held up while starved is not to be seen in the next window.
        std::thread::sleep(Duration::from_millis(100));
        Ok(trips?.chunks(self.each).map(<[Trips]>::concat).collect())
    }
}

/// Puts the victims' receive paths on threads, and the threads on the starved CPU.
fn thread_napi(lab: &Lab, nodes: &[usize]) -> Result<Vec<i32>> {
    let before = napi_threads();
    for node in nodes {
        let said = lab.set_threaded_napi(Port { node: *node, network: 0 }, true)?;
        ensure!(said == "1", "threaded NAPI is {said}");
    }
    let made = wait_for(Duration::from_secs(2), "NAPI threads", || {
        let made: Vec<i32> = napi_threads().difference(&before).copied().collect();
        if made.len() >= nodes.len() { Ok(made) } else { Err(format!("{made:?}")) }
    })?;
    let mut cpus = CpuSet::new();
    cpus.set(CPU)?;
    let place = |pid: &i32| sched_setaffinity(Pid::from_raw(*pid), &cpus);
    made.iter().try_for_each(place).context("placing NAPI threads")?;
    Ok(made)
}

/// Puts a thread above all of normal priority, as an administrator would.
fn raise(pid: i32) -> Result<()> {
    command(Command::new("chrt").args(["--fifo", "--pid", "1", &pid.to_string()]), "").map(drop)
}

fn napi_threads() -> BTreeSet<i32> {
    let Ok(all) = std::fs::read_dir("/proc") else { return BTreeSet::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &i32| {
        std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("napi/net1-"))
    })
    .collect()
}

/// One rate of one condition.
struct Part {
    /// Probes a second to each victim.
    rate: u64,
    /// Victims of each kind.
    each: usize,
    /// Length of a window.
    length: Duration,
    /// Windows, idle and starved together.
    count: usize,
}

impl Part {
    const fn new(rate: u64, each: usize, length_ms: u64, count: usize) -> Self {
        Self { rate, each, length: Duration::from_millis(length_ms), count }
    }
}

/// A window must have more than 1000 probes for its 99.9th percentile to be more than its largest round trip: at low
/// rates several victims of a kind are probed at once, staggered.
fn plan(context: &Context, condition: Condition) -> Vec<Part> {
    if context.quick {
        let fast = [Part::new(1000, 1, 1200, 6), Part::new(100, 3, 1500, 4)].into_iter();
        let slow = [Part::new(10, 3, 3000, 2), Part::new(1, 3, 5000, 2)].into_iter();
        return if condition == Condition::Softirq { fast.chain(slow).collect() } else { fast.collect() };
    }
    // 10^5 samples a cell at 1000 and 100 a second: 50 windows of 2000, and 20 of 5000.
    vec![
        Part::new(1000, 1, 2000, 50),
        Part::new(100, 5, 10_000, 20),
        Part::new(10, 5, 15_000, 6),
        Part::new(1, 5, 30_000, 6),
    ]
}

pub fn run(context: &Context) -> Result<Found> {
    // Hogs and victims have the other CPU; what starts them must not wait for it.
    let held = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                hold(prober::CPU)?;
                measure(context)
            })
            .join()
    });
    held.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn measure(context: &Context) -> Result<Found> {
    let mut found = Found::default();
    let mut raw = String::from("condition,victim,rate,window,starved,probe,round_trip_ns\n");
    let axes = ["round trip, us".to_owned(), "share of probes".to_owned()];
    for condition in Condition::ALL {
        let mut victims: Option<Victims> = None;
        let mut plot = Plot {
            title: format!("Round trips at 1000/s, {}", condition.name()),
            axes: axes.clone(),
            ..Plot::default()
        };
        plot.log = [true, false];
        for Part { rate, each, length, count } in plan(context, condition) {
            let cell = context.step(&format!("round-trip-{}-{rate}", condition.short()), || {
                // The old ones go before new ones come: one lab at a time is enough for two CPUs.
                drop(victims.take_if(|victims| victims.each != each));
                let victims = match &mut victims {
                    Some(victims) => victims,
                    none => none.insert(Victims::start(condition, each)?),
                };
                let period = Duration::from_nanos(1_000_000_000 / rate);
                let windows = (0..count).map(|window| victims.window(window % 2 == 1, period, length));
                Ok(Cell { windows: windows.collect::<Result<_>>()? })
            })?;
            for (victim, (name, _, _)) in condition.victims().iter().enumerate() {
                let windows: Vec<&Trips> = cell.windows.iter().map(|window| &window[victim]).collect();
                for (index, window) in windows.iter().enumerate() {
                    for (probe, trip) in window.iter().enumerate() {
                        let trip = trip.map_or_else(String::new, |ns| ns.to_string());
                        writeln!(raw, "{},{name},{rate},{index},{},{probe},{trip}", condition.short(), index % 2)?;
                    }
                }
                figures(&mut found, condition, name, rate, &windows);
                if rate == 1000 {
                    for (part, starved) in [("idle", 0), ("starved", 1)] {
                        plot.series.push((format!("{name} {part}"), stats::distribution(all(&windows, starved))));
                    }
                }
            }
        }
        context.plot(&format!("round-trip-{}.svg", condition.short()), &plot)?;
    }
    context.raw("round-trip.csv", &raw)?;
    found.notes.extend(NOTES.iter().chain([&awake::NOTE]).map(|note| (*note).to_owned()));
    if context.quick {
        found
            .notes
            .push("quick: windows of 450 to 1200 probes, so that p99.9 is nearly the largest of a window".to_owned());
    }
    Ok(found)
}

const NOTES: &[&str] = &[
    "round trips are stamped by the prober in userspace (SCHED_FIFO 60, CPU 0): its own wake-up is in them",
    "starved: three hogs of normal priority on the victims' CPU, and daemons that XDP answers for are stopped \
     (SIGSTOP); userspace responders are not, as a stopped one answers nothing at all",
    "on veth pairs XDP in softirq runs on the prober's CPU, which flatters it; the threaded conditions do not",
    "a probe that is not answered 200 ms after its window counts as lost",
];

/// Round trips of the idle (0) or starved (1) windows, us.
fn all(windows: &[&Trips], starved: usize) -> Vec<f64> {
    let mine = windows.iter().skip(starved).step_by(2);
    mine.flat_map(|window| window.iter().flatten().map(|ns| *ns as f64 / 1000.0)).collect()
}

/// A window's 99.9th percentile, us; a lost probe took for ever.
fn tail(window: &Trips) -> f64 {
    let trips = window.iter().map(|trip| trip.map_or(f64::INFINITY, |ns| ns as f64 / 1000.0)).collect();
    stats::percentile(&stats::sorted(trips), 0.999)
}

fn figures(found: &mut Found, condition: Condition, name: &str, rate: u64, windows: &[&Trips]) {
    let xdp = !name.starts_with("userspace");
    let barred = xdp && condition != Condition::ThreadedFifo;
    let prefix = format!("{}, {name}, {rate}/s", condition.name());
    let mut put = |what: &str, value: f64, unit: &str, bar: Bar| {
        found.figures.push(Figure::new(format!("{prefix}: {what}"), value, unit, bar));
    };
    if rate >= 100 {
        let tails: Vec<f64> = windows.iter().map(|window| tail(window)).collect();
        let pairs: Vec<f64> = tails.chunks_exact(2).map(|pair| pair[1] / pair[0]).collect();
        let idle: Vec<f64> = tails.iter().copied().step_by(2).collect();
        let control: Vec<f64> = idle.windows(2).map(|pair| pair[1] / pair[0]).collect();
        let bar = if barred { Bar::AtMost(2.0) } else { Bar::Shown };
        put("p99.9 starved : idle, median over windows", stats::median(&pairs), "", bar);
        put("p99.9 idle : idle", stats::median(&control), "", Bar::Shown);
    }
    for (part, starved) in [("idle", 0), ("starved", 1)] {
        let trips = stats::sorted(all(windows, starved));
        put(&format!("p50 {part}"), stats::percentile(&trips, 0.5), "us", Bar::Shown);
        let (of, label) = if rate >= 100 { (0.999, "p99.9") } else { (0.99, "p99") };
        put(&format!("{label} {part}"), stats::percentile(&trips, of), "us", Bar::Shown);
        put(&format!("max {part}"), stats::most(&trips), "us", Bar::Shown);
        let mine = windows.iter().skip(starved).step_by(2);
        let lost = mine.flat_map(|window| window.iter()).filter(|trip| trip.is_none()).count();
        put(&format!("lost {part}"), lost as f64, "", if barred { Bar::AtMost(0.0) } else { Bar::Shown });
    }
}
