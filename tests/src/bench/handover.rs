//! A restart by handover under load: a prober asks a thousand times a second while the daemon is replaced. It counts
//! probes without an answer; it does not look at verdicts.

use super::death::wait_event;
use super::prober::Prober;
use super::{Bar, Context, Figure, Found, stats};
use crate::lab::{Cluster, Daemon, Lab, Options, Spec};
use anyhow::{Context as _, Result, ensure};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(1);
const LIMIT: Duration = Duration::from_secs(120);

fn restart(daemon: Daemon, lab: &Lab, cluster: &Cluster) -> Result<Daemon> {
    let output = daemon.ctl(&["handover"])?;
    ensure!(output.status.success(), "heartbeatctl handover: {}", String::from_utf8_lossy(&output.stderr));
    let mut events = daemon.follow()?;
    let status = daemon.terminate(Duration::from_secs(5))?;
    ensure!(status.success(), "heartbeatd ended with {status}");
    std::thread::sleep(Duration::from_millis(200));
    let daemon = Daemon::start(lab, 1, cluster, &Options::default())?;
    wait_event(&mut events, "controller_adopted")?;
    Ok(daemon)
}

pub fn run(context: &Context) -> Result<Found> {
    let restarts = context.choose(5, 60);
    let (trips, took) = context.step("handover", || {
        let lab = Lab::new(Spec::new(2, 1))?;
        let cluster = Cluster::new(&lab, "lan");
        let mut daemon = Some(Daemon::start(&lab, 1, &cluster, &Options::default())?);
        let mut prober = Prober::new(&lab, &cluster, 0, &[1])?;
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| {
                Prober::settle_thread()?;
                prober.meet()?;
                prober.run(PERIOD, LIMIT, &|| done.load(Ordering::Relaxed))
            });
            let mut took = Vec::new();
            let mut replace = || -> Result<()> {
                for _ in 0..restarts {
                    std::thread::sleep(Duration::from_millis(500));
                    let begun = Instant::now();
                    let old = daemon.take().context("a daemon runs")?;
                    daemon = Some(restart(old, &lab, &cluster)?);
                    took.push(begun.elapsed().as_secs_f64() * 1e3);
                }
                Ok(())
            };
            let replaced = replace();
            done.store(true, Ordering::Relaxed);
            let trips = asking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            replaced?;
            Ok((trips.into_iter().next().unwrap_or_default(), took))
        })
    })?;
    let mut raw = String::from("probe,round_trip_ns\n");
    for (probe, trip) in trips.iter().enumerate() {
        writeln!(raw, "{probe},{}", trip.map_or_else(String::new, |ns: u64| ns.to_string()))?;
    }
    context.raw("handover.csv", &raw)?;
    let lost = trips.iter().filter(|trip| trip.is_none()).count();
    let answered: Vec<f64> = trips.iter().flatten().map(|ns| *ns as f64 / 1e3).collect();
    let figures = vec![
        Figure::new("answers lost", lost as f64, "", Bar::AtMost(0.0)),
        Figure::new("probes", trips.len() as f64, "", Bar::Shown),
        Figure::new("restarts", took.len() as f64, "", Bar::AtLeast(f64::from(restarts))),
        Figure::new("median time of a restart", stats::median(&took), "ms", Bar::Shown),
        Figure::new("longest round trip", stats::most(&answered), "us", Bar::Shown),
    ];
    Ok(Found { figures, notes: Vec::new() })
}
