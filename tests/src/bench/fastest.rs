//! The fastest profile that holds: delays of 1, 2 and 5 ms until one does, and 10 ms, five misses, on two loaded cores.
//! It reports what held and what did not; no fault is injected, so that every verdict is a false one.

use super::death::wait_up;
use super::{Bar, Context, Figure, Found};
use crate::lab::{Cluster, Daemon, Hog, Lab, Options, Spec};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::{Duration, Instant};

const DELAYS_MS: [u64; 4] = [1, 2, 5, EXPECTED_MS];
/// What is recommended, and so is tried whatever holds below it.
const EXPECTED_MS: u64 = 10;
const NODES: usize = 3;

/// What was said at one delay.
#[derive(Debug, Serialize, Deserialize)]
struct Held {
    down: usize,
    stalled: usize,
    late: usize,
    first_down: Option<String>,
}

fn hold(delay_ms: u64, length: Duration) -> Result<Held> {
    let lab = Lab::new(Spec::new(NODES, 1))?;
    let mut cluster = Cluster::new(&lab, "lan");
    for key in ["same_subnet_delay_ms", "cross_subnet_delay_ms"] {
        cluster = cluster.with(key, delay_ms);
    }
    let start = |node| Daemon::start(&lab, node, &cluster, &Options::default());
    let daemons: Vec<Daemon> = (0..NODES).map(start).collect::<Result<_>>()?;
    // Nobody is to be caught still starting: verdicts count from when all have been up.
    std::thread::sleep(Duration::from_secs(1));
    let up = daemons.iter().try_for_each(wait_up);
    let seen = daemons.iter().map(|daemon| Ok(daemon.events()?.len())).collect::<Result<Vec<_>>>()?;
    let cpus = std::thread::available_parallelism()?.get().min(2);
    let end = Instant::now() + length;
    while Instant::now() < end {
        let turn = end.saturating_duration_since(Instant::now()).min(Duration::from_secs(300));
        let hogs = (0..cpus).map(|cpu| Hog::start(&lab, cpu, None, turn)).collect::<Result<Vec<_>>>()?;
        hogs.into_iter().try_for_each(Hog::wait)?;
    }
    let mut held = Held { down: 0, stalled: 0, late: 0, first_down: up.err().map(|error| format!("{error:#}")) };
    // A cluster that never came up has not held either.
    held.down += usize::from(held.first_down.is_some());
    for (daemon, seen) in daemons.iter().zip(seen) {
        for event in daemon.events()?.into_iter().skip(seen) {
            match event["event"].as_str() {
                Some("node_down") => {
                    held.down += 1;
                    held.first_down.get_or_insert_with(|| event.to_string());
                }
                Some("node_stalled") => held.stalled += 1,
                Some("local_lateness") => held.late += 1,
                _ => {}
            }
        }
    }
    Ok(held)
}

pub fn run(context: &Context) -> Result<Found> {
    let length = context.choose(Duration::from_secs(18), Duration::from_secs(600));
    let mut found = Found::default();
    let mut raw = String::from("delay_ms,node_down,node_stalled,local_lateness\n");
    let mut fastest = None;
    for delay in DELAYS_MS {
        // One below that held leaves nothing to find out between it and the profile that is expected to hold.
        if fastest.is_some() && delay != EXPECTED_MS {
            found.notes.push(format!("{delay} ms was not tried: a shorter delay held"));
            continue;
        }
        let held = context.step(&format!("fastest-{delay}ms"), || hold(delay, length))?;
        writeln!(raw, "{delay},{},{},{}", held.down, held.stalled, held.late)?;
        if held.down == 0 {
            fastest = fastest.or(Some(delay));
        } else {
            // A shorter delay that held by luck, with a longer one that did not, is no profile to recommend.
            fastest = None;
        }
        let mut put = |what: &str, value: usize| {
            found.figures.push(Figure::new(format!("{delay} ms x 5: {what}"), value as f64, "", Bar::Shown));
        };
        put("false node_down", held.down);
        put("node_stalled", held.stalled);
        put("local_lateness", held.late);
        if let Some(first) = held.first_down {
            context.raw(&format!("fastest-{delay}ms-down.txt"), &first)?;
        }
    }
    let shown = fastest.map_or(f64::NAN, |delay| delay as f64);
    found
        .figures
        .insert(0, Figure::new("shortest delay that held, and all that were tried above it", shown, "ms", Bar::Shown));
    context.raw("fastest-profile.csv", &raw)?;
    found.notes.push(format!(
        "{} s at each delay, three nodes, a hog of normal priority on each of two CPUs",
        length.as_secs()
    ));
    Ok(found)
}
