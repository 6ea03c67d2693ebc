//! Starvation in real time: many victims, each stopped, frozen, held to a quota or beside a hog for a while, again and
//! again. It counts who was called down, which nobody may be; no clock is scaled.

use super::death::wait_up;
use super::prober::CPU as OWN_CPU;
use super::svg::Plot;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::awake::hold;
use crate::lab::{Cluster, Daemon, Freezer, Hog, Lab, Options, Quota, Spec};
use crate::xdp::random::Random;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// CPU that hogs take, with their victims on it.
const HOG_CPU: usize = 1;
/// Hogs of normal priority at once.
const HOGS: usize = 3;

/// How a victim is starved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    Stopped,
    Frozen,
    Quota,
    FifoHog,
    NormalHogs,
}

/// Victims of each cluster.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Clusters side by side.
    pub labs: usize,
    /// Victims that are stopped, in each.
    pub stopped: usize,
    /// Victims that are frozen, in each.
    pub frozen: usize,
    /// Victims held to a quota, in each.
    pub quota: usize,
    /// Victims on the CPU that hogs take, in each.
    pub hogged: usize,
}

/// How long it goes on.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The victims.
    pub field: Field,
    /// (victim, window) pairs after which it ends.
    pub pairs: usize,
    /// Shortest and longest window, s; lengths are log-uniform.
    pub window: (f64, f64),
    /// It ends by then at the latest.
    pub limit: Duration,
}

/// One victim's one window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Pair {
    lab: usize,
    victim: usize,
    way: Way,
    seconds: f64,
}

/// What came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Counted {
    /// Every pair.
    pub pairs: Vec<Pair>,
    /// Every `node_down` that any node said, as it said it.
    pub downs: Vec<String>,
    /// How often a node was called stalled: that starvation was real.
    pub stalls: usize,
}

impl Counted {
    /// Pairs that had a FIFO hog beside the victim.
    #[must_use]
    pub fn beside_fifo(&self) -> usize {
        self.of(Way::FifoHog)
    }

    fn of(&self, way: Way) -> usize {
        self.pairs.iter().filter(|pair| pair.way == way).count()
    }
}

/// One cluster: node 0 observes and is never starved; the others are victims, in the order of the field.
struct Ring {
    index: usize,
    daemons: Vec<Daemon>,
    freezers: Vec<Freezer>,
    quotas: Vec<Quota>,
    lab: Lab,
}

impl Ring {
    fn start(index: usize, field: Field) -> Result<Self> {
        let lab = Lab::new(Spec::new(1 + field.stopped + field.frozen + field.quota + field.hogged, 1))?;
        let cluster = Cluster::new(&lab, "lan");
        let (mut daemons, mut freezers, mut quotas) = (Vec::new(), Vec::new(), Vec::new());
        let plenty = (Duration::from_millis(200), Duration::from_millis(100));
        for group in 0..field.quota {
            quotas.push(Quota::new(&lab, &format!("quota{group}"), plenty.0, plenty.1)?);
        }
        let first_quota = 1 + field.stopped + field.frozen;
        for node in 0..lab.spec().nodes.len() {
            let hogged = node >= first_quota + field.quota;
            let quota = node.checked_sub(first_quota).and_then(|group| quotas.get(group));
            let cpu = Some(if hogged { HOG_CPU } else { OWN_CPU });
            let ready_limit = Duration::from_secs(30);
            daemons.push(Daemon::start(
                &lab,
                node,
                &cluster,
                &Options { quota, cpu, ready_limit, ..Options::default() },
            )?);
        }
        for victim in 0..field.frozen {
            let freezer = Freezer::new(&lab, &format!("freezer{victim}"))?;
            freezer.add(daemons[1 + field.stopped + victim].pid())?;
            freezers.push(freezer);
        }
        daemons.iter().try_for_each(wait_up)?;
        Ok(Self { index, daemons, freezers, quotas, lab })
    }

    /// Starves one victim for a while. Hogged victims are others' business.
    fn starve(&self, field: Field, victim: usize, length: Duration) -> Result<Way> {
        let group = victim - 1;
        if group < field.stopped {
            self.daemons[victim].stop()?;
            std::thread::sleep(length);
            self.daemons[victim].resume()?;
            return Ok(Way::Stopped);
        }
        if let Some(freezer) = self.freezers.get(group - field.stopped) {
            freezer.freeze()?;
            std::thread::sleep(length);
            freezer.thaw()?;
            return Ok(Way::Frozen);
        }
        let quota = &self.quotas[group - field.stopped - field.frozen];
        // Something else in the group takes what little there is, as a busy container would.
        let eater =
            Hog::start_with(&self.lab, OWN_CPU, None, length + Duration::from_secs(5), |command| quota.join(command))?;
        quota.set(Duration::from_millis(1), Duration::from_secs(1))?;
        std::thread::sleep(length);
        // First the room to run: held to the quota, the eater would take a second to die.
        quota.set(Duration::from_millis(200), Duration::from_millis(100))?;
        drop(eater);
        Ok(Way::Quota)
    }
}

/// What the threads of one run share.
struct Run<'a> {
    plan: Plan,
    rings: &'a [Ring],
    pairs: Mutex<Vec<Pair>>,
    count: AtomicUsize,
    failed: AtomicBool,
    end: Instant,
}

impl Run<'_> {
    fn over(&self) -> bool {
        let enough = self.count.load(Ordering::Relaxed) >= self.plan.pairs;
        enough || Instant::now() >= self.end || self.failed.load(Ordering::Relaxed)
    }

    fn length(&self, random: &mut Random) -> Duration {
        let share = random.below(1 << 32) as f64 / (1u64 << 32) as f64;
        let (low, high) = self.plan.window;
        Duration::from_secs_f64(low * (high / low).powf(share))
    }

    fn note(&self, pair: Pair) {
        self.pairs.lock().unwrap_or_else(PoisonError::into_inner).push(pair);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn victim(&self, ring: &Ring, victim: usize) -> Result<()> {
        let mut random = Random::new(crate::xdp::now() ^ (ring.index * 1000 + victim) as u64);
        while !self.over() {
            std::thread::sleep(Duration::from_millis(200 + random.below(400)));
            let length = self.length(&mut random);
            let way = ring.starve(self.plan.field, victim, length)?;
            self.note(Pair { lab: ring.index, victim, way, seconds: length.as_secs_f64() });
        }
        Ok(())
    }

    /// Hogs in turn, on the CPU of every hogged victim: one window is a pair for each of them.
    fn hogs(&self) -> Result<()> {
        let mut random = Random::new(crate::xdp::now());
        let field = self.plan.field;
        let lab = &self.rings[0].lab;
        let mut fifo = true;
        while !self.over() && field.hogged > 0 {
            std::thread::sleep(Duration::from_millis(400));
            let length = self.length(&mut random);
            let most = length + Duration::from_secs(5);
            let (count, priority, way) = if fifo { (1, Some(99), Way::FifoHog) } else { (HOGS, None, Way::NormalHogs) };
            let hogs = (0..count).map(|_| Hog::start(lab, HOG_CPU, priority, most)).collect::<Result<Vec<_>>>()?;
            std::thread::sleep(length);
            drop(hogs);
            for ring in self.rings {
                for victim in ring.daemons.len() - field.hogged..ring.daemons.len() {
                    self.note(Pair { lab: ring.index, victim, way, seconds: length.as_secs_f64() });
                }
            }
            fifo = !fifo;
        }
        Ok(())
    }

    fn play(&self) -> Result<()> {
        let field = self.plan.field;
        std::thread::scope(|scope| {
            let mut running = vec![scope.spawn(|| self.marked(self.hogs()))];
            for ring in self.rings {
                for victim in 1..ring.daemons.len() - field.hogged {
                    running.push(scope.spawn(move || self.marked(self.victim(ring, victim))));
                }
            }
            let ended = running.into_iter().map(|thread| thread.join());
            ended
                .collect::<Vec<_>>()
                .into_iter()
                .try_for_each(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Lets the others end when one of them failed.
    fn marked(&self, result: Result<()>) -> Result<()> {
        if result.is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
        result
    }
}

/// Starves victims as planned, and counts.
///
/// # Errors
/// Fails when the lab does, or when a node is not up again at the end.
pub fn starve(plan: Plan) -> Result<Counted> {
    let held = std::thread::scope(|scope| {
        // Hogs have the other CPU; what starts and ends them must not wait for it.
        scope.spawn(|| hold(OWN_CPU).and_then(|()| starve_here(plan))).join()
    });
    held.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn starve_here(plan: Plan) -> Result<Counted> {
    let rings = super::death::side_by_side(plan.field.labs, |index| Ring::start(index, plan.field))?;
    let seen = |ring: &Ring| ring.daemons.iter().map(|daemon| Ok(daemon.events()?.len())).collect::<Result<Vec<_>>>();
    let before = rings.iter().map(seen).collect::<Result<Vec<_>>>()?;
    let end = Instant::now() + plan.limit;
    let (pairs, count) = (Mutex::default(), AtomicUsize::new(0));
    let run = Run { plan, rings: &rings, pairs, count, failed: AtomicBool::new(false), end };
    run.play()?;
    // What a victim's controller believes once it runs again counts too.
    rings.iter().flat_map(|ring| &ring.daemons).try_for_each(wait_up)?;
    std::thread::sleep(Duration::from_secs(1));
    let mut counted =
        Counted { pairs: run.pairs.into_inner().unwrap_or_else(PoisonError::into_inner), downs: Vec::new(), stalls: 0 };
    for (ring, before) in rings.iter().zip(before) {
        for (daemon, before) in ring.daemons.iter().zip(before) {
            for event in daemon.events()?.into_iter().skip(before) {
                match event["event"].as_str() {
                    Some("node_down") => {
                        counted.downs.push(format!("lab {}: node {}: {event}", ring.index, daemon.name()))
                    }
                    Some("node_stalled") => counted.stalls += 1,
                    _ => {}
                }
            }
        }
    }
    Ok(counted)
}

pub fn run(context: &Context) -> Result<Found> {
    let small = Field { labs: 3, stopped: 4, frozen: 2, quota: 2, hogged: 2 };
    let large = Field { labs: 4, stopped: 3, frozen: 2, quota: 2, hogged: 2 };
    let (steps, plan) = context.choose(
        (1, Plan { field: small, pairs: 400, window: (0.1, 3.0), limit: Duration::from_secs(20) }),
        (3, Plan { field: large, pairs: 3400, window: (0.1, 30.0), limit: Duration::from_secs(1500) }),
    );
    let mut all = Counted { pairs: Vec::new(), downs: Vec::new(), stalls: 0 };
    for step in 0..steps {
        let counted = context.step(&format!("starvation-{step}"), || starve(plan))?;
        all.pairs.extend(counted.pairs);
        all.downs.extend(counted.downs);
        all.stalls += counted.stalls;
    }
    let mut raw = String::from("lab,victim,way,seconds\n");
    for Pair { lab, victim, way, seconds } in &all.pairs {
        writeln!(raw, "{lab},{victim},{way:?},{seconds}")?;
    }
    context.raw("starvation.csv", &raw)?;
    context.raw("starvation-down.txt", &all.downs.join("\n"))?;
    const WAYS: [Way; 5] = [Way::Stopped, Way::Frozen, Way::Quota, Way::FifoHog, Way::NormalHogs];
    let lengths = |way| all.pairs.iter().filter(move |pair: &&Pair| pair.way == way).map(|pair| pair.seconds).collect();
    context.plot(
        "starvation.svg",
        &Plot {
            title: "Lengths of the windows".to_owned(),
            axes: ["window, s".to_owned(), "share of windows".to_owned()],
            log: [true, false],
            series: WAYS.map(|way| (format!("{way:?}"), stats::distribution(lengths(way)))).to_vec(),
            ..Plot::default()
        },
    )?;
    let mut found = Found::default();
    let mut put = |name: &str, value: usize, bar: Bar| found.figures.push(Figure::new(name, value as f64, "", bar));
    put("node_down said by anybody", all.downs.len(), Bar::AtMost(0.0));
    put("(victim, window) pairs", all.pairs.len(), context.choose(Bar::Shown, Bar::AtLeast(10_000.0)));
    put("of them beside a FIFO hog", all.beside_fifo(), context.choose(Bar::Shown, Bar::AtLeast(500.0)));
    for way in [Way::Stopped, Way::Frozen, Way::Quota, Way::NormalHogs] {
        put(&format!("of them {way:?}"), all.of(way), Bar::Shown);
    }
    put("node_stalled said", all.stalls, Bar::AtLeast(1.0));
    let (low, high) = plan.window;
    found.notes.push(format!("windows of {low} to {high} s, log-uniform, in real time; every node's events are read"));
    found.notes.push("on veth pairs XDP runs on the sender's CPU, so a hog starves userspace alone here".to_owned());
    Ok(found)
}
